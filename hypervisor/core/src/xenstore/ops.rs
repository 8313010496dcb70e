//! Reading and changing nodes, as the requests of the protocol do.
//!
//! Each function takes the connection and its transaction, 0 for none. Paths may be
//! relative to the connection's domain (in the hypervisor: to Dom0). Errors, beside those
//! named: `Invalid` for what is no path; `NoEntry` if there is no such node, or
//! no such transaction; `Access` if the domain may not do that, or may not even know that
//! there is no such node; `NoSpace`, `NoMemory` and `Io` for quotas.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::perms::{Access, Perms};
use super::tree::Node;
use super::{ConnectionId, Host, Request, Store, path};
use crate::error::{Error, Result};
use crate::ids::DomainId;

impl<H: Host> Store<H> {
    /// A node's value (`XS_READ`).
    pub fn read(
        &mut self,
        connection: ConnectionId,
        transaction: u32,
        path: impl AsRef<[u8]>,
    ) -> Result<Vec<u8>> {
        let node = self.node(connection, transaction, path.as_ref(), Access::READ)?;
        Ok(node.value.clone())
    }

    /// A node's permissions (`XS_GET_PERMS`).
    pub fn permissions(
        &mut self,
        connection: ConnectionId,
        transaction: u32,
        path: impl AsRef<[u8]>,
    ) -> Result<Perms> {
        let node = self.node(connection, transaction, path.as_ref(), Access::READ)?;
        Ok(node.perms.clone())
    }

    /// The names of a node's children (`XS_DIRECTORY`).
    pub fn directory(
        &mut self,
        connection: ConnectionId,
        transaction: u32,
        path: impl AsRef<[u8]>,
    ) -> Result<Vec<String>> {
        let node = self.node(connection, transaction, path.as_ref(), Access::READ)?;
        Ok(node.child_names().map(String::from).collect())
    }

    /// A node that the connection's domain may use so.
    pub(super) fn node(
        &mut self,
        connection: ConnectionId,
        transaction: u32,
        path: &[u8],
        access: Access,
    ) -> Result<Arc<Node>> {
        self.request(connection, transaction, |store, request| {
            let path = store.checked_path(request, path)?;
            store.get_node(request, &path, access)
        })
    }

    fn checked_path(&self, request: &Request, path: &[u8]) -> Result<String> {
        path::checked(request.who.domain, path, self.quotas.path_max)
    }

    /// A node, if the request's domain has all of these rights.
    fn get_node(&mut self, request: &mut Request, path: &str, access: Access) -> Result<Arc<Node>> {
        let error = match self.read_node(request, path)? {
            Some(node) if request.who.access(&node.perms).contains(access) => return Ok(node),
            Some(_) => Error::Access,
            None => Error::NoEntry,
        };
        // Who may not look into the nearest node above is not told what there is.
        for above in path::ancestors(path).skip(1) {
            if let Some(node) = self.read_node(request, above)? {
                let known = request.who.access(&node.perms).intersects(access);
                return Err(if known { error } else { Error::Access });
            }
        }
        Err(Error::Access)
    }

    /// Writes a node's value; makes the node, and those above it, if there is none
    /// (`XS_WRITE`).
    pub fn write(
        &mut self,
        connection: ConnectionId,
        transaction: u32,
        path: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<()> {
        let value = value.as_ref();
        self.request(connection, transaction, |store, request| {
            let path = store.checked_path(request, path.as_ref())?;
            let node = match store.get_node(request, &path, Access::WRITE) {
                Ok(node) => {
                    let mut node = node.as_ref().clone();
                    node.value = value.to_vec();
                    store.write_node(request, &Arc::from(path.as_str()), node.clone(), true)?;
                    node
                }
                Err(Error::NoEntry) => store.create_node(request, &path, value)?,
                Err(error) => return Err(error),
            };
            store.fire(request, &path, &node, false, None);
            Ok(())
        })
    }

    /// Makes a node, and those above it, if there is none (`XS_MKDIR`).
    pub fn mkdir(
        &mut self,
        connection: ConnectionId,
        transaction: u32,
        path: impl AsRef<[u8]>,
    ) -> Result<()> {
        self.request(connection, transaction, |store, request| {
            let path = store.checked_path(request, path.as_ref())?;
            match store.get_node(request, &path, Access::WRITE) {
                Ok(_) => Ok(()),
                Err(Error::NoEntry) => {
                    let node = store.create_node(request, &path, &[])?;
                    store.fire(request, &path, &node, false, None);
                    Ok(())
                }
                Err(error) => Err(error),
            }
        })
    }

    /// Makes a node that is not there, and what is missing above it.
    fn create_node(&mut self, request: &mut Request, path: &str, value: &[u8]) -> Result<Node> {
        // From the node up to the first that exists.
        let mut missing: Vec<Arc<str>> = Vec::new();
        let mut parent = None;
        for at in path::ancestors(path) {
            let there = if missing.is_empty() {
                None
            } else {
                self.read_node(request, at)?
            };
            if let Some(node) = there {
                parent = Some((Arc::<str>::from(at), node));
                break;
            }
            missing.push(Arc::from(at));
        }
        let (parent_path, parent) = parent.ok_or(Error::NoEntry)?;
        if let Some((_, transaction)) = &mut request.transaction {
            transaction.node_created();
        }
        let mut perms = parent.perms.clone();
        if !request.who.is_privileged() {
            perms.set_owner(request.who.domain);
        }
        let mut done = 0;
        let result = self.create_missing(request, &missing, &perms, value, &mut done);
        let result = result.and_then(|node| {
            let mut parent = parent.as_ref().clone();
            if let Some(top) = missing.last() {
                parent.add_child(path::split(top).1);
            }
            self.write_node(request, &parent_path, parent, true)?;
            Ok(node)
        });
        if result.is_err() {
            for path in missing.iter().take(done) {
                self.delete_node(request, path);
                self.count_node(request, perms.owner(), -1);
            }
            if let Some((_, transaction)) = &mut request.transaction {
                transaction.fail();
            }
        }
        result
    }

    /// Writes new nodes, the lowest first; counts them in `done`. Gives the lowest.
    fn create_missing(
        &mut self,
        request: &mut Request,
        missing: &[Arc<str>],
        perms: &Perms,
        value: &[u8],
        done: &mut usize,
    ) -> Result<Node> {
        let mut lowest = None;
        for (index, path) in missing.iter().enumerate() {
            let me = request.who.domain;
            let nodes = self.domains.get(&me).map_or(0, |domain| domain.nodes);
            if !request.who.is_privileged() && nodes >= self.quotas.nodes {
                return Err(Error::NoSpace);
            }
            let mut node = Node {
                generation: 0,
                perms: perms.clone(),
                value: Vec::new(),
                children: Vec::new(),
            };
            match index.checked_sub(1).and_then(|below| missing.get(below)) {
                Some(below) => node.add_child(path::split(below).1),
                None => {
                    node.value = value.to_vec();
                    lowest = Some(node.clone());
                }
            }
            self.write_node(request, path, node, true)?;
            if !self.count_node(request, perms.owner(), 1) {
                self.delete_node(request, path);
                return Err(Error::NoMemory);
            }
            *done += 1;
        }
        lowest.ok_or(Error::Invalid)
    }

    /// Counts a node more or less for its owner; `false` if there is no such domain.
    fn count_node(&mut self, request: &mut Request, owner: DomainId, change: i64) -> bool {
        match &mut request.transaction {
            Some((_, transaction)) => {
                transaction.count_nodes(owner, change);
                true
            }
            None => self.count_nodes(owner, change),
        }
    }

    /// Removes a node and all below it (`XS_RM`). No node is no error if its parent is
    /// there. `Invalid` for the root.
    pub fn remove(
        &mut self,
        connection: ConnectionId,
        transaction: u32,
        path: impl AsRef<[u8]>,
    ) -> Result<()> {
        self.request(connection, transaction, |store, request| {
            let path = store.checked_path(request, path.as_ref())?;
            match store.get_node(request, &path, Access::WRITE) {
                Ok(_) if path == "/" => Err(Error::Invalid),
                Ok(_) => store.remove_tree(request, &path),
                Err(Error::NoEntry) => match store.read_node(request, path::split(&path).0)? {
                    Some(_) => Ok(()),
                    None => Err(Error::NoEntry),
                },
                Err(error) => Err(error),
            }
        })
    }

    /// Removes a node that there is, other than the root, and all below it, whoever owns it.
    pub(super) fn remove_tree(&mut self, request: &mut Request, path: &str) -> Result<()> {
        let (parent_path, name) = path::split(path);
        let parent = self.read_node(request, parent_path)?;
        let parent = parent.ok_or(Error::Invalid)?;
        // A node, and how many of its children's bytes were gone through.
        let mut stack: Vec<(String, Arc<Node>, usize)> = Vec::new();
        if let Some(node) = self.read_node(request, path)? {
            stack.push((String::from(path), node, 0));
        }
        while let Some((at, node, seen)) = stack.last_mut() {
            let rest = node.children.get(*seen..).unwrap_or_default();
            if let Some(end) = rest.iter().position(|&byte| byte == 0) {
                let child = core::str::from_utf8(rest.get(..end).unwrap_or_default());
                let below = path::child(at, child.unwrap_or_default());
                *seen += end + 1;
                if let Some(node) = self.read_node(request, &below)? {
                    stack.push((below, node, 0));
                }
                continue;
            }
            if let Some((at, node, _)) = stack.pop() {
                // Told of while the permissions can still be seen.
                self.fire(request, &at, &node, at != path, None);
                self.delete_node(request, &at);
                self.count_node(request, node.perms.owner(), -1);
            }
        }
        let mut parent = parent.as_ref().clone();
        parent.remove_child(name);
        self.write_node(request, &Arc::from(parent_path), parent, false)
    }

    /// Sets a node's permissions (`XS_SET_PERMS`), or who sees `@introduceDomain` and
    /// `@releaseDomain`. `NoEntry` also if there is no such owner; `NotPermitted` to
    /// change the owner without privilege.
    pub fn set_permissions(
        &mut self,
        connection: ConnectionId,
        transaction: u32,
        path: impl AsRef<[u8]>,
        perms: Perms,
    ) -> Result<()> {
        let path = path.as_ref();
        self.request(connection, transaction, |store, request| {
            let mut perms = perms;
            if !request.who.is_privileged() && perms.len() > store.quotas.permissions as usize {
                return Err(Error::NoSpace);
            }
            for perm in perms.entries_mut() {
                perm.ignored = !store.know_number(perm.domain);
            }
            if perms.entries().first().is_some_and(|perm| perm.ignored) {
                return Err(Error::NoEntry);
            }
            if path.first() == Some(&b'@') {
                return store.set_special_permissions(request, path, perms);
            }
            let path = store.checked_path(request, path)?;
            let node = store.get_node(request, &path, Access::WRITE | Access::OWNER)?;
            let (old_owner, owner) = (node.perms.owner(), perms.owner());
            if !request.who.is_privileged() && owner != old_owner {
                return Err(Error::NotPermitted);
            }
            let old_perms = node.perms.clone();
            let mut node = node.as_ref().clone();
            node.perms = perms;
            store.write_node(request, &Arc::from(path.as_str()), node.clone(), true)?;
            store.count_node(request, old_owner, -1);
            store.count_node(request, owner, 1);
            store.fire(request, &path, &node, false, Some(&old_perms));
            Ok(())
        })
    }

    fn set_special_permissions(
        &mut self,
        request: &Request,
        name: &[u8],
        perms: Perms,
    ) -> Result<()> {
        let there = match name {
            b"@introduceDomain" => &mut self.introduce_perms,
            b"@releaseDomain" => &mut self.release_perms,
            _ => return Err(Error::Invalid),
        };
        let needed = Access::WRITE | Access::OWNER;
        if !request.who.access(there).contains(needed) {
            return Err(Error::Access);
        }
        *there = perms;
        Ok(())
    }

    /// Whether a number names a domain that can be named in permissions.
    fn know_number(&mut self, number: u32) -> bool {
        u16::try_from(number).is_ok_and(|number| self.know(DomainId(number)))
    }

    /// Tells of a change: at once, or when the transaction ends.
    fn fire(
        &mut self,
        request: &mut Request,
        path: &str,
        node: &Node,
        exact: bool,
        old_perms: Option<&Perms>,
    ) {
        match &mut request.transaction {
            Some((_, transaction)) => transaction.queue_event(path, exact),
            None => self.emit(request.who, path, Some(&node.perms), exact, old_perms),
        }
    }
}
