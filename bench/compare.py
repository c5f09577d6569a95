"""toktune, PEFT and its company in turn on the same rows: tokens a second, peak memory, losses; a Markdown table and plots.

Machines are shared and noisy, so the programs run in turn (A B A B ...), several times. See README.md.
Needs only the standard library; --python is the interpreter that has torch, transformers, peft and matplotlib.
"""

import argparse
import json
import os
import subprocess
import sys

import machine
import report
from jobs import JOBS, PEERS
from models import MODELS, SHAPES
from prepare import prepare, say
from programs import PROGRAMS, Failed

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)


def names(known):
    """An argument type: names out of `known`, separated by commas."""

    def parse(text):
        chosen = text.split(",")
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
        return [name for name in known if name in chosen]

    return parse


def arguments():
    usual = [name for name, job in JOBS.items() if not job.only_named]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", required=True, help="a folder that keeps models and rows")
    parser.add_argument("--gsm8k", help="GSM8K's train.jsonl; needed until the rows are prepared")
    parser.add_argument("--python", default=sys.executable, help="the interpreter with the peer")
    parser.add_argument("--toktune", default=os.path.join(ROOT, "target", "release", "toktune"))
    parser.add_argument("--output", default=os.path.join(ROOT, "out", "bench"), help="a folder for results.json, results.md and the plots")
    parser.add_argument("--jobs", type=names(JOBS), default=usual, help="out of " + ",".join(JOBS) + "; unless named all but prefix-* and the shapes")
    parser.add_argument("--models", type=names(MODELS), default=list(MODELS), help="out of " + ",".join(MODELS) + "; jobs of a shape have their own")
    parser.add_argument("--peers", type=names(PEERS), default=["plain"], help="out of " + ",".join(PEERS) + "; the shapes always have full")
    parser.add_argument("--unsloth-python", help="the interpreter with Unsloth, which wants an older torch than PEFT")
    parser.add_argument("--steps", type=int, default=6, help="of a run; the first is not timed")
    parser.add_argument("--repeats", type=int, default=3, help="turns")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--prepare-only", action="store_true", help="fill the cache and stop")
    return parser.parse_args()


def measure(run, at, args):
    """One run as a record for results.json; a failure is a result too."""
    record = {"model": at.model.name, "run": run.key}
    try:
        record.update(PROGRAMS[run.program](run, at, args))
        say(f"  {run.key}: {record['tokens_per_second']:.1f} tokens/s, {record['peak_memory_bytes'] / 1e9:.2f} GB")
    except Failed as error:
        record["failed"] = str(error)
        say(f"  {run.key}: {error}")
    return record


def write(output, results):
    """After every run, so that an interrupted measurement is not lost."""
    path = os.path.join(output, "results.json")
    with open(path + ".unfinished", "w") as out:
        json.dump(results, out, indent=1)
    os.rename(path + ".unfinished", path)
    with open(os.path.join(output, "results.md"), "w") as out:
        out.write(report.markdown(results))


def measured(args):
    """The models with the runs of each: the chosen ones, and the shapes whose jobs are."""
    jobs = [JOBS[name] for name in args.jobs]
    everywhere = [job for job in jobs if not job.shape]
    chosen = [(MODELS[name], everywhere) for name in args.models] if everywhere or args.prepare_only else []
    for model, own in chosen + [(SHAPES[job.shape], [job]) for job in jobs if job.shape]:
        yield model, list(dict.fromkeys(run for job in own for run in job.runs(args.peers)))


def main():
    args = arguments()
    prepared = [(prepare(args.cache, model, args.python, args.gsm8k), runs) for model, runs in measured(args)]
    if args.prepare_only:
        return
    os.makedirs(args.output, exist_ok=True)
    asked = ("jobs", "peers", "steps", "repeats", "lr", "threads")
    settings = {"models": [at.model.name for at, _ in prepared], **{name: getattr(args, name) for name in asked}}
    results = {"machine": machine.describe(), "settings": settings, "runs": []}
    for at, runs in prepared:
        for turn in range(args.repeats):
            say(f"{at.model.title}, turn {turn + 1} of {args.repeats}")
            for run in runs:
                results["runs"].append(measure(run, at, args))
                write(args.output, results)
    print(report.markdown(results))
    plots = [args.python, os.path.join(HERE, "plot.py"), args.output]
    if subprocess.run(plots).returncode:
        say(f"no plots; once matplotlib is there: {' '.join(plots)}")


if __name__ == "__main__":
    main()
