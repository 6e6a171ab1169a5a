"""The gallery: a page for each figure and table of both papers, with command, picture, verdicts.

The verdicts are those of ``docs/results/claims.json``; the pictures are drawn from the same records
by ``make pictures``. Where a run is kept, its report page is linked (``report_pages.py``).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from report_pages import kept_runs

DOCS = Path(__file__).parent
PAPERS = {
    "grokalign": ("GrokAlign", "Walker et al. 2025", "https://arxiv.org/abs/2506.12284"),
    "rich-regime": ("Delays in generalization", "Zheng et al. 2024", ""),
}
# with no-break spaces: a verdict stays on its line
MARKS = {"held": "✓\xa0held", "not held": "✗\xa0not\xa0held", "open": "?\xa0open"}

# what each figure asks, in a line: the cards of the gallery and the head of the figure's page
SHOWN = {
    "grokalign/fig1": "Linear regions around training points: flattening and migration",
    "grokalign/fig2": "Do Jacobians become rank one?",
    "grokalign/fig3": "Feature learning, by the tangent kernel and by a centroid",
    "grokalign/fig4": "Robustness to noise on XOR cluster data",
    "grokalign/fig5": "Rank, alignment and robustness of a CNN on CIFAR-10",
    "grokalign/fig6": "Centroids of training images",
    "grokalign/fig7": "A Jacobian norm that is kept large",
    "grokalign/fig8": "Modular addition by a transformer",
    "grokalign/fig9": "Modular addition with frozen embeddings",
    "grokalign/fig10": "Initialization and output scales: lazy or rich",
    "grokalign/fig11": "Linear regions in more slices, under two losses",
    "grokalign/table1": "Steps and training time to 85 % test accuracy, all methods",
    "grokalign/table2": "Cosines of the Jacobian's rows with their inputs",
    "grokalign/theorems": "The theorems on random networks, and where they need a condition",
    "rich-regime/fig1": "Delayed generalization and the tangent kernel on MNIST",
    "rich-regime/fig2": "Kernel and geometry of each layer, 1,000 images",
    "rich-regime/fig3": "Kernel and geometry, output scale 0.5 against 0.001",
    "rich-regime/fig4": "What probes read on MNIST after training on EMNIST",
    "rich-regime/figA5": "Standard initialization, without a delay",
    "rich-regime/figA6": "The kernel at other images",
    "rich-regime/figA7": "A delay by the scale of the weights",
    "rich-regime/figA8": "Norms of the weights before the onset",
    "rich-regime/figA9": "The norm of the last layer with scaled outputs",
    "rich-regime/figA10": "Accuracy against capacity and kernel distance, output scale 0.5",
    "rich-regime/figA11": "From seed to seed",
    "rich-regime/figA12": "Adam with an L2 penalty",
    "rich-regime/figA13": "Accuracy against capacity and kernel distance, 1,000 images",
    "rich-regime/figA14": "Geometry of training images beside that of test images",
    "rich-regime/figA15": "Accuracy against capacity and kernel distance in all settings",
    "rich-regime/table1": "Memorization and onset in the nine settings",
}
# pictures that are not among those of ``docs/pictures/gallery.py``
PICTURES = {
    "grokalign/fig1": "images/mnist-regions.png",
    "grokalign/table1": "results/table1-cross-entropy.png",
    "grokalign/theorems": "images/power-diagram.png",
}


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
    for figure, own in found.items():  # those with a record first, then those of this figure first
        own.sort(
            key=lambda entry: (not list(_recorded(entry, claims)), entry.reproduces[0] != figure)
        )
    ordered = sorted(found, key=_order)
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
    """The recorded runs of an experiment, the longer preset first."""
    runs = [run for run in claims.values() if run["experiment"] == entry.name]
    yield from sorted(runs, key=lambda run: run["preset"] != "paper")


def figures_of(source: str) -> set[str]:
    """The figures and tables that the source of a claim names: "Figures 5 and 6" -> fig5, fig6."""
    found = set()
    for kind, numbers in re.findall(r"(Figure|Table)s? ((?:A?\d+(?: to |, | and )?)+)", source):
        names = re.findall(r"A?\d+", numbers)
        found |= {("fig" if kind == "Figure" else "table") + number for number in names}
    return found


def claims_about(figure: str, run: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The claims of a run that are about a figure: those that name no other one instead."""
    name = figure.partition("/")[2]
    if name == "theorems":
        return list(run["claims"])
    named = [(claim, figures_of(claim["source"])) for claim in run["claims"]]
    own = [claim for claim, figures in named if name in figures]
    return own + [claim for claim, figures in named if not figures]


def _counts(figure: str, entries: Sequence[Any], claims: Mapping[str, Any]) -> str:
    """How many claims held, over each experiment's longest recorded run."""
    states: Counter[str] = Counter()
    for entry in entries:
        for run in [*_recorded(entry, claims)][:1]:
            states.update(claim["state"] for claim in claims_about(figure, run))
    if not states:
        return "no recorded run yet"
    judged = states["held"] + states["not held"]
    counted = f"{states['held']} of {judged} claims held" if judged else ""
    waiting = f"{states['open']} open" if states["open"] else ""
    return ", ".join(filter(None, (counted, waiting)))


def picture_of(figure: str) -> str:
    """The picture of a figure, relative to ``docs``; empty where there is none."""
    path = PICTURES.get(figure, f"images/figures/{figure.replace('/', '-')}.png")
    return path if (DOCS / path).is_file() else ""


def _figure_page(figure: str, entries: list[Any], claims: Mapping[str, Any]) -> str:
    paper, _, name = figure.partition("/")
    title, authors, _ = PAPERS[paper]
    parts = [
        # Sphinx's search drops the number of "figure 7" as a term and finds it by the index alone,
        # of which it shows main entries first
        f"```{{index}} ! {figure_name(name)}, ! {name}\n```",
        f"# {title}, {figure_name(name)}",
        f"**{SHOWN[figure]}{'' if SHOWN[figure].endswith('?') else '.'}** {figure_name(name)} of "
        f"{title} ({authors}). One command trains it, "
        "writes its report page and says claim by claim what held:",
        f"```\ngrokscope reproduce {figure}\n```",
    ]
    kept = [run for entry in entries for run in _recorded(entry, claims) if _report(run)]
    if picture := picture_of(figure):
        target = f":target: {_report(kept[0])}\n" if kept else ""
        parts.append(f"```{{image}} ../{picture}\n:alt: {SHOWN[figure]}\n{target}```")
    if kept:
        words = f"Report page of a recorded run: {_length(kept[0])}"
        parts.append(f"```{{button-link}} {_report(kept[0])}\n:color: primary\n\n{words}\n```")
    for entry in entries:
        parts += _experiment(figure, entry, claims)
    return "\n\n".join(parts) + "\n"


def _experiment(figure: str, entry: Any, claims: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {entry.title} (`{entry.name}`)"
    times = "; ".join(f"`--preset {preset}` {time}" for preset, time in entry.duration.items())
    yield f"`grokscope run {entry.name}`: {times}, for one seed on two cores."
    runs = list(_recorded(entry, claims))
    for run in runs:
        report = _report(run)
        link = f" {{bdg-link-primary-line}}`report page <{report}>`" if report else ""
        yield f"**Recorded:** {_length(run)}.{link}"
        rows = [
            f"| {claim['says'].replace('|', chr(92) + '|')} | {_value(claim['value'])} | "
            f"{MARKS.get(claim['state'], claim['state'])} |"
            for claim in claims_about(figure, run)
        ]
        if rows:
            yield "{.verdicts}\n| claim | value | verdict |\n|---|---|---|\n" + "\n".join(rows)
        else:
            yield "Its claims are about other figures."
    if not runs:
        yield "No recorded run yet."
    if entry.recorded and (DOCS.parent / entry.recorded).exists():
        yield f"[What was found, and why](../{Path(entry.recorded).relative_to('docs')})."


def _length(run: Mapping[str, Any]) -> str:
    """How long a recorded run was, in words."""
    steps = " to ".join(f"{step:,}" for step in (run["steps"][:1] + run["steps"][1:][-1:]))
    several = str(run["seeds"]) != "1"  # "1 to 3" where arms have differently many
    seeds = f"{run['seeds']} seed{'s' if several else ''}"
    return f"preset {run['preset']}, {seeds}, {steps or 'no'} steps"


def _report(run: Mapping[str, Any]) -> str:
    """Where the report page of a recorded run lies, from a figure's page; empty without one."""
    name = f"{run['experiment']}-{run['preset']}"
    return f"../reports/{name}.html" if name in kept_runs() else ""


def figures_shown_by(name: str) -> list[str]:
    """The figures that the experiment of a kept run reproduces, as PAPER/FIGURE."""
    from grokscope.experiments.catalogue import entries

    return [
        figure
        for entry in entries()
        for figure in sorted(entry.reproduces, key=_order)
        if name in (f"{entry.name}-{preset}" for preset in entry.duration)
    ]


def _value(value: Any) -> str:
    return (
        "" if value is None else f"{value:,.4g}" if isinstance(value, int | float) else str(value)
    )


def _gallery(ordered: list[str], found: Mapping[str, list[Any]], claims: Mapping[str, Any]) -> str:
    parts = [
        "# Gallery: the figures of both papers",
        "Each figure and table with its command, the verdict on each claim, the report page of a "
        "recorded run, and the page that says what was found. A claim is open where the recorded "
        "run did not measure what it needs. "
        "[All of them as one table](../results/README.md).",
    ]
    for paper, (title, authors, link) in PAPERS.items():
        name = f"[{title}]({link})" if link else title
        parts.append(f"## {title}\n\n{name}, {authors}.")
        cards = []
        for figure in ordered:
            if not figure.startswith(f"{paper}/"):
                continue
            picture = picture_of(figure)
            top = f":img-top: ../{picture}\n" if picture else ""
            alt = f":class-img-top: gallery-picture\n:img-alt: {SHOWN[figure]}\n" if top else ""
            cards.append(
                f":::{{grid-item-card}} {figure_name(figure.partition('/')[2])}\n"
                f":link: {figure.replace('/', '-')}\n:link-type: doc\n{top}{alt}\n"
                f"{SHOWN[figure]}\n\n**{_counts(figure, found[figure], claims)}**\n:::"
            )
        parts.append("::::{grid} 1 2 2 3\n:gutter: 3\n\n" + "\n".join(cards) + "\n::::")
    names = "\n".join(figure.replace("/", "-") for figure in ordered)
    parts.append(f"```{{toctree}}\n:hidden:\n\n{names}\n```")
    return "\n\n".join(parts) + "\n"
