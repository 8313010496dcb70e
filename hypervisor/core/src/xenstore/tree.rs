//! Nodes by path.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::perms::Perms;
use crate::ids::DomainId;

/// What `xenstored` counts for a node beside its contents.
const NODE_HEADER: usize = 24;
/// What it counts for a permission.
const PERM_SIZE: usize = 8;

/// A node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Grows with each change.
    pub generation: u64,
    /// Who may do what.
    pub perms: Perms,
    /// The value.
    pub value: Vec<u8>,
    /// The names of its children, each with a zero behind it, the oldest first.
    pub children: Vec<u8>,
}

impl Node {
    /// Its size for quotas, its path not included.
    pub fn size(&self) -> usize {
        NODE_HEADER + PERM_SIZE * self.perms.len() + self.value.len() + self.children.len()
    }

    /// The names of its children.
    pub fn child_names(&self) -> impl Iterator<Item = &str> {
        self.children
            .split(|&byte| byte == 0)
            .filter(|name| !name.is_empty())
            .filter_map(|name| core::str::from_utf8(name).ok())
    }

    /// Adds a child's name, which is not there yet.
    pub fn add_child(&mut self, name: &str) {
        self.children.reserve_exact(name.len() + 1);
        self.children.extend_from_slice(name.as_bytes());
        self.children.push(0);
    }

    /// Takes a child's name out; `false` if it is not there.
    pub fn remove_child(&mut self, name: &str) -> bool {
        let mut at = 0;
        for child in self.children.split(|&byte| byte == 0) {
            if child == name.as_bytes() && !child.is_empty() {
                let end = at + child.len() + 1;
                self.children.drain(at..end.min(self.children.len()));
                return true;
            }
            at += child.len() + 1;
        }
        false
    }
}

/// All nodes.
pub struct Tree {
    nodes: BTreeMap<Arc<str>, Arc<Node>>,
}

impl Tree {
    /// A tree of the root alone.
    pub fn new(owner: DomainId) -> Self {
        let root = Node {
            generation: 1,
            perms: Perms::owned_by(owner),
            value: Vec::new(),
            children: Vec::new(),
        };
        Self {
            nodes: BTreeMap::from([(Arc::from("/"), Arc::new(root))]),
        }
    }

    /// A node.
    pub fn get(&self, path: &str) -> Option<&Arc<Node>> {
        self.nodes.get(path)
    }

    /// Puts a node in, and gives the one that was there.
    pub fn insert(&mut self, path: Arc<str>, node: Arc<Node>) -> Option<Arc<Node>> {
        self.nodes.insert(path, node)
    }

    /// Takes a node out.
    pub fn remove(&mut self, path: &str) -> Option<Arc<Node>> {
        self.nodes.remove(path)
    }

    /// All nodes by path.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Node>)> {
        self.nodes.iter()
    }

    /// All nodes, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&Arc<str>, &mut Arc<Node>)> {
        self.nodes.iter_mut()
    }

    /// How many nodes there are, and their bytes as quotas count them.
    pub fn sizes(&self) -> (u32, u64) {
        let bytes = self
            .nodes
            .iter()
            .map(|(path, node)| (path.len() + node.size()) as u64)
            .sum();
        (self.nodes.len() as u32, bytes)
    }
}
