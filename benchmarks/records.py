"""How results are kept under docs/results."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from grokscope.experiments.catalogue import shipped
from grokscope.experiments.yaml_files import read_yaml
from grokscope.findings.claims import Claim, Verdict, judge
from grokscope.runs import Run
from grokscope.runs.environment import environment

RESULTS = Path(__file__).parents[1] / "docs" / "results"
_ENVIRONMENT = ("grokscope", "packages", "python", "platform", "processor", "threads", "started")


def environment_of(run: Run) -> dict[str, Any]:
    """Where and with what a run was made; its accelerator, where it had one."""
    found = {name: run.env[name] for name in _ENVIRONMENT}
    if run.env.get("accelerator"):
        found["accelerator"] = run.env["accelerator"]
    return found


def machine_of(run: Run) -> str:
    """The same in a phrase: what computed, and with which PyTorch."""
    return words_of_machine(environment_of(run))


def words_of_machine(env: Mapping[str, Any]) -> str:
    """A recorded environment in a phrase."""
    threads = env["threads"]
    what = f"{env['processor']}, {threads} thread{'' if threads == 1 else 's'}"
    return f"{env.get('accelerator', what)}, torch {env['packages']['torch']}"


def rounded(value: Any, digits: int = 4) -> Any:
    """Numbers to so many significant digits, also within lists and mappings; all else as it is."""
    if isinstance(value, Mapping):
        return {name: rounded(own, digits) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(own, digits) for own in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def spread(values: Sequence[float]) -> str:
    """The median of a few values, and from where to where they go."""
    middle = f"{median(values):.3g}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.3g} to {max(values):.3g})"


def table_row(cells: Iterable[str]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def stored(run: Run, arm: str, name: str, part: str) -> np.ndarray:
    """A tensor that the first seed of an arm has stored."""
    arrays = run.arrays(arm, 0, name)
    if arrays is None:
        raise SystemExit(f"{run.path}: {arm} has stored no {name}")
    return np.asarray(arrays[part])


def judged(run: Run) -> list[dict[str, Any]]:
    """The verdict on each claim that a run's experiment makes now, with the value it was judged by.

    An experiment that does not come with the package has the claims of its own spec.
    """
    path = shipped().get(run.spec["name"])
    spec = run.spec if path is None else read_yaml(path)
    return told(judge(claim, run) for claim in claims_of(spec))


def claims_of(spec: Mapping[str, Any]) -> list[Claim]:
    """The claims that an experiment makes."""
    return [Claim.model_validate(claim) for claim in spec.get("claims") or ()]


def told(verdicts: Iterable[Verdict]) -> list[dict[str, Any]]:
    """Verdicts as they are recorded, each with the value it was judged by."""
    return [
        {
            "says": verdict.claim.says,
            "source": verdict.claim.source,
            "state": verdict.state,
            "value": None if verdict.measured is None else rounded(verdict.measured.median.low),
        }
        for verdict in verdicts
    ]


def write_tables(page: Path, tables: str) -> None:
    """Put a benchmark's tables where their page has its place for them."""
    before, rest = page.read_text("utf-8").split("<!-- benchmark -->\n", 1)
    after = rest.split("<!-- end of benchmark -->", 1)[1]
    text = f"{before}<!-- benchmark -->\n{tables}\n<!-- end of benchmark -->{after}"
    page.write_text(text, "utf-8")


def write_timings(path: Path, rounds: int, **content: Any) -> None:
    """Write what a benchmark measured on one thread in some rounds, and on what machine."""
    machine = environment("cpu", [0])
    measured_on = {"torch": machine["packages"]["torch"], "processor": machine["processor"]}
    record = {**measured_on, "threads": 1, "rounds": rounds, **content}
    path.write_text(json.dumps(record, indent=2) + "\n", "utf-8")


def write_record(path: Path, content: Any) -> None:
    """Write JSON for people too: a list of plain values stands on one line."""
    text = json.dumps(content, indent=1)
    flat = re.sub(r"\[[^][{}]*\]", lambda values: " ".join(values[0].split()), text)
    path.write_text(flat + "\n")
