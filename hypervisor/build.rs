//! Links the hypervisor with boot/'s linker script.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| ".".into());
    let script = format!("{here}/../boot/overcast.lds");
    println!("cargo:rerun-if-changed={script}");
    println!("cargo:rerun-if-changed={here}/../boot/headers.S");
    println!("cargo:rerun-if-changed={here}/../boot/entry.S");
    println!("cargo:rustc-link-arg-bins=-T{script}");
    // Position-independent code reaches the upper half under any code model,
    // but the image has one fixed address and must need no relocation.
    println!("cargo:rustc-link-arg-bins=--no-pie");
    println!("cargo:rustc-link-arg-bins=--no-eh-frame-hdr");
    println!("cargo:rustc-link-arg-bins=-zmax-page-size=4096");
    println!("cargo:rustc-link-arg-bins=-znognustack");
}
