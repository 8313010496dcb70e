//! `hypfs_op` (hypfs.h): what the hypervisor says of itself as files, and the options that
//! can be changed while it runs (`xenhypfs`, `xl set-parameters`).

use alloc::format;

use overcast_core::addr::GuestVirtual;
use overcast_core::cmdline::LogThreshold;
use overcast_core::error::{Error, Result};
use overcast_core::hypfs::{Content, Entry};
use xen_abi::hypfs::*;

use super::{Call, version};
use crate::arch::console;
use crate::{build_info, guest, start};

/// Bytes that a level of messages takes at most, with its zero.
const LEVEL_LENGTH: u32 = 16;

/// Does something with the tree of files.
fn with_tree<R>(what: impl FnOnce(&Entry<'_>) -> R) -> R {
    let options = start::options();
    let (hypervisor, guests) = console::levels();
    let (hypervisor, guests) = (format!("{hypervisor}"), format!("{guests}"));
    let frames = format!("{}", options.gnttab_max_frames);
    let maptrack = format!("{}", options.gnttab_max_maptrack_frames);
    let text = |name, text| Entry::new(name, Content::Text(text));
    let level = |name, text| Entry {
        max_write: LEVEL_LENGTH,
        ..Entry::new(name, Content::Text(text))
    };
    let compile = [
        text("compile_by", build_info::BY),
        text("compile_date", build_info::DATE),
        text("compile_domain", build_info::DOMAIN),
        text("compiler", build_info::COMPILER),
    ];
    let version = [
        text("extra", version::EXTRA_VERSION),
        Entry::new("major", Content::Unsigned((version::VERSION >> 16) as u32)),
        Entry::new("minor", Content::Unsigned(version::VERSION as u16 as u32)),
    ];
    let build = [
        text("changeset", build_info::CHANGESET),
        Entry::new("compileinfo", Content::Directory(&compile)),
        Entry::new("version", Content::Directory(&version)),
    ];
    let pool = [text("sched-gran", "cpu")];
    let pools = [Entry::new("0", Content::Directory(&pool))];
    let parameters = [
        text("gnttab_max_frames", &frames),
        text("gnttab_max_maptrack_frames", &maptrack),
        level("guest_loglvl", &guests),
        level("loglvl", &hypervisor),
    ];
    let root = [
        Entry::new("buildinfo", Content::Directory(&build)),
        Entry::new("cpupool", Content::Directory(&pools)),
        Entry::new("params", Content::Directory(&parameters)),
    ];
    what(&Entry::new("", Content::Directory(&root)))
}

/// `HYPERVISOR_hypfs_op(cmd, path, path_length, buffer, buffer_length)`: EPERM for a domain
/// without privilege, EOPNOTSUPP for an unknown command, and as the commands say.
pub fn hypfs_op(call: &mut Call<'_>) -> Result<i64> {
    call.require_privilege()?;
    let command = call.args[0] as u32;
    let [_, path, path_length, buffer, length, _] = call.args;
    if command == XEN_HYPFS_OP_GET_VERSION {
        return match (path, path_length, buffer, length) {
            (0, 0, 0, 0) => Ok(XEN_HYPFS_VERSION),
            _ => Err(Error::Invalid),
        };
    }
    if path_length > XEN_HYPFS_MAX_PATHLEN {
        return Err(Error::Invalid);
    }
    let mut name = [0; XEN_HYPFS_MAX_PATHLEN as usize];
    let name = &mut name[..path_length as usize];
    guest::read_bytes(GuestVirtual(path), name)?;
    with_tree(|root| {
        let entry = root.find(name)?;
        match command {
            XEN_HYPFS_OP_READ => read(entry, GuestVirtual(buffer), length),
            XEN_HYPFS_OP_WRITE_CONTENTS => write(entry, GuestVirtual(buffer), length),
            _ => Err(Error::NotSupported),
        }
    })
}

/// What an entry is, and behind it what it holds. ENOBUFS, with the first of it, if the
/// buffer is too small for both, EINVAL if it is for the first.
fn read(entry: &Entry<'_>, buffer: GuestVirtual, length: u64) -> Result<i64> {
    let head = entry.describe();
    let head_length = size_of::<XenHypfsDirentry>() as u64;
    if length < head_length {
        return Err(Error::Invalid);
    }
    guest::write(buffer, &head)?;
    if length - head_length < u64::from(head.content_len) {
        return Err(Error::NoBuffers);
    }
    guest::write_bytes(
        GuestVirtual(buffer.0.wrapping_add(head_length)),
        &entry.contents(),
    )?;
    Ok(0)
}

/// Sets a level of messages. EACCES for what cannot be written, ENOSPC for more than fits,
/// EDOM for a text whose zero is not its last byte, EINVAL for what is no level.
fn write(entry: &Entry<'_>, buffer: GuestVirtual, length: u64) -> Result<i64> {
    if entry.max_write == 0 {
        return Err(Error::Access);
    }
    if length > u64::from(LEVEL_LENGTH) {
        return Err(Error::NoSpace);
    }
    let mut bytes = [0; LEVEL_LENGTH as usize];
    let bytes = &mut bytes[..length as usize];
    guest::read_bytes(buffer, bytes)?;
    let [text @ .., 0] = &*bytes else {
        return Err(Error::OutOfDomain);
    };
    if text.contains(&0) {
        return Err(Error::OutOfDomain);
    }
    let level = core::str::from_utf8(text)
        .ok()
        .and_then(LogThreshold::parse)
        .ok_or(Error::Invalid)?;
    let (hypervisor, guests) = console::levels();
    match entry.name {
        "loglvl" => console::set_levels(level, guests),
        _ => console::set_levels(hypervisor, level),
    }
    Ok(0)
}
