#!/usr/bin/env bash
# Side by side with PEFT, from nothing to a table and plots. See README.md.
#
#   bench/run.sh --cache ~/toktune-bench --gsm8k gsm8k/train.jsonl --python peer/bin/python
set -euo pipefail
root=$(dirname "$(dirname "$(realpath "$0")")")
cargo build --release --package toktune-cli --manifest-path "$root/Cargo.toml"
exec python3 "$root/bench/compare.py" "$@"
