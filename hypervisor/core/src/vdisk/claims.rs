//! Who uses which sectors.
//!
//! # Invariant
//! Sectors that a domain may write are used by no other domain, unless all of the uses are shared, or
//! one is the control domain's on behalf of the other's domain: to copy its disk to another
//! machine, or what comes from there onto it before it runs.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::VirtualDisk;
use crate::ids::DomainId;

/// A use of a virtual disk, valid until it is given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClaimId(u64);

struct Claim {
    id: ClaimId,
    domain: DomainId,
    /// On whose behalf, if not its own.
    mirrors: Option<DomainId>,
    disk: String,
    start: u64,
    end: u64,
    writes: bool,
    shared: bool,
}

/// Another domain uses some of the sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Conflict(pub DomainId);

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "in use by domain {}", self.0)
    }
}

/// All uses.
#[derive(Default)]
pub struct Claims {
    claims: Vec<Claim>,
    next: u64,
}

impl Claims {
    /// Nobody uses anything.
    pub const fn new() -> Self {
        Self {
            claims: Vec::new(),
            next: 0,
        }
    }

    /// A domain is to use a virtual disk, which lies on the named one. A disk that grows
    /// with the one that it is all of counts to the end.
    pub fn claim(
        &mut self,
        domain: DomainId,
        disk: &str,
        part: &VirtualDisk,
    ) -> Result<ClaimId, Conflict> {
        self.claim_for(domain, None, disk, part)
    }

    /// As [`Self::claim`]; `mirrors` is the domain on whose behalf it is.
    pub fn claim_for(
        &mut self,
        domain: DomainId,
        mirrors: Option<DomainId>,
        disk: &str,
        part: &VirtualDisk,
    ) -> Result<ClaimId, Conflict> {
        let end = if part.whole {
            u64::MAX
        } else {
            part.start.saturating_add(part.sectors)
        };
        let writes = !part.read_only;
        let conflict = self.claims.iter().find(|claim| {
            claim.domain != domain
                && mirrors != Some(claim.domain)
                && claim.mirrors != Some(domain)
                && claim.disk == disk
                && claim.start < end
                && part.start < claim.end
                && (claim.writes || writes)
                && !(claim.shared && part.shared)
        });
        if let Some(other) = conflict {
            return Err(Conflict(other.domain));
        }
        self.next += 1;
        let id = ClaimId(self.next);
        self.claims.push(Claim {
            id,
            domain,
            mirrors,
            disk: disk.into(),
            start: part.start,
            end,
            writes,
            shared: part.shared,
        });
        Ok(id)
    }

    /// Gives a use back.
    pub fn release(&mut self, id: ClaimId) {
        self.claims.retain(|claim| claim.id != id);
    }
}
