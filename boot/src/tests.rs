//! Loaders as they behave, and as they should not.

use super::*;
use proptest::prelude::*;
use std::vec::Vec;

/// Physical memory with something at a few addresses.
#[derive(Default, Clone, Debug)]
struct Fake(Vec<(u64, Vec<u8>)>);

impl Fake {
    fn put(&mut self, address: u64, bytes: impl Into<Vec<u8>>) -> u64 {
        self.0.push((address, bytes.into()));
        address
    }
}

impl PhysicalMemory for Fake {
    fn bytes(&self, address: u64, len: usize) -> Option<&[u8]> {
        self.0.iter().find_map(|(start, bytes)| {
            let offset = usize::try_from(address.checked_sub(*start)?).ok()?;
            bytes.get(offset..offset.checked_add(len)?)
        })
    }
}

const IMAGE: core::ops::Range<u64> = 0x20_0000..0x50_0000;

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn padded(text: &str, size: usize) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(size.max(bytes.len() + 1), 0);
    bytes
}

fn e820(base: u64, size: u64, kind: u32) -> Vec<u8> {
    let mut out = base.to_le_bytes().to_vec();
    out.extend(size.to_le_bytes());
    out.extend(kind.to_le_bytes());
    out
}

const PC_MAP: [(u64, u64, u32); 5] = [
    (0, 0x9fc00, 1),
    (0x9fc00, 0x400, 2),
    (0xf0000, 0x10000, 2),
    (0x10_0000, 0xfee_0000, 1),
    (0xffe_0000, 0x2_0000, 2),
];

/// Multiboot 1 as QEMU gives it.
fn multiboot1(modules: &[(u32, u32, &str)]) -> Fake {
    let mut memory = Fake::default();
    let map: Vec<u8> = PC_MAP
        .iter()
        .flat_map(|&(base, size, kind)| {
            let mut entry = 20_u32.to_le_bytes().to_vec();
            entry.extend(e820(base, size, kind));
            entry
        })
        .collect();
    let mut list = Vec::new();
    for (i, &(start, end, line)) in modules.iter().enumerate() {
        let at = 0x3_0000 + 0x2000 * i as u32;
        memory.put(at.into(), padded(line, 0x2000));
        list.extend(words(&[start, end, at, 0]));
    }
    memory.put(
        0x1_0000,
        padded("/boot/overcast console=com1 loglvl=all -- quiet", 0x2000),
    );
    memory.put(0x1_4000, padded("qemu", 64));
    memory.put(0x1_8000, list);
    let mut info = [0_u32; 22];
    info[0] = 1 | 4 | 8 | 0x40 | 0x200;
    info[1] = 639;
    info[2] = 0xfee_0000 >> 10;
    info[4] = 0x1_0000;
    info[5] = modules.len() as u32;
    info[6] = 0x1_8000;
    info[11] = map.len() as u32;
    info[12] = 0x1_c000;
    info[16] = 0x1_4000;
    memory.put(0x1_c000, map);
    memory.put(0x9500, words(&info));
    memory
}

fn read(protocol: u32, info: u64, memory: &Fake) -> Result<Box<BootInfo>, BootError> {
    let mut out = Box::new(BootInfo::empty());
    out.read(protocol, info, IMAGE, memory)?;
    Ok(out)
}

#[test]
fn multiboot1_from_qemu() {
    let memory = multiboot1(&[
        (0x60_0000, 0x68_1234, "vmlinuz console=hvc0  root=/dev/xvda"),
        (0x69_0000, 0x70_0000, "initrd.gz"),
    ]);
    let info = read(1, 0x9500, &memory).unwrap();
    assert_eq!(info.protocol(), Protocol::Multiboot1);
    assert_eq!(info.loader(), "qemu");
    assert_eq!(info.command_line(), "console=com1 loglvl=all");
    assert_eq!(info.dom0_extra(), "quiet");
    let (kernel, initrd) = info.dom0().unwrap();
    assert_eq!((kernel.start, kernel.end), (0x60_0000, 0x68_1234));
    assert_eq!(kernel.command_line.as_str(), "console=hvc0  root=/dev/xvda");
    assert_eq!(initrd.unwrap().command_line.as_str(), "");
    let map: Vec<_> = info
        .memory_map()
        .iter()
        .map(|r| (r.start, r.end, r.kind.to_e820()))
        .collect();
    assert_eq!(
        map,
        [
            (0, 0x9f000, 1),
            (0x9f000, 0xa0000, 2),
            (0xf0000, 0x10_0000, 2),
            (0x10_0000, 0xffe_0000, 1),
            (0xffe_0000, 0x1000_0000, 2),
        ]
    );
}

#[test]
fn grub2_gives_no_file_names() {
    assert_eq!(strip_file_name(b"a=1 b", "GRUB 2.06-13"), b"a=1 b");
    assert_eq!(strip_file_name(b" /xen a=1", "GNU GRUB 0.97"), b"a=1");
    assert_eq!(strip_file_name(b"/xen", "qemu"), b"");
    assert_eq!(strip_file_name(b"", ""), b"");
}

#[test]
fn bad_modules_are_named() {
    let check = |modules: &[(u32, u32, &str)]| read(1, 0x9500, &multiboot1(modules)).err();
    assert_eq!(
        check(&[(0x60_0000, 0x60_0000, "k")]),
        Some(BootError::ModuleEmpty {
            index: 0,
            start: 0x60_0000,
            end: 0x60_0000
        })
    );
    assert_eq!(
        check(&[(0x60_0000, 0x70_0000, "k"), (0xffd_0000, 0xfff_0000, "i")]),
        Some(BootError::ModuleNotInRam {
            index: 1,
            start: 0xffd_0000,
            end: 0xfff_0000
        })
    );
    assert_eq!(
        check(&[(0x4f_0000, 0x70_0000, "k")]),
        Some(BootError::ModuleOverImage {
            index: 0,
            start: 0x4f_0000,
            end: 0x70_0000
        })
    );
    assert_eq!(
        check(&[(0x60_0000, 0x70_0000, "k"), (0x6f_0000, 0x71_0000, "i")]),
        Some(BootError::ModulesOverlap { index: 1, other: 0 })
    );
    let none = read(1, 0x9500, &multiboot1(&[])).unwrap();
    assert_eq!(
        none.dom0().err(),
        Some(BootError::NoKernel(Protocol::Multiboot1))
    );
    assert!(none.dom0().err().unwrap().to_string().contains("-initrd"));
}

#[test]
fn multiboot1_without_a_map_takes_the_sizes() {
    let mut memory = multiboot1(&[]);
    let info = memory.0.iter_mut().find(|(at, _)| *at == 0x9500).unwrap();
    info.1[0] &= !0x40;
    let read_it = read(1, 0x9500, &memory).unwrap();
    assert_eq!(
        read_it.memory_map(),
        [
            Range {
                start: 0,
                end: 0x9f000,
                kind: RangeKind::Ram
            },
            Range {
                start: 0x10_0000,
                end: 0xffe_0000,
                kind: RangeKind::Ram
            },
        ]
    );
    let info = memory.0.iter_mut().find(|(at, _)| *at == 0x9500).unwrap();
    info.1[0] &= !0x41;
    assert_eq!(
        read(1, 0x9500, &memory).err(),
        Some(BootError::NoMemoryMap(Protocol::Multiboot1))
    );
}

fn rsdp(rsdt: u32, xsdt: u64) -> Vec<u8> {
    let mut bytes = b"RSD PTR \0OVRCST\x02".to_vec();
    bytes.extend(rsdt.to_le_bytes());
    let sum = bytes.iter().fold(0_u8, |s, b| s.wrapping_add(*b));
    bytes[8] = 0_u8.wrapping_sub(sum);
    bytes.extend(36_u32.to_le_bytes());
    bytes.extend(xsdt.to_le_bytes());
    bytes.extend([0; 4]);
    let sum = bytes.iter().fold(0_u8, |s, b| s.wrapping_add(*b));
    bytes[32] = 0_u8.wrapping_sub(sum);
    bytes
}

fn tag(kind: u32, body: &[u8]) -> Vec<u8> {
    let mut out = words(&[kind, 8 + body.len() as u32]);
    out.extend(body);
    out.resize(out.len().next_multiple_of(8), 0);
    out
}

fn multiboot2(tags: &[Vec<u8>]) -> Fake {
    let body: Vec<u8> = tags.iter().flatten().copied().chain(tag(0, &[])).collect();
    let mut info = words(&[8 + body.len() as u32, 0]);
    info.extend(body);
    let mut memory = Fake::default();
    memory.put(0x9500, info);
    memory
}

fn mb2_module(start: u32, end: u32, line: &str) -> Vec<u8> {
    let mut body = words(&[start, end]);
    body.extend(padded(line, 0));
    tag(3, &body)
}

fn mb2_map() -> Vec<u8> {
    let mut body = words(&[24, 0]);
    for (base, size, kind) in PC_MAP {
        body.extend(e820(base, size, kind));
        body.extend([0; 4]);
    }
    tag(6, &body)
}

#[test]
fn multiboot2_from_grub() {
    let memory = multiboot2(&[
        tag(1, b"console=com1 noreboot\0"),
        mb2_module(0x60_0000, 0x70_0000, "placeholder root=/dev/vda1"),
        tag(2, b"GRUB 2.06\0"),
        mb2_map(),
        tag(14, &rsdp(0x1000, 0)[..20]),
        tag(15, &rsdp(0x1000, 0x2000)),
        tag(9, &[0; 12]),
    ]);
    let info = read(2, 0x9500, &memory).unwrap();
    assert_eq!(info.command_line(), "console=com1 noreboot");
    assert_eq!(
        info.modules()[0].command_line.as_str(),
        "placeholder root=/dev/vda1"
    );
    assert_eq!(
        info.acpi(),
        Some(AcpiRoot {
            rsdt: Some(0x1000),
            xsdt: Some(0x2000)
        })
    );
    assert_eq!(info.memory_map().len(), 5);
}

#[test]
fn multiboot2_with_an_efi_map_only() {
    let mut body = words(&[48, 1]);
    for (kind, base, pages) in [
        (7_u32, 0_u64, 160_u64),
        (4, 0x10_0000, 0x1000),
        (6, 0x110_0000, 16),
    ] {
        body.extend(words(&[kind, 0]));
        for value in [base, 0, pages, 0xf, 0] {
            body.extend(value.to_le_bytes());
        }
    }
    let info = read(2, 0x9500, &multiboot2(&[tag(17, &body)])).unwrap();
    assert_eq!(
        info.memory_map(),
        [
            Range {
                start: 0,
                end: 0xa0000,
                kind: RangeKind::Ram
            },
            Range {
                start: 0x10_0000,
                end: 0x110_0000,
                kind: RangeKind::Ram
            },
            Range {
                start: 0x110_0000,
                end: 0x111_0000,
                kind: RangeKind::Reserved
            },
        ]
    );
    assert_eq!(
        read(2, 0x9500, &multiboot2(&[])).err(),
        Some(BootError::NoMemoryMap(Protocol::Multiboot2))
    );
    // A tag that claims more than there is.
    let mut memory = multiboot2(&[mb2_map()]);
    memory.0[0].1[12] = 0xff;
    assert!(matches!(
        read(2, 0x9500, &memory).err(),
        Some(BootError::Malformed { .. })
    ));
    // Information larger than anyone gives.
    let mut memory = multiboot2(&[mb2_map()]);
    memory.0[0].1[3] = 0x7f;
    assert!(matches!(
        read(2, 0x9500, &memory).err(),
        Some(BootError::Malformed { .. })
    ));
    // More than 64 KiB of it is fine.
    let memory = multiboot2(&[tag(9, &[0; 100_000]), mb2_map()]);
    assert!(read(2, 0x9500, &memory).is_ok());
}

fn pvh(version: u32, modules: &[(u64, u64)]) -> Fake {
    let mut memory = Fake::default();
    let mut list = Vec::new();
    for &(start, size) in modules {
        for value in [start, size, 0x1_0000, 0] {
            list.extend(value.to_le_bytes());
        }
    }
    let mut info = words(&[0x336e_c578, version, 0, modules.len() as u32]);
    for value in [0x1_8000, 0x1_4000, 0xe_0000] {
        info.extend(u64::to_le_bytes(value));
    }
    info.extend(0x1_c000_u64.to_le_bytes());
    info.extend(words(&[PC_MAP.len() as u32, 0]));
    let map: Vec<u8> = PC_MAP
        .iter()
        .flat_map(|&(base, size, kind)| {
            let mut entry = e820(base, size, kind);
            entry.extend([0; 4]);
            entry
        })
        .collect();
    memory.put(0x1_0000, padded("console=hvc0", 0x1000));
    memory.put(0x1_4000, padded("console=com1", 0x1000));
    memory.put(0x1_8000, list);
    memory.put(0x1_c000, map);
    memory.put(0xe_0000, rsdp(0, 0x1234_5000));
    memory.put(0x9500, info);
    memory
}

#[test]
fn pvh_from_xen_and_qemu() {
    let info = read(3, 0x9500, &pvh(1, &[(0x60_0000, 0x1234)])).unwrap();
    assert_eq!(info.command_line(), "console=com1");
    assert_eq!(info.acpi().unwrap().xsdt, Some(0x1234_5000));
    let (kernel, initrd) = info.dom0().unwrap();
    assert_eq!((kernel.start, kernel.size()), (0x60_0000, 0x1234));
    assert_eq!(kernel.command_line.as_str(), "console=hvc0");
    assert!(initrd.is_none());
    assert_eq!(
        read(3, 0x9500, &pvh(1, &[])).unwrap().dom0().err(),
        Some(BootError::NoKernel(Protocol::Pvh))
    );
    assert_eq!(
        read(3, 0x9500, &pvh(0, &[])).err(),
        Some(BootError::NoMemoryMap(Protocol::Pvh))
    );
    assert_eq!(
        read(3, 0x9500, &pvh(1, &[(u64::MAX, 2)])).err(),
        Some(BootError::ModuleEmpty {
            index: 0,
            start: u64::MAX,
            end: u64::MAX
        })
    );
}

#[test]
fn rsdp_is_found_in_the_bios_area() {
    let mut memory = multiboot1(&[]);
    let mut area = vec![0; 0x2_0000];
    area[0x5a10..0x5a10 + 36].copy_from_slice(&rsdp(0x7fe_0000, 0));
    memory.put(0xe_0000, area);
    let info = read(1, 0x9500, &memory).unwrap();
    assert_eq!(
        info.acpi(),
        Some(AcpiRoot {
            rsdt: Some(0x7fe_0000),
            xsdt: None
        })
    );
}

#[test]
fn extra_options_go_to_dom0() {
    assert_eq!(split_extra("a b -- c d"), ("a b", "c d"));
    assert_eq!(split_extra("-- c"), ("", "c"));
    assert_eq!(split_extra("a --b"), ("a --b", ""));
}

fn kinds() -> impl Strategy<Value = RangeKind> {
    (1_u32..=5).prop_map(RangeKind::from_e820)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Byte by byte (page by page), the map says the worst of what was said.
    #[test]
    fn the_worst_kind_wins(ranges in prop::collection::vec((0_u64..40, 0_u64..20, kinds()), 0..20)) {
        let mut map = Box::new(MemoryMap::EMPTY);
        for &(start, size, kind) in &ranges {
            map.add(start * 0x800, size * 0x800, kind).unwrap();
        }
        map.resolve().unwrap();
        map.align_to_pages().unwrap();
        for pair in map.ranges().windows(2) {
            prop_assert!(pair[0].end <= pair[1].start);
            prop_assert!(pair[0].end < pair[1].start || pair[0].kind != pair[1].kind);
        }
        for page in 0..40_u64 {
            let half = |at: u64| ranges.iter()
                .filter(|(start, size, _)| *start <= at && at < start + size)
                .map(|r| r.2).max();
            let (a, b) = (half(2 * page), half(2 * page + 1));
            let want = match (a, b) {
                (Some(RangeKind::Ram), Some(RangeKind::Ram)) => Some(RangeKind::Ram),
                _ => [a, b].into_iter().flatten().filter(|k| *k != RangeKind::Ram).max(),
            };
            let got = map.ranges().iter()
                .find(|r| r.start <= page * 4096 && page * 4096 < r.end)
                .map(|r| { assert!(r.end >= (page + 1) * 4096); r.kind });
            prop_assert_eq!(got, want, "page {}", page);
        }
    }

    /// Whatever stands in the loader's structures, reading them ends in a value.
    #[test]
    fn garbage_does_not_panic(
        protocol in 1_u32..=3,
        damage in prop::collection::vec((0_usize..10, 0_usize..600, any::<u8>()), 0..30),
    ) {
        let mut memory = match protocol {
            1 => multiboot1(&[(0x60_0000, 0x70_0000, "a b"), (0x70_0000, 0x71_0000, "c")]),
            2 => multiboot2(&[tag(2, b"x\0"), mb2_map(), mb2_module(0x60_0000, 0x70_0000, "a b"), tag(15, &rsdp(1, 2))]),
            _ => pvh(1, &[(0x60_0000, 0x1234), (0x70_0000, 1)]),
        };
        for (which, offset, value) in damage {
            let count = memory.0.len();
            let bytes = &mut memory.0[which % count].1;
            if !bytes.is_empty() {
                let offset = offset % bytes.len();
                bytes[offset] = value;
            }
        }
        if let Ok(info) = read(protocol, 0x9500, &memory) {
            prop_assert!(info.ram_bytes() > 0);
            for module in info.modules() {
                prop_assert!(module.start < module.end);
            }
        }
    }
}
