"""A run opened for reporting: everything the tables and pictures ask of it, checked on opening."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grokscope.findings import Verdict, verdicts
from grokscope.runs import History, Run, RunError, open_runs


@dataclass(frozen=True)
class Milestone:
    """A point that training reaches: ``metric`` at or above ``target``."""

    name: str
    metric: str
    target: float


@dataclass(frozen=True)
class Subject:
    """A run whose spec and rows have been read; what else could not be read is in ``problems``."""

    run: Run
    name: str
    spec: dict[str, Any]
    status: dict[str, Any]
    env: dict[str, Any]
    results: dict[str, Any]
    histories: dict[tuple[str, int], History]
    verdicts: list[Verdict]
    problems: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The experiment's title, or its name."""
        return str(self.spec.get("title") or self.name)

    @property
    def state(self) -> str:
        """How the run stands: finished, running, interrupted, failed, killed or unknown."""
        return str(self.status.get("state", "unknown"))

    @property
    def arms(self) -> list[str]:
        """The arms of the spec in its order, then any that only the rows know."""
        return list(
            dict.fromkeys([*(self.spec.get("arms") or {}), *(arm for arm, _ in self.histories)])
        )

    @property
    def milestones(self) -> list[Milestone]:
        """The milestones of the spec, in its order."""
        found = self.spec.get("milestones") or {}
        return [
            Milestone(str(name), str(entry["metric"]), float(entry["target"]))
            for name, entry in found.items()
        ]

    def arm_title(self, arm: str) -> str:
        """An arm's title, or its name."""
        return str(self.arm_spec(arm).get("title") or arm)

    def arm_spec(self, arm: str) -> dict[str, Any]:
        """What the spec says of an arm; empty for an arm that only the rows know."""
        return (self.spec.get("arms") or {}).get(arm, {})

    def seeds(self, arm: str) -> list[int]:
        """The seeds of one arm that have rows."""
        return [seed for name, seed in self.histories if name == arm]

    def of(self, arm: str) -> list[History]:
        """The histories of one arm, a seed each."""
        return [history for (name, _), history in self.histories.items() if name == arm]

    def trial(self, arm: str, seed: int) -> dict[str, Any]:
        """What the status file says of one training."""
        return dict(self.status.get("trials", {}).get(f"{arm}/seed-{seed}", {}))


def open_subject(run: Run | Path) -> Subject:
    """A run with its spec and rows read.

    A missing or damaged environment, status or results file is noted in ``problems``; the rest of
    the run can still be shown.

    Raises:
        RunError: there is no run, or its spec or its rows cannot be read.
    """
    run = run if isinstance(run, Run) else Run(run)
    spec = _spec(run)
    histories = {(arm, seed): run.history(arm, seed) for arm, seed in run.trials}
    problems: list[str] = []
    return Subject(
        run=run,
        name=str(spec.get("name") or run.path.resolve().name),
        spec=spec,
        status=_or_problem(lambda: run.status, problems),
        env=_or_problem(lambda: run.env, problems),
        results=_or_problem(lambda: run.results, problems),
        histories=histories,
        verdicts=_verdicts(run, problems),
        problems=problems,
    )


def open_subjects(runs: Iterable[Run | Path]) -> list[Subject]:
    """Several runs opened; those with the same name are told apart by their folder.

    A folder of a sweep counts as a run for each of its settings.

    Raises:
        RunError: there are none, or one of them cannot be read.
    """
    subjects = [
        open_subject(opened)
        for run in runs
        for opened in ([run] if isinstance(run, Run) else open_runs([run]))
    ]
    if not subjects:
        raise RunError("no run was named; name a run directory, as in runs/digits-grokking")
    names = [subject.name for subject in subjects]
    for subject in subjects:
        if names.count(subject.name) > 1:
            object.__setattr__(subject, "name", _folder_name(subject, subjects))
    return subjects


def _folder_name(subject: Subject, subjects: list[Subject]) -> str:
    """The shortest end of the run's path that no other run shares."""
    paths = [other.run.path.resolve() for other in subjects if other is not subject]
    own = subject.run.path.resolve()
    for length in range(1, len(own.parts)):
        tail = own.parts[-length:]
        if all(path.parts[-length:] != tail for path in paths):
            return "/".join(tail)
    return str(own)


def _spec(run: Run) -> dict[str, Any]:
    faults = list(_faults(run.spec))
    if faults:
        raise RunError(f"{run.spec_file} does not describe an experiment: {'; '.join(faults)}")
    return run.spec


def _faults(spec: Mapping[str, Any]) -> Iterator[str]:
    """What keeps a spec from being shown."""
    for part in ("arms", "milestones"):
        entries = spec.get(part) or {}
        if not isinstance(entries, dict):
            yield f"{part} is not a mapping"
            continue
        for name, entry in entries.items():
            if not isinstance(entry, dict):
                yield f"{part}.{name} is not a mapping"
            elif part == "milestones" and not (
                isinstance(entry.get("metric"), str)
                and isinstance(entry.get("target"), (int, float))
            ):
                yield f"{part}.{name} needs a metric and a target, a number"
    if not isinstance(spec.get("panels") or [], list):
        yield "panels is not a list"


def _or_problem(read: Callable[[], dict[str, Any]], problems: list[str]) -> dict[str, Any]:
    """What a file of the run holds; nothing, and a problem noted, where it cannot be read."""
    try:
        return read()
    except RunError as error:
        problems.append(str(error))
        return {}


def _verdicts(run: Run, problems: list[str]) -> list[Verdict]:
    try:
        return list(verdicts(run))
    except (RunError, KeyError, TypeError, ValueError) as error:
        first = str(error).splitlines()[0]
        problems.append(f"the claims in {run.spec_file} could not be judged: {first}")
        return []
