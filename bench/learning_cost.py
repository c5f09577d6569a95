"""What 16 bits cost in learning: LoRA beside three tokens on GSM8K in f32 and in bf16, by toktune and by PEFT.

Each seed has its own choice and order of rows and its own start of LoRA, which all sides go on from. Losses of every step and the
loss of held-out rows at the end go to --output: a file a run, learning.json, learning.md and a plot. A run that is there is
kept, so sides can be run one by one, and at the same time: nothing is timed.
"""

import argparse
import copy
import json
import os
import random
import subprocess
import sys
from dataclasses import replace

import learning_report
from jobs import Run
from models import MODELS
from prepare import fresh_adapter, once, prepare, read_rows, say, tokenize, write_rows
from programs import PROGRAMS

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
LENGTH = 160  # tokens of the longest row
HELD_OUT = 32  # rows
BATCH = 2


def side(program, precision):
    return Run(program, precision, "learning", batch=BATCH, lora=True, held_out="held-out")


SIDES = {
    "toktune-f32": side("toktune", "f32"),
    "toktune-bf16": side("toktune", "bf16"),
    "PEFT-bf16": side("PEFT", "bfloat16"),
    "PEFT-f32": side("PEFT", "float32"),
}
# it must learn what toktune learns in f32, and one seed shows that
ONE_SEED = ("PEFT-f32",)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", required=True, help="as for compare.py")
    parser.add_argument("--gsm8k", help="GSM8K's train.jsonl; needed until the rows are prepared")
    parser.add_argument("--python", default=sys.executable, help="the interpreter with the peer")
    parser.add_argument("--toktune", default=os.path.join(ROOT, "target", "release", "toktune"))
    parser.add_argument("--output", default=os.path.join(ROOT, "out", "learning"))
    parser.add_argument("--model", choices=MODELS, default="smollm2-135m")
    parser.add_argument("--sides", default=",".join(SIDES), help="out of " + ",".join(SIDES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    args.sides = args.sides.split(",")
    if unknown := [name for name in args.sides if name not in SIDES]:
        parser.error(f"--sides: unknown {', '.join(unknown)}; there are {', '.join(SIDES)}")
    return args


def short_rows(at, args):
    """All rows of GSM8K that are short enough."""

    def make(path):
        tokenize(at, args.python, args.gsm8k, path, "--rows", "1000000")
        write_rows(path, [row for row in read_rows(path) if len(row["input_ids"]) <= LENGTH])

    once(at.rows("short"), make)
    return read_rows(at.rows("short"))


def seeded(at, args, seed):
    """The rows and the adapter of a seed, where a run looks for them."""
    own = copy.copy(at)
    own.rows = lambda kind: os.path.join(args.output, f"{kind}.jsonl" if kind == "held-out" else f"{kind}-{seed}.jsonl")
    own.lora = os.path.join(args.output, f"start-{seed}")
    rows = short_rows(at, args)
    chosen = random.Random(seed).sample(rows[HELD_OUT:], BATCH * args.steps)
    once(own.rows("held-out"), lambda path: write_rows(path, rows[:HELD_OUT]))
    once(own.rows("learning"), lambda path: write_rows(path, chosen))
    once(own.lora, lambda path: fresh_adapter(at, args.python, path, seed))
    return own


def write_json(path, value):
    with open(path, "w") as out:
        json.dump(value, out)


def record(name, run, at, args):
    """Runs unless the result is there."""
    path = os.path.join(args.output, f"run-{name}.json")
    if not os.path.exists(path):
        say(name)
        once(path, lambda unfinished: write_json(unfinished, PROGRAMS[run.program](run, at, args)))


def first_steps(at, args):
    """Two steps of the job `lora`: the second loss is what one step has learnt. Rounding shows there before runs go their own ways."""
    short = copy.copy(args)
    short.steps = 2
    for name in args.sides:
        record(f"{name}-first", replace(SIDES[name], rows="gsm8k", batch=8, held_out=None), at, short)


def main():
    args = arguments()
    os.makedirs(args.output, exist_ok=True)
    at = prepare(args.cache, MODELS[args.model], args.python, args.gsm8k)
    first_steps(at, args)
    for seed in range(1, args.seeds + 1):
        for name in args.sides:
            if seed == 1 or name not in ONE_SEED:
                record(f"{name}-{seed}", SIDES[name], seeded(at, args, seed), args)
                learning_report.write(args.output)
    print(learning_report.write(args.output))
    if subprocess.run([args.python, os.path.join(HERE, "plot.py"), "--learning", args.output]).returncode:
        say("no plot: matplotlib is missing")


if __name__ == "__main__":
    main()
