//! Requests and replies as bytes (`struct xsd_sockmsg`, io/xs_wire.h), and what each
//! request does.

use alloc::format;
use alloc::vec::Vec;

use xen_abi::io_xs_wire::*;
use zerocopy::{FromBytes, IntoBytes};

use super::perms::{Access, Perms};
use super::{ConnectionId, Host, Store};
use crate::error::{Error, Result};
use crate::ids::DomainId;

/// Bytes of a header.
pub const HEADER_SIZE: usize = size_of::<XsdSockmsg>();
/// Most bytes behind a header.
pub const PAYLOAD_MAX: usize = XENSTORE_PAYLOAD_MAX as usize;
/// A reply larger than this is not made for a domain that has reached its quota.
const SMALL_REPLY: usize = 1024;

/// A header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// `XS_*`.
    pub kind: u32,
    /// The client's number of the request.
    pub request: u32,
    /// The transaction, or 0.
    pub transaction: u32,
    /// Bytes that follow.
    pub length: u32,
}

impl Header {
    /// As it stands in a ring.
    pub fn to_bytes(self) -> [u8; HEADER_SIZE] {
        let mut out = [0; HEADER_SIZE];
        let header = XsdSockmsg {
            r#type: self.kind,
            req_id: self.request,
            tx_id: self.transaction,
            len: self.length,
        };
        out.copy_from_slice(header.as_bytes());
        out
    }

    /// From a ring.
    pub fn from_bytes(bytes: &[u8; HEADER_SIZE]) -> Self {
        let header = XsdSockmsg::read_from_bytes(bytes).unwrap_or(XsdSockmsg {
            r#type: XS_INVALID,
            req_id: 0,
            tx_id: 0,
            len: 0,
        });
        Self {
            kind: header.r#type,
            request: header.req_id,
            transaction: header.tx_id,
            length: header.len,
        }
    }
}

/// What a message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Payload {
    /// A reply to the connection's own request.
    Reply,
    /// An event of a watch; who is held back until it is fetched.
    Event {
        /// A domain that made it happen.
        origin: Option<DomainId>,
    },
}

/// A message that waits to be fetched.
pub(super) struct Message {
    bytes: Vec<u8>,
    payload: Payload,
    /// How much of it was fetched.
    pub(super) sent: usize,
}

impl Message {
    pub(super) fn new(header: &Header, body: &[u8], payload: Payload) -> Self {
        let mut bytes = Vec::with_capacity(HEADER_SIZE + body.len());
        bytes.extend_from_slice(&header.to_bytes());
        bytes.extend_from_slice(body);
        Self {
            bytes,
            payload,
            sent: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_event(&self) -> bool {
        self.payload != Payload::Reply
    }

    pub(super) fn body(&self) -> &[u8] {
        self.bytes.get(HEADER_SIZE..).unwrap_or_default()
    }

    /// What was not fetched yet.
    pub(super) fn rest(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }
}

/// A request that is coming in.
#[derive(Default)]
pub(super) struct Input {
    header: [u8; HEADER_SIZE],
    /// Bytes of the header that are there.
    have: usize,
    body: Vec<u8>,
}

/// What an [`Input`] needs next.
pub(super) enum Wanted {
    /// So many bytes, at most.
    Bytes(usize),
    /// Nothing: here is a request.
    Ready(Header, Vec<u8>),
    /// The header asks for too much.
    TooLong,
}

impl Input {
    /// What is wanted next. A request that is ready is taken out.
    pub(super) fn wanted(&mut self) -> Wanted {
        if self.have < HEADER_SIZE {
            return Wanted::Bytes(HEADER_SIZE - self.have);
        }
        let header = Header::from_bytes(&self.header);
        let length = header.length as usize;
        if length > PAYLOAD_MAX {
            return Wanted::TooLong;
        }
        if self.body.len() < length {
            return Wanted::Bytes(length - self.body.len());
        }
        self.have = 0;
        Wanted::Ready(header, core::mem::take(&mut self.body))
    }

    /// Takes bytes in, no more than were wanted.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.have < HEADER_SIZE {
            for (to, from) in self.header.iter_mut().skip(self.have).zip(bytes) {
                *to = *from;
            }
            self.have = (self.have + bytes.len()).min(HEADER_SIZE);
        } else {
            self.body.extend_from_slice(bytes);
        }
    }
}

/// The name by which an error is told (`xsd_errors`, io/xs_wire.h).
pub fn error_name(error: Error) -> &'static str {
    match error {
        Error::Access => "EACCES",
        Error::Exists => "EEXIST",
        Error::NoEntry | Error::NoDomain => "ENOENT",
        Error::NoMemory => "ENOMEM",
        Error::NoSpace => "ENOSPC",
        Error::Io => "EIO",
        Error::NotImplemented => "ENOSYS",
        Error::Busy => "EBUSY",
        Error::Again => "EAGAIN",
        Error::TooBig => "E2BIG",
        Error::NotPermitted => "EPERM",
        _ => "EINVAL",
    }
}

/// The only argument: a text with one zero, at the end.
pub(super) fn only(body: &[u8]) -> Result<&[u8]> {
    match body.split_last() {
        Some((0, text)) if !text.contains(&0) => Ok(text),
        _ => Err(Error::Invalid),
    }
}

/// The texts that end in a zero; what is behind the last zero is left out.
pub(super) fn texts(body: &[u8]) -> Vec<&[u8]> {
    let mut parts: Vec<&[u8]> = body.split(|&byte| byte == 0).collect();
    parts.pop();
    parts
}

/// A number as C's `atoi` takes it.
pub(super) fn number(text: &[u8]) -> i64 {
    let text = text.trim_ascii_start();
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    };
    let mut value = 0i64;
    for digit in digits.iter().take_while(|byte| byte.is_ascii_digit()) {
        value = value
            .saturating_mul(10)
            .saturating_add(i64::from(digit - b'0'));
    }
    if negative { -value } else { value }
}

/// A domain by a number that a client gave; `NoEntry` for what can be none.
pub(super) fn domain(text: &[u8]) -> Result<DomainId> {
    let id = u16::try_from(number(text)).map_err(|_| Error::NoEntry)?;
    Ok(DomainId(id))
}

/// "OK", the answer of requests that give nothing.
const OK: &[u8] = b"OK\0";

impl<H: Host> Store<H> {
    /// Does a request, and puts its reply out.
    pub(super) fn process(&mut self, connection: ConnectionId, header: &Header, body: &[u8]) {
        if self.trace {
            log::info!(
                "xenstore: {:?} type {} tx {}: {:?}",
                self.who(connection).map(|who| who.domain),
                header.kind,
                header.transaction,
                alloc::string::String::from_utf8_lossy(body.get(..128).unwrap_or(body)),
            );
        }
        // The first event of a watch comes after the reply.
        let mut new_watch = None;
        let answer = match header.kind {
            XS_WATCH => self.do_watch(connection, body).map(|watch| {
                new_watch = Some(watch);
                OK.to_vec()
            }),
            _ => self.answer(connection, header, body),
        };
        self.reply(connection, header, answer);
        if let Some(watch) = new_watch {
            self.first_event(connection, &watch);
        }
    }

    fn do_watch(
        &mut self,
        connection: ConnectionId,
        body: &[u8],
    ) -> Result<alloc::sync::Arc<super::watch::Watch>> {
        match texts(body).as_slice() {
            [path, token] => self.add_watch(connection, path, token),
            _ => Err(Error::Invalid),
        }
    }

    fn answer(
        &mut self,
        connection: ConnectionId,
        header: &Header,
        body: &[u8],
    ) -> Result<Vec<u8>> {
        let who = self.who(connection)?;
        let done = |()| OK.to_vec();
        let tx = header.transaction;
        match header.kind {
            XS_CONTROL
            | XS_INTRODUCE
            | XS_RELEASE
            | XS_IS_DOMAIN_INTRODUCED
            | XS_RESUME
            | XS_SET_TARGET
                if !who.is_privileged() =>
            {
                return Err(Error::Access);
            }
            XS_UNWATCH => {
                return match texts(body).as_slice() {
                    [path, token] => self.unwatch(connection, path, token).map(done),
                    _ => Err(Error::Invalid),
                };
            }
            XS_WATCH_EVENT | XS_ERROR => return Err(Error::NotImplemented),
            kind if kind >= XS_TYPE_COUNT || kind == XS_SET_TARGET + 1 => {
                return Err(Error::NotImplemented);
            }
            XS_TRANSACTION_START => {
                let id = self.start_transaction(connection, tx)?;
                return Ok(format!("{id}\0").into_bytes());
            }
            _ => {}
        }
        let known = |store: &Self| {
            let there = store.connections.get(&connection);
            there.is_some_and(|there| there.transactions.contains_key(&tx))
        };
        if tx != 0 && !known(self) {
            return Err(Error::NoEntry);
        }
        match header.kind {
            XS_DIRECTORY => {
                let node = self.node(connection, tx, only(body)?, Access::READ)?;
                Ok(node.children.clone())
            }
            XS_DIRECTORY_PART => self.directory_part(connection, tx, body),
            XS_READ => self.read(connection, tx, only(body)?),
            XS_WRITE => {
                let end = body.iter().position(|&byte| byte == 0);
                let (path, value) = body
                    .split_at_checked(end.ok_or(Error::Invalid)?)
                    .ok_or(Error::Invalid)?;
                let value = value.get(1..).unwrap_or_default();
                self.write(connection, tx, path, value).map(done)
            }
            XS_MKDIR => self.mkdir(connection, tx, only(body)?).map(done),
            XS_RM => self.remove(connection, tx, only(body)?).map(done),
            XS_GET_PERMS => {
                let perms = self.permissions(connection, tx, only(body)?)?;
                Ok(perms.to_bytes())
            }
            XS_SET_PERMS => {
                let end = body.iter().position(|&byte| byte == 0);
                let (path, perms) = body
                    .split_at_checked(end.ok_or(Error::Invalid)?)
                    .ok_or(Error::Invalid)?;
                let perms = perms.get(1..).unwrap_or_default();
                let count = texts(perms).len();
                if !who.is_privileged() && count > self.quotas.permissions as usize {
                    return Err(Error::NoSpace);
                }
                let perms = Perms::parse(perms)?;
                self.set_permissions(connection, tx, path, perms).map(done)
            }
            XS_TRANSACTION_END => {
                let commit = match only(body)? {
                    b"T" => true,
                    b"F" => false,
                    _ => return Err(Error::Invalid),
                };
                self.end_transaction(connection, tx, commit).map(done)
            }
            XS_GET_DOMAIN_PATH => {
                let id = number(only(body)?) as u32;
                Ok(format!("/local/domain/{id}\0").into_bytes())
            }
            XS_IS_DOMAIN_INTRODUCED => {
                let introduced = match domain(only(body)?) {
                    Ok(DomainId::SELF) => true,
                    Ok(id) => self.is_introduced(id),
                    Err(_) => false,
                };
                Ok(if introduced { b"T\0" } else { b"F\0" }.to_vec())
            }
            XS_RESET_WATCHES => {
                self.drop_watches(connection);
                self.drop_transactions(connection);
                Ok(OK.to_vec())
            }
            XS_INTRODUCE => match texts(body).as_slice() {
                [id, gfn, port, ..] => {
                    let port = u32::try_from(number(port)).map_err(|_| Error::Invalid)?;
                    let id = domain(id)?;
                    if port == 0 || !id.is_ordinary() || id == DomainId::DOM0 {
                        return Err(Error::Invalid);
                    }
                    self.introduce(id, number(gfn) as u64, port).map(done)
                }
                _ => Err(Error::Invalid),
            },
            XS_RELEASE => self.release(other_domain(body)?).map(done),
            XS_RESUME => self.resume(other_domain(body)?).map(done),
            XS_SET_TARGET => match texts(body).as_slice() {
                [id, target, ..] => self.set_target(domain(id)?, domain(target)?).map(done),
                _ => Err(Error::Invalid),
            },
            XS_CONTROL => self.control(body),
            _ => Err(Error::NotImplemented),
        }
    }

    /// `XS_DIRECTORY_PART`: the node's generation, and names from a byte on.
    fn directory_part(
        &mut self,
        connection: ConnectionId,
        tx: u32,
        body: &[u8],
    ) -> Result<Vec<u8>> {
        let [path, offset] = texts(body)[..] else {
            return Err(Error::Invalid);
        };
        let node = self.node(connection, tx, path, Access::READ)?;
        let mut out = format!("{}\0", node.generation).into_bytes();
        let rest = usize::try_from(number(offset))
            .ok()
            .and_then(|offset| node.children.get(offset..))
            .unwrap_or_default();
        let mut left = rest;
        while let Some(end) = left.iter().position(|&byte| byte == 0) {
            // With room for the zero that says that there is no more.
            if out.len() + end + 2 > PAYLOAD_MAX {
                return Ok(out);
            }
            out.extend_from_slice(left.get(..=end).unwrap_or_default());
            left = left.get(end + 1..).unwrap_or_default();
        }
        out.push(0);
        Ok(out)
    }

    /// Puts a reply out.
    fn reply(&mut self, connection: ConnectionId, header: &Header, answer: Result<Vec<u8>>) {
        let Ok(who) = self.who(connection) else {
            return;
        };
        let answer = match answer {
            Ok(body) if body.len() > PAYLOAD_MAX => Err(Error::TooBig),
            Ok(body) if body.len() > SMALL_REPLY && !who.is_privileged() => {
                match self.charge(who.domain, body.len() + HEADER_SIZE, true) {
                    Ok(()) => {
                        self.credit(who.domain, body.len() + HEADER_SIZE);
                        Ok(body)
                    }
                    Err(error) => Err(error),
                }
            }
            other => other,
        };
        let (kind, body) = match answer {
            Ok(body) => (header.kind, body),
            Err(error) => (XS_ERROR, format!("{}\0", error_name(error)).into_bytes()),
        };
        let header = Header {
            kind,
            length: body.len() as u32,
            ..*header
        };
        let message = Message::new(&header, &body, Payload::Reply);
        let _ = self.charge(who.domain, message.len(), false);
        if let Some(domain) = self.domains.get_mut(&who.domain) {
            domain.outstanding = domain.outstanding.saturating_add(1);
        }
        self.put_out(connection, message);
    }

    /// Appends a message that was charged.
    pub(super) fn put_out(&mut self, connection: ConnectionId, message: Message) {
        let Some(there) = self.connections.get_mut(&connection) else {
            return;
        };
        there.waiting = there.waiting.saturating_add(message.len());
        if message.is_event() {
            there.events = there.events.saturating_add(message.len());
        }
        there.output.push_back(message);
        self.ring_output |= !there.internal;
    }

    /// Takes the next message off a connection.
    pub(super) fn take_message(&mut self, connection: ConnectionId) -> Option<Message> {
        let there = self.connections.get_mut(&connection)?;
        let message = there.output.pop_front()?;
        there.waiting = there.waiting.saturating_sub(message.len());
        if message.is_event() {
            there.events = there.events.saturating_sub(message.len());
        }
        self.message_gone(connection, &message);
        Some(message)
    }

    /// Takes back what a message was charged, now that it was fetched or dropped.
    pub(super) fn message_gone(&mut self, connection: ConnectionId, message: &Message) {
        let Ok(who) = self.who(connection) else {
            return;
        };
        self.credit(who.domain, message.len());
        let held_back = match message.payload {
            Payload::Reply => Some(who.domain),
            Payload::Event { origin } => origin,
        };
        if let Some(domain) = held_back.and_then(|domain| self.domains.get_mut(&domain)) {
            domain.outstanding = domain.outstanding.saturating_sub(1);
        }
    }

    /// Whether requests of a connection are to be taken now.
    pub(super) fn may_request(&self, connection: ConnectionId) -> bool {
        let Some(there) = self.connections.get(&connection) else {
            return false;
        };
        if there.ignored || there.waiting > super::MAX_WAITING.saturating_add(there.events) {
            return false;
        }
        there.who.is_privileged()
            || self.domains.get(&there.who.domain).is_some_and(|domain| {
                domain.outstanding < self.quotas.outstanding
                    && domain.memory < self.quotas.memory.into()
            })
    }
}

/// The only argument as a domain other than Dom0 that is connected.
fn other_domain(body: &[u8]) -> Result<DomainId> {
    match domain(only(body)?) {
        Ok(DomainId::DOM0) => Err(Error::Invalid),
        other => other,
    }
}
