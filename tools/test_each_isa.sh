#!/usr/bin/env bash
# The whole test suite with each instruction set that this machine has. The best one is what a plain `cargo test` uses.
set -euo pipefail
cd "$(dirname "$0")/.."

has() { grep -qw -- "$1" /proc/cpuinfo 2>/dev/null; }

sets=(portable)
if has avx2 && has fma && has f16c; then sets+=(avx2); fi
if has avx512f && has avx512bw && has avx512dq && has avx512vl; then sets+=(avx512); fi
if has amx_tile && has amx_bf16; then sets+=(amx); fi
echo "instruction sets of this machine: ${sets[*]}"
for isa in "${sets[@]}"; do
    echo "== TOKTUNE_ISA=$isa"
    TOKTUNE_ISA=$isa cargo test --workspace --quiet
done
