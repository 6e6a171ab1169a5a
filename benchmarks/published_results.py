"""Table 1 in the paper's own setting from run directories: docs/results/table1-published.

Run it: python benchmarks/published_results.py RUN..., with runs of mnist-table1-published, whole,
unfinished, or of some of its arms. An arm counts with the seeds that have finished; one of which
none has counts with its first as right-censored. The page (.md), the numbers seed by seed (.json)
and the curves (.png) are all written from the runs; what is missing stands in the page.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from grokscope.experiments.catalogue import shipped
from grokscope.experiments.yaml_files import read_yaml
from grokscope.findings.statistics import SeedValues
from grokscope.findings.target import Target
from grokscope.report.wording import count, number, percent, ratio
from grokscope.runs import History, Run
from records import RESULTS, environment_of, machine_of, rounded, table_row, write_record

NAME = "table1-published"
EXPERIMENT = "mnist-table1-published"
TARGET = Target("test_accuracy", 0.85)
UPDATES_PER_EPOCH = 4
JUMP = 100.0
GROUPS = {
    "ce": "Cross-entropy, float64",
    "ce32": "Cross-entropy, float32",
    "mse": "Squared error, float64",
}
HEAD = (
    "| | seeds | updates to 85 % | epochs | fewer updates | paper | first jump of the training "
    "loss |\n" + "|---" * 7 + "|"
)


@dataclass(frozen=True)
class Arm:
    """One arm with its finished trainings by seed, or with one that has not finished."""

    name: str
    title: str
    histories: Mapping[int, History]
    finished: bool = True

    @property
    def group(self) -> str:
        """Loss and precision: the part of the name before the method."""
        return self.name.split("-")[0]


def collected(runs: Sequence[Run]) -> tuple[dict[str, Arm], list[str]]:
    """The arms of all runs, and what is missing in words."""
    spec = read_yaml(shipped()[EXPERIMENT])
    wanted = {name: (own or {}).get("title", name) for name, own in spec["arms"].items()}
    done: dict[str, dict[int, History]] = {}
    going: dict[str, tuple[int, History]] = {}
    for run in runs:
        for name in run.arms:
            if name not in wanted:
                raise SystemExit(f"{run.path}: {name} is no arm of {EXPERIMENT}")
            for seed in run.seeds(name):
                history = run.history(name, seed)
                if run.trial_status(name, seed).get("state") == "finished":
                    done.setdefault(name, {})[seed] = history
                else:
                    going.setdefault(name, (seed, history))
    found = {
        name: Arm(name, title, done[name])
        if name in done
        else Arm(name, f"{title} (not finished)", dict([going[name]]), finished=False)
        for name, title in wanted.items()
        if name in done or name in going
    }
    missing = []
    for name, title in wanted.items():
        if name in done:
            continue
        at = ""
        if name in going:
            seed, history = going[name]
            at = f" (seed {seed} was at {int(history.steps[-1]):,} updates)"
        missing.append(title + at)
    return found, missing


def first_jump(history: History) -> dict[str, float] | None:
    """Where the training loss first is a hundred times its lowest so far, once it is below 1e-3.

    ``step``; ``before``, the lowest loss until then; ``after``, the highest in the next tenth of
    the steps; ``accuracy_before`` and ``accuracy_after``, test accuracy at the evaluation before
    and at the end of that tenth. None where it never is.
    """
    loss, steps = history["train_loss"], history.steps
    lowest = np.minimum.accumulate(loss)
    jumped = np.flatnonzero((loss[1:] > JUMP * lowest[:-1]) & (lowest[:-1] < 1e-3)) + 1
    if not len(jumped):
        return None
    at = jumped[0]
    soon = np.flatnonzero((steps >= steps[at]) & (steps <= 1.1 * steps[at]))
    accuracy = history["test_accuracy"]
    return {
        "step": float(steps[at]),
        "before": rounded(float(lowest[at - 1])),
        "after": rounded(float(loss[soon].max())),
        "accuracy_before": rounded(float(accuracy[at - 1])),
        "accuracy_after": rounded(float(accuracy[soon[-1]])),
    }


def measured(arms: Mapping[str, Arm]) -> dict[str, dict[str, Any]]:
    """For each arm the values by seed, and the ratios to weight decay alone of its own group."""
    rows: dict[str, dict[str, Any]] = {}
    for name, arm in arms.items():
        baseline = arms.get(f"{arm.group}-baseline")
        seeds = sorted(arm.histories)
        row: dict[str, Any] = {"title": arm.title, "finished": arm.finished, "seeds": seeds}
        own = _times(arm, seeds)
        row["steps"] = {"values": list(own.values), "at_least": list(own.lows)}
        row["steps_median"] = own.median
        shared = sorted(set(arm.histories) & set(baseline.histories if baseline else ()))
        if baseline is not None and baseline is not arm and shared:
            row["steps_speedup"] = _times(baseline, shared).over(_times(arm, shared))
        row["first_jump"] = {seed: first_jump(arm.histories[seed]) for seed in row["seeds"]}
        rows[name] = row
    return rows


def _times(arm: Arm, seeds: Sequence[int]) -> SeedValues:
    return TARGET.time_to([arm.histories[seed] for seed in seeds], "steps")


def published(spec: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """The paper's speedups, from the panels of the experiment."""
    return {
        arm: values
        for panel in spec["panels"]
        for arm, values in (panel.get("published") or {}).items()
    }


def page(rows: Mapping[str, Mapping[str, Any]], missing: Sequence[str], runs: Sequence[Run]) -> str:
    """The page in words."""
    spec = read_yaml(shipped()[EXPERIMENT])
    parts = [
        "# Table 1 in the paper's own setting: how rounding decides a published speedup",
        "The scripts of the paper's time train 784-196-196-196-10 without biases, initialization "
        "scale 8, on the first 1,024 standardized images of MNIST, in batches of 256 in the order "
        "of the file, until 85 % of the first 1,024 test images are classified correctly ([the "
        "settings](../published-settings.md)). An epoch, which the paper calls a step, is four "
        "updates. `grokscope run mnist-table1-published --preset paper --data-dir FOLDER` trains "
        "all of it; this page is what `benchmarks/published_results.py` wrote from the runs.",
    ]
    if missing:
        parts.append("**Not finished when this was written:** " + "; ".join(missing) + ".")
    parts.append(HEAD + "\n" + "\n".join(_line(row, published(spec), n) for n, row in rows.items()))
    parts.append(
        "Medians over seeds; ratios are to weight decay alone under the same loss and precision, "
        "seed by seed. Training time is not compared: trainings shared their machine. A jump is "
        "where the training loss is a hundred times its lowest so far."
    )
    parts += _finding(rows)
    parts.append(f"![Training loss and test accuracy over updates]({NAME}.png)")
    machines = {machine_of(run) for run in runs}
    parts.append(
        "Machine: " + "; ".join(sorted(machines)) + f". Numbers: [{NAME}.json]({NAME}.json)."
    )
    return "\n\n".join(parts) + "\n"


def _line(row: Mapping[str, Any], paper: Mapping[str, Mapping[str, float]], name: str) -> str:
    steps = row["steps_median"]
    cells = [row["title"], str(len(row["seeds"]) if row["finished"] else 0), steps.text(count)]
    cells.append(type(steps)(*(end / UPDATES_PER_EPOCH for end in steps)).text(count))
    speedup, values = row.get("steps_speedup"), paper.get(name)
    cells.append("" if speedup is None else speedup.median.text(ratio) + "x")
    cells.append("" if values is None else f"{values['steps']}x")
    jumps = [jump for jump in row["first_jump"].values() if jump is not None]
    none = "none" if len(jumps) < len(row["seeds"]) else ""
    told = [
        f"{count(jump['step'])} ({number(jump['before'])} to {number(jump['after'])})"
        for jump in jumps
    ]
    cells.append("; ".join([*told, *([none] if none else [])]))
    return table_row(cells)


def _finding(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the numbers say of precision, as far as both precisions have finished."""
    speedups = {
        group: rows[f"{group}-grokalign"]["steps_speedup"].median
        for group in ("ce", "ce32")
        if "steps_speedup" in rows.get(f"{group}-grokalign", {})
        and all(rows[f"{group}-{method}"]["finished"] for method in ("baseline", "grokalign"))
    }
    parts = []
    if len(speedups) == 2:
        parts.append(
            f"**What was found.** In float64 GrokAlign needs {speedups['ce'].text(ratio)}x fewer "
            f"updates than weight decay alone, in float32 {speedups['ce32'].text(ratio)}x, with "
            "the same network, data, batches and seeds. What differs is weight decay alone."
        )
    else:
        for group, speedup in speedups.items():
            parts.append(
                f"**So far.** {GROUPS[group]}: GrokAlign needs {speedup.text(ratio)}x fewer "
                "updates than weight decay alone."
            )
    waits = {
        group: rows[f"{group}-baseline"] for group in ("ce", "ce32") if f"{group}-baseline" in rows
    }
    if len(waits) == 2 and len(speedups) < 2:
        parts.append(
            "Weight decay alone, in the same network with the same seeds, needs "
            f"{waits['ce']['steps_median'].text(count)} updates in float64 and "
            f"{waits['ce32']['steps_median'].text(count)} in float32."
        )
    single = waits["ce32"]["first_jump"] if "ce32" in waits else {}
    jumps = [jump for jump in single.values() if jump is not None]
    if jumps:
        first = jumps[0]
        parts.append(
            "**Why.** Under cross-entropy the gradients of a network that fits its training data "
            "vanish. In float32 they are then rounding, their squares vanish sooner still, and the "
            "step of Adam, which divides by the root of the squares' average, does not: at update "
            f"{count(first['step'])} the training loss of weight decay alone leaps from "
            f"{number(first['before'])} to {number(first['after'])} (a slingshot, Thilak et al. "
            "2022, [arXiv:2206.04817](https://arxiv.org/abs/2206.04817)). The leap gives the "
            "network gradients again, and while it comes back to its training data test accuracy "
            f"goes from {percent(first['accuracy_before'])} to {percent(first['accuracy_after'])}. "
            "In float64 no such leap comes, and only weight decay moves the network on: the "
            "baseline that a speedup is measured against is decided by the number format."
        )
    return parts


def draw(arms: Mapping[str, Arm], path: Path) -> None:
    """Loss and accuracy under cross-entropy in both precisions, accuracy under squared error."""
    figure, places = plt.subplots(1, 3, figsize=(11.0, 3.7), layout="constrained")
    colors = {"ce": "#1f6fb2", "ce32": "#c4501b", "mse": "#2a7f4f"}
    methods = {"baseline": ("weight decay alone", "--"), "grokalign": ("GrokAlign", "-")}
    panels = (
        ("train_loss", ("ce", "ce32"), "cross-entropy: training loss"),
        ("test_accuracy", ("ce", "ce32"), "cross-entropy: test accuracy"),
        ("test_accuracy", ("mse",), "squared error: test accuracy"),
    )
    labeled = {}
    for axes, (column, groups, title) in zip(places, panels, strict=True):
        axes.set_title(title, fontsize=10)
        axes.set(xlabel="update of the weights", xscale="log")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        if column == "train_loss":
            axes.set_yscale("log")
        else:
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        for arm in arms.values():
            method = arm.name.split("-", 1)[1]
            if arm.group not in groups or method not in methods:
                continue
            words, dash = methods[method]
            style = {"color": colors[arm.group], "linestyle": dash, "linewidth": 1.1}
            for history in arm.histories.values():
                line = axes.plot(history.steps[1:], history[column][1:], **style)[0]
            labeled[f"{GROUPS[arm.group]}: {words}"] = line
        if not axes.lines:
            axes.text(0.5, 0.5, "not finished", ha="center", transform=axes.transAxes)
    # one legend below: curves fill the panels
    figure.legend(
        list(labeled.values()),
        list(labeled),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=9,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def as_record(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as plain values."""
    plain = {
        name: value for name, value in row.items() if not isinstance(value, SeedValues | tuple)
    }
    ratios = {name: value for name, value in row.items() if isinstance(value, SeedValues)}
    return plain | {
        name: {
            "by_seed": rounded(of.values),
            "median": of.median.text("{:.4g}".format),
        }
        for name, of in ratios.items()
    }


def main() -> None:
    """Write page, record and picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    runs = [Run(path) for path in arguments.runs]
    arms, missing = collected(runs)
    if not arms:
        raise SystemExit("no arm has finished with any seed")
    rows = measured(arms)
    record = {
        "environment": [environment_of(run) for run in runs],
        "missing": missing,
        "arms": {name: as_record(row) for name, row in rows.items()},
    }
    write_record(arguments.folder / f"{NAME}.json", record)
    (arguments.folder / f"{NAME}.md").write_text(page(rows, missing, runs))
    draw(arms, arguments.folder / f"{NAME}.png")


if __name__ == "__main__":
    main()
