//! `HYPERVISOR_sched_op` (sched.h).

use crate::xen::GuestHandle;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `SCHEDOP_yield`.
pub const SCHEDOP_YIELD: u32 = 0;
/// `SCHEDOP_block`.
pub const SCHEDOP_BLOCK: u32 = 1;
/// `SCHEDOP_shutdown`.
pub const SCHEDOP_SHUTDOWN: u32 = 2;
/// `SCHEDOP_poll`.
pub const SCHEDOP_POLL: u32 = 3;
/// `SCHEDOP_remote_shutdown`.
pub const SCHEDOP_REMOTE_SHUTDOWN: u32 = 4;
/// `SCHEDOP_shutdown_code`.
pub const SCHEDOP_SHUTDOWN_CODE: u32 = 5;
/// `SCHEDOP_watchdog`.
pub const SCHEDOP_WATCHDOG: u32 = 6;
/// `SCHEDOP_pin_override`.
pub const SCHEDOP_PIN_OVERRIDE: u32 = 7;
/// `SHUTDOWN_poweroff`: power off.
pub const SHUTDOWN_POWEROFF: u32 = 0;
/// `SHUTDOWN_reboot`: reboot.
pub const SHUTDOWN_REBOOT: u32 = 1;
/// `SHUTDOWN_suspend`: suspend, to be saved.
pub const SHUTDOWN_SUSPEND: u32 = 2;
/// `SHUTDOWN_crash`: the kernel crashed.
pub const SHUTDOWN_CRASH: u32 = 3;
/// `SHUTDOWN_watchdog`: a watchdog expired.
pub const SHUTDOWN_WATCHDOG: u32 = 4;
/// `SHUTDOWN_soft_reset`: reset in place.
pub const SHUTDOWN_SOFT_RESET: u32 = 5;
/// `SHUTDOWN_MAX`.
pub const SHUTDOWN_MAX: u32 = 5;

/// Arguments of `SCHEDOP_shutdown` (`struct sched_shutdown`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SchedShutdown {
    /// `SHUTDOWN_*`.
    pub reason: u32,
}
const _: () = assert!(size_of::<SchedShutdown>() == 4 && align_of::<SchedShutdown>() == 4);

/// Arguments of `SCHEDOP_poll` (`struct sched_poll`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SchedPoll {
    /// The ports; address of `evtchn_port_t`.
    pub ports: GuestHandle,
    /// Number of ports.
    pub nr_ports: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// When to give up.
    pub timeout: u64,
}
const _: () = assert!(size_of::<SchedPoll>() == 24 && align_of::<SchedPoll>() == 8);

/// Arguments of `SCHEDOP_remote_shutdown` (`struct sched_remote_shutdown`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SchedRemoteShutdown {
    /// The domain.
    pub domain_id: u16,
    #[doc(hidden)]
    pub _pad0: [u8; 2],
    /// `SHUTDOWN_*`.
    pub reason: u32,
}
const _: () =
    assert!(size_of::<SchedRemoteShutdown>() == 8 && align_of::<SchedRemoteShutdown>() == 4);

/// Arguments of `SCHEDOP_watchdog` (`struct sched_watchdog`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SchedWatchdog {
    /// Number.
    pub id: u32,
    /// When to give up.
    pub timeout: u32,
}
const _: () = assert!(size_of::<SchedWatchdog>() == 8 && align_of::<SchedWatchdog>() == 4);

/// Arguments of `SCHEDOP_pin_override` (`struct sched_pin_override`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SchedPinOverride {
    /// `pcpu`.
    pub pcpu: i32,
}
const _: () = assert!(size_of::<SchedPinOverride>() == 4 && align_of::<SchedPinOverride>() == 4);
