use super::*;
use proptest::prelude::*;
use std::string::ToString;
use std::vec::Vec;

fn ok(line: &str) -> Options {
    let (options, diagnostics) = parse(line.as_bytes());
    assert_eq!(diagnostics, Vec::new(), "{line}");
    options
}

fn one(line: &str) -> Diagnostic {
    let (_, mut diagnostics) = parse(line.as_bytes());
    assert_eq!(diagnostics.len(), 1, "{line}: {diagnostics:?}");
    diagnostics.remove(0)
}

#[test]
fn a_usual_line() {
    let options =
        ok("console=com1 dom0_mem=512M dom0_max_vcpus=2 loglvl=all noreboot cpuid=no-avx,xsave=0");
    assert_eq!(options.console, [Console::Com1]);
    assert_eq!(options.dom0_mem.resolve(1 << 20), (131_072, u64::MAX));
    assert_eq!(options.dom0_vcpus(8), 2);
    assert_eq!(options.loglvl.always, LogLevel::Debug);
    assert!(options.noreboot);
    let names: Vec<_> = options
        .cpuid
        .iter()
        .map(|f| (f.name.as_str(), f.enable))
        .collect();
    assert_eq!(names, [("avx", false), ("xsave", false)]);
    // One that there is not is complained of; the others count.
    let (options, said) = parse(b"cpuid=no-avx,no-axv,sse4.1=no");
    assert_eq!((options.cpuid.len(), said.len()), (2, 1), "{said:?}");
}

#[test]
fn booleans() {
    for (line, expected) in [
        ("noreboot", true),
        ("no-noreboot", false),
        ("noreboot=yes", true),
        ("noreboot=on", true),
        ("noreboot=true", true),
        ("noreboot=enable", true),
        ("noreboot=1", true),
        ("noreboot noreboot=no", false),
        ("noreboot noreboot=off", false),
        ("noreboot noreboot=false", false),
        ("noreboot noreboot=disable", false),
        ("noreboot noreboot=0", false),
        ("no-noreboot=0", true),
    ] {
        assert_eq!(ok(line).noreboot, expected, "{line}");
    }
    assert!(!ok("no-smap").smap);
    assert!(!ok("smap=hvm").smap);
    assert!(!ok("x2apic=off").x2apic);
    assert!(ok("pcid=xpti").pcid);
    assert!(ok("watchdog=force").watchdog);
    assert_eq!(one("noreboot=maybe").severity, Severity::Error);
    assert_eq!(one("no-smap=hvm").severity, Severity::Error);
}

#[test]
fn memory_of_dom0() {
    let gib = 1 << 18;
    let pages = |line: &str| ok(line).dom0_mem.resolve(4 * gib);
    assert_eq!(pages("").0, 4 * gib - (128 << 8));
    assert_eq!(pages("dom0_mem=1G"), (gib, u64::MAX));
    assert_eq!(pages("dom0_mem=1048576"), (gib, u64::MAX));
    assert_eq!(pages("dom0_mem=-1g").0, 3 * gib);
    assert_eq!(pages("dom0_mem=25%").0, gib);
    assert_eq!(pages("dom0_mem=1G+25%").0, 2 * gib);
    assert_eq!(pages("dom0_mem=512M,max:1G"), (gib / 2, gib));
    assert_eq!(pages("dom0_mem=min:2G,max:1G,512M"), (gib, gib));
    assert_eq!(pages("dom0_mem=min:2G,512M").0, 2 * gib);
    assert_eq!(pages("dom0_mem=max:1G"), (gib, gib));
    assert_eq!(pages("dom0_mem=100T").0, 4 * gib);
    for bad in [
        "dom0_mem",
        "dom0_mem=",
        "dom0_mem=1Q",
        "dom0_mem=x",
        "dom0_mem=1G,",
        "dom0_mem=100%",
        "dom0_mem=1%+1G",
        "dom0_mem=99999999999999T",
        "no-dom0_mem",
    ] {
        let said = one(bad);
        assert_eq!(said.severity, Severity::Error, "{bad}");
        assert!(said.message.contains("dom0_mem=[min:<size>"), "{bad}");
    }
}

#[test]
fn vcpus_and_cpus() {
    for (line, cpus, expected) in [
        ("", 4, 4),
        ("dom0_max_vcpus=4-8", 2, 4),
        ("dom0_max_vcpus=4-8", 6, 6),
        ("dom0_max_vcpus=4-8", 10, 8),
        ("dom0_max_vcpus=-2", 10, 2),
        ("dom0_max_vcpus=3-", 1, 3),
        ("dom0_max_vcpus=0", 4, 1),
    ] {
        assert_eq!(ok(line).dom0_vcpus(cpus), expected, "{line}");
    }
    one("dom0_max_vcpus=-");
    assert_eq!(ok("nosmp").cpus_to_start(8), 1);
    assert_eq!(ok("maxcpus=3").cpus_to_start(8), 3);
    assert_eq!(ok("maxcpus=0").cpus_to_start(8), 1);
}

#[test]
fn serial_ports() {
    let port = ok("com1=9600,7e2,0x2e8,5").com1;
    assert_eq!(
        (
            port.baud,
            port.data_bits,
            port.parity,
            port.stop_bits,
            port.io_base,
            port.irq
        ),
        (Some(9600), 7, Parity::Even, 2, 0x2e8, 5)
    );
    assert_eq!(ok("com1=auto").com1.baud, None);
    assert_eq!(ok("com2=,,0x3e8").com2.io_base, 0x3e8);
    assert_eq!(ok("com1=115200/14745600").com1.clock_hz, 14_745_600);
    for bad in [
        "com1=fast",
        "com1=1,9n1",
        "com1=1,8x1",
        "com1=1,8n1,0x10000",
        "com1=1,8n1,0,0,1",
        "com1=0",
    ] {
        assert_eq!(one(bad).severity, Severity::Error, "{bad}");
    }
    assert_eq!(ok("console=vga").console, []);
    assert_eq!(
        ok("console=com2,vga,com1").console,
        [Console::Com2, Console::Com1]
    );
    one("console=com9");
}

#[test]
fn what_is_not_known_is_named() {
    let said = one("frobnicate=1");
    assert_eq!(said.severity, Severity::Warning);
    assert!(said.message.contains("\"frobnicate\""));
    assert_eq!(one("iommu=off").severity, Severity::Info);
    assert_eq!(one("no-real-mode").severity, Severity::Info);
    assert_eq!(one("no-frob").severity, Severity::Warning);
    assert_eq!(one("sched=rtds").severity, Severity::Error);
}

#[test]
fn the_rest_is_for_dom0() {
    let options = ok("noreboot -- root=/dev/xvda  quiet ");
    assert_eq!(options.dom0_extra, "root=/dev/xvda  quiet");
    assert_eq!(
        ok("loglvl=error/info").loglvl,
        LogThreshold {
            always: LogLevel::Error,
            limited: LogLevel::Info
        }
    );
    assert_eq!(ok("loglvl=info/error").loglvl.limited, LogLevel::Info);
    assert!(ok("noreboot\0garbage").noreboot);
    assert_eq!(ok("conswitch=Bx").conswitch, b'b');
    assert!(!ok("conswitch=ax").conswitch_to_dom0);
    assert!(ok("reboot=no").noreboot);
    assert!(ok("reboot=n,warm").noreboot);
    assert_eq!(ok("reboot=acpi").reboot, RebootMethod::Acpi);
}

#[test]
fn image_names() {
    assert_eq!(strip_image_name(b" /boot/xen.gz a b", None), b"a b");
    assert_eq!(strip_image_name(b"/boot/xen.gz", Some(b"qemu")), b"");
    assert_eq!(strip_image_name(b"a b", Some(b"GRUB 2.06-13")), b"a b");
    assert_eq!(strip_image_name(b"x a b", Some(b"GNU GRUB 0.97")), b"a b");
}

#[test]
fn the_table_is_in_order() {
    let names: Vec<_> = TABLE.iter().map(|spec| spec.name.to_string()).collect();
    let mut sorted = names.clone();
    sorted.sort_by_key(|name| name.replace('-', "\u{1}"));
    sorted.dedup();
    assert_eq!(names.len(), sorted.len(), "an option stands twice");
    for spec in TABLE {
        assert!(!IGNORED.contains(&spec.name), "{}", spec.name);
        assert!(document().contains(&std::format!("### {}\n", spec.name)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn any_bytes(line in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = parse(&line);
        let _ = strip_image_name(&line, Some(&line));
    }

    #[test]
    fn any_values(
        words in prop::collection::vec((0..TABLE.len(), any::<bool>(), "[-a-z0-9,=:%+./xX]{0,12}|[0-9]{1,25}[KMGTb%]?"), 0..6),
    ) {
        let mut line = String::new();
        for (at, no, value) in &words {
            line += &format!(" {}{}={value}", if *no { "no-" } else { "" }, TABLE[*at].name);
        }
        let (options, diagnostics) = parse(line.as_bytes());
        prop_assert!(diagnostics.len() <= words.len());
        let _ = (options.dom0_mem.resolve(u64::MAX), options.dom0_vcpus(0), options.cpus_to_start(0));
    }
}
