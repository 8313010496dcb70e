//! The serial line of the console: a 16550 UART behind I/O ports.
//!
//! Own code, not a crate's: the console must be able to send from any state of
//! the machine, a panic in the midst of another line included, so sending needs
//! nothing but the port's number, and every wait is bounded.
//!
//! Received bytes go into a ring that one producer fills (the interrupt
//! handler, or a poll; a flag keeps the second out) and one consumer empties
//! (the console, under its lock).

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicUsize, Ordering};

use crate::arch::cpu::port::{inb, outb, outsb};

/// Registers, as offsets from the base port.
mod reg {
    pub const DATA: u16 = 0;
    pub const INTERRUPT_ENABLE: u16 = 1;
    pub const INTERRUPT_ID: u16 = 2;
    pub const FIFO_CONTROL: u16 = 2;
    pub const LINE_CONTROL: u16 = 3;
    pub const MODEM_CONTROL: u16 = 4;
    pub const LINE_STATUS: u16 = 5;
    pub const SCRATCH: u16 = 7;
}

const LSR_DATA_READY: u8 = 1 << 0;
const LSR_TRANSMITTER_EMPTY: u8 = 1 << 5;
const LCR_DIVISOR: u8 = 1 << 7;
/// Data terminal ready, request to send, and OUT2, which lets the interrupt out.
const MCR: u8 = 0x0b;

/// How the line is set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// First port.
    pub base: u16,
    /// Bits a second; `None` keeps what the firmware set.
    pub baud: Option<u32>,
    /// Input clock in Hz: 1843200 where nobody says otherwise.
    pub clock_hz: u32,
    /// Value of the line control register: data bits, parity, stop bits.
    pub line: u8,
}

impl Config {
    /// COM1, 115200 baud, 8 data bits, no parity, 1 stop bit.
    pub const COM1: Self = Self {
        base: 0x3f8,
        baud: Some(115_200),
        clock_hz: 1_843_200,
        line: 0x03,
    };
}

/// The port in use; 0: none.
static BASE: AtomicU16 = AtomicU16::new(0);
/// How many bytes the transmitter takes at once.
static FIFO: AtomicU8 = AtomicU8::new(1);

const RING: usize = 1024;

struct Received {
    bytes: [AtomicU8; RING],
    /// Counts of bytes put in and taken out, modulo 2^64.
    produced: AtomicUsize,
    consumed: AtomicUsize,
    busy: AtomicBool,
}

static RECEIVED: Received = Received {
    bytes: [const { AtomicU8::new(0) }; RING],
    produced: AtomicUsize::new(0),
    consumed: AtomicUsize::new(0),
    busy: AtomicBool::new(false),
};

/// Writes a register of the UART in use.
fn write(base: u16, register: u16, value: u8) {
    // SAFETY: a UART's registers; it never touches memory.
    unsafe { outb(base + register, value) };
}

/// Sets the line up; `false` if there is no UART at that port, and then nothing
/// is sent from now on.
pub fn init(config: &Config) -> bool {
    let base = config.base;
    BASE.store(0, Ordering::Release);
    if base == 0 || base > 0xfff8 {
        return false;
    }
    write(base, reg::SCRATCH, 0x5a);
    if inb(base + reg::LINE_STATUS) == 0xff && inb(base + reg::SCRATCH) != 0x5a {
        return false;
    }
    write(base, reg::INTERRUPT_ENABLE, 0);
    if let Some(baud) = config.baud.filter(|&baud| baud != 0) {
        let divisor = (config.clock_hz / 16 / baud).clamp(1, 0xffff) as u16;
        let [low, high] = divisor.to_le_bytes();
        write(base, reg::LINE_CONTROL, LCR_DIVISOR);
        write(base, reg::DATA, low);
        write(base, 1, high);
    }
    write(base, reg::LINE_CONTROL, config.line & !LCR_DIVISOR);
    // FIFOs on and cleared, interrupt from the first byte on.
    write(base, reg::FIFO_CONTROL, 0x07);
    write(base, reg::MODEM_CONTROL, MCR);
    let fifo = if inb(base + reg::INTERRUPT_ID) & 0xc0 == 0xc0 {
        16
    } else {
        1
    };
    FIFO.store(fifo, Ordering::Release);
    BASE.store(base, Ordering::Release);
    true
}

/// Lets the UART interrupt when it has received something.
pub fn enable_interrupt() {
    let base = BASE.load(Ordering::Acquire);
    if base != 0 {
        write(base, reg::INTERRUPT_ENABLE, 0x01);
        // What came before was not announced.
        receive();
    }
}

/// Sends bytes as they are, waiting for the line. What a line that does not
/// move would hold up is dropped.
pub fn send(bytes: &[u8]) {
    let base = BASE.load(Ordering::Acquire);
    if base == 0 {
        return;
    }
    for chunk in bytes.chunks(FIFO.load(Ordering::Relaxed).max(1).into()) {
        let mut polls = 0u32;
        while inb(base + reg::LINE_STATUS) & LSR_TRANSMITTER_EMPTY == 0 {
            polls += 1;
            if polls > 200_000 {
                return;
            }
            core::hint::spin_loop();
        }
        // SAFETY: the UART's transmit register.
        unsafe { outsb(base + reg::DATA, chunk) };
    }
}

/// Takes what was received from the UART into the ring.
fn receive() {
    let base = BASE.load(Ordering::Acquire);
    if base == 0 {
        return;
    }
    // The interrupt comes once for all that waits. Whoever finds another CPU
    // (or itself, below the interrupt) busy leaves the rest to it, so whoever
    // was busy looks again afterwards.
    while !RECEIVED.busy.swap(true, Ordering::SeqCst) {
        drain(base);
        RECEIVED.busy.store(false, Ordering::SeqCst);
        let status = inb(base + reg::LINE_STATUS);
        if status == 0xff || status & LSR_DATA_READY == 0 {
            return;
        }
    }
}

fn drain(base: u16) {
    // Bounded: a UART that always has data is not one.
    for _ in 0..4096 {
        let status = inb(base + reg::LINE_STATUS);
        if status == 0xff || status & LSR_DATA_READY == 0 {
            return;
        }
        let byte = inb(base + reg::DATA);
        let produced = RECEIVED.produced.load(Ordering::Relaxed);
        let used = produced.wrapping_sub(RECEIVED.consumed.load(Ordering::Acquire));
        // A full ring loses the newest.
        if used < RING
            && let Some(slot) = RECEIVED.bytes.get(produced % RING)
        {
            slot.store(byte, Ordering::Relaxed);
            RECEIVED
                .produced
                .store(produced.wrapping_add(1), Ordering::Release);
        }
    }
    // It goes on for ever: no UART.
    BASE.store(0, Ordering::Release);
}

/// The interrupt handler's part: takes what was received.
pub fn interrupt() {
    let base = BASE.load(Ordering::Acquire);
    if base != 0 {
        // Reading it takes the interrupt away.
        let _ = inb(base + reg::INTERRUPT_ID);
    }
    receive();
}

/// Takes one received byte. The console's alone.
pub(super) fn take() -> Option<u8> {
    let consumed = RECEIVED.consumed.load(Ordering::Relaxed);
    if consumed == RECEIVED.produced.load(Ordering::Acquire) {
        return None;
    }
    let byte = RECEIVED.bytes.get(consumed % RING)?.load(Ordering::Relaxed);
    RECEIVED
        .consumed
        .store(consumed.wrapping_add(1), Ordering::Release);
    Some(byte)
}
