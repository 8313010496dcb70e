//! The kinds of values that options take.

use core::fmt;

use super::{Argument, Expected};
use crate::addr::PAGE_SIZE;

/// An amount of memory: an absolute size, a share of what there is, or both,
/// to be taken as it is or subtracted from what there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Amount {
    /// In bytes.
    pub bytes: u64,
    /// In per cent of what there is.
    pub percent: u8,
    /// All but this.
    pub all_but: bool,
}

impl Amount {
    /// The amount in pages, out of `available` pages.
    pub fn pages(&self, available: u64) -> u64 {
        let share = u128::from(available) * u128::from(self.percent) / 100;
        let pages = (self.bytes / PAGE_SIZE as u64)
            .saturating_add(u64::try_from(share).unwrap_or(u64::MAX));
        if self.all_but {
            available.saturating_sub(pages)
        } else {
            pages
        }
    }
}

/// How important a message is, the most important first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LogLevel {
    /// As a threshold: print nothing but what always is.
    None,
    /// Something failed.
    Error,
    /// Something is not as it should be.
    Warning,
    /// Something that one may want to know.
    Info,
    /// Everything.
    Debug,
}

/// What is printed of a source of messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogThreshold {
    /// Messages as important as this are always printed.
    pub always: LogLevel,
    /// Messages less important than `always`, but not less than this, are
    /// printed at a limited rate. Never below `always`.
    pub limited: LogLevel,
}

impl LogThreshold {
    /// `<level>[/<rate-limited level>]`; `None` if it is not that.
    pub fn parse(text: &str) -> Option<Self> {
        let (always, limited) = match text.split_once('/') {
            Some((always, limited)) => (parse_level(always)?, parse_level(limited)?),
            None => (parse_level(text)?, parse_level(text)?),
        };
        Some(Self {
            always,
            limited: limited.max(always),
        })
    }

    /// As one number.
    pub const fn pack(self) -> u32 {
        (self.always as u32) << 8 | self.limited as u32
    }

    /// The threshold of [`LogThreshold::pack`].
    pub fn unpack(packed: u32) -> Self {
        let level = |number: u32| {
            let known = LogLevel::ALL.iter().find(|&&level| level as u32 == number);
            known.copied().unwrap_or(LogLevel::Debug)
        };
        Self {
            always: level(packed >> 8),
            limited: level(packed & 0xff),
        }
    }
}

/// As [`LogThreshold::parse`] takes it.
impl fmt::Display for LogThreshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.always.name())?;
        match self.limited == self.always {
            true => Ok(()),
            false => write!(f, "/{}", self.limited.name()),
        }
    }
}

impl LogLevel {
    const ALL: [Self; 5] = [
        Self::None,
        Self::Error,
        Self::Warning,
        Self::Info,
        Self::Debug,
    ];

    /// Its name in `loglvl=`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
            Self::Debug => "all",
        }
    }
}

/// `yes`, `on`, `true`, `enable`, `1` and their contraries.
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "yes" | "on" | "true" | "enable" | "1" => Some(true),
        "no" | "off" | "false" | "disable" | "0" => Some(false),
        _ => None,
    }
}

/// A decimal, `0x` hexadecimal or `0` octal number at the start; gives the rest.
pub(super) fn leading_number(text: &str) -> Option<(u64, &str)> {
    let (radix, digits) = if let Some(hex) = text
        .strip_prefix("0x")
        .or_else(|| text.strip_prefix("0X"))
        .filter(|hex| hex.starts_with(|c: char| c.is_ascii_hexdigit()))
    {
        (16, hex)
    } else if text.len() > 1 && text.starts_with('0') {
        (8, text)
    } else {
        (10, text)
    };
    let end = digits
        .find(|c: char| !c.is_digit(radix))
        .unwrap_or(digits.len());
    let (number, rest) = digits.split_at(end);
    Some((u64::from_str_radix(number, radix).ok()?, rest))
}

/// A whole number and nothing else.
pub(super) fn parse_number(text: &str) -> Option<u64> {
    match leading_number(text)? {
        (number, "") => Some(number),
        _ => None,
    }
}

/// A size at the start: a number with one of the suffixes B, K, M, G, T, or
/// none for KiB (before a `%`, the bare number); gives the rest. In bytes.
pub(super) fn leading_size(text: &str) -> Option<(u64, &str)> {
    let (number, rest) = leading_number(text)?;
    let mut chars = rest.chars();
    let (shift, after) = match chars.next() {
        Some('B' | 'b') => (0, chars.as_str()),
        Some('K' | 'k') => (10, chars.as_str()),
        Some('M' | 'm') => (20, chars.as_str()),
        Some('G' | 'g') => (30, chars.as_str()),
        Some('T' | 't') => (40, chars.as_str()),
        Some('%') => (0, rest),
        _ => (10, rest),
    };
    Some((number.checked_mul(1 << shift)?, after))
}

/// A size and nothing else, in bytes.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    match leading_size(text)? {
        (size, "") => Some(size),
        _ => None,
    }
}

/// `[-]<size>`, `[-]<n>%` or `[-]<size>+<n>%`.
pub(super) fn parse_amount(text: &str) -> Option<Amount> {
    let (all_but, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let percent = |part: &str| -> Option<u8> {
        let number = parse_number(part.strip_suffix('%')?)?;
        u8::try_from(number).ok().filter(|&n| n < 100)
    };
    let mut amount = Amount {
        all_but,
        ..Amount::default()
    };
    match text.split_once('+') {
        Some((size, share)) => {
            amount.bytes = parse_size(size)?;
            amount.percent = percent(share)?;
        }
        None if text.ends_with('%') => amount.percent = percent(text)?,
        None => amount.bytes = parse_size(text)?,
    }
    Some(amount)
}

fn parse_level(text: &str) -> Option<LogLevel> {
    Some(match text {
        "none" => LogLevel::None,
        "error" => LogLevel::Error,
        "warning" => LogLevel::Warning,
        "info" => LogLevel::Info,
        "debug" | "all" => LogLevel::Debug,
        _ => return None,
    })
}

/// Puts a boolean option's value into `slot`.
pub(super) fn set_bool(slot: &mut bool, argument: Argument<'_>) -> Result<(), Expected> {
    let value = match argument.value {
        None => true,
        Some(text) => parse_bool(text).ok_or(Expected("<boolean>"))?,
    };
    *slot = value != argument.negated;
    Ok(())
}

/// The value of an option that must have one.
pub(super) fn value_of<'a>(
    argument: Argument<'a>,
    expected: &'static str,
) -> Result<&'a str, Expected> {
    match argument {
        Argument {
            value: Some(value),
            negated: false,
        } if !value.is_empty() => Ok(value),
        _ => Err(Expected(expected)),
    }
}

/// Parses the value of an option that must have one.
pub(super) fn set<T>(
    slot: &mut T,
    argument: Argument<'_>,
    expected: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<(), Expected> {
    *slot = parse(value_of(argument, expected)?).ok_or(Expected(expected))?;
    Ok(())
}
