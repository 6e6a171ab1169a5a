"""``grokscope data``: fetch and verify data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from grokscope.cli.console import OUT, Json, print_json


def data(
    names: Annotated[
        list[str] | None, typer.Argument(help="Data sets; none lists them.", metavar="NAME...")
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="A folder that holds them already, to verify.",
            envvar="GROKSCOPE_DATA",
            metavar="DIR",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Fetch data sets into the cache, or verify those of a folder."""
    from grokscope.data import DATASETS, fetch

    if as_json:
        found = [
            {
                "name": name,
                "description": DATASETS[name].description,
                "files": [str(file) for file in fetch(name, data_dir)] if names else None,
            }
            for name in names or DATASETS
        ]
        print_json(found)
        return
    if not names:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("name", no_wrap=True)
        table.add_column("what")
        for name, entry in DATASETS.items():
            table.add_row(name, entry.description)
        OUT.print(table)
        return
    for name in names:
        with _Download(name) as download:
            files = fetch(name, data_dir, download)
        for file in files:
            OUT.print(f"{name}: {file}", soft_wrap=True)
        if not files:
            OUT.print(f"{name}: needs no file; {DATASETS[name].description}", soft_wrap=True)


class _Download(Progress):
    """A bar for each file that is fetched, in the form in which pooch speaks to one."""

    def __init__(self, name: str) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=OUT,
            disable=not OUT.is_terminal,
        )
        self._bar = self.add_task(name, total=None, visible=False)

    @property
    def total(self) -> float | None:
        """Bytes of the file."""
        return self.tasks[0].total

    @total.setter
    def total(self, size: float | None) -> None:
        super().update(self._bar, total=size, visible=True)

    def update(self, num_bytes: int) -> None:  # type: ignore[override]
        """So many bytes more have come."""
        self.advance(self._bar, num_bytes)

    def reset(self) -> None:  # type: ignore[override]
        """The next file starts, or the same one anew."""
        super().reset(self._bar)

    def close(self) -> None:
        """A file is whole."""
