//! What the CPUs can do, and how each is set up.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};

use spin::Once;

use crate::arch::{msr, percpu};

/// Bits of CR0, whether used or not.
#[allow(missing_docs, dead_code)]
pub mod cr0 {
    pub const PE: u64 = 1 << 0;
    pub const MP: u64 = 1 << 1;
    pub const EM: u64 = 1 << 2;
    pub const TS: u64 = 1 << 3;
    pub const ET: u64 = 1 << 4;
    pub const NE: u64 = 1 << 5;
    pub const WP: u64 = 1 << 16;
    pub const AM: u64 = 1 << 18;
    pub const PG: u64 = 1 << 31;
}

/// Bits of CR4, whether used or not.
#[allow(missing_docs, dead_code)]
pub mod cr4 {
    pub const TSD: u64 = 1 << 2;
    pub const DE: u64 = 1 << 3;
    pub const PAE: u64 = 1 << 5;
    pub const MCE: u64 = 1 << 6;
    pub const PGE: u64 = 1 << 7;
    pub const PCE: u64 = 1 << 8;
    pub const OSFXSR: u64 = 1 << 9;
    pub const OSXMMEXCPT: u64 = 1 << 10;
    pub const UMIP: u64 = 1 << 11;
    pub const FSGSBASE: u64 = 1 << 16;
    pub const PCIDE: u64 = 1 << 17;
    pub const OSXSAVE: u64 = 1 << 18;
    pub const SMEP: u64 = 1 << 20;
    pub const SMAP: u64 = 1 << 21;
}

const EFER_SCE: u64 = 1 << 0;
const EFER_NXE: u64 = 1 << 11;
const MSR_PAT: u32 = 0x277;
const MSR_MCG_CAP: u32 = 0x179;
const MSR_MCG_CTL: u32 = 0x17b;
const MSR_MC0_CTL: u32 = 0x400;
const MSR_MC0_STATUS: u32 = 0x401;

/// The memory types that entries of page tables choose from, entry 0 in the low
/// byte: WB, WT, UC-, UC, WC, WP, UC, UC. Guests rely on this order (it is Xen's).
pub const PAT: u64 = 0x0501_0007_0406;

/// State components that are used if the CPU has them: x87, SSE, AVX, and the
/// three of AVX-512.
const XCR0_KNOWN: u64 = 0b1110_0111;

/// Which optional features the command line lets the hypervisor use.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// `smep=`
    pub smep: bool,
    /// `smap=`
    pub smap: bool,
    /// `fsgsbase=`
    pub fsgsbase: bool,
    /// `xsave=`
    pub xsave: bool,
    /// `x2apic=`
    pub x2apic: bool,
    /// `tdt=`: the TSC deadline timer
    pub tdt: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            smep: true,
            smap: true,
            fsgsbase: true,
            xsave: true,
            x2apic: true,
            tdt: true,
        }
    }
}

/// Who made the CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Vendor {
    Intel,
    Amd,
    Hygon,
    Other,
}

/// Features of the boot CPU that are there and may be used.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Features {
    pub vendor: Vendor,
    /// Highest basic CPUID leaf.
    pub max_leaf: u32,
    pub nx: bool,
    pub pages_1g: bool,
    pub pge: bool,
    pub smep: bool,
    pub smap: bool,
    pub fsgsbase: bool,
    pub mce: bool,
    pub mca: bool,
    pub pat: bool,
    pub xsave: bool,
    pub xsaveopt: bool,
    pub x2apic: bool,
    pub tsc_deadline: bool,
    pub rdtscp: bool,
    /// The CPU is itself virtual.
    pub hypervisor: bool,
    /// State components that XCR0 gets; 0 without XSAVE.
    pub xcr0: u64,
    /// Bytes of an XSAVE area (standard format) of all of them; 512 without XSAVE.
    pub xsave_size: usize,
    /// Bits of MXCSR that may be set.
    pub mxcsr_mask: u32,
}

static FEATURES: Once<Features> = Once::new();

fn detect(options: &Options) -> Features {
    let basic = __cpuid(0);
    let max_leaf = basic.eax;
    let max_extended = __cpuid(0x8000_0000).eax;
    let leaf = |n: u32, sub: u32| {
        if n <= max_leaf {
            __cpuid_count(n, sub)
        } else {
            core::arch::x86_64::CpuidResult {
                eax: 0,
                ebx: 0,
                ecx: 0,
                edx: 0,
            }
        }
    };
    let vendor = match (basic.ebx, basic.edx, basic.ecx) {
        (0x756e_6547, 0x4965_6e69, 0x6c65_746e) => Vendor::Intel,
        (0x6874_7541, 0x6974_6e65, 0x444d_4163) => Vendor::Amd,
        (0x6f67_7948, 0x6e65_476e, 0x656e_6975) => Vendor::Hygon,
        _ => Vendor::Other,
    };
    let one = leaf(1, 0);
    let seven = leaf(7, 0);
    let xsave_one = leaf(0xd, 1);
    let ext = |n: u32| (n <= max_extended).then(|| __cpuid(n));
    let ext1 = ext(0x8000_0001);
    let ext_edx = ext1.map_or(0, |r| r.edx);
    let bit = |word: u32, n: u32| word >> n & 1 != 0;
    let xsave = bit(one.ecx, 26) && options.xsave && max_leaf >= 0xd;
    let xcr0 = if xsave {
        let raw = leaf(0xd, 0);
        let mut mask = (u64::from(raw.edx) << 32 | u64::from(raw.eax)) & XCR0_KNOWN;
        // The three AVX-512 components come together, and only above AVX.
        if mask & 4 == 0 || mask & 0xe0 != 0xe0 {
            mask &= !0xe0;
        }
        mask | 3
    } else {
        0
    };
    Features {
        vendor,
        max_leaf,
        nx: bit(ext_edx, 20),
        pages_1g: bit(ext_edx, 26),
        pge: bit(one.edx, 13),
        smep: bit(seven.ebx, 7) && options.smep,
        smap: bit(seven.ebx, 20) && options.smap && !ring3_returns_as_ring0(),
        fsgsbase: bit(seven.ebx, 0) && options.fsgsbase,
        mce: bit(one.edx, 7),
        mca: bit(one.edx, 14),
        pat: bit(one.edx, 16),
        xsave,
        xsaveopt: xsave && bit(xsave_one.eax, 0),
        x2apic: bit(one.ecx, 21) && options.x2apic,
        tsc_deadline: bit(one.ecx, 24) && options.tdt,
        rdtscp: bit(ext_edx, 27),
        hypervisor: bit(one.ecx, 31),
        xcr0,
        xsave_size: if xsave {
            // Components from 2 on say where they lie; the legacy region and the
            // header take 576 bytes.
            (2..63)
                .filter(|n| xcr0 >> n & 1 != 0)
                .map(|n| leaf(0xd, n))
                .map(|r| r.eax as usize + r.ebx as usize)
                .fold(576, usize::max)
        } else {
            512
        },
        mxcsr_mask: read_mxcsr_mask(),
    }
}

fn read_mxcsr_mask() -> u32 {
    #[repr(C, align(16))]
    struct Area([u32; 128]);
    let mut area = Area([0; 128]);
    // SAFETY: FXSAVE writes 512 bytes, the size of the area; OSFXSR, which
    // makes it store MXCSR_MASK, is what the hypervisor runs with anyway.
    unsafe {
        asm!(
            "mov {tmp}, cr4",
            "or {tmp}, {osfxsr}",
            "mov cr4, {tmp}",
            "fxsave64 [{area}]",
            tmp = out(reg) _,
            osfxsr = const cr4::OSFXSR,
            area = in(reg) &raw mut area,
            options(nostack),
        );
    }
    match area.0[7] {
        // CPUs from before the field existed (Intel SDM volume 1, 11.6.6).
        0 => 0xffbf,
        mask => mask,
    }
}

/// Whether the CPU is emulated by QEMU's TCG, which (as of 7.2) does the memory
/// accesses of IRET and far RET with the rights of ring 0 even in ring 3. With
/// SMAP on, a PV kernel, which returns to itself by IRET, would fault there.
fn ring3_returns_as_ring0() -> bool {
    let hypervisor_bit = core::arch::x86_64::__cpuid(1).ecx & (1 << 31) != 0;
    let leaf = core::arch::x86_64::__cpuid(0x4000_0000);
    let signature = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes);
    hypervisor_bit && signature.as_flattened() == b"TCGTCGTCGTCG"
}

/// Looks at the boot CPU. The first call decides; before it, [`features`] makes
/// it with all options on.
pub fn init_features(options: &Options) -> &'static Features {
    FEATURES.call_once(|| detect(options))
}

/// The features in use.
pub fn features() -> &'static Features {
    FEATURES.call_once(|| detect(&Options::default()))
}

/// The CR4 bits that the hypervisor itself runs with; what guests may choose
/// (TSD, DE, PCE, and whether FSGSBASE is theirs) is not in it.
pub fn cr4_base() -> u64 {
    let f = features();
    let when = |present: bool, bits: u64| if present { bits } else { 0 };
    cr4::PAE
        | cr4::OSFXSR
        | cr4::OSXMMEXCPT
        | when(f.pge, cr4::PGE)
        | when(f.mce, cr4::MCE)
        | when(f.xsave, cr4::OSXSAVE)
        | when(f.smep, cr4::SMEP)
        | when(f.smap, cr4::SMAP)
        | when(f.fsgsbase, cr4::FSGSBASE)
}

/// Sets CR4.
///
/// # Safety
/// The value differs from [`cr4_base`] only in what guests may choose.
pub unsafe fn write_cr4(value: u64) {
    let known = &percpu::this().cr4;
    if known.get() != value {
        // SAFETY: the caller's promise.
        unsafe { asm!("mov cr4, {}", in(reg) value, options(nostack, preserves_flags)) };
        known.set(value);
    }
}

/// What CR4 holds. Some first layers have to be asked for each access to it, so what
/// [`write_cr4`] wrote is remembered.
pub fn read_cr4() -> u64 {
    match percpu::try_this().map_or(0, |this| this.cr4.get()) {
        0 => control_registers().2,
        known => known,
    }
}

/// The CR0 that the hypervisor runs with (TS is set and cleared as it goes).
pub const CR0_BASE: u64 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::PG;

/// Sets up control registers, feature MSRs and the FPU of this CPU. Needs
/// [`init_features`]; runs on each CPU, before it runs guests.
pub fn init_this() {
    let f = features();
    crate::arch::entry::SMAP_IN_USE.store(u8::from(f.smap), core::sync::atomic::Ordering::Release);
    // SAFETY: these are the values that the hypervisor is written for: paging
    // stays on, and each CR4 bit is backed by a feature that CPUID reports.
    unsafe {
        asm!("mov cr0, {}", in(reg) CR0_BASE, options(nostack));
        asm!("mov cr4, {}", in(reg) cr4_base(), options(nostack));
        let efer = msr::read(msr::EFER) | EFER_SCE | if f.nx { EFER_NXE } else { 0 };
        msr::write(msr::EFER, efer);
        if f.pat {
            msr::write(MSR_PAT, PAT);
        }
        if f.xsave {
            asm!("xsetbv", in("ecx") 0, in("eax") f.xcr0 as u32, in("edx") (f.xcr0 >> 32) as u32, options(nostack));
        }
        let mxcsr: u32 = 0x1f80;
        asm!("fninit", "ldmxcsr [{}]", in(reg) &mxcsr, options(nostack));
        // No breakpoint of the firmware's stays armed.
        asm!("mov dr7, {}", in(reg) 0x400u64, options(nostack));
    }
    if f.mce && f.mca {
        enable_machine_checks();
    }
}

/// Clears what the banks hold from before, and lets them report.
fn enable_machine_checks() {
    let cap = msr::read(MSR_MCG_CAP);
    let banks = (cap & 0xff).min(32) as u32;
    // SAFETY: CPUID says that these architectural MSRs exist; reporting faults
    // as #MC is what the hypervisor has a handler for.
    unsafe {
        if cap & 0x100 != 0 {
            msr::write(MSR_MCG_CTL, u64::MAX);
        }
        for bank in 0..banks {
            msr::write(MSR_MC0_CTL + bank * 4, u64::MAX);
            msr::write(MSR_MC0_STATUS + bank * 4, 0);
        }
    }
}

/// Whether interrupts are enabled on this CPU.
pub fn interrupts_enabled() -> bool {
    let flags: u64;
    // SAFETY: reads the flags; the push and pop leave the stack as it was.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags, options(preserves_flags)) };
    flags & 0x200 != 0
}

/// Runs `f` with interrupts off, and puts them back as they were.
pub fn without_interrupts<R>(f: impl FnOnce() -> R) -> R {
    let enabled = interrupts_enabled();
    disable_interrupts();
    let result = f();
    if enabled {
        enable_interrupts();
    }
    result
}

/// Lets interrupts come. An IDT must be loaded.
pub fn enable_interrupts() {
    // SAFETY: every vector has a handler once an IDT is loaded, and the
    // callers enable interrupts only then.
    unsafe { asm!("sti", options(nostack)) };
}

/// Holds interrupts back.
pub fn disable_interrupts() {
    // SAFETY: holding interrupts back breaks no invariant.
    unsafe { asm!("cli", options(nostack)) };
}

/// Stops this CPU for good.
pub fn halt() -> ! {
    loop {
        // SAFETY: with interrupts off only an NMI ends HLT, and the loop goes on.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// Reads CR2, CR3 and CR4.
pub fn control_registers() -> (u64, u64, u64) {
    let (cr2, cr3, cr4): (u64, u64, u64);
    // SAFETY: reading changes nothing.
    unsafe {
        asm!("mov {}, cr2", "mov {}, cr3", "mov {}, cr4", out(reg) cr2, out(reg) cr3, out(reg) cr4, options(nomem, nostack, preserves_flags));
    }
    (cr2, cr3, cr4)
}

/// Reads the time stamp counter, not before what precedes it in the program.
pub fn rdtsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading the counter changes nothing.
    unsafe {
        asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// I/O ports.
pub mod port {
    use core::arch::asm;

    /// Reads a byte.
    pub fn inb(port: u16) -> u8 {
        let value: u8;
        // SAFETY: the callers name ports of devices that they own; no such
        // device writes memory on a read.
        unsafe {
            asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags))
        };
        value
    }

    /// Reads 32 bits.
    pub fn inl(port: u16) -> u32 {
        let value: u32;
        // SAFETY: as `inb`.
        unsafe {
            asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags))
        };
        value
    }

    /// Reads 16 bits.
    pub fn inw(port: u16) -> u16 {
        let value: u16;
        // SAFETY: as `inb`.
        unsafe {
            asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack, preserves_flags))
        };
        value
    }

    /// Writes a byte.
    ///
    /// # Safety
    /// The device does not reach into the hypervisor's memory because of it.
    pub unsafe fn outb(port: u16, value: u8) {
        // SAFETY: the caller's promise.
        unsafe {
            asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags))
        };
    }

    /// Writes 16 bits.
    ///
    /// # Safety
    /// As [`outb`].
    pub unsafe fn outw(port: u16, value: u16) {
        // SAFETY: the caller's promise.
        unsafe {
            asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags))
        };
    }

    /// Writes 32 bits.
    ///
    /// # Safety
    /// As [`outb`].
    pub unsafe fn outl(port: u16, value: u32) {
        // SAFETY: the caller's promise.
        unsafe {
            asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags))
        };
    }

    /// Writes all of `bytes` to one port, in one instruction.
    ///
    /// # Safety
    /// As [`outb`].
    pub unsafe fn outsb(port: u16, bytes: &[u8]) {
        // SAFETY: reads `bytes` only; the port is the caller's promise.
        unsafe {
            asm!(
                "rep outsb",
                in("dx") port,
                inout("rsi") bytes.as_ptr() => _,
                inout("rcx") bytes.len() => _,
                options(readonly, nostack, preserves_flags),
            );
        }
    }
}
