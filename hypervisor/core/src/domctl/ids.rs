//! Numbers for new domains.

use crate::error::{Error, Result};
use crate::ids::DomainId;

/// Gives numbers out in turn, so that one is not used again soon.
#[derive(Default, Debug)]
pub struct DomainIds {
    last: u16,
}

impl DomainIds {
    /// None given out yet but Dom0's.
    pub const fn new() -> Self {
        Self { last: 0 }
    }

    /// The number of a new domain: the one that is `wanted`, if that is the number of an
    /// ordinary domain other than Dom0, else the next that is free.
    ///
    /// # Errors
    /// `Exists` if the wanted one is not free, `NoMemory` if none is.
    pub fn choose(
        &mut self,
        wanted: DomainId,
        is_free: impl Fn(DomainId) -> bool,
    ) -> Result<DomainId> {
        if wanted != DomainId::DOM0 && wanted.is_ordinary() {
            return if is_free(wanted) {
                Ok(wanted)
            } else {
                Err(Error::Exists)
            };
        }
        let end = DomainId::FIRST_RESERVED.0;
        let after = self.last.saturating_add(1)..end;
        let before = 1..self.last;
        let id = after
            .chain(before)
            .map(DomainId)
            .find(|&id| is_free(id))
            .ok_or(Error::NoMemory)?;
        self.last = id.0;
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn numbers_are_given_out_in_turn() {
        let mut ids = DomainIds::new();
        let mut used = BTreeSet::from([DomainId::DOM0]);
        let any = DomainId::DOM0;
        for n in 1..=3 {
            let id = ids.choose(any, |id| !used.contains(&id)).unwrap();
            assert_eq!(id, DomainId(n));
            used.insert(id);
        }
        used.remove(&DomainId(1));
        let mut next = |used: &BTreeSet<DomainId>, wanted| {
            ids.choose(DomainId(wanted), |id| !used.contains(&id))
        };
        assert_eq!(next(&used, 0), Ok(DomainId(4)));
        assert_eq!(next(&used, 2), Err(Error::Exists));
        assert_eq!(next(&used, 1), Ok(DomainId(1)));
        // A number beyond the ordinary ones asks for any.
        assert_eq!(next(&used, 0xffff), Ok(DomainId(5)));
        assert_eq!(next(&used, 0x7ff0), Ok(DomainId(6)));
    }

    #[test]
    fn it_begins_anew_below_the_reserved_ones() {
        let mut ids = DomainIds { last: 0x7fef };
        let any = DomainId::DOM0;
        assert_eq!(ids.choose(any, |id| id.0 > 2), Ok(DomainId(3)));
        assert_eq!(ids.choose(any, |_| false), Err(Error::NoMemory));
        // What was given out last is not given out again at once.
        let mut ids = DomainIds { last: 9 };
        assert_eq!(ids.choose(any, |id| id.0 == 9), Err(Error::NoMemory));
    }
}
