//! The debug keys of the hypervisor's console (CTRL-a three times gets there).

use xen_abi::xen::VIRQ_DEBUG;

use crate::arch::console::register_key;
use crate::arch::{heap, memory, panic, percpu};
use crate::{domain, dump, lifecycle, printk, schedule, softirq};

/// Registers the keys.
pub fn register() {
    register_key(b'0', |_| dump_guest_registers(), "dump Dom0 registers");
    register_key(b'd', |_| dump_cpus(), "dump registers");
    register_key(
        b'q',
        |_| dump_domains(),
        "dump domain (and guest debug) info",
    );
    register_key(b'r', |_| schedule::dump(), "dump run queues");
    register_key(b'a', |_| softirq::dump(), "dump timer queues");
    register_key(b'm', |_| dump_memory(), "memory info");
    register_key(b'g', |_| dump_grants(), "print grant table usage");
    register_key(b'e', |_| dump_events(), "dump evtchn info");
    register_key(b'R', |_| panic::machine_restart(), "reboot machine");
}

/// Prints the domains, and asks them to print their own state.
fn dump_domains() {
    dump::domains();
    for domain in domain::all() {
        for vcpu in domain.vcpus() {
            domain
                .events
                .send_virq(&crate::host::Host, VIRQ_DEBUG, vcpu.id);
        }
    }
}

fn dump_memory() {
    let (used, size) = heap::usage();
    printk!(
        "Physical memory: {} frames of {} free",
        memory::heap().free_frames(),
        memory::total_frames()
    );
    printk!("Free blocks by order: {:?}", memory::heap().free_blocks());
    printk!("Hypervisor heap: {used} bytes of {size} in use");
    printk!(
        "Domains: {}, and {} dead that are not gone",
        domain::all().len(),
        lifecycle::dead_count()
    );
}

fn dump_grants() {
    for domain in domain::all() {
        let mut text = alloc::string::String::new();
        let _ = domain.grants.dump(&crate::host::Host, &mut text);
        text.lines().for_each(|line| printk!("{line}"));
    }
}

fn dump_events() {
    for domain in domain::all() {
        let mut text = alloc::string::String::new();
        let _ = domain.events.dump(&crate::host::Host, &mut text);
        text.lines().for_each(|line| printk!("{line}"));
    }
}

fn dump_guest_registers() {
    for domain in domain::all().iter().filter(|domain| domain.privileged) {
        for vcpu in domain.vcpus() {
            printk!("domain {} vcpu {} on {:?}", domain.id, vcpu.id, vcpu.cpu());
            if vcpu.cpu().is_none() {
                // SAFETY: it does not run here now; a torn read shows a mixture, no more.
                dump::registers(unsafe { vcpu.saved_registers() });
            }
        }
    }
}

fn dump_cpus() {
    for cpu in percpu::all() {
        let frame =
            percpu::guest_frame_address(cpu.cpu) as *const crate::arch::registers::Registers;
        printk!("CPU{}: current {:?}", cpu.cpu, cpu.current.get());
        // SAFETY: the frame's page is always mapped; a CPU that runs may change it meanwhile.
        dump::registers(&unsafe { frame.read_volatile() });
    }
}
