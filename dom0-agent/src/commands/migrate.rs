//! Moving domains to other machines.

use std::io::{self, Write};
use std::thread::sleep;
use std::time::Duration;

use super::create::Bar;
use super::domain::refuse_dom0;
use super::{find, print_json};
use crate::cli::{InitArgs, MigrateArgs, ReceiveArgs};
use crate::control::Control;
use crate::error::{Error, Result};
use crate::migrate::handover::Source as State;
use crate::migrate::incoming::Receiver;
use crate::migrate::outgoing::{Move, Options};
use crate::migrate::policy::Goals;
use crate::migrate::recover;
use crate::migrate::signals;
use crate::migrate::status::Status;
use crate::migrate::tls::{DIRECTORY, Keys, PORT};
use crate::store::Store;

/// `overcast init`
pub fn init(args: &InitArgs) -> Result<()> {
    let keys = Keys::new(DIRECTORY.as_ref());
    let made = keys.make()?;
    for path in &args.trust {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let name = match &args.name {
            Some(name) if args.trust.len() == 1 => name.clone(),
            _ => name.into_owned(),
        };
        keys.trust(&name, path)?;
        say!("{name} is trusted");
    }
    if made {
        say!(
            "keys are made; other hosts trust this one with its {}: overcast init --trust FILE",
            keys.certificate().display()
        );
    }
    Ok(())
}

/// `overcast receive`
pub fn receive(args: &ReceiveArgs) -> Result<()> {
    // No use where domains cannot be made.
    let control = Control::open()?;
    for why in recover::recover(&control, &mut Store::open()?, false)?.open {
        complain!("overcast: {why}");
    }
    let listen = match args.listen.contains(':') {
        true => args.listen.clone(),
        false => format!("{}:{PORT}", args.listen),
    };
    Receiver::new(&listen, args.insecure_plain)?.run(args.once)
}

/// `overcast migrate`
pub fn migrate(args: &MigrateArgs, json: bool) -> Result<()> {
    let control = Control::open()?;
    let (info, _) = find(&control, &args.domain)?;
    refuse_dom0(info.id, "moved")?;
    let mut store = Store::open()?;
    let mut bar = Bar::new(json);
    signals::catch_signals();
    let mut tell = |status: &Status, done, all| bar.tell(&status.message, done, all);
    let options = Options {
        host: args.host.clone(),
        plain: args.insecure_plain,
        name: args.name.clone(),
        dry_run: args.dry_run,
        force_cpu: args.force_cpu,
        with_disks: args.with_disks,
        offline: args.offline,
        compression: args.compress,
        streams: args.streams,
        channel: args.channel,
        bandwidth: args.bandwidth.unwrap_or(0).saturating_mul(1024),
        goals: Goals {
            downtime: Duration::from_millis(args.downtime),
            timeout: Duration::from_secs(args.timeout),
            suspend_at_timeout: args.on_timeout == crate::cli::OnTimeout::Suspend,
        },
        patience: Duration::from_secs(args.suspend_timeout),
    };
    let status = Move::new(&control, &mut store, &info, options, &mut tell)?.run(&info)?;
    drop(bar);
    if json {
        return print_json(&status);
    }
    match args.dry_run {
        true => say!("{} could be moved to {}", status.name, status.host),
        false => {
            let disks = match status.disk_passes.len() {
                0 => String::new(),
                count => format!(
                    ", and {} MiB of disks in {count} passes",
                    status.disk_bytes >> 20
                ),
            };
            say!(
                "{} is at {}: {:.1} s, down for {} ms, {} rounds, {} MiB{disks}",
                status.name,
                status.host,
                status.total_ms as f64 / 1e3,
                status.downtime_ms.unwrap_or(0),
                status.rounds.len(),
                status.bytes >> 20
            );
        }
    }
    Ok(())
}

fn chosen(domain: Option<&str>) -> Result<Vec<Status>> {
    let mut all = Status::all()?;
    if let Some(domain) = domain {
        all.retain(|status| status.name == domain || status.id == domain);
        if all.is_empty() {
            return Err(Error::NoDomain(domain.to_owned()));
        }
    }
    Ok(all)
}

fn over(status: &Status) -> bool {
    status.over() || !status.process.alive()
}

/// `overcast migrate-status`
pub fn status(domain: Option<&str>, watch: bool, json: bool) -> Result<()> {
    loop {
        let all = chosen(domain)?;
        let ended = all.iter().all(over);
        let mut out = io::stdout().lock();
        if json && watch {
            // One line each time.
            serde_json::to_writer(&mut out, &all)?;
            writeln!(out)?;
        } else if json {
            print_json(&all)?;
        } else {
            for status in &all {
                writeln!(
                    out,
                    "{} {} -> {}: {} ({} rounds, {} MiB, {:.1} s, {} pages/s written, {} KiB/s sent)",
                    status.id,
                    status.name,
                    status.host,
                    status.message,
                    status.rounds.len(),
                    status.bytes >> 20,
                    status.total_ms as f64 / 1e3,
                    status.dirty_rate,
                    status.throughput >> 10,
                )?;
            }
        }
        out.flush()?;
        drop(out);
        if !watch || ended {
            return Ok(());
        }
        sleep(Duration::from_secs(1));
    }
}

/// `overcast migrate-cancel`
pub fn cancel(domain: &str) -> Result<()> {
    let running: Vec<_> = chosen(Some(domain))?
        .into_iter()
        .filter(|s| !over(s))
        .collect();
    match running.as_slice() {
        [] => Err(Error::Usage(format!("{domain} is not being moved"))),
        all => all.iter().try_for_each(Status::cancel),
    }
}

/// `overcast migrate-recover`
pub fn recover(abandoned: bool, json: bool) -> Result<()> {
    let control = Control::open()?;
    let done = recover::recover(&control, &mut Store::open()?, abandoned)?;
    for why in &done.open {
        complain!("overcast: {why}");
    }
    if json {
        return print_json(&done.moves);
    }
    for status in done.moves {
        let what = match status.state {
            State::Gone => "runs at the target",
            _ => "goes on here",
        };
        say!("{} {what}", status.name);
    }
    Ok(())
}
