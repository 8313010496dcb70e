//! Random operations of several connections, with transactions and watches, beside a
//! model so plain that it is obviously right.
//!
//! The model is a map from paths to nodes. A transaction in it is a list of what was done
//! and what came of it. If the store commits, doing all of that again at that moment must
//! give the same results; if it refuses (EAGAIN), something must have changed meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::model::{self, World};
use super::path::{ancestors, split};
use super::perms::Perms;
use super::*;

const PATHS: [&str; 12] = [
    "/a", "/a/b", "/a/b/c", "/a/d", "/e", "/e/f", "/", "/p1", "/p1/x", "/p1/x/y", "/p2", "/p2/z",
];
const PERMS: [&str; 6] = [
    "n0\0",
    "n0\0r1\0",
    "n0\0b1\0r2\0",
    "r0\0",
    "b0\0n2\0",
    "n1\0r2\0",
];
/// Who acts: the control domain twice, and two that are nothing special.
const ACTORS: [u16; 4] = [0, 0, 1, 2];

#[derive(Clone, Copy, PartialEq, Debug)]
enum Op {
    Read(usize),
    List(usize),
    Perms(usize),
    Write(usize, u8),
    Mkdir(usize),
    Remove(usize),
    SetPerms(usize, usize),
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Who, whether in a transaction, and what.
    Do(usize, bool, Op),
    Start(usize),
    End(usize, bool),
}

fn op() -> impl Strategy<Value = Op> {
    let path = 0..PATHS.len();
    prop_oneof![
        3 => path.clone().prop_map(Op::Read),
        2 => path.clone().prop_map(Op::List),
        1 => path.clone().prop_map(Op::Perms),
        6 => (path.clone(), 0..3u8).prop_map(|(p, v)| Op::Write(p, v)),
        2 => path.clone().prop_map(Op::Mkdir),
        3 => path.clone().prop_map(Op::Remove),
        2 => (path, 0..PERMS.len()).prop_map(|(p, s)| Op::SetPerms(p, s)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..ACTORS.len();
    prop_oneof![
        8 => (who.clone(), any::<bool>(), op()).prop_map(|(w, t, o)| Step::Do(w, t, o)),
        1 => who.clone().prop_map(Step::Start),
        2 => (who, any::<bool>()).prop_map(|(w, c)| Step::End(w, c)),
    ]
}

/// What an operation gave: what there was to see, or the error's name.
type Outcome = core::result::Result<Vec<u8>, &'static str>;

#[derive(Clone, PartialEq, Debug)]
struct Node {
    value: Vec<u8>,
    perms: String,
}

type Nodes = BTreeMap<String, Node>;

/// What a domain may do: read, write, own.
type Rights = (bool, bool, bool);

/// What a domain may do by permissions.
fn rights(domain: u16, perms: &str) -> Rights {
    if domain == 0 {
        return (true, true, true);
    }
    let entries: Vec<(&str, u16)> = perms
        .split_terminator('\0')
        .map(|entry| (&entry[..1], entry[1..].parse().unwrap()))
        .collect();
    if entries[0].1 == domain {
        return (true, true, true);
    }
    let named = entries[1..].iter().find(|(_, id)| *id == domain);
    let letter = named.unwrap_or(&entries[0]).0;
    (
        letter == "r" || letter == "b",
        letter == "w" || letter == "b",
        false,
    )
}

/// An event: the path, and whether only watches of that very path see it.
type Event = (String, bool);

/// Does an operation in the model.
fn model_do(nodes: &mut Nodes, domain: u16, op: Op, events: &mut Vec<Event>) -> Outcome {
    let (index, need): (usize, fn(Rights) -> bool) = match op {
        Op::Read(p) | Op::List(p) | Op::Perms(p) => (p, |r| r.0),
        Op::Write(p, _) | Op::Mkdir(p) | Op::Remove(p) => (p, |r| r.1),
        Op::SetPerms(p, _) => (p, |r| r.1 && r.2),
    };
    let any: fn(Rights) -> bool = match op {
        Op::SetPerms(..) => |r| r.1 || r.2,
        _ => need,
    };
    let path = PATHS[index];
    let there = match nodes.get(path) {
        Some(node) if need(rights(domain, &node.perms)) => Some(node.clone()),
        found => {
            let above = ancestors(path).skip(1).find_map(|above| nodes.get(above));
            let known = above.is_some_and(|above| any(rights(domain, &above.perms)));
            match (known, found) {
                (false, _) | (_, Some(_)) => return Err("EACCES"),
                (true, None) => None,
            }
        }
    };
    match (op, there) {
        (Op::Read(_), Some(node)) => Ok(node.value),
        (Op::Perms(_), Some(node)) => Ok(node.perms.into_bytes()),
        (Op::List(_), Some(_)) => {
            let mut out = vec![];
            for child in nodes.keys().filter(|at| *at != "/" && split(at).0 == path) {
                out.extend_from_slice(split(child).1.as_bytes());
                out.push(0);
            }
            Ok(out)
        }
        (Op::Read(_) | Op::Perms(_) | Op::List(_) | Op::SetPerms(..), None) => Err("ENOENT"),
        (Op::Write(_, value), Some(mut node)) => {
            node.value = vec![value];
            nodes.insert(path.to_string(), node);
            events.push((path.to_string(), false));
            Ok(vec![])
        }
        (Op::Mkdir(_), Some(_)) => Ok(vec![]),
        (Op::Write(..) | Op::Mkdir(_), None) => {
            let above = ancestors(path).skip(1).find_map(|above| nodes.get(above));
            let mut perms = above.unwrap().perms.clone();
            if domain != 0 {
                let end = perms.find('\0').unwrap();
                perms.replace_range(1..end, &domain.to_string());
            }
            for at in ancestors(path) {
                let value = match op {
                    Op::Write(_, value) if at == path => vec![value],
                    _ => vec![],
                };
                let perms = perms.clone();
                let node = Node { value, perms };
                nodes.entry(at.to_string()).or_insert(node);
            }
            events.push((path.to_string(), false));
            Ok(vec![])
        }
        (Op::Remove(_), None) => {
            if nodes.contains_key(split(path).0) {
                Ok(vec![])
            } else {
                Err("ENOENT")
            }
        }
        (Op::Remove(_), Some(_)) if path == "/" => Err("EINVAL"),
        (Op::Remove(_), Some(_)) => {
            let gone: Vec<String> = nodes
                .keys()
                .filter(|at| ancestors(at).any(|above| above == path))
                .cloned()
                .collect();
            for at in gone {
                nodes.remove(&at);
                events.push((at.clone(), at != path));
            }
            Ok(vec![])
        }
        (Op::SetPerms(_, new), Some(mut node)) => {
            let new = PERMS[new];
            let owner = |perms: &str| perms.split('\0').next().unwrap()[1..].to_string();
            if domain != 0 && owner(new) != owner(&node.perms) {
                return Err("EPERM");
            }
            node.perms = new.to_string();
            nodes.insert(path.to_string(), node);
            events.push((path.to_string(), false));
            Ok(vec![])
        }
    }
}

/// Does an operation in the store.
fn store_do(store: &mut Store<World>, connection: ConnectionId, tx: u32, op: Op) -> Outcome {
    let done = |()| vec![];
    let result = match op {
        Op::Read(p) => store.read(connection, tx, PATHS[p]),
        Op::List(p) => store.directory(connection, tx, PATHS[p]).map(|mut names| {
            names.sort();
            let mut out = vec![];
            for name in names {
                out.extend_from_slice(name.as_bytes());
                out.push(0);
            }
            out
        }),
        Op::Perms(p) => store
            .permissions(connection, tx, PATHS[p])
            .map(|perms| perms.to_bytes()),
        Op::Write(p, value) => store.write(connection, tx, PATHS[p], [value]).map(done),
        Op::Mkdir(p) => store.mkdir(connection, tx, PATHS[p]).map(done),
        Op::Remove(p) => store.remove(connection, tx, PATHS[p]).map(done),
        Op::SetPerms(p, s) => {
            let perms = Perms::parse(PERMS[s].as_bytes()).unwrap();
            store
                .set_permissions(connection, tx, PATHS[p], perms)
                .map(done)
        }
    };
    result.map_err(wire::error_name)
}

/// A transaction in the model.
struct Open {
    id: u32,
    log: Vec<(Op, Outcome)>,
    /// As many changes were made when it began.
    since: usize,
}

struct Rig {
    store: Store<World>,
    nodes: Nodes,
    connections: Vec<ConnectionId>,
    open: [Option<Open>; ACTORS.len()],
    /// Watches everything, by paths as tokens.
    watcher: ConnectionId,
    changes: usize,
}

impl Rig {
    fn new() -> Self {
        let mut store = model::store(&[1, 2]);
        let connections: Vec<_> = ACTORS
            .iter()
            .map(|&id| store.add_connection(DomainId(id), true))
            .collect();
        let dom0 = connections[0];
        store.remove(dom0, 0, "/tool").unwrap();
        for (path, perms) in [("/p1", "n1\0"), ("/p2", "b2\0")] {
            store.mkdir(dom0, 0, path).unwrap();
            let perms = Perms::parse(perms.as_bytes()).unwrap();
            store.set_permissions(dom0, 0, path, perms).unwrap();
        }
        let mut nodes = Nodes::new();
        for (path, perms) in [("/", "n0\0"), ("/p1", "n1\0"), ("/p2", "b2\0")] {
            let node = Node {
                value: vec![],
                perms: perms.to_string(),
            };
            nodes.insert(path.to_string(), node);
        }
        let watcher = store.add_client();
        for path in PATHS {
            store.watch(watcher, path, path).unwrap();
        }
        while store.next_event(watcher).is_some() {}
        Self {
            store,
            nodes,
            connections,
            open: [const { None }; ACTORS.len()],
            watcher,
            changes: 0,
        }
    }

    /// Compares what the watches were told with what they should have been.
    fn check_events(&mut self, before: &Nodes, events: &[Event]) {
        // In a transaction, an event for all is more than one for the path's own watches.
        let mut merged: BTreeMap<&str, bool> = BTreeMap::new();
        for (path, exact) in events {
            // Of what neither was nor is, nobody hears.
            if before.contains_key(path) || self.nodes.contains_key(path) {
                *merged.entry(path).or_insert(true) &= exact;
            }
        }
        let mut want = BTreeSet::new();
        for watch in PATHS {
            for (path, exact) in &merged {
                let below = ancestors(path).any(|above| above == watch);
                if *path == watch || (below && !exact) {
                    want.insert((watch.to_string(), path.to_string()));
                }
            }
        }
        let mut got = BTreeSet::new();
        while let Some(event) = self.store.next_event(self.watcher) {
            let token = String::from_utf8(event.token).unwrap();
            assert!(got.insert((token, event.path)), "an event came twice");
        }
        assert_eq!(got, want);
    }

    fn step(&mut self, step: Step) {
        let before = self.nodes.clone();
        let mut events = vec![];
        match step {
            Step::Start(who) => {
                if self.open[who].is_none() {
                    let id = self.store.start_transaction(self.connections[who], 0);
                    self.open[who] = Some(Open {
                        id: id.unwrap(),
                        log: vec![],
                        since: self.changes,
                    });
                }
            }
            Step::Do(who, true, op) if self.open[who].is_some() => {
                let open = self.open[who].as_mut().unwrap();
                let got = store_do(&mut self.store, self.connections[who], open.id, op);
                open.log.push((op, got));
            }
            Step::Do(who, _, op) => {
                let got = store_do(&mut self.store, self.connections[who], 0, op);
                let want = model_do(&mut self.nodes, ACTORS[who], op, &mut events);
                assert_eq!(got, want, "{op:?} by {}", ACTORS[who]);
                self.changes += usize::from(!events.is_empty());
            }
            Step::End(who, commit) => {
                let Some(open) = self.open[who].take() else {
                    return;
                };
                let end = self
                    .store
                    .end_transaction(self.connections[who], open.id, commit);
                match (commit, end) {
                    (false, end) => assert_eq!(end, Ok(())),
                    (true, Ok(())) => {
                        for (op, outcome) in open.log {
                            let now = model_do(&mut self.nodes, ACTORS[who], op, &mut events);
                            assert_eq!(outcome, now, "{op:?} in a transaction");
                        }
                        self.changes += usize::from(!events.is_empty());
                    }
                    (true, Err(Error::Again)) => {
                        assert_ne!(self.changes, open.since, "refused without need");
                    }
                    (true, Err(error)) => panic!("{error:?}"),
                }
            }
        }
        self.check_events(&before, &events);
        assert!(self.store.check());
    }

    /// All that was counted is what there is.
    fn finish(mut self) {
        for (path, node) in &self.nodes {
            let there = self.store.tree.get(path).expect(path);
            assert_eq!(there.value, node.value);
            assert_eq!(there.perms.to_bytes(), node.perms.as_bytes());
        }
        assert_eq!(self.store.tree.sizes().0 as usize, self.nodes.len());
        for connection in self.connections.drain(..) {
            self.store.remove_connection(connection);
        }
        self.store.remove_connection(self.watcher);
        for id in [0, 1, 2].map(DomainId) {
            let owned = || {
                let all = self.store.tree.iter();
                all.filter(|(_, node)| node.perms.owner() == id)
            };
            let domain = &self.store.domains[&id];
            assert_eq!(domain.nodes as usize, owned().count());
            let bytes: usize = owned().map(|(path, node)| path.len() + node.size()).sum();
            assert_eq!(domain.memory, bytes as u64);
            assert_eq!((domain.watches, domain.outstanding), (0, 0));
        }
        assert!(self.store.watches_are_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_store_does_what_the_model_does(
        steps in proptest::collection::vec(step(), 1..60)
    ) {
        let mut rig = Rig::new();
        for step in steps {
            rig.step(step);
        }
        rig.finish();
    }

    #[test]
    fn a_hostile_guest_harms_nobody(
        bytes in proptest::collection::vec(any::<u8>(), 1..600)
    ) {
        if let Err(error) = model::run(&bytes) {
            panic!("{error}");
        }
    }

    #[test]
    fn paths_and_permissions_are_read_or_refused(
        text in "[/a-c0-9@_. -]{0,20}", bytes in proptest::collection::vec(any::<u8>(), 0..20)
    ) {
        if path::is_valid(&text, 2048) {
            prop_assert!(text.starts_with('/') && !text.contains("//"));
            prop_assert!(ancestors(&text).last() == Some("/"));
        }
        if let Ok(perms) = Perms::parse(&bytes) {
            let shown = perms.to_bytes();
            prop_assert_eq!(Perms::parse(&shown).unwrap(), perms);
        }
    }
}
