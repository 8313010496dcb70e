//! A guest's disk as a disk of Dom0, for the time of a move.
//!
//! Dom0 gets it as any domain gets one: a backend's directory for the hypervisor, a frontend's for
//! Dom0's kernel. The node `mirror` has the guest's number, on whose behalf the hypervisor lets
//! Dom0 use what the guest uses. Who made it stands in `mirror-process`, and `mirror-logs` is the
//! guest's device whose writes are logged, so that it can be cleaned up after a process that
//! was killed ([`sweep`]).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use overcast_core::vdisk::{device_name, device_number};
use xen_abi::io_xenbus::{XENBUS_STATE_CLOSED, XENBUS_STATE_CLOSING, XENBUS_STATE_INITIALISING};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::records::Shape;
use super::{CHUNK, Disk};
use crate::build::nodes;
use crate::config::devices::BACKEND_DOMAIN;
use crate::control::Control;
use crate::error::{Error, Result};
use crate::migrate::status::Process;
use crate::store::Store;

/// How long Dom0's kernel may take to show a disk, or to let it go.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(20);
/// The first disk of Dom0's that is used (`xvdbm`), and how many are tried.
const FIRST: usize = 64;
const MOST: usize = 256;
/// Where backends for Dom0's disks, and Dom0's ends of them, are.
const FRONTENDS: &str = "/local/domain/0/device/vbd";

fn backends() -> String {
    format!("/local/domain/{BACKEND_DOMAIN}/backend/vbd/0")
}

/// What is to be attached.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The disk, as in a domain's configuration.
    pub source: &'a str,
    /// On whose behalf.
    pub domain: u16,
    /// It is written.
    pub write: bool,
    /// The guest's own device, whose writes are logged meanwhile.
    pub logs: Option<u32>,
}

/// A disk of Dom0's; let go on drop.
#[derive(Debug)]
pub struct Attached {
    number: u32,
    /// What the disk is.
    pub shape: Shape,
}

impl Attached {
    /// Attaches a disk.
    ///
    /// # Errors
    /// `Device` with what the hypervisor says of it.
    pub fn new(store: &mut Store, wanted: Wanted<'_>) -> Result<Self> {
        let number = store.transaction(|store| write_nodes(store, wanted))?;
        // From here on it is taken away again.
        let mut new = Self {
            number,
            shape: Shape { size: 0, block: 0 },
        };
        nodes::wait_for_backend(store, "vbd", 0, number, &format!("disk {}", wanted.source))?;
        new.shape = shape(store, &format!("{}/{number}", backends()))?;
        Ok(new)
    }

    /// Opens it, once Dom0's kernel has it.
    pub fn open(&self, write: bool) -> Result<BlockFile> {
        if !Path::new("/sys/bus/xen/drivers/vbd").exists() {
            // Where nothing loads it by itself.
            let _ = Command::new("modprobe").arg("xen-blkfront").status();
        }
        let directory = format!("/sys/bus/xen/devices/vbd-{}/block", self.number);
        let end = Instant::now() + PATIENCE;
        let name = loop {
            let first = fs::read_dir(&directory).ok().and_then(|mut all| all.next());
            match first {
                Some(entry) => break entry?.file_name(),
                None if Instant::now() < end => sleep(LOOK),
                None => {
                    return Err(Error::Timeout(
                        "Dom0's kernel shows no disk: has it the driver xen-blkfront?".into(),
                    ));
                }
            }
        };
        let path = Path::new("/dev").join(name);
        let file = loop {
            // What is read has to be the disk's, and what is written has to be there.
            let file = OpenOptions::new()
                .read(true)
                .write(write)
                .custom_flags(libc::O_DIRECT)
                .open(&path);
            match file {
                Ok(file) => break file,
                Err(_) if Instant::now() < end => sleep(LOOK),
                Err(error) => {
                    return Err(Error::Device {
                        device: path.display().to_string(),
                        why: error.to_string(),
                    });
                }
            }
        };
        Ok(BlockFile {
            file,
            size: self.shape.size,
            buffer: vec![Page::new_zeroed(); CHUNK / size_of::<Page>()],
        })
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let gone = Store::open().and_then(|mut store| detach(&mut store, self.number));
        if let Err(error) = gone {
            complain!("overcast: Dom0's disk {} stays: {error}", self.number);
        }
    }
}

/// Size and block of a disk, from its backend's directory.
pub fn shape(store: &mut Store, backend: &str) -> Result<Shape> {
    let mut number = |key: &str| -> Result<u64> {
        let path = format!("{backend}/{key}");
        let text = store.read_text(&path)?;
        text.and_then(|text| text.trim().parse().ok())
            .ok_or_else(|| Error::Device {
                device: path,
                why: "the hypervisor does not say".into(),
            })
    };
    let (sectors, block) = (number("sectors")?, number("sector-size")?);
    Ok(Shape {
        size: sectors.saturating_mul(512),
        block: u32::try_from(block).unwrap_or(512).max(512),
    })
}

fn missing<T: Default>(result: Result<T>) -> Result<T> {
    match result {
        Err(Error::Store { error, .. }) if error == "ENOENT" => Ok(T::default()),
        other => other,
    }
}

/// Writes both ends' nodes under a number that is free; in a transaction.
fn write_nodes(store: &mut Store, wanted: Wanted<'_>) -> Result<u32> {
    let mut taken = missing(store.list(FRONTENDS))?;
    taken.extend(missing(store.list(&backends()))?);
    let free = (FIRST..FIRST + MOST)
        .filter_map(|n| Some((device_name(n), device_number(&device_name(n))?)))
        .find(|(_, number)| !taken.contains(&number.to_string()));
    let (name, number) = free.ok_or_else(|| Error::Usage("Dom0 has too many disks".into()))?;
    let (front, back) = (
        format!("{FRONTENDS}/{number}"),
        format!("{}/{number}", backends()),
    );
    let (hypervisor, state) = (
        BACKEND_DOMAIN.to_string(),
        XENBUS_STATE_INITIALISING.to_string(),
    );
    for (path, owner, reader) in [
        (&front, "n0".to_owned(), format!("r{BACKEND_DOMAIN}")),
        (&back, format!("n{BACKEND_DOMAIN}"), "r0".to_owned()),
    ] {
        store.mkdir(path)?;
        store.set_permissions(path, &[&owner, &reader])?;
    }
    let error = format!("/local/domain/{BACKEND_DOMAIN}/error/backend/vbd/0/{number}");
    missing(store.remove(&error))?;
    let logs = wanted.logs.map(|device| device.to_string());
    let keys = [
        (&front, "backend", Some(back.clone())),
        (&front, "backend-id", Some(hypervisor)),
        (&front, "virtual-device", Some(number.to_string())),
        (&front, "device-type", Some("disk".into())),
        (&front, "state", Some(state.clone())),
        (&back, "frontend", Some(front.clone())),
        (&back, "frontend-id", Some("0".into())),
        (&back, "online", Some("1".into())),
        (&back, "params", Some(wanted.source.into())),
        (&back, "type", Some("phy".into())),
        (&back, "dev", Some(name)),
        (&back, "device-type", Some("disk".into())),
        (&back, "removable", Some("0".into())),
        (
            &back,
            "mode",
            Some(if wanted.write { "w" } else { "r" }.into()),
        ),
        (&back, "mirror", Some(wanted.domain.to_string())),
        (&back, "mirror-process", Some(Process::this().to_string())),
        (&back, "mirror-logs", logs),
        // The hypervisor looks when this is there.
        (&back, "state", Some(state)),
    ];
    for (directory, key, value) in keys {
        if let Some(value) = value {
            store.write(&format!("{directory}/{key}"), value.as_bytes())?;
        }
    }
    Ok(number)
}

/// Takes a disk from Dom0: its kernel first, if it can.
fn detach(store: &mut Store, number: u32) -> Result<()> {
    let (front, back) = (
        format!("{FRONTENDS}/{number}"),
        format!("{}/{number}", backends()),
    );
    if store.read_text(&format!("{back}/state"))?.is_some() {
        store.write(&format!("{back}/online"), b"0")?;
        let closing = XENBUS_STATE_CLOSING.to_string();
        store.write(&format!("{back}/state"), closing.as_bytes())?;
        let end = Instant::now() + PATIENCE;
        loop {
            let state = store.read_text(&format!("{back}/state"))?;
            let state = state.and_then(|state| state.parse::<u32>().ok());
            if state.is_none_or(|state| state == XENBUS_STATE_CLOSED) || Instant::now() >= end {
                break;
            }
            sleep(LOOK);
        }
    }
    let end = Instant::now() + PATIENCE;
    // Dom0's kernel may be about to connect: what it writes would make its end's directory anew.
    let driven = Path::new("/sys/bus/xen/drivers/vbd").exists();
    while driven && Instant::now() < end {
        let state = store.read_text(&format!("{front}/state"))?;
        let state = state.and_then(|state| state.parse::<u32>().ok());
        if state.is_none_or(|state| state == XENBUS_STATE_CLOSED) {
            break;
        }
        sleep(LOOK);
    }
    for path in [&front, &back] {
        missing(store.remove(path))?;
    }
    // Until it has seen that.
    let device = format!("/sys/bus/xen/devices/vbd-{number}");
    while Path::new(&device).exists() && Instant::now() < end {
        sleep(LOOK);
        missing(store.remove(&front))?;
    }
    Ok(())
}

/// Takes away what processes left that are no more: Dom0's disks, and logs of guests' writes.
pub fn sweep(control: &Control, store: &mut Store) -> Result<()> {
    for name in missing(store.list(&backends()))? {
        let back = format!("{}/{name}", backends());
        let mut text = |key: &str| store.read_text(&format!("{back}/{key}"));
        let (Some(domain), Some(process)) = (text("mirror")?, text("mirror-process")?) else {
            continue;
        };
        if Process::parse(&process).is_some_and(|process| process.alive()) {
            continue;
        }
        let logs = text("mirror-logs")?.and_then(|device| device.parse().ok());
        if let (Ok(domain), Some(device)) = (domain.parse(), logs) {
            // It may be gone.
            let _ = control.disk_log_stop(domain, device);
        }
        if let Ok(number) = name.parse() {
            detach(store, number)?;
        }
    }
    Ok(())
}

/// What O_DIRECT takes.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C, align(4096))]
struct Page([u8; 4096]);

/// A block device, read and written past all caches.
pub struct BlockFile {
    file: File,
    size: u64,
    buffer: Vec<Page>,
}

impl Disk for BlockFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        let buffer = self.buffer.as_mut_bytes().get_mut(..length);
        let buffer = buffer.ok_or(io::ErrorKind::InvalidInput)?;
        self.file.read_exact_at(buffer, offset)?;
        Ok(buffer)
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let buffer = self.buffer.as_mut_bytes().get_mut(..data.len());
        let buffer = buffer.ok_or(io::ErrorKind::InvalidInput)?;
        buffer.copy_from_slice(data);
        self.file.write_all_at(buffer, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_all()
    }
}
