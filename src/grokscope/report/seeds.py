"""What several seeds say of each arm, as a table: intervals, ratios seed by seed, tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from grokscope.findings.statistics import SeedValues
from grokscope.findings.summary import END, Comparison, RunSummary, comparison
from grokscope.findings.target import Unit
from grokscope.report.wording import NOTHING, count, duration, number, percent, times

HEAD = ("over seeds", "median", "mean", "reached", "speedup", "p-values")

_UNITS: tuple[tuple[Unit, str, Callable[[float], str]], ...] = (
    ("steps", "steps", count),
    ("seconds", "training time", duration),
)


@dataclass(frozen=True)
class SeedRow:
    """A row of the table: the values of one arm over its seeds.

    ``is_counted`` where a seed may not reach the target, so that it has to be said how many did;
    ``against`` is None for the baseline.
    """

    run: str
    arm: str
    title: str
    name: str
    values: SeedValues
    write: Callable[[float], str]
    is_counted: bool
    against: Comparison | None = None

    def cells(self) -> list[str]:
        """The row under ``HEAD``, a line for each part of a cell."""
        values, write = self.values, self.write
        spread = "" if values.std is None else f"\n± {write(values.std)}"
        reached = f"{values.num_known} of {len(values)}" if self.is_counted else NOTHING
        return [
            f"{self.title}\n{self.name}",
            _with_interval(values, write),
            f"{values.mean.text(write)}{spread}",
            reached,
            *(_against(self.against) if self.against else (NOTHING, NOTHING)),
        ]


def seed_rows(summary: RunSummary, least: int = 2) -> list[SeedRow]:
    """Steps and seconds to generalize and the final test accuracy of each arm over its seeds.

    Arms with fewer seeds than ``least`` are left out.
    """
    arms = [arm for arm in summary.arms if len(arm.seeds) >= least]
    compared = summary.baseline in [arm.arm for arm in arms]
    found = []
    for unit, name, write in _UNITS:
        for arm in arms:
            values = arm.milestones.get(END, {}).get(unit)
            if values is None or math.isnan(values.mean.low):
                continue
            against = arm.against.get(unit) if compared else None
            found.append(
                SeedRow(summary.name, arm.arm, arm.title, name, values, write, True, against)
            )
    for arm in arms:
        if final := arm.final.get("test_accuracy"):
            name = "final test accuracy"
            found.append(SeedRow(summary.name, arm.arm, arm.title, name, final, percent, False))
    return found


def seed_table(rows: Sequence[SeedRow]) -> list[list[str]]:
    """A head and the rows; nothing where there are none."""
    return [list(HEAD), *(row.cells() for row in rows)] if rows else []


def sweep_table(summaries: Sequence[RunSummary]) -> list[list[str]]:
    """The settings of a sweep in one table: steps to generalize, or else the final accuracy.

    Settings of a single arm are compared with the first setting, where they mean the same by
    generalizing.
    """
    goals = {summary.milestones.get(END) for summary in summaries}
    alone = len(goals) == 1 and all(len(summary.arms) == 1 for summary in summaries)
    found: list[SeedRow] = []
    for summary in summaries:
        for row in seed_rows(summary, least=1):
            if alone and row.name == _UNITS[0][1] and summary is not summaries[0]:
                against = comparison(summary.arms[0], summaries[0].arms[0])
                row = replace(row, against=against.get(_UNITS[0][0]))
            found.append(row)
    first = next((row.name for row in found), None)
    rows = [[f"{row.run}\n{row.title}", *row.cells()[1:]] for row in found if row.name == first]
    return [[str(first), *HEAD[1:]], *rows] if rows else []


def _against(against: Comparison) -> tuple[str, str]:
    tests = []
    if against.wilcoxon_p is not None:
        tests.append(f"Wilcoxon {against.wilcoxon_p.text(number)}")
    if against.welch_p is not None:
        tests.append(f"Welch {number(against.welch_p)}")
    return _with_interval(against.ratio, times), "\n".join(tests) or NOTHING


def _with_interval(values: SeedValues, write: Callable[[float], str]) -> str:
    interval = values.interval()
    if interval is None or not interval.low < interval.high:
        return values.median.text(write)
    return f"{values.median.text(write)}\n{interval.range_text(write)}"
