"""``grokscope measure``: networks trained elsewhere become a run directory and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from grokscope.cli.console import ERR, OUT, Json, fail, print_json
from grokscope.cli.interruption import take_interruption
from grokscope.cli.progress import LiveProgress
from grokscope.cli.run import DataDir, Device, run_data


def measure(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(
            help="State dictionaries (.safetensors, .pt, ...), or folders of them.",
            metavar="CHECKPOINT...",
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="The network: module:Net, whose code is run, or mlp, cnn, transformer.",
            metavar="MODULE:NAME",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="module:function, a .npz or .safetensors file, or a data set by name.",
            metavar="DATA",
        ),
    ],
    model_arguments: Annotated[
        list[str] | None,
        typer.Option("--model-arg", help="An argument of the network.", metavar="NAME=VALUE"),
    ] = None,
    data_arguments: Annotated[
        list[str] | None,
        typer.Option("--data-arg", help="An argument of the data.", metavar="NAME=VALUE"),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(
            help="Names to take, as net-{step}.pt [default: the step is the last number].",
            metavar="NAME",
        ),
    ] = None,
    measures: Annotated[
        list[str] | None,
        typer.Option("--measure", help="A measure [default: those of a monitor].", metavar="NAME"),
    ] = None,
    loss: Annotated[str, typer.Option(help="The loss to record.", metavar="NAME")] = (
        "cross_entropy"
    ),
    probe_size: Annotated[
        int, typer.Option(help="Training points to measure at.", metavar="N")
    ] = 256,
    out: Annotated[
        Path | None,
        typer.Option(help="The run directory [default: runs/FOLDER-measured].", metavar="DIR"),
    ] = None,
    data_dir: DataDir = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure networks trained elsewhere. The same command goes on where it was stopped."""
    # Which files there are is told before torch has to build anything.
    from grokscope.training.checkpoint_files import checkpoint_files

    files = checkpoint_files(checkpoints, pattern)
    from grokscope.experiments.named_parts import named_data_and_model
    from grokscope.report import print_summary, write_report
    from grokscope.training import measure as measure_checkpoints
    from grokscope.training.measurements import DEFAULT_MEASURES

    console = ERR if as_json else OUT
    dataset, network = named_data_and_model(
        data,
        model,
        data_arguments=data_arguments or (),
        model_arguments=model_arguments or (),
        loss=loss,
        data_dir=data_dir,
    )
    folder = out or Path("runs") / f"{_name(checkpoints[0])}-measured"
    steps = list(files)
    console.print(Text(f"{type(network).__name__} on {dataset.name}", "bold"))
    console.print(
        f"{len(files)} checkpoint(s), steps {steps[0]:,} to {steps[-1]:,}, into {folder}\n"
    )
    counted = 0
    try:
        with LiveProgress(console, 1) as progress:
            progress.trial_started("measured", 0, len(files))

            def on_measured(row: dict[str, Any], done: int, _: int) -> None:
                nonlocal counted
                counted = done
                progress.reached("measured", 0, row, done)

            run = measure_checkpoints(
                list(checkpoints),
                network,
                dataset,
                out=folder,
                pattern=pattern,
                measures=measures or DEFAULT_MEASURES,
                loss=loss,
                probe_size=probe_size,
                device=device,
                on_measured=on_measured,
            )
    except KeyboardInterrupt as error:
        take_interruption()
        said = f"interrupted: {counted} of {len(files)} checkpoints are measured, the same line "
        raise typer.Exit(fail(f"{said}goes on", getattr(error, "code", 130))) from None
    page = write_report([run.path])
    if as_json:
        print_json(run_data(run, page) | run.results)
        return
    console.print()
    print_summary(run, console)
    if "phase" in run.results:
        console.print(f"\n{run.results['phase']}")
    console.print(f"\nReport: {page}", soft_wrap=True)


def _name(source: Path) -> str:
    """What a run is called after: the folder of its checkpoints."""
    resolved = source.resolve()
    return (resolved if resolved.is_dir() else resolved.parent).name or "checkpoints"
