//! PVH (xen/arch-x86/hvm/start_info.h).

use crate::{
    AcpiRoot, BootError, BootInfo, Fields, MAX_COMMAND_LINE, MAX_MODULES, PhysicalMemory, Protocol,
    RangeKind, required, string_at,
};

/// `XEN_HVM_START_MAGIC_VALUE`
const MAGIC: u32 = 0x336e_c578;
const SIZE_V0: usize = 40;
const SIZE_V1: usize = 56;
const MODULE_SIZE: u64 = 32;
const RANGE_SIZE: u64 = 24;
/// The most ranges that are looked at.
const MAX_MAP_ENTRIES: u32 = 4096;

pub(crate) fn read(
    out: &mut BootInfo,
    address: u64,
    memory: &impl PhysicalMemory,
) -> Result<(), BootError> {
    let info = required(memory, "information", address, SIZE_V0)?;
    if info.u32_at(0) != Some(MAGIC) {
        return Err(Protocol::Pvh.malformed("hvm_start_info has a wrong magic number"));
    }
    let version = info.u32_at(4).unwrap_or(0);
    let module_count = info.u32_at(12).unwrap_or(0);
    let module_list = info.u64_at(16).unwrap_or(0);
    let command_line = info.u64_at(24).unwrap_or(0);
    let rsdp = info.u64_at(32).unwrap_or(0);

    out.loader.set(b"PVH");
    if command_line != 0 {
        let line =
            string_at(memory, command_line, MAX_COMMAND_LINE + 1).ok_or(BootError::Unreadable {
                what: "command line",
                address: command_line,
            })?;
        out.command_line.set(line.trim_ascii_start());
    }
    if rsdp != 0 {
        out.acpi = AcpiRoot::at(memory, rsdp);
    }

    out.modules_dropped = (module_count as usize).saturating_sub(MAX_MODULES);
    for index in 0..module_count.min(MAX_MODULES as u32) {
        let at = module_list.saturating_add(u64::from(index) * MODULE_SIZE);
        let entry = required(memory, "module list", at, MODULE_SIZE as usize)?;
        let (start, size) = (entry.u64_at(0).unwrap_or(0), entry.u64_at(8).unwrap_or(0));
        let line = match entry.u64_at(16).unwrap_or(0) {
            0 => &[],
            at => string_at(memory, at, MAX_COMMAND_LINE + 1).ok_or(BootError::Unreadable {
                what: "module's command line",
                address: at,
            })?,
        };
        if let Some(module) = out.add_module(start, start.saturating_add(size)) {
            module.command_line.set(line.trim_ascii_start());
        }
    }

    // Version 0 has no memory map: the guest is to ask the hypervisor below it,
    // for which there are no hypercalls yet.
    if version == 0 {
        return Err(BootError::NoMemoryMap(Protocol::Pvh));
    }
    let info = required(memory, "information", address, SIZE_V1)?;
    let map = info.u64_at(40).unwrap_or(0);
    let count = info.u32_at(48).unwrap_or(0);
    if map == 0 || count == 0 {
        return Err(BootError::NoMemoryMap(Protocol::Pvh));
    }
    if count > MAX_MAP_ENTRIES {
        return Err(Protocol::Pvh.malformed("memmap_entries is above 4096"));
    }
    for index in 0..count {
        let at = map.saturating_add(u64::from(index) * RANGE_SIZE);
        let entry = required(memory, "memory map", at, RANGE_SIZE as usize)?;
        let (Some(base), Some(bytes), Some(kind)) =
            (entry.u64_at(0), entry.u64_at(8), entry.u32_at(16))
        else {
            continue;
        };
        out.map.add(base, bytes, RangeKind::from_e820(kind))?;
    }
    Ok(())
}
