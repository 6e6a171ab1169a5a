"""Table 1 in the paper's own setting from run directories: docs/results/table1-published.

Run it: python benchmarks/published_results.py RUN..., with runs of mnist-table1-published, whole,
unfinished, or of some of its arms and seeds. Each training that has finished joins the record
(.json), in the place of an earlier one of its arm and seed. An arm of which none has finished
counts with what its first has come to, right-censored. The page (.md), the curves (.png) and the
verdicts in claims.json are written from the record; what is missing stands in the page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from grokscope.experiments.catalogue import shipped
from grokscope.experiments.yaml_files import read_yaml
from grokscope.findings.claims import Claim, SpeedUp, settle
from grokscope.findings.statistics import SeedValues
from grokscope.findings.target import Target
from grokscope.report.wording import count, number, percent, ratio
from grokscope.runs import History, Run
from records import (
    RESULTS,
    claims_of,
    environment_of,
    rounded,
    table_row,
    told,
    words_of_machine,
    write_record,
)
from results_index import update

NAME = "table1-published"
EXPERIMENT = "mnist-table1-published"
TARGET = Target("test_accuracy", 0.85)
UPDATES_PER_EPOCH = 4
JUMP = 100.0
POINTS = 300  # of a curve
DRAWN = {"baseline": ("weight decay alone", "--"), "grokalign": ("GrokAlign", "-")}
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
class Trial:
    """One training, as far as it came.

    ``steps`` to the target, None where it was not reached in ``at_least`` steps; ``first_jump`` of
    the training loss; and what the picture draws, some points of each column of ``curve``.
    """

    steps: float | None
    at_least: float
    first_jump: Mapping[str, float] | None
    finished: bool
    curve: Mapping[str, Sequence[float]] | None = None

    @classmethod
    def of(cls, history: History, finished: bool) -> Trial:
        """What the rows of a training say."""
        time = TARGET.time_to([history], "steps")
        points = np.unique(np.geomspace(1, len(history), POINTS).astype(int)) - 1
        columns = {name: history[name] for name in ("train_loss", "test_accuracy")}
        columns["step"] = history.steps.astype(float)
        curve = {name: rounded(column[points].tolist()) for name, column in columns.items()}
        return cls(time.values[0], time.lows[0], first_jump(history), finished, curve)


@dataclass(frozen=True)
class Arm:
    """One arm with its trainings by seed: those that have finished, or one that has not."""

    name: str
    title: str
    trials: Mapping[int, Trial]

    @property
    def group(self) -> str:
        """Loss and precision: the part of the name before the method."""
        return self.name.split("-")[0]

    @property
    def method(self) -> str:
        """What it trains with: the rest of the name."""
        return self.name.split("-", 1)[1]

    @property
    def finished(self) -> bool:
        """Whether a training has finished."""
        return any(trial.finished for trial in self.trials.values())

    def steps(self, seeds: Sequence[int]) -> SeedValues:
        """Steps to the target, a value for each seed."""
        trials = [self.trials[seed] for seed in seeds]
        return SeedValues.censored([t.steps for t in trials], [t.at_least for t in trials])


def read(path: Path) -> dict[str, dict[int, Trial]]:
    """The trainings of a record by arm and seed; none where there is no record."""
    arms = json.loads(path.read_text())["arms"] if path.exists() else {}
    return {
        name: {int(seed): Trial(**trial) for seed, trial in arm["trials"].items()}
        for name, arm in arms.items()
    }


def joined(
    recorded: Mapping[str, Mapping[int, Trial]], runs: Sequence[Run]
) -> tuple[dict[str, Arm], list[str]]:
    """The arms of the record and of all runs, and what is missing in words."""
    titles = {name: (own or {}).get("title", name) for name, own in _spec()["arms"].items()}
    trials = {name: dict(own) for name, own in recorded.items()}
    for run in runs:
        for name in run.arms:
            if name not in titles:
                raise SystemExit(f"{run.path}: {name} is no arm of {EXPERIMENT}")
            own = trials.setdefault(name, {})
            for seed in run.seeds(name):
                finished = run.trial_status(name, seed).get("state") == "finished"
                if finished or seed not in own or not own[seed].finished:
                    own[seed] = Trial.of(run.history(name, seed), finished)
    arms, missing = {}, []
    for name, title in titles.items():
        own = trials.get(name, {})
        ended = {seed: trial for seed, trial in sorted(own.items()) if trial.finished}
        if ended:
            arms[name] = Arm(name, title, ended)
        elif own:
            seed, trial = min(own.items())
            arms[name] = Arm(name, f"{title} (not finished)", {seed: trial})
            missing.append(f"{title} (seed {seed} was at {int(trial.at_least):,} updates)")
        else:
            missing.append(title)
    return arms, missing


def _spec() -> dict[str, Any]:
    return read_yaml(shipped()[EXPERIMENT])


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


def speedups(arms: Mapping[str, Arm]) -> dict[str, SeedValues]:
    """How many times fewer steps than weight decay alone of its own group each arm needs."""
    found = {name: speedup(arms, name, f"{arm.group}-baseline") for name, arm in arms.items()}
    return {
        name: values
        for name, values in found.items()
        if values is not None and arms[name].method != "baseline"
    }


def speedup(arms: Mapping[str, Arm], name: str, baseline: str) -> SeedValues | None:
    """Steps of the baseline over those of the arm, seed by seed; None without a seed of both."""
    if name not in arms or baseline not in arms:
        return None
    ours, theirs = arms[name], arms[baseline]
    seeds = sorted(set(ours.trials) & set(theirs.trials))
    return theirs.steps(seeds).over(ours.steps(seeds)) if seeds else None


def judged_values(claim: Claim, arms: Mapping[str, Arm]) -> SeedValues | None:
    """The values that a claim is judged by. Training time is not among them: machines differ."""
    quantity = claim.quantity
    if not isinstance(quantity, SpeedUp) or quantity.unit != "steps":
        return None
    if quantity.goal != TARGET or quantity.since is not None:
        raise SystemExit(f"{EXPERIMENT}: a claim on another target than {TARGET}: {claim.says}")
    return speedup(arms, quantity.arm, quantity.baseline)


def entry_of(
    arms: Mapping[str, Arm], missing: Sequence[str], environments: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The same as a run in the index of all results."""
    counts = sorted({len(arm.trials) for arm in arms.values() if arm.finished})
    steps = {int(t.at_least) for arm in arms.values() for t in arm.trials.values()}
    return {
        "experiment": EXPERIMENT,
        "preset": "paper",
        "seeds": counts[0] if len(counts) == 1 else f"{counts[0]} to {counts[-1]}",
        "state": "interrupted" if missing else "finished",
        "steps": sorted(steps),
        "grokscope": environments[-1]["grokscope"],
        "started": environments[-1]["started"][:10],
        "claims": told(settle(claim, judged_values(claim, arms)) for claim in claims_of(_spec())),
    }


def published(spec: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """The paper's speedups, from the panels of the experiment."""
    return {
        arm: values
        for panel in spec["panels"]
        for arm, values in (panel.get("published") or {}).items()
    }


def page(arms: Mapping[str, Arm], missing: Sequence[str], machines: Sequence[str]) -> str:
    """The page in words."""
    ratios, paper = speedups(arms), published(_spec())
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
    lines = [_line(arm, ratios.get(name), paper.get(name)) for name, arm in arms.items()]
    parts.append(HEAD + "\n" + "\n".join(lines))
    parts.append(
        "Medians over seeds; ratios are to weight decay alone under the same loss and precision, "
        "seed by seed. Training time is not compared: trainings shared their machine. A jump is "
        "where the training loss is a hundred times its lowest so far."
    )
    parts += _finding(arms, ratios)
    parts.append(f"![Training loss and test accuracy over updates]({NAME}.png)")
    parts.append(
        "Machine: " + "; ".join(sorted(set(machines))) + f". Numbers: [{NAME}.json]({NAME}.json)."
    )
    return "\n\n".join(parts) + "\n"


def _line(arm: Arm, speedup: SeedValues | None, paper: Mapping[str, float] | None) -> str:
    trials = arm.trials
    steps = arm.steps(list(trials)).median
    cells = [arm.title, str(len(trials) if arm.finished else 0), steps.text(count)]
    cells.append(type(steps)(*(end / UPDATES_PER_EPOCH for end in steps)).text(count))
    cells.append("" if speedup is None else speedup.median.text(ratio) + "x")
    cells.append("" if paper is None else f"{paper['steps']}x")
    jumps = [trial.first_jump for trial in trials.values() if trial.first_jump is not None]
    none = "none" if len(jumps) < len(trials) else ""
    found = [
        f"{count(jump['step'])} ({number(jump['before'])} to {number(jump['after'])})"
        for jump in jumps
    ]
    cells.append("; ".join([*found, *([none] if none else [])]))
    return table_row(cells)


def _finding(arms: Mapping[str, Arm], ratios: Mapping[str, SeedValues]) -> list[str]:
    """What the numbers say of precision, as far as both precisions have finished."""
    speedups = {
        group: ratios[f"{group}-grokalign"].median
        for group in ("ce", "ce32")
        if f"{group}-grokalign" in ratios
        and all(arms[f"{group}-{method}"].finished for method in ("baseline", "grokalign"))
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
        group: arms[f"{group}-baseline"] for group in ("ce", "ce32") if f"{group}-baseline" in arms
    }
    if len(waits) == 2 and len(speedups) < 2:
        long, short = (arm.steps(list(arm.trials)).median.text(count) for arm in waits.values())
        parts.append(
            "Weight decay alone, in the same network with the same seeds, needs "
            f"{long} updates in float64 and {short} in float32."
        )
    single = waits["ce32"].trials.values() if "ce32" in waits else ()
    jumps = [trial.first_jump for trial in single if trial.first_jump is not None]
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
            if arm.group not in groups or arm.method not in DRAWN:
                continue
            words, dash = DRAWN[arm.method]
            style = {"color": colors[arm.group], "linestyle": dash, "linewidth": 1.1}
            for curve in [trial.curve for trial in arm.trials.values() if trial.curve]:
                line = axes.plot(curve["step"][1:], curve[column][1:], **style)[0]
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


def as_record(arm: Arm, speedup: SeedValues | None) -> dict[str, Any]:
    """An arm as plain values."""
    record: dict[str, Any] = {"title": arm.title}
    if speedup is not None:
        median = speedup.median.text("{:.4g}".format)
        record["steps_speedup"] = {"by_seed": rounded(speedup.values), "median": median}
    return record | {"trials": {str(seed): asdict(trial) for seed, trial in arm.trials.items()}}


def main() -> None:
    """Write page, record, picture and verdicts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", metavar="RUN")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    runs = [Run(path) for path in arguments.runs]
    record = folder / f"{NAME}.json"
    environments = json.loads(record.read_text())["environment"] if record.exists() else []
    environments += [own for own in map(environment_of, runs) if own not in environments]
    arms, missing = joined(read(record), runs)
    if not any(arm.finished for arm in arms.values()):
        raise SystemExit("no arm has finished with any seed")
    ratios = speedups(arms)
    content = {name: as_record(arm, ratios.get(name)) for name, arm in arms.items()}
    write_record(record, {"environment": environments, "missing": missing, "arms": content})
    machines = [words_of_machine(environment) for environment in environments]
    (folder / f"{NAME}.md").write_text(page(arms, missing, machines))
    drawn = [arm for arm in arms.values() if arm.method in DRAWN]
    without = [arm.title for arm in drawn if not any(t.curve for t in arm.trials.values())]
    if without:  # recorded before curves were kept: the picture there is shows them still
        print(f"{NAME}.png stays as it is: no curves of {'; '.join(without)}")
    else:
        draw(arms, folder / f"{NAME}.png")
    update(folder, [entry_of(arms, missing, environments)])


if __name__ == "__main__":
    main()
