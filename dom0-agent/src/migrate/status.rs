//! What is written down of each move: a file for each, for `overcast migrate-status`, for
//! `migrate-cancel`, and for what must not be forgotten ([`super::handover`]).

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::disks::Pass;
use super::handover;
use crate::error::{Error, Result};

/// Where they are.
pub const DIRECTORY: &str = "/var/lib/overcast/moves";
/// The longest of such files.
const MOST: u64 = 1 << 20;

/// A round of sending pages.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Round {
    /// Pages with contents.
    pub pages: u64,
    /// Pages of zeros.
    pub zeros: u64,
    /// Bytes on the wire.
    pub bytes: u64,
    /// How long it took, ms.
    pub ms: u64,
    /// Pages that were written meanwhile.
    pub dirty: u64,
}

/// What the guest waited for while it was down, ms.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Pause {
    /// Its own kernel, to take its devices to rest after it was asked to suspend.
    pub suspend_ms: u64,
    /// The log of what it had written.
    pub log_ms: u64,
    /// Its last pages, to be sent.
    pub pages_ms: u64,
    /// Its registers and the end of the stream, to be sent.
    pub state_ms: u64,
    /// The target, to have read all that, and to be ready.
    pub ready_ms: u64,
    /// Of that, to put it together behind the end of the stream: its page tables are checked.
    pub finish_ms: u64,
    /// Of that, to make it known to the store.
    pub devices_ms: u64,
    /// The handover, to the target's word that it runs.
    pub commit_ms: u64,
}

impl Pause {
    /// What does not depend on how much it had written.
    pub fn fixed_ms(&self) -> u64 {
        [self.suspend_ms, self.log_ms, self.state_ms, self.commit_ms]
            .into_iter()
            .chain([self.finish_ms, self.devices_ms])
            .fold(0, u64::saturating_add)
    }
}

/// How a move goes, or went.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Its number.
    pub id: String,
    /// The domain's name.
    pub name: String,
    /// The domain's number here.
    pub domain: u16,
    /// Where to.
    pub host: String,
    /// Plain TCP was asked for.
    pub plain: bool,
    /// The process that does it.
    pub process: u32,
    /// Who runs the guest.
    pub state: handover::Source,
    /// What is being done, or why it ended.
    pub message: String,
    /// Whether pages were sent while the guest ran, and if not, why.
    pub live: bool,
    /// Rounds so far; the last one with the guest suspended.
    pub rounds: Vec<Round>,
    /// Pages that are written in a second.
    pub dirty_rate: u64,
    /// Bytes that go out in a second.
    pub throughput: u64,
    /// How long the guest would be down if it were suspended now, ms.
    pub predicted_downtime_ms: u64,
    /// How long it was: from when it was asked to suspend to the target's word that it runs, ms.
    pub downtime_ms: Option<u64>,
    /// What of that went where.
    #[serde(default)]
    pub pause: Pause,
    /// Connections that the stream had.
    #[serde(default)]
    pub streams: u32,
    /// How long the target took to answer when nothing was under way, ms.
    #[serde(default)]
    pub answer_ms: u64,
    /// How long it all took, ms.
    pub total_ms: u64,
    /// Bytes on the wire.
    pub bytes: u64,
    /// Bytes of the stream before it was packed.
    pub stream_bytes: u64,
    /// Passes through its disks, if they come along; those while memory was sent are one.
    #[serde(default)]
    pub disk_passes: Vec<Pass>,
    /// Bytes of disks on the wire.
    #[serde(default)]
    pub disk_bytes: u64,
    /// The most CPU that the guest was left, percent of one; 0 if it was not slowed down.
    pub throttled_to: u16,
}

fn directory() -> PathBuf {
    std::env::var_os("OVERCAST_MOVES").map_or_else(|| DIRECTORY.into(), PathBuf::from)
}

fn file(id: &str, kind: &str) -> Result<PathBuf> {
    if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(Error::Usage(format!("\"{id}\" is no number of a move")));
    }
    Ok(directory().join(format!("{id}.{kind}")))
}

/// Writes a file so that it is either the old or the new one, whatever happens.
fn replace(path: &Path, value: &impl Serialize, durable: bool) -> Result<()> {
    fs::create_dir_all(directory())?;
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec_pretty(value)?)?;
    if durable {
        file.sync_all()?;
    }
    fs::rename(&new, path)?;
    if durable {
        File::open(directory())?.sync_all()?;
    }
    Ok(())
}

fn load<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    let mut text = Vec::new();
    File::open(path)?.take(MOST).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

impl Status {
    /// Writes it down; on disk, when it must not be forgotten.
    pub fn write(&self, durable: bool) -> Result<()> {
        replace(&file(&self.id, "out")?, self, durable)
    }

    /// All that are known, the latest last.
    pub fn all() -> Result<Vec<Self>> {
        let mut found = Vec::new();
        let entries = match fs::read_dir(directory()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == "out") {
                let written = fs::metadata(&path)?.modified()?;
                found.push((written, load::<Self>(&path)?));
            }
        }
        found.sort_by_key(|(written, _)| *written);
        Ok(found.into_iter().map(|(_, status)| status).collect())
    }

    /// Whether somebody asked for it to be given up.
    pub fn cancelled(&self) -> bool {
        file(&self.id, "cancel").is_ok_and(|path| path.exists())
    }

    /// Asks for it to be given up.
    pub fn cancel(&self) -> Result<()> {
        fs::write(file(&self.id, "cancel")?, b"")?;
        Ok(())
    }

    /// Forgets that it was asked for.
    pub fn clear_cancel(&self) {
        if let Ok(path) = file(&self.id, "cancel") {
            let _ = fs::remove_file(path);
        }
    }
}

/// A domain that came.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Arrival {
    /// The move's number.
    pub id: String,
    /// The domain's name.
    pub name: String,
    /// Its number here.
    pub domain: u16,
    /// Where it is.
    pub state: handover::Target,
    /// From where.
    pub from: String,
    /// The process that takes it.
    pub process: u32,
}

impl Arrival {
    /// Writes it down.
    pub fn write(&self) -> Result<()> {
        replace(&file(&self.id, "in")?, self, true)
    }

    /// All that are known.
    pub fn all() -> Result<Vec<Self>> {
        let entries = match fs::read_dir(directory()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == "in") {
                found.push(load(&path)?);
            }
        }
        Ok(found)
    }

    /// What was written down of a move.
    pub fn find(id: &str) -> Result<Option<Self>> {
        let path = file(id, "in")?;
        match path.exists() {
            true => load(&path).map(Some),
            false => Ok(None),
        }
    }
}
