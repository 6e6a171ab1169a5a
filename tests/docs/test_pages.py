"""The site's pages keep up with the code: cards, errors, names, the API."""

from __future__ import annotations

import ast
import importlib
import json
import re
import tomllib
from pathlib import Path

import pytest

import grokscope as gs
from grokscope.experiments.catalogue import entries

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]
CARDS = sorted(path for path in (DOCS / "measures").glob("*.md") if path.stem != "index")
METHODS = {"grokalign", "grokfast", "orthograd", "adversarial", "baselines"}
PARTS = ("Equation", "Source", "A high value", "A low value", "Cost", "Models", "Pitfalls")


def _public_measures() -> set[str]:
    """Functions of ``grokscope`` that are taken from ``grokscope.measures``."""
    stub = ast.parse((ROOT / "src/grokscope/__init__.pyi").read_text("utf-8"))
    return {
        (alias.asname or alias.name)
        for node in stub.body
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("grokscope.measures")
        for alias in node.names
        if alias.name[0].islower()
    }


def _messages() -> str:
    """All text that stands in the library's string literals, joined as Python joins it."""
    found = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


@pytest.mark.parametrize("card", CARDS, ids=lambda path: path.stem)
def test_a_card_has_all_its_parts(card: Path) -> None:
    text = card.read_text("utf-8")
    missing = [part for part in PARTS if f"**{part}.**" not in text]
    assert not missing
    assert "```python\n>>> " in text, "no lines of code that run"
    assert "](#grokscope." in text, "no link to the API"
    pictures = re.findall(r"!\[(.+)\]\(([^)]+)\)", text)
    assert pictures
    for _, picture in pictures:
        assert (card.parent / picture).is_file(), picture


def test_every_measure_has_a_card() -> None:
    told = "\n".join(card.read_text("utf-8") for card in CARDS)
    by_others = {"jacobian_geometry", "nonnegative_least_squares"}  # several at once; a solver
    missing = {name for name in _public_measures() if f"gs.{name}" not in told}
    assert missing - by_others == set()


def test_every_card_is_in_the_index() -> None:
    index = (DOCS / "measures/index.md").read_text("utf-8")
    assert [card.stem for card in CARDS if f"({card.name})" not in index] == []


def test_every_method_has_a_picture_and_says_where_it_works() -> None:
    for name in METHODS:
        text = (DOCS / f"methods/{name}.md").read_text("utf-8")
        assert f"](../images/methods/{name}.png)" in text
        assert (DOCS / f"images/methods/{name}.png").is_file()
        assert "**Models.**" in text
        assert ">>> " in text


def test_a_method_card_says_what_was_measured_for_its_picture() -> None:
    measured = json.loads((DOCS / "methods/values.json").read_text("utf-8"))
    assert set(measured) == METHODS
    index = (DOCS / "methods/index.md").read_text("utf-8")
    for name, values in measured.items():
        text = (DOCS / f"methods/{name}.md").read_text("utf-8")
        steps = values["steps to 90 % test accuracy"].values()
        said = [f"{step:,}" for step in steps if step is not None]
        said += [f"{100 * v:.1f} %" for v in values["test accuracy at the end"].values()]
        assert [number for number in said if number not in text] == [], name
        row = next(line for line in index.splitlines() if f"({name}.md)" in line)
        assert list(steps)[-1] is None or f"| {list(steps)[-1]:,} |" in row


def test_the_reference_lists_every_public_name() -> None:
    text = (DOCS / "reference/python.rst").read_text("utf-8")
    listed = set(re.findall(r"^   (\w+)$", text, flags=re.M))
    assert set(gs.__all__) - {"__version__"} - listed == set()
    assert {name for name in listed if not hasattr(gs, name)} == set()


def test_messages_of_the_error_page_are_those_of_the_library() -> None:
    page = (DOCS / "reference/errors.md").read_text("utf-8")
    headings = re.findall(r"^## `(.+)`$", page, flags=re.M)
    messages = _messages()
    assert len(headings) >= 8
    assert [words for words in headings if words not in messages] == []


def test_links_of_the_readme_are_absolute_and_lead_to_files() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert [link for link in links if not link.startswith("https://")] == []
    house = f"{URLS['Source']}/blob/main/"
    pictures = house.replace("//github.com", "//raw.githubusercontent.com").replace("/blob", "")
    ours = [
        link.removeprefix(start)
        for link in links
        for start in (house, pictures)
        if link.startswith(start)
    ]
    assert len(ours) > 10
    assert [path for path in ours if not (ROOT / path).exists()] == []


def test_every_figure_of_the_gallery_has_a_caption_and_a_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    pages = importlib.import_module("figure_pages")
    written = pages.figure_pages()
    reproduced = {figure for entry in entries() for figure in entry.reproduces}
    assert set(pages.SHOWN) == reproduced
    assert [figure for figure in reproduced if not pages.picture_of(figure)] == []
    for figure in reproduced:
        page = written[figure.replace("/", "-")]
        assert f"grokscope reproduce {figure}\n" in page
        assert "| verdict |" in page, figure


def test_a_claim_stands_with_the_figure_that_its_source_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    pages = importlib.import_module("figure_pages")
    assert pages.figures_of("Zheng et al. 2024, Figures A5, 2 and A10") == {
        "figA5",
        "fig2",
        "figA10",
    }
    assert pages.figures_of("Walker et al. 2025, Theorem 2 and Table 2") == {"table2"}
    claims = [{"says": name, "source": name} for name in ("Figure 1", "Figure 11", "", "Table 1")]
    assert [claim["says"] for claim in pages.claims_about("a/fig1", {"claims": claims})] == [
        "Figure 1",
        "",
    ]


def test_every_page_has_a_place_in_the_site() -> None:
    placed = {(DOCS / "index.md").resolve()}
    written = ("figures", "generated", "runs", "_build")  # when the site is built, or not pages
    pages = [path for path in DOCS.rglob("*.md") if not set(path.parts) & set(written)]
    for page in pages:
        trees = re.findall(r"```\{toctree\}\n(.*?)```", page.read_text("utf-8"), flags=re.S)
        for entry in "\n".join(trees).split():
            placed |= {path.resolve() for path in page.parent.glob(f"{entry}.md")}
    assert len(placed) > 50
    assert [page for page in pages if page.resolve() not in placed] == []


def test_addresses_are_those_of_the_project() -> None:
    known = {URLS["Source"], URLS["Documentation"]}
    ours = re.compile(r"https://(?:github\.com/\w+/grokscope|grokscope\.\w+\.\w+)")
    names = ["README.md", "CITATION.cff", "CONTRIBUTING.md", "pyproject.toml"]
    for path in [*(ROOT / name for name in names), *DOCS.rglob("*.md")]:
        if "_build" not in path.parts:
            assert set(ours.findall(path.read_text("utf-8"))) <= known, path


def test_costs_are_those_measured_and_of_every_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    scaling = importlib.import_module("scaling")
    names = {re.split(r"\W", name)[0] for name in scaling.MEASURES}
    assert _public_measures() - names == set()
    results = json.loads(scaling.RESULT.read_text("utf-8"))["measures"]
    assert list(results) == list(scaling.MEASURES)
    assert f"<!-- benchmark -->\n{scaling.tables(results)}\n<!-- end" in scaling.PAGE.read_text(
        "utf-8"
    )
