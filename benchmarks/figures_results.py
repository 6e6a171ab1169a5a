"""GrokAlign's Figures 2, 4, 6 to 9 and theorems from runs: docs/results/grokalign-figures.

Run it: python benchmarks/figures_results.py RUN..., with runs of mnist-jacobian-rank,
xor-robustness, mnist-centroids, mnist-constrain, modular-addition, modular-addition-frozen and
theorems, of either preset; or with fig2-NAME=RUN for one whose settings were changed. The .json
has what was recorded, an entry for each run (the verdicts on claims are in claims.json, which
results_index.py writes); entries of runs that are not given stay. Figure 6's images are drawn where
a run of mnist-centroids with the preset "paper" and fig6-offset-weight-1 are among those given; the
curves of all figures are drawn from the .json, by make pictures.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from grokscope.runs import Run
from records import RESULTS, environment_of, rounded, stored, write_record

RESULT = RESULTS / "grokalign-figures.json"
PICTURE = RESULTS.parent / "images/figures/grokalign-fig6.png"
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
        **{name: rounded([row[name] for row in rows]) for name in columns},
    }


def draw(run: Run, biases: Run) -> None:
    """Figure 6: training images over their centroids in each arm, on the way and at the end."""
    shown = {"image": _images(run, "baseline", "probe", "x")}
    arms = {
        "weight decay": (run, "baseline"),
        "GrokAlign": (run, "grokalign"),
        "GrokAlign,\nbiases too": (biases, "grokalign"),
    }
    for words, (of, arm) in arms.items():
        for step in (10_000, 50_000):
            shown[f"{words}\n{step:,}"] = _images(of, arm, f"step-{step:08}", "centroids")
    size = (len(shown), len(shown["image"]))
    figure, places = plt.subplots(*size, figsize=(11, 8.2), layout="constrained")
    for row, (words, pictures) in zip(places, shown.items(), strict=True):
        row[0].set_ylabel(words)
        for axes, picture in zip(row, pictures, strict=True):
            if words == "image":
                axes.imshow(picture, cmap="gray")
            else:
                largest = np.abs(picture).max()
                axes.imshow(picture, cmap="RdBu_r", vmin=-largest, vmax=largest)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
    figure.savefig(PICTURE, dpi=100)


def _images(run: Run, arm: str, name: str, part: str) -> np.ndarray:
    return stored(run, arm, name, part).reshape(-1, 28, 28)


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
    pictured = ("fig6-paper", "fig6-offset-weight-1")
    if all(key in given for key in pictured):
        draw(*(given[key] for key in pictured))


if __name__ == "__main__":
    main()
