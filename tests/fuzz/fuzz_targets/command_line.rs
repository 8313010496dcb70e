//! The hypervisor's command line, and what is made of its options.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overcast_core::cmdline;

fuzz_target!(|bytes: &[u8]| {
    let (first, line) = bytes.split_first().map_or((0, bytes), |(f, l)| (*f, l));
    let loader = (first & 1 != 0).then_some(&b"GRUB 2.06"[..]);
    let (options, diagnostics) = cmdline::parse(cmdline::strip_image_name(line, loader));
    assert!(diagnostics.len() <= line.len());
    for available in [0, 1 << 20, 1 << 30, 1 << 46, u64::MAX] {
        let _ = options.dom0_mem.resolve(available);
    }
    for cpus in [1, 2, 255, u32::MAX] {
        let vcpus = options.dom0_vcpus(cpus);
        assert!(vcpus >= 1);
        let _ = options.cpus_to_start(cpus);
    }
});
