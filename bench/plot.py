"""results.json as plots, by the peer's interpreter: comparison (PEFT beside toktune), length and headline, as .png and .svg.

python bench/plot.py DIR [MORE...]        the headline takes from the others what DIR has not
python bench/plot.py --learning DIR       the results of learning_cost.py: learning.png and .svg
"""

import os
import statistics
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend must be chosen first)

import learning_report  # noqa: E402  (the folder of this file is on the path)
import report  # noqa: E402
from jobs import JOBS  # noqa: E402

PEFT, TOKTUNE = "#a8adb5", "#d9622b"
MODELS = (TOKTUNE, "#2b6cd9")
WIDTH = 0.38

# The first picture: models and jobs, with what stands above them.
HEADLINE = {
    ("opt-125m", "opt-125m"): "OPT-125M (random weights): 8 rows of 128 tokens, nothing to skip",
    ("gemma-2-2b", "gemma-2-2b"): "Gemma-2-2B (random weights): 1 row of 256 tokens, nothing to skip",
    ("smollm2-135m", "gsm8k"): "SmolLM2-135M: 8 rows of GSM8K, answers learnt",
    ("gemma3-270m", "gsm8k"): "Gemma-3-270M: 8 rows of GSM8K, answers learnt",
}
FULL, BEST, LEAN = "#d5d8dd", "#6f7782", "#eba27d"
LEARNING = {"toktune-bf16": TOKTUNE, "PEFT-bf16": "#6f7782", "PEFT-f32": "#2b6cd9"}
SMOOTHED = 20  # steps whose mean a point of the learning plot is


def number(x):
    return f"{x:,.0f}" if x >= 100 else f"{x:.1f}" if x >= 10 else f"{x:.2f}"


def bars(axes, at, color, label, samples):
    """A bar of medians for each group, with its spread and its number; a group without samples has none."""
    for x, values in zip(at, samples):
        if not values:
            axes.text(x, 0, "no result", rotation=90, ha="center", va="bottom", fontsize=8, color="#777777")
            continue
        middle = statistics.median(values)
        axes.bar(x, middle, WIDTH, color=color, label=label)
        label = None
        if len(values) > 1:
            spread = [[middle - min(values)], [max(values) - middle]]
            axes.errorbar(x, middle, spread, color="#333333", capsize=3, linewidth=1)
        axes.annotate(number(middle), (x, max(values)), (0, 2), textcoords="offset points", ha="center", fontsize=8)


def ratios(axes, pairs, values_of, text_of):
    """The ratio of the medians, above both bars of a group."""
    for x, pair in enumerate(pairs):
        if pair.toktune.rates and pair.peft.rates:
            top = max(values_of(pair.toktune) + values_of(pair.peft))
            axes.annotate(
                text_of(pair), (x, top), (0, 15), textcoords="offset points", ha="center", fontsize=11, weight="bold"
            )


def panel(axes, pairs, values_of, text_of, title):
    """PEFT and toktune for each job, of one quantity."""
    places = range(len(pairs))
    bars(axes, [x - WIDTH / 2 for x in places], PEFT, "PEFT", [values_of(p.peft) for p in pairs])
    bars(axes, [x + WIDTH / 2 for x in places], TOKTUNE, "toktune", [values_of(p.toktune) for p in pairs])
    ratios(axes, pairs, values_of, text_of)
    axes.set_xticks(places, [JOBS[p.job].title for p in pairs], fontsize=9)
    axes.set_xlim(-0.6, len(pairs) - 0.4)
    axes.set_title(title, fontsize=11, loc="left")
    axes.margins(y=0.22)
    axes.set_ylim(bottom=0)


def tidy(axes):
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)


def save(figure, results, folder, name, remark=None):
    """With the machine underneath, since a picture travels without its text."""
    note = "\n".join([*filter(None, [remark]), *report.setting(results)])
    figure.text(0.01, 0.005, note, fontsize=7.5, color="#555555", va="bottom")
    for kind in ("png", "svg"):
        figure.savefig(os.path.join(folder, f"{name}.{kind}"), dpi=150)
    plt.close(figure)


def measured_with_peft(results, model):
    return [of for of in report.comparisons(results, model) if any(side.program == "PEFT" for side in of.sides)]


def comparison(results, folder):
    """A line of two panels a model: PEFT beside toktune as it is by default."""
    models = [(name, measured_with_peft(results, name)) for name in results["settings"]["models"]]
    models = [(name, pairs) for name, pairs in models if pairs]
    if not models:
        return
    jobs = max(len(pairs) for _, pairs in models)
    size = (max(4.2 + 2.9 * jobs, 10), 3.7 * len(models) + 1)
    figure, grid = plt.subplots(len(models), 2, figsize=size, squeeze=False)
    for (name, pairs), (speed, memory) in zip(models, grid):
        title = report.title(name)
        panel(speed, pairs, lambda s: s.rates, lambda p: f"{p.speed:.1f}×", f"{title}: tokens a second (more is better)")
        panel(memory, pairs, lambda s: s.memories, lambda p: f"1/{p.saving:.0f}", f"{title}: peak memory, GB (less is better)")
        tidy(speed)
        tidy(memory)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper right", ncols=2, frameon=False, fontsize=10)
    figure.tight_layout(rect=(0, 0.75 / size[1], 1, 1 - 0.25 / size[1]), h_pad=2.5, w_pad=2.5)
    save(figure, results, folder, "comparison")


def straight(axes, points, color):
    """A straight line through the first and the last point: what linear growth would be."""
    axes.plot(*zip(points[0], points[-1]), "--", color=color, linewidth=1, alpha=0.7)


def length(results, folder):
    """toktune alone by the length of a row. Its memory must lie on a straight line."""
    series = [(name, report.lengths(results, name)) for name in results["settings"]["models"]]
    series = [(name, points) for name, points in series if len(points) > 1]
    if not series:
        return
    figure, (memory, speed) = plt.subplots(1, 2, figsize=(10, 4.4))
    for (name, points), color in zip(series, MODELS):
        memories = [(n, of.memory * 1000) for n, of in points]
        (n0, first), (n1, last) = memories[0], memories[-1]
        label = f"{report.title(name)}: {(last - first) / (n1 - n0) * 1000:.0f} MB for 1,000 tokens"
        memory.plot(*zip(*memories), "o-", color=color, label=label)
        straight(memory, memories, color)
        speed.plot(*zip(*[(n, of.rate) for n, of in points]), "o-", color=color, label=report.title(name))
    for axes, title in ((memory, "toktune, one row a step: peak memory, MB"), (speed, "toktune, one row a step: tokens a second")):
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xticks([n for n, _ in series[0][1]])
        axes.set_xlabel("tokens in the row" + (" (dashed: linear growth)" if axes is memory else ""), fontsize=9)
        axes.set_xlim(left=0)
        axes.margins(y=0.2)
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=9, loc="lower right")
        tidy(axes)
    figure.tight_layout(rect=(0, 0.15, 1, 1))
    save(figure, results, folder, "length")


def headline_bars(of, best):
    """Names, colours and sides of a panel, from the top; `best` is the best Python for what it shows."""
    by_name = {side.program: side for side in of.sides}
    python = "PEFT" if best is None else best.title.removeprefix("PEFT, ")
    yield "toktune", TOKTUNE, by_name.get("toktune"), ""
    yield "toktune, least memory", LEAN, by_name.get("toktune-min"), ""
    yield "PEFT", PEFT, by_name.get("PEFT"), ""
    yield "the best Python", BEST, best, f" ({python})"
    yield "full matrix, torch", FULL, by_name.get(report.FULL), ""


def times(mine, best):
    ratio = mine / best
    return f"{ratio:.{2 if ratio < 2 else 1}f}×"


def share(mine, best):
    return f"1/{best / mine:.1f}" if mine < best else times(mine, best)


def headline_panel(axes, of, best, values_of, ratio_of):
    """One quantity of one job: a bar a program, beside toktune's its ratio to the best Python, whichever side of 1 it is on."""
    bars_of = list(headline_bars(of, best))
    for y, (_, color, side, note) in enumerate(bars_of):
        values = values_of(side.summary) if side else []
        if not values:
            text = "failed" if side and side.summary.failures else "not measured"
            axes.annotate(text, (0, y), (4, 0), textcoords="offset points", va="center", fontsize=8, color="#777777")
            continue
        middle = statistics.median(values)
        axes.barh(y, middle, 0.72, color=color)
        ours = best and side.program in report.TOKTUNES
        text = number(middle) + (f"  {ratio_of(middle, statistics.median(values_of(best.summary)))}" if ours else note)
        weight = "bold" if ours else "normal"
        axes.annotate(text, (middle, y), (4, 0), textcoords="offset points", va="center", fontsize=8.5, weight=weight)
    axes.set_yticks(range(len(bars_of)), [name for name, *_ in bars_of], fontsize=9)
    axes.set_xlim(0, 1.9 * axes.dataLim.x1 if axes.patches else 1)  # room for the words behind the longest bar
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", labelsize=8)


def headline(many, folder):
    """Speed on the left, memory on the right, a row a job; each panel has its own scale from zero."""
    found = {}
    for results in many:
        for of in (of for model in results["settings"]["models"] for of in report.comparisons(results, model)):
            if of.toktune.rates and of.pythons():
                found.setdefault((of.model, of.job), of)
    rows = [(text, found[key]) for key, text in HEADLINE.items() if key in found]
    if not rows:
        return
    size = (10, 1.85 * len(rows) + 1.4)
    figure, grid = plt.subplots(len(rows), 2, figsize=size, squeeze=False, sharey=True)
    for (text, of), (speed, memory) in zip(rows, grid):
        headline_panel(speed, of, of.fastest_python(), lambda s: s.rates, times)
        headline_panel(memory, of, of.leanest_python(), lambda s: s.memories, share)
        speed.set_title(text, fontsize=10, loc="left", weight="bold")
        memory.tick_params(axis="y", length=0)
    grid[0][0].invert_yaxis()  # of all, since they share it
    grid[-1][0].set_xlabel("tokens a second (more is better)", fontsize=10)
    grid[-1][1].set_xlabel("peak memory, GB (less is better)", fontsize=10)
    figure.tight_layout(rect=(0, 1.05 / size[1], 1, 1), w_pad=1.5)
    machines = {results["machine"]["cpu"] for results in many}
    elsewhere = "" if len(machines) == 1 else "; measured on " + ", ".join(sorted(machines))
    save(figure, many[0], folder, "headline", f"bold: toktune beside the best Python in what is shown{elsewhere}")


def smooth(values):
    return [statistics.mean(values[max(0, i - SMOOTHED + 1) : i + 1]) for i in range(len(values))]


def learning(folder):
    """What a side's loss is above that of toktune in f32, step by step: thin lines are seeds, the thick one is their mean."""
    runs = learning_report.runs_of(folder)
    figure, axes = plt.subplots(figsize=(8, 4.2))
    for side, color in LEARNING.items():
        series = [smooth(values) for values in learning_report.differences(runs, side).values()]
        for values in series:
            axes.plot(range(1, len(values) + 1), values, color=color, linewidth=0.7, alpha=0.5)
        if series:
            middle = [statistics.mean(step) for step in zip(*series)]
            label = f"{learning_report.TITLES[side].replace('`', '')} ({len(series)} seed{'s' * (len(series) > 1)})"
            axes.plot(range(1, len(middle) + 1), middle, color=color, linewidth=2, label=label)
    axes.axhline(0, color="#333333", linewidth=1)
    axes.set_title(f"loss above toktune's in f32, mean of the last {SMOOTHED} steps", fontsize=10, loc="left")
    axes.set_xlabel("step", fontsize=9)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)
    tidy(axes)
    figure.tight_layout()
    for kind in ("png", "svg"):
        figure.savefig(os.path.join(folder, f"learning.{kind}"), dpi=150)
    plt.close(figure)


def main():
    if sys.argv[1] == "--learning":
        learning(sys.argv[2])
        return
    folder = sys.argv[1]
    many = [report.load(of) for of in sys.argv[1:]]
    comparison(many[0], folder)
    length(many[0], folder)
    headline(many, folder)


if __name__ == "__main__":
    main()
