//! What is written down of each move: a file for each, for `overcast migrate-status`, for
//! `migrate-cancel`, and for what must not be forgotten ([`super::handover`]).
//!
//! | file | what |
//! |---|---|
//! | `ID.out` | [`Status`]: a move from here |
//! | `ID.in` | [`Arrival`]: a move to here |
//! | `ID.cancel` | somebody wants it given up |
//! | `UUID.lock` | locked by the one process that saves or moves that guest ([`claim`]) |
//! | `UUID.save` | [`Saving`]: the guest was asked to suspend for a file |
//! | `host` | [`host`]: whose records these are |

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::disks::Pass;
use super::handover;
use crate::build::random;
use crate::control::Share;
use crate::error::{Error, Result};

/// Where they are.
pub const DIRECTORY: &str = "/var/lib/overcast/moves";
/// The longest of such files.
const MOST: u64 = 1 << 20;
/// Moves from here that are remembered after they are over.
const KEPT: usize = 100;

/// A process, so that it is known again: numbers are given out anew.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub id: u32,
    /// The boot of the machine, and when in it the process began (clock ticks).
    since: String,
}

impl Process {
    /// The one that asks.
    pub fn this() -> Self {
        let id = std::process::id();
        Self {
            id,
            since: since(id).unwrap_or_default(),
        }
    }

    /// Whether it still runs.
    pub fn alive(&self) -> bool {
        since(self.id).is_some_and(|since| since == self.since)
    }

    /// From its text; `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, since) = text.split_once(' ')?;
        Some(Self {
            id: id.parse().ok()?,
            since: since.to_owned(),
        })
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.id, self.since)
    }
}

/// When a process began; `None` if it is none, or has ended and is only not waited for.
fn since(id: u32) -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // proc(5): behind the name, in parentheses, the state and 18 others, then the start.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let (state, start) = (fields.first()?, fields.get(19)?);
    (!matches!(*state, "Z" | "X")).then(|| format!("{} {start}", boot.trim()))
}

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
    /// Its UUID: the number may be another's later.
    pub uuid: String,
    /// Where to.
    pub host: String,
    /// Whose records are there ([`host`]); empty as long as that is not known.
    pub target: String,
    /// Plain TCP was asked for.
    pub plain: bool,
    /// The process that does it.
    pub process: Process,
    /// Who runs the guest.
    pub state: handover::Source,
    /// When the guest was asked to suspend, if it was not let go on since (seconds since 1970).
    pub asked: Option<u64>,
    /// Its share of the CPUs before it was slowed down, if it was.
    pub share: Option<Share>,
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

/// Writes a file so that it is either the old or the new one, whatever happens; after an error
/// it is the old one.
fn replace(path: &Path, value: &impl Serialize, durable: bool) -> Result<()> {
    fs::create_dir_all(directory())?;
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec_pretty(value)?)?;
    if durable {
        file.sync_all()?;
    }
    fs::rename(&new, path)?;
    if durable {
        // For the case that the power fails, after which no guest runs here anyway.
        let _ = File::open(directory()).and_then(|directory| directory.sync_all());
    }
    Ok(())
}

fn load<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let mut text = Vec::new();
    File::open(path)?.take(MOST).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// What was written down of a move, if anything was.
fn find<T: DeserializeOwned>(id: &str, kind: &str) -> Result<Option<T>> {
    let path = file(id, kind)?;
    match path.exists() {
        true => load(&path).map(Some),
        false => Ok(None),
    }
}

/// All files of a kind, the latest last. One that cannot be read must not hide the others.
fn load_all<T: DeserializeOwned>(kind: &str) -> Result<Vec<(PathBuf, T)>> {
    let entries = match fs::read_dir(directory()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|end| end != kind) {
            continue;
        }
        let written = fs::metadata(&path).and_then(|metadata| metadata.modified());
        match (written, load(&path)) {
            (Ok(written), Ok(value)) => found.push((written, path, value)),
            // It may have been removed meanwhile.
            (Err(error), _) if error.kind() == ErrorKind::NotFound => {}
            (Err(error), _) => complain!("overcast: {}: {error}", path.display()),
            (_, Err(error)) => complain!("overcast: {}: {error}", path.display()),
        }
    }
    found.sort_by_key(|(written, ..)| *written);
    Ok(found
        .into_iter()
        .map(|(_, path, value)| (path, value))
        .collect())
}

/// A number that is these records' own: it is lost when they are. A host that shows it and does
/// not know a move never had it, or gave it up; one that shows another cannot tell.
pub fn host() -> Result<String> {
    let path = directory().join("host");
    if !path.exists() {
        fs::create_dir_all(directory())?;
        let number: [u8; 16] = random()?;
        let number: String = number.iter().map(|byte| format!("{byte:02x}")).collect();
        let new = directory().join(format!("host.{}", std::process::id()));
        let mut file = File::create(&new)?;
        file.write_all(number.as_bytes())?;
        // A file without it, after the power failed, would make this a host that nobody knows.
        file.sync_all()?;
        // One process makes it, whoever else tries.
        let made = fs::hard_link(&new, &path);
        fs::remove_file(&new)?;
        if let Err(error) = made
            && error.kind() != ErrorKind::AlreadyExists
        {
            return Err(error.into());
        }
    }
    Ok(fs::read_to_string(path)?)
}

/// The right to suspend a guest, save it or move it, until it is dropped or the process ends.
pub struct Claim(#[expect(dead_code, reason = "holds the lock")] File);

/// Takes it.
///
/// # Errors
/// `Usage` if another process has it.
pub fn claim(uuid: &str) -> Result<Claim> {
    if uuid.is_empty() || !uuid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(Error::Usage(format!("\"{uuid}\" is no UUID")));
    }
    fs::create_dir_all(directory())?;
    let path = directory().join(format!("{uuid}.lock"));
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Claim(file)),
        Err(TryLockError::WouldBlock) => Err(Error::Usage(
            "the domain is being saved or moved already".into(),
        )),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// A guest that was asked to suspend, to be saved into a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Saving {
    /// The domain's number.
    pub domain: u16,
    /// Its UUID.
    pub uuid: String,
    /// When (seconds since 1970).
    pub asked: u64,
}

impl Saving {
    fn path(&self) -> PathBuf {
        directory().join(format!("{}.save", self.uuid))
    }

    /// Writes it down; by who has the claim.
    pub fn write(&self) -> Result<()> {
        replace(&self.path(), self, true)
    }

    /// It is over.
    pub fn forget(&self) {
        let _ = fs::remove_file(self.path());
    }

    /// All that are known.
    pub fn all() -> Result<Vec<Self>> {
        let all = load_all("save")?;
        Ok(all.into_iter().map(|(_, saving)| saving).collect())
    }
}

impl Status {
    /// Writes it down; on disk, when it must not be forgotten.
    pub fn write(&self, durable: bool) -> Result<()> {
        replace(&file(&self.id, "out")?, self, durable)
    }

    /// All that are known, the latest last.
    pub fn all() -> Result<Vec<Self>> {
        let all = load_all("out")?;
        Ok(all.into_iter().map(|(_, status)| status).collect())
    }

    /// What is written down of it by now; `None` if it was forgotten.
    pub fn again(&self) -> Result<Option<Self>> {
        find(&self.id, "out")
    }

    /// Forgets moves that are long over.
    pub fn forget_old() {
        let mut over = load_all::<Self>("out").unwrap_or_default();
        over.retain(|(_, status)| status.over() && status.asked.is_none());
        let many = over.len().saturating_sub(KEPT);
        for (path, _) in over.into_iter().take(many) {
            let _ = fs::remove_file(path);
        }
    }

    /// Whether it is decided where the guest is.
    pub fn over(&self) -> bool {
        matches!(
            self.state,
            handover::Source::Stayed | handover::Source::Gone
        )
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
    /// Its UUID.
    pub uuid: String,
    /// Where it is.
    pub state: handover::Target,
    /// From where.
    pub from: String,
    /// The process that takes it.
    pub process: Process,
}

impl Arrival {
    /// Writes it down.
    pub fn write(&self) -> Result<()> {
        replace(&file(&self.id, "in")?, self, true)
    }

    /// All that are known.
    pub fn all() -> Result<Vec<Self>> {
        let all = load_all("in")?;
        Ok(all.into_iter().map(|(_, arrival)| arrival).collect())
    }

    /// What was written down of a move.
    pub fn find(id: &str) -> Result<Option<Self>> {
        find(id, "in")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_known_again() {
        let this = Process::this();
        assert!(this.alive());
        assert_eq!(Process::parse(&this.to_string()), Some(this.clone()));
        // Only its number, as in records of older versions.
        assert_eq!(Process::parse(&this.id.to_string()), None);
        // Another that has its number by now.
        let earlier = Process {
            since: "another boot 1".into(),
            ..this.clone()
        };
        assert!(!earlier.alive());
        // One that has ended and is not waited for.
        let mut child = std::process::Command::new("sleep")
            .arg("100")
            .spawn()
            .expect("sleep");
        let ended = Process {
            id: child.id(),
            since: since(child.id()).expect("it runs"),
        };
        assert!(ended.alive());
        child.kill().expect("killed");
        while ended.alive() {
            std::thread::yield_now();
        }
        child.wait().expect("ended");
        assert!(!ended.alive());
    }
}
