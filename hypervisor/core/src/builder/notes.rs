//! What a kernel asks for in its Xen ELF notes (elfnote.h), or in the older
//! string of its `__xen_guest` section.

use super::BuildError;
use xen_abi::{elfnote::*, features::*};

/// The values of a kernel's notes. Strings are as in the file, without the zero.
#[derive(Clone, Copy, Default, Debug)]
pub struct Notes<'a> {
    /// `ENTRY`: where the kernel starts.
    pub entry: Option<u64>,
    /// `HYPERCALL_PAGE`: where it wants the hypercall page.
    pub hypercall_page: Option<u64>,
    /// `VIRT_BASE`: the virtual address of pseudo-physical address 0.
    pub virt_base: Option<u64>,
    /// `PADDR_OFFSET`: what its physical addresses are relative to.
    pub paddr_offset: Option<u64>,
    /// `INIT_P2M`: where it wants the list of machine frames.
    pub init_p2m: Option<u64>,
    /// `MOD_START_PFN`: it takes an initrd by frame number, not mapped.
    pub mod_start_pfn: bool,
    /// `HV_START_LOW`: of interest to 32-bit kernels only.
    pub hv_start_low: Option<u64>,
    /// `SUSPEND_CANCEL`: it knows that a suspend can be cancelled.
    pub suspend_cancel: bool,
    /// `PHYS32_ENTRY`: it can be started by PVH, too.
    pub phys32_entry: Option<u64>,
    /// `XEN_VERSION`
    pub xen_version: &'a [u8],
    /// `GUEST_OS`
    pub guest_os: &'a [u8],
    /// `GUEST_VERSION`
    pub guest_version: &'a [u8],
    /// `LOADER`
    pub loader: &'a [u8],
    /// `PAE_MODE`: whether it says anything but no.
    pub pae: bool,
    /// `BSD_SYMTAB`: it would like its symbols behind it. Not done.
    pub bsd_symtab: bool,
    /// Bits of the features that it knows (`XENFEAT_*`).
    pub supported: u32,
    /// Bits of the features without which it cannot run.
    pub required: u32,
    /// Whether there is a `SUPPORTED_FEATURES`.
    pub has_supported_features: bool,
    /// From where this is: the older string has other defaults.
    pub legacy: bool,
    /// How many notes of Xen's there were.
    pub count: u32,
}

const FEATURES: [(&[u8], u32); 7] = [
    (b"writable_page_tables", XENFEAT_WRITABLE_PAGE_TABLES),
    (
        b"writable_descriptor_tables",
        XENFEAT_WRITABLE_DESCRIPTOR_TABLES,
    ),
    (b"auto_translated_physmap", XENFEAT_AUTO_TRANSLATED_PHYSMAP),
    (b"supervisor_mode_kernel", XENFEAT_SUPERVISOR_MODE_KERNEL),
    (b"pae_pgdir_above_4gb", XENFEAT_PAE_PGDIR_ABOVE_4GB),
    (b"hvm_callback_vector", XENFEAT_HVM_CALLBACK_VECTOR),
    (b"dom0", XENFEAT_DOM0),
];

impl<'a> Notes<'a> {
    /// Adds the notes of a segment or section. Notes of other owners are
    /// skipped; a damaged end is ignored, as what is missing will be missed.
    ///
    /// Names and values are aligned to 4 bytes, whatever the alignment of the
    /// segment says.
    pub fn add(&mut self, mut data: &'a [u8]) -> Result<(), BuildError> {
        while let Some((header, rest)) = data.split_first_chunk::<12>() {
            let [name_size, desc_size, kind] = words(header);
            let Some((name, rest)) = split_padded(rest, name_size) else {
                break;
            };
            let Some((desc, rest)) = split_padded(rest, desc_size) else {
                break;
            };
            data = rest;
            if until_nul(name) == b"Xen" {
                self.count = self.count.saturating_add(1);
                self.add_note(kind, desc)?;
            }
        }
        Ok(())
    }

    fn add_note(&mut self, kind: u32, desc: &'a [u8]) -> Result<(), BuildError> {
        let text = until_nul(desc);
        let number = number(desc);
        match kind {
            XEN_ELFNOTE_ENTRY => self.entry = Some(number),
            XEN_ELFNOTE_HYPERCALL_PAGE => self.hypercall_page = Some(number),
            XEN_ELFNOTE_VIRT_BASE => self.virt_base = Some(number),
            XEN_ELFNOTE_PADDR_OFFSET => self.paddr_offset = Some(number),
            XEN_ELFNOTE_INIT_P2M => self.init_p2m = Some(number),
            XEN_ELFNOTE_HV_START_LOW => self.hv_start_low = Some(number),
            XEN_ELFNOTE_MOD_START_PFN => self.mod_start_pfn = number != 0,
            XEN_ELFNOTE_SUSPEND_CANCEL => self.suspend_cancel = number != 0,
            XEN_ELFNOTE_PHYS32_ENTRY => self.phys32_entry = Some(number),
            XEN_ELFNOTE_XEN_VERSION => self.xen_version = text,
            XEN_ELFNOTE_GUEST_OS => self.guest_os = text,
            XEN_ELFNOTE_GUEST_VERSION => self.guest_version = text,
            XEN_ELFNOTE_LOADER => self.loader = text,
            XEN_ELFNOTE_PAE_MODE => {
                self.pae |= text == b"yes" || contains(text, b"bimodal");
            }
            XEN_ELFNOTE_BSD_SYMTAB => self.bsd_symtab |= text == b"yes",
            XEN_ELFNOTE_FEATURES => self.add_features(text)?,
            XEN_ELFNOTE_SUPPORTED_FEATURES => {
                self.has_supported_features = true;
                if let Some((word, _)) = desc.split_first_chunk::<4>() {
                    self.supported |= u32::from_le_bytes(*word);
                }
            }
            // L1_MFN_VALID is for kernels whose not-present entries hold frame
            // numbers that the tools must translate; others are not of use here.
            _ => {}
        }
        Ok(())
    }

    /// Reads `feature|!feature`: known, and required with the `!`.
    fn add_features(&mut self, text: &[u8]) -> Result<(), BuildError> {
        for name in text.split(|&byte| byte == b'|') {
            let (name, required) = match name.strip_prefix(b"!") {
                Some(name) => (name, true),
                None => (name, false),
            };
            match FEATURES.iter().find(|(known, _)| *known == name) {
                Some((_, bit)) => {
                    self.supported |= 1 << bit;
                    if required {
                        self.required |= 1 << bit;
                    }
                }
                None if required => return Err(BuildError::RequiredFeature),
                None => {}
            }
        }
        Ok(())
    }

    /// Reads the string of a `__xen_guest` section: `NAME=value,NAME=value`.
    pub fn add_guest_section(&mut self, section: &'a [u8]) -> Result<(), BuildError> {
        self.legacy = true;
        for item in until_nul(section).split(|&byte| byte == b',') {
            let (name, value) = match item.iter().position(|&byte| byte == b'=') {
                Some(at) => (
                    item.get(..at).unwrap_or(&[]),
                    item.get(at + 1..).unwrap_or(&[]),
                ),
                None => (item, &[] as &[u8]),
            };
            self.count = self.count.saturating_add(1);
            match name {
                b"LOADER" => self.loader = value,
                b"GUEST_OS" => self.guest_os = value,
                b"GUEST_VER" => self.guest_version = value,
                b"XEN_VER" => self.xen_version = value,
                b"PAE" => self.pae |= value.starts_with(b"yes"),
                b"BSD_SYMTAB" => self.bsd_symtab = true,
                b"VIRT_BASE" => self.virt_base = Some(parse_number(value)),
                b"VIRT_ENTRY" => self.entry = Some(parse_number(value)),
                b"ELF_PADDR_OFFSET" => self.paddr_offset = Some(parse_number(value)),
                b"HYPERCALL_PAGE" => {
                    self.hypercall_page = Some(parse_number(value).wrapping_shl(12));
                }
                b"FEATURES" => self.add_features(value)?,
                _ => {}
            }
        }
        // Here the page is given relative to the base.
        if let (Some(page), Some(base)) = (self.hypercall_page, self.virt_base) {
            self.hypercall_page = Some(page.wrapping_add(base));
        }
        Ok(())
    }

    /// Whether a PV kernel may be Dom0.
    pub fn check_dom0(&self) -> Result<(), BuildError> {
        if self.has_supported_features && self.supported & (1 << XENFEAT_DOM0) == 0 {
            return Err(BuildError::NotForDom0);
        }
        Ok(())
    }

    /// Whether this is a PV kernel.
    pub fn check(&self) -> Result<(), BuildError> {
        if self.count == 0 {
            return Err(BuildError::NoNotes);
        }
        let may_load = self.loader.starts_with(b"generic") || self.guest_os.starts_with(b"linux");
        if self.xen_version.is_empty() {
            return Err(match self.phys32_entry {
                Some(_) if !may_load => BuildError::PvhOnly,
                _ => BuildError::MissingNote("XEN_ELFNOTE_XEN_VERSION (expected \"xen-3.0\")"),
            });
        }
        if !self.xen_version.starts_with(b"xen-3.0") {
            return Err(BuildError::BadNote {
                note: "XEN_ELFNOTE_XEN_VERSION",
                why: "is for another interface (expected \"xen-3.0\")",
            });
        }
        if !may_load {
            return Err(BuildError::MissingNote(
                "XEN_ELFNOTE_LOADER of \"generic\" or XEN_ELFNOTE_GUEST_OS of \"linux\"",
            ));
        }
        if self.required & (1 << XENFEAT_SUPERVISOR_MODE_KERNEL) != 0 {
            return Err(BuildError::RequiredFeature);
        }
        Ok(())
    }
}

fn words(header: &[u8; 12]) -> [u32; 3] {
    let mut out = [0; 3];
    for (word, bytes) in out.iter_mut().zip(header.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    out
}

/// Splits off `size` bytes and their padding to 4; the padding may be missing at the end.
fn split_padded(data: &[u8], size: u32) -> Option<(&[u8], &[u8])> {
    let size = size as usize;
    let item = data.get(..size)?;
    let rest = size
        .checked_next_multiple_of(4)
        .and_then(|next| data.get(next..));
    Some((item, rest.unwrap_or(&[])))
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or(&[])
}

/// A number of 1, 2, 4 or 8 bytes; any other size counts as 0.
fn number(desc: &[u8]) -> u64 {
    match *desc {
        [a] => u64::from(a),
        [a, b] => u64::from(u16::from_le_bytes([a, b])),
        [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => 0,
    }
}

/// A number as C's `strtoull` with base 0 reads it: 0x hexadecimal, 0 octal.
/// Digits end at the first byte that is none; what overflows wraps.
fn parse_number(text: &[u8]) -> u64 {
    let (digits, base) = match text {
        [b'0', b'x' | b'X', rest @ ..] => (rest, 16),
        [b'0', rest @ ..] => (rest, 8),
        _ => (text, 10),
    };
    digits
        .iter()
        .map_while(|&byte| char::from(byte).to_digit(base))
        .fold(0_u64, |value, digit| {
            value
                .wrapping_mul(u64::from(base))
                .wrapping_add(u64::from(digit))
        })
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
