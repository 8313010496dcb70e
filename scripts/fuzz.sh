#!/bin/bash
# Runs a fuzz target of tests/fuzz with libFuzzer, without cargo-fuzz.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<END
usage: scripts/fuzz.sh TARGET [SECONDS] [LIBFUZZER-OPTION]...

Runs a target of tests/fuzz/fuzz_targets for SECONDS [60], from its inputs in
tests/fuzz/seeds on. What it finds worth keeping goes to build/fuzz/TARGET; an
input that fails, to build/fuzz/TARGET-*.
END
}

case ${1:-} in '' | -h | --help) usage; exit ;; esac
TARGET=$1 SECONDS_TO_RUN=${2:-60}
shift; [ $# = 0 ] || shift
CORPUS=$BUILD/fuzz/$TARGET SEEDS=$ROOT/tests/fuzz/seeds/$TARGET
mkdir -p "$CORPUS"
[ -d "$SEEDS" ] || SEEDS=

# Coverage of edges and comparisons, as cargo-fuzz asks for; no nightly option.
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing"
HOST=$(rustc -vV | sed -n 's/^host: //p')
(cd "$ROOT/tests/fuzz" && RUSTFLAGS=$(echo $coverage) \
    cargo build --quiet --release --target "$HOST" --target-dir "$BUILD/fuzz-target" --bin "$TARGET")
exec "$BUILD/fuzz-target/$HOST/release/$TARGET" -max_total_time="$SECONDS_TO_RUN" \
    -artifact_prefix="$CORPUS-" -print_final_stats=1 "$@" "$CORPUS" ${SEEDS:+"$SEEDS"}
