"""What a command does where an option is left out: the default of each, written out once more."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from grokscope.cli.app import app

RUN: dict[str, Any] = {
    "preset": "quick",
    "seeds": None,
    "settings": None,
    "out": None,
    "resume": False,
    "data_dir": None,
    "device": "auto",
    "check": False,
    "as_json": False,
}
COMMANDS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "run": (["experiment"], RUN),
    "list": ([], {"as_json": False}),
    "reproduce": (["figure"], {**RUN, "preset": "paper"}),
    "sweep": (
        ["experiment"],
        {
            **{name: of for name, of in RUN.items() if name not in ("resume", "check")},
            **dict.fromkeys(["grid", "workers", "engine", "address", "slurm"]),
        },
    ),
    "measure": (
        ["checkpoints", "model", "data"],
        {
            **dict.fromkeys(["model_arguments", "data_arguments", "pattern", "measures", "out"]),
            "loss": "cross_entropy",
            "probe_size": 256,
            "data_dir": None,
            "device": "auto",
            "as_json": False,
        },
    ),
    "report": (
        ["runs"],
        {
            "out": None,
            "figures": None,
            "file_format": None,
            "follow": False,
            "as_json": False,
        },
    ),
    "compare": (["runs"], {"as_json": False}),
    "data": ([], {"names": None, "data_dir": None, "as_json": False}),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_defaults_of_a_command(name: str) -> None:
    needed, defaults = COMMANDS[name]
    options = typer.main.get_command(app).commands[name].params  # type: ignore[attr-defined]
    assert [own.name for own in options if own.required] == needed
    assert {own.name: own.default for own in options if not own.required} == defaults


def test_every_command_has_its_defaults_here() -> None:
    command = typer.main.get_command(app)
    assert set(command.commands) == set(COMMANDS)  # type: ignore[attr-defined]
    assert command.no_args_is_help
    assert command.context_settings == {"help_option_names": ["-h", "--help"]}
