use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use std::collections::BTreeMap;

use xen_abi::io_xs_wire::*;

use super::model::{ERROR, Guest, World, message, store, take_message};
use super::perms::Perms;
use super::*;

/// A store, and what its domains received.
struct Rig {
    store: Store<World>,
    received: BTreeMap<u16, Vec<u8>>,
    events: BTreeMap<u16, Vec<String>>,
}

fn rig(domains: &[u16]) -> Rig {
    let mut rig = Rig {
        store: store(domains),
        received: BTreeMap::new(),
        events: BTreeMap::new(),
    };
    // Each domain has its own directory, as the tools make it.
    for id in domains {
        let path = format!("/local/domain/{id}");
        assert_eq!(rig.ask(0, XS_MKDIR, 0, &format!("{path}\0")), "OK\0");
        let perms = format!("{path}\0n{id}\0");
        assert_eq!(rig.ask(0, XS_SET_PERMS, 0, &perms), "OK\0");
    }
    rig
}

impl Rig {
    fn guest(&self, id: u16) -> Guest<'_> {
        Guest(self.store.host.ring(DomainId(id)).unwrap())
    }

    /// Sends bytes, in pieces if need be.
    fn send(&mut self, id: u16, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let sent = self.guest(id).send(rest);
            rest = &rest[sent..];
            self.serve();
        }
        self.serve();
    }

    fn serve(&mut self) {
        while self.store.serve(8) {}
    }

    /// Fetches what there is for a domain; gives the replies.
    fn fetch(&mut self, id: u16) -> Vec<(u32, String)> {
        let mut replies = vec![];
        loop {
            let bytes = self.guest(id).receive(1024);
            if bytes.is_empty() {
                return replies;
            }
            let received = self.received.entry(id).or_default();
            received.extend(bytes);
            while let Some((header, body)) = take_message(received) {
                let body = String::from_utf8_lossy(&body).to_string();
                if header.kind == XS_WATCH_EVENT {
                    assert_eq!((header.request, header.transaction), (0, 0));
                    self.events.entry(id).or_default().push(body);
                } else {
                    assert_eq!(header.request, 77);
                    replies.push((header.kind, body));
                }
            }
            self.serve();
        }
    }

    /// The reply to a request: its body, or the name of its error.
    fn ask(&mut self, id: u16, kind: u32, transaction: u32, body: &str) -> String {
        self.send(id, &message(kind, transaction, body.as_bytes()));
        let replies = self.fetch(id);
        let [(got, body)] = &replies[..] else {
            panic!("{replies:?}");
        };
        assert!(*got == kind || *got == XS_ERROR);
        if *got == XS_ERROR {
            body.trim_end_matches('\0').to_string()
        } else {
            body.clone()
        }
    }

    fn events(&mut self, id: u16) -> Vec<String> {
        self.fetch(id);
        self.events.remove(&id).unwrap_or_default()
    }

    fn start(&mut self, id: u16) -> u32 {
        let body = self.ask(id, XS_TRANSACTION_START, 0, "\0");
        body.trim_end_matches('\0').parse().unwrap()
    }
}

#[test]
fn what_is_written_is_read() {
    let mut rig = rig(&[]);
    assert_eq!(rig.ask(0, XS_READ, 0, "/a/b\0"), "ENOENT");
    assert_eq!(rig.ask(0, XS_WRITE, 0, "/a/b\0x\0y"), "OK\0");
    assert_eq!(rig.ask(0, XS_READ, 0, "/a/b\0"), "x\0y");
    assert_eq!(rig.ask(0, XS_READ, 0, "/a\0"), "");
    assert_eq!(rig.ask(0, XS_WRITE, 0, "/a/c\0"), "OK\0");
    assert_eq!(rig.ask(0, XS_MKDIR, 0, "/a/b\0"), "OK\0");
    assert_eq!(rig.ask(0, XS_READ, 0, "/a/b\0"), "x\0y");
    assert_eq!(rig.ask(0, XS_DIRECTORY, 0, "/a\0"), "b\0c\0");
    assert_eq!(rig.ask(0, XS_DIRECTORY, 0, "/\0"), "tool\0a\0");
    assert_eq!(rig.ask(0, XS_GET_PERMS, 0, "/a\0"), "n0\0");
    assert_eq!(rig.ask(0, XS_RM, 0, "/a\0"), "OK\0");
    assert_eq!(rig.ask(0, XS_READ, 0, "/a/b\0"), "ENOENT");
    assert_eq!(rig.ask(0, XS_RM, 0, "/a\0"), "OK\0");
    assert_eq!(rig.ask(0, XS_RM, 0, "/a/b\0"), "ENOENT");
    assert_eq!(rig.ask(0, XS_RM, 0, "/\0"), "EINVAL");
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let mut rig = rig(&[1]);
    let long = format!("/{}\0", "x".repeat(2048));
    for (kind, body, error) in [
        (XS_READ, "", "EINVAL"),
        (XS_READ, "/", "EINVAL"),
        (XS_READ, "/\0/\0", "EINVAL"),
        (XS_READ, "\0", "EINVAL"),
        (XS_READ, "/a/\0", "EINVAL"),
        (XS_READ, "//a\0", "EINVAL"),
        (XS_READ, "/a b\0", "EINVAL"),
        (XS_READ, "@releaseDomain\0", "EINVAL"),
        (XS_READ, &long, "EINVAL"),
        (XS_WRITE, "/a", "EINVAL"),
        (XS_WATCH, "/a\0", "EINVAL"),
        (XS_WATCH, "/a\0b\0c\0", "EINVAL"),
        (XS_WATCH, "/a/\0b\0", "EINVAL"),
        (XS_UNWATCH, "/a\0b\0", "ENOENT"),
        (XS_SET_PERMS, "/tool\0", "EINVAL"),
        (XS_SET_PERMS, "/tool\0x0\0", "EINVAL"),
        (XS_SET_PERMS, "/tool\0n\0", "EINVAL"),
        (XS_SET_PERMS, "/tool\0n0x\0", "EINVAL"),
        (XS_SET_PERMS, "/tool\0n99\0", "ENOENT"),
        (XS_SET_PERMS, "@nothing\0n0\0", "EINVAL"),
        (XS_TRANSACTION_END, "T\0", "ENOENT"),
        (XS_TRANSACTION_END, "X\0", "EINVAL"),
        (XS_DIRECTORY_PART, "/\0", "EINVAL"),
        (XS_INTRODUCE, "1\x001\0", "EINVAL"),
        (XS_INTRODUCE, "1\x001\x000\0", "EINVAL"),
        (XS_INTRODUCE, "0\x001\x001\0", "EINVAL"),
        (XS_INTRODUCE, "9\x001\x001\0", "ENOENT"),
        (XS_RELEASE, "0\0", "EINVAL"),
        (XS_RELEASE, "9\0", "ENOENT"),
        (XS_RESUME, "9\0", "ENOENT"),
        (XS_SET_TARGET, "1\x009\0", "ENOENT"),
        (XS_CONTROL, "nonsense\0", "EINVAL"),
        (XS_CONTROL, "live-update\0-s\0", "EINVAL"),
        (XS_WATCH_EVENT, "", "ENOSYS"),
        (XS_ERROR, "", "ENOSYS"),
        (20, "", "ENOSYS"),
        (23, "", "ENOSYS"),
        (u32::MAX, "", "ENOSYS"),
    ] {
        assert_eq!(rig.ask(0, kind, 0, body), error, "{kind} {body:?}");
    }
    assert_eq!(rig.ask(0, XS_READ, 5, "/tool\0"), "ENOENT");
    assert_eq!(rig.ask(0, XS_TRANSACTION_START, 5, "\0"), "ENOENT");
    for kind in [
        XS_CONTROL,
        XS_INTRODUCE,
        XS_RELEASE,
        XS_RESUME,
        XS_SET_TARGET,
        XS_IS_DOMAIN_INTRODUCED,
    ] {
        assert_eq!(rig.ask(1, kind, 0, "1\0"), "EACCES");
    }
}

#[test]
fn a_domain_has_what_is_its_own() {
    let mut rig = rig(&[1, 2]);
    assert_eq!(rig.ask(1, XS_WRITE, 0, "data/x\0v"), "OK\0");
    assert_eq!(rig.ask(1, XS_READ, 0, "/local/domain/1/data/x\0"), "v");
    assert_eq!(
        rig.ask(0, XS_GET_PERMS, 0, "/local/domain/1/data\0"),
        "n1\0"
    );
    // Not even that there is nothing is told to strangers.
    assert_eq!(rig.ask(2, XS_READ, 0, "/local/domain/1/data/x\0"), "EACCES");
    assert_eq!(rig.ask(2, XS_READ, 0, "/local/domain/1/none\0"), "EACCES");
    assert_eq!(rig.ask(2, XS_WRITE, 0, "/local/domain/1/n\0"), "EACCES");
    assert_eq!(rig.ask(2, XS_RM, 0, "/local/domain/1/data\0"), "EACCES");
    assert_eq!(rig.ask(1, XS_READ, 0, "/local/domain/1/none\0"), "ENOENT");
    assert_eq!(rig.ask(1, XS_READ, 0, "/tool\0"), "EACCES");
    assert_eq!(rig.ask(1, XS_SET_PERMS, 0, "data/x\0n1\0r2\0"), "OK\0");
    assert_eq!(rig.ask(1, XS_GET_PERMS, 0, "data/x\0"), "n1\0r2\0");
    assert_eq!(rig.ask(2, XS_READ, 0, "/local/domain/1/data/x\0"), "v");
    assert_eq!(
        rig.ask(2, XS_WRITE, 0, "/local/domain/1/data/x\0w"),
        "EACCES"
    );
    assert_eq!(
        rig.ask(2, XS_SET_PERMS, 0, "/local/domain/1/data/x\0n2\0"),
        "EACCES"
    );
    assert_eq!(rig.ask(1, XS_SET_PERMS, 0, "data/x\0b1\0"), "OK\0");
    assert_eq!(rig.ask(2, XS_WRITE, 0, "/local/domain/1/data/x\0w"), "OK\0");
    // Neither may a domain give its nodes away, nor make them anybody else's.
    assert_eq!(rig.ask(1, XS_SET_PERMS, 0, "data/x\0n2\0"), "EPERM");
    // What is made below a node has its permissions, and the maker's ownership.
    assert_eq!(
        rig.ask(2, XS_WRITE, 0, "/local/domain/1/data/x/y\0"),
        "OK\0"
    );
    assert_eq!(
        rig.ask(0, XS_GET_PERMS, 0, "/local/domain/1/data/x/y\0"),
        "b2\0"
    );
    assert_eq!(
        rig.ask(0, XS_WRITE, 0, "/local/domain/1/data/x/z\0"),
        "OK\0"
    );
    assert_eq!(
        rig.ask(0, XS_GET_PERMS, 0, "/local/domain/1/data/x/z\0"),
        "b1\0"
    );
    assert_eq!(rig.ask(0, XS_SET_TARGET, 0, "2\x001\0"), "OK\0");
    assert_eq!(rig.ask(2, XS_WRITE, 0, "/local/domain/1/data/q\0"), "OK\0");
}

#[test]
fn watches_are_told() {
    let mut rig = rig(&[1]);
    assert_eq!(rig.ask(0, XS_WATCH, 0, "/a\0t\0"), "OK\0");
    assert_eq!(rig.events(0), ["/a\0t\0"]);
    assert_eq!(rig.ask(0, XS_WATCH, 0, "/a\0t\0"), "EEXIST");
    assert_eq!(rig.ask(0, XS_WATCH, 0, "/a/b/c\0deep\0"), "OK\0");
    assert_eq!(rig.ask(0, XS_WATCH, 0, "/\0root\0"), "OK\0");
    rig.events(0);
    rig.ask(0, XS_WRITE, 0, "/a/b/c\0v");
    assert_eq!(
        rig.events(0),
        ["/a/b/c\0t\0", "/a/b/c\0deep\0", "/a/b/c\0root\0"]
    );
    rig.ask(0, XS_WRITE, 0, "/ab\0v");
    assert_eq!(rig.events(0), ["/ab\0root\0"]);
    // What goes with a node above is told to watches of its very path only.
    rig.ask(0, XS_RM, 0, "/a/b\0");
    assert_eq!(
        rig.events(0),
        ["/a/b/c\0deep\0", "/a/b\0t\0", "/a/b\0root\0"]
    );
    rig.ask(0, XS_RM, 0, "/a/b\0");
    rig.ask(0, XS_MKDIR, 0, "/a\0");
    assert!(rig.events(0).is_empty());
    rig.ask(0, XS_SET_PERMS, 0, "/a\0r0\0");
    assert_eq!(rig.events(0), ["/a\0t\0", "/a\0root\0"]);
    assert_eq!(rig.ask(0, XS_UNWATCH, 0, "/a\0t\0"), "OK\0");
    assert_eq!(rig.ask(0, XS_UNWATCH, 0, "/\0root\0"), "OK\0");
    rig.ask(0, XS_WRITE, 0, "/a/b\0v");
    assert!(rig.events(0).is_empty());
    // Relative paths stay relative.
    assert_eq!(rig.ask(1, XS_WATCH, 0, "dev\0t\0"), "OK\0");
    assert_eq!(rig.events(1), ["dev\0t\0"]);
    rig.ask(0, XS_WRITE, 0, "/local/domain/1/dev/vbd/0\0v");
    assert_eq!(rig.events(1), ["dev/vbd/0\0t\0"]);
    // The same event is not put in twice while it waits.
    rig.send(0, &message(XS_WRITE, 0, b"/local/domain/1/dev/x\0v"));
    rig.send(0, &message(XS_WRITE, 0, b"/local/domain/1/dev/x\0v"));
    assert!(!rig.events(1).is_empty());
    assert_eq!(rig.ask(1, XS_RESET_WATCHES, 0, "\0"), "OK\0");
    rig.fetch(0);
    rig.ask(0, XS_WRITE, 0, "/local/domain/1/dev/x\0v");
    assert!(rig.events(1).is_empty());
}

#[test]
fn nobody_hears_of_what_is_not_for_him() {
    let mut rig = rig(&[1, 2]);
    rig.ask(2, XS_WATCH, 0, "/local/domain/1\0t\0");
    rig.ask(2, XS_WATCH, 0, "@introduceDomain\0t\0");
    rig.events(2);
    rig.ask(1, XS_WRITE, 0, "x\0v");
    rig.ask(1, XS_WRITE, 0, "y\0v");
    assert!(rig.events(2).is_empty());
    rig.ask(1, XS_SET_PERMS, 0, "x\0r1\0");
    assert_eq!(rig.events(2), ["/local/domain/1/x\0t\0"]);
    // Losing the right is told as well.
    rig.ask(1, XS_SET_PERMS, 0, "x\0n1\0");
    assert_eq!(rig.events(2), ["/local/domain/1/x\0t\0"]);
    rig.ask(1, XS_RM, 0, "x\0");
    assert!(rig.events(2).is_empty());
    assert_eq!(
        rig.ask(0, XS_SET_PERMS, 0, "@introduceDomain\0n0\0r2\0"),
        "OK\0"
    );
    assert_eq!(
        rig.ask(2, XS_SET_PERMS, 0, "@introduceDomain\0n2\0"),
        "EACCES"
    );
    rig.store
        .host
        .domains
        .insert(DomainId(3), DomainState::Alive);
    assert_eq!(rig.ask(0, XS_INTRODUCE, 0, "3\x005\x006\0"), "OK\0");
    assert_eq!(rig.events(2), ["@introduceDomain\0t\0"]);
}

#[test]
fn transactions_are_whole_or_nothing() {
    let mut rig = rig(&[]);
    rig.ask(0, XS_WATCH, 0, "/t\0w\0");
    rig.events(0);
    let t = rig.start(0);
    assert_eq!(rig.ask(0, XS_TRANSACTION_START, t, "\0"), "EBUSY");
    assert_eq!(rig.ask(0, XS_WRITE, t, "/t/a\x001"), "OK\0");
    assert_eq!(rig.ask(0, XS_READ, t, "/t/a\0"), "1");
    assert_eq!(rig.ask(0, XS_READ, 0, "/t/a\0"), "ENOENT");
    assert!(rig.events(0).is_empty());
    assert_eq!(rig.ask(0, XS_TRANSACTION_END, t, "T\0"), "OK\0");
    assert_eq!(rig.events(0), ["/t/a\0w\0"]);
    assert_eq!(rig.ask(0, XS_READ, 0, "/t/a\0"), "1");
    assert_eq!(rig.ask(0, XS_TRANSACTION_END, t, "T\0"), "ENOENT");
    // Somebody else changes what was read.
    let t = rig.start(0);
    assert_eq!(rig.ask(0, XS_READ, t, "/t/a\0"), "1");
    assert_eq!(rig.ask(0, XS_WRITE, t, "/u\0x"), "OK\0");
    assert_eq!(rig.ask(0, XS_WRITE, 0, "/t/a\x002"), "OK\0");
    assert_eq!(rig.ask(0, XS_READ, t, "/t/a\0"), "1");
    rig.events(0);
    assert_eq!(rig.ask(0, XS_TRANSACTION_END, t, "T\0"), "EAGAIN");
    assert_eq!(rig.ask(0, XS_READ, 0, "/u\0"), "ENOENT");
    // What somebody else changes elsewhere is no conflict.
    let t = rig.start(0);
    assert_eq!(rig.ask(0, XS_WRITE, t, "/t/a\x003"), "OK\0");
    assert_eq!(rig.ask(0, XS_WRITE, 0, "/tool/x\0"), "OK\0");
    assert_eq!(rig.ask(0, XS_TRANSACTION_END, t, "T\0"), "OK\0");
    // That there was nothing counts as read, too.
    let t = rig.start(0);
    assert_eq!(rig.ask(0, XS_READ, t, "/t/new\0"), "ENOENT");
    assert_eq!(rig.ask(0, XS_WRITE, 0, "/t/new\0"), "OK\0");
    assert_eq!(rig.ask(0, XS_TRANSACTION_END, t, "T\0"), "EAGAIN");
    // And forgotten is forgotten.
    let t = rig.start(0);
    assert_eq!(rig.ask(0, XS_RM, t, "/t\0"), "OK\0");
    assert_eq!(rig.ask(0, XS_DIRECTORY, t, "/\0"), "tool\0");
    assert_eq!(rig.ask(0, XS_TRANSACTION_END, t, "F\0"), "OK\0");
    assert_eq!(rig.ask(0, XS_READ, 0, "/t/a\0"), "3");
    let t = rig.start(0);
    assert_eq!(rig.ask(0, XS_RM, t, "/t\0"), "OK\0");
    assert_eq!(rig.ask(0, XS_WRITE, t, "/t/z\0"), "OK\0");
    assert_eq!(rig.ask(0, XS_TRANSACTION_END, t, "T\0"), "OK\0");
    assert_eq!(rig.ask(0, XS_DIRECTORY, 0, "/t\0"), "z\0");
    rig.events(0);
    // What was written is told to all above, also if it then goes with a node above.
    rig.ask(0, XS_WRITE, 0, "/t/m/n\0");
    rig.events(0);
    let t = rig.start(0);
    assert_eq!(rig.ask(0, XS_WRITE, t, "/t/m/n\0v"), "OK\0");
    assert_eq!(rig.ask(0, XS_RM, t, "/t/m\0"), "OK\0");
    assert_eq!(rig.ask(0, XS_TRANSACTION_END, t, "T\0"), "OK\0");
    assert_eq!(rig.events(0), ["/t/m/n\0w\0", "/t/m\0w\0"]);
    assert!(rig.store.check());
}

#[test]
fn quotas_hold() {
    let mut rig = rig(&[1]);
    // A node and its permissions, 2048 bytes in all, are too much.
    let value = "x".repeat(2048 - 32 - 1);
    assert_eq!(rig.ask(1, XS_WRITE, 0, &format!("big\0{value}")), "OK\0");
    assert_eq!(rig.ask(1, XS_WRITE, 0, &format!("big\0{value}x")), "ENOSPC");
    assert_eq!(rig.ask(0, XS_WRITE, 0, &format!("big\0{value}xxx")), "OK\0");
    rig.ask(1, XS_RM, 0, "big\0");
    // A node's own directory is one already. Names are counted in the parent.
    for n in 0..999 {
        let path = format!("{}/{n}\0", n % 50);
        let want = if n < 949 { "OK\0" } else { "ENOSPC" };
        assert_eq!(rig.ask(1, XS_MKDIR, 0, &path), want, "{n}");
    }
    assert_eq!(rig.ask(1, XS_RM, 0, "0/0\0"), "OK\0");
    assert_eq!(rig.ask(1, XS_MKDIR, 0, "0/x\0"), "OK\0");
    assert_eq!(rig.ask(1, XS_MKDIR, 0, "0/y\0"), "ENOSPC");
    // Of several nodes that are to be made, all are or none.
    rig.ask(1, XS_RM, 0, "1/1\0");
    rig.ask(1, XS_RM, 0, "2/2\0");
    assert_eq!(rig.ask(1, XS_MKDIR, 0, "3/x/y/z\0"), "ENOSPC");
    assert_eq!(rig.ask(1, XS_READ, 0, "3/x\0"), "ENOENT");
    assert!(rig.store.check());
    assert_eq!(rig.store.domains[&DomainId(1)].nodes, 998);
    assert_eq!(rig.ask(1, XS_MKDIR, 0, "3/x/y\0"), "OK\0");
    for n in 0..200 {
        let want = if n < 129 { "OK\0" } else { "E2BIG" };
        assert_eq!(rig.ask(1, XS_WATCH, 0, &format!("w\0{n}\0")), want, "{n}");
    }
    for n in 0..20 {
        let reply = rig.ask(1, XS_TRANSACTION_START, 0, "\0");
        assert_eq!(reply == "ENOSPC", n >= 11, "{n}: {reply}");
    }
    assert_eq!(
        rig.ask(1, XS_SET_PERMS, 0, "0/x\0n1\0r0\0r0\0r0\0r0\0"),
        "OK\0"
    );
    assert_eq!(
        rig.ask(1, XS_SET_PERMS, 0, "0/x\0n1\0r0\0r0\0r0\0r0\0r0\0"),
        "ENOSPC"
    );
    assert!(rig.store.check());
    let report = rig.ask(0, XS_CONTROL, 0, "quota\x001\0");
    assert!(report.contains("nodes           :     1000"), "{report}");
    assert!(report.contains("watches         :      129"), "{report}");
    assert!(report.contains("transactions    :       11"), "{report}");
    assert_eq!(
        rig.ask(0, XS_CONTROL, 0, "quota\0set\0watches\x00200\0"),
        "OK\0"
    );
    assert_eq!(rig.ask(1, XS_WATCH, 0, "w\0more\0"), "OK\0");
    rig.store.host.memory = false;
    assert_eq!(rig.ask(0, XS_WRITE, 0, "/q\0v"), "ENOMEM");
    assert_eq!(rig.ask(0, XS_READ, 0, "/q\0"), "ENOENT");
    assert!(rig.store.check());
}

#[test]
fn a_transaction_counts_against_quotas_when_it_ends() {
    let mut rig = rig(&[1]);
    for n in 0..990 {
        rig.ask(1, XS_MKDIR, 0, &format!("{}/{n}\0", n % 20));
    }
    let nodes = rig.store.domains[&DomainId(1)].nodes;
    assert_eq!(nodes, 1000);
    rig.ask(1, XS_RM, 0, "0\0");
    let t = rig.start(1);
    for n in 0..49 {
        assert_eq!(rig.ask(1, XS_MKDIR, t, &format!("n/{n}\0")), "OK\0");
    }
    let before = rig.store.domains[&DomainId(1)].nodes;
    assert_eq!(rig.ask(1, XS_TRANSACTION_END, t, "T\0"), "ENOSPC");
    assert_eq!(rig.store.domains[&DomainId(1)].nodes, before);
    let t = rig.start(1);
    assert_eq!(rig.ask(1, XS_MKDIR, t, "n/1\0"), "OK\0");
    assert_eq!(rig.ask(1, XS_TRANSACTION_END, t, "T\0"), "OK\0");
    assert_eq!(rig.store.domains[&DomainId(1)].nodes, before + 2);
}

#[test]
fn who_does_not_fetch_is_not_served() {
    let mut rig = rig(&[1, 2]);
    rig.ask(0, XS_WATCH, 0, "/local/domain/1\0t\0");
    rig.events(0);
    let mut written = 0;
    for n in 0..500 {
        let request = message(XS_WRITE, 0, format!("n{n}\0v").as_bytes());
        if rig.guest(1).send(&request) == request.len() {
            written += 1;
        }
        rig.serve();
    }
    // Twenty outstanding, beside what the rings hold.
    assert!(written < 150, "{written}");
    let outstanding = rig.store.domains[&DomainId(1)].outstanding;
    assert!((20..=22).contains(&outstanding), "{outstanding}");
    // The others do not mind.
    assert_eq!(rig.ask(2, XS_WRITE, 0, "x\0v"), "OK\0");
    // The domain fetches its replies, Dom0 its events: all goes on.
    for _ in 0..100 {
        rig.fetch(0);
        rig.fetch(1);
    }
    assert_eq!(rig.store.domains[&DomainId(1)].outstanding, 0);
    assert!(rig.events(0).len() >= 30);
}

#[test]
fn who_is_held_up_by_dom0_goes_on_when_it_is_gone() {
    let mut rig = rig(&[1]);
    rig.ask(0, XS_WRITE, 0, "/kept\0v");
    rig.ask(0, XS_WATCH, 0, "/local/domain/1\0t\0");
    let transaction = rig.start(0);
    rig.events(0);
    let mut rest = vec![];
    for n in 0..100 {
        let request = message(XS_WRITE, 0, format!("n{n}\0v").as_bytes());
        let sent = rig.guest(1).send(&request);
        if sent < request.len() {
            rest = request[sent..].to_vec();
            break;
        }
        rig.serve();
        rig.fetch(1);
    }
    assert!(rig.store.domains[&DomainId(1)].outstanding >= 20);
    rig.store.disconnect(DomainId::DOM0);
    assert!(!rig.store.is_introduced(DomainId::DOM0));
    rig.send(1, &rest);
    rig.fetch(1);
    assert_eq!(rig.store.domains[&DomainId(1)].outstanding, 0);
    // The next Dom0 finds the nodes, and nothing of what the last had under way.
    rig.store.introduce(DomainId::DOM0, 0, 1).unwrap();
    assert_eq!(rig.ask(0, XS_READ, 0, "/kept\0"), "v");
    assert_eq!(rig.ask(0, XS_READ, transaction, "/kept\0"), "ENOENT");
    assert_eq!(rig.ask(1, XS_WRITE, 0, "last\0v"), "OK\0");
    assert!(rig.events(0).is_empty());
}

#[test]
fn a_domain_goes_with_all_that_is_its_own() {
    let mut rig = rig(&[1, 2]);
    rig.ask(0, XS_WATCH, 0, "@releaseDomain\0t\0");
    rig.ask(0, XS_WATCH, 0, "/local/domain/1\0n\0");
    rig.ask(1, XS_WRITE, 0, "data/x\0v");
    rig.ask(2, XS_WRITE, 0, "p\0v");
    rig.ask(2, XS_SET_PERMS, 0, "p\0n2\0b1\0");
    assert_eq!(rig.ask(0, XS_IS_DOMAIN_INTRODUCED, 0, "1\0"), "T\0");
    rig.events(0);
    let t = rig.start(2);
    assert_eq!(rig.ask(2, XS_READ, t, "p\0"), "v");
    // Shutting down is told once.
    rig.store
        .host
        .domains
        .insert(DomainId(1), DomainState::ShutDown);
    rig.store.check_domains();
    rig.store.check_domains();
    rig.serve();
    assert_eq!(rig.events(0), ["@releaseDomain\0t\0"]);
    assert_eq!(rig.ask(0, XS_RESUME, 0, "1\0"), "OK\0");
    rig.store.check_domains();
    rig.serve();
    assert_eq!(rig.events(0), ["@releaseDomain\0t\0"]);
    rig.store.host.domains.remove(&DomainId(1));
    rig.store.check_domains();
    rig.serve();
    assert_eq!(
        rig.events(0),
        ["/local/domain/1\0n\0", "@releaseDomain\0t\0"]
    );
    assert_eq!(rig.ask(0, XS_READ, 0, "/local/domain/1\0"), "ENOENT");
    assert_eq!(rig.ask(0, XS_IS_DOMAIN_INTRODUCED, 0, "1\0"), "F\0");
    assert!(rig.store.host.ring(DomainId(1)).is_none());
    // A new domain of that number may not do what the old one might.
    rig.store
        .host
        .domains
        .insert(DomainId(1), DomainState::Alive);
    assert_eq!(rig.ask(0, XS_INTRODUCE, 0, "1\x005\x006\0"), "OK\0");
    assert_eq!(rig.ask(1, XS_READ, 0, "/local/domain/2/p\0"), "EACCES");
    assert_eq!(rig.ask(2, XS_TRANSACTION_END, t, "T\0"), "EAGAIN");
    assert_eq!(rig.ask(0, XS_RELEASE, 0, "1\0"), "OK\0");
    assert_eq!(rig.ask(0, XS_RELEASE, 0, "1\0"), "ENOENT");
    assert!(rig.store.check());
}

#[test]
fn long_directories_come_in_parts() {
    let mut rig = rig(&[]);
    for n in 0..700 {
        rig.ask(0, XS_MKDIR, 0, &format!("/d/number-{n}\0"));
    }
    assert_eq!(rig.ask(0, XS_DIRECTORY, 0, "/d\0"), "E2BIG");
    let mut names = String::new();
    let mut generation = None;
    loop {
        let request = format!("/d\0{}\0", names.len());
        let part = rig.ask(0, XS_DIRECTORY_PART, 0, &request);
        assert!(part.len() <= 4096);
        let (number, rest) = part.split_once('\0').unwrap();
        assert_eq!(*generation.get_or_insert(number.to_string()), number);
        if let Some(last) = rest.strip_suffix("\0\0") {
            names += last;
            break;
        }
        names += rest;
    }
    let names: Vec<_> = names.split('\0').collect();
    let want: Vec<_> = (0..700).map(|n| format!("number-{n}")).collect();
    assert_eq!(names, want);
    let part = rig.ask(0, XS_DIRECTORY_PART, 0, "/d\x0099999\0");
    assert!(part.ends_with("\0\0"));
}

#[test]
fn a_ring_that_makes_no_sense_is_closed_and_can_begin_anew() {
    for (spoil, error) in [
        (0u8, XENSTORE_ERROR_RINGIDX),
        (1, XENSTORE_ERROR_RINGIDX),
        (2, XENSTORE_ERROR_PROTO),
    ] {
        let mut rig = rig(&[1, 2]);
        rig.ask(1, XS_WATCH, 0, "w\0t\0");
        match spoil {
            0 => rig.guest(1).set_index(1, 0x8000_0000),
            1 => {
                rig.guest(1).set_index(2, 0x1234);
                rig.guest(1).send(&message(XS_READ, 0, b"x\0"));
            }
            _ => {
                let mut bytes = message(XS_READ, 0, b"");
                bytes[12..16].copy_from_slice(&4097u32.to_le_bytes());
                rig.guest(1).send(&bytes);
            }
        }
        rig.serve();
        let frame = rig.store.host.ring(DomainId(1)).unwrap();
        assert_eq!(frame.load_u32(ERROR), error, "{spoil}");
        assert_eq!(rig.store.domains[&DomainId(1)].watches, 0);
        // Nobody looks at it any more, and nobody else is harmed.
        rig.guest(1).set_index(1, 0);
        rig.serve();
        assert_eq!(rig.ask(2, XS_WRITE, 0, "x\0v"), "OK\0");
        assert_eq!(rig.ask(0, XS_WRITE, 0, "/local/domain/1/w\0v"), "OK\0");
        rig.guest(1).reconnect();
        rig.serve();
        assert!(rig.guest(1).is_connected());
        assert_eq!(rig.ask(1, XS_READ, 0, "w\0"), "v");
        let frame = rig.store.host.ring(DomainId(1)).unwrap();
        assert_eq!(frame.load_u32(ERROR), XENSTORE_ERROR_NONE);
    }
}

#[test]
fn messages_in_pieces_and_around_the_end_of_the_ring() {
    let mut rig = rig(&[]);
    let value = "0123456789".repeat(150);
    for _ in 0..40 {
        let bytes = message(XS_WRITE, 0, format!("/p\0{value}").as_bytes());
        for piece in bytes.chunks(97) {
            rig.send(0, piece);
        }
        assert_eq!(rig.fetch(0), [(XS_WRITE, "OK\0".to_string())]);
        assert_eq!(rig.ask(0, XS_READ, 0, "/p\0"), value);
    }
}

#[test]
fn clients_in_the_hypervisor_get_events_and_wait_for_nobody() {
    let mut rig = rig(&[1]);
    let client = rig.store.add_client();
    rig.store
        .watch(client, "/local/domain/1/device", "tok")
        .unwrap();
    assert_eq!(rig.store.take_woken(), [client]);
    let event = rig.store.next_event(client).unwrap();
    assert_eq!(
        (event.path.as_str(), &event.token[..]),
        ("/local/domain/1/device", &b"tok"[..])
    );
    assert!(rig.store.next_event(client).is_none());
    rig.ask(1, XS_WRITE, 0, "device/x\0v");
    assert_eq!(rig.store.take_woken(), [client]);
    assert_eq!(
        rig.store.next_event(client).unwrap().path,
        "/local/domain/1/device/x"
    );
    assert_eq!(
        rig.store
            .read(client, 0, "/local/domain/1/device/x")
            .unwrap(),
        b"v"
    );
    let perms = Perms::owned_by(DomainId::XEN).with(DomainId(1), perms::Access::READ);
    rig.store
        .write(client, 0, "/local/domain/32754/b", "1")
        .unwrap();
    rig.store
        .set_permissions(client, 0, "/local/domain/32754/b", perms)
        .unwrap();
    assert!(rig.store.take_ring_output() || rig.store.take_woken().is_empty());
    assert_eq!(rig.ask(1, XS_READ, 0, "/local/domain/32754/b\0"), "1");
    assert_eq!(
        rig.ask(1, XS_GET_PERMS, 0, "/local/domain/32754/b\0"),
        "n32754\0r1\0"
    );
    assert_eq!(rig.ask(1, XS_WRITE, 0, "/local/domain/32754/b\0"), "EACCES");
    rig.store.remove_connection(client);
    assert_eq!(rig.ask(1, XS_WRITE, 0, "device/x\0v"), "OK\0");
    assert_eq!(rig.store.domains[&DomainId(1)].outstanding, 0);
    assert_eq!(rig.store.domains[&DomainId::XEN].watches, 0);
}

#[test]
fn control_says_what_it_can_do() {
    let mut rig = rig(&[]);
    assert_eq!(rig.ask(0, XS_CONTROL, 0, "check\0"), "OK\0");
    assert_eq!(rig.ask(0, XS_CONTROL, 0, "print\0hello\0"), "OK\0");
    assert_eq!(rig.ask(0, XS_CONTROL, 0, "log\0on\0"), "OK\0");
    assert_eq!(rig.ask(0, XS_CONTROL, 0, "log\0off\0"), "OK\0");
    assert_eq!(rig.ask(0, XS_CONTROL, 0, "log\0\0"), "EINVAL");
    let quotas = rig.ask(0, XS_CONTROL, 0, "quota\0");
    assert!(quotas.starts_with("Quota settings:\nnodes            :     1000 Nodes per domain\n"));
    assert_eq!(
        rig.ask(0, XS_CONTROL, 0, "quota\0set\0nodes\x000\0"),
        "EINVAL"
    );
    assert_eq!(
        rig.ask(0, XS_CONTROL, 0, "quota\0set\0none\x001\0"),
        "EINVAL"
    );
    assert!(rig.ask(0, XS_CONTROL, 0, "help\0").contains("quota"));
    assert_eq!(
        rig.ask(0, XS_GET_DOMAIN_PATH, 0, "7\0"),
        "/local/domain/7\0"
    );
}

#[test]
fn it_is_known_what_the_tools_watch() {
    let mut rig = rig(&[3]);
    let path = "/local/domain/3/d";
    assert_eq!(rig.ask(0, XS_WRITE, 0, &format!("{path}/state\0x")), "OK\0");
    // Neither those of the hypervisor nor of a guest, nor those above and below.
    let client = rig.store.add_client();
    rig.store.watch(client, path, "t").unwrap();
    assert_eq!(rig.ask(3, XS_WATCH, 0, &format!("{path}\0t\0")), "OK\0");
    for near in ["/local/domain/3", "/local/domain/3/d/state"] {
        assert_eq!(rig.ask(0, XS_WATCH, 0, &format!("{near}\0t\0")), "OK\0");
    }
    assert!(!rig.store.is_watched_by_tools(path));
    assert_eq!(rig.ask(0, XS_WATCH, 0, &format!("{path}\0t\0")), "OK\0");
    assert!(rig.store.is_watched_by_tools(path));
    assert_eq!(rig.ask(0, XS_UNWATCH, 0, &format!("{path}\0t\0")), "OK\0");
    assert!(!rig.store.is_watched_by_tools(path));
}
