#!/usr/bin/env bash
# Side by side with PEFT on one model. See README.md for how to prepare the model and the rows.
#
#   bench/run.sh --model smollm2-135m --data smol-gsm.jsonl --tokens 7,8,9 --python peer/bin/python
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --package toktune-cli
exec python3 bench/compare.py "$@"
