//! Permissions of nodes.
//!
//! The first entry names the owner, and says what everybody may do whom no other entry
//! names. Each other one says what one domain may do.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::error::{Error, Result};
use crate::ids::DomainId;

bitflags::bitflags! {
    /// What somebody may do with a node.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Access: u8 {
        /// Read it, list its children and see its permissions.
        const READ = 1;
        /// Change and remove it, and make nodes below it.
        const WRITE = 2;
        /// Change its permissions.
        const OWNER = 4;
    }
}

/// One entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Perm {
    /// The domain, as it was given: it may be none that there can be.
    pub domain: u32,
    /// What it may do: `READ` and `WRITE`.
    pub access: Access,
    /// The domain is gone, or never was: the entry is shown but says nothing.
    pub ignored: bool,
}

/// The permissions of a node: never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Perms(Vec<Perm>);

impl Perms {
    /// A domain's alone.
    pub fn owned_by(domain: DomainId) -> Self {
        Self(alloc::vec![Perm {
            domain: domain.0.into(),
            access: Access::empty(),
            ignored: false,
        }])
    }

    /// These, and what one more domain may do.
    #[must_use]
    pub fn with(mut self, domain: DomainId, access: Access) -> Self {
        self.0.push(Perm {
            domain: domain.0.into(),
            access,
            ignored: false,
        });
        self
    }

    /// From entries, the owner's first; `Invalid` if there are none.
    pub fn new(entries: Vec<Perm>) -> Result<Self> {
        if entries.is_empty() {
            return Err(Error::Invalid);
        }
        Ok(Self(entries))
    }

    /// Reads them as they stand in a request: strings that end in zeros.
    pub fn parse(strings: &[u8]) -> Result<Self> {
        let mut entries = Vec::new();
        let mut rest = strings;
        while let Some(end) = rest.iter().position(|&byte| byte == 0) {
            entries.push(Perm::parse(rest.get(..end).unwrap_or_default())?);
            rest = rest.get(end + 1..).unwrap_or_default();
        }
        Self::new(entries)
    }

    /// The entries.
    pub fn entries(&self) -> &[Perm] {
        &self.0
    }

    /// The entries, to be changed in place.
    pub fn entries_mut(&mut self) -> &mut [Perm] {
        &mut self.0
    }

    /// How many there are.
    #[allow(clippy::len_without_is_empty)] // never is
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The owner.
    pub fn owner(&self) -> DomainId {
        let id = self.0.first().map_or(0, |perm| perm.domain);
        u16::try_from(id).map_or(DomainId::INVALID, DomainId)
    }

    /// Gives them to another owner.
    pub fn set_owner(&mut self, domain: DomainId) {
        if let Some(first) = self.0.first_mut() {
            first.domain = domain.0.into();
        }
    }

    /// What somebody may do who is neither privileged nor anybody else than `mine` says.
    pub(super) fn access(&self, mine: impl Fn(u32) -> bool) -> Access {
        let Some((first, others)) = self.0.split_first() else {
            return Access::empty();
        };
        if mine(first.domain) {
            return Access::all();
        }
        others
            .iter()
            .find(|perm| !perm.ignored && mine(perm.domain))
            .map_or(first.access, |perm| perm.access)
    }

    /// As they stand in a reply: strings that end in zeros.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for perm in &self.0 {
            out.extend_from_slice(perm.format().as_bytes());
            out.push(0);
        }
        out
    }
}

impl Perm {
    /// Reads one: a letter and a number.
    fn parse(text: &[u8]) -> Result<Self> {
        let (letter, number) = text.split_first().ok_or(Error::Invalid)?;
        let access = match letter {
            b'r' => Access::READ,
            b'w' => Access::WRITE,
            b'b' => Access::READ | Access::WRITE,
            b'n' => Access::empty(),
            _ => return Err(Error::Invalid),
        };
        Ok(Self {
            domain: parse_number(number).ok_or(Error::Invalid)? as u32,
            access,
            ignored: false,
        })
    }

    fn format(&self) -> String {
        let letter = match (
            self.access.contains(Access::READ),
            self.access.contains(Access::WRITE),
        ) {
            (true, true) => 'b',
            (true, false) => 'r',
            (false, true) => 'w',
            (false, false) => 'n',
        };
        format!("{letter}{}", self.domain)
    }
}

/// A whole text as a number as C's `strtol` takes it with base 0.
fn parse_number(text: &[u8]) -> Option<i64> {
    let text = core::str::from_utf8(text).ok()?;
    let text = text.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"))
    {
        Some(rest) => (16, rest),
        None if digits.starts_with('0') => (8, digits),
        None => (10, digits),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    let value = i64::from_str_radix(digits, radix).unwrap_or(i64::MAX);
    Some(if negative { -value } else { value })
}
