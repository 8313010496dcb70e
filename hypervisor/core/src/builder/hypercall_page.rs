//! The page of hypercall stubs that a 64-bit PV kernel calls: 32 bytes a call.
//!
//! What lies between the stubs is filled with `int3`.

use xen_abi::xen::HYPERVISOR_IRET;

/// Bytes of a stub's place.
pub const STUB_SIZE: usize = 32;
/// Stubs in the page.
pub const STUBS: usize = 4096 / STUB_SIZE;

/// The stub of hypercall `number`: at most 14 bytes. `SYSCALL` overwrites
/// `%rcx` and `%r11`, so they are saved around it.
pub fn stub(number: u32) -> ([u8; 14], usize) {
    let [a, b, c, d] = number.to_le_bytes();
    if u64::from(number) == HYPERVISOR_IRET {
        // Jumped to, with a frame on the stack, and never returned from:
        // push %rcx; push %r11; push %rax; mov $n,%eax; syscall
        let bytes = [
            0x51, 0x41, 0x53, 0x50, 0xb8, a, b, c, d, 0x0f, 0x05, 0, 0, 0,
        ];
        return (bytes, 11);
    }
    // push %rcx; push %r11; mov $n,%eax; syscall; pop %r11; pop %rcx; ret
    let bytes = [
        0x51, 0x41, 0x53, 0xb8, a, b, c, d, 0x0f, 0x05, 0x41, 0x5b, 0x59, 0xc3,
    ];
    (bytes, 14)
}

/// All stubs, with their offsets in the page.
pub fn stubs() -> impl Iterator<Item = (usize, [u8; 14], usize)> {
    (0..STUBS as u32).map(|number| {
        let (bytes, len) = stub(number);
        (number as usize * STUB_SIZE, bytes, len)
    })
}

/// What the page is filled with where there are no stubs.
pub const FILLING: u8 = 0xcc;

/// Makes a frame the page.
pub fn fill(frame: &crate::machine::Frame) {
    frame.write(0, &[FILLING; 4096]);
    for (offset, bytes, len) in stubs() {
        if let Some(bytes) = bytes.get(..len) {
            frame.write(offset, bytes);
        }
    }
}
