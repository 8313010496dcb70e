//! The hypercall table: from the registers of a guest's kernel to one function
//! a hypercall, grouped in one file a family.
//!
//! A function gets a [`Call`] and gives the value for %rax, or an error. Work
//! that takes long stops at [`Call::preempt`]: the function writes into
//! `call.args` what is left to do and gives [`Error::Restart`], whereupon the
//! guest is made to issue the same call again.

mod absent;
mod callback;
mod console;
mod ctl;
mod descriptor;
mod domctl;
mod event_channel;
mod grant_table;
mod hypfs;
mod machine_check;
mod memory;
mod misc;
mod mmu;
mod multicall;
mod physdev;
mod platform;
mod sched;
mod sysctl;
mod vcpu;
mod version;

pub use descriptor::install as install_gdt;
pub use misc::{ASSISTS, set_task_switched};
pub use mmu::{new_kernel_base, pin_top_table};

use overcast_core::addr::GuestVirtual;
use overcast_core::error::{Error, Result};
use xen_abi::xen::*;

use crate::arch::percpu;
use crate::arch::registers::Registers;
use crate::domain::Domain;
use crate::vcpu::Vcpu;

/// Fills a frame of the domain's with the hypercall page, as a write of the
/// hypercall MSR asks for. Says whether the frame is one that it may write.
pub fn write_page(domain: &Domain, mfn: overcast_core::addr::Mfn) -> bool {
    use overcast_core::machine::Memory;
    let Ok(page) = crate::host::mm().get_writable(mfn, domain.id) else {
        return false;
    };
    let Some(frame) = crate::host::Host.frame(page.mfn()) else {
        return false;
    };
    overcast_core::builder::hypercall_page::fill(frame);
    crate::host::mm().mark_dirty(page.mfn());
    true
}

/// One hypercall that is being made.
pub struct Call<'a> {
    /// The caller.
    pub vcpu: &'a Vcpu,
    /// Its domain.
    pub domain: &'a Domain,
    /// The arguments; changed by a function that stops early.
    pub args: [u64; 6],
    /// The registers that go back to the guest.
    pub regs: &'a mut Registers,
    /// Whether the call is an entry of a multicall.
    pub in_multicall: bool,
}

impl Call<'_> {
    /// Argument `index` as an address.
    pub fn address(&self, index: usize) -> GuestVirtual {
        GuestVirtual(self.args[index])
    }

    /// Argument `index` as a handle.
    pub fn handle(&self, index: usize) -> GuestHandle {
        GuestHandle(self.args[index])
    }

    /// Whether long work should stop now and be continued later.
    pub fn preempt(&self) -> bool {
        preempt_pending(self.vcpu)
    }

    /// EPERM unless the caller is a control domain.
    pub fn require_privilege(&self) -> Result<()> {
        if self.domain.privileged {
            Ok(())
        } else {
            Err(Error::NotPermitted)
        }
    }
}

/// Whether something more urgent than the running hypercall waits.
pub fn preempt_pending(vcpu: &Vcpu) -> bool {
    percpu::this()
        .softirqs
        .load(core::sync::atomic::Ordering::Relaxed)
        != 0
        || vcpu.upcall_due()
}

/// Makes long work of the core stop when the running vCPU should.
pub struct PreemptByEvents<'a>(pub &'a Vcpu);

impl overcast_core::machine::Preempt for PreemptByEvents<'_> {
    fn preempt_pending(&self) -> bool {
        preempt_pending(self.0)
    }
}

/// Length of the SYSCALL instruction, in bytes.
const SYSCALL_LENGTH: u64 = 2;

/// Makes the hypercall that the guest's registers ask for.
pub fn dispatch(vcpu: &Vcpu, regs: &mut Registers) {
    let number = regs.rax;
    // What kernels do most, and what is less than the frame of any call.
    match number {
        // One update of the guest's own page tables.
        HYPERVISOR_MMU_UPDATE if (regs.rsi, regs.rdx, regs.r10) == (1, 0, DOMID_SELF.into()) => {
            if let Some(result) = mmu::update_one(vcpu, GuestVirtual(regs.rdi)) {
                regs.rax = overcast_core::error::to_return(result) as u64;
                return;
            }
        }
        HYPERVISOR_STACK_SWITCH => {
            misc::set_kernel_stack(vcpu, regs.rdi, regs.rsi);
            regs.rax = 0;
            return;
        }
        HYPERVISOR_SET_SEGMENT_BASE
            if regs.rdi == xen_abi::arch_x86::SEGBASE_GS_USER.into()
                && GuestVirtual(regs.rsi).is_canonical() =>
        {
            misc::set_user_gs_base(vcpu, regs.rsi);
            regs.rax = 0;
            return;
        }
        HYPERVISOR_FPU_TASKSWITCH => {
            set_task_switched(vcpu, regs.rdi as u32 != 0);
            regs.rax = 0;
            return;
        }
        _ => {}
    }
    let args = [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9];
    let mut call = Call {
        vcpu,
        domain: vcpu.domain(),
        args,
        regs,
        in_multicall: false,
    };
    let result = perform(number, &mut call);
    let args = call.args;
    match result {
        Ok(value) => regs.rax = value as u64,
        Err(Error::Restart) => {
            regs.rip = regs.rip.wrapping_sub(SYSCALL_LENGTH);
            regs.rax = number;
            [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = args;
        }
        Err(error) => regs.rax = error.to_return() as u64,
    }
}

/// Makes hypercall `number`.
fn perform(number: u64, call: &mut Call<'_>) -> Result<i64> {
    match number {
        HYPERVISOR_SET_TRAP_TABLE => callback::set_trap_table(call),
        HYPERVISOR_MMU_UPDATE => mmu::mmu_update(call),
        HYPERVISOR_SET_GDT => descriptor::set_gdt(call),
        HYPERVISOR_STACK_SWITCH => misc::stack_switch(call),
        HYPERVISOR_SET_CALLBACKS => callback::set_callbacks(call),
        HYPERVISOR_FPU_TASKSWITCH => misc::fpu_taskswitch(call),
        HYPERVISOR_SCHED_OP_COMPAT => sched::sched_op_compat(call),
        HYPERVISOR_PLATFORM_OP => platform::platform_op(call),
        HYPERVISOR_SET_DEBUGREG => misc::set_debugreg(call),
        HYPERVISOR_GET_DEBUGREG => misc::get_debugreg(call),
        HYPERVISOR_UPDATE_DESCRIPTOR => descriptor::update_descriptor(call),
        HYPERVISOR_MEMORY_OP => memory::memory_op(call),
        HYPERVISOR_MULTICALL => multicall::multicall(call),
        HYPERVISOR_UPDATE_VA_MAPPING => mmu::update_va_mapping(call),
        HYPERVISOR_SET_TIMER_OP => vcpu::set_timer_op(call),
        HYPERVISOR_EVENT_CHANNEL_OP_COMPAT => event_channel::event_channel_op_compat(call),
        HYPERVISOR_XEN_VERSION => version::xen_version(call),
        HYPERVISOR_CONSOLE_IO => console::console_io(call),
        HYPERVISOR_PHYSDEV_OP_COMPAT => physdev::physdev_op_compat(call),
        HYPERVISOR_GRANT_TABLE_OP => grant_table::grant_table_op(call),
        HYPERVISOR_VM_ASSIST => misc::vm_assist(call),
        HYPERVISOR_UPDATE_VA_MAPPING_OTHERDOMAIN => mmu::update_va_mapping_otherdomain(call),
        HYPERVISOR_IRET => misc::iret(call),
        HYPERVISOR_VCPU_OP => vcpu::vcpu_op(call),
        HYPERVISOR_SET_SEGMENT_BASE => misc::set_segment_base(call),
        HYPERVISOR_MMUEXT_OP => mmu::mmuext_op(call),
        HYPERVISOR_NMI_OP => callback::nmi_op(call),
        HYPERVISOR_SCHED_OP => sched::sched_op(call),
        HYPERVISOR_CALLBACK_OP => callback::callback_op(call),
        HYPERVISOR_EVENT_CHANNEL_OP => event_channel::event_channel_op(call),
        HYPERVISOR_PHYSDEV_OP => physdev::physdev_op(call),
        HYPERVISOR_SYSCTL => sysctl::sysctl(call),
        HYPERVISOR_DOMCTL => domctl::domctl(call),
        HYPERVISOR_HYPFS_OP => hypfs::hypfs_op(call),
        HYPERVISOR_XSM_OP => absent::xsm_op(call),
        HYPERVISOR_XENPMU_OP => absent::xenpmu_op(call),
        HYPERVISOR_DM_OP => absent::dm_op(call),
        HYPERVISOR_ARCH_0 => machine_check::mca(call),
        _ => {
            crate::ratelimited!(
                log::Level::Debug,
                "{}v{}: hypercall {number} is not implemented",
                call.domain.id,
                call.vcpu.id
            );
            Err(Error::NotImplemented)
        }
    }
}
