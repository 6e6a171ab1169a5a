"""``grokscope reproduce``: a figure or table of a paper, claim by claim."""

from __future__ import annotations

from typing import Annotated

import typer

from grokscope.cli.run import DataDir, Device, Out, Preset, Resume, Seeds, Settings, run


def reproduce(
    figure: Annotated[str, typer.Argument(help="PAPER/FIGURE, such as grokalign/fig7.")],
    preset: Preset = "paper",
    seeds: Seeds = None,
    settings: Settings = None,
    out: Out = None,
    resume: Resume = False,
    data_dir: DataDir = None,
    device: Device = "auto",
) -> None:
    """Run what a paper shows, render it, and say claim by claim what held."""
    from grokscope.experiments import SpecError, reproducible
    from grokscope.spelling import unknown_name

    known = reproducible()
    if figure not in known:
        raise SpecError(unknown_name("figure", figure, known))
    names = known[figure]
    for name in names:
        folder = out / name if out is not None and len(names) > 1 else out
        run(name, preset, seeds, settings, folder, resume, data_dir, device)
