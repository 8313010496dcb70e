//! Saving domains, and restoring them.

use std::time::Duration;

use super::create::Bar;
use super::domain::refuse_dom0;
use super::{find, print_json};
use crate::cli::{RestoreArgs, SaveArgs};
use crate::control::Control;
use crate::error::Result;
use crate::migrate::file;
use crate::migrate::signals::catch_signals;
use crate::store::Store;

/// `overcast save`
pub fn save(args: &SaveArgs, json: bool) -> Result<()> {
    let control = Control::open()?;
    let (info, _) = find(&control, &args.domain)?;
    refuse_dom0(info.id, "saved")?;
    let mut store = Store::open()?;
    let mut bar = Bar::new(json);
    // The guest goes on then.
    catch_signals();
    let report = file::save(
        &control,
        &mut store,
        &info,
        &args.file,
        file::Manner {
            go_on: args.checkpoint,
            patience: Duration::from_secs(args.timeout),
            channel: args.channel,
        },
        &mut |what, done, all| bar.tell(what, done, all),
    )?;
    drop(bar);
    if json {
        return print_json(&report);
    }
    say!(
        "{} is saved in {}: {} MiB, {:.1} s",
        report.name,
        report.file.display(),
        report.bytes >> 20,
        report.save_ms as f64 / 1e3
    );
    Ok(())
}

/// `overcast restore`
pub fn restore(args: &RestoreArgs, json: bool) -> Result<()> {
    let control = Control::open()?;
    let mut store = Store::open()?;
    let mut bar = Bar::new(json);
    catch_signals();
    let report = file::restore(
        &control,
        &mut store,
        &args.file,
        args.name.as_deref(),
        args.paused,
        args.force_cpu,
        &mut |what, done, all| bar.tell(what, done, all),
    )?;
    drop(bar);
    if json {
        return print_json(&report);
    }
    say!("{} is domain {}", report.name, report.domain);
    Ok(())
}
