"""What several seeds say of each arm: intervals, ratios seed by seed, tests; plain data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grokscope.findings.statistics import Interval, SeedValues, welch_p, wilcoxon_p
from grokscope.report.summary import END, ArmSummary, RunSummary, Unit
from grokscope.report.wording import NOTHING, count, duration, number, percent, ratio

HEAD = ("over seeds", "median", "mean", "reached", "sooner", "p-values")

_FINAL = "test_accuracy"
_UNITS: tuple[tuple[Unit, str, Callable[[float], str]], ...] = (
    ("steps", "steps", count),
    ("seconds", "training time", duration),
)


@dataclass(frozen=True)
class Contrast:
    """An arm against the baseline: the ratios baseline to arm, seed by seed, and the tests."""

    sooner: SeedValues
    welch: float | None
    wilcoxon: Interval | None


@dataclass(frozen=True)
class SeedStatistics:
    """A figure of one arm over its seeds; ``contrast`` is None for the baseline.

    ``is_counted`` where a seed may never get there, so that it has to be said how many did.
    """

    run: str
    arm: str
    title: str
    figure: str
    sample: SeedValues
    write: Callable[[float], str]
    is_counted: bool
    contrast: Contrast | None = None

    def cells(self) -> list[str]:
        """The row of a table under ``HEAD``, a line for each part of a cell."""
        sample, write = self.sample, self.write
        spread = "" if sample.std is None else f"\n± {write(sample.std)}"
        reached = f"{sample.num_known} of {len(sample)}" if self.is_counted else NOTHING
        return [
            f"{self.title}\n{self.figure}",
            _with_interval(sample, write),
            f"{sample.mean.text(write)}{spread}",
            reached,
            *(_contrast_cells(self.contrast) if self.contrast else (NOTHING, NOTHING)),
        ]

    def data(self) -> dict[str, Any]:
        """All of it for JSON; an end that is not bounded is None."""
        sample, contrast = self.sample, self.contrast
        return {
            "figure": self.figure,
            "num_seeds": len(sample),
            "num_known": sample.num_known,
            **_summary(sample),
            "sooner": None if contrast is None else _summary(contrast.sooner),
            "welch_p": None if contrast is None else contrast.welch,
            "wilcoxon_p": None if contrast is None else _ends(contrast.wilcoxon),
        }


def seed_statistics(summary: RunSummary, least: int = 2) -> list[SeedStatistics]:
    """Steps and seconds to generalise and the final test accuracy of each arm over its seeds.

    Arms with fewer seeds than ``least`` are left out.
    """
    arms = [arm for arm in summary.arms if len(arm.seeds) >= least]
    baseline = next((arm for arm in arms if arm.arm == summary.baseline), None)
    found = []
    for unit, figure, write in _UNITS:
        for arm in arms:
            sample = _sample(arm, unit)
            if sample is None or math.isnan(sample.mean.low):
                continue
            contrast = None if baseline in (None, arm) else _contrast(arm, baseline, unit)
            found.append(
                SeedStatistics(
                    summary.name, arm.arm, arm.title, figure, sample, write, True, contrast
                )
            )
    for arm in arms:
        values = arm.final.get(_FINAL)
        if values:
            final = SeedValues.exact(values)
            found.append(
                SeedStatistics(
                    summary.name, arm.arm, arm.title, "final test accuracy", final, percent, False
                )
            )
    return found


def seed_table(statistics: Sequence[SeedStatistics]) -> list[list[str]]:
    """A head and a row for each figure of each arm; nothing where there are none."""
    return [list(HEAD), *(entry.cells() for entry in statistics)] if statistics else []


def sweep_table(summaries: Sequence[RunSummary]) -> list[list[str]]:
    """The settings of a sweep in one table: steps to generalise, or else the final accuracy.

    Settings of a single arm are held against the first setting.
    """
    alone = all(len(summary.arms) == 1 for summary in summaries)
    found: list[SeedStatistics] = []
    for summary in summaries:
        for entry in seed_statistics(summary, least=1):
            if alone and entry.figure == _UNITS[0][1] and summary is not summaries[0]:
                contrast = _contrast(summary.arms[0], summaries[0].arms[0], _UNITS[0][0])
                entry = replace(entry, contrast=contrast)
            found.append(entry)
    first = next((entry.figure for entry in found), None)
    rows = [
        [f"{entry.run}\n{entry.title}", *entry.cells()[1:]]
        for entry in found
        if entry.figure == first
    ]
    return [[str(first), *HEAD[1:]], *rows] if rows else []


def _contrast(arm: ArmSummary, baseline: ArmSummary | None, unit: Unit) -> Contrast | None:
    ours, theirs = _sample(arm, unit), _sample(baseline, unit) if baseline else None
    if ours is None or theirs is None or baseline is None:
        return None
    shared = [seed for seed in arm.seeds if seed in baseline.seeds]
    if not shared:
        return None
    paired = ours.at([arm.seeds.index(seed) for seed in shared])
    others = theirs.at([baseline.seeds.index(seed) for seed in shared])
    wilcoxon = wilcoxon_p(paired, others) if len(shared) > 1 else None
    return Contrast(others.over(paired), welch_p(ours, theirs), wilcoxon)


def _sample(arm: ArmSummary, unit: Unit) -> SeedValues | None:
    reach = arm.milestones.get(END)
    return None if reach is None else getattr(reach, unit).sample


def _contrast_cells(contrast: Contrast) -> tuple[str, str]:
    tests = []
    if contrast.wilcoxon is not None:
        tests.append(f"Wilcoxon {contrast.wilcoxon.text(number)}")
    if contrast.welch is not None:
        tests.append(f"Welch {number(contrast.welch)}")
    return _with_interval(contrast.sooner, lambda value: f"{ratio(value)}×"), "\n".join(
        tests
    ) or NOTHING


def _with_interval(sample: SeedValues, write: Callable[[float], str]) -> str:
    interval = sample.interval()
    if interval is None or not interval.low < interval.high:
        return sample.median.text(write)
    return f"{sample.median.text(write)}\n{interval.range_text(write)}"


def _summary(sample: SeedValues) -> dict[str, Any]:
    return {
        "median": _ends(sample.median),
        "median_interval": _ends(sample.interval()),
        "mean": _ends(sample.mean),
        "mean_interval": _ends(sample.interval("mean")),
        "std": sample.std,
        "values": [_ends(interval) for interval in sample.intervals],
    }


def _ends(bounds: Interval | None) -> list[float | None] | None:
    if bounds is None:
        return None
    return [end if math.isfinite(end) else None for end in (bounds.low, bounds.high)]
