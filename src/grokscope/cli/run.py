"""``grokscope run``: train, measure, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grokscope.cli.console import OUT
from grokscope.cli.progress import LiveProgress

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
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")]
DataDir = Annotated[
    Path | None,
    typer.Option(help="A folder that holds the data sets.", envvar="GROKSCOPE_DATA", metavar="DIR"),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", metavar="NAME")]


def run(
    experiment: Annotated[
        str, typer.Argument(help="A name from `grokscope list`, or a YAML file.")
    ],
    preset: Preset = "quick",
    seeds: Seeds = None,
    settings: Settings = None,
    out: Out = None,
    resume: Resume = False,
    data_dir: DataDir = None,
    device: Device = "auto",
) -> None:
    """Run an experiment and write its report."""
    from grokscope.experiments import load_experiment, run_experiment
    from grokscope.report import print_summary, write_report

    spec = load_experiment(experiment, preset, settings or (), seeds)
    folder = out or default_folder(spec.name, resume)
    OUT.print(
        f"[bold]{spec.title}[/bold]\n{len(spec.arms)} trainings x {len(spec.seeds)} seed(s), "
        f"preset {spec.preset}, into {folder}\n"
    )
    with LiveProgress(OUT, len(spec.seeds)) as progress:
        done = run_experiment(
            spec, folder, device=device, resume=resume, data_dir=data_dir, observer=progress
        )
    OUT.print()
    print_summary(done, OUT)
    page = write_report([done.path])
    OUT.print(f"\nReport: {page}", soft_wrap=True)


def default_folder(name: str, resume: bool) -> Path:
    """runs/NAME, or the next free runs/NAME-2, -3, ...; to resume, the last that exists."""
    folders = [Path("runs") / name]
    while (folders[-1] / "spec.yaml").exists():
        folders.append(Path("runs") / f"{name}-{len(folders) + 1}")
    return folders[-2] if resume and len(folders) > 1 else folders[-1]
