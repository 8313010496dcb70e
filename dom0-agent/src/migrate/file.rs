//! Saving a domain into a file, and restoring it from one. The file is `xl`'s
//! ([`crate::stream::container`]), so either tool takes the other's.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use overcast_core::cpuid::FeatureSet;
use serde::Serialize;

use super::config::{self, Saved};
use super::fault::{self, Point};
use super::guest::{Arriving, Leaving};
use super::recover::now;
use super::signals::was_interrupted;
use super::status::{Saving, claim};
use super::suspend::{check_up, let_go_on, suspend};
use crate::build::{self, Progress, Rings, Shell, nodes};
use crate::config::domain::parse_uuid;
use crate::control::{Control, DomainInfo};
use crate::cpu;
use crate::daemon;
use crate::error::{Error, Result};
use crate::store::Store;
use crate::stream::save::{Channel, Saver};
use crate::stream::{Limits, container, reader::Reader, restore, state};

/// Bytes that are written or read at a time.
const BUFFER: usize = 1 << 20;

/// How a save went.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SaveReport {
    /// The domain's name.
    pub name: String,
    /// Its number, which is free now unless it goes on.
    pub domain: u16,
    /// The file.
    pub file: PathBuf,
    /// Bytes of the stream.
    pub bytes: u64,
    /// Pages in it.
    pub pages: u64,
    /// How long the guest took to suspend, ms.
    pub suspend_ms: u64,
    /// How long it took from there on, ms.
    pub save_ms: u64,
    /// Whether the guest goes on.
    pub running: bool,
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// How to save a domain.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// It goes on afterwards.
    pub go_on: bool,
    /// How long it may take to suspend.
    pub patience: Duration,
    /// How its pages are taken.
    pub channel: Channel,
}

/// Saves a domain. Whatever fails, it goes on, and there is no file.
pub fn save(
    control: &Control,
    store: &mut Store,
    info: &DomainInfo,
    path: &Path,
    manner: Manner,
    progress: Progress<'_>,
) -> Result<SaveReport> {
    let _claim = claim(&info.uuid)?;
    check_up(control, info.id)?;
    let mut saved = config::of_domain(store, info, control.share(info.id)?)?;
    let seen = cpu::seen(control, store, info.id, &saved.uuid)?;
    saved.seen = cpu::names_of(&seen.visible);
    let guest = Leaving::new(control, info.id)?;
    let partial = partial(path);
    let file = File::create(&partial).map_err(|error| named(&partial, error))?;
    progress("waiting for the guest to suspend", 0, 0);
    let asked = Saving {
        domain: info.id,
        uuid: info.uuid.clone(),
        asked: now(),
    };
    asked
        .write()
        .inspect_err(|_| drop(fs::remove_file(&partial)))?;
    let result = (|| {
        let suspended = suspend(control, store, info.id, manner.patience)?;
        fault::at(Point::SaveSuspended);
        let begin = Instant::now();
        let written = write(guest, &saved, file, manner.channel, progress)?;
        fs::rename(&partial, path).map_err(|error| named(path, error))?;
        if !manner.go_on {
            progress("taking the domain away", 0, 0);
            build::remove(control, store, info.id)?;
            asked.forget();
        }
        Ok(SaveReport {
            name: saved.config.name.clone(),
            domain: info.id,
            file: path.to_owned(),
            bytes: written.0,
            pages: written.1,
            suspend_ms: milliseconds(suspended),
            save_ms: milliseconds(begin.elapsed()),
            running: manner.go_on,
        })
    })();
    if result.is_err() {
        let _ = fs::remove_file(&partial);
    }
    if result.is_err() || manner.go_on {
        match let_go_on(control, store, info.id, manner.patience) {
            Ok(true) => asked.forget(),
            Ok(false) => complain!(
                "overcast: domain {} began to suspend and is not done; `overcast migrate-recover` lets it go on then",
                info.id
            ),
            Err(error) => complain!(
                "overcast: domain {} is suspended and cannot go on: {error}",
                info.id
            ),
        }
    }
    result
}

/// Writes a suspended guest; bytes and pages.
fn write(
    guest: Leaving<'_>,
    saved: &Saved,
    file: File,
    channel: Channel,
    progress: Progress<'_>,
) -> Result<(u64, u64)> {
    let mut to = BufWriter::with_capacity(BUFFER, file);
    container::begin(&mut to, &config::to_json(saved))?;
    let mut saver = Saver::new(guest, &mut to, false)?.by(channel);
    let all = saver.all();
    let (mut done, frames) = (0, all.len());
    let sent = saver.send(&all, false, |count| {
        done += count;
        progress("saving its memory", done, frames);
        match was_interrupted() {
            true => Err(super::guest::machine(Error::Cancelled)),
            false => Ok(()),
        }
    })?;
    let bytes = saver.written();
    saver.finish()?;
    container::end(&mut to)?;
    let file = to.into_inner().map_err(|error| error.into_error())?;
    progress("waiting for the disk", 0, 0);
    file.sync_all()?;
    Ok((bytes, sent.pages))
}

fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

fn named(path: &Path, error: std::io::Error) -> Error {
    Error::Usage(format!("{}: {error}", path.display()))
}

/// How a restore went.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RestoreReport {
    /// The domain's name.
    pub name: String,
    /// Its new number.
    pub domain: u16,
    /// Its UUID.
    pub uuid: String,
    /// Pages of memory.
    pub pages: u64,
    /// How long it took, ms.
    pub restore_ms: u64,
}

/// Restores a domain from a file; it is paused if `paused`. On failure nothing is left of it.
pub fn restore(
    control: &Control,
    store: &mut Store,
    path: &Path,
    name: Option<&str>,
    paused: bool,
    force_cpu: bool,
    progress: Progress<'_>,
) -> Result<RestoreReport> {
    let begin = Instant::now();
    let file = File::open(path).map_err(|error| named(path, error))?;
    let mut from = BufReader::with_capacity(BUFFER, file);
    let mut saved = config::from_json(&container::read_begin(&mut from)?)?;
    if let Some(name) = name {
        crate::config::domain::check_name(name)
            .map_err(|why| Error::Usage(format!("name: {why}")))?;
        name.clone_into(&mut saved.config.name);
    }
    check(control, store, &saved, saved.config.memory_kib)?;
    let mut new = Incoming::make(control, store, &saved)?.forced(force_cpu);
    new.seen = cpu::set_of(&saved.seen);
    let finished = (|| {
        let (pages, _) = new.receive(control, &mut from, progress)?;
        container::read_end(&mut from)?;
        progress("making its devices", 0, 0);
        new.prepare(store, &saved)?;
        new.introduce(store)?;
        cpu::remember(store, &saved.uuid, &new.seen)?;
        new.remember(control, &mut saved);
        if !paused {
            control.unpause(new.domain())?;
        }
        Ok(pages)
    })();
    match finished {
        Ok(pages) => Ok(RestoreReport {
            name: saved.config.name,
            domain: new.domain(),
            uuid: saved.uuid,
            pages,
            restore_ms: milliseconds(begin.elapsed()),
        }),
        Err(error) => {
            new.remove(control, store);
            Err(error)
        }
    }
}

/// Whether this machine can take a domain: its name is free, and so is memory (`wanted`, KiB).
pub fn check(control: &Control, store: &mut Store, saved: &Saved, wanted: u64) -> Result<()> {
    for info in control.domains()? {
        if store.domain_name(info.id)?.as_deref() == Some(saved.config.name.as_str()) {
            return Err(Error::Usage(format!(
                "domain {} is called \"{}\" already",
                info.id, saved.config.name
            )));
        }
    }
    let free = control.host()?.free_memory_kib;
    match free < wanted {
        true => Err(Error::Memory { wanted, free }),
        false => Ok(()),
    }
}

/// A domain that is put together.
pub struct Incoming {
    /// Also with a CPU that this machine cannot give whole.
    force_cpu: bool,
    /// What its programs may have seen of CPUs elsewhere, beside its policy.
    seen: FeatureSet,
    shell: Shell,
    limits: Limits,
    rings: Option<Rings>,
}

impl Incoming {
    /// Makes it, without memory.
    pub fn make(control: &Control, store: &mut Store, saved: &Saved) -> Result<Self> {
        let uuid = parse_uuid(&saved.uuid)
            .ok_or_else(|| Error::Usage("the saved configuration has no UUID".into()))?;
        Ok(Self {
            force_cpu: false,
            seen: FeatureSet::default(),
            shell: Shell::make(control, &saved.config, uuid, nodes::store_domain(store)?)?,
            limits: Limits {
                max_vcpus: saved.config.max_vcpus,
                ..Limits::MOST
            },
            rings: None,
        })
    }

    /// The same, with a CPU that this machine cannot give whole if `force_cpu`.
    pub fn forced(self, force_cpu: bool) -> Self {
        Self { force_cpu, ..self }
    }

    /// Its number.
    pub fn domain(&self) -> u16 {
        self.shell.domain
    }

    /// Puts it together from libxc's stream; its pages, and how long it took behind their end.
    pub fn receive(
        &mut self,
        control: &Control,
        from: impl Read,
        progress: Progress<'_>,
    ) -> Result<(u64, Duration)> {
        let mut reader = Reader::new(from, self.limits)?;
        let mut target = Arriving::new(control, self.shell.domain, self.force_cpu).seen(self.seen);
        let ports = state::Rings {
            store_port: self.shell.store_port.0,
            console_port: self.shell.console_port.0,
        };
        let mut done = 0;
        let restored = restore::restore(&mut reader, self.limits, &mut target, ports, |pages| {
            done += pages;
            progress("restoring its memory", done, 0);
            match was_interrupted() {
                true => Err(super::guest::machine(Error::Cancelled)),
                false => Ok(()),
            }
        })?;
        let rings = Rings {
            store: restored.rings.store,
            console: restored.rings.console,
        };
        let begin = Instant::now();
        build::grant_rings(control, &self.shell, &rings)?;
        self.rings = Some(rings);
        let finish = restored.finish.saturating_add(begin.elapsed());
        Ok((restored.pages, finish))
    }

    /// Makes its nodes in the store, and its devices. It may have no memory yet.
    pub fn prepare(&self, store: &mut Store, saved: &Saved) -> Result<()> {
        let identity = nodes::Identity {
            uuid: &saved.uuid,
            config: &saved.config,
        };
        nodes::prepare(store, &self.shell, &identity)?;
        nodes::wait_for_backends(store, self.shell.domain, &saved.config)
    }

    /// Remembers for the daemon what it is when it reboots. It runs without that, too.
    pub fn remember(&self, control: &Control, saved: &mut Saved) {
        if let Err(error) = daemon::remember_arrival(control, self.domain(), saved) {
            complain!(
                "overcast: the daemon will not know {}: {error}",
                saved.config.name
            );
        }
    }

    /// Tells the store of it, once it has its memory and its nodes.
    pub fn introduce(&self, store: &mut Store) -> Result<()> {
        let rings = self
            .rings
            .as_ref()
            .ok_or_else(|| Error::Usage("the domain has no memory yet".into()))?;
        nodes::introduce(store, &self.shell, rings)
    }

    /// Takes it away.
    pub fn remove(&self, control: &Control, store: &mut Store) {
        if let Err(left) = build::remove(control, store, self.shell.domain) {
            complain!(
                "overcast: domain {} is left behind: {left}",
                self.shell.domain
            );
        }
    }
}
