"""``grokscope list``: what there is to run."""

from __future__ import annotations

from rich.table import Table

from grokscope.cli.console import OUT


def list_experiments() -> None:
    """Show every experiment, what it shows and how long it takes."""
    from grokscope.experiments import load_experiment, shipped

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("experiment", overflow="fold")
    table.add_column("what it shows")
    table.add_column("quick / paper", no_wrap=True)
    for name in shipped():
        spec = load_experiment(name)
        figures = f" [dim]({', '.join(spec.reproduces)})[/dim]" if spec.reproduces else ""
        table.add_row(name, spec.title + figures, " / ".join(spec.duration.values()))
    OUT.print(table)
    OUT.print(
        "\nTimes are for one seed on two cores. Run one with `grokscope run NAME`,\n"
        "a figure of a paper with `grokscope reproduce PAPER/FIGURE`."
    )
