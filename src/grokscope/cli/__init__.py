"""The command line: one file per command."""

from grokscope.cli.entry import main

__all__ = ["main"]
