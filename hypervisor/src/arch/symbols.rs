//! Names of the hypervisor's own functions, for backtraces.
//!
//! scripts/build.sh fills the section with lines `OFFSET NAME\n`, sorted, where
//! OFFSET is eight hexadecimal digits from the image's base; a zero byte ends them.

use crate::arch::paging;

unsafe extern "C" {
    static __symbols_start: u8;
    static __symbols_end: u8;
}

fn table() -> &'static [u8] {
    let start = &raw const __symbols_start;
    let length = &raw const __symbols_end as usize - start as usize;
    // SAFETY: the linker script's section: part of the image, constant, mapped readable.
    let all = unsafe { core::slice::from_raw_parts(start, length) };
    let end = all.iter().position(|&b| b == 0).unwrap_or(all.len());
    all.get(..end).unwrap_or_default()
}

fn parse(line: &[u8]) -> Option<(u64, &str)> {
    let digits = core::str::from_utf8(line.get(..8)?).ok()?;
    let offset = u64::from_str_radix(digits, 16).ok()?;
    let name = core::str::from_utf8(line.get(9..)?).ok()?;
    Some((paging::IMAGE_BASE.wrapping_add(offset), name))
}

/// The function that an address lies in, and how far into it.
pub fn lookup(address: u64) -> Option<(&'static str, u64)> {
    let mut best = None;
    // A linear search: backtraces are rare, and nothing must be prepared for them.
    for line in table().split(|&b| b == b'\n') {
        let Some((start, name)) = parse(line) else {
            continue;
        };
        if start > address {
            break;
        }
        best = Some((name, address - start));
    }
    best
}

/// An address with the name of its function, if it is known.
pub struct Symbol(pub u64);

impl core::fmt::Display for Symbol {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match lookup(self.0) {
            Some((name, offset)) => write!(f, "[<{:016x}>] {name}+{offset:#x}", self.0),
            None => write!(f, "[<{:016x}>]", self.0),
        }
    }
}
