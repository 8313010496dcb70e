//! `XS_CONTROL`: what `xenstore-control` asks for.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use super::wire::{domain, number, texts};
use super::{Host, Quotas, Store};
use crate::error::{Error, Result};

/// The commands there are, and their parameters.
const COMMANDS: &[(&str, &str)] = &[
    ("check", ""),
    ("log", "on|off"),
    ("memreport", ""),
    ("print", "<string>"),
    ("quota", "[set <name> <val>|<domid>]"),
    ("quota-soft", "[set <name> <val>]"),
    ("help", ""),
];

type Quota = (&'static str, fn(&mut Quotas) -> &mut u32, &'static str);

const HARD: &[Quota] = &[
    ("nodes", |q| &mut q.nodes, "Nodes per domain"),
    ("watches", |q| &mut q.watches, "Watches per domain"),
    (
        "transactions",
        |q| &mut q.transactions,
        "Transactions per domain",
    ),
    (
        "outstanding",
        |q| &mut q.outstanding,
        "Outstanding requests per domain",
    ),
    (
        "transaction-nodes",
        |q| &mut q.transaction_nodes,
        "Max. number of accessed nodes per transaction",
    ),
    (
        "memory",
        |q| &mut q.memory,
        "Total Xenstore memory per domain (error level)",
    ),
    ("node-size", |q| &mut q.node_size, "Max. size of a node"),
    (
        "path-max",
        |q| &mut q.path_max,
        "Max. length of a node path",
    ),
    (
        "permissions",
        |q| &mut q.permissions,
        "Max. number of permissions per node",
    ),
];

const SOFT: &[Quota] = &[(
    "memory",
    |q| &mut q.memory_soft,
    "Total Xenstore memory per domain (warning level)",
)];

impl<H: Host> Store<H> {
    /// Does a command. `Invalid` for one that there is not.
    pub(super) fn control(&mut self, body: &[u8]) -> Result<Vec<u8>> {
        let words = texts(body);
        let (command, parameters) = words.split_first().ok_or(Error::Invalid)?;
        let ok = || Ok(b"OK\0".to_vec());
        match (*command, parameters) {
            (b"check", []) => {
                self.check();
                ok()
            }
            (b"log", [b"on"]) => {
                self.trace = true;
                ok()
            }
            (b"log", [b"off"]) => {
                self.trace = false;
                ok()
            }
            (b"print", [text]) => {
                log::info!("xenstore: control: {}", String::from_utf8_lossy(text));
                ok()
            }
            (b"memreport", []) => {
                self.report();
                ok()
            }
            (b"quota", []) => Ok(self.show(HARD)),
            (b"quota", [b"set", name, value]) => self.set(HARD, name, value),
            (b"quota", [id]) => self.show_domain(id),
            (b"quota-soft", []) => Ok(self.show(SOFT)),
            (b"quota-soft", [b"set", name, value]) => self.set(SOFT, name, value),
            (b"help", []) => {
                let mut out = String::new();
                for (command, parameters) in COMMANDS {
                    let _ = writeln!(out, "{command}\t{parameters}");
                }
                out.push('\0');
                Ok(out.into_bytes())
            }
            _ => Err(Error::Invalid),
        }
    }

    fn show(&mut self, quotas: &[Quota]) -> Vec<u8> {
        let mut out = String::from("Quota settings:\n");
        for (name, field, about) in quotas {
            let _ = writeln!(out, "{name:<17}: {:8} {about}", *field(&mut self.quotas));
        }
        out.push('\0');
        out.into_bytes()
    }

    fn set(&mut self, quotas: &[Quota], name: &[u8], value: &[u8]) -> Result<Vec<u8>> {
        let value = i32::try_from(number(value)).map_err(|_| Error::Invalid)?;
        if value < 1 {
            return Err(Error::Invalid);
        }
        let known = quotas.iter().find(|(known, ..)| known.as_bytes() == name);
        let (_, field, _) = known.ok_or(Error::Invalid)?;
        *field(&mut self.quotas) = value as u32;
        // What the wire can carry is the most that a path can be.
        self.quotas.path_max = self.quotas.path_max.min(super::path::RELATIVE_MAX as u32);
        Ok(b"OK\0".to_vec())
    }

    fn show_domain(&mut self, id: &[u8]) -> Result<Vec<u8>> {
        let id = domain(id)?;
        let domain = self.domains.get(&id).ok_or(Error::NoEntry)?;
        let transactions = domain
            .connection
            .and_then(|connection| self.connections.get(&connection))
            .map_or(0, |there| there.transactions.len());
        let mut out = format!("Domain {id}:\n");
        for (name, value) in [
            ("nodes", u64::from(domain.nodes)),
            ("watches", domain.watches.into()),
            ("transactions", transactions as u64),
            ("outstanding", domain.outstanding.into()),
            ("memory", domain.memory),
        ] {
            let _ = writeln!(out, "{name:<16}: {value:8}");
        }
        out.push('\0');
        Ok(out.into_bytes())
    }

    /// Looks whether parents and children agree; logs what does not.
    pub(super) fn check(&self) -> bool {
        let mut good = true;
        for (path, node) in self.tree.iter() {
            for name in node.child_names() {
                if self.tree.get(&super::path::child(path, name)).is_none() {
                    log::error!("xenstore: {path} names {name}, which is not there");
                    good = false;
                }
            }
            let (parent, name) = super::path::split(path);
            let named = self
                .tree
                .get(parent)
                .is_some_and(|parent| parent.child_names().filter(|&n| n == name).count() == 1);
            if **path != *"/" && !named {
                log::error!("xenstore: {path} is not named once by its parent");
                good = false;
            }
        }
        good
    }

    fn report(&self) {
        log::info!(
            "xenstore: {} connections, nodes and their bytes: {:?}",
            self.connections.len(),
            self.tree.sizes()
        );
        for (id, domain) in &self.domains {
            log::info!(
                "xenstore: {id}: {} nodes, {} watches, {} bytes",
                domain.nodes,
                domain.watches,
                domain.memory
            );
        }
    }
}
