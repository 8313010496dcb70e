//! Instructions of a guest that only ring 0 may execute, and its writes to page
//! tables: carried out on its behalf.

use core::sync::atomic::Ordering;

use overcast_core::addr::{GuestVirtual, Mfn};
use overcast_core::cpuid::{CpuidContext, CpuidPolicy};
use overcast_core::emulate::{
    self, CodeMode, FORCED_CPUID_LENGTH, MAX_INSTRUCTION, NotDecoded, Privileged, SegmentBases,
    StringIo, Width,
};
use overcast_core::error::Error;
use overcast_core::mm::{MmuCaller, PtwrOutcome, PtwrWrite};
use overcast_core::msr::{MsrContext, MsrRead, MsrWrite};
use xen_abi::xen::VMASST_TYPE_ARCHITECTURAL_IOPL;

use crate::arch::descriptors::selector;
use crate::arch::entry::{self, Segment};
use crate::arch::registers::{Registers, rflags, vector};
use crate::arch::{cpu, debug, percpu};
use crate::guest;
use crate::host::mm;
use crate::hypercall::{self, PreemptByEvents, set_task_switched};
use crate::pv::{bounce, descriptors};
use crate::vcpu::{CR0_TS, DR6_DEFAULT, Vcpu};

/// CR4.TSD: RDTSC is privileged.
const CR4_TSD: u64 = 1 << 2;
/// CR4.DE: I/O breakpoints.
const CR4_DE: u64 = 1 << 3;
/// CR4.FSGSBASE.
const CR4_FSGSBASE: u64 = 1 << 16;
/// CR4.OSXSAVE.
const CR4_OSXSAVE: u64 = 1 << 18;
/// Bits of CR4 that a guest may choose.
const CR4_GUEST: u64 = CR4_TSD | CR4_DE | CR4_FSGSBASE | CR4_OSXSAVE;
/// Bits of CR4 that a guest sees as the hypervisor set them.
const CR4_VISIBLE: u64 = (1 << 5) | (1 << 6) | (1 << 9) | (1 << 10);
/// Page-fault error code: a write.
const PF_WRITE: u32 = 1 << 1;
/// DR6: a single step.
const DR6_STEP: u64 = 1 << 14;
/// Items of a string instruction that are moved between two looks at whether to stop.
const STRING_BATCH: u64 = 256;

/// What an instruction comes to.
enum Outcome {
    /// It is done; breakpoints that it hit, as bits of DR6.
    Done(u64),
    /// It is to be executed again (it was preempted).
    Again,
    /// The guest gets this exception instead.
    Exception(u8, Option<u32>),
    /// The guest gets a page fault instead: error code and address.
    PageFault(u32, u64),
    /// It is not for us: the guest gets the exception that brought us here.
    Unhandled,
}

/// What CR4 becomes when a guest writes `value`: its own choice within the CPU
/// policy, and the hypervisor's settings that it may see.
pub fn allowed_cr4(vcpu: &Vcpu, value: u64) -> u64 {
    use xen_abi::cpufeatureset as f;
    let policy = vcpu.domain().cpu_policy();
    let mut allowed = CR4_GUEST;
    for (feature, bit) in [
        (f::TSC, CR4_TSD),
        (f::DE, CR4_DE),
        (f::FSGSBASE, CR4_FSGSBASE),
        (f::XSAVE, CR4_OSXSAVE),
    ] {
        if !policy.has(feature) {
            allowed &= !bit;
        }
    }
    (value & allowed) | (cpu::cr4_base() & CR4_VISIBLE)
}

/// The value of the CPU's CR4 while a vCPU runs.
pub fn machine_cr4(vcpu: &Vcpu) -> u64 {
    let mut value = cpu::cr4_base() & !(CR4_TSD | CR4_FSGSBASE);
    value |= vcpu.cr4.get() & (CR4_TSD | CR4_FSGSBASE) & (cpu::cr4_base() | CR4_TSD);
    if vcpu.domain().emulated_tsc().is_some() {
        value |= CR4_TSD;
    }
    value
}

/// The linear addresses of segments, and the mode, of the code that runs.
fn code_mode(regs: &Registers) -> CodeMode {
    if regs.cs == u64::from(selector::RING3_CS64) {
        return CodeMode::Long;
    }
    match entry::access_rights(regs.cs as u16) {
        Some(rights) if rights & (1 << 21) != 0 => CodeMode::Long,
        Some(rights) if rights & (1 << 22) != 0 => CodeMode::Compat32,
        Some(_) => CodeMode::Compat16,
        None => CodeMode::Long,
    }
}

/// The registers in the decoder's form.
fn to_decoder(regs: &Registers) -> emulate::Registers {
    let mode = code_mode(regs);
    let bases = if mode == CodeMode::Long {
        SegmentBases {
            fs: descriptors::read_base(Segment::Fs),
            gs: descriptors::read_base(Segment::Gs),
            ..SegmentBases::default()
        }
    } else {
        SegmentBases::default()
    };
    emulate::Registers {
        gpr: regs.all_general(),
        rip: regs.rip,
        rflags: regs.rflags,
        bases,
        mode,
    }
}

/// Takes the registers back from the decoder's form. Only the arithmetic flags
/// and RF can have changed.
fn from_decoder(regs: &mut Registers, from: &emulate::Registers) {
    const ARITHMETIC: u64 = 0x8d5;
    regs.set_all_general(&from.gpr);
    regs.rip = from.rip;
    let mask = ARITHMETIC | rflags::RF;
    regs.rflags = (regs.rflags & !mask) | (from.rflags & mask);
}

/// The bytes of the instruction that the guest executes: as many as can be read.
fn fetch<'a>(regs: &Registers, bytes: &'a mut [u8; MAX_INSTRUCTION]) -> &'a [u8] {
    let got = guest::read_some(GuestVirtual(regs.rip), bytes);
    &bytes[..got]
}

/// The page fault of fetching the byte behind those that could be read. As on Xen
/// the error code does not say that it was a fetch, for it was not.
fn fetch_fault(regs: &Registers, got: usize) -> Outcome {
    Outcome::PageFault(0, regs.rip.wrapping_add(got as u64))
}

/// Finishes an emulation; says whether the exception is dealt with.
fn conclude(vcpu: &Vcpu, regs: &mut Registers, outcome: Outcome) -> bool {
    match outcome {
        Outcome::Done(0) | Outcome::Again => {}
        Outcome::Done(hit) => {
            vcpu.dr6.set(vcpu.dr6.get() | hit | DR6_DEFAULT);
            bounce::inject(vcpu, regs, vector::DEBUG, None);
        }
        Outcome::Exception(number, code) => bounce::inject(vcpu, regs, number, code),
        Outcome::PageFault(code, address) => {
            bounce::inject_page_fault(vcpu, regs, code, address);
        }
        Outcome::Unhandled => return false,
    }
    true
}

/// The number of the `int n` that the guest executes, if it does.
pub fn software_interrupt_number(regs: &Registers) -> Option<(u8, u8)> {
    let mut bytes = [0; MAX_INSTRUCTION];
    let bytes = fetch(regs, &mut bytes);
    emulate::decode_software_interrupt(bytes, &to_decoder(regs)).ok()
}

/// An invalid opcode: CPUID behind the forced-emulation prefix.
pub fn invalid_opcode(vcpu: &Vcpu, regs: &mut Registers) -> bool {
    let mut bytes = [0; MAX_INSTRUCTION];
    let bytes = fetch(regs, &mut bytes);
    let outcome = match emulate::decode_forced_cpuid(bytes) {
        Ok(()) if cpuid_faults(vcpu) => {
            regs.rip = regs
                .rip
                .wrapping_add(emulate::FORCED_EMULATION_PREFIX.len() as u64);
            Outcome::Exception(vector::GENERAL_PROTECTION, Some(0))
        }
        Ok(()) => {
            let step = regs.rflags & rflags::TF != 0;
            cpuid(vcpu, regs, true);
            regs.rip = regs.rip.wrapping_add(FORCED_CPUID_LENGTH.into());
            regs.rflags &= !rflags::RF;
            Outcome::Done(if step { DR6_STEP } else { 0 })
        }
        Err(NotDecoded::Truncated) => fetch_fault(regs, bytes.len()),
        Err(NotDecoded::NotEmulated) => Outcome::Unhandled,
    };
    conclude(vcpu, regs, outcome)
}

/// Whether CPUID faults where the guest executes: its kernel chose so for user space.
fn cpuid_faults(vcpu: &Vcpu) -> bool {
    !vcpu.kernel_mode.get() && vcpu.msrs.get().misc_features_enables & 1 != 0
}

/// CPUID with the leaf and subleaf of the registers.
fn cpuid(vcpu: &Vcpu, regs: &mut Registers, forced: bool) {
    let context = CpuidContext {
        kernel: vcpu.kernel_mode.get(),
        forced,
        cr4: vcpu.cr4.get(),
        xcr0: vcpu.fpu.xcr0.get(),
        host_osxsave: cpu::cr4_base() & CR4_OSXSAVE != 0,
        time: crate::time::cpuid_leaf(vcpu.domain()),
    };
    let [a, b, c, d] = vcpu
        .domain()
        .cpu_policy()
        .leaf(regs.rax as u32, regs.rcx as u32, &context);
    regs.rax = a.into();
    regs.rbx = b.into();
    regs.rcx = c.into();
    regs.rdx = d.into();
}

/// RDMSR or WRMSR in 64-bit code of the guest's kernel, without the decoder. Says
/// whether it was one, and is done; if not, nothing was done.
fn msr_access(vcpu: &Vcpu, regs: &mut Registers) -> bool {
    const RDMSR: u64 = 0x320f;
    const WRMSR: u64 = 0x300f;
    if regs.cs != u64::from(selector::RING3_CS64)
        || regs.rflags & rflags::TF != 0
        || !vcpu.kernel_mode.get()
    {
        return false;
    }
    let Some([bytes, _]) = guest::read_pair(GuestVirtual(regs.rip)) else {
        return false;
    };
    let index = regs.rcx as u32;
    match bytes & 0xffff {
        RDMSR => {
            let value = match index {
                // What Linux reads at each switch of tasks, where it may use WRGSBASE.
                overcast_core::msr::index::KERNEL_GS_BASE => {
                    Some(descriptors::read_shadow_gs_base())
                }
                _ => read_msr(vcpu, index),
            };
            let Some(value) = value else {
                return false;
            };
            regs.rax = value & 0xffff_ffff;
            regs.rdx = value >> 32;
        }
        WRMSR => {
            let value = regs.rdx << 32 | (regs.rax & 0xffff_ffff);
            if !write_msr(vcpu, index, value) {
                return false;
            }
        }
        _ => return false,
    }
    regs.rip = regs.rip.wrapping_add(2);
    regs.rflags &= !rflags::RF;
    true
}

/// A #GP(0): carries the instruction out if it is one of those that a PV guest
/// may execute. Says whether the exception is dealt with.
pub fn privileged(vcpu: &Vcpu, regs: &mut Registers) -> bool {
    if msr_access(vcpu, regs) {
        return true;
    }
    let mut bytes = [0; MAX_INSTRUCTION];
    let bytes = fetch(regs, &mut bytes);
    let mut state = to_decoder(regs);
    let decoded = vcpu.decode_cache.lock().privileged(bytes, &state);
    let outcome = match decoded {
        Ok((what, length)) => {
            let outcome = perform(vcpu, regs, &mut state, what);
            match outcome {
                Outcome::Done(hit) => {
                    // Xen does not count CLI and STI as steps.
                    let counts = !matches!(what, Privileged::Cli | Privileged::Sti);
                    let step = state.advance(length) && counts;
                    from_decoder(regs, &state);
                    Outcome::Done(hit | if step { DR6_STEP } else { 0 })
                }
                other => {
                    // A string instruction may have got on its way.
                    from_decoder(regs, &state);
                    other
                }
            }
        }
        Err(NotDecoded::Truncated) => {
            let next = GuestVirtual(regs.rip.wrapping_add(bytes.len() as u64));
            if next.access_ok(1) {
                fetch_fault(regs, bytes.len())
            } else {
                Outcome::Unhandled
            }
        }
        Err(NotDecoded::NotEmulated) => Outcome::Unhandled,
    };
    conclude(vcpu, regs, outcome)
}

/// Whether the instruction that gave #GP(0) uses an address relative to the stack
/// that is not canonical, for which #SS(0) is the exception.
pub fn is_stack_fault(regs: &Registers) -> bool {
    let mut bytes = [0; MAX_INSTRUCTION];
    let bytes = fetch(regs, &mut bytes);
    emulate::faults_on_stack(bytes, &to_decoder(regs))
}

/// Whether the guest's own I/O privilege level lets the code that runs do I/O.
fn iopl_ok(vcpu: &Vcpu) -> bool {
    let ring: u64 = if !vcpu.kernel_mode.get() {
        3
    } else if vcpu.domain().has_assist(VMASST_TYPE_ARCHITECTURAL_IOPL) {
        0
    } else {
        1
    };
    (ring << 12) <= vcpu.iopl.get()
}

/// Whether the guest's kernel lets the code that runs use the ports: by
/// privilege level, or by its bitmap, which lies in the kernel's address space.
fn io_okay(vcpu: &Vcpu, port: u16, width: Width) -> bool {
    if iopl_ok(vcpu) {
        return true;
    }
    let (bitmap, ports) = vcpu.io_bitmap.get();
    let count = width.bytes();
    if u64::from(port) + count > u64::from(ports) {
        return false;
    }
    let mut bytes = [0xff; 2];
    let at = GuestVirtual(bitmap.0.wrapping_add(u64::from(port >> 3)));
    let user = !vcpu.kernel_mode.get();
    if user {
        super::mode::toggle_tables(vcpu);
    }
    guest::read_some(at, &mut bytes);
    if user {
        super::mode::toggle_tables(vcpu);
    }
    let mask = ((1u32 << count) - 1) << (port & 7);
    u32::from(u16::from_le_bytes(bytes)) & mask == 0
}

/// The I/O breakpoints that an access hits, as bits of DR6.
fn io_breakpoints(vcpu: &Vcpu, port: u16, width: Width) -> u64 {
    let enabled = vcpu.dr7_emulated.get();
    if enabled == 0 || vcpu.cr4.get() & CR4_DE == 0 {
        return 0;
    }
    let (port, count) = (u64::from(port), width.bytes());
    let mut hit = 0;
    for number in 0..4u32 {
        if enabled >> (2 * number) & 3 == 0 {
            continue;
        }
        let start = vcpu.debug_address[number as usize].get();
        let len = match vcpu.dr7.get() >> (18 + 4 * number) & 3 {
            0 => 1,
            1 => 2,
            2 => 8,
            _ => 4,
        };
        let start = start & !(len - 1);
        if start < port + count && start.saturating_add(len) > port {
            hit |= 1 << number;
        }
    }
    hit
}

/// All ones of a width: what a port without a device gives.
fn no_device(width: Width) -> u64 {
    width.mask()
}

fn perform(
    vcpu: &Vcpu,
    regs: &mut Registers,
    state: &mut emulate::Registers,
    what: Privileged,
) -> Outcome {
    const GP: Outcome = Outcome::Exception(vector::GENERAL_PROTECTION, Some(0));
    let kernel = vcpu.kernel_mode.get();
    let rax = emulate::gpr::RAX;
    let rdx = emulate::gpr::RDX;
    // Everything but I/O and CPUID belongs to the guest's kernel.
    let for_anyone = matches!(
        what,
        Privileged::In { .. }
            | Privileged::Out { .. }
            | Privileged::Ins(_)
            | Privileged::Outs(_)
            | Privileged::Cli
            | Privileged::Sti
            | Privileged::Cpuid { .. }
            | Privileged::Rdtsc
            | Privileged::Rdtscp
    );
    if !kernel && !for_anyone {
        return Outcome::Unhandled;
    }
    match what {
        Privileged::In { port, width } => {
            if !io_okay(vcpu, port, width) {
                return GP;
            }
            state.set(rax, width, no_device(width));
            Outcome::Done(io_breakpoints(vcpu, port, width))
        }
        Privileged::Out { port, width, .. } => {
            if !io_okay(vcpu, port, width) {
                return GP;
            }
            Outcome::Done(io_breakpoints(vcpu, port, width))
        }
        Privileged::Ins(io) => string_io(vcpu, state, &io, true),
        Privileged::Outs(io) => string_io(vcpu, state, &io, false),
        // On Xen both do nothing but for being allowed: events are masked in `vcpu_info`.
        Privileged::Cli | Privileged::Sti => {
            if iopl_ok(vcpu) {
                Outcome::Done(0)
            } else {
                Outcome::Unhandled
            }
        }
        Privileged::Clts => {
            set_task_switched(vcpu, false);
            Outcome::Done(0)
        }
        // Without devices there is no memory whose caching matters.
        Privileged::Wbinvd => Outcome::Done(0),
        Privileged::ReadCr { cr, gpr } => {
            let value = match cr {
                0 => vcpu.cr0.get(),
                2 => vcpu.info().cr2.load(Ordering::Relaxed),
                3 => vcpu.kernel_root.get(),
                4 => vcpu.cr4.get(),
                _ => return Outcome::Unhandled,
            };
            state.set(gpr, Width::Qword, value);
            Outcome::Done(0)
        }
        Privileged::WriteCr { cr, value } => write_cr(vcpu, cr, value),
        Privileged::ReadDr { dr, gpr } => match debug::get(vcpu, dr.into()) {
            Ok(value) => {
                state.set(gpr, Width::Qword, value);
                Outcome::Done(0)
            }
            Err(_) => Outcome::Exception(vector::INVALID_OPCODE, None),
        },
        Privileged::WriteDr { dr, value } => match debug::set(vcpu, dr.into(), value) {
            Ok(()) => Outcome::Done(0),
            Err(Error::NotThere) => Outcome::Exception(vector::INVALID_OPCODE, None),
            Err(_) => GP,
        },
        Privileged::Rdmsr { index } => match read_msr(vcpu, index) {
            Some(value) => {
                state.set(rax, Width::Dword, value & 0xffff_ffff);
                state.set(rdx, Width::Dword, value >> 32);
                Outcome::Done(0)
            }
            None => GP,
        },
        Privileged::Wrmsr { index, value } => {
            if write_msr(vcpu, index, value) {
                Outcome::Done(0)
            } else {
                GP
            }
        }
        Privileged::Rdtsc | Privileged::Rdtscp => {
            // The guest's kernel set CR4.TSD, or the domain has another TSC than the CPU's.
            if !kernel && vcpu.cr4.get() & CR4_TSD != 0 {
                return Outcome::Unhandled;
            }
            let tsc = crate::time::read_tsc(vcpu.domain());
            state.set(rax, Width::Dword, tsc & 0xffff_ffff);
            state.set(rdx, Width::Dword, tsc >> 32);
            if what == Privileged::Rdtscp {
                let aux = vcpu.msrs.get().tsc_aux;
                state.set(emulate::gpr::RCX, Width::Dword, aux.into());
            }
            Outcome::Done(0)
        }
        Privileged::Xsetbv { index, value } => {
            let valid = index == 0
                && vcpu.cr4.get() & CR4_OSXSAVE != 0
                && vcpu.domain().cpu_policy().xcr0_valid(value);
            if !valid {
                return GP;
            }
            vcpu.fpu.set_xcr0(value);
            Outcome::Done(0)
        }
        Privileged::Cpuid { .. } if cpuid_faults(vcpu) => GP,
        Privileged::Cpuid { .. } => {
            cpuid(vcpu, regs, false);
            *state = to_decoder(regs);
            Outcome::Done(0)
        }
    }
}

/// INS and OUTS on ports where there is no device.
fn string_io(vcpu: &Vcpu, state: &mut emulate::Registers, io: &StringIo, input: bool) -> Outcome {
    if !io_okay(vcpu, io.port, io.width) {
        return Outcome::Exception(vector::GENERAL_PROTECTION, Some(0));
    }
    let len = io.width.bytes() as usize;
    let mut hit = 0;
    let mut done = 0;
    while done < io.count {
        let at = GuestVirtual(io.item(done));
        if !at.access_ok(1) {
            let number = if io.stack_segment {
                vector::STACK_FAULT
            } else {
                vector::GENERAL_PROTECTION
            };
            io.finish(state, done);
            return Outcome::Exception(number, Some(0));
        }
        let mut item = [0xff; 8];
        let copied = if input {
            guest::write_some(at, &item[..len])
        } else {
            guest::read_some(at, &mut item[..len])
        };
        if copied != len {
            io.finish(state, done);
            let address = at.0.wrapping_add(copied as u64);
            return Outcome::PageFault(if input { PF_WRITE } else { 0 }, address);
        }
        hit |= io_breakpoints(vcpu, io.port, io.width);
        done += 1;
        let stop = hit != 0 || state.rflags & emulate::FLAG_TF != 0;
        if stop || (done % STRING_BATCH == 0 && hypercall::preempt_pending(vcpu)) {
            break;
        }
    }
    if io.finish(state, done) {
        Outcome::Done(hit)
    } else if hit != 0 || state.rflags & emulate::FLAG_TF != 0 {
        // Between two items: the instruction is not over.
        let step = if state.rflags & emulate::FLAG_TF != 0 {
            DR6_STEP
        } else {
            0
        };
        vcpu.dr6.set(vcpu.dr6.get() | hit | step | DR6_DEFAULT);
        Outcome::Exception(vector::DEBUG, None)
    } else {
        Outcome::Again
    }
}

fn write_cr(vcpu: &Vcpu, cr: u8, value: u64) -> Outcome {
    match cr {
        0 => {
            if (value ^ vcpu.cr0.get()) & !CR0_TS != 0 {
                return Outcome::Unhandled;
            }
            set_task_switched(vcpu, value & CR0_TS != 0);
        }
        2 => vcpu.info().cr2.store(value, Ordering::Relaxed),
        3 => {
            let mut tables = vcpu.tables.lock();
            let preempt = PreemptByEvents(vcpu);
            let mut caller = MmuCaller {
                domain: &vcpu.domain().mm,
                tables: &mut tables,
                preempt: &preempt,
            };
            let result = hypercall::new_kernel_base(vcpu, &mut caller, Mfn(value >> 12));
            match result {
                Ok(()) => {}
                Err(Error::Restart) => return Outcome::Again,
                Err(_) => return Outcome::Unhandled,
            }
        }
        4 => {
            vcpu.cr4.set(allowed_cr4(vcpu, value));
            // SAFETY: only bits that guests may choose differ from the CPU's own setting.
            unsafe { cpu::write_cr4(machine_cr4(vcpu)) };
        }
        _ => return Outcome::Unhandled,
    }
    Outcome::Done(0)
}

/// What accesses to MSRs by a vCPU depend on, with the policy of its domain.
pub fn msr_context<'p>(vcpu: &Vcpu, policy: &'p CpuidPolicy) -> MsrContext<'p> {
    MsrContext {
        policy,
        privileged: vcpu.domain().privileged,
        boot_vcpu: vcpu.id.0 == 0,
        gp_handler: vcpu.trap(vector::GENERAL_PROTECTION).address != 0,
    }
}

fn read_msr(vcpu: &Vcpu, index: u32) -> Option<u64> {
    let msrs = vcpu.msrs.get();
    let policy = vcpu.domain().cpu_policy();
    match msrs.read(index, &msr_context(vcpu, &policy), entry::rdmsr_safe) {
        MsrRead::Value(value) => Some(value),
        MsrRead::FsBase => Some(descriptors::read_base(Segment::Fs)),
        MsrRead::GsBase => Some(descriptors::read_base(Segment::Gs)),
        MsrRead::UserGsBase => Some(descriptors::read_shadow_gs_base()),
        MsrRead::Tsc => Some(crate::time::read_tsc(vcpu.domain())),
        MsrRead::Fault if vcpu.domain().relaxed_msrs && index >> 16 != 0x4000 => {
            entry::rdmsr_safe(index).map(|_| 0)
        }
        MsrRead::Fault => None,
    }
}

fn write_msr(vcpu: &Vcpu, index: u32, value: u64) -> bool {
    let mut msrs = vcpu.msrs.get();
    let policy = vcpu.domain().cpu_policy();
    let context = msr_context(vcpu, &policy);
    let what = msrs.write(index, value, &context, entry::rdmsr_safe);
    vcpu.msrs.set(msrs);
    match what {
        MsrWrite::Done => true,
        MsrWrite::FsBase(base) => {
            descriptors::write_base(Segment::Fs, base);
            true
        }
        MsrWrite::GsBase(base) => {
            descriptors::write_base(Segment::Gs, base);
            true
        }
        MsrWrite::UserGsBase(base) => {
            descriptors::write_shadow_gs_base(base);
            true
        }
        MsrWrite::Host { index, value } => {
            if index == overcast_core::msr::index::TSC_AUX {
                percpu::this().tsc_aux.set(None);
            }
            // SAFETY: the value was checked against what guests may have.
            unsafe { entry::wrmsr_safe(index, value) }.is_some()
        }
        MsrWrite::HostIfBreakpoints { index, value } => {
            if vcpu.dr7.get() & 0xff != 0 {
                // SAFETY: as above.
                let _ = unsafe { entry::wrmsr_safe(index, value) };
            }
            true
        }
        MsrWrite::HypercallPage(mfn) => hypercall::write_page(vcpu.domain(), mfn),
        MsrWrite::Fault => false,
    }
}

/// How often a write to a page table is tried again when something else changed
/// the entry meanwhile.
const PTWR_TRIES: u32 = 16;

/// [`page_table_write`] where the instruction is one of the common ones and was
/// decoded before. Nothing was done if it is not so.
fn register_write(vcpu: &Vcpu, regs: &mut Registers, address: GuestVirtual) -> bool {
    if regs.cs != u64::from(selector::RING3_CS64) || regs.rflags & rflags::TF != 0 {
        return false;
    }
    let Some(bytes) = guest::read_pair(GuestVirtual(regs.rip)) else {
        return false;
    };
    let Some(write) = vcpu.decode_cache.lock().register_write(regs.rip, bytes) else {
        return false;
    };
    if regs.general(write.base).wrapping_add(write.displacement) != address.0 {
        return false;
    }
    let value = regs.general(write.register);
    let request = if write.exchange {
        PtwrWrite::Exchange(value)
    } else {
        PtwrWrite::Store(value)
    };
    let root = Mfn(vcpu.kernel_root.get() >> 12);
    match mm().emulate_write(&vcpu.domain().mm, root, address, 8, request) {
        PtwrOutcome::Done => {}
        PtwrOutcome::Exchanged(old) => regs.set_general(write.register, old),
        PtwrOutcome::Mismatch(_) | PtwrOutcome::Unhandled => return false,
    }
    regs.rip = regs.rip.wrapping_add(write.length.into());
    regs.rflags &= !rflags::RF;
    true
}

/// A write of the guest's kernel to an address that is mapped read-only: carries
/// it out if one of its level-1 page tables is there. Says whether the fault is
/// dealt with.
pub fn page_table_write(vcpu: &Vcpu, regs: &mut Registers, address: GuestVirtual) -> bool {
    if register_write(vcpu, regs, address) {
        return true;
    }
    let domain = &vcpu.domain().mm;
    let root = Mfn(vcpu.kernel_root.get() >> 12);
    if mm().page_table_at(domain, root, address).is_none() {
        return false;
    }
    let mut bytes = [0; MAX_INSTRUCTION];
    let bytes = fetch(regs, &mut bytes);
    let state = to_decoder(regs);
    let decoded = vcpu.decode_cache.lock().memory_write(bytes, &state);
    let Ok(write) = decoded else {
        return false;
    };
    let len = write.width.bytes() as usize;
    let read = |at: u64| -> Option<u64> {
        let mut value = [0; 8];
        guest::read_bytes(GuestVirtual(at), &mut value[..len]).ok()?;
        Some(u64::from_le_bytes(value))
    };
    // The fault must be of what the decoded instruction writes.
    let span = write.address..write.address.wrapping_add(len as u64);
    if !write.empty && !span.contains(&address.0) {
        return false;
    }
    let source = match write.source {
        Some(at) if !write.empty => match read(at) {
            Some(value) => value,
            None => return false,
        },
        _ => 0,
    };
    for _ in 0..PTWR_TRIES {
        let old = if write.unconditional || write.empty {
            0
        } else {
            match read(write.address) {
                Some(old) => old,
                None => return false,
            }
        };
        let outcome = write.apply(&state, old, source);
        if let Some(value) = outcome.value {
            let request = if write.unconditional {
                PtwrWrite::Store(value)
            } else {
                PtwrWrite::CompareExchange { old, new: value }
            };
            let at = GuestVirtual(write.address);
            match mm().emulate_write(domain, root, at, len, request) {
                PtwrOutcome::Done => {}
                PtwrOutcome::Mismatch(_) => continue,
                PtwrOutcome::Exchanged(_) | PtwrOutcome::Unhandled => return false,
            }
        }
        from_decoder(regs, &outcome.registers);
        if outcome.single_step {
            vcpu.dr6.set(vcpu.dr6.get() | DR6_STEP);
            bounce::inject(vcpu, regs, vector::DEBUG, None);
        }
        return true;
    }
    // The entry changes all the time: let the guest execute the instruction again.
    true
}
