"""``grokscope reproduce``: a figure or table of a paper, claim by claim."""

from __future__ import annotations

from typing import Annotated

import typer

from grokscope.cli.console import Json, print_json
from grokscope.cli.run import (
    Check,
    DataDir,
    Device,
    Out,
    Preset,
    Resume,
    Seeds,
    Settings,
    exit_unless_held,
    run_data,
    train_and_report,
)


def complete_figure(typed: str) -> list[str]:
    """The figures whose name begins with what was typed, for the shell."""
    from grokscope.experiments.catalogue import reproducible

    return [figure for figure in reproducible() if figure.startswith(typed)]


def reproduce(
    figure: Annotated[
        str,
        typer.Argument(
            help="A figure or table, such as grokalign/fig7.",
            metavar="PAPER/FIGURE",
            autocompletion=complete_figure,
        ),
    ],
    preset: Preset = "paper",
    seeds: Seeds = None,
    settings: Settings = None,
    out: Out = None,
    resume: Resume = False,
    data_dir: DataDir = None,
    device: Device = "auto",
    check: Check = False,
    as_json: Json = False,
) -> None:
    """Reproduce a figure, and say claim by claim what held."""
    from grokscope.experiments.catalogue import reproducible
    from grokscope.experiments.errors import SpecError
    from grokscope.spelling import unknown_name

    known = reproducible()
    if figure not in known:
        raise SpecError(unknown_name("figure", figure, known))
    names = known[figure]
    done = [
        train_and_report(
            name,
            preset,
            seeds,
            settings,
            out / name if out is not None and len(names) > 1 else out,
            resume,
            data_dir,
            device,
            as_json,
        )
        for name in names
    ]
    if as_json:
        print_json([run_data(run, page) for run, page in done])
    if check:
        exit_unless_held([run for run, _ in done])
