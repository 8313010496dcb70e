//! Boot protocols (Multiboot 1, Multiboot 2, PVH) normalised into one
//! [`BootInfo`].
//!
//! The assembly beside this crate (`headers.S`, `entry.S`) brings the CPU from
//! any loader to the hypervisor's entry point with a protocol number and the
//! physical address of the loader's information. [`BootInfo::read`] copies all
//! that is wanted out of the loader's structures, so that afterwards their
//! memory, and the identity mapping, can be given up.
//!
//! # Invariants of a `BootInfo` that was read without error
//!
//! - The memory map is sorted, without overlaps, page aligned; neighbours differ
//!   in kind or have a gap between them. RAM was aligned inward and everything
//!   else outward; where ranges overlapped, the worse kind won.
//! - Each module is not empty, lies in RAM, and overlaps neither the image nor
//!   another module.
//!
//! Nothing here panics, whatever the loader says. The reader needs some 20 KiB
//! of stack.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod acpi;
mod error;
mod map;
mod multiboot1;
mod multiboot2;
mod pvh;
#[cfg(test)]
mod tests;
mod text;

pub use acpi::AcpiRoot;
pub use error::BootError;
pub use map::{MAX_RANGES, MemoryMap, Range, RangeKind};
pub use text::Text;

/// The most modules that are kept.
pub const MAX_MODULES: usize = 8;
/// The longest command line that is kept, in bytes.
pub const MAX_COMMAND_LINE: usize = 2048;

/// Which protocol the loader speaks; the numbers are those that `entry.S` hands on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// Multiboot 1.
    Multiboot1 = 1,
    /// Multiboot 2.
    Multiboot2 = 2,
    /// Xen's PVH boot protocol.
    Pvh = 3,
}

impl Protocol {
    /// The protocol of the number that `entry.S` hands on.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Multiboot1),
            2 => Some(Self::Multiboot2),
            3 => Some(Self::Pvh),
            _ => None,
        }
    }

    /// What is wrong with the loader's information.
    const fn malformed(self, what: &'static str) -> BootError {
        BootError::Malformed {
            protocol: self,
            what,
        }
    }

    /// The protocol's name for messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Multiboot1 => "Multiboot 1",
            Self::Multiboot2 => "Multiboot 2",
            Self::Pvh => "PVH",
        }
    }
}

/// Read access to physical memory while the boot information is read.
pub trait PhysicalMemory {
    /// The `len` bytes from physical address `address` on, or `None` if they
    /// cannot be reached.
    fn bytes(&self, address: u64, len: usize) -> Option<&[u8]>;
}

/// A file that the loader put into memory.
#[derive(Clone, Debug)]
pub struct Module {
    /// Physical address of the first byte.
    pub start: u64,
    /// Physical address behind the last byte.
    pub end: u64,
    /// Its command line, without the file's name.
    pub command_line: Text<MAX_COMMAND_LINE>,
}

impl Module {
    const EMPTY: Self = Self {
        start: 0,
        end: 0,
        command_line: Text::EMPTY,
    };

    /// Its size in bytes.
    pub const fn size(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}

/// What the loader told. See the crate's documentation for what holds of it.
///
/// About 25 KiB: keep it in a static.
pub struct BootInfo {
    protocol: Protocol,
    loader: Text<64>,
    command_line: Text<MAX_COMMAND_LINE>,
    modules: [Module; MAX_MODULES],
    module_count: usize,
    modules_dropped: usize,
    map: MemoryMap,
    acpi: Option<AcpiRoot>,
}

impl Default for BootInfo {
    fn default() -> Self {
        Self::empty()
    }
}

impl BootInfo {
    /// Nothing told: no memory, no modules.
    pub const fn empty() -> Self {
        Self {
            protocol: Protocol::Multiboot1,
            loader: Text::EMPTY,
            command_line: Text::EMPTY,
            modules: [Module::EMPTY; MAX_MODULES],
            module_count: 0,
            modules_dropped: 0,
            map: MemoryMap::EMPTY,
            acpi: None,
        }
    }

    /// Reads the loader's information into `self`.
    ///
    /// `protocol` and `info` are what `entry.S` hands on; `image` is the range of
    /// physical addresses of the hypervisor's image, .bss included.
    ///
    /// On an error, what was read until then stays readable (the command line
    /// may say where the console is).
    pub fn read(
        &mut self,
        protocol: u32,
        info: u64,
        image: core::ops::Range<u64>,
        memory: &impl PhysicalMemory,
    ) -> Result<(), BootError> {
        *self.clear() = Protocol::from_number(protocol).ok_or(BootError::Protocol(protocol))?;
        match self.protocol {
            Protocol::Multiboot1 => multiboot1::read(self, info, memory)?,
            Protocol::Multiboot2 => multiboot2::read(self, info, memory)?,
            Protocol::Pvh => pvh::read(self, info, memory)?,
        }
        if self.acpi.is_none() {
            self.acpi = acpi::scan(memory);
        }
        self.map.resolve()?;
        if self.map.ram_bytes() == 0 {
            return Err(BootError::NoRam);
        }
        self.check_modules(&image)?;
        self.map.align_to_pages()?;
        // RAM in pieces smaller than a page is none.
        if self.map.ram_bytes() == 0 {
            return Err(BootError::NoRam);
        }
        Ok(())
    }

    /// Forgets everything, without a copy of this large structure on the stack.
    fn clear(&mut self) -> &mut Protocol {
        self.loader = Text::EMPTY;
        self.command_line.clear();
        for module in &mut self.modules {
            module.start = 0;
            module.end = 0;
            module.command_line.clear();
        }
        self.module_count = 0;
        self.modules_dropped = 0;
        self.map.clear();
        self.acpi = None;
        &mut self.protocol
    }

    /// The protocol.
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The loader's name, empty if it did not give one.
    pub fn loader(&self) -> &str {
        self.loader.as_str()
    }

    /// The hypervisor's command line, without the image's name, up to ` -- `.
    pub fn command_line(&self) -> &str {
        split_extra(self.command_line.as_str()).0
    }

    /// What stood behind ` -- ` on the hypervisor's command line: it goes to the
    /// end of Dom0's command line.
    pub fn dom0_extra(&self) -> &str {
        split_extra(self.command_line.as_str()).1
    }

    /// Whether a command line was longer than what is kept.
    pub fn command_line_cut(&self) -> bool {
        self.command_line.was_cut() || self.modules().iter().any(|m| m.command_line.was_cut())
    }

    /// The modules in the loader's order.
    pub fn modules(&self) -> &[Module] {
        self.modules.get(..self.module_count).unwrap_or(&[])
    }

    /// How many modules there were beyond [`MAX_MODULES`].
    pub const fn modules_dropped(&self) -> usize {
        self.modules_dropped
    }

    /// Dom0's kernel and, where there is one, its initrd.
    pub fn dom0(&self) -> Result<(&Module, Option<&Module>), BootError> {
        match self.modules() {
            [] => Err(BootError::NoKernel(self.protocol)),
            [kernel, rest @ ..] => Ok((kernel, rest.first())),
        }
    }

    /// The memory map.
    pub fn memory_map(&self) -> &[Range] {
        self.map.ranges()
    }

    /// Bytes of RAM in the memory map.
    pub fn ram_bytes(&self) -> u64 {
        self.map.ram_bytes()
    }

    /// Where ACPI's tables are: told by the loader, or found in the BIOS area.
    pub const fn acpi(&self) -> Option<AcpiRoot> {
        self.acpi
    }

    /// Adds a module; counts those that find no room. Its cooked command line is
    /// to be set by the caller.
    fn add_module(&mut self, start: u64, end: u64) -> Option<&mut Module> {
        let Some(module) = self.modules.get_mut(self.module_count) else {
            self.modules_dropped = self.modules_dropped.saturating_add(1);
            return None;
        };
        self.module_count += 1;
        module.start = start;
        module.end = end;
        Some(module)
    }

    fn check_modules(&self, image: &core::ops::Range<u64>) -> Result<(), BootError> {
        for (index, module) in self.modules().iter().enumerate() {
            let (start, end) = (module.start, module.end);
            if start >= end {
                return Err(BootError::ModuleEmpty { index, start, end });
            }
            if !self.map.is_ram(start, end) {
                return Err(BootError::ModuleNotInRam { index, start, end });
            }
            if start < image.end && image.start < end {
                return Err(BootError::ModuleOverImage { index, start, end });
            }
            for (other, before) in self.modules().iter().enumerate().take(index) {
                if start < before.end && before.start < end {
                    return Err(BootError::ModulesOverlap { index, other });
                }
            }
        }
        Ok(())
    }
}

/// Splits `a -- b` into `a` and `b`, as Xen does.
fn split_extra(line: &str) -> (&str, &str) {
    if let Some(extra) = line.strip_prefix("-- ") {
        return ("", extra.trim_start());
    }
    match line.split_once(" -- ") {
        Some((own, extra)) => (own.trim_end(), extra.trim_start()),
        None => (line, ""),
    }
}

/// A command line without the leading file name that most loaders put there.
///
/// As Xen does: GRUB 2 (`GRUB 2.06`; GRUB 1 calls itself `GNU GRUB 0.97`) passes
/// the arguments only; every other Multiboot loader puts the file's name first.
fn strip_file_name<'a>(line: &'a [u8], loader: &str) -> &'a [u8] {
    let line = line.trim_ascii_start();
    if let Some(at) = loader.find("GRUB ")
        && loader.as_bytes().get(at + 5) != Some(&b'0')
    {
        return line;
    }
    match line.iter().position(|&byte| byte == b' ') {
        Some(at) => line.get(at..).unwrap_or(&[]).trim_ascii_start(),
        None => &[],
    }
}

/// The bytes of what the loader put at `address`, which the boot cannot do without.
fn required<'m>(
    memory: &'m impl PhysicalMemory,
    what: &'static str,
    address: u64,
    len: usize,
) -> Result<&'m [u8], BootError> {
    memory
        .bytes(address, len)
        .ok_or(BootError::Unreadable { what, address })
}

/// The bytes of the NUL-terminated string at `address`, at most `limit` of them.
fn string_at(memory: &impl PhysicalMemory, address: u64, limit: usize) -> Option<&[u8]> {
    // A string near the end of what can be reached is tried in smaller pieces.
    let mut len = limit;
    while len > 0 {
        if let Some(bytes) = memory.bytes(address, len) {
            return Some(until_nul(bytes));
        }
        len /= 2;
    }
    None
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    match bytes.iter().position(|&byte| byte == 0) {
        Some(end) => bytes.get(..end).unwrap_or(&[]),
        None => bytes,
    }
}

/// Little-endian fields at byte offsets of a slice.
trait Fields {
    fn u16_at(&self, offset: usize) -> Option<u16>;
    fn u32_at(&self, offset: usize) -> Option<u32>;
    fn u64_at(&self, offset: usize) -> Option<u64>;
}

impl Fields for [u8] {
    fn u16_at(&self, offset: usize) -> Option<u16> {
        let bytes = self.get(offset..)?.first_chunk::<2>()?;
        Some(u16::from_le_bytes(*bytes))
    }

    fn u32_at(&self, offset: usize) -> Option<u32> {
        let bytes = self.get(offset..)?.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*bytes))
    }

    fn u64_at(&self, offset: usize) -> Option<u64> {
        let bytes = self.get(offset..)?.first_chunk::<8>()?;
        Some(u64::from_le_bytes(*bytes))
    }
}
