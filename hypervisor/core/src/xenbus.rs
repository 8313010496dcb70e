//! What a backend does when a state of a split device changes (public header io/xenbus.h).
//!
//! Both ends of a device have a node `state`. A frontend moves from Initialising by
//! Initialised to Connected and, in the end, by Closing to Closed; a backend from
//! Initialising by InitWait to Connected, Closing, Closed. Tools ask a backend to end by
//! writing Closing to its state, and 0 to its node `online`; they then wait until it has
//! removed its directory, as they do with every backend that is not in their own domain.

use xen_abi::io_xenbus::*;

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Nothing.
    None,
    /// The frontend's keys are there: connect, then go to Connected.
    Connect,
    /// Wait for a frontend: go to InitWait.
    Wait,
    /// The frontend changes something while connected.
    Reconfigure,
    /// Disconnect if connected, then go to Closing.
    Closing,
    /// Disconnect if connected, then go to Closed.
    Closed,
    /// Disconnect if connected, then begin anew from InitWait.
    Restart,
}

/// What to do when the frontend's state is `frontend`, the backend's is `backend` (each one of
/// `XENBUS_STATE_*`), and a frontend is connected or not.
pub fn frontend_changed(frontend: u32, backend: u32, connected: bool) -> Action {
    match frontend {
        XENBUS_STATE_INITIALISING if backend == XENBUS_STATE_CLOSED => Action::Wait,
        XENBUS_STATE_INITIALISED | XENBUS_STATE_CONNECTED
            if !connected && backend == XENBUS_STATE_INIT_WAIT =>
        {
            Action::Connect
        }
        XENBUS_STATE_RECONFIGURING | XENBUS_STATE_RECONFIGURED if connected => Action::Reconfigure,
        XENBUS_STATE_CLOSING if backend < XENBUS_STATE_CLOSING => Action::Closing,
        XENBUS_STATE_CLOSED if backend != XENBUS_STATE_CLOSED => Action::Closed,
        // Gone, unless it is still to come.
        XENBUS_STATE_UNKNOWN
            if connected || matches!(backend, XENBUS_STATE_CONNECTED | XENBUS_STATE_CLOSING) =>
        {
            Action::Closed
        }
        _ => Action::None,
    }
}

/// What to do when somebody else wrote `written` to the backend's state; `online` is
/// whether the device is to stay when its frontend has closed.
pub fn backend_written(written: u32, connected: bool, online: bool) -> Action {
    match written {
        // A frontend that is there sees it too, and closes.
        XENBUS_STATE_CLOSING if !connected && !online => Action::Closed,
        // The tools made the directory anew.
        XENBUS_STATE_INITIALISING => Action::Restart,
        _ => Action::None,
    }
}

/// Whether a backend's directory is to be removed, of which `state` and `online` were read at
/// one moment: the tools have given the device up, and it is closed.
pub fn is_over(state: Option<u64>, online: Option<u64>) -> bool {
    state == Some(XENBUS_STATE_CLOSED.into()) && online == Some(0)
}

/// Whether a backend in state `own` may write `new` where it finds `found`: a wish of the
/// tools to close is not written over.
pub fn may_write(own: u32, found: u32, new: u32) -> bool {
    found != XENBUS_STATE_CLOSING || own == XENBUS_STATE_CLOSING || new >= XENBUS_STATE_CLOSING
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: core::ops::RangeInclusive<u32> = XENBUS_STATE_UNKNOWN..=XENBUS_STATE_RECONFIGURED;

    #[test]
    fn a_life() {
        use Action::*;
        // frontend, backend, connected: what is done.
        for (frontend, backend, connected, action) in [
            (1, 2, false, None),
            (3, 2, false, Connect),
            (4, 2, false, Connect),
            (4, 4, true, None),
            (3, 4, true, None),
            (7, 4, true, Reconfigure),
            (8, 4, true, Reconfigure),
            (7, 2, false, None),
            (5, 4, true, Closing),
            (5, 5, false, None),
            (6, 5, false, Closed),
            (6, 6, false, None),
            (1, 6, false, Wait),
            (1, 5, false, None),
            (0, 4, true, Closed),
            (0, 5, false, Closed),
            (0, 6, false, None),
            (0, 2, false, None),
            (4, 6, false, None),
            (4, 5, false, None),
        ] {
            let got = frontend_changed(frontend, backend, connected);
            assert_eq!(got, action, "{frontend} {backend}");
        }
    }

    #[test]
    fn whatever_a_frontend_does_it_can_always_begin_anew() {
        for backend in STATES.filter(|&state| state >= XENBUS_STATE_INIT_WAIT) {
            // From any state, closing and coming back leads to a connection.
            let mut state = backend;
            for frontend in [5, 6, 1, 4] {
                state = match frontend_changed(frontend, state, state == 4) {
                    Action::Closing => 5,
                    Action::Closed => 6,
                    Action::Wait => 2,
                    Action::Connect => 4,
                    _ => state,
                };
            }
            assert_eq!(state, 4, "from {backend}");
        }
    }

    #[test]
    fn tools_can_end_a_device() {
        assert_eq!(backend_written(5, false, false), Action::Closed);
        assert_eq!(backend_written(5, true, false), Action::None);
        assert_eq!(backend_written(5, false, true), Action::None);
        assert_eq!(backend_written(1, true, true), Action::Restart);
        // Only what the tools gave up goes, and only when it is closed.
        for (state, online, over) in [
            (Some(6), Some(0), true),
            (Some(6), Some(1), false),
            (Some(6), None, false),
            (Some(5), Some(0), false),
            (Some(1), Some(0), false),
            (None, Some(0), false),
        ] {
            assert_eq!(is_over(state, online), over, "{state:?} {online:?}");
        }
        assert!(!may_write(2, 5, 4));
        assert!(may_write(2, 5, 6));
        assert!(may_write(5, 5, 2));
        assert!(may_write(2, 2, 4));
    }
}
