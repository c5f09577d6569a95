"""results.json in words: medians, spreads, ratios, and what they were measured on.

python3 bench/report.py DIR     writes DIR/results.md again
"""

import json
import os
import statistics
import sys
from dataclasses import dataclass

from jobs import JOBS, PEERS
from models import MODELS, SHAPES

TITLES = {
    "toktune-min": "toktune, `--memory-budget min`",
    "PEFT-checkpointing": "PEFT, gradient checkpointing",
    "PEFT-compile": "PEFT, torch.compile",
    "full-matrix": "torch, full embedding matrix",
}
FULL = PEERS["full"]
PYTHONS = [program for program in PEERS.values() if program != FULL]
TOKTUNES = ("toktune", "toktune-min")


@dataclass
class Summary:
    """All turns of one run."""

    rates: list
    memories: list  # GB
    losses: list  # of each turn
    failures: list

    @property
    def rate(self):
        return statistics.median(self.rates)

    @property
    def memory(self):
        return statistics.median(self.memories)


@dataclass
class Side:
    """A program's part of a comparison."""

    program: str
    summary: Summary

    @property
    def title(self):
        return TITLES.get(self.program, self.program)


@dataclass
class Comparison:
    """A job on a model: toktune by default, then its other budgets, then the peers."""

    model: str
    job: str
    sides: list

    def side(self, program):
        """The summary of a program, empty where it was not run."""
        return next((side.summary for side in self.sides if side.program == program), Summary([], [], [], []))

    @property
    def toktune(self):
        return self.side("toktune")

    @property
    def peft(self):
        return self.side("PEFT")

    @property
    def speed(self):
        return self.toktune.rate / self.peft.rate

    @property
    def saving(self):
        return self.peft.memory / self.toktune.memory

    def pythons(self):
        """The ways of Python to the same result; the full matrix is another one."""
        return [side for side in self.sides if side.program in PYTHONS and side.summary.rates]

    def fastest_python(self):
        return max(self.pythons(), key=lambda side: side.summary.rate, default=None)

    def leanest_python(self):
        return min(self.pythons(), key=lambda side: side.summary.memory, default=None)

    def loss_difference(self, side):
        """The largest relative difference of a loss from toktune's: of all steps and turns, or of the first step where other
        parameters are trained."""
        turns = zip(self.toktune.losses, side.summary.losses)
        compared = [list(zip(*turn)) for turn in turns]
        return max(abs(a - b) / abs(b) for turn in compared for a, b in turn[: None if side.program != FULL else 1])


def summary(results, model, run):
    """What is known of a run so far."""
    records = [r for r in results["runs"] if (r["model"], r["run"]) == (model, run.key)]
    good = [r for r in records if "failed" not in r]
    return Summary(
        [r["tokens_per_second"] for r in good],
        [r["peak_memory_bytes"] / 1e9 for r in good],
        [r["losses"] for r in good],
        [r["failed"] for r in records if "failed" in r],
    )


def comparisons(results, model):
    """The jobs with peers on one model."""
    for name in results["settings"]["jobs"]:
        job = JOBS[name]
        if job.peft and (model == job.shape if job.shape else model in MODELS):
            runs = job.runs(results["settings"]["peers"])
            yield Comparison(model, name, [Side(run.program, summary(results, model, run)) for run in runs])


def lengths(results, model):
    """`(length, summary)` of toktune alone, for every length that has a result."""
    if "long" not in results["settings"]["jobs"]:
        return []
    found = [(int(run.rows.split("-")[1]), summary(results, model, run)) for run in JOBS["long"].toktune]
    return [(n, of) for n, of in found if of.rates]


def spread(of, digits=1):
    """Median and range, or why there is none."""
    if not of.rates:
        return "failed" if of.failures else "not run"
    return f"{of.rate:.{digits}f} ({min(of.rates):.{digits}f} to {max(of.rates):.{digits}f})"


def memory(of):
    return f"{of.memory:.2f}" if of.memories else ""


def beside(comparison, side):
    """The last cells of a line: toktune's rate over this one's, this one's memory over toktune's, and the losses."""
    toktune, other = comparison.toktune, side.summary
    if side.program == "toktune" or not (toktune.rates and other.rates):
        return ["", "", ""]
    difference = f"{comparison.loss_difference(side):.1e}" + (" (first step)" if side.program == FULL else "")
    return [f"**{toktune.rate / other.rate:.2f}x**", f"{other.memory / toktune.memory:.1f}x", difference]


def table(results, model):
    yield "| job | program | tokens/s | GB | toktune's speed over it | its memory over toktune's | losses differ by |"
    yield "| --- | --- | --- | ---: | ---: | ---: | ---: |"
    for comparison in comparisons(results, model):
        job = comparison.job
        for side in comparison.sides:
            cells = [job, side.title, spread(side.summary), memory(side.summary), *beside(comparison, side)]
            yield f"| {' | '.join(cells)} |"
            job = ""


def best_python(comparison):
    """toktune beside the best that Python can do, with its name, where there was a choice."""
    fastest, leanest = comparison.fastest_python(), comparison.leanest_python()
    ours = [side for side in comparison.sides if side.program in TOKTUNES and side.summary.rates]
    if len(comparison.pythons()) < 2 or not ours:
        return
    rates = ", ".join(f"{side.title} {side.summary.rate / fastest.summary.rate:.2f} times its rate" for side in ours)
    memories = ", ".join(f"{side.title} {side.summary.memory / leanest.summary.memory:.2f} times its memory" for side in ours)
    yield f"- {comparison.job}: the best Python for speed is {fastest.title} ({rates}), for memory {leanest.title} ({memories})"


def length_table(results, model):
    yield "| tokens in the row | tokens/s | GB |"
    yield "| ---: | --- | ---: |"
    for length, of in lengths(results, model):
        yield f"| {length} | {spread(of)} | {memory(of)} |"


def versions(results):
    """What the programs said of themselves, from the first run of each that succeeded."""
    def about(program):
        mine = (r["about"] for r in results["runs"] if r["run"].startswith(program) and "about" in r)
        return next(mine, None)

    auto = next((r["about"] for r in results["runs"] if r["run"].startswith("toktune/auto") and "about" in r), None)
    if toktune := about("toktune"):
        means = f"; auto means {auto['precision']} here" if auto else ""
        if auto and auto["precision"] == "f32" and about("PEFT"):
            means += " (no bf16 instructions: bf16 is slow for PEFT, f32 | f32 is the fair pair)"
        yield f"toktune, checkout {results['machine']['commit']}; instruction set {toktune['instruction_set']}{means}"
    if peft := about("PEFT"):
        packages = ", ".join(f"{name} {peft[name]}" for name in ("peft", "transformers", "torch", "python"))
        yield f"{packages}; torch runs with {peft['cpu_capability']}"
    if unsloth := about("Unsloth"):
        yield ", ".join(f"{name} {unsloth[name]}" for name in ("unsloth", "torch", "transformers"))


def setting(results):
    """How it was measured, one item a line."""
    of, how = results["machine"], results["settings"]
    yield f"{of['cpu']}, {of['cores']} cores, {of['memory_gb']} GB, {of['system']}; load before: {of['load_before']}"
    yield from versions(results)
    timed = "the first is not timed" if how["steps"] > 1 else "and that is timed, start-up costs and all"
    yield f"turns: {how['repeats']}; steps a run: {how['steps']} ({timed}); threads: {how['threads']}; AdamW at {how['lr']}"


def title(name):
    return (MODELS | SHAPES)[name].title


def markdown(results):
    """The whole report."""
    lines = ["# toktune beside PEFT", ""]
    lines += [f"- {item}" for item in setting(results)]
    lines += ["", "Median (lowest to highest) of the turns; ratios are of medians. GB: largest resident set of the process."]
    how = results["settings"]
    for name in how["models"]:
        lines += ["", f"## {title(name)}", ""]
        if compared := list(comparisons(results, name)):
            lines += [*table(results, name), ""]
            best = [line for comparison in compared for line in best_python(comparison)]
            lines += [*best, ""] if best else []
        if "long" in how["jobs"] and name in MODELS:
            lines += ["toktune alone, one row a step:", "", *length_table(results, name)]
    lines += ["", "Jobs (8 rows a step unless said otherwise):", ""]
    lines += [f"- {name}: {JOBS[name].about}" for name in how["jobs"]]
    failures = [f"- {r['model']}, {r['run']}: {r['failed']}" for r in results["runs"] if "failed" in r]
    if failures:
        lines += ["", "Failed:", "", *dict.fromkeys(failures)]
    return "\n".join(lines) + "\n"


def load(folder):
    with open(os.path.join(folder, "results.json")) as file:
        return json.load(file)


def main():
    folder = sys.argv[1]
    with open(os.path.join(folder, "results.md"), "w") as out:
        out.write(markdown(load(folder)))


if __name__ == "__main__":
    main()
