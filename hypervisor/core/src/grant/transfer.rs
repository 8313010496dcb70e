//! Giving a page away for good: the part of `GNTTABOP_transfer` that concerns
//! the entry by which the other domain says that it takes one.

use core::sync::atomic::Ordering;

use super::{GrantHost, GrantTable, Version};
use crate::addr::{Mfn, Pfn};
use crate::ids::{DomainId, GrantRef};
use xen_abi::grant_table::{GTF_ACCEPT_TRANSFER, GTF_TRANSFER_COMMITTED, GTF_TRANSFER_COMPLETED};

/// How often the entry may change under our hands before we give up.
const TRIES: u32 = 5;

/// An entry of a table that was committed to take a page.
#[must_use = "the entry stays committed until it is completed"]
#[derive(Debug)]
pub struct Transfer {
    reference: GrantRef,
    version: Version,
}

impl GrantTable {
    /// Commits an entry of this table to take a page from `giver`. `None` if it
    /// is not made out to that domain, or changes all the time.
    pub fn commit_transfer<H: GrantHost>(
        &self,
        host: &H,
        reference: GrantRef,
        giver: DomainId,
    ) -> Option<Transfer> {
        let state = self.state.read();
        let word = state.entry(host, reference)?.first_word();
        let wanted = u64::from(giver.0) << 16 | u64::from(GTF_ACCEPT_TRANSFER);
        let mut now = word.load(Ordering::SeqCst);
        for _ in 0..TRIES {
            // Flags (all of them) and domain.
            if now & 0xffff_ffff != wanted {
                return None;
            }
            let new = now | u64::from(GTF_TRANSFER_COMMITTED);
            match word.compare_exchange(now, new, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => {
                    return Some(Transfer {
                        reference,
                        version: state.version,
                    });
                }
                Err(changed) => now = changed,
            }
        }
        None
    }

    /// Tells the taker which frame it got. `place` is called with the frame number
    /// that the entry said the page should have in its domain's own numbering. False if
    /// the version of the table changed meanwhile: the page is the taker's all
    /// the same.
    pub fn complete_transfer<H: GrantHost>(
        &self,
        host: &H,
        transfer: Transfer,
        mfn: Mfn,
        place: impl FnOnce(Pfn),
    ) -> bool {
        let state = self.state.read();
        if state.version != transfer.version {
            return false;
        }
        let (Some(entry), Some(active)) = (
            state.entry(host, transfer.reference),
            state.active(transfer.reference),
        ) else {
            return false;
        };
        let _active = active.lock();
        place(Pfn(entry.put_frame(mfn)));
        let completed = u64::from(GTF_TRANSFER_COMPLETED);
        entry.first_word().fetch_or(completed, Ordering::SeqCst);
        true
    }
}
