//! `HYPERVISOR_vcpu_op` (vcpu.h).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `VCPUOP_initialise`.
pub const VCPUOP_INITIALISE: u32 = 0;
/// `VCPUOP_up`.
pub const VCPUOP_UP: u32 = 1;
/// `VCPUOP_down`.
pub const VCPUOP_DOWN: u32 = 2;
/// `VCPUOP_is_up`.
pub const VCPUOP_IS_UP: u32 = 3;
/// `VCPUOP_get_runstate_info`.
pub const VCPUOP_GET_RUNSTATE_INFO: u32 = 4;
/// `XEN_RUNSTATE_UPDATE`: set in `state_entry_time` while the area is written.
pub const XEN_RUNSTATE_UPDATE: u64 = 1 << 63;
/// `RUNSTATE_running`: on a physical CPU.
pub const RUNSTATE_RUNNING: u32 = 0;
/// `RUNSTATE_runnable`: waits for a physical CPU.
pub const RUNSTATE_RUNNABLE: u32 = 1;
/// `RUNSTATE_blocked`: waits for an event.
pub const RUNSTATE_BLOCKED: u32 = 2;
/// `RUNSTATE_offline`: down, or paused.
pub const RUNSTATE_OFFLINE: u32 = 3;
/// `VCPUOP_register_runstate_memory_area`.
pub const VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA: u32 = 5;
/// `VCPUOP_set_periodic_timer`.
pub const VCPUOP_SET_PERIODIC_TIMER: u32 = 6;
/// `VCPUOP_stop_periodic_timer`.
pub const VCPUOP_STOP_PERIODIC_TIMER: u32 = 7;
/// `VCPUOP_set_singleshot_timer`.
pub const VCPUOP_SET_SINGLESHOT_TIMER: u32 = 8;
/// `VCPUOP_stop_singleshot_timer`.
pub const VCPUOP_STOP_SINGLESHOT_TIMER: u32 = 9;
/// `VCPU_SSHOTTMR_future`: fail if the time has passed.
pub const VCPU_SSHOTTMR_FUTURE: u32 = 1;
/// `VCPUOP_register_vcpu_info`.
pub const VCPUOP_REGISTER_VCPU_INFO: u32 = 10;
/// `VCPUOP_send_nmi`.
pub const VCPUOP_SEND_NMI: u32 = 11;
/// `VCPUOP_get_physid`.
pub const VCPUOP_GET_PHYSID: u32 = 12;
/// `VCPUOP_register_vcpu_time_memory_area`.
pub const VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA: u32 = 13;

/// How long a vCPU has been in each state (`struct vcpu_runstate_info`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct VcpuRunstateInfo {
    /// `RUNSTATE_*`.
    pub state: i32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
    /// System time at which the state began, in ns.
    pub state_entry_time: u64,
    /// The time.
    pub time: [u64; 4],
}
const _: () = assert!(size_of::<VcpuRunstateInfo>() == 48 && align_of::<VcpuRunstateInfo>() == 8);

/// Arguments of `VCPUOP_register_runstate_memory_area` (`struct vcpu_register_runstate_memory_area`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct VcpuRegisterRunstateMemoryArea {
    /// Address; one of `h` (address of `vcpu_runstate_info_t`), `v` (GuestHandle), `p` (u64).
    pub addr: u64,
}
const _: () = assert!(
    size_of::<VcpuRegisterRunstateMemoryArea>() == 8
        && align_of::<VcpuRegisterRunstateMemoryArea>() == 8
);

/// Arguments of `VCPUOP_set_periodic_timer` (`struct vcpu_set_periodic_timer`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct VcpuSetPeriodicTimer {
    /// Period in ns.
    pub period_ns: u64,
}
const _: () =
    assert!(size_of::<VcpuSetPeriodicTimer>() == 8 && align_of::<VcpuSetPeriodicTimer>() == 8);

/// Arguments of `VCPUOP_set_singleshot_timer` (`struct vcpu_set_singleshot_timer`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct VcpuSetSingleshotTimer {
    /// System time at which it fires, in ns.
    pub timeout_abs_ns: u64,
    /// Flags.
    pub flags: u32,
    #[doc(hidden)]
    pub _pad0: [u8; 4],
}
const _: () =
    assert!(size_of::<VcpuSetSingleshotTimer>() == 16 && align_of::<VcpuSetSingleshotTimer>() == 8);

/// Arguments of `VCPUOP_register_vcpu_info` (`struct vcpu_register_vcpu_info`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct VcpuRegisterVcpuInfo {
    /// Machine frame.
    pub mfn: u64,
    /// Offset in the frame, in bytes.
    pub offset: u32,
    /// Reserved.
    pub rsvd: u32,
}
const _: () =
    assert!(size_of::<VcpuRegisterVcpuInfo>() == 16 && align_of::<VcpuRegisterVcpuInfo>() == 8);

/// Answer of `VCPUOP_get_physid` (`struct vcpu_get_physid`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct VcpuGetPhysid {
    /// `phys_id`.
    pub phys_id: u64,
}
const _: () = assert!(size_of::<VcpuGetPhysid>() == 8 && align_of::<VcpuGetPhysid>() == 8);

/// Arguments of `VCPUOP_register_vcpu_time_memory_area` (`struct vcpu_register_time_memory_area`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct VcpuRegisterTimeMemoryArea {
    /// Address; one of `h` (address of `vcpu_time_info_t`), `v` (GuestHandle), `p` (u64).
    pub addr: u64,
}
const _: () = assert!(
    size_of::<VcpuRegisterTimeMemoryArea>() == 8 && align_of::<VcpuRegisterTimeMemoryArea>() == 8
);
