"""What losses and learning rates of `toktune distill` come to, as a Markdown table.

    bench/distill_sweep.py --binary target/release/toktune --model smollm2-135m --words words.txt --corpus texts.jsonl \\
        --run mse:0.03 kl:0.03 --seeds 42 43 44 --work sweep

A rate is over the root mean square of the embedding's entries, as the default is. `--untie` gives each model a head of its own, a
copy of its embedding. A run whose measurements lie in the work folder is not run again. Needs numpy.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import struct
import subprocess
import sys

import numpy

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
# what a folder of a model has besides its weights
BESIDE = ("generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
BLOCK = 1 << 24


def header(path):
    """The header of a safetensors file, and where its data begin."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length)), 8 + length


def root_mean_square(folder):
    """Of the embedding's entries."""
    path = os.path.join(folder, "model.safetensors")
    tensors, data = header(path)
    entry = tensors[EMBEDDING]
    begin, end = entry["data_offsets"]
    raw = numpy.memmap(path, numpy.uint8, "r", data + begin, (end - begin,))
    total = 0.0
    for at in range(0, len(raw), BLOCK):
        part = raw[at : at + BLOCK]
        if entry["dtype"] == "BF16":
            values = (part.view("<u2").astype(numpy.uint32) << 16).view(numpy.float32)
        else:
            values = part.view({"F16": "<f2", "F32": "<f4"}[entry["dtype"]])
        total += float(numpy.square(values, dtype=numpy.float64).sum())
    return math.sqrt(total / math.prod(entry["shape"]))


def untie(folder, to):
    """A model with the same weights whose head is a matrix of its own."""
    if os.path.exists(os.path.join(to, "config.json")):
        return
    os.makedirs(to, exist_ok=True)
    source = os.path.join(folder, "model.safetensors")
    tensors, data = header(source)
    tensors.pop(HEAD, None)
    begin, end = tensors[EMBEDDING]["data_offsets"]
    size = os.path.getsize(source) - data
    tensors[HEAD] = dict(tensors[EMBEDDING], data_offsets=[size, size + end - begin])
    text = json.dumps(tensors).encode()
    text += b" " * (-len(text) % 8)
    with open(source, "rb") as read, open(os.path.join(to, "model.safetensors"), "wb") as write:
        write.write(struct.pack("<Q", len(text)) + text)
        read.seek(data)
        shutil.copyfileobj(read, write)
        read.seek(data + begin)
        for at in range(begin, end, BLOCK):
            write.write(read.read(min(BLOCK, end - at)))
    for name in BESIDE:
        if os.path.exists(os.path.join(folder, name)):
            shutil.copy(os.path.join(folder, name), to)
    with open(os.path.join(folder, "config.json")) as file:
        config = json.load(file)
    # last: a folder with it is whole
    with open(os.path.join(to, "config.json"), "w") as file:
        json.dump({**config, "tie_word_embeddings": False}, file, indent=2)


def measured(args, folder, loss, rate, seed):
    """The measurements of one run."""
    name = f"{os.path.basename(folder)}-{loss}-{rate}-{seed}"
    output = os.path.join(args.work, "runs", name)
    path = os.path.join(output, "distillation.json")
    if not os.path.exists(path):
        shutil.rmtree(output, ignore_errors=True)
        command = [args.binary, "distill", "--model", folder, "--words", args.words, "--corpus", args.corpus]
        command += ["--output", output, "--loss", loss, "--seed", str(seed), "--log-format", "json"]
        command += ["--learning-rate", repr(rate * root_mean_square(folder)), *args.more]
        with open(os.path.join(args.work, f"{name}.log"), "w") as log:
            subprocess.run(command, stdout=log, stderr=log, check=True)
    with open(path) as file:
        return json.load(file)


def row(name, loss, rate, runs):
    """A line of the table: the mean of the runs, and the least and the most where there are several."""

    def cell(values, digits):
        text = f"{statistics.mean(values):.{digits}f}"
        if len(values) > 1:
            text += f" ({min(values):.{digits}f} to {max(values):.{digits}f})"
        return text

    cells = [
        cell([100 * run["loss_gap_closed"] for run in runs], 0) + " %",
        cell([100 * run["kl_closed"] for run in runs], 0) + " %",
        cell([100 * run["after"]["leak"] for run in runs], 2) + " %",
        cell([run["seconds"] for run in runs], 0) + " s",
    ]
    return f"| {name} | `{loss}` | {rate} | {len(runs)} | " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--model", required=True, nargs="+", help="folders with model.safetensors")
    parser.add_argument("--untie", action="store_true")
    parser.add_argument("--words", required=True)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--run", required=True, nargs="+", metavar="LOSS:RATE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--work", required=True, help="a folder for what the runs leave")
    parser.add_argument("more", nargs="*", help="further flags of distill, behind --")
    args = parser.parse_args()

    os.makedirs(os.path.join(args.work, "runs"), exist_ok=True)
    print("| model | loss | rate | seeds | gap closed | divergence gone | where none belongs | time |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for folder in (model.rstrip("/") for model in args.model):
        if args.untie:
            tied, folder = folder, os.path.join(args.work, os.path.basename(folder) + "-untied")
            untie(tied, folder)
        for loss, rate in (run.rsplit(":", 1) for run in args.run):
            runs = [measured(args, folder, loss, float(rate), seed) for seed in args.seeds]
            print(row(os.path.basename(folder), loss, rate, runs), flush=True)


if __name__ == "__main__":
    sys.exit(main())
