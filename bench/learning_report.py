"""The runs of learning_cost.py in one file and in words: learning.json and learning.md.

python3 bench/learning_report.py DIR
"""

import glob
import json
import os
import re
import statistics
import sys

BASE = "toktune-f32"
TITLES = {
    "toktune-f32": "toktune, `f32`",
    "toktune-bf16": "toktune, `auto`",
    "PEFT-bf16": "PEFT, bfloat16",
    "PEFT-f32": "PEFT, float32",
}


def runs_of(folder):
    """`{side: {"first" or seed: record}}` of what is there, in the order of TITLES."""
    found = {}
    for path in glob.glob(os.path.join(glob.escape(folder), "run-*.json")):
        side, of = re.fullmatch(r"run-(.*)-(first|\d+)\.json", os.path.basename(path)).groups()
        with open(path) as file:
            found.setdefault(side, {})[of] = json.load(file)
    return {side: dict(sorted(found[side].items())) for side in TITLES if side in found}


def seeds_of(runs, side):
    return {seed: record for seed, record in runs.get(side, {}).items() if seed != "first"}


def differences(runs, side):
    """For each seed that both have: what the loss of a side is above that of toktune in f32, step by step."""
    base = seeds_of(runs, BASE)
    mine = seeds_of(runs, side)
    return {
        seed: [a - b for a, b in zip(mine[seed]["losses"], base[seed]["losses"])] for seed in mine if seed in base
    }


def differing(values, base, relative=False):
    """The mean difference of what both have, or nothing."""
    both = [(values[key], base[key]) for key in values if key in base]
    if not both:
        return ""
    mean = statistics.mean((a - b) / (b if relative else 1) for a, b in both)
    return f"{100 * mean:+.2f} %" if relative else f"{mean:+.4f}"


def markdown(runs):
    def of(side, quantity):
        return {seed: quantity(record) for seed, record in seeds_of(runs, side).items()}

    def mean_loss(record):
        return statistics.mean(record["losses"])

    lines = ["| | held-out loss of each seed | beside f32 | mean loss of all steps | beside f32 | loss after one step |"]
    lines += ["| --- | --- | ---: | --- | ---: | ---: |"]
    for side in runs:
        held_out, losses = of(side, lambda r: r["eval_loss"]), of(side, mean_loss)
        cells = [TITLES[side]]
        for values, quantity in ((held_out, lambda r: r["eval_loss"]), (losses, mean_loss)):
            beside = "" if side == BASE else differing(values, of(BASE, quantity), relative=quantity is mean_loss)
            cells += [", ".join(f"{value:.4f}" for value in values.values()), beside]
        first = runs[side].get("first")
        lines.append(f"| {' | '.join(cells)} | {first['losses'][1] if first else float('nan'):.3f} |")
    return "\n".join(lines) + "\n"


def write(folder):
    """Writes both files and returns the table."""
    runs = runs_of(folder)
    with open(os.path.join(folder, "learning.json"), "w") as out:
        json.dump(runs, out, indent=1)
    text = markdown(runs)
    with open(os.path.join(folder, "learning.md"), "w") as out:
        out.write(text)
    return text


if __name__ == "__main__":
    print(write(sys.argv[1]))
