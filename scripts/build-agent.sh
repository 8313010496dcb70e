#!/bin/sh
# Builds build/overcast-agent: the `overcast` command of Dom0, one static
# program that runs in any 64-bit Linux, and what goes with it: its manual page
# and completions in build/agent.
#
# Usage: scripts/build-agent.sh [CARGO-OPTION...]
set -eu
cd "$(dirname "$0")/.."

target=x86_64-unknown-linux-gnu
CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static"
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS
cargo build --release --package overcast-agent --target $target "$@"

mkdir -p build/agent
objcopy --strip-all "${CARGO_TARGET_DIR:-target}/$target/release/overcast-agent" build/overcast-agent
build/overcast-agent manual >build/agent/overcast.8
for shell in bash zsh fish; do
    build/overcast-agent completions $shell >build/agent/overcast.$shell
done
echo "build/overcast-agent: $(wc -c <build/overcast-agent) bytes"
