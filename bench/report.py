"""results.json in words: medians, spreads, ratios, and what they were measured on.

python3 bench/report.py DIR     writes DIR/results.md again
"""

import json
import os
import statistics
import sys
from dataclasses import dataclass

from jobs import JOBS
from models import MODELS


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
class Pair:
    """A job on a model: toktune's summary and PEFT's (nothing where one has no result)."""

    model: str
    job: str
    toktune: Summary
    peft: Summary

    @property
    def speed(self):
        return self.toktune.rate / self.peft.rate

    @property
    def saving(self):
        return self.peft.memory / self.toktune.memory

    @property
    def loss_difference(self):
        """The largest relative difference of a loss, over all steps and turns."""
        steps = [ab for turn in zip(self.toktune.losses, self.peft.losses) for ab in zip(*turn)]
        return max(abs(a - b) / abs(b) for a, b in steps)


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


def pairs(results, model):
    """The jobs against PEFT on one model."""
    for name in results["settings"]["jobs"]:
        job = JOBS[name]
        if job.peft:
            yield Pair(model, name, summary(results, model, job.toktune[0]), summary(results, model, job.peft))


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


def compared(pair):
    """The last cells of a line: ratios and the difference of the losses."""
    if not (pair.toktune.rates and pair.peft.rates):
        return " |  | "
    return f"**{pair.speed:.2f}x** | 1/{pair.saving:.1f} | {pair.loss_difference:.1e}"


def pair_table(results, model):
    yield "| job | toktune, tokens/s | PEFT, tokens/s | toktune, GB | PEFT, GB | speed | memory | losses differ by |"
    yield "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |"
    for pair in pairs(results, model):
        cells = [pair.job, spread(pair.toktune), spread(pair.peft), memory(pair.toktune), memory(pair.peft)]
        yield f"| {' | '.join(cells)} | {compared(pair)} |"


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


def setting(results):
    """How it was measured, one item a line."""
    of, how = results["machine"], results["settings"]
    yield f"{of['cpu']}, {of['cores']} cores, {of['memory_gb']} GB, {of['system']}; load before: {of['load_before']}"
    yield from versions(results)
    timed = "the first is not timed" if how["steps"] > 1 else "and that is timed, start-up costs and all"
    yield f"turns: {how['repeats']}; steps a run: {how['steps']} ({timed}); threads: {how['threads']}; AdamW at {how['lr']}"


def title(name):
    return MODELS[name].title


def markdown(results):
    """The whole report."""
    lines = ["# toktune beside PEFT", ""]
    lines += [f"- {item}" for item in setting(results)]
    lines += ["", "Median (lowest to highest) of the turns; ratios are of medians. GB: largest resident set of the process."]
    how = results["settings"]
    for name in how["models"]:
        lines += ["", f"## {title(name)}", ""]
        if any(True for _ in pairs(results, name)):
            lines += [*pair_table(results, name), ""]
        if "long" in how["jobs"]:
            lines += ["toktune alone, one row a step:", "", *length_table(results, name)]
    lines += ["", "Jobs (8 rows a step unless said otherwise):", ""]
    lines += [f"- {name}: {JOBS[name].about}" for name in how["jobs"]]
    failures = [f"- {r['model']}, {r['run']}: {r['failed']}" for r in results["runs"] if "failed" in r]
    if failures:
        lines += ["", "Failed:", "", *dict.fromkeys(failures)]
    return "\n".join(lines) + "\n"


def main():
    folder = sys.argv[1]
    with open(os.path.join(folder, "results.json")) as file:
        results = json.load(file)
    with open(os.path.join(folder, "results.md"), "w") as out:
        out.write(markdown(results))


if __name__ == "__main__":
    main()
