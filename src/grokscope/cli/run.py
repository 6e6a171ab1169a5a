"""``grokscope run``: train, measure, report."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from grokscope.cli.console import ERR, OUT, Json, fail, print_json
from grokscope.cli.progress import LiveProgress

if TYPE_CHECKING:
    from grokscope.runs import Run

Preset = Annotated[str, typer.Option(help="quick or paper.", metavar="NAME")]
Seeds = Annotated[
    int | None, typer.Option(help="Run seeds 0 to N-1, as one where that pays.", metavar="N")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a setting, as in training.lr=1e-3.", metavar="PATH=VALUE"),
]
Out = Annotated[
    Path | None, typer.Option(help="The run directory [default: runs/EXPERIMENT].", metavar="DIR")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with a run that was stopped, if there is one.")
]
DataDir = Annotated[
    Path | None,
    typer.Option(help="A folder that holds the data sets.", envvar="GROKSCOPE_DATA", metavar="DIR"),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", metavar="NAME")]
Check = Annotated[bool, typer.Option("--check", help="Exit with 1 unless every claim holds.")]


def complete_experiment(typed: str) -> list[str]:
    """The experiments whose name begins with what was typed, for the shell."""
    from grokscope.experiments.catalogue import shipped

    return [name for name in shipped() if name.startswith(typed)]


Experiment = Annotated[
    str,
    typer.Argument(
        help="A name from `grokscope list`, or a YAML file.",
        metavar="EXPERIMENT",
        autocompletion=complete_experiment,
    ),
]


def run(
    experiment: Experiment,
    preset: Preset = "quick",
    seeds: Seeds = None,
    settings: Settings = None,
    out: Out = None,
    resume: Resume = False,
    data_dir: DataDir = None,
    device: Device = "auto",
    check: Check = False,
    as_json: Json = False,
) -> None:
    """Run an experiment and write its report."""
    done, page = train_and_report(
        experiment, preset, seeds, settings, out, resume, data_dir, device, as_json
    )
    if as_json:
        print_json(run_data(done, page))
    if check:
        exit_unless_held([done])


def train_and_report(
    experiment: str,
    preset: str,
    seeds: int | None,
    settings: list[str] | None,
    out: Path | None,
    resume: bool,
    data_dir: Path | None,
    device: str,
    quiet: bool,
) -> tuple[Run, Path]:
    """Run an experiment, print what it found unless ``quiet``; the run and its page."""
    from grokscope.experiments.catalogue import raw_experiment

    # Mistakes in names and settings are told before torch is loaded.
    raw_experiment(experiment, preset, settings or (), seeds)
    from grokscope.experiments import load_experiment, run_experiment
    from grokscope.report import print_summary, write_report
    from grokscope.runs.side_files import holds_run

    console = ERR if quiet else OUT
    spec = load_experiment(experiment, preset, settings or (), seeds)
    folder = out or default_folder(spec.name, resume)
    console.print(Text(spec.title, "bold"))
    console.print(
        f"{len(spec.arms)} condition(s) x {len(spec.seeds)} seed(s), "
        f"preset {spec.preset}, into {folder}\n"
    )
    if resume and not holds_run(folder):
        console.print(f"There is no run in {folder} to go on with: it starts now.\n")
    with LiveProgress(console, len(spec.seeds)) as progress:
        done = run_experiment(
            spec, folder, device=device, resume=resume, data_dir=data_dir, observer=progress
        )
    console.print()
    if not quiet:
        print_summary(done, console)
    page = write_report([done.path])
    console.print(f"\nReport: {page}", soft_wrap=True)
    return done, page


def run_data(run: Run, page: Path) -> dict[str, Any]:
    """What a run found, for a program."""
    from grokscope.report import comparison_data

    report = {"report": str(page), "conditions": comparison_data([run])}
    return judged_data(run) | report


def judged_data(run: Run) -> dict[str, Any]:
    """How a run stands, what it found and what became of its claims, for a program."""
    from grokscope.findings.summary import run_summary
    from grokscope.report.finding import finding, judgement

    summary = run_summary(run)
    return {
        "run": str(run.path),
        "state": run.state,
        "finding": finding(summary).headline,
        "claims": [asdict(judgement(verdict, run.state)) for verdict in summary.verdicts],
    }


def exit_unless_held(runs: list[Run]) -> None:
    """Exit with 1 where a claim of a run does not hold, or could not be judged."""
    from grokscope.findings import verdicts

    judged = [verdict for run in runs for verdict in verdicts(run)]
    fallen = [f"{v.claim.says} ({v.state})" for v in judged if v.state != "held"]
    if fallen:
        said = f"{len(fallen)} of {len(judged)} claims did not hold: {'; '.join(fallen)}"
        raise typer.Exit(fail(said, 1))


def default_folder(name: str, resume: bool) -> Path:
    """runs/NAME, or the next free runs/NAME-2, -3, ...; to resume, the last that exists."""
    folders = [Path("runs") / name]
    while (folders[-1] / "spec.yaml").exists():
        folders.append(Path("runs") / f"{name}-{len(folders) + 1}")
    return folders[-2] if resume and len(folders) > 1 else folders[-1]
