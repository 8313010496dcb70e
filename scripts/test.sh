#!/bin/bash
# Runs all tests.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<END
usage: scripts/test.sh [OPTION]... [FILTER]

Formatting, lints, host tests, the build, and the tests that boot machines in
QEMU, two at a time. With FILTER only the tests whose name contains it.

  --host-only   nothing that needs QEMU
  --qemu-only   only the tests that boot machines
  --soak        the long tests too: 50 boots, a Debian userland under stress
  --jobs N      machines at the same time [2]
  --help        this text
END
}

HOST=1 QEMU=1 FILTER= QEMU_ARGUMENTS=() JOBS=2
while [ $# -gt 0 ]; do
    case $1 in
    --host-only) QEMU=0 ;;
    --qemu-only) HOST=0 ;;
    --soak) QEMU_ARGUMENTS+=(--soak) ;;
    --jobs) [ $# -ge 2 ] || die "--jobs needs a number"; JOBS=$2; shift ;;
    --help | -h) usage; exit ;;
    -*) usage >&2; exit 2 ;;
    *) FILTER=$1 ;;
    esac
    shift
done
cd "$ROOT"

if [ $QEMU = 1 ]; then scripts/setup.sh --debian --image; else scripts/setup.sh; fi

TARGET=x86_64-unknown-none
# build-std is for the hypervisor's target alone.
on_host() { env -u CARGO_UNSTABLE_BUILD_STD "$@"; }

if [ $HOST = 1 ]; then
    if cargo fmt --version >/dev/null 2>&1; then
        say "Formatting"
        cargo fmt --all --check
    fi
    if cargo clippy --version >/dev/null 2>&1; then
        say "Lints, host"
        on_host cargo clippy --all-targets -- -D warnings
        say "Lints, hypervisor"
        cargo clippy --release -p overcast --target $TARGET -- -D warnings
    fi
    say "Documentation"
    RUSTDOCFLAGS="-D warnings" on_host cargo doc --no-deps --quiet
    say "Host tests"
    # The same cases each time, so that a result repeats; PROPTEST_RNG_SEED set to
    # another number tries others.
    PROPTEST_RNG_SEED=${PROPTEST_RNG_SEED:-1} on_host cargo test ${FILTER:+"$FILTER"}
fi
if [ $QEMU = 1 ]; then
    say "Building"
    scripts/build.sh
    scripts/initramfs.sh shell >/dev/null
    scripts/initramfs.sh disk >/dev/null
    scripts/initramfs.sh store >/dev/null
    scripts/initramfs.sh net >/dev/null
    scripts/build-agent.sh >/dev/null
    scripts/initramfs.sh xl >/dev/null
    scripts/initramfs.sh domains >/dev/null
    scripts/initramfs.sh levels >/dev/null
    scripts/initramfs.sh nested >/dev/null
    scripts/rootfs.sh boot >/dev/null
    case "image-bios image-uefi" in
    *"$FILTER"*)
        scripts/image.sh --raw-only >/dev/null
        ;;
    esac
    qemu-tests/pv/build.sh
    case " ${QEMU_ARGUMENTS[*]-} " in *--soak*) scripts/initramfs.sh debian >/dev/null ;; esac
    say "QEMU tests"
    on_host cargo run --quiet --release -p overcast-qemu-tests -- run --jobs "$JOBS" \
        ${QEMU_ARGUMENTS[@]+"${QEMU_ARGUMENTS[@]}"} ${FILTER:+--filter "$FILTER"}
fi
say "All tests passed"
