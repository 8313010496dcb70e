use std::string::ToString;
use std::vec;
use std::vec::Vec;

use gpt_disk_types::{
    Crc32, GptHeader, GptPartitionEntry, GptPartitionName, GptPartitionType, LbaLe, U32Le, guid,
};
use proptest::prelude::*;

use super::claims::{Claims, Conflict};
use super::gpt::{GptError, partitions};
use super::*;
use crate::ids::DomainId;

const BLOCKS: u64 = 2048;

fn parse(text: &str) -> Option<Spec> {
    Spec::parse(text)
}

/// A disk with two partitions, and both copies of the table.
fn disk(block: usize) -> Vec<u8> {
    let mut disk = vec![0; block * BLOCKS as usize];
    let mut entries = vec![0u8; 128 * 128];
    for (n, name, first, last) in [(0, "root", 100u64, 199u64), (2, "swäp", 200, 255)] {
        let mut label = GptPartitionName([0; 72]);
        for (n, c) in name.chars().enumerate() {
            label.set_char(n, c).unwrap();
        }
        let entry = GptPartitionEntry {
            partition_type_guid: GptPartitionType(guid!("0fc63daf-8483-4772-8e79-3d69d8477de4")),
            unique_partition_guid: guid!("11111111-2222-3333-4444-555555555555"),
            starting_lba: LbaLe::from_u64(first),
            ending_lba: LbaLe::from_u64(last),
            name: label,
            ..GptPartitionEntry::default()
        };
        let mut entry = entry;
        if n == 2 {
            entry.unique_partition_guid = guid!("a1111111-2222-3333-4444-555555555555");
        }
        entries[n * 128..][..128].copy_from_slice(bytemuck::bytes_of(&entry));
    }
    for (at, table) in [(1, 2), (BLOCKS - 1, BLOCKS - 1 - 128 * 128 / block as u64)] {
        let mut header = GptHeader {
            my_lba: LbaLe::from_u64(at),
            alternate_lba: LbaLe::from_u64(BLOCKS - at),
            partition_entry_lba: LbaLe::from_u64(table),
            number_of_partition_entries: U32Le::from_u32(128),
            size_of_partition_entry: U32Le::from_u32(128),
            partition_entry_array_crc32: Crc32(U32Le::from_u32(crc32fast::hash(&entries))),
            ..GptHeader::default()
        };
        header.update_header_crc32();
        disk[at as usize * block..][..92].copy_from_slice(bytemuck::bytes_of(&header));
        disk[table as usize * block..][..entries.len()].copy_from_slice(&entries);
    }
    disk
}

fn read(disk: &[u8], block: usize) -> Result<Vec<Partition>, GptError> {
    partitions(
        &mut |at, buffer| {
            let at = usize::try_from(at).unwrap().checked_mul(block).unwrap();
            buffer.copy_from_slice(disk.get(at..at + buffer.len()).ok_or(GptError::Read)?);
            Ok(())
        },
        block as u32,
        (disk.len() / block) as u64,
    )
}

#[test]
fn a_partition_table() {
    for block in [512, 4096] {
        let mut disk = disk(block);
        let found = read(&disk, block).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].number, found[0].label.as_str()), (1, "root"));
        assert_eq!((found[0].first_block, found[0].blocks), (100, 100));
        assert_eq!((found[1].number, found[1].label.as_str()), (3, "swäp"));
        // The first copy is damaged: in its header, in its entries, altogether.
        disk[block + 60] ^= 1;
        assert_eq!(read(&disk, block).unwrap(), found);
        disk[block + 60] ^= 1;
        disk[2 * block + 32] ^= 1;
        assert_eq!(read(&disk, block).unwrap(), found);
        disk[block..][..512].fill(0);
        assert_eq!(read(&disk, block).unwrap(), found);
        // And the second.
        let end = disk.len();
        disk[end - block + 20] ^= 1;
        assert_eq!(read(&disk, block), Err(GptError::Damaged));
        disk[end - block..].fill(0);
        assert_eq!(read(&disk, block), Err(GptError::None));
    }
}

/// The first copy's header or entries are in a block that cannot be read, or all is.
#[test]
fn a_partition_table_on_a_disk_that_breaks() {
    let disk = disk(512);
    let found = read(&disk, 512).unwrap();
    let broken = |bad: &dyn Fn(u64) -> bool| {
        partitions(
            &mut |at, buffer| {
                let end = at + buffer.len() as u64 / 512;
                if (at..end).any(bad) {
                    return Err(GptError::Read);
                }
                let at = at as usize * 512;
                buffer.copy_from_slice(&disk[at..at + buffer.len()]);
                Ok(())
            },
            512,
            BLOCKS,
        )
    };
    assert_eq!(broken(&|at| at == 1), Ok(found.clone()));
    assert_eq!(broken(&|at| at == 5), Ok(found.clone()));
    assert_eq!(broken(&|at| at > 1000), Ok(found));
    assert_eq!(
        broken(&|at| at == 1 || at == BLOCKS - 1),
        Err(GptError::Read)
    );
    assert_eq!(broken(&|_| true), Err(GptError::Read));
}

#[test]
fn descriptions() {
    assert_eq!(parse("vda"), Some(Spec::whole("vda")));
    let spec = parse("vda,label=root,ro").unwrap();
    assert_eq!(spec.part, Part::Label("root".to_string()));
    assert!(spec.read_only && !spec.shared);
    assert_eq!(
        parse("vdb,start=4,size=8K,shared").unwrap().part,
        Part::Range {
            start: 4096,
            size: Some(8192)
        }
    );
    for text in [
        "vda",
        "vda,part=3,ro",
        "vda,label=x y,shared",
        "vdb,partuuid=11111111-2222-3333-4444-555555555555",
        "vdc,start=512B,size=1024B,ro,shared",
        "vdc,start=0B",
    ] {
        assert_eq!(parse(text).unwrap().to_string(), text);
    }
    assert!(parse("vdb,partuuid=11111111-2222-3333-4444-555555555555").is_some());
    for bad in [
        "",
        ",ro",
        "vda,",
        "vda,rw",
        "vda,part=0",
        "vda,part=x",
        "vda,part=1,label=x",
        "vda,part=1,size=4",
        "vda,partuuid=1",
        "a/b",
    ] {
        assert_eq!(parse(bad), None, "{bad}");
    }
}

#[test]
fn where_a_virtual_disk_is() {
    let table = || read(&disk(512), 512);
    let resolve = |text: &str| parse(text).unwrap().resolve(BLOCKS, 512, table);
    let at = |text: &str| resolve(text).map(|disk| (disk.start, disk.sectors));
    assert_eq!(at("vda"), Ok((0, BLOCKS)));
    assert!(resolve("vda").unwrap().whole);
    assert_eq!(at("vda,part=1"), Ok((100, 100)));
    assert_eq!(at("vda,label=swäp"), Ok((200, 56)));
    assert_eq!(
        at("vda,partuuid=A1111111-2222-3333-4444-555555555555"),
        Ok((200, 56))
    );
    assert_eq!(at("vda,part=2"), Err(SpecError::NoPartition));
    assert_eq!(at("vda,start=1,size=512B"), Ok((2, 1)));
    assert_eq!(at("vda,start=1"), Ok((2, BLOCKS - 2)));
    assert_eq!(at("vda,size=1"), Ok((0, 2)));
    assert_eq!(at("vda,start=1000B"), Err(SpecError::Misaligned(512)));
    assert_eq!(at("vda,start=1M"), Err(SpecError::Beyond));
    assert_eq!(at("vda,start=1048064B,size=1"), Err(SpecError::Beyond));
    // Blocks of 4096 bytes.
    let table = || read(&disk(4096), 4096);
    let large = parse("vda,part=1")
        .unwrap()
        .resolve(BLOCKS * 8, 4096, table);
    assert_eq!(large.map(|disk| (disk.start, disk.sectors)), Ok((800, 800)));
}

#[test]
fn names_of_devices() {
    assert_eq!(device_number("xvda"), Some(51712));
    assert_eq!(device_number("xvda1"), Some(51713));
    assert_eq!(device_number("xvdb"), Some(51728));
    assert_eq!(device_number("xvdp"), Some(51952));
    assert_eq!(device_number("xvdq"), Some(1 << 28 | 16 << 8));
    assert_eq!(device_number("xvdaa"), Some(1 << 28 | 26 << 8));
    assert_eq!(device_number("xvda16"), Some(1 << 28 | 16));
    for bad in ["xvd", "sda", "xvda01", "xvdA", "xvdaaaa", "xvda256", "xvd1"] {
        assert_eq!(device_number(bad), None, "{bad}");
    }
    assert_eq!(device_name(0), "xvda");
    assert_eq!(device_name(25), "xvdz");
    assert_eq!(device_name(26), "xvdaa");
    assert_eq!(device_name(26 * 27), "xvdaaa");
}

#[test]
fn no_two_domains_write_the_same() {
    let mut claims = Claims::new();
    let part = |start, sectors, read_only, shared| VirtualDisk {
        start,
        sectors,
        whole: false,
        read_only,
        shared,
    };
    let (one, two) = (DomainId(1), DomainId(2));
    let first = claims
        .claim(one, "vda", &part(0, 100, false, false))
        .unwrap();
    assert!(
        claims
            .claim(two, "vda", &part(100, 100, false, false))
            .is_ok()
    );
    assert!(
        claims
            .claim(two, "vdb", &part(0, 100, false, false))
            .is_ok()
    );
    // Its own once more is its own matter.
    let again = claims
        .claim(one, "vda", &part(0, 100, false, false))
        .unwrap();
    assert_eq!(
        claims.claim(two, "vda", &part(99, 1, true, false)),
        Err(Conflict(one))
    );
    assert_eq!(
        claims.claim(two, "vda", &part(0, 1, false, true)),
        Err(Conflict(one))
    );
    let mut whole = part(0, 10, false, false);
    whole.whole = true;
    assert!(claims.claim(two, "vda", &whole).is_err());
    claims.release(first);
    claims.release(again);
    assert!(claims.claim(two, "vda", &whole).is_ok());
    assert!(
        claims
            .claim(one, "vda", &part(5000, 1, true, false))
            .is_err()
    );
    assert!(claims.claim(one, "vdc", &part(0, 1, false, true)).is_ok());
    assert!(claims.claim(two, "vdc", &part(0, 1, false, true)).is_ok());
    assert!(claims.claim(one, "vdd", &part(0, 1, true, false)).is_ok());
    assert!(claims.claim(two, "vdd", &part(0, 1, true, false)).is_ok());
}

#[test]
fn a_mirror_uses_what_its_domain_uses_and_nothing_else() {
    let disk = VirtualDisk {
        start: 0,
        sectors: 100,
        whole: false,
        read_only: false,
        shared: false,
    };
    let (control, guest, other) = (DomainId(0), DomainId(1), DomainId(2));
    for mirror_first in [false, true] {
        let mut claims = Claims::new();
        let mirror =
            |claims: &mut Claims, whose| claims.claim_for(control, Some(whose), "vda", &disk);
        if mirror_first {
            mirror(&mut claims, guest).unwrap();
            claims.claim(guest, "vda", &disk).unwrap();
        } else {
            claims.claim(guest, "vda", &disk).unwrap();
            mirror(&mut claims, guest).unwrap();
        }
        assert!(claims.claim(other, "vda", &disk).is_err());
        assert_eq!(mirror(&mut claims, other), Err(Conflict(guest)));
    }
    // The control domain's own use is no mirror.
    let mut claims = Claims::new();
    claims.claim(guest, "vda", &disk).unwrap();
    assert_eq!(claims.claim(control, "vda", &disk), Err(Conflict(guest)));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// A table with wrong bytes anywhere, checksums made right or not: no panic, and no
    /// partition that is not on the disk.
    #[test]
    fn any_table(
        changes in prop::collection::vec((0..3 * 512usize, any::<u8>()), 1..20),
        right in any::<bool>(),
    ) {
        let mut bytes = disk(512);
        for (at, value) in changes {
            bytes[512 + at] = value;
        }
        if right {
            let table = bytes[1024..][..128 * 128].to_vec();
            let mut header: GptHeader = bytemuck::pod_read_unaligned(&bytes[512..][..92]);
            header.partition_entry_array_crc32 = Crc32(U32Le::from_u32(crc32fast::hash(&table)));
            header.header_size = U32Le::from_u32(92);
            header.update_header_crc32();
            bytes[512..][..92].copy_from_slice(bytemuck::bytes_of(&header));
        }
        if let Ok(found) = read(&bytes, 512) {
            for partition in found {
                prop_assert!(partition.first_block + partition.blocks <= BLOCKS);
            }
        }
    }
}
