"""Pages that are written from the code itself: each figure of both papers, and the commands.

They are written before Sphinx reads its sources, into ``docs/figures`` and
``docs/reference/commands.md``, and are not kept in the repository.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from figure_pages import figure_pages

DOCS = Path(__file__).parent


def command_page() -> str:
    """The help of every command."""
    import typer

    from grokscope.cli.app import app

    group: Any = typer.main.get_command(app)
    parts = [
        "# Commands",
        "`grokscope COMMAND --help` says the same in the terminal. Commands that print a result "
        "take `--json`; a mistake is one line on stderr and exit code 2. "
        "`grokscope --install-completion` completes commands, experiments and figures in the "
        "shell.",
    ]
    for name, command in group.commands.items():
        usage = " ".join(
            (part.metavar or part.name).upper() + ("..." if part.nargs != 1 else "")
            for part in command.params
            if part.param_type_name == "argument"
        )
        parts += [
            f"## grokscope {name}",
            f"```\ngrokscope {name} [OPTIONS] {usage}\n```",
            re.sub(r"\n(?!\n)", " ", (command.help or "").strip()),
        ]
        rows = [
            f"| `{' '.join(part.opts + part.secondary_opts)}` | {_cell(part.help)} |"
            for part in command.params
            if getattr(part, "help", None)
        ]
        if rows:
            parts.append("| option | meaning |\n|---|---|\n" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def write_pages(app: Any = None) -> None:
    """Write all pages; a page that says what it said is left, so that it is not read again."""
    pages = {f"figures/{name}.md": text for name, text in figure_pages().items()}
    pages["reference/commands.md"] = command_page()
    for name, text in pages.items():
        path = DOCS / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Write the pages before Sphinx looks for its sources."""
    app.connect("config-inited", lambda app, config: write_pages())
    return {"parallel_read_safe": True}
