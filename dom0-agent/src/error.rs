//! What can go wrong, and the exit status for each cause.
//!
//! | status | cause |
//! |---|---|
//! | 0 | done |
//! | 1 | anything that has no status of its own |
//! | 2 | the command line is wrong |
//! | 3 | there is no such domain, or no such node in the store |
//! | 4 | this is no Dom0, or the caller has no right to it |
//! | 5 | the hypervisor refuses, does not know the operation, or has too little memory |
//! | 6 | it did not happen in time |
//! | 7 | the machine is not fit (`overcast check`) |
//! | 8 | a new domain's kernel, initrd, disk or network device cannot be used |
//! | 9 | the other host refuses, or cannot be reached |
//! | 10 | given up on request |

use std::io;

use xen_abi::errno;

use crate::stream;

/// A failure of a command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No domain of that name or number.
    #[error("there is no domain \"{0}\"; `overcast list` shows those that there are")]
    NoDomain(String),
    /// Several domains have the name.
    #[error("more than one domain is called \"{0}\": name it by its number")]
    Ambiguous(String),
    /// The devices of a control domain are not there.
    #[error(
        "cannot open {path}: {source}. `overcast` works as root in Dom0 of a running Overcast (or Xen)"
    )]
    NoControl {
        /// Which device.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A hypercall failed.
    #[error("{operation}: {}", describe(*.errno))]
    Hypercall {
        /// What was asked for.
        operation: &'static str,
        /// Xen's errno.
        errno: i32,
    },
    /// The machine cannot offer a CPU policy.
    #[error("set the CPU policy: {}: {}", describe(*.errno), culprit(*.leaf, *.subleaf, *.msr))]
    CpuPolicy {
        /// Xen's errno.
        errno: i32,
        /// The leaf of CPUID that is in the way; all ones if none is.
        leaf: u32,
        /// Its subleaf; all ones if it has none.
        subleaf: u32,
        /// The MSR that is in the way; all ones if none is.
        msr: u32,
    },
    /// A domain cannot boot from a file.
    #[error("{}: {why}", path.display())]
    Boot {
        /// The file.
        path: std::path::PathBuf,
        /// Why not.
        why: String,
    },
    /// A device of a new domain cannot be had.
    #[error("{device}: {why}")]
    Device {
        /// The device.
        device: String,
        /// Why not.
        why: String,
    },
    /// A domain's console is another's.
    #[error(
        "the console of domain {0} is served by another program (xenconsoled; `xl console` shows it), or open already"
    )]
    ConsoleTaken(u16),
    /// A domain has no console.
    #[error("the store knows no console of domain {0}")]
    NoConsole(u16),
    /// The machine has not got so much memory free.
    #[error("{} MiB of memory are wanted, and {} MiB are free", wanted >> 10, free >> 10)]
    Memory {
        /// What is wanted, KiB.
        wanted: u64,
        /// What there is, KiB.
        free: u64,
    },
    /// The store says no.
    #[error("store: {operation} {path}: {error}")]
    Store {
        /// What was asked for.
        operation: &'static str,
        /// Of which node.
        path: String,
        /// The error's name in the protocol.
        error: String,
    },
    /// The store's connection broke.
    #[error("store: {0}")]
    StoreConnection(io::Error),
    /// An argument makes no sense here.
    #[error("{0}")]
    Usage(String),
    /// Waited long enough.
    #[error("{0}")]
    Timeout(String),
    /// The machine lacks something.
    #[error("{0}")]
    Unfit(String),
    /// A stream of a saved or moving domain is wrong.
    #[error("{0}")]
    Stream(stream::Error),
    /// The other machine, or the connection to it.
    #[error("the other host: {0}")]
    Peer(String),
    /// The other machine does not take the domain.
    #[error("the other host refuses: {0}")]
    Refused(String),
    /// Somebody asked for it.
    #[error("given up on request")]
    Cancelled,
    /// Reading or writing failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The answer cannot be put into JSON.
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl From<stream::Error> for Error {
    /// An error of this machine that a stream passed on is that error again.
    fn from(error: stream::Error) -> Self {
        match error {
            stream::Error::Io(error) => Self::Io(error),
            stream::Error::Machine(error) => match error.downcast::<Self>() {
                Ok(error) => *error,
                Err(error) => Self::Stream(stream::Error::Machine(error)),
            },
            error => Self::Stream(error),
        }
    }
}

/// The result of a command.
pub type Result<T> = std::result::Result<T, Error>;

/// What an errno of a hypercall means to a user.
fn describe(error: i32) -> String {
    let text = match error {
        errno::EPERM => "not permitted: this domain may not control others",
        errno::ESRCH => "there is no such domain",
        errno::ENOSYS => "this hypervisor does not know the operation",
        errno::EOPNOTSUPP => "not supported by this hypervisor",
        errno::EACCES => "the hypervisor speaks another version of the control interface",
        errno::EINVAL => "refused as invalid",
        errno::ENOMEM => "not enough memory",
        errno::EBUSY => "busy",
        libc::EUSERS => "paused too often",
        _ => return format!("errno {error} ({})", io::Error::from_raw_os_error(error)),
    };
    text.to_owned()
}

/// What of a CPU policy is in the way.
fn culprit(leaf: u32, subleaf: u32, msr: u32) -> String {
    match (leaf, subleaf, msr) {
        (u32::MAX, _, msr) => format!("MSR {msr:#x}"),
        (leaf, u32::MAX, _) => format!("CPUID leaf {leaf:#x}"),
        (leaf, subleaf, _) => format!("CPUID leaf {leaf:#x}, subleaf {subleaf:#x}"),
    }
}

impl Error {
    /// The exit status of the process.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::NoDomain(_) | Self::Ambiguous(_) => 3,
            Self::Store { error, .. } if error == "ENOENT" => 3,
            Self::Store { error, .. } if error == "EACCES" => 4,
            Self::NoControl { .. } => 4,
            Self::Hypercall { errno, .. } => match *errno {
                errno::ESRCH => 3,
                errno::EPERM | errno::EACCES => 4,
                _ => 5,
            },
            Self::CpuPolicy { .. } | Self::Memory { .. } => 5,
            Self::Boot { .. } | Self::Device { .. } => 8,
            Self::Timeout(_) => 6,
            Self::Unfit(_) => 7,
            Self::Peer(_) | Self::Refused(_) => 9,
            Self::Cancelled => 10,
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_have_their_exit_status() {
        let hypercall = |errno| Error::Hypercall {
            operation: "pause",
            errno,
        };
        assert_eq!(hypercall(errno::ESRCH).exit_status(), 3);
        assert_eq!(hypercall(errno::EPERM).exit_status(), 4);
        assert_eq!(hypercall(errno::ENOSYS).exit_status(), 5);
        assert_eq!(Error::NoDomain("x".into()).exit_status(), 3);
        assert_eq!(Error::Usage(String::new()).exit_status(), 2);
        assert!(
            hypercall(errno::ENOSYS)
                .to_string()
                .contains("does not know")
        );
    }
}
