"""GrokAlign's Figures 5 and 6 on CIFAR-10 from run directories: docs/results/cifar.

Run it: python benchmarks/cifar_results.py RUN..., with runs of cifar10-robustness of either preset.
The .json has what was recorded, an entry for each preset; entries of presets
that are not given stay. Each run is drawn to cifar-PRESET.png.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from figures_results import ACCURACIES, entry
from grokscope.runs import History, Run
from records import RESULTS, stored, write_record

RESULT = RESULTS / "cifar.json"
COLUMNS = (*ACCURACIES, "jacobian_norm", "jacobian_pc1", "centroid_alignment", "robust_accuracy")
COLORS = {"baseline": "tab:gray", "grokalign": "tab:blue", "grokalign-strong": "tab:red"}
PANELS = {
    "jacobian_pc1": "PC1 of the Jacobians",
    "centroid_alignment": "cosine of images and centroids",
    "test_accuracy": "test accuracy",
    "robust_accuracy": "test accuracy under attack",
}


def draw(run: Run) -> None:
    """Figure 5 as curves and Figure 6 as pictures: images over their centroids at the end."""
    rows = 1 + len(run.spec["arms"])
    figure = plt.figure(figsize=(12.4, 3.4 + 1.5 * rows), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=[3.2, 1.5 * rows])
    for axes, (column, title) in zip(halves[0].subplots(1, 4), PANELS.items(), strict=True):
        axes.set(title=title, xlabel="step", ylim=(None if column == "centroid_alignment" else 0))
        axes.spines[["top", "right"]].set_visible(False)
        for arm, spec in run.spec["arms"].items():
            _line(axes, run.history(arm, 0), column, color=COLORS[arm], label=spec["title"])
    halves[0].axes[0].legend(frameon=False, fontsize="small")
    pictures = {"image": _images(run, "baseline", "probe", "x")}
    for arm, spec in run.spec["arms"].items():
        last = run.history(arm, 0).steps[-1]
        pictures[spec["title"]] = _images(run, arm, f"step-{int(last):08}", "centroids")
    places = halves[1].subplots(rows, len(pictures["image"]))
    for row, (title, images) in zip(places, pictures.items(), strict=True):
        row[0].set_ylabel(title.replace(", ", "\n"), fontsize="small")
        for axes, image in zip(row, images, strict=True):
            axes.imshow(_legible(image))
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
    figure.savefig(RESULT.with_name(f"cifar-{run.spec['preset']}.png"), dpi=100)
    plt.close(figure)


def _line(axes: Any, history: History, name: str, **style: Any) -> None:
    """A column over steps, which are logarithmic; step 0 stands where 0.7 would."""
    known = np.isfinite(history[name])
    axes.semilogx(np.maximum(history.steps[known], 0.7), history[name][known], **style)


def _images(run: Run, arm: str, name: str, part: str) -> np.ndarray:
    return stored(run, arm, name, part).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _legible(image: np.ndarray) -> np.ndarray:
    """A picture around its mean in [0, 1]: all but the outermost hundredth of its values fit."""
    centered = image - image.mean()
    return np.clip(0.5 + centered / (2 * np.quantile(np.abs(centered), 0.99) + 1e-12), 0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    record = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for path in parser.parse_args().runs:
        run = Run(path)
        record[run.spec["preset"]] = entry(run, COLUMNS)
        draw(run)
    write_record(RESULT, dict(sorted(record.items())))


if __name__ == "__main__":
    main()
