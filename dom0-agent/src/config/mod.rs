//! What a domain is to be: from files in TOML and in xl's syntax, and from the command line.
//!
//! Both kinds of files are read into [`Value`]s ([`xl`], or the `toml` crate), which
//! [`domain`] understands: keys have the same names in both, those of `xl.cfg(5)`. Disks and
//! network devices are texts ([`devices`]) or, in TOML, tables.
//!
//! Nothing here looks at the machine.

pub mod devices;
pub mod domain;
pub mod xl;

use std::collections::BTreeMap;

pub use domain::{DomainConfig, parse_file};

/// A value of a configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
    /// Yes or no; numbers in xl's files.
    Flag(bool),
    /// Several values.
    List(Vec<Value>),
    /// Values by name.
    Table(Table),
    /// What is none of these, by its kind.
    Other(&'static str),
}

/// Values by name.
pub type Table = BTreeMap<String, Value>;

/// What is wrong with a configuration, beginning with the key.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// The result of reading a configuration.
pub type ConfigResult<T> = std::result::Result<T, ConfigError>;

/// An error of a key.
fn wrong(key: &str, why: impl std::fmt::Display) -> ConfigError {
    ConfigError(format!("{key}: {why}"))
}

impl From<toml::Value> for Value {
    fn from(value: toml::Value) -> Self {
        match value {
            toml::Value::String(text) => Self::Text(text),
            toml::Value::Integer(number) => Self::Number(number),
            toml::Value::Boolean(flag) => Self::Flag(flag),
            toml::Value::Array(list) => Self::List(list.into_iter().map(Self::from).collect()),
            toml::Value::Table(table) => Self::Table(
                table
                    .into_iter()
                    .map(|(key, value)| (key, Self::from(value)))
                    .collect(),
            ),
            toml::Value::Float(_) => Self::Other("a fraction"),
            toml::Value::Datetime(_) => Self::Other("a date"),
        }
    }
}
