//! The options there are: what they set, and the table of their names.

use alloc::string::String;
use alloc::vec::Vec;

use super::values::{
    Amount, LogLevel, LogThreshold, leading_number, parse_amount, parse_bool, parse_number,
    parse_size, set, set_bool, value_of,
};
use super::{Argument, Expected, OptionSpec};
use crate::cpuid::{Baseline, Identity, Level};
use crate::vdisk;

/// Where messages go and keys come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Console {
    /// First serial port.
    Com1,
    /// Second serial port.
    Com2,
    /// The first layer's own console (on Xen: its PV console).
    Pv,
}

/// Parity of a serial line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parity {
    /// `n`
    None,
    /// `o`
    Odd,
    /// `e`
    Even,
    /// `m`
    Mark,
    /// `s`
    Space,
}

/// How a serial port is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SerialPort {
    /// Bits a second; `None`: as the firmware left it.
    pub baud: Option<u32>,
    /// The UART's clock in Hz.
    pub clock_hz: u32,
    /// 5 to 8.
    pub data_bits: u8,
    /// Parity.
    pub parity: Parity,
    /// 1 or 2.
    pub stop_bits: u8,
    /// I/O port of its first register.
    pub io_base: u16,
    /// ISA interrupt; 0: the port is polled.
    pub irq: u8,
}

impl SerialPort {
    const fn at(io_base: u16, irq: u8) -> Self {
        Self {
            baud: Some(115_200),
            clock_hz: 1_843_200,
            data_bits: 8,
            parity: Parity::None,
            stop_bits: 1,
            io_base,
            irq,
        }
    }
}

/// Memory of the control domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Dom0Memory {
    /// What it is to have; `None`: all but 1/16, at most 128 MiB, of what there is.
    pub size: Option<Amount>,
    /// What it must have at least.
    pub min: Option<Amount>,
    /// What it may have at most, now and by ballooning; overrides `min`.
    pub max: Option<Amount>,
}

impl Dom0Memory {
    /// How many pages to build it with, and how many it may ever have
    /// (`u64::MAX`: no limit), when `available` pages are there for it.
    pub fn resolve(&self, available: u64) -> (u64, u64) {
        let reserve = (available / 16).min(128 << (20 - crate::addr::PAGE_SHIFT));
        let pages = match self.size.map(|size| size.pages(available)) {
            Some(pages) if pages != 0 => pages,
            _ => available.saturating_sub(reserve),
        };
        let min = self.min.map_or(0, |min| min.pages(available));
        let max = self.max.map_or(u64::MAX, |max| max.pages(available));
        (pages.max(min).min(max).min(available), max)
    }
}

/// How the machine is reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RebootMethod {
    /// The first that works.
    Default,
    /// Triple fault.
    Triple,
    /// Keyboard controller.
    Keyboard,
    /// Reset register of the ACPI FADT.
    Acpi,
    /// PCI reset register, port 0xcf9.
    Pci,
    /// PCI reset register, power cycle.
    Power,
    /// EFI runtime service.
    Efi,
    /// The hypercall of the Xen underneath.
    Xen,
}

/// What an NMI that nobody asked for does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NmiPolicy {
    /// Nothing.
    Ignore,
    /// Dom0 is told.
    Dom0,
    /// The hypervisor stops.
    Fatal,
}

/// The clock by which system time is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClockSource {
    /// The best there is.
    Default,
    /// PIT.
    Pit,
    /// HPET.
    Hpet,
    /// ACPI PM timer.
    Acpi,
    /// TSC.
    Tsc,
}

/// A CPU feature to be shown or hidden (`cpuid=`, `dom0-cpuid=`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FeatureChoice {
    /// The name as written, lower case, without `no-`.
    pub name: String,
    /// Shown.
    pub enable: bool,
}

/// All that the command line decides.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // The table says what each does.
pub struct Options {
    pub console: Vec<Console>,
    pub com1: SerialPort,
    pub com2: SerialPort,
    /// Which letter, with control held, three times, switches the input.
    pub conswitch: u8,
    /// Input goes to Dom0 as soon as it starts.
    pub conswitch_to_dom0: bool,
    pub sync_console: bool,
    pub console_to_ring: bool,
    /// In bytes.
    pub conring_size: u64,
    pub loglvl: LogThreshold,
    pub guest_loglvl: LogThreshold,
    pub dom0_mem: Dom0Memory,
    pub dom0_max_vcpus: (u32, u32),
    /// What CPU domains without a policy of their own are shown.
    pub cpu_baseline: Baseline,
    /// Whose model and name that CPU has.
    pub cpu_identity: Identity,
    /// Dom0 alone is started again after its end, if other domains live.
    pub dom0_restart: bool,
    pub dom0_vcpus_pin: bool,
    /// `dom0=verbose`
    pub dom0_verbose: bool,
    /// `dom0=msr-relaxed`
    pub dom0_msr_relaxed: bool,
    /// `dom0=cpuid-faulting`
    pub dom0_cpuid_faulting: bool,
    pub dom0_cpuid: Vec<FeatureChoice>,
    /// What follows `--`, for the Dom0 kernel.
    pub dom0_extra: String,
    pub cpuid: Vec<FeatureChoice>,
    pub noreboot: bool,
    pub reboot: RebootMethod,
    pub nosmp: bool,
    pub maxcpus: Option<u32>,
    /// In bytes; RAM beyond this address is not used.
    pub mem: Option<u64>,
    /// In bytes; no more RAM than this is used.
    pub availmem: Option<u64>,
    pub x2apic: bool,
    pub tdt: bool,
    pub smap: bool,
    pub smep: bool,
    pub umip: bool,
    pub fsgsbase: bool,
    pub pcid: bool,
    pub invpcid: bool,
    pub xsave: bool,
    pub mce: bool,
    pub watchdog: bool,
    /// In seconds.
    pub watchdog_timeout: u32,
    pub nmi: NmiPolicy,
    /// `tsc=unstable`: the TSCs of the CPUs may differ.
    pub tsc_unstable: bool,
    pub clocksource: ClockSource,
    /// In microseconds; 0: no limit.
    pub sched_ratelimit_us: u32,
    /// Dom0 has a network device for each card.
    pub dom0_net: bool,
    pub gnttab_max_ver: u32,
    pub gnttab_max_frames: u32,
    pub gnttab_max_maptrack_frames: u32,
    /// Virtual disks by name.
    pub vdisks: Vec<(String, vdisk::Spec)>,
    /// Dom0's disks: the device, and which virtual disk it is. `None`: all disks whole.
    pub dom0_disks: Option<Vec<(String, vdisk::Spec)>>,
    /// Grants are kept for frontends that use the same ones again and again.
    pub vbd_persistent: bool,
    /// Dom0 is connected to the hypervisor's xenstore; otherwise a server in Dom0 may be.
    /// `None`: if it is Linux.
    pub xenstore: Option<bool>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            console: alloc::vec![Console::Com1],
            com1: SerialPort::at(0x3f8, 4),
            com2: SerialPort::at(0x2f8, 3),
            conswitch: b'a',
            conswitch_to_dom0: true,
            sync_console: false,
            console_to_ring: false,
            conring_size: 16 << 10,
            loglvl: LogThreshold {
                always: LogLevel::Warning,
                limited: LogLevel::Warning,
            },
            guest_loglvl: LogThreshold {
                always: LogLevel::None,
                limited: LogLevel::Warning,
            },
            dom0_mem: Dom0Memory::default(),
            dom0_max_vcpus: (1, u32::MAX),
            cpu_baseline: Baseline::Auto,
            cpu_identity: Identity::Level,
            dom0_restart: true,
            dom0_vcpus_pin: false,
            dom0_verbose: false,
            dom0_msr_relaxed: false,
            dom0_cpuid_faulting: true,
            dom0_cpuid: Vec::new(),
            dom0_extra: String::new(),
            cpuid: Vec::new(),
            noreboot: false,
            reboot: RebootMethod::Default,
            nosmp: false,
            maxcpus: None,
            mem: None,
            availmem: None,
            x2apic: true,
            tdt: true,
            smap: true,
            smep: true,
            umip: true,
            fsgsbase: true,
            pcid: true,
            invpcid: true,
            xsave: true,
            mce: true,
            watchdog: false,
            watchdog_timeout: 5,
            nmi: NmiPolicy::Dom0,
            tsc_unstable: false,
            clocksource: ClockSource::Default,
            sched_ratelimit_us: 1000,
            dom0_net: true,
            gnttab_max_ver: 2,
            gnttab_max_frames: 64,
            gnttab_max_maptrack_frames: 1024,
            vdisks: Vec::new(),
            dom0_disks: None,
            vbd_persistent: false,
            xenstore: None,
        }
    }
}

impl Options {
    /// How many vCPUs Dom0 gets on a machine with `cpus` CPUs.
    pub fn dom0_vcpus(&self, cpus: u32) -> u32 {
        let (min, max) = self.dom0_max_vcpus;
        cpus.max(min).min(max).max(1)
    }

    /// How many CPUs are brought up of `cpus`.
    pub fn cpus_to_start(&self, cpus: u32) -> u32 {
        let limit = if self.nosmp {
            1
        } else {
            // Like Xen, 0 means one CPU.
            self.maxcpus.unwrap_or(u32::MAX).max(1)
        };
        cpus.min(limit)
    }
}

const CONSOLE: &str = "a list of com1, com2, vga, pv, or none";

fn console(options: &mut Options, argument: Argument<'_>) -> Result<(), Expected> {
    let mut list = Vec::new();
    for item in value_of(argument, CONSOLE)?.split(',') {
        let console = match item {
            "com1" => Console::Com1,
            "com2" => Console::Com2,
            "pv" | "xen" => Console::Pv,
            // No screen is driven; asking for one is no mistake.
            "none" | "vga" => continue,
            _ => return Err(Expected(CONSOLE)),
        };
        if !list.contains(&console) {
            list.push(console);
        }
    }
    options.console = list;
    Ok(())
}

const SERIAL: &str =
    "<baud>[/<clock_hz>]|auto[,<DPS>[,<io-base>[,<irq>]]], as in 115200,8n1,0x3f8,4";

fn parse_serial(text: &str, default: SerialPort) -> Option<SerialPort> {
    let mut port = default;
    let mut fields = text.split(',');
    let baud = fields.next().unwrap_or_default();
    if baud == "auto" {
        port.baud = None;
    } else if !baud.is_empty() {
        let (rate, rest) = leading_number(baud)?;
        port.baud = Some(u32::try_from(rate).ok().filter(|&rate| rate != 0)?);
        if let Some(clock) = rest.strip_prefix('/') {
            port.clock_hz = u32::try_from(parse_number(clock)?)
                .ok()
                .filter(|&c| c != 0)?;
        } else if !rest.is_empty() {
            return None;
        }
    }
    let frame = fields.next().unwrap_or_default();
    if !frame.is_empty() {
        let &[data, parity, stop] = frame.as_bytes() else {
            return None;
        };
        port.data_bits = data.checked_sub(b'0').filter(|n| (5..=8).contains(n))?;
        port.parity = match parity {
            b'n' => Parity::None,
            b'o' => Parity::Odd,
            b'e' => Parity::Even,
            b'm' => Parity::Mark,
            b's' => Parity::Space,
            _ => return None,
        };
        port.stop_bits = stop.checked_sub(b'0').filter(|n| (1..=2).contains(n))?;
    }
    let base = fields.next().unwrap_or_default();
    if !base.is_empty() {
        port.io_base = u16::try_from(parse_number(base)?).ok()?;
    }
    let irq = fields.next().unwrap_or_default();
    if !irq.is_empty() {
        port.irq = u8::try_from(parse_number(irq)?).ok()?;
    }
    // PCI serial cards are not driven.
    fields.next().is_none().then_some(port)
}

fn dom0_mem(text: &str) -> Option<Dom0Memory> {
    let mut memory = Dom0Memory::default();
    for item in text.split(',') {
        let (slot, amount) = if let Some(amount) = item.strip_prefix("min:") {
            (&mut memory.min, amount)
        } else if let Some(amount) = item.strip_prefix("max:") {
            (&mut memory.max, amount)
        } else {
            (&mut memory.size, item)
        };
        *slot = Some(parse_amount(amount)?);
    }
    Some(memory)
}

fn vcpu_range(text: &str) -> Option<(u32, u32)> {
    let number = |text: &str| u32::try_from(parse_number(text)?).ok();
    let (min, max) = match text.split_once('-') {
        None => (number(text)?, number(text)?),
        Some(("", "")) => return None,
        Some(("", max)) => (1, number(max)?),
        Some((min, "")) => (number(min)?, u32::MAX),
        Some((min, max)) => (number(min)?, number(max)?),
    };
    Some((min.max(1), max.max(1)))
}

fn reboot(options: &mut Options, argument: Argument<'_>) -> Result<(), Expected> {
    const EXPECTED: &str =
        "t[riple] | k[bd] | a[cpi] | p[ci] | P[ower] | e[fi] | x[en] | n[o] [, w[arm] | c[old]]";
    if argument.negated || argument.value.and_then(parse_bool) == Some(false) {
        options.noreboot = true;
        return Ok(());
    }
    for item in value_of(argument, EXPECTED)?.split(',') {
        options.reboot = match item.as_bytes().first() {
            Some(b't') => RebootMethod::Triple,
            Some(b'k') => RebootMethod::Keyboard,
            Some(b'a') => RebootMethod::Acpi,
            Some(b'p') => RebootMethod::Pci,
            Some(b'P') => RebootMethod::Power,
            Some(b'e') => RebootMethod::Efi,
            Some(b'x') => RebootMethod::Xen,
            Some(b'n') => {
                options.noreboot = true;
                continue;
            }
            // The flag is the BIOS's; none of these methods reads it.
            Some(b'w' | b'c') => continue,
            _ => return Err(Expected(EXPECTED)),
        };
    }
    Ok(())
}

fn features(list: &mut Vec<FeatureChoice>, argument: Argument<'_>) -> Result<(), Expected> {
    const EXPECTED: &str = "a list of feature names (those of Xen's cpufeatureset.h, with - for _), each with no- before it or =<boolean> after";
    let mut known = true;
    for item in value_of(argument, EXPECTED)?.split(',') {
        let (name, value) = match item.split_once('=') {
            Some((name, value)) => (name, parse_bool(value).ok_or(Expected(EXPECTED))?),
            None => (item, true),
        };
        let (name, enable) = match name.strip_prefix("no-") {
            Some(name) => (name, !value),
            None => (name, value),
        };
        // As in Xen, a name that is not known does not keep the others from counting.
        match crate::cpuid::by_name(name) {
            None => known = false,
            Some(_) => list.push(FeatureChoice {
                name: name.to_ascii_lowercase(),
                enable,
            }),
        }
    }
    known.then_some(()).ok_or(Expected(EXPECTED))
}

fn dom0(options: &mut Options, argument: Argument<'_>) -> Result<(), Expected> {
    const EXPECTED: &str =
        "a list of pv, verbose=<bool>, cpuid-faulting=<bool>, msr-relaxed=<bool>";
    for item in value_of(argument, EXPECTED)?.split(',') {
        let (name, value) = match item.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (item, None),
        };
        let (name, negated) = match name.strip_prefix("no-") {
            Some(name) => (name, true),
            None => (name, false),
        };
        let argument = Argument { value, negated };
        match name {
            "pv" if !negated && value.is_none() => {}
            "verbose" => set_bool(&mut options.dom0_verbose, argument)?,
            "cpuid-faulting" => set_bool(&mut options.dom0_cpuid_faulting, argument)?,
            "msr-relaxed" => set_bool(&mut options.dom0_msr_relaxed, argument)?,
            _ => return Err(Expected(EXPECTED)),
        }
    }
    Ok(())
}

/// `<name>:<description of a virtual disk>`
fn named_disk(
    argument: Argument<'_>,
    expected: &'static str,
) -> Result<(String, vdisk::Spec), Expected> {
    let value = value_of(argument, expected)?;
    value
        .split_once(':')
        .filter(|(name, _)| vdisk::is_name(name))
        .and_then(|(name, spec)| Some((name.into(), vdisk::Spec::parse(spec)?)))
        .ok_or(Expected(expected))
}

fn dom0_disk(options: &mut Options, argument: Argument<'_>) -> Result<(), Expected> {
    if argument.value == Some("none") && !argument.negated {
        options.dom0_disks = Some(Vec::new());
        return Ok(());
    }
    let (device, spec) = named_disk(argument, DOM0_DISK)?;
    if vdisk::device_number(&device).is_none() {
        return Err(Expected(DOM0_DISK));
    }
    let disks = options.dom0_disks.get_or_insert_default();
    disks.retain(|(other, _)| *other != device);
    disks.push((device, spec));
    Ok(())
}

fn gnttab(options: &mut Options, argument: Argument<'_>) -> Result<(), Expected> {
    const EXPECTED: &str = "a list of max-ver:<1|2>, transitive=<bool>, transfer=<bool>";
    for item in value_of(argument, EXPECTED)?.split(',') {
        if let Some(version) = item.strip_prefix("max-ver:") {
            options.gnttab_max_ver = match version {
                "1" => 1,
                "2" => 2,
                _ => return Err(Expected(EXPECTED)),
            };
            continue;
        }
        let name = item.split('=').next().unwrap_or_default();
        let name = name.strip_prefix("no-").unwrap_or(name);
        if !matches!(name, "transitive" | "transfer") {
            return Err(Expected(EXPECTED));
        }
    }
    Ok(())
}

fn flag_or(
    slot: &mut bool,
    argument: Argument<'_>,
    also: &[&str],
    means: bool,
    expected: &'static str,
) -> Result<(), Expected> {
    if argument.value.is_some_and(|value| also.contains(&value)) && !argument.negated {
        *slot = means;
        return Ok(());
    }
    set_bool(slot, argument).map_err(|_| Expected(expected))
}

fn number32(text: &str) -> Option<u32> {
    u32::try_from(parse_number(text)?).ok()
}

macro_rules! table {
    ($($name:literal, $form:expr, $default:literal, $help:literal, $apply:expr;)*) => {
        /// Every option that has an effect.
        pub const TABLE: &[OptionSpec] = &[$(OptionSpec {
            name: $name,
            form: $form,
            default: $default,
            help: $help,
            apply: $apply,
        },)*];
    };
}

const BOOLEAN: &str = "<boolean>";
const VDISK: &str = "<name>:<disk>[,part=<n>|label=<label>|partuuid=<uuid>|start=<size>[,size=<size>]][,ro][,shared]";
const DOM0_DISK: &str = "none | xvd<letter>:<disk or vdisk>[,part=<n>|label=<label>|partuuid=<uuid>|start=<size>[,size=<size>]][,ro][,shared]";

table! {
    "availmem", "<size>", "no limit", "Use no more RAM than this.",
        |o, a| set(&mut o.availmem, a, "<size>", |v| parse_size(v).map(|n| (n != 0).then_some(n)));
    "clocksource", "pit | hpet | acpi | tsc", "the best there is", "The clock by which system time is kept.",
        |o, a| set(&mut o.clocksource, a, "pit | hpet | acpi | tsc", |v| Some(match v {
            "pit" => ClockSource::Pit,
            "hpet" => ClockSource::Hpet,
            "acpi" => ClockSource::Acpi,
            "tsc" => ClockSource::Tsc,
            _ => return None,
        }));
    "com1", SERIAL, "115200,8n1,0x3f8,4", "How the first serial port is set.",
        |o, a| { let now = o.com1; set(&mut o.com1, a, SERIAL, |v| parse_serial(v, now)) };
    "com2", SERIAL, "115200,8n1,0x2f8,3", "How the second serial port is set.",
        |o, a| { let now = o.com2; set(&mut o.com2, a, SERIAL, |v| parse_serial(v, now)) };
    "conring_size", "<size>", "16k", "Size of the ring that keeps the console's output.",
        |o, a| set(&mut o.conring_size, a, "<size>", |v| parse_size(v).filter(|&n| n <= 64 << 20));
    "console", CONSOLE, "com1", "Where messages go.", console;
    "console_to_ring", BOOLEAN, "false", "The guests' output goes into the console ring too.",
        |o, a| set_bool(&mut o.console_to_ring, a);
    "conswitch", "<letter>[x]", "a", "With control held, three times, this letter switches the serial input between the hypervisor and Dom0. With x, the input stays with the hypervisor at boot.",
        |o, a| {
            const EXPECTED: &str = "<letter>[x]";
            let value = value_of(a, EXPECTED)?.as_bytes();
            let &letter = value.first().filter(|c| c.is_ascii_alphabetic()).ok_or(Expected(EXPECTED))?;
            o.conswitch = letter.to_ascii_lowercase();
            o.conswitch_to_dom0 = value.get(1) != Some(&b'x');
            Ok(())
        };
    "cpu-baseline", "auto | host | x86-64-v1 | x86-64-v2 | x86-64-v3 | x86-64-v4", "auto", "Which CPU guests see (Dom0, which does not migrate, sees the machine's): a level of the x86-64 psABI, the same on every machine, or all that the machine has. auto: the highest level up to v3 that the machine can give.",
        |o, a| set(&mut o.cpu_baseline, a, "auto | host | x86-64-v1 | x86-64-v2 | x86-64-v3 | x86-64-v4", |v| Some(match v {
            "auto" => Baseline::Auto,
            "host" => Baseline::Host,
            name => Baseline::Level(Level::by_name(name)?),
        }));
    "cpu-identity", "level | machine", "level", "Whose model number and name the CPU has that guests see at a level of the psABI.",
        |o, a| set(&mut o.cpu_identity, a, "level | machine", |v| Some(match v {
            "level" => Identity::Level,
            "machine" => Identity::Machine,
            _ => return None,
        }));
    "cpuid", "a list of feature names", "none", "no-<feature> hides a feature of the CPU from the hypervisor and all guests.",
        |o, a| features(&mut o.cpuid, a);
    "dom0", "a list of pv, verbose=<bool>, cpuid-faulting=<bool>, msr-relaxed=<bool>", "pv,cpuid-faulting", "How Dom0 is built.", dom0;
    "dom0-cpuid", "a list of feature names", "none", "Features shown to, or with no- hidden from, Dom0.",
        |o, a| features(&mut o.dom0_cpuid, a);
    "dom0_disk", DOM0_DISK, "every disk, whole, as xvda, xvdb, ...", "A disk of Dom0's: which device it is, and which of the first layer's disks (vda, vdb, ...), partition or range of one, or which virtual disk (vdisk=). Once for each.", dom0_disk;
    "dom0_max_vcpus", "<n> | <min>-<max>", "as many as there are CPUs", "How many vCPUs Dom0 has.",
        |o, a| set(&mut o.dom0_max_vcpus, a, "<n> | <min>-<max>", vcpu_range);
    "dom0_mem", "[min:<size>,][max:<size>,]<size>", "all but 1/16, at most 128M", "Memory of Dom0: <size>, <n>% or <size>+<n>%; with a - before it, all but that. Without a suffix B, K, M, G or T, a size is in KiB.",
        |o, a| set(&mut o.dom0_mem, a, "[min:<size>,][max:<size>,]<size>, a size being [-]<n>[BKMGT], [-]<n>% or [-]<n>[BKMGT]+<n>%", dom0_mem);
    "dom0_net", BOOLEAN, "true", "Dom0 has a network device for each network card, with the card's own address. Without, cards serve other domains only.",
        |o, a| set_bool(&mut o.dom0_net, a);
    "dom0_restart", BOOLEAN, "true", "When Dom0 crashes or reboots while other domains live, it alone is started again, from its boot modules, which are kept in memory for that (unless they take more than an eighth of it). Without, the whole machine reboots.",
        |o, a| set_bool(&mut o.dom0_restart, a);
    "dom0_vcpus_pin", BOOLEAN, "false", "Each vCPU of Dom0 stays on one CPU.",
        |o, a| set_bool(&mut o.dom0_vcpus_pin, a);
    "fsgsbase", BOOLEAN, "true", "Guests may use RDFSBASE and its kin.",
        |o, a| set_bool(&mut o.fsgsbase, a);
    "gnttab", "a list of max-ver:<1|2>, transitive=<bool>, transfer=<bool>", "max-ver:2", "Grant table versions that guests may use.", gnttab;
    "gnttab_max_frames", "<integer>", "64", "Most frames of a domain's grant table.",
        |o, a| set(&mut o.gnttab_max_frames, a, "<integer>", number32);
    "gnttab_max_maptrack_frames", "<integer>", "1024", "Most frames of a domain's table of grants that it has mapped.",
        |o, a| set(&mut o.gnttab_max_maptrack_frames, a, "<integer>", number32);
    "guest_loglvl", "<level>[/<rate-limited level>]", "none/warning", "Which messages about, or from, guests are printed. Levels: none, error, warning, info, debug, all.",
        |o, a| set(&mut o.guest_loglvl, a, "<level>[/<level>], a level being none, error, warning, info, debug or all", LogThreshold::parse);
    "invpcid", BOOLEAN, "true", "The INVPCID instruction is used where there is one.",
        |o, a| set_bool(&mut o.invpcid, a);
    "loglvl", "<level>[/<rate-limited level>]", "warning", "Which messages of the hypervisor are printed. Levels: none, error, warning, info, debug, all.",
        |o, a| set(&mut o.loglvl, a, "<level>[/<level>], a level being none, error, warning, info, debug or all", LogThreshold::parse);
    "maxcpus", "<integer>", "all", "Most CPUs to be brought up.",
        |o, a| set(&mut o.maxcpus, a, "<integer>", |v| number32(v).map(Some));
    "mce", BOOLEAN, "true", "Machine checks are handled.",
        |o, a| set_bool(&mut o.mce, a);
    "mem", "<size>", "no limit", "RAM beyond this address is not used.",
        |o, a| set(&mut o.mem, a, "<size>", |v| parse_size(v).map(|n| (n != 0).then_some(n)));
    "nmi", "ignore | dom0 | fatal", "dom0", "What an NMI for a parity or I/O error does.",
        |o, a| set(&mut o.nmi, a, "ignore | dom0 | fatal", |v| Some(match v {
            "ignore" => NmiPolicy::Ignore,
            "dom0" => NmiPolicy::Dom0,
            "fatal" => NmiPolicy::Fatal,
            _ => return None,
        }));
    "noreboot", BOOLEAN, "false", "Stay after a crash, do not reboot.",
        |o, a| set_bool(&mut o.noreboot, a);
    "nosmp", BOOLEAN, "false", "One CPU only.",
        |o, a| set_bool(&mut o.nosmp, a);
    "pcid", "<boolean> | xpti | no-xpti", "true", "PCIDs are used where the CPU has them.",
        |o, a| flag_or(&mut o.pcid, a, &["xpti", "no-xpti", "xpti=1", "xpti=0"], true, "<boolean> | xpti | no-xpti");
    "reboot", "t[riple] | k[bd] | a[cpi] | p[ci] | P[ower] | e[fi] | x[en] | n[o] [, w[arm] | c[old]]", "the first that works", "How the machine is reset.", reboot;
    "sched", "credit2", "credit2", "The scheduler; there is one.",
        |o, a| { let _ = o; match value_of(a, "credit2")? { "credit2" | "credit" => Ok(()), _ => Err(Expected("credit2")) } };
    "sched_ratelimit_us", "<integer>", "1000", "For how many microseconds a vCPU runs before another may take its place; 0: no limit.",
        |o, a| set(&mut o.sched_ratelimit_us, a, "<integer> up to 500000", |v| number32(v).filter(|&n| n <= 500_000));
    "smap", "<boolean> | hvm", "true", "Supervisor Mode Access Prevention.",
        |o, a| flag_or(&mut o.smap, a, &["hvm"], false, "<boolean> | hvm");
    "smep", "<boolean> | hvm", "true", "Supervisor Mode Execution Prevention.",
        |o, a| flag_or(&mut o.smep, a, &["hvm"], false, "<boolean> | hvm");
    "sync_console", BOOLEAN, "false", "Each message is on the line before the hypervisor goes on.",
        |o, a| set_bool(&mut o.sync_console, a);
    "tdt", BOOLEAN, "true", "The APIC timer runs in TSC-deadline mode where it can.",
        |o, a| set_bool(&mut o.tdt, a);
    "tsc", "unstable | skewed | stable:socket", "as CPUID says", "What is known of the TSCs.",
        |o, a| set(&mut o.tsc_unstable, a, "unstable | skewed | stable:socket", |v| Some(match v {
            "unstable" | "skewed" => true,
            "stable:socket" => false,
            _ => return None,
        }));
    "umip", BOOLEAN, "true", "User-Mode Instruction Prevention.",
        |o, a| set_bool(&mut o.umip, a);
    "vbd_persistent", BOOLEAN, "false", "Block devices keep the grants of frontends that use the same ones again and again. Such a frontend copies all data.",
        |o, a| set_bool(&mut o.vbd_persistent, a);
    "vdisk", VDISK, "none", "A virtual disk that domains can be given by its name: a disk of the first layer, or a partition or range of one. With ro it cannot be written; one that can be written is for one domain, unless it is shared. A size without a suffix is in KiB.",
        |o, a| { let named = named_disk(a, VDISK)?; o.vdisks.retain(|(name, _)| *name != named.0); o.vdisks.push(named); Ok(()) };
    "watchdog", "force | <boolean>", "false", "A CPU that is stuck is found by NMIs.",
        |o, a| flag_or(&mut o.watchdog, a, &["force"], true, "force | <boolean>");
    "watchdog_timeout", "<integer>", "5", "After how many seconds a CPU counts as stuck.",
        |o, a| set(&mut o.watchdog_timeout, a, "<integer>", number32);
    "x2apic", BOOLEAN, "true", "x2APIC mode is used where the CPU has it.",
        |o, a| set_bool(&mut o.x2apic, a);
    "xenstore", "hypervisor | dom0", "hypervisor for Linux, else dom0", "Who serves xenstore. With dom0, Dom0 is told of none, sees what it sees on Xen, and may run a server of its own; the hypervisor's block and network devices are then not there for guests.",
        |o, a| set(&mut o.xenstore, a, "hypervisor | dom0", |v| Some(match v {
            "hypervisor" => Some(true),
            "dom0" => Some(false),
            _ => return None,
        }));
    "xsave", BOOLEAN, "true", "XSAVE, and what needs it, is used where the CPU has it.",
        |o, a| set_bool(&mut o.xsave, a);
}

/// Options of Xen that may stand on a command line and need do nothing here:
/// they are about devices, hardware virtualization or a machine's quirks.
pub const IGNORED: &[&str] = &[
    "acpi",
    "acpi_apic_instance",
    "acpi_pstate_strict",
    "acpi_skip_timer_override",
    "acpi_sleep",
    "allow_unsafe",
    "altp2m",
    "apic",
    "apic_verbosity",
    "apicv",
    "arat",
    "argo",
    "asid",
    "async-show-all",
    "ats",
    "badpage",
    "bootscrub",
    "bootscrub_chunk",
    "cet",
    "cmci-threshold",
    "cmos-rtc-probe",
    "console_timestamps",
    "core_parking",
    "cpu_type",
    "cpufreq",
    "cpuid_mask_cpu",
    "cpuid_mask_ecx",
    "cpuid_mask_edx",
    "cpuid_mask_ext_ecx",
    "cpuid_mask_ext_edx",
    "cpuid_mask_l7s0_eax",
    "cpuid_mask_l7s0_ebx",
    "cpuid_mask_thermal_ecx",
    "cpuid_mask_xsave_eax",
    "cpuidle",
    "cpuinfo",
    "crash-debug-debugkey",
    "crash-debug-hwdom",
    "crash-debug-kexeccmd",
    "crash-debug-panic",
    "crash-debug-watchdog",
    "crashinfo_maxaddr",
    "crashkernel",
    "credit2_balance_over",
    "credit2_balance_under",
    "credit2_cap_period_ms",
    "credit2_load_precision_shift",
    "credit2_load_window_shift",
    "credit2_runqueue",
    "dbgp",
    "debug_stack_lines",
    "debugtrace",
    "dit",
    "dma_bits",
    "dom0-iommu",
    "dom0_ioports_disable",
    "dom0_nodes",
    "e820-mtrr-clip",
    "e820-verbose",
    "edd",
    "edid",
    "efi",
    "ept",
    "extra_guest_irqs",
    "flask",
    "font",
    "force-ept",
    "gdb",
    "global-pages",
    "hap",
    "hap_1gb",
    "hap_2mb",
    "hardware_dom",
    "hest_disable",
    "highmem-start",
    "hpet",
    "hpetbroadcast",
    "hvm_debug",
    "hvm_fep",
    "hvm_port80",
    "idle_latency_factor",
    "ioapic_ack",
    "iommu",
    "iommu_dev_iotlb_timeout",
    "iommu_inclusive_mapping",
    "irq-max-guests",
    "irq_ratelimit",
    "irq_vector_map",
    "ivmd",
    "ivrs_hpet",
    "ivrs_ioapic",
    "lapic",
    "lapic_timer_c2_ok",
    "ler",
    "low_crashinfo",
    "low_mem_virq_limit",
    "max_cstate",
    "max_gsi_irqs",
    "mce_fb",
    "mce_verbosity",
    "memop-max-order",
    "mmcfg",
    "mmio-relax",
    "msi",
    "mtrr.show",
    "mwait-idle",
    "no-real-mode",
    "noapic",
    "noirqbalance",
    "nolapic",
    "nr_irqs",
    "numa",
    "pci",
    "pci-phantom",
    "pku",
    "ple_gap",
    "ple_window",
    "preferred-cstates",
    "psr",
    "pv",
    "pv-l1tf",
    "pv-linear-pt",
    "pv-shim",
    "rcu-idle-timer-period-ms",
    "real-mode",
    "rmrr",
    "ro-hpet",
    "sched-gran",
    "sched_credit2_max_cpus_runqueue",
    "sched_credit2_migrate_resist",
    "sched_credit_tslice_ms",
    "sched_smt_power_savings",
    "scrub-domheap",
    "serial_tx_buffer",
    "shim_mem",
    "smt",
    "snb_igd_quirk",
    "spec-ctrl",
    "tboot",
    "tbuf_size",
    "tevt_mask",
    "tickle_one_idle_cpu",
    "timer_slop",
    "tsx",
    "ucode",
    "unrestricted_guest",
    "vcpu_migration_delay",
    "vesa-ram",
    "vga",
    "viridian-spinlock-retry-count",
    "viridian-version",
    "vm-notify-window",
    "vpid",
    "vpmu",
    "x2apic-mode",
    "x2apic_phys",
    "xenheap_megabytes",
    "xpti",
    "xsm",
];
