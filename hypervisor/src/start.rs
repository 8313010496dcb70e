//! From the loader to all CPUs running: the order in which the machine is set up.
//!
//! | step | what it needs |
//! |---|---|
//! | serial line, log | nothing |
//! | boot information | the boot's page tables |
//! | CPU features, memory, Rust heap | boot information |
//! | command line, console as it says | heap |
//! | ACPI tables | heap, page tables |
//! | local APIC | ACPI (its address) |
//! | time | ACPI, APIC (timers) |
//! | boot CPU's area, its stack, descriptor tables, APIC timer | all of the above |
//! | the other CPUs | APIC, time |

use alloc::vec::Vec;

use overcast_boot::{BootInfo, RangeKind};
use overcast_core::cmdline::{self, Console, Options, Severity};
use overcast_core::error::Result;
use overcast_core::ids::CpuId;
use overcast_core::machine::Memory;
use spin::Once;

use crate::arch::memory::{Machine, Range};
use crate::arch::percpu::SoftIrq;
use crate::arch::{
    acpi, apic, console, cpu, descriptors, heap, memory, paging, panic, percpu, serial, smp, time,
    tlb,
};
use crate::{boot, io, printk};

static OPTIONS: Once<Options> = Once::new();
static BOOT_INFO: Once<&'static BootInfo> = Once::new();

/// The command line's options.
pub fn options() -> &'static Options {
    OPTIONS.call_once(|| cmdline::parse(b"").0)
}

/// What the loader said.
pub fn boot_info() -> &'static BootInfo {
    match BOOT_INFO.get() {
        Some(info) => info,
        None => panic::bug("boot information used before it was read"),
    }
}

/// A failure of the boot: says why, and stops (or restarts) the machine.
pub fn fail(reason: core::fmt::Arguments<'_>) -> ! {
    printk!("");
    printk!("****************************************");
    printk!("Panic on CPU 0: {reason}");
    printk!("****************************************");
    if panic::noreboot() {
        printk!("Manual reset required ('noreboot' specified)");
        cpu::halt();
    }
    printk!("Rebooting in 5 seconds...");
    time::delay_ns(5_000_000_000);
    panic::machine_restart()
}

/// Sets up everything up to the boot CPU's own stack, and goes on at `next` on it.
///
/// # Safety
/// Runs once, on the boot CPU, as the boot assembly leaves it.
pub unsafe fn start(
    protocol: u32,
    info: u64,
    frame_info_size: usize,
    next: unsafe extern "C" fn(u64) -> !,
) -> ! {
    serial::init(&serial::Config::COM1);
    console::init();
    // SAFETY: the caller's promise.
    let (info, read) = unsafe { boot::read(protocol, info) };
    // Options that matter before the heap is there to parse them all.
    early_options(info.command_line());
    if let Err(error) = read {
        fail(format_args!("{error}"));
    }
    cpu::init_features(&early_cpu_options(info.command_line()));
    if let Err(error) = init_memory(info, frame_info_size) {
        fail(format_args!("Setting up memory: {error:?}"));
    }
    BOOT_INFO.call_once(|| info);
    printk!(
        "Overcast {} ({}), loader: {}",
        env!("CARGO_PKG_VERSION"),
        info.protocol().name(),
        info.loader()
    );
    printk!("Command line: {}", info.command_line());
    init_options(info);
    print_memory_map(info);
    let root = info.acpi().map(|root| acpi::Root {
        rsdt: root.rsdt.map(u64::from),
        xsdt: root.xsdt,
    });
    acpi::init(root);
    acpi::prepare_power();
    if let Err(error) = apic::init() {
        fail(format_args!("No local APIC: {error:?}"));
    }
    time::init();
    let (megahertz, kilohertz) = (time::tsc_hz() / 1_000_000, time::tsc_hz() / 1000 % 1000);
    printk!(
        "Detected {megahertz}.{kilohertz:03} MHz processor ({}).",
        time::source()
    );
    let boot_cpu = CpuId(0);
    if let Err(error) = smp::prepare_area(boot_cpu, apic::local_id()) {
        fail(format_args!("No memory for the boot CPU's area: {error:?}"));
    }
    let stack = percpu::guest_frame_address(boot_cpu) & !15;
    // SAFETY: `prepare_area` mapped the stack, and nobody is on it.
    unsafe { crate::arch::entry::on_stack(stack, next, 0) }
}

/// Sets up this CPU, on its own stack: control registers, descriptor tables,
/// APIC. Interrupts stay off.
pub fn init_cpu(cpu: CpuId) {
    cpu::init_this();
    let Some(area) = smp::area(cpu) else {
        panic::bug("a CPU without an area");
    };
    let (Some(_), Some(_)) = (Machine.frame(area.gdt), Machine.frame(area.stub)) else {
        panic::bug("a CPU's area is not RAM");
    };
    // SAFETY: both frames were made for this CPU, are mapped by the direct map,
    // and nobody else writes them.
    unsafe {
        descriptors::load(
            cpu,
            descriptors::allocate_tables(),
            &mut *(memory::direct(area.gdt) as *mut [u64; 512]),
            &mut *(memory::direct(area.stub) as *mut [u8; 4096]),
        );
    }
    apic::init_this();
    tlb::set_online();
}

/// Sets up the boot CPU, then the others, which run `secondary` once they are
/// set up. Interrupts are on afterwards.
pub fn init_cpus(secondary: fn(CpuId) -> !) {
    init_cpu(CpuId(0));
    percpu::set_online();
    let timer_hz = apic::calibrate_timer();
    let (mode, timer) = apic::description();
    printk!("{mode}, {timer} timer{}", Rate(timer_hz));
    let mut polled = false;
    if apic::route_serial(options_com().irq) {
        serial::enable_interrupt();
    } else {
        log::warn!("Serial line: no interrupt, it is polled");
        polled = true;
    }
    cpu::enable_interrupts();
    let limit = if options().nosmp {
        1
    } else {
        options().maxcpus.unwrap_or(u32::MAX).max(1)
    };
    smp::start_all(limit, secondary);
    time::end_tsc_comparison(options().tsc_unstable);
    printk!("Brought up {} CPUs", percpu::online_count());
    if polled && let Err(error) = poll_serial() {
        log::error!("Serial line: it cannot be polled: {error:?}");
    }
}

/// The task that looks at a serial line without an interrupt.
static SERIAL_POLL: Once<io::Task> = Once::new();
/// How often, ns: as fast as people type, and a FIFO's 16 bytes at 9600 baud.
const SERIAL_POLL_PERIOD: u64 = 15_000_000;

fn poll_serial() -> Result<()> {
    let task = SERIAL_POLL.try_call_once(|| {
        io::Task::new(|| {
            serial::interrupt();
            percpu::this().raise(SoftIrq::Console);
            if let Some(task) = SERIAL_POLL.get() {
                io::raise_at(task.id(), time::now().saturating_add(SERIAL_POLL_PERIOD));
            }
            io::Progress::Done
        })
    })?;
    task.raise();
    Ok(())
}

struct Rate(u64);

impl core::fmt::Display for Rate {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0 {
            0 => Ok(()),
            hz => write!(f, " at {}.{:03} MHz", hz / 1_000_000, hz / 1000 % 1000),
        }
    }
}

/// The serial line in use as the options say.
fn options_com() -> cmdline::SerialPort {
    let options = options();
    if options.console.first() == Some(&Console::Com2) {
        options.com2
    } else {
        options.com1
    }
}

/// Whether a word of the command line is given, before there is a heap.
fn has_word(line: &str, word: &str) -> bool {
    line.split_ascii_whitespace().any(|given| given == word)
}

fn early_options(line: &str) {
    panic::set_noreboot(has_word(line, "noreboot"));
}

/// CPU features are looked at before the heap is there, so their options are
/// found by hand; the parser reports what is malformed.
fn early_cpu_options(line: &str) -> cpu::Options {
    let on = |name: &str| {
        let mut value = true;
        for word in line.split_ascii_whitespace() {
            if word.strip_prefix("no-") == Some(name) {
                value = false;
            } else if let Some(rest) = word.strip_prefix(name) {
                match rest {
                    "" | "=1" | "=yes" | "=on" | "=true" | "=enable" => value = true,
                    "=0" | "=no" | "=off" | "=false" | "=disable" => value = false,
                    _ => {}
                }
            }
        }
        value
    };
    cpu::Options {
        smep: on("smep"),
        smap: on("smap"),
        fsgsbase: on("fsgsbase"),
        xsave: on("xsave"),
        x2apic: on("x2apic"),
        tdt: on("tdt"),
    }
}

/// `mem=`: RAM from this address on is not used.
fn early_memory_limit(line: &str) -> Option<u64> {
    let given = line
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix("mem="))
        .next_back()?;
    let end = given
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(given.len());
    let (digits, suffix) = given.split_at_checked(end)?;
    let shift = match suffix.as_bytes() {
        b"" | b"k" | b"K" => 10,
        b"m" | b"M" => 20,
        b"g" | b"G" => 30,
        b"t" | b"T" => 40,
        b"b" | b"B" => 0,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn init_memory(info: &BootInfo, frame_info_size: usize) -> overcast_core::error::Result<()> {
    let limit = early_memory_limit(info.command_line()).unwrap_or(u64::MAX);
    // Fixed room: there is no heap yet.
    let mut ram = [Range::default(); overcast_boot::MAX_RANGES];
    let mut count = 0;
    let usable = info
        .memory_map()
        .iter()
        .filter(|range| range.kind == RangeKind::Ram);
    for (slot, range) in ram.iter_mut().zip(usable) {
        *slot = Range::new(range.start, range.end.min(limit));
        count += 1;
    }
    let mut reserved = [Range::default(); overcast_boot::MAX_MODULES];
    for (slot, module) in reserved.iter_mut().zip(info.modules()) {
        *slot = Range::new(module.start, module.end);
    }
    memory::init(
        ram.get(..count).unwrap_or_default(),
        &reserved,
        frame_info_size,
    )
}

fn init_options(info: &BootInfo) {
    let (options, diagnostics) = cmdline::parse(info.command_line().as_bytes());
    panic::set_noreboot(options.noreboot);
    console::set_levels(options.loglvl, options.guest_loglvl);
    console::set_to_ring(options.console_to_ring);
    // The letter with control held.
    console::set_switch(options.conswitch & 0x1f);
    let options = OPTIONS.call_once(|| options);
    let com = options_com();
    let config = serial::Config {
        base: com.io_base,
        baud: com.baud,
        clock_hz: com.clock_hz,
        line: line_control(&com),
    };
    if options.console.is_empty() {
        serial::init(&serial::Config { base: 0, ..config });
    } else if config != serial::Config::COM1 {
        serial::init(&config);
    }
    for diagnostic in diagnostics {
        match diagnostic.severity {
            Severity::Error => log::error!("{}", diagnostic.message),
            Severity::Warning => log::warn!("{}", diagnostic.message),
            Severity::Info => log::info!("{}", diagnostic.message),
        }
    }
    if info.command_line_cut() {
        log::error!("The command line is too long, and was cut");
    }
}

fn line_control(com: &cmdline::SerialPort) -> u8 {
    use cmdline::Parity;
    let parity = match com.parity {
        Parity::None => 0,
        Parity::Odd => 1,
        Parity::Even => 3,
        Parity::Mark => 5,
        Parity::Space => 7,
    };
    com.data_bits.saturating_sub(5) & 3 | com.stop_bits.saturating_sub(1) << 2 & 4 | parity << 3
}

fn print_memory_map(info: &BootInfo) {
    printk!("Physical memory map:");
    for range in info.memory_map() {
        printk!(
            " [{:016x}, {:016x}] ({})",
            range.start,
            range.end.saturating_sub(1),
            range.kind.name()
        );
    }
    let heap_frames = memory::heap().free_frames();
    printk!(
        "System RAM: {} MiB ({} kB), {} MiB for guests",
        memory::total_frames() >> 8,
        memory::total_frames() << 2,
        heap_frames >> 8
    );
    log::info!(
        "Direct map: {} pages; hypervisor L4 at {:?}; Rust heap {:?}",
        if cpu::features().pages_1g {
            "1 GiB"
        } else {
            "2 MiB"
        },
        paging::idle_l4(),
        heap::usage()
    );
    let modules: Vec<_> = info.modules().iter().map(|m| (m.start, m.end)).collect();
    for (start, end) in modules {
        log::info!(
            "Module at {start:#x}, {} KiB",
            end.saturating_sub(start) >> 10
        );
    }
}
