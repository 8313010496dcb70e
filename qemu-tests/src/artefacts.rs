//! The files that a machine boots from, and where logs go.

use std::path::{Path, PathBuf};

/// The root of the source tree.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(Path::to_path_buf)
        .unwrap_or_default()
}

fn existing(path: PathBuf, made_by: &str) -> Result<PathBuf, String> {
    if path.is_file() {
        Ok(path)
    } else {
        Err(format!("{} is not there: {made_by}", path.display()))
    }
}

/// Our image, which QEMU's `-kernel` takes.
pub fn overcast() -> Result<PathBuf, String> {
    if let Some(image) = std::env::var_os("OVERCAST_IMAGE") {
        return existing(image.into(), "OVERCAST_IMAGE names it");
    }
    existing(root().join("build/overcast"), "scripts/build.sh builds it")
}

/// Debian's Xen 4.17, uncompressed.
pub fn xen() -> Result<PathBuf, String> {
    existing(root().join("build/cache/xen"), "scripts/setup.sh gets it")
}

/// Debian's kernel as shipped.
pub fn kernel() -> Result<PathBuf, String> {
    existing(
        root().join("build/cache/vmlinuz"),
        "scripts/setup.sh gets it",
    )
}

/// The initial RAM disk of a variant that `scripts/initramfs.sh` knows.
pub fn initramfs(variant: &str) -> Result<PathBuf, String> {
    existing(
        root().join(format!("build/cache/initramfs-{variant}.cpio.gz")),
        &format!("scripts/initramfs.sh {variant} makes it"),
    )
}

/// The Debian root on a disk that `scripts/rootfs.sh` makes. Machines share it, so
/// they must not write to it: QEMU's `snapshot=on`.
pub fn root_disk() -> Result<PathBuf, String> {
    existing(
        root().join("build/cache/root-test.img"),
        "scripts/rootfs.sh makes it",
    )
}

/// The same that PV GRUB boots.
pub fn boot_disk() -> Result<PathBuf, String> {
    existing(
        root().join("build/cache/root-boot.img"),
        "scripts/rootfs.sh boot makes it",
    )
}

/// The disk image for clouds. Machines share it, as they do [`root_disk`].
pub fn image() -> Result<PathBuf, String> {
    existing(
        root().join("build/overcast-image.raw"),
        "scripts/image.sh makes it",
    )
}

/// OVMF: UEFI in two flash memories, the code and its variables.
pub fn ovmf() -> Result<[PathBuf; 2], String> {
    let file = |name: &str| {
        let path = Path::new("/usr/share/OVMF").join(name);
        existing(path, "Debian's package ovmf has it")
    };
    Ok([file("OVMF_CODE_4M.fd")?, file("OVMF_VARS_4M.fd")?])
}

/// The PV kernel that asks questions.
pub fn probe() -> Result<PathBuf, String> {
    existing(
        root().join("build/probe"),
        "qemu-tests/pv/build.sh builds it",
    )
}

/// A file of the given content under `build/tests`, for tests of bad input.
pub fn made(name: &str, content: &[u8]) -> Result<PathBuf, String> {
    let directory = root().join("build/tests");
    let path = directory.join(name);
    std::fs::create_dir_all(&directory)
        .and_then(|()| std::fs::write(&path, content))
        .map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    Ok(path)
}

/// A script of the source tree.
pub fn script(name: &str) -> Result<PathBuf, String> {
    existing(
        root().join("scripts").join(name),
        "it is in the source tree",
    )
}

/// Where the log of a test goes.
pub fn log(name: &str) -> Result<PathBuf, String> {
    let directory = root().join("build/logs");
    std::fs::create_dir_all(&directory)
        .map_err(|e| format!("cannot make {}: {e}", directory.display()))?;
    Ok(directory.join(format!("{name}.log")))
}
