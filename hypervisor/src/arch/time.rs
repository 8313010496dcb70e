//! System time: nanoseconds since boot, from the TSC.
//!
//! The rate of the TSC is taken from the first layer where it tells it, and
//! measured against a timer of known rate where it does not. The same numbers
//! go to guests (`vcpu_time_info`, xen.h), so that a guest's clock and the
//! hypervisor's never part.

use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use overcast_core::clock::{CmosTime, NS_PER_SECOND, TscScale};
use spin::Once;

use crate::arch::cpu::{self, port};
use crate::arch::{acpi, apic, memory, msr};

#[derive(Clone, Copy)]
struct Clock {
    /// TSC at system time 0.
    start: u64,
    hz: u64,
    scale: TscScale,
    source: &'static str,
}

static CLOCK: Once<Clock> = Once::new();
/// The TSCs of two CPUs were seen to disagree.
static WARPED: AtomicBool = AtomicBool::new(false);
/// The latest time given, kept only if [`WARPED`].
static LATEST: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds since 1970 at system time 0.
static WALLCLOCK: AtomicU64 = AtomicU64::new(0);

/// Leaves of a hypervisor's CPUID begin at one of these.
fn hypervisor_leaf(signature: &[u8; 12]) -> Option<u32> {
    if !cpu::features().hypervisor {
        return None;
    }
    (0x4000_0000u32..0x4001_0000).step_by(0x100).find(|&base| {
        let leaf = __cpuid(base);
        let words = [leaf.ebx, leaf.ecx, leaf.edx];
        let mut bytes = [0; 12];
        for (slot, word) in bytes.chunks_exact_mut(4).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        &bytes == signature
    })
}

/// Whether Hyper-V's interface tells frequencies (TLFS, 2.4.3).
fn hyperv_frequencies() -> bool {
    hypervisor_leaf(b"Microsoft Hv").is_some_and(|base| {
        let features = __cpuid(base + 3);
        features.eax >> 11 & 1 != 0 && features.edx >> 8 & 1 != 0
    })
}

/// The rate of the TSC, as CPUID or the first layer tells it.
fn told_hz() -> Option<(u64, &'static str)> {
    let plausible = |hz: u64| (50_000_000..=20_000_000_000).contains(&hz);
    if hyperv_frequencies() {
        const HV_X64_MSR_TSC_FREQUENCY: u32 = 0x4000_0022;
        let hz = msr::read(HV_X64_MSR_TSC_FREQUENCY);
        if plausible(hz) {
            return Some((hz, "Hyper-V"));
        }
    }
    if let Some(base) = hypervisor_leaf(b"XenVMMXenVMM")
        && __cpuid(base).eax >= base + 3
    {
        let hz = u64::from(__cpuid_count(base + 3, 0).ecx) * 1000;
        if plausible(hz) {
            return Some((hz, "Xen"));
        }
    }
    // The timing leaf that VMware introduced and others give (QEMU's vmware-cpuid-freq).
    if cpu::features().hypervisor && (0x4000_0010..0x4001_0000).contains(&__cpuid(0x4000_0000).eax)
    {
        let hz = u64::from(__cpuid(0x4000_0010).eax) * 1000;
        if plausible(hz) {
            return Some((hz, "CPUID 0x40000010"));
        }
    }
    if let Some(hz) = kvm_hz().filter(|&hz| plausible(hz)) {
        return Some((hz, "KVM clock"));
    }
    if cpu::features().max_leaf >= 0x15 {
        let leaf = __cpuid(0x15);
        let crystal = u64::from(leaf.ecx);
        if leaf.eax != 0 && leaf.ebx != 0 && crystal != 0 {
            let hz = crystal * u64::from(leaf.ebx) / u64::from(leaf.eax);
            if plausible(hz) {
                return Some((hz, "CPUID 0x15"));
            }
        }
    }
    None
}

/// The rate of the TSC from KVM's paravirtual clock (a scale, from which the
/// rate follows).
fn kvm_hz() -> Option<u64> {
    const MSR_KVM_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
    let base = hypervisor_leaf(b"KVMKVMKVM\0\0\0")?;
    if __cpuid(base + 1).eax >> 3 & 1 == 0 {
        return None;
    }
    let mfn = memory::alloc_zeroed().ok()?;
    let area = memory::direct(mfn) as *const u32;
    // SAFETY: the MSR takes the address of a structure in RAM, in a frame that
    // is ours and stays so until the clock is off again; KVM writes 32 bytes.
    let (mul, shift) = unsafe {
        msr::write(MSR_KVM_SYSTEM_TIME_NEW, mfn.address().0 | 1);
        // pvclock_vcpu_time_info: tsc_to_system_mul at 24, tsc_shift at 28.
        let mul = area.add(6).read_volatile();
        let shift = area.add(7).read_volatile() as u8 as i8;
        msr::write(MSR_KVM_SYSTEM_TIME_NEW, 0);
        (mul, shift)
    };
    memory::free_frames(mfn, 0);
    if mul == 0 || !(-31..=31).contains(&shift) {
        return None;
    }
    let hz = (u128::from(NS_PER_SECOND) << 32) / u128::from(mul);
    let hz = if shift < 0 {
        hz << shift.unsigned_abs()
    } else {
        hz >> shift.unsigned_abs()
    };
    u64::try_from(hz).ok()
}

/// A timer of known rate that counts up.
struct Reference {
    name: &'static str,
    hz: u64,
    /// The bits that it has.
    mask: u64,
    /// How long it can be watched without wrapping around twice, ns.
    window_ns: u64,
    /// What is read: `(kind, port or address)`.
    read: fn(u64) -> u64,
    place: u64,
}

const PM_TIMER_HZ: u64 = 3_579_545;
const PIT_HZ: u64 = 1_193_182;

fn read_pm_timer(port: u64) -> u64 {
    u64::from(port::inl(port as u16))
}

fn read_pit(_: u64) -> u64 {
    // SAFETY: latches and reads channel 2 of the interval timer, which nothing else uses.
    unsafe { port::outb(0x43, 0x80) };
    let low = port::inb(0x42);
    let high = port::inb(0x42);
    // It counts down from 0xffff.
    u64::from(0xffff - (u16::from(high) << 8 | u16::from(low)))
}

fn start_pit() {
    // SAFETY: channel 2 (speaker off, gate on), mode 0, counting down from 0xffff.
    unsafe {
        port::outb(0x61, (port::inb(0x61) & 0x0c) | 1);
        port::outb(0x43, 0xb0);
        port::outb(0x42, 0xff);
        port::outb(0x42, 0xff);
    }
}

fn read_hpet(base: u64) -> u64 {
    // SAFETY: the main counter of the HPET, mapped uncached.
    u64::from(unsafe { ((base + 0xf0) as *const u32).read_volatile() })
}

fn pm_timer() -> Option<Reference> {
    let (port, wide) = acpi::info()?.fadt?.pm_timer?;
    Some(Reference {
        name: "ACPI PM timer",
        hz: PM_TIMER_HZ,
        mask: if wide { u32::MAX.into() } else { 0x00ff_ffff },
        window_ns: 20_000_000,
        read: read_pm_timer,
        place: u64::from(port),
    })
}

fn hpet() -> Option<Reference> {
    let address = acpi::info()?.hpet?;
    let base = memory::ioremap(address, 4096, false).ok()?.as_ptr() as u64;
    // SAFETY: the HPET's capability and configuration registers, mapped uncached.
    let period_fs = unsafe {
        let period = ((base + 4) as *const u32).read_volatile();
        let config = (base + 0x10) as *mut u32;
        config.write_volatile(config.read_volatile() | 1);
        u64::from(period)
    };
    // At most 100 ns a tick (IA-PC HPET specification, 2.3.4).
    (100_000..=100_000_000)
        .contains(&period_fs)
        .then(|| Reference {
            name: "HPET",
            hz: 1_000_000_000_000_000 / period_fs,
            mask: u32::MAX.into(),
            window_ns: 20_000_000,
            read: read_hpet,
            place: base,
        })
}

fn pit() -> Reference {
    start_pit();
    Reference {
        name: "PIT",
        hz: PIT_HZ,
        mask: 0xffff,
        window_ns: 30_000_000,
        read: read_pit,
        place: 0,
    }
}

/// The local APIC's timer: the emulations of QEMU and KVM count at 1 GHz. For
/// machines without any other timer.
fn local_apic() -> Option<Reference> {
    if !cpu::features().hypervisor {
        return None;
    }
    apic::start_counter();
    Some(Reference {
        name: "local APIC, taken for 1 GHz",
        hz: 1_000_000_000 / u64::from(apic::DIVIDER),
        mask: u32::MAX.into(),
        window_ns: 20_000_000,
        read: apic::read_counter,
        place: 0,
    })
}

/// Reads timer and TSC together: the pair whose reading took the least time of a few.
fn sample(reference: &Reference) -> (u64, u64) {
    let mut best = (u64::MAX, 0, 0);
    for _ in 0..8 {
        let before = cpu::rdtsc();
        let ticks = (reference.read)(reference.place);
        let took = cpu::rdtsc().wrapping_sub(before);
        if took < best.0 {
            best = (took, ticks, before.wrapping_add(took / 2));
        }
    }
    (best.1, best.2)
}

/// Measures the TSC against a timer; `None` if the timer does not run.
fn measure(reference: &Reference) -> Option<u64> {
    let (first, tsc_first) = sample(reference);
    let wanted = reference.hz * (reference.window_ns / 1_000_000) / 1000;
    let mut polls = 0u32;
    loop {
        let now = (reference.read)(reference.place);
        if now.wrapping_sub(first) & reference.mask >= wanted {
            break;
        }
        polls += 1;
        // Under an emulator that counts instructions each poll takes
        // nanoseconds, so the bound is far beyond any window.
        if polls > 200_000_000 || (polls == 100_000 && now == first) {
            return None;
        }
    }
    let (last, tsc_last) = sample(reference);
    let ticks = last.wrapping_sub(first) & reference.mask;
    let tsc = tsc_last.wrapping_sub(tsc_first);
    let hz = u128::from(tsc) * u128::from(reference.hz) / u128::from(ticks.max(1));
    u64::try_from(hz).ok().filter(|&hz| hz >= 1_000_000)
}

/// Sets up system time. Needs ACPI's tables (for the timers), the local APIC and
/// the heap.
///
/// Without any timer that runs, the rate is a guess, and a warning says so.
pub fn init() {
    let told = told_hz();
    let found = told.or_else(|| {
        [
            pm_timer as fn() -> Option<Reference>,
            || Some(pit()),
            hpet,
            local_apic,
        ]
        .into_iter()
        .find_map(|make| {
            let reference = make()?;
            Some((measure(&reference)?, reference.name))
        })
    });
    let (hz, source) = found.unwrap_or_else(|| {
        log::error!("Time: no timer to measure the TSC against; taking it for 1 GHz");
        (1_000_000_000, "guess")
    });
    let scale = TscScale::from_hz(hz).unwrap_or(TscScale {
        mul: 1 << 31,
        shift: 1,
    });
    CLOCK.call_once(|| Clock {
        start: cpu::rdtsc(),
        hz,
        scale,
        source,
    });
    match read_rtc() {
        Some(seconds) => {
            let ns = seconds.saturating_mul(NS_PER_SECOND);
            WALLCLOCK.store(ns.saturating_sub(now()), Ordering::Release);
        }
        None => log::warn!("Time: no real-time clock; the date is that of 1970"),
    }
}

/// System time: nanoseconds since [`init`]; 0 before. Never goes back, on one
/// CPU or between CPUs.
#[inline]
pub fn now() -> u64 {
    let Some(clock) = CLOCK.get() else {
        return 0;
    };
    let ns = clock.scale.to_ns(cpu::rdtsc().saturating_sub(clock.start));
    if WARPED.load(Ordering::Relaxed) {
        return LATEST.fetch_max(ns, Ordering::AcqRel).max(ns);
    }
    ns
}

/// Whether the TSCs of all CPUs tell the same time.
pub fn is_stable() -> bool {
    !WARPED.load(Ordering::Relaxed)
}

/// The TSC value at a system time.
pub fn ns_to_tsc(ns: u64) -> u64 {
    CLOCK.get().map_or(u64::MAX, |clock| {
        clock.start.saturating_add(clock.scale.to_ticks(ns))
    })
}

/// The length of a number of TSC ticks in nanoseconds.
pub fn tsc_to_ns(ticks: u64) -> u64 {
    CLOCK.get().map_or(0, |clock| clock.scale.to_ns(ticks))
}

/// The system time at a TSC value, without regard to other CPUs.
pub fn at_tsc(tsc: u64) -> u64 {
    CLOCK.get().map_or(0, |clock| {
        clock.scale.to_ns(tsc.saturating_sub(clock.start))
    })
}

/// How TSC ticks become nanoseconds, for guests' `vcpu_time_info`.
pub fn scale() -> TscScale {
    CLOCK.get().map_or(
        TscScale {
            mul: 1 << 31,
            shift: 1,
        },
        |clock| clock.scale,
    )
}

/// The rate of the TSC in Hz.
pub fn tsc_hz() -> u64 {
    CLOCK.get().map_or(0, |clock| clock.hz)
}

/// What the rate of the TSC was taken from, for the log.
pub fn source() -> &'static str {
    CLOCK.get().map_or("nothing", |clock| clock.source)
}

/// Nanoseconds since 1970-01-01 UTC at system time 0.
pub fn wallclock_base() -> u64 {
    WALLCLOCK.load(Ordering::Acquire)
}

/// Waits, at least so long. Interrupts stay as they are.
pub fn delay_ns(ns: u64) {
    let end = now().saturating_add(ns);
    // No PAUSE: where a first layer runs its CPUs in turns, each would end this
    // CPU's turn, and short delays would take long.
    while now() < end && CLOCK.get().is_some() {}
}

/// The rate of the local APICs' bus, if the first layer tells it.
pub fn apic_bus_hz() -> Option<u64> {
    const HV_X64_MSR_APIC_FREQUENCY: u32 = 0x4000_0023;
    let plausible = |hz: &u64| (1_000_000..=10_000_000_000).contains(hz);
    if hyperv_frequencies() {
        return Some(msr::read(HV_X64_MSR_APIC_FREQUENCY)).filter(plausible);
    }
    if cpu::features().hypervisor && (0x4000_0010..0x4001_0000).contains(&__cpuid(0x4000_0000).eax)
    {
        return Some(u64::from(__cpuid(0x4000_0010).ebx) * 1000).filter(plausible);
    }
    // KVM's local APICs count at 1 GHz (KVM_APIC_BUS_FREQUENCY) unless told otherwise.
    hypervisor_leaf(b"KVMKVMKVM\0\0\0").map(|_| 1_000_000_000)
}

/// A CPU that just started says what its TSC was between two readings of the
/// boot CPU's; they must be in order.
pub fn check_tsc(before: u64, other: u64, after: u64) {
    if (other < before || other > after) && !WARPED.swap(true, Ordering::AcqRel) {
        log::warn!(
            "Time: TSCs disagree ({other:#x} is not within {before:#x}..{after:#x}); time is kept in step by hand"
        );
    }
}

fn cmos(register: u8) -> u8 {
    // SAFETY: selects a CMOS register (bit 7 clear: NMIs stay enabled) and reads
    // it; only the boot CPU does so, at boot.
    unsafe { port::outb(0x70, register) };
    port::inb(0x71)
}

/// Seconds since 1970 from the real-time clock.
fn read_rtc() -> Option<u64> {
    let century = acpi::info()
        .and_then(|info| info.fadt)
        .map(|fadt| fadt.century)
        .filter(|&register| (0x0e..0x80).contains(&register))
        .unwrap_or(0x32);
    let read = || CmosTime {
        second: cmos(0),
        minute: cmos(2),
        hour: cmos(4),
        day: cmos(7),
        month: cmos(8),
        year: cmos(9),
        century: cmos(century),
        status_b: cmos(0x0b),
    };
    // An update takes 2 ms at most: read until two readings without one agree.
    let end = now() + 20_000_000;
    while now() < end {
        match cmos(0x0a) {
            // Nothing answers.
            0xff => return None,
            status if status & 0x80 != 0 => continue,
            _ => {}
        }
        let first = read();
        if cmos(0x0a) & 0x80 == 0 && read() == first {
            return first.decode()?.to_unix();
        }
    }
    None
}
