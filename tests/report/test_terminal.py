from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from grokscope.report import comparison_data, print_comparison, print_summary
from grokscope.runs import Run, RunError
from tests.report import made_up_runs


def printed(function: object, *arguments: object, width: int = 80, colour: bool = False) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=colour)
    function(*arguments, console)  # type: ignore[operator]
    return file.getvalue()


@pytest.mark.parametrize("name", ["finished", "three-seeds", "never", "killed", "started"])
def test_everything_fits_80_columns_and_nothing_is_cut(runs: Path, name: str) -> None:
    for text in (
        printed(print_summary, runs / name),
        printed(print_comparison, [runs / name, runs / "finished"]),
    ):
        assert max(map(len, text.splitlines())) <= 80
        assert "…" not in text
        assert "\x1b" not in text


@pytest.mark.parametrize("width", [40, 60, 80, 132])
@pytest.mark.parametrize("name", ["finished", "three-seeds", "never"])
def test_no_table_breaks_a_word(tmp_path: Path, runs: Path, name: str, width: int) -> None:
    spec = yaml.safe_load((runs / name / "spec.yaml").read_text())
    titles = ["Antidisestablishmentarianism", "A condition of several words"]
    for entry, title in zip(spec["arms"].values(), titles, strict=False):
        entry["title"] = title
    path = Path(shutil.copytree(runs / name, tmp_path / "run"))
    (path / "spec.yaml").write_text(yaml.safe_dump(spec))
    whole = printed(print_summary, path, width=1000) + printed(print_comparison, [path], width=1000)
    known = set(whole.split())
    for function, argument in ((print_summary, path), (print_comparison, [path])):
        text = printed(function, argument, width=width)
        assert max(map(len, text.splitlines())) <= width
        words = {word.rstrip(",:") for word in text.split()} - {"─"}
        rules = {word for word in words if set(word) == {"─"}}
        assert words - rules <= {word.rstrip(",:") for word in known}


def test_summary_shows_steps_seconds_speed_up_and_verdicts(runs: Path) -> None:
    text = printed(print_summary, runs / "finished")
    words = " ".join(text.split())
    for part in (
        "383 steps",
        "12,115 steps",
        "11,732 steps",
        "33.9 s",
        "10× steps",
        "10× time",
        "92.9 %",
        "GrokAlign generalized in 10× fewer steps: 1,212 instead of 12,115.",
        "✓ held: GrokAlign generalizes at least 5 times sooner than weight decay alone "
        "[10×; claimed: at least 5×]",
        "✗ not held: Weight decay alone ends above 95 % test accuracy "
        "[92.7 %; claimed: at least 95 %]",
        "? open: Regions grow around the training points [nothing yet; claimed: at least 1.5]",
    ):
        assert part in words


def test_what_was_not_reached_is_a_bound(runs: Path) -> None:
    words = " ".join(printed(print_summary, runs / "never").split())
    assert "not in 20,000" in words
    assert "> 19,617" in words
    assert "> 17× steps" in words


def test_seeds_show_their_range_and_how_many_got_there(runs: Path) -> None:
    text = printed(print_summary, runs / "three-seeds")
    assert "14,678 steps" in text
    assert "12,115–14,678" in text


def test_an_unfinished_run_says_so_and_its_verdicts_are_so_far(runs: Path) -> None:
    words = " ".join(printed(print_summary, runs / "killed").split())
    assert "(killed)" in words
    assert "(not started)" in words
    assert "its state is: killed" in words
    assert "? not held so far: Weight decay alone ends above" in words  # open until it ends


def test_markup_in_titles_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    arms = made_up_runs.spec()["arms"]
    arms["baseline"]["title"] = "[red]weights[/red]"
    path = made_up_runs.started(tmp_path / "run", arms=arms, title="[link=x]a[/link]")
    text = printed(print_summary, path) + printed(print_comparison, [path])
    assert "[red]weights[/re" in "".join(text.split())
    assert "[link=x]a[/link]" in text


def test_comparison_shows_the_settings_that_differ_and_no_other(runs: Path, tmp_path: Path) -> None:
    other = made_up_runs.spec()
    arms = made_up_runs.change_spec(other, "grokalign", "training", lr=0.01)
    arms = made_up_runs.change_spec({"arms": arms}, "baseline", "training", lr=0.01)
    path = made_up_runs.grokking(tmp_path / "lr", shape=None, arms=arms, preset="quick")
    text = printed(print_comparison, [runs / "finished", path])
    assert "training.lr" in text
    assert "grokalign.weight" in text
    assert "batch_size" not in text
    assert "quick" in text


def test_runs_with_one_name_are_told_apart_by_their_folders(runs: Path) -> None:
    text = printed(print_comparison, [runs / "finished", runs / "never"])
    assert text.splitlines()[0].split() == ["run", "finished", "finished", "never", "never"]


def test_columns_that_do_not_fit_go_below_and_long_words_are_folded(
    runs: Path, tmp_path: Path
) -> None:
    arms = made_up_runs.spec()["arms"]
    arms["baseline"]["model"]["path"] = "x" * 200
    path = made_up_runs.started(tmp_path / "run", arms=arms)
    text = printed(print_comparison, [path, runs / "finished"], width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert text.count("x") >= 200


def test_comparison_data_goes_through_json_and_has_every_arm(runs: Path) -> None:
    names = ["finished", "three-seeds", "never", "killed", "started"]
    data = json.loads(json.dumps(comparison_data([runs / name for name in names]), allow_nan=False))
    assert [(entry["run"], entry["arm"]) for entry in data] == [
        (name, arm) for name in names for arm in ("baseline", "grokalign")
    ]
    never = data[4]
    assert never["milestones"]["generalized"]["steps"] == {
        "median": None,
        "median_bounds": [20000, None],
        "median_interval": None,
        "mean_bounds": [20000, None],
        "mean_interval": None,
        "std": None,
        "num_known": 0,
        "values": [None],
        "bounds": [[20000, None]],
    }
    assert data[5]["speed_up"]["steps"]["median"] is None
    assert data[5]["speed_up"]["steps"]["median_bounds"] == [pytest.approx(20000 / 1212), None]
    assert data[0]["trained"]["steps"]["values"] == [20000]
    assert data[1]["settings"]["grokalign.weight"] == "0.001"
    assert data[0]["settings"]["grokalign.weight"] is None
    assert data[3]["final"]["test_accuracy"]["values"][1] == pytest.approx(0.9286, abs=1e-3)


def test_an_open_run_does_as_well_as_a_path(runs: Path) -> None:
    path = runs / "finished"
    assert comparison_data([Run(path)]) == comparison_data([path])
    assert printed(print_summary, Run(path)) == printed(print_summary, path)


def test_no_run_is_an_error() -> None:
    with pytest.raises(RunError, match="no run was named"):
        comparison_data([])


def test_one_arm_has_nothing_to_be_faster_than(tmp_path: Path) -> None:
    arms = {"only": made_up_runs.spec()["arms"]["baseline"]}
    path = made_up_runs.started(tmp_path / "run", arms=arms, claims=[])
    assert "speedup" not in printed(print_summary, path)
