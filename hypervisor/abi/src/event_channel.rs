//! Event channels: operations, 2-level and FIFO layouts (event_channel.h).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `EVTCHNOP_bind_interdomain`.
pub const EVTCHNOP_BIND_INTERDOMAIN: u32 = 0;
/// `EVTCHNOP_bind_virq`.
pub const EVTCHNOP_BIND_VIRQ: u32 = 1;
/// `EVTCHNOP_bind_pirq`.
pub const EVTCHNOP_BIND_PIRQ: u32 = 2;
/// `EVTCHNOP_close`.
pub const EVTCHNOP_CLOSE: u32 = 3;
/// `EVTCHNOP_send`.
pub const EVTCHNOP_SEND: u32 = 4;
/// `EVTCHNOP_status`.
pub const EVTCHNOP_STATUS: u32 = 5;
/// `EVTCHNOP_alloc_unbound`.
pub const EVTCHNOP_ALLOC_UNBOUND: u32 = 6;
/// `EVTCHNOP_bind_ipi`.
pub const EVTCHNOP_BIND_IPI: u32 = 7;
/// `EVTCHNOP_bind_vcpu`.
pub const EVTCHNOP_BIND_VCPU: u32 = 8;
/// `EVTCHNOP_unmask`.
pub const EVTCHNOP_UNMASK: u32 = 9;
/// `EVTCHNOP_reset`.
pub const EVTCHNOP_RESET: u32 = 10;
/// `EVTCHNOP_init_control`.
pub const EVTCHNOP_INIT_CONTROL: u32 = 11;
/// `EVTCHNOP_expand_array`.
pub const EVTCHNOP_EXPAND_ARRAY: u32 = 12;
/// `EVTCHNOP_set_priority`.
pub const EVTCHNOP_SET_PRIORITY: u32 = 13;
/// `BIND_PIRQ__WILL_SHARE`.
pub const BIND_PIRQ__WILL_SHARE: u32 = 1;
/// `EVTCHNSTAT_closed`.
pub const EVTCHNSTAT_CLOSED: u32 = 0;
/// `EVTCHNSTAT_unbound`.
pub const EVTCHNSTAT_UNBOUND: u32 = 1;
/// `EVTCHNSTAT_interdomain`.
pub const EVTCHNSTAT_INTERDOMAIN: u32 = 2;
/// `EVTCHNSTAT_pirq`.
pub const EVTCHNSTAT_PIRQ: u32 = 3;
/// `EVTCHNSTAT_virq`.
pub const EVTCHNSTAT_VIRQ: u32 = 4;
/// `EVTCHNSTAT_ipi`.
pub const EVTCHNSTAT_IPI: u32 = 5;
/// `EVTCHN_2L_NR_CHANNELS`: number of ports of the 2-level layout.
pub const EVTCHN_2L_NR_CHANNELS: usize = 1 << 12;
/// `EVTCHN_FIFO_PRIORITY_MAX`.
pub const EVTCHN_FIFO_PRIORITY_MAX: u32 = 0;
/// `EVTCHN_FIFO_PRIORITY_DEFAULT`.
pub const EVTCHN_FIFO_PRIORITY_DEFAULT: u32 = 7;
/// `EVTCHN_FIFO_PRIORITY_MIN`.
pub const EVTCHN_FIFO_PRIORITY_MIN: u32 = 15;
/// `EVTCHN_FIFO_MAX_QUEUES`.
pub const EVTCHN_FIFO_MAX_QUEUES: usize = 16;
/// `EVTCHN_FIFO_PENDING`: bit of an event word: pending.
pub const EVTCHN_FIFO_PENDING: u32 = 31;
/// `EVTCHN_FIFO_MASKED`: bit of an event word: masked.
pub const EVTCHN_FIFO_MASKED: u32 = 0x1e;
/// `EVTCHN_FIFO_LINKED`: bit of an event word: in a queue.
pub const EVTCHN_FIFO_LINKED: u32 = 29;
/// `EVTCHN_FIFO_BUSY`: bit of an event word: being changed.
pub const EVTCHN_FIFO_BUSY: u32 = 28;
/// `EVTCHN_FIFO_LINK_BITS`.
pub const EVTCHN_FIFO_LINK_BITS: u32 = 17;
/// `EVTCHN_FIFO_LINK_MASK`.
pub const EVTCHN_FIFO_LINK_MASK: u32 = 0x1_ffff;
/// `EVTCHN_FIFO_NR_CHANNELS`: number of ports of the FIFO layout.
pub const EVTCHN_FIFO_NR_CHANNELS: usize = 1 << 17;

/// Arguments of `EVTCHNOP_alloc_unbound` (`struct evtchn_alloc_unbound`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EvtchnAllocUnbound {
    /// The domain, or `DOMID_SELF`.
    pub dom: u16,
    /// The domain at the other end.
    pub remote_dom: u16,
    /// The port.
    pub port: u32,
}
const _: () =
    assert!(size_of::<EvtchnAllocUnbound>() == 8 && align_of::<EvtchnAllocUnbound>() == 4);

/// Arguments of `EVTCHNOP_bind_interdomain` (`struct evtchn_bind_interdomain`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EvtchnBindInterdomain {
    /// The domain at the other end.
    pub remote_dom: u16,
    #[doc(hidden)]
    pub _pad0: [u8; 2],
    /// The port at the other end.
    pub remote_port: u32,
    /// Out: the new port of the caller.
    pub local_port: u32,
}
const _: () =
    assert!(size_of::<EvtchnBindInterdomain>() == 12 && align_of::<EvtchnBindInterdomain>() == 4);

/// Arguments of `EVTCHNOP_bind_virq` (`struct evtchn_bind_virq`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EvtchnBindVirq {
    /// A `VIRQ_*`.
    pub virq: u32,
    /// The vCPU's number.
    pub vcpu: u32,
    /// The port.
    pub port: u32,
}
const _: () = assert!(size_of::<EvtchnBindVirq>() == 12 && align_of::<EvtchnBindVirq>() == 4);

/// Arguments of `EVTCHNOP_bind_pirq` (`struct evtchn_bind_pirq`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EvtchnBindPirq {
    /// Physical interrupt.
    pub pirq: u32,
    /// Flags.
    pub flags: u32,
    /// The port.
    pub port: u32,
}
const _: () = assert!(size_of::<EvtchnBindPirq>() == 12 && align_of::<EvtchnBindPirq>() == 4);

/// Arguments of `EVTCHNOP_bind_ipi` (`struct evtchn_bind_ipi`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EvtchnBindIpi {
    /// The vCPU's number.
    pub vcpu: u32,
    /// The port.
    pub port: u32,
}
const _: () = assert!(size_of::<EvtchnBindIpi>() == 8 && align_of::<EvtchnBindIpi>() == 4);

/// Arguments of `EVTCHNOP_close` (`struct evtchn_close`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EvtchnClose {
    /// The port.
    pub port: u32,
}
const _: () = assert!(size_of::<EvtchnClose>() == 4 && align_of::<EvtchnClose>() == 4);

/// Arguments of `EVTCHNOP_send` (`struct evtchn_send`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EvtchnSend {
    /// The port.
    pub port: u32,
}
const _: () = assert!(size_of::<EvtchnSend>() == 4 && align_of::<EvtchnSend>() == 4);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EvtchnStatusUUnbound {
    /// The domain, or `DOMID_SELF`.
    pub dom: u16,
}
const _: () =
    assert!(size_of::<EvtchnStatusUUnbound>() == 2 && align_of::<EvtchnStatusUUnbound>() == 2);

/// Part of a union.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EvtchnStatusUInterdomain {
    /// The domain, or `DOMID_SELF`.
    pub dom: u16,
    #[doc(hidden)]
    pub _pad0: [u8; 2],
    /// The port.
    pub port: u32,
}
const _: () = assert!(
    size_of::<EvtchnStatusUInterdomain>() == 8 && align_of::<EvtchnStatusUInterdomain>() == 4
);

/// Arguments of `EVTCHNOP_status` (`struct evtchn_status`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EvtchnStatus {
    /// The domain, or `DOMID_SELF`.
    pub dom: u16,
    #[doc(hidden)]
    pub _pad0: [u8; 2],
    /// The port.
    pub port: u32,
    /// Out: a status.
    pub status: u32,
    /// The vCPU's number.
    pub vcpu: u32,
    /// Arguments; one of `unbound` ([`EvtchnStatusUUnbound`]), `interdomain` ([`EvtchnStatusUInterdomain`]), `pirq` (u32), `virq` (u32).
    pub u: [u32; 2],
}
const _: () = assert!(size_of::<EvtchnStatus>() == 24 && align_of::<EvtchnStatus>() == 4);

/// Arguments of `EVTCHNOP_bind_vcpu` (`struct evtchn_bind_vcpu`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EvtchnBindVcpu {
    /// The port.
    pub port: u32,
    /// The vCPU's number.
    pub vcpu: u32,
}
const _: () = assert!(size_of::<EvtchnBindVcpu>() == 8 && align_of::<EvtchnBindVcpu>() == 4);

/// Arguments of `EVTCHNOP_unmask` (`struct evtchn_unmask`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EvtchnUnmask {
    /// The port.
    pub port: u32,
}
const _: () = assert!(size_of::<EvtchnUnmask>() == 4 && align_of::<EvtchnUnmask>() == 4);

/// Arguments of `EVTCHNOP_reset` (`struct evtchn_reset`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EvtchnReset {
    /// The domain, or `DOMID_SELF`.
    pub dom: u16,
}
const _: () = assert!(size_of::<EvtchnReset>() == 2 && align_of::<EvtchnReset>() == 2);

/// Arguments of `EVTCHNOP_init_control` (`struct evtchn_init_control`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EvtchnInitControl {
    /// Frame of the control block.
    pub control_gfn: u64,
    /// Offset in the frame, in bytes.
    pub offset: u32,
    /// The vCPU's number.
    pub vcpu: u32,
    /// Out: width of a link.
    pub link_bits: u8,
    /// Padding.
    pub pad: [u8; 7],
}
const _: () = assert!(size_of::<EvtchnInitControl>() == 24 && align_of::<EvtchnInitControl>() == 8);

/// Arguments of `EVTCHNOP_expand_array` (`struct evtchn_expand_array`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EvtchnExpandArray {
    /// Frame of the next part of the event array.
    pub array_gfn: u64,
}
const _: () = assert!(size_of::<EvtchnExpandArray>() == 8 && align_of::<EvtchnExpandArray>() == 8);

/// Arguments of `EVTCHNOP_set_priority` (`struct evtchn_set_priority`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EvtchnSetPriority {
    /// The port.
    pub port: u32,
    /// 0 (highest) to 15.
    pub priority: u32,
}
const _: () = assert!(size_of::<EvtchnSetPriority>() == 8 && align_of::<EvtchnSetPriority>() == 4);

/// Arguments of the old `HYPERVISOR_event_channel_op_compat` (`struct evtchn_op`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EvtchnOp {
    /// The operation.
    pub cmd: u32,
    /// Arguments; one of `alloc_unbound` ([`EvtchnAllocUnbound`]), `bind_interdomain` ([`EvtchnBindInterdomain`]), `bind_virq` ([`EvtchnBindVirq`]), `bind_pirq` ([`EvtchnBindPirq`]), `bind_ipi` ([`EvtchnBindIpi`]), `close` ([`EvtchnClose`]), `send` ([`EvtchnSend`]), `status` ([`EvtchnStatus`]), `bind_vcpu` ([`EvtchnBindVcpu`]), `unmask` ([`EvtchnUnmask`]).
    pub u: [u32; 6],
}
const _: () = assert!(size_of::<EvtchnOp>() == 28 && align_of::<EvtchnOp>() == 4);

/// The per-vCPU block of FIFO event channels (`struct evtchn_fifo_control_block`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EvtchnFifoControlBlock {
    /// One bit a queue that has events.
    pub ready: u32,
    /// `_rsvd`.
    pub rsvd: u32,
    /// First event of each queue.
    pub head: [u32; 16],
}
const _: () =
    assert!(size_of::<EvtchnFifoControlBlock>() == 72 && align_of::<EvtchnFifoControlBlock>() == 4);
