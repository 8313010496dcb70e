//! Writes of a guest to its own level-1 tables, which it maps read-only: the
//! fault is taken as an update ("writable page tables").

use super::domain::DomainMemory;
use super::entry::{Level, Pte};
use super::leaf::PageOwner;
use super::types::Tables;
use super::{Mm, MmHost};
use crate::addr::{GuestVirtual, Mfn};
use crate::machine::Frame;

/// A write as the instruction would have made it. Values are zero-extended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PtwrWrite {
    /// A plain store.
    Store(u64),
    /// An exchange, of 8 bytes.
    Exchange(u64),
    /// A compare-and-exchange.
    CompareExchange {
        /// What is to be there.
        old: u64,
        /// What is to be written then.
        new: u64,
    },
}

/// What became of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PtwrOutcome {
    /// It is done.
    Done,
    /// It is done, and this was there before.
    Exchanged(u64),
    /// Something else was there: this value (of the width of the access).
    Mismatch(u64),
    /// It is not for us, or not allowed: the guest gets its page fault.
    Unhandled,
}

impl<H: MmHost> Tables<'_, H> {
    /// The level-1 table of this domain's that is mapped read-only at an address.
    #[inline]
    fn read_only_table(&self, root: Mfn, address: GuestVirtual) -> Option<(Mfn, &Frame)> {
        const FLAGS: u64 = Pte::PRESENT | Pte::RW | Pte::USER;
        let (_, table) = self.find_l1(root, address)?;
        let entry = Pte(table.load(address.table_index(1)));
        if entry.flags() & FLAGS != Pte::PRESENT | Pte::USER {
            return None;
        }
        Some((entry.mfn(), self.level1(entry.mfn())?))
    }
}

impl<H: MmHost> Mm<H> {
    /// Whether a level-1 table of the domain's is mapped read-only at an address
    /// under a root table that the virtual CPU holds. If not, a write fault there
    /// is the guest's.
    pub fn page_table_at(
        &self,
        domain: &DomainMemory,
        root: Mfn,
        address: GuestVirtual,
    ) -> Option<Mfn> {
        let tables = self.lock(domain);
        let (table, _) = tables.read_only_table(root, address)?;
        Some(table)
    }

    /// Carries out a write of 1, 2, 4 or 8 bytes, aligned, that faulted at
    /// `address` under the root table `root`, which the virtual CPU holds.
    pub fn emulate_write(
        &self,
        domain: &DomainMemory,
        root: Mfn,
        address: GuestVirtual,
        bytes: usize,
        write: PtwrWrite,
    ) -> PtwrOutcome {
        if !matches!(bytes, 1 | 2 | 4 | 8) || !address.0.is_multiple_of(bytes as u64) {
            return PtwrOutcome::Unhandled;
        }
        let tables = self.lock(domain);
        let Some((table, frame)) = tables.read_only_table(root, address) else {
            return PtwrOutcome::Unhandled;
        };
        let slot = (address.0 as usize & 0xfff) / 8;
        let shift = 8 * (address.0 & 7) as u32;
        let mask = (u64::MAX >> (64 - 8 * bytes)) << shift;
        let now = frame.load(slot);
        // A narrow access is of the whole entry, its other bytes as they are.
        let whole = |value: u64| ((value << shift) & mask) | (now & !mask);
        let (expected, new) = match write {
            PtwrWrite::Store(value) => (None, Pte(whole(value))),
            PtwrWrite::Exchange(_) if bytes != 8 => return PtwrOutcome::Unhandled,
            PtwrWrite::Exchange(value) => (None, Pte(value)),
            PtwrWrite::CompareExchange { old, new } => (Some(whole(old)), Pte(whole(new))),
        };
        let mut new = new;
        if new.is_present() {
            match self.get_leaf(new, domain, PageOwner::of(domain)) {
                Ok(good) => new = good.adjusted(Level::L1),
                Err(_) => return PtwrOutcome::Unhandled,
            }
        }
        let old = match expected {
            Some(expected) => match frame.compare_exchange(slot, expected, new.0) {
                Ok(old) => old,
                Err(actual) => {
                    self.put_leaf(new, domain);
                    return PtwrOutcome::Mismatch((actual & mask) >> shift);
                }
            },
            None => {
                // What the CPU notes in the entry meanwhile is not lost to an exchange.
                if let PtwrWrite::Exchange(_) = write {
                    let old = frame.swap(slot, new.0);
                    tables.entry_changed(table, slot);
                    self.put_leaf(Pte(old), domain);
                    return PtwrOutcome::Exchanged(old);
                }
                frame.store(slot, new.0);
                now
            }
        };
        tables.entry_changed(table, slot);
        self.put_leaf(Pte(old), domain);
        PtwrOutcome::Done
    }
}
