//! Multiboot 2 (Multiboot2 Specification 2.0, section 3.6).

use crate::{
    AcpiRoot, BootError, BootInfo, Fields, PhysicalMemory, Protocol, RangeKind, required,
    strip_file_name, until_nul,
};

/// The largest information that is looked at, in bytes.
const MAX_INFO_BYTES: u32 = 1 << 20;

const TAG_END: u32 = 0;
const TAG_COMMAND_LINE: u32 = 1;
const TAG_LOADER_NAME: u32 = 2;
const TAG_MODULE: u32 = 3;
const TAG_BASIC_MEMORY: u32 = 4;
const TAG_MEMORY_MAP: u32 = 6;
const TAG_ACPI_OLD: u32 = 14;
const TAG_ACPI_NEW: u32 = 15;
const TAG_EFI_MEMORY_MAP: u32 = 17;

const EFI_PAGE_SHIFT: u32 = 12;

/// The tags, each as its type and its whole bytes (header included).
struct Tags<'a>(&'a [u8]);

impl<'a> Iterator for Tags<'a> {
    type Item = Result<(u32, &'a [u8]), BootError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (Some(kind), Some(size)) = (self.0.u32_at(0), self.0.u32_at(4)) else {
            // Only the end tag may end the list.
            if self.0.is_empty() {
                return None;
            }
            self.0 = &[];
            return Some(Err(
                Protocol::Multiboot2.malformed("a tag's header is cut off")
            ));
        };
        if kind == TAG_END {
            self.0 = &[];
            return None;
        }
        let size = size as usize;
        let tag = if size < 8 { None } else { self.0.get(..size) };
        let Some(tag) = tag else {
            self.0 = &[];
            return Some(Err(
                Protocol::Multiboot2.malformed("a tag's size does not fit")
            ));
        };
        self.0 = self.0.get(size.next_multiple_of(8)..).unwrap_or(&[]);
        Some(Ok((kind, tag)))
    }
}

pub(crate) fn read(
    out: &mut BootInfo,
    address: u64,
    memory: &impl PhysicalMemory,
) -> Result<(), BootError> {
    let total = required(memory, "information", address, 8)?
        .u32_at(0)
        .unwrap_or(0);
    if !(16..=MAX_INFO_BYTES).contains(&total) {
        return Err(Protocol::Multiboot2.malformed("total_size is not within 16 bytes to 1 MiB"));
    }
    let info = required(memory, "information", address, total as usize)?;
    let tags = || Tags(info.get(8..).unwrap_or(&[]));

    // The loader's name decides how command lines are read, and its tag may
    // come after theirs.
    for tag in tags() {
        let (kind, tag) = tag?;
        if kind == TAG_LOADER_NAME {
            out.loader.set(until_nul(tag.get(8..).unwrap_or(&[])));
        }
    }
    let loader = out.loader.clone();
    let loader = loader.as_str();

    let mut basic = None;
    let mut efi_map = None;
    let mut has_map = false;
    for tag in tags() {
        let (kind, tag) = tag?;
        match kind {
            TAG_COMMAND_LINE => {
                let line = until_nul(tag.get(8..).unwrap_or(&[]));
                out.command_line.set(strip_file_name(line, loader));
            }
            TAG_MODULE => {
                let (Some(start), Some(end)) = (tag.u32_at(8), tag.u32_at(12)) else {
                    return Err(
                        Protocol::Multiboot2.malformed("a module tag is shorter than 16 bytes")
                    );
                };
                if let Some(module) = out.add_module(start.into(), end.into()) {
                    let line = until_nul(tag.get(16..).unwrap_or(&[]));
                    module.command_line.set(strip_file_name(line, loader));
                }
            }
            TAG_BASIC_MEMORY => basic = tag.u32_at(8).zip(tag.u32_at(12)),
            TAG_MEMORY_MAP => {
                has_map = true;
                for entry in entries(tag, 8, 16, 24)? {
                    let (Some(base), Some(bytes), Some(kind)) =
                        (entry.u64_at(0), entry.u64_at(8), entry.u32_at(16))
                    else {
                        continue; // the last entry may be cut off
                    };
                    out.map.add(base, bytes, RangeKind::from_e820(kind))?;
                }
            }
            TAG_EFI_MEMORY_MAP => efi_map = Some(tag),
            TAG_ACPI_NEW => {
                out.acpi = AcpiRoot::from_rsdp(tag.get(8..).unwrap_or(&[])).or(out.acpi);
            }
            TAG_ACPI_OLD if out.acpi.is_none() => {
                out.acpi = AcpiRoot::from_rsdp(tag.get(8..).unwrap_or(&[]));
            }
            _ => {}
        }
    }

    if has_map {
        return Ok(());
    }
    if let Some(tag) = efi_map {
        // EFI_MEMORY_DESCRIPTOR: type, padding, physical start, virtual start,
        // pages, attribute.
        for entry in entries(tag, 8, 16, 40)? {
            let (Some(kind), Some(base), Some(pages)) =
                (entry.u32_at(0), entry.u64_at(8), entry.u64_at(24))
            else {
                continue;
            };
            let bytes = pages.saturating_mul(1 << EFI_PAGE_SHIFT);
            out.map.add(base, bytes, RangeKind::from_efi(kind))?;
        }
        return Ok(());
    }
    let (lower, upper) = basic.ok_or(BootError::NoMemoryMap(Protocol::Multiboot2))?;
    out.map
        .add(0, u64::from(lower.min(640)) << 10, RangeKind::Ram)?;
    out.map.add(1 << 20, u64::from(upper) << 10, RangeKind::Ram)
}

/// The entries of a tag whose size of an entry stands at `size_at` and whose
/// entries start at `first`.
fn entries(
    tag: &[u8],
    size_at: usize,
    first: usize,
    least: usize,
) -> Result<impl Iterator<Item = &[u8]>, BootError> {
    let size = tag.u32_at(size_at).unwrap_or(0) as usize;
    if size < least {
        return Err(Protocol::Multiboot2.malformed("a memory map's entry size is too small"));
    }
    Ok(tag.get(first..).unwrap_or(&[]).chunks(size))
}
