"""``grokscope report --watch``: the page, and a view in the terminal, of runs that train."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from grokscope.runs import Run

SECONDS = 5  # between two checks of the files, and two loads of the page
_METRICS = ("train_accuracy", "test_accuracy", "train_loss", "test_loss")
_MOST = 2  # metrics beside the step, so that a line fits 80 columns


def watch(
    runs: Sequence[Path], out: Path | None, console: Console, seconds: float = SECONDS
) -> Path:
    """Write the page anew whenever runs have recorded something, until none is training.

    Args:
        runs: run directories, or folders of sweeps.
        out: the page, as in ``write_report``.
        console: where the view is shown; a line for each change where it is no terminal.
        seconds: how long to wait between two checks of the files.

    Returns:
        The page, which does not load itself any more.
    """
    from grokscope.report import write_report
    from grokscope.runs import open_runs

    seen: object = None
    with Live(console=console, auto_refresh=False, transient=True) as live:
        try:
            while True:
                opened = open_runs(runs, lenient=True)
                if not any(run.state == "running" for run in opened):
                    break
                if (stamp := _stamp(opened)) != seen:
                    # read first: a run goes on while its page is written
                    seen, line = stamp, _line(opened)
                    page = write_report(runs, out, refresh=max(1, round(seconds)))
                    if console.is_terminal:
                        live.update(_view(opened, page), refresh=True)
                    else:
                        console.print(line, soft_wrap=True)
                time.sleep(seconds)
        except KeyboardInterrupt:
            pass  # the run goes on without being watched
    return write_report(runs, out)


def _stamp(runs: Sequence[Run]) -> list[tuple[str, int, int]]:
    """What changes whenever a run records something."""
    files = sorted(file for run in runs for file in run.path.rglob("*.json*"))
    stats = ((file, file.stat()) for file in files if file.exists())
    return [(str(file), stat.st_mtime_ns, stat.st_size) for file, stat in stats]


def _view(runs: Sequence[Run], page: Path) -> RenderableType:
    from grokscope.findings.summary import run_summary
    from grokscope.report.finding import finding, judgement

    parts: list[RenderableType] = []
    for run in runs:
        summary = run_summary(run)
        parts += [Text(run.title, "bold"), _table(run), Text(f"{finding(summary).headline}.")]
        for verdict in summary.verdicts:
            told = judgement(verdict, run.state)
            parts.append(Text(f"{told.mark} {told.word}: {told.says} [{told.measured}]", "dim"))
        parts.append(Text())
    parts.append(Text(f"Page: {page}   (Ctrl-C stops watching, not the run)", "dim"))
    return Group(*parts)


def _table(run: Run) -> Table:
    """A line for each training: how far it is, and its latest values."""
    from grokscope.report.wording import metric_name, metric_value

    latest: dict[Any, dict[str, Any]] = {}
    for key, history in run.histories.items():  # a row need not have every column
        known = (item for row in history.rows for item in row.items() if item[1] is not None)
        latest[key] = dict(known)
    names = [name for name in _METRICS if any(name in row for row in latest.values())][:_MOST]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for head in ("condition", "", "step", *map(metric_name, names), ""):
        table.add_column(head, no_wrap=head != "condition")
    for (arm, seed), row in latest.items():
        total = _max_steps(run, arm)
        title = run.arm_title(arm)
        state = str(run.trial_status(arm, seed).get("state", ""))
        bar = ProgressBar(total, row["step"], width=12) if total else Text()
        values = [metric_value(name, row[name]) if name in row else "" for name in names]
        words = title if len(run.seeds(arm)) == 1 else f"{title}, seed {seed}"
        table.add_row(Text(words), bar, f"{row['step']:,}", *values, state)
    return table


def _line(runs: Sequence[Run]) -> str:
    """How far each training is, in a line."""
    told = [
        f"{arm} seed {seed} step {history.rows[-1]['step']:,}"
        for run in runs
        for (arm, seed), history in run.histories.items()
    ]
    return "; ".join(told) or "no evaluation yet"


def _max_steps(run: Run, arm: str) -> int | None:
    training = run.arm_spec(arm).get("training")
    steps = training.get("max_steps") if isinstance(training, dict) else None
    return steps if isinstance(steps, int) else None
