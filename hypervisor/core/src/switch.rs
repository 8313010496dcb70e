//! The virtual switch: which port a frame goes to. It learns, as IEEE 802.1D bridges do.
//!
//! Ports are a NIC of the first layer and the domains' vifs. A vif's own address is the
//! *owned* one: it is known from the start, and nobody can take it by sending from it.
//!
//! # Invariants
//!
//! - A frame never leaves by the port that it came in by.
//! - An owned address leads to its port, whatever was heard elsewhere; a frame that
//!   claims to come from one and came in by another port is dropped.
//! - The table of heard addresses has a fixed size, and each port has at most so many
//!   entries as it was given: a guest that makes up addresses pushes out its own.
//! - What was heard is forgotten [`AGEING`] seconds after it was last heard, and with its port.
//! - Addresses of groups are never learned. Frames to the addresses that bridges do
//!   not forward (01-80-C2-00-00-0x) are dropped.
//!
//! VLAN tags are not looked at: an address is at one port for all VLANs.
//!
//! Looking up takes a read lock that only adding and removing ports writes, and loads of
//! atomics; only what is heard for the first time or elsewhere takes a lock. The lock of the
//! ports is outside that of the owned addresses.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use spin::{Mutex, RwLock};

use crate::error::{Error, Result};

/// Seconds after which an address that was not heard again is forgotten.
pub const AGEING: u32 = 300;
/// The most ports of a switch.
pub const MAX_PORTS: usize = 4096;

const SETS: usize = 512;
const WAYS: usize = 8;
/// Entries of the table of heard addresses.
pub const TABLE_SIZE: usize = SETS * WAYS;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// To all.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether it is that of a group: broadcast or multicast.
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether it can be a station's address.
    pub fn is_station(self) -> bool {
        !self.is_group() && self.0 != [0; 6]
    }

    /// From six hexadecimal numbers with colons between them.
    pub fn parse(text: &str) -> Option<Self> {
        let mut out = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut out {
            let part = parts.next()?;
            if part.len() > 2 || !part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return None;
            }
            *byte = u8::from_str_radix(part, 16).ok()?;
        }
        parts.next().is_none().then_some(Self(out))
    }

    fn number(self) -> u64 {
        self.0
            .iter()
            .fold(0, |number, &byte| number << 8 | u64::from(byte))
    }

    /// 01-80-C2-00-00-00 to -0F.
    fn is_link_local(self) -> bool {
        matches!(self.0, [0x01, 0x80, 0xc2, 0, 0, last] if last < 16)
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A port's number, below [`MAX_PORTS`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortId(pub u16);

/// Where a frame goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Nowhere.
    Drop,
    /// To one port.
    Port(PortId),
    /// To all ports but that which it came in by.
    Flood,
}

/// An entry: the address in bits 16 to 63, the port plus one below; 0 for none.
#[derive(Default)]
struct Entry {
    word: AtomicU64,
    /// When it was last heard, seconds.
    heard: AtomicU32,
}

impl Entry {
    fn port(&self) -> Option<PortId> {
        entry_port(self.word.load(Ordering::Relaxed))
    }

    fn is_old(&self, now: u32) -> bool {
        now.saturating_sub(self.heard.load(Ordering::Relaxed)) >= AGEING
    }
}

const fn entry_word(address: u64, port: PortId) -> u64 {
    address << 16 | (port.0 as u64 + 1)
}

const fn entry_port(word: u64) -> Option<PortId> {
    match (word & 0xffff) as u16 {
        0 => None,
        n => Some(PortId(n - 1)),
    }
}

/// What a port may do.
#[derive(Clone, Copy, Default)]
struct Port {
    in_use: bool,
    /// Entries of the table that are its own, and the most that may be.
    learned: u32,
    limit: u32,
    /// When its old entries were last looked for, seconds.
    cleaned: u32,
}

/// The switch's tables.
pub struct Switch {
    table: Box<[Entry]>,
    /// Changes of the table; what each port has of it.
    ports: Mutex<Vec<Port>>,
    /// The ports that own each address; the last one has it.
    owned: RwLock<BTreeMap<u64, Vec<PortId>>>,
    /// Where in the table an address is must not be known to who makes up addresses.
    secret: u64,
}

impl Switch {
    /// A switch without ports. `secret` is a number that guests do not know. `NoMemory`.
    pub fn new(secret: u64) -> Result<Self> {
        let mut table = Vec::new();
        table
            .try_reserve_exact(TABLE_SIZE)
            .map_err(|_| Error::NoMemory)?;
        table.resize_with(TABLE_SIZE, Entry::default);
        Ok(Self {
            table: table.into(),
            ports: Mutex::new(Vec::new()),
            owned: RwLock::new(BTreeMap::new()),
            secret,
        })
    }

    /// Adds a port that may have `limit` entries of heard addresses, and owns the address
    /// `own` if there is one. If another port owns it too, the newer one has it until it goes.
    ///
    /// Errors: `NoSpace` too many ports; `NoMemory`; `Invalid` not a station's address.
    pub fn add_port(&self, own: Option<MacAddress>, limit: u32) -> Result<PortId> {
        if own.is_some_and(|own| !own.is_station()) {
            return Err(Error::Invalid);
        }
        let mut ports = self.ports.lock();
        let index = match ports.iter().position(|port| !port.in_use) {
            Some(index) => index,
            None if ports.len() >= MAX_PORTS => return Err(Error::NoSpace),
            None => {
                ports.try_reserve(1).map_err(|_| Error::NoMemory)?;
                ports.push(Port::default());
                ports.len() - 1
            }
        };
        let id = PortId(index as u16);
        if let Some(port) = ports.get_mut(index) {
            *port = Port {
                in_use: true,
                limit,
                ..Port::default()
            };
        }
        if let Some(own) = own {
            self.owned.write().entry(own.number()).or_default().push(id);
        }
        Ok(id)
    }

    /// Removes a port, and forgets what was heard from it.
    pub fn remove_port(&self, id: PortId) {
        let mut ports = self.ports.lock();
        self.owned.write().retain(|_, owners| {
            owners.retain(|&owner| owner != id);
            !owners.is_empty()
        });
        for entry in &self.table {
            if entry_port(entry.word.load(Ordering::Relaxed)) == Some(id) {
                entry.word.store(0, Ordering::Release);
            }
        }
        if let Some(port) = ports.get_mut(usize::from(id.0)) {
            *port = Port::default();
        }
    }

    /// Decides about a frame that came in by a port at a time in seconds, and learns
    /// where its sender is.
    pub fn forward(
        &self,
        from: PortId,
        source: MacAddress,
        destination: MacAddress,
        now: u32,
    ) -> Decision {
        if !source.is_station() || destination.is_link_local() {
            return Decision::Drop;
        }
        // Who adds a port takes the owners' lock within that of the ports: it is not held
        // while something is learned.
        let [sender, receiver] = {
            let owned = self.owned.read();
            [source, destination].map(|address| {
                owned
                    .get(&address.number())
                    .and_then(|owners| owners.last().copied())
            })
        };
        match sender {
            Some(port) if port == from => {}
            Some(_) => return Decision::Drop,
            None => self.learn(from, source, now),
        }
        if destination.is_group() {
            return Decision::Flood;
        }
        match receiver.or_else(|| self.heard_at(destination, now)) {
            Some(port) if port == from => Decision::Drop,
            Some(port) => Decision::Port(port),
            None => Decision::Flood,
        }
    }

    /// How many addresses were heard by a port and not forgotten or pushed out.
    pub fn learned(&self, port: PortId) -> u32 {
        let ports = self.ports.lock();
        ports
            .get(usize::from(port.0))
            .map_or(0, |port| port.learned)
    }

    /// The entries where an address may be.
    fn set(&self, address: u64) -> &[Entry] {
        let hash = (address ^ self.secret).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let hash =
            (hash ^ hash >> 29 ^ self.secret.rotate_left(32)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let first = (hash >> 40) as usize % SETS * WAYS;
        self.table.get(first..first + WAYS).unwrap_or_default()
    }

    fn heard_at(&self, address: MacAddress, now: u32) -> Option<PortId> {
        let number = address.number();
        let entry = self
            .set(number)
            .iter()
            .find(|entry| entry.word.load(Ordering::Acquire) >> 16 == number)?;
        let word = entry.word.load(Ordering::Acquire);
        if word >> 16 != number || entry.is_old(now) {
            return None;
        }
        entry_port(word)
    }

    fn learn(&self, from: PortId, address: MacAddress, now: u32) {
        let number = address.number();
        let word = entry_word(number, from);
        let set = self.set(number);
        if let Some(entry) = set
            .iter()
            .find(|entry| entry.word.load(Ordering::Acquire) == word)
        {
            if entry.heard.load(Ordering::Relaxed) != now {
                entry.heard.store(now, Ordering::Relaxed);
            }
            return;
        }
        let mut ports = self.ports.lock();
        let Some(port) = ports.get(usize::from(from.0)).copied() else {
            return;
        };
        if !port.in_use || port.limit == 0 {
            return;
        }
        // An address is in the table once.
        let moved = set
            .iter()
            .find(|entry| entry.word.load(Ordering::Relaxed) >> 16 == number);
        if let Some(entry) = moved {
            forget(&mut ports, entry);
        }
        if self.share(&mut ports, from, now) == Some(false) {
            let own = set.iter().filter(|entry| entry.port() == Some(from));
            match own.min_by_key(|entry| entry.heard.load(Ordering::Relaxed)) {
                Some(oldest) => forget(&mut ports, oldest),
                None => return,
            }
        }
        let place = set
            .iter()
            .find(|entry| entry.port().is_none())
            .or_else(|| set.iter().find(|entry| entry.is_old(now)))
            .or_else(|| {
                set.iter()
                    .min_by_key(|entry| entry.heard.load(Ordering::Relaxed))
            });
        let Some(entry) = place else {
            return;
        };
        forget(&mut ports, entry);
        entry.heard.store(now, Ordering::Relaxed);
        entry.word.store(word, Ordering::Release);
        if let Some(port) = ports.get_mut(usize::from(from.0)) {
            port.learned = port.learned.saturating_add(1);
        }
    }

    /// Whether a port may have one entry more. Looks through its old ones, at most once a second.
    fn share(&self, ports: &mut [Port], id: PortId, now: u32) -> Option<bool> {
        let port = ports.get_mut(usize::from(id.0))?;
        if port.learned < port.limit {
            return Some(true);
        }
        if core::mem::replace(&mut port.cleaned, now) == now {
            return Some(false);
        }
        for entry in &self.table {
            if entry.port() == Some(id) && entry.is_old(now) {
                forget(ports, entry);
            }
        }
        ports
            .get(usize::from(id.0))
            .map(|port| port.learned < port.limit)
    }
}

/// Empties an entry.
fn forget(ports: &mut [Port], entry: &Entry) {
    if let Some(id) = entry.port() {
        entry.word.store(0, Ordering::Release);
        if let Some(port) = ports.get_mut(usize::from(id.0)) {
            port.learned = port.learned.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests;
