"""results.json as plots, by the peer's interpreter: comparison.png/.svg (PEFT beside toktune) and length.png/.svg.

python bench/plot.py DIR
"""

import json
import os
import statistics
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend must be chosen first)

import report  # noqa: E402  (the folder of this file is on the path)
from jobs import JOBS  # noqa: E402

PEFT, TOKTUNE = "#a8adb5", "#d9622b"
MODELS = (TOKTUNE, "#2b6cd9")
WIDTH = 0.38


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


def save(figure, results, folder, name):
    """With the machine underneath, since a picture travels without its text."""
    note = "\n".join(report.setting(results))
    figure.text(0.01, 0.005, note, fontsize=7.5, color="#555555", va="bottom")
    for kind in ("png", "svg"):
        figure.savefig(os.path.join(folder, f"{name}.{kind}"), dpi=150)
    plt.close(figure)


def comparison(results, folder):
    """A line of two panels a model."""
    models = [(name, list(report.pairs(results, name))) for name in results["settings"]["models"]]
    jobs = max((len(pairs) for _, pairs in models), default=0)
    if not jobs:
        return
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


def main():
    folder = sys.argv[1]
    with open(os.path.join(folder, "results.json")) as file:
        results = json.load(file)
    comparison(results, folder)
    length(results, folder)


if __name__ == "__main__":
    main()
