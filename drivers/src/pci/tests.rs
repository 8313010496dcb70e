//! Configuration space made of tables.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::vec;
use std::vec::Vec;

use alloc::sync::Arc;
use proptest::prelude::*;

use super::*;
use crate::interrupt::Message;
use crate::platform::mock::Mock;
use crate::registers::{Model, Registers};

/// The configuration space of a function: bytes, and which bits of it can be written.
#[derive(Clone)]
pub struct Space {
    bytes: [u8; 256],
    writable: [u8; 256],
}

impl Space {
    pub fn new(vendor: u16, device: u16, class: u32) -> Self {
        let mut space = Self {
            bytes: [0; 256],
            writable: [0; 256],
        };
        space.put(0, u32::from(device) << 16 | u32::from(vendor));
        space.put(8, class << 8);
        space.writable[4..6].fill(0xff);
        space
    }

    pub fn put(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    pub fn get(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().unwrap())
    }

    /// A register of which some bits can be written.
    pub fn register(&mut self, at: usize, value: u32, writable: u32) {
        self.put(at, value);
        self.writable[at..at + 4].copy_from_slice(&writable.to_le_bytes());
    }

    /// Links capabilities, each given by place and the words that it begins with.
    pub fn capabilities(&mut self, list: &[(u8, &[u32])]) {
        self.bytes[6] |= 0x10;
        self.bytes[0x34] = list.first().map_or(0, |(at, _)| *at);
        for (n, (at, words)) in list.iter().enumerate() {
            for (w, word) in words.iter().enumerate() {
                self.put(usize::from(*at) + 4 * w, *word);
            }
            self.bytes[usize::from(*at) + 1] = list.get(n + 1).map_or(0, |(next, _)| *next);
        }
    }

    fn write(&mut self, at: usize, value: u32) {
        for (n, byte) in value.to_le_bytes().into_iter().enumerate() {
            let mask = self.writable[at + n];
            self.bytes[at + n] = self.bytes[at + n] & !mask | byte & mask;
        }
    }
}

/// Functions by bus, device and function.
#[derive(Default)]
pub struct Fabric(pub Mutex<BTreeMap<(u8, u8, u8), Space>>);

impl ConfigAccess for Fabric {
    fn read(&self, at: Address, offset: u16) -> u32 {
        let map = self.0.lock().unwrap();
        map.get(&(at.bus, at.device, at.function))
            .map_or(u32::MAX, |space| space.get(offset.into()))
    }

    fn write(&self, at: Address, offset: u16, value: u32) {
        let mut map = self.0.lock().unwrap();
        if let Some(space) = map.get_mut(&(at.bus, at.device, at.function)) {
            space.write(offset.into(), value);
        }
    }
}

fn fabric(functions: &[((u8, u8, u8), Space)]) -> Arc<dyn ConfigAccess> {
    Arc::new(Fabric(Mutex::new(functions.iter().cloned().collect())))
}

fn one(space: Space) -> Function {
    scan(&fabric(&[((0, 1, 0), space)]), [(0, 0)]).remove(0)
}

fn bridge(secondary: u8) -> Space {
    let mut space = Space::new(0x8086, 1, 0x06_0400);
    space.put(0x0c, 1 << 16);
    space.put(0x18, u32::from(secondary) << 8);
    space
}

#[test]
fn buses_behind_bridges_are_found_once() {
    let leaf = Space::new(0x1af4, 0x1042, 0x01_0000);
    let mut several = leaf.clone();
    several.put(0x0c, 0x80 << 16);
    let config = fabric(&[
        ((0, 0, 0), Space::new(0x8086, 0x29c0, 0x06_0000)),
        ((0, 2, 0), bridge(1)),
        ((0, 3, 0), bridge(1)),
        ((0, 4, 0), bridge(0)),
        // A loop: behind bus 1 is bus 2, behind which are buses 0 and 1.
        ((1, 0, 0), bridge(2)),
        ((2, 0, 0), bridge(1)),
        ((2, 1, 0), bridge(0)),
        ((2, 31, 0), several),
        ((2, 31, 7), leaf.clone()),
        // Not looked at: function 0 is missing, or says that it is alone.
        ((0, 9, 1), leaf.clone()),
        ((0, 0, 1), leaf.clone()),
    ]);
    let found = scan(&config, [(0, 0)]);
    let places: Vec<_> = found
        .iter()
        .map(|f| (f.address.bus, f.address.device, f.address.function))
        .collect();
    assert_eq!(
        places,
        [
            (0, 0, 0),
            (0, 2, 0),
            (0, 3, 0),
            (0, 4, 0),
            (1, 0, 0),
            (2, 0, 0),
            (2, 1, 0),
            (2, 31, 0),
            (2, 31, 7)
        ]
    );
    assert_eq!(
        std::format!("{}", found[8]),
        "0000:02:1f.7 [1af4:1042] class 010000 (SCSI storage)"
    );
}

#[test]
fn lists_of_capabilities_end() {
    let mut space = Space::new(1, 2, 3);
    space.capabilities(&[(0x40, &[0x05]), (0x80, &[0x11]), (0xfc, &[0x09])]);
    let ids = |space: &Space| -> Vec<_> {
        one(space.clone())
            .capabilities()
            .iter()
            .map(|c| (c.id, c.offset))
            .collect()
    };
    assert_eq!(ids(&space), [(5, 0x40), (0x11, 0x80), (9, 0xfc)]);
    // A loop; into the header; off the end by alignment.
    space.bytes[0xfd] = 0x40;
    assert_eq!(ids(&space).len(), 3);
    space.bytes[0xfd] = 0xfd;
    assert_eq!(ids(&space).len(), 3);
    space.bytes[0xfd] = 0x10;
    assert_eq!(ids(&space).len(), 3);
    space.bytes[0x34] = 0x3f;
    assert_eq!(ids(&space), []);
    space.bytes[0x34] = 0x40;
    space.bytes[6] = 0;
    assert_eq!(ids(&space), []);
}

#[test]
fn base_addresses_are_sized_and_left_alone() {
    let mut space = Space::new(1, 2, 3);
    space.put(4, 0x7);
    space.register(0x10, 0xfebd_0000, 0xffff_f000);
    space.register(0x14, 0xc041, 0xffc0);
    space.register(0x18, 0x8000_000c, 0xffff_c000);
    space.register(0x1c, 0x12, 0xffff_ffff);
    // No address; misaligned (its writable bits are not those of a size).
    space.register(0x20, 0x0, 0xffff_f000);
    space.register(0x24, 0x1000_1000, 0xff00_1000);
    let function = one(space.clone());
    let bars: Vec<_> = (0..7).map(|n| function.bar(n)).collect();
    assert_eq!(
        bars,
        [
            Some(Bar::Memory {
                address: 0xfebd_0000,
                size: 0x1000
            }),
            Some(Bar::Ports {
                base: 0xc040,
                size: 0x40
            }),
            Some(Bar::Memory {
                address: 0x12_8000_0000,
                size: 0x4000
            }),
            None,
            None,
            None,
            None
        ]
    );
    for at in (0..64).step_by(4) {
        assert_eq!(function.read(at as u16), space.get(at), "{at:#x}");
    }
    // SAFETY: nothing of it is accessed.
    let part = |offset, length| unsafe { function.registers(&Mock, 1, offset, length) };
    assert_eq!(part(0x20, 0x20).map(|part| part.length()), Some(0x20));
    assert!(part(0x21, 0x20).is_none());
    assert!(part(u64::MAX, 2).is_none());
    assert!(part(0, 0).is_none());
}

#[test]
fn ports_reach_the_first_segment() {
    struct Mechanism(Mutex<(u32, Vec<(u64, u32)>)>);
    impl Model for Mechanism {
        fn read(&self, offset: u64, size: u8) -> u32 {
            assert_eq!(size, 4);
            let state = self.0.lock().unwrap();
            if offset == 0 { state.0 } else { !state.0 }
        }
        fn write(&self, offset: u64, size: u8, value: u32) {
            assert_eq!(size, 4);
            let mut state = self.0.lock().unwrap();
            if offset == 0 {
                state.0 = value;
            } else {
                let selected = state.0;
                state.1.push((selected.into(), value));
            }
        }
    }
    let model = Arc::new(Mechanism(Mutex::new((0, vec![]))));
    let ports = Ports::new(Registers::model(model.clone(), 8)).unwrap();
    let address = Address {
        segment: 0,
        bus: 2,
        device: 31,
        function: 7,
    };
    assert_eq!(ports.read(address, 0x14), !0x8002_ff14);
    ports.write(address, 0xfc, 9);
    assert_eq!(model.0.lock().unwrap().1, [(0x8002_fffc, 9)]);
    assert_eq!(ports.read(address, 0x100), u32::MAX);
    let elsewhere = Address {
        segment: 1,
        ..address
    };
    assert_eq!(ports.read(elsewhere, 0), u32::MAX);
}

#[test]
fn msi_is_set_and_taken_back() {
    for wide in [false, true] {
        let mut space = Space::new(1, 2, 3);
        let control = if wide { 0x80 } else { 0 };
        space.capabilities(&[(0x50, &[0x05 | control << 16, 0, 0, 0])]);
        for at in 0x52..0x60 {
            space.writable[at] = 0xff;
        }
        let function = one(space);
        let msi = Msi::find(&function).unwrap();
        msi.set(Some(Message {
            address: 0xfee0_1000,
            data: 0x41,
        }));
        assert_eq!(function.read(0x50) >> 16, control | 1);
        assert_eq!(function.read(0x54), 0xfee0_1000);
        let data = if wide { 0x5c } else { 0x58 };
        assert_eq!(function.read(data) & 0xffff, 0x41);
        msi.set(None);
        assert_eq!(function.read(0x50) >> 16, control);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever configuration space holds, looking at it ends.
    #[test]
    fn anything_can_be_looked_at(
        bytes in prop::collection::vec(any::<u8>(), 256),
        writable in prop::collection::vec(any::<u8>(), 256),
        header in 0u8..3,
    ) {
        let mut space = Space {
            bytes: bytes.try_into().unwrap(),
            writable: writable.try_into().unwrap(),
        };
        space.bytes[0] = 1;
        space.bytes[1] = 1;
        space.bytes[6] |= 0x10;
        space.bytes[0x0e] = header;
        space.writable[0x0e] = 0;
        let function = one(space);
        prop_assert!(function.capabilities().len() <= 64);
        for index in 0..8 {
            function.bar(index);
        }
        if let Some(msi) = Msi::find(&function) {
            msi.set(Some(Message { address: 1 << 40, data: 1 }));
        }
        // SAFETY: the mock maps nothing, and ports are not accessed: MSI-X is left out.
        unsafe { function.registers(&Mock, 0, 8, 8) };
        function.enable();
        function.stop();
    }
}
