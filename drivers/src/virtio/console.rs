//! Consoles (virtio 1.2, section 5.3): the first port, without the others.

use alloc::boxed::Box;
use core::sync::atomic::Ordering;

use spin::Mutex;

use super::ring::{Buffer, Ring};
use super::transport::Transport;
use super::{Device, Driver, VirtioError, make_ring, negotiate, start};
use crate::console::Console;
use crate::platform::{Dma, Platform};

/// Bytes of a buffer.
const BUFFER: usize = 256;
/// The most buffers each way.
const BUFFERS: u16 = 16;

/// A virtio console.
pub struct VirtioConsole {
    // Dropped before the queues: it resets the device.
    device: Device,
    input: Mutex<Input>,
    output: Mutex<Output>,
}

struct Input {
    ring: Ring<u16>,
    memory: Dma,
    /// What was typed and not read: a buffer, its first byte and its end.
    left: Option<(u16, usize, usize)>,
}

struct Output {
    ring: Ring<()>,
    memory: Dma,
}

impl Input {
    fn give(&mut self, buffer: u16) {
        let whole = Buffer {
            address: self.memory.address(usize::from(buffer) * BUFFER),
            length: BUFFER as u32,
            write: true,
        };
        // There is room for all buffers.
        let _ = self.ring.add(1, core::iter::once(whole), buffer);
    }
}

impl VirtioConsole {
    /// Takes a device over and lets it work.
    pub fn new(
        transport: Box<dyn Transport>,
        platform: &'static dyn Platform,
    ) -> Result<Self, VirtioError> {
        let mut device = Device::new(transport);
        let agreed = negotiate(&*device, platform, 0)?;
        device.choose_messages(1)?;
        let message = device.queue_message_index(0);
        let memory = |ring: u16| Dma::new(platform, usize::from(ring) * BUFFER);
        let ring = make_ring(&mut device, platform, 0, BUFFERS, agreed, message)?;
        let mut input = Input {
            memory: memory(ring.size()).ok_or(VirtioError::NoMemory)?,
            ring,
            left: None,
        };
        let ring = make_ring(&mut device, platform, 1, BUFFERS, agreed, None)?;
        let output = Output {
            memory: memory(ring.size()).ok_or(VirtioError::NoMemory)?,
            ring,
        };
        for buffer in 0..input.ring.size() {
            input.give(buffer);
        }
        start(&*device);
        if input.ring.needs_notification() {
            device.notify(0);
        }
        Ok(Self {
            device,
            input: Mutex::new(input),
            output: Mutex::new(output),
        })
    }
}

impl Console for VirtioConsole {
    fn write(&self, bytes: &[u8]) -> usize {
        let mut output = self.output.lock();
        let Output { ring, memory } = &mut *output;
        while let Ok(Some(_)) = ring.take() {}
        let mut written = 0;
        for chunk in bytes.chunks(BUFFER) {
            let Some(head) = ring.room(1) else {
                break;
            };
            let at = usize::from(head) * BUFFER;
            for (n, &byte) in chunk.iter().enumerate() {
                memory.store8(at + n, byte, Ordering::Relaxed);
            }
            let piece = Buffer {
                address: memory.address(at),
                length: chunk.len() as u32,
                write: false,
            };
            if ring.add(1, core::iter::once(piece), ()).is_err() {
                break;
            }
            written += chunk.len();
        }
        if ring.needs_notification() {
            self.device.notify(1);
        }
        written
    }

    fn read(&self, out: &mut [u8]) -> usize {
        let mut input = self.input.lock();
        let mut read = 0;
        let mut slots = out.iter_mut().peekable();
        // Each buffer once: a device that fills them with nothing would be read for ever.
        let mut buffers = 0..=input.ring.size();
        while slots.peek().is_some() && buffers.next().is_some() {
            let (buffer, mut at, end) = match input.left.take() {
                Some(left) => left,
                None => match input.ring.take() {
                    Ok(Some((buffer, _, length))) => (buffer, 0, (length as usize).min(BUFFER)),
                    _ => break,
                },
            };
            let base = usize::from(buffer) * BUFFER;
            while at < end
                && let Some(slot) = slots.next()
            {
                *slot = input.memory.load8(base + at, Ordering::Relaxed);
                at += 1;
                read += 1;
            }
            if at < end {
                input.left = Some((buffer, at, end));
            } else {
                input.give(buffer);
            }
        }
        if input.ring.needs_notification() {
            self.device.notify(0);
        }
        read
    }

    fn arm(&self) -> bool {
        let mut input = self.input.lock();
        input.ring.arm() || input.left.is_some()
    }
}

impl Driver for VirtioConsole {
    fn device(&self) -> &Device {
        &self.device
    }
}
