#!/usr/bin/env bash
# The commands of words.md: words of a domain become single tokens that a model reads as it read their pieces.
#
#   docs/tutorials/words.sh MODEL TEXTS WORDS [FOLDER]
#
# MODEL is a causal model (the page's is SmolLM2-135M-Instruct), TEXTS a file of rows of {text} that have the words, WORDS a file of a word a
# line, FOLDER where the adapter goes (default: out/words; it must not be there).
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: docs/tutorials/words.sh MODEL TEXTS WORDS [FOLDER]" >&2
    exit 2
fi
model=$(realpath "$1") texts=$(realpath "$2") words=$(realpath "$3") work=${4:-out/words}
page=words.md
. "$(dirname "$0")/page.sh"
work_in "$work"
ln -s "$model" smollm2
ln -s "$texts" texts.jsonl
cp "$words" words.txt

show list cat words.txt
mapfile -t some < <(head -4 words.txt | sed 's/^/ /')
show pieces "$toktune" tokens --model smollm2 "${some[@]}"
SHORTEN='/^step [0-9]*[1-9]\//d' show distill "$toktune" distill --model smollm2 --words words.txt --corpus texts.jsonl --output adapter
show after "$toktune" tokens --model smollm2 --adapter adapter "${some[@]}"
show generate "$toktune" generate --model smollm2 --adapter adapter --prompt "In PyTorch, the$(head -1 words.txt | sed 's/^/ /') module" --max-new-tokens 40
