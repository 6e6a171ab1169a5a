"""The site as ``make docs`` built it, in a browser: nothing is cut on a phone, search finds names.

Not among the tests that pytest collects by itself, for they need the site: ``make docs-check``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest
import typer
from tests.report.browser import Browser, Tab, started

import grokscope as gs
from grokscope.cli.app import app
from grokscope.experiments.catalogue import entries

SITE = Path(__file__).parents[2] / "docs/_build/html"
AXE = Path(__file__).parents[1] / "report/vendor/axe.min.js"
LOADED = "document.readyState === 'complete'"
PAGES = (
    "index",
    "start",
    "training",
    "measures/index",
    "measures/manifold-geometry",
    "methods/grokalign",
    "tutorials/watch-your-loop",
    "tutorials/trainers",
    "tutorials/measures-on-one-run",
    "tutorials/reproduce-a-figure",
    "figures/index",
    "figures/grokalign-table1",
    "figures/rich-regime-fig2",
    "results/README",
    "results/table1",
    "reference/commands",
    "reference/errors",
    "reference/experiments",
    "reference/python",
)
# what a stranger would look for, and the page that it is on
SEARCHES = {
    "centroid alignment": "measures/centroid-alignment",
    "empirical_ntk": "measures/empirical-ntk",
    "manifold capacity": "measures/manifold-geometry",
    "linear regions": "measures/linear-regions",
    "robust radius": "measures/robust-radius",
    "weight norm": "measures/weight-norms",
    "grokfast": "methods/grokfast",
    "stablemax": "methods/orthograd",
    "sketch": "measures/empirical-ntk",
    "layer_radii": "measures/radii",
    "compile": "training",
    "asynchronous": "training",
    "fig7": "figures/grokalign-fig7",
    "figure 7": "figures/grokalign-fig7",
    "table 1": "figures/grokalign-table1",
    "figure a5": "figures/rich-regime-figA5",
    "fig5": "figures/grokalign-fig5",
    "table 2": "figures/grokalign-table2",
    "theorem 2": "theorems",
    "needs a batch axis": "reference/errors",
    "MissingExtra": "reference/errors",
    "SpecError": "reference/errors",
    "grokscope sweep": "reference/commands",
    "grokscope compare": "reference/commands",
    "reproduce": "reference/commands",
    "report --watch": "report",
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    yield from started(tmp_path_factory.mktemp("profile"))


def _page(browser: Browser, name: str, width: int) -> Tab:
    path = SITE / f"{name}.html"
    assert path.is_file(), "build the site first: make docs"
    return browser.open(path, width, 844, ready=LOADED)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_does_not_scroll_sideways_on_a_phone_and_asks_no_other_server(
    browser: Browser, name: str
) -> None:
    tab = _page(browser, name, 390)
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    # what sticks out of its parents without a scroll bar of its own is cut by the window
    cut = tab.evaluate(
        """[...document.querySelectorAll('article *')].filter(element => {
            if (element.getBoundingClientRect().right <= 391) return false;
            for (let at = element.parentElement; at; at = at.parentElement)
                if (getComputedStyle(at).overflowX !== 'visible') return at === document.body;
            return true;
        }).map(element => element.outerHTML.slice(0, 120))"""
    )
    assert cut == []
    assert [url for url in tab.requests() if not url.startswith("file:")] == []


@pytest.mark.parametrize(
    "name",
    [
        "index",
        "figures/index",
        "figures/grokalign-fig2",
        "measures/manifold-geometry",
        "tutorials/watch-your-loop",
        "reference/experiments",
    ],
)
def test_axe_finds_nothing_serious_on_a_phone(browser: Browser, name: str) -> None:
    tab = _page(browser, name, 390)
    tab.evaluate(f"{AXE.read_text('utf-8')}; 0")
    found = tab.evaluate(
        """axe.run(document, {resultTypes: ["violations"]}).then(({violations}) => violations
            .filter((rule) => ["serious", "critical"].includes(rule.impact))
            .map((rule) => `${rule.id}: ${rule.nodes[0].html.slice(0, 120)}`))"""
    )
    assert found == []


def _names() -> dict[str, str]:
    """Every public name, figure, experiment, command, option and error, and the page it is on."""
    group: Any = typer.main.get_command(app)
    errors = (SITE.parents[1] / "reference/errors.md").read_text("utf-8")
    figures = [figure for entry in entries() for figure in entry.reproduces]
    options = [
        option
        for command in group.commands.values()
        for part in command.params
        for option in part.opts
        if option.startswith("--")
    ]
    return {
        **{name: f"reference/generated/grokscope.{name}" for name in gs.__all__ if name[0] != "_"},
        **{figure: f"figures/{figure.replace('/', '-')}" for figure in figures},
        **{entry.name: "reference/experiments" for entry in entries() if entry.name != "theorems"},
        **{f"grokscope {name}": "reference/commands" for name in group.commands},
        **dict.fromkeys(options, "reference/commands"),
        **dict.fromkeys(re.findall(r"^## `?(.+?)`?$", errors, flags=re.M), "reference/errors"),
    }


def test_search_finds_every_name_by_itself(browser: Browser) -> None:
    tab = _page(browser, "search", 1280)
    tab.wait("Boolean(Search._index)")
    names = _names()
    assert len(names) > 200
    # the last results are the first that are shown
    search = """words => Search._performSearch(...Search._parseQuery(words)).slice(-5)
        .map(result => result[0])"""
    tab.evaluate("document.body.insertAdjacentHTML('beforeend', '<p id=search-progress></p>')")
    first = tab.evaluate(f"{json.dumps(list(names))}.map({search})")
    found = dict(zip(names, first, strict=True))
    assert {words: found[words] for words, at in names.items() if at not in found[words]} == {}


def test_every_figure_leads_to_a_report_page_that_draws_its_plots(browser: Browser) -> None:
    figures = sorted((SITE / "figures").glob("*-*.html"))
    assert len(figures) > 25
    linked = [set(re.findall(r"\.\./reports/[\w-]+\.html", page.read_text())) for page in figures]
    assert [page.stem for page, links in zip(figures, linked, strict=True) if not links] == []
    assert all((SITE / "figures" / link).is_file() for links in linked for link in links)
    for name in ("rich-mnist-paper", "mnist-regions-slices-paper"):
        tab = browser.open(SITE / f"reports/{name}.html", 390, 844)
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
        assert tab.evaluate("document.querySelectorAll('.main-svg').length") > 0
        assert tab.complaints() == []
        assert [url for url in tab.requests() if not url.startswith("file:")] == []
        for link in tab.evaluate("[...document.querySelectorAll('main a')].map(a => a.href)"):
            assert Path(unquote(urlsplit(link).path)).is_file(), link


def test_search_finds_names_among_its_first_results(browser: Browser) -> None:
    tab = _page(browser, "search", 1280)
    missed = {}
    for words, expected in SEARCHES.items():
        url = (SITE / "search.html").as_uri() + f"?q={quote(words)}"
        tab.call("Page.navigate", url=url)
        tab.wait(
            f"location.href === {json.dumps(url)} && document.readyState === 'complete' && "
            "document.querySelector('.search-summary')?.textContent.match(/found|did not match/)"
        )
        tab.wait("document.querySelector('#search-results ul.search')?.children.length !== 0")
        links = "document.querySelectorAll('#search-results ul.search > li > a')"
        first = tab.evaluate(f"[...{links}].slice(0, 6).map(link => link.getAttribute('href'))")
        if not any(link.split(".html")[0] == expected for link in first):
            missed[words] = first
    assert missed == {}
