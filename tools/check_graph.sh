#!/usr/bin/env bash
# The crate graph points one way: kernels <- weights <- text and engine; library -> engine, text; candle, MPI -> library; command line -> library, MPI; Python -> command line.
set -euo pipefail
cd "$(dirname "$0")/.."

# Everything crate $1 depends on, one name a line.
dependencies() {
    cargo tree --locked --package "$1" --edges normal,build --prefix none --format '{p}' | awk '{ print $1 }' | sort -u
}

fail=0
forbid() { # crate, then the names it must not depend on
    local crate=$1 name
    shift
    for name in "$@"; do
        if dependencies "$crate" | grep -qx -- "$name"; then
            echo "error: $crate depends on $name" >&2
            fail=1
        fi
    done
}

forbid toktune-kernels toktune-weights toktune-text toktune-engine toktune toktune-candle toktune-cli candle-core safetensors memmap2 tokenizers serde
forbid toktune-weights toktune-text toktune-engine toktune toktune-candle toktune-cli candle-core tokenizers clap
forbid toktune-text toktune-engine toktune toktune-candle toktune-cli candle-core clap
forbid toktune-engine toktune-text toktune toktune-candle toktune-cli candle-core tokenizers clap
forbid toktune toktune-candle toktune-cli candle-core clap indicatif
forbid toktune-mpi toktune-cli toktune-candle candle-core clap
forbid toktune-cli toktune-candle candle-core pyo3 mpi

need() { # crate, then the crates of the workspace that it stands on directly
    local crate=$1 found
    shift
    found=$(cargo tree --locked --package "$crate" --edges normal --depth 1 --prefix none --format '{p}' |
        awk -v own="$crate" '$1 ~ /^toktune/ && $1 != own { print $1 }' | sort -u | xargs)
    if [ "$found" != "$*" ]; then
        echo "error: $crate depends on [$found] of the workspace; expected [$*]" >&2
        fail=1
    fi
}

need toktune-kernels
need toktune-weights toktune-kernels
need toktune-text toktune-weights
need toktune-engine toktune-kernels toktune-weights
need toktune toktune-engine toktune-text toktune-weights
need toktune-candle toktune
need toktune-mpi toktune
need toktune-cli toktune toktune-mpi
need toktune-py toktune toktune-cli toktune-mpi

[ "$fail" = 0 ] && echo "the crate graph points one way"
exit "$fail"
