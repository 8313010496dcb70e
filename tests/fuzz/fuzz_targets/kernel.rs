//! Kernels: bzImage and ELF headers, decompression, notes, and the plan of memory.
//! The first bytes choose how large the domain is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overcast_core::builder::elf::Kernel;
use overcast_core::builder::image::KernelImage;
use overcast_core::builder::layout::{Layout, RingPages};

/// More than this is not unpacked: it would test the memory only.
const MOST: usize = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let Some((head, file)) = bytes.split_first_chunk::<4>() else {
        return;
    };
    let pages = u64::from(u32::from_le_bytes(*head) & 0x3f_ffff);
    let mut buffer = Vec::new();
    let elf = match KernelImage::parse(file) {
        Ok(image) if image.buffer_size() <= MOST => {
            buffer.resize(image.buffer_size(), 0);
            image.unpack(&mut buffer).unwrap_or(file)
        }
        _ => file,
    };
    let Ok(kernel) = Kernel::parse_guest(elf) else {
        return;
    };
    assert!(kernel.start <= kernel.end);
    for segment in &kernel.segments {
        assert!(segment.data.len() as u64 <= segment.size);
    }
    for (initrd, store) in [(0, false), (1, true), (5 << 20, true), (u64::MAX, false)] {
        let rings = RingPages {
            store,
            console: store,
        };
        if let Ok(layout) = Layout::with_rings(&kernel, pages, initrd, rings) {
            // Nothing lies beyond the domain's memory, or on top of another.
            let last = layout
                .pfn_of(layout.region.end - 1)
                .expect("the region is mapped");
            assert!(last.0 < pages.max(layout.nr_pages));
            assert!(layout.first_free_pfn.0 <= layout.nr_pages);
            assert!(
                layout.page_tables.start >= kernel.end || layout.page_tables.end <= kernel.start
            );
        }
    }
});
