//! The backend of block devices: `vbd`s on the first layer's disks.
//!
//! The protocol is [`overcast_core::blkback`], what a device shows of which disk
//! [`overcast_core::vdisk`]. Each queue of a disk that is in use has a [`Lane`]: a channel, and the
//! task that serves it, which the disk's interrupts and the frontends' events raise. A vbd's
//! rings go round the queues.
//!
//! Which disk a vbd is stands in its backend's node `params`, as in the option `vdisk=`:
//! a virtual disk's name, or a first layer's disk with a part of it.
//!
//! The tools may give the control domain a disk that another domain has or will have, to copy it
//! (node `mirror`, with that domain's number): see [`overcast_core::vdisk::claims`].
//!
//! Partition tables are read once, at boot. A whole disk that changes its size changes that
//! of its vbds, and their frontends are told.
//!
//! # Locks
//! A channel's lock is outside those of grants, memory and event channels, and of the disk's
//! driver. The store is not used under it: what a task finds out under it, the task
//! [`control`] says to the store.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use overcast_core::addr::{MachineAddress, Mfn, PAGE_SIZE};
use overcast_core::blkback::channel::{Channel, RingId};
use overcast_core::blkback::negotiate::{self, Choice, Offer, RingKeys};
use overcast_core::blkback::queue::Queue;
use overcast_core::blkback::{Disk, Fault, Frontend};
use overcast_core::error::{Error, Result};
use overcast_core::grant::{BackendGrant, BackendGrants, GrantError, GrantTable};
use overcast_core::ids::{DomainId, EventPort, GrantRef};
use overcast_core::machine::{Frame, Memory};
use overcast_core::vdisk::claims::{ClaimId, Claims};
use overcast_core::vdisk::gpt::{self, GptError, Partition};
use overcast_core::vdisk::{self, Part, Spec, VirtualDisk};
use overcast_drivers::Segment;
use overcast_drivers::block::{BlockOperation, BlockRequest, BlockStatus};
use spin::{Mutex, Once};
use xen_abi::io_blkif::{BLKIF_OP_DISCARD, BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_READ};
use xen_abi::io_xenbus::XENBUS_STATE_CONNECTED;

use crate::arch::memory;
use crate::devices::{self, BlockEntry};
use crate::domain::{self, Domain};
use crate::host::Host;
use crate::io::{self, Progress, Task};
use crate::start::options;
use crate::xenbus::{self, Backend, Device, Failure, Kind};
use crate::{printk, time};

/// The most rings of a vbd.
const MAX_QUEUES: usize = 8;
/// The tag of our own reads: that of no ring's request. One that was given up may be
/// completed when guests use the disk.
const OURS: u64 = u64::MAX;
/// For how long a disk is waited for when its partition table is read, ns.
const READ_TIMEOUT: u64 = 5_000_000_000;
/// The log is told of a disk's errors at most so often, ns.
const ERRORS_INTERVAL: u64 = 5_000_000_000;

/// A queue of a disk, in use.
struct Lane {
    channel: Arc<Channel<Link>>,
    task: Task,
}

/// A disk of the first layer.
struct Base {
    entry: &'static BlockEntry,
    partitions: core::result::Result<Vec<Partition>, GptError>,
    lanes: Vec<Once<Lane>>,
    /// Its size may have changed.
    changed: AtomicBool,
    /// Requests that came back with an error.
    errors: AtomicU64,
    /// When the log may be told of the next, ns.
    next_report: AtomicU64,
}

static BASES: Once<Vec<Base>> = Once::new();
static CONTROL: Once<Task> = Once::new();
static CLAIMS: Mutex<Claims> = Mutex::new(Claims::new());
/// All vbds.
static VBDS: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());

fn bases() -> &'static [Base] {
    BASES.get().map_or(&[], Vec::as_slice)
}

impl Base {
    fn name(&self) -> &str {
        &self.entry.name
    }

    /// A request came back with an error, of which the guest is told. So is the log, but not
    /// of each: guests can ask again and again.
    fn request_failed(&self, what: &str, vbd: &Device) {
        let count = self.errors.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let (now, next) = (time::now(), self.next_report.load(Ordering::Relaxed));
        let order = Ordering::Relaxed;
        let after = now.saturating_add(ERRORS_INTERVAL);
        if now >= next
            && self
                .next_report
                .compare_exchange(next, after, order, order)
                .is_ok()
        {
            log::error!(
                "{}: the disk failed a {what} of {}; {count} errors so far",
                self.name(),
                vbd.name()
            );
        }
    }

    /// What serves one of its queues.
    fn lane(&'static self, queue: usize) -> Result<&'static Lane> {
        let lane = self.lanes.get(queue).ok_or(Error::Invalid)?;
        lane.try_call_once(|| {
            let channel = Arc::new(Channel::new(self.entry.device.clone(), queue));
            let served = channel.clone();
            let task = Task::new(move || {
                let more = served.run();
                if self.entry.device.take_change() {
                    self.changed.store(true, Ordering::Release);
                    raise_control();
                }
                if more { Progress::More } else { Progress::Done }
            })?;
            self.entry.interrupts.set_task(queue, Some(task.id()))?;
            Ok(Lane { channel, task })
        })
    }
}

/// The guest's end of a ring.
struct Link {
    grants: Arc<GrantTable>,
    /// Our port.
    port: EventPort,
    shared: Arc<Shared>,
}

impl Frontend for Link {
    type Page = BackendGrant<'static, Host>;
    type Pages = BackendGrants<'static, Host>;

    fn frame(&self, mfn: Mfn) -> Option<&Frame> {
        Host.frame(mfn)
    }

    fn map(
        &self,
        reference: GrantRef,
        readonly: bool,
    ) -> core::result::Result<Self::Page, GrantError> {
        self.grants
            .map_for_backend(&Host, DomainId::XEN, reference, readonly)
    }

    fn pages(&self) -> Self::Pages {
        BackendGrants::new(&Host, self.grants.clone(), DomainId::XEN)
    }

    fn notify(&self) {
        io::notify(self.port);
    }

    fn failed(&self, fault: Fault) {
        *self.shared.fault.lock() = Some(fault);
        raise_control();
    }

    fn device_error(&self, operation: u8) {
        let what = match operation {
            BLKIF_OP_READ => "read",
            BLKIF_OP_FLUSH_DISKCACHE => "flush",
            BLKIF_OP_DISCARD => "discard",
            _ => "write",
        };
        self.shared.base.request_failed(what, &self.shared.device);
    }

    fn drained(&self) {}
}

/// What of a vbd others than the bus's task look at.
struct Shared {
    device: Arc<Device>,
    base: &'static Base,
    /// It is all of the disk.
    whole: bool,
    /// Other domains may write it too.
    others_write: bool,
    disk: Arc<Disk>,
    /// What its frontend did, and the log was not told yet.
    fault: Mutex<Option<Fault>>,
}

/// A vbd.
struct Vbd {
    shared: Arc<Shared>,
    claim: ClaimId,
    /// The disk's queue for its first ring.
    first_queue: usize,
    rings: Vec<Connected>,
}

/// A ring in use.
struct Connected {
    lane: &'static Lane,
    ring: RingId,
    port: EventPort,
}

struct Vbds;

impl Kind for Vbds {
    fn name(&self) -> &'static str {
        "vbd"
    }

    fn create(&self, device: &Arc<Device>) -> core::result::Result<Box<dyn Backend>, Failure> {
        let params = device.read_text("params")?;
        let spec = Spec::parse(params.trim()).ok_or_else(|| {
            Failure::new(Error::Invalid, format_args!("{params:?} names no disk"))
        })?;
        let mode = device.read_text("mode").unwrap_or_default();
        let (base, mut part) = resolve(&spec)
            .map_err(|why| Failure::new(Error::NoEntry, format_args!("{spec}: {why}")))?;
        part.read_only |= !mode.contains('w');
        // Its backend's directory can be written by the control domain alone.
        let mirrors = match device.read_number("mirror") {
            Ok(whose) if device.domain == DomainId::DOM0 => u16::try_from(whose).ok().map(DomainId),
            _ => None,
        };
        let claim = CLAIMS
            .lock()
            .claim_for(device.domain, mirrors, base.name(), &part)
            .map_err(|conflict| Failure::new(Error::Busy, format_args!("{spec}: {conflict}")))?;
        let info = base.entry.device.info();
        let disk = Disk::new(&info, part.start, part.sectors, part.read_only);
        let vbd = Vbd {
            shared: Arc::new(Shared {
                device: device.clone(),
                base,
                whole: part.whole,
                others_write: part.shared && !part.read_only,
                disk: Arc::new(disk),
                fault: Mutex::new(None),
            }),
            claim,
            first_queue: usize::from(device.domain.0).wrapping_add(device.id as usize >> 4)
                % base.lanes.len().max(1),
            rings: Vec::new(),
        };
        let disk = &vbd.shared.disk;
        for (key, value) in negotiate::features(disk, vbd.offer())
            .into_iter()
            .chain(negotiate::properties(disk))
        {
            device.write(key, value)?;
        }
        VBDS.lock().push(Arc::downgrade(&vbd.shared));
        Ok(Box::new(vbd))
    }
}

impl Vbd {
    fn offer(&self) -> Offer {
        Offer {
            max_queues: self.shared.base.lanes.len().clamp(1, MAX_QUEUES) as u32,
            persistent: options().vbd_persistent,
        }
    }

    /// Takes one ring into use.
    fn start(
        &mut self,
        domain: &Domain,
        choice: &Choice,
        keys: &RingKeys,
    ) -> core::result::Result<(), Failure> {
        let base = self.shared.base;
        let queue = (self.first_queue + self.rings.len()) % base.lanes.len().max(1);
        let lane = base.lane(queue).map_err(|error| {
            Failure::new(error, format_args!("queue {queue} of {}", base.name()))
        })?;
        let port = io::bind_port(&domain.events, keys.port, lane.task.id())
            .map_err(|error| Failure::new(error, format_args!("binding port {}", keys.port)))?;
        let link = Link {
            grants: domain.grants.clone(),
            port,
            shared: self.shared.clone(),
        };
        let ring = Queue::connect(
            link,
            self.shared.disk.clone(),
            choice.protocol,
            &keys.references,
            choice.persistent,
        )
        .map_err(|fault| Failure::new(Error::Invalid, format_args!("mapping the ring: {fault}")))
        .and_then(|queue| {
            lane.channel
                .attach(queue)
                .map_err(|error| Failure::new(error, "too many rings"))
        });
        match ring {
            Ok(ring) => {
                self.rings.push(Connected { lane, ring, port });
                lane.task.raise();
                Ok(())
            }
            Err(failure) => {
                io::close_port(port);
                Err(failure)
            }
        }
    }

    fn stop(&mut self) {
        for connected in self.rings.drain(..) {
            // In this order: a ring that is closed sends no events.
            connected.lane.channel.close(connected.ring);
            io::close_port(connected.port);
        }
    }
}

impl Backend for Vbd {
    fn connect(&mut self, device: &Device) -> core::result::Result<(), Failure> {
        let domain = domain::find(device.domain)
            .ok_or_else(|| Failure::new(Error::NoDomain, "no such domain"))?;
        let mut failure = None;
        let mut read = |key: &str| match device.frontend_text(key) {
            Ok(text) => Some(text),
            Err(error) if error.errno == Error::NoEntry.errno() => None,
            Err(error) => {
                failure = Some(error);
                None
            }
        };
        let choice = Choice::read(&mut read, self.offer());
        if let Some(failure) = failure {
            return Err(failure);
        }
        let choice = choice.map_err(|error| Failure::new(Error::Invalid, error))?;
        if self.shared.whole {
            self.shared
                .disk
                .set_sectors(self.shared.base.entry.device.info().sectors);
        }
        for (key, value) in negotiate::properties(&self.shared.disk) {
            device.write(key, value)?;
        }
        *self.shared.fault.lock() = None;
        for keys in &choice.rings {
            if let Err(failure) = self.start(&domain, &choice, keys) {
                self.stop();
                return Err(failure);
            }
        }
        log::info!(
            "{}: {} rings of {} pages, {:?}{}, on {}",
            device.name(),
            choice.rings.len(),
            choice.rings.first().map_or(0, |ring| ring.references.len()),
            choice.protocol,
            if choice.persistent {
                ", persistent grants"
            } else {
                ""
            },
            self.shared.base.name(),
        );
        Ok(())
    }

    fn disconnect(&mut self, _device: &Device) {
        self.stop();
    }
}

impl Drop for Vbd {
    fn drop(&mut self) {
        self.stop();
        CLAIMS.lock().release(self.claim);
    }
}

/// What a vbd of a domain shows, if there is one of this number, and whether others may write it.
pub fn disk(domain: DomainId, device: u32) -> Option<(Arc<Disk>, bool)> {
    let vbds = VBDS.lock();
    let mut all = vbds.iter().filter_map(Weak::upgrade);
    all.find(|vbd| vbd.device.domain == domain && vbd.device.id == device)
        .map(|vbd| (vbd.disk.clone(), vbd.others_write))
}

/// Nobody wants to know any more what is written to disks.
pub fn end_logs() {
    let all: Vec<_> = VBDS.lock().iter().filter_map(Weak::upgrade).collect();
    for vbd in all {
        vbd.disk.end_log();
    }
}

fn raise_control() {
    if let Some(task) = CONTROL.get() {
        task.raise();
    }
}

/// The task that tells the store what was found out elsewhere.
fn control() -> Progress {
    let vbds: Vec<Arc<Shared>> = {
        let mut all = VBDS.lock();
        all.retain(|vbd| vbd.strong_count() != 0);
        all.iter().filter_map(Weak::upgrade).collect()
    };
    for vbd in &vbds {
        let fault = vbd.fault.lock().take();
        if let Some(fault) = fault {
            vbd.device.fail(&Failure::new(
                Error::Invalid,
                format_args!("the frontend broke the protocol: {fault}"),
            ));
        }
    }
    for base in bases() {
        if !base.changed.swap(false, Ordering::AcqRel) {
            continue;
        }
        if base.entry.device.is_broken() {
            log::error!("{}: the disk broke", base.name());
            // It does not interrupt for what comes back now.
            for lane in base.lanes.iter().filter_map(Once::get) {
                lane.task.raise();
            }
        }
        let sectors = base.entry.device.info().sectors;
        for vbd in vbds.iter().filter(|vbd| core::ptr::eq(vbd.base, base)) {
            if vbd.whole && vbd.disk.sectors() != sectors {
                resize(vbd, sectors);
            }
        }
    }
    Progress::Done
}

/// A vbd has another size now: its frontend looks when the backend's state is written.
fn resize(vbd: &Shared, sectors: u64) {
    log::info!(
        "{}: {} sectors, {} before",
        vbd.device.name(),
        sectors,
        vbd.disk.sectors()
    );
    vbd.disk.set_sectors(sectors);
    let mut result = vbd.device.write("sectors", sectors);
    if vbd.device.state() == XENBUS_STATE_CONNECTED {
        result = result.and_then(|()| vbd.device.write("state", XENBUS_STATE_CONNECTED));
    }
    if let Err(failure) = result {
        vbd.device.fail(&failure);
    }
}

/// Which disk a description means, and which part of it.
fn resolve(spec: &Spec) -> core::result::Result<(&'static Base, VirtualDisk), String> {
    let named = options()
        .vdisks
        .iter()
        .find(|(name, _)| *name == spec.disk)
        .map(|(_, named)| named);
    if let Some(named) = named {
        if spec.part != Part::Whole {
            return Err(format!("{} is a virtual disk, and has no parts", spec.disk));
        }
        let (base, mut part) = resolve_on_disk(named)?;
        part.read_only |= spec.read_only;
        part.shared |= spec.shared;
        return Ok((base, part));
    }
    resolve_on_disk(spec)
}

fn resolve_on_disk(spec: &Spec) -> core::result::Result<(&'static Base, VirtualDisk), String> {
    let base = bases()
        .iter()
        .find(|base| base.name() == spec.disk)
        .ok_or_else(|| vdisk::SpecError::NoDisk(spec.disk.clone()).to_string())?;
    let info = base.entry.device.info();
    let mut part = spec
        .resolve(info.sectors, info.logical_block_size, || {
            base.partitions.clone()
        })
        .map_err(|error| error.to_string())?;
    part.read_only |= info.read_only;
    Ok((base, part))
}

/// Sets the backend up: looks at the disks, and waits for vbds.
pub fn init() {
    BASES.call_once(|| devices::blocks().iter().map(look_at).collect());
    match Task::new(control) {
        Ok(task) => {
            CONTROL.call_once(|| task);
        }
        Err(error) => log::error!("Block devices: no task: {error:?}"),
    }
    for (name, spec) in &options().vdisks {
        match resolve(spec) {
            Ok((base, part)) => printk!(
                "Virtual disk {name}: {} sectors from {} on of {}{}",
                part.sectors,
                part.start,
                base.name(),
                if part.read_only { ", read-only" } else { "" }
            ),
            Err(why) => log::error!("vdisk={name}:{spec}: {why}"),
        }
    }
    xenbus::register(Box::new(Vbds));
}

fn look_at(entry: &'static BlockEntry) -> Base {
    let info = entry.device.info();
    let block_size = info.logical_block_size.max(512);
    let blocks = info.sectors / u64::from(block_size / 512);
    let mut buffer = Buffer::new();
    let partitions = match &mut buffer {
        Some(buffer) => gpt::partitions(
            &mut |block, bytes| buffer.read(entry, block, block_size, bytes),
            block_size,
            blocks,
        ),
        None => Err(GptError::Read),
    };
    match &partitions {
        Ok(found) => {
            for partition in found {
                log::info!(
                    "{}: partition {} \"{}\", {} blocks from {} on, {}",
                    entry.name,
                    partition.number,
                    partition.label.escape_default(),
                    partition.blocks,
                    partition.first_block,
                    partition.guid
                );
            }
        }
        Err(GptError::None) => {}
        Err(error) => log::warn!("{}: {error}", entry.name),
    }
    Base {
        entry,
        partitions,
        lanes: (0..entry.device.queues()).map(|_| Once::new()).collect(),
        changed: AtomicBool::new(false),
        errors: AtomicU64::new(0),
        next_report: AtomicU64::new(0),
    }
}

/// Memory for reads at boot.
struct Buffer {
    mfn: Mfn,
    /// The disk may still write it.
    lost: bool,
}

/// Pages of a [`Buffer`], as a power of 2: room for the largest block.
const BUFFER_ORDER: u32 = 4;

impl Buffer {
    fn new() -> Option<Self> {
        let mfn = memory::alloc_frames(BUFFER_ORDER, None).ok()?;
        Some(Self { mfn, lost: false })
    }

    /// Reads blocks of a disk that nobody uses yet, and waits for them.
    fn read(
        &mut self,
        entry: &BlockEntry,
        block: u64,
        block_size: u32,
        bytes: &mut [u8],
    ) -> core::result::Result<(), GptError> {
        let room = PAGE_SIZE << BUFFER_ORDER;
        let unit = u64::from(block_size / 512);
        for (n, part) in (0u64..).zip(bytes.chunks_mut(room)) {
            let skipped = n * (room / block_size as usize) as u64;
            let sector = block
                .checked_add(skipped)
                .and_then(|block| block.checked_mul(unit))
                .ok_or(GptError::Read)?;
            self.read_once(entry, sector, part)?;
        }
        Ok(())
    }

    fn read_once(
        &mut self,
        entry: &BlockEntry,
        sector: u64,
        bytes: &mut [u8],
    ) -> core::result::Result<(), GptError> {
        if self.lost {
            return Err(GptError::Read);
        }
        // Page by page, as the least that every device takes.
        let unit = PAGE_SIZE.max(entry.device.info().logical_block_size as usize);
        let start: MachineAddress = self.mfn.address();
        for (n, part) in bytes.chunks_mut(unit).enumerate() {
            let address = start.0 + (n * unit) as u64;
            let segment = Segment {
                address,
                length: part.len() as u32,
            };
            let request = BlockRequest {
                operation: BlockOperation::Read {
                    sector: sector + (n * unit / 512) as u64,
                },
                segments: &[segment],
                tag: OURS,
            };
            entry
                .device
                .submit(0, &request)
                .map_err(|_| GptError::Read)?;
            entry.device.kick(0);
            let status = wait(entry);
            self.lost = status.is_none();
            if status != Some(BlockStatus::Ok) {
                return Err(GptError::Read);
            }
            for (page, piece) in (0u64..).zip(part.chunks_mut(PAGE_SIZE)) {
                let mfn = MachineAddress(address + page * PAGE_SIZE as u64).frame();
                Host.frame(mfn).ok_or(GptError::Read)?.read(0, piece);
            }
        }
        Ok(())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if !self.lost {
            memory::free_frames(self.mfn, BUFFER_ORDER);
        }
    }
}

/// Waits for the only request at a disk.
fn wait(entry: &BlockEntry) -> Option<BlockStatus> {
    let deadline = time::now().saturating_add(READ_TIMEOUT);
    let mut status = None;
    while status.is_none() && time::now() < deadline && !entry.device.is_broken() {
        entry
            .device
            .complete(0, 1, &mut |completion| status = Some(completion.status));
        core::hint::spin_loop();
    }
    status
}

/// Gives Dom0 its disks: those of `dom0_disk=`, or all.
pub fn give_dom0_disks() {
    if options().xenstore == Some(false) {
        return;
    }
    let all = || {
        bases()
            .iter()
            .enumerate()
            .map(|(n, base)| (vdisk::device_name(n), Spec::whole(base.name())))
            .collect()
    };
    let disks = options().dom0_disks.clone().unwrap_or_else(all);
    for (name, spec) in disks {
        let Some(number) = vdisk::device_number(&name) else {
            continue;
        };
        let part = match resolve(&spec) {
            Ok((_, part)) => part,
            Err(why) => {
                log::error!("Dom0's disk {name} ({spec}): {why}");
                continue;
            }
        };
        let made = xenbus::create_device(
            "vbd",
            DomainId::DOM0,
            number,
            &[
                ("params", &spec.to_string()),
                ("type", "phy"),
                ("mode", if part.read_only { "r" } else { "w" }),
                ("dev", &name),
                ("device-type", "disk"),
                ("removable", "0"),
            ],
            &[
                ("virtual-device", &number.to_string()),
                ("device-type", "disk"),
            ],
        );
        match made {
            Ok(()) => printk!(
                "Dom0: {name} is {spec}, {} MiB{}",
                part.sectors >> 11,
                if part.read_only { ", read-only" } else { "" }
            ),
            Err(error) => log::error!("Dom0's disk {name}: {error:?}"),
        }
    }
}
