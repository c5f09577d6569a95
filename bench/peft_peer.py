"""The same job with HuggingFace PEFT: a plain torch loop over pre-tokenised rows, right padding.

Rows are JSON lines {"input_ids", "labels"}, taken in file order. Prints one JSON object with the losses, the real
(unpadded) tokens a second over all steps but the first, and the versions; --out saves the adapter.
"""

import argparse
import json
import platform
import time

import peft
import torch
import transformers
from peft import TrainableTokensConfig, get_peft_model
from transformers import AutoModelForCausalLM


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


def versions():
    return {
        "peft": peft.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype))
    model = get_peft_model(base, TrainableTokensConfig(token_indices=[int(t) for t in args.tokens.split(",")]))
    model.config.use_cache = False
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=args.lr, weight_decay=0.0)
    rows = [json.loads(line) for line in open(args.data)]
    losses, seconds, tokens = [], [], []
    for step in range(args.steps):
        batch = batch_of([rows[(step * args.batch + i) % len(rows)] for i in range(args.batch)])
        start = time.perf_counter()
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
        losses.append(loss.item())
        tokens.append(int(batch["attention_mask"].sum()))
    # the first step pays for allocations and page faults on both sides
    rate = sum(tokens[1:]) / sum(seconds[1:]) if args.steps > 1 else tokens[0] / seconds[0]
    print(json.dumps({"losses": losses, "tokens_per_second": rate, "about": versions()}))
    if args.out:
        model.save_pretrained(args.out)


if __name__ == "__main__":
    main()
