#!/usr/bin/env bash
# The commands of stop.md, with their outputs written between its markers: a base model gets a chat template, learns the template's
# tokens on chats made of GSM8K, and stops by itself.
#
#   docs/tutorials/stop.sh MODEL GSM8K [FOLDER]
#
# MODEL is a base model without a chat template (the page's is Gemma-3-270M), GSM8K a folder with train.jsonl and test.jsonl of
# {question, answer}, FOLDER where data and adapter go (default: out/stop; it must not be there).
#   TOKTUNE=path/to/toktune   the program (default: target/release/toktune)
#   STEPS=n                   steps of training (default: 120)
#   PROMPTS=n                 held-out questions that are asked (default: 30)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."

if [ $# -lt 2 ]; then
    echo "usage: docs/tutorials/stop.sh MODEL GSM8K [FOLDER]" >&2
    exit 2
fi
model=$(realpath "$1")
gsm8k=$(realpath "$2")
work=${3:-out/stop}
toktune=$(realpath "${TOKTUNE:-target/release/toktune}")
steps=${STEPS:-120}
prompts=${PROMPTS:-30}
page=$here/stop.md

if [ -e "$work" ]; then
    echo "error: $work is there already; remove it or give another folder" >&2
    exit 1
fi
mkdir -p "$work"
cd "$work"
ln -s "$model" gemma

# Rows of chat: the question is the user's, the answer the assistant's, without GSM8K's calculator marks.
python3 - "$gsm8k" "$prompts" <<'PYTHON'
import json, re, sys

folder, prompts = sys.argv[1], int(sys.argv[2])

def chat(line):
    row = json.loads(line)
    answer = re.sub(r"<<[^<>]*>>", "", row["answer"])
    return {"messages": [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": answer}]}

train = [chat(line) for line in open(f"{folder}/train.jsonl")]
held_out = [chat(line) for line in open(f"{folder}/test.jsonl")][:prompts]
for name, rows in (("train", train), ("heldout", held_out)):
    with open(f"{name}.jsonl", "w") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
for at, row in enumerate(held_out):
    with open(f"question-{at}.json", "w") as out:
        json.dump(row["messages"][:1], out)
PYTHON

# show NAME COMMAND...: runs a command of the page and puts it with its output between the page's markers of that name.
show() {
    local name=$1
    shift
    printf '%s\n' "\$ $*" | sed "s|$toktune|toktune|" >"$name.txt"
    "$@" </dev/null >>"$name.txt" 2>&1 || true
    python3 - "$page" "$name" <<'PYTHON'
import re, sys

page, name = sys.argv[1:]
text, output = open(page).read(), open(f"{name}.txt").read().rstrip("\n")
begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
block = f"{begin}```console\n{output}\n```\n{end}"
new, found = re.subn(re.escape(begin) + ".*?" + re.escape(end), lambda _: block, text, flags=re.S)
if not found:
    sys.exit(f"{page} has no markers of {name}")
open(page, "w").write(new)
PYTHON
    cat "$name.txt"
}

# stops [FLAG...]: how many of the held-out questions are answered by a text that ends by itself within 256 tokens.
stops() {
    local stopped=0 at
    for at in $(seq 0 $((prompts - 1))); do
        "$toktune" generate --model gemma --messages "question-$at.json" --max-new-tokens 256 --show-special-tokens "$@" \
            </dev/null >"answer-$at.txt" 2>/dev/null
        if grep -qE '(<\|im_end\|>|<eos>)$' "answer-$at.txt"; then stopped=$((stopped + 1)); fi
    done
    echo "$stopped of $prompts answers end by themselves within 256 tokens"
}

chats=(--data train.jsonl --template-tokens --chat-template chatml)
show before "$toktune" generate --model gemma --max-new-tokens 80 \
    --prompt $'Question: Mia has 20 stickers and gives 8 to her brother. How many stickers does she have left?\nAnswer:'
show refused "$toktune" train --model gemma --data train.jsonl --output stop --template-tokens
show preview "$toktune" preview --model gemma "${chats[@]}" --rows 1
show train "$toktune" train --model gemma "${chats[@]}" --output stop --eval-data heldout.jsonl --emission-prompts "$prompts" \
    --batch-size 8 --max-steps "$steps" --lr-scheduler cosine --warmup-steps 5 --log-every 20
show generate "$toktune" generate --model gemma --adapter stop --messages question-0.json --show-special-tokens
show config cat stop/generation_config.json
show merge "$toktune" merge --model gemma --adapter stop --output merged
show counted stops --adapter stop
