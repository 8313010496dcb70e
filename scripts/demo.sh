#!/bin/bash
# Moves a running guest between two machines and back.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<END
usage: scripts/demo.sh [OPTION]...

Starts two machines in QEMU, each with Overcast and a Dom0, on two networks: one for Dom0s, on
which guests move over TLS, and one for guests. A guest with Debian's kernel counts to a client
outside, on one TCP connection, and writes memory, while it goes from the first machine to the
second and back. The client must hear each number once and in order. Printed for each move: how
long it took, how long the guest was down (by the source's clock, its own, and the longest silence at
the client), rounds, and bytes before and after packing.

  --trips N        how often there and back; 10 for the long form  [2]
  --memory MIB     the guest's memory                             [128]
  --load MIB       how much of it the guest writes over again and again; a load above 8
                   needs 128 MiB of memory beside it              [4]
  --compress HOW   none, lz4 or zstd                               [lz4]
  --vcpus N        the guest's vCPUs                               [1]
  --disk WHICH     own: each machine has a disk of its own, and the guest's contents go
                   along; shared: both see the same; none          [own]
  --no-build       use what is built
  --help           this text

What the machines say is in build/logs/demo.log and demo-2.log.
END
}

TRIPS=2 BUILD_FIRST=1 ARGUMENTS=()
while [ $# -gt 0 ]; do
    case $1 in
    --trips | --memory | --load | --compress | --vcpus | --disk)
        [ $# -ge 2 ] || die "$1 needs a value; see --help"
        if [ "$1" = --trips ]; then TRIPS=$2; else ARGUMENTS+=("$1" "$2"); fi
        shift
        ;;
    --no-build) BUILD_FIRST=0 ;;
    --help | -h) usage; exit ;;
    *) echo "demo.sh: what is $1?" >&2; usage >&2; exit 2 ;;
    esac
    shift
done
cd "$ROOT"

if [ $BUILD_FIRST = 1 ]; then
    scripts/setup.sh
    say "Building"
    scripts/build.sh >/dev/null
    scripts/build-agent.sh >/dev/null
fi
scripts/initramfs.sh domains >/dev/null
say "Two machines start (a minute or two)"
# build-std is for the hypervisor's target alone.
env -u CARGO_UNSTABLE_BUILD_STD cargo run --quiet --release -p overcast-qemu-tests -- \
    demo --trips "$TRIPS" ${ARGUMENTS[@]+"${ARGUMENTS[@]}"}
