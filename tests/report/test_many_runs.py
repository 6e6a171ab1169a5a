"""A page of many runs: its table sorts, filters and groups, and the plot follows."""

from __future__ import annotations

from pathlib import Path

import pytest

from grokscope.report import write_report
from grokscope.runs import RunDirectory
from tests.report import made_up_runs
from tests.report.browser import Browser, Tab

pytestmark = pytest.mark.browser

# Learning rate and when test accuracy rises; the last run never generalizes.
RUNS = [(0.1, 4000), (0.003, 900), (0.01, 2000), (0.1, 8000), (0.003, 500), (0.01, 1e9)]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("many")
    for place, (rate, late) in enumerate(RUNS):
        spec = made_up_runs.spec()
        arms = made_up_runs.change_spec(spec, "baseline", "training", lr=rate)
        spec["arms"] = {"baseline": arms["baseline"]}
        spec["name"] = f"run-{place}"
        with RunDirectory.create(root / f"run-{place}", spec, "cpu", [0]) as run:
            trial = run.trial("baseline", 0)
            made_up_runs.train(trial, 150, late, 20000, shape=None)
            made_up_runs.finish(trial, 20000)
    return write_report(sorted(root.iterdir()), root / "page.html")


@pytest.fixture
def tab(browser: Browser, page: Path) -> Tab:
    return browser.open(page, 1280, 900)


def column(tab: Tab, name: str) -> list[str]:
    """The first lines of a column's cells, without the heads of groups."""
    found = tab.evaluate(
        f"""(() => {{
          const table = document.querySelector("table.rows");
          const heads = [...table.tHead.rows[0].cells];
          const place = heads.findIndex((c) => c.innerText.trim() === {name!r});
          return [...table.tBodies[0].rows].filter((row) => row.className !== "group")
            .map((row) => row.cells[place].innerText.split("\\n")[0]);
        }})()"""
    )
    return [str(text) for text in found]


def press(tab: Tab, name: str) -> str:
    """Press a heading, and say how its column is sorted then."""
    return str(
        tab.evaluate(
            f"""(() => {{
              const head = [...document.querySelectorAll("table.rows thead th")]
                .find((c) => c.innerText.trim().startsWith({name!r}));
              head.querySelector("button").click();
              return head.ariaSort;
            }})()"""
        )
    )


def enter(tab: Tab, selector: str, value: str) -> None:
    tab.evaluate(
        f"""(() => {{
          const control = document.querySelector(".controls {selector}");
          control.value = {selector!r} === "select"
            ? [...control.options].find((o) => o.text === {value!r}).value : {value!r};
          control.dispatchEvent(new Event({selector!r} === "select" ? "change" : "input"));
        }})()"""
    )


def lines(tab: Tab) -> list[str]:
    """The runs whose lines the plot of all runs has, with their colors."""
    found = tab.evaluate(
        "document.querySelector('#d0').data.map((t) => `${t.name.split(',')[0]} ${t.line.color}`)"
    )
    return [str(text) for text in found]


def test_numbers_sort_as_numbers_and_what_was_not_reached_comes_last(tab: Tab) -> None:
    assert press(tab, "generalized") == "ascending"
    assert column(tab, "run") == ["run-4", "run-1", "run-2", "run-0", "run-3", "run-5"]
    assert column(tab, "generalized")[-1] == "not in 20,000"
    assert press(tab, "generalized") == "descending"
    assert column(tab, "run")[0] == "run-5"
    assert press(tab, "training.lr") == "ascending"
    assert column(tab, "training.lr") == ["0.003", "0.003", "0.01", "0.01", "0.1", "0.1"]


def test_a_filter_leaves_the_rows_and_the_lines_that_have_its_words(tab: Tab) -> None:
    assert len(lines(tab)) == 6
    enter(tab, "input", "0.01")
    assert column(tab, "run") == ["run-2", "run-5"]
    assert [line.split()[0] for line in lines(tab)] == ["run-2", "run-5"]
    assert tab.evaluate("document.querySelector('.controls [role=status]').textContent") == (
        "2 of 6 rows"
    )
    enter(tab, "input", "0.01 not in")
    assert column(tab, "run") == ["run-5"]
    enter(tab, "input", "")
    assert len(lines(tab)) == 6


def test_groups_have_a_head_with_medians_and_a_color_in_the_plot(tab: Tab) -> None:
    enter(tab, "select", "training.lr")
    heads = tab.evaluate(
        "[...document.querySelectorAll('tr.group')].map((row) => row.innerText.trim())"
    )
    assert [head.split("\t")[0] for head in heads] == [
        "training.lr: 0.003 (2)",
        "training.lr: 0.01 (2)",
        "training.lr: 0.1 (2)",
    ]
    first, second = sorted(
        int(text.removesuffix(" steps").replace(",", ""))
        for text, rate in zip(column(tab, "generalized"), column(tab, "training.lr"), strict=True)
        if rate == "0.003"
    )
    medians = [text for text in heads[0].split("\t") if text.endswith(" steps")]
    median = float(medians[1].removesuffix(" steps").replace(",", ""))
    assert median == pytest.approx((first + second) / 2, abs=0.5)
    assert column(tab, "training.lr") == ["0.003", "0.003", "0.01", "0.01", "0.1", "0.1"]
    colors = dict(line.split(" ", 1) for line in lines(tab))
    assert colors["run-1"] == colors["run-4"] != colors["run-0"] == colors["run-3"]
    assert len(set(colors.values())) == 3
    assert tab.complaints() == []


def test_more_runs_than_dashes_are_drawn_in_thin_lines(tab: Tab) -> None:
    dashes = tab.evaluate("document.querySelector('#d0').data.map((t) => t.line.dash)")
    assert set(dashes) == {"solid"}


def test_a_phone_scrolls_the_table_and_not_the_page(browser: Browser, page: Path) -> None:
    tab = browser.open(page, 390, 844, scheme="dark")
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    assert tab.evaluate("document.querySelector('.runs .scroll').scrollWidth") > 390
    assert tab.complaints() == []


# Of two groups of runs, the steps at which each seed generalizes, and what the table says.
BOUNDED = {
    "a": (2.0, [300, 500], "400 steps"),
    "b": (1.0, [None, 500], "at least 3,250 steps"),
    "c": (1.0, [None, None], "not in 6,000"),
    "d": (2.0, [5000, 9000, None], "6,000 to 9,000 steps"),
    "e": (3.0, [200, 400], "300 steps"),
}


def test_bounds_sort_after_what_was_reached_and_have_no_median(
    browser: Browser, tmp_path: Path
) -> None:
    for name, (rate, seeds, _) in BOUNDED.items():
        spec = made_up_runs.spec(seeds=list(range(len(seeds))), name=name, claims=[])
        arms = made_up_runs.change_spec(spec, "baseline", "training", lr=rate)
        spec["arms"] = {"baseline": arms["baseline"]}
        with RunDirectory.create(tmp_path / name, spec, "cpu", spec["seeds"]) as run:
            for seed, reached in enumerate(seeds):
                trial = run.trial("baseline", seed)
                for step, accuracy in ((0, 0.1), (reached or 6000, 0.95 if reached else 0.5)):
                    row = {"step": step, "train_accuracy": 1.0, "test_accuracy": accuracy}
                    trial.append(row, {"train_seconds": 0.0})
                made_up_runs.finish(trial, reached or 6000)
    tab = browser.open(write_report(sorted(tmp_path.iterdir()), tmp_path / "page.html"), 1280, 900)
    assert column(tab, "generalized") == [words for *_, words in BOUNDED.values()]
    press(tab, "generalized")
    assert column(tab, "run") == ["e", "a", "d", "b", "c"]
    enter(tab, "select", "training.lr")
    heads = tab.evaluate(
        "[...document.querySelectorAll('tr.group')].map((row) => row.innerText.split('\\t')[7])"
    )
    assert heads == ["", "", "300 steps"]
