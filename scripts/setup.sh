#!/bin/bash
# Gets what building, running and testing Overcast needs on Debian 12. May be run
# again at any time: it does only what is missing, and says what it does.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<END
usage: scripts/setup.sh [--check] [--debian] [--image] [--help]

Installs with apt: QEMU, Xen's public headers, a C compiler, busybox and tools to
make images. Adds the target x86_64-unknown-none to the Rust tool chain; without
rustup, installs it, or falls back to Debian's rustc-web. Downloads Debian's kernel
and Xen 4.17 into build/cache and unpacks them there; they are not installed.

  --check    change nothing; fail and name what is missing
  --debian   also what Debian userlands are made with (mmdebstrap)
  --image    also what the disk image for clouds is made and booted with
END
}

CHECK=0
PACKAGES="qemu-system-x86:qemu-system-x86_64 libxen-dev:/usr/include/xen/xen.h busybox-static:/bin/busybox
    cpio:cpio kmod:/sbin/depmod gcc:gcc libc6-dev:/usr/include/stdio.h xz-utils:xz zstd:zstd binutils:objcopy curl:curl
    ca-certificates:/etc/ssl/certs/ca-certificates.crt iperf3:iperf3 ethtool:/sbin/ethtool iproute2:/sbin/ip"
for argument; do
    case $argument in
    --check) CHECK=1 ;;
    --debian) PACKAGES="$PACKAGES mmdebstrap:mmdebstrap" ;;
    --image) PACKAGES="$PACKAGES mmdebstrap:mmdebstrap dosfstools:/sbin/mkfs.vfat mtools:mcopy fdisk:/sbin/sfdisk
        qemu-utils:qemu-img grub-pc-bin:/usr/lib/grub/i386-pc/boot.img grub-common:grub-mkimage
        grub-efi-amd64-bin:/usr/lib/grub/x86_64-efi/kernel.img ovmf:/usr/share/OVMF/OVMF_CODE_4M.fd
        openssh-client:ssh" ;;
    --help | -h) usage; exit ;;
    *) usage >&2; exit 2 ;;
    esac
done
missing() { [ "$CHECK" = 0 ] || die "missing: $*"; }

# What each package is for stands behind its name: a command, or a file.
packages() {
    local wanted=() entry what
    for entry in $PACKAGES; do
        what=${entry#*:}
        case $what in
        /*) [ -e "$what" ] || wanted+=("${entry%%:*}") ;;
        *) have "$what" || wanted+=("${entry%%:*}") ;;
        esac
    done
    [ ${#wanted[@]} -gt 0 ] || return 0
    missing "packages ${wanted[*]}"
    have apt-get || die "no apt-get here: please install what Debian calls ${wanted[*]}"
    say "Installing ${wanted[*]}"
    apt_update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${wanted[@]}"
}

apt_update() {
    [ -z "${UPDATED:-}" ] || return 0
    say "Updating the lists of packages"
    as_root apt-get update -q
    UPDATED=1
}

# Whether the compiler in use can build for the target, by its library or from source.
target_works() {
    have cargo && have rustc || return 1
    [ -n "${CARGO_UNSTABLE_BUILD_STD:-}" ] && return 0
    (cd "$ROOT" && [ -d "$(rustc --print target-libdir --target x86_64-unknown-none 2>/dev/null)" ])
}

toolchain() {
    target_works && return 0
    missing "a Rust tool chain with the target x86_64-unknown-none"
    if ! have rustup && ! have cargo; then
        say "Installing rustup"
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
            sh -s -- -y --profile minimal --default-toolchain none || say "rustup cannot be installed"
        PATH=$HOME/.cargo/bin:$PATH
    fi
    if have rustup; then
        say "Adding the tool chain of rust-toolchain.toml and its target"
        (
            cd "$ROOT"
            rustup show active-toolchain >/dev/null 2>&1 || rustup toolchain install stable --profile minimal
            rustup target add x86_64-unknown-none
            rustup component add rustfmt clippy rust-src || true
        ) || say "rustup cannot add them"
    fi
    target_works && return 0
    debian_toolchain
}

# Debian's own newer compiler has no library for the target: core and alloc are
# then built from source, and GNU ld links.
debian_toolchain() {
    say "Falling back to Debian's rustc-web, which builds core and alloc from source"
    apt_update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        rustc-web cargo-web rust-web-src binutils
    mkdir -p "$BUILD"
    cat >"$BUILD/toolchain.env" <<'END'
RUSTC_BOOTSTRAP=1
CARGO_UNSTABLE_BUILD_STD=core,alloc
CARGO_TARGET_X86_64_UNKNOWN_NONE_RUSTFLAGS="-C linker-flavor=ld -C linker=ld"
END
    set -a; . "$BUILD/toolchain.env"; set +a
    target_works || die "no Rust tool chain can be had; see https://rustup.rs"
}

# download PACKAGE: unpacks a package under build/cache/PACKAGE.
download() {
    local package=$1 directory=$CACHE/$1
    [ ! -f "$directory/.complete" ] || return 0
    missing "$package in build/cache"
    say "Downloading $package (unpacked under build/cache, not installed)"
    apt_update
    rm -rf "$directory"
    mkdir -p "$directory/deb"
    (
        # apt's unprivileged downloader cannot write here.
        cd "$directory/deb"
        apt-get -o APT::Sandbox::User=root download -q "$package"
        dpkg -x ./*.deb "$directory"
    )
    rm -rf "$directory/deb"
    touch "$directory/.complete"
}

kernel() {
    [ ! -f "$KERNEL" ] || return 0
    missing "Debian's kernel"
    apt_update
    # linux-image-amd64 only names the package of the current version.
    local package
    package=$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
    [ -n "$package" ] || die "apt knows no linux-image-amd64"
    download "$package"
    cp "$CACHE/$package"/boot/vmlinuz-* "$KERNEL.new"
    mv "$KERNEL.new" "$KERNEL"
}

xen() {
    [ ! -f "$XEN" ] || return 0
    missing "Debian's Xen"
    download xen-hypervisor-4.17-amd64
    gunzip -c "$CACHE"/xen-hypervisor-4.17-amd64/boot/xen-4.17-amd64.gz >"$XEN.new"
    mv "$XEN.new" "$XEN"
}

# Xen's own server of xenstore and its clients, which answer the same questions as ours; and xl.
xenstore() {
    local package
    for package in $XENSTORE_PACKAGES $XL_PACKAGES; do download "$package"; done
}

# GRUB as the kernel of a PV guest, which boots what is on the guest's disk.
pv_grub() {
    [ ! -f "$PV_GRUB" ] || return 0
    missing "PV GRUB"
    download grub-xen-host
    cp "$CACHE/grub-xen-host/usr/lib/grub-xen/grub-x86_64-xen.bin" "$PV_GRUB"
}

mkdir -p "$CACHE"
packages
toolchain
kernel
xen
xenstore
pv_grub
download cpuid
say "All that is needed is here"
