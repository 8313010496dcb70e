//! The state of a vCPU of another domain: set by its builder, read and set again by who
//! moves it.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use overcast_core::addr::GuestVirtual;
use overcast_core::domctl::{HEADER_SIZE, SavedState};
use overcast_core::error::{Error, Result};
use overcast_core::msr::{MsrRead, MsrWrite, index as msr};
use xen_abi::arch_x86::VcpuGuestContext;
use xen_abi::domctl::*;
use zerocopy::{FromZeros, IntoBytes};

use super::super::{PreemptByEvents, ctl};
use super::{Paused, PausedVcpu, Target};
use crate::arch::cpu as machine;
use crate::pv::emulate::msr_context;
use crate::vcpu::{Callback, Power, Vcpu};
use crate::{context, dom0, guest, lifecycle, schedule, time};

/// The MSRs that are moved with a vCPU.
const MOVED_MSRS: [u32; 7] = [
    msr::SPEC_CTRL,
    msr::MISC_FEATURES_ENABLES,
    msr::TSC_AUX,
    msr::DR0_ADDRESS_MASK,
    msr::DR1_ADDRESS_MASK,
    msr::DR1_ADDRESS_MASK + 1,
    msr::DR3_ADDRESS_MASK,
];
/// MCG_CAP: the number of banks, and that there is MCG_CTL.
const MCG_CAP_ANY: u64 = 0x1ff;
/// Banks of machine checks.
const BANKS: u32 = 2;

/// `XEN_DOMCTL_setvcpucontext`: with no context, as it was made. EINVAL for what cannot
/// be; EOPNOTSUPP to give a vCPU other tables than it has.
pub fn set(target: &Target<'_, '_>, u: &ctl::Arguments) -> Result<()> {
    let args: DomctlVcpucontext = ctl::get(u)?;
    target.not_caller()?;
    let vcpu = target.vcpu(args.vcpu, Error::Invalid)?;
    let preempt = PreemptByEvents(target.call.vcpu);
    if target.domain.mm.is_dying() {
        return Err(Error::Invalid);
    }
    if args.ctxt.is_null() {
        let _paused = Paused::new(target.domain);
        let _life = target.domain.life.lock();
        return lifecycle::reset_vcpu(vcpu, &preempt);
    }
    let mut context = Box::<VcpuGuestContext>::new(VcpuGuestContext::new_zeroed());
    guest::read_bytes(GuestVirtual(args.ctxt.0), context.as_mut_bytes())?;
    let _paused = Paused::new(target.domain);
    let _life = target.domain.life.lock();
    context::set(target.domain, vcpu, &context, &preempt)?;
    if vcpu.id.0 == 0 {
        // The builder filled `shared_info` before this.
        time::write_wall_clock(target.domain);
    }
    vcpu.set_power(if context.flags & xen_abi::arch_x86::VGCF_ONLINE != 0 {
        Power::Up
    } else {
        Power::Down
    });
    Ok(())
}

/// `XEN_DOMCTL_getvcpucontext`: ENODATA for one that was not set up.
pub fn get(target: &mut Target<'_, '_>, u: &ctl::Arguments) -> Result<()> {
    let args: DomctlVcpucontext = ctl::get(u)?;
    let vcpu = target.other_vcpu(args.vcpu, Error::Invalid)?;
    if vcpu.power() == Power::Uninitialised {
        return Err(Error::NoData);
    }
    let context = {
        let _paused = PausedVcpu::new(vcpu);
        context::get(vcpu)
    };
    guest::write_bytes(GuestVirtual(args.ctxt.0), context.as_bytes())?;
    target.has_answer = true;
    Ok(())
}

/// `XEN_DOMCTL_sendtrigger`: an NMI is what a PV vCPU can get.
pub fn trigger(target: &Target<'_, '_>, u: &ctl::Arguments) -> Result<()> {
    let args: DomctlSendtrigger = ctl::get(u)?;
    let vcpu = target.vcpu(args.vcpu, Error::NoDomain)?;
    match args.trigger {
        XEN_DOMCTL_SENDTRIGGER_NMI => {
            let pending = &vcpu.async_exception.nmi_pending;
            if !pending.swap(true, Ordering::AcqRel) {
                schedule::kick(vcpu);
            }
            Ok(())
        }
        XEN_DOMCTL_SENDTRIGGER_POWER | XEN_DOMCTL_SENDTRIGGER_SLEEP => Err(Error::Invalid),
        _ => Err(Error::NotImplemented),
    }
}

/// Reads an MSR of a vCPU that does not run, of those that are its own.
fn read_msr(vcpu: &Vcpu, index: u32) -> Option<u64> {
    let policy = vcpu.domain().cpu_policy();
    let msrs = vcpu.msrs.get();
    match msrs.read(index, &msr_context(vcpu, &policy), |_| None) {
        MsrRead::Value(value) => Some(value),
        _ => None,
    }
}

/// Writes an MSR of a vCPU that does not run, of those that are its own.
fn write_msr(vcpu: &Vcpu, index: u32, value: u64) -> bool {
    let policy = vcpu.domain().cpu_policy();
    let mut msrs = vcpu.msrs.get();
    let written = msrs.write(index, value, &msr_context(vcpu, &policy), |_| None);
    vcpu.msrs.set(msrs);
    matches!(
        written,
        MsrWrite::Done | MsrWrite::Host { .. } | MsrWrite::HostIfBreakpoints { .. }
    )
}

/// `XEN_DOMCTL_get_ext_vcpucontext`.
pub fn get_ext(target: &mut Target<'_, '_>, u: &mut ctl::Arguments) -> Result<()> {
    let mut args: DomctlExtVcpucontext = ctl::get(u)?;
    let vcpu = target.vcpu(args.vcpu, Error::NoDomain)?;
    if core::ptr::eq(vcpu, target.call.vcpu) {
        return Err(Error::NoDomain);
    }
    let _paused = PausedVcpu::new(vcpu);
    let (sysenter, syscall32) = (vcpu.sysenter.get(), vcpu.syscall32.get());
    args.size = size_of::<DomctlExtVcpucontext>() as u32;
    args.sysenter_callback_eip = sysenter.address;
    args.sysenter_disables_events = u8::from(sysenter.mask_events);
    args.syscall32_callback_eip = syscall32.address;
    args.syscall32_disables_events = u8::from(syscall32.mask_events);
    // Selectors are of 32-bit guests.
    args.sysenter_callback_cs = 0;
    args.syscall32_callback_cs = 0;
    let bank = |n| read_msr(vcpu, msr::MC0_CTL2 + n).unwrap_or(0);
    let caps = read_msr(vcpu, msr::MCG_CAP).unwrap_or(0);
    args.vmce = [caps, bank(0), bank(1), 0];
    ctl::put(u, &args);
    target.has_answer = true;
    Ok(())
}

/// `XEN_DOMCTL_set_ext_vcpucontext`: EPERM for abilities of machine checks that there
/// are not.
pub fn set_ext(target: &Target<'_, '_>, u: &ctl::Arguments) -> Result<()> {
    const CALLBACKS: usize = core::mem::offset_of!(DomctlExtVcpucontext, vmce);
    let args: DomctlExtVcpucontext = ctl::get(u)?;
    let vcpu = target.vcpu(args.vcpu, Error::NoDomain)?;
    if target.is_caller() {
        return Err(Error::NoDomain);
    }
    let room = (args.size as usize)
        .checked_sub(CALLBACKS)
        .ok_or(Error::Invalid)?;
    for address in [args.sysenter_callback_eip, args.syscall32_callback_eip] {
        if !GuestVirtual(address).is_canonical() {
            return Err(Error::Invalid);
        }
    }
    let _paused = Paused::new(target.domain);
    vcpu.sysenter.set(Callback {
        address: args.sysenter_callback_eip,
        mask_events: args.sysenter_disables_events != 0,
    });
    vcpu.syscall32.set(Callback {
        address: args.syscall32_callback_eip,
        mask_events: args.syscall32_disables_events != 0,
    });
    // Older records are shorter.
    let given = |n: usize| room >= 8 * n;
    let [caps, banks @ ..] = args.vmce;
    if given(1) {
        let own = read_msr(vcpu, msr::MCG_CAP).unwrap_or(0);
        if caps & !own & !MCG_CAP_ANY != 0 {
            return Err(Error::NotPermitted);
        }
    }
    if given(3) {
        for (bank, value) in (0..BANKS).zip(banks) {
            write_msr(vcpu, msr::MC0_CTL2 + bank, value);
        }
    }
    Ok(())
}

/// All components of state that there are.
fn components() -> u64 {
    let features = machine::features();
    if features.xsave { features.xcr0 } else { 0 }
}

/// `XEN_DOMCTL_getvcpuextstate`: without a buffer, how large it is to be.
pub fn get_xstate(target: &mut Target<'_, '_>, u: &mut ctl::Arguments) -> Result<()> {
    let mut args: DomctlVcpuextstate = ctl::get(u)?;
    target.has_answer = true;
    let vcpu = target.other_vcpu(args.vcpu, Error::NoDomain)?;
    let system = &dom0::system_policies().pv_max;
    let all = components();
    if (args.size == 0 && args.xfeature_mask == 0) || args.buffer.is_null() {
        args.xfeature_mask = all;
        args.size = SavedState::size(system, all) as u64;
        ctl::put(u, &args);
        return Ok(());
    }
    let mut bytes = Vec::new();
    {
        let _paused = PausedVcpu::new(vcpu);
        let accumulated = vcpu.fpu.xcr0_accumulated.get() & all;
        let size = SavedState::size(system, accumulated);
        if args.size < size as u64 || args.xfeature_mask != all {
            return Err(Error::Invalid);
        }
        bytes.try_reserve_exact(size).map_err(|_| Error::NoMemory)?;
        bytes.extend_from_slice(&(vcpu.fpu.xcr0.get() & all).to_le_bytes());
        bytes.extend_from_slice(&accumulated.to_le_bytes());
        bytes.resize(size, 0);
        if let Some(area) = bytes.get_mut(HEADER_SIZE..) {
            vcpu.fpu.read(area);
        }
    }
    guest::write_bytes(GuestVirtual(args.buffer.0), &bytes)?;
    args.size = bytes.len() as u64;
    ctl::put(u, &args);
    Ok(())
}

/// `XEN_DOMCTL_setvcpuextstate`.
pub fn set_xstate(target: &Target<'_, '_>, u: &ctl::Arguments) -> Result<()> {
    let args: DomctlVcpuextstate = ctl::get(u)?;
    let vcpu = target.other_vcpu(args.vcpu, Error::NoDomain)?;
    let system = &dom0::system_policies().pv_max;
    let most = SavedState::size(system, components());
    if args.size < HEADER_SIZE as u64 || args.size > most as u64 {
        return Err(Error::Invalid);
    }
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(args.size as usize)
        .map_err(|_| Error::NoMemory)?;
    bytes.resize(args.size as usize, 0);
    guest::read_bytes(GuestVirtual(args.buffer.0), &mut bytes)?;
    let state = SavedState::parse(&bytes, system, &target.domain.cpu_policy())?;
    let Some(area) = state.area else {
        return Ok(());
    };
    let _paused = PausedVcpu::new(vcpu);
    vcpu.fpu.write(state.xcr0, state.accumulated, area);
    Ok(())
}

/// `XEN_DOMCTL_get_vcpu_msrs`: those that are not 0; with no list, how many there may be.
/// ENOBUFS if there are more than the list has room for.
pub fn get_msrs(target: &mut Target<'_, '_>, u: &mut ctl::Arguments) -> Result<()> {
    let mut args: DomctlVcpuMsrs = ctl::get(u)?;
    let vcpu = target.other_vcpu(args.vcpu, Error::NoDomain)?;
    let mut result = Ok(());
    if args.msrs.is_null() {
        args.msr_count = MOVED_MSRS.len() as u32;
    } else {
        let values = {
            let _paused = PausedVcpu::new(vcpu);
            MOVED_MSRS.map(|index| (index, read_msr(vcpu, index).unwrap_or(0)))
        };
        let mut count = 0;
        for (index, value) in values.into_iter().filter(|&(_, value)| value != 0) {
            if count < args.msr_count && result.is_ok() {
                let entry = DomctlVcpuMsr {
                    index,
                    reserved: 0,
                    value,
                };
                result = guest::write_item(args.msrs, count.into(), &entry);
            }
            count += 1;
        }
        if count > args.msr_count && result.is_ok() {
            result = Err(Error::NoBuffers);
        }
        args.msr_count = count;
    }
    ctl::put(u, &args);
    target.has_answer = true;
    result
}

/// `XEN_DOMCTL_set_vcpu_msrs`: on an error, says which it was.
pub fn set_msrs(target: &mut Target<'_, '_>, u: &mut ctl::Arguments) -> Result<()> {
    let mut args: DomctlVcpuMsrs = ctl::get(u)?;
    let vcpu = target.other_vcpu(args.vcpu, Error::NoDomain)?;
    if args.msr_count > MOVED_MSRS.len() as u32 {
        return Err(Error::Invalid);
    }
    let paused = PausedVcpu::new(vcpu);
    for n in 0..args.msr_count {
        let set = guest::read_item::<DomctlVcpuMsr>(args.msrs, n.into()).and_then(|entry| {
            let good = entry.reserved == 0
                && MOVED_MSRS.contains(&entry.index)
                && write_msr(vcpu, entry.index, entry.value);
            good.then_some(()).ok_or(Error::Invalid)
        });
        if let Err(error) = set {
            drop(paused);
            args.msr_count = n;
            ctl::put(u, &args);
            target.has_answer = true;
            return Err(error);
        }
    }
    Ok(())
}
