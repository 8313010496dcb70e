//! The console: the log, guests' output, and what is typed.
//!
//! Lines of the hypervisor's own begin with `(XEN) `, as those of Xen do, so
//! that what reads Xen's console reads ours. They also go into a ring, which
//! `XEN_SYSCTL_readconsole` reads.
//!
//! # Invariants
//!
//! - The state behind the lock is touched only by the lock's holder. A CPU that
//!   holds it and prints again (an interrupt, an NMI or a fault in the midst of
//!   a line), and a panic that cannot get it, send to the serial line
//!   directly and leave the state alone.
//! - Nothing here allocates while it holds the lock.

use core::cell::UnsafeCell;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use log::{Level, LevelFilter, Metadata, Record};
use overcast_core::cmdline::{LogLevel, LogThreshold};
use overcast_core::console::{CTRL_A, Input, InputOwner, InputSwitch, Permit, RateLimit, Ring};
use spin::Mutex;

use crate::arch::{percpu, serial, time, tlb};

const PREFIX: &[u8] = b"(XEN) ";
/// Size of the log's ring, in bytes.
pub const RING_SIZE: usize = 64 << 10;
/// The target of messages about what a guest does.
pub const GUEST: &str = "guest";
/// The target of messages that are printed whatever the levels are.
pub const ALWAYS: &str = "always";

struct State {
    ring: Ring<[u8; RING_SIZE]>,
    /// The next byte begins a line.
    line_start: bool,
    limit: RateLimit,
    guest_limit: RateLimit,
}

struct Console {
    /// 0: free; else 1 + the number of the CPU that holds it.
    owner: AtomicU32,
    state: UnsafeCell<State>,
}

// SAFETY: the state is touched by the holder of `owner` only.
unsafe impl Sync for Console {}

/// As Xen: ten messages in five seconds.
const LIMIT: RateLimit = RateLimit::new(5_000_000_000, 10);

static CONSOLE: Console = Console {
    owner: AtomicU32::new(0),
    state: UnsafeCell::new(State {
        ring: Ring::new([0; RING_SIZE]),
        line_start: true,
        limit: LIMIT,
        guest_limit: LIMIT,
    }),
};

/// A panic is printing: it does not wait for locks.
static FORCED: AtomicBool = AtomicBool::new(false);
static TO_RING: AtomicBool = AtomicBool::new(false);
/// Thresholds ([`LogThreshold::pack`]): hypervisor's and guests'.
static LEVELS: AtomicU32 = AtomicU32::new(0x0202);
static GUEST_LEVELS: AtomicU32 = AtomicU32::new(0x0002);

fn own_number() -> u32 {
    percpu::try_this().map_or(1, |this| this.cpu.0 + 1)
}

/// Runs `f` with the console's state, or with `None` where it cannot be had.
fn with_state<R>(f: impl FnOnce(Option<&mut State>) -> R) -> R {
    let own = own_number();
    let mut tries = 0u32;
    loop {
        match CONSOLE
            .owner
            .compare_exchange(0, own, Ordering::Acquire, Ordering::Relaxed)
        {
            Ok(_) => {
                // SAFETY: this CPU holds the lock, and gave no other reference out.
                let result = f(Some(unsafe { &mut *CONSOLE.state.get() }));
                CONSOLE.owner.store(0, Ordering::Release);
                return result;
            }
            Err(owner) if owner == own => return f(None),
            Err(_) => {
                tries = tries.saturating_add(1);
                if FORCED.load(Ordering::Relaxed) && tries > 10_000 {
                    return f(None);
                }
                // The holder may be waiting for nothing of ours, but others do.
                tlb::serve();
                core::hint::spin_loop();
            }
        }
    }
}

/// Sends text to the serial line, newlines as CR LF.
fn send_cooked(bytes: &[u8]) {
    for line in bytes.split_inclusive(|&b| b == b'\n') {
        match line.split_last() {
            Some((b'\n', text)) => {
                serial::send(text);
                serial::send(b"\r\n");
            }
            _ => serial::send(line),
        }
    }
}

/// Formats the hypervisor's own text: lines get their prefix.
struct Printer<'a> {
    state: Option<&'a mut State>,
    line_start: bool,
}

impl Printer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        send_cooked(bytes);
        if let Some(state) = &mut self.state {
            state.ring.push(bytes);
        }
    }
}

impl Write for Printer<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for line in text.as_bytes().split_inclusive(|&b| b == b'\n') {
            if self.line_start {
                self.put(PREFIX);
            }
            self.put(line);
            self.line_start = line.ends_with(b"\n");
        }
        Ok(())
    }
}

/// Prints the hypervisor's own text, whatever the levels are.
pub fn print(arguments: fmt::Arguments<'_>) {
    with_state(|mut state| print_to(state.take(), arguments));
    tell_of_log();
}

/// Has Dom0 told that there is more in the log, once this CPU gets to it.
fn tell_of_log() {
    if let Some(this) = percpu::try_this() {
        this.raise(percpu::SoftIrq::Log);
    }
}

fn print_to(state: Option<&mut State>, arguments: fmt::Arguments<'_>) {
    match state {
        Some(state) => {
            let line_start = state.line_start;
            let mut printer = Printer {
                state: Some(state),
                line_start,
            };
            let _ = printer.write_fmt(arguments);
            let line_start = printer.line_start;
            if let Some(state) = printer.state {
                state.line_start = line_start;
            }
        }
        None => {
            let _ = Printer {
                state: None,
                line_start: true,
            }
            .write_fmt(arguments);
        }
    }
}

/// Prints a line of the hypervisor's own, whatever the levels are.
#[macro_export]
macro_rules! printk {
    ($($argument:tt)*) => {
        $crate::arch::console::print(format_args!("{}\n", format_args!($($argument)*)))
    };
}

/// Logs about a guest at a level, ten times in five seconds at most from this place.
#[macro_export]
macro_rules! ratelimited {
    ($level:expr, $($argument:tt)*) => {{
        static LIMIT: $crate::arch::console::Limiter = $crate::arch::console::Limiter::new();
        if LIMIT.permit() {
            log::log!(target: $crate::arch::console::GUEST, $level, $($argument)*);
        }
    }};
}

/// A rate limit that any context may ask.
pub struct Limiter(Mutex<RateLimit>);

impl Default for Limiter {
    fn default() -> Self {
        Self::new()
    }
}

impl Limiter {
    /// Ten in five seconds.
    pub const fn new() -> Self {
        Self(Mutex::new(LIMIT))
    }

    /// Whether the message may be printed. Whoever finds another asking does not print.
    pub fn permit(&self) -> bool {
        match self.0.try_lock() {
            Some(mut limit) => matches!(limit.permit(time::now()), Permit::Print { .. }),
            None => false,
        }
    }
}

struct Logger;

static LOGGER: Logger = Logger;

fn number(level: Level) -> u32 {
    match level {
        Level::Error => LogLevel::Error as u32,
        Level::Warn => LogLevel::Warning as u32,
        Level::Info => LogLevel::Info as u32,
        Level::Debug | Level::Trace => LogLevel::Debug as u32,
    }
}

impl log::Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let levels = match metadata.target() {
            ALWAYS => return true,
            GUEST => GUEST_LEVELS.load(Ordering::Relaxed),
            _ => LEVELS.load(Ordering::Relaxed),
        };
        number(metadata.level()) <= (levels & 0xff).max(levels >> 8)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let guest = record.target() == GUEST;
        let levels = if guest { &GUEST_LEVELS } else { &LEVELS };
        let always = record.target() == ALWAYS
            || number(record.level()) <= levels.load(Ordering::Relaxed) >> 8;
        with_state(|state| {
            let Some(state) = state else {
                print_to(None, format_args!("{}\n", record.args()));
                return;
            };
            if !always {
                let limit = if guest {
                    &mut state.guest_limit
                } else {
                    &mut state.limit
                };
                match limit.permit(time::now()) {
                    Permit::Suppress => return,
                    Permit::Print { missed: 0 } => {}
                    Permit::Print { missed } => {
                        print_to(
                            Some(state),
                            format_args!("printk: {missed} messages suppressed.\n"),
                        );
                    }
                }
            }
            print_to(Some(state), format_args!("{}\n", record.args()));
        });
        tell_of_log();
    }

    fn flush(&self) {}
}

/// Makes the console the place where log messages go. The serial line may be
/// set up before or after.
pub fn init() {
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(LevelFilter::Debug);
}

/// Sets what is printed: `loglvl=` and `guest_loglvl=`.
pub fn set_levels(hypervisor: LogThreshold, guest: LogThreshold) {
    LEVELS.store(hypervisor.pack(), Ordering::Relaxed);
    GUEST_LEVELS.store(guest.pack(), Ordering::Relaxed);
}

/// What is printed: `loglvl=` and `guest_loglvl=`.
pub fn levels() -> (LogThreshold, LogThreshold) {
    let read = |levels: &AtomicU32| LogThreshold::unpack(levels.load(Ordering::Relaxed));
    (read(&LEVELS), read(&GUEST_LEVELS))
}

/// Whether Dom0's output goes into the ring as well (`console_to_ring`).
pub fn set_to_ring(yes: bool) {
    TO_RING.store(yes, Ordering::Relaxed);
}

/// A panic prints from now on: locks are not waited for.
pub fn force() {
    FORCED.store(true, Ordering::SeqCst);
}

/// Prints what Dom0 wrote, as it is: it may be interactive.
pub fn write_dom0(bytes: &[u8]) {
    with_state(|state| {
        send_cooked(bytes);
        if TO_RING.load(Ordering::Relaxed)
            && let Some(state) = state
        {
            state.ring.push(bytes);
        }
    });
}

/// Reads the log's ring; see [`Ring::read`].
pub fn read_ring(out: &mut [u8], index: u32, incremental: bool, clear: bool) -> (usize, u32) {
    with_state(|state| match state {
        Some(state) => state.ring.read(out, index, incremental, clear),
        None => (0, index),
    })
}

// --- input -------------------------------------------------------------------

/// Bytes typed for Dom0 that it did not read yet.
const DOM0_INPUT: usize = 1024;

struct InputState {
    switch: InputSwitch,
    dom0: [u8; DOM0_INPUT],
    first: usize,
    count: usize,
}

static INPUT: Mutex<InputState> = Mutex::new(InputState {
    switch: InputSwitch::new(CTRL_A),
    dom0: [0; DOM0_INPUT],
    first: 0,
    count: 0,
});

/// Called when there is something for Dom0 to read: `fn()`, or 0.
static NOTIFY: AtomicUsize = AtomicUsize::new(0);

/// Sets what tells Dom0 that there is input (VIRQ_CONSOLE).
pub fn set_dom0_notifier(notify: fn()) {
    NOTIFY.store(notify as usize, Ordering::Release);
}

/// Sets the character that switches the input (0: none).
pub fn set_switch(character: u8) {
    INPUT.lock().switch.set_switch(character);
}

/// Gives the input to Dom0 or to the hypervisor, and says so.
pub fn give_input(owner: InputOwner) {
    INPUT.lock().switch.set_owner(owner);
    announce(owner);
}

fn announce(owner: InputOwner) {
    let to = match owner {
        InputOwner::Hypervisor => "Xen",
        InputOwner::Dom0 => "DOM0",
    };
    crate::printk!("*** Serial input to {to} (type 'CTRL-a' three times to switch input)");
}

/// Handles what was typed. Called for the console's soft interrupt.
pub fn process_input() {
    loop {
        // At most three held back and one more come of one byte.
        let mut events = [None; 4];
        {
            let mut input = INPUT.lock();
            let Some(byte) = serial::take() else {
                return;
            };
            let mut slots = events.iter_mut();
            input.switch.feed(byte, |event| {
                if let Some(slot) = slots.next() {
                    *slot = Some(event);
                }
            });
            for event in events.iter().flatten() {
                if let Input::Character(InputOwner::Dom0, byte) = *event
                    && input.count < DOM0_INPUT
                {
                    let at = (input.first + input.count) % DOM0_INPUT;
                    if let Some(slot) = input.dom0.get_mut(at) {
                        *slot = byte;
                    }
                    input.count += 1;
                }
            }
        }
        for event in events.into_iter().flatten() {
            match event {
                Input::Switched(owner) => announce(owner),
                Input::Character(InputOwner::Hypervisor, key) => press(key),
                // Told even if its buffer is full, or it would never empty it.
                Input::Character(InputOwner::Dom0, _) => notify_dom0(),
            }
        }
    }
}

fn notify_dom0() {
    let notify = NOTIFY.load(Ordering::Acquire);
    if notify != 0 {
        // SAFETY: only `set_dom0_notifier` stores there, and it stores a `fn()`.
        unsafe { core::mem::transmute::<usize, fn()>(notify)() };
    }
}

/// Takes what was typed for Dom0; gives the number of bytes.
pub fn read_dom0(out: &mut [u8]) -> usize {
    let mut input = INPUT.lock();
    let mut taken = 0;
    for slot in out {
        if input.count == 0 {
            break;
        }
        *slot = input.dom0.get(input.first).copied().unwrap_or(0);
        input.first = (input.first + 1) % DOM0_INPUT;
        input.count -= 1;
        taken += 1;
    }
    taken
}

// --- debug keys --------------------------------------------------------------

/// What a debug key does. Gets the key.
pub type KeyHandler = fn(u8);

static KEYS: Mutex<[Option<(KeyHandler, &'static str)>; 128]> = Mutex::new([None; 128]);

/// Registers a debug key; the description is what `h` lists.
pub fn register_key(key: u8, handler: KeyHandler, description: &'static str) {
    if let Some(slot) = KEYS.lock().get_mut(usize::from(key)) {
        *slot = Some((handler, description));
    }
}

/// Does what a debug key means, as when it was typed (or sent by
/// `XEN_SYSCTL_debug_keys`). Keys without a meaning are passed over.
pub fn press(key: u8) {
    if key == b'h' {
        show_help(key);
        return;
    }
    let found = KEYS.lock().get(usize::from(key)).copied().flatten();
    if let Some((handler, _)) = found {
        handler(key);
    }
}

fn show_help(key: u8) {
    crate::printk!(
        "'{}' pressed -> showing installed handlers",
        char::from(key)
    );
    for key in 0..128u8 {
        let found = KEYS.lock().get(usize::from(key)).copied().flatten();
        if let Some((_, description)) = found {
            let shown = if key.is_ascii_graphic() {
                char::from(key)
            } else {
                ' '
            };
            crate::printk!(" key '{shown}' (ascii '{key:02x}') => {description}");
        }
    }
}
