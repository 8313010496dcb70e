//! The store, as it is.

use std::io::{self, Write};

use serde_json::{Map, Value};

use super::print_json;
use crate::cli::StoreCommand;
use crate::error::{Error, Result};
use crate::store::{Store, printable};

pub fn run(command: StoreCommand, json: bool) -> Result<()> {
    let mut store = Store::open()?;
    match command {
        StoreCommand::Ls { path, permissions } => {
            if json {
                return print_json(&tree(&mut store, &path)?);
            }
            print_tree(&mut store, &path, 0, permissions)
        }
        StoreCommand::Read { path } => {
            let value = store.read(&path)?;
            if json {
                return print_json(&String::from_utf8_lossy(&value));
            }
            let mut out = io::stdout().lock();
            out.write_all(&value)?;
            writeln!(out)?;
            Ok(())
        }
        StoreCommand::Write { path, value } => store.write(&path, value.as_bytes()),
        StoreCommand::Rm { path } => store.remove(&path),
        StoreCommand::Watch { path, count } => {
            store.watch(&path, "overcast")?;
            // The first says only that the watch is set.
            store.wait()?;
            let mut left = count;
            while left != Some(0) {
                let fired = store.wait()?;
                writeln!(io::stdout().lock(), "{}", fired.path)?;
                left = left.map(|left| left - 1);
            }
            Ok(())
        }
    }
}

fn below(path: &str, name: &str) -> String {
    match path {
        "/" => format!("/{name}"),
        path => format!("{path}/{name}"),
    }
}

/// What went away while it was being listed is left out.
fn gone(error: &Error) -> bool {
    matches!(error, Error::Store { error, .. } if error == "ENOENT")
}

fn print_tree(store: &mut Store, path: &str, depth: usize, permissions: bool) -> Result<()> {
    for name in store.list(path)? {
        let node = below(path, &name);
        let value = match store.read(&node) {
            Ok(value) => printable(&value),
            Err(error) if gone(&error) => continue,
            Err(error) => return Err(error),
        };
        let rights = if permissions {
            format!("   ({})", store.permissions(&node)?.join(","))
        } else {
            String::new()
        };
        writeln!(
            io::stdout().lock(),
            "{:depth$}{name} = \"{value}\"{rights}",
            ""
        )?;
        match print_tree(store, &node, depth + 1, permissions) {
            Err(error) if gone(&error) => {}
            other => other?,
        }
    }
    Ok(())
}

/// A node as JSON: its value, or an object of those below, with its own value, if it has
/// one beside them, under the empty name.
fn tree(store: &mut Store, path: &str) -> Result<Value> {
    let value = String::from_utf8_lossy(&store.read(path)?).into_owned();
    let names = store.list(path)?;
    if names.is_empty() {
        return Ok(Value::String(value));
    }
    let mut nodes = Map::new();
    if !value.is_empty() {
        nodes.insert(String::new(), Value::String(value));
    }
    for name in names {
        match tree(store, &below(path, &name)) {
            Ok(node) => {
                nodes.insert(name, node);
            }
            Err(error) if gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Value::Object(nodes))
}
