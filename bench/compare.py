"""toktune and PEFT in turn on the same rows: tokens a second, peak memory, losses. Writes a Markdown table.

Machines are shared and noisy, so the two run in turn (A B A B ...), several times; medians and the spread are given.
Needs only the standard library; --python is the interpreter that has torch, transformers and peft.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


def toktune(args):
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out")
        command = [
            args.toktune, "train", "--model", args.gguf or args.model, "--data", args.data, "--output", out,
            "--token-ids", args.tokens, "--batch-size", str(args.batch), "--max-steps", str(args.steps),
            "--learning-rate", str(args.lr), "--shuffle", "false", "--max-grad-norm", "0",
            "--precision", args.precision, "--threads", str(args.threads), "--log-format", "json",
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        steps = [json.loads(line) for line in open(os.path.join(out, "train_log.jsonl"))]
    timed = steps[1:] or steps
    return {
        "losses": [s["loss"] for s in steps],
        "tokens_per_second": sum(s["tokens"] for s in timed) / sum(s["seconds"] for s in timed),
        "peak_memory_bytes": steps[-1]["peak_memory_bytes"],
    }


def peft(args):
    command = [
        args.python, os.path.join(HERE, "peft_peer.py"), "--model", args.model, "--data", args.data,
        "--tokens", args.tokens, "--dtype", args.dtype, "--batch", str(args.batch), "--steps", str(args.steps),
        "--lr", str(args.lr), "--threads", str(args.threads),
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def cpu_name():
    try:
        names = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toktune", default="target/release/toktune")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--model", required=True, help="a HuggingFace folder, for both sides")
    parser.add_argument("--gguf", help="let toktune read this GGUF file instead")
    parser.add_argument("--data", required=True, help='JSON lines {"input_ids", "labels"}')
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--dtype", default="float32", help="PEFT's")
    parser.add_argument("--precision", default="f32", help="toktune's")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()

    sides = {"toktune": toktune, "PEFT": peft}
    runs = {name: [] for name in sides}
    for turn in range(args.repeats):
        for name, run in sides.items():
            runs[name].append(run(args))
            last = runs[name][-1]
            print(f"{turn + 1}/{args.repeats} {name}: {last['tokens_per_second']:.1f} tokens/s", file=sys.stderr)

    print(f"{cpu_name()}, {args.threads} threads; batch {args.batch}, {args.steps} steps, {args.repeats} runs in turn\n")
    print("| | tokens/s, median (lowest to highest) | peak memory |\n| --- | --- | --- |")
    median = {}
    for name in sides:
        rates = [r["tokens_per_second"] for r in runs[name]]
        memory = statistics.median(r["peak_memory_bytes"] for r in runs[name]) / 1e9
        median[name] = (statistics.median(rates), memory)
        label = f"{name} ({args.precision if name == 'toktune' else args.dtype})"
        print(f"| {label} | {median[name][0]:.1f} ({min(rates):.1f} to {max(rates):.1f}) | {memory:.2f} GB |")
    speed = median["toktune"][0] / median["PEFT"][0]
    print(f"| ratio | {speed:.2f}x | 1/{median['PEFT'][1] / median['toktune'][1]:.1f} |")
    pairs = zip(runs["toktune"][0]["losses"], runs["PEFT"][0]["losses"])
    print(f"\nLargest relative difference of a loss: {max(abs(a - b) / b for a, b in pairs):.1e}")


if __name__ == "__main__":
    main()
