//! Errors of hypercalls, which return the negated number (errno.h).

/// `XEN_EPERM`: not permitted.
pub const EPERM: i32 = 1;
/// `XEN_ENOENT`: no such entry.
pub const ENOENT: i32 = 2;
/// `XEN_ESRCH`: no such domain or vCPU.
pub const ESRCH: i32 = 3;
/// `XEN_EINTR`: interrupted.
pub const EINTR: i32 = 4;
/// `XEN_EIO`: I/O error.
pub const EIO: i32 = 5;
/// `XEN_ENXIO`: no such device or address.
pub const ENXIO: i32 = 6;
/// `XEN_E2BIG`: argument list too long.
pub const E2BIG: i32 = 7;
/// `XEN_ENOEXEC`: not an executable image.
pub const ENOEXEC: i32 = 8;
/// `XEN_EBADF`: bad descriptor.
pub const EBADF: i32 = 9;
/// `XEN_ECHILD`: no child.
pub const ECHILD: i32 = 10;
/// `XEN_EAGAIN`: try again.
pub const EAGAIN: i32 = 11;
/// `XEN_EWOULDBLOCK`.
pub const EWOULDBLOCK: i32 = 11;
/// `XEN_ENOMEM`: no memory left.
pub const ENOMEM: i32 = 12;
/// `XEN_EACCES`: access denied.
pub const EACCES: i32 = 13;
/// `XEN_EFAULT`: bad address.
pub const EFAULT: i32 = 14;
/// `XEN_EBUSY`: busy.
pub const EBUSY: i32 = 16;
/// `XEN_EEXIST`: exists already.
pub const EEXIST: i32 = 17;
/// `XEN_EXDEV`: belongs elsewhere.
pub const EXDEV: i32 = 18;
/// `XEN_ENODEV`: no such device.
pub const ENODEV: i32 = 19;
/// `XEN_ENOTDIR`: not a directory.
pub const ENOTDIR: i32 = 20;
/// `XEN_EISDIR`: is a directory.
pub const EISDIR: i32 = 21;
/// `XEN_EINVAL`: invalid argument.
pub const EINVAL: i32 = 22;
/// `XEN_ENFILE`: table full.
pub const ENFILE: i32 = 23;
/// `XEN_EMFILE`: too many open.
pub const EMFILE: i32 = 24;
/// `XEN_ENOSPC`: no space left.
pub const ENOSPC: i32 = 28;
/// `XEN_EROFS`: read-only.
pub const EROFS: i32 = 30;
/// `XEN_EMLINK`: too many links.
pub const EMLINK: i32 = 31;
/// `XEN_EDOM`: outside the domain of the function.
pub const EDOM: i32 = 33;
/// `XEN_ERANGE`: out of range.
pub const ERANGE: i32 = 34;
/// `XEN_EDEADLK`: would deadlock.
pub const EDEADLK: i32 = 35;
/// `XEN_EDEADLOCK`.
pub const EDEADLOCK: i32 = 35;
/// `XEN_ENAMETOOLONG`: name too long.
pub const ENAMETOOLONG: i32 = 36;
/// `XEN_ENOLCK`.
pub const ENOLCK: i32 = 37;
/// `XEN_ENOSYS`: not implemented.
pub const ENOSYS: i32 = 38;
/// `XEN_ENOTEMPTY`: not empty.
pub const ENOTEMPTY: i32 = 39;
/// `XEN_ENODATA`: no data.
pub const ENODATA: i32 = 61;
/// `XEN_ETIME`: timer expired.
pub const ETIME: i32 = 62;
/// `XEN_EBADMSG`: bad message.
pub const EBADMSG: i32 = 74;
/// `XEN_EOVERFLOW`: value overflows its type.
pub const EOVERFLOW: i32 = 75;
/// `XEN_EILSEQ`: bad byte sequence.
pub const EILSEQ: i32 = 84;
/// `XEN_ERESTART`: to be restarted; never shown to a guest.
pub const ERESTART: i32 = 85;
/// `XEN_ENOTSOCK`: not a socket.
pub const ENOTSOCK: i32 = 88;
/// `XEN_EMSGSIZE`.
pub const EMSGSIZE: i32 = 90;
/// `XEN_EOPNOTSUPP`: not supported.
pub const EOPNOTSUPP: i32 = 95;
/// `XEN_EADDRINUSE`: address in use.
pub const EADDRINUSE: i32 = 98;
/// `XEN_EADDRNOTAVAIL`: address not available.
pub const EADDRNOTAVAIL: i32 = 99;
/// `XEN_ENOBUFS`: no buffer space.
pub const ENOBUFS: i32 = 105;
/// `XEN_EISCONN`: already connected.
pub const EISCONN: i32 = 106;
/// `XEN_ENOTCONN`: not connected.
pub const ENOTCONN: i32 = 107;
/// `XEN_ETIMEDOUT`: timed out.
pub const ETIMEDOUT: i32 = 110;
/// `XEN_ECONNREFUSED`.
pub const ECONNREFUSED: i32 = 111;

/// Every error by name, without `XEN_`.
pub const ALL: &[(&str, i32)] = &[
    ("EPERM", EPERM),
    ("ENOENT", ENOENT),
    ("ESRCH", ESRCH),
    ("EINTR", EINTR),
    ("EIO", EIO),
    ("ENXIO", ENXIO),
    ("E2BIG", E2BIG),
    ("ENOEXEC", ENOEXEC),
    ("EBADF", EBADF),
    ("ECHILD", ECHILD),
    ("EAGAIN", EAGAIN),
    ("EWOULDBLOCK", EWOULDBLOCK),
    ("ENOMEM", ENOMEM),
    ("EACCES", EACCES),
    ("EFAULT", EFAULT),
    ("EBUSY", EBUSY),
    ("EEXIST", EEXIST),
    ("EXDEV", EXDEV),
    ("ENODEV", ENODEV),
    ("ENOTDIR", ENOTDIR),
    ("EISDIR", EISDIR),
    ("EINVAL", EINVAL),
    ("ENFILE", ENFILE),
    ("EMFILE", EMFILE),
    ("ENOSPC", ENOSPC),
    ("EROFS", EROFS),
    ("EMLINK", EMLINK),
    ("EDOM", EDOM),
    ("ERANGE", ERANGE),
    ("EDEADLK", EDEADLK),
    ("EDEADLOCK", EDEADLOCK),
    ("ENAMETOOLONG", ENAMETOOLONG),
    ("ENOLCK", ENOLCK),
    ("ENOSYS", ENOSYS),
    ("ENOTEMPTY", ENOTEMPTY),
    ("ENODATA", ENODATA),
    ("ETIME", ETIME),
    ("EBADMSG", EBADMSG),
    ("EOVERFLOW", EOVERFLOW),
    ("EILSEQ", EILSEQ),
    ("ERESTART", ERESTART),
    ("ENOTSOCK", ENOTSOCK),
    ("EMSGSIZE", EMSGSIZE),
    ("EOPNOTSUPP", EOPNOTSUPP),
    ("EADDRINUSE", EADDRINUSE),
    ("EADDRNOTAVAIL", EADDRNOTAVAIL),
    ("ENOBUFS", ENOBUFS),
    ("EISCONN", EISCONN),
    ("ENOTCONN", ENOTCONN),
    ("ETIMEDOUT", ETIMEDOUT),
    ("ECONNREFUSED", ECONNREFUSED),
];
