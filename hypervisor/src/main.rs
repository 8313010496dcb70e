//! Overcast: the hypervisor's binary.
#![no_std]
#![no_main]

use core::fmt::Write;

mod boot;

core::arch::global_asm!(
    include_str!("../../boot/headers.S"),
    options(att_syntax, raw)
);
core::arch::global_asm!(include_str!("../../boot/entry.S"), options(att_syntax, raw));

struct Com1;

impl Write for Com1 {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        for byte in s.bytes() {
            // SAFETY: writing to the transmit register of COM1 has no effect on memory.
            unsafe {
                core::arch::asm!("out dx, al", in("dx") 0x3f8u16, in("al") byte, options(nomem, nostack));
            }
        }
        Ok(())
    }
}

/// Where the boot assembly (boot/entry.S) arrives, in long mode.
#[unsafe(no_mangle)]
extern "sysv64" fn overcast_entry(protocol: u32, info: u64) -> ! {
    // SAFETY: this is the start of the boot CPU, under the boot page tables.
    let (info, result) = unsafe { boot::read(protocol, info) };
    let _ = write!(
        Com1,
        "(XEN) Overcast: {} by {:?}, options {:?}, for Dom0 {:?}\r\n",
        info.protocol().name(),
        info.loader(),
        info.command_line(),
        info.dom0_extra()
    );
    let _ = write!(Com1, "(XEN) ACPI: {:x?}\r\n", info.acpi());
    for range in info.memory_map() {
        let (start, end, kind) = (range.start, range.end, range.kind.name());
        let _ = write!(Com1, "(XEN)  {start:#018x}-{end:#018x} {kind}\r\n");
    }
    for module in info.modules() {
        let _ = write!(Com1, "(XEN) Module {module:x?}\r\n");
    }
    if let Err(error) = result {
        let _ = write!(Com1, "(XEN) {error}\r\n");
    }
    if let Err(error) = info.dom0() {
        let _ = write!(Com1, "(XEN) {error}\r\n");
    }
    loop {
        core::hint::spin_loop();
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    let _ = write!(Com1, "(XEN) {info}\r\n");
    loop {
        core::hint::spin_loop();
    }
}
