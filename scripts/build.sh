#!/bin/sh
# Builds the hypervisor: build/overcast, the image to boot, and
# build/overcast.debug, the same with symbols and debug information.
#
# Usage: scripts/build.sh [CARGO-OPTION...]
# A linked image gets a table of its functions' names written into the room
# that boot/overcast.lds keeps for it, so that the hypervisor can print
# backtraces with names. Nothing is linked twice, and the result depends on the
# sources only.
set -eu
export LC_ALL=C
cd "$(dirname "$0")/.."

# Where there is no compiler with the target's library, setup.sh has written the
# environment in which cargo builds core and alloc from source.
if [ -f build/toolchain.env ]; then
    set -a
    . ./build/toolchain.env
    set +a
fi

target=x86_64-unknown-none
image_base=ffff82d040000000

for tool in cargo nm objcopy readelf awk dd; do
    command -v "$tool" >/dev/null || {
        echo "build.sh: $tool is missing (scripts/setup.sh installs what is needed)" >&2
        exit 1
    }
done

cargo build --release --package overcast --target "$target" "$@"
linked=${CARGO_TARGET_DIR:-target}/$target/release/overcast

mkdir -p build
work=$(mktemp -d build/.work.XXXXXX)
trap 'rm -rf "$work"' EXIT INT TERM
cp "$linked" "$work/overcast.debug"

# name, address, file offset and size of a section, in hexadecimal
section() {
    readelf --sections --wide "$work/overcast.debug" |
        sed 's/^ *\[ *[0-9]*\] *//' | awk -v name="$1" '$1 == name { print $3, $4, $5 }'
}

# --- the table of functions ---------------------------------------------------
set -- $(section .symbols)
symbols_offset=$((0x$2))
symbols_room=$((0x$3))

# Functions in the image's window, without the compiler's hash, one an address.
nm --defined-only --demangle --numeric-sort "$work/overcast.debug" |
    awk -v high="$(printf %.8s "$image_base")" '
        $2 ~ /^[tTwW]$/ && substr($1, 1, 8) == high && $1 != last {
            last = $1
            name = $0
            sub(/^[^ ]+ [^ ]+ /, "", name)
            sub(/::h[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]$/, "", name)
            # IMAGE_BASE has bit 30 and nothing below it: take it off.
            first = index("456789abcdef", substr($1, 9, 1))
            if (first == 0) next
            print substr("0123456789ab", first, 1) substr($1, 10) " " name
        }' >"$work/all"

for width in 120 96 72 56 40; do
    cut -c "1-$width" "$work/all" >"$work/symbols"
    printf '\0' >>"$work/symbols"
    size=$(wc -c <"$work/symbols")
    [ "$size" -gt "$symbols_room" ] || break
done
if [ "$size" -gt "$symbols_room" ]; then
    echo "build.sh: the table of functions needs $size bytes, boot/overcast.lds keeps $symbols_room" >&2
    exit 1
fi
[ $((symbols_offset % 4096)) = 0 ] || {
    echo "build.sh: the room for the table of functions is not page aligned" >&2
    exit 1
}
dd if="$work/symbols" of="$work/overcast.debug" bs=4096 seek=$((symbols_offset / 4096)) \
    conv=notrunc status=none

objcopy --strip-all "$work/overcast.debug" "$work/overcast"

# --- what boot/overcast.lds promises ------------------------------------------
fail() {
    echo "build.sh: $1" >&2
    exit 1
}
for image in "$work/overcast.debug" "$work/overcast"; do
    readelf --relocs --wide "$image" | grep -q 'no relocations' ||
        fail "the image needs relocation at run time"
    readelf --program-headers --wide "$image" | awk '$1 == "LOAD" { print $2, $4 }' |
        while read -r offset physical; do
            echo $((physical - offset))
        done | sort -u >"$work/distance"
    [ "$(cat "$work/distance")" = $((0x200000 - 0x1000)) ] ||
        fail "file offset and physical address do not run in step (Multiboot 1 needs that)"
done

mv "$work/overcast.debug" build/overcast.debug
mv "$work/overcast" build/overcast
echo "build/overcast: $(wc -c <build/overcast) bytes, $(wc -l <"$work/symbols") functions named"
