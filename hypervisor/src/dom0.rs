//! Making Dom0, and starting it.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use overcast_core::addr::{Mfn, PAGE_SIZE, Pfn};
use overcast_core::builder::elf::Kernel;
use overcast_core::builder::image::{Compression, KernelImage};
use overcast_core::builder::layout::{self, Layout, RingPages};
use overcast_core::builder::populate::{self, Contents, Initrd, Role};
use overcast_core::cpuid::{
    Baseline, CpuidPolicy, Hardware, Hiding, Lacks, Level, SystemFeatures, SystemPolicies,
};
use overcast_core::error::Error;
use overcast_core::event::EventChannels;
use overcast_core::ids::{CpuSet, DomainId, EventPort, VcpuId};
use overcast_core::machine::{Memory, Preempt};
use overcast_core::mm::{Mm, MmConfig, MmHost};
use overcast_core::topology::Topology;
use spin::{Lazy, Once};
use xen_abi::arch_x86::{FLAT_RING3_CS64, FLAT_RING3_SS64, XEN_LEGACY_MAX_VCPUS};

use crate::arch::memory::{self, Range};
use crate::arch::registers::{Registers, rflags};
use crate::arch::{cpu, entry, faulting, percpu};
use crate::domain::{self, Domain, Parts};
use crate::host::{self, Host, mm};
use crate::start::{self, fail, options};
use crate::vcpu::{Power, Vcpu};
use crate::{hypercall, printk, schedule, time, xenstore};

/// The largest order in which Dom0's memory is allocated (4 MiB).
const CHUNK_ORDER: u32 = 10;
/// What is left to the hypervisor of a machine's memory, in pages, whatever
/// `dom0_mem` says.
const RESERVE: u64 = 16 << 8;
/// What unpacking may take beside the kernel's size, in pages. For Linux's xz
/// dictionary of 32 MiB, 44 MiB are not enough.
const UNPACK_WINDOW: u64 = 72 << 8;
/// IA32_ARCH_CAPABILITIES.
const ARCH_CAPABILITIES: u32 = 0x10a;
/// `XEN_X86_EMU_PIT`: the timer, which a hardware domain is said to have.
const EMULATES_PIT: u32 = 1 << 8;

struct Patient;

impl Preempt for Patient {
    fn preempt_pending(&self) -> bool {
        false
    }
}

/// The contents of a boot module.
fn module_bytes(start: u64, end: u64) -> &'static [u8] {
    // SAFETY: modules lie in RAM that was reserved for them, which the direct map
    // shows; nobody writes them until they are released.
    unsafe {
        core::slice::from_raw_parts(
            memory::direct(Mfn(start >> 12)).wrapping_add(start & 0xfff) as *const u8,
            (end - start) as usize,
        )
    }
}

/// Dom0's frames: extents of pseudo-physical frames in a row.
struct Frames(Vec<(u64, u64, Mfn)>);

impl Frames {
    fn mfn(&self, pfn: Pfn) -> Option<Mfn> {
        let at = self.0.partition_point(|&(first, _, _)| first <= pfn.0);
        let &(first, count, mfn) = self.0.get(at.checked_sub(1)?)?;
        let offset = pfn.0 - first;
        (offset < count).then_some(Mfn(mfn.0 + offset))
    }
}

/// What CPUID shows to Dom0.
fn cpu_policy() -> CpuidPolicy {
    CpuidPolicy::for_pv(
        cpuid,
        &hardware(),
        true,
        &options().cpuid,
        &options().dom0_cpuid,
    )
}

/// What CPUID shows to a domain without privilege unless something else is chosen.
///
/// # Errors
/// What the machine lacks for the level that `cpu-baseline=` names.
pub fn guest_policy() -> Result<CpuidPolicy, Lacks> {
    static POLICY: Lazy<Result<CpuidPolicy, Lacks>> = Lazy::new(|| {
        let all = CpuidPolicy::for_pv(cpuid, &hardware(), false, &options().cpuid, &[]);
        match guest_level(&all) {
            Some(level) => all.levelled(level, options().cpu_identity),
            None => Ok(all),
        }
    });
    POLICY.clone()
}

/// The level that guests get of what the machine has; `None` if they get it all.
fn guest_level(all: &CpuidPolicy) -> Option<Level> {
    match options().cpu_baseline {
        Baseline::Host => None,
        Baseline::Level(level) => Some(level),
        Baseline::Auto => {
            Level::highest_in(all.features(), all.vendor()).map(|level| level.min(Level::V3))
        }
    }
}

/// Says which CPU guests get, and what of the machine's their user space sees beside it.
fn announce_guest_cpu() {
    let all = CpuidPolicy::for_pv(cpuid, &hardware(), false, &options().cpuid, &[]);
    let name = guest_level(&all).map_or("all that this machine has", Level::name);
    let policy = match guest_policy() {
        Ok(policy) => policy,
        Err(lacks) => {
            log::error!(
                "CPU of guests: {lacks}: domains without a policy of their own are refused"
            );
            return;
        }
    };
    let faults = faulting::available();
    let mut visible = String::new();
    let mut unannounced = 0;
    for (feature, hiding) in system_policies().beside(&policy) {
        match hiding {
            Hiding::Visible => {
                visible.push(' ');
                visible.push_str(&feature.name.to_ascii_lowercase());
            }
            Hiding::Unannounced => unannounced += 1,
            Hiding::Enforced(_) => {}
        }
    }
    printk!("CPU of guests: {name}");
    if faults {
        log::info!(
            "CPUID faults in user space, which so sees the same; {unannounced} features would work unannounced"
        );
    } else if visible.is_empty() {
        log::info!("CPUID does not fault; user space sees nothing more");
    } else {
        log::info!("CPUID does not fault: user space sees, beside that:{visible}");
    }
}

/// The registers that CPUID gives on this CPU.
fn cpuid(leaf: u32, subleaf: u32) -> overcast_core::cpuid::Leaf {
    let result = raw_cpuid::native_cpuid::cpuid_count(leaf, subleaf);
    [result.eax, result.ebx, result.ecx, result.edx]
}

fn hardware() -> Hardware {
    Hardware {
        arch_capabilities: entry::rdmsr_safe(ARCH_CAPABILITIES),
        cpuid_faulting: faulting::available(),
        spec_ctrl: false,
        lfence_dispatch: false,
        null_selector_clears_base: false,
        end_mfn: Host.end_mfn().0,
    }
}

/// The features of the machine, and those for guests. Each of the hundreds of CPUIDs that it
/// takes to learn them may trap to the first layer.
pub fn system_features() -> &'static SystemFeatures {
    static FEATURES: Lazy<SystemFeatures> = Lazy::new(|| {
        let mut features = SystemFeatures::new(cpuid, &hardware(), &options().cpuid);
        if let Ok(policy) = guest_policy() {
            features.pv_default = *policy.features();
        }
        features
    });
    &FEATURES
}

/// The CPU policies of the machine, and those for guests.
pub fn system_policies() -> &'static SystemPolicies {
    static POLICIES: Lazy<SystemPolicies> = Lazy::new(|| {
        let mut policies = SystemPolicies::new(cpuid, &hardware(), &options().cpuid);
        if let Ok(policy) = guest_policy() {
            policies.pv_default = policy;
        }
        policies
    });
    &POLICIES
}

/// Where the machine's CPUs have their threads, cores and sockets.
pub fn topology() -> Topology {
    Topology::from_cpuid(cpuid)
}

/// Sets up the page types of all memory.
fn init_mm() {
    let features = cpu::features();
    let config = MmConfig {
        nx: features.nx,
        self_snoop: features.vendor == cpu::Vendor::Intel,
        legacy_substitute: host::allocate(0, None).map(|(mfn, _)| mfn),
    };
    host::set_mm(Mm::new(Host, config));
    show_machphys();
}

/// Lets control domains map the machine-to-phys table, read-only, as frames of `DOMID_XEN`.
fn show_machphys() {
    let Some(owner) = mm().domain(DomainId::XEN) else {
        return;
    };
    // Whole pieces, as `XENMEM_machphys_mfn_list` names them.
    let bytes = (Host.end_mfn().0 * 8).next_multiple_of(crate::arch::paging::SIZE_2M);
    for offset in (0..bytes).step_by(PAGE_SIZE) {
        let Some(mfn) = memory::m2p_frame(offset) else {
            continue;
        };
        if let Some(info) = Host.frame_infos().get(mfn.0 as usize)
            && info.count_word().owner().is_none()
        {
            info.mark_ram();
            // Where there is no RAM, the table shows one page again and again.
            let _ = mm().share_page(&owner, mfn, false);
        }
    }
}

/// Whether the boot modules stay, so that Dom0 can be made again.
static MODULES_STAY: Once<bool> = Once::new();

/// Whether Dom0 can be made again.
pub fn can_be_made_again() -> bool {
    MODULES_STAY.get() == Some(&true)
}

/// The boot modules may stay unless they would take more than an eighth of all memory.
fn modules_may_stay() -> bool {
    let modules = start::boot_info().modules().iter();
    let frames: u64 = modules
        .map(|module| module.end.saturating_sub(module.start) >> 12)
        .sum();
    let stay = options().dom0_restart && frames <= memory::total_frames() / 8;
    if options().dom0_restart && !stay {
        log::warn!(
            "The boot modules take {} MiB, too much to be kept: Dom0 cannot be restarted alone",
            frames >> 8
        );
    }
    stay
}

/// Makes Dom0 from the boot modules. Whatever is wrong ends the boot with a message.
pub fn create() -> Arc<Domain> {
    init_mm();
    announce_guest_cpu();
    make()
}

/// Makes Dom0, whether for the first time or [again](can_be_made_again). Whatever is wrong
/// ends with a message, and the machine restarts.
pub fn make() -> Arc<Domain> {
    let info = start::boot_info();
    let modules_stay = *MODULES_STAY.call_once(modules_may_stay);
    let (kernel_module, initrd_module) = match info.dom0() {
        Ok(modules) => modules,
        Err(error) => fail(format_args!("{error}")),
    };
    let kernel_bytes = module_bytes(kernel_module.start, kernel_module.end);
    let initrd = initrd_module.map(|module| module_bytes(module.start, module.end));

    let image = match KernelImage::parse(kernel_bytes) {
        Ok(image) => image,
        Err(error) => fail(format_args!("Dom0 kernel: {error}")),
    };
    // Decompressors keep a window of what they wrote; if there is no room for it,
    // they only say that they failed.
    let window = match image.compression() {
        Compression::Xz | Compression::Lzma | Compression::Zstd => UNPACK_WINDOW,
        _ => 0,
    };
    let mut unpacked = Vec::new();
    if unpacked.try_reserve_exact(image.buffer_size()).is_err()
        || memory::heap().free_frames() < window
    {
        fail(format_args!(
            "Too little memory to unpack the Dom0 kernel: it takes {} MiB, and {} MiB meanwhile",
            image.buffer_size() >> 20,
            window >> 8
        ));
    }
    unpacked.resize(image.buffer_size(), 0);
    let file = match image.unpack(&mut unpacked) {
        Ok(file) => file,
        Err(error) => fail(format_args!("Dom0 kernel: {error}")),
    };
    let kernel = match Kernel::parse(file) {
        Ok(kernel) => kernel,
        Err(error) => fail(format_args!("Dom0 kernel: {error}")),
    };
    let initrd_size = initrd.map_or(0, <[u8]>::len) as u64;

    // What unpacking holds is free by the time that Dom0 has all of its memory,
    // and so are the boot modules; the initrd is copied before.
    let unpacked_pages = image.buffer_size() as u64 / 4096;
    let held = match unpacked_pages {
        0 => 0,
        pages if modules_stay => pages,
        pages => pages + kernel_bytes.len() as u64 / 4096,
    };
    let available = (memory::heap().free_frames() + held).saturating_sub(RESERVE);
    let (size, max_pages) = options().dom0_mem.resolve(available);
    let pages = layout::clip_pages(&kernel, size.min(available), initrd_size);
    let linux = kernel.notes.guest_os == b"linux";
    // Other kernels may reckon with what Xen's Dom0 sees: no store, and the first port free.
    let with_store = options().xenstore.unwrap_or(linux);
    let rings = RingPages {
        store: with_store,
        console: false,
    };
    let layout = match Layout::with_rings(&kernel, pages, initrd_size, rings) {
        Ok(layout) => layout,
        Err(error) => fail(format_args!(
            "Dom0 with {} MiB of memory: {error}",
            pages >> 8
        )),
    };
    // A number of pages of a domain is 32 bits wide for the tools.
    let max_pages = max_pages.max(pages).min(u64::from(u32::MAX));

    let memory = match mm().create_domain(DomainId::DOM0, true, max_pages) {
        Ok(memory) => memory,
        Err(error) => fail(format_args!("Dom0's memory: {error:?}")),
    };
    let vcpus = options()
        .dom0_vcpus(percpu::online_count())
        .clamp(1, domain::MAX_VCPUS);
    let domain = match assemble(memory, vcpus) {
        Ok(domain) => domain,
        Err(error) => fail(format_args!("Dom0: {error:?}")),
    };
    let line = command_line(kernel_module.command_line.as_str(), linux);
    let no_memory = |error: Error| -> ! {
        fail(format_args!(
            "Dom0's {} MiB of memory cannot be allocated: {error:?}",
            pages >> 8
        ))
    };
    // First what the kernel goes to; when it is there, its file makes room for the rest.
    let mut frames = Frames(Vec::new());
    let first = layout.region_pages().min(pages);
    allocate(&domain, &mut frames, first).unwrap_or_else(|error| no_memory(error));
    if let Err(error) = populate::write_segments(&Host, &|pfn| frames.mfn(pfn), &layout, &kernel) {
        fail(format_args!("Dom0: {error}"));
    }
    let kernel = kernel.without_contents();
    drop(unpacked);
    if !modules_stay {
        memory::release(Range::new(kernel_module.start, kernel_module.end));
    }
    allocate(&domain, &mut frames, pages).unwrap_or_else(|error| no_memory(error));
    for &(first, count, mfn) in &frames.0 {
        for n in 0..count {
            mm().m2p().set(Mfn(mfn.0 + n), Pfn(first + n));
        }
    }
    let store_port = match layout.store {
        Some(_) => match domain.events.alloc_unbound(&Host, DomainId::XEN) {
            Ok(port) => port,
            Err(error) => fail(format_args!("Dom0's port for xenstore: {error:?}")),
        },
        None => EventPort(0),
    };
    let contents = Contents {
        kernel: &kernel,
        layout: &layout,
        initrd: initrd.map_or(Initrd::None, Initrd::Copy),
        command_line: line.as_bytes(),
        shared_info: domain.shared_info.address(),
        store_port,
        console_port: EventPort(0),
        role: Role::Dom0,
    };
    let initial = match populate::populate(&Host, &|pfn| frames.mfn(pfn), &contents) {
        Ok(initial) => initial,
        Err(error) => fail(format_args!("Dom0: {error}")),
    };
    printk!(
        "Dom0: {} MiB, {vcpus} vCPUs; kernel {:#x} -> {:#x}, entry {:#x}, start_info {:#x}",
        pages >> 8,
        kernel.start,
        kernel.end,
        initial.rip,
        initial.rsi
    );
    for module in info.modules() {
        if module.start != kernel_module.start && !modules_stay {
            memory::release(Range::new(module.start, module.end));
        }
    }
    let vcpu = match domain.vcpu(VcpuId(0)) {
        Some(vcpu) => vcpu,
        None => fail(format_args!("Dom0 has no vCPU")),
    };
    // As on Xen, the first top-level table is pinned; the guest unpins it.
    if let Err(error) = hypercall::pin_top_table(vcpu, initial.top_table, &Patient) {
        fail(format_args!(
            "Dom0's first page tables are refused: {error:?}"
        ));
    }
    if let Err(error) = mm().install_tables(
        &domain.mm,
        &mut vcpu.tables.lock(),
        initial.top_table,
        None,
        &Patient,
    ) {
        fail(format_args!(
            "Dom0's first page tables are refused: {error:?}"
        ));
    }
    if let Some(mfn) = layout
        .store
        .and_then(|address| layout.pfn_of(address))
        .and_then(|pfn| frames.mfn(pfn))
        && let Err(error) = xenstore::connect_dom0(mfn, store_port)
    {
        fail(format_args!("Dom0's connection to xenstore: {error:?}"));
    }
    set_registers(vcpu, &initial);
    domain
}

/// Dom0's command line: the module's, and what follows `--` of the hypervisor's.
///
/// A Linux kernel that finds no firmware tables complains of a bug in them, so
/// it is told that there are none (Xen itself does so where it uses no ACPI). And
/// it waits a second for a real-time clock that does not answer, so it is told not
/// to look for it.
fn command_line(module: &str, linux: bool) -> String {
    let extra = start::boot_info().dom0_extra();
    let mut line = String::from(module);
    let mut add = |word: &str| {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    };
    if !extra.is_empty() {
        add(extra);
    }
    if linux
        && !line
            .split_ascii_whitespace()
            .any(|word| word.starts_with("acpi="))
    {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str("acpi=off");
    }
    if linux {
        line.push_str(" initcall_blacklist=cmos_init");
    }
    line
}

/// Makes the domain around its memory.
fn assemble(
    memory: Arc<overcast_core::mm::DomainMemory>,
    vcpus: u32,
) -> Result<Arc<Domain>, Error> {
    let (shared_info, _) = host::allocate(0, None).ok_or(Error::NoMemory)?;
    let (spare_info, _) = host::allocate(0, None).ok_or(Error::NoMemory)?;
    mm().share_page(&memory, shared_info, true)?;
    let events = EventChannels::new(DomainId::DOM0, vcpus, Some(shared_info), u32::MAX)?;
    let grants = crate::grants::create(DomainId::DOM0, crate::grants::limits())?;
    let domain = Domain::new(Parts {
        id: DomainId::DOM0,
        privileged: true,
        store: false,
        handle: [0; 16],
        mm: memory,
        events,
        grants,
        shared_info,
        spare_info,
        cpu_policy: cpu_policy(),
        max_vcpus: vcpus,
        relaxed_msrs: false,
        emulation_flags: EMULATES_PIT,
    });
    for id in (0..vcpus).map(VcpuId) {
        let vcpu = domain.add_vcpu(id).ok_or(Error::NoMemory)?;
        let affinity = if options().dom0_vcpus_pin {
            CpuSet::one(overcast_core::ids::CpuId(
                id.0 % percpu::online_count().max(1),
            ))
        } else {
            CpuSet::ALL
        };
        schedule::add(vcpu, affinity)?;
    }
    domain::insert(domain.clone());
    time::write_wall_clock(&domain);
    Ok(domain)
}

/// Allocates Dom0's memory up to its page `pages`, in chunks as large as there are.
fn allocate(domain: &Domain, frames: &mut Frames, pages: u64) -> Result<(), Error> {
    let mut pfn = frames
        .0
        .last()
        .map_or(0, |&(first, count, _)| first + count);
    let mut order = CHUNK_ORDER;
    while pfn < pages {
        while order > 0 && 1 << order > pages - pfn {
            order -= 1;
        }
        match mm().allocate_pages(&domain.mm, order) {
            Ok(mfn) => {
                frames.0.push((pfn, 1 << order, mfn));
                pfn += 1 << order;
            }
            Err(Error::NoMemory) if order > 0 => order -= 1,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Sets the registers of Dom0's first vCPU as the public interface has them at the start.
fn set_registers(vcpu: &Vcpu, initial: &populate::InitialState) {
    vcpu.set_kernel_base(Some(initial.top_table), Some(initial.top_table));
    vcpu.kernel_mode.set(true);
    // SAFETY: the vCPU never ran, and nobody else sets it up.
    let regs = unsafe { vcpu.saved_registers() };
    *regs = Registers {
        rip: initial.rip,
        rsp: initial.rsp,
        rsi: initial.rsi,
        cs: FLAT_RING3_CS64.into(),
        ss: FLAT_RING3_SS64.into(),
        rflags: rflags::IF | rflags::FIXED,
        ..Registers::default()
    };
    vcpu.cr4.set(crate::pv::emulate::allowed_cr4(vcpu, 0));
    // As on Xen, upcalls are masked for as many vCPUs as there could be.
    if let Some(frame) = Host.frame(vcpu.domain().shared_info) {
        let size = size_of::<xen_abi::xen::VcpuInfo>();
        (0..XEN_LEGACY_MAX_VCPUS).for_each(|n| frame.store_u8(n * size + 1, 1));
    }
    vcpu.set_power(Power::Up);
}
