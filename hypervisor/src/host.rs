//! The machine, as the core's state machines see it.

use core::sync::atomic::AtomicU64;

use overcast_core::addr::Mfn;
use overcast_core::event::EventHost;
use overcast_core::ids::{CpuSet, DomainId, VcpuId};
use overcast_core::machine::{Frame, Memory, Tlb};
use overcast_core::mm::entry::HYPERVISOR_SLOTS;
use overcast_core::mm::frames::FrameInfo;
use overcast_core::mm::{Mm, MmHost};
use spin::Once;

use crate::arch::memory::{self, Machine};
use crate::arch::paging;
use crate::{domain, schedule};

/// The machine.
pub struct Host;

static MM: Once<Mm<Host>> = Once::new();

/// The page types of all memory.
pub fn mm() -> &'static Mm<Host> {
    match MM.get() {
        Some(mm) => mm,
        None => crate::arch::panic::bug("memory management is used before it is set up"),
    }
}

/// Sets up the page types of all memory.
pub fn set_mm(mm: Mm<Host>) {
    MM.call_once(|| mm);
}

/// Frames that guests do not get, so that the hypervisor's own heap can grow
/// when they have taken all they can: an allocation of its own that fails is
/// the end of the machine.
const HYPERVISOR_RESERVE: u64 = 512;

/// Allocates `2^order` frames (below `2^bits` bytes, if given) for a guest:
/// zeroed, known to the page types, and with the stamp up to which CPUs may hold
/// old translations of them.
pub fn allocate(order: u32, bits: Option<u32>) -> Option<(Mfn, u64)> {
    if order > 20 || memory::heap().free_frames() < HYPERVISOR_RESERVE + (1 << order) {
        return None;
    }
    let block = memory::heap().alloc(order, bits).ok()?;
    // Nobody sees what was in the frames before.
    memory::zero_frames(block.mfn, order);
    for n in 0..1u64 << order {
        if let Some(info) = frame_infos().get((block.mfn.0 + n) as usize) {
            info.mark_ram();
        }
    }
    Some((block.mfn, block.stamp))
}

fn frame_infos() -> &'static [FrameInfo] {
    // SAFETY: memory was set up with room for a `FrameInfo` a frame, all zeros at first.
    unsafe { memory::frame_table::<FrameInfo>() }
}

impl Memory for Host {
    #[inline]
    fn frame(&self, mfn: Mfn) -> Option<&Frame> {
        Machine.frame(mfn)
    }

    fn end_mfn(&self) -> Mfn {
        Machine.end_mfn()
    }
}

impl Tlb for Host {
    fn clock(&self) -> u64 {
        Machine.clock()
    }

    fn flush_since(&self, stamp: u64) {
        Machine.flush_since(stamp);
    }

    fn flush(&self, cpus: &CpuSet) {
        Machine.flush(cpus);
    }

    fn flush_page(&self, cpus: &CpuSet, address: u64) {
        Machine.flush_page(cpus, address);
    }
}

impl EventHost for Host {
    fn kick(&self, domain: DomainId, vcpu: VcpuId) {
        domain::with_vcpu(domain, vcpu, schedule::kick);
    }

    fn wake_poller(&self, domain: DomainId, vcpu: VcpuId) {
        domain::with_vcpu(domain, vcpu, schedule::wake_poller);
    }

    fn get_writable_page(&self, domain: DomainId, mfn: Mfn) -> bool {
        mm().hold_writable(mfn, domain).is_ok()
    }

    fn put_writable_page(&self, mfn: Mfn) {
        mm().release_held(mfn);
    }
}

impl MmHost for Host {
    fn frame_infos(&self) -> &[FrameInfo] {
        frame_infos()
    }

    fn machine_to_phys(&self) -> &[AtomicU64] {
        memory::m2p()
    }

    fn allocate_frames(&self, order: u32) -> Option<(Mfn, u64)> {
        allocate(order, None)
    }

    fn free_frames(&self, mfn: Mfn, order: u32, stamp: u64) {
        if let Err(error) = memory::heap().free(mfn, order, stamp) {
            log::error!("frames from {mfn} on (order {order}) cannot be freed: {error:?}");
        }
    }

    fn machphys_entry(&self) -> u64 {
        paging::hypervisor_slot(0)
    }

    fn pages_gone(&self, _domain: DomainId) {
        crate::lifecycle::raise_reaper();
    }

    fn hypervisor_slots(&self) -> [u64; HYPERVISOR_SLOTS] {
        paging::hypervisor_slots()
    }
}
