"""Can the phases be believed? Held against what the whole of each recorded training shows.

    python benchmarks/judge_phases.py RUN... [--curves FILE...] [--out FILE]

Every training of the run directories is read row by row, and ``phase`` is asked at each row of the
rows so far. The truth is ``gs.onset`` of the whole training: when the training data were fitted,
and when test accuracy had made 10 % and 90 % of its rise. For each training: when each phase was
first named and how many times as many steps as the truth that is, how often a named phase was an
earlier one than the one before, and whether "settled" was named before the end of an onset, or
more than a point of test accuracy came after it. ``--curves`` are recordings by the authors of
Zheng et al. 2024, which have no alignment: nothing is to be called settled there.
"""

from __future__ import annotations

import json
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

import grokscope as gs
from grokscope.findings.phase import PHASES, phases
from judge_stopping import TOO_SOON, asked, gained


def judged(history: gs.History) -> dict[str, Any]:
    """The phases that were named along a training, against the whole of it."""
    told, truth = phases(history), gs.onset(history)
    names = [each.name for each in told]
    places = [PHASES.index(name) for name in names]
    first = {name: told[names.index(name)].step for name in PHASES if name in names}
    settled = first.get("settled")
    after = None if settled is None else _gained_after(history, settled)
    ends = None if truth.state != "delayed" else (truth.end or truth.last)
    return {
        "onset": truth.state,
        "truth": {"memorized": truth.memorized, "start": truth.start, "end": truth.end},
        "named": first,
        "returns": sum(later < earlier for earlier, later in pairwise(places)),
        "memorized_late": _ratio(_after(told, "fitting"), truth.memorized),
        "generalizing_late": _ratio(first.get("generalizing"), truth.start),
        "settled_late": _ratio(settled, truth.end),
        "settled_before_the_end": settled is not None and ends is not None and settled < ends,
        "gained_after_settled": after,
    }


def _after(told: list[gs.Phase], name: str) -> int | None:
    """The step at which a phase is first named no longer."""
    return next((each.step for each in told if each.name != name), None)


def _ratio(named: float | None, true: float | None) -> float | None:
    return None if named is None or true is None else max(named, 1) / max(true, 1)


def _gained_after(history: gs.History, step: int) -> float:
    """The highest level of test accuracy after a step, less that at the step."""
    known = np.isfinite(history["test_accuracy"])
    accuracy, steps = history["test_accuracy"][known], history.steps[known]
    place = int(np.searchsorted(steps, step, side="right"))
    return gained(accuracy, place, place)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What holds over some trainings."""
    result: dict[str, Any] = {
        "trainings": len(rows),
        "with_an_onset": sum(row["onset"] == "delayed" for row in rows),
        "settled": sum("settled" in row["named"] for row in rows),
        "settled_before_the_end_of_an_onset": sum(row["settled_before_the_end"] for row in rows),
        "settled_too_soon": sum((row["gained_after_settled"] or 0) > TOO_SOON for row in rows),
        "most_gained_after_settled": max(
            (row["gained_after_settled"] or 0 for row in rows if "settled" in row["named"]),
            default=None,
        ),
        "most_returns": max(row["returns"] for row in rows),
    }
    for name in ("memorized_late", "generalizing_late", "settled_late"):
        known = [row[name] for row in rows if row[name] is not None]
        result[name] = (
            {"trainings": len(known), "least": min(known), "median": median(known)}
            | {"most": max(known)}
            if known
            else None
        )
    return result


def table(groups: dict[str, dict[str, Any]]) -> str:
    """The summaries as a table for the documentation."""
    head = "| recorded trainings | with an onset | memorized | generalizing | settled | returns |"
    lines = [head, "|---" * 6 + "|"]
    for name, found in groups.items():
        late = (_late(found[key]) for key in ("memorized_late", "generalizing_late"))
        settled = str(found["settled"])
        if found["settled"]:
            settled += f", then at most {100 * found['most_gained_after_settled']:.1f} points more"
        cells = [f"{name} ({found['trainings']})", str(found["with_an_onset"]), *late, settled]
        lines.append(f"| {' | '.join(cells)} | {found['most_returns']} |")
    return "\n".join(lines)


def _late(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    least, most = f"{found['least']:.2f}", f"{found['most']:.2f}"
    return least if least == most else f"{least} to {most}"


def main() -> None:
    histories, out = asked(__doc__, "phases.json")
    rows = [
        {"training": name, "steps": int(history.steps[-1]), **judged(history)}
        for name, history in histories
    ]
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["training"].split("/")[0], []).append(row)
    by_group = {name: summary(own) for name, own in groups.items()}
    result = {"summary": summary(rows), "groups": by_group, "trainings": rows}
    print(table(by_group))
    print(json.dumps(result["summary"], indent=1))
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
