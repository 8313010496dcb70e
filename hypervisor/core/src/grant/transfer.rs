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

#[cfg(test)]
mod tests {
    use super::super::world::World;
    use super::*;
    use crate::grant::GrantLimits;
    use xen_abi::grant_table::{GTF_PERMIT_ACCESS, GTF_READONLY};

    const GIVER: DomainId = DomainId(1);
    const DONE: u16 = GTF_ACCEPT_TRANSFER | GTF_TRANSFER_COMMITTED | GTF_TRANSFER_COMPLETED;

    #[test]
    fn entry_is_committed_once_and_then_tells_the_frame() {
        let w = World::new(2, GrantLimits::default());
        let (taker, cpu) = (w.table(2), w.cpu(1));
        w.grant_v1(2, 8, GTF_ACCEPT_TRANSFER, 1, 0x777);
        let transfer = taker.commit_transfer(&cpu, GrantRef(8), GIVER).unwrap();
        assert!(taker.commit_transfer(&cpu, GrantRef(8), GIVER).is_none());
        let mut placed = None;
        assert!(taker.complete_transfer(&cpu, transfer, Mfn(0x1234), |pfn| placed = Some(pfn)));
        assert_eq!(placed, Some(Pfn(0x777)));
        let state = taker.state.read();
        let header = state.entry(&cpu, GrantRef(8)).unwrap().header();
        assert_eq!((header.flags(), header.v1_frame()), (DONE, 0x1234));
    }

    #[test]
    fn only_the_giver_that_is_named_may_give() {
        let w = World::new(2, GrantLimits::default());
        let (taker, cpu) = (w.table(2), w.cpu(1));
        for (reference, flags, domain) in [
            (8, GTF_PERMIT_ACCESS, 1),
            (9, GTF_ACCEPT_TRANSFER, 2),
            (10, GTF_ACCEPT_TRANSFER | GTF_READONLY, 1),
        ] {
            w.grant_v1(2, reference, flags, domain, 0x777);
            assert!(
                taker
                    .commit_transfer(&cpu, GrantRef(reference), GIVER)
                    .is_none()
            );
        }
        assert!(
            taker
                .commit_transfer(&cpu, GrantRef(u32::MAX), GIVER)
                .is_none()
        );
    }

    #[test]
    fn version_two_and_a_change_of_version_meanwhile() {
        let w = World::new(2, GrantLimits::default());
        let (taker, cpu) = (w.table(2), w.cpu(1));
        taker.set_version(&w.cpu(2), 2).unwrap();
        w.grant_v2(2, 8, GTF_ACCEPT_TRANSFER, 1, 0, 0x777);
        let transfer = taker.commit_transfer(&cpu, GrantRef(8), GIVER).unwrap();
        assert!(
            taker.complete_transfer(&cpu, transfer, Mfn(0x1234), |pfn| assert_eq!(
                pfn,
                Pfn(0x777)
            ))
        );
        assert_eq!(
            taker
                .state
                .read()
                .entry(&cpu, GrantRef(8))
                .unwrap()
                .second_word(),
            0x1234
        );

        w.grant_v2(2, 9, GTF_ACCEPT_TRANSFER, 1, 0, 0x777);
        let transfer = taker.commit_transfer(&cpu, GrantRef(9), GIVER).unwrap();
        taker.set_version(&w.cpu(2), 1).unwrap();
        assert!(!taker.complete_transfer(&cpu, transfer, Mfn(0x1234), |_| panic!("placed")));
    }
}
