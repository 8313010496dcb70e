//! What `XENVER_compile_info` says of this build.

/// The compiler.
pub const COMPILER: &str = "rustc";
/// Who compiled it.
pub const BY: &str = "overcast";
/// Where.
pub const DOMAIN: &str = "localhost";
/// When: not recorded, so that builds of the same source are the same.
pub const DATE: &str = "";
/// Which source it was built from.
pub const CHANGESET: &str = concat!("overcast ", env!("CARGO_PKG_VERSION"));
