#!/bin/bash
# Makes the disk image for clouds: GRUB, Overcast, and a Debian for Dom0.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

SIZE=2G OUTPUT=$BUILD/overcast-image PASSWORD= KEY= PACKAGES= QCOW2=1

usage() {
    cat <<END
usage: scripts/image.sh [OPTION]...

Makes $OUTPUT.raw and .qcow2: a disk with a GUID partition table
that boots by BIOS and by UEFI into Overcast, with Debian 12 on its third partition
for Dom0: ssh server, DHCP on eth0, console on the serial port. At its first boot it
takes its name and ssh keys from the cloud (or from a disk labelled cidata or
config-2) and grows to the size of the disk.

  --output NAME      name of the files without .raw and .qcow2
  --size SIZE        size of the disk as it is made          [$SIZE, sparse]
  --packages A,B     more Debian packages
  --ssh-key FILE     these public keys may log in as root wherever it runs
  --password WORD    root's password on the console          [none: no login there]
  --raw-only         no qcow2
  --help             this text

Needs root, or sudo: for file owners and to unpack Debian in a chroot. No device is
made or mounted on the machine. scripts/run.sh --image boots the result.
END
}

while [ $# -gt 0 ]; do
    value() { [ $# -ge 2 ] || die "$1 needs a value; see --help"; }
    case $1 in
    --output) value "$@"; OUTPUT=$2; shift ;;
    --size) value "$@"; SIZE=$2; shift ;;
    --packages) value "$@"; PACKAGES=,$2; shift ;;
    --ssh-key) value "$@"; KEY=$(realpath "$2"); [ -r "$KEY" ] || die "cannot read $KEY"; shift ;;
    --password) value "$@"; PASSWORD=$2; shift ;;
    --raw-only) QCOW2=0 ;;
    --help | -h) usage; exit ;;
    *) usage >&2; exit 2 ;;
    esac
    shift
done

"$ROOT/scripts/setup.sh" --image
cd "$ROOT"
PATH=$PATH:/usr/sbin:/sbin
"$ROOT/scripts/build.sh"
"$ROOT/scripts/build-agent.sh"

mkdir -p "$CACHE"
WORK=$(mktemp -d "$CACHE/image.XXXXXX")
trap 'as_root rm -rf "$WORK"' EXIT

# --- Debian -------------------------------------------------------------------
# The whole of it is kept: what is ours is added below and changes more often.
packages=systemd-sysv,udev,dbus,systemd-resolved,systemd-timesyncd,linux-image-amd64,initramfs-tools,zstd
packages=$packages,openssh-server,iproute2,iputils-ping,e2fsprogs,fdisk,kmod,procps,less,nano,ca-certificates,xenstore-utils$PACKAGES
# Dom0 has no hardware of its own; these are most of a kernel's size.
excluded=(sound drivers/{gpu,media,staging,infiniband,iio,isdn,bluetooth,leds,mtd,usb/{gadget,serial,misc,atm}}
    drivers/net/{wireless,can,wan,ieee802154,arcnet,hamradio} net/{mac80211,wireless,bluetooth,nfc,can})
options=(path-exclude='/usr/share/doc/*' path-include='/usr/share/doc/*/copyright'
    path-exclude='/usr/share/man/*' path-exclude='/usr/share/locale/*')
for directory in "${excluded[@]}"; do options+=("path-exclude=/lib/modules/*/kernel/$directory/*"); done

debian=$CACHE/image-$(echo "$packages ${options[*]}" | sha256sum | cut -c 1-12).tar
if [ ! -f "$debian" ]; then
    say "Unpacking Debian for Dom0 (minutes)"
    as_root mmdebstrap --variant=minbase --include="$packages" "${options[@]/#/--dpkgopt=}" \
        --customize-hook='rm -rf "$1"/var/cache/apt/*.bin "$1"/var/lib/apt/lists/* "$1"/etc/ssh/ssh_host_*' \
        --customize-hook='chroot "$1" systemctl --quiet enable systemd-networkd systemd-resolved ssh' \
        --customize-hook='chroot "$1" passwd --quiet --lock root' \
        --customize-hook=': >"$1"/etc/machine-id' \
        bookworm "$WORK/debian.tar"
    mv "$WORK/debian.tar" "$debian"
fi

say "Making the root file system"
root=$WORK/root
uuid=$(cat /proc/sys/kernel/random/uuid)
as_root mkdir "$root"
as_root tar -C "$root" -xf "$debian" --exclude='./dev/*'
as_root cp -r --no-preserve=all boot/image/root/. "$root/"
as_root install -m755 build/overcast-agent "$root/usr/bin/overcast"
as_root install -D -m644 build/agent/overcast.8 "$root/usr/share/man/man8/overcast.8"
as_root install -D -m644 build/agent/overcast.bash "$root/usr/share/bash-completion/completions/overcast"
as_root install -m644 build/overcast "$root/boot/overcast"
as_root mkdir -p "$root/boot/grub" "$root/boot/efi"
sed "s/@UUID@/$uuid/" boot/image/grub.cfg | as_root tee "$root/boot/grub/grub.cfg" >/dev/null
as_root tee "$root/etc/fstab" >/dev/null <<END
UUID=$uuid / ext4 errors=remount-ro,x-systemd.growfs 0 1
LABEL=OVERCASTEFI /boot/efi vfat umask=0077,noauto 0 2
END
echo overcast | as_root tee "$root/etc/hostname" >/dev/null
printf '127.0.0.1 localhost\n127.0.1.1 overcast\n::1 localhost ip6-localhost\n' | as_root tee "$root/etc/hosts" >/dev/null
as_root ln -sf /run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
for unit in overcast-first-boot overcast-ssh-keys overcast-daemon; do
    as_root ln -s "/etc/systemd/system/$unit.service" "$root/etc/systemd/system/multi-user.target.wants/"
done
[ -z "$KEY" ] || as_root install -D -m600 "$KEY" "$root/root/.ssh/authorized_keys"
[ -z "$PASSWORD" ] || echo "root:$PASSWORD" | as_root chroot "$root" chpasswd
for file in vmlinuz initrd.img; do
    as_root test -s "$root/$file" || die "Debian's kernel package left no /$file"
done

# --- partitions, in sectors of 512 bytes ---------------------------------------
core_start=2048 core_size=2048          # GRUB for BIOS
esp_start=4096 esp_size=32768           # GRUB for UEFI
root_start=36864
total=$(($(numfmt --from=iec "$SIZE") / 512 / 2048 * 2048))
root_size=$((total - root_start - 2048)) # the last MiB holds the table's copy
[ $root_size -gt 0 ] || die "--size $SIZE is too small"

truncate -s $((root_size * 512)) "$WORK/root.img"
as_root mke2fs -q -F -t ext4 -L overcast -U "$uuid" -m 1 -E lazy_itable_init=0,lazy_journal_init=0 \
    -d "$root" "$WORK/root.img" || die "does Debian not fit? see --size"
as_root rm -rf "$root"

say "Making GRUB"
modules="part_gpt ext2 normal configfile search search_fs_uuid linux multiboot2 gzio serial terminal echo test ls cat
    sleep reboot halt help boot minicmd"
echo "search.fs_uuid $uuid root
set prefix=(\$root)/boot/grub" >"$WORK/early.cfg"
grub-mkimage -O x86_64-efi -o "$WORK/BOOTX64.EFI" -p /boot/grub -c "$WORK/early.cfg" $modules fat efi_gop
grub-mkimage -O i386-pc -o "$WORK/core.img" -p /boot/grub -c "$WORK/early.cfg" $modules biosdisk
[ "$(wc -c <"$WORK/core.img")" -le $((core_size * 512)) ] || die "GRUB does not fit into its partition"

truncate -s $((esp_size * 512)) "$WORK/esp.img"
mkfs.vfat -F 16 -n OVERCASTEFI "$WORK/esp.img" >/dev/null
mmd -i "$WORK/esp.img" ::/EFI ::/EFI/BOOT
mcopy -i "$WORK/esp.img" "$WORK/BOOTX64.EFI" ::/EFI/BOOT/BOOTX64.EFI

say "Putting the disk together"
raw=$WORK/disk.raw
truncate -s $((total * 512)) "$raw"
sfdisk --quiet "$raw" <<END
label: gpt
start=$core_start, size=$core_size, type=21686148-6449-6E6F-744E-656564454649, name=bios
start=$esp_start, size=$esp_size, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=efi
start=$root_start, size=$root_size, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=root
END
# put FILE SECTOR: writes a file to the disk, leaving holes where it has zeroes.
put() { dd if="$1" of="$raw" bs=64K seek=$(($2 * 512)) oflag=seek_bytes conv=notrunc,sparse status=none; }
# number FILE OFFSET BYTES VALUE: writes a little-endian number.
number() {
    local i bytes=
    for ((i = 0; i < $3; i++)); do bytes+=$(printf '\\x%02x' $((($4 >> (8 * i)) & 255))); done
    printf "$bytes" | dd of="$1" bs=1 seek=$(($2)) conv=notrunc status=none
}
# What grub-bios-setup does, which wants a device: where boot.img finds the first
# sector of core.img (its kernel_sector), that the BIOS's word on the boot drive is
# believed for hard disks (boot_drive_check: nop, nop), and where the first sector
# of core.img finds the rest (the last of its block lists: start).
cp /usr/lib/grub/i386-pc/boot.img "$WORK/boot.img"
number "$WORK/boot.img" 0x5c 8 $core_start
number "$WORK/boot.img" 0x66 2 $((0x9090))
number "$WORK/core.img" 0x1f4 8 $((core_start + 1))
dd if="$WORK/boot.img" of="$raw" bs=440 count=1 conv=notrunc status=none
put "$WORK/core.img" $core_start
put "$WORK/esp.img" $esp_start
put "$WORK/root.img" $root_start

mkdir -p "$(dirname "$OUTPUT")"
if [ $QCOW2 = 1 ]; then
    say "Compressing"
    qemu-img convert -f raw -O qcow2 -c "$raw" "$WORK/disk.qcow2"
    mv "$WORK/disk.qcow2" "$OUTPUT.qcow2"
    echo "$OUTPUT.qcow2: $(($(stat -c %s "$OUTPUT.qcow2") >> 20)) MiB"
fi
mv "$raw" "$OUTPUT.raw"
echo "$OUTPUT.raw: $(($(stat -c %s "$OUTPUT.raw") >> 20)) MiB, $(($(stat -c '%b * %B' "$OUTPUT.raw") >> 20)) MiB used"
