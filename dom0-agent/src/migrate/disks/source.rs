//! The source's end: disks that are read while their guest writes them.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use xen_abi::errno;

use super::device::{Attached, BlockFile, Wanted, shape, sweep};
use super::records::{self, Packer};
use super::{CHUNK, Disk, DiskOffer, Logged, Pass};
use crate::config::DomainConfig;
use crate::config::devices::BACKEND_DOMAIN;
use crate::control::Control;
use crate::error::{Error, Result};
use crate::migrate::pace::Pace;
use crate::migrate::tls::Channel;
use crate::migrate::wire::{self, Compression, FromTarget};
use crate::store::Store;
use crate::xen::overcast::DiskLog;

/// See [`Copier::rest`].
const REST: Duration = Duration::from_millis(500);
/// How often it is looked meanwhile whether the guest is suspended.
const LOOK: Duration = Duration::from_millis(10);
/// How long the target may take to bring all to its medium.
const SAFE: Duration = Duration::from_secs(120);
/// So little is always left for the pause.
const LITTLE: u64 = 256 << 10;
/// Bytes that are named zeros if all of them are.
const ZEROS: usize = 64 << 10;
/// Passes in a row that get no smaller, after which the guest writes too fast.
const PATIENCE: usize = 4;

/// When what is left of the disks is little enough to suspend the guest.
#[derive(Clone, Copy, Debug)]
pub struct Goals {
    /// How long sending that may take.
    pub pause: Duration,
    /// How long it may take until then; zero for no limit.
    pub timeout: Duration,
    /// Suspend it although that is too much.
    pub suspend_anyway: bool,
}

/// The disks of a guest that are to be moved with it.
pub struct Plan {
    domain: u16,
    disks: Vec<(crate::config::devices::Disk, DiskOffer)>,
}

impl Plan {
    /// Of a domain.
    pub fn new(store: &mut Store, domain: u16, config: &DomainConfig) -> Result<Self> {
        let mut disks = Vec::new();
        for disk in config.disks.iter().filter(|disk| !disk.read_only) {
            let backend = format!(
                "/local/domain/{BACKEND_DOMAIN}/backend/vbd/{domain}/{}",
                disk.number()
            );
            let shape = shape(store, &backend)?;
            let offer = DiskOffer {
                device: disk.device.clone(),
                size: shape.size,
                block: shape.block,
            };
            disks.push((disk.clone(), offer));
        }
        Ok(Self { domain, disks })
    }

    /// What the target is told.
    pub fn offers(&self) -> Vec<DiskOffer> {
        self.disks.iter().map(|(_, offer)| offer.clone()).collect()
    }

    /// Whether there is nothing to be done.
    pub fn is_empty(&self) -> bool {
        self.disks.is_empty()
    }

    /// Begins, over a connection that has said whose disks come. From here on the guest's writes are logged.
    pub fn start(
        &self,
        control: &Control,
        store: &mut Store,
        channel_of_disks: Channel,
        compression: Compression,
        pace: Arc<Pace>,
        goals: Goals,
    ) -> Result<Mirror> {
        sweep(control, store)?;
        let shared = Arc::new(Shared::default());
        let mut disks = Vec::new();
        for (disk, _) in &self.disks {
            disks.push(GuestDisk::new(store, self.domain, disk)?);
        }
        let state = Arc::clone(&shared);
        let (tell, result) = channel();
        let thread = spawn(move || {
            let mut copier = Copier {
                disks,
                pace: &pace,
                shared: &state,
                rest: REST,
            };
            let result = send(&mut copier, channel_of_disks, compression, goals);
            // The guest does not wait for Dom0 to let its disks go, which happens then.
            let _ = tell.send(result);
        });
        Ok(Mirror {
            shared,
            result,
            thread: Some(thread),
        })
    }
}

/// A guest's disk, read through Dom0's.
struct GuestDisk {
    // Fields are dropped in this order: the file is closed before Dom0 lets the disk go.
    file: BlockFile,
    log: Log,
    _attached: Attached,
}

/// The log of a disk's writes; ended on drop.
struct Log {
    control: Control,
    domain: u16,
    device: u32,
    extent: DiskLog,
}

impl Log {
    fn start(domain: u16, disk: &crate::config::devices::Disk) -> Result<Self> {
        let control = Control::open()?;
        let device = disk.number();
        let refused = |why: &str| Error::Device {
            device: format!("disk {}", disk.device),
            why: why.to_owned(),
        };
        let extent = control
            .disk_log_start(domain, device)
            .map_err(|error| match error {
                Error::Hypercall {
                    errno: errno::EEXIST,
                    ..
                } => refused("somebody moves it already"),
                Error::Hypercall {
                    errno: errno::EOPNOTSUPP,
                    ..
                } => refused("other domains may write it too"),
                other => other,
            })?;
        Ok(Self {
            control,
            domain,
            device,
            extent,
        })
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // The domain may be gone.
        let _ = self.control.disk_log_stop(self.domain, self.device);
    }
}

impl GuestDisk {
    fn new(store: &mut Store, domain: u16, disk: &crate::config::devices::Disk) -> Result<Self> {
        let wanted = Wanted {
            source: &disk.source,
            domain,
            write: false,
            logs: Some(disk.number()),
        };
        let attached = Attached::new(store, wanted)?;
        let log = Log::start(domain, disk)?;
        Ok(Self {
            file: attached.open(false)?,
            log,
            _attached: attached,
        })
    }
}

impl Disk for GuestDisk {
    fn size(&self) -> u64 {
        self.file.size()
    }

    fn read(&mut self, offset: u64, length: usize) -> std::io::Result<&[u8]> {
        self.file.read(offset, length)
    }

    fn write(&mut self, _offset: u64, _data: &[u8]) -> std::io::Result<()> {
        Err(std::io::ErrorKind::PermissionDenied.into())
    }

    fn sync(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Logged for GuestDisk {
    fn block(&self) -> u64 {
        self.log.extent.block
    }

    fn written(&mut self) -> Result<Vec<u64>> {
        let Log {
            control,
            domain,
            device,
            extent,
        } = &self.log;
        control.disk_log_take(*domain, *device, *extent)
    }
}

/// What the thread that copies and the one that moves the guest tell each other.
#[derive(Default)]
struct Shared {
    /// Little is left: the guest may be suspended.
    settled: AtomicBool,
    /// The guest is suspended: once more, then the end.
    finish: AtomicBool,
    /// It is given up.
    stop: AtomicBool,
    progress: Mutex<Progress>,
}

/// How far it is.
#[derive(Clone, Default, Debug)]
pub struct Progress {
    /// Passes that are done.
    pub passes: Vec<Pass>,
    /// Bytes of this pass that were read.
    pub done: u64,
    /// Of so many.
    pub all: u64,
    /// Bytes on the wire.
    pub bytes: u64,
}

impl Shared {
    fn finish(&self) {
        self.finish.store(true, Ordering::Release);
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        // Numbers, each right by itself.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Disks that are being copied. Dropped, it is given up: the logs end, Dom0 lets the disks go.
pub struct Mirror {
    shared: Arc<Shared>,
    /// How it ended.
    result: Receiver<Result<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Mirror {
    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.shared.progress().clone()
    }

    /// Whether little is left.
    ///
    /// # Errors
    /// Why it ended.
    pub fn settled(&self) -> Result<bool> {
        match self.result.try_recv() {
            Err(TryRecvError::Empty) => Ok(self.shared.settled.load(Ordering::Acquire)),
            Ok(Err(error)) => Err(error),
            Ok(Ok(())) | Err(TryRecvError::Disconnected) => Err(ended()),
        }
    }

    /// The guest is suspended: what is left goes out, beside what else is done.
    pub fn finish(&self) {
        self.shared.finish();
    }

    /// Waits until all is on the target's medium.
    pub fn wait(&self) -> Result<()> {
        self.result.recv().unwrap_or_else(|_| Err(ended()))
    }
}

fn ended() -> Error {
    Error::Peer("the disks are not sent any more".into())
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends all over a connection, and waits for the target's word.
fn send<D: Logged>(
    copier: &mut Copier<'_, D>,
    channel: Channel,
    compression: Compression,
    goals: Goals,
) -> Result<()> {
    let mut out = Packer::new(channel, compression);
    let sent = copier.run(&mut out, goals);
    let mut channel = match sent {
        Ok(()) => out.finish()?.0,
        Err(error) => {
            // The target may have said why it takes no more.
            return Err(match &error {
                Error::Io(_) => match wire::receive(out.inner()) {
                    Ok(FromTarget::Gone { why }) => {
                        Error::Peer(format!("it takes the disks no more: {why}"))
                    }
                    _ => Error::Peer(format!("the disks' connection: {error}")),
                },
                _ => error,
            });
        }
    };
    channel.set_patience(Some(SAFE))?;
    match wire::receive(&mut channel)? {
        FromTarget::Ready { .. } => Ok(()),
        FromTarget::Gone { why } => Err(Error::Peer(format!("it cannot keep the disks: {why}"))),
        _ => Err(Error::Peer("it does not say that it has the disks".into())),
    }
}

/// What goes through the disks.
struct Copier<'a, D> {
    disks: Vec<D>,
    pace: &'a Pace,
    shared: &'a Shared,
    /// Between two looks at the log when there is little in it.
    rest: Duration,
}

/// Blocks of each disk, a bit each.
type Blocks = Vec<Vec<u64>>;

impl<D: Logged> Copier<'_, D> {
    /// All blocks.
    fn everything(&self) -> Blocks {
        let of = |disk: &D| {
            let blocks = disk.size().div_ceil(disk.block().max(1));
            let mut words = vec![u64::MAX; blocks.div_ceil(64) as usize];
            if let Some(last) = words.last_mut().filter(|_| !blocks.is_multiple_of(64)) {
                *last = (1 << (blocks % 64)) - 1;
            }
            words
        };
        self.disks.iter().map(of).collect()
    }

    /// Takes what was written and adds it.
    fn take(&mut self, blocks: &mut Blocks) -> Result<()> {
        for (disk, words) in self.disks.iter_mut().zip(blocks) {
            for (word, new) in words.iter_mut().zip(disk.written()?) {
                *word |= new;
            }
        }
        Ok(())
    }

    /// Bytes in blocks.
    fn bytes(&self, blocks: &Blocks) -> u64 {
        let each = self.disks.iter().zip(blocks).map(|(disk, words)| {
            let count: u64 = words.iter().map(|word| u64::from(word.count_ones())).sum();
            count.saturating_mul(disk.block())
        });
        each.fold(0, u64::saturating_add)
    }

    /// Until the guest is suspended, and once more.
    fn run<W: Write>(&mut self, out: &mut Packer<W>, goals: Goals) -> Result<()> {
        let begin = Instant::now();
        let mut todo = self.everything();
        loop {
            let last = self.shared.finish.load(Ordering::Acquire);
            if last {
                self.take(&mut todo)?;
            }
            self.pass(out, &mut todo, last)?;
            if last {
                return Ok(());
            }
            self.take(&mut todo)?;
            let settled = self.shared.settled.load(Ordering::Acquire)
                || self.is_little(self.bytes(&todo), begin.elapsed(), goals)?;
            if settled {
                self.shared.settled.store(true, Ordering::Release);
                let end = Instant::now() + self.rest;
                while Instant::now() < end && !self.shared.finish.load(Ordering::Acquire) {
                    self.check()?;
                    sleep(LOOK);
                }
            }
        }
    }

    fn check(&self) -> Result<()> {
        match self.shared.stop.load(Ordering::Acquire) {
            true => Err(Error::Cancelled),
            false => Ok(()),
        }
    }

    /// Whether so many bytes may be left for the pause.
    fn is_little(&self, bytes: u64, elapsed: Duration, goals: Goals) -> Result<bool> {
        let passes = self.shared.progress().passes.clone();
        let (read, ms) = passes.iter().fold((0u64, 0u64), |sum, pass| {
            (sum.0.saturating_add(pass.read), sum.1 + pass.ms)
        });
        let rate = read.saturating_mul(1000) / ms.max(1);
        let pause = u64::try_from(goals.pause.as_millis()).unwrap_or(u64::MAX);
        if bytes <= LITTLE.max(rate.saturating_mul(pause) / 1000) {
            return Ok(true);
        }
        // The first pass has all; those behind it ought to get smaller by a tenth each.
        let stuck = passes.len() > PATIENCE
            && passes
                .iter()
                .rev()
                .take(PATIENCE)
                .all(|pass| bytes > pass.read / 10 * 9);
        let late = !goals.timeout.is_zero() && elapsed >= goals.timeout;
        match stuck || late {
            false => Ok(false),
            true if goals.suspend_anyway => Ok(true),
            true => Err(Error::Timeout(format!(
                "the guest writes its disks as fast as they are sent: {} MiB are left at {} KiB/s \
                 (--on-timeout suspend moves it nevertheless)",
                bytes >> 20,
                rate >> 10
            ))),
        }
    }

    /// Sends blocks, and clears their bits. With the guest suspended, as fast as it goes.
    fn pass<W: Write>(
        &mut self,
        out: &mut Packer<W>,
        todo: &mut Blocks,
        suspended: bool,
    ) -> Result<()> {
        let (begin, before) = (Instant::now(), out.packed());
        let mut pass = Pass::default();
        let all = self.bytes(todo);
        for index in 0..self.disks.len() {
            let mut next = 0;
            while let Some((mut offset, mut left)) = self.row(index, todo, &mut next) {
                while left != 0 {
                    self.check()?;
                    let spent = out.packed();
                    let length = left.min(CHUNK as u64);
                    let Some(disk) = self.disks.get_mut(index) else {
                        break;
                    };
                    let data = disk.read(offset, length as usize)?;
                    pass.zeros += put(out, index, offset, data)?;
                    pass.read += length;
                    (offset, left) = (offset + length, left - length);
                    if !suspended {
                        self.pace.spend(out.packed().saturating_sub(spent));
                    }
                    let mut progress = self.shared.progress();
                    (progress.done, progress.all) = (pass.read, all);
                    progress.bytes = out.packed();
                }
            }
        }
        if pass.read == 0 {
            records::put_nothing(out)?;
        }
        out.flush()?;
        pass.bytes = out.packed().saturating_sub(before);
        pass.ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut progress = self.shared.progress();
        progress.bytes = out.packed();
        match progress.passes.last_mut() {
            _ if pass.read == 0 => {}
            Some(last) if self.shared.settled.load(Ordering::Acquire) && !suspended => {
                last.add(pass);
            }
            _ => progress.passes.push(pass),
        }
        Ok(())
    }

    /// The next blocks in a row of a disk, from block `next` on: first byte, and how many; their
    /// bits are cleared.
    fn row(&self, index: usize, todo: &mut Blocks, next: &mut u64) -> Option<(u64, u64)> {
        let disk = self.disks.get(index)?;
        let words = todo.get_mut(index)?;
        let block = disk.block().max(1);
        let most = (CHUNK as u64 / block).max(1);
        loop {
            let word = words.get_mut((*next / 64) as usize)?;
            let rest = *word >> (*next % 64);
            if rest == 0 {
                *next = (*next / 64 + 1) * 64;
                continue;
            }
            *next += u64::from(rest.trailing_zeros());
            break;
        }
        let first = *next;
        while *next - first < most {
            let Some(word) = words.get_mut((*next / 64) as usize) else {
                break;
            };
            let bit = 1 << (*next % 64);
            if *word & bit == 0 {
                break;
            }
            *word &= !bit;
            *next += 1;
        }
        let offset = first.checked_mul(block)?;
        let length = (*next - first) * block;
        Some((offset, length.min(disk.size().checked_sub(offset)?)))
    }
}

/// Writes contents: pieces of zeros as such. Gives the bytes of those.
fn put(out: &mut impl Write, disk: usize, offset: u64, data: &[u8]) -> Result<u64> {
    let is_zero = |piece: &[u8]| piece.iter().all(|&byte| byte == 0);
    let (mut at, mut zeros) = (0, 0);
    while let Some(rest) = data.get(at..).filter(|rest| !rest.is_empty()) {
        let zero = is_zero(rest.get(..ZEROS).unwrap_or(rest));
        let same = rest
            .chunks(ZEROS)
            .take_while(|piece| is_zero(piece) == zero)
            .map(<[u8]>::len)
            .sum();
        let place = offset.saturating_add(at as u64);
        if zero {
            records::put_zeros(out, disk, place, same)?;
            zeros += same as u64;
        } else {
            records::put_data(out, disk, place, rest.get(..same).unwrap_or_default())?;
        }
        at += same;
    }
    Ok(zeros)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use proptest::prelude::*;

    use super::super::model::Model;
    use super::super::records::Shape;
    use super::super::target::write_all;
    use super::*;

    const GOALS: Goals = Goals {
        pause: Duration::from_secs(1),
        timeout: Duration::ZERO,
        suspend_anyway: false,
    };

    /// A disk whose guest is suspended once it has written all that it wants to, to all of them.
    struct Guest<'a> {
        disk: Model,
        shared: &'a Shared,
        /// Writes to come.
        left: &'a AtomicUsize,
    }

    impl Guest<'_> {
        fn writes(&mut self) {
            if let Some((offset, data)) = self.disk.guest.pop() {
                self.disk.guest_writes(offset, &data);
                self.left.fetch_sub(1, Ordering::Relaxed);
            }
            if self.left.load(Ordering::Relaxed) == 0 {
                self.shared.finish();
            }
        }
    }

    impl Disk for Guest<'_> {
        fn size(&self) -> u64 {
            self.disk.size()
        }
        fn read(&mut self, offset: u64, length: usize) -> std::io::Result<&[u8]> {
            self.writes();
            self.disk.read(offset, length)
        }
        fn write(&mut self, offset: u64, data: &[u8]) -> std::io::Result<()> {
            self.disk.write(offset, data)
        }
        fn sync(&mut self) -> std::io::Result<()> {
            self.disk.sync()
        }
    }

    impl Logged for Guest<'_> {
        fn block(&self) -> u64 {
            self.disk.block()
        }
        fn written(&mut self) -> Result<Vec<u64>> {
            // Also one that nothing is read of any more.
            self.writes();
            self.disk.written()
        }
    }

    fn copy(models: Vec<Model>, compression: Compression) -> (Vec<Model>, Vec<Model>, Progress) {
        let (shared, pace) = (Shared::default(), Pace::new(0));
        shared.settled.store(true, Ordering::Relaxed);
        let left = AtomicUsize::new(models.iter().map(|model| model.guest.len()).sum());
        let mut copier = Copier {
            disks: models
                .into_iter()
                .map(|disk| Guest {
                    disk,
                    shared: &shared,
                    left: &left,
                })
                .collect(),
            pace: &pace,
            shared: &shared,
            rest: Duration::ZERO,
        };
        let mut out = Packer::new(Vec::new(), compression);
        copier.run(&mut out, GOALS).expect("all is read");
        let (wire, _) = out.finish().expect("into memory");
        let from: Vec<Model> = copier.disks.into_iter().map(|guest| guest.disk).collect();
        let shapes: Vec<Shape> = from
            .iter()
            .map(|disk| Shape {
                size: disk.size(),
                block: 512,
            })
            .collect();
        let mut to: Vec<Model> = from
            .iter()
            .map(|disk| Model::new(vec![0xa5; disk.data.len()], disk.block))
            .collect();
        let mut stream = wire::StreamReader::of(wire::items(&wire[..]));
        let stop = AtomicBool::new(false);
        write_all(&mut stream, &shapes, &mut to, &stop).expect("good records");
        (from, to, shared.progress.into_inner().expect("numbers"))
    }

    #[test]
    fn large_blocks_and_zeros() {
        // A log's block of 2 MiB, the last one cut.
        let mut data = vec![0; (5 << 20) + 512];
        data[(3 << 20) + 5] = 1;
        *data.last_mut().expect("bytes") = 2;
        let (from, to, progress) = copy(vec![Model::new(data, 2 << 20)], Compression::None);
        assert!(from[0].data == to[0].data && to[0].synced);
        let pass = progress.passes[0];
        assert_eq!(pass.read, (5 << 20) + 512);
        assert_eq!(pass.zeros, (5 << 20) - (64 << 10));
        assert!(pass.bytes < 70 << 10);
    }

    #[test]
    fn who_writes_too_fast_is_not_suspended() {
        let (shared, pace) = (Shared::default(), Pace::new(0));
        let copier = Copier::<Model> {
            disks: Vec::new(),
            pace: &pace,
            shared: &shared,
            rest: Duration::ZERO,
        };
        let pass = |read: u64| Pass {
            read,
            ms: 1000,
            ..Pass::default()
        };
        let (mib, short) = (1u64 << 20, Duration::from_secs(1));
        let little = |bytes, elapsed, goals| copier.is_little(bytes, elapsed, goals);
        shared.progress().passes = vec![pass(1000 * mib), pass(100 * mib)];
        // 550 MiB/s.
        assert!(!little(600 * mib, short, GOALS).expect("goes on"));
        assert!(little(500 * mib, short, GOALS).expect("goes on"));
        assert!(little(LITTLE, short, GOALS).expect("goes on"));
        let goals = Goals {
            pause: Duration::from_millis(1),
            timeout: short,
            ..GOALS
        };
        little(10 * mib, short, goals).expect_err("too late");
        let anyway = Goals {
            suspend_anyway: true,
            ..goals
        };
        assert!(little(10 * mib, short, anyway).expect("nevertheless"));
        let goals = Goals {
            timeout: Duration::ZERO,
            ..goals
        };
        shared
            .progress()
            .passes
            .extend([pass(99 * mib), pass(98 * mib)]);
        assert!(!little(99 * mib, short, goals).expect("has time"));
        shared.progress().passes.push(pass(97 * mib));
        assert!(!little(80 * mib, short, goals).expect("gets less"));
        little(99 * mib, short, goals).expect_err("gets no less");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Whatever the guest writes while its disks are copied, the copies are the same in the end.
        #[test]
        fn copies_are_the_same(
            sizes in prop::collection::vec(1..40u64, 1..3),
            writes in prop::collection::vec((any::<u64>(), 1..50_000u64, any::<u8>(), 0..2usize), 0..40),
            zeros in any::<u64>(),
            packed in any::<bool>(),
        ) {
            let block = 16 << 10;
            let mut models: Vec<Model> = sizes
                .iter()
                .map(|size| {
                    let data = (0..size * 8192).map(|n| match zeros >> (n / 8192 % 64) & 1 {
                        0 => 0,
                        _ => (n / 5) as u8 | 1,
                    });
                    Model::new(data.collect(), block)
                })
                .collect();
            for (place, length, value, disk) in writes {
                let count = models.len();
                let model = &mut models[disk % count];
                let offset = place % model.data.len() as u64 / 512 * 512;
                let length = length.min(model.data.len() as u64 - offset);
                model.guest.push((offset, vec![value & 0x3f; length as usize]));
            }
            let compression = if packed { Compression::Lz4 } else { Compression::None };
            let (from, to, _) = copy(models, compression);
            for (from, to) in from.iter().zip(&to) {
                prop_assert!(from.guest.is_empty() && from.log.iter().all(|&word| word == 0));
                prop_assert!(from.data == to.data && to.synced);
            }
        }
    }
}
