"""The second paper's figures from a run directory: docs/results/EXPERIMENT.

Run it: python benchmarks/rich_results.py RUN, with a run of rich-mnist or of one of the rich-emnist
experiments, finished or not. The .json has the evaluations at kept checkpoints, the onsets and
which claims held; the .png shows accuracy, and where it was measured the geometry of each layer and
the distance of the kernel.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from grokscope.findings import onset
from grokscope.runs import History, Run
from records import RESULTS, environment_of, judged, rounded, write_record

SCORES = ("train_accuracy", "test_accuracy", "train_loss", "test_loss")
NORMS = ("weight_norm", "last_layer_norm")
GEOMETRY = ("capacity", "radius", "dimension")


def evaluations(run: Run, arm: str, seed: int) -> list[dict[str, float]]:
    """The rows at kept checkpoints and those measured after training, to four digits."""
    history = run.history(arm, seed)
    kept = set(run.spec["arms"][arm]["training"]["keep_checkpoints"]) | {
        row["step"] for row in history if row.get("ntk_distance_init") is not None
    }
    wanted = [
        name
        for name in history.names
        if name in (*SCORES, *NORMS)
        or name.startswith("ntk_distance")
        or name.removeprefix("test_").split("/")[0] in GEOMETRY
    ]
    return [
        {"step": row["step"]}
        | {name: rounded(row[name]) for name in wanted if row.get(name) is not None}
        for row in history
        if row["step"] in kept
    ]


def record(run: Run) -> dict[str, Any]:
    """What the run holds so far."""
    arms: dict[str, Any] = {}
    for arm, seed in run.trials:
        history = run.history(arm, seed)
        found = onset(history)
        name = arm if len(run.seeds(arm)) == 1 else f"{arm}, seed {seed}"
        arms[name] = {
            "title": run.spec["arms"][arm]["title"],
            "steps_run": int(history.steps[-1]),
            "steps_planned": run.spec["arms"][arm]["training"]["max_steps"],
            "state": found.state,
            **{moment: found.at(moment) for moment in ("memorized", "start", "middle", "end")},
            "highest_test_accuracy": rounded(float(np.nanmax(history["test_accuracy"]))),
            "evaluations": evaluations(run, arm, seed),
        }
    record = {"environment": environment_of(run), "arms": arms, "claims": judged(run)}
    further = {"shift": shift(run), "kernel_points": kernel_points(run)}
    return record | {name: content for name, content in further.items() if content}


def kernel_points(run: Run) -> dict[str, Any]:
    """Distances of the kernel at other images from the one before training, where it was taken."""
    return {
        points: {
            arm: {"steps": found["steps"], "distance": rounded(found["matrix"][0])}
            for arm, found in arms.items()
        }
        for points, arms in run.results.get("kernel_points", {}).items()
    }


def shift(run: Run) -> dict[str, Any]:
    """Accuracies on MNIST of probes of networks that learned EMNIST, where they were taken."""
    return {
        name.removeprefix("shift_"): {
            arm: {
                "steps": found["steps"],
                **{
                    images: rounded(values)
                    for images, values in found.items()
                    if images in ("upright", "transposed")
                },
            }
            for arm, found in arms.items()
        }
        for name, arms in run.results.items()
        if name.startswith("shift_")
    }


def draw(run: Run, path: Path) -> None:
    """Test accuracy of all settings; capacity of each layer and kernel distance where measured."""
    measured = [
        arm
        for arm in run.arms
        if any(
            name.startswith("test_capacity") for name in run.history(arm, run.seeds(arm)[0]).names
        )
    ]
    figure, places = plt.subplots(
        1, 1 + len(measured), figsize=(4.6 * (1 + len(measured)), 3.6), layout="constrained"
    )
    first, *others = np.atleast_1d(places)
    for arm in run.arms:
        history = run.history(arm, run.seeds(arm)[0])
        title = run.spec["arms"][arm]["title"]
        first.plot(history.steps, history["test_accuracy"], label=title)
    first.set(xscale="symlog", xlabel="step", title="test accuracy", ylim=(0, 1))
    first.legend(frameon=False, fontsize="x-small")
    for axes, arm in zip(others, measured, strict=True):
        _draw_geometry(axes, run.history(arm, run.seeds(arm)[0]), run.spec["arms"][arm]["title"])
    for axes in (first, *others):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100)


def _draw_geometry(axes: Any, history: History, title: str) -> None:
    layers = [name for name in history.names if name.startswith("test_capacity/")]
    for place, name in enumerate(layers):
        known = np.isfinite(history[name])
        axes.plot(
            history.steps[known],
            history[name][known],
            color=plt.get_cmap("viridis")(place / max(1, len(layers) - 1)),
            label=name.removeprefix("test_capacity/"),
        )
    known = np.isfinite(history["ntk_distance_init"])
    right = axes.twinx()
    right.plot(history.steps[known], history["ntk_distance_init"][known], "k--", linewidth=1)
    right.set(ylim=(0, 1), ylabel="kernel distance (dashed)")
    axes.set(xscale="symlog", xlabel="step", title=f"capacity, {title}")
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize="x-small")


def main() -> None:
    """Write the record and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    run = Run(parser.parse_args().run)
    result = RESULTS / f"{run.spec['name']}.json"
    write_record(result, record(run))
    draw(run, result.with_suffix(".png"))


if __name__ == "__main__":
    main()
