//! The legacy transport against registers that are a model.

use alloc::sync::Arc;
use std::sync::Mutex;
use std::vec;
use std::vec::Vec;

use crate::pci::Messages;
use crate::registers::{Model, Registers};
use crate::virtio::Transport;
use crate::virtio::VirtioError;
use crate::virtio::legacy::Legacy;
use crate::virtio::pci::Modern;
use crate::virtio::ring::RingPlace;

/// A write: place, bytes, value.
type Write = (u64, u8, u32);

/// Remembers what was written.
#[derive(Default)]
struct Memory(Mutex<(Vec<u8>, Vec<Write>)>);

impl Memory {
    fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self(Mutex::new((bytes, Vec::new()))))
    }

    fn written(&self) -> Vec<Write> {
        core::mem::take(&mut self.0.lock().unwrap().1)
    }

    fn set(&self, at: usize, bytes: &[u8]) {
        self.0.lock().unwrap().0[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

impl Model for Memory {
    fn read(&self, offset: u64, size: u8) -> u32 {
        let state = self.0.lock().unwrap();
        let mut bytes = [0; 4];
        let at = offset as usize;
        bytes[..size.into()].copy_from_slice(&state.0[at..at + usize::from(size)]);
        u32::from_le_bytes(bytes)
    }

    fn write(&self, offset: u64, size: u8, value: u32) {
        let mut state = self.0.lock().unwrap();
        state.1.push((offset, size, value));
        let at = offset as usize;
        state.0[at..at + usize::from(size)].copy_from_slice(&value.to_le_bytes()[..size.into()]);
    }
}

fn place(descriptors: u64) -> RingPlace {
    RingPlace {
        size: 64,
        descriptors,
        available: descriptors + 0x400,
        used: descriptors + 0x1000,
    }
}

#[test]
fn legacy_registers() {
    let memory = Memory::new((0..64).collect());
    let mut legacy = Legacy::new(Registers::model(memory.clone(), 64), Messages::None);
    assert_eq!(legacy.features(), 0x0302_0100);
    assert_eq!(legacy.queue_size(3), 0x0d0c);
    assert_eq!(memory.written(), [(14, 2, 3)]);
    // Without MSI-X the configuration follows at once.
    assert_eq!(legacy.config32(4), 0x1b1a_1918);
    legacy
        .enable_queue(3, &place(0x12_3456_7000), None)
        .unwrap();
    assert_eq!(memory.written(), [(14, 2, 3), (8, 4, 0x0123_4567)]);
    legacy.notify(3);
    assert_eq!(memory.written(), [(16, 2, 3)]);
    // Addresses of 44 bits at most.
    assert_eq!(
        legacy.enable_queue(3, &place(1 << 44), None),
        Err(VirtioError::NoMemory)
    );
}

#[test]
fn modern_registers() {
    let common = Memory::new(vec![0; 56]);
    let notify = Memory::new(vec![0; 32]);
    let mut modern = Modern {
        common: Registers::model(common.clone(), 56),
        notify: Registers::model(notify.clone(), 32),
        cause: Registers::model(Memory::new(vec![3]), 1),
        config: None,
        multiplier: 4,
        messages: Messages::None,
        doorbells: Vec::new(),
    };
    modern.accept(0x8000_0001_0000_0002);
    assert_eq!(
        common.written(),
        [(8, 4, 0), (12, 4, 2), (8, 4, 1), (12, 4, 0x8000_0001)]
    );
    common.set(30, &[7, 0]);
    modern
        .enable_queue(2, &place(0x12_3456_7000), None)
        .unwrap();
    assert_eq!(
        common.written(),
        [
            (22, 2, 2),
            (24, 2, 64),
            (32, 4, 0x3456_7000),
            (36, 4, 0x12),
            (40, 4, 0x3456_7400),
            (44, 4, 0x12),
            (48, 4, 0x3456_8000),
            (52, 4, 0x12),
            (28, 2, 1),
        ]
    );
    // A queue that was never enabled rings nowhere.
    modern.notify(1);
    modern.notify(9);
    modern.notify(2);
    assert_eq!(notify.written(), [(28, 2, 2)]);
    // One whose place is beyond the registers is refused.
    common.set(30, &[8, 0]);
    assert_eq!(
        modern.enable_queue(2, &place(0x1000), None),
        Err(VirtioError::NoQueue(2))
    );
    common.set(30, &[0xff, 0xff]);
    modern.multiplier = u32::MAX;
    assert!(modern.enable_queue(2, &place(0x1000), None).is_err());
    assert_eq!(modern.cause(), 3);
    assert_eq!(modern.config32(0), 0);
}
