//! A machine of a few frames, an interpreter of operations on its guests'
//! memory, and an audit that recounts everything from the page tables.
//!
//! The interpreter turns bytes, 8 an operation, into what hostile guests and an
//! erring control domain might do. After each operation [`World::audit`] checks, from nothing
//! but the contents of the tables, that
//!
//! - each frame's counts are exactly what entries, base pointers, pins and the like add up to;
//! - a frame is used as one type only, so no page table or descriptor page is
//!   mapped writable;
//! - nobody maps a frame that is not theirs or was not granted;
//! - no frame that is free is referenced;
//! - no TLB can hold a writable translation of a page table, nor any of a
//!   frame that has another owner by now;
//! - the hypervisor's entries of root tables are as they must be.

mod audit;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use spin::Mutex;
use xen_abi::xen::{MmuUpdate, MmuextOp};

use super::entry::HYPERVISOR_SLOTS;
use super::{
    Access, DirtyPages, DomainMemory, FlushRequest, FrameInfo, Level, Mm, MmConfig, MmHost,
    MmuCaller, PageOwner, Pte, PtwrWrite, ShadowFault, VcpuMachine, VcpuPageTables,
};
use crate::addr::{GuestVirtual, Mfn, Pfn};
use crate::error::{Error, Result};
use crate::ids::{CpuSet, DomainId};
use crate::machine::{Frame, Memory, Preempt, Tlb};

/// How many frames the machine has.
pub const FRAMES: usize = 144;
/// The frame of zeros that a privileged domain sees in the legacy hole.
const SUBSTITUTE: Mfn = Mfn(1);
/// A frame number below the end that is no RAM.
const NO_RAM: u64 = 2;
/// First frame of the heap.
const HEAP: u64 = 3;
/// How many domains there are; the first is privileged.
const DOMAINS: usize = 3;
/// How many pages a domain starts with.
const START_PAGES: u64 = 14;
/// How many kinds of operations there are.
pub const KINDS: usize = 28;
/// What the hypervisor's entries hold here.
const SLOT_VALUE: u64 = 0xabc_0000_0000_0021;

/// The clock, and the last flush, of a machine of one CPU.
#[derive(Default)]
pub(super) struct ModelTlb {
    clock: u64,
    last_flush: u64,
}

/// The machine.
pub struct ModelHost {
    frames: Vec<Frame>,
    infos: Vec<FrameInfo>,
    m2p: Vec<AtomicU64>,
    free: Mutex<BTreeMap<u64, u64>>,
    pub(super) tlb: Mutex<ModelTlb>,
}

impl Memory for ModelHost {
    fn frame(&self, mfn: Mfn) -> Option<&Frame> {
        self.frames.get(mfn.0 as usize)
    }

    fn end_mfn(&self) -> Mfn {
        Mfn(self.frames.len() as u64)
    }
}

impl Tlb for ModelHost {
    fn clock(&self) -> u64 {
        self.tlb.lock().clock
    }

    fn flush_since(&self, stamp: u64) {
        let mut tlb = self.tlb.lock();
        if tlb.last_flush <= stamp {
            tlb.clock += 1;
            tlb.last_flush = tlb.clock;
        }
    }

    fn flush(&self, _cpus: &CpuSet) {
        let mut tlb = self.tlb.lock();
        tlb.clock += 1;
        tlb.last_flush = tlb.clock;
    }

    fn flush_page(&self, _cpus: &CpuSet, _address: u64) {}
}

impl MmHost for ModelHost {
    fn frame_infos(&self) -> &[FrameInfo] {
        &self.infos
    }

    fn machine_to_phys(&self) -> &[AtomicU64] {
        &self.m2p
    }

    fn allocate_frames(&self, order: u32) -> Option<(Mfn, u64)> {
        if order != 0 {
            return None;
        }
        let (mfn, stamp) = self.free.lock().pop_first()?;
        Some((Mfn(mfn), stamp))
    }

    fn free_frames(&self, mfn: Mfn, _order: u32, stamp: u64) {
        let old = self.free.lock().insert(mfn.0, stamp);
        assert!(old.is_none(), "frame {mfn} freed twice");
    }

    fn hypervisor_slots(&self) -> [u64; HYPERVISOR_SLOTS] {
        core::array::from_fn(|i| SLOT_VALUE + ((i as u64) << 12))
    }
}

/// Asks to stop at the n-th question, and from then on.
struct Countdown(AtomicU32);

impl Preempt for Countdown {
    fn preempt_pending(&self) -> bool {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                Some(n.saturating_sub(1))
            })
            .is_ok_and(|n| n == 0)
    }
}

/// A virtual CPU that ignores what it is told.
pub struct NullMachine;

impl VcpuMachine for NullMachine {
    fn load_kernel_base(&mut self, _root: Mfn, _hardware: Mfn) {}
    fn set_user_base(&mut self, _root: Option<Mfn>, _hardware: Option<Mfn>) {}
    fn set_ldt(&mut self, _base: u64, _entries: u32) {}
    fn flush(&mut self, _request: FlushRequest) -> Result<()> {
        Ok(())
    }
    fn flush_cache(&mut self, _all_cpus: bool) {}
}

struct Guest {
    memory: Arc<DomainMemory>,
    vcpus: [VcpuPageTables; 2],
}

/// A grant that is mapped.
#[derive(Clone, Copy)]
struct GrantMapping {
    mapper: usize,
    address: u64,
    frame: Mfn,
    flags: u32,
}

/// What a CPU may still hold of a frame.
#[derive(Clone, Copy)]
struct Stale {
    writable: bool,
    /// It was a page table, that a CPU may still walk through.
    table: bool,
    owner: DomainId,
}

/// The machine with its domains, and what the audit has to know of the past.
pub struct World {
    /// The memory under test.
    pub mm: Mm<ModelHost>,
    guests: Vec<Guest>,
    /// Dead, but others still map pages of theirs.
    zombies: BTreeSet<DomainId>,
    next_id: u16,
    grants: Vec<GrantMapping>,
    descriptors: Vec<(usize, Mfn)>,
    shared: Vec<Mfn>,
    stolen: Vec<(Mfn, u64)>,
    /// Foreign frames that a domain may have mapped.
    allowed: BTreeSet<(DomainId, Mfn)>,
    mapped: BTreeMap<Mfn, Stale>,
    stale: BTreeMap<Mfn, Stale>,
    flushed: u64,
    /// How often each operation succeeded.
    pub successes: [u32; 32],
}

/// Eight bytes of an operation.
#[derive(Clone, Copy)]
struct Bytes([u8; 8]);

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// Three domains, each running on page tables that map all its pages.
    pub fn new() -> Self {
        let host = ModelHost {
            frames: (0..FRAMES).map(|_| Frame::default()).collect(),
            infos: (0..FRAMES).map(|_| FrameInfo::default()).collect(),
            m2p: (0..FRAMES).map(|_| AtomicU64::new(!0)).collect(),
            free: Mutex::new((HEAP..FRAMES as u64).map(|mfn| (mfn, 0)).collect()),
            tlb: Mutex::new(ModelTlb {
                clock: 1,
                last_flush: 1,
            }),
        };
        for (mfn, info) in host.infos.iter().enumerate() {
            if mfn as u64 != NO_RAM {
                info.mark_ram();
            }
        }
        let config = MmConfig {
            nx: true,
            self_snoop: false,
            legacy_substitute: Some(SUBSTITUTE),
        };
        let mut world = Self {
            mm: Mm::new(host, config),
            guests: Vec::new(),
            zombies: BTreeSet::new(),
            next_id: 0,
            grants: Vec::new(),
            descriptors: Vec::new(),
            shared: Vec::new(),
            stolen: Vec::new(),
            allowed: BTreeSet::new(),
            mapped: BTreeMap::new(),
            stale: BTreeMap::new(),
            flushed: 1,
            successes: [0; 32],
        };
        for i in 0..DOMAINS {
            let guest = world.new_guest(i == 0);
            world.guests.push(guest);
        }
        world
    }

    /// A domain and one of its virtual CPUs, for directed tests.
    pub fn guest(
        &mut self,
        index: usize,
    ) -> (&Mm<ModelHost>, Arc<DomainMemory>, &mut VcpuPageTables) {
        let guest = &mut self.guests[index];
        (&self.mm, Arc::clone(&guest.memory), &mut guest.vcpus[0])
    }

    /// The virtual CPUs of a domain.
    pub fn vcpus(&self, index: usize) -> &[VcpuPageTables] {
        &self.guests[index].vcpus
    }

    /// When the TLB was flushed last, by the flush clock.
    pub fn last_flush(&self) -> u64 {
        self.mm.host.tlb.lock().last_flush
    }

    fn new_guest(&mut self, privileged: bool) -> Guest {
        let id = DomainId(self.next_id);
        self.next_id += 1;
        let memory = self
            .mm
            .create_domain(id, privileged, 24)
            .expect("a number that was never used");
        let mut guest = Guest {
            memory,
            vcpus: [VcpuPageTables::new(), VcpuPageTables::new()],
        };
        let mut pages = Vec::new();
        while (pages.len() as u64) < START_PAGES {
            match self.mm.allocate_pages(&guest.memory, 0) {
                Ok(mfn) => pages.push(mfn),
                Err(_) => break,
            }
        }
        let Some((&[l4, l3, l2, l1], _)) = pages.split_first_chunk::<4>() else {
            return guest;
        };
        let flags = Pte::PRESENT | Pte::RW | Pte::USER;
        let frame = |mfn| self.mm.host.frame(mfn).expect("RAM");
        for (number, &page) in pages.iter().enumerate() {
            frame(page).zero();
            self.mm.set_pfn(page, Pfn(number as u64));
        }
        frame(l4).store(0, Pte::new(l3, flags).0);
        frame(l3).store(0, Pte::new(l2, flags).0);
        frame(l2).store(0, Pte::new(l1, flags).0);
        for (slot, &page) in pages.iter().enumerate() {
            let flags = if (4..8).contains(&slot) {
                flags
            } else {
                flags & !Pte::RW
            };
            frame(l1).store(slot, Pte::new(page, flags).0);
        }
        self.mm
            .install_tables(
                &guest.memory,
                &mut guest.vcpus[0],
                l4,
                None,
                &Countdown(AtomicU32::new(u32::MAX)),
            )
            .expect("good page tables");
        guest
    }

    /// A frame: mostly one of the domain's own pages, else any number.
    fn pick(&self, guest: usize, selector: u8) -> Mfn {
        if selector >= 0xe0 {
            return match selector {
                0xff => Mfn(0xff_ffff_ffff),
                0xfe => Mfn(NO_RAM),
                0xfd => SUBSTITUTE,
                0xfc => Mfn(0xa0),
                0xfb => Mfn(0xff),
                0xfa => Mfn(0x100),
                0xf9 => Mfn(0),
                _ => Mfn(HEAP + u64::from(selector & 0x1f) * 3),
            };
        }
        let mut pages = Vec::new();
        self.guests[guest]
            .memory
            .for_each_page(self.mm.frames(), |mfn| pages.push(mfn));
        pages.sort_unstable();
        pages.extend(&self.shared);
        match pages.len() {
            0 => Mfn(HEAP),
            n => pages[selector as usize % n],
        }
    }

    fn slot(selector: u8) -> usize {
        const SLOTS: [usize; 16] = [0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 255, 256, 257, 271, 272, 511];
        SLOTS[selector as usize % SLOTS.len()]
    }

    fn entry(&self, guest: usize, selector: u8, flags: u8) -> Pte {
        let mut out = Pte::PRESENT | Pte::USER;
        if flags & 1 != 0 {
            out |= Pte::RW;
        }
        if flags & 2 != 0 {
            out |= Pte::NX;
        }
        match flags >> 2 {
            1..=8 => out |= Pte::ACCESSED,
            9..=12 => out |= Pte::DIRTY | Pte::AVAIL,
            13..=20 => out &= !Pte::USER,
            50 => out |= Pte::GLOBAL,
            51 => out |= Pte::PSE,
            52 => out |= Pte::PCD,
            53 => out |= Pte::PWT | Pte::PAT,
            54..=57 => out = 0,
            58..=60 => out &= !Pte::PRESENT,
            _ => {}
        }
        Pte::new(self.pick(guest, selector), out)
    }

    /// Carries out one operation of 8 bytes.
    ///
    /// # Errors
    /// What the audit found wrong afterwards.
    pub fn step(&mut self, bytes: [u8; 8]) -> core::result::Result<(), String> {
        let op = Bytes(bytes);
        let kind = op.0[0] as usize % KINDS;
        let outcome = self.carry_out(kind, op);
        if outcome.is_ok() {
            self.successes[kind] += 1;
        }
        self.reap();
        self.audit()
            .map_err(|error| format!("after operation {kind} ({bytes:02x?}: {outcome:?}): {error}"))
    }

    fn carry_out(&mut self, kind: usize, op: Bytes) -> Result<()> {
        let [_, who, a, b, c, d, e, stop] = op.0;
        let guest = who as usize % DOMAINS;
        let vcpu = usize::from(who >> 7);
        let other = (who as usize >> 3) % DOMAINS;
        // Mostly not preempted; if so, soon, and then either continued or dropped.
        let patience = if stop & 3 == 3 {
            u32::from(stop >> 3) * 37
        } else {
            u32::MAX
        };
        let retry = stop & 4 == 0;
        match kind {
            // A guest writes memory that it may write.
            0..=3 => {
                let mfn = self.pick(guest, a);
                let value = if kind == 3 && e & 7 == 0 {
                    u64::from(c) << 40 | u64::from(d) << 8 | u64::from(e)
                } else {
                    self.entry(guest, c, d).0
                };
                let id = self.guests[guest].memory.id();
                let page = self.mm.get_writable(mfn, id)?;
                let frame = self.mm.host.frame(page.mfn()).ok_or(Error::Invalid)?;
                frame.store(Self::slot(b), value);
                Ok(())
            }
            4..=6 => {
                let target = if who & 0x40 != 0 { other } else { guest };
                let pages = if who & 0x20 != 0 {
                    (other + 1) % DOMAINS
                } else {
                    target
                };
                let address = self.pick(target, a).0 << 12 | (Self::slot(b) as u64) << 3;
                let value = self.entry(pages, c, d);
                let command = [0, 0, 0, 2, 3, 1, 5][e as usize % 7];
                let tables = self.guests[target].memory.id().0;
                let owner = if pages == guest {
                    DomainId::SELF
                } else if e == 0xff {
                    DomainId::IO
                } else {
                    self.guests[pages].memory.id()
                };
                let foreign = if target == guest {
                    0
                } else {
                    u32::from(tables) + 1
                };
                self.mmu_update(
                    guest,
                    vcpu,
                    foreign << 16 | u32::from(owner.0),
                    address | command,
                    value,
                    patience,
                    retry,
                )
            }
            7 => {
                let value = self.entry(guest, c, d);
                self.call(guest, vcpu, patience, retry, |mm, caller| {
                    let address = (Self::slot(b) as u64) << 12;
                    let owner = PageOwner::of(caller.domain);
                    mm.update_va_mapping(caller, owner, address, value.0, u64::from(e & 7))
                        .map(|_| ())
                })
            }
            8..=12 => {
                let mfn = match (kind, e) {
                    (_, 0xff) => 0,
                    _ => self.pick(if who & 0x40 != 0 { other } else { guest }, a).0,
                };
                let mfn = if kind == 9 && b & 3 != 0 {
                    self.pick_pinned(guest, a).map_or(mfn, |mfn| mfn.0)
                } else {
                    mfn
                };
                let cmd = match kind {
                    8 => u32::from(b) % 4,
                    9 => 4,
                    10 => [5, 15][usize::from(b & 1)],
                    11 => [16, 17][usize::from(b & 1)],
                    _ => u32::from(b) % 24,
                };
                let owner = if who & 0x40 != 0 && other != guest {
                    self.guests[other].memory.id()
                } else {
                    DomainId::SELF
                };
                let arg2 = self.pick(guest, c).0;
                self.call(guest, vcpu, patience, retry, |mm, caller| {
                    let owner = mm.page_owner(caller.domain, owner)?;
                    mm.may_target(caller.domain, owner.id)?;
                    let op = MmuextOp {
                        cmd,
                        _pad0: [0; 4],
                        arg1: mfn,
                        arg2,
                    };
                    mm.mmuext_op(caller, &mut NullMachine, owner, op)
                })
            }
            13 => {
                // Mostly the page at which a domain sees its first level-1 table.
                let page = if a < 0xc0 { 3 } else { Self::slot(a) as u64 };
                let address = page << 12 | (Self::slot(b) as u64) << 3;
                let entry = self.entry(guest, c, d).0;
                let guest = &self.guests[guest];
                let root = guest.vcpus[vcpu].kernel().ok_or(Error::Invalid)?;
                let bytes = 1 << (e & 3);
                let address = address + (u64::from(e >> 2) & 7 & !(bytes - 1));
                let shift = 8 * (address & 7);
                let value = entry >> shift & (u64::MAX >> (64 - 8 * bytes));
                let write = if e & 0x20 != 0 {
                    let old = u64::from(e & 0x40);
                    PtwrWrite::CompareExchange { old, new: value }
                } else if e & 0x40 != 0 && bytes == 8 {
                    PtwrWrite::Exchange(value)
                } else {
                    PtwrWrite::Store(value)
                };
                let address = GuestVirtual(address);
                match self
                    .mm
                    .emulate_write(&guest.memory, root, address, bytes as usize, write)
                {
                    super::PtwrOutcome::Done | super::PtwrOutcome::Exchanged(_) => Ok(()),
                    _ => Err(Error::Invalid),
                }
            }
            14 => match b & 3 {
                0 => self
                    .mm
                    .allocate_pages(&self.guests[guest].memory, 0)
                    .map(|_| ()),
                1 => {
                    let mfn = self.pick(guest, a);
                    self.mm.remove_page(&self.guests[guest].memory, mfn)
                }
                2 => {
                    let mfn = self.pick(guest, a);
                    let stamp = self.mm.steal_page(&self.guests[guest].memory, mfn)?;
                    self.stolen.push((mfn, stamp));
                    Ok(())
                }
                _ => {
                    let (mfn, stamp) = self.stolen.pop().ok_or(Error::NoEntry)?;
                    let memory = &self.guests[other].memory;
                    if a & 1 == 0 || self.mm.assign_stolen(memory, mfn, stamp).is_err() {
                        self.mm.free_stolen(mfn, stamp);
                    }
                    Ok(())
                }
            },
            15 => {
                // `other` grants a frame to `guest`, who maps it.
                let frame = self.pick(other, a);
                let granter = self.guests[other].memory.id();
                let flags = u32::from(c & 0x0c) | 2;
                let writable = flags & 4 == 0;
                let contains_pte = if d & 1 != 0 { 16 } else { 0 };
                let address = if contains_pte != 0 {
                    self.pick(guest, b).0 << 12 | (Self::slot(d >> 1) as u64) << 3
                } else {
                    (Self::slot(b) as u64) << 12
                };
                let flags = flags | contains_pte;
                // References as the grant-table code takes them.
                if writable {
                    self.mm.get_writable(frame, granter)?.keep();
                } else {
                    self.mm
                        .get_page(frame, granter)
                        .ok_or(Error::Invalid)?
                        .keep();
                }
                let result = self.call(guest, 0, u32::MAX, true, |mm, caller| {
                    mm.create_grant_mapping(caller, address, frame, flags)
                });
                if result.is_err() {
                    self.put_grant(frame, writable);
                    return result;
                }
                self.allowed.insert((self.guests[guest].memory.id(), frame));
                self.grants.push(GrantMapping {
                    mapper: guest,
                    address,
                    frame,
                    flags,
                });
                Ok(())
            }
            16 => {
                if self.grants.is_empty() {
                    return Err(Error::NoEntry);
                }
                let index = a as usize % self.grants.len();
                let grant = self.grants[index];
                let new_address = if b & 7 == 0 {
                    (Self::slot(c) as u64) << 12
                } else {
                    0
                };
                self.call(grant.mapper, 0, u32::MAX, true, |mm, caller| {
                    mm.replace_grant_mapping(
                        caller,
                        grant.address,
                        grant.frame,
                        new_address,
                        grant.flags,
                    )
                })?;
                self.put_grant(grant.frame, grant.flags & 4 == 0);
                self.grants.swap_remove(index);
                Ok(())
            }
            17 => match b & 3 {
                0 => {
                    let (mfn, stamp) = self.mm.host.allocate_frames(0).ok_or(Error::NoMemory)?;
                    self.mm.host.flush_since(stamp);
                    let memory = &self.guests[guest].memory;
                    self.mm.share_page(memory, mfn, c & 1 == 0)?;
                    self.shared.push(mfn);
                    Ok(())
                }
                1 => {
                    if self.shared.is_empty() {
                        return Err(Error::NoEntry);
                    }
                    let index = a as usize % self.shared.len();
                    let mfn = self.shared[index];
                    let memory = &self.guests[guest].memory;
                    let stamp = self.mm.unshare_page(memory, mfn)?;
                    self.mm.host.free_frames(mfn, 0, stamp);
                    self.shared.swap_remove(index);
                    Ok(())
                }
                2 => {
                    let mfn = self.pick(guest, a);
                    self.mm
                        .get_descriptor_page(&self.guests[guest].memory, mfn)?;
                    self.descriptors.push((guest, mfn));
                    Ok(())
                }
                _ => {
                    let (_, mfn) = self.descriptors.pop().ok_or(Error::NoEntry)?;
                    self.mm.put_descriptor_page(mfn);
                    Ok(())
                }
            },
            18 => {
                let mfn = self.pick(guest, a);
                let address = mfn.0 << 12 | (Self::slot(b) as u64) << 3;
                let raw = self.entry(guest, c, d).0;
                self.mm
                    .update_descriptor(&self.guests[guest].memory, address, raw)
            }
            20 | 21 => {
                // A table of some level that may be good, and its pin.
                let level = [Level::L1, Level::L2, Level::L3, Level::L4][usize::from(b & 3)];
                let table = self.pick_unused(guest, a)?;
                self.compose(guest, table, level, [c, d])?;
                let owner = PageOwner::of(&self.guests[guest].memory);
                self.ext(guest, vcpu, owner, level as u32 - 1, table, patience, retry)
            }
            22 | 23 => {
                // A whole tree, with one more entry somewhere that may be bad.
                let mut below = None;
                let mut table = Mfn(0);
                let levels = [Level::L1, Level::L2, Level::L3, Level::L4];
                for (i, level) in levels.into_iter().enumerate() {
                    table = self.pick_unused(guest, a.wrapping_add(i as u8))?;
                    self.compose(guest, table, level, [c, d.wrapping_add(i as u8)])?;
                    if let Some(below) = below {
                        let page = self.mm.get_writable(table, owner_of(&self.guests[guest]))?;
                        let frame = self.mm.host.frame(page.mfn()).ok_or(Error::Invalid)?;
                        let slot = if b >> i & 1 == 0 { 0 } else { 300 };
                        let flags = Pte::PRESENT | Pte::RW | Pte::USER;
                        frame.store(slot, Pte::new(below, flags).0);
                    }
                    if i as u8 == b >> 4 {
                        let page = self.mm.get_writable(table, owner_of(&self.guests[guest]))?;
                        let frame = self.mm.host.frame(page.mfn()).ok_or(Error::Invalid)?;
                        frame.store(Self::slot(d), self.entry(guest, c, e).0);
                    }
                    // The same page twice is no tree.
                    if Some(table) == below {
                        return Err(Error::Exists);
                    }
                    below = Some(table);
                }
                let owner = PageOwner::of(&self.guests[guest].memory);
                let cmd = [3, 3, 5, 15][usize::from(e & 3)];
                self.ext(guest, vcpu, owner, cmd, table, patience, retry)
            }
            24 => {
                let guest = &self.guests[guest];
                if guest.memory.is_logging() {
                    if b & 3 == 0 {
                        self.mm.end_log(&guest.memory);
                    }
                    return Ok(());
                }
                let frames = 10 + usize::from(c % 8);
                self.mm.start_small_log(&guest.memory, frames)?;
                for vcpu in &guest.vcpus {
                    self.mm.acquire_roots(&guest.memory, vcpu)?;
                }
                Ok(())
            }
            25 | 26 => {
                let guest = &self.guests[guest];
                let vcpu = &guest.vcpus[vcpu];
                let root = match e & 1 {
                    0 => vcpu.kernel(),
                    _ => vcpu.user(),
                };
                let root = root.ok_or(Error::NoEntry)?;
                if !guest.memory.is_logging() {
                    return Err(Error::Invalid);
                }
                let address = GuestVirtual((a as u64 % 8) << 21 | (Self::slot(b) as u64) << 12);
                let access = Access {
                    write: c & 1 != 0,
                    fetch: c & 6 == 6,
                    user: c & 8 == 0,
                };
                match self
                    .mm
                    .shadow_fault(&guest.memory, root, address, access, || ())
                {
                    ShadowFault::Fixed => Ok(()),
                    ShadowFault::Guest { .. } => Err(Error::Fault),
                }
            }
            27 => {
                let memory = &self.guests[guest].memory;
                let mut pages = DirtyPages::default();
                self.mm.clean_log(memory, &mut |_| (), &mut pages)
            }
            _ => {
                if guest == 0 || a & 7 != 0 {
                    return Err(Error::Again);
                }
                self.destroy(guest, stop);
                self.guests[guest] = self.new_guest(false);
                Ok(())
            }
        }
    }

    /// A page of the domain's that is not in use as any type.
    fn pick_unused(&self, guest: usize, selector: u8) -> Result<Mfn> {
        let frames = self.mm.frames();
        let mut pages = Vec::new();
        self.guests[guest].memory.for_each_page(frames, |mfn| {
            if frames
                .ram(mfn)
                .is_some_and(|info| info.type_word().count() == 0)
            {
                pages.push(mfn);
            }
        });
        pages.sort_unstable();
        match pages.len() {
            0 => Err(Error::NoEntry),
            n => Ok(pages[selector as usize % n]),
        }
    }

    /// A page that is pinned.
    fn pick_pinned(&self, guest: usize, selector: u8) -> Option<Mfn> {
        let frames = self.mm.frames();
        let mut pages = Vec::new();
        self.guests[guest].memory.for_each_page(frames, |mfn| {
            if frames
                .ram(mfn)
                .is_some_and(|info| info.type_word().is_pinned())
            {
                pages.push(mfn);
            }
        });
        pages.sort_unstable();
        pages.get(selector as usize % pages.len().max(1)).copied()
    }

    /// Fills a page with entries that suit a table of `level`.
    fn compose(&self, guest: usize, table: Mfn, level: Level, selectors: [u8; 2]) -> Result<()> {
        let frames = self.mm.frames();
        let mut pages = Vec::new();
        self.guests[guest].memory.for_each_page(frames, |mfn| {
            let Some(info) = frames.ram(mfn) else { return };
            let kind = info.type_word().page_type().level();
            if kind == level.below() && (kind.is_none() || info.type_word().count() != 0) {
                pages.push(mfn);
            }
        });
        pages.sort_unstable();
        let page = self.mm.get_writable(table, owner_of(&self.guests[guest]))?;
        let frame = self.mm.host.frame(page.mfn()).ok_or(Error::Invalid)?;
        frame.zero();
        if !pages.is_empty() {
            for selector in selectors {
                let target = pages[selector as usize % pages.len()];
                let rw = if selector & 0x80 == 0 || level != Level::L1 {
                    Pte::RW
                } else {
                    0
                };
                let flags = Pte::PRESENT | Pte::USER | rw;
                frame.store(usize::from(selector), Pte::new(target, flags).0);
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn ext(
        &mut self,
        guest: usize,
        vcpu: usize,
        owner: PageOwner,
        cmd: u32,
        mfn: Mfn,
        patience: u32,
        retry: bool,
    ) -> Result<()> {
        self.call(guest, vcpu, patience, retry, |mm, caller| {
            let op = MmuextOp {
                cmd,
                _pad0: [0; 4],
                arg1: mfn.0,
                arg2: 0,
            };
            mm.mmuext_op(caller, &mut NullMachine, owner, op)
        })
    }

    fn put_grant(&self, frame: Mfn, writable: bool) {
        if writable {
            self.mm.put_writable(frame);
        } else {
            self.mm.put_page(frame);
        }
    }

    fn call(
        &mut self,
        guest: usize,
        vcpu: usize,
        patience: u32,
        retry: bool,
        mut operation: impl FnMut(&Mm<ModelHost>, &mut MmuCaller<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut patience = patience;
        loop {
            let preempt = Countdown(AtomicU32::new(patience));
            let guest = &mut self.guests[guest];
            let mut caller = MmuCaller {
                domain: &guest.memory,
                tables: &mut guest.vcpus[vcpu],
                preempt: &preempt,
            };
            match operation(&self.mm, &mut caller) {
                Err(Error::Restart) if retry => patience = u32::MAX,
                result => return result,
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn mmu_update(
        &mut self,
        guest: usize,
        vcpu: usize,
        foreigndom: u32,
        ptr: u64,
        value: Pte,
        patience: u32,
        retry: bool,
    ) -> Result<()> {
        let memory = Arc::clone(&self.guests[guest].memory);
        let (tables, pages) = self.mm.mmu_update_targets(&memory, foreigndom)?;
        let tables = tables.unwrap_or_else(|| Arc::clone(&memory));
        let request = MmuUpdate { ptr, val: value.0 };
        self.call(guest, vcpu, patience, retry, |mm, caller| {
            // A second time changes nothing more.
            let mut done = 0;
            let twice = [request, request];
            let result = mm.mmu_updates(caller, &tables, pages, &twice, &mut done);
            assert!(result.is_ok() == (done == 2));
            if done == 0 { result } else { Ok(()) }
        })?;
        if memory.is_privileged() && (pages.id != tables.id() || pages.privileged) {
            self.allowed.insert((tables.id(), value.mfn()));
        }
        Ok(())
    }

    fn destroy(&mut self, guest: usize, patience: u8) {
        let memory = Arc::clone(&self.guests[guest].memory);
        memory.set_dying();
        self.mm.end_log(&memory);
        let preempt = || Countdown(AtomicU32::new(u32::from(patience)));
        for vcpu in &mut self.guests[guest].vcpus {
            while self.mm.release_tables(&memory, vcpu, &preempt()).is_err() {}
        }
        self.descriptors.retain(|&(owner, mfn)| {
            if owner == guest {
                self.mm.put_descriptor_page(mfn);
            }
            owner != guest
        });
        self.grants.retain(|grant| grant.mapper != guest);
        while self.mm.relinquish(&memory, &preempt()).is_err() {}
        self.zombies.insert(memory.id());
    }

    /// Forgets the dead whose last page is gone.
    fn reap(&mut self) {
        let mm = &self.mm;
        self.zombies.retain(|&id| mm.forget_domain(id).is_err());
        // What the hypervisor shared it frees itself, when nobody can reach it any more.
        self.shared.retain(|&mfn| {
            let in_use = mm
                .frames()
                .ram(mfn)
                .is_some_and(|f| f.count_word().count() != 0);
            if !in_use {
                mm.host.free_frames(mfn, 0, mm.host.clock());
            }
            in_use
        });
    }

    /// Destroys everything and checks that all memory came back.
    ///
    /// # Errors
    /// What is missing, or what an audit found wrong.
    pub fn finish(mut self) -> core::result::Result<(), String> {
        for guest in (0..DOMAINS).rev() {
            self.destroy(guest, 5);
            self.audit()
                .map_err(|error| format!("after destroying domain {guest}: {error}"))?;
        }
        for (mfn, stamp) in core::mem::take(&mut self.stolen) {
            self.mm.free_stolen(mfn, stamp);
        }
        self.reap();
        if !self.zombies.is_empty() {
            return Err(format!("pages of {:?} are left", self.zombies));
        }
        let free = self.mm.host.free.lock().len();
        let all = FRAMES - HEAP as usize;
        if free != all {
            return Err(format!("{free} of {all} frames came back"));
        }
        Ok(())
    }
}

fn owner_of(guest: &Guest) -> DomainId {
    guest.memory.id()
}

/// Runs operations of 8 bytes each from the start to the end of `bytes`, with an
/// audit after each, and destroys everything.
///
/// # Errors
/// What was wrong, and after which operation.
pub fn run(bytes: &[u8]) -> core::result::Result<World, String> {
    let mut world = World::new();
    world.audit()?;
    for op in bytes.as_chunks::<8>().0 {
        world.step(*op)?;
    }
    Ok(world)
}
