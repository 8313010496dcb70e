//! The target's end: disks that are written while their guest is still elsewhere.

use std::collections::HashMap;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::device::{Attached, Wanted};
use super::records::{self, Record, Shape};
use super::{CHUNK, Disk, DiskOffer};
use crate::config::DomainConfig;
use crate::error::{Error, Result};
use crate::migrate::tls::Channel;
use crate::migrate::wire::{self, FromTarget, StreamReader, items};
use crate::store::Store;

/// How long the source may take to come with its disks.
const ARRIVAL: Duration = Duration::from_secs(60);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_secs(1);

/// Disks of moves that were accepted, by the move's number: until their connection comes.
#[derive(Clone, Default)]
pub struct Expected(Arc<Mutex<HashMap<String, Incoming>>>);

/// Disks that a connection is to fill.
struct Incoming {
    disks: Vec<Attached>,
    stop: Arc<AtomicBool>,
    done: Sender<Result<Vec<Attached>>>,
}

/// The disks of a move, for who waits for them. Dropped, they are given up.
pub struct Waiting {
    id: String,
    expected: Expected,
    stop: Arc<AtomicBool>,
    done: Receiver<Result<Vec<Attached>>>,
}

/// Attaches the disks of a domain that comes, and looks whether they are as large as those at the source.
///
/// # Errors
/// Each reason why they cannot be had.
pub fn prepare(
    store: &mut Store,
    domain: u16,
    config: &DomainConfig,
    offers: &[DiskOffer],
) -> std::result::Result<Vec<Attached>, Vec<String>> {
    let (mut attached, mut reasons) = (Vec::new(), Vec::new());
    let mut disks: Vec<_> = config.disks.iter().filter(|it| !it.read_only).collect();
    for offer in offers {
        let place = disks.iter().position(|it| it.device == offer.device);
        let Some(disk) = place.map(|place| disks.remove(place)) else {
            reasons.push(format!("disk {}: it is none of the domain's", offer.device));
            break;
        };
        let wanted = Wanted {
            source: &disk.source,
            domain,
            write: true,
            logs: None,
        };
        match Attached::new(store, wanted) {
            Ok(new) => {
                reasons.extend(unfit(new.shape, offer));
                attached.push(new);
            }
            Err(Error::Device { why, .. }) => {
                reasons.push(format!("disk {}: {why}", offer.device));
            }
            Err(error) => reasons.push(format!("disk {}: {error}", offer.device)),
        }
    }
    match reasons.is_empty() {
        true => Ok(attached),
        false => Err(reasons),
    }
}

/// Why a disk cannot take another's contents.
fn unfit(shape: Shape, offer: &DiskOffer) -> Option<String> {
    let Shape { size, block } = shape;
    if size < offer.size {
        return Some(format!(
            "disk {}: it has {} bytes there and {size} here",
            offer.device, offer.size
        ));
    }
    (block != offer.block).then(|| {
        format!(
            "disk {}: its blocks have {} bytes there and {block} here",
            offer.device, offer.block
        )
    })
}

impl Expected {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Incoming>> {
        // Entries come and go as a whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on a connection may fill these disks.
    pub fn expect(&self, id: &str, disks: Vec<Attached>) -> Waiting {
        let (done, receiver) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let incoming = Incoming {
            disks,
            stop: Arc::clone(&stop),
            done,
        };
        self.lock().insert(id.to_owned(), incoming);
        Waiting {
            id: id.to_owned(),
            expected: self.clone(),
            stop,
            done: receiver,
        }
    }

    /// A connection that says that it has the disks of a move.
    pub fn serve(&self, id: &str, mut channel: Channel) -> Result<()> {
        let Some(Incoming { disks, stop, done }) = self.lock().remove(id) else {
            let why = "no disks are expected for this move".to_owned();
            wire::send(&mut channel, &FromTarget::Gone { why: why.clone() })?;
            return Err(Error::Peer(why));
        };
        let result = fill(&mut channel, &disks, &stop);
        let answer = match &result {
            Ok(()) => FromTarget::Ready {
                finish_ms: 0,
                devices_ms: 0,
            },
            Err(error) => FromTarget::Gone {
                why: error.to_string(),
            },
        };
        let shown = result.as_ref().map_err(ToString::to_string).copied();
        // Before the source hears it: what it does next relies on it.
        let _ = done.send(result.map(|()| disks));
        wire::send(&mut channel, &answer)?;
        shown.map_err(Error::Peer)
    }
}

/// Writes what a connection brings.
fn fill(channel: &mut Channel, disks: &[Attached], stop: &AtomicBool) -> Result<()> {
    let mut files = Vec::new();
    for disk in disks {
        files.push(disk.open(true)?);
    }
    let shapes: Vec<Shape> = disks.iter().map(|disk| disk.shape).collect();
    let mut stream = StreamReader::of(items(channel));
    write_all(&mut stream, &shapes, &mut files, stop)
}

/// Writes records until the end, and sees to it that all is on the medium.
pub fn write_all(
    from: &mut impl Read,
    shapes: &[Shape],
    disks: &mut [impl Disk],
    stop: &AtomicBool,
) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    let zeros = vec![0; CHUNK];
    while let Some(record) = records::get(from, shapes, &mut buffer)? {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Peer("the move was given up".into()));
        }
        let (Record::Data { disk, .. } | Record::Zeros { disk, .. }) = record;
        let none = || Error::Peer(format!("there is no disk {disk}"));
        let file = disks.get_mut(disk).ok_or_else(none)?;
        match record {
            Record::Data { offset, length, .. } => {
                file.write(offset, buffer.get(..length).unwrap_or_default())?;
            }
            Record::Zeros { offset, length, .. } => {
                // Where there are zeros nothing is written: who has the disk by need keeps it small.
                let zeros = zeros.get(..length).unwrap_or_default();
                if file.read(offset, length)? != zeros {
                    file.write(offset, zeros)?;
                }
            }
        }
    }
    disks
        .iter_mut()
        .try_for_each(|disk| disk.sync().map_err(Error::Io))
}

impl Waiting {
    /// Waits until all is written.
    pub fn wait(&self) -> Result<Vec<Attached>> {
        let end = Instant::now() + ARRIVAL;
        loop {
            match self.done.recv_timeout(LOOK) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::Peer("the disks' connection is gone".into()));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            // One that has come is as patient as it is with its connection.
            if Instant::now() >= end && self.expected.lock().contains_key(&self.id) {
                return Err(Error::Peer("the source did not come with its disks".into()));
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let unclaimed = self.expected.lock().remove(&self.id);
        // Not under the lock: letting disks go takes a while.
        drop(unclaimed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::Model;
    use super::*;

    #[test]
    fn a_disk_has_to_fit() {
        let offer = DiskOffer {
            device: "xvda".into(),
            size: 1 << 20,
            block: 512,
        };
        let shape = |size, block| Shape { size, block };
        assert_eq!(unfit(shape(1 << 20, 512), &offer), None);
        assert_eq!(unfit(shape(2 << 20, 512), &offer), None);
        let small = unfit(shape(1 << 19, 512), &offer).expect("too small");
        assert!(small.contains("xvda") && small.contains("524288"));
        assert!(unfit(shape(1 << 20, 4096), &offer).is_some());
    }

    #[test]
    fn zeros_are_written_where_there_are_none() {
        let shapes = [Shape {
            size: 1 << 20,
            block: 512,
        }];
        let mut data = vec![0; 1 << 20];
        data[70_000] = 1;
        let mut disks = [Model::new(data, 1 << 16)];
        let mut wire = Vec::new();
        for offset in (0..1 << 20).step_by(1 << 16) {
            records::put_zeros(&mut wire, 0, offset, 1 << 16).expect("into memory");
        }
        let stop = AtomicBool::new(false);
        write_all(&mut &wire[..], &shapes, &mut disks, &stop).expect("all");
        assert!(disks[0].data.iter().all(|&byte| byte == 0));
        assert_eq!((disks[0].writes, disks[0].synced), (1, true));
        stop.store(true, Ordering::Relaxed);
        disks[0].synced = false;
        write_all(&mut &wire[..], &shapes, &mut disks, &stop).expect_err("given up");
        assert!(!disks[0].synced);
    }
}
