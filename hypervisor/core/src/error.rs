//! What can go wrong, and which of Xen's errnos says so to a guest.

/// An error that a hypercall returns. The names and numbers are those of
/// xen/errno.h; what each means for a call is said where it is returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
#[non_exhaustive]
pub enum Error {
    /// EPERM
    NotPermitted = 1,
    /// ENOENT
    NoEntry = 2,
    /// ESRCH
    NoDomain = 3,
    /// EINTR
    Interrupted = 4,
    /// EIO
    Io = 5,
    /// ENXIO
    NoDevice = 6,
    /// E2BIG
    TooBig = 7,
    /// EAGAIN
    Again = 11,
    /// ENOMEM
    NoMemory = 12,
    /// EACCES
    Access = 13,
    /// EFAULT
    Fault = 14,
    /// EBUSY
    Busy = 16,
    /// EEXIST
    Exists = 17,
    /// EXDEV
    CrossDevice = 18,
    /// ENODEV
    NotThere = 19,
    /// EINVAL
    Invalid = 22,
    /// ENOSPC
    NoSpace = 28,
    /// EDOM
    OutOfDomain = 33,
    /// ERANGE
    Range = 34,
    /// ENOSYS
    NotImplemented = 38,
    /// ENODATA
    NoData = 61,
    /// EOVERFLOW
    Overflow = 75,
    /// EILSEQ
    BadSequence = 84,
    /// ERESTART: the work was preempted and goes on when the call is made
    /// again; never shown to a guest.
    Restart = 85,
    /// EUSERS
    TooManyUsers = 87,
    /// EOPNOTSUPP
    NotSupported = 95,
    /// ENOBUFS
    NoBuffers = 105,
}

impl Error {
    /// The errno, a positive number.
    pub const fn errno(self) -> i32 {
        self as i32
    }

    /// The value that a hypercall returns in `%rax`: the negated errno.
    pub const fn to_return(self) -> i64 {
        -(self as i32 as i64)
    }
}

/// The result of most functions here.
pub type Result<T> = core::result::Result<T, Error>;

/// A return value of a hypercall from a result.
pub fn to_return(result: Result<i64>) -> i64 {
    match result {
        Ok(value) => value,
        Err(error) => error.to_return(),
    }
}
