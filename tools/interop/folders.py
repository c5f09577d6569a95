"""Folders across the border: what toktune makes of a model's folder is opened by the library that the folder is for.

    cargo build --release -p toktune-cli
    python tools/interop/folders.py [--toktune target/release/toktune] [--encoder FOLDER]

For every committed model that reads images too, an adapter of toktune's is loaded by PEFT, and its merged folder by
transformers; the losses must agree. `--encoder` is a sentence encoder (all-MiniLM-L6-v2, say): a word is added and trained,
and sentence-transformers opens the merged folder, with each of its poolings too.

Needs the versions of requirements.txt, and sentence-transformers 6.2 for `--encoder`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText
from transformers.utils import logging

FIXTURES = Path(__file__).resolve().parents[2] / "crates" / "toktune" / "tests" / "fixtures"
IMAGES = ["gemma3_images", "llava", "mistral3", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
POOLINGS = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", ["cls", "mean", "max"]]
TOLERANCE = 1e-5
SCALE = 20.0


class Toktune:
    def __init__(self, binary):
        self.binary = binary

    def run(self, *command):
        done = subprocess.run([self.binary, *map(str, command)], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"toktune {' '.join(map(str, command))}: {done.stderr}")
        return done.stdout

    def loss(self, model, rows, *more):
        out = self.run("eval", "--model", model, "--data", rows, "--precision", "f32", "--log-format", "json", *more)
        return json.loads([line for line in out.splitlines() if line.startswith("{")][-1])["loss"]


def causal_loss(model, path):
    """Mean over all labels, one row at a time."""
    total = labels = 0
    model.eval()
    for line in path.read_text().splitlines():
        row = json.loads(line)
        batch = {key: torch.tensor([row[key]]) for key in ("input_ids", "labels")}
        count = int((batch["labels"][:, 1:] != -100).sum())
        with torch.no_grad():
            total, labels = total + model(**batch).loss.item() * count, labels + count
    return total / labels


def images(toktune, folder, report):
    for name in IMAGES:
        model, rows = FIXTURES / name, FIXTURES / name / "rows.jsonl"
        adapter, merged = folder / f"{name}-adapter", folder / f"{name}-merged"
        toktune.run("train", "--model", model, "--data", rows, "--output", adapter, "--token-ids", "5,7,31",
                    "--lora-r", "2", "--lora-target-modules", "q_proj,v_proj", "--max-steps", "4")  # fmt: skip
        toktune.run("merge", "--model", model, "--adapter", adapter, "--output", merged)
        ours = toktune.loss(model, rows, "--adapter", adapter)
        base = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            peft = PeftModel.from_pretrained(base, adapter)
        keys = [str(w.message) for w in told if "key" in str(w.message)]
        assert not keys, f"{name}: {keys}"
        report(f"{name}, adapter in PEFT", ours, causal_loss(peft, rows))
        theirs = AutoModelForImageTextToText.from_pretrained(merged, dtype=torch.float32)
        report(f"{name}, merged in transformers", ours, causal_loss(theirs, rows))
        report(f"{name}, merged in toktune", ours, toktune.loss(merged, rows))


def pair_loss(folder, rows):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    side = lambda key: torch.nn.functional.normalize(model.encode([r[key] for r in rows], convert_to_tensor=True), dim=-1)
    return torch.nn.functional.cross_entropy(SCALE * side("anchor") @ side("positive").T, torch.arange(len(rows))).item()


def encoder(toktune, source, folder, report):
    words = "apples rivers mountains books cities".split()
    rows = [{"anchor": f"the zorblax of {word}", "positive": f"{word} has a zorblax indeed"} for word in words]
    path, adapter, merged = folder / "pairs.jsonl", folder / "adapter", folder / "merged"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    toktune.run("train", "--model", source, "--data", path, "--output", adapter, "--add-token", "zorblax", "--max-steps", "3")
    toktune.run("merge", "--model", source, "--adapter", adapter, "--output", merged)
    report("encoder, merged", toktune.loss(source, path, "--adapter", adapter), pair_loss(merged, rows))
    for modes in POOLINGS:
        other = folder / "pooled"
        shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(source, other)
        config = other / "1_Pooling" / "config.json"
        width = json.loads((other / "config.json").read_text())["hidden_size"]
        config.write_text(json.dumps({"embedding_dimension": width, "pooling_mode": modes, "include_prompt": True}))
        report(f"encoder, {modes}", toktune.loss(other, path), pair_loss(other, rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toktune", default="target/release/toktune")
    parser.add_argument("--encoder", type=Path, help="a folder of sentence-transformers")
    args = parser.parse_args()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    failed = []

    def report(what, ours, theirs):
        far = abs(ours - theirs) > TOLERANCE * abs(theirs) + 1e-7
        failed.extend([what] if far else [])
        print(f"| {what} | {ours:.7f} | {theirs:.7f} |", flush=True)

    print("| what | toktune | the other |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        images(Toktune(args.toktune), Path(folder), report)
        if args.encoder:
            encoder(Toktune(args.toktune), args.encoder, Path(folder), report)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
