#!/usr/bin/env bash
# The commands of control-tokens.md: a chat model learns three control tokens from chats made of GSM8K.
#
#   docs/tutorials/control-tokens.sh MODEL GSM8K [FOLDER]
#
# MODEL is a chat model (the page's is SmolLM2-135M-Instruct), GSM8K a folder with train.jsonl of {question, answer}, FOLDER where data and
# adapter go (default: out/control-tokens; it must not be there).
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: docs/tutorials/control-tokens.sh MODEL GSM8K [FOLDER]" >&2
    exit 2
fi
model=$(realpath "$1") gsm8k=$(realpath "$2") work=${3:-out/control-tokens}
page=control-tokens.md
. "$(dirname "$0")/page.sh"
work_in "$work"
ln -s "$model" smollm2

python3 - "$gsm8k" <<'PYTHON'
import json, re, sys

def chat(line):
    row = json.loads(line)
    text, answer = row["answer"].rsplit("\n#### ", 1)
    text = re.sub(r"\s*<<([^<>]*)>>", r"<calc>\1</calc>", text)
    return {"messages": [
        {"role": "user", "content": row["question"]},
        {"role": "assistant", "content": f"{text}\n<answer> {answer}"},
    ]}

rows = [chat(line) for line, _ in zip(open(f"{sys.argv[1]}/train.jsonl"), range(430))]
for name, part in (("train", rows[:400]), ("heldout", rows[400:])):
    with open(f"{name}.jsonl", "w") as out:
        out.writelines(json.dumps(row) + "\n" for row in part)
with open("question.json", "w") as out:
    json.dump(rows[400]["messages"][:1], out)
PYTHON

tokens=(--add-token '<calc>' --add-token '</calc>' --add-token '<answer>')
show tokens "$toktune" tokens --model smollm2 '<calc>' '<answer>'
show preview "$toktune" preview --model smollm2 --data train.jsonl --rows 1 "${tokens[@]}"
show before "$toktune" generate --model smollm2 --messages question.json --max-new-tokens 120
SHORTEN='/^step [0-9]*[1-9]\//d;/^step [0-9]*[1-9]0\//d' show train "$toktune" train --model smollm2 --data train.jsonl --eval-data heldout.jsonl --output adapter \
    "${tokens[@]}" --lora-r 8 --lora-target-modules all-linear \
    --batch-size 4 --num-epochs 1 --lr-scheduler cosine --warmup-steps 5
show after "$toktune" generate --model smollm2 --adapter adapter --messages question.json --max-new-tokens 160
show files ls -s --block-size=K adapter
show merge "$toktune" merge --model smollm2 --adapter adapter --output merged
