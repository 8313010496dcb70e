# Shared by the scripts here: paths, messages, the tool chain. To be sourced by bash.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUILD=$ROOT/build
CACHE=$BUILD/cache

# What setup.sh fetches and unpacks; nothing of it is installed on the machine.
KERNEL=$CACHE/vmlinuz       # Debian's kernel as shipped
XEN=$CACHE/xen              # Debian's Xen 4.17, uncompressed: the oracle
IMAGE=$BUILD/overcast       # ours

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
