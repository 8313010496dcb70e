//! What a path is.

use alloc::format;
use alloc::string::String;

use crate::error::{Error, Result};
use crate::ids::DomainId;

/// Most bytes of a relative path, and of one below a domain's own
/// (`XENSTORE_REL_PATH_MAX`).
pub const RELATIVE_MAX: usize = 2048;

/// A domain's own path: what its relative paths are relative to.
pub fn of_domain(domain: DomainId) -> String {
    format!("/local/domain/{domain}")
}

/// Whether a path is one as `xenstored` takes them: absolute, no empty component, of
/// letters, digits and `-/_@`, at most `max` bytes beside `/local/domain/<domid>/`.
pub fn is_valid(path: &str, max: usize) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-/_@".contains(&byte);
    if !path.starts_with('/')
        || (path.len() > 1 && path.ends_with('/'))
        || path.contains("//")
        || !path.bytes().all(allowed)
    {
        return false;
    }
    path.len() <= max.saturating_add(domain_prefix(path))
}

/// How long `/local/domain/<domid>/` is at the start of a path, if it is there.
fn domain_prefix(path: &str) -> usize {
    let Some(rest) = path.strip_prefix("/local/domain/") else {
        return 0;
    };
    let digits = rest.bytes().take(5).take_while(u8::is_ascii_digit).count();
    if digits != 0 && rest.as_bytes().get(digits) == Some(&b'/') {
        path.len() - rest.len() + digits + 1
    } else {
        0
    }
}

/// The absolute path of one that may be relative to a domain's own.
pub fn absolute(domain: DomainId, path: &str) -> String {
    if path.starts_with(['/', '@']) {
        return String::from(path);
    }
    // The hypervisor has no path of its own to speak of; as for tools, it is Dom0's.
    let base = if domain == DomainId::XEN {
        DomainId::DOM0
    } else {
        domain
    };
    format!("{}/{path}", of_domain(base))
}

/// As [`absolute`], and valid. `Invalid` if it is not.
pub(super) fn checked(domain: DomainId, path: &[u8], max: u32) -> Result<String> {
    let text = core::str::from_utf8(path).map_err(|_| Error::Invalid)?;
    // Whatever it is relative to, it is too long.
    if text.len() > 2 * RELATIVE_MAX {
        return Err(Error::Invalid);
    }
    let path = absolute(domain, text);
    if is_valid(&path, max as usize) {
        Ok(path)
    } else {
        Err(Error::Invalid)
    }
}

/// The parent of a path other than `/`, and the last component.
pub fn split(path: &str) -> (&str, &str) {
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some(pair) => pair,
        None => ("/", path),
    }
}

/// The path of a child.
pub fn child(parent: &str, name: &str) -> String {
    if parent == "/" {
        format!("/{name}")
    } else {
        format!("{parent}/{name}")
    }
}

/// The path itself, its parent and so on up to `/`.
pub fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    let mut next = Some(path);
    core::iter::from_fn(move || {
        let now = next?;
        next = (now != "/" && now.starts_with('/')).then(|| split(now).0);
        Some(now)
    })
}
