"""The figures of Table 1 from run directories: docs/results/table1.json, and tables to paste.

Run it: python benchmarks/table1_results.py RUN RUN, with runs of mnist-table1 and
mnist-table1-mse, finished or stopped; only seeds that all arms have finished are counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grokscope.findings.statistics import SeedValues, wilcoxon_p
from grokscope.findings.target import Target, Unit
from grokscope.report.wording import count, duration, ratio
from grokscope.runs import Run
from records import RESULTS, environment_of, table_row, write_record

RESULT = RESULTS / "table1.json"
FIGURES = "{:.6g}".format
TARGET, SINCE = Target("test_accuracy", 0.85), 0.2
HEAD = (
    "| | reached 85 % | steps | fewer steps | training time | less time "
    "| time from 20 % | less time from 20 % |\n" + "|---" * 8 + "|"
)
CLOCKS: dict[str, tuple[Unit, float | None]] = {
    "steps": ("steps", None),
    "seconds": ("seconds", None),
    "seconds_since_20_percent": ("seconds", SINCE),
}


def complete_seeds(run: Run) -> list[int]:
    """The seeds that every arm has finished."""
    arms, trials = run.spec["arms"], run.status["trials"]
    return [
        seed
        for seed in run.spec["seeds"]
        if all(trials.get(f"{arm}/seed-{seed}", {}).get("state") == "finished" for arm in arms)
    ]


def described(sample: SeedValues) -> dict[str, Any]:
    interval = sample.interval()
    return {
        "by_seed": [None if value is None else round(value, 2) for value in sample.values],
        "at_least": [round(low, 2) for low in sample.lows],
        "median": sample.median.text(FIGURES),
        "mean": sample.mean.text(FIGURES),
        "deviation": None if sample.std is None else float(FIGURES(sample.std)),
        "interval_of_median_95_percent": None if interval is None else interval.text(FIGURES),
    }


def table(run: Run) -> dict[str, Any]:
    seeds = complete_seeds(run)
    if not seeds:
        raise SystemExit(f"{run.path}: no seed has finished in all arms")
    print(HEAD)
    samples = {
        arm: {
            name: TARGET.time_to([run.history(arm, seed) for seed in seeds], unit, since)
            for name, (unit, since) in CLOCKS.items()
        }
        for arm in run.spec["arms"]
    }
    baseline = samples["baseline"]
    rows = {}
    for arm, clocks in samples.items():
        ratios = {name: baseline[name].over(sample) for name, sample in clocks.items()}
        rows[arm] = {
            "title": run.spec["arms"][arm]["title"],
            **{name: described(sample) for name, sample in clocks.items()},
            "times_less": {name: described(sample) for name, sample in ratios.items()},
            "wilcoxon_p_of_steps": wilcoxon_p(clocks["steps"], baseline["steps"]).text(
                "{:.2g}".format
            ),
        }
        print_row(rows[arm]["title"], clocks, ratios, is_baseline=arm == "baseline")
    return {"seeds": seeds, "environment": environment_of(run), "arms": rows}


def print_row(
    title: str, clocks: dict[str, SeedValues], ratios: dict[str, SeedValues], is_baseline: bool
) -> None:
    steps = clocks["steps"]
    cells = [title, f"{steps.num_known} of {len(steps)}"]
    for name, sample in clocks.items():
        cells.append(spread(sample, count if name == "steps" else duration))
        cells.append("" if is_baseline else spread(ratios[name], lambda value: f"{ratio(value)}x"))
    print(table_row(cells))


def spread(sample: SeedValues, write: Callable[[float], str]) -> str:
    """Median; mean and deviation."""
    text = sample.median.text(write)
    if len(sample) > 1:
        text += f" (mean {sample.mean.text(write)}"
        text += ")" if sample.std is None else f" ± {write(sample.std)})"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    found = {run.spec["name"]: table(run) for run in map(Run, parser.parse_args().runs)}
    write_record(RESULT, found)


if __name__ == "__main__":
    main()
