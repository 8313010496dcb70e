//! A kernel's ELF file: its segments and its notes, as the domain builder sees them.
//!
//! # Invariants of a [`Kernel`]
//!
//! - `start <= end`, and every segment lies within; `entry` does, too.
//! - A segment's bytes lie within the file, and are no more than its memory.
//! - All segments together are at most twice `end - start`, so that loading is
//!   bounded by the kernel's size.

use super::BuildError;
use super::notes::Notes;
use alloc::vec::Vec;
use elf::{ElfBytes, abi, endian::AnyEndian, file::Class, segment::ProgramHeader};

/// A piece of the kernel to load.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Virtual address of its first byte.
    pub address: u64,
    /// Its bytes.
    pub data: &'a [u8],
    /// Its size in memory; what lies behind `data` is zero.
    pub size: u64,
}

/// A PV kernel, parsed and checked.
#[derive(Clone, Debug)]
pub struct Kernel<'a> {
    /// What its notes say.
    pub notes: Notes<'a>,
    /// Its segments in the file's order.
    pub segments: Vec<Segment<'a>>,
    /// Virtual address of pseudo-physical address 0 (`VIRT_BASE`, or 0).
    pub virt_base: u64,
    /// Virtual address of its first byte.
    pub start: u64,
    /// Virtual address behind its last byte.
    pub end: u64,
    /// Virtual address of its entry.
    pub entry: u64,
}

/// More segments than this are refused.
const MAX_SEGMENTS: usize = 64;

fn bad(what: &'static str) -> impl Fn(elf::ParseError) -> BuildError {
    move |_| BuildError::BadElf(what)
}

fn is_loadable(header: &ProgramHeader) -> bool {
    header.p_type == abi::PT_LOAD && header.p_flags & (abi::PF_R | abi::PF_W | abi::PF_X) != 0
}

impl<'a> Kernel<'a> {
    /// What is to be known of it once its segments are written and its file is
    /// gone: where it is, and the notes that decide what the domain looks like.
    pub fn without_contents(&self) -> Kernel<'static> {
        let notes = &self.notes;
        Kernel {
            notes: Notes {
                hypercall_page: notes.hypercall_page,
                init_p2m: notes.init_p2m,
                mod_start_pfn: notes.mod_start_pfn,
                pae: notes.pae,
                ..Notes::default()
            },
            segments: Vec::new(),
            virt_base: self.virt_base,
            start: self.start,
            end: self.end,
            entry: self.entry,
        }
    }

    /// Parses an ELF file and checks that it is a PV kernel that may be Dom0.
    pub fn parse(file: &'a [u8]) -> Result<Self, BuildError> {
        let kernel = Self::parse_guest(file)?;
        kernel.notes.check_dom0()?;
        Ok(kernel)
    }

    /// Parses an ELF file and checks that it is a PV kernel, if not one for Dom0.
    pub fn parse_guest(file: &'a [u8]) -> Result<Self, BuildError> {
        check_length(file)?;
        let parsed = ElfBytes::<AnyEndian>::minimal_parse(file).map_err(bad("its headers"))?;
        if parsed.ehdr.class != Class::ELF64 {
            return Err(BuildError::ThirtyTwoBit);
        }
        if parsed.ehdr.e_machine != abi::EM_X86_64 {
            return Err(BuildError::Machine(parsed.ehdr.e_machine));
        }
        if parsed.ehdr.endianness != AnyEndian::Little {
            return Err(BuildError::BadElf("it is big-endian"));
        }
        let notes = Self::read_notes(&parsed, file)?;
        notes.check()?;
        Self::place(&parsed, file, notes)
    }

    fn read_notes(
        parsed: &ElfBytes<'a, AnyEndian>,
        file: &'a [u8],
    ) -> Result<Notes<'a>, BuildError> {
        let mut notes = Notes::default();
        for header in parsed.segments().into_iter().flatten() {
            // Some linkers left the offset of note segments 0.
            if header.p_type == abi::PT_NOTE && header.p_offset != 0 {
                let end = header.p_offset.saturating_add(header.p_filesz);
                within(file, "the note segment", end)?;
                notes.add(clip(file, header.p_offset, header.p_filesz))?;
            }
        }
        if notes.count == 0 {
            for header in parsed.section_headers().into_iter().flatten() {
                if header.sh_type == abi::SHT_NOTE {
                    notes.add(clip(file, header.sh_offset, header.sh_size))?;
                }
            }
        }
        if notes.count == 0
            && let Ok(Some(header)) = parsed.section_header_by_name("__xen_guest")
        {
            notes.add_guest_section(clip(file, header.sh_offset, header.sh_size))?;
        }
        Ok(notes)
    }

    fn place(
        parsed: &ElfBytes<'a, AnyEndian>,
        file: &'a [u8],
        notes: Notes<'a>,
    ) -> Result<Self, BuildError> {
        if notes.paddr_offset.is_some() && notes.virt_base.is_none() {
            return Err(BuildError::MissingNote(
                "XEN_ELFNOTE_VIRT_BASE, although there is a XEN_ELFNOTE_PADDR_OFFSET",
            ));
        }
        let virt_base = notes.virt_base.unwrap_or(0);
        // Kernels of the older kind have virtual addresses where others have
        // physical ones.
        let default_offset = if notes.legacy { virt_base } else { 0 };
        let offset = virt_base.wrapping_sub(notes.paddr_offset.unwrap_or(default_offset));

        let mut segments = Vec::new();
        let (mut start, mut end, mut total) = (u64::MAX, 0, 0_u64);
        for header in parsed.segments().into_iter().flatten() {
            if !is_loadable(&header) {
                continue;
            }
            if segments.len() == MAX_SEGMENTS {
                return Err(BuildError::BadElf("it has more than 64 segments"));
            }
            let size = header.p_memsz;
            if header.p_filesz > size {
                return Err(BuildError::BadElf(
                    "a segment is larger in the file than in memory",
                ));
            }
            let out_of_bounds = BuildError::OutOfBounds("a segment wraps around");
            let file_end = header.p_offset.checked_add(header.p_filesz);
            let file_end = file_end.ok_or(out_of_bounds)?;
            let data = usize::try_from(header.p_offset)
                .ok()
                .zip(usize::try_from(file_end).ok())
                .and_then(|(from, to)| file.get(from..to))
                .ok_or(BuildError::Truncated {
                    what: "a segment",
                    needed: file_end,
                    found: file.len() as u64,
                })?;
            header.p_paddr.checked_add(size).ok_or(out_of_bounds)?;
            let address = header.p_paddr.wrapping_add(offset);
            start = start.min(header.p_paddr);
            end = end.max(header.p_paddr.wrapping_add(size));
            total = total.checked_add(size).ok_or(out_of_bounds)?;
            segments.push(Segment {
                address,
                data,
                size,
            });
        }
        if segments.is_empty() || start >= end {
            return Err(BuildError::BadElf("it has no segment to load"));
        }
        if total > (end - start).saturating_mul(2) {
            return Err(BuildError::OutOfBounds(
                "the segments overlap again and again",
            ));
        }
        let (start, end) = (start.wrapping_add(offset), end.wrapping_add(offset));
        let entry = notes.entry.unwrap_or(parsed.ehdr.e_entry);
        if start > end || virt_base > start {
            return Err(BuildError::OutOfBounds(
                "the kernel lies below XEN_ELFNOTE_VIRT_BASE or wraps around",
            ));
        }
        if entry < start || entry > end {
            return Err(BuildError::OutOfBounds("the entry lies outside the kernel"));
        }
        if notes.init_p2m.is_some_and(|at| (start..end).contains(&at)) {
            return Err(BuildError::OutOfBounds(
                "XEN_ELFNOTE_INIT_P2M lies in the kernel",
            ));
        }
        Ok(Self {
            notes,
            segments,
            virt_base,
            start,
            end,
            entry,
        })
    }
}

/// Whether the file reaches as far as its tables of segments and sections, which
/// mostly stand at its two ends.
fn check_length(file: &[u8]) -> Result<(), BuildError> {
    let Some(header) = file.first_chunk::<64>() else {
        return Err(BuildError::Empty);
    };
    let field = |offset: usize, size: usize| {
        let bytes = header.get(offset..offset + size).unwrap_or(&[]);
        bytes
            .iter()
            .rfold(0_u64, |value, &byte| (value << 8) | u64::from(byte))
    };
    if header.get(4) != Some(&2) {
        return Ok(()); // The class is looked at elsewhere.
    }
    for (what, table, entry_size, count) in [
        ("its table of segments", 0x20, 0x36, 0x38),
        ("its table of sections", 0x28, 0x3a, 0x3c),
    ] {
        let size = field(entry_size, 2) * field(count, 2);
        within(file, what, field(table, 8).saturating_add(size))?;
    }
    Ok(())
}

fn within(file: &[u8], what: &'static str, end: u64) -> Result<(), BuildError> {
    let found = file.len() as u64;
    if end > found {
        return Err(BuildError::Truncated {
            what,
            needed: end,
            found,
        });
    }
    Ok(())
}

/// The part of `offset..offset + size` that the file has.
fn clip(file: &[u8], offset: u64, size: u64) -> &[u8] {
    let Some(rest) = usize::try_from(offset).ok().and_then(|at| file.get(at..)) else {
        return &[];
    };
    let size = usize::try_from(size).unwrap_or(usize::MAX).min(rest.len());
    rest.get(..size).unwrap_or(&[])
}
