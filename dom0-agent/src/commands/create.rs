//! Making domains.

use std::fs;
use std::io::{IsTerminal, stderr};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::print_json;
use crate::build::{self, Boot, Shell, nodes};
use crate::cli::CreateArgs;
use crate::config::domain::parse_uuid;
use crate::config::{ConfigError, DomainConfig, Table, Value, parse_file};
use crate::console::client;
use crate::control::{self, Control};
use crate::cpu;
use crate::daemon;
use crate::error::{Error, Result};
use crate::store::Store;

/// The largest file with a configuration.
const MAX_FILE: u64 = 1 << 20;

#[derive(Serialize)]
struct Created<'a> {
    id: u16,
    name: &'a str,
    uuid: &'a str,
}

/// The configuration that the command line gives: a file's, and over it what is said besides.
pub fn configuration(args: &CreateArgs) -> Result<DomainConfig> {
    let (mut table, origin) = match &args.file {
        None => (Table::new(), "command line".to_owned()),
        Some(path) => {
            let origin = path.display().to_string();
            (read_table(path, &origin)?, origin)
        }
    };
    let mut set = |key: &str, value: Value| {
        table.insert(key.to_owned(), value);
    };
    let texts = |list: &[String]| Value::List(list.iter().cloned().map(Value::Text).collect());
    for (key, text) in [
        ("name", &args.name),
        ("memory", &args.memory),
        ("maxmem", &args.max_memory),
        ("uuid", &args.uuid),
        ("cpus", &args.cpus),
    ] {
        if let Some(text) = text {
            set(key, Value::Text(text.clone()));
        }
    }
    if let Some(cpu) = &args.cpu {
        // The daemon that restarts it is in another directory.
        let file = fs::canonicalize(cpu).ok().filter(|path| path.is_file());
        let cpu = file.map_or_else(|| cpu.clone(), |path| path.display().to_string());
        set("cpu", Value::Text(cpu));
    }
    for (key, path) in [("kernel", &args.kernel), ("initrd", &args.initrd)] {
        if let Some(path) = path {
            set(key, Value::Text(path.display().to_string()));
        }
    }
    for (key, number) in [("vcpus", args.vcpus), ("maxvcpus", args.max_vcpus)] {
        if let Some(number) = number {
            set(key, Value::Number(number.into()));
        }
    }
    if !args.disk.is_empty() {
        set("disk", texts(&args.disk));
    }
    if !args.vif.is_empty() {
        set("vif", texts(&args.vif));
    }
    if args.initrd.is_some() {
        table.remove("ramdisk");
    }
    if let Some(line) = &args.cmdline {
        for key in ["root", "extra"] {
            table.remove(key);
        }
        table.insert("cmdline".to_owned(), Value::Text(line.clone()));
    }
    let named = |error: ConfigError| Error::Usage(format!("{origin}: {error}"));
    let (config, unknown) = DomainConfig::from_table(table).map_err(named)?;
    for key in unknown {
        complain!("overcast: {origin}: {key} is not known, and ignored");
    }
    Ok(config)
}

fn read_table(path: &Path, origin: &str) -> Result<Table> {
    let wrong = |why: String| Error::Usage(format!("{origin}: {why}"));
    let size = fs::metadata(path)
        .map_err(|error| wrong(error.to_string()))?
        .len();
    if size > MAX_FILE {
        return Err(wrong(format!("{size} bytes are no configuration")));
    }
    let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    parse_file(origin, &text).map_err(|error| wrong(error.to_string()))
}

/// Says on a terminal what is being done.
pub(super) struct Bar(ProgressBar);

impl Bar {
    pub(super) fn new(quiet: bool) -> Self {
        if quiet || !stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {wide_bar} {percent:>3}%")
        {
            bar.set_style(style);
        }
        Self(bar)
    }

    pub(super) fn tell(&mut self, what: &str, done: u64, all: u64) {
        self.0.set_message(what.to_owned());
        self.0.set_length(all.max(1));
        self.0.set_position(done);
        self.0.tick();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Makes a domain, paused; gives its number and its UUID. On failure nothing is left of it.
pub fn make(
    control: &Control,
    store: &mut Store,
    config: &DomainConfig,
    progress: build::Progress<'_>,
) -> Result<(u16, String)> {
    for info in control.domains()? {
        if store.domain_name(info.id)?.as_deref() == Some(config.name.as_str()) {
            return Err(Error::Usage(format!(
                "name: domain {} is called \"{}\" already",
                info.id, config.name
            )));
        }
    }
    let boot = Boot::load(&config.kernel, config.initrd.as_deref(), progress)?;
    boot.check(config.memory_kib)?;
    let free = control.host()?.free_memory_kib;
    if free < config.memory_kib {
        return Err(Error::Memory {
            wanted: config.memory_kib,
            free,
        });
    }
    let uuid = match config.uuid.as_deref().and_then(parse_uuid) {
        Some(uuid) => uuid,
        None => build::new_uuid()?,
    };
    let store_domain = nodes::store_domain(store)?;
    let policy = match (config.cpu.as_deref(), config.cpuid.as_deref()) {
        (None, None) => None,
        (cpu, cpuid) => cpu::of_new(cpu, cpuid, &cpu::Machine::here(control)?.policies)?,
    };
    let shell = Shell::make(control, config, uuid, store_domain)?;
    let uuid = control::uuid(&uuid);
    let mut finish = || {
        if let Some(policy) = &policy {
            control.set_cpu_policy(shell.domain, policy)?;
        }
        let rings = build::populate(control, &shell, config, &boot, progress)?;
        progress("making its devices", 0, 0);
        let identity = nodes::Identity {
            uuid: &uuid,
            config,
        };
        nodes::write(store, &shell, &rings, &identity)?;
        nodes::wait_for_backends(store, shell.domain, config)
    };
    match finish() {
        Ok(()) => Ok((shell.domain, uuid)),
        Err(error) => {
            if let Err(left) = build::remove(control, store, shell.domain) {
                complain!("overcast: domain {} is left behind: {left}", shell.domain);
            }
            Err(error)
        }
    }
}

/// `overcast create`
pub fn create(args: &CreateArgs, json: bool) -> Result<()> {
    let config = configuration(args)?;
    if args.dry_run {
        return print_json(&config);
    }
    let control = Control::open()?;
    let mut store = Store::open()?;
    let mut bar = Bar::new(json);
    let (id, uuid) = make(&control, &mut store, &config, &mut |what, done, all| {
        bar.tell(what, done, all);
    })?;
    drop(bar);
    if let Err(error) = daemon::remember(&uuid, &config) {
        complain!("overcast: the daemon will not know the domain: {error}");
    }
    if !args.paused {
        control.unpause(id)?;
    }
    if json {
        return print_json(&Created {
            id,
            name: &config.name,
            uuid: &uuid,
        });
    }
    say!("{} is domain {id}", config.name);
    match args.console {
        true => client::attach(id, Duration::from_secs(2)),
        false => Ok(()),
    }
}
