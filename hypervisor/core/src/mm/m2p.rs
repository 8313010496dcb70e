//! The machine-to-phys table: which pseudo-physical frame a machine frame is.
//!
//! Guests read it through the hypervisor's part of their address space; only
//! the hypervisor writes it. It is advice to guests, nothing here relies on it.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::addr::{Mfn, Pfn};

/// The entry of a frame that is no guest's (`INVALID_M2P_ENTRY`, ~0).
pub const INVALID_ENTRY: u64 = !0;
/// The entry of a frame that several domains share (`SHARED_M2P_ENTRY`).
pub const SHARED_ENTRY: u64 = !0 - 1;

/// The table, an entry of 64 bits a frame from 0 on.
#[derive(Clone, Copy)]
pub struct MachineToPhys<'a>(pub &'a [AtomicU64]);

impl MachineToPhys<'_> {
    /// Sets what a frame is; ignored beyond the end of the table.
    pub fn set(self, mfn: Mfn, pfn: Pfn) {
        self.set_raw(mfn, pfn.0);
    }

    /// Says that a frame is no guest's.
    pub fn clear(self, mfn: Mfn) {
        self.set_raw(mfn, INVALID_ENTRY);
    }

    /// What a frame is, if it is a guest's.
    pub fn get(self, mfn: Mfn) -> Option<Pfn> {
        match self.entry(mfn)?.load(Ordering::Relaxed) {
            INVALID_ENTRY | SHARED_ENTRY => None,
            pfn => Some(Pfn(pfn)),
        }
    }

    fn set_raw(self, mfn: Mfn, value: u64) {
        if let Some(entry) = self.entry(mfn) {
            entry.store(value, Ordering::Relaxed);
        }
    }

    fn entry(&self, mfn: Mfn) -> Option<&AtomicU64> {
        self.0.get(usize::try_from(mfn.0).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_kept_and_cleared() {
        let table = [const { AtomicU64::new(INVALID_ENTRY) }; 4];
        let m2p = MachineToPhys(&table);
        assert_eq!(m2p.get(Mfn(1)), None);
        m2p.set(Mfn(1), Pfn(77));
        assert_eq!(m2p.get(Mfn(1)), Some(Pfn(77)));
        m2p.clear(Mfn(1));
        assert_eq!(m2p.get(Mfn(1)), None);
        m2p.set(Mfn(4), Pfn(1));
        assert_eq!(m2p.get(Mfn(4)), None);
    }
}
