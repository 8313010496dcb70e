//! The hypervisor's file system (public header hypfs.h, docs/misc/hypfs-paths.pandoc): what
//! a tree of entries looks like to `HYPERVISOR_hypfs_op`. What stands in it is the caller's.

use alloc::vec::Vec;

use xen_abi::hypfs::*;
use zerocopy::IntoBytes;

use crate::error::{Error, Result};

/// Bytes of a directory's item before its name: the entry, and `off_next`.
const NAME_AT: usize = size_of::<XenHypfsDirentry>() + 2;

/// A thing with a name.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its name; no `/` in it. The root's is empty.
    pub name: &'a str,
    /// What it holds.
    pub content: Content<'a>,
    /// Bytes that may be written to it; 0 if it can only be read.
    pub max_write: u32,
}

/// What an entry holds.
#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// Other entries, sorted by their names.
    Directory(&'a [Entry<'a>]),
    /// A text, which ends with a zero on the outside.
    Text(&'a str),
    /// A number.
    Unsigned(u32),
}

impl<'a> Entry<'a> {
    /// One that can only be read.
    pub const fn new(name: &'a str, content: Content<'a>) -> Self {
        Self {
            name,
            content,
            max_write: 0,
        }
    }

    /// The entry at a path below this one, as the caller wrote it: with the zero at its end
    /// and a `/` before each name. EINVAL if it is not made so, ENOENT if nothing is there.
    pub fn find(&'a self, path: &[u8]) -> Result<&'a Entry<'a>> {
        let [b'/', rest @ .., 0] = path else {
            return Err(Error::Invalid);
        };
        if rest.contains(&0) {
            return Err(Error::Invalid);
        }
        let mut here = self;
        let mut rest = Some(rest);
        while let Some(path) = rest {
            let Content::Directory(entries) = here.content else {
                return Err(Error::NoEntry);
            };
            if path.is_empty() {
                break;
            }
            let end = path.iter().position(|&byte| byte == b'/');
            let (name, after) = match end {
                Some(end) => (path.get(..end), path.get(end + 1..)),
                None => (Some(path), None),
            };
            here = entries
                .iter()
                .find(|entry| Some(entry.name.as_bytes()) == name)
                .ok_or(Error::NoEntry)?;
            rest = after;
        }
        Ok(here)
    }

    /// What it is.
    pub fn describe(&self) -> XenHypfsDirentry {
        let (r#type, length) = match self.content {
            Content::Directory(entries) => (
                XEN_HYPFS_TYPE_DIR,
                entries.iter().map(|entry| item_length(entry.name)).sum(),
            ),
            Content::Text(text) => (XEN_HYPFS_TYPE_STRING, text.len() + 1),
            Content::Unsigned(_) => (XEN_HYPFS_TYPE_UINT, 4),
        };
        XenHypfsDirentry {
            r#type,
            encoding: XEN_HYPFS_ENC_PLAIN,
            pad: 0,
            content_len: length as u32,
            max_write_len: self.max_write,
        }
    }

    /// Its contents as they are read; as long as [`Entry::describe`] says.
    pub fn contents(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.content {
            Content::Directory(entries) => {
                let last = entries.len().wrapping_sub(1);
                for (index, entry) in entries.iter().enumerate() {
                    let length = item_length(entry.name);
                    let next = if index == last { 0 } else { length as u16 };
                    let end = bytes.len() + length;
                    bytes.extend_from_slice(entry.describe().as_bytes());
                    bytes.extend_from_slice(&next.to_ne_bytes());
                    bytes.extend_from_slice(entry.name.as_bytes());
                    bytes.resize(end, 0);
                }
            }
            Content::Text(text) => {
                bytes.extend_from_slice(text.as_bytes());
                bytes.push(0);
            }
            Content::Unsigned(number) => bytes.extend_from_slice(&number.to_ne_bytes()),
        }
        bytes
    }
}

/// Bytes of an item of a directory (`struct xen_hypfs_dirlistentry`).
fn item_length(name: &str) -> usize {
    (NAME_AT + name.len() + 1).next_multiple_of(align_of::<XenHypfsDirentry>())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: Entry<'static> = Entry::new(
        "",
        Content::Directory(&[
            Entry::new("major", Content::Unsigned(4)),
            Entry::new(
                "params",
                Content::Directory(&[Entry {
                    name: "loglvl",
                    content: Content::Text("info"),
                    max_write: 32,
                }]),
            ),
        ]),
    );

    #[test]
    fn paths_lead_to_entries() {
        for (path, found) in [
            ("/\0", ""),
            ("/params\0", "params"),
            ("/params/\0", "params"),
            ("/params/loglvl\0", "loglvl"),
            ("/major\0", "major"),
        ] {
            assert_eq!(TREE.find(path.as_bytes()).map(|e| e.name), Ok(found));
        }
        for path in [
            "//\0",
            "/param\0",
            "/paramss\0",
            "/params/loglvl/\0",
            "/major/x\0",
            "//params\0",
        ] {
            assert_eq!(
                TREE.find(path.as_bytes()).err(),
                Some(Error::NoEntry),
                "{path}"
            );
        }
        for path in ["", "\0", "/", "params\0", "/params", "/par\0ms\0"] {
            assert_eq!(
                TREE.find(path.as_bytes()).err(),
                Some(Error::Invalid),
                "{path}"
            );
        }
    }

    /// Against what Xen's `xenhypfs` reads: items one behind the other, the last without next.
    #[test]
    fn directories_list_their_entries() {
        let entry = TREE.describe();
        assert_eq!((entry.r#type, entry.max_write_len), (XEN_HYPFS_TYPE_DIR, 0));
        let bytes = TREE.contents();
        assert_eq!(bytes.len(), entry.content_len as usize);
        assert_eq!(
            bytes[..20],
            [
                3, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 20, 0, b'm', b'a', b'j', b'o', b'r', 0
            ]
        );
        assert_eq!(
            bytes[32..],
            [0, 0, b'p', b'a', b'r', b'a', b'm', b's', 0, 0, 0, 0]
        );
        let inner = TREE.find(b"/params/loglvl\0").expect("it is there");
        assert_eq!(inner.contents(), b"info\0");
        assert_eq!(inner.describe().content_len, 5);
        assert_eq!(inner.describe().max_write_len, 32);
        let empty = Entry::new("", Content::Directory(&[]));
        assert_eq!(
            (empty.contents().len(), empty.describe().content_len),
            (0, 0)
        );
    }
}
