//! Overcast: the hypervisor's binary.
//!
//! Data flows one way: trap ([`arch::traps`], [`pv`]) → hypercall table
//! ([`hypercall`]) → one file a hypercall family → the core crate → machine
//! ([`arch`]).
#![no_std]
#![no_main]

extern crate alloc;

mod arch;
mod backend;
mod boot;
mod build_info;
mod context;
#[allow(dead_code)] // its users come with the backends
mod devices;
mod dom0;
mod domain;
mod dump;
mod grants;
mod guest;
mod host;
mod hypercall;
#[allow(dead_code)] // its users come with the drivers
mod io;
mod keys;
mod lifecycle;
mod log_dirty;
mod pv;
mod restart;
mod schedule;
mod shutdown;
mod softirq;
mod start;
mod time;
mod vcpu;
#[allow(dead_code)] // its users are the backends
mod xenbus;
#[allow(dead_code)] // as above
mod xenstore;

use overcast_core::console::InputOwner;
use overcast_core::ids::CpuId;
use overcast_core::mm::frames::FrameInfo;

core::arch::global_asm!(
    include_str!("../../boot/headers.S"),
    options(att_syntax, raw)
);
core::arch::global_asm!(include_str!("../../boot/entry.S"), options(att_syntax, raw));

/// Where the boot assembly (boot/entry.S) arrives, in long mode.
#[unsafe(no_mangle)]
extern "sysv64" fn overcast_entry(protocol: u32, info: u64) -> ! {
    // SAFETY: this is the start of the boot CPU.
    unsafe { start::start(protocol, info, size_of::<FrameInfo>(), boot_main) }
}

/// The boot CPU, on its own stack.
unsafe extern "C" fn boot_main(_: u64) -> ! {
    schedule::add_cpu(CpuId(0));
    start::init_cpus(secondary_main);
    time::init_wall_clock();
    keys::register();
    lifecycle::init();
    xenstore::init();
    xenbus::init();
    devices::init();
    backend::block::init();
    backend::net::init();
    restart::init();
    restart::run_dom0(&dom0::create());
    arch::console::set_dom0_notifier(|| domain::send_global_virq(xen_abi::xen::VIRQ_CONSOLE));
    let input_to_dom0 = start::options().conswitch_to_dom0;
    arch::console::give_input(if input_to_dom0 {
        InputOwner::Dom0
    } else {
        InputOwner::Hypervisor
    });
    run_guests()
}

/// Another CPU, on its own stack.
fn secondary_main(cpu: CpuId) -> ! {
    start::init_cpu(cpu);
    // In this order: whoever waits for the CPU may then give vCPUs to it.
    schedule::add_cpu(cpu);
    arch::percpu::set_online();
    run_guests()
}

/// Goes the way out to a guest, for the first time: to idle until there is one.
fn run_guests() -> ! {
    arch::percpu::this().raise(arch::percpu::SoftIrq::Schedule);
    // SAFETY: this CPU's frame; no vCPU is current, so nothing of it is used
    // before the scheduler has filled it.
    unsafe { arch::entry::enter_guest(arch::percpu::guest_frame()) }
}
