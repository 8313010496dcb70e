#!/bin/bash
# Makes the Debian root file systems that tests boot from disk.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<END
usage: scripts/rootfs.sh [test | boot]

Makes build/cache/root-test.img, unless it is newer than this script, and prints
its name: an ext4 file system without partitions, label root, with a Debian 12 of
systemd, the tools that measure and stress disks and networks (fio, stress-ng,
iperf3, ethtool, git, ...), Xen's own tools (xl, xenstore-ls, ...), and modules for
the kernel of build/cache. Boot it with that kernel and scripts/initramfs.sh disk.

boot makes build/cache/root-boot.img from it: the same with a kernel, an initrd and a menu
of GRUB's, which PV GRUB boots in a guest.

root logs in without a password, and by itself on the console. With
init=/sbin/quick there is a shell at once, instead of systemd.

Needs root, or sudo: for file owners only, no device is made or mounted on the
machine.
END
}

case ${1:-test} in
--help | -h) usage; exit ;;
test | boot) VARIANT=${1:-test} ;;
*) usage >&2; exit 2 ;;
esac
OUTPUT=$CACHE/root-$VARIANT.img
if [ "$VARIANT" = boot ]; then
    root=$("$0" test)
    initrd=$("$ROOT/scripts/initramfs.sh" disk)
    if [ "$OUTPUT" -nt "$root" ] && [ "$OUTPUT" -nt "$initrd" ] && [ "$OUTPUT" -nt "$0" ]; then
        echo "$OUTPUT"
        exit
    fi
    menu=$(mktemp "$CACHE/menu.XXXXXX")
    trap 'rm -f "$menu"' EXIT
    cat >"$menu" <<'END'
linux /boot/vmlinuz root=/dev/xvda console=hvc0 quiet init=/sbin/quick
initrd /boot/initrd.img
boot
END
    cp --sparse=always "$root" "$OUTPUT.new"
    # Nothing is mounted for that.
    debugfs -w -f - "$OUTPUT.new" >/dev/null 2>&1 <<END
mkdir /boot/grub
write $KERNEL /boot/vmlinuz
write $initrd /boot/initrd.img
write $menu /boot/grub/grub.cfg
END
    [ "$(debugfs -R "cat /boot/grub/grub.cfg" "$OUTPUT.new" 2>/dev/null)" = "$(cat "$menu")" ] ||
        die "$OUTPUT cannot be made: debugfs (e2fsprogs) failed"
    mv "$OUTPUT.new" "$OUTPUT"
    echo "$OUTPUT"
    exit
fi
SIZE=2G # sparse
mkdir -p "$CACHE"
if [ "$OUTPUT" -nt "$ROOT/scripts/rootfs.sh" ] && [ "$OUTPUT" -nt "$KERNEL" ]; then
    echo "$OUTPUT"
    exit
fi
have mmdebstrap || die "mmdebstrap is missing: scripts/setup.sh --debian installs it"

WORK=$(mktemp -d "$CACHE/rootfs.XXXXXX")
trap 'as_root rm -rf "$WORK"' EXIT

packages=(systemd-sysv udev kmod util-linux e2fsprogs procps busybox-static
    iproute2 iputils-ping isc-dhcp-client ethtool bridge-utils netcat-openbsd
    fio stress-ng iperf3 git xenstore-utils xen-utils-4.17)

say "Building a Debian root with ${#packages[@]} packages and what they need (a minute or two)"
# quick: a shell on the console, quicker than systemd.
cat >"$WORK/quick" <<'END'
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=vt100
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
[ -e /dev/stdin ] || ln -s /proc/self/fd/0 /dev/stdin
[ ! -d /proc/xen ] || mount -t xenfs xenfs /proc/xen 2>/dev/null
ip link set lo up
hostname overcast
exec </dev/console >/dev/console 2>&1
cd /root
echo "quick: up"
for word in $(sed -n 's/.*\bexec=\([^ ]*\).*/\1/p' /proc/cmdline | tr , ' '); do
    /root/$word; echo "quick: $word ended with $?"
done
echo "quick: shell"
# A session of its own gives the shell the console as its terminal.
while :; do setsid -w -c bash --noediting -i; done
END
chmod 755 "$WORK/quick"
cat >"$WORK/autologin.conf" <<'END'
[Service]
ExecStart=
ExecStart=-/sbin/agetty -a root -o "-p -f -- \\u" --keep-baud 115200 %I vt220
END
# shellcheck disable=SC2016 # mmdebstrap's hooks expand $1 themselves.
as_root mmdebstrap --variant=minbase --include="$(IFS=,; echo "${packages[*]}")" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook='rm -rf "$1"/var/cache/apt/*.bin "$1"/var/lib/apt/lists/*' \
    --customize-hook='passwd --root "$1" -d root' \
    --customize-hook='echo overcast >"$1"/etc/hostname' \
    --customize-hook='echo "set enable-bracketed-paste off" >>"$1"/etc/inputrc' \
    --customize-hook='printf "127.0.0.1 localhost overcast\n" >"$1"/etc/hosts' \
    --customize-hook='printf "LABEL=root / ext4 errors=remount-ro 0 1\n" >"$1"/etc/fstab' \
    --customize-hook='mkdir -p "$1"/etc/systemd/system/serial-getty@.service.d' \
    --customize-hook="copy-in $WORK/autologin.conf /etc/systemd/system/serial-getty@.service.d" \
    --customize-hook="copy-in $WORK/quick /sbin" \
    bookworm "$WORK/root.tar"

mkdir "$WORK/root"
as_root tar -C "$WORK/root" -xf "$WORK/root.tar" --exclude='./dev/*'
rm "$WORK/root.tar"
# Modules of what a first layer or Xen offers, and of file systems; not the other 300 MB.
copy_modules "$WORK/root" tree drivers/block drivers/xen drivers/virtio drivers/nvme drivers/net/virtio_net.ko \
    drivers/net/xen-netfront.ko drivers/net/xen-netback drivers/net/tun.ko drivers/net/veth.ko net/core net/bridge net/llc net/802 \
    drivers/char/hw_random fs/ext4 fs/jbd2 fs/mbcache.ko fs/fat fs/nls fs/loop crypto lib arch/x86/crypto

rm -f "$OUTPUT.new"
truncate -s "$SIZE" "$OUTPUT.new"
# Time and numbers are fixed: the same packages give the same file.
as_root mke2fs -q -F -t ext4 -L root -U 4f766572-6361-7374-0000-000000000001 -m 1 \
    -E hash_seed=4f766572-6361-7374-0000-000000000002,lazy_itable_init=0,lazy_journal_init=0 \
    -d "$WORK/root" "$OUTPUT.new"
mv "$OUTPUT.new" "$OUTPUT"
echo "$OUTPUT"
