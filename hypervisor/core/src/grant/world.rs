//! For tests: domains with frames that are counted, and page-table entries.
#![cfg_attr(not(test), allow(dead_code))]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::vec::Vec;

use alloc::sync::Arc;

use super::*;
use crate::machine::Frame;
use crate::machine::mock::MockMachine;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub owner: u16,
    pub refs: u32,
    pub types: u32,
    /// A page table: nobody may have it writable.
    pub is_table: bool,
}

#[derive(Default)]
struct Inner {
    tables: BTreeMap<u16, Arc<GrantTable>>,
    pages: BTreeMap<u64, Page>,
    /// By domain and address: frame, and whether writable.
    entries: BTreeMap<(u16, u64), (u64, bool)>,
    free: Vec<u64>,
    shared: BTreeSet<u64>,
    /// Table frames that somebody has mapped.
    held: BTreeSet<u64>,
}

pub struct World {
    machine: MockMachine,
    inner: Mutex<Inner>,
}

/// Addresses from here on have no L1 entry.
pub const NOT_MAPPABLE: u64 = 0xdead_0000;
/// The first frame of a domain's; it has 8.
pub fn first_frame(domain: u16) -> u64 {
    u64::from(domain) * 8
}

impl World {
    /// Domains 1 to `domains`, with eight frames each.
    pub fn new(domains: u16, limits: GrantLimits) -> Self {
        let frames = u64::from(domains + 1) * 8;
        let world = Self {
            machine: MockMachine::new(frames as usize + 256),
            inner: Mutex::default(),
        };
        world.inner.lock().unwrap().free = (frames..frames + 256).rev().collect();
        for domain in 1..=domains {
            let mut inner = world.inner.lock().unwrap();
            for mfn in first_frame(domain)..first_frame(domain) + 8 {
                inner.pages.insert(
                    mfn,
                    Page {
                        owner: domain,
                        ..Page::default()
                    },
                );
            }
            drop(inner);
            let table = GrantTable::new(&world.cpu(domain), DomainId(domain), limits).unwrap();
            world.inner.lock().unwrap().tables.insert(domain, table);
        }
        world
    }

    pub fn cpu(&self, domain: u16) -> Cpu<'_> {
        Cpu {
            world: self,
            domain,
        }
    }

    pub fn table(&self, domain: u16) -> Arc<GrantTable> {
        self.inner.lock().unwrap().tables[&domain].clone()
    }

    pub fn page(&self, mfn: u64) -> Page {
        self.inner.lock().unwrap().pages[&mfn]
    }

    pub fn set_is_table(&self, mfn: u64, is_table: bool) {
        self.inner
            .lock()
            .unwrap()
            .pages
            .get_mut(&mfn)
            .unwrap()
            .is_table = is_table;
    }

    pub fn hold_table_frame(&self, mfn: Mfn, hold: bool) {
        let mut inner = self.inner.lock().unwrap();
        if hold {
            inner.held.insert(mfn.0);
        } else {
            inner.held.remove(&mfn.0);
        }
    }

    pub fn set_free_frames(&self, count: usize) -> Vec<u64> {
        let mut inner = self.inner.lock().unwrap();
        inner.free.split_off(count)
    }

    pub fn free_frames(&self) -> usize {
        self.inner.lock().unwrap().free.len()
    }

    pub fn entry(&self, domain: u16, address: u64) -> Option<(u64, bool)> {
        let inner = self.inner.lock().unwrap();
        inner.entries.get(&(domain, address)).copied()
    }

    pub fn entries(&self) -> BTreeMap<(u16, u64), (u64, bool)> {
        self.inner.lock().unwrap().entries.clone()
    }

    /// The guest overwrites an entry itself, or its page tables end.
    pub fn zap(&self, domain: u16, address: u64) {
        let old = self
            .inner
            .lock()
            .unwrap()
            .entries
            .remove(&(domain, address));
        self.put_entry(old);
    }

    fn put_entry(&self, entry: Option<(u64, bool)>) {
        if let Some((mfn, writable)) = entry {
            let cpu = self.cpu(0);
            if writable {
                cpu.put_writable_type(Mfn(mfn));
            }
            cpu.put_page(Mfn(mfn));
        }
    }

    /// All references to domains' frames.
    pub fn references(&self) -> (u32, u32) {
        let inner = self.inner.lock().unwrap();
        inner
            .pages
            .values()
            .fold((0, 0), |(r, t), page| (r + page.refs, t + page.types))
    }

    /// Writes an entry of version 1.
    pub fn grant_v1(&self, domain: u16, reference: u32, flags: u16, to: u16, frame: u64) {
        let mfn = self.table(domain).shared_frame(reference / 512).unwrap();
        self.machine.frame(mfn).unwrap().store(
            reference as usize % 512,
            frame << 32 | u64::from(to) << 16 | u64::from(flags),
        );
    }

    /// Writes an entry of version 2: its first word's upper half and second word as given.
    pub fn grant_v2(
        &self,
        domain: u16,
        reference: u32,
        flags: u16,
        to: u16,
        upper: u32,
        second: u64,
    ) {
        let mfn = self.table(domain).shared_frame(reference / 256).unwrap();
        let frame = self.machine.frame(mfn).unwrap();
        let at = reference as usize % 256 * 2;
        frame.store(at + 1, second);
        frame.store(
            at,
            u64::from(upper) << 32 | u64::from(to) << 16 | u64::from(flags),
        );
    }

    /// `GTF_reading` and `GTF_writing` of an entry.
    pub fn status(&self, domain: u16, reference: u32) -> u16 {
        let table = self.table(domain);
        let cpu = self.cpu(domain);
        let state = table.state.read();
        state
            .entry(&cpu, GrantRef(reference))
            .unwrap()
            .status_bits()
            & (GTF_READING | GTF_WRITING)
    }

    pub fn pins(&self, domain: u16, reference: u32) -> u32 {
        let table = self.table(domain);
        let state = table.state.read();
        state.active(GrantRef(reference)).unwrap().lock().pins.raw()
    }

    /// Whether nothing is in use any more in any table.
    pub fn assert_idle(&self) {
        let tables: Vec<_> = self
            .inner
            .lock()
            .unwrap()
            .tables
            .values()
            .cloned()
            .collect();
        for table in tables {
            let state = table.state.read();
            assert_eq!(table.v2_ops.load(Ordering::SeqCst), 0);
            for reference in 0..state.entries() {
                let active = state.active(GrantRef(reference)).unwrap().lock();
                assert!(active.pins.is_empty(), "{table:?} {reference} {active:?}");
            }
        }
    }
}

pub struct Cpu<'w> {
    pub world: &'w World,
    pub domain: u16,
}

impl Memory for Cpu<'_> {
    fn frame(&self, mfn: Mfn) -> Option<&Frame> {
        self.world.machine.frame(mfn)
    }
    fn end_mfn(&self) -> Mfn {
        self.world.machine.end_mfn()
    }
}

fn address(at: HostAddress) -> core::result::Result<u64, GrantError> {
    let address = match at {
        HostAddress::Linear(address) => address.0,
        HostAddress::Entry(address) if address.0.is_multiple_of(8) => address.0,
        HostAddress::Entry(_) => return Err(GrantError::General),
    };
    if address >= NOT_MAPPABLE {
        return Err(GrantError::General);
    }
    Ok(address)
}

impl GrantHost for Cpu<'_> {
    fn grant_table(&self, domain: DomainId) -> Option<Arc<GrantTable>> {
        let inner = self.world.inner.lock().unwrap();
        inner.tables.get(&domain.0).cloned()
    }

    fn get_page(&self, owner: DomainId, mfn: Mfn) -> bool {
        let mut inner = self.world.inner.lock().unwrap();
        match inner.pages.get_mut(&mfn.0) {
            Some(page) if page.owner == owner.0 => {
                page.refs += 1;
                true
            }
            _ => false,
        }
    }

    fn put_page(&self, mfn: Mfn) {
        let mut inner = self.world.inner.lock().unwrap();
        let page = inner.pages.get_mut(&mfn.0).unwrap();
        page.refs = page.refs.checked_sub(1).expect("one put too many");
    }

    fn get_writable_type(&self, mfn: Mfn) -> bool {
        let mut inner = self.world.inner.lock().unwrap();
        let page = inner.pages.get_mut(&mfn.0).unwrap();
        assert!(page.refs > 0);
        if page.is_table {
            return false;
        }
        page.types += 1;
        true
    }

    fn put_writable_type(&self, mfn: Mfn) {
        let mut inner = self.world.inner.lock().unwrap();
        let page = inner.pages.get_mut(&mfn.0).unwrap();
        page.types = page.types.checked_sub(1).expect("one type put too many");
    }

    fn get_page_of_anyone(&self, mfn: Mfn) -> Option<DomainId> {
        let mut inner = self.world.inner.lock().unwrap();
        let page = inner.pages.get_mut(&mfn.0)?;
        page.refs += 1;
        Some(DomainId(page.owner))
    }

    fn create_host_mapping(
        &self,
        at: HostAddress,
        mfn: Mfn,
        flags: u32,
    ) -> core::result::Result<(), GrantError> {
        let address = address(at)?;
        let new = (mfn.0, flags & GNTMAP_READONLY == 0);
        let mut inner = self.world.inner.lock().unwrap();
        let old = inner.entries.insert((self.domain, address), new);
        drop(inner);
        self.world.put_entry(old);
        Ok(())
    }

    fn destroy_host_mapping(
        &self,
        at: HostAddress,
        mfn: Mfn,
        flags: u32,
        replacement: Option<GuestVirtual>,
    ) -> core::result::Result<(), GrantError> {
        let address = address(at)?;
        let mut inner = self.world.inner.lock().unwrap();
        let key = (self.domain, address);
        if inner.entries.get(&key) != Some(&(mfn.0, flags & GNTMAP_READONLY == 0)) {
            return Err(GrantError::General);
        }
        match replacement {
            Some(from) => {
                let moved = inner
                    .entries
                    .remove(&(self.domain, from.0))
                    .ok_or(GrantError::General)?;
                inner.entries.insert(key, moved);
            }
            None => {
                inner.entries.remove(&key);
            }
        }
        Ok(())
    }

    fn flush_tlb(&self, _domain: DomainId) {}

    fn alloc_table_frame(&self, _domain: DomainId) -> Option<Mfn> {
        let mfn = self.world.inner.lock().unwrap().free.pop()?;
        self.frame(Mfn(mfn)).unwrap().zero();
        Some(Mfn(mfn))
    }

    fn free_table_frame(&self, _domain: DomainId, mfn: Mfn) {
        let mut inner = self.world.inner.lock().unwrap();
        inner.shared.remove(&mfn.0);
        inner.free.push(mfn.0);
    }

    fn share_table_frame(&self, _domain: DomainId, mfn: Mfn) {
        assert!(self.world.inner.lock().unwrap().shared.insert(mfn.0));
    }

    fn unshare_table_frame(&self, _domain: DomainId, mfn: Mfn) -> bool {
        let mut inner = self.world.inner.lock().unwrap();
        if inner.held.contains(&mfn.0) {
            return false;
        }
        assert!(inner.shared.remove(&mfn.0));
        true
    }
}

/// An operation that maps `reference` of `dom` at `address`.
pub fn map_op(dom: u16, reference: u32, address: u64, flags: u32) -> GnttabMapGrantRef {
    GnttabMapGrantRef {
        host_addr: address,
        flags,
        r#ref: reference,
        dom,
        status: 77,
        handle: u32::MAX,
        dev_bus_addr: 0,
    }
}

pub fn unmap_op(handle: u32, address: u64, device: u64) -> GnttabUnmapGrantRef {
    GnttabUnmapGrantRef {
        host_addr: address,
        dev_bus_addr: device,
        handle,
        status: 77,
        _pad0: [0; 2],
    }
}

pub fn copy_op(
    (from_domain, from, from_offset): (u16, u64, u16),
    (to_domain, to, to_offset): (u16, u64, u16),
    len: u16,
    flags: u16,
) -> GnttabCopy {
    let ptr = |domid, u, offset| GnttabCopyPtr {
        u,
        domid,
        offset,
        _pad0: [0; 4],
    };
    GnttabCopy {
        source: ptr(from_domain, from, from_offset),
        dest: ptr(to_domain, to, to_offset),
        len,
        flags,
        status: 77,
        _pad0: [0; 2],
    }
}
