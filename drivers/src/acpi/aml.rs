//! The one AML object that is needed: `\_S5`, the sleep type of "off".
//!
//! No interpreter: the DSDT is searched for the name `_S5_` that a NameOp
//! introduces and a Package of integers follows (ACPI 6.5, section 20.2).

const NAME_OP: u8 = 0x08;
const PACKAGE_OP: u8 = 0x12;
const ZERO_OP: u8 = 0x00;
const ONE_OP: u8 = 0x01;
const BYTE_PREFIX: u8 = 0x0a;
const WORD_PREFIX: u8 = 0x0b;
const DWORD_PREFIX: u8 = 0x0c;

/// The values of SLP_TYP for PM1a and PM1b that switch the machine off, from
/// the contents of a DSDT or SSDT.
pub fn find_s5(table: &[u8]) -> Option<(u8, u8)> {
    let name = b"_S5_";
    for at in 0..table.len() {
        if table.get(at..).is_some_and(|rest| rest.starts_with(name))
            && introduced_by_name(table, at)
            && let Some(rest) = table.get(at + name.len()..)
            && let Some(found) = package(rest)
        {
            return Some(found);
        }
    }
    None
}

/// Whether the bytes before the name are NameOp, or NameOp and a root prefix.
fn introduced_by_name(table: &[u8], at: usize) -> bool {
    let before = |n: usize| at.checked_sub(n).and_then(|i| table.get(i)).copied();
    before(1) == Some(NAME_OP) || (before(1) == Some(b'\\') && before(2) == Some(NAME_OP))
}

fn package(bytes: &[u8]) -> Option<(u8, u8)> {
    let (&op, bytes) = bytes.split_first()?;
    if op != PACKAGE_OP {
        return None;
    }
    // PkgLength: bits 6-7 of the lead byte say how many bytes follow.
    let (&lead, bytes) = bytes.split_first()?;
    let bytes = bytes.get(usize::from(lead >> 6)..)?;
    let (&elements, bytes) = bytes.split_first()?;
    if elements == 0 {
        return None;
    }
    let (first, bytes) = integer(bytes)?;
    let second = match elements {
        1 => first,
        _ => integer(bytes).map_or(first, |(value, _)| value),
    };
    // SLP_TYP has three bits.
    Some((first & 7, second & 7))
}

/// An integer constant's low byte, and what follows it.
fn integer(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let (&op, rest) = bytes.split_first()?;
    let width = match op {
        ZERO_OP => return Some((0, rest)),
        ONE_OP => return Some((1, rest)),
        BYTE_PREFIX => 1,
        WORD_PREFIX => 2,
        DWORD_PREFIX => 4,
        _ => return None,
    };
    Some((*rest.first()?, rest.get(width..)?))
}
