//! The end: what a failure of the hypervisor prints, and how the machine is
//! restarted or switched off.
//!
//! The first CPU that panics stops the others by NMI, prints without waiting for
//! any lock, and restarts the machine, unless `noreboot` was given. A failure
//! while it prints ends the printing.

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::arch::cpu::{self, port};
use crate::arch::registers::Registers;
use crate::arch::symbols::Symbol;
use crate::arch::{acpi, apic, console, memory, paging, percpu};

static NO_REBOOT: AtomicBool = AtomicBool::new(false);
static STOPPING: AtomicBool = AtomicBool::new(false);
/// 1 + the CPU that panics; 0: none.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// `noreboot`: a failed machine stays as it is.
pub fn set_noreboot(yes: bool) {
    NO_REBOOT.store(yes, Ordering::Relaxed);
}

/// Whether `noreboot` was given.
pub fn noreboot() -> bool {
    NO_REBOOT.load(Ordering::Relaxed)
}

/// Whether the other CPUs are to stop where they are.
pub fn stopping() -> bool {
    STOPPING.load(Ordering::SeqCst)
}

/// Stops this CPU for good.
pub fn stop_this() -> ! {
    cpu::halt()
}

fn own_number() -> u32 {
    percpu::try_this().map_or(1, |this| this.cpu.0 + 1)
}

/// Makes this CPU the one that panics, or stops it if another is.
fn begin() {
    cpu::disable_interrupts();
    let own = own_number();
    match OWNER.compare_exchange(0, own, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => {}
        Err(owner) if owner == own => {
            // A failure while a failure was printed.
            console::force();
            crate::printk!("Failed again while reporting a failure.");
            finish();
        }
        Err(_) => stop_this(),
    }
    stop_others();
    console::force();
}

/// Stops all other CPUs by NMI, wherever they are: they may hold the console's lock.
pub fn stop_others() {
    STOPPING.store(true, Ordering::SeqCst);
    console::force();
    if let Some(this) = percpu::try_this() {
        for other in percpu::all().filter(|other| other.cpu != this.cpu) {
            apic::send_nmi(other.cpu);
        }
    }
}

fn finish() -> ! {
    if noreboot() {
        crate::printk!("Manual reset required ('noreboot' specified)");
        cpu::halt();
    }
    crate::printk!("Rebooting.");
    machine_restart()
}

/// Reads a word of the hypervisor's memory, if it is mapped.
fn peek(address: u64) -> Option<u64> {
    if !address.is_multiple_of(8) {
        return None;
    }
    paging::translate(address)?;
    // SAFETY: the word is mapped; whatever it holds is only printed.
    Some(unsafe { (address as *const u64).read_volatile() })
}

fn print_registers(regs: &Registers) {
    let (cr2, cr3, cr4) = cpu::control_registers();
    let cpu = percpu::try_this().map_or(0, |this| this.cpu.0);
    crate::printk!("CPU:    {cpu}");
    crate::printk!("RIP:    {:04x}:{}", regs.cs & 0xffff, Symbol(regs.rip));
    crate::printk!(
        "RFLAGS: {:016x}   vector {:#x}, error code {:#x}",
        regs.rflags,
        regs.vector,
        regs.error_code
    );
    crate::printk!(
        "rax: {:016x}   rbx: {:016x}   rcx: {:016x}",
        regs.rax,
        regs.rbx,
        regs.rcx
    );
    crate::printk!(
        "rdx: {:016x}   rsi: {:016x}   rdi: {:016x}",
        regs.rdx,
        regs.rsi,
        regs.rdi
    );
    crate::printk!(
        "rbp: {:016x}   rsp: {:016x}   r8:  {:016x}",
        regs.rbp,
        regs.rsp,
        regs.r8
    );
    crate::printk!(
        "r9:  {:016x}   r10: {:016x}   r11: {:016x}",
        regs.r9,
        regs.r10,
        regs.r11
    );
    crate::printk!(
        "r12: {:016x}   r13: {:016x}   r14: {:016x}",
        regs.r12,
        regs.r13,
        regs.r14
    );
    crate::printk!("r15: {:016x}   cr3: {cr3:016x}   cr4: {cr4:016x}", regs.r15);
    crate::printk!("cr2: {cr2:016x}   ss:  {:04x}", regs.ss & 0xffff);
}

/// Bytes as two digits each, the one in the middle in brackets.
struct Code {
    rip: u64,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for at in self.rip.saturating_sub(16)..self.rip.saturating_add(16) {
            let Some(word) = peek(at & !7) else {
                f.write_str("?? ")?;
                continue;
            };
            let byte = word.to_le_bytes()[(at & 7) as usize];
            if at == self.rip {
                write!(f, "<{byte:02x}> ")?;
            } else {
                write!(f, "{byte:02x} ")?;
            }
        }
        Ok(())
    }
}

/// Prints the chain of frames that begins at `rbp`.
fn print_backtrace(rip: Option<u64>, rbp: u64) {
    crate::printk!("Backtrace:");
    if let Some(rip) = rip {
        crate::printk!("   {}", Symbol(rip));
    }
    let text = memory::text();
    let mut frame = rbp;
    for _ in 0..48 {
        let (Some(next), Some(address)) = (peek(frame), peek(frame.wrapping_add(8))) else {
            break;
        };
        if !(text.start..text.end).contains(&address) {
            break;
        }
        // The call lies before the address to which it returns.
        crate::printk!("   {}", Symbol(address.wrapping_sub(1)));
        // Stacks grow down: callers' frames lie above.
        if next <= frame {
            break;
        }
        frame = next;
    }
}

fn print_stack(rsp: u64) {
    crate::printk!("Stack from {rsp:016x}:");
    for row in 0..6u64 {
        let word = |n: u64| peek((rsp & !7).wrapping_add((row * 4 + n) * 8));
        let (Some(a), Some(b), Some(c), Some(d)) = (word(0), word(1), word(2), word(3)) else {
            break;
        };
        crate::printk!("   {a:016x} {b:016x} {c:016x} {d:016x}");
    }
}

/// Ends the machine because of an exception of the hypervisor's own.
pub fn fatal(regs: &Registers, reason: &str) -> ! {
    begin();
    crate::printk!("");
    crate::printk!("----[ Overcast {}  x86_64 ]----", env!("CARGO_PKG_VERSION"));
    print_registers(regs);
    crate::printk!("Code: {}", Code { rip: regs.rip });
    if !regs.is_guest() {
        print_stack(regs.rsp);
        print_backtrace(Some(regs.rip), regs.rbp);
    }
    crate::printk!("");
    crate::printk!("****************************************");
    crate::printk!(
        "Panic on CPU {}: {reason} (vector {}, error code {:#x})",
        percpu::try_this().map_or(0, |this| this.cpu.0),
        regs.vector,
        regs.error_code
    );
    crate::printk!("****************************************");
    finish()
}

/// Ends the machine because something is so that cannot be.
#[track_caller]
pub fn bug(reason: &str) -> ! {
    let place = core::panic::Location::caller();
    die(format_args!("{reason}, {place}"))
}

fn die(reason: fmt::Arguments<'_>) -> ! {
    let rbp: u64;
    // SAFETY: reads a register only.
    unsafe {
        core::arch::asm!("mov {}, rbp", out(reg) rbp, options(nomem, nostack, preserves_flags))
    };
    begin();
    crate::printk!("");
    crate::printk!("----[ Overcast {}  x86_64 ]----", env!("CARGO_PKG_VERSION"));
    print_backtrace(None, rbp);
    crate::printk!("");
    crate::printk!("****************************************");
    crate::printk!(
        "Panic on CPU {}: {reason}",
        percpu::try_this().map_or(0, |this| this.cpu.0)
    );
    crate::printk!("****************************************");
    finish()
}

#[panic_handler]
fn panic_handler(info: &core::panic::PanicInfo<'_>) -> ! {
    match info.location() {
        Some(place) => die(format_args!("{}, {place}", info.message())),
        None => die(format_args!("{}", info.message())),
    }
}

/// Resets the machine, by one way after the other.
pub fn machine_restart() -> ! {
    cpu::disable_interrupts();
    stop_others();
    acpi::reset();
    pause();
    // SAFETY: the reset control register of PC chipsets: full reset.
    unsafe {
        port::outb(0xcf9, 0x02);
        port::outb(0xcf9, 0x06);
    }
    pause();
    // SAFETY: the keyboard controller's reset line.
    unsafe { port::outb(0x64, 0xfe) };
    pause();
    // No table to handle an exception by: a triple fault, which resets.
    let nothing = [0u16; 5];
    // SAFETY: the machine is to be reset; nothing runs after this.
    unsafe {
        core::arch::asm!("lidt [{}]", "ud2", in(reg) &nothing, options(noreturn));
    }
}

/// Halts all CPUs for good.
pub fn machine_halt() -> ! {
    cpu::disable_interrupts();
    stop_others();
    cpu::halt()
}

/// Switches the machine off; where it cannot be, it halts.
pub fn machine_poweroff() -> ! {
    cpu::disable_interrupts();
    stop_others();
    acpi::power_off();
    pause();
    crate::printk!("The machine cannot be switched off: halted.");
    cpu::halt()
}

/// Gives a reset the time to come.
fn pause() {
    for _ in 0..200_000 {
        core::hint::spin_loop();
    }
}
