//! States of either end of a split driver, as the `state` node tells them (`enum xenbus_state`, io/xenbus.h).

/// `XenbusStateUnknown`.
pub const XENBUS_STATE_UNKNOWN: u32 = 0;
/// `XenbusStateInitialising`.
pub const XENBUS_STATE_INITIALISING: u32 = 1;
/// `XenbusStateInitWait`: waits for information from the peer or the tools.
pub const XENBUS_STATE_INIT_WAIT: u32 = 2;
/// `XenbusStateInitialised`: waits for the peer to connect.
pub const XENBUS_STATE_INITIALISED: u32 = 3;
/// `XenbusStateConnected`.
pub const XENBUS_STATE_CONNECTED: u32 = 4;
/// `XenbusStateClosing`: going away, after an error or an unplug.
pub const XENBUS_STATE_CLOSING: u32 = 5;
/// `XenbusStateClosed`.
pub const XENBUS_STATE_CLOSED: u32 = 6;
/// `XenbusStateReconfiguring`.
pub const XENBUS_STATE_RECONFIGURING: u32 = 7;
/// `XenbusStateReconfigured`.
pub const XENBUS_STATE_RECONFIGURED: u32 = 8;
