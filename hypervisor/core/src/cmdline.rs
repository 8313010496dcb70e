//! The hypervisor's command line, in Xen's spelling.
//!
//! Options are words with spaces between them: `option`, `option=value` or
//! `no-option`. What Overcast knows stands in one table ([`TABLE`]), from which
//! the documentation is made too; what Xen knows and Overcast may leave aside is in
//! [`IGNORED`]. From a lone `--` on, the rest is for the Dom0 kernel.
//!
//! # Invariants
//!
//! - Parsing takes any bytes, never fails, and gives a usable [`Options`]: a
//!   word that is not understood changes nothing and leaves a [`Diagnostic`].
//! - A later option overrides an earlier one.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

mod options;
mod values;

pub use options::{IGNORED, Options, TABLE, *};
pub(crate) use values::parse_size;
pub use values::{Amount, LogLevel, LogThreshold};

/// How much a [`Diagnostic`] matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Xen's option, without effect here.
    Info,
    /// Unknown; ignored.
    Warning,
    /// Known, but its value is not; the default holds.
    Error,
}

/// Something to be said about a word of the command line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// How much it matters.
    pub severity: Severity,
    /// A sentence that names the option.
    pub message: String,
}

/// One option as it was written.
#[derive(Clone, Copy, Debug)]
pub struct Argument<'a> {
    /// What follows the `=`, if there is one.
    pub value: Option<&'a str>,
    /// It was written `no-option`.
    pub negated: bool,
}

/// What is wrong with a value: what was expected in its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expected(pub &'static str);

/// An option: its name, what it takes, what it does.
pub struct OptionSpec {
    /// As it is written, without `no-`.
    pub name: &'static str,
    /// What it takes, as in the document of Xen's options (`<boolean>`, `<size>`, ...).
    pub form: &'static str,
    /// What holds without it.
    pub default: &'static str,
    /// What it does, in a sentence.
    pub help: &'static str,
    /// Puts the value into the options, or says what was expected.
    pub apply: fn(&mut Options, Argument<'_>) -> Result<(), Expected>,
}

/// Parses a command line from which the image's name has been taken
/// ([`strip_image_name`]).
pub fn parse(line: &[u8]) -> (Options, Vec<Diagnostic>) {
    let mut options = Options::default();
    let mut diagnostics = Vec::new();
    // The line ends at a NUL, wherever the buffer ends.
    let line = line.split(|&byte| byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(line);

    let mut rest: &str = &text;
    loop {
        rest = rest.trim_start_matches(is_space);
        if rest.is_empty() {
            break;
        }
        let end = rest.find(is_space).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after;
        if word == "--" {
            options.dom0_extra = rest.trim_matches(is_space).to_owned();
            break;
        }
        if let Some(diagnostic) = apply(&mut options, word) {
            diagnostics.push(diagnostic);
        }
    }
    (options, diagnostics)
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

fn apply(options: &mut Options, word: &str) -> Option<Diagnostic> {
    let (key, value) = match word.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (word, None),
    };
    // An option's own name may begin with "no-" (none does by now).
    let find = |name: &str| TABLE.iter().find(|spec| spec.name == name);
    let (spec, negated) = match find(key) {
        Some(spec) => (Some(spec), false),
        None => match key.strip_prefix("no-") {
            Some(name) => (find(name), true),
            None => (None, false),
        },
    };
    if let Some(spec) = spec {
        return match (spec.apply)(options, Argument { value, negated }) {
            Ok(()) => None,
            Err(Expected(expected)) => Some(Diagnostic {
                severity: Severity::Error,
                message: format!("option \"{word}\": expected {}={expected}", spec.name),
            }),
        };
    }
    let name = key.strip_prefix("no-").unwrap_or(key);
    if IGNORED.contains(&name) || IGNORED.contains(&key) {
        return Some(Diagnostic {
            severity: Severity::Info,
            message: format!("option \"{word}\" has no effect here"),
        });
    }
    Some(Diagnostic {
        severity: Severity::Warning,
        message: format!("option \"{key}\" is unknown; ignored"),
    })
}

/// Takes off the image's name, with which Multiboot loaders other than GRUB 2
/// begin the command line; `loader` is the loader's name, if it gave one.
pub fn strip_image_name<'a>(line: &'a [u8], loader: Option<&[u8]>) -> &'a [u8] {
    let line = line.trim_ascii_start();
    // GRUB 2 calls itself "GRUB 1.9x" or "GRUB 2.x", GRUB legacy "GNU GRUB 0.x".
    let grub2 = loader
        .and_then(|name| name.strip_prefix(b"GRUB "))
        .is_some_and(|version| version.first() != Some(&b'0'));
    if grub2 {
        return line;
    }
    let end = line
        .iter()
        .position(|&byte| byte == b' ')
        .unwrap_or(line.len());
    line.get(end..).unwrap_or_default().trim_ascii_start()
}

/// The table as a page of Markdown.
pub fn document() -> String {
    let mut page = String::new();
    for spec in TABLE {
        page += &format!(
            "### {}\n> `= {}`\n\n> Default: `{}`\n\n{}\n\n",
            spec.name, spec.form, spec.default, spec.help
        );
    }
    page
}

#[cfg(test)]
mod tests;
