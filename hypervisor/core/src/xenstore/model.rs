//! A machine with domains for tests of the store, the guest's side of a ring, and a
//! hostile guest that does what bytes say: for tests and for the fuzzer.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::Cell;

use xen_abi::io_xs_wire::*;

use super::wire::{HEADER_SIZE, Header};
use super::{DomainState, Host, Quotas, Store};
use crate::error::{Error, Result};
use crate::ids::DomainId;
use crate::machine::Frame;

const REQ_CONS: usize = 2048;
const REQ_PROD: usize = 2052;
const RSP_CONS: usize = 2056;
const RSP_PROD: usize = 2060;
const CONNECTION: usize = 2068;
/// Where the page says what was wrong.
pub const ERROR: usize = 2072;

/// A machine with domains.
pub struct World {
    /// What there is of each domain.
    pub domains: BTreeMap<DomainId, DomainState>,
    pages: BTreeMap<DomainId, Box<Frame>>,
    /// Whether there is memory for more.
    pub memory: bool,
    /// How many events were sent.
    pub notified: Cell<u32>,
}

impl Host for World {
    fn domain_state(&self, domain: DomainId) -> DomainState {
        let state = self.domains.get(&domain);
        state.copied().unwrap_or(DomainState::Gone)
    }

    fn introduce(&mut self, domain: DomainId, gfn: u64, port: u32) -> Result<()> {
        if gfn == 0xbad || port == 0xbad {
            return Err(Error::Invalid);
        }
        self.pages.entry(domain).or_default();
        Ok(())
    }

    fn release(&mut self, domain: DomainId) {
        self.pages.remove(&domain);
    }

    fn ring(&self, domain: DomainId) -> Option<&Frame> {
        self.pages.get(&domain).map(Box::as_ref)
    }

    fn notify(&self, _domain: DomainId) {
        self.notified.set(self.notified.get().wrapping_add(1));
    }

    fn has_memory(&self) -> bool {
        self.memory
    }
}

/// A store with Dom0 and the domains that are named connected.
pub fn store(domains: &[u16]) -> Store<World> {
    let world = World {
        domains: domains
            .iter()
            .chain(&[0])
            .map(|&id| (DomainId(id), DomainState::Alive))
            .collect(),
        pages: BTreeMap::new(),
        memory: true,
        notified: Cell::new(0),
    };
    let mut store = Store::new(world, Quotas::default());
    for &id in [0].iter().chain(domains) {
        let _ = store.introduce(DomainId(id), 1, 1);
    }
    store
}

/// The guest's side of a ring.
pub struct Guest<'f>(pub &'f Frame);

impl Guest<'_> {
    /// Sends what there is room for; says how much.
    pub fn send(&self, bytes: &[u8]) -> usize {
        let (cons, prod) = (self.0.load_u32(REQ_CONS), self.0.load_u32(REQ_PROD));
        let room = 1024u32.saturating_sub(prod.wrapping_sub(cons)) as usize;
        let count = room.min(bytes.len());
        for (at, &byte) in bytes.iter().take(count).enumerate() {
            let at = (prod as usize).wrapping_add(at) % 1024;
            self.0.store_u8(at, byte);
        }
        self.0.store_u32(REQ_PROD, prod.wrapping_add(count as u32));
        count
    }

    /// Fetches at most so many bytes.
    pub fn receive(&self, most: usize) -> Vec<u8> {
        let (cons, prod) = (self.0.load_u32(RSP_CONS), self.0.load_u32(RSP_PROD));
        let count = (prod.wrapping_sub(cons) as usize).min(most).min(1024);
        let out = (0..count)
            .map(|at| {
                self.0
                    .load_u8(1024 + (cons as usize).wrapping_add(at) % 1024)
            })
            .collect();
        self.0.store_u32(RSP_CONS, cons.wrapping_add(count as u32));
        out
    }

    /// Asks for the connection to be begun anew.
    pub fn reconnect(&self) {
        self.0.store_u32(CONNECTION, XENSTORE_RECONNECT);
    }

    /// Whether the server has done so.
    pub fn is_connected(&self) -> bool {
        self.0.load_u32(CONNECTION) == XENSTORE_CONNECTED
    }

    /// Writes one of the four indices.
    pub fn set_index(&self, which: u8, value: u32) {
        self.0
            .store_u32(REQ_CONS + 4 * usize::from(which % 4), value);
    }
}

/// A request as bytes.
pub fn message(kind: u32, transaction: u32, body: &[u8]) -> Vec<u8> {
    let header = Header {
        kind,
        request: 77,
        transaction,
        length: body.len() as u32,
    };
    let mut out = header.to_bytes().to_vec();
    out.extend_from_slice(body);
    out
}

/// Takes a whole message off the front of bytes that were received.
pub fn take_message(bytes: &mut Vec<u8>) -> Option<(Header, Vec<u8>)> {
    let header: &[u8; HEADER_SIZE] = bytes.first_chunk()?;
    let header = Header::from_bytes(header);
    let end = HEADER_SIZE.checked_add(header.length as usize)?;
    let body = bytes.get(HEADER_SIZE..end)?.to_vec();
    bytes.drain(..end);
    Some((header, body))
}

/// Paths that the hostile guest uses.
const PATHS: &[&str] = &[
    "/",
    "a",
    "a/b",
    "a/b/c/d",
    "/local/domain/1/a",
    "/local/domain/2/good",
    "/local/domain/2",
    "/local",
    "/tool/xenstored",
    "@releaseDomain",
    "@introduceDomain",
    "//",
    "/a/",
    "",
    "data/x",
    "/shared/1",
];

/// A hostile domain 1 does what the bytes say, while domain 2 writes and reads back.
/// An error says what was broken.
pub fn run(bytes: &[u8]) -> core::result::Result<(), String> {
    let mut store = store(&[1, 2]);
    let client = store.add_client();
    for (path, owner) in [
        ("/local/domain/1", 1),
        ("/local/domain/2", 2),
        ("/shared", 1),
    ] {
        let perms = super::perms::Perms::owned_by(DomainId(owner));
        store
            .mkdir(client, 0, path)
            .and_then(|()| store.set_permissions(client, 0, path, perms))
            .map_err(|error| format!("{path}: {error:?}"))?;
    }
    let mut good = GoodGuest::default();
    let mut bytes = bytes.iter().copied();
    let mut turn = 0u32;
    while let Some(what) = bytes.next() {
        let mut next = || bytes.next().unwrap_or(0);
        if let Some(frame) = store.host.ring(DomainId(1)) {
            let guest = Guest(frame);
            match what % 8 {
                0..=3 => {
                    let kind = u32::from(next() % 25);
                    let transaction = u32::from(next() % 4);
                    let mut body = Vec::new();
                    let path = PATHS.get(usize::from(next()) % PATHS.len());
                    body.extend_from_slice(path.unwrap_or(&"").as_bytes());
                    for _ in 0..next() % 3 {
                        body.extend([0]);
                        let word = next();
                        match word % 6 {
                            0 => body.extend(core::iter::repeat_n(b'x', 16 * usize::from(word))),
                            1 => body.extend_from_slice(b"T"),
                            2 => body.extend_from_slice(b"n1"),
                            3 => body.extend_from_slice(b"r2"),
                            4 => body.extend_from_slice(b"F"),
                            _ => body.push(word),
                        }
                    }
                    // Most texts end as they should.
                    body.extend((what < 250).then_some(0));
                    guest.send(&message(kind, transaction, &body));
                }
                4 => guest.set_index(next(), u32::from_le_bytes([next(), next(), next(), 0])),
                5 => {
                    let noise: Vec<u8> = (0..next()).map(|_| next()).collect();
                    guest.send(&noise);
                }
                6 => {
                    guest.receive(usize::from(next()) * 8);
                }
                _ => guest.reconnect(),
            }
        }
        if what == 255 {
            store.host.domains.insert(DomainId(1), DomainState::Gone);
            store.check_domains();
            store.host.domains.insert(DomainId(1), DomainState::Alive);
            let _ = store.introduce(DomainId(1), 1, 1);
        }
        turn = turn.wrapping_add(1);
        good.step(&mut store, turn)?;
        if !store.check() {
            return Err(String::from("the tree is inconsistent"));
        }
        let held = store.domains.get(&DomainId(1)).map_or(0, |d| d.memory);
        // Beyond the quota come only what was accepted before, and one reply.
        if held > u64::from(store.quotas.memory) + 8192 {
            return Err(format!("domain 1 holds {held} bytes"));
        }
    }
    Ok(())
}

/// Domain 2, which must not notice anything.
#[derive(Default)]
struct GoodGuest {
    received: Vec<u8>,
}

impl GoodGuest {
    fn step(&mut self, store: &mut Store<World>, turn: u32) -> core::result::Result<(), String> {
        let write = message(XS_WRITE, 0, format!("good\0{turn}").as_bytes());
        let read = message(XS_READ, 0, b"good\0");
        for request in [write, read] {
            let frame = store.host.ring(DomainId(2)).ok_or("no ring")?;
            if Guest(frame).send(&request) != request.len() {
                return Err(String::from("no room for a request"));
            }
            // A hostile guest with much to do may be in the way for some runs.
            for _ in 0..64 {
                if !store.serve(32) {
                    break;
                }
            }
        }
        let frame = store.host.ring(DomainId(2)).ok_or("no ring")?;
        self.received.extend(Guest(frame).receive(1024));
        let written = take_message(&mut self.received);
        let read = take_message(&mut self.received);
        match (written, read) {
            (Some((first, _)), Some((second, value)))
                if first.kind == XS_WRITE
                    && second.kind == XS_READ
                    && value == format!("{turn}").as_bytes() =>
            {
                Ok(())
            }
            other => Err(format!("domain 2 got {other:?}")),
        }
    }
}
