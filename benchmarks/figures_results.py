"""GrokAlign's Figures 2, 4, 6 to 9 and theorems from runs: docs/results/grokalign-figures.

Run it: python benchmarks/figures_results.py RUN..., with runs of mnist-jacobian-rank,
xor-robustness, mnist-centroids, mnist-constrain, modular-addition, modular-addition-frozen and
theorems, of either preset; or with fig2-NAME=RUN for one whose settings were changed. The .json
has what was recorded, an entry for each run (the verdicts on claims are in claims.json, which
results_index.py writes); entries of runs that are not
given stay. The .png is drawn where runs of the first three with the preset "paper", and
fig6-offset-weight-1, are among those given.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import SubFigure

from grokscope.runs import History, Run
from records import RESULTS, environment_of, rounded, write_record

RESULT = RESULTS / "grokalign-figures.json"
NOISE = tuple(f"noise_accuracy/{deviation}" for deviation in ("0.2", "0.4", "0.6", "0.8", "1"))
ACCURACIES = ("train_accuracy", "test_accuracy")
FIGURES = {
    "mnist-jacobian-rank": "fig2",
    "xor-robustness": "fig4",
    "mnist-centroids": "fig6",
    "mnist-constrain": "fig7",
    "modular-addition": "fig8",
    "modular-addition-frozen": "fig9",
    "theorems": "theorems",
}
ALIGNMENT = ("jacobian_norm", "row_alignment", "centroid_alignment", "centroid_norm")
MODULAR = ("centroid_alignment", "row_alignment", "jacobian_norm", "neuron_logit_gini")
COLUMNS: dict[str, tuple[str, ...]] = {
    "fig2": ("train_loss", *ACCURACIES, "weight_norm", *ALIGNMENT, "jacobian_pc1"),
    "fig4": (*ACCURACIES, "row_alignment", "centroid_norm", *NOISE),
    "fig6": (*ACCURACIES, *ALIGNMENT, "centroid_alignment_min", "centroid_inner_product"),
    "fig7": (*ACCURACIES, *ALIGNMENT),
    "fig8": (*ACCURACIES, "unseen_accuracy", *MODULAR, "embedding_gini"),
    "fig9": (*ACCURACIES, "unseen_accuracy", *MODULAR),
    "theorems": (),
}


def entry(run: Run, columns: tuple[str, ...]) -> dict[str, Any]:
    """What a run recorded."""
    seed = run.spec["seeds"][0]
    found = {
        "experiment": run.spec["name"],
        "preset": run.spec["preset"],
        "seed": seed,
        "environment": environment_of(run),
        "arms": {arm: course(run, arm, seed, columns) for arm in run.spec["arms"]},
        "results": run.results,
    }
    return {name: of for name, of in found.items() if of not in ({}, [])}


def course(run: Run, arm: str, seed: int, columns: tuple[str, ...]) -> dict[str, Any]:
    """The rows in which an arm was measured, column by column."""
    history = run.history(arm, seed)
    rows = [row for row in history if columns[-1] in row]
    targets = [(mark["metric"], mark["target"]) for mark in run.spec["milestones"].values()]
    targets += [(name, 0.95) for name in columns if name in NOISE]
    return {
        "title": run.spec["arms"][arm]["title"],
        "first_step": {f"{m} >= {target}": history.first_step(m, target) for m, target in targets},
        "step": [row["step"] for row in rows],
        **{name: [rounded(row[name]) for row in rows] for name in columns},
    }


def line(axes: Any, history: History, name: str, **style: Any) -> None:
    """A column over steps, which are logarithmic; step 0 stands where 0.7 would."""
    known = np.isfinite(history[name])
    axes.semilogx(np.maximum(history.steps[known], 0.7), history[name][known], **style)


def draw(rank: Run, noise: Run, centroids: Run, offsets: Run) -> None:
    figure = plt.figure(figsize=(12.4, 13.6), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=[0.55, 1])
    first, second, third = halves[0].subplots(1, 3)
    for axes in (first, second, third):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("step")
    first.set_title("Figure 2: PC1 of Jacobians, MNIST")
    first.set_ylim(0, 1.02)
    for arm, colour, words in (
        ("mse", "tab:blue", "squared error"),
        ("ce", "tab:red", "cross-entropy"),
    ):
        for suffix, dash, method in (("", "--", "weight decay"), ("-grokalign", "-", "GrokAlign")):
            own = rank.history(arm + suffix, 0)
            label = f"{words}, {method}"
            line(first, own, "jacobian_pc1", color=colour, linestyle=dash, label=label)
    second.set_title(
        "Figure 4: XOR, accuracy under noise\n(dashed: weight decay, solid: GrokAlign)"
    )
    third.set_title(
        "Figure 4: alignment and centroid norm\n(dashed: weight decay, solid: GrokAlign)"
    )
    for arm, dash in (("baseline", "--"), ("grokalign", "-")):
        own = noise.history(arm, 0)
        solid = dash == "-"
        line(second, own, "test_accuracy", color="black", linestyle=dash, label="no noise" * solid)
        for name, colour in zip(NOISE[::2], ("#1b4f72", "#2e86c1", "#85c1e9"), strict=True):
            label = f"deviation {name.split('/')[1]}" * solid
            line(second, own, name, color=colour, linestyle=dash, label=label)
        for name, colour in (("row_alignment", "tab:green"), ("centroid_norm", "tab:orange")):
            label = name.replace("row_", "").replace("_", " ") * solid
            line(third, own, name, color=colour, linestyle=dash, label=label)
    third.axhline(
        2 / np.sqrt(2 * 102), color="grey", linewidth=1, label="deciding coordinates alone"
    )
    for axes in (first, second, third):
        axes.legend(frameon=False, fontsize="small")
    images(halves[1], centroids, offsets)
    figure.savefig(RESULT.with_suffix(".png"), dpi=100)


def images(figure: SubFigure, run: Run, offsets: Run) -> None:
    """Training images over their centroids in each arm, on the way and at the end."""
    shown = {"image": kept(run, "baseline", "probe", "x")}
    arms = {
        "weight decay": (run, "baseline"),
        "GrokAlign": (run, "grokalign"),
        "with offsets": (offsets, "grokalign"),
    }
    for words, (of, arm) in arms.items():
        for step in (10_000, 50_000):
            shown[f"{words}\n{step:,}"] = kept(of, arm, f"step-{step:08}", "centroids")
    figure.suptitle("Figure 6: training images and their centroids after 10,000 and 50,000 steps")
    places = figure.subplots(len(shown), len(shown["image"]))
    for row, (words, pictures) in zip(places, shown.items(), strict=True):
        row[0].set_ylabel(words)
        for axes, picture in zip(row, pictures, strict=True):
            if words == "image":
                axes.imshow(picture, cmap="gray")
            else:
                size = np.abs(picture).max()
                axes.imshow(picture, cmap="RdBu_r", vmin=-size, vmax=size)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)


def kept(run: Run, arm: str, name: str, part: str) -> np.ndarray:
    """Pictures that a run has stored: (n, 28, 28)."""
    arrays = run.arrays(arm, 0, name)
    if arrays is None:
        raise SystemExit(f"{run.path}: {arm} has stored no {name}")
    return np.asarray(arrays[part]).reshape(-1, 28, 28)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    record = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    given: dict[str, Run] = {}
    for text in parser.parse_args().runs:
        key, _, path = text.rpartition("=")
        run = Run(path)
        key = key or f"{FIGURES[run.spec['name']]}-{run.spec['preset']}"
        given[key], record[key] = run, entry(run, COLUMNS[key.split("-")[0]])
    write_record(RESULT, dict(sorted(record.items())))
    pictured = ("fig2-paper", "fig4-paper", "fig6-paper", "fig6-offset-weight-1")
    if all(key in given for key in pictured):
        draw(*(given[key] for key in pictured))


if __name__ == "__main__":
    main()
