//! Kernels made up for the purpose, damaged ones, and the stock kernel where it
//! is at hand.

use super::elf::Kernel;
use super::image::{Compression, KernelImage};
use super::layout::{Layout, RingPages, clip_pages};
use super::populate::{Contents, InitialState, Initrd, Role, populate};
use super::*;
use crate::addr::{MachineAddress, Mfn, Pfn};
use crate::machine::Memory;
use crate::machine::mock::MockMachine;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::{format, string::ToString, vec, vec::Vec};
use xen_abi::elfnote::*;

/// A small ELF64 file: segments at physical addresses, and notes.
#[derive(Clone, Default)]
struct Elf {
    entry: u64,
    segments: Vec<(u64, Vec<u8>, u64)>,
    notes: Vec<(u32, Vec<u8>)>,
}

impl Elf {
    /// A kernel like XTF's: VIRT_BASE unset, at 1 MiB, few notes.
    fn small() -> Self {
        Self {
            entry: 0x10_0000,
            segments: vec![(
                0x10_0000,
                (0..0x2345_u32).map(|i| i as u8).collect(),
                0x3_2000,
            )],
            notes: vec![
                (XEN_ELFNOTE_GUEST_OS, b"XTF\0".to_vec()),
                (XEN_ELFNOTE_LOADER, b"generic\0".to_vec()),
                (XEN_ELFNOTE_XEN_VERSION, b"xen-3.0\0".to_vec()),
                (
                    XEN_ELFNOTE_HYPERCALL_PAGE,
                    0x10_6000_u64.to_le_bytes().to_vec(),
                ),
                (
                    XEN_ELFNOTE_FEATURES,
                    b"!writable_page_tables|pae_pgdir_above_4gb\0".to_vec(),
                ),
                (XEN_ELFNOTE_PAE_MODE, b"yes\0".to_vec()),
            ],
        }
    }

    /// A kernel like Linux: high VIRT_BASE, INIT_P2M, MOD_START_PFN.
    fn linux() -> Self {
        let mut elf = Self::small();
        elf.entry = 0xffff_ffff_8010_0040;
        elf.segments.push((0x20_0000, vec![0xab; 100], 0x1_0000));
        elf.set(XEN_ELFNOTE_VIRT_BASE, 0xffff_ffff_8000_0000);
        elf.set(XEN_ELFNOTE_HYPERCALL_PAGE, 0xffff_ffff_8010_6000);
        elf.set(XEN_ELFNOTE_ENTRY, 0xffff_ffff_8010_0040);
        elf.set(XEN_ELFNOTE_INIT_P2M, 0x80_0000_0000);
        elf.set(XEN_ELFNOTE_MOD_START_PFN, 1);
        elf.set(XEN_ELFNOTE_SUPPORTED_FEATURES, 0x8801);
        elf
    }

    fn set(&mut self, kind: u32, value: u64) {
        self.unset(kind);
        self.notes.push((kind, value.to_le_bytes().to_vec()));
    }

    fn unset(&mut self, kind: u32) {
        self.notes.retain(|(other, _)| *other != kind);
    }

    fn file(&self) -> Vec<u8> {
        let mut notes = Vec::new();
        for (kind, desc) in &self.notes {
            for word in [4, desc.len() as u32, *kind] {
                notes.extend(word.to_le_bytes());
            }
            notes.extend(b"Xen\0");
            notes.extend(desc);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
        let mut headers: Vec<(u32, u32, u64, u64, u64, u64)> = Vec::new();
        let mut body = Vec::new();
        let first = 64 + 56 * (self.segments.len() as u64 + 1);
        for (address, data, size) in &self.segments {
            let offset = first + body.len() as u64;
            headers.push((1, 7, offset, *address, data.len() as u64, *size));
            body.extend(data);
        }
        let offset = first + body.len() as u64;
        headers.push((4, 4, offset, 0, notes.len() as u64, notes.len() as u64));
        body.extend(notes);

        let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        out.extend(2_u16.to_le_bytes());
        out.extend(62_u16.to_le_bytes());
        out.extend(1_u32.to_le_bytes());
        out.extend(self.entry.to_le_bytes());
        out.extend(64_u64.to_le_bytes());
        out.extend(0_u64.to_le_bytes());
        out.extend(0_u32.to_le_bytes());
        for half in [64_u16, 56, headers.len() as u16, 64, 0, 0] {
            out.extend(half.to_le_bytes());
        }
        for (kind, flags, offset, address, in_file, in_memory) in headers {
            out.extend(kind.to_le_bytes());
            out.extend(flags.to_le_bytes());
            // XTF's note segment is aligned to a page, its notes to 4.
            for value in [offset, address, address, in_file, in_memory, 0x1000] {
                out.extend(value.to_le_bytes());
            }
        }
        out.extend(body);
        out
    }
}

fn parse_error(elf: &Elf) -> BuildError {
    Kernel::parse(&elf.file()).err().unwrap()
}

// --- notes and headers --------------------------------------------------------

#[test]
fn few_notes_have_defaults() {
    let file = Elf::small().file();
    let kernel = Kernel::parse(&file).unwrap();
    assert_eq!(kernel.virt_base, 0);
    assert_eq!((kernel.start, kernel.end), (0x10_0000, 0x13_2000));
    assert_eq!(kernel.entry, 0x10_0000);
    assert!(kernel.notes.pae);
    assert_eq!(kernel.notes.init_p2m, None);
    assert!(!kernel.notes.mod_start_pfn);
}

#[test]
fn physical_addresses_may_be_relative_to_something() {
    let mut elf = Elf::linux();
    elf.set(XEN_ELFNOTE_PADDR_OFFSET, 0x8_0000);
    elf.set(XEN_ELFNOTE_ENTRY, 0xffff_ffff_8008_0000);
    let file = elf.file();
    let kernel = Kernel::parse(&file).unwrap();
    assert_eq!(kernel.start, 0xffff_ffff_8008_0000);
    assert_eq!(kernel.segments[1].address, 0xffff_ffff_8018_0000);
}

#[test]
fn what_is_missing_is_named() {
    let message = |change: &dyn Fn(&mut Elf)| {
        let mut elf = Elf::small();
        change(&mut elf);
        parse_error(&elf).to_string()
    };
    assert_eq!(
        message(&|elf| elf.notes.clear()),
        "not a Xen PV kernel: no XEN_ELFNOTE_XEN_VERSION, no Xen ELF notes at all, and no __xen_guest section"
    );
    assert!(
        message(&|elf| elf.unset(XEN_ELFNOTE_XEN_VERSION)).contains("no XEN_ELFNOTE_XEN_VERSION")
    );
    assert!(message(&|elf| elf.unset(XEN_ELFNOTE_LOADER)).contains("no XEN_ELFNOTE_LOADER"));
    assert!(
        message(&|elf| {
            elf.notes.clear();
            elf.set(XEN_ELFNOTE_PHYS32_ENTRY, 0x10_0000);
        })
        .contains("PVH")
    );
    assert!(message(&|elf| elf.set(XEN_ELFNOTE_PADDR_OFFSET, 0)).contains("XEN_ELFNOTE_VIRT_BASE"));
    let mut elf = Elf::small();
    elf.set(XEN_ELFNOTE_SUPPORTED_FEATURES, 1);
    assert_eq!(parse_error(&elf), BuildError::NotForDom0);
    let mut elf = Elf::small();
    elf.notes
        .push((XEN_ELFNOTE_FEATURES, b"!teleportation\0".to_vec()));
    assert_eq!(parse_error(&elf), BuildError::RequiredFeature);
    let mut elf = Elf::small();
    elf.notes
        .push((XEN_ELFNOTE_FEATURES, b"!supervisor_mode_kernel\0".to_vec()));
    assert_eq!(parse_error(&elf), BuildError::RequiredFeature);
    let mut elf = Elf::small();
    elf.set(XEN_ELFNOTE_ENTRY, 0x20_0000);
    assert!(matches!(parse_error(&elf), BuildError::OutOfBounds(_)));
    let mut file = Elf::small().file();
    file[4] = 1;
    assert!(matches!(
        Kernel::parse(&file).err().unwrap(),
        BuildError::ThirtyTwoBit | BuildError::BadElf(_)
    ));
    let file = Elf::small().file();
    assert!(matches!(
        Kernel::parse(&file[..0x2000]).err().unwrap(),
        BuildError::Truncated { .. }
    ));
}

#[test]
fn the_older_guest_section() {
    let mut notes = super::notes::Notes::default();
    notes
        .add_guest_section(
            b"GUEST_OS=linux,XEN_VER=xen-3.0,VIRT_BASE=0xffffffff80000000,HYPERCALL_PAGE=0x107,\
              FEATURES=writable_page_tables|!auto_translated_physmap,LOADER=generic,PAE=yes\0junk=1",
        )
        .unwrap();
    assert_eq!(notes.virt_base, Some(0xffff_ffff_8000_0000));
    assert_eq!(notes.hypercall_page, Some(0xffff_ffff_8010_7000));
    assert_eq!((notes.supported, notes.required), (0b101, 0b100));
    assert!(notes.pae && notes.legacy);
    assert_eq!(notes.check(), Ok(()));
}

// --- images -------------------------------------------------------------------

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0x08, 0, 0, 0, 0, 2, 3];
    out.extend(b"vmlinux\0");
    out.extend(miniz_oxide::deflate::compress_to_vec(data, 6));
    out.extend(crc32fast::hash(data).to_le_bytes());
    out.extend((data.len() as u32).to_le_bytes());
    out
}

fn with_size(mut compressed: Vec<u8>, data: &[u8]) -> Vec<u8> {
    compressed.extend((data.len() as u32).to_le_bytes());
    compressed
}

fn xz(data: &[u8]) -> Vec<u8> {
    use lzma_rust2::Write;
    let mut options = lzma_rust2::XzOptions::with_preset(1);
    options.prepend_pre_filter(lzma_rust2::FilterType::BcjX86, 0);
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    writer.write_all(data).unwrap();
    with_size(writer.finish().unwrap(), data)
}

fn lzma(data: &[u8]) -> Vec<u8> {
    use lzma_rust2::Write;
    let options = lzma_rust2::LzmaOptions::with_preset(1);
    let mut writer = lzma_rust2::LzmaWriter::new_use_header(Vec::new(), &options, None).unwrap();
    writer.write_all(data).unwrap();
    with_size(writer.finish().unwrap(), data)
}

fn zstd(data: &[u8]) -> Vec<u8> {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    with_size(compress_to_vec(data, CompressionLevel::Fastest), data)
}

fn lz4(data: &[u8]) -> Vec<u8> {
    let mut out = 0x184c_2102_u32.to_le_bytes().to_vec();
    for block in data.chunks(0x4000) {
        let block = lz4_flex::block::compress(block);
        out.extend((block.len() as u32).to_le_bytes());
        out.extend(block);
    }
    with_size(out, data)
}

fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 0x400 * 2];
    out[0x1f1] = 1;
    out[0x202..0x206].copy_from_slice(b"HdrS");
    out[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    out[0x248..0x24c].copy_from_slice(&0x400_u32.to_le_bytes());
    out[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend(payload);
    out.extend(b"signature");
    out
}

type Compressor = fn(&[u8]) -> Vec<u8>;
const COMPRESSORS: [(Compression, Compressor); 5] = [
    (Compression::Gzip, gzip),
    (Compression::Xz, xz),
    (Compression::Lzma, lzma),
    (Compression::Zstd, zstd),
    (Compression::Lz4, lz4),
];

#[test]
fn every_compression_unpacks() {
    let elf = Elf::small().file();
    for (compression, compress) in COMPRESSORS {
        let file = bzimage(&compress(&elf));
        let image = KernelImage::parse(&file).unwrap();
        assert_eq!(image.compression(), compression);
        assert_eq!(image.buffer_size(), elf.len());
        let mut buffer = vec![0xee; image.buffer_size() + 100];
        assert_eq!(image.unpack(&mut buffer).unwrap(), elf, "{compression:?}");
        assert!(buffer[elf.len()..].iter().all(|&byte| byte == 0xee));
        assert_eq!(
            image.unpack(&mut vec![0; elf.len() - 1]).err(),
            Some(BuildError::Buffer { needed: elf.len() })
        );
    }
    let image = KernelImage::parse(&elf).unwrap();
    assert_eq!(image.buffer_size(), 0);
    assert_eq!(image.unpack(&mut []).unwrap(), elf);
    // gzip without a bzImage around it.
    let file = gzip(&elf);
    let image = KernelImage::parse(&file).unwrap();
    assert_eq!(image.unpack(&mut vec![0; elf.len()]).unwrap(), elf);
}

#[test]
fn bad_images_are_named() {
    let error = |file: &[u8]| KernelImage::parse(file).err().unwrap();
    assert_eq!(error(b"short"), BuildError::Empty);
    assert_eq!(error(&[0x55; 4096]), BuildError::UnknownFormat);
    let file = bzimage(&gzip(&Elf::small().file()));
    assert!(matches!(
        error(&file[..file.len() - 20]),
        BuildError::Truncated { .. }
    ));
    let mut old = file.clone();
    old[0x206] = 7;
    assert_eq!(error(&old), BuildError::OldBzImage { version: 0x0207 });
    assert_eq!(
        error(&old).to_string(),
        "bzImage of boot protocol 2.07 (expected 2.08 or later)"
    );
    let mut wrong_sum = gzip(&Elf::small().file());
    let at = wrong_sum.len() - 8;
    wrong_sum[at] ^= 1;
    let image = KernelImage::parse(&wrong_sum).unwrap();
    assert!(image.unpack(&mut vec![0; image.buffer_size()]).is_err());
    let bzip2 = bzimage(b"BZh91AY&SY............");
    assert_eq!(error(&bzip2), BuildError::Compression(Compression::Bzip2));
    for (compression, compress) in COMPRESSORS {
        let mut payload = compress(&Elf::small().file());
        let at = payload.len() / 2;
        for byte in &mut payload[at..at + 8] {
            *byte ^= 0x5a;
        }
        let file = bzimage(&payload);
        let image = KernelImage::parse(&file).unwrap();
        let result = image
            .unpack(&mut vec![0; image.buffer_size()])
            .map(<[u8]>::to_vec);
        // lz4 and lzma have no checksum: at least nothing panics.
        if !matches!(
            compression,
            Compression::Lz4 | Compression::Lzma | Compression::Zstd
        ) {
            assert_eq!(result, Err(BuildError::Damaged(compression)));
        }
    }
}

// --- layout and contents --------------------------------------------------------

/// Frames in an order that is not that of the pages.
fn frames(pfn: Pfn) -> Option<Mfn> {
    const COUNT: u64 = 16384;
    (pfn.0 < COUNT).then(|| Mfn((pfn.0 * 4099 + 17) % COUNT))
}

struct Built {
    memory: MockMachine,
    layout: Layout,
    state: InitialState,
}

impl Built {
    /// The L1 entry at an address.
    fn walk(&self, address: u64) -> Option<u64> {
        let mut table = self.state.top_table;
        for level in [4_u32, 3, 2] {
            let index = (address >> (12 + 9 * (level - 1))) & 0x1ff;
            let entry = self.memory.frame(table)?.load(index as usize);
            if entry & 1 == 0 {
                return None;
            }
            assert_eq!(entry & 0xfff, 0x67, "level {level}");
            table = Mfn(entry >> 12);
        }
        let entry = self
            .memory
            .frame(table)?
            .load(((address >> 12) & 0x1ff) as usize);
        (entry & 1 != 0).then_some(entry)
    }

    fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for at in address..address + len as u64 {
            let mfn = Mfn((self.walk(at).unwrap() >> 12) & 0xff_ffff_ffff);
            out.push(
                self.memory
                    .frame(mfn)
                    .unwrap()
                    .load_u8((at % 4096) as usize),
            );
        }
        out
    }

    fn u64(&self, address: u64) -> u64 {
        u64::from_le_bytes(self.read(address, 8).try_into().unwrap())
    }

    /// What must hold of any built domain.
    fn check(&self) {
        let layout = &self.layout;
        let (state, tables) = (&self.state, &self.state.tables);
        assert_eq!(tables[0].mfn, state.top_table);
        assert_eq!(tables[0].level, 4);
        let own: BTreeSet<u64> = tables.iter().map(|table| table.mfn.0).collect();
        assert_eq!(own.len(), tables.len(), "a table is used twice");
        for table in tables {
            assert_eq!(frames(table.pfn), Some(table.mfn));
        }
        // The region is mapped page by page, tables read-only.
        for pfn in 0..layout.region_pages() {
            let address = layout.region.start + pfn * 4096;
            let entry = self.walk(address).unwrap();
            let mfn = frames(Pfn(pfn)).unwrap();
            let rw = if own.contains(&mfn.0) { 0 } else { 2 };
            // What Xen itself writes by this mapping is dirty.
            if layout.p2m.contains(&address) || layout.start_info == address {
                assert_ne!(entry & 1 << 6, 0, "{address:#x}");
            }
            assert_eq!(
                entry & !(1 << 6),
                (mfn.0 << 12) | (1 << 52) | 0x25 | rw,
                "{address:#x}"
            );
        }
        // Nothing else but the p2m is mapped: count the entries.
        let mut present = 0;
        for table in tables.iter().filter(|table| table.level == 1) {
            let frame = self.memory.frame(table.mfn).unwrap();
            present += (0..512).filter(|&i| frame.load(i) & 1 != 0).count() as u64;
        }
        let outside = layout.outside_p2m.map_or(0, |place| place.list_pages);
        assert_eq!(present, layout.region_pages() + outside);
        // All tables that were planned are in use, and none more.
        let planned = layout.table_pages() + layout.outside_p2m.map_or(0, |p| p.table_pages);
        assert_eq!(tables.len() as u64, planned);
        // The list names every page.
        for pfn in [0, 1, 511, 512, layout.nr_pages / 2, layout.nr_pages - 1] {
            assert_eq!(
                self.u64(layout.p2m.start + 8 * pfn),
                frames(Pfn(pfn)).unwrap().0,
                "p2m of {pfn:#x}"
            );
        }
        // start_info, by the offsets of its public header.
        let si = layout.start_info;
        assert_eq!(state.rsi, si);
        assert_eq!(self.u64(si + 32), layout.nr_pages);
        assert_eq!(self.u64(si + 40), 0x1234_5000);
        assert_eq!(self.u64(si + 88), layout.page_tables.start);
        assert_eq!(self.u64(si + 96), layout.table_pages());
        assert_eq!(self.u64(si + 104), layout.p2m.start);
        assert_eq!(self.read(si + 128, 11), b"console=hv\0"[..].to_vec());
        assert_eq!(state.rsp, layout.stack.end);
        assert!(layout.region.end - layout.stack.end >= 512 << 10);
        assert_eq!(layout.region.end % (4 << 20), 0);
    }
}

fn build(elf: &Elf, nr_pages: u64, initrd: &[u8]) -> Result<Built, BuildError> {
    build_as(Role::Dom0, elf, nr_pages, initrd)
}

fn build_as(role: Role, elf: &Elf, nr_pages: u64, initrd: &[u8]) -> Result<Built, BuildError> {
    let file = elf.file();
    let (kernel, rings) = match role {
        Role::Dom0 => (Kernel::parse(&file)?, RingPages::default()),
        Role::Guest => {
            let both = RingPages {
                store: true,
                console: true,
            };
            (Kernel::parse_guest(&file)?, both)
        }
    };
    let layout = Layout::with_rings(&kernel, nr_pages, initrd.len() as u64, rings)?;
    let memory = MockMachine::new(16384);
    // As the machine does it: the kernel first, while only the region's frames
    // are there; the rest without the kernel's file.
    let of_region = |pfn: Pfn| {
        if pfn.0 < layout.region_pages() {
            frames(pfn)
        } else {
            None
        }
    };
    populate::write_segments(&memory, &of_region, &layout, &kernel)?;
    let header = kernel.without_contents();
    let contents = Contents {
        kernel: &header,
        layout: &layout,
        initrd: match initrd {
            [] => Initrd::None,
            data => Initrd::Copy(data),
        },
        command_line: b"console=hv",
        shared_info: MachineAddress(0x1234_5000),
        store_port: crate::ids::EventPort(1),
        console_port: crate::ids::EventPort(2),
        role,
    };
    let state = populate(&memory, &frames, &contents)?;
    for segment in &kernel.segments {
        let pfn = layout.pfn_of(segment.address).unwrap();
        let frame = memory.frame(frames(pfn).unwrap()).unwrap();
        let mut bytes = vec![0; segment.data.len().min(4096)];
        frame.read((segment.address % 4096) as usize, &mut bytes);
        // The hypercall page may lie in the segment, but not in its first page.
        assert_eq!(bytes, segment.data[..bytes.len()]);
    }
    Ok(Built {
        memory,
        layout,
        state,
    })
}

#[test]
fn a_small_kernel_is_built_as_xen_does() {
    let built = build(&Elf::small(), 8192, &[]).unwrap();
    built.check();
    let layout = &built.layout;
    // In the order that was measured on real Xen: kernel, p2m, start_info, page
    // tables, stack; va = pfn << 12.
    assert_eq!(layout.region, 0..0x40_0000);
    assert_eq!(layout.p2m, 0x13_2000..0x14_2000);
    assert_eq!(layout.start_info, 0x14_2000);
    assert_eq!(layout.page_tables, 0x14_3000..0x14_8000);
    assert_eq!(layout.stack, 0x14_8000..0x14_9000);
    let levels: Vec<u8> = built.state.tables.iter().map(|table| table.level).collect();
    assert_eq!(levels, [4, 1, 2, 3, 1]);
    assert_eq!((built.state.cs, built.state.ss), (0xe033, 0xe02b));
    assert_eq!(built.read(layout.start_info, 16), b"xen-3.0-x86_64p\0");
    assert_eq!(built.u64(layout.start_info + 48), 3, "flags");
    // The stack may end just below 4 MiB: the slack is there all the same.
    let mut large = Elf::small();
    large.segments[0].2 = 0x28_0000;
    let built = build(&large, 8192, &[]).unwrap();
    built.check();
    assert_eq!(built.layout.region.end, 0x80_0000);

    // What the kernel has between the stubs stays.
    let mut filled = Elf::small();
    filled.segments[0].1 = vec![0xcc; 0x8000];
    let built = build(&filled, 8192, &[]).unwrap();
    // The page of hypercalls: the 14 bytes of console_io, 11 of iret, nothing between.
    assert_eq!(
        built.read(0x10_6000 + 18 * 32, 16),
        [
            0x51, 0x41, 0x53, 0xb8, 18, 0, 0, 0, 0x0f, 5, 0x41, 0x5b, 0x59, 0xc3, 0xcc, 0xcc
        ]
    );
    assert_eq!(
        built.read(0x10_6000 + 23 * 32, 12),
        [0x51, 0x41, 0x53, 0x50, 0xb8, 23, 0, 0, 0, 0x0f, 5, 0xcc]
    );
}

#[test]
fn a_guest_is_told_of_its_rings_and_no_privilege() {
    // One that cannot be Dom0 can be a guest.
    let mut elf = Elf::small();
    elf.segments[0].1 = vec![0xcc; 0x8000];
    elf.set(XEN_ELFNOTE_SUPPORTED_FEATURES, 0);
    assert_eq!(build(&elf, 8192, &[]).err(), Some(BuildError::NotForDom0));
    let built = build_as(Role::Guest, &elf, 8192, &[]).unwrap();
    built.check();
    let layout = &built.layout;
    let (si, store, console) = (layout.start_info, layout.store, layout.console);
    assert_eq!(store, Some(si + 0x1000));
    assert_eq!(console, Some(si + 0x2000));
    assert_eq!(layout.page_tables.start, si + 0x3000);
    assert_eq!(built.read(si, 16), b"xen-3.0-x86_64\0\0");
    assert_eq!(built.u64(si + 48), 16, "flags: SIF_VIRT_P2M_4TOOLS");
    let mfn = |address: u64| frames(layout.pfn_of(address).unwrap()).unwrap().0;
    assert_eq!(
        (built.u64(si + 56), built.u64(si + 64)),
        (mfn(si + 0x1000), 1)
    );
    assert_eq!(
        (built.u64(si + 72), built.u64(si + 80)),
        (mfn(si + 0x2000), 2)
    );
    // The page of hypercalls is the hypervisor's to write.
    assert_eq!(built.read(0x10_6000, 4), [0xcc; 4]);
}

#[test]
fn a_kernel_like_linux_gets_its_p2m_and_initrd_unmapped() {
    let initrd: Vec<u8> = (0..10_000_u32).map(|i| (i / 3) as u8).collect();
    let built = build(&Elf::linux(), 16000, &initrd).unwrap();
    built.check();
    let layout = &built.layout;
    assert_eq!(layout.region.start, 0xffff_ffff_8000_0000);
    assert_eq!(layout.p2m.start, 0x80_0000_0000);
    let place = layout.initrd.unwrap();
    assert_eq!(place.pfn.0, layout.region_pages());
    assert_eq!((place.pages, place.address), (3, None));
    let p2m = layout.outside_p2m.unwrap();
    assert_eq!(p2m.pfn.0, place.pfn.0 + 3);
    // 16000 * 8 bytes: 32 pages; an L3, an L2 and an L1 table.
    assert_eq!((p2m.list_pages, p2m.table_pages), (32, 3));
    assert_eq!(layout.first_free_pfn.0, p2m.pfn.0 + 35);
    let si = layout.start_info;
    assert_eq!(built.u64(si + 48) & 0xffff_ffff, 3 | 8, "flags");
    assert_eq!(built.u64(si + 112), place.pfn.0, "mod_start");
    assert_eq!(built.u64(si + 120), 10_000, "mod_len");
    assert_eq!(built.u64(si + 128 + 1024), p2m.pfn.0, "first_p2m_pfn");
    assert_eq!(built.u64(si + 128 + 1032), 35, "nr_p2m_frames");
    let last = frames(Pfn(place.pfn.0 + 2)).unwrap();
    assert_eq!(
        built.memory.frame(last).unwrap().load_u8(10_000 % 4096 - 1),
        *initrd.last().unwrap()
    );
}

#[test]
fn an_initrd_is_mapped_for_kernels_that_want_it_so() {
    let initrd = vec![0x77; 5000];
    let built = build(&Elf::small(), 8192, &initrd).unwrap();
    built.check();
    let place = built.layout.initrd.unwrap();
    assert_eq!(place.address, Some(0x13_2000));
    assert_eq!(place.pfn.0, 0x132);
    assert_eq!(built.layout.p2m.start, 0x13_4000);
    assert_eq!(built.read(0x13_2000, 5000), initrd);
    let si = built.layout.start_info;
    assert_eq!(built.u64(si + 112), 0x13_2000);
    assert_eq!(built.u64(si + 48) & 0xffff_ffff, 3);
}

#[test]
fn bad_layouts_are_refused() {
    let error = |elf: &Elf, pages, size| {
        let file = elf.file();
        let kernel = Kernel::parse(&file).unwrap();
        Layout::new(&kernel, pages, size).err().unwrap()
    };
    assert!(matches!(
        error(&Elf::small(), 1023, 0),
        BuildError::TooSmall { .. }
    ));
    assert!(matches!(
        error(&Elf::linux(), 8192, 64 << 20),
        BuildError::TooSmall { .. }
    ));
    let mut elf = Elf::linux();
    elf.set(XEN_ELFNOTE_INIT_P2M, 0xffff_ffff_8040_0000);
    assert!(matches!(error(&elf, 8192, 0), BuildError::BadNote { .. }));
    elf.set(XEN_ELFNOTE_INIT_P2M, 0xffff_8000_0000_0000);
    assert!(matches!(
        error(&elf, 8192, 0),
        BuildError::OverlapsHypervisor { .. }
    ));
    elf.set(XEN_ELFNOTE_INIT_P2M, 0x7fff_ffff_f000);
    assert!(matches!(
        error(&elf, 8192, 0),
        BuildError::OverlapsHypervisor { .. }
    ));
    let mut elf = Elf::small();
    elf.set(XEN_ELFNOTE_HYPERCALL_PAGE, 0x5000_0000);
    assert!(matches!(error(&elf, 8192, 0), BuildError::BadNote { .. }));
    let mut elf = Elf::linux();
    for (note, add) in [
        (XEN_ELFNOTE_VIRT_BASE, 0),
        (XEN_ELFNOTE_ENTRY, 0x10_0040),
        (XEN_ELFNOTE_HYPERCALL_PAGE, 0x10_6000),
    ] {
        elf.set(note, 0xffff_82d0_0000_0000 + add);
    }
    assert!(matches!(
        error(&elf, 8192, 0),
        BuildError::OverlapsHypervisor { .. }
    ));
}

#[test]
fn kernels_that_build_their_tables_behind_get_room_for_them() {
    let mut elf = Elf::linux();
    elf.unset(XEN_ELFNOTE_INIT_P2M);
    let file = elf.file();
    let kernel = Kernel::parse(&file).unwrap();
    assert_eq!(clip_pages(&kernel, 1 << 20, 0), 1 << 20);
    // 2 GiB above VIRT_BASE, half of it for a list of 8 bytes a page.
    let most = clip_pages(&kernel, 1 << 30, 0);
    assert!(most < 1 << 27 && most > (1 << 27) - (1 << 20), "{most:#x}");
    let file = Elf::linux().file();
    let kernel = Kernel::parse(&file).unwrap();
    assert_eq!(clip_pages(&kernel, 1 << 30, 0), 1 << 30);
}

#[test]
fn frames_that_are_missing_are_an_error() {
    let file = Elf::small().file();
    let kernel = Kernel::parse(&file).unwrap();
    let layout = Layout::new(&kernel, 8192, 0).unwrap();
    let contents = Contents {
        kernel: &kernel,
        layout: &layout,
        initrd: Initrd::None,
        command_line: &[b'x'; 3000],
        shared_info: MachineAddress(0),
        store_port: crate::ids::EventPort(0),
        console_port: crate::ids::EventPort(0),
        role: Role::Dom0,
    };
    let memory = MockMachine::new(16384);
    let some = |pfn: Pfn| (pfn.0 != 0x107).then_some(Mfn(pfn.0));
    assert_eq!(
        populate(&memory, &some, &contents).err(),
        Some(BuildError::NoFrame { pfn: 0x107 })
    );
    // A long command line keeps its zero.
    let all = |pfn: Pfn| Some(Mfn(pfn.0));
    populate(&memory, &all, &contents).unwrap();
    let frame = memory.frame(Mfn(layout.start_info >> 12)).unwrap();
    assert_eq!(frame.load_u8(128 + 1022), b'x');
    assert_eq!(frame.load_u8(128 + 1023), 0);
    // Contents that do not fit the plan.
    let wrong = Contents {
        initrd: Initrd::Copy(b"x"),
        ..contents
    };
    assert_eq!(
        populate(&memory, &all, &wrong).err(),
        Some(BuildError::Initrd)
    );
}

/// The kernel that this is all about, where `OVERCAST_TEST_KERNEL` or the cache of
/// scripts/setup.sh has it.
#[test]
fn the_stock_kernel_is_laid_out() {
    let cache = concat!(env!("CARGO_MANIFEST_DIR"), "/../../build/cache");
    let found = std::env::var_os("OVERCAST_TEST_KERNEL")
        .map(std::path::PathBuf::from)
        .or_else(|| {
            let packages = std::fs::read_dir(cache).ok()?.flatten();
            packages
                .filter_map(|package| std::fs::read_dir(package.path().join("boot")).ok())
                .flat_map(|boot| boot.flatten())
                .map(|file| file.path())
                .find(|path| {
                    let name = path.file_name().unwrap_or_default();
                    name.to_string_lossy().starts_with("vmlinuz-")
                })
        });
    let Some(path) = found else {
        std::eprintln!("SKIPPED: no stock kernel in {cache} (scripts/setup.sh gets one)");
        return;
    };
    let file = std::fs::read(&path).unwrap();
    let image = KernelImage::parse(&file).unwrap();
    let mut buffer = vec![0; image.buffer_size()];
    let kernel = Kernel::parse(image.unpack(&mut buffer).unwrap()).unwrap();
    assert_eq!(kernel.virt_base, 0xffff_ffff_8000_0000);
    assert_eq!(kernel.start, 0xffff_ffff_8100_0000);
    assert_eq!(kernel.notes.init_p2m, Some(0x80_0000_0000));
    assert!(kernel.notes.mod_start_pfn && kernel.notes.pae);
    let layout = Layout::new(&kernel, 131_072, 10 << 20).unwrap();
    assert_eq!(layout.p2m, 0x80_0000_0000..0x80_0010_0000);
    assert!(layout.region_pages() < 0x6000, "{layout:x?}");
    // All of it, into frames that exist as far as they are touched.
    let memory = MockMachine::new(131_072);
    let frames = |pfn: Pfn| Some(Mfn(131_071 - pfn.0));
    let contents = Contents {
        kernel: &kernel,
        layout: &layout,
        initrd: Initrd::InPlace,
        command_line: b"console=hvc0",
        shared_info: MachineAddress(0),
        store_port: crate::ids::EventPort(0),
        console_port: crate::ids::EventPort(0),
        role: Role::Dom0,
    };
    let state = populate(&memory, &frames, &contents).unwrap();
    assert_eq!(state.rip, kernel.notes.entry.unwrap());
    let segment = kernel.segments[0];
    for (page, data) in segment.data.chunks(4096).enumerate().step_by(97) {
        let address = segment.address + 4096 * page as u64;
        if kernel.notes.hypercall_page == Some(address) {
            continue;
        }
        let frame = memory.frame(frames(layout.pfn_of(address).unwrap()).unwrap());
        let mut bytes = vec![0; data.len()];
        frame.unwrap().read(0, &mut bytes);
        assert!(bytes == data, "{address:#x}");
    }
}

// --- anything at all --------------------------------------------------------------

/// Runs a file through all stages; only errors may come.
fn run_all(file: &[u8], nr_pages: u64, initrd: u64) {
    let Ok(image) = KernelImage::parse(file) else {
        return;
    };
    // Only sizes that a test can have.
    if image.buffer_size() > 1 << 20 {
        return;
    }
    let mut buffer = vec![0; image.buffer_size()];
    let Ok(elf) = image.unpack(&mut buffer) else {
        return;
    };
    let Ok(kernel) = Kernel::parse(elf) else {
        return;
    };
    let _ = clip_pages(&kernel, nr_pages, initrd);
    let Ok(layout) = Layout::new(&kernel, nr_pages, initrd) else {
        return;
    };
    assert!(layout.first_free_pfn.0 <= layout.nr_pages);
    assert!(layout.region.start <= kernel.start && kernel.end <= layout.region.end);
    if layout.region_pages() > 8192 || nr_pages > 16384 {
        return;
    }
    let contents = Contents {
        kernel: &kernel,
        layout: &layout,
        initrd: match layout.initrd {
            Some(_) => Initrd::InPlace,
            None => Initrd::None,
        },
        command_line: b"console=hv",
        shared_info: MachineAddress(0x1234_5000),
        store_port: crate::ids::EventPort(0),
        console_port: crate::ids::EventPort(0),
        role: Role::Dom0,
    };
    let memory = MockMachine::new(16384);
    let state = populate(&memory, &frames, &contents).unwrap();
    let planned = layout.table_pages() + layout.outside_p2m.map_or(0, |p| p.table_pages);
    assert_eq!(state.tables.len() as u64, planned, "{layout:x?}");
}

fn note_value() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (0_u64..0x80_0000).prop_map(|page| page << 12),
        (0_u64..0x8_0000).prop_map(|page| 0xffff_ffff_8000_0000 + (page << 12)),
        (0_u64..16).prop_map(|i| (0xffff_7fff_ffff_f000_u64 + (i << 12)).wrapping_add(i)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Notes of any value, in any mixture.
    #[test]
    fn any_notes(
        linux in any::<bool>(),
        changes in prop::collection::vec((1_u32..20, note_value()), 0..4),
        segment in (0_u64..0x400, 0_u64..0x400).prop_map(|(at, size)| (at << 12, size << 12)),
        nr_pages in 1000_u64..16384,
        initrd in 0_u64..0x20_0000,
    ) {
        let mut elf = if linux { Elf::linux() } else { Elf::small() };
        elf.segments.push((segment.0, Vec::new(), segment.1));
        for (kind, value) in changes {
            elf.set(kind, value);
        }
        run_all(&elf.file(), nr_pages, initrd);
    }

    /// Damage anywhere in a plain file.
    #[test]
    fn any_damage_to_elf(
        linux in any::<bool>(),
        damage in prop::collection::vec((0_usize..0x400, any::<u8>()), 0..12),
        tail in prop::collection::vec((0_usize..0x120, any::<u8>()), 0..6),
        cut in prop::option::of(0_usize..0x2800),
    ) {
        let mut file = if linux { Elf::linux() } else { Elf::small() }.file();
        let len = file.len();
        for (at, value) in damage {
            file[at] = value;
        }
        for (at, value) in tail {
            file[len - 1 - at] = value;
        }
        file.truncate(cut.unwrap_or(len));
        run_all(&file, 8192, 5000);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Damage anywhere in a compressed one.
    #[test]
    fn any_damage_to_an_image(
        which in 0_usize..5,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        header in prop::collection::vec((0_usize..64, any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let elf = Elf::small().file();
        let mut payload = COMPRESSORS[which].1(&elf);
        for (at, value) in damage {
            let at = at.index(payload.len());
            payload[at] = value;
        }
        for (at, value) in header {
            payload[at] = value;
        }
        if let Some(cut) = cut {
            payload.truncate(cut.index(payload.len()));
        }
        run_all(&payload, 8192, 0);
        run_all(&bzimage(&payload), 8192, 0);
    }
}

#[test]
fn errors_have_messages() {
    // Each names what was found; the formats hold no placeholder.
    let error = BuildError::TooSmall {
        needed: 1024,
        given: 512,
    };
    assert_eq!(
        format!("{error}"),
        "Dom0 has too little memory: 4096 KiB are needed at least, it has 2048 KiB (see dom0_mem=)"
    );
}
