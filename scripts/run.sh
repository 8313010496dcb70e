#!/bin/bash
# Boots Overcast in QEMU with a stock Debian kernel as Dom0.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

MEMORY=1024 CPUS=2 CPU=max MACHINE=q35 LAYER=tcg SYSTEM=overcast
DOM0_KERNEL= DOM0_INITRD= VARIANT=shell APPEND= OPTIONS= GDB=0 ICOUNT=0 BUILD_FIRST=1 DRY=0
DISK= UEFI=0
EXTRA=()

usage() {
    cat <<END
usage: scripts/run.sh [OPTION]... [-- QEMU-ARGUMENT...]

Installs what is missing, builds Overcast, boots it in QEMU (no hardware
virtualization is used) with Debian's kernel as Dom0, and gives a shell on the
serial console, which is this terminal. CTRL-a x ends QEMU.

The machine
  --memory SIZE       memory of the machine, as QEMU takes it    [$MEMORY, in MiB]
  --cpus N            CPUs of the machine                        [$CPUS]
  --cpu MODEL         QEMU's CPU model, e.g. qemu64, max,-smap   [$CPU]
  --machine TYPE      q35, pc or microvm                         [$MACHINE]
  --first-layer KIND  what the machine looks like: tcg (KVM-like) [$LAYER]
  --icount            count instructions: slower, but each run takes the same time
  --gdb               wait for gdb before the first instruction, and say how to attach

The guest
  --kernel FILE       Dom0's kernel        [Debian's linux-image-amd64, as shipped]
  --initrd FILE       Dom0's initrd        [busybox and a shell]
  --debian            a Debian userland as initrd (needs --memory 3072 or more)
  --domains           with the overcast command, and a kernel and an initrd for guests in /guest
  --append WORDS      added to the kernel's command line
  --options WORDS     added to the hypervisor's, e.g. "dom0_mem=512M loglvl=all"

The cloud image
  --image             boot the disk image that scripts/image.sh makes (made when missing),
                      log in as root with the password "overcast", or by ssh -p 2222
                      root@127.0.0.1 with your key. What it writes is forgotten
  --disk FILE         the same with another raw or qcow2 image
  --uefi              by UEFI (OVMF), not by BIOS (SeaBIOS)

Instead of Overcast
  --xen               the same guest on real Xen 4.17, to compare
  --bare              the same kernel on the machine itself

  --no-build          boot the image that is there
  --print             print QEMU's command line instead of running it
  --help              this text
END
}

while [ $# -gt 0 ]; do
    value() { [ $# -ge 2 ] || die "$1 needs a value; see --help"; }
    case $1 in
    --memory) value "$@"; MEMORY=$2; shift ;;
    --cpus) value "$@"; CPUS=$2; shift ;;
    --cpu) value "$@"; CPU=$2; shift ;;
    --machine) value "$@"; MACHINE=$2; shift ;;
    --first-layer) value "$@"; LAYER=$2; shift ;;
    --kernel) value "$@"; DOM0_KERNEL=$2; shift ;;
    --initrd) value "$@"; DOM0_INITRD=$2; shift ;;
    --debian) VARIANT=debian ;;
    --domains) VARIANT=domains ;;
    --append) value "$@"; APPEND="$APPEND $2"; shift ;;
    --options) value "$@"; OPTIONS="$OPTIONS $2"; shift ;;
    --image) DISK=$BUILD/overcast-image.qcow2 ;;
    --disk) value "$@"; DISK=$2; shift ;;
    --uefi) UEFI=1 ;;
    --gdb) GDB=1 ;;
    --icount) ICOUNT=1 ;;
    --xen) SYSTEM=xen ;;
    --bare) SYSTEM=bare ;;
    --no-build) BUILD_FIRST=0 ;;
    --print) DRY=1 ;;
    --help | -h) usage; exit ;;
    --) shift; EXTRA=("$@"); break ;;
    *) echo "run.sh: what is $1?" >&2; usage >&2; exit 2 ;;
    esac
    shift
done
case $MACHINE in q35 | pc | microvm) ;; *) die "--machine is q35, pc or microvm" ;; esac
case $LAYER in tcg) ;; *) die "--first-layer can only be tcg by now" ;; esac

# The image boots by itself: a disk, a network, and a second disk with what a cloud's
# metadata would say.
if [ -n "$DISK" ]; then
    [ "$SYSTEM$MACHINE" != overcastmicrovm ] || die "microvm boots from no disk"
    [ -z "$DOM0_KERNEL$DOM0_INITRD$APPEND$OPTIONS" ] || die "the image has its own kernel and options"
    "$ROOT/scripts/setup.sh" --image
    [ -e "$DISK" ] || "$ROOT/scripts/image.sh" >&2
    seed=$BUILD/run-seed.img
    keys=()
    for key in "$HOME"/.ssh/*.pub; do [ ! -r "$key" ] || keys+=("$key"); done
    "$ROOT/scripts/seed.sh" "$seed" overcast overcast ${keys[@]+"${keys[@]}"}
    case $DISK in *.qcow2) format=qcow2 ;; *) format=raw ;; esac
    arguments=(-accel tcg -cpu "$CPU" -smp "$CPUS" -m "$MEMORY" -machine "$MACHINE" -vga none
        -display none -serial mon:stdio -no-reboot
        -drive "file=$DISK,format=$format,if=virtio,snapshot=on" -drive "file=$seed,format=raw,if=virtio"
        -netdev user,id=net,hostfwd=tcp:127.0.0.1:2222-:22 -device virtio-net-pci,netdev=net,romfile=)
    [ $ICOUNT = 0 ] || arguments+=(-icount shift=0,sleep=off)
    if [ $UEFI = 1 ]; then
        cp /usr/share/OVMF/OVMF_VARS_4M.fd "$BUILD/run-vars.fd"
        arguments+=(-drive if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd
            -drive "if=pflash,format=raw,file=$BUILD/run-vars.fd")
    fi
    arguments+=(${EXTRA[@]+"${EXTRA[@]}"})
    if [ $DRY = 1 ]; then
        printf '%q ' qemu-system-x86_64 "${arguments[@]}"; echo
        exit
    fi
    say "CTRL-a x ends QEMU"
    exec qemu-system-x86_64 "${arguments[@]}"
fi
[ $UEFI = 0 ] || die "--uefi goes with --image"

if [ $VARIANT = debian ]; then "$ROOT/scripts/setup.sh" --debian; else "$ROOT/scripts/setup.sh"; fi
if [ $VARIANT = domains ]; then
    [ $BUILD_FIRST = 0 ] || "$ROOT/scripts/build-agent.sh"
    # Most of the memory is for guests. Dom0 loads what controls them, and runs the daemon.
    OPTIONS=" dom0_mem=512M$OPTIONS" APPEND=" run=control$APPEND"
fi
[ -n "$DOM0_KERNEL" ] || DOM0_KERNEL=$KERNEL
[ -n "$DOM0_INITRD" ] || DOM0_INITRD=$("$ROOT/scripts/initramfs.sh" $VARIANT)
for file in "$DOM0_KERNEL" "$DOM0_INITRD"; do
    [ -r "$file" ] || die "cannot read $file"
    # QEMU separates modules by commas; a doubled one stands for itself.
    case $file in *,*) die "QEMU cannot take a file with a comma in its name: $file" ;; esac
done

arguments=(-accel tcg -cpu "$CPU" -smp "$CPUS" -m "$MEMORY" -no-reboot -nic none
    -display none -serial mon:stdio)
case $MACHINE in
microvm) arguments+=(-machine microvm,pit=on,pic=on,rtc=on,isa-serial=on) ;;
*) arguments+=(-machine "$MACHINE" -vga none) ;;
esac
[ $ICOUNT = 0 ] || arguments+=(-icount shift=0,sleep=off)

case $SYSTEM in
bare)
    arguments+=(-kernel "$DOM0_KERNEL" -initrd "$DOM0_INITRD" -append "console=ttyS0 panic=-1$APPEND") ;;
*)
    image=$IMAGE
    [ $SYSTEM = overcast ] || image=$XEN
    # Linux adds a comma to nothing here, so one in its command line is doubled.
    guest="console=hvc0 earlyprintk=xen panic=-1$APPEND"
    arguments+=(-kernel "$image" -append "console=com1 loglvl=all guest_loglvl=all$OPTIONS"
        -initrd "$DOM0_KERNEL ${guest//,/,,},$DOM0_INITRD")
    ;;
esac
if [ $SYSTEM = overcast ] && [ $BUILD_FIRST = 1 ]; then "$ROOT/scripts/build.sh"; fi
if [ $GDB = 1 ]; then
    arguments+=(-s -S)
    symbols=$BUILD/overcast.debug
    [ $SYSTEM = overcast ] || symbols=
    say "QEMU waits. In another terminal: gdb $symbols -ex 'target remote :1234' -ex 'hbreak ${symbols:+entry}' -ex continue"
fi
arguments+=(${EXTRA[@]+"${EXTRA[@]}"})

if [ $DRY = 1 ]; then
    printf '%q ' qemu-system-x86_64 "${arguments[@]}"; echo
else
    say "CTRL-a x ends QEMU"
    exec qemu-system-x86_64 "${arguments[@]}"
fi
