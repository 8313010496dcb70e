//! Xenstore: the tree of names and values that domains, tools and backends meet in
//! (docs/misc/xenstore.txt of Xen 4.17; public header io/xs_wire.h).
//!
//! The server is the hypervisor's. A domain talks to it through its ring ([`ring`]);
//! backends in the hypervisor through a connection without one, whose operations are
//! plain calls ([`Store::add_client`]). Answers, errors, quotas and the order of watch
//! events are those of Xen 4.17's `xenstored`.
//!
//! # The pieces
//!
//! - [`tree`]: nodes by path. [`perms`]: who may do what. [`path`]: what a path is.
//! - [`ops`]: reading and changing. [`transaction`]: the same, held back until the end.
//! - [`watch`]: who is told of which change. [`domains`]: who there is.
//! - [`wire`]: requests and replies as bytes. [`ring`]: the shared page.
//!
//! # Invariants
//!
//! - Every node but the root has its parent, which names it once among its children.
//! - A node's generation grows with each change of it, and no two changes have the same.
//! - A transaction sees each node as it was when it first looked, with its own changes.
//!   It is committed only if no node that it read has changed since; so what it did
//!   happened at one moment, and otherwise nothing of it did (EAGAIN).
//! - What a domain makes the server hold (nodes, watches, transactions, replies and
//!   events not fetched yet) counts against quotas of that domain. A domain that does not
//!   fetch its replies is not served. Control domains have a quota of memory only.
//! - A domain whose ring makes no sense loses its connection, and nobody else anything.
//! - When a domain goes, so do its nodes, and no permission names it any more: a new
//!   domain of the same number inherits nothing.

mod control;
pub mod domains;
#[cfg(any(test, feature = "model"))]
pub mod model;
pub mod ops;
pub mod path;
pub mod perms;
#[cfg(test)]
mod property_tests;
pub mod ring;
#[cfg(test)]
mod tests;
pub mod transaction;
pub mod tree;
pub mod watch;
pub mod wire;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::error::{Error, Result};
use crate::ids::DomainId;
use crate::machine::Frame;
use domains::Domain;
use perms::{Access, Perms};
use transaction::Transaction;
use tree::Tree;
use watch::{Watch, WatchIndex};
use wire::{Input, Message};

/// What there is of a domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DomainState {
    /// No such domain, or one that is being destroyed.
    Gone,
    /// It runs, or could.
    Alive,
    /// It shut down or crashed.
    ShutDown,
}

/// What the store needs of the machine. Called with the store's lock held.
pub trait Host {
    /// What there is of a domain.
    fn domain_state(&self, domain: DomainId) -> DomainState;

    /// Connects a domain: takes hold of the page with its ring, and binds its event
    /// channel. If it is connected already, only the channel is bound anew.
    ///
    /// `gfn` and `port` are what the tools said (`XS_INTRODUCE`).
    fn introduce(&mut self, domain: DomainId, gfn: u64, port: u32) -> Result<()>;

    /// Gives up what [`Self::introduce`] took, if it did.
    fn release(&mut self, domain: DomainId);

    /// The page with a connected domain's ring.
    fn ring(&self, domain: DomainId) -> Option<&Frame>;

    /// Sends the event that says that the ring has changed.
    fn notify(&self, domain: DomainId);

    /// Whether there is memory for more: false refuses what would make the store grow.
    fn has_memory(&self) -> bool;
}

/// What a domain may have. Names and values are those of `xenstored`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quotas {
    /// Nodes (`nodes`).
    pub nodes: u32,
    /// Watches (`watches`).
    pub watches: u32,
    /// Transactions at a time (`transactions`).
    pub transactions: u32,
    /// Requests whose replies, or whose events at others, were not fetched (`outstanding`).
    pub outstanding: u32,
    /// Nodes that a transaction may look at (`transaction-nodes`).
    pub transaction_nodes: u32,
    /// Bytes from which the server complains (`memory`, soft).
    pub memory_soft: u32,
    /// Bytes from which the server refuses (`memory`).
    pub memory: u32,
    /// Bytes of a node, with its permissions and the names of its children (`node-size`).
    pub node_size: u32,
    /// Bytes of a path below `/local/domain/<domid>/` (`path-max`).
    pub path_max: u32,
    /// Permissions of a node (`permissions`).
    pub permissions: u32,
    /// As `memory`, for the control domain, and for the hypervisor's own connections.
    pub privileged_memory: u64,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            nodes: 1000,
            watches: 128,
            transactions: 10,
            outstanding: 20,
            transaction_nodes: 1024,
            memory_soft: 2 << 20,
            memory: (2 << 20) + (512 << 10),
            node_size: 2048,
            path_max: path::RELATIVE_MAX as u32,
            permissions: 5,
            privileged_memory: 16 << 20,
        }
    }
}

/// Most watches of one control domain's connection, or of one in the hypervisor.
const PRIVILEGED_WATCHES: usize = 16_384;
/// Most transactions of such a connection.
const PRIVILEGED_TRANSACTIONS: usize = 1024;
/// Most bytes of events that wait for such a connection.
const PRIVILEGED_EVENTS: usize = 4 << 20;
/// A connection for which more bytes than this wait is not served.
const MAX_WAITING: usize = 64 << 10;

/// A connection: a domain's ring, or somebody in the hypervisor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionId(u32);

/// Whose rights a request has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Who {
    /// The domain.
    domain: DomainId,
    /// The domain on whose behalf it acts as well (`XS_SET_TARGET`).
    target: Option<DomainId>,
}

impl Who {
    /// Whether rights and quotas do not apply to it.
    fn is_privileged(self) -> bool {
        is_privileged(self.domain)
    }

    /// What it may do where these permissions are.
    fn access(self, perms: &Perms) -> Access {
        if self.is_privileged() {
            return Access::all();
        }
        let mine = |id: u32| {
            id == u32::from(self.domain.0)
                || self.target.is_some_and(|target| id == u32::from(target.0))
        };
        perms.access(mine)
    }
}

/// Whether a domain is above rights and quotas: the control domain and the hypervisor.
pub(crate) fn is_privileged(domain: DomainId) -> bool {
    domain == DomainId::DOM0 || domain == DomainId::XEN
}

struct Connection {
    who: Who,
    watches: Vec<Arc<Watch>>,
    transactions: BTreeMap<u32, Transaction>,
    next_transaction: u32,
    /// The request that is coming in.
    input: Input,
    /// What goes out, the first first.
    output: VecDeque<Message>,
    /// Bytes of `output`.
    waiting: usize,
    /// Bytes of events in `output`.
    events: usize,
    /// Its ring made no sense: it is not looked at any more.
    ignored: bool,
    /// It has no ring: its events are fetched by [`Store::next_event`].
    internal: bool,
}

impl Connection {
    fn new(domain: DomainId, internal: bool) -> Self {
        Self {
            who: Who {
                domain,
                target: None,
            },
            watches: Vec::new(),
            transactions: BTreeMap::new(),
            next_transaction: 1,
            input: Input::default(),
            output: VecDeque::new(),
            waiting: 0,
            events: 0,
            ignored: false,
            internal,
        }
    }
}

/// One request's surroundings.
pub(crate) struct Request {
    who: Who,
    /// The transaction that it belongs to, taken out of the connection meanwhile.
    transaction: Option<(u32, Transaction)>,
}

/// The store.
pub struct Store<H> {
    /// The machine.
    pub host: H,
    /// What domains may have.
    pub quotas: Quotas,
    tree: Tree,
    generation: u64,
    connections: BTreeMap<ConnectionId, Connection>,
    next_connection: u32,
    /// The connection that is served first in the next run.
    next_served: ConnectionId,
    domains: BTreeMap<DomainId, Domain>,
    watches: WatchIndex,
    /// Who may see `@introduceDomain`.
    introduce_perms: Perms,
    /// Who may see `@releaseDomain`.
    release_perms: Perms,
    /// Something was put out for a domain's ring.
    ring_output: bool,
    /// Connections in the hypervisor for which events came.
    woken: Vec<ConnectionId>,
    /// Requests are logged.
    trace: bool,
}

impl<H: Host> Store<H> {
    /// A store with the nodes that `xenstored` starts with.
    pub fn new(host: H, quotas: Quotas) -> Self {
        let mut store = Self {
            host,
            quotas,
            tree: Tree::new(DomainId::DOM0),
            generation: 1,
            connections: BTreeMap::new(),
            next_connection: 0,
            next_served: ConnectionId(0),
            domains: BTreeMap::new(),
            watches: WatchIndex::default(),
            introduce_perms: Perms::owned_by(DomainId::DOM0),
            release_perms: Perms::owned_by(DomainId::DOM0),
            ring_output: false,
            woken: Vec::new(),
            trace: false,
        };
        for domain in [DomainId::DOM0, DomainId::XEN] {
            store.domains.insert(domain, Domain::default());
        }
        let sizes = store.tree.sizes();
        if let Some(dom0) = store.domains.get_mut(&DomainId::DOM0) {
            dom0.nodes = sizes.0;
            dom0.memory = sizes.1;
        }
        let client = store.add_client();
        // Cannot fail: nothing is there that could be in the way.
        let _ = store.mkdir(client, 0, "/tool/xenstored");
        store.remove_connection(client);
        store
    }

    /// A connection for somebody in the hypervisor, with the hypervisor's rights. Its
    /// operations are the functions of [`ops`], [`watch`] and [`transaction`].
    pub fn add_client(&mut self) -> ConnectionId {
        self.add_connection(DomainId::XEN, true)
    }

    fn add_connection(&mut self, domain: DomainId, internal: bool) -> ConnectionId {
        let mut id = ConnectionId(self.next_connection);
        while self.connections.contains_key(&id) {
            id = ConnectionId(id.0.wrapping_add(1));
        }
        self.next_connection = id.0.wrapping_add(1);
        self.connections
            .insert(id, Connection::new(domain, internal));
        id
    }

    /// Ends a connection: its watches, transactions and events go.
    pub fn remove_connection(&mut self, id: ConnectionId) {
        self.clear_connection(id);
        self.connections.remove(&id);
        self.woken.retain(|&woken| woken != id);
    }

    /// Drops all that a connection has under way.
    fn clear_connection(&mut self, id: ConnectionId) {
        self.drop_watches(id);
        self.drop_transactions(id);
        while let Some(message) = self
            .connections
            .get_mut(&id)
            .and_then(|connection| connection.output.pop_front())
        {
            self.message_gone(id, &message);
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.input = Input::default();
            connection.waiting = 0;
            connection.events = 0;
        }
    }

    /// Whether something was put out for a domain's ring since this was last asked:
    /// [`Self::serve`] is then to be called.
    pub fn take_ring_output(&mut self) -> bool {
        core::mem::take(&mut self.ring_output)
    }

    /// The connections in the hypervisor for which events came since this was last asked.
    pub fn take_woken(&mut self) -> Vec<ConnectionId> {
        core::mem::take(&mut self.woken)
    }

    fn who(&self, id: ConnectionId) -> Result<Who> {
        let connection = self.connections.get(&id).ok_or(Error::Invalid)?;
        Ok(connection.who)
    }

    /// Runs a request with its transaction (0: none) at hand.
    fn request<R>(
        &mut self,
        connection: ConnectionId,
        transaction: u32,
        run: impl FnOnce(&mut Self, &mut Request) -> Result<R>,
    ) -> Result<R> {
        let there = self
            .connections
            .get_mut(&connection)
            .ok_or(Error::Invalid)?;
        let transaction = match transaction {
            0 => None,
            id => Some((id, there.transactions.remove(&id).ok_or(Error::NoEntry)?)),
        };
        let mut request = Request {
            who: there.who,
            transaction,
        };
        let result = run(self, &mut request);
        if let Some((id, transaction)) = request.transaction.take() {
            match self.connections.get_mut(&connection) {
                Some(there) => {
                    there.transactions.insert(id, transaction);
                }
                None => self.forget_transaction(request.who, &transaction),
            }
        }
        result
    }

    fn next_generation(&mut self) -> u64 {
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    /// Counts bytes against a domain. `NoMemory` if `check` and they are too many; then
    /// nothing is counted.
    fn charge(&mut self, domain: DomainId, bytes: usize, check: bool) -> Result<()> {
        let limit = if is_privileged(domain) {
            self.quotas.privileged_memory
        } else {
            self.quotas.memory.into()
        };
        let Some(entry) = self.domains.get_mut(&domain) else {
            return Ok(());
        };
        let held = entry.memory.saturating_add(bytes as u64);
        if check && held >= limit {
            if !entry.over_quota {
                entry.over_quota = true;
                log::warn!(
                    target: "guest",
                    "xenstore: {domain} has reached its quota of memory"
                );
            }
            return Err(Error::NoMemory);
        }
        entry.memory = held;
        Ok(())
    }

    /// Takes back what [`Self::charge`] counted.
    fn credit(&mut self, domain: DomainId, bytes: usize) {
        if let Some(entry) = self.domains.get_mut(&domain) {
            entry.memory = entry.memory.saturating_sub(bytes as u64);
            if entry.memory < self.quotas.memory_soft.into() {
                entry.over_quota = false;
            }
        }
    }
}
