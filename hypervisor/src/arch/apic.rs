//! Local APICs, the I/O APIC as far as the serial line needs it, and what
//! becomes of each interrupt vector.
//!
//! Invariants: interrupt handlers take no locks and are short; what is to be
//! done goes into a soft interrupt. A register access is one instruction, so
//! a handler may write the interrupt command register between two of ours only
//! where interrupts are on: [`send`] turns them off.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use overcast_core::ids::CpuId;
use overcast_drivers::acpi::InterruptOverride;

use crate::arch::cpu::{self, port};
use crate::arch::percpu::{self, SoftIrq};
use crate::arch::registers::Registers;
use crate::arch::{acpi, memory, msr, panic, serial, smp, time, tlb};

/// The serial line's receiver; also where the 8259s would deliver its ISA interrupt 4.
pub const VECTOR_SERIAL: u8 = 0x24;
/// The local timer.
pub const VECTOR_TIMER: u8 = 0xfa;
/// Another CPU wants a function called here.
pub const VECTOR_CALL: u8 = 0xfb;
/// Another CPU raised a soft interrupt here.
pub const VECTOR_KICK: u8 = 0xfc;
/// Another CPU wants this one's TLB flushed.
pub const VECTOR_TLB_FLUSH: u8 = 0xfd;
/// The local APIC met an error.
pub const VECTOR_ERROR: u8 = 0xfe;
/// No interrupt after all; not acknowledged.
pub const VECTOR_SPURIOUS: u8 = 0xff;

const MSR_APIC_BASE: u32 = 0x1b;
const APIC_BASE_ENABLE: u64 = 1 << 11;
const APIC_BASE_X2APIC: u64 = 1 << 10;
const MSR_X2APIC: u32 = 0x800;
const MSR_TSC_DEADLINE: u32 = 0x6e0;

/// Offsets of registers in the xAPIC's page; the x2APIC's MSR is 0x800 + offset / 16.
mod reg {
    pub const ID: u32 = 0x20;
    pub const TPR: u32 = 0x80;
    pub const EOI: u32 = 0xb0;
    pub const LDR: u32 = 0xd0;
    pub const DFR: u32 = 0xe0;
    pub const SVR: u32 = 0xf0;
    pub const ISR: u32 = 0x100;
    pub const ESR: u32 = 0x280;
    pub const ICR: u32 = 0x300;
    pub const ICR_HIGH: u32 = 0x310;
    pub const LVT_TIMER: u32 = 0x320;
    pub const LVT_THERMAL: u32 = 0x330;
    pub const LVT_PERFORMANCE: u32 = 0x340;
    pub const LVT_LINT0: u32 = 0x350;
    pub const LVT_LINT1: u32 = 0x360;
    pub const LVT_ERROR: u32 = 0x370;
    pub const TIMER_INITIAL: u32 = 0x380;
    pub const TIMER_CURRENT: u32 = 0x390;
    pub const TIMER_DIVIDE: u32 = 0x3e0;
}

const LVT_MASKED: u32 = 1 << 16;
const LVT_NMI: u32 = 4 << 8;
const LVT_EXTINT: u32 = 7 << 8;
const LVT_TSC_DEADLINE: u32 = 2 << 17;
const DELIVERY_NMI: u32 = 4 << 8;
const DELIVERY_INIT: u32 = 5 << 8;
const DELIVERY_STARTUP: u32 = 6 << 8;
const ICR_PENDING: u32 = 1 << 12;
const ICR_ASSERT: u32 = 1 << 14;
/// Divide configuration register: by [`DIVIDER`].
const DIVIDE_BY_4: u32 = 0b0001;

static X2APIC: AtomicBool = AtomicBool::new(false);
/// Where the xAPIC's page is mapped.
static REGISTERS: AtomicU64 = AtomicU64::new(0);
/// Whether the timer takes TSC values.
static DEADLINE: AtomicBool = AtomicBool::new(false);
/// Ticks of the divided timer a second; 0 until measured.
static TIMER_HZ: AtomicU64 = AtomicU64::new(0);
/// Whether the serial line's interrupt comes through the 8259s.
static SERIAL_BY_8259: AtomicBool = AtomicBool::new(false);
static ERRORS: AtomicU32 = AtomicU32::new(0);
static UNEXPECTED: AtomicU32 = AtomicU32::new(0);

fn read(register: u32) -> u32 {
    if X2APIC.load(Ordering::Relaxed) {
        return msr::read(MSR_X2APIC + (register >> 4)) as u32;
    }
    let page = REGISTERS.load(Ordering::Relaxed);
    if page == 0 {
        return 0;
    }
    // SAFETY: the page is mapped uncached for ever; reading these registers has no side effects.
    unsafe { ((page + u64::from(register)) as *const u32).read_volatile() }
}

fn write(register: u32, value: u32) {
    if X2APIC.load(Ordering::Relaxed) {
        // SAFETY: only architectural registers of the local APIC are named here.
        unsafe { msr::write(MSR_X2APIC + (register >> 4), u64::from(value)) };
        return;
    }
    let page = REGISTERS.load(Ordering::Relaxed);
    if page != 0 {
        // SAFETY: the page is mapped uncached for ever, and the registers are the APIC's own.
        unsafe { ((page + u64::from(register)) as *mut u32).write_volatile(value) };
    }
}

/// Finds the local APIC of the boot CPU and how to reach it. Needs ACPI (for
/// its address) and the page tables.
///
/// # Errors
/// `NoMemory` if the registers cannot be mapped.
pub fn init() -> overcast_core::error::Result<()> {
    let base = msr::read(MSR_APIC_BASE);
    let x2apic = base & APIC_BASE_X2APIC != 0 || cpu::features().x2apic;
    X2APIC.store(x2apic, Ordering::Release);
    if !x2apic {
        let told = acpi::info()
            .and_then(|info| info.madt.as_ref())
            .map(|madt| madt.local_apic_address)
            .filter(|&address| address != 0);
        let address = told.unwrap_or(base & 0x000f_ffff_ffff_f000);
        let page = memory::ioremap(address, 4096, false)?;
        REGISTERS.store(page.as_ptr() as u64, Ordering::Release);
    }
    mask_8259();
    enable();
    DEADLINE.store(cpu::features().tsc_deadline, Ordering::Release);
    Ok(())
}

/// Sets up the local APIC of this CPU. The boot CPU measures the timer afterwards
/// ([`calibrate_timer`]).
pub fn init_this() {
    enable();
    write(reg::TPR, 0);
    if !X2APIC.load(Ordering::Relaxed) {
        write(reg::DFR, 0xffff_ffff);
        write(reg::LDR, 0);
    }
    write(reg::LVT_TIMER, LVT_MASKED);
    write(reg::LVT_THERMAL, LVT_MASKED);
    write(reg::LVT_PERFORMANCE, LVT_MASKED);
    write(reg::LVT_LINT0, LVT_MASKED);
    write(reg::LVT_LINT1, LVT_NMI);
    write(reg::LVT_ERROR, u32::from(VECTOR_ERROR));
    write(reg::ESR, 0);
    // What the firmware left in service would hold ours back.
    for word in 0..8 {
        for _ in 0..read(reg::ISR + word * 16).count_ones() {
            write(reg::EOI, 0);
        }
    }
    write(reg::TIMER_DIVIDE, DIVIDE_BY_4);
    write(reg::TIMER_INITIAL, 0);
    if DEADLINE.load(Ordering::Relaxed) {
        write(reg::LVT_TIMER, LVT_TSC_DEADLINE | u32::from(VECTOR_TIMER));
        // The mode is to be in force before the first deadline (Intel SDM
        // volume 3, 10.5.4.1).
        // SAFETY: a fence changes nothing.
        unsafe { core::arch::asm!("mfence", options(nostack, preserves_flags)) };
    } else {
        write(reg::LVT_TIMER, u32::from(VECTOR_TIMER));
    }
}

fn enable() {
    let x2apic = X2APIC.load(Ordering::Relaxed);
    let base = msr::read(MSR_APIC_BASE);
    // The xAPIC comes before the x2APIC; from off to x2APIC at once is not allowed.
    // SAFETY: enabling the local APIC at its address is what this module is for.
    unsafe {
        if base & APIC_BASE_ENABLE == 0 {
            msr::write(MSR_APIC_BASE, base | APIC_BASE_ENABLE);
        }
        if x2apic && base & APIC_BASE_X2APIC == 0 {
            msr::write(MSR_APIC_BASE, base | APIC_BASE_ENABLE | APIC_BASE_X2APIC);
        }
    }
    write(reg::SVR, 0x100 | u32::from(VECTOR_SPURIOUS));
}

/// Moves the 8259s' vectors out of the exceptions' way and masks all their lines.
fn mask_8259() {
    const SEQUENCE: [(u16, u8); 10] = [
        (0x21, 0xff),
        (0xa1, 0xff),
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 0x04),
        (0x21, 0x01),
        (0xa0, 0x11),
        (0xa1, 0x28),
        (0xa1, 0x02),
        (0xa1, 0x01),
    ];
    for (port, value) in SEQUENCE.into_iter().chain([(0x21, 0xff), (0xa1, 0xff)]) {
        // SAFETY: the interrupt controllers' own ports; where there are none,
        // nothing hears it.
        unsafe { port::outb(port, value) };
    }
}

/// This CPU's local APIC id.
pub fn local_id() -> u32 {
    if X2APIC.load(Ordering::Relaxed) {
        read(reg::ID)
    } else {
        read(reg::ID) >> 24
    }
}

/// Whether APIC ids above 254 can be reached.
pub fn is_x2apic() -> bool {
    X2APIC.load(Ordering::Relaxed)
}

/// How the timer and the APIC are used, for the log.
pub fn description() -> (&'static str, &'static str) {
    let timer = if DEADLINE.load(Ordering::Relaxed) {
        "TSC deadline"
    } else {
        "one-shot"
    };
    (if is_x2apic() { "x2APIC" } else { "xAPIC" }, timer)
}

/// By what the timer's input is divided.
pub const DIVIDER: u32 = 4;

/// Lets the timer run freely, to measure time by it before there is a clock.
pub fn start_counter() {
    write(reg::LVT_TIMER, LVT_MASKED | u32::from(VECTOR_TIMER));
    write(reg::TIMER_DIVIDE, DIVIDE_BY_4);
    write(reg::TIMER_INITIAL, u32::MAX);
}

/// Ticks since [`start_counter`].
pub fn read_counter(_: u64) -> u64 {
    u64::from(u32::MAX - read(reg::TIMER_CURRENT))
}

/// Measures the timer against the TSC. Gives its rate in Hz, after division;
/// 0 if the timer takes TSC values and needs no rate.
pub fn calibrate_timer() -> u64 {
    if DEADLINE.load(Ordering::Relaxed) {
        return 0;
    }
    if let Some(hz) = time::apic_bus_hz() {
        let hz = hz / u64::from(DIVIDER);
        TIMER_HZ.store(hz, Ordering::Release);
        return hz;
    }
    write(reg::LVT_TIMER, LVT_MASKED | u32::from(VECTOR_TIMER));
    // The best of a few: what disturbs only makes a window wrong, not all alike.
    let mut rates = [0u64; 3];
    for rate in &mut rates {
        write(reg::TIMER_INITIAL, u32::MAX);
        let start = cpu::rdtsc();
        let before = read(reg::TIMER_CURRENT);
        let start_end = cpu::rdtsc();
        time::delay_ns(1_000_000);
        let stop = cpu::rdtsc();
        let after = read(reg::TIMER_CURRENT);
        let stop_end = cpu::rdtsc();
        let ns = time::tsc_to_ns((stop / 2 + stop_end / 2).wrapping_sub(start / 2 + start_end / 2));
        let ticks = u64::from(before.saturating_sub(after));
        *rate = ticks.saturating_mul(1_000_000_000) / ns.max(1);
    }
    write(reg::TIMER_INITIAL, 0);
    write(reg::LVT_TIMER, u32::from(VECTOR_TIMER));
    rates.sort_unstable();
    let hz = rates[1].max(1);
    TIMER_HZ.store(hz, Ordering::Release);
    hz
}

/// Sets this CPU's timer to the system time `deadline` (ns). A
/// time in the past fires at once. It may fire too early when the deadline is
/// further off than the hardware counts: look at the time, and set it again.
pub fn set_timer(deadline: u64) {
    if DEADLINE.load(Ordering::Relaxed) {
        // 0 would stop the timer; the least that fires is 1.
        let value = time::ns_to_tsc(deadline).max(1);
        // SAFETY: the deadline register exists (CPUID) and only times our interrupt.
        unsafe { msr::write(MSR_TSC_DEADLINE, value) };
        return;
    }
    let delta = u128::from(deadline.saturating_sub(time::now()));
    let hz = u128::from(TIMER_HZ.load(Ordering::Relaxed));
    let ticks = (delta * hz).div_ceil(1_000_000_000);
    let count = u32::try_from(ticks).unwrap_or(u32::MAX).max(1);
    write(reg::TIMER_INITIAL, count);
}

/// Writes the interrupt command register, with interrupts off.
fn send(apic_id: u32, command: u32) {
    cpu::without_interrupts(|| {
        if X2APIC.load(Ordering::Relaxed) {
            // What was written to memory is seen before the interrupt arrives:
            // WRMSR to the x2APIC does not order it by itself.
            // SAFETY: fences have no effect on memory's contents; the ICR is the APIC's.
            unsafe {
                core::arch::asm!("mfence", "lfence", options(nostack, preserves_flags));
                msr::write(
                    MSR_X2APIC + (reg::ICR >> 4),
                    u64::from(apic_id) << 32 | u64::from(command),
                );
            }
            return;
        }
        wait_sent();
        write(reg::ICR_HIGH, apic_id << 24);
        write(reg::ICR, command);
    });
}

fn wait_sent() {
    // Bounded: a broken APIC must not hang a panic.
    for _ in 0..1_000_000 {
        if read(reg::ICR) & ICR_PENDING == 0 {
            break;
        }
        core::hint::spin_loop();
    }
}

/// Interrupts another CPU (or this one) with `vector`. CPUs that were never
/// prepared are passed over.
pub fn send_ipi(cpu: CpuId, vector: u8) {
    if let Some(target) = percpu::get(cpu) {
        send(target.apic_id, ICR_ASSERT | u32::from(vector));
    }
}

/// Makes a CPU look at its soft interrupts.
pub fn kick(cpu: CpuId) {
    send_ipi(cpu, VECTOR_KICK);
}

/// Sends an NMI to a CPU.
pub fn send_nmi(cpu: CpuId) {
    if let Some(target) = percpu::get(cpu) {
        send(target.apic_id, ICR_ASSERT | DELIVERY_NMI);
    }
}

/// Resets a CPU; it then waits for [`send_startup`].
pub fn send_init(apic_id: u32) {
    send(apic_id, ICR_ASSERT | DELIVERY_INIT);
}

/// Starts a CPU that was reset, in real mode at `page` * 4096.
pub fn send_startup(apic_id: u32, page: u8) {
    send(apic_id, ICR_ASSERT | DELIVERY_STARTUP | u32::from(page));
}

fn eoi() {
    write(reg::EOI, 0);
}

/// Handles an interrupt: vectors from 32 on. Interrupts are off.
pub fn handle_vector(vector: u8) {
    match vector {
        VECTOR_SPURIOUS => {}
        VECTOR_TIMER => {
            eoi();
            percpu::this().raise(SoftIrq::Timer);
        }
        VECTOR_TLB_FLUSH => {
            eoi();
            tlb::serve();
        }
        // The sender has raised what it wants already.
        VECTOR_KICK => eoi(),
        VECTOR_CALL => {
            eoi();
            smp::serve_call();
        }
        VECTOR_SERIAL => {
            serial::interrupt();
            if SERIAL_BY_8259.load(Ordering::Relaxed) {
                // SAFETY: acknowledges the interrupt at the controller that sent it.
                unsafe { port::outb(0x20, 0x20) };
            } else {
                eoi();
            }
            percpu::this().raise(SoftIrq::Console);
        }
        VECTOR_ERROR => {
            write(reg::ESR, 0);
            let status = read(reg::ESR);
            eoi();
            if ERRORS.fetch_add(1, Ordering::Relaxed) < 8 {
                log::error!("APIC error on CPU{}: {status:#x}", percpu::this().cpu);
            }
        }
        // The 8259s' vectors: masked, so a spurious one at most.
        0x20..=0x2f => {}
        _ => {
            eoi();
            if !crate::io::interrupt(vector) && UNEXPECTED.fetch_add(1, Ordering::Relaxed) < 8 {
                log::warn!("Unexpected interrupt vector {vector:#x}");
            }
        }
    }
}

/// Handles an NMI: another CPU's panic stops this one; others are counted and reported.
pub fn handle_nmi(_registers: &mut Registers) {
    if panic::stopping() {
        panic::stop_this();
    }
    // System control port B: bit 7 memory parity, bit 6 I/O check.
    let reason = port::inb(0x61);
    if reason != 0xff && reason & 0xc0 != 0 {
        // SAFETY: clears and re-enables the two latches.
        unsafe {
            port::outb(0x61, (reason & 0x0f) | 0x0c);
            port::outb(0x61, reason & 0x03);
        }
        log::error!("NMI: reason {reason:#x} on CPU{}", percpu::this().cpu);
    } else {
        log::warn!("NMI without a reason on CPU{}", percpu::this().cpu);
    }
}

/// Routes an ISA interrupt (the serial line's) to the boot CPU, as
/// [`VECTOR_SERIAL`]. `false` if there is no way: the line must be polled.
pub fn route_serial(irq: u8) -> bool {
    if irq == 0 || irq > 15 {
        return false;
    }
    let madt = acpi::info().and_then(|info| info.madt.as_ref());
    if let Some(madt) = madt
        && let wiring = madt.isa_interrupt(irq)
        && let Some(io) = madt.io_apic_of(wiring.gsi)
        && let Ok(page) = memory::ioremap(u64::from(io.address), 0x20, false)
    {
        return route_io_apic(page.as_ptr() as u64, wiring.gsi - io.gsi_base, &wiring);
    }
    // The 8259s, through the local APIC's LINT0: only where their vector for
    // this interrupt is the one that is handled.
    if irq != VECTOR_SERIAL - 0x20 {
        return false;
    }
    SERIAL_BY_8259.store(true, Ordering::Release);
    write(reg::LVT_LINT0, LVT_EXTINT);
    // SAFETY: unmasks one line, whose interrupt is handled.
    unsafe { port::outb(0x21, !(1u8 << irq)) };
    true
}

fn route_io_apic(page: u64, pin: u32, wiring: &InterruptOverride) -> bool {
    let access = |index: u32, value: Option<u32>| -> u32 {
        // SAFETY: the select and data registers of an I/O APIC that the MADT
        // names, mapped uncached for ever; used by the boot CPU only.
        unsafe {
            (page as *mut u32).write_volatile(index);
            let data = (page + 0x10) as *mut u32;
            if let Some(value) = value {
                data.write_volatile(value);
            }
            data.read_volatile()
        }
    };
    let pins = (access(1, None) >> 16 & 0xff) + 1;
    let id = local_id();
    if pin >= pins || id > 0xff {
        return false;
    }
    for other in 0..pins {
        access(0x10 + other * 2, Some(1 << 16));
    }
    let mut low = u32::from(VECTOR_SERIAL);
    if wiring.active_low {
        low |= 1 << 13;
    }
    if wiring.level {
        low |= 1 << 15;
    }
    access(0x11 + pin * 2, Some(id << 24));
    access(0x10 + pin * 2, Some(low));
    true
}
