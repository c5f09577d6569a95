"""What all peers of Python share: the flags, batches padded on the right, and a plain torch loop over pre-tokenised rows.

Rows are JSON lines {"input_ids", "labels"}, taken in file order. With --accumulation a step has several batches, and its loss
is the mean over the labels of all of them. A peer prints one JSON object: the losses, the real (unpadded) tokens a second
over all steps but the first, the held-out loss after the last step (with --eval-data), and what ran.
"""

import argparse
import importlib.metadata
import json
import platform
import time

import torch


def arguments(description, complete=lambda parser: None):
    """The flags of every peer, and those that `complete` adds."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", help="needed for steps")
    parser.add_argument("--eval-data", help="held-out rows; their loss is taken after the last step")
    parser.add_argument("--tokens", required=True, help="the trained ids, separated by commas")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--accumulation", type=int, default=1, help="batches of a step")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--adapter", help="go on from this adapter")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=2)
    complete(parser)
    args = parser.parse_args()
    args.token_ids = [int(t) for t in args.tokens.split(",")]
    return args


def batch_of(rows):
    width = max(len(row["input_ids"]) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), -100)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        n = len(row["input_ids"])
        ids[i, :n] = torch.tensor(row["input_ids"])
        labels[i, :n] = torch.tensor(row["labels"])
        mask[i, :n] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def batches_of(rows, size):
    return [batch_of(rows[at : at + size]) for at in range(0, len(rows), size)]


def label_count(batch):
    """What the model's loss is a mean over: the first position's label has nothing before it."""
    return int((batch["labels"][:, 1:] != -100).sum())


def losses_of(model, batches):
    """The loss of each batch as its share of the mean over the labels of all of them."""
    labels = sum(map(label_count, batches))
    return (model(**batch).loss * (label_count(batch) / labels) for batch in batches)


def read_rows(path):
    with open(path) as lines:
        return [json.loads(line) for line in lines]


def evaluate(model, path, size):
    model.eval()
    with torch.no_grad():
        return sum(loss.item() for loss in losses_of(model, batches_of(read_rows(path), size)))


def versions(*packages):
    """Of torch, its companions and these `packages`, and the instructions that torch uses."""
    names = ("peft", "transformers", "torch", *packages)
    python = {"python": platform.python_version(), "cpu_capability": torch.backends.cpu.get_cpu_capability()}
    return {**{name: importlib.metadata.version(name) for name in names}, **python}


def train(model, args, warm_up=0):
    """Trains what requires a gradient. `warm_up` steps are run before the first and thrown away (for compilers)."""
    model.config.use_cache = False
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    # fused, as transformers' Trainer has it: the others make copies of what they update
    optimizer = torch.optim.AdamW(trained, lr=args.lr, weight_decay=0.0, fused=True)
    rows = read_rows(args.data) if args.steps else []
    losses, seconds, tokens = [], [], []
    for step in [*range(warm_up), *range(args.steps)]:
        taken = args.batch * args.accumulation
        batches = batches_of([rows[(step * taken + i) % len(rows)] for i in range(taken)], args.batch)
        start = time.perf_counter()
        optimizer.zero_grad()
        total = 0.0
        for loss in losses_of(model, batches):
            loss.backward()
            total += loss.item()
        if warm_up:
            warm_up -= 1
            continue
        optimizer.step()
        seconds.append(time.perf_counter() - start)
        losses.append(total)
        tokens.append(sum(int(batch["attention_mask"].sum()) for batch in batches))
    # the first step pays for allocations and page faults on both sides
    timed = slice(1, None) if args.steps > 1 else slice(None)
    found = {"losses": losses, "tokens_per_second": sum(tokens[timed]) / sum(seconds[timed]) if seconds else None}
    found["step_seconds"] = seconds
    found["trained_parameters"] = sum(p.numel() for p in trained)
    if args.eval_data:
        found["eval_loss"] = evaluate(model, args.eval_data, args.batch)
    return found
