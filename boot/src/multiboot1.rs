//! Multiboot 1 (Multiboot Specification 0.6.96, section 3.3).

use crate::{
    BootError, BootInfo, Fields, MAX_COMMAND_LINE, MAX_MODULES, PhysicalMemory, Protocol,
    RangeKind, required, string_at, strip_file_name,
};

const INFO_SIZE: usize = 88;

const HAS_MEMORY: u32 = 1 << 0;
const HAS_COMMAND_LINE: u32 = 1 << 2;
const HAS_MODULES: u32 = 1 << 3;
const HAS_MEMORY_MAP: u32 = 1 << 6;
const HAS_LOADER_NAME: u32 = 1 << 9;

/// Longest file name that may precede a command line.
const FILE_NAME: usize = 1024;
/// The largest memory map that is looked at, in bytes.
const MAX_MAP_BYTES: u32 = 1 << 20;

pub(crate) fn read(
    out: &mut BootInfo,
    address: u64,
    memory: &impl PhysicalMemory,
) -> Result<(), BootError> {
    let info = required(memory, "information", address, INFO_SIZE)?;
    let field = |offset| info.u32_at(offset).unwrap_or(0);
    let flags = field(0);

    if flags & HAS_LOADER_NAME != 0
        && let Some(name) = string_at(memory, field(64).into(), 64)
    {
        out.loader.set(name);
    }
    if flags & HAS_COMMAND_LINE != 0 {
        let at = field(16).into();
        let line =
            string_at(memory, at, FILE_NAME + MAX_COMMAND_LINE).ok_or(BootError::Unreadable {
                what: "command line",
                address: at,
            })?;
        let line = strip_file_name(line, out.loader.as_str());
        out.command_line.set(line);
    }

    if flags & HAS_MEMORY_MAP != 0 {
        let (length, at) = (field(44), field(48).into());
        if length > MAX_MAP_BYTES {
            return Err(Protocol::Multiboot1.malformed("mmap_length is above 1 MiB"));
        }
        let mut map = required(memory, "memory map", at, length as usize)?;
        while !map.is_empty() {
            // `size` does not count itself.
            let size = map.u32_at(0).unwrap_or(0) as usize;
            let (Some(base), Some(bytes), Some(kind)) =
                (map.u64_at(4), map.u64_at(12), map.u32_at(20))
            else {
                return Err(Protocol::Multiboot1.malformed("the memory map ends within an entry"));
            };
            if size < 20 {
                return Err(
                    Protocol::Multiboot1.malformed("a memory map entry is shorter than 20 bytes")
                );
            }
            out.map.add(base, bytes, RangeKind::from_e820(kind))?;
            map = map.get(size.saturating_add(4)..).unwrap_or(&[]);
        }
    } else if flags & HAS_MEMORY != 0 {
        let (lower, upper) = (u64::from(field(4)), u64::from(field(8)));
        out.map.add(0, lower.min(640) << 10, RangeKind::Ram)?;
        out.map.add(1 << 20, upper << 10, RangeKind::Ram)?;
    } else {
        return Err(BootError::NoMemoryMap(Protocol::Multiboot1));
    }

    if flags & HAS_MODULES != 0 {
        let (count, at) = (field(20), u64::from(field(24)));
        out.modules_dropped = (count as usize).saturating_sub(MAX_MODULES);
        for index in 0..count.min(MAX_MODULES as u32) {
            let at = at + u64::from(index) * 16;
            let entry = required(memory, "module list", at, 16)?;
            let entry = |offset| entry.u32_at(offset).unwrap_or(0);
            let string = string_at(memory, entry(8).into(), FILE_NAME + MAX_COMMAND_LINE);
            let line = match string {
                Some(line) if entry(8) != 0 => line,
                _ => &[],
            };
            let loader = out.loader.clone();
            if let Some(module) = out.add_module(entry(0).into(), entry(4).into()) {
                module
                    .command_line
                    .set(strip_file_name(line, loader.as_str()));
            }
        }
    }
    Ok(())
}
