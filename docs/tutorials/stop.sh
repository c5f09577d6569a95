#!/usr/bin/env bash
# The commands of stop.md: a base model without a chat template learns to answer and to stop.
#
#   docs/tutorials/stop.sh MODEL GSM8K [FOLDER]
#
# MODEL is a base model (the page's is Gemma-3-270M), GSM8K a folder with train.jsonl and test.jsonl of {question, answer}, FOLDER where data
# and adapter go (default: out/stop; it must not be there).
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: docs/tutorials/stop.sh MODEL GSM8K [FOLDER]" >&2
    exit 2
fi
model=$(realpath "$1") gsm8k=$(realpath "$2") work=${3:-out/stop}
page=stop.md
. "$(dirname "$0")/page.sh"
work_in "$work"
ln -s "$model" gemma3

python3 - "$gsm8k" <<'PYTHON'
import json, re, sys

def chats(name, most):
    """Short rows without the marks of a calculator."""
    for line in open(f"{sys.argv[1]}/{name}.jsonl"):
        row = json.loads(line)
        answer = re.sub(r"<<[^<>]*>>", "", row["answer"]).replace("\n#### ", "\nThe answer is ")
        if len(row["question"]) + len(answer) <= most:
            yield {"messages": [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": answer}]}

def write(name, rows):
    with open(name, "w") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)

train = list(chats("train", 350))[:480]
heldout = list(chats("test", 350))[:30]
write("train.jsonl", train)
write("heldout.jsonl", heldout)
with open("question.json", "w") as out:
    json.dump(heldout[0]["messages"][:1], out)
PYTHON

template=(--template-tokens --chat-template chatml)
show before "$toktune" generate --model gemma3 --prompt "$(python3 -c 'import json; print(json.load(open("question.json"))[0]["content"])')" --max-new-tokens 64
show preview "$toktune" preview --model gemma3 --data train.jsonl --rows 1 "${template[@]}"
SHORTEN='/^step [0-9]*[1-9]\//d;/^step [0-9]*[1-9]0\//d' show train "$toktune" train --model gemma3 --data train.jsonl --eval-data heldout.jsonl --output adapter \
    "${template[@]}" --init '<|im_end|>=like:<eos>' --lora-r 8 --lora-target-modules all-linear --lora-learning-rate 0.001 \
    --batch-size 4 --num-epochs 1 --lr-scheduler cosine --warmup-steps 5
show generate "$toktune" generate --model gemma3 --adapter adapter --messages question.json --max-new-tokens 200
show files ls -s --block-size=K adapter
show merge "$toktune" merge --model gemma3 --adapter adapter --output merged
show config cat merged/generation_config.json
