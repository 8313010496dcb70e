//! The page that a domain shares with the server
//! (`struct xenstore_domain_interface`, io/xs_wire.h; docs/misc/xenstore-ring.txt).
//!
//! The domain can write all of it at any time. Indices are read once and checked; those
//! that make no sense end the connection, which the page's `error` says.
//!
//! The server offers both features of the page: a domain can ask for its connection to be
//! begun anew (also after an error), and is told of errors.

use alloc::vec::Vec;
use core::mem::offset_of;

use xen_abi::io_xs_wire::*;

use super::wire::Wanted;
use super::{ConnectionId, Host, Store};
use crate::machine::Frame;

const RING: u32 = XENSTORE_RING_SIZE;
const REQ: usize = offset_of!(XenstoreDomainInterface, req);
const RSP: usize = offset_of!(XenstoreDomainInterface, rsp);
const REQ_CONS: usize = offset_of!(XenstoreDomainInterface, req_cons);
const REQ_PROD: usize = offset_of!(XenstoreDomainInterface, req_prod);
const RSP_CONS: usize = offset_of!(XenstoreDomainInterface, rsp_cons);
const RSP_PROD: usize = offset_of!(XenstoreDomainInterface, rsp_prod);
const FEATURES: usize = offset_of!(XenstoreDomainInterface, server_features);
const CONNECTION: usize = offset_of!(XenstoreDomainInterface, connection);
const ERROR: usize = offset_of!(XenstoreDomainInterface, error);

/// Requests of one connection in a row, while others wait.
const TURN: u32 = 8;

/// Indices make no sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadIndices;

/// A domain's page.
#[derive(Clone, Copy)]
pub struct Ring<'f> {
    frame: &'f Frame,
}

impl<'f> Ring<'f> {
    /// The ring in a frame.
    pub fn new(frame: &'f Frame) -> Self {
        Self { frame }
    }

    /// Empties both queues.
    pub fn reset(self) {
        for index in [REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD] {
            self.frame.store_u32(index, 0);
        }
        self.frame.store_u32(ERROR, XENSTORE_ERROR_NONE);
    }

    /// Says what the server can do.
    pub fn advertise(self) {
        let features = XENSTORE_SERVER_FEATURE_RECONNECTION | XENSTORE_SERVER_FEATURE_ERROR;
        self.frame.store_u32(FEATURES, features);
    }

    /// What the domain asks for: `XENSTORE_CONNECTED` or `XENSTORE_RECONNECT`.
    pub fn connection_state(self) -> u32 {
        self.frame.load_u32(CONNECTION)
    }

    /// Says that the ring is connected.
    pub fn set_connected(self) {
        self.frame.store_u32(CONNECTION, XENSTORE_CONNECTED);
    }

    /// Says why the server does not look at the ring any more.
    pub fn set_error(self, error: u32) {
        self.frame.store_u32(ERROR, error);
    }

    /// Both indices of a queue, if they can be.
    fn indices(self, consumer: usize, producer: usize) -> Result<(u32, u32), BadIndices> {
        let (cons, prod) = (self.frame.load_u32(consumer), self.frame.load_u32(producer));
        if prod.wrapping_sub(cons) > RING {
            return Err(BadIndices);
        }
        Ok((cons, prod))
    }

    /// How many bytes of requests there are.
    pub fn available(self) -> Result<u32, BadIndices> {
        let (cons, prod) = self.indices(REQ_CONS, REQ_PROD)?;
        Ok(prod.wrapping_sub(cons))
    }

    /// Takes at most `most` bytes of requests out.
    pub fn read(self, most: usize) -> Result<Vec<u8>, BadIndices> {
        let (cons, prod) = self.indices(REQ_CONS, REQ_PROD)?;
        let count = prod.wrapping_sub(cons).min(most.min(RING as usize) as u32);
        let mut out = alloc::vec![0; count as usize];
        let start = cons % RING;
        let first = count.min(RING - start) as usize;
        let (before, behind) = out.split_at_mut(first);
        self.frame.read(REQ + start as usize, before);
        self.frame.read(REQ, behind);
        self.frame.store_u32(REQ_CONS, cons.wrapping_add(count));
        Ok(out)
    }

    /// Puts in what there is room for; says how many bytes.
    pub fn write(self, bytes: &[u8]) -> Result<usize, BadIndices> {
        let (cons, prod) = self.indices(RSP_CONS, RSP_PROD)?;
        let room = RING - prod.wrapping_sub(cons);
        let count = bytes.len().min(room as usize);
        let bytes = bytes.get(..count).unwrap_or_default();
        let start = prod % RING;
        let (first, rest) = bytes.split_at(count.min((RING - start) as usize));
        self.frame.write(RSP + start as usize, first);
        self.frame.write(RSP, rest);
        self.frame
            .store_u32(RSP_PROD, prod.wrapping_add(count as u32));
        Ok(count)
    }
}

/// What happened while a connection was served.
#[derive(Default)]
struct Served {
    /// The ring has changed.
    changed: bool,
    /// There are requests that wait for their turn.
    more: bool,
}

impl<H: Host> Store<H> {
    /// Serves all rings in turn: takes requests in, does at most about `budget` of them,
    /// puts replies and events out, and sends events. Says whether there is more to do now.
    pub fn serve(&mut self, budget: u32) -> bool {
        let mut left = budget;
        loop {
            let mut more = false;
            self.ring_output = false;
            let first = self.next_served;
            let ids: Vec<ConnectionId> = self
                .connections
                .range(first..)
                .chain(self.connections.range(..first))
                .filter(|(_, there)| !there.internal)
                .map(|(&id, _)| id)
                .collect();
            for id in ids {
                if left == 0 {
                    self.next_served = id;
                    return true;
                }
                more |= self.serve_connection(id, &mut left);
            }
            // One that was served before may have got an event from one behind it.
            if !more && !self.ring_output {
                return false;
            }
        }
    }

    fn serve_connection(&mut self, id: ConnectionId, left: &mut u32) -> bool {
        let Ok(domain) = self.who(id).map(|who| who.domain) else {
            return false;
        };
        let Some(frame) = self.host.ring(domain) else {
            return false;
        };
        let mut served = Served::default();
        if Ring::new(frame).connection_state() == XENSTORE_RECONNECT {
            self.reconnect(id);
            served.changed = true;
        }
        let ignored = |there: &super::Connection| there.ignored;
        if self.connections.get(&id).is_none_or(ignored) {
            if served.changed {
                self.host.notify(domain);
            }
            return false;
        }
        let result = self
            .take_requests(id, left, &mut served)
            .and_then(|()| self.put_replies(id, &mut served));
        if let Err(error) = result {
            log::warn!(
                target: "guest",
                "xenstore: the ring of {domain} makes no sense ({error}): it is closed"
            );
            self.clear_connection(id);
            if let Some(there) = self.connections.get_mut(&id) {
                there.ignored = true;
            }
            if let Some(frame) = self.host.ring(domain) {
                Ring::new(frame).set_error(error);
            }
            served = Served {
                changed: true,
                more: false,
            };
        }
        if served.changed {
            self.host.notify(domain);
        }
        served.more
    }

    /// Begins a connection anew, as the domain asks.
    fn reconnect(&mut self, id: ConnectionId) {
        self.clear_connection(id);
        let Some(there) = self.connections.get_mut(&id) else {
            return;
        };
        there.ignored = false;
        if let Some(frame) = self.host.ring(there.who.domain) {
            let ring = Ring::new(frame);
            ring.reset();
            ring.set_connected();
        }
    }

    /// Takes requests in and does them, as many as this turn has. An error is one of
    /// `XENSTORE_ERROR_*`.
    fn take_requests(
        &mut self,
        id: ConnectionId,
        left: &mut u32,
        served: &mut Served,
    ) -> Result<(), u32> {
        let mut turn = TURN.min(*left);
        loop {
            let may = self.may_request(id);
            let Some(there) = self.connections.get_mut(&id) else {
                return Ok(());
            };
            let Some(frame) = self.host.ring(there.who.domain) else {
                return Ok(());
            };
            let ring = Ring::new(frame);
            let available = ring.available().map_err(|_| XENSTORE_ERROR_RINGIDX)?;
            if !may {
                return Ok(());
            }
            if turn == 0 {
                served.more = available != 0;
                return Ok(());
            }
            match there.input.wanted() {
                Wanted::Bytes(count) => {
                    if available == 0 {
                        return Ok(());
                    }
                    let bytes = ring.read(count).map_err(|_| XENSTORE_ERROR_RINGIDX)?;
                    there.input.push(&bytes);
                    served.changed = true;
                }
                Wanted::Ready(header, body) => {
                    turn -= 1;
                    *left = left.saturating_sub(1);
                    self.process(id, &header, &body);
                    // Replies go out at once, so that there is room for more.
                    self.put_replies(id, served)?;
                }
                Wanted::TooLong => return Err(XENSTORE_ERROR_PROTO),
            }
        }
    }

    /// Puts out what there is room for.
    fn put_replies(&mut self, id: ConnectionId, served: &mut Served) -> Result<(), u32> {
        loop {
            let Some(there) = self.connections.get_mut(&id) else {
                return Ok(());
            };
            let Some(message) = there.output.front_mut() else {
                return Ok(());
            };
            let Some(frame) = self.host.ring(there.who.domain) else {
                return Ok(());
            };
            let written = Ring::new(frame)
                .write(message.rest())
                .map_err(|_| XENSTORE_ERROR_RINGIDX)?;
            message.sent += written;
            served.changed |= written != 0;
            if message.sent < message.len() {
                return Ok(());
            }
            self.take_message(id);
        }
    }
}
