"""How a run of several processes scales: the cost model of docs/scaling.md, simulated for 2 to 1,024 of them, and held against
runs on this machine.

    bench/scaling.py --rows smollm2-135m-gsm8k.jsonl --table --plot docs/images/scaling.png
    bench/scaling.py --rows smollm2-135m-gsm8k.jsonl --measure --toktune target/release/toktune --model smollm2-135m --work scaling

Rows are `{"input_ids": [...]}`. Needs numpy, matplotlib for the plot, and mpirun with a program built with the feature `mpi` to
measure.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess

import numpy

# of one process on 2 cores of the machine of docs/performance.md, tokens a second; of a network, seconds and bytes a second
RATE = 700.0
LATENCY, BANDWIDTH = 30e-6, 1.0e9
# adding and updating, bytes a second
ADDING = 2.0e9


def placed(costs, lanes):
    """What lies in each lane: as `crates/toktune/src/workers/lanes.rs` places it."""
    order = sorted(range(min(len(costs), lanes)), key=lambda at: (-costs[at], at))
    found = [None] * lanes

    def place(batches, first, count):
        if count == 1:
            found[first] = batches[0] if batches else None
            return
        left = -(-count // 2)
        sides = ([], [])
        sums = [0, 0]
        for batch in batches:
            side = 0 if len(sides[1]) == count - left or (len(sides[0]) < left and sums[0] <= sums[1]) else 1
            sides[side].append(batch)
            sums[side] += costs[batch]
        place(sides[0], first, left)
        place(sides[1], first + left, count - left)

    place(order, 0, lanes)
    return found


def work(costs, lanes, processes):
    """The cost that each process has of a step."""
    lane = placed(costs, lanes)
    bounds = [at * lanes // processes for at in range(processes + 1)]
    return [sum(costs[batch] for batch in lane[a:b] if batch is not None) for a, b in zip(bounds, bounds[1:])]


def talking(processes, step_bytes):
    """Seconds that a step's messages take: sums up the tree, the sum down again, and a few bytes both ways for what is agreed on."""
    levels = (processes - 1).bit_length()
    up = levels * (LATENCY + step_bytes / BANDWIDTH + step_bytes / ADDING)
    down = levels * (LATENCY + step_bytes / BANDWIDTH)
    return up + down + 2 * levels * LATENCY


def step(costs, lanes, processes, step_bytes, rate=RATE):
    """Seconds of a step, and the share of them in which a process computes, a mean over all."""
    each = numpy.array(work(costs, lanes, processes)) / rate
    seconds = each.max() + (talking(processes, step_bytes) if processes > 1 else 0.0)
    return seconds, float(each.mean() / seconds)


def chats(random, count):
    """Lengths of long conversations: log-normal, a median of 1,200 tokens, at most 8,192."""
    return numpy.minimum(8192, random.lognormal(numpy.log(1200), 0.8, count)).astype(int) + 16


def micro_batches(draw, random, count, rows):
    """Costs of micro-batches: the tokens of their rows."""
    return [int(sum(of)) for of in draw(random, count * rows).reshape(count, rows)]


JOBS = (
    # what is drawn, rows a micro-batch, bytes a step
    ("GSM8K, 8 rows a micro-batch, 3 tokens", "gsm8k", 8, 3 * 576 * 4),
    ("GSM8K, 8 rows, LoRA r 16 on all layers of a 7B model", "gsm8k", 8, 40_000_000 * 4),
    ("long chats, 1 row, 3 tokens", "chats", 1, 3 * 576 * 4),
)


def efficiency(draw, rows, step_bytes, processes, each, steps=40):
    """The mean share of a step in which processes compute, each of which has so many micro-batches."""
    random = numpy.random.default_rng(processes)
    found = []
    for _ in range(steps):
        costs = micro_batches(draw, random, processes * each, rows)
        found.append(step(costs, processes * each, processes, step_bytes)[1])
    return statistics.mean(found)


def simulated(lengths):
    draws = {"gsm8k": lambda random, count: random.choice(lengths, count), "chats": chats}
    counts = [2, 4, 8, 16, 64, 256, 1024]
    table = {}
    for title, draw, rows, step_bytes in JOBS:
        for each in (1, 4, 16):
            table[title, each] = [efficiency(draws[draw], rows, step_bytes, count, each) for count in counts]
    return counts, table


def shown(counts, table):
    print("| job | micro-batches of a process | " + " | ".join(f"{count:,}" for count in counts) + " |")
    print("| --- | --- |" + " --- |" * len(counts))
    for (title, each), row in table.items():
        print(f"| {title} | {each} | " + " | ".join(f"{100 * of:.0f} %" for of in row) + " |")


def plotted(counts, table, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(JOBS), figsize=(12, 3.6), sharey=True, layout="constrained")
    for axis, (title, *_) in zip(axes, JOBS):
        for each in (1, 4, 16):
            axis.plot(counts, [100 * of for of in table[title, each]], marker="o", markersize=3, label=f"{each} each")
        axis.set_xscale("log", base=2)
        axis.set_title(title.replace(", ", "\n", 1), fontsize=9)
        axis.set_xlabel("processes")
        axis.set_ylim(0, 105)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share of a step that is computing, %")
    axes[0].legend(fontsize=8, title="micro-batches", title_fontsize=8)
    figure.savefig(path, dpi=130)


def shared(each, cores):
    """When processes with so much work end that share some cores evenly, one thread each."""
    left, ends, now = dict(enumerate(each)), [0.0] * len(each), 0.0
    while left:
        speed = min(1.0, cores / len(left))
        least = min(left.values())
        now += least / speed
        for process in [process for process, rest in left.items() if rest <= least + 1e-12]:
            ends[process] = now
            del left[process]
        left = {process: rest - least for process, rest in left.items()}
    return ends


def measured(args, lengths):
    """Runs of 1 to 8 processes on this machine, one thread each, and what the model says of their waiting."""
    cores = os.cpu_count()
    print("| processes | seconds a step | waiting, a mean over all, measured | from the lengths alone | with one thread of each on "
          f"{cores} cores |\n| --- | --- | --- | --- | --- |")
    for processes in args.processes:
        shares, seconds = [], []
        for turn in range(args.turns):
            output = os.path.join(args.work, f"{processes}-{turn}")
            shutil.rmtree(output, ignore_errors=True)
            command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(processes), args.toktune, "train", "--model", args.model]
            command += ["--data", args.rows, "--token-ids", args.tokens, "--output", output, "--batch-size", str(args.batch_size)]
            command += ["--gradient-accumulation-steps", str(args.micro_batches), "--max-steps", str(args.steps), "--threads", "1"]
            command += ["--shuffle", "false", "--share-prefixes", "false", "--log-format", "json", "--allow-unseen"]
            told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            end = json.loads([line for line in told.splitlines() if '"event":"end"' in line][-1])
            seconds.append(end["seconds"] / args.steps)
            shares.append(statistics.mean(end["waited_seconds"] or [0.0]) / end["seconds"])
        per_step = args.batch_size * args.micro_batches
        alone, oversubscribed = [], []
        for at in range(args.steps):
            rows = lengths[at * per_step : (at + 1) * per_step].reshape(args.micro_batches, args.batch_size)
            each = work([int(of.sum()) for of in rows], args.micro_batches, processes)
            alone.append(1 - statistics.mean(each) / max(each))
            ends = shared(each, cores)
            oversubscribed.append(1 - statistics.mean(ends) / max(ends))
        spread = f"{100 * min(shares):.0f} to {100 * max(shares):.0f} %"
        print(
            f"| {processes} | {statistics.median(seconds):.2f} | {100 * statistics.median(shares):.0f} % ({spread}) | "
            f"{100 * statistics.mean(alone):.0f} % | {100 * statistics.mean(oversubscribed):.0f} % |",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--plot")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--toktune")
    parser.add_argument("--model")
    parser.add_argument("--tokens", default="7,8,9")
    parser.add_argument("--work", default="scaling")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--micro-batches", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    with open(args.rows, encoding="utf-8") as file:
        lengths = numpy.array([len(json.loads(line)["input_ids"]) for line in file])
    if args.table or args.plot:
        counts, table = simulated(lengths)
        if args.table:
            shown(counts, table)
        if args.plot:
            plotted(counts, table, args.plot)
    if args.measure:
        os.makedirs(args.work, exist_ok=True)
        measured(args, lengths)


if __name__ == "__main__":
    main()
