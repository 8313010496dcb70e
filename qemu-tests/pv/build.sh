#!/bin/sh
# Builds the PV kernel that asks questions: build/probe.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$here/../../build/probe
mkdir -p "$(dirname "$out")"
for source in "$here"/*; do [ "$out" -nt "$source" ] || stale=1; done
[ "${stale:-0}" = 1 ] || exit 0
gcc -std=gnu11 -O1 -Wall -Wno-format -Wno-address-of-packed-member -ffreestanding -fno-pic -fno-pie -no-pie -static -nostdlib \
    -mno-red-zone -mgeneral-regs-only -mcmodel=small -fno-stack-protector -fcf-protection=none \
    -fno-asynchronous-unwind-tables -fno-strict-aliasing -fno-omit-frame-pointer -Wl,--build-id=none -Wl,-z,noexecstack -Wl,--no-warn-rwx-segments \
    -T "$here/pv.lds" -o "$out" "$here"/head.S "$here"/*.c
