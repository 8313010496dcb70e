# Shared by the scripts here: paths, messages, the tool chain. To be sourced by bash.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUILD=$ROOT/build
CACHE=$BUILD/cache

# What setup.sh fetches and unpacks; nothing of it is installed on the machine.
KERNEL=$CACHE/vmlinuz       # Debian's kernel as shipped
XEN=$CACHE/xen              # Debian's Xen 4.17, uncompressed: the oracle
PV_GRUB=$CACHE/pv-grub     # Debian's GRUB for PV guests
IMAGE=$BUILD/overcast       # ours
# What Xen's server of xenstore and its clients come in.
XENSTORE_PACKAGES="xenstore-utils libxenstore4 libxentoolcore1 xen-utils-4.17 libxenmisc4.17 libxencall1
    libxenevtchn1 libxengnttab1 libxenforeignmemory1 libxendevicemodel1 libxentoollog1"
# What xl needs beside these.
XL_PACKAGES="libxenhypfs1 libyajl2 libuuid1"

if [ -t 2 ]; then BOLD=$'\e[1m' PLAIN=$'\e[0m'; else BOLD= PLAIN=; fi
say() { echo "${BOLD}==> $*${PLAIN}" >&2; }
die() { echo "$(basename "$0"): $*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# A command as root.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif have sudo; then sudo "$@"
    else die "must be root, or have sudo, to run: $*"
    fi
}

# cargo is often installed without being in a script's PATH.
if ! have cargo && [ -x "$HOME/.cargo/bin/cargo" ]; then PATH=$HOME/.cargo/bin:$PATH; fi

# Where setup.sh fell back to Debian's compiler, this file holds the environment
# that makes cargo build core and alloc from source.
if [ -f "$BUILD/toolchain.env" ]; then
    set -a
    . "$BUILD/toolchain.env"
    set +a
fi

# copy_modules ROOT tree PATH...: copies modules of the kernel in build/cache to
# ROOT/lib/modules, by directory or file below .../kernel.
# copy_modules ROOT needed NAME...: these by name, and what they depend on.
copy_modules() {
    local to=$1 how=$2 from version file name
    shift 2
    from=$(echo "$CACHE"/linux-image-[0-9]*/lib/modules/*)
    [ -d "$from" ] || die "no modules in build/cache: scripts/setup.sh gets the kernel"
    version=$(basename "$from")
    # Where usr is merged, lib is a link.
    [ -e "$to/lib" ] || as_root mkdir -p "$to/lib"
    as_root mkdir -p "$to/lib/modules/$version"
    [ -f "$from/modules.dep" ] || depmod -b "${from%/lib/modules/*}" "$version"
    as_root cp "$from"/modules.{order,builtin,builtin.modinfo} "$to/lib/modules/$version/"
    (
        cd "$from"
        case $how in
        tree) for name; do [ ! -e "kernel/$name" ] || find "kernel/$name" -name '*.ko'; done ;;
        needed)
            for name; do
                modprobe -d "${from%/lib/modules/*}" -S "$version" --show-depends "$name" |
                    sed -n "s|^insmod .*/lib/modules/$version/||p" | sed 's/ *$//'
            done | sort -u ;;
        esac >"$CACHE/.modules.$$"
        as_root cpio --quiet -p -d -u "$to/lib/modules/$version" <"$CACHE/.modules.$$"
        rm -f "$CACHE/.modules.$$"
    )
    as_root depmod -b "$to" "$version" 2>/dev/null
}
