//! The store's wire protocol (`io/xs_wire.h`, `docs/misc/xenstore.txt` of Xen), over the
//! socket of a store in Dom0 or the kernel's `/dev/xen/xenbus`.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use xen_abi::io_xs_wire::*;
use zerocopy::{FromZeros, IntoBytes};

use crate::error::{Error, Result};
use crate::poll::wait_readable;

const SOCKET: &str = "/run/xenstored/socket";
const DEVICE: &str = "/dev/xen/xenbus";

enum Connection {
    Socket(UnixStream),
    Device(File),
}

impl Connection {
    fn stream(&mut self) -> &mut dyn ReadWrite {
        match self {
            Self::Socket(stream) => stream,
            Self::Device(file) => file,
        }
    }
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

/// A connection to the store.
pub struct Store {
    connection: Connection,
    /// Watches that fired while an answer was awaited.
    fired: VecDeque<Fired>,
    /// The transaction that requests belong to; 0 for none.
    transaction: u32,
}

/// A watch that fired.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fired {
    /// The node that changed.
    pub path: String,
    /// What the watch was set with.
    pub token: String,
}

impl Store {
    /// Connects.
    ///
    /// # Errors
    /// `NoControl` if there is no store.
    pub fn open() -> Result<Self> {
        let connection = match UnixStream::connect(SOCKET) {
            Ok(stream) => Connection::Socket(stream),
            Err(_) => {
                let file = OpenOptions::new().read(true).write(true).open(DEVICE);
                Connection::Device(file.map_err(|source| Error::NoControl {
                    path: DEVICE,
                    source,
                })?)
            }
        };
        Ok(Self {
            connection,
            fired: VecDeque::new(),
            transaction: 0,
        })
    }

    fn send(&mut self, kind: u32, payload: &[u8]) -> io::Result<()> {
        let mut message = XsdSockmsg::new_zeroed();
        message.r#type = kind;
        message.tx_id = self.transaction;
        message.len = payload.len() as u32;
        let mut bytes = message.as_bytes().to_vec();
        bytes.extend_from_slice(payload);
        // In one piece: the kernel's device takes a request a write.
        self.connection.stream().write_all(&bytes)
    }

    fn receive(&mut self) -> io::Result<(u32, Vec<u8>)> {
        let mut message = XsdSockmsg::new_zeroed();
        self.connection
            .stream()
            .read_exact(message.as_mut_bytes())?;
        if message.len > XENSTORE_PAYLOAD_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "an answer longer than the protocol allows",
            ));
        }
        let mut payload = vec![0; message.len as usize];
        self.connection.stream().read_exact(&mut payload)?;
        Ok((message.r#type, payload))
    }

    fn request(
        &mut self,
        kind: u32,
        operation: &'static str,
        path: &str,
        payload: &[u8],
    ) -> Result<Vec<u8>> {
        let refused = |error: &str| Error::Store {
            operation,
            path: path.to_owned(),
            error: error.to_owned(),
        };
        if payload.len() > XENSTORE_PAYLOAD_MAX as usize {
            return Err(refused("E2BIG"));
        }
        self.send(kind, payload).map_err(Error::StoreConnection)?;
        loop {
            let (answer, payload) = self.receive().map_err(Error::StoreConnection)?;
            match answer {
                XS_WATCH_EVENT => self.fired.extend(fired(&payload)),
                XS_ERROR => return Err(refused(strings(&payload).first().map_or("?", |s| s))),
                _ => return Ok(payload),
            }
        }
    }

    /// The value of a node.
    pub fn read(&mut self, path: &str) -> Result<Vec<u8>> {
        self.request(XS_READ, "read", path, &zero_ended(path))
    }

    /// The value of a node as text; `None` if there is no such node.
    pub fn read_text(&mut self, path: &str) -> Result<Option<String>> {
        match self.read(path) {
            Ok(value) => Ok(Some(String::from_utf8_lossy(&value).into_owned())),
            Err(Error::Store { error, .. }) if error == "ENOENT" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets the value of a node, making it if need be.
    pub fn write(&mut self, path: &str, value: &[u8]) -> Result<()> {
        let mut payload = zero_ended(path);
        payload.extend_from_slice(value);
        self.request(XS_WRITE, "write", path, &payload)?;
        Ok(())
    }

    /// Removes a node and all below it.
    pub fn remove(&mut self, path: &str) -> Result<()> {
        self.request(XS_RM, "remove", path, &zero_ended(path))?;
        Ok(())
    }

    /// The names of the nodes below a node.
    pub fn list(&mut self, path: &str) -> Result<Vec<String>> {
        match self.request(XS_DIRECTORY, "list", path, &zero_ended(path)) {
            Ok(names) => Ok(strings(&names)),
            Err(Error::Store { error, .. }) if error == "E2BIG" => self.list_in_parts(path),
            Err(error) => Err(error),
        }
    }

    /// Lists a directory that is too long for one answer.
    fn list_in_parts(&mut self, path: &str) -> Result<Vec<String>> {
        'again: loop {
            let mut generation = None;
            let mut names = Vec::new();
            loop {
                let mut payload = zero_ended(path);
                payload.extend(zero_ended(&names.len().to_string()));
                let part = self.request(XS_DIRECTORY_PART, "list", path, &payload)?;
                let split = part.iter().position(|&byte| byte == 0);
                let (head, rest) = part.split_at(split.unwrap_or(part.len()));
                let head = head.to_vec();
                if *generation.get_or_insert_with(|| head.clone()) != head {
                    // It changed meanwhile.
                    continue 'again;
                }
                let rest = rest.get(1..).unwrap_or_default();
                names.extend_from_slice(rest);
                // An empty name is the end.
                if rest.is_empty() || rest.ends_with(b"\0\0") || rest == b"\0" {
                    break 'again Ok(strings(&names));
                }
            }
        }
    }

    /// The permissions of a node, as `n0`, `r5`…: the first is its owner's.
    pub fn permissions(&mut self, path: &str) -> Result<Vec<String>> {
        let payload = self.request(
            XS_GET_PERMS,
            "ask for permissions of",
            path,
            &zero_ended(path),
        )?;
        Ok(strings(&payload))
    }

    /// Says that a suspended domain goes on: the store tells of its next end, too.
    pub fn resumed(&mut self, domain: u16) -> Result<()> {
        let number = domain.to_string();
        self.request(XS_RESUME, "resume", &number, &zero_ended(&number))?;
        Ok(())
    }

    /// Asks to be told of changes of a node and below it.
    pub fn watch(&mut self, path: &str, token: &str) -> Result<()> {
        let mut payload = zero_ended(path);
        payload.extend(zero_ended(token));
        self.request(XS_WATCH, "watch", path, &payload)?;
        Ok(())
    }

    /// Makes a node, if it is not there.
    pub fn mkdir(&mut self, path: &str) -> Result<()> {
        self.request(XS_MKDIR, "make", path, &zero_ended(path))?;
        Ok(())
    }

    /// Sets the permissions of a node, as [`Self::permissions`] gives them.
    pub fn set_permissions(&mut self, path: &str, permissions: &[&str]) -> Result<()> {
        let mut payload = zero_ended(path);
        for permission in permissions {
            payload.extend(zero_ended(permission));
        }
        self.request(XS_SET_PERMS, "set permissions of", path, &payload)?;
        Ok(())
    }

    /// Tells the store of a domain: the frame of its ring and the port, of the domain's own,
    /// that it listens to.
    pub fn introduce(&mut self, domain: u16, frame: u64, port: u32) -> Result<()> {
        let mut payload = zero_ended(&domain.to_string());
        payload.extend(zero_ended(&frame.to_string()));
        payload.extend(zero_ended(&port.to_string()));
        let home = format!("/local/domain/{domain}");
        self.request(XS_INTRODUCE, "introduce", &home, &payload)?;
        Ok(())
    }

    /// Makes changes that happen all at once or not at all; `act` is called again if others
    /// changed the same meanwhile.
    ///
    /// # Errors
    /// Those of `act`, after which nothing is changed.
    pub fn transaction<T>(&mut self, mut act: impl FnMut(&mut Self) -> Result<T>) -> Result<T> {
        const OPERATION: &str = "change";
        loop {
            let id = self.request(XS_TRANSACTION_START, OPERATION, "/", &zero_ended(""))?;
            let id = strings(&id).first().and_then(|id| id.parse().ok());
            self.transaction = id.ok_or_else(|| {
                Error::StoreConnection(io::Error::from(io::ErrorKind::InvalidData))
            })?;
            let result = act(self);
            let verdict = if result.is_ok() { "T" } else { "F" };
            let end = self.request(XS_TRANSACTION_END, OPERATION, "/", &zero_ended(verdict));
            self.transaction = 0;
            let value = result?;
            match end {
                Ok(_) => return Ok(value),
                Err(Error::Store { error, .. }) if error == "EAGAIN" => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for a watch to fire, at most so long; `None` if none does.
    pub fn wait_for(&mut self, timeout: Duration) -> Result<Option<Fired>> {
        let end = Instant::now() + timeout;
        loop {
            if let Some(fired) = self.fired.pop_front() {
                return Ok(Some(fired));
            }
            let left = end.saturating_duration_since(Instant::now());
            if !wait_readable(&[self.as_fd()], Some(left))?[0] {
                return Ok(None);
            }
            let (kind, payload) = self.receive().map_err(Error::StoreConnection)?;
            if kind == XS_WATCH_EVENT {
                self.fired.extend(fired(&payload));
            }
        }
    }

    /// Waits for a watch to fire.
    pub fn wait(&mut self) -> Result<Fired> {
        loop {
            if let Some(fired) = self.fired.pop_front() {
                return Ok(fired);
            }
            let (kind, payload) = self.receive().map_err(Error::StoreConnection)?;
            if kind == XS_WATCH_EVENT {
                self.fired.extend(fired(&payload));
            }
        }
    }

    /// The name of a domain, if it has one.
    pub fn domain_name(&mut self, domain: u16) -> Result<Option<String>> {
        self.read_text(&format!("/local/domain/{domain}/name"))
    }
}

impl AsFd for Store {
    /// Can be read when a watch has fired that [`Store::wait_for`] has not given yet, unless
    /// it came while an answer was awaited.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.connection {
            Connection::Socket(stream) => stream.as_fd(),
            Connection::Device(file) => file.as_fd(),
        }
    }
}

fn zero_ended(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// The strings of a payload, each with a zero at its end.
fn strings(payload: &[u8]) -> Vec<String> {
    payload
        .split(|&byte| byte == 0)
        .filter(|part| !part.is_empty())
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect()
}

fn fired(payload: &[u8]) -> Option<Fired> {
    let mut strings = strings(payload).into_iter();
    Some(Fired {
        path: strings.next()?,
        token: strings.next().unwrap_or_default(),
    })
}

/// A value as it is shown: what is not printable as an escape.
pub fn printable(value: &[u8]) -> String {
    value
        .iter()
        .flat_map(|&byte| std::ascii::escape_default(byte))
        .map(char::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_come_apart() {
        assert_eq!(strings(b"a\0bc\0"), ["a", "bc"]);
        assert_eq!(strings(b""), Vec::<String>::new());
        let watch = fired(b"/a\0token\0");
        assert_eq!(
            watch,
            Some(Fired {
                path: "/a".into(),
                token: "token".into()
            })
        );
        assert_eq!(fired(b""), None);
        assert_eq!(printable(b"a\n\xff"), "a\\n\\xff");
    }

    /// A store that answers with what it is told to.
    fn with_answers(answers: Vec<(u32, Vec<u8>)>, test: impl FnOnce(&mut Store)) {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
        let server = std::thread::spawn(move || {
            for (kind, payload) in answers {
                let mut message = XsdSockmsg::new_zeroed();
                theirs
                    .read_exact(message.as_mut_bytes())
                    .expect("a request");
                let mut request = vec![0; message.len as usize];
                theirs.read_exact(&mut request).expect("its payload");
                let mut answer = XsdSockmsg::new_zeroed();
                answer.r#type = kind;
                answer.len = payload.len() as u32;
                theirs.write_all(answer.as_bytes()).expect("an answer");
                theirs.write_all(&payload).expect("its payload");
            }
        });
        let mut store = Store {
            connection: Connection::Socket(ours),
            fired: VecDeque::new(),
            transaction: 0,
        };
        test(&mut store);
        drop(store);
        server.join().expect("the server ends");
    }

    #[test]
    fn long_directories_are_read_in_parts_and_again_if_they_change() {
        with_answers(
            vec![
                (XS_ERROR, b"E2BIG\0".to_vec()),
                (XS_DIRECTORY_PART, b"7\0one\0".to_vec()),
                (XS_DIRECTORY_PART, b"8\0two\0\0".to_vec()),
                (XS_DIRECTORY_PART, b"8\0one\0".to_vec()),
                (XS_DIRECTORY_PART, b"8\0two\0\0".to_vec()),
            ],
            |store| assert_eq!(store.list("/x").expect("a list"), ["one", "two"]),
        );
    }

    #[test]
    fn transactions_are_made_again_if_others_came_between() {
        with_answers(
            vec![
                (XS_TRANSACTION_START, b"5\0".to_vec()),
                (XS_WRITE, b"OK\0".to_vec()),
                (XS_ERROR, b"EAGAIN\0".to_vec()),
                (XS_TRANSACTION_START, b"6\0".to_vec()),
                (XS_WRITE, b"OK\0".to_vec()),
                (XS_TRANSACTION_END, b"OK\0".to_vec()),
            ],
            |store| {
                let mut tries = 0;
                store
                    .transaction(|store| {
                        tries += 1;
                        assert_eq!(store.transaction, 4 + tries);
                        store.write("/x", b"y")
                    })
                    .expect("done the second time");
                assert_eq!((tries, store.transaction), (2, 0));
            },
        );
        with_answers(
            vec![
                (XS_TRANSACTION_START, b"5\0".to_vec()),
                (XS_ERROR, b"EACCES\0".to_vec()),
                (XS_TRANSACTION_END, b"OK\0".to_vec()),
            ],
            |store| {
                let result = store.transaction(|store| store.write("/x", b"y"));
                assert_eq!(result.expect_err("no access").exit_status(), 4);
                assert_eq!(store.transaction, 0);
            },
        );
    }

    #[test]
    fn errors_name_the_node() {
        with_answers(vec![(XS_ERROR, b"EACCES\0".to_vec())], |store| {
            let error = store.read("/secret").expect_err("no access");
            assert_eq!(error.exit_status(), 4);
            assert!(error.to_string().contains("/secret"));
        });
    }
}
