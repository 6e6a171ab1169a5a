"""Run directories of trainings that grokscope watched and did not do: rows, phases, a page."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from grokscope.findings.phase import begun, phases
from grokscope.runs import History, RunDirectory, RunError
from grokscope.runs.rows import KEYS
from grokscope.training.archive import MemoryArchive

ARM = "network"
_SCORES = ("loss", "accuracy")


def watched_spec(name: str, title: str, **more: Any) -> dict[str, Any]:
    """The spec of such a run: one condition, and a table of its phases.

    Args:
        name: of the run.
        title: of the page.
        **more: further entries.
    """
    return {
        "name": name,
        "title": title,
        **more,
        "seeds": [0],
        "arms": {ARM: {"title": title}},
        "milestones": {"memorized": {"metric": "train_accuracy", "target": 0.99}},
        "panels": [
            {
                "kind": "table",
                "title": "Phases",
                "caption": "When each phase was first told, and what it was then waiting for.",
                "results": "phases",
                "columns": {
                    "phase": "phase",
                    "since": "first told at step",
                    "test_accuracy": "test accuracy",
                    "waits_for": "waits for",
                },
                "percent": ["test_accuracy"],
                "wide": True,
            }
        ],
    }


def phase_results(history: History) -> dict[str, Any]:
    """What a page says of the phases of a training; nothing where its accuracies are not known."""
    try:
        told = phases(history)
    except ValueError:  # there is no training accuracy, as of a regression
        return {}
    rows = [
        {
            "phase": each.name,
            "since": each.step,
            "test_accuracy": each.test_accuracy if each.test_accuracy >= 0 else None,
            "waits_for": each.reason if each.waits_for is not None else "",
        }
        for each in begun(told)
    ]
    last = told[-1]
    finding = f"{last.name.capitalize()} since step {last.since:,}: {last.reason}"
    return {"finding": finding, "phase": str(last), "phases": rows}


def write_page(history: History, archive: Any, path: str | Path, title: str, device: str) -> Path:
    """Write the page of ``grokscope report`` on rows that stand in no run directory.

    Args:
        history: the rows.
        archive: where the tensors that go with them are; those in memory are shown too.
        path: the file, or a folder for ``report.html``.
        title: of the page.
        device: where the network was.

    Raises:
        RunError: if there are no rows, or the page cannot be written.
    """
    if not len(history):
        raise RunError("there is nothing to report: no row has been measured yet")
    with TemporaryDirectory() as folder:
        spec = watched_spec(title, title)
        with RunDirectory.create(Path(folder) / "monitor", spec, device, [0]) as run:
            trial = run.trial(ARM, 0)
            for row in history:
                trial.append(_with_train_scores(row), {})
            for name, arrays in archive.kept.items() if isinstance(archive, MemoryArchive) else ():
                trial.save_arrays(name, arrays)
            run.write_results(phase_results(history))
            trial.finish(stopped="measured", steps=int(history.steps[-1]))
        # The page is made by a package above this one, which is found when it is asked for.
        report = import_module("grokscope.report")
        written: Path = report.write_report([run.path], path)
        return written


def _with_train_scores(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the scores of the probe as those of training, where it has no others."""
    probe = {f"train_{name}": row[f"probe_{name}"] for name in _SCORES if f"probe_{name}" in row}
    # Rows of a run directory, with which a monitor may have gone on, name their own condition.
    own = {name: value for name, value in row.items() if name not in KEYS or name == "step"}
    return {**probe, **own}
