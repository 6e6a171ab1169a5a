"""Pages that are written from the code itself: each figure of both papers, commands, experiments.

They are written before Sphinx reads its sources, into ``docs/figures`` and ``docs/reference``, and
are not kept in the repository. What a reader looks for by name is a main entry of the index, which
Sphinx's search shows first: its terms alone know neither "fig7" nor "--watch".
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from figure_pages import figure_pages
from report_pages import kept_runs

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
            _written(part) for part in command.params if part.param_type_name == "argument"
        )
        parts += [
            f"## grokscope {name}",
            _index(
                f"grokscope {name}",
                name,
                *(text for part in command.params for text in part.opts if text.startswith("--")),
            ),
            f"```\n{f'grokscope {name} [OPTIONS] {usage}'.rstrip()}\n```",
            re.sub(r"\n(?!\n)", " ", (command.help or "").strip()),
        ]
        rows = [
            f"| `{_written(part)}` | {_cell(part.help)} |"
            for part in command.params
            if getattr(part, "help", None)
        ]
        if rows:
            parts.append("| option | meaning |\n|---|---|\n" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


def _written(part: Any) -> str:
    """An option, or an argument, as it is typed."""
    if part.param_type_name == "argument":
        return str(part.metavar or part.name.upper())
    return " ".join(part.opts + part.secondary_opts)


def experiment_page() -> str:
    """Every experiment that comes with the package, by name."""
    from grokscope.experiments.catalogue import entries, shipped
    from grokscope.experiments.yaml_files import read_yaml

    parts = [
        "# Experiments by name",
        "What `grokscope list` lists: `grokscope run NAME`. Times are for one seed on two cores. "
        "[How an experiment is written](../experiments.md).",
    ]
    for entry in entries():
        arms = read_yaml(shipped()[entry.name]).get("arms", {})
        titles = "; ".join(arm.get("title", name) for name, arm in arms.items())
        title = entry.title if entry.title.endswith("?") else f"{entry.title}."
        times = ", ".join(f"{preset} {time}" for preset, time in entry.duration.items())
        links = [
            f"[{paper}/{name}](../figures/{paper}-{name}.md)"
            for paper, _, name in (figure.partition("/") for figure in entry.reproduces)
        ]
        if entry.recorded:
            links.append(f"[what was found](../{Path(entry.recorded).relative_to('docs')})")
        links += [
            f"{{bdg-link-primary-line}}`report page ({preset}) <../reports/{name}.html>`"
            for preset in entry.duration
            if (name := f"{entry.name}-{preset}") in kept_runs()
        ]
        parts += [
            f"## {entry.name}",
            _index(entry.name),
            f"{title} Presets: {times}." + (f" Conditions: {titles}." if titles else ""),
            ", ".join(links),
        ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _index(*entries: str) -> str:
    """Main entries of the index at this place."""
    return f"```{{index}} {', '.join(f'! {entry}' for entry in entries)}\n```"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def write_pages(app: Any = None) -> None:
    """Write all pages; a page that says what it said is left, so that it is not read again."""
    pages = {f"figures/{name}.md": text for name, text in figure_pages().items()}
    pages["reference/commands.md"] = command_page()
    pages["reference/experiments.md"] = experiment_page()
    for name, text in pages.items():
        path = DOCS / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Write the pages before Sphinx looks for its sources."""
    app.connect("config-inited", lambda app, config: write_pages())
    return {"parallel_read_safe": True}
