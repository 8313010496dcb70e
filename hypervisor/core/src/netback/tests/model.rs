//! A machine whose frames are counted, a frontend that follows netfront's rules, and a NIC.

use std::boxed::Box;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::vec;
use std::vec::Vec;

use alloc::sync::Arc;
use overcast_drivers::Segment;
use overcast_drivers::net::*;
use xen_abi::grant_table::*;
use xen_abi::io_netif::*;
use zerocopy::{FromBytes, IntoBytes};

use super::super::*;
use crate::addr::{GuestVirtual, Mfn, PAGE_SIZE};
use crate::event::ConsumerId;
use crate::grant::{GrantLimits, GrantTable, HostAddress};
use crate::ids::{DomainId, EventPort, GrantRef};
use crate::machine::mock::MockMachine;
use crate::machine::{Frame, Memory};
use crate::switch::MacAddress;

/// Frames of a domain: two rings a queue, then buffers.
pub const DOMAIN_FRAMES: u64 = 600;

#[derive(Default)]
struct Inner {
    tables: BTreeMap<u16, Arc<GrantTable>>,
    /// References and types of each domain's frames.
    counts: BTreeMap<u64, (u32, u32)>,
    free: Vec<u64>,
    raised: Vec<ConsumerId>,
    notified: Vec<EventPort>,
    timers: Vec<(ConsumerId, u64)>,
}

pub struct Host {
    machine: MockMachine,
    inner: Mutex<Inner>,
    pub now: AtomicU64,
    domains: u16,
}

impl Host {
    pub fn new(domains: u16) -> &'static Self {
        let frames = u64::from(domains + 1) * DOMAIN_FRAMES;
        let host = Box::leak(Box::new(Self {
            machine: MockMachine::new(frames as usize + 2048),
            inner: Mutex::default(),
            now: AtomicU64::new(1),
            domains,
        }));
        host.inner.lock().unwrap().free = (frames..frames + 2048).rev().collect();
        for domain in 1..=domains {
            let table = GrantTable::new(host, DomainId(domain), GrantLimits::default()).unwrap();
            host.inner.lock().unwrap().tables.insert(domain, table);
        }
        host
    }

    pub fn table(&self, domain: u16) -> Arc<GrantTable> {
        self.inner.lock().unwrap().tables[&domain].clone()
    }

    fn owner(&self, mfn: Mfn) -> Option<u16> {
        let domain = (mfn.0 / DOMAIN_FRAMES) as u16;
        (1..=self.domains).contains(&domain).then_some(domain)
    }

    pub fn free_frames(&self) -> usize {
        self.inner.lock().unwrap().free.len()
    }

    pub fn references(&self) -> u32 {
        let inner = self.inner.lock().unwrap();
        inner
            .counts
            .values()
            .map(|(refs, types)| refs + types)
            .sum()
    }

    pub fn take_raised(&self) -> Vec<ConsumerId> {
        let mut inner = self.inner.lock().unwrap();
        let now = self.now.load(Ordering::Relaxed);
        let mut raised = core::mem::take(&mut inner.raised);
        inner.timers.retain(|&(task, at)| {
            if at <= now {
                raised.push(task);
            }
            at > now
        });
        raised
    }

    pub fn was_notified(&self, port: EventPort) -> bool {
        let mut inner = self.inner.lock().unwrap();
        let before = inner.notified.len();
        inner.notified.retain(|&p| p != port);
        inner.notified.len() != before
    }

    pub fn read(&self, segment: Segment) -> Vec<u8> {
        let mut out = vec![0; segment.length as usize];
        for (n, byte) in out.iter_mut().enumerate() {
            let at = segment.address + n as u64;
            *byte = self
                .frame(Mfn(at / PAGE_SIZE as u64))
                .unwrap()
                .load_u8((at % PAGE_SIZE as u64) as usize);
        }
        out
    }
}

impl Memory for Host {
    fn frame(&self, mfn: Mfn) -> Option<&Frame> {
        self.machine.frame(mfn)
    }
    fn end_mfn(&self) -> Mfn {
        self.machine.end_mfn()
    }
}

impl GrantHost for Host {
    fn grant_table(&self, domain: DomainId) -> Option<Arc<GrantTable>> {
        self.inner.lock().unwrap().tables.get(&domain.0).cloned()
    }
    fn get_page(&self, owner: DomainId, mfn: Mfn) -> bool {
        let is_owner = self.owner(mfn) == Some(owner.0);
        if is_owner {
            self.inner
                .lock()
                .unwrap()
                .counts
                .entry(mfn.0)
                .or_default()
                .0 += 1;
        }
        is_owner
    }
    fn put_page(&self, mfn: Mfn) {
        let mut inner = self.inner.lock().unwrap();
        let count = &mut inner.counts.get_mut(&mfn.0).unwrap().0;
        *count = count.checked_sub(1).expect("one put too many");
    }
    fn get_writable_type(&self, mfn: Mfn) -> bool {
        self.inner.lock().unwrap().counts.get_mut(&mfn.0).unwrap().1 += 1;
        true
    }
    fn put_writable_type(&self, mfn: Mfn) {
        let mut inner = self.inner.lock().unwrap();
        let count = &mut inner.counts.get_mut(&mfn.0).unwrap().1;
        *count = count.checked_sub(1).expect("one type put too many");
    }
    fn get_page_of_anyone(&self, _mfn: Mfn) -> Option<DomainId> {
        None
    }
    fn create_host_mapping(&self, _: HostAddress, _: Mfn, _: u32) -> Result<(), GrantError> {
        Err(GrantError::General)
    }
    fn destroy_host_mapping(
        &self,
        _: HostAddress,
        _: Mfn,
        _: u32,
        _: Option<GuestVirtual>,
    ) -> Result<(), GrantError> {
        Err(GrantError::General)
    }
    fn flush_tlb(&self, _domain: DomainId) {}
    fn alloc_table_frame(&self, _domain: DomainId) -> Option<Mfn> {
        self.allocate_frame()
    }
    fn free_table_frame(&self, _domain: DomainId, mfn: Mfn) {
        self.free_frame(mfn);
    }
    fn share_table_frame(&self, _domain: DomainId, _mfn: Mfn) {}
    fn unshare_table_frame(&self, _domain: DomainId, _mfn: Mfn) -> bool {
        true
    }
}

impl NetbackHost for Host {
    fn notify(&self, port: EventPort) {
        self.inner.lock().unwrap().notified.push(port);
    }
    fn raise(&self, task: ConsumerId) {
        self.inner.lock().unwrap().raised.push(task);
    }
    fn raise_at(&self, task: ConsumerId, deadline: u64) {
        let mut inner = self.inner.lock().unwrap();
        inner.timers.retain(|&(other, _)| other != task);
        inner.timers.push((task, deadline));
    }
    fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }
    fn allocate_frame(&self) -> Option<Mfn> {
        self.inner.lock().unwrap().free.pop().map(Mfn)
    }
    fn free_frame(&self, mfn: Mfn) {
        let mut inner = self.inner.lock().unwrap();
        assert!(!inner.free.contains(&mfn.0));
        inner.free.push(mfn.0);
    }
}

/// A frame as it was received or sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Got {
    pub bytes: Vec<u8>,
    pub blank: bool,
    pub valid: bool,
    /// Size and whether over IPv6.
    pub gso: Option<(u16, bool)>,
}

/// A frame to send by a frontend.
#[derive(Clone, Debug, Default)]
pub struct Send {
    pub bytes: Vec<u8>,
    /// Where it is cut into requests.
    pub cuts: Vec<usize>,
    pub blank: bool,
    pub gso: Option<(u16, bool)>,
}

/// One queue of a frontend.
pub struct Front {
    host: &'static Host,
    pub domain: u16,
    tx_page: Mfn,
    rx_page: Mfn,
    pub config: QueueConfig,
    pub tx_prod: u32,
    tx_cons: u32,
    pub rx_prod: u32,
    rx_cons: u32,
    /// Free references of buffers, each of which has a frame.
    free: Vec<u32>,
    /// References of outstanding requests to transmit, by id.
    sent: BTreeMap<u16, u32>,
    extras: usize,
    /// References of requests to receive, by index.
    posted: VecDeque<(u16, u32)>,
}

fn field(page: &Frame, at: usize) -> u32 {
    page.load_u32(at)
}

impl Front {
    /// Queue `queue` of a domain's, with up to `buffers` frames.
    pub fn new(host: &'static Host, domain: u16, queue: u32, buffers: u32, start: u32) -> Self {
        let first = u64::from(domain) * DOMAIN_FRAMES + u64::from(queue) * 300;
        let base = 16 + queue * 240;
        let task = u32::from(domain) * 16 + queue;
        let front = Self {
            host,
            domain,
            tx_page: Mfn(first),
            rx_page: Mfn(first + 1),
            config: QueueConfig {
                tx_ref: GrantRef(base),
                rx_ref: GrantRef(base + 1),
                tx_port: EventPort(task * 2),
                rx_port: EventPort(task * 2 + 1),
                task: ConsumerId(task),
            },
            tx_prod: start,
            tx_cons: start,
            rx_prod: start,
            rx_cons: start,
            free: (2..2 + buffers).map(|n| base + n).rev().collect(),
            sent: BTreeMap::new(),
            extras: 0,
            posted: VecDeque::new(),
        };
        for (page, reference) in [(front.tx_page, base), (front.rx_page, base + 1)] {
            let frame = host.frame(page).unwrap();
            frame.store_u32(0, start);
            frame.store_u32(8, start);
            frame.store_u32(4, start.wrapping_add(1));
            frame.store_u32(12, start.wrapping_add(1));
            front.grant(reference, page, false);
        }
        front
    }

    fn entry(&self, reference: u32) -> (&Frame, usize) {
        let mfn = self
            .host
            .table(self.domain)
            .shared_frame(reference / 512)
            .unwrap();
        (self.host.frame(mfn).unwrap(), reference as usize % 512)
    }

    pub fn grant(&self, reference: u32, page: Mfn, readonly: bool) {
        let (frame, at) = self.entry(reference);
        let flags = GTF_PERMIT_ACCESS | if readonly { GTF_READONLY } else { 0 };
        frame.store(
            at,
            page.0 << 32 | u64::from(DomainId::XEN.0) << 16 | u64::from(flags),
        );
    }

    /// Takes a grant back; nobody may use it.
    fn revoke(&self, reference: u32) {
        let (frame, at) = self.entry(reference);
        let word = frame.load(at);
        assert_eq!(
            word as u16 & (GTF_READING | GTF_WRITING),
            0,
            "grant still in use"
        );
        frame.store(at, 0);
    }

    fn buffer(&self, reference: u32) -> Mfn {
        let queue = (reference - 16) / 240;
        let n = u64::from(reference - 16 - queue * 240);
        Mfn(u64::from(self.domain) * DOMAIN_FRAMES + u64::from(queue) * 300 + n)
    }

    pub fn tx_page(&self) -> &'static Frame {
        self.host.frame(self.tx_page).unwrap()
    }

    pub fn rx_page(&self) -> &'static Frame {
        self.host.frame(self.rx_page).unwrap()
    }

    pub fn put_tx(&mut self, bytes: &[u8]) {
        self.tx_page()
            .write(64 + self.tx_prod as usize % 256 * 12, bytes);
        self.tx_prod = self.tx_prod.wrapping_add(1);
    }

    /// Shows new requests; `true` if the backend wants to be told.
    fn push(page: &Frame, new: u32) -> bool {
        let old = field(page, 0);
        page.store_u32(0, new);
        let event = field(page, 4);
        new.wrapping_sub(event) < new.wrapping_sub(old)
    }

    pub fn push_tx(&self) -> bool {
        Self::push(self.tx_page(), self.tx_prod)
    }

    /// How many requests to transmit there is room and memory for.
    pub fn tx_room(&self) -> usize {
        let used = self.tx_prod.wrapping_sub(self.tx_cons) as usize;
        (256 - used).min(self.free.len())
    }

    /// Queues a frame; `None` if there is no room. `true` if the backend is to be told.
    pub fn send(&mut self, send: &Send) -> Option<bool> {
        let mut pieces = Vec::new();
        let mut at = 0;
        for &cut in send.cuts.iter().chain([&send.bytes.len()]) {
            while at < cut {
                let end = cut.min(at + PAGE_SIZE);
                pieces.push(&send.bytes[at..end]);
                at = end;
            }
        }
        if pieces.len() + 1 > self.tx_room() {
            return None;
        }
        for (n, piece) in pieces.iter().enumerate() {
            let reference = self.free.pop().unwrap();
            let page = self.buffer(reference);
            let offset = (n * 13) % (PAGE_SIZE - piece.len() + 1);
            self.host.frame(page).unwrap().write(offset, piece);
            self.grant(reference, page, true);
            let id = reference as u16;
            assert!(self.sent.insert(id, reference).is_none());
            let mut flags = 0;
            if n + 1 < pieces.len() {
                flags |= NETTXF_MORE_DATA;
            }
            let mut size = piece.len();
            if n == 0 {
                size = send.bytes.len();
                if send.blank {
                    flags |= NETTXF_CSUM_BLANK | NETTXF_DATA_VALIDATED;
                }
                if send.gso.is_some() {
                    flags |= NETTXF_EXTRA_INFO;
                }
            }
            let request = NetifTxRequest {
                gref: reference,
                offset: offset as u16,
                flags,
                id,
                size: size as u16,
            };
            self.put_tx(request.as_bytes());
            if let Some((size, v6)) = send.gso
                && n == 0
            {
                let extra = NetifExtraInfo {
                    r#type: XEN_NETIF_EXTRA_TYPE_GSO,
                    flags: 0,
                    u: [size, 1 + u16::from(v6), 0],
                };
                self.put_tx(extra.as_bytes());
                self.extras += 1;
            }
        }
        Some(self.push_tx())
    }

    /// Takes the answers to what was sent; gives their statuses.
    pub fn take_answers(&mut self) -> Vec<i16> {
        let page = self.tx_page();
        let mut out = Vec::new();
        let prod = field(page, 8);
        assert!(prod.wrapping_sub(self.tx_cons) <= self.tx_prod.wrapping_sub(self.tx_cons));
        while self.tx_cons != prod {
            let mut bytes = [0; 4];
            page.read(64 + self.tx_cons as usize % 256 * 12, &mut bytes);
            let response = NetifTxResponse::read_from_bytes(&bytes).unwrap();
            self.tx_cons = self.tx_cons.wrapping_add(1);
            if response.status == NETIF_RSP_NULL {
                self.extras -= 1;
                continue;
            }
            out.push(response.status);
            let reference = self.sent.remove(&response.id).expect("answer to nothing");
            if self.entry(reference).0.load(self.entry(reference).1) != 0 {
                self.revoke(reference);
            }
            self.free.push(reference);
        }
        page.store_u32(12, prod.wrapping_add(1));
        out
    }

    pub fn outstanding(&self) -> usize {
        self.sent.len() + self.extras
    }

    /// Posts buffers to receive into; `true` if the backend is to be told.
    pub fn post(&mut self, count: usize) -> bool {
        for _ in 0..count {
            if self.posted.len() == 256 {
                break;
            }
            let Some(reference) = self.free.pop() else {
                break;
            };
            self.post_again(reference);
        }
        Self::push(self.rx_page(), self.rx_prod)
    }

    /// How many buffers wait for something to receive.
    pub fn posted(&self) -> usize {
        self.posted.len()
    }

    fn post_again(&mut self, reference: u32) {
        let page = self.buffer(reference);
        self.host.frame(page).unwrap().write(0, &[0xcc; PAGE_SIZE]);
        self.grant(reference, page, false);
        let id = (self.rx_prod % 256) as u16;
        let request = NetifRxRequest {
            id,
            pad: 0,
            gref: reference,
        };
        self.rx_page()
            .write(64 + self.rx_prod as usize % 256 * 8, request.as_bytes());
        self.posted.push_back((id, reference));
        self.rx_prod = self.rx_prod.wrapping_add(1);
    }

    /// Takes what was received, as netfront does.
    pub fn take_received(&mut self) -> Vec<Got> {
        let page = self.rx_page();
        let prod = field(page, 8);
        let mut out = Vec::new();
        let next = |front: &mut Self| {
            assert_ne!(front.rx_cons, prod, "a frame does not end");
            let mut bytes = [0; 8];
            page.read(64 + front.rx_cons as usize % 256 * 8, &mut bytes);
            front.rx_cons = front.rx_cons.wrapping_add(1);
            (bytes, front.posted.pop_front().unwrap())
        };
        while self.rx_cons != prod {
            let mut got = Got {
                bytes: Vec::new(),
                blank: false,
                valid: false,
                gso: None,
            };
            let mut slots = 0;
            loop {
                let (bytes, (id, reference)) = next(self);
                let response = NetifRxResponse::read_from_bytes(&bytes).unwrap();
                assert_eq!(response.id, id);
                assert!(response.status > 0);
                let (offset, length) = (response.offset as usize, response.status as usize);
                self.revoke(reference);
                let mut data = vec![0; length];
                let buffer = self.host.frame(self.buffer(reference)).unwrap();
                buffer.read(offset, &mut data);
                got.bytes.extend(data);
                self.free.push(reference);
                if slots == 0 {
                    got.blank = response.flags & NETRXF_CSUM_BLANK != 0;
                    got.valid = response.flags & NETRXF_DATA_VALIDATED != 0;
                    if response.flags & NETRXF_EXTRA_INFO != 0 {
                        let (bytes, (_, reference)) = next(self);
                        let extra = NetifExtraInfo::read_from_bytes(&bytes).unwrap();
                        assert_eq!((extra.r#type, extra.flags), (XEN_NETIF_EXTRA_TYPE_GSO, 0));
                        got.gso = Some((extra.u[0], extra.u[1] == 2));
                        self.revoke(reference);
                        self.free.push(reference);
                    }
                }
                slots += 1;
                if response.flags & NETRXF_MORE_DATA == 0 {
                    break;
                }
            }
            assert!(slots <= 18);
            out.push(got);
        }
        page.store_u32(12, prod.wrapping_add(1));
        out
    }
}

/// A frame that the NIC has to send.
struct Under {
    segments: Vec<Segment>,
    offload: Offload,
    tag: u64,
}

/// A NIC with one queue.
pub struct Nic {
    host: &'static Host,
    pub info: Mutex<NetInfo>,
    pub capacity: usize,
    under_way: Mutex<VecDeque<Under>>,
    done: Mutex<Vec<u64>>,
    pub received: Mutex<VecDeque<(Vec<u8>, Offload)>>,
    buffer: Vec<Mfn>,
    pub changed: AtomicBool,
}

impl Nic {
    pub fn new(host: &'static Host, info: NetInfo, capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            host,
            info: Mutex::new(info),
            capacity,
            under_way: Mutex::default(),
            done: Mutex::default(),
            received: Mutex::default(),
            buffer: (0..20).map(|_| host.allocate_frame().unwrap()).collect(),
            changed: AtomicBool::new(false),
        })
    }

    /// Sends what it has, reading memory only now.
    pub fn send_out(&self, most: usize) -> Vec<(Vec<u8>, Offload)> {
        let mut out = Vec::new();
        for _ in 0..most {
            let Some(frame) = self.under_way.lock().unwrap().pop_front() else {
                break;
            };
            let mut bytes = Vec::new();
            for segment in frame.segments {
                let mfn = Mfn(segment.address / PAGE_SIZE as u64);
                if self.host.owner(mfn).is_some() {
                    let inner = self.host.inner.lock().unwrap();
                    assert!(inner.counts[&mfn.0].0 > 0, "nobody holds what is sent");
                }
                bytes.extend(self.host.read(segment));
            }
            out.push((bytes, frame.offload));
            self.done.lock().unwrap().push(frame.tag);
        }
        out
    }
}

impl Net for Nic {
    fn info(&self) -> NetInfo {
        self.info.lock().unwrap().clone()
    }
    fn queues(&self) -> usize {
        1
    }
    fn transmit(&self, _queue: usize, frame: &TransmitFrame<'_>) -> Result<(), TransmitError> {
        let info = self.info();
        let cut = frame.offload.segmentation.is_some_and(|s| match s.kind {
            SegmentationKind::Tcp4 => !info.transmit_tcp4,
            SegmentationKind::Tcp6 => !info.transmit_tcp6,
        });
        let sum = frame.offload.checksum.is_some() && !info.transmit_checksum;
        assert!(!cut && !sum && frame.segments.len() <= info.max_segments);
        assert!(frame.segments.iter().all(|segment| segment.length != 0));
        let mut under_way = self.under_way.lock().unwrap();
        if under_way.len() + self.done.lock().unwrap().len() >= self.capacity {
            return Err(TransmitError::Full);
        }
        under_way.push_back(Under {
            segments: frame.segments.to_vec(),
            offload: frame.offload,
            tag: frame.tag,
        });
        Ok(())
    }
    fn kick(&self, _queue: usize) {}
    fn reclaim(&self, _queue: usize, budget: usize, done: &mut dyn FnMut(u64)) -> usize {
        let mut tags = self.done.lock().unwrap();
        let count = budget.min(tags.len());
        tags.drain(..count).for_each(done);
        count
    }
    fn receive(
        &self,
        _queue: usize,
        budget: usize,
        sink: &mut dyn FnMut(&ReceivedFrame<'_>),
    ) -> usize {
        let mut received = self.received.lock().unwrap();
        for count in 0..budget {
            let Some((bytes, offload)) = received.pop_front() else {
                return count;
            };
            // Buffers of odd sizes, at odd places.
            let mut segments = Vec::new();
            for (part, &mfn) in bytes.chunks(3900).zip(&self.buffer) {
                self.host.frame(mfn).unwrap().write(12, part);
                segments.push(Segment {
                    address: mfn.address().get() + 12,
                    length: part.len() as u32,
                });
            }
            sink(&ReceivedFrame {
                segments: &segments,
                length: bytes.len(),
                offload,
            });
        }
        budget
    }
    fn arm(&self, _queue: usize) -> bool {
        !self.received.lock().unwrap().is_empty() || !self.done.lock().unwrap().is_empty()
    }
    fn take_change(&self) -> bool {
        self.changed.swap(false, Ordering::AcqRel)
    }
    fn is_broken(&self) -> bool {
        false
    }
}

/// All that is joined: vifs with one queue each, and perhaps a NIC.
pub struct Net1 {
    pub host: &'static Host,
    pub fabric: Arc<Fabric<Host>>,
    pub nic: Option<Arc<Nic>>,
    pub fronts: Vec<Front>,
    pub vifs: Vec<Arc<Vif<Host>>>,
    /// Frames and references before any vif was connected.
    pub base: usize,
}

pub const NIC_TASK: ConsumerId = ConsumerId(1);

pub fn vif_mac(n: usize) -> MacAddress {
    MacAddress([0, 0x16, 0x3e, 0, 0, n as u8])
}

pub fn all_features() -> Features {
    Features {
        scatter: true,
        tcp4: true,
        tcp6: true,
        checksum4: true,
        checksum6: true,
    }
}

pub fn full_info() -> NetInfo {
    NetInfo {
        mac: [2, 0, 0, 0, 0, 9],
        mtu: 1500,
        link: true,
        transmit_checksum: true,
        transmit_tcp4: true,
        transmit_tcp6: true,
        max_segments: 20,
    }
}

impl Net1 {
    pub fn new(features: &[Features], nic: Option<(NetInfo, usize)>, start: u32) -> Self {
        let host = Host::new(features.len() as u16);
        let fabric = Fabric::new(host, 99).unwrap();
        let nic = nic.map(|(info, capacity)| {
            let nic = Nic::new(host, info, capacity);
            let uplink = Uplink::new(host, nic.clone()).unwrap();
            uplink.set_task(0, NIC_TASK);
            fabric.set_uplink(uplink).unwrap();
            nic
        });
        let mut net = Self {
            host,
            fabric,
            nic,
            fronts: Vec::new(),
            vifs: Vec::new(),
            base: host.free_frames(),
        };
        for (n, &features) in features.iter().enumerate() {
            let front = Front::new(host, n as u16 + 1, 0, 230, start);
            let vif = net.connect(&front, n, features).unwrap();
            net.fronts.push(front);
            net.vifs.push(vif);
        }
        net
    }

    pub fn connect(
        &self,
        front: &Front,
        n: usize,
        features: Features,
    ) -> crate::error::Result<Arc<Vif<Host>>> {
        Vif::connect(
            self.host,
            &self.fabric,
            &VifConfig {
                domain: DomainId(front.domain),
                device: 0,
                mac: vif_mac(n),
                grants: &self.host.table(front.domain),
                features,
                multicast_control: false,
                spoofchk: false,
                rate: None,
                queues: &[front.config],
                control: ConsumerId(5000 + n as u32),
            },
        )
    }

    /// Runs the tasks that were raised, until there are none. `false` if they do not end.
    pub fn settle(&self) -> bool {
        for _ in 0..10_000 {
            let raised = self.host.take_raised();
            if raised.is_empty() {
                return true;
            }
            for task in raised {
                self.run(task);
            }
        }
        false
    }

    pub fn run(&self, task: ConsumerId) {
        if task == NIC_TASK {
            if let Some(uplink) = self.fabric.uplink()
                && uplink.run(0, &self.fabric).more
            {
                self.host.raise(task);
            }
        } else if let Some(vif) = self.vifs.get((task.0 / 16).wrapping_sub(1) as usize)
            && vif.run((task.0 % 16) as u16)
        {
            self.host.raise(task);
        }
    }

    /// Sends a frame from a vif and has it done.
    pub fn send(&mut self, n: usize, send: &Send) {
        if self.fronts[n].send(send).expect("no room") {
            self.host.raise(self.fronts[n].config.task);
        }
        assert!(self.settle());
    }

    /// Has the NIC receive a frame.
    pub fn arrive(&self, bytes: Vec<u8>, offload: Offload) {
        self.nic
            .as_ref()
            .unwrap()
            .received
            .lock()
            .unwrap()
            .push_back((bytes, offload));
        self.host.raise(NIC_TASK);
        assert!(self.settle());
    }

    pub fn post(&mut self, n: usize, count: usize) {
        if self.fronts[n].post(count) {
            self.host.raise(self.fronts[n].config.task);
        }
        assert!(self.settle());
    }

    /// Has the NIC send what it has, and take notice of it.
    pub fn send_out(&self) -> Vec<(Vec<u8>, Offload)> {
        let mut out = Vec::new();
        loop {
            let now = self.nic.as_ref().unwrap().send_out(usize::MAX);
            self.host.raise(NIC_TASK);
            assert!(self.settle());
            if now.is_empty() {
                return out;
            }
            out.extend(now);
        }
    }

    /// Closes all; nothing may be left.
    pub fn finish(mut self) {
        if self.nic.is_some() {
            self.send_out();
        }
        for vif in &self.vifs {
            vif.close();
        }
        if self.nic.is_some() {
            self.send_out();
        }
        self.vifs.clear();
        assert_eq!(self.host.references(), 0, "references are left");
        assert_eq!(self.host.free_frames(), self.base, "memory is left");
    }
}
