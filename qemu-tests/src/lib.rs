//! Boots machines in QEMU, drives them over the serial line and looks at what
//! they say.
//!
//! - [`artefacts`]: the files that a machine boots from
//! - [`machine`]: what machine, what on it
//! - [`session`]: a running machine
//! - [`guest_log`]: what must not be in a guest's log
//! - [`cases`]: the tests
//! - [`disks`]: tests of Dom0's disks
//! - [`image`]: the disk image for clouds
//! - [`metadata`]: a cloud's service that tells a machine who it is
//! - [`neighbours`]: guests that share a switch and a disk, one of them hostile
//! - [`nested`]: machines within machines
//! - [`oracle`]: the same questions to real Xen and to Overcast
//! - [`runner`]: runs cases, some at a time
//! - [`soak`]: a userland under stress for minutes
//! - [`levels`]: CPUs as programs in guests see them, on several models
//! - [`tap`]: what the network device leaves to the host, and the host to it
//! - [`trips`]: a guest that goes from one machine to another and back
//! - [`mod@bench`]: what operations cost a guest, beside real Xen and bare hardware
//! - [`io_bench`]: what requests to disk and network cost
//! - [`io_wall`]: how fast they are
//!
//! No test depends on how fast the host is: the limits on time only end what
//! hangs, and are generous.
#![forbid(unsafe_code)]

pub mod artefacts;
pub mod bench;
pub mod cases;
pub mod devices;
pub mod disks;
pub mod domains;
pub mod faults;
pub mod guest_log;
pub mod image;
pub mod io_bench;
pub mod io_wall;
pub mod levels;
pub mod machine;
pub mod metadata;
pub mod moves;
pub mod neighbours;
pub mod nested;
pub mod network;
pub mod oracle;
pub mod runner;
pub mod session;
pub mod soak;
pub mod survivors;
pub mod tap;
pub mod trips;
pub mod xl;
