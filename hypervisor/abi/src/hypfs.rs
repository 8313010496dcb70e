//! `HYPERVISOR_hypfs_op` (hypfs.h).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `XEN_HYPFS_VERSION`.
pub const XEN_HYPFS_VERSION: i64 = 1;
/// `XEN_HYPFS_MAX_PATHLEN`: bytes of a path, with its zero.
pub const XEN_HYPFS_MAX_PATHLEN: u64 = 1024;
/// `XEN_HYPFS_TYPE_DIR`.
pub const XEN_HYPFS_TYPE_DIR: u8 = 0;
/// `XEN_HYPFS_TYPE_STRING`.
pub const XEN_HYPFS_TYPE_STRING: u8 = 2;
/// `XEN_HYPFS_TYPE_UINT`.
pub const XEN_HYPFS_TYPE_UINT: u8 = 3;
/// `XEN_HYPFS_ENC_PLAIN`.
pub const XEN_HYPFS_ENC_PLAIN: u8 = 0;
/// `XEN_HYPFS_OP_get_version`.
pub const XEN_HYPFS_OP_GET_VERSION: u32 = 0;
/// `XEN_HYPFS_OP_read`.
pub const XEN_HYPFS_OP_READ: u32 = 1;
/// `XEN_HYPFS_OP_write_contents`.
pub const XEN_HYPFS_OP_WRITE_CONTENTS: u32 = 2;

/// `struct xen_hypfs_direntry`: what an entry is.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct XenHypfsDirentry {
    /// `XEN_HYPFS_TYPE_*`.
    pub r#type: u8,
    /// `XEN_HYPFS_ENC_*`.
    pub encoding: u8,
    /// 0.
    pub pad: u16,
    /// Bytes of its contents.
    pub content_len: u32,
    /// Bytes that may be written; 0 if it can only be read.
    pub max_write_len: u32,
}
const _: () = assert!(size_of::<XenHypfsDirentry>() == 12 && align_of::<XenHypfsDirentry>() == 4);
