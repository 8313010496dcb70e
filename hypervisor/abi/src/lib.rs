//! The Xen 4.17 public interface for 64-bit x86 as `#[repr(C)]` types and typed
//! constants, without logic. One module a public header, which its docs name.
//!
//! Names are those of the headers: constants in capitals without leading
//! underscores (`EVTCHNOP_bind_virq` is [`event_channel::EVTCHNOP_BIND_VIRQ`]),
//! structures in camel case without a leading `xen_`
//! (`struct xen_memory_reservation` is [`memory::MemoryReservation`]).
//!
//! Every structure can be taken from and turned into bytes (zerocopy), so all
//! padding is explicit; build one with `zerocopy::FromZeros::new_zeroed` and set
//! its fields. A union is an array of words as long and as aligned as the
//! union, or one integer where all members are integers of one size; its
//! members are structures of their own, to be read from a prefix of its bytes.
//! Sizes are asserted here, and offsets and values are compared with the C
//! headers in the workspace's `tests`. Only [`overcast`] is not Xen's.
#![no_std]
#![forbid(unsafe_code)]

pub mod arch_x86;
pub mod callback;
pub mod cpufeatureset;
pub mod cpuid;
pub mod domctl;
pub mod elfnote;
pub mod errno;
pub mod event_channel;
pub mod features;
pub mod grant_table;
pub mod hvm_op;
pub mod hvm_params;
pub mod hvm_start_info;
pub mod hypfs;
pub mod io_blkif;
pub mod io_console;
pub mod io_netif;
pub mod io_xenbus;
pub mod io_xs_wire;
pub mod kexec;
pub mod mca;
pub mod memory;
pub mod nmi;
pub mod overcast;
pub mod physdev;
pub mod platform;
pub mod sched;
pub mod sysctl;
pub mod vcpu;
pub mod version;
pub mod xen;
pub mod xenpmu;
