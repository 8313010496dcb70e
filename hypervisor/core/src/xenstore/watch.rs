//! Watches: who is told of which change.
//!
//! Watches are found by their paths, so that a change costs as many look-ups as its path
//! has components, however many watches there are.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use xen_abi::io_xs_wire::{XENSTORE_PAYLOAD_MAX, XS_WATCH_EVENT};

use super::perms::{Access, Perms};
use super::wire::{Header, Message, Payload};
use super::{ConnectionId, Host, PRIVILEGED_EVENTS, PRIVILEGED_WATCHES, Store, Who, path};
use crate::error::{Error, Result};
use crate::ids::DomainId;

/// A watch.
pub(super) struct Watch {
    connection: ConnectionId,
    /// In which order watches were set.
    sequence: u64,
    path: Arc<str>,
    token: Box<[u8]>,
    /// It was set on a relative path: this many bytes are left out in its events.
    prefix: usize,
}

impl Watch {
    /// A changed path as this watch's events show it.
    fn shown<'p>(&self, path: &'p str) -> &'p str {
        path.get(self.prefix..).unwrap_or(path)
    }
}

/// All watches by path.
#[derive(Default)]
pub(super) struct WatchIndex {
    by_path: BTreeMap<Arc<str>, Vec<Arc<Watch>>>,
    next_sequence: u64,
}

impl WatchIndex {
    fn remove(&mut self, watch: &Arc<Watch>) {
        if let Some(list) = self.by_path.get_mut(&watch.path) {
            list.retain(|other| !Arc::ptr_eq(other, watch));
            if list.is_empty() {
                self.by_path.remove(&watch.path);
            }
        }
    }
}

/// A change that a connection in the hypervisor is told of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatchEvent {
    /// What changed, or came to be, or went; at first the watch's own path.
    pub path: String,
    /// The watch's token.
    pub token: Vec<u8>,
}

impl<H: Host> Store<H> {
    /// Sets a watch (`XS_WATCH`): an event comes at once, and then one for each change of
    /// the path or what is below it. Paths that begin with `@` are special events.
    ///
    /// Errors: `Invalid` no such path; `Exists` the same watch is set; `TooBig` too many;
    /// `NoMemory`.
    pub fn watch(
        &mut self,
        connection: ConnectionId,
        path: impl AsRef<[u8]>,
        token: impl AsRef<[u8]>,
    ) -> Result<()> {
        let watch = self.add_watch(connection, path.as_ref(), token.as_ref())?;
        self.first_event(connection, &watch);
        Ok(())
    }

    /// Sets a watch without its first event.
    pub(super) fn add_watch(
        &mut self,
        connection: ConnectionId,
        path: &[u8],
        token: &[u8],
    ) -> Result<Arc<Watch>> {
        let who = self.who(connection)?;
        let special = path.first() == Some(&b'@');
        let path = if special {
            if path.len() > path::RELATIVE_MAX {
                return Err(Error::Invalid);
            }
            String::from(core::str::from_utf8(path).map_err(|_| Error::Invalid)?)
        } else {
            let relative = path.first() != Some(&b'/');
            let absolute = path::checked(who.domain, path, self.quotas.path_max)?;
            let prefix = if relative {
                absolute.len() - path.len()
            } else {
                0
            };
            return self.insert_watch(connection, who, &absolute, token, prefix);
        };
        self.insert_watch(connection, who, &path, token, 0)
    }

    fn insert_watch(
        &mut self,
        connection: ConnectionId,
        who: Who,
        path: &str,
        token: &[u8],
        prefix: usize,
    ) -> Result<Arc<Watch>> {
        let there = self.watches.by_path.get(path);
        let same = |watch: &Arc<Watch>| watch.connection == connection && *watch.token == *token;
        if there.is_some_and(|list| list.iter().any(same)) {
            return Err(Error::Exists);
        }
        let mine = self
            .connections
            .get(&connection)
            .map_or(0, |connection| connection.watches.len());
        let most = if who.is_privileged() {
            PRIVILEGED_WATCHES
        } else {
            self.quotas.watches as usize
        };
        if mine > most {
            return Err(Error::TooBig);
        }
        if !self.host.has_memory() {
            return Err(Error::NoMemory);
        }
        self.charge(who.domain, path.len() + token.len(), true)?;
        let sequence = self.watches.next_sequence;
        self.watches.next_sequence = sequence.wrapping_add(1);
        let watch = Arc::new(Watch {
            connection,
            sequence,
            path: Arc::from(path),
            token: Box::from(token),
            prefix,
        });
        self.watches
            .by_path
            .entry(watch.path.clone())
            .or_default()
            .push(watch.clone());
        if let Some(there) = self.connections.get_mut(&connection) {
            there.watches.push(watch.clone());
        }
        if let Some(domain) = self.domains.get_mut(&who.domain) {
            domain.watches = domain.watches.saturating_add(1);
        }
        Ok(watch)
    }

    /// Sends a new watch its first event.
    pub(super) fn first_event(&mut self, connection: ConnectionId, watch: &Watch) {
        let shown = watch.shown(&watch.path);
        self.send_event(connection, shown, &watch.token, None);
    }

    /// Takes a watch back (`XS_UNWATCH`). `NoEntry` if there is none like that.
    pub fn unwatch(
        &mut self,
        connection: ConnectionId,
        path: impl AsRef<[u8]>,
        token: impl AsRef<[u8]>,
    ) -> Result<()> {
        let there = self
            .connections
            .get_mut(&connection)
            .ok_or(Error::Invalid)?;
        let path = core::str::from_utf8(path.as_ref()).map_err(|_| Error::NoEntry)?;
        let path = path::absolute(there.who.domain, path);
        let at = there
            .watches
            .iter()
            .position(|watch| *watch.path == *path && *watch.token == *token.as_ref());
        let watch = there.watches.remove(at.ok_or(Error::NoEntry)?);
        let domain = there.who.domain;
        self.forget_watch(domain, &watch);
        Ok(())
    }

    fn forget_watch(&mut self, domain: DomainId, watch: &Arc<Watch>) {
        self.watches.remove(watch);
        self.credit(domain, watch.path.len() + watch.token.len());
        if let Some(domain) = self.domains.get_mut(&domain) {
            domain.watches = domain.watches.saturating_sub(1);
        }
    }

    /// Whether somebody outside of the hypervisor who may do all has a watch on this very path.
    pub fn is_watched_by_tools(&self, path: &str) -> bool {
        let by_tools = |watch: &Arc<Watch>| {
            let there = self.connections.get(&watch.connection);
            there.is_some_and(|there| !there.internal && there.who.is_privileged())
        };
        let there = self.watches.by_path.get(path);
        there.is_some_and(|list| list.iter().any(by_tools))
    }

    /// Takes all watches of a connection back.
    pub(super) fn drop_watches(&mut self, connection: ConnectionId) {
        let Some(there) = self.connections.get_mut(&connection) else {
            return;
        };
        let domain = there.who.domain;
        for watch in core::mem::take(&mut there.watches) {
            self.forget_watch(domain, &watch);
        }
    }

    /// Sends the events of a change. `perms` are those of the node as it is or was, if it
    /// is not in the tree any more; `old_perms` those before the change; with `exact` only
    /// watches of this very path see it.
    pub(super) fn emit(
        &mut self,
        origin: Who,
        path: &str,
        perms: Option<&Perms>,
        exact: bool,
        old_perms: Option<&Perms>,
    ) {
        let mut found: Vec<Arc<Watch>> = Vec::new();
        for above in path::ancestors(path).take(if exact { 1 } else { usize::MAX }) {
            if let Some(list) = self.watches.by_path.get(above) {
                found.extend(list.iter().cloned());
            }
        }
        found.sort_unstable_by_key(|watch| watch.sequence);
        for watch in found {
            let Ok(who) = self.who(watch.connection) else {
                continue;
            };
            if self.may_see(who, path, perms, old_perms) {
                let shown = watch.shown(path);
                self.send_event(watch.connection, shown, &watch.token, Some(origin));
            }
        }
    }

    /// Whether somebody may know of a change: who may read the node, or could before, or
    /// may read its parent.
    fn may_see(
        &self,
        who: Who,
        path: &str,
        perms: Option<&Perms>,
        old_perms: Option<&Perms>,
    ) -> bool {
        let readable = |perms: &Perms| who.access(perms).contains(Access::READ);
        match path {
            "@introduceDomain" => return readable(&self.introduce_perms),
            "@releaseDomain" => return readable(&self.release_perms),
            _ => {}
        }
        if old_perms.is_some_and(readable) {
            return true;
        }
        let in_tree = |path: &str| self.tree.get(path).map(|node| &node.perms);
        let Some(perms) = perms.or_else(|| in_tree(path)) else {
            return false;
        };
        readable(perms) || in_tree(path::split(path).0).is_some_and(readable)
    }

    /// Puts out an event, unless the same one waits already or there is no room.
    fn send_event(
        &mut self,
        connection: ConnectionId,
        path: &str,
        token: &[u8],
        origin: Option<Who>,
    ) {
        let length = path.len() + token.len() + 2;
        let Some(there) = self.connections.get(&connection) else {
            return;
        };
        if length > XENSTORE_PAYLOAD_MAX as usize || there.ignored {
            return;
        }
        let mut body = Vec::with_capacity(length);
        body.extend_from_slice(path.as_bytes());
        body.push(0);
        body.extend_from_slice(token);
        body.push(0);
        let header = Header {
            kind: XS_WATCH_EVENT,
            request: 0,
            transaction: 0,
            length: length as u32,
        };
        let same = |message: &Message| message.is_event() && message.body() == body;
        if !path.starts_with('@') && there.output.iter().any(same) {
            return;
        }
        let (who, internal) = (there.who, there.internal);
        if who.is_privileged() && there.events.saturating_add(length) > PRIVILEGED_EVENTS {
            log::warn!(
                "xenstore: an event for {} is lost: too many wait",
                who.domain
            );
            return;
        }
        let mut message = Message::new(&header, &body, Payload::Event { origin: None });
        if self
            .charge(who.domain, message.len(), !who.is_privileged())
            .is_err()
        {
            return;
        }
        // Whoever fills a queue that has no quota of its own waits for it to be emptied.
        if who.is_privileged()
            && let Some(origin) = origin
            && !origin.is_privileged()
            && let Some(domain) = self.domains.get_mut(&origin.domain)
        {
            domain.outstanding = domain.outstanding.saturating_add(1);
            message = Message::new(
                &header,
                &body,
                Payload::Event {
                    origin: Some(origin.domain),
                },
            );
        }
        self.put_out(connection, message);
        if internal && !self.woken.contains(&connection) {
            self.woken.push(connection);
        }
    }

    /// The next event for a connection in the hypervisor.
    pub fn next_event(&mut self, connection: ConnectionId) -> Option<WatchEvent> {
        let message = self.take_message(connection)?;
        let mut parts = message.body().split(|&byte| byte == 0);
        let path = core::str::from_utf8(parts.next()?).ok()?;
        Some(WatchEvent {
            path: String::from(path),
            token: parts.next().unwrap_or_default().to_vec(),
        })
    }
}

#[cfg(test)]
impl<H> Store<H> {
    /// Whether there is no watch at all.
    pub(super) fn watches_are_empty(&self) -> bool {
        self.watches.by_path.is_empty()
    }
}
