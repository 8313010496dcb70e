//! CPUID faulting: CPUID outside of ring 0 gives #GP, so that a guest's user space too is
//! answered by its domain's policy.
//!
//! There are two ways to switch it on: MSR_PLATFORM_INFO bit 31 says that bit 0 of
//! MSR_MISC_FEATURES_ENABLES does so (Intel SDM volume 4; KVM has both on any CPU), and leaf
//! 0x80000021 EAX bit 17 says that bit 35 of HWCR does (AMD APM volume 2, 3.2.10). A first
//! layer may tell of one and not have it, so the bit is set once and read back, and a CPUID is
//! tried in ring 3 with it and without, whatever the CPU's vendor.

use core::sync::atomic::{AtomicBool, Ordering};

use overcast_core::ids::MAX_CPUS;
use spin::Once;

use crate::arch::{entry, percpu, ring3};

const PLATFORM_INFO: u32 = 0xce;
const PLATFORM_INFO_FAULTING: u64 = 1 << 31;
const MISC_FEATURES_ENABLES: u32 = 0x140;
const MISC_FEATURES_FAULTING: u64 = 1;
const HWCR: u32 = 0xc001_0015;
const HWCR_FAULTING: u64 = 1 << 35;
const AMD_FAULTING_LEAF: u32 = 0x8000_0021;
const AMD_FAULTING: u32 = 1 << 17;

/// A register and its bit.
#[derive(Clone, Copy)]
struct Switch {
    msr: u32,
    bit: u64,
    /// The register holds more than this bit.
    keeps: bool,
}

static SWITCH: Once<Option<Switch>> = Once::new();
/// Whether it is on, for each CPU.
static ON: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];

impl Switch {
    fn write(self, on: bool) -> Option<()> {
        let rest = if self.keeps {
            entry::rdmsr_safe(self.msr)? & !self.bit
        } else {
            0
        };
        // SAFETY: the bit concerns CPUID outside of ring 0 only.
        unsafe { entry::wrmsr_safe(self.msr, rest | if on { self.bit } else { 0 }) }
    }

    /// Whether the bit can be set and cleared, and does what it is for.
    fn works(self) -> bool {
        let tried = |on: bool| {
            self.write(on).is_some()
                && entry::rdmsr_safe(self.msr).is_some_and(|value| (value & self.bit != 0) == on)
                && ring3::cpuid_faults() == Some(on)
        };
        let works = tried(true) && tried(false);
        if !works {
            log::warn!(
                "CPUID faulting by MSR {:#x}: told of, but it does not work",
                self.msr
            );
            let _ = self.write(false);
        }
        works
    }
}

fn find() -> Option<Switch> {
    let intel = Switch {
        msr: MISC_FEATURES_ENABLES,
        bit: MISC_FEATURES_FAULTING,
        keeps: false,
    };
    let amd = Switch {
        msr: HWCR,
        bit: HWCR_FAULTING,
        keeps: true,
    };
    let tells_intel = entry::rdmsr_safe(PLATFORM_INFO).unwrap_or(0) & PLATFORM_INFO_FAULTING != 0;
    let cpuid = |leaf| raw_cpuid::native_cpuid::cpuid_count(leaf, 0).eax;
    let tells_amd = (0x8000_0000..=0x8000_ffff).contains(&cpuid(0x8000_0000))
        && cpuid(0x8000_0000) >= AMD_FAULTING_LEAF
        && cpuid(AMD_FAULTING_LEAF) & AMD_FAULTING != 0;
    [(tells_intel, intel), (tells_amd, amd)]
        .into_iter()
        .find(|&(tells, switch)| tells && switch.works())
        .map(|(_, switch)| switch)
}

/// Whether the machine has it. The first call tries it on this CPU, the boot CPU, before there
/// is a guest.
pub fn available() -> bool {
    SWITCH.call_once(find).is_some()
}

/// Switches it on or off on this CPU, if the machine has it.
pub fn set(on: bool) {
    let Some(switch) = SWITCH.call_once(find) else {
        return;
    };
    if let Some(now) = ON.get(percpu::this().cpu.0 as usize)
        && now.swap(on, Ordering::Relaxed) != on
    {
        let _ = switch.write(on);
    }
}
