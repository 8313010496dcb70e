#!/bin/bash
# Makes the initial RAM disks that guests boot with.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<END
usage: scripts/initramfs.sh [VARIANT]

Makes build/cache/initramfs-VARIANT.cpio.gz, unless it is newer than its sources,
and prints its name.

  shell    busybox, and a shell on the console (default); with run=WORD,WORD on
           the kernel's command line it runs these words first: see scripts/init
  bench    the same with the microbenchmarks of qemu-tests/bench
  io       the shell's with drivers for Xen's and virtio disks and network devices, and what
           measures them (qemu-tests/io)
  store    the shell's with xenstore-utils, a program that asks xenstore questions
           (qemu-tests/store), and for real Xen xenstored; run=store runs all
  net      the same as shell with drivers for Xen's and virtio network devices, iperf3 and ethtool
  disk     for a root on a disk (scripts/rootfs.sh): drivers for Xen's, virtio and
           NVMe disks, e2fsck; see scripts/init-disk
  xl       Debian's xl with what it needs in Dom0, and a kernel and the shell's initramfs
           for its guests; see scripts/init-xl
  domains  the shell's with Xen's control devices, the `overcast` command, and a kernel and an
           initrd for guests in /guest (after scripts/build-agent.sh)
  levels   the same with what looks at CPUs from user space: Debian's cpuid, the dynamic loader,
           qemu-tests/levels
  nested   Linux's KVM for AMD and QEMU, to run a machine within a machine
  debian   a Debian 12 userland with systemd, gcc and stress-ng (as root; 150 MB)
END
}

case ${1:-shell} in
--help | -h) usage; exit ;;
shell | bench | io | net | store | xl | disk | domains | levels | nested | debian) VARIANT=${1:-shell} ;;
*) usage >&2; exit 2 ;;
esac
OUTPUT=$CACHE/initramfs-$VARIANT.cpio.gz
mkdir -p "$CACHE"

sources=("$ROOT/scripts/initramfs.sh" "$ROOT/scripts/init")
[ "$VARIANT" != disk ] || sources+=("$ROOT/scripts/init-disk" "$KERNEL")
[ "$VARIANT" != store ] || sources+=("$ROOT/qemu-tests/store/xs.c" "$ROOT/qemu-tests/store/store" "$KERNEL")
[ "$VARIANT" != xl ] || sources+=("$ROOT/scripts/init-xl" "$KERNEL")
[ "$VARIANT" != domains ] || sources+=("$ROOT/build/overcast-agent" "$ROOT/qemu-tests/hostile/hostile.c" "$KERNEL")
[ "$VARIANT" != levels ] || sources+=("$ROOT/build/overcast-agent" "$ROOT/qemu-tests/hostile/hostile.c" "$KERNEL" "$ROOT"/qemu-tests/levels/*.c)
[ "$VARIANT" != nested ] || sources+=("$ROOT/scripts/init-nested")
[ "$VARIANT" != net ] || sources+=("$KERNEL")
[ "$VARIANT" != bench ] || sources+=("$ROOT"/qemu-tests/bench/*.c)
[ "$VARIANT" != io ] || sources+=("$ROOT/qemu-tests/io/io.c" "$KERNEL")
fresh=1
for source in "${sources[@]}"; do [ "$OUTPUT" -nt "$source" ] || fresh=0; done
if [ $fresh = 1 ]; then echo "$OUTPUT"; exit; fi

# copy_program ROOT NAME: a program of this machine with its libraries.
copy_program() {
    local path
    path=$(PATH=$PATH:/usr/sbin:/sbin command -v "$2") || die "$2 is missing: scripts/setup.sh installs it"
    install -m755 "$path" "$1/bin/$2"
    ldd "$path" | grep -o '/[^ ]*' | while read -r library; do
        install -D "$library" "$1$library"
    done
}

WORK=$(mktemp -d "$CACHE/initramfs.XXXXXX")
trap 'rm -rf "$WORK"' EXIT
pack() { (cd "$WORK/root" && find . | cpio --quiet -o -H newc -R 0:0) | gzip -1 >"$OUTPUT.new"; mv "$OUTPUT.new" "$OUTPUT"; }

case $VARIANT in
shell | bench | io | net | store | domains | levels)
    mkdir -p "$WORK"/root/{bin,dev,proc,sys,tmp,root}
    cp /bin/busybox "$WORK/root/bin/"
    for applet in $(/bin/busybox --list | grep -vx busybox); do ln -sf busybox "$WORK/root/bin/$applet"; done
    install -m755 "$ROOT/scripts/init" "$WORK/root/init"
    # A source may ask for options of its own in a line "compile: ...".
    compile() { gcc -O2 -Wall -static $(sed -n 's/^ \* compile: //p' "$1") -o "$WORK/root/bin/$(basename "$1" .c)" "$1"; }
    if [ "$VARIANT" = bench ]; then
        for source in "$ROOT"/qemu-tests/bench/*.c; do compile "$source"; done
    fi
    if [ "$VARIANT" = io ]; then
        compile "$ROOT/qemu-tests/io/io.c"
        copy_modules "$WORK/root" needed xen-blkfront xen-netfront virtio_pci virtio_blk virtio_net
    fi
    if [ "$VARIANT" = store ]; then
        gcc -O2 -Wall -static -o "$WORK/root/bin/xs" "$ROOT/qemu-tests/store/xs.c"
        install -m755 "$ROOT/qemu-tests/store/store" "$WORK/root/bin/"
        mkdir -p "$WORK/root/lib" "$WORK/root/run/xenstored" "$WORK"/root/var/{lib,log,run}
        for package in $XENSTORE_PACKAGES; do
            cp "$CACHE/$package"/usr/bin/xenstore-[!c]* "$WORK/root/bin/" 2>/dev/null || true
            cp "$CACHE/$package"/usr/bin/xenstore-chmod "$WORK/root/bin/" 2>/dev/null || true
            for tool in xenstored xenstore-control test-xenstore; do
                cp --remove-destination "$CACHE/$package/usr/lib/xen-4.17/bin/$tool" "$WORK/root/bin/" 2>/dev/null || true
            done
            cp -a "$CACHE/$package"/usr/lib/x86_64-linux-gnu/lib*.so* "$WORK/root/lib/" 2>/dev/null || true
        done
        # The C library of this machine, which is not older than that of the tools.
        for library in libc.so.6 libz.so.1 libzstd.so.1 liblzma.so.5 libbz2.so.1.0 liblzo2.so.2; do
            cp -L "/lib/x86_64-linux-gnu/$library" "$WORK/root/lib/" 2>/dev/null || true
        done
        install -D /lib64/ld-linux-x86-64.so.2 "$WORK/root/lib64/ld-linux-x86-64.so.2"
        copy_modules "$WORK/root" needed xen-privcmd xen-evtchn xen-gntdev xenfs
    fi
    if [ "$VARIANT" = net ]; then
        for program in iperf3 ethtool; do copy_program "$WORK/root" $program; done
        copy_modules "$WORK/root" needed xen-netfront virtio_pci virtio_net
    fi
    if [ "$VARIANT" = levels ]; then
        gcc -O2 -Wall -static -o "$WORK/root/bin/levels" "$ROOT/qemu-tests/levels/levels.c"
        install -m755 "$CACHE/cpuid/usr/bin/cpuid" "$WORK/root/bin/"
        for library in /lib/x86_64-linux-gnu/libc.so.6 /lib64/ld-linux-x86-64.so.2; do
            install -D "$library" "$WORK/root$library"
        done
    fi
    if [ "$VARIANT" = domains ] || [ "$VARIANT" = levels ]; then
        # What a guest boots is the same, with its drivers.
        copy_modules "$WORK/root" needed xen-blkfront xen-netfront xen-evtchn xen-gntalloc
        compile "$ROOT/qemu-tests/hostile/hostile.c"
        mkdir "$WORK/guest"
        (cd "$WORK/root" && find . | cpio --quiet -o -H newc -R 0:0) | gzip -1 >"$WORK/guest/initrd"
        cp "$KERNEL" "$WORK/guest/vmlinuz"
        mv "$WORK/guest" "$WORK/root/"
        copy_modules "$WORK/root" needed xen-privcmd xen-evtchn xen-gntdev
        install -m755 "$ROOT/build/overcast-agent" "$WORK/root/bin/overcast"
    fi
    pack
    ;;
disk)
    mkdir -p "$WORK"/root/{bin,dev,proc,sys,tmp,root,etc}
    cp /bin/busybox "$WORK/root/bin/"
    for applet in $(/bin/busybox --list | grep -vx busybox); do ln -sf busybox "$WORK/root/bin/$applet"; done
    install -m755 "$ROOT/scripts/init-disk" "$WORK/root/init"
    copy_program "$WORK/root" e2fsck # busybox has none
    copy_modules "$WORK/root" needed xen-blkfront xen-netfront virtio_pci virtio_mmio virtio_blk virtio_net \
        nvme ext4 crc32c_generic
    pack
    ;;
xl)
    root=$WORK/root
    mkdir -p "$root"/{bin,boot,dev,proc,sys,run,tmp,root,etc,lib/xen,lib/modules,var/log,usr/lib/xen-4.17/bin}
    ln -s /run "$root/var/run"
    cp /bin/busybox "$root/bin/"
    for applet in $(/bin/busybox --list | grep -vx busybox); do ln -sf busybox "$root/bin/$applet"; done
    install -m755 "$ROOT/scripts/init-xl" "$root/init"
    for package in $XENSTORE_PACKAGES $XL_PACKAGES; do
        cp -a "$CACHE/$package"/usr/lib/x86_64-linux-gnu/lib*.so* "$root/lib/xen/" 2>/dev/null || true
        cp "$CACHE/$package"/usr/bin/xenstore-[!c]* "$root/bin/" 2>/dev/null || true
    done
    for tool in xl xen-init-dom0 xenconsoled xenconsole libxl-save-helper; do
        cp "$CACHE/xen-utils-4.17/usr/lib/xen-4.17/bin/$tool" "$root/usr/lib/xen-4.17/bin/"
    done
    # The rest is this machine's: the C library and what compresses.
    for tool in "$root"/usr/lib/xen-4.17/bin/*; do
        LD_LIBRARY_PATH=$root/lib/xen ldd "$tool" | grep -o '/[^ ]*' | grep -v "^$root" | while read -r library; do
            install -D "$library" "$root$library"
        done
    done
    # What the C library loads when a thread is cancelled.
    install -D /lib/x86_64-linux-gnu/libgcc_s.so.1 "$root/lib/x86_64-linux-gnu/libgcc_s.so.1"
    copy_modules "$root" needed xen-privcmd xen-evtchn xen-gntdev xen-gntalloc xenfs
    cp "$KERNEL" "$root/boot/vmlinuz"
    cp "$("$ROOT/scripts/initramfs.sh" shell)" "$root/boot/initramfs"
    pack
    ;;
nested)
    root=$WORK/root
    mkdir -p "$root"/{bin,dev,proc,sys,tmp,modules,share}
    cp /bin/busybox "$root/bin/"
    for applet in $(/bin/busybox --list | grep -vx busybox); do ln -sf busybox "$root/bin/$applet"; done
    install -m755 "$ROOT/scripts/init-nested" "$root/init"
    for module in irqbypass ccp kvm kvm-amd; do
        find "$CACHE"/linux-image-*/lib/modules -name "$module.ko" -exec cp {} "$root/modules/" \;
    done
    qemu=$(command -v qemu-system-x86_64)
    cp "$qemu" "$root/bin/"
    ldd "$qemu" | grep -o '/[^ ]*' | while read -r library; do
        install -D "$(readlink -f "$library")" "$root$library"
    done
    for file in bios-256k.bin kvmvapic.bin linuxboot_dma.bin multiboot_dma.bin multiboot.bin pvh.bin; do
        cp -L "$(find -L /usr/share/qemu /usr/share/seabios -name $file | head -1)" "$root/share/"
    done
    pack
    ;;
debian)
    have mmdebstrap || die "mmdebstrap is missing: scripts/setup.sh --debian installs it"
    say "Building a Debian userland (minutes)"
    as_root mmdebstrap --variant=minbase --include=systemd-sysv,udev,gcc,libc6-dev,stress-ng,util-linux,kmod \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook='rm -rf "$1"/var/cache/apt/*.bin "$1"/var/lib/apt/lists/*' \
        --customize-hook='ln -sf sbin/init "$1"/init' \
        --customize-hook='passwd --root "$1" -d root' \
        --customize-hook='echo overcast >"$1"/etc/hostname' \
        --customize-hook='mkdir -p "$1"/etc/systemd/system/serial-getty@.service.d' \
        --customize-hook='printf "[Service]\nExecStart=\nExecStart=-/sbin/agetty -a root -o \"-p -f -- \\\\\\\\u\" --keep-baud 115200 %%I vt220\n" >"$1"/etc/systemd/system/serial-getty@.service.d/autologin.conf' \
        bookworm "$WORK/debian.tar"
    mkdir "$WORK/root"
    as_root tar -C "$WORK/root" -xf "$WORK/debian.tar" --exclude='./dev/*'
    pack
    as_root rm -rf "$WORK/root"
    ;;
esac
echo "$OUTPUT"
