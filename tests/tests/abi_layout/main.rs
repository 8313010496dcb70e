//! Compares `xen-abi` with the public headers of Xen (Debian's `libxen-dev`): a
//! C program prints the size of every structure, offset and size of every field
//! and value of every constant as the C compiler sees them.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::process::Command;
use xen_abi::*;

/// A structure of ours, and what C calls it.
pub struct Structure {
    rust: &'static str,
    c: &'static str,
    size: usize,
    align: usize,
    fields: &'static [Field],
}

/// A field of a structure.
pub struct Field {
    c: &'static str,
    offset: usize,
    size: usize,
}

/// A constant of ours, and what C calls it.
pub struct Constant {
    rust: &'static str,
    c: &'static str,
    value: i128,
}

const fn size_of_field<T, F>(_: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

macro_rules! structure {
    ($module:ident::$name:ident, $c:literal, {$($field:ident: $c_field:literal),*}) => {
        Structure {
            rust: concat!(stringify!($module), "::", stringify!($name)),
            c: $c,
            size: size_of::<$module::$name>(),
            align: align_of::<$module::$name>(),
            fields: &[$(Field {
                c: $c_field,
                offset: core::mem::offset_of!($module::$name, $field),
                size: size_of_field::<$module::$name, _>(|s| &s.$field),
            }),*],
        }
    };
}

macro_rules! constant {
    ($module:ident::$name:ident, $c:literal) => {
        Constant {
            rust: concat!(stringify!($module), "::", stringify!($name)),
            c: $c,
            value: $module::$name as i128,
        }
    };
}

include!("items.rs");

/// The headers, in an order in which they compile.
const HEADERS: &[&str] = &[
    "xen.h",
    "event_channel.h",
    "grant_table.h",
    "memory.h",
    "sched.h",
    "vcpu.h",
    "callback.h",
    "version.h",
    "features.h",
    "nmi.h",
    "hypfs.h",
    "elfnote.h",
    "physdev.h",
    "platform.h",
    "domctl.h",
    "sysctl.h",
    "arch-x86/cpuid.h",
    "arch-x86/xen-mca.h",
    "arch-x86/hvm/start_info.h",
    "hvm/params.h",
    "hvm/hvm_op.h",
    "pmu.h",
    "arch-x86/pmu.h",
    "kexec.h",
    "io/blkif.h",
    "io/console.h",
    "io/netif.h",
    "io/xs_wire.h",
    "io/xenbus.h",
];

/// Compiles and runs a C program, and returns what it prints.
fn run_c(name: &str, source: &str) -> String {
    let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (c, program) = (directory.join(format!("{name}.c")), directory.join(name));
    std::fs::write(&c, source).unwrap();
    let status = Command::new("gcc")
        .args(["-w", "-O0", "-o"])
        .arg(&program)
        .arg(&c)
        .status()
        .expect("gcc cannot be run: scripts/setup.sh installs it");
    assert!(
        status.success(),
        "the C program does not compile: is libxen-dev installed (scripts/setup.sh)?"
    );
    String::from_utf8(Command::new(&program).output().unwrap().stdout).unwrap()
}

fn prelude() -> String {
    let mut source = String::from(
        "#include <stdint.h>\n#include <stddef.h>\n#include <stdio.h>\n#define __XEN_TOOLS__ 1\n",
    );
    for header in HEADERS {
        writeln!(source, "#include <xen/{header}>").unwrap();
    }
    source.push_str(
        "#define N(k, v) printf(\"%s %lld\\n\", k, (long long)(v));\n\
         #define V(k, v) printf((__typeof__(v))-1 < 0 ? \"%s %lld\\n\" : \"%s %llu\\n\", k, (long long)(v));\n\
         int main(void) {\n",
    );
    source
}

fn parse(text: &str) -> HashMap<String, i128> {
    text.lines()
        .map(|line| {
            let (key, value) = line.rsplit_once(' ').unwrap();
            (key.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[test]
fn structures_match_the_c_headers() {
    let mut source = prelude();
    for s in STRUCTURES {
        let (rust, c) = (s.rust, s.c);
        writeln!(source, "N(\"{rust}\", sizeof({c}))").unwrap();
        writeln!(source, "N(\"{rust}@align\", _Alignof(__typeof__({c})))").unwrap();
        for f in s.fields {
            let field = f.c;
            writeln!(
                source,
                "N(\"{rust}.{field}\", (char *)&{c}.{field} - (char *)&{c})"
            )
            .unwrap();
            // An array of open length has no size in C.
            if f.size != 0 {
                writeln!(source, "N(\"{rust}.{field}@size\", sizeof({c}.{field}))").unwrap();
            }
        }
    }
    source.push_str("return 0; }\n");
    let c = parse(&run_c("structures", &source));

    let mut wrong = Vec::new();
    let mut check = |key: String, ours: usize| {
        let theirs = c[&key];
        if theirs != ours as i128 {
            wrong.push(format!("{key}: {ours}, but {theirs} in C"));
        }
    };
    for s in STRUCTURES {
        check(s.rust.to_owned(), s.size);
        check(format!("{}@align", s.rust), s.align);
        for f in s.fields {
            check(format!("{}.{}", s.rust, f.c), f.offset);
            if f.size != 0 {
                check(format!("{}.{}@size", s.rust, f.c), f.size);
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn constants_match_the_c_headers() {
    let mut source = prelude();
    for constant in CONSTANTS {
        writeln!(source, "V(\"{0}\", {0})", constant.c).unwrap();
    }
    source.push_str("return 0; }\n");
    let c = parse(&run_c("constants", &source));
    let wrong: Vec<_> = CONSTANTS
        .iter()
        .filter(|constant| {
            let theirs = c[constant.c];
            // A flag in the sign bit of an `int` is the same bits.
            theirs != constant.value && theirs as u32 as i128 != constant.value
        })
        .map(|constant| {
            let (rust, ours, theirs) = (constant.rust, constant.value, c[constant.c]);
            format!("{rust}: {ours:#x}, but {theirs:#x} in C")
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn cpu_features_match_the_c_header() {
    let source = "#include <stdio.h>\n\
        #define XEN_CPUFEATURE(name, value) printf(\"%s %d\\n\", #name, (value));\n\
        int main(void) {\n#include <xen/arch-x86/cpufeatureset.h>\nreturn 0; }\n";
    let c = parse(&run_c("features", source));
    let ours: HashMap<_, _> = cpufeatureset::FEATURES
        .iter()
        .map(|f| (f.name.to_owned(), f.number as i128))
        .collect();
    assert_eq!(ours, c);
    assert!(cpufeatureset::FEATURES.is_sorted_by_key(|f| f.number));
    assert!(
        c.values()
            .all(|&n| n < cpufeatureset::FEATURESET_WORDS as i128 * 32)
    );
}

#[test]
fn errnos_match_the_c_header() {
    // `__XEN__` shows the numbers that no guest gets to see.
    let source = "#include <stdio.h>\n#define __XEN__ 1\n\
        #define XEN_ERRNO(name, value) printf(\"%s %d\\n\", #name, (value));\n\
        int main(void) {\n#include <xen/errno.h>\nreturn 0; }\n";
    let c = parse(&run_c("errnos", source));
    assert!(!c.is_empty());
    for (name, ours) in errno::ALL {
        assert_eq!(c.get(*name), Some(&(*ours as i128)), "{name}");
    }
    assert_eq!(c.len(), errno::ALL.len());
}
