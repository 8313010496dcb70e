//! Random numbers (virtio 1.2, section 5.4).

use alloc::boxed::Box;
use core::sync::atomic::Ordering;

use spin::Mutex;

use super::ring::{Buffer, Ring};
use super::transport::Transport;
use super::{Device, VirtioError, make_ring, negotiate, start};
use crate::entropy::Entropy;
use crate::platform::{Dma, Platform};

/// Bytes that are asked for at a time.
const REQUEST: usize = 64;

/// A virtio source of random numbers. It is asked without interrupts.
pub struct VirtioEntropy {
    // Dropped before the queue: it resets the device.
    device: Device,
    state: Mutex<State>,
}

struct State {
    ring: Ring<()>,
    memory: Dma,
    /// Bytes of the memory that are random and were not given out.
    left: usize,
}

impl VirtioEntropy {
    /// Takes a device over and lets it work.
    pub fn new(
        transport: Box<dyn Transport>,
        platform: &'static dyn Platform,
    ) -> Result<Self, VirtioError> {
        let mut device = Device::new(transport);
        let agreed = negotiate(&*device, platform, 0)?;
        let ring = make_ring(&mut device, platform, 0, 8, agreed, None)?;
        let memory = Dma::new(platform, REQUEST).ok_or(VirtioError::NoMemory)?;
        start(&*device);
        let source = Self {
            device,
            state: Mutex::new(State {
                ring,
                memory,
                left: 0,
            }),
        };
        source.fill(&mut []);
        Ok(source)
    }
}

impl Entropy for VirtioEntropy {
    fn fill(&self, out: &mut [u8]) -> usize {
        let mut state = self.state.lock();
        let State { ring, memory, left } = &mut *state;
        if let Ok(Some((_, _, length))) = ring.take() {
            *left = (length as usize).min(REQUEST);
        }
        let mut given = 0;
        for byte in out.iter_mut().take(*left) {
            *left -= 1;
            *byte = memory.load8(*left, Ordering::Relaxed);
            // Nobody else gets it.
            memory.store8(*left, 0, Ordering::Relaxed);
            given += 1;
        }
        if *left == 0 && ring.pending() == 0 {
            let whole = Buffer {
                address: memory.address(0),
                length: REQUEST as u32,
                write: true,
            };
            let _ = ring.add(1, core::iter::once(whole), ());
            if ring.needs_notification() {
                self.device.notify(0);
            }
        }
        given
    }
}
