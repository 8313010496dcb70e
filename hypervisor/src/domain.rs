//! Domains: what there is of them, and their end.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering,
};

use overcast_core::addr::{MachineAddress, Mfn};
use overcast_core::cpuid::CpuidPolicy;
use overcast_core::domctl::{Clocks, Emulated, Tsc, TscInfo};
use overcast_core::error::{Error, Result};
use overcast_core::event::{EventChannels, HypervisorEvent, VIRQS};
use overcast_core::grant::GrantTable;
use overcast_core::ids::{CpuSet, DomainId, EventPort, VcpuId};
use overcast_core::machine::{Memory, Tlb};
use overcast_core::mm::{DomainMemory, MmHost};
use overcast_core::sched::DEFAULT_WEIGHT;
use spin::{Mutex, Once, RwLock, RwLockReadGuard};
use xen_abi::sched::*;
use xen_abi::xen::{VIRQ_DOM_EXC, VcpuInfo};

use crate::arch::registers::Registers;
use crate::host::Host;
use crate::vcpu::{self, Vcpu};
use crate::{dump, lifecycle, schedule, softirq};

/// `vcpu_info`s in `shared_info` (`XEN_LEGACY_MAX_VCPUS`).
const LEGACY_VCPUS: u32 = 32;
/// The most vCPUs that a domain may have: those of `shared_info`, and as many
/// as one frame of stand-in `vcpu_info`s holds.
pub const MAX_VCPUS: u32 = LEGACY_VCPUS + (4096 / size_of::<VcpuInfo>()) as u32;
/// Shutdown code of a domain that is not shutting down.
const NOT_SHUT_DOWN: u32 = u32::MAX;
/// How often control domains may pause a domain.
const MAX_CONTROLLER_PAUSES: u32 = 255;

/// How far a domain is on its way out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Life {
    /// It lives.
    Alive,
    /// What it has is being taken away.
    Dying,
    /// It has nothing any more but pages that others still use.
    Dead,
}

/// What share of the CPUs a domain gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// Its weight against others'.
    pub weight: u32,
    /// The most that it gets, in percent of a CPU; 0 for no limit.
    pub cap: u32,
}

/// What a domain is put together of.
pub struct Parts {
    /// Its number.
    pub id: DomainId,
    /// Whether it is a control domain.
    pub privileged: bool,
    /// Whether it runs the store.
    pub store: bool,
    /// Its UUID.
    pub handle: [u8; 16],
    /// Its memory.
    pub mm: Arc<DomainMemory>,
    /// Its event channels.
    pub events: Arc<EventChannels>,
    /// Its grants.
    pub grants: Arc<GrantTable>,
    /// The frame of its `shared_info`.
    pub shared_info: Mfn,
    /// A frame of `vcpu_info`s for vCPUs that have none in `shared_info`.
    pub spare_info: Mfn,
    /// What CPUID shows to it.
    pub cpu_policy: CpuidPolicy,
    /// How many vCPUs it may have.
    pub max_vcpus: u32,
    /// Reads of unknown MSRs give 0.
    pub relaxed_msrs: bool,
    /// Emulated devices that control domains are told of.
    pub emulation_flags: u32,
}

/// A domain.
pub struct Domain {
    /// Its number.
    pub id: DomainId,
    /// Whether it is a control domain.
    pub privileged: bool,
    /// Whether it runs the store.
    pub store: bool,
    /// Reads of unknown MSRs give 0.
    pub relaxed_msrs: bool,
    /// Emulated devices that control domains are told of.
    pub emulation_flags: u32,
    /// Its UUID.
    pub handle: Mutex<[u8; 16]>,
    /// Its memory.
    pub mm: Arc<DomainMemory>,
    /// Its event channels.
    pub events: Arc<EventChannels>,
    /// Its grants.
    pub grants: Arc<GrantTable>,
    /// The frame of its `shared_info`; its own until it is dropped.
    pub shared_info: Mfn,
    /// A frame of `vcpu_info`s for vCPUs that have none in `shared_info` yet.
    spare_info: Mfn,
    cpu_policy: RwLock<CpuidPolicy>,
    /// What RDTSC gives it.
    tsc: Mutex<Tsc>,
    /// Whether that is emulated: what a context switch looks at.
    tsc_emulated: AtomicBool,
    /// Its share of the CPUs.
    pub share: Mutex<Share>,
    /// Seconds by which its wall clock is ahead.
    pub time_offset: AtomicI64,
    /// The port that is told when it suspends, instead of Dom0; 0 for none.
    pub suspend_port: AtomicU32,
    /// A debugger looks at it.
    pub debugged: AtomicBool,
    /// It ran, or was allowed to.
    started: AtomicBool,
    life_stage: AtomicU8,
    vcpus: Box<[Once<Box<Vcpu>>]>,
    /// Bits of `VMASST_TYPE_*` that are switched on.
    pub assists: AtomicU64,
    /// How often it is paused by a control domain or the hypervisor.
    pub pauses: AtomicU32,
    /// How often it is paused by a control domain; these count among `pauses`.
    controller_pauses: AtomicU32,
    shutdown_reason: AtomicU32,
    shutdown_code: AtomicU32,
    crashed: AtomicBool,
    /// Held while a vCPU is set up, brought up or taken down.
    pub life: Mutex<()>,
    /// A bit for each watchdog in use.
    pub watchdogs: Mutex<u32>,
    /// The memory map that its builder gave it.
    pub memory_map: Mutex<Vec<[u8; 20]>>,
    /// On which CPU's queue each watchdog is; 0 for none.
    pub watchdog_places: [AtomicU32; 2],
}

static DOMAINS: RwLock<BTreeMap<DomainId, Arc<Domain>>> = RwLock::new(BTreeMap::new());

impl Domain {
    /// Puts a domain together.
    pub fn new(parts: Parts) -> Arc<Self> {
        if let Some(frame) = Host.frame(parts.spare_info) {
            // Upcalls are masked until the guest registers a structure of its own.
            (0..4096 / size_of::<VcpuInfo>())
                .for_each(|n| frame.store_u8(n * size_of::<VcpuInfo>() + 1, 1));
        }
        Arc::new(Self {
            id: parts.id,
            privileged: parts.privileged,
            store: parts.store,
            relaxed_msrs: parts.relaxed_msrs,
            emulation_flags: parts.emulation_flags,
            handle: Mutex::new(parts.handle),
            mm: parts.mm,
            events: parts.events,
            grants: parts.grants,
            shared_info: parts.shared_info,
            spare_info: parts.spare_info,
            cpu_policy: RwLock::new(parts.cpu_policy),
            tsc: Mutex::new(Tsc::default()),
            tsc_emulated: AtomicBool::new(false),
            share: Mutex::new(Share {
                weight: DEFAULT_WEIGHT,
                cap: 0,
            }),
            time_offset: AtomicI64::new(0),
            suspend_port: AtomicU32::new(0),
            debugged: AtomicBool::new(false),
            started: AtomicBool::new(false),
            life_stage: AtomicU8::new(0),
            vcpus: (0..parts.max_vcpus.min(MAX_VCPUS))
                .map(|_| Once::new())
                .collect::<Vec<_>>()
                .into(),
            assists: AtomicU64::new(0),
            pauses: AtomicU32::new(0),
            controller_pauses: AtomicU32::new(0),
            shutdown_reason: AtomicU32::new(NOT_SHUT_DOWN),
            shutdown_code: AtomicU32::new(NOT_SHUT_DOWN),
            crashed: AtomicBool::new(false),
            life: Mutex::new(()),
            watchdogs: Mutex::new(0),
            memory_map: Mutex::new(Vec::new()),
            watchdog_places: Default::default(),
        })
    }

    /// The choice of its TSC.
    pub fn tsc(&self) -> Tsc {
        *self.tsc.lock()
    }

    /// Chooses its TSC. It is paused, so that each vCPU finds out before it runs again.
    ///
    /// # Errors
    /// See [`Tsc::set`].
    pub fn set_tsc(&self, info: &TscInfo, clocks: &Clocks) -> Result<()> {
        let mut tsc = self.tsc.lock();
        tsc.set(info, clocks)?;
        self.tsc_emulated
            .store(tsc.emulated.is_some(), Ordering::Release);
        Ok(())
    }

    /// The TSC that it reads, if it is not the CPU's.
    pub fn emulated_tsc(&self) -> Option<Emulated> {
        match self.tsc_emulated.load(Ordering::Acquire) {
            true => self.tsc.lock().emulated,
            false => None,
        }
    }

    /// What CPUID shows to it.
    pub fn cpu_policy(&self) -> RwLockReadGuard<'_, CpuidPolicy> {
        self.cpu_policy.read()
    }

    /// Shows it something else from now on. It did not run yet.
    pub fn set_cpu_policy(&self, policy: CpuidPolicy) {
        *self.cpu_policy.write() = policy;
    }

    /// How far it is on its way out.
    pub fn life_stage(&self) -> Life {
        match self.life_stage.load(Ordering::Acquire) {
            0 => Life::Alive,
            1 => Life::Dying,
            _ => Life::Dead,
        }
    }

    /// Moves it on its way out.
    pub fn set_life_stage(&self, stage: Life) {
        self.life_stage.store(stage as u8, Ordering::Release);
    }

    /// Whether it ran, or was allowed to.
    pub fn was_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// Lets a vCPU have the `vcpu_info` again that it had before it registered one.
    pub fn reset_vcpu_info(&self, vcpu: &Vcpu) {
        vcpu.set_info_address(self.default_info(vcpu.id));
    }

    /// It has not shut down after all: its vCPUs go on (`XEN_DOMCTL_resumedomain`).
    pub fn resume(&self) {
        self.shutdown_code.store(NOT_SHUT_DOWN, Ordering::Release);
        self.shutdown_reason.store(NOT_SHUT_DOWN, Ordering::Release);
        self.crashed.store(false, Ordering::Release);
        self.vcpus().for_each(schedule::wake);
    }

    /// Makes one of its vCPUs; `None` if there is no memory or no such vCPU.
    pub fn add_vcpu(self: &Arc<Self>, id: VcpuId) -> Option<&Vcpu> {
        let slot = self.vcpus.get(id.0 as usize)?;
        let info = self.default_info(id);
        let fpu = crate::arch::fpu::FpuState::new()?;
        let msrs = overcast_core::msr::VcpuMsrs::default();
        Some(slot.call_once(|| Box::new(Vcpu::new(id, Arc::as_ptr(self), info, fpu, msrs))))
    }

    /// Where a vCPU's `vcpu_info` is while it has not registered one.
    fn default_info(&self, id: VcpuId) -> MachineAddress {
        let size = size_of::<VcpuInfo>() as u64;
        let (frame, index) = if id.0 < LEGACY_VCPUS {
            (self.shared_info, id.0)
        } else {
            (self.spare_info, id.0 - LEGACY_VCPUS)
        };
        MachineAddress(frame.address().get() + u64::from(index) * size)
    }

    /// One of its vCPUs.
    pub fn vcpu(&self, id: VcpuId) -> Option<&Vcpu> {
        self.vcpus.get(id.0 as usize)?.get().map(Box::as_ref)
    }

    /// All its vCPUs.
    pub fn vcpus(&self) -> impl Iterator<Item = &Vcpu> {
        self.vcpus
            .iter()
            .filter_map(|slot| slot.get().map(Box::as_ref))
    }

    /// The CPUs on which its vCPUs are loaded.
    pub fn cpus(&self) -> CpuSet {
        let mut cpus = CpuSet::EMPTY;
        self.vcpus()
            .filter_map(Vcpu::cpu)
            .for_each(|cpu| cpus.insert(cpu));
        cpus
    }

    /// How many vCPUs it may have.
    pub fn max_vcpus(&self) -> u32 {
        self.vcpus.len() as u32
    }

    /// Whether an assist is switched on.
    pub fn has_assist(&self, kind: u32) -> bool {
        self.assists.load(Ordering::Relaxed) & (1 << kind) != 0
    }

    /// Whether it crashed.
    pub fn is_crashed(&self) -> bool {
        self.crashed.load(Ordering::Relaxed)
    }

    /// Sets the code that the next shutdown reports instead of its own.
    pub fn set_shutdown_code(&self, code: u32) {
        let _ = self.shutdown_code.compare_exchange(
            NOT_SHUT_DOWN,
            code,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
    }

    /// The code that is shown to control domains: why it shut down, or what was set to
    /// be the reason, or all ones.
    pub fn shutdown_code(&self) -> u32 {
        self.shutdown_reason()
            .unwrap_or_else(|| self.shutdown_code.load(Ordering::Acquire))
    }

    /// Pauses it for a control domain; its vCPUs do not run any more afterwards. Not for
    /// the caller's own domain. EUSERS if it was paused 255 times.
    pub fn pause_by_controller(&self) -> Result<()> {
        let one_more = |count: u32| (count < MAX_CONTROLLER_PAUSES).then_some(count + 1);
        self.controller_pauses
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more)
            .map_err(|_| Error::TooManyUsers)?;
        schedule::pause_domain(self);
        Ok(())
    }

    /// Undoes one [`Self::pause_by_controller`]. EINVAL if there was none.
    pub fn unpause_by_controller(&self) -> Result<()> {
        self.controller_pauses
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
                count.checked_sub(1)
            })
            .map_err(|_| Error::Invalid)?;
        self.started.store(true, Ordering::Release);
        schedule::unpause_domain(self);
        Ok(())
    }

    /// Whether a control domain paused it.
    pub fn is_paused_by_controller(&self) -> bool {
        self.controller_pauses.load(Ordering::Acquire) != 0
    }

    /// Why it shut down, if it did.
    pub fn shutdown_reason(&self) -> Option<u32> {
        match self.shutdown_reason.load(Ordering::Acquire) {
            NOT_SHUT_DOWN => None,
            reason => Some(reason),
        }
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        self.vcpus()
            .filter(|vcpu| vcpu.unit.get().is_some())
            .for_each(|_| softirq::unreserve_timers());
        // Nobody has a reference to these any more: see `lifecycle`.
        self.grants.free_frames(&Host);
        for mfn in [self.shared_info, self.spare_info] {
            Host.free_frames(mfn, 0, Host.clock());
        }
    }
}

/// Makes a domain known.
pub fn insert(domain: Arc<Domain>) {
    DOMAINS.write().insert(domain.id, domain);
}

/// A domain by its number.
pub fn find(id: DomainId) -> Option<Arc<Domain>> {
    DOMAINS.read().get(&id).cloned()
}

/// Forgets a domain.
pub fn remove(id: DomainId) -> Option<Arc<Domain>> {
    DOMAINS.write().remove(&id)
}

/// A domain by its number, or the caller's own for `DOMID_SELF`.
pub fn resolve(caller: &Domain, id: DomainId) -> Option<Arc<Domain>> {
    find(if id == DomainId::SELF { caller.id } else { id })
}

/// All domains.
pub fn all() -> Vec<Arc<Domain>> {
    DOMAINS.read().values().cloned().collect()
}

/// Calls a function with a vCPU, if there is such a one.
pub fn with_vcpu(domain: DomainId, vcpu: VcpuId, call: impl FnOnce(&Vcpu)) {
    // Mostly it is one of the running domain, which cannot go away meanwhile.
    if let Some(current) = vcpu::try_current()
        && current.domain().id == domain
    {
        if let Some(vcpu) = current.domain().vcpu(vcpu) {
            call(vcpu);
        }
        return;
    }
    if let Some(domain) = find(domain)
        && let Some(vcpu) = domain.vcpu(vcpu)
    {
        call(vcpu);
    }
}

/// An event for a consumer in the hypervisor: a backend or the store.
pub fn hypervisor_event(event: HypervisorEvent) {
    crate::io::raise_consumer(event.consumer);
}

/// Ends a domain for a reason (`SHUTDOWN_*`, sched.h). Dom0's end is the machine's, or
/// the beginning of the next Dom0.
pub fn shutdown(domain: &Domain, reason: u32) {
    // As on Xen, which keeps a byte. What says that there is none is longer.
    let reason = reason & 0xff;
    let reason = match domain.shutdown_code.load(Ordering::Acquire) {
        NOT_SHUT_DOWN => reason,
        code => code,
    };
    if domain
        .shutdown_reason
        .compare_exchange(NOT_SHUT_DOWN, reason, Ordering::AcqRel, Ordering::Acquire)
        .is_err()
    {
        return;
    }
    if domain.id == DomainId::DOM0 {
        crate::shutdown::dom0(reason);
    }
    domain.vcpus().for_each(schedule::sleep);
    let port = EventPort(domain.suspend_port.load(Ordering::Acquire));
    if reason == SHUTDOWN_SUSPEND && port.0 != 0 {
        if let Ok(Some(event)) = domain.events.send(&Host, port) {
            hypervisor_event(event);
        }
        return;
    }
    lifecycle::announce();
}

/// The domains that get the virtual interrupts of the whole machine; Dom0 at first.
static VIRQ_HANDLERS: [AtomicU16; VIRQS] = [const { AtomicU16::new(0) }; VIRQS];

/// Has another domain get a virtual interrupt of the whole machine. `Invalid` for one that
/// there is not, or that each domain has of its own.
pub fn set_virq_handler(domain: &Domain, virq: u32) -> Result<()> {
    let global = overcast_core::event::virq_is_global(virq);
    let handler = VIRQ_HANDLERS.get(virq as usize).filter(|_| global);
    handler
        .ok_or(Error::Invalid)?
        .store(domain.id.0, Ordering::Release);
    Ok(())
}

/// A dying domain gets no virtual interrupts of the whole machine any more: Dom0 does.
pub fn clear_virq_handlers(domain: &Domain) {
    for handler in &VIRQ_HANDLERS {
        let _ = handler.compare_exchange(domain.id.0, 0, Ordering::AcqRel, Ordering::Acquire);
    }
}

/// Raises a virtual interrupt that one domain gets for the whole machine.
pub fn send_global_virq(virq: u32) {
    if virq == VIRQ_DOM_EXC {
        // It says that some domain shut down or is gone.
        crate::xenstore::domains_changed();
    }
    let handler = VIRQ_HANDLERS
        .get(virq as usize)
        .map_or(0, |handler| handler.load(Ordering::Acquire));
    if let Some(domain) = find(DomainId(handler)) {
        domain.events.send_virq(&Host, virq, VcpuId(0));
    }
}

/// Crashes the domain of the running vCPU: a guest did what cannot be undone.
pub fn crash_current(vcpu: &Vcpu, regs: &Registers, why: &str) {
    let domain = vcpu.domain();
    if domain.crashed.swap(true, Ordering::AcqRel) {
        schedule::sleep(vcpu);
        return;
    }
    log::error!("{}v{} crashed: {why}", domain.id, vcpu.id);
    dump::vcpu(vcpu, regs);
    shutdown(domain, SHUTDOWN_CRASH);
    schedule::sleep(vcpu);
}
