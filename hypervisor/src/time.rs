//! Time as guests see it: `vcpu_time_info`, runstates and the wall clock.

use core::sync::atomic::{AtomicU64, Ordering, fence};

use overcast_core::addr::GuestVirtual;
use overcast_core::domctl::Clocks;
use overcast_core::error::Result;
use overcast_core::machine::Memory;
use spin::Mutex;
use xen_abi::vcpu::{VcpuRunstateInfo, XEN_RUNSTATE_UPDATE};
use xen_abi::xen::{
    SharedInfo, VMASST_TYPE_RUNSTATE_UPDATE_FLAG, VcpuTimeInfo, XEN_PVCLOCK_TSC_STABLE_BIT,
};
use zerocopy::IntoBytes;

use crate::arch::{cpu, time as clock};
use crate::domain::Domain;
use crate::guest;
use crate::host::Host;
use crate::vcpu::{Runstate, Vcpu};

/// System time: ns since boot, the same on every CPU.
pub fn now() -> u64 {
    clock::now()
}

/// The TSC as a domain reads it.
pub fn read_tsc(domain: &Domain) -> u64 {
    match domain.emulated_tsc() {
        Some(emulated) => emulated.at(now()),
        None => cpu::rdtsc(),
    }
}

/// The record of the present moment, by the TSC that the domain reads. As the records of all
/// vCPUs are of one linear function of TSCs that agree, the guest need not compare what
/// several of them say: Linux's user space then reads the clock without a system call.
fn record(domain: &Domain, version: u32) -> VcpuTimeInfo {
    let (tsc, system_time, scale, flags) = match domain.emulated_tsc() {
        Some(emulated) => {
            let now = now();
            (emulated.at(now), now, emulated.scale, 0)
        }
        None => {
            let tsc = cpu::rdtsc();
            let flags = if clock::is_stable() {
                XEN_PVCLOCK_TSC_STABLE_BIT as u8
            } else {
                0
            };
            (tsc, clock::at_tsc(tsc), clock::scale(), flags)
        }
    };
    VcpuTimeInfo {
        version,
        pad0: 0,
        tsc_timestamp: tsc,
        system_time,
        tsc_to_system_mul: scale.mul,
        tsc_shift: scale.shift,
        flags,
        pad1: [0; 2],
    }
}

/// Writes the time into a vCPU's `vcpu_info`, as pvclock's readers expect it:
/// the version is odd meanwhile.
pub fn write_vcpu_time(vcpu: &Vcpu) {
    let version = (vcpu.time_version.load(Ordering::Relaxed) & !1).wrapping_add(2);
    vcpu.time_version.store(version, Ordering::Relaxed);
    let value = record(vcpu.domain(), version);
    let mut words = [0u64; 4];
    words.as_mut_bytes().copy_from_slice(value.as_bytes());
    let time = &vcpu.info().time;
    let odd = (words[0] & !0xffff_ffff) | u64::from(version.wrapping_sub(1));
    time[0].store(odd, Ordering::Release);
    for (to, word) in time.iter().zip(words).skip(1) {
        to.store(word, Ordering::Release);
    }
    time[0].store(words[0], Ordering::Release);
}

/// Writes the time into the area that the running vCPU registered; noted for
/// later if the area is not to be reached in the present mode.
pub fn write_time_area(vcpu: &Vcpu) {
    let area = vcpu.time_area.load(Ordering::Acquire);
    if area == 0 {
        return;
    }
    let value = record(vcpu.domain(), vcpu.time_version.load(Ordering::Relaxed));
    let stale = !vcpu.kernel_mode.get() || write_record(GuestVirtual(area), &value).is_err();
    vcpu.time_area_stale.store(stale, Ordering::Release);
}

/// Writes a record so that who reads it on another CPU meanwhile sees an odd version.
fn write_record(to: GuestVirtual, record: &VcpuTimeInfo) -> Result<()> {
    let (version, rest) = record.as_bytes().split_at(size_of::<u32>());
    let rest_at = GuestVirtual(to.0.wrapping_add(version.len() as u64));
    guest::write(to, &record.version.wrapping_sub(1))?;
    fence(Ordering::Release);
    guest::write_bytes(rest_at, rest)?;
    fence(Ordering::Release);
    guest::write_bytes(to, version)
}

/// Brings all that a vCPU sees of the time up to date, as it is about to run.
pub fn on_schedule(vcpu: &Vcpu) {
    write_vcpu_time(vcpu);
    write_time_area(vcpu);
    write_runstate(vcpu);
}

/// Writes what could not be written in user mode. Called when the vCPU enters
/// kernel mode.
pub fn write_late_areas(vcpu: &Vcpu) {
    if vcpu.time_area_stale.load(Ordering::Acquire) {
        write_time_area(vcpu);
    }
    if vcpu.runstate_stale.load(Ordering::Acquire) {
        write_runstate(vcpu);
    }
}

/// Accounts the change of a vCPU to another runstate.
pub fn change_runstate(vcpu: &Vcpu, state: u32) {
    let now = now();
    let mut runstate = vcpu.runstate.lock();
    if runstate.state == state {
        return;
    }
    let elapsed = now.saturating_sub(runstate.entered);
    let index = runstate.state as usize & 3;
    runstate.time[index] = runstate.time[index].wrapping_add(elapsed);
    runstate.entered = now;
    runstate.state = state;
}

/// The runstate of a vCPU, with the times as of the last change.
fn runstate_record(vcpu: &Vcpu) -> VcpuRunstateInfo {
    let Runstate {
        state,
        entered,
        time,
    } = *vcpu.runstate.lock();
    VcpuRunstateInfo {
        state: state as i32,
        _pad0: [0; 4],
        state_entry_time: entered,
        time,
    }
}

/// The runstate of a vCPU, with the present state's time up to now.
pub fn runstate_info(vcpu: &Vcpu) -> VcpuRunstateInfo {
    let mut info = runstate_record(vcpu);
    let time = &mut info.time[info.state as usize & 3];
    *time = time.wrapping_add(now().saturating_sub(info.state_entry_time));
    info
}

/// Writes the runstate into the area that the running vCPU registered.
pub fn write_runstate(vcpu: &Vcpu) {
    let area = vcpu.runstate_area.load(Ordering::Acquire);
    if area == 0 {
        return;
    }
    if !vcpu.kernel_mode.get() {
        vcpu.runstate_stale.store(true, Ordering::Release);
        return;
    }
    let at = GuestVirtual(area);
    let mut info = runstate_record(vcpu);
    let flagged = vcpu.domain().has_assist(VMASST_TYPE_RUNSTATE_UPDATE_FLAG);
    let entry_time = GuestVirtual(area.wrapping_add(8));
    let written = (|| {
        if flagged {
            info.state_entry_time |= XEN_RUNSTATE_UPDATE;
            guest::write(entry_time, &info.state_entry_time)?;
        }
        guest::write(at, &info)?;
        if flagged {
            guest::write(entry_time, &(info.state_entry_time & !XEN_RUNSTATE_UPDATE))?;
        }
        overcast_core::error::Result::Ok(())
    })();
    vcpu.runstate_stale
        .store(written.is_err(), Ordering::Release);
}

/// The wall clock: seconds and ns since 1970 at system time 0.
static WALL_CLOCK: Mutex<(u64, u32)> = Mutex::new((0, 0));
/// Counts changes of the wall clock.
static WALL_CLOCK_VERSION: AtomicU64 = AtomicU64::new(0);

/// Sets the wall clock: `seconds` and `nanoseconds` since 1970 at the system
/// time `at`, ns.
pub fn set_wall_clock(seconds: u64, nanoseconds: u32, at: u64) {
    let total = u128::from(seconds) * 1_000_000_000 + u128::from(nanoseconds);
    let base = total.saturating_sub(u128::from(at));
    *WALL_CLOCK.lock() = ((base / 1_000_000_000) as u64, (base % 1_000_000_000) as u32);
    WALL_CLOCK_VERSION.fetch_add(1, Ordering::AcqRel);
    for domain in crate::domain::all() {
        write_wall_clock(&domain);
    }
}

/// Takes the wall clock that the machine had at boot.
pub fn init_wall_clock() {
    let base = clock::wallclock_base();
    set_wall_clock(base / 1_000_000_000, (base % 1_000_000_000) as u32, 0);
}

/// Writes the wall clock into a domain's `shared_info`.
pub fn write_wall_clock(domain: &Domain) {
    let (seconds, nanoseconds) = *WALL_CLOCK.lock();
    let seconds = seconds.wrapping_add_signed(domain.time_offset.load(Ordering::Relaxed));
    let Some(frame) = Host.frame(domain.shared_info) else {
        return;
    };
    let offset = core::mem::offset_of!(SharedInfo, wc_version);
    let version = frame.load_u32(offset);
    frame.store_u32(offset, version | 1);
    frame.store_u32(core::mem::offset_of!(SharedInfo, wc_sec), seconds as u32);
    frame.store_u32(
        core::mem::offset_of!(SharedInfo, wc_sec_hi),
        (seconds >> 32) as u32,
    );
    frame.store_u32(core::mem::offset_of!(SharedInfo, wc_nsec), nanoseconds);
    frame.store_u32(offset, (version | 1).wrapping_add(1));
}

/// The rate of the TSC, in kHz.
pub fn tsc_khz() -> u32 {
    (clock::tsc_hz() / 1000) as u32
}

/// The machine's clocks.
pub fn clocks() -> Clocks {
    Clocks {
        khz: tsc_khz(),
        tsc: cpu::rdtsc(),
        now: now(),
    }
}

/// What leaf 0x40000003 of CPUID says to a domain of its clock.
pub fn cpuid_leaf(domain: &Domain) -> overcast_core::cpuid::TimeLeaf {
    let khz = tsc_khz();
    let tsc = domain.tsc();
    let (scale, guest_khz) = match tsc.emulated {
        Some(emulated) => (emulated.scale, emulated.khz),
        None => (clock::scale(), khz),
    };
    overcast_core::cpuid::TimeLeaf {
        emulated: tsc.emulated.is_some(),
        host_tsc_safe: false,
        mode: tsc.mode,
        guest_khz,
        incarnation: tsc.incarnation,
        offset: 0,
        to_ns_mul: scale.mul,
        to_ns_shift: scale.shift,
        cpu_khz: khz,
    }
}
