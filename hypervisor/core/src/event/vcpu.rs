//! The part of event channels that belongs to a vCPU: where its `vcpu_info`
//! is (xen.h), its upcall, and waiting in `SCHEDOP_poll` (sched.h).

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use spin::Mutex;

use super::{EventChannels, EventHost, VIRQS};
use crate::addr::{MachineAddress, Mfn, PAGE_SIZE};
use crate::error::{Error, Result};
use crate::ids::{EventPort, VcpuId};
use crate::machine::Frame;

/// Size of a `vcpu_info` in bytes.
pub const VCPU_INFO_SIZE: usize = 64;
/// vCPUs that have a `vcpu_info` in `shared_info` (`XEN_LEGACY_MAX_VCPUS`).
pub const LEGACY_MAX_VCPUS: u32 = 32;

/// No `vcpu_info`: what would be written there is dropped.
const NOWHERE: u64 = u64::MAX;

/// Any port, or none in particular.
const ANY_PORT: u32 = 0;

/// Where the `vcpu_info` of a vCPU is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VcpuInfoLocation {
    /// The frame.
    pub mfn: Mfn,
    /// The offset in the frame in bytes, a multiple of 8.
    pub offset: usize,
}

/// The event channels' part of a vCPU.
pub(super) struct VcpuEvents {
    /// Machine address of the `vcpu_info`, or [`NOWHERE`].
    info: AtomicU64,
    /// Where it is while the guest has not registered one.
    default_info: u64,
    /// The ports that the virtual interrupts are bound to; 0 for none.
    pub(super) virqs: [AtomicU32; VIRQS],
    /// The one port that the vCPU polls, or [`ANY_PORT`].
    poll_port: AtomicU32,
    /// FIFO: machine address of the control block, or [`super::fifo::NO_CONTROL_BLOCK`].
    pub(super) control_block: AtomicU64,
    /// FIFO: the last port linked to the queue of each priority; 0 for none.
    pub(super) tails: [Mutex<u32>; 16],
}

impl VcpuEvents {
    pub(super) fn new(shared_info: Option<Mfn>, vcpu: u32) -> Self {
        let default_info = match shared_info {
            Some(mfn) if vcpu < LEGACY_MAX_VCPUS => {
                mfn.address().0 + u64::from(vcpu) * VCPU_INFO_SIZE as u64
            }
            _ => NOWHERE,
        };
        Self {
            info: AtomicU64::new(default_info),
            default_info,
            virqs: [const { AtomicU32::new(0) }; VIRQS],
            poll_port: AtomicU32::new(ANY_PORT),
            control_block: AtomicU64::new(super::fifo::NO_CONTROL_BLOCK),
            tails: [const { Mutex::new(0) }; 16],
        }
    }
}

impl EventChannels {
    /// Where the `vcpu_info` of a vCPU is; `None` if it has none (a vCPU from 32
    /// on that has not registered one, which must not run).
    pub fn vcpu_info_location(&self, vcpu: VcpuId) -> Option<VcpuInfoLocation> {
        let address = self
            .vcpus
            .get(vcpu.0 as usize)?
            .info
            .load(Ordering::Acquire);
        (address != NOWHERE).then(|| VcpuInfoLocation {
            mfn: MachineAddress(address).frame(),
            offset: MachineAddress(address).offset(),
        })
    }

    /// The frame of a `vcpu_info` and the index of its first 64-bit word.
    pub(super) fn vcpu_info<'m, H: EventHost>(
        &self,
        host: &'m H,
        vcpu: u32,
    ) -> Option<(&'m Frame, usize)> {
        let at = self.vcpu_info_location(VcpuId(vcpu))?;
        Some((host.frame(at.mfn)?, at.offset / 8))
    }

    /// Whether the vCPU has to be given its event callback before it goes on:
    /// an upcall is pending and not masked.
    pub fn vcpu_needs_upcall<H: EventHost>(&self, host: &H, vcpu: VcpuId) -> bool {
        self.vcpu_info(host, vcpu.0).is_some_and(|(info, at)| {
            let word = info.word(at).load(Ordering::SeqCst);
            word & 0xff != 0 && word & 0xff00 == 0
        })
    }

    /// Sets `evtchn_upcall_mask`, and gives what it was.
    pub fn set_upcall_mask<H: EventHost>(&self, host: &H, vcpu: VcpuId, mask: bool) -> bool {
        self.vcpu_info(host, vcpu.0).is_some_and(|(info, at)| {
            info.replace_bits(at, 0xff00, u64::from(mask) << 8) & 0xff00 != 0
        })
    }

    /// Sets `evtchn_upcall_pending`, and kicks the vCPU if it was not set.
    pub fn mark_events_pending<H: EventHost>(&self, host: &H, vcpu: VcpuId) {
        if let Some((info, at)) = self.vcpu_info(host, vcpu.0)
            && info.word(at).fetch_or(1, Ordering::SeqCst) & 1 == 0
        {
            host.kick(self.domain, vcpu);
        }
    }

    /// `VCPUOP_register_vcpu_info` (vcpu.h): moves the `vcpu_info` of a vCPU to
    /// `offset` in a frame of the domain, with its contents, and marks
    /// everything as pending so that no event is lost on the way.
    ///
    /// `idle` says that the vCPU is the caller or is down. Errors: `NoEntry` no
    /// such vCPU; `NoDevice` the structure would cross the page or is not
    /// aligned; `Invalid` it was registered before, the vCPU runs, or the frame is not
    /// the domain's to write.
    pub fn register_vcpu_info<H: EventHost>(
        &self,
        host: &H,
        vcpu: VcpuId,
        mfn: Mfn,
        offset: u32,
        idle: bool,
    ) -> Result<()> {
        let v = self.vcpu(vcpu.0)?;
        let offset = offset as usize;
        if offset > PAGE_SIZE - VCPU_INFO_SIZE || !offset.is_multiple_of(8) {
            return Err(Error::NoDevice);
        }
        if v.info.load(Ordering::Acquire) != v.default_info || !idle {
            return Err(Error::Invalid);
        }
        self.get_page(host, mfn)?;
        let inner = self.inner.lock();
        let frame = match host.frame(mfn) {
            Some(frame) if v.info.load(Ordering::Acquire) == v.default_info => frame,
            _ => {
                drop(inner);
                host.put_writable_page(mfn);
                return Err(Error::Invalid);
            }
        };
        let to = offset / 8;
        match self.vcpu_info(host, vcpu.0) {
            Some((info, from)) => {
                for i in 0..VCPU_INFO_SIZE / 8 {
                    frame.store(to + i, info.load(from + i));
                }
            }
            None => {
                // Like Xen's stand-in structure: nothing pending, upcalls masked.
                frame.store(to, 1 << 8);
                for i in 1..VCPU_INFO_SIZE / 8 {
                    frame.store(to + i, 0);
                }
            }
        }
        v.info
            .store(mfn.address().0 + offset as u64, Ordering::SeqCst);
        drop(inner);
        // Whoever still used the old location had set the event's own bit before
        // the store above, so a scan of everything finds it.
        frame.word(to + 1).store(u64::MAX, Ordering::SeqCst);
        self.mark_events_pending(host, vcpu);
        Ok(())
    }

    /// Gives up a registered `vcpu_info`: the vCPU has the one in `shared_info`
    /// again, or none. Only when no event can be on its way to it.
    pub fn unregister_vcpu_info<H: EventHost>(&self, host: &H, vcpu: VcpuId) {
        let Ok(v) = self.vcpu(vcpu.0) else {
            return;
        };
        let inner = self.inner.lock();
        let old = v.info.swap(v.default_info, Ordering::AcqRel);
        drop(inner);
        if old != v.default_info {
            host.put_writable_page(MachineAddress(old).frame());
        }
    }

    /// Says that a vCPU is about to wait in `SCHEDOP_poll`. From here on an event of any
    /// port wakes it, so the caller looks at the ports afterwards, with
    /// [`Self::poll_port`], and calls [`Self::poll_end`] if it does not wait.
    pub fn poll_begin(&self, vcpu: VcpuId) {
        let (Some(v), Some(word)) = (
            self.vcpus.get(vcpu.0 as usize),
            self.poll_mask.get(vcpu.0 as usize / 64),
        ) else {
            return;
        };
        v.poll_port.store(ANY_PORT, Ordering::SeqCst);
        word.fetch_or(1 << (vcpu.0 % 64), Ordering::SeqCst);
    }

    /// Says that the waiting vCPU polls one port only; others do not wake it.
    pub fn poll_only(&self, vcpu: VcpuId, port: EventPort) {
        if let Some(v) = self.vcpus.get(vcpu.0 as usize) {
            v.poll_port.store(port.0, Ordering::SeqCst);
        }
    }

    /// Says that the vCPU does not wait any more, for whatever reason.
    pub fn poll_end(&self, vcpu: VcpuId) {
        if let (Some(v), Some(word)) = (
            self.vcpus.get(vcpu.0 as usize),
            self.poll_mask.get(vcpu.0 as usize / 64),
        ) {
            v.poll_port.store(ANY_PORT, Ordering::SeqCst);
            word.fetch_and(!(1 << (vcpu.0 % 64)), Ordering::SeqCst);
        }
    }

    /// Whether a vCPU waits in `SCHEDOP_poll`.
    pub fn is_polling(&self, vcpu: VcpuId) -> bool {
        self.poll_mask
            .get(vcpu.0 as usize / 64)
            .is_some_and(|word| word.load(Ordering::SeqCst) & (1 << (vcpu.0 % 64)) != 0)
    }

    /// Whether the event of a port is pending. `Invalid` if the port is not a
    /// bound one of the guest's.
    pub fn poll_port<H: EventHost>(&self, host: &H, port: EventPort) -> Result<bool> {
        let channel = self.ports.get(port).ok_or(Error::Invalid)?;
        let state = channel.state.read();
        if !state.is_bound() || channel.is_hypervisors() {
            return Err(Error::Invalid);
        }
        Ok(self.is_pending(host, port))
    }

    /// Whether the event of any of the ports is pending. `Invalid` as
    /// [`Self::poll_port`] says, if met before one that is.
    pub fn ports_pending<H: EventHost>(&self, host: &H, ports: &[EventPort]) -> Result<bool> {
        for &port in ports {
            if self.poll_port(host, port)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Wakes the vCPUs that poll a port, whose event was just set.
    pub(super) fn check_pollers<H: EventHost>(&self, host: &H, port: EventPort) {
        for (index, word) in self.poll_mask.iter().enumerate() {
            let mut waiting = word.load(Ordering::SeqCst);
            while waiting != 0 {
                let bit = waiting.trailing_zeros();
                waiting &= waiting - 1;
                let vcpu = index as u32 * 64 + bit;
                let Some(v) = self.vcpus.get(vcpu as usize) else {
                    continue;
                };
                let wanted = v.poll_port.load(Ordering::SeqCst);
                if (wanted == ANY_PORT || wanted == port.0)
                    && word.fetch_and(!(1 << bit), Ordering::SeqCst) & (1 << bit) != 0
                {
                    v.poll_port.store(ANY_PORT, Ordering::SeqCst);
                    host.wake_poller(self.domain, VcpuId(vcpu));
                }
            }
        }
    }
}
