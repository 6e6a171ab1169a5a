"""Pages that are written from the code itself: each figure of both papers, and the commands.

They are written before Sphinx reads its sources, into ``docs/figures`` and
``docs/reference/commands.md``, and are not kept in the repository.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
PAPERS = {
    "grokalign": ("GrokAlign", "Walker et al. 2025", "https://arxiv.org/abs/2506.12284"),
    "rich-regime": ("Delays in generalization", "Zheng et al. 2024", ""),
}
MARKS = {"held": "✓ held", "not held": "✗ not held", "open": "? open"}


def figure_name(figure: str) -> str:
    """The figure in words: "fig3" is "Figure 3", "figA5" is "Figure A5", "table1" is "Table 1"."""
    kind, number = re.fullmatch(r"(fig|table|theorems)(\w*)", figure).groups()  # type: ignore[union-attr]
    return {"fig": f"Figure {number}", "table": f"Table {number}"}.get(kind, "Theorems")


def figure_pages() -> dict[str, str]:
    """Every figure's page: "paper-figure" -> Markdown; "index" has the gallery."""
    from grokscope.experiments.catalogue import entries

    claims = json.loads((DOCS / "results" / "claims.json").read_text("utf-8"))
    found: dict[str, list[Any]] = {}
    for entry in entries():
        for figure in entry.reproduces:
            found.setdefault(figure, []).append(entry)
    for figure, own in found.items():  # first those that are of this figure before any other
        own.sort(key=lambda entry: entry.reproduces[0] != figure)
    ordered = sorted(found, key=lambda figure: _order(figure))
    pages = {
        figure.replace("/", "-"): _figure_page(figure, found[figure], claims) for figure in ordered
    }
    pages["index"] = _gallery(ordered, found, claims)
    return pages


def _order(figure: str) -> tuple[str, str, int]:
    paper, _, name = figure.partition("/")
    kind, number = re.fullmatch(r"(\D*)(\d*)", name).groups()  # type: ignore[union-attr]
    return paper, kind, int(number or 0)


def _recorded(entry: Any, claims: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for run in claims.values():
        if run["experiment"] == entry.name:
            yield run


def _counts(entries: list[Any], claims: Mapping[str, Any]) -> str:
    runs = [run for entry in entries for run in _recorded(entry, claims)]
    states = [claim["state"] for run in runs for claim in run["claims"]]
    if not states:
        return "no recorded run yet"
    return f"{states.count('held')} of {len(states)} claims held"


def _picture(entries: list[Any], claims: Mapping[str, Any]) -> str:
    """The first picture of the page of results of a recorded run, relative to ``docs/figures``."""
    for entry in entries:
        if not any(_recorded(entry, claims)):
            continue
        page = DOCS.parent / entry.recorded
        if not entry.recorded or not page.exists():
            continue
        for image in re.findall(r"!\[[^]]*\]\(([^)]+\.png)\)", page.read_text("utf-8")):
            path = (page.parent / image).resolve()
            if path.exists():
                return "../" + path.relative_to(DOCS).as_posix()
    return ""


def _figure_page(figure: str, entries: list[Any], claims: Mapping[str, Any]) -> str:
    paper, _, name = figure.partition("/")
    title, authors, _ = PAPERS[paper]
    parts = [
        # Sphinx's search drops the number of "figure 7" as a term and finds it by the index alone,
        # of which it shows main entries first
        f"```{{index}} ! {figure_name(name)}, ! {name}\n```",
        f"# {title}, {figure_name(name)}",
        f"{figure_name(name)} of {title} ({authors}). One command trains it, writes its report "
        "page and says claim by claim what held:",
        f"```\ngrokscope reproduce {figure}\n```",
    ]
    picture = _picture(entries, claims)
    if picture:
        parts.append(f"![Recorded results that {figure_name(name)} belongs to]({picture})")
    for entry in entries:
        parts += _experiment(entry, claims)
    return "\n\n".join(parts) + "\n"


def _experiment(entry: Any, claims: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {entry.title} (`{entry.name}`)"
    times = "; ".join(f"`--preset {preset}` {time}" for preset, time in entry.duration.items())
    yield f"`grokscope run {entry.name}`: {times}, for one seed on two cores."
    runs = list(_recorded(entry, claims))
    for run in runs:
        steps = " to ".join(f"{step:,}" for step in (run["steps"][:1] + run["steps"][1:][-1:]))
        seeds = f"{run['seeds']} seed{'s' if run['seeds'] > 1 else ''}"
        yield f"**Recorded:** preset {run['preset']}, {seeds}, {steps or 'no'} steps."
        rows = [
            f"| {claim['says'].replace('|', chr(92) + '|')} | {_value(claim['value'])} | "
            f"{MARKS.get(claim['state'], claim['state'])} |"
            for claim in run["claims"]
        ]
        yield "| claim | value | verdict |\n|---|---|---|\n" + "\n".join(rows)
    if not runs:
        yield "No recorded run yet."
    if entry.recorded and (DOCS.parent / entry.recorded).exists():
        yield f"[What was found, and why](../{Path(entry.recorded).relative_to('docs')})."


def _value(value: Any) -> str:
    return (
        "" if value is None else f"{value:,.4g}" if isinstance(value, int | float) else str(value)
    )


def _gallery(ordered: list[str], found: Mapping[str, list[Any]], claims: Mapping[str, Any]) -> str:
    parts = [
        "# Gallery: the figures of both papers",
        "Each figure and table with its command, the verdict on each claim, and the page that says "
        "what was found. [All of them as one table](../results/README.md).",
    ]
    for paper, (title, authors, link) in PAPERS.items():
        name = f"[{title}]({link})" if link else title
        parts.append(f"## {title}\n\n{name}, {authors}.")
        cards = []
        for figure in ordered:
            if not figure.startswith(f"{paper}/"):
                continue
            entries = found[figure]
            picture = _picture(entries, claims)
            top = f":img-top: {picture}\n:class-img-top: gallery-picture\n" if picture else ""
            cards.append(
                f":::{{grid-item-card}} {figure_name(figure.partition('/')[2])}\n"
                f":link: {figure.replace('/', '-')}\n:link-type: doc\n{top}\n"
                f"{entries[0].title}\n\n**{_counts(entries, claims)}**\n:::"
            )
        parts.append("::::{grid} 1 2 3 3\n:gutter: 3\n\n" + "\n".join(cards) + "\n::::")
    names = "\n".join(figure.replace("/", "-") for figure in ordered)
    parts.append(f"```{{toctree}}\n:hidden:\n\n{names}\n```")
    return "\n\n".join(parts) + "\n"


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
