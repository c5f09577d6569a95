"""The same job with HuggingFace PEFT: a plain torch loop over pre-tokenised rows, right padding.

Rows are JSON lines {"input_ids", "labels"}, taken in file order. Prints one JSON object with the losses, the real
(unpadded) tokens a second over all steps but the first, and the versions; --out saves the adapter. With --lora the tokens are
trained beside LoRA on all linear layers; --adapter goes on from a saved adapter. With --accumulation a step has several
batches, and its loss is the mean over the labels of all of them.
"""

import argparse
import json
import platform
import time

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, TrainableTokensConfig, get_peft_model
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


def adapted(base, args):
    if args.adapter:
        return PeftModel.from_pretrained(base, args.adapter, is_trainable=True)
    tokens = [int(t) for t in args.tokens.split(",")]
    if not args.lora:
        return get_peft_model(base, TrainableTokensConfig(token_indices=tokens))
    of = dict(r=args.lora, lora_alpha=2 * args.lora, lora_dropout=0.0, target_modules="all-linear")
    return get_peft_model(base, LoraConfig(**of, trainable_token_indices=tokens, task_type="CAUSAL_LM"))


def label_count(batch):
    """What the model's loss is a mean over: the first position's label has nothing before it."""
    return int((batch["labels"][:, 1:] != -100).sum())


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
    parser.add_argument("--data", help="needed for steps")
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--accumulation", type=int, default=1, help="batches of a step")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--lora", type=int, default=0, help="the rank of LoRA beside the tokens")
    parser.add_argument("--adapter", help="go on from this adapter")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype))
    model = adapted(base, args)
    model.config.use_cache = False
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=args.lr, weight_decay=0.0)
    rows = [json.loads(line) for line in open(args.data)] if args.steps else []
    losses, seconds, tokens = [], [], []
    for step in range(args.steps):
        taken = args.batch * args.accumulation
        own = [rows[(step * taken + i) % len(rows)] for i in range(taken)]
        batches = [batch_of(own[at : at + args.batch]) for at in range(0, taken, args.batch)]
        labels = sum(map(label_count, batches))
        start = time.perf_counter()
        optimizer.zero_grad()
        total = 0.0
        for batch in batches:
            loss = model(**batch).loss * (label_count(batch) / labels)
            loss.backward()
            total += loss.item()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
        losses.append(total)
        tokens.append(sum(int(batch["attention_mask"].sum()) for batch in batches))
    # the first step pays for allocations and page faults on both sides
    timed = slice(1, None) if args.steps > 1 else slice(None)
    rate = sum(tokens[timed]) / sum(seconds[timed]) if seconds else None
    print(json.dumps({"losses": losses, "tokens_per_second": rate, "about": versions()}))
    if args.out:
        model.save_pretrained(args.out)


if __name__ == "__main__":
    main()
