//! What the commands do.

mod cpu;
pub mod create;
mod domain;
mod host;
mod migrate;
mod save;
mod store;
mod vcpu;

use std::io::{self, Write};
use std::time::Duration;

use clap::CommandFactory;
use serde::Serialize;

use crate::cli::{Cli, Command};
use crate::console::client;
use crate::control::{Control, DomainInfo};
use crate::daemon;
use crate::error::{Error, Result};
use crate::first_boot;
use crate::store::Store;
use crate::top;

/// Carries out a command line.
pub fn run(cli: Cli) -> Result<()> {
    let json = cli.json;
    match cli.command {
        Command::List { domains } => domain::list(&domains, json),
        Command::Create(args) => create::create(&args, json),
        Command::Console {
            domain,
            log,
            linger,
        } => {
            let (info, _) = find(&Control::open()?, &domain)?;
            match log {
                true => client::print_log(info.id),
                false => client::attach(info.id, Duration::from_secs(linger)),
            }
        }
        Command::Daemon => daemon::run(),
        Command::Info => host::info(json),
        Command::Check => host::check(json),
        Command::Dmesg { clear } => host::dmesg(clear),
        Command::DebugKeys { keys } => Control::open()?.debug_keys(&keys),
        Command::Save(args) => save::save(&args, json),
        Command::Restore(args) => save::restore(&args, json),
        Command::Migrate(args) => migrate::migrate(&args, json),
        Command::Receive(args) => migrate::receive(&args),
        Command::Init(args) => migrate::init(&args),
        Command::MigrateStatus { domain, watch } => migrate::status(domain.as_deref(), watch, json),
        Command::MigrateCancel { domain } => migrate::cancel(&domain),
        Command::MigrateRecover { abandoned } => migrate::recover(abandoned, json),
        Command::Pause(args) => with_domain(&args.domain, |control, id| control.pause(id)),
        Command::Unpause(args) => with_domain(&args.domain, |control, id| control.unpause(id)),
        Command::Shutdown(args) => domain::shutdown(&args, "poweroff"),
        Command::Reboot(args) => domain::shutdown(&args, "reboot"),
        Command::Destroy(args) => domain::destroy(&args.domain),
        Command::Rename { domain, name } => domain::rename(&domain, &name),
        Command::MemSet { domain, memory } => domain::set_memory(&domain, memory),
        Command::VcpuList { domains } => vcpu::list(&domains, json),
        Command::Top(args) => top::run(&args, json),
        Command::VcpuSet { domain, vcpus } => vcpu::set(&domain, vcpus),
        Command::VcpuPin {
            domain,
            vcpu,
            hard,
            soft,
        } => vcpu::pin(&domain, &vcpu, &hard, soft.as_deref()),
        Command::Sched {
            domain,
            weight,
            cap,
        } => vcpu::sched(domain.as_deref(), weight, cap, json),
        Command::Cpu { command } => cpu::run(command, json),
        Command::Store { command } => store::run(command, json),
        Command::FirstBoot {
            wait,
            metadata,
            root,
        } => first_boot::run(&root, metadata.as_deref(), Duration::from_secs(wait)),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "overcast", &mut io::stdout());
            Ok(())
        }
        Command::Manual => {
            clap_mangen::Man::new(Cli::command()).render(&mut io::stdout())?;
            Ok(())
        }
    }
}

/// Prints a value as JSON.
fn print_json(value: &impl Serialize) -> Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}

/// The domain that is meant by a name or a number; its name too, if it has one.
fn find(control: &Control, domain: &str) -> Result<(DomainInfo, Option<String>)> {
    let all = control.domains()?;
    // Names come from the store; numbers work without one.
    let mut store = Store::open().ok();
    let mut name_of = |id| {
        store
            .as_mut()
            .and_then(|store| store.domain_name(id).ok().flatten())
    };
    if let Ok(id) = domain.parse::<u16>() {
        let info = all.into_iter().find(|info| info.id == id);
        let info = info.ok_or_else(|| Error::NoDomain(domain.to_owned()))?;
        let name = name_of(info.id);
        return Ok((info, name));
    }
    let mut named = all
        .into_iter()
        .filter(|info| name_of(info.id).as_deref() == Some(domain));
    let found = named.next();
    match (found, named.next()) {
        (Some(info), None) => Ok((info, Some(domain.to_owned()))),
        (None, _) => Err(Error::NoDomain(domain.to_owned())),
        (Some(_), Some(_)) => Err(Error::Ambiguous(domain.to_owned())),
    }
}

fn with_domain(domain: &str, act: impl FnOnce(&Control, u16) -> Result<()>) -> Result<()> {
    let control = Control::open()?;
    let (info, _) = find(&control, domain)?;
    act(&control, info.id)
}

/// All domains, or those that were named.
pub(crate) fn chosen(
    control: &Control,
    domains: &[String],
) -> Result<Vec<(DomainInfo, Option<String>)>> {
    if !domains.is_empty() {
        return domains.iter().map(|domain| find(control, domain)).collect();
    }
    let mut store = Store::open().ok();
    let named = control.domains()?.into_iter().map(|info| {
        let name = store
            .as_mut()
            .and_then(|store| store.domain_name(info.id).ok().flatten());
        (info, name)
    });
    Ok(named.collect())
}

/// What is shown of a domain without a name.
pub(crate) fn shown(name: &Option<String>, id: u16) -> String {
    match name {
        Some(name) => name.clone(),
        None if id == 0 => "Domain-0".to_owned(),
        None => "(no name)".to_owned(),
    }
}
