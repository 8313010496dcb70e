//! Listing domains, ending them, and setting what they have.

use std::io::{self, Write};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{chosen, find, print_json, shown, with_domain};
use crate::build;
use crate::cli::ShutdownArgs;
use crate::config::domain::check_name;
use crate::control::{Control, DomainInfo, uuid};
use crate::daemon;
use crate::error::{Error, Result};
use crate::store::Store;

/// How often a domain is looked at that is waited for.
const POLL: Duration = Duration::from_millis(200);

#[derive(Serialize)]
struct Listed<'a> {
    name: Option<&'a str>,
    #[serde(flatten)]
    info: &'a DomainInfo,
}

pub fn list(domains: &[String], json: bool) -> Result<()> {
    let control = Control::open()?;
    let domains = chosen(&control, domains)?;
    if json {
        let listed: Vec<_> = domains
            .iter()
            .map(|(info, name)| Listed {
                name: name.as_deref(),
                info,
            })
            .collect();
        return print_json(&listed);
    }
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{:<32} {:>5} {:>7} {:>5}  {:<6} {:>10}",
        "Name", "ID", "MiB", "vCPUs", "State", "Time(s)"
    )?;
    for (info, name) in &domains {
        writeln!(
            out,
            "{:<32} {:>5} {:>7} {:>5}  {:<6} {:>10.1}",
            shown(name, info.id),
            info.id,
            info.memory_kib >> 10,
            info.vcpus,
            info.letters(),
            info.cpu_time_ns as f64 / 1e9,
        )?;
    }
    Ok(())
}

/// Not on Dom0: it is shut down from within.
pub(super) fn refuse_dom0(id: u16, what: &str) -> Result<()> {
    match id {
        0 => Err(Error::Usage(format!(
            "Dom0 cannot be {what} from here; use its own poweroff or reboot"
        ))),
        _ => Ok(()),
    }
}

pub fn shutdown(args: &ShutdownArgs, how: &str) -> Result<()> {
    let control = Control::open()?;
    let (info, _) = find(&control, &args.domain)?;
    refuse_dom0(info.id, "ended")?;
    let mut store = Store::open()?;
    let node = format!("/local/domain/{}/control/shutdown", info.id);
    store.write(&node, how.as_bytes())?;
    if !args.wait {
        return Ok(());
    }
    let end = Instant::now() + Duration::from_secs(args.timeout);
    while Instant::now() < end {
        let now = control.domains()?.into_iter().find(|now| now.id == info.id);
        match now {
            Some(now) if now.shutdown.is_none() && !now.dying => sleep(POLL),
            _ => return Ok(()),
        }
    }
    // It never took note, or is stuck.
    let taken = store.read_text(&node)?.is_none_or(|value| value.is_empty());
    let why = if taken {
        "it began to, and is not done"
    } else {
        "its kernel does not listen (no PV drivers, or it hangs)"
    };
    Err(Error::Timeout(format!(
        "{} did not end in {} s: {why}; `overcast destroy` ends it at once",
        args.domain, args.timeout
    )))
}

pub fn destroy(domain: &str) -> Result<()> {
    with_domain(domain, |control, id| {
        refuse_dom0(id, "destroyed")?;
        match Store::open() {
            Ok(mut store) => {
                let uuid = uuid(&control.domain_info(id)?.handle);
                daemon::forget(&uuid);
                build::remove(control, &mut store, id)
            }
            Err(_) => control.destroy(id),
        }
    })
}

pub fn rename(domain: &str, name: &str) -> Result<()> {
    check_name(name)
        .map_err(|why| Error::Usage(format!("\"{name}\" is no name for a domain: {why}")))?;
    let control = Control::open()?;
    let (info, _) = find(&control, domain)?;
    let mut store = Store::open()?;
    for other in control.domains()? {
        if other.id != info.id && store.domain_name(other.id)?.as_deref() == Some(name) {
            return Err(Error::Usage(format!(
                "domain {} is called \"{name}\" already",
                other.id
            )));
        }
    }
    store.write(&format!("/local/domain/{}/name", info.id), name.as_bytes())?;
    // It is called so after a restart, too.
    daemon::renamed(&info.uuid, name)
}

pub fn set_memory(domain: &str, kib: u64) -> Result<()> {
    let control = Control::open()?;
    let (info, _) = find(&control, domain)?;
    let mut store = Store::open()?;
    let home = format!("/local/domain/{}", info.id);
    let static_max = store
        .read_text(&format!("{home}/memory/static-max"))?
        .and_then(|value| value.parse::<u64>().ok());
    if let Some(most) = static_max
        && kib > most
    {
        return Err(Error::Usage(format!(
            "{domain} was made for at most {} MiB",
            most >> 10
        )));
    }
    // Before it asks for more; what it is to give it may keep until it does.
    let most = kib.max(info.memory_kib).saturating_add(build::SLACK_KIB);
    if most > info.max_memory_kib && info.id != 0 {
        control.set_max_memory(info.id, most)?;
    }
    store.write(&format!("{home}/memory/target"), kib.to_string().as_bytes())?;
    if most < info.max_memory_kib && info.id != 0 {
        control.set_max_memory(info.id, most)?;
    }
    Ok(())
}
