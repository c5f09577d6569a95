"""Adapters across the border: trained by toktune and loaded by the real PEFT, and the other way round.

For a model folder and pre-tokenised rows it trains an adapter with each side and evaluates both adapters with both
sides; the four losses must agree in pairs, and PEFT must load toktune's adapter without a warning about it.

    python check.py --model FOLDER --data ROWS.jsonl --tokens 7,8,9 [--toktune target/release/toktune]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings

import torch
from peft import PeftModel, TrainableTokensConfig, get_peft_model
from transformers import AutoModelForCausalLM


def rows_of(path, count):
    return [json.loads(line) for line in open(path)][:count]


def mean_loss(model, rows):
    """Mean over all labels, one row at a time, so that no padding is involved."""
    total, labels = 0.0, 0
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([row["input_ids"]])
            target = torch.tensor([row["labels"]])
            count = int((target[:, 1:] != -100).sum())
            if count:
                total += model(input_ids=ids, labels=target).loss.item() * count
                labels += count
    return total / labels


def train_peft(args, rows, out):
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    model = get_peft_model(base, TrainableTokensConfig(token_indices=args.ids, task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=args.lr, weight_decay=0.0)
    for step in range(args.steps):
        optimizer.zero_grad()
        # the mean over the labels of both rows, as one batch would have it
        chosen = [rows[(2 * step + i) % len(rows)] for i in range(2)]
        counts = [sum(label != -100 for label in row["labels"][1:]) for row in chosen]
        for row, count in zip(chosen, counts):
            if count:
                batch = {k: torch.tensor([row[k]]) for k in ("input_ids", "labels")}
                (model(**batch).loss * count / sum(counts)).backward()
        optimizer.step()
    model.save_pretrained(out)


def toktune(args, *command):
    done = subprocess.run([args.toktune, *command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"toktune {command[0]} failed:\n{done.stderr}")
    return done.stdout


def train_toktune(args, data, out):
    toktune(
        args, "train", "--model", args.model, "--data", data, "--output", out, "--token-ids", args.tokens,
        "--batch-size", "2", "--max-steps", str(args.steps), "--learning-rate", str(args.lr), "--shuffle", "false",
        "--max-grad-norm", "0", "--precision", "f32", "--log-format", "json",
    )


def eval_toktune(args, data, adapter):
    out = toktune(
        args, "eval", "--model", args.model, "--adapter", adapter, "--data", data, "--log-format", "json",
    )
    return json.loads(out.strip().splitlines()[-1])["loss"]


def eval_peft(args, rows, adapter):
    base = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(base, adapter)
    about_adapter = [str(w.message) for w in seen if "adapter" in str(w.message)]
    if about_adapter:
        sys.exit(f"PEFT warns about {adapter}: {about_adapter}")
    return mean_loss(model.eval(), rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--toktune", default="target/release/toktune")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()
    args.ids = [int(t) for t in args.tokens.split(",")]
    args.model = os.path.abspath(args.model)

    rows, failures = rows_of(args.data, args.rows), 0
    print("| adapter trained by | loss in toktune | loss in PEFT | relative difference |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        data = os.path.join(folder, "rows.jsonl")
        with open(data, "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        for side in ("toktune", "PEFT"):
            adapter = os.path.join(folder, side)
            if side == "PEFT":
                train_peft(args, rows, adapter)
            else:
                train_toktune(args, data, adapter)
            ours, theirs = eval_toktune(args, data, adapter), eval_peft(args, rows, adapter)
            difference = abs(ours - theirs) / theirs
            failures += difference > args.tolerance
            print(f"| {side} | {ours:.6f} | {theirs:.6f} | {difference:.1e} |")
    sys.exit(f"{failures} differ by more than {args.tolerance}" if failures else 0)


if __name__ == "__main__":
    main()
