use super::*;
use proptest::prelude::*;
use std::vec;

/// Physical memory of pieces at addresses.
struct Pieces(Vec<(u64, Vec<u8>)>);

impl PhysicalMemory for Pieces {
    fn read(&self, address: u64, out: &mut [u8]) -> bool {
        self.0.iter().any(|(start, bytes)| {
            address
                .checked_sub(*start)
                .and_then(|at| bytes.get(at as usize..)?.get(..out.len()))
                .map(|found| out.copy_from_slice(found))
                .is_some()
        })
    }
}

fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes[..4].copy_from_slice(signature);
    bytes[4..8].copy_from_slice(&((HEADER + body.len()) as u32).to_le_bytes());
    bytes.extend_from_slice(body);
    let sum = bytes.iter().fold(0u8, |sum, &b| sum.wrapping_add(b));
    bytes[9] = sum.wrapping_neg();
    bytes
}

fn rsdp(rsdt: u32) -> Vec<u8> {
    let mut bytes = vec![0; 20];
    bytes[..8].copy_from_slice(b"RSD PTR ");
    bytes[16..].copy_from_slice(&rsdt.to_le_bytes());
    let sum = bytes.iter().fold(0u8, |sum, &b| sum.wrapping_add(b));
    bytes[8] = sum.wrapping_neg();
    bytes
}

fn madt_body() -> Vec<u8> {
    let mut body = vec![0, 0, 0xe0, 0xfe, 1, 0, 0, 0];
    for cpu in 0..3u8 {
        body.extend([0, 8, cpu, cpu * 2, u8::from(cpu != 2), 0, 0, 0]);
    }
    body.extend([1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
    body.extend([2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    body.extend([2, 10, 0, 9, 9, 0, 0, 0, 0x0d, 0]);
    body.extend([4, 6, 0xff, 0, 0, 1]);
    // An x2APIC entry of a CPU listed already, and one of a new CPU.
    body.extend([9, 16, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 77, 0, 0, 0]);
    body.extend([9, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0]);
    body
}

fn machine() -> Pieces {
    let madt = table(b"APIC", &madt_body());
    let mut root = Vec::new();
    root.extend(0x2000u32.to_le_bytes());
    root.extend(0x9999_0000u32.to_le_bytes());
    let mut low = vec![0; 0x20000];
    low[0x1230..0x1230 + 20].copy_from_slice(&rsdp(0x1000));
    Pieces(vec![
        (0xe0000, low),
        (0x1000, table(b"RSDT", &root)),
        (0x2000, madt),
    ])
}

#[test]
fn finds_and_reads_the_madt() {
    let memory = machine();
    let root = Rsdp::scan(&memory).unwrap();
    assert!(!root.extended);
    let tables = Tables::load(&memory, &root).unwrap();
    assert_eq!(tables.iter().count(), 1);
    let madt = Madt::parse(&tables.get(&memory, b"APIC").unwrap()).unwrap();
    assert_eq!(madt.local_apic_address, 0xfee0_0000);
    let ids: Vec<_> = madt.cpus.iter().map(|c| (c.id, c.enabled)).collect();
    assert_eq!(ids, [(0, true), (2, true), (4, false), (256, true)]);
    assert_eq!(madt.isa_interrupt(0).gsi, 2);
    assert!(madt.isa_interrupt(9).level);
    assert_eq!(madt.isa_interrupt(4).gsi, 4);
    assert_eq!(madt.io_apic_of(4).unwrap().address, 0xfec0_0000);
    assert_eq!(madt.nmis, [LocalNmi { uid: None, lint: 1 }]);
}

#[test]
fn damaged_tables_are_left_out() {
    let mut memory = machine();
    memory.0[2].1[60] ^= 1;
    let root = Rsdp::scan(&memory).unwrap();
    let tables = Tables::load(&memory, &root).unwrap();
    assert_eq!(tables.get(&memory, b"APIC"), None);
    memory.0[1].1[9] ^= 1;
    assert_eq!(Tables::load(&memory, &root), Err(AcpiError::BadRootTable));
}

#[test]
fn finds_the_sleep_type() {
    let named = [
        b"xx\x10_S5_\x08_S5_\x12\x06\x04\x0a\x05\x0a\x05".as_slice(),
        &[0, 0],
    ]
    .concat();
    assert_eq!(find_s5(&named), Some((5, 5)));
    assert_eq!(
        find_s5(b"\x08\\_S5_\x12\x06\x04\x00\x00\x00\x00"),
        Some((0, 0))
    );
    assert_eq!(find_s5(b"\x08_S5_\x12\x06\x04"), None);
    assert_eq!(find_s5(b""), None);
}

#[test]
fn reads_power_registers() {
    let mut fadt = vec![0; 276 - HEADER];
    let mut set = |at: usize, bytes: &[u8]| {
        fadt[at - HEADER..at - HEADER + bytes.len()].copy_from_slice(bytes);
    };
    set(40, &0x7fe0_0000u32.to_le_bytes());
    set(48, &0xb2u32.to_le_bytes());
    set(52, &[2]);
    set(64, &0x604u32.to_le_bytes());
    set(76, &0x608u32.to_le_bytes());
    set(112, &((1 << 8) | (1u32 << 10)).to_le_bytes());
    set(116, &[1, 8, 0, 1, 0xf9, 0x0c, 0, 0, 0, 0, 0, 0, 0x0f]);
    let fadt = Fadt::parse(&table(b"FACP", &fadt)).unwrap();
    assert_eq!(fadt.pm1a_control, Some(0x604));
    assert_eq!(fadt.pm_timer, Some((0x608, true)));
    assert_eq!(fadt.enable, Some((0xb2, 2)));
    let (register, value) = fadt.reset.unwrap();
    assert_eq!(
        (register.space, register.address, value),
        (AddressSpace::Io, 0xcf9, 15)
    );
    assert_eq!(fadt.sleep_control, None);
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400), root in any::<u64>()) {
        let _ = Madt::parse(&bytes);
        let _ = Fadt::parse(&bytes);
        let _ = find_s5(&bytes);
        let _ = hpet_address(&bytes);
        let memory = Pieces(vec![(root, bytes)]);
        let _ = Rsdp::read(&memory, root);
        for extended in [false, true] {
            let _ = Tables::load(&memory, &Rsdp { root, extended, revision: 2 });
        }
    }

    #[test]
    fn damaged_madts_never_panic(at in 0usize..200, value: u8) {
        let mut body = madt_body();
        let at = at % body.len();
        body[at] = value;
        let madt = Madt::parse(&table(b"APIC", &body)).unwrap();
        prop_assert!(madt.cpus.len() <= 40);
    }
}
