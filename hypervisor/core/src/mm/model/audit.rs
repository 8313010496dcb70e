//! The audit: counts what the tables, base pointers and the like add up to.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;

use super::super::entry::{FIRST_HYPERVISOR_SLOT, MACHPHYS_SLOT, is_guest_slot};
use super::super::frames::CountWord;
use super::super::{Level, MmHost, PageType, Pte};
use super::{FRAMES, SUBSTITUTE, Stale, World};
use crate::addr::Mfn;
use crate::machine::Memory;

impl World {
    /// Recounts everything.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn audit(&mut self) -> core::result::Result<(), String> {
        let mut tally = Tally::default();
        let mut mapped: BTreeMap<Mfn, Stale> = BTreeMap::new();
        let frames = self.mm.frames();
        for number in 0..FRAMES as u64 {
            let mfn = Mfn(number);
            let Some(info) = frames.ram(mfn) else {
                continue;
            };
            let (count, kind) = (info.count_word(), info.type_word());
            if count.is_allocated() {
                tally.page(mfn);
            }
            if count.is_hypervisor() {
                tally.kind(mfn, kind.page_type());
            }
            if kind.is_pinned() || kind.is_partial() {
                if kind.is_pinned() && kind.is_partial() {
                    return Err(format!("{mfn} is pinned and partial"));
                }
                tally.page(mfn);
                tally.kind(mfn, kind.page_type());
            }
            let Some(level) = kind.page_type().level() else {
                continue;
            };
            if kind.count() == 0 {
                if kind.is_validated() || kind.is_partial() {
                    return Err(format!("{mfn} is valid, but not in use as {level:?}"));
                }
                continue;
            }
            let (entries, held) = if kind.is_validated() {
                (512, false)
            } else if kind.is_partial() {
                (info.progress().entries, info.progress().entry_held)
            } else {
                return Err(format!("{mfn} is neither valid nor partial"));
            };
            let frame = self.mm.host.frame(mfn).ok_or("no frame")?;
            let owner = count.owner().ok_or("a page table of nobody")?;
            mapped
                .entry(mfn)
                .or_insert(Stale {
                    writable: false,
                    table: true,
                    owner,
                })
                .table = true;
            for slot in (0..entries).filter(|&slot| is_guest_slot(level, slot)) {
                let entry = Pte(frame.load(slot));
                if !entry.is_present() {
                    continue;
                }
                let target = entry.mfn();
                match level.below() {
                    None if target == SUBSTITUTE => {}
                    None => {
                        let owner_of = frames
                            .ram(target)
                            .and_then(|info| info.count_word().owner())
                            .ok_or_else(|| format!("{mfn} maps {target}, which is nobody's"))?;
                        if owner_of != owner && !self.allowed.contains(&(owner, target)) {
                            return Err(format!("{mfn} maps {target}, which is not {owner}'s"));
                        }
                        tally.page(target);
                        if entry.is_writable() {
                            tally.kind(target, PageType::Writable);
                            if owner_of != owner {
                                *tally.foreign.entry(target).or_default() += 1;
                            }
                        }
                        let now = mapped.entry(target).or_insert(Stale {
                            writable: false,
                            table: false,
                            owner: owner_of,
                        });
                        now.writable |= entry.is_writable();
                        if !entry.has(Pte::USER) {
                            return Err(format!("{mfn} has an entry for ring 0"));
                        }
                    }
                    Some(below) => {
                        if entry.has(Pte::PSE) {
                            return Err(format!("{mfn} has a superpage"));
                        }
                        tally.page(target);
                        tally.kind(target, below.into());
                        let theirs = frames
                            .ram(target)
                            .and_then(|info| info.count_word().owner());
                        if theirs != Some(owner) {
                            return Err(format!("{mfn} uses {target}, which is not its owner's"));
                        }
                    }
                }
            }
            if held {
                tally.page(Pte(frame.load(entries)).mfn());
            }
            if level == Level::L4 && kind.is_validated() {
                let slots = self.mm.host.hypervisor_slots();
                for (i, &want) in slots.iter().enumerate() {
                    let slot = FIRST_HYPERVISOR_SLOT + i;
                    let now = frame.load(slot);
                    if now != want && !(slot == MACHPHYS_SLOT && now == 0) {
                        return Err(format!("entry {slot} of root {mfn} is {now:#x}"));
                    }
                }
            }
        }
        for guest in &self.guests {
            for vcpu in &guest.vcpus {
                for root in [vcpu.kernel(), vcpu.user()].into_iter().flatten() {
                    tally.page(root);
                    tally.kind(root, PageType::L4);
                }
                if let Some(deferred) = vcpu.deferred {
                    tally.page(deferred.mfn);
                    if !deferred.partial {
                        let info = frames.ram(deferred.mfn).ok_or("deferred put of no RAM")?;
                        tally.kind(deferred.mfn, info.type_word().page_type());
                    }
                }
            }
        }
        for &(_, mfn) in &self.descriptors {
            tally.page(mfn);
            tally.kind(mfn, PageType::SegmentDescriptors);
        }
        for number in 0..FRAMES as u64 {
            let mfn = Mfn(number);
            let Some(info) = frames.ram(mfn) else {
                continue;
            };
            let (count, kind) = (info.count_word(), info.type_word());
            let pages = tally.pages.get(&mfn).copied().unwrap_or(0);
            if count.count() != pages {
                return Err(format!(
                    "{mfn} has {} references, not {pages}",
                    count.count()
                ));
            }
            let foreign = tally.foreign.get(&mfn).copied().unwrap_or(0);
            if kind.foreign() != foreign {
                return Err(format!("{mfn} has {} foreign entries", kind.foreign()));
            }
            if count.owner().is_none() && count.0 != CountWord::RAM {
                return Err(format!("{mfn} is free, but {:#x}", count.0));
            }
            let mut kinds = tally.kinds.range((mfn, 0)..=(mfn, 7));
            let used = kinds.next();
            if let (Some(first), Some(second)) = (used, kinds.next()) {
                return Err(format!("{mfn} is used as {first:?} and {second:?}"));
            }
            let (as_kind, uses) = used.map_or((kind.page_type() as u8, 0), |(k, &n)| (k.1, n));
            if kind.count() != uses || (uses != 0 && kind.page_type() as u8 != as_kind) {
                return Err(format!(
                    "{mfn} is used {uses} times as {as_kind}, not {} as {:?}",
                    kind.count(),
                    kind.page_type()
                ));
            }
        }
        for guest in &self.guests {
            self.mm.audit_shadow(&guest.memory, &guest.vcpus)?;
        }
        self.audit_tlb(mapped)
    }

    /// What a CPU may still know of mappings that are gone.
    fn audit_tlb(&mut self, mapped: BTreeMap<Mfn, Stale>) -> core::result::Result<(), String> {
        let last_flush = self.mm.host.tlb.lock().last_flush;
        if last_flush != self.flushed {
            self.stale.clear();
            self.flushed = last_flush;
        } else {
            for (&mfn, &was) in &self.mapped {
                let still = mapped.get(&mfn);
                if still
                    .is_none_or(|now| (was.writable && !now.writable) || (was.table && !now.table))
                {
                    let stale = self.stale.entry(mfn).or_insert(was);
                    stale.writable |= was.writable;
                    stale.table |= was.table;
                }
            }
        }
        self.mapped = mapped;
        for (&mfn, stale) in &self.stale {
            let Some(info) = self.mm.frames().ram(mfn) else {
                continue;
            };
            let (count, kind) = (info.count_word(), info.type_word());
            if count.owner().is_some_and(|owner| owner != stale.owner) {
                return Err(format!("a TLB may still know {mfn} as {}'s", stale.owner));
            }
            if stale.table && kind.page_type() == PageType::Writable && kind.count() != 0 {
                return Err(format!("a CPU may still walk {mfn}, which is writable"));
            }
            let critical = kind.page_type().level().is_some()
                || kind.page_type() == PageType::SegmentDescriptors;
            if stale.writable && critical && kind.count() != 0 {
                return Err(format!("a TLB may still let {mfn} be written"));
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Tally {
    pages: BTreeMap<Mfn, u32>,
    kinds: BTreeMap<(Mfn, u8), u32>,
    foreign: BTreeMap<Mfn, u32>,
}

impl Tally {
    fn page(&mut self, mfn: Mfn) {
        *self.pages.entry(mfn).or_default() += 1;
    }

    fn kind(&mut self, mfn: Mfn, kind: PageType) {
        *self.kinds.entry((mfn, kind as u8)).or_default() += 1;
    }
}
