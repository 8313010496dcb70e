//! Transactions: changes that are held back, and made at once or not at all.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::tree::Node;
use super::{ConnectionId, Host, PRIVILEGED_TRANSACTIONS, Request, Store, Who, is_privileged};
use crate::error::{Error, Result};
use crate::ids::DomainId;

/// What a transaction knows of a node.
struct AccessedNode {
    /// As it was outside when the transaction first looked; `None`: there was none.
    base: Option<Arc<Node>>,
    /// As it is in the transaction.
    node: Option<Arc<Node>>,
    /// Whether the transaction changed it.
    modified: bool,
    /// The event of the change, and whether only watches of this very path see it.
    event: Option<bool>,
    /// Bytes charged for it.
    charged: usize,
}

/// A transaction that is under way.
#[derive(Default)]
pub(super) struct Transaction {
    accessed: BTreeMap<Arc<str>, AccessedNode>,
    /// The paths of `accessed`, in the order in which they came.
    order: Vec<Arc<str>>,
    /// By how many each domain's nodes change.
    deltas: BTreeMap<DomainId, i64>,
    /// A node was made.
    created: bool,
    /// It can only fail.
    failed: bool,
}

impl Transaction {
    pub(super) fn fail(&mut self) {
        self.failed = true;
    }

    pub(super) fn node_created(&mut self) {
        self.created = true;
    }

    pub(super) fn count_nodes(&mut self, owner: DomainId, change: i64) {
        let delta = self.deltas.entry(owner).or_insert(0);
        *delta = delta.saturating_add(change);
    }

    /// Notes an event, to be sent at the end.
    pub(super) fn queue_event(&mut self, path: &str, exact: bool) {
        match self.accessed.get_mut(path) {
            // An event for all watches above is more than one for this path's own.
            Some(entry) => entry.event = Some(exact && entry.event.unwrap_or(true)),
            None => self.failed = true,
        }
    }

    /// A domain has gone: what the transaction holds must not name it any more.
    pub(super) fn forget_domain(&mut self, domain: DomainId) {
        for entry in self.accessed.values_mut().filter(|entry| entry.modified) {
            let Some(node) = &mut entry.node else {
                continue;
            };
            if node.perms.owner() == domain {
                self.failed = true;
            }
            super::domains::ignore_in(node, domain);
        }
    }
}

impl<H: Host> Store<H> {
    /// A node as a request sees it. `NoSpace` if its transaction may not look at more.
    pub(super) fn read_node(
        &mut self,
        request: &mut Request,
        path: &str,
    ) -> Result<Option<Arc<Node>>> {
        let Some((_, transaction)) = &mut request.transaction else {
            return Ok(self.tree.get(path).cloned());
        };
        if let Some(entry) = transaction.accessed.get(path) {
            return Ok(entry.node.clone());
        }
        let base = self.tree.get(path).cloned();
        let charged = path.len() + base.as_ref().map_or(0, |node| node.size());
        let full = !request.who.is_privileged()
            && transaction.accessed.len() >= self.quotas.transaction_nodes as usize;
        if full || self.charge(request.who.domain, charged, true).is_err() {
            transaction.failed = true;
            return Err(Error::NoSpace);
        }
        let path: Arc<str> = Arc::from(path);
        transaction.order.push(path.clone());
        transaction.accessed.insert(
            path,
            AccessedNode {
                base: base.clone(),
                node: base.clone(),
                modified: false,
                event: None,
                charged,
            },
        );
        Ok(base)
    }

    /// Writes a node that the request has read before. `NoSpace` if it is too large, `Io`
    /// if there is too much already (as `xenstored` says); with `check` only.
    pub(super) fn write_node(
        &mut self,
        request: &mut Request,
        path: &Arc<str>,
        mut node: Node,
        check: bool,
    ) -> Result<()> {
        node.generation = self.next_generation();
        let size = node.size();
        let result =
            if check && !request.who.is_privileged() && size >= self.quotas.node_size as usize {
                Err(Error::NoSpace)
            } else if check && !self.host.has_memory() {
                Err(Error::NoMemory)
            } else {
                match &mut request.transaction {
                    None => return self.write_through(path, node, check),
                    Some((_, transaction)) => {
                        self.write_held_back(request.who, transaction, path, node, check)
                    }
                }
            };
        if result.is_err()
            && let Some((_, transaction)) = &mut request.transaction
        {
            transaction.failed = true;
        }
        result
    }

    fn write_through(&mut self, path: &Arc<str>, node: Node, check: bool) -> Result<()> {
        let (owner, bytes) = (node.perms.owner(), path.len() + node.size());
        let before = self
            .tree
            .get(path)
            .map(|old| (old.perms.owner(), path.len() + old.size()));
        if let Some((owner, bytes)) = before {
            self.credit(owner, bytes);
        }
        if self.charge(owner, bytes, check).is_err() {
            if let Some((owner, bytes)) = before {
                let _ = self.charge(owner, bytes, false);
            }
            return Err(Error::Io);
        }
        self.tree.insert(path.clone(), Arc::new(node));
        Ok(())
    }

    fn write_held_back(
        &mut self,
        who: Who,
        transaction: &mut Transaction,
        path: &Arc<str>,
        node: Node,
        check: bool,
    ) -> Result<()> {
        let entry = transaction.accessed.get_mut(path).ok_or(Error::Io)?;
        let bytes = path.len() + node.size();
        self.credit(who.domain, entry.charged);
        if self.charge(who.domain, bytes, check).is_err() {
            let _ = self.charge(who.domain, entry.charged, false);
            return Err(Error::Io);
        }
        entry.charged = bytes;
        entry.node = Some(Arc::new(node));
        entry.modified = true;
        Ok(())
    }

    /// Deletes a node that the request has read before, and nothing else.
    pub(super) fn delete_node(&mut self, request: &mut Request, path: &str) {
        match &mut request.transaction {
            None => {
                if let Some(old) = self.tree.remove(path) {
                    self.credit(old.perms.owner(), path.len() + old.size());
                }
            }
            Some((_, transaction)) => {
                if let Some(entry) = transaction.accessed.get_mut(path) {
                    entry.node = None;
                    entry.modified = true;
                }
            }
        }
    }

    /// Starts a transaction (`XS_TRANSACTION_START`); gives its number. `NoSpace` if there
    /// are too many, `Busy` within another.
    pub fn start_transaction(&mut self, connection: ConnectionId, within: u32) -> Result<u32> {
        let there = self
            .connections
            .get_mut(&connection)
            .ok_or(Error::Invalid)?;
        if within != 0 {
            let known = there.transactions.contains_key(&within);
            return Err(if known { Error::Busy } else { Error::NoEntry });
        }
        let most = if there.who.is_privileged() {
            PRIVILEGED_TRANSACTIONS
        } else {
            self.quotas.transactions as usize
        };
        if there.transactions.len() > most {
            return Err(Error::NoSpace);
        }
        if !self.host.has_memory() {
            return Err(Error::NoMemory);
        }
        loop {
            let id = there.next_transaction;
            there.next_transaction = id.wrapping_add(1);
            if id != 0 && !there.transactions.contains_key(&id) {
                there.transactions.insert(id, Transaction::default());
                return Ok(id);
            }
        }
    }

    /// Ends a transaction (`XS_TRANSACTION_END`): makes its changes, or with `commit`
    /// false forgets them. `NoEntry` no such transaction; `Again` something that it
    /// read has changed; `NoSpace` and `NoMemory` for quotas. It is over in any case.
    pub fn end_transaction(
        &mut self,
        connection: ConnectionId,
        id: u32,
        commit: bool,
    ) -> Result<()> {
        let there = self
            .connections
            .get_mut(&connection)
            .ok_or(Error::Invalid)?;
        let who = there.who;
        let transaction = there.transactions.remove(&id).ok_or(Error::NoEntry)?;
        let result = if commit {
            self.check_commit(who, &transaction)
        } else {
            Ok(())
        };
        self.forget_transaction(who, &transaction);
        if commit && result.is_ok() {
            self.commit(who, transaction);
        }
        result
    }

    fn check_commit(&mut self, who: Who, transaction: &Transaction) -> Result<()> {
        if transaction.failed {
            return Err(Error::NoMemory);
        }
        let check_quota = transaction.created && !who.is_privileged();
        for (&owner, &delta) in &transaction.deltas {
            if !self.know(owner) {
                return Err(Error::NoMemory);
            }
            let nodes = self.domains.get(&owner).map_or(0, |domain| domain.nodes);
            let nodes = i64::from(nodes).saturating_add(delta);
            if check_quota && !is_privileged(owner) && nodes >= i64::from(self.quotas.nodes) {
                return Err(Error::NoSpace);
            }
        }
        for (path, entry) in &transaction.accessed {
            let generation = |node: Option<&Arc<Node>>| node.map(|node| node.generation);
            if generation(self.tree.get(path)) != generation(entry.base.as_ref()) {
                return Err(Error::Again);
            }
        }
        Ok(())
    }

    /// Makes a transaction's changes, which were checked.
    fn commit(&mut self, who: Who, mut transaction: Transaction) {
        for path in &transaction.order {
            let Some(entry) = transaction.accessed.get_mut(path) else {
                continue;
            };
            if !entry.modified {
                continue;
            }
            match &mut entry.node {
                Some(node) => {
                    let mut node = node.as_ref().clone();
                    node.generation = self.next_generation();
                    // Without a check, this cannot fail.
                    let _ = self.write_through(path, node, false);
                }
                None => {
                    if let Some(old) = self.tree.remove(path) {
                        self.credit(old.perms.owner(), path.len() + old.size());
                    }
                }
            }
        }
        for (owner, delta) in &transaction.deltas {
            if let Some(domain) = self.domains.get_mut(owner) {
                let nodes = i64::from(domain.nodes).saturating_add(*delta);
                domain.nodes = u32::try_from(nodes).unwrap_or(0);
            }
        }
        for path in &transaction.order {
            if let Some(entry) = transaction.accessed.get(path)
                && entry.modified
                && let Some(exact) = entry.event
            {
                let old = entry.base.as_ref().map(|node| &node.perms);
                self.emit(who, path, None, exact, old);
            }
        }
    }

    /// Takes back what a transaction was charged.
    pub(super) fn forget_transaction(&mut self, who: Who, transaction: &Transaction) {
        let bytes = transaction.accessed.values().map(|entry| entry.charged);
        self.credit(who.domain, bytes.fold(0, usize::saturating_add));
    }

    /// Ends all transactions of a connection, without their changes.
    pub(super) fn drop_transactions(&mut self, connection: ConnectionId) {
        let Some(there) = self.connections.get_mut(&connection) else {
            return;
        };
        let who = there.who;
        let transactions = core::mem::take(&mut there.transactions);
        for transaction in transactions.values() {
            self.forget_transaction(who, transaction);
        }
    }
}
