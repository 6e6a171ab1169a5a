"""What the report says of several seeds."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
from rich.console import Console

from grokscope.findings.claims import Claim, StepsTo, Verdict, settle
from grokscope.findings.statistics import SeedValues
from grokscope.findings.summary import run_summary
from grokscope.report import comparison_data, print_summary, print_sweep, write_report
from grokscope.report.finding import judgement
from grokscope.report.seeds import seed_rows, seed_table, sweep_table
from grokscope.runs import Run, RunDirectory, open_runs
from grokscope.runs.sweep_folder import write_sweep
from tests.report import made_up_runs
from tests.report.drawing import draw
from tests.report.test_summary import by_hand

BASELINE = [2000, 2600, None, 2200, 3100, 2500]
OURS = [200, 210, 230, 190, None, 220]
LIMIT = 5000


def record(path: Path, steps: dict[str, list[int | None]], seeds: list[int]) -> None:
    """A run whose arms generalize at given steps, one second for each hundred."""
    with RunDirectory.create(path, made_up_runs.spec(seeds=seeds), "cpu", seeds) as run:
        for seed in seeds:
            for arm, reached in steps.items():
                trial = run.trial(arm, seed)
                at = reached[seed]
                for step in sorted({0, at or 0, LIMIT}):
                    high = at is not None and step >= at
                    row = {
                        "step": step,
                        "train_accuracy": 1.0,
                        "test_accuracy": 0.95 if high else 0.4,
                    }
                    trial.append(row, {"train_seconds": step / 100})
                trial.finish(stopped="max_steps")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("several") / "run"
    record(path, {"baseline": BASELINE, "grokalign": OURS}, list(range(6)))
    return path


def test_statistics_count_the_seeds_that_never_got_there(several: Path) -> None:
    found = seed_rows(run_summary(Run(several)))
    assert [(row.arm, row.name) for row in found] == [
        ("baseline", "steps"),
        ("grokalign", "steps"),
        ("baseline", "training time"),
        ("grokalign", "training time"),
        ("baseline", "final test accuracy"),
        ("grokalign", "final test accuracy"),
    ]
    slow, fast = found[:2]
    assert slow.values.text() == "2,550 (2,100 or more), 5 of 6 reached"
    assert slow.values.mean.text() == "at least 2,900"
    assert slow.against is None
    assert fast.against is not None
    assert fast.against.ratio.intervals[0] == (10, 10)
    assert fast.against.ratio.intervals[2] == (5000 / 230, float("inf"))
    assert fast.against.ratio.intervals[4] == (0, 3100 / 5000)
    assert fast.against.welch_p is None


def test_the_tests_are_those_of_scipy(tmp_path: Path) -> None:
    slow, fast = [2000, 2600, 2900, 2200], [200, 210, 230, 190]
    record(tmp_path / "run", {"baseline": list(slow), "grokalign": list(fast)}, [0, 1, 2, 3])
    data = comparison_data([tmp_path / "run"])[1]
    sooner, steps = data["speed_up"]["steps"], data["milestones"]["generalized"]["steps"]
    assert sooner["welch_p"] == pytest.approx(
        scipy.stats.ttest_ind(slow, fast, equal_var=False).pvalue
    )
    assert sooner["wilcoxon_p"] == [0.125, 0.125]
    assert sooner["median"] == pytest.approx((2200 / 190 + 2600 / 210) / 2)
    assert steps["std"] == pytest.approx(scipy.stats.tstd(fast))


def test_the_table_says_how_many_reached_the_target_and_names_the_tests(
    several: Path, tmp_path: Path
) -> None:
    head, baseline, ours, *_, final, _ = seed_table(seed_rows(run_summary(Run(several))))
    assert head[3:] == ["reached", "speedup", "p-values"]
    assert (baseline[3:], ours[3]) == (["5 of 6", "–", "–"], "5 of 6")
    assert final[3:] == ["–", "–", "–"]
    assert ours[5].startswith("Wilcoxon ")
    assert "Welch" not in ours[5]  # a censored seed has no mean
    steps = {"baseline": [2000, 2600, 2900, 2200], "grokalign": [200, 210, 230, 190]}
    record(tmp_path / "run", dict(steps), [0, 1, 2, 3])
    known = seed_table(seed_rows(run_summary(Run(tmp_path / "run"))))[2]
    welch = scipy.stats.ttest_ind(steps["baseline"], steps["grokalign"], equal_var=False).pvalue
    assert known[5] == f"Wilcoxon 0.125\nWelch {welch:.3g}"


def test_data_hold_bounds_that_json_can_hold(several: Path) -> None:
    slow, fast = comparison_data([several])
    assert json.loads(json.dumps(fast, allow_nan=False)) == fast
    steps = slow["milestones"]["generalized"]["steps"]
    assert (len(steps["values"]), steps["num_known"]) == (6, 5)
    assert steps["mean_bounds"] == [2900, None]
    assert steps["std"] is None
    assert steps["bounds"][2] == [5000, None]


def test_page_and_terminal_say_how_many_seeds_got_there(several: Path, tmp_path: Path) -> None:
    written = io.StringIO()
    print_summary(several, Console(file=written, width=80))
    assert written.getvalue().count("5 of 6") >= 4
    assert max(len(line) for line in written.getvalue().splitlines()) <= 80
    page = write_report([several], tmp_path / "page.html").read_text()
    assert "<h2>Statistics over seeds</h2>" in page
    assert "with fewer than six seeds contains the true median less often" in page
    assert "5 of 6" in page


def test_page_terminal_json_and_claims_give_a_censored_median_as_the_statistics_do(
    tmp_path: Path,
) -> None:
    """Seeds at 5,000 and 9,000 and one that stopped at 6,000: the median lies in between."""
    begin = [(0, 0.1, 0.1), (10, 1.0, 0.4)]
    ends = {
        ("baseline", 0): (5000, 1.0, 0.95),
        ("baseline", 1): (9000, 1.0, 0.95),
        ("baseline", 2): (6000, 1.0, 0.5),
        **{("grokalign", seed): (300, 1.0, 0.95) for seed in range(3)},
    }
    path = by_hand(tmp_path / "run", {trial: [*begin, end] for trial, end in ends.items()})
    expected = SeedValues.censored([5000, 9000, None], limits=[5000, 9000, 6000])
    assert expected.median == (6000, 9000)

    run = Run(path)
    assert run_summary(run).arm("baseline").milestones["generalized"]["steps"] == expected
    claimed = StepsTo(kind="steps_to", arm="baseline", target=0.9).seed_values(run)
    assert claimed == expected

    data = comparison_data([path])
    steps = data[0]["milestones"]["generalized"]["steps"]
    assert (steps["median"], steps["median_bounds"]) == (None, [6000, 9000])
    assert steps["values"] == [5000, 9000, None]
    assert data[1]["speed_up"]["steps"]["median_bounds"] == [20, 30]

    headline = "GrokAlign generalized in 20 to 30× fewer steps: 300 instead of 6,000 to 9,000"
    written = io.StringIO()
    print_summary(path, Console(file=written, width=200))
    page = write_report([path], tmp_path / "page.html").read_text()
    for text in (written.getvalue(), page):
        assert headline in text
        assert "6,000 to 9,000 steps" in text
        assert "20 to 30× steps" in text
    (drawing,) = draw(path, kind="time_to_target", target=0.9)
    assert "6,000 to 9,000" in str(drawing.html).replace("\N{NO-BREAK SPACE}", " ")


def test_one_seed_gets_no_statistics(runs: Path, tmp_path: Path) -> None:
    assert seed_rows(run_summary(Run(runs / "finished"))) == []
    assert (
        "<h2>Statistics over seeds"
        not in write_report([runs / "finished"], tmp_path / "page.html").read_text()
    )


def test_a_sweep_is_shown_setting_by_setting(tmp_path: Path) -> None:
    spec = made_up_runs.spec(seeds=[0, 1])
    settings = {"lr=1": {"training.lr": 1}, "lr=2": {"training.lr": 2}}
    write_sweep(
        tmp_path, "x", settings, dict.fromkeys(settings, spec), [0, 1], ["grokscope", "sweep"]
    )
    for setting, fast in (("lr=1", 200), ("lr=2", 400)):
        steps = {"baseline": [2000, 3000], "grokalign": [fast, None]}
        for seed in (0, 1):
            record(tmp_path / setting / f"seed-{seed}", steps, [seed])
    written = io.StringIO()
    print_sweep(open_runs([tmp_path]), Console(file=written, width=80))
    text = written.getvalue()
    table, _, sentences = text.partition("lr=1: ")
    assert table.count("1 of 2") == 2
    assert "lr=2: GrokAlign generalized with 1 of 2 seeds within 5,000 steps" in sentences
    assert max(len(line) for line in text.splitlines()) <= 80
    assert [entry["run"] for entry in comparison_data([tmp_path])] == [
        *("lr=1", "lr=1", "lr=2", "lr=2")
    ]
    page = write_report([tmp_path])
    assert page == tmp_path / "report.html"
    assert "2 runs side by side" in page.read_text()
    assert "grokscope sweep" in page.read_text()


def test_a_sweep_that_has_just_begun_can_be_shown(tmp_path: Path) -> None:
    write_sweep(tmp_path, "x", {"": {}}, {"": made_up_runs.spec()}, [0, 1], ["grokscope", "sweep"])
    written = io.StringIO()
    print_sweep(open_runs([tmp_path]), Console(file=written, width=80))
    assert "nothing has been measured yet" in written.getvalue()
    assert write_report([tmp_path]).exists()


@pytest.mark.parametrize(("other", "said"), [(0.9, "5.0×"), (0.5, "–")])
def test_settings_of_a_single_arm_are_held_against_the_first(
    tmp_path: Path, other: float, said: str
) -> None:
    spec = made_up_runs.spec(seeds=[0, 1], arms={"only": {"title": "Only"}}, claims=[])
    goal = {"generalized": {"metric": "test_accuracy", "target": other}}
    specs = {"lr=1": spec, "lr=2": {**spec, "milestones": {**spec["milestones"], **goal}}}
    write_sweep(tmp_path, "x", {name: {} for name in specs}, specs, [0, 1], ["grokscope"])
    for setting, steps in (("lr=1", [2000, 3000]), ("lr=2", [400, 600])):
        for seed in (0, 1):
            record(tmp_path / setting / f"seed-{seed}", {"only": list(steps)}, [seed])
    rows = sweep_table([run_summary(run) for run in open_runs([tmp_path])])
    assert [row[4] for row in rows] == ["speedup", "–", said]
    name = "milestones.generalized.target"
    told = [entry["settings"].get(name) for entry in comparison_data([tmp_path])]
    assert told == ([None, None] if other == 0.9 else ["0.9", "0.5"])


@pytest.mark.parametrize(
    ("moments", "state"),
    [
        ({"at": "first", "over": "first"}, "held"),
        ({"at": "first", "over": "last"}, "open"),
        ({"at": "last", "over": "first"}, "open"),
    ],
)
def test_a_change_from_where_a_metric_ends_is_open_until_the_run_has_ended(
    moments: dict[str, str], state: str
) -> None:
    quantity = {"kind": "change", "arm": "a", "metric": "loss", **moments}
    claim = Claim.model_validate({"says": "it moves", "quantity": quantity, "at_least": 1})
    verdict = Verdict(claim, "held", SeedValues.exact([2.0]))
    assert judgement(verdict, "running").state == state
    assert judgement(verdict, "finished").state == "held"


@pytest.mark.parametrize(
    ("baseline", "ours", "said"),
    [
        ([2000, 3000, 4000], [100, 100, 100], "30× (median of 3 seeds, 20× to 40×)"),
        ([2000, None, None], [100, 100, 100], "at least 50× (median of 3 seeds, 1 of them"),
        (
            [2000, 3000, 1000],
            [100, None, None],
            "at most 0.6× (median of 3 seeds, 1 of them",
        ),
        ([2000, None, None], [None, None, None], "unknown (median of 3 seeds, 0 of them known)"),
        ([2000, None, 3000], [1000, 4000, 300], "2.0× to 10× (median of"),
    ],
)
def test_a_claim_says_what_is_known_of_the_median(
    tmp_path: Path, baseline: list[int | None], ours: list[int | None], said: str
) -> None:
    record(tmp_path / "run", {"baseline": baseline, "grokalign": ours}, [0, 1, 2])
    verdict = run_summary(Run(tmp_path / "run")).verdicts[0]
    assert judgement(verdict).measured.startswith(said)


@pytest.mark.parametrize(
    ("quantity", "bound", "value", "said"),
    [
        ({"kind": "speed_up", "arm": "a", "target": 0.9}, 10, 9.97, "10× (9.97)"),
        ({"kind": "speed_up", "arm": "a", "target": 0.9}, 10, 10.0, "10×"),
        (
            {"kind": "value", "arm": "a", "metric": "test_accuracy"},
            0.85,
            0.84961,
            "85.0 % (0.84961)",
        ),
        ({"kind": "value", "arm": "a", "metric": "weight_norm"}, 2, 1.9999, "2 (1.9999)"),
        ({"kind": "value", "arm": "a", "metric": "weight_norm"}, 2, 1.9, "1.9"),
    ],
)
def test_rounding_brings_no_value_to_the_bound_that_it_misses(
    quantity: dict[str, Any], bound: float, value: float, said: str
) -> None:
    claim = Claim.model_validate({"says": "so", "quantity": quantity, "at_least": bound})
    assert judgement(settle(claim, SeedValues.exact([value]))).measured == said
