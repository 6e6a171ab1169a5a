"""How well StopWhenSettled stops: held against trainings that went on long after it would have.

    python benchmarks/judge_stopping.py RUN... [--curves FILE...] [--out FILE]

Every training of the run directories is read row by row, and the rule is asked at each measured
row. ``--curves`` are recordings by the authors of Zheng et al. 2024 (accuracies alone, hence asked
without alignment). For each training: the step at which the rule stops, the share of the recorded
steps that it saves, and the test accuracy that it gives up, the highest level afterwards (the
median of three readings) less the level where it stops. Giving up more than a point is stopping
too soon. The same with ``use_alignment=False`` shows what alignment adds. Where only the alignment
of one point was recorded, and one output, its size stands for that of the rows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

import grokscope as gs
from grokscope.findings.curves import ALIGNMENTS

TOO_SOON = 0.01
RULES = {
    "alignment": gs.StopWhenSettled(),
    "accuracy_alone": gs.StopWhenSettled(use_alignment=False),
}


def trainings(folder: Path) -> Iterator[tuple[str, gs.History]]:
    """Each training of a run directory under a name."""
    run = gs.Run(folder)
    for arm, seed in run.trials:
        history = run.history(arm, seed)
        if "test_accuracy" not in history or not len(history):
            continue
        if "point_alignment" in history and not any(name in history for name in ALIGNMENTS):
            rows = (
                {**row, "row_alignment": abs(row["point_alignment"])}
                if row.get("point_alignment") is not None
                else row
                for row in history
            )
            history = gs.History(rows)
        yield f"{run.spec.get('name', folder.name)}/{arm}/seed-{seed}", history


def recorded_curves(file: Path) -> Iterator[tuple[str, gs.History]]:
    """Each training of a recording: a mapping that has ``curves`` with accuracies."""

    def walk(node: Any, path: str) -> Iterator[tuple[str, gs.History]]:
        if not isinstance(node, dict):
            return
        curves = node.get("curves")
        if isinstance(curves, dict) and "test_accuracies" in curves:
            names = (_steps_of(curves), "train_accuracies", "test_accuracies")
            columns = list(zip(*(curves[name] for name in names), strict=True))
            scale = 100 if max(column[1] for column in columns) > 1 else 1  # per cents, fractions
            yield (
                path,
                gs.History(
                    {"step": int(s), "train_accuracy": a / scale, "test_accuracy": b / scale}
                    for s, a, b in columns
                ),
            )
        for key, value in node.items():
            yield from walk(value, f"{path}/{key}")

    yield from walk(json.loads(file.read_text()), file.stem)


def _steps_of(curves: dict[str, Any]) -> str:
    return next(name for name in curves if name in ("epoch", "log_steps", "steps"))


def asked(description: str | None, result: str) -> tuple[Iterator[tuple[str, gs.History]], Path]:
    """The trainings that the command line names, and the file that the result goes to."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--curves", nargs="*", type=Path, default=[])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / result)
    arguments = parser.parse_args()
    sources = (*map(trainings, arguments.runs), *map(recorded_curves, arguments.curves))
    return chain.from_iterable(sources), arguments.out


def gained(accuracy: NDArray[np.float64], end: int, start: int) -> float:
    """The highest level from row ``start`` on less the level of the three rows before ``end``.

    A level is the median of three values in a row.
    """
    here = float(np.median(accuracy[max(0, end - 3) : end]))
    later = [float(np.median(accuracy[i : i + 3])) for i in range(start, len(accuracy) - 2)]
    return max([here, *later]) - here


def judged(history: gs.History, rule: gs.StopWhenSettled) -> dict[str, Any] | None:
    """Where a rule stops a recorded training and what that costs; None where it cannot say."""
    known = [name for name in ALIGNMENTS if name in history]
    if rule.use_alignment and not known:
        return None
    column = history[known[0] if rule.use_alignment else "test_accuracy"]
    last = int(history.steps[-1])
    for place in np.flatnonzero(~np.isnan(column)).tolist():
        so_far = gs.History(history.rows[: place + 1])
        if int(so_far.steps[-1]) < last and rule(so_far):
            break
    else:
        return {"stopped_at": None, "saved": 0.0, "given_up": 0.0, "too_soon": False}
    accuracy = history["test_accuracy"]
    given_up = gained(accuracy, place + 1, place)
    return {
        "stopped_at": int(so_far.steps[-1]),
        "saved": 1 - int(so_far.steps[-1]) / last,
        "given_up": given_up,
        "too_soon": given_up > TOO_SOON,
    }


def summary(rows: list[dict[str, Any]], rule: str) -> dict[str, Any]:
    """The figures of a rule over all trainings that it can be asked of."""
    found = [row[rule] for row in rows if row[rule] is not None]
    stopped = [one for one in found if one["stopped_at"] is not None]
    return {
        "trainings": len(found),
        "stopped": len(stopped),
        "too_soon": sum(one["too_soon"] for one in stopped),
        "median_saved_where_stopped": median(one["saved"] for one in stopped) if stopped else None,
        "largest_given_up": max((one["given_up"] for one in stopped), default=None),
    }


def main() -> None:
    histories, out = asked(__doc__, "stopping.json")
    rows = []
    for name, history in histories:
        row = {"training": name, "steps": int(history.steps[-1])}
        row |= {rule: judged(history, stop) for rule, stop in RULES.items()}
        rows.append(row)
        print(json.dumps(row))
    result = {
        "too_soon_is_more_than": TOO_SOON,
        "summary": {rule: summary(rows, rule) for rule in RULES},
        "trainings": rows,
    }
    print(json.dumps(result["summary"], indent=1))
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
