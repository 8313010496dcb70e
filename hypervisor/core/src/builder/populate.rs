//! Writes a planned domain into its frames.
//!
//! # What the caller gives
//!
//! - `frames`: the machine frame of each of the domain's pages, all zeroed (but
//!   those of an initrd that is already in place). No frame stands for two pages.
//! - The page tables' frames hold nothing else, and the caller has them validated
//!   from the top one ([`InitialState::top_table`]) on before the domain runs.
//!
//! The kernel's segments may be written before the rest ([`write_segments`]).
//!
//! # What is written
//!
//! Segments, the initrd unless in place, the p2m list, start_info, the hypercall
//! page and page tables. Entries of tables are PRESENT, RW, USER, ACCESSED; those
//! of L2 to L4 also DIRTY, and so those of the kernel, the p2m and start_info. L1 entries carry the bit that marks a mapping of a
//! guest's kernel (bit 52). A page that is a page table is mapped without RW.

use super::layout::{Layout, OutsideP2m};
use super::{BuildError, elf::Kernel, hypercall_page};
use crate::addr::{MachineAddress, Mfn, PAGE_SIZE, Pfn};
use crate::ids::EventPort;
use crate::machine::{Frame, Memory};
use alloc::vec::Vec;
use core::ops::Range;
use xen_abi::xen::{
    SIF_INITDOMAIN, SIF_MOD_START_PFN, SIF_PRIVILEGED, SIF_VIRT_P2M_4TOOLS, StartInfo,
};
use zerocopy::{FromZeros, IntoBytes};

const PAGE: u64 = PAGE_SIZE as u64;

const PRESENT: u64 = 1 << 0;
const RW: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
/// Xen's `_PAGE_GUEST_KERNEL`: the guest's kernel, not its user space, maps this.
const GUEST_KERNEL: u64 = 1 << 52;
const LEAF: u64 = PRESENT | RW | USER | ACCESSED | GUEST_KERNEL;
const TABLE: u64 = PRESENT | RW | USER | ACCESSED | DIRTY;

/// `FLAT_KERNEL_CS` (arch-x86/xen-x86_64.h).
const FLAT_KERNEL_CS: u16 = 0xe033;
/// `FLAT_KERNEL_SS`
const FLAT_KERNEL_SS: u16 = 0xe02b;
const EFLAGS_IF: u64 = 1 << 9;

/// Where the initrd's contents come from.
#[derive(Clone, Copy, Debug)]
pub enum Initrd<'a> {
    /// There is none.
    None,
    /// The domain's frames at the initrd's pages are the module's own.
    InPlace,
    /// To be copied.
    Copy(&'a [u8]),
}

/// What to write, beside what the layout says.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// The kernel.
    pub kernel: &'a Kernel<'a>,
    /// Its plan.
    pub layout: &'a Layout,
    /// The initrd.
    pub initrd: Initrd<'a>,
    /// The command line; what goes beyond 1023 bytes is cut off.
    pub command_line: &'a [u8],
    /// The machine address of the shared_info page.
    pub shared_info: MachineAddress,
    /// The domain's port of xenstore's event channel; used if the layout has a page for it.
    pub store_port: EventPort,
    /// The domain's port of its console's event channel; used if the layout has a page for it.
    pub console_port: EventPort,
    /// Which domain it is.
    pub role: Role,
}

/// Which domain is built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Dom0, built by the hypervisor.
    Dom0,
    /// Another, built by the tools in Dom0: the hypervisor writes the hypercall page when it
    /// is asked to.
    Guest,
}

/// A page of the domain that is a page table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TablePage {
    /// Its page.
    pub pfn: Pfn,
    /// Its frame.
    pub mfn: Mfn,
    /// Its level, 1 to 4.
    pub level: u8,
}

/// How vCPU 0 starts. All other general registers are 0, the data segments null.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InitialState {
    /// The entry.
    pub rip: u64,
    /// The end of the boot stack.
    pub rsp: u64,
    /// The address of start_info.
    pub rsi: u64,
    /// `FLAT_KERNEL_CS`
    pub cs: u16,
    /// `FLAT_KERNEL_SS`
    pub ss: u16,
    /// Interrupt flag only. (The upcall mask of every vCPU starts as 1.)
    pub rflags: u64,
    /// The L4 table.
    pub top_table: Mfn,
    /// All page tables, the L4 table first.
    pub tables: Vec<TablePage>,
}

/// Writes the kernel's segments alone, so that its file can be given up before
/// all of the domain's frames are there: those of the region suffice.
pub fn write_segments<M: Memory + ?Sized>(
    memory: &M,
    frames: &impl Fn(Pfn) -> Option<Mfn>,
    layout: &Layout,
    kernel: &Kernel<'_>,
) -> Result<(), BuildError> {
    let writer = Writer {
        memory,
        frames,
        layout,
    };
    kernel
        .segments
        .iter()
        .try_for_each(|segment| writer.write(segment.address, segment.data))
}

/// Writes the domain. `frames` gives each page's frame; it is asked for a page
/// several times, with the same answer.
pub fn populate<M: Memory + ?Sized>(
    memory: &M,
    frames: &impl Fn(Pfn) -> Option<Mfn>,
    contents: &Contents<'_>,
) -> Result<InitialState, BuildError> {
    let Contents { kernel, layout, .. } = *contents;
    let writer = Writer {
        memory,
        frames,
        layout,
    };
    let tables = writer.write_tables(kernel)?;
    write_segments(memory, frames, layout, kernel)?;
    if let (Some(page), Role::Dom0) = (kernel.notes.hypercall_page, contents.role) {
        writer.write(page, &[hypercall_page::FILLING; PAGE_SIZE])?;
        for (offset, bytes, len) in hypercall_page::stubs() {
            let bytes = bytes.get(..len).unwrap_or(&[]);
            writer.write(page.wrapping_add(offset as u64), bytes)?;
        }
    }
    writer.write_initrd(contents.initrd)?;
    writer.write_p2m()?;
    writer.write_start_info(contents)?;
    Ok(InitialState {
        rip: kernel.entry,
        rsp: layout.stack.end,
        rsi: layout.start_info,
        cs: FLAT_KERNEL_CS,
        ss: FLAT_KERNEL_SS,
        rflags: EFLAGS_IF,
        top_table: writer.mfn_at(layout.page_tables.start)?,
        tables,
    })
}

/// The domain's memory while it is written.
struct Writer<'a, M: ?Sized, F> {
    memory: &'a M,
    frames: &'a F,
    layout: &'a Layout,
}

/// The tables while they are filled.
struct Walk {
    l4: Mfn,
    /// The block of 2 MiB that was mapped into last, and its L1 table.
    at_hand: Option<(u64, Mfn)>,
}

impl<M: Memory + ?Sized, F: Fn(Pfn) -> Option<Mfn>> Writer<'_, M, F> {
    fn mfn(&self, pfn: Pfn) -> Result<Mfn, BuildError> {
        (self.frames)(pfn).ok_or(BuildError::NoFrame { pfn: pfn.0 })
    }

    /// The frame at an address of the region.
    fn mfn_at(&self, address: u64) -> Result<Mfn, BuildError> {
        let outside = BuildError::OutOfBounds("an address lies outside the initial mapping");
        self.mfn(self.layout.pfn_of(address).ok_or(outside)?)
    }

    fn frame(&self, pfn: Pfn) -> Result<&Frame, BuildError> {
        let no_frame = BuildError::NoFrame { pfn: pfn.0 };
        self.memory.frame(self.mfn(pfn)?).ok_or(no_frame)
    }

    fn frame_of(&self, mfn: Mfn) -> Result<&Frame, BuildError> {
        // Named by its machine frame: the page it stands for is not at hand.
        self.memory
            .frame(mfn)
            .ok_or(BuildError::NoFrame { pfn: mfn.0 })
    }

    /// Copies bytes to an address of the region.
    fn write(&self, address: u64, data: &[u8]) -> Result<(), BuildError> {
        let outside = BuildError::OutOfBounds("a segment lies outside the initial mapping");
        let mut at = address;
        let mut data = data;
        while !data.is_empty() {
            let offset = (at % PAGE) as usize;
            let n = data.len().min(PAGE_SIZE - offset);
            let (now, rest) = data.split_at(n);
            let pfn = self.layout.pfn_of(at).ok_or(outside)?;
            self.frame(pfn)?.write(offset, now);
            at = at.wrapping_add(n as u64);
            data = rest;
        }
        Ok(())
    }

    fn write_initrd(&self, initrd: Initrd<'_>) -> Result<(), BuildError> {
        match (initrd, self.layout.initrd) {
            (Initrd::None, None) | (Initrd::InPlace, Some(_)) => Ok(()),
            (Initrd::Copy(data), Some(place)) if data.len() as u64 == place.size => {
                for (pfn, page) in (place.pfn.0..).zip(data.chunks(PAGE_SIZE)) {
                    self.frame(Pfn(pfn))?.write(0, page);
                }
                Ok(())
            }
            _ => Err(BuildError::Initrd),
        }
    }

    /// Writes the list of machine frames, one page of it at a time.
    fn write_p2m(&self) -> Result<(), BuildError> {
        const PER_PAGE: u64 = PAGE / 8;
        let first_page = match self.layout.outside_p2m {
            Some(place) => place.pfn,
            None => self
                .layout
                .pfn_of(self.layout.p2m.start)
                .ok_or(BuildError::OutOfBounds("the p2m list"))?,
        };
        for (page, first) in (0..self.layout.nr_pages)
            .step_by(PER_PAGE as usize)
            .enumerate()
        {
            let frame = self.frame(Pfn(first_page.0 + page as u64))?;
            let last = (first + PER_PAGE).min(self.layout.nr_pages);
            for (index, pfn) in (first..last).enumerate() {
                frame.store(index, self.mfn(Pfn(pfn))?.0);
            }
        }
        Ok(())
    }

    fn write_start_info(&self, contents: &Contents<'_>) -> Result<(), BuildError> {
        let layout = self.layout;
        let mut info = StartInfo::new_zeroed();
        let pae = contents.kernel.notes.pae && contents.role == Role::Dom0;
        let magic: &[u8] = if pae {
            b"xen-3.0-x86_64p"
        } else {
            b"xen-3.0-x86_64"
        };
        copy_text(&mut info.magic, magic);
        info.nr_pages = layout.nr_pages;
        info.shared_info = contents.shared_info.0;
        info.flags = match contents.role {
            Role::Dom0 => SIF_PRIVILEGED | SIF_INITDOMAIN,
            Role::Guest => SIF_VIRT_P2M_4TOOLS,
        };
        info.pt_base = layout.page_tables.start;
        info.nr_pt_frames = layout.table_pages();
        info.mfn_list = layout.p2m.start;
        if let Some(initrd) = layout.initrd {
            info.mod_len = initrd.size;
            info.mod_start = match initrd.address {
                Some(address) => address,
                None => {
                    info.flags |= SIF_MOD_START_PFN;
                    initrd.pfn.0
                }
            };
        }
        if let Some(store) = layout.store {
            info.store_mfn = self.mfn_at(store)?.0;
            info.store_evtchn = contents.store_port.0;
        }
        if let Some(console) = layout.console {
            // `console.domU` of the header: the frame, then the port.
            info.console = [self.mfn_at(console)?.0, u64::from(contents.console_port.0)];
        }
        copy_text(&mut info.cmd_line, contents.command_line);
        // Where the list is mapped by the region, its frames are at Dom0's end, as
        // many as none.
        match (layout.outside_p2m, contents.role) {
            (Some(place), _) => {
                info.first_p2m_pfn = place.pfn.0;
                info.nr_p2m_frames = place.list_pages + place.table_pages;
            }
            (None, Role::Dom0) => info.first_p2m_pfn = layout.first_free_pfn.0,
            (None, Role::Guest) => {}
        }
        self.write(layout.start_info, info.as_bytes())
    }

    /// Writes all page tables: the region's, and those of a p2m outside it.
    fn write_tables(&self, kernel: &Kernel<'_>) -> Result<Vec<TablePage>, BuildError> {
        let layout = self.layout;
        let no_room = BuildError::OutOfBounds("the page tables");
        let first = layout.pfn_of(layout.page_tables.start).ok_or(no_room)?;
        let own = first.0..first.0 + layout.table_pages();

        let mut tables = Vec::new();
        let mut pool = own.clone();
        let l4 = self.new_table(&mut tables, &mut pool, 4)?;
        let mut walk = Walk { l4, at_hand: None };
        for pfn in 0..layout.region_pages() {
            let address = layout.region.start + pfn * PAGE;
            // Xen writes the image, the list and the page by this mapping.
            let written = (kernel.start & !(PAGE - 1)..kernel.end).contains(&address)
                || layout.p2m.contains(&address)
                || layout.start_info == address;
            let flags = if own.contains(&pfn) {
                LEAF & !RW
            } else if written {
                LEAF | DIRTY
            } else {
                LEAF
            };
            self.map(&mut walk, &mut tables, &mut pool, address, Pfn(pfn), flags)?;
        }

        if let Some(OutsideP2m {
            pfn,
            list_pages,
            table_pages,
        }) = layout.outside_p2m
        {
            let tables_from = pfn.0 + list_pages;
            let mut pool = tables_from..tables_from + table_pages;
            for page in 0..list_pages {
                let address = layout.p2m.start + page * PAGE;
                let flags = LEAF | DIRTY;
                self.map(
                    &mut walk,
                    &mut tables,
                    &mut pool,
                    address,
                    Pfn(pfn.0 + page),
                    flags,
                )?;
            }
        }
        Ok(tables)
    }

    /// Maps a page at an address, with tables from the pool where some are missing.
    fn map(
        &self,
        walk: &mut Walk,
        tables: &mut Vec<TablePage>,
        pool: &mut Range<u64>,
        address: u64,
        page: Pfn,
        flags: u64,
    ) -> Result<(), BuildError> {
        let block = address >> 21;
        let index = |level: u32| ((address >> (12 + 9 * (level - 1))) & 0x1ff) as usize;
        let mfn = self.mfn(page)?;
        if let Some((at, l1)) = walk.at_hand
            && at == block
        {
            self.frame_of(l1)?.store(index(1), entry(mfn, flags));
            return Ok(());
        }
        // What exists is reused: the p2m's tables may be shared with the region's.
        // New ones are taken from the bottom up, as Xen numbers them.
        let below = |table: Option<Mfn>, level: u32| match table {
            Some(table) => self.entry_target(table, index(level)),
            None => Ok(None),
        };
        let old_l3 = below(Some(walk.l4), 4)?;
        let old_l2 = below(old_l3, 3)?;
        let old_l1 = below(old_l2, 2)?;
        let mut get = |old: Option<Mfn>, level| match old {
            Some(mfn) => Ok(mfn),
            None => self.new_table(tables, pool, level),
        };
        let (l1, l2, l3) = (get(old_l1, 1)?, get(old_l2, 2)?, get(old_l3, 3)?);
        for (upper, level, old, lower) in [
            (walk.l4, 4, old_l3, l3),
            (l3, 3, old_l2, l2),
            (l2, 2, old_l1, l1),
        ] {
            if old.is_none() {
                self.frame_of(upper)?
                    .store(index(level), entry(lower, TABLE));
            }
        }
        walk.at_hand = Some((block, l1));
        self.frame_of(l1)?.store(index(1), entry(mfn, flags));
        Ok(())
    }

    /// The table that an entry points to.
    fn entry_target(&self, table: Mfn, index: usize) -> Result<Option<Mfn>, BuildError> {
        const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
        let entry = self.frame_of(table)?.load(index);
        Ok((entry & PRESENT != 0).then(|| MachineAddress(entry & ADDRESS).frame()))
    }

    /// Takes the next page of the pool for a table.
    fn new_table(
        &self,
        tables: &mut Vec<TablePage>,
        pool: &mut Range<u64>,
        level: u8,
    ) -> Result<Mfn, BuildError> {
        let no_room = BuildError::OutOfBounds("the page tables");
        let pfn = Pfn(pool.next().ok_or(no_room)?);
        let mfn = self.mfn(pfn)?;
        self.frame(pfn)?.zero();
        tables.push(TablePage { pfn, mfn, level });
        Ok(mfn)
    }
}

const fn entry(mfn: Mfn, flags: u64) -> u64 {
    (mfn.0 << 12) | flags
}

/// Copies as much text as leaves a zero byte at the end.
fn copy_text(to: &mut [u8], text: &[u8]) {
    if let Some((_, room)) = to.split_last_mut() {
        for (to, from) in room.iter_mut().zip(text) {
            *to = *from;
        }
    }
}
