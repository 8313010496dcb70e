//! Domains as the store sees them: who there is, and what each has.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use xen_abi::io_xs_wire::XENSTORE_RECONNECT;

use super::ring::Ring;
use super::tree::Node;
use super::{ConnectionId, DomainState, Host, Request, Store, Who, path};
use crate::error::{Error, Result};
use crate::ids::DomainId;

/// What the store knows of a domain: one that is connected, or that owns or may use nodes.
#[derive(Default)]
pub(super) struct Domain {
    /// Its connection, if it has one.
    pub(super) connection: Option<ConnectionId>,
    /// It was seen to have shut down.
    shut_down: bool,
    /// Nodes that it owns.
    pub(super) nodes: u32,
    /// Bytes counted against it.
    pub(super) memory: u64,
    /// Its watches.
    pub(super) watches: u32,
    /// Replies to it, and events of its doing at others, that were not fetched.
    pub(super) outstanding: u32,
    /// It was said that it reached its quota of memory.
    pub(super) over_quota: bool,
}

/// What is done on nobody's request.
const NOBODY: Who = Who {
    domain: DomainId::XEN,
    target: None,
};

/// Has the entries for a domain in a node's permissions say nothing from now on. Says
/// whether there were any.
pub(super) fn ignore_in(node: &mut Arc<Node>, domain: DomainId) -> bool {
    let named = |node: &Node| {
        let mut entries = node.perms.entries().iter();
        entries.any(|perm| perm.domain == u32::from(domain.0) && !perm.ignored)
    };
    if !named(node) {
        return false;
    }
    for perm in Arc::make_mut(node).perms.entries_mut() {
        perm.ignored |= perm.domain == u32::from(domain.0);
    }
    true
}

impl<H: Host> Store<H> {
    /// Makes a record of a domain, if there is such a one. Says whether there is.
    pub(super) fn know(&mut self, domain: DomainId) -> bool {
        if self.domains.contains_key(&domain) {
            return true;
        }
        let there = domain.is_ordinary() && self.host.domain_state(domain) != DomainState::Gone;
        if there {
            self.domains.insert(domain, Domain::default());
        }
        there
    }

    /// Counts a node more or less for a domain; `false` if there is no such domain.
    pub(super) fn count_nodes(&mut self, owner: DomainId, change: i64) -> bool {
        let known = self.know(owner);
        if let Some(domain) = self.domains.get_mut(&owner) {
            let nodes = i64::from(domain.nodes).saturating_add(change);
            domain.nodes = u32::try_from(nodes).unwrap_or(0);
        }
        known
    }

    /// Whether a domain is connected.
    pub fn is_introduced(&self, domain: DomainId) -> bool {
        self.connection_of(domain).is_some()
    }

    pub(super) fn connection_of(&self, domain: DomainId) -> Option<ConnectionId> {
        self.domains.get(&domain)?.connection
    }

    /// Connects a domain through a ring (`XS_INTRODUCE`), or binds its event channel anew
    /// if it is connected. Its ring is emptied, and what was under way forgotten.
    pub fn introduce(&mut self, domain: DomainId, gfn: u64, port: u32) -> Result<()> {
        if !self.know(domain) {
            return Err(Error::NoEntry);
        }
        let old = self.connection_of(domain);
        if old.is_none() && !self.host.has_memory() {
            return Err(Error::NoMemory);
        }
        self.host.introduce(domain, gfn, port)?;
        let connection = match old {
            Some(connection) => {
                self.clear_connection(connection);
                if let Some(there) = self.connections.get_mut(&connection) {
                    there.ignored = false;
                }
                connection
            }
            None => self.add_connection(domain, false),
        };
        if let Some(entry) = self.domains.get_mut(&domain) {
            entry.connection = Some(connection);
            entry.shut_down = false;
            entry.outstanding = 0;
        }
        if let Some(frame) = self.host.ring(domain) {
            let ring = Ring::new(frame);
            ring.reset();
            ring.advertise();
            if ring.connection_state() == XENSTORE_RECONNECT {
                ring.set_connected();
                self.host.notify(domain);
            }
        }
        if old.is_none() && domain != DomainId::DOM0 {
            self.emit(NOBODY, "@introduceDomain", None, true, None);
        }
        Ok(())
    }

    /// Ends a domain's connection (`XS_RELEASE`); its nodes go. `NoEntry` if it has none.
    pub fn release(&mut self, domain: DomainId) -> Result<()> {
        self.connection_of(domain).ok_or(Error::NoEntry)?;
        self.remove_domain(domain);
        Ok(())
    }

    /// Ends a domain's connection, if it has one. Its nodes stay.
    pub fn disconnect(&mut self, domain: DomainId) {
        let Some(connection) = self.connection_of(domain) else {
            return;
        };
        self.remove_connection(connection);
        self.host.release(domain);
        if let Some(entry) = self.domains.get_mut(&domain) {
            entry.connection = None;
        }
    }

    /// `XS_RESUME`: the domain's next shutdown is told of again.
    pub fn resume(&mut self, domain: DomainId) -> Result<()> {
        self.connection_of(domain).ok_or(Error::NoEntry)?;
        if let Some(entry) = self.domains.get_mut(&domain) {
            entry.shut_down = false;
        }
        Ok(())
    }

    /// `XS_SET_TARGET`: a domain gets another's rights as well.
    pub fn set_target(&mut self, domain: DomainId, target: DomainId) -> Result<()> {
        let connection = self.connection_of(domain).ok_or(Error::NoEntry)?;
        self.connection_of(target).ok_or(Error::NoEntry)?;
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.who.target = Some(target);
        }
        Ok(())
    }

    /// Looks which domains shut down or went since this was last called, and does what
    /// is to be done then. To be called after any domain did.
    pub fn check_domains(&mut self) {
        let ids: Vec<DomainId> = self.domains.keys().copied().collect();
        let mut shut_down = false;
        for id in ids.into_iter().filter(|&id| id != DomainId::XEN) {
            match self.host.domain_state(id) {
                DomainState::Gone if id != DomainId::DOM0 => self.remove_domain(id),
                DomainState::ShutDown => {
                    if let Some(domain) = self.domains.get_mut(&id)
                        && domain.connection.is_some()
                        && !core::mem::replace(&mut domain.shut_down, true)
                    {
                        shut_down = true;
                    }
                }
                _ => {}
            }
        }
        if shut_down {
            self.emit(NOBODY, "@releaseDomain", None, true, None);
        }
    }

    /// Forgets a domain: its connection, its nodes, and its rights.
    fn remove_domain(&mut self, domain: DomainId) {
        let connection = self.connection_of(domain);
        if let Some(connection) = connection {
            self.remove_connection(connection);
            self.host.release(domain);
        }
        self.remove_nodes_of(domain);
        for connection in self.connections.values_mut() {
            if connection.who.target == Some(domain) {
                connection.who.target = None;
            }
            for transaction in connection.transactions.values_mut() {
                transaction.forget_domain(domain);
            }
        }
        for perms in [&mut self.introduce_perms, &mut self.release_perms] {
            for perm in perms.entries_mut() {
                perm.ignored |= perm.domain == u32::from(domain.0);
            }
            if perms.owner() == domain {
                perms.set_owner(DomainId::DOM0);
            }
        }
        self.domains.remove(&domain);
        if connection.is_some() {
            self.emit(NOBODY, "@releaseDomain", None, true, None);
        }
    }

    /// Removes the nodes that a domain owns, and has it named by no permission.
    fn remove_nodes_of(&mut self, domain: DomainId) {
        let owned: BTreeSet<String> = self
            .tree
            .iter()
            .filter(|(path, node)| node.perms.owner() == domain && ***path != *"/")
            .map(|(path, _)| String::from(&**path))
            .collect();
        let mut request = Request {
            who: NOBODY,
            transaction: None,
        };
        for path in &owned {
            // What goes with a node above is not asked for again.
            if !path::ancestors(path)
                .skip(1)
                .any(|above| owned.contains(above))
                && let Err(error) = self.remove_tree(&mut request, path)
            {
                log::error!("xenstore: {path} of {domain} cannot be removed: {error:?}");
            }
        }
        let mut generation = self.generation;
        for (_, node) in self.tree.iter_mut() {
            if ignore_in(node, domain) {
                // So that a transaction that has seen it is not committed.
                generation = generation.wrapping_add(1);
                Arc::make_mut(node).generation = generation;
            }
        }
        self.generation = generation;
    }
}
