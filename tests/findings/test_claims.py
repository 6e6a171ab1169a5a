"""Claims are judged by the figures of a run, and can turn out false."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from grokscope.findings import Claim, judge
from grokscope.findings.summary import run_summary
from grokscope.runs import Run, RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Two seeds: the slow arm needs 100 and never; the fast one 10 and 20."""
    curves = {
        ("slow", 0): [(0, 0.1), (50, 0.5), (100, 0.9)],
        ("slow", 1): [(0, 0.1), (50, 0.5), (100, 0.6)],
        ("fast", 0): [(0, 0.1), (10, 0.9), (100, 0.95)],
        ("fast", 1): [(0, 0.1), (20, 0.95), (100, 0.93)],
    }
    with RunDirectory.create(tmp_path / "run", {"name": "x"}, "cpu", [0, 1]) as writer:
        for (arm, seed), points in curves.items():
            for step, accuracy in points:
                row = {"step": step, "test_accuracy": accuracy}
                writer.trial(arm, seed).append(row, {"train_seconds": step / 10})
        writer.write_results({"distance": {"late": 0.25}, "many": [1, 2, 9]})
    return Run(tmp_path / "run")


def verdict(run: Run, quantity: dict, **bounds: float) -> tuple[str, float | None]:
    judged = judge(Claim(says="so", quantity=quantity, **bounds), run)
    return judged.state, None if judged.measured is None else judged.measured.median.low


def test_steps_to_a_target(run: Run) -> None:
    quantity = {"kind": "steps_to", "arm": "fast", "target": 0.9}
    assert verdict(run, quantity, at_most=15) == ("held", 15)
    assert verdict(run, quantity, at_most=14) == ("not held", 15)
    assert verdict(run, {**quantity, "unit": "seconds"}, at_least=1.6) == ("not held", 1.5)


def test_time_can_be_counted_from_a_first_level(run: Run) -> None:
    quantity = {"kind": "steps_to", "arm": "slow", "target": 0.55, "since": 0.4}
    assert verdict(run, quantity, at_least=50) == ("held", 50)
    assert verdict(run, {**quantity, "unit": "seconds"}, at_most=5) == ("held", 5)
    assert verdict(run, {**quantity, "target": 0.9}, at_least=50) == ("held", 50)
    unstarted = {**quantity, "since": 0.97, "target": 0.98}
    assert verdict(run, unstarted, at_least=1)[0] == "open"
    ratio = {"kind": "speed_up", "arm": "fast", "baseline": "slow", "target": 0.55, "since": 0.05}
    assert verdict(run, ratio, at_least=7.5) == ("held", 7.5)


def test_a_target_never_reached_is_a_bound(run: Run) -> None:
    quantity = {"kind": "steps_to", "arm": "slow", "target": 0.9}
    assert verdict(run, quantity, at_least=100) == ("held", 100)
    assert verdict(run, quantity, at_least=101)[0] == "open"
    assert verdict(run, quantity, at_most=99)[0] == "not held"
    assert verdict(run, quantity, at_most=101)[0] == "open"


def test_speed_up_is_paired_by_seed(run: Run) -> None:
    quantity = {"kind": "speed_up", "arm": "fast", "baseline": "slow", "target": 0.9}
    assert verdict(run, quantity, at_least=7.5) == ("held", 7.5)
    assert verdict(run, quantity, at_least=8)[0] == "open"
    backwards = {"kind": "speed_up", "arm": "slow", "baseline": "fast", "target": 0.9}
    # Ten times slower with seed 0; with seed 1, which did not reach it, at least five times.
    assert verdict(run, backwards, at_least=0.16)[0] == "not held"
    assert verdict(run, backwards, at_least=0.14)[0] == "open"
    assert verdict(run, backwards, at_most=0.151)[0] == "held"


def test_a_censored_seed_leaves_a_median_known_that_it_cannot_change(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run", {"name": "x"}, "cpu", [0, 1, 2]) as writer:
        for seed, reached in enumerate((200, 100, None)):
            for step in (0, 100, 200, 300):
                accuracy = 0.95 if reached is not None and step >= reached else 0.1
                row = {"step": step, "test_accuracy": accuracy}
                writer.trial("arm", seed).append(row, {"train_seconds": step / 10})
    quantity = {"kind": "steps_to", "arm": "arm", "target": 0.9}
    assert verdict(Run(tmp_path / "run"), quantity, at_most=250) == ("held", 200)


@pytest.mark.parametrize(
    ("at", "value"), [("first", 0.1), ("last", 0.94), ("max", 0.95), ("min", 0.1)]
)
def test_value(run: Run, at: str, value: float) -> None:
    quantity = {"kind": "value", "arm": "fast", "metric": "test_accuracy", "at": at}
    state, median = verdict(run, quantity, at_least=value - 1e-9, at_most=value + 1e-9)
    assert state == "held"
    assert median == pytest.approx(value)


def test_difference_between_arms(run: Run) -> None:
    quantity = {"kind": "difference", "arm": "fast", "baseline": "slow", "metric": "test_accuracy"}
    state, median = verdict(run, quantity, at_least=0.1)
    assert state == "held"
    assert median == pytest.approx((0.05 + 0.33) / 2)


def test_difference_is_paired_by_seed(tmp_path: Path) -> None:
    values = {("a", 0): 1.0, ("a", 1): 5.0, ("a", 2): 9.0, ("b", 2): 2.0, ("b", 0): 0.5}
    with RunDirectory.create(tmp_path / "run", {"name": "x"}, "cpu", [0, 1, 2]) as writer:
        for (arm, seed), value in values.items():
            writer.trial(arm, seed).append({"step": 0, "norm": value}, {"train_seconds": 0.0})
    quantity = {"kind": "difference", "arm": "a", "baseline": "b", "metric": "norm"}
    claim = Claim(says="so", quantity=quantity, at_least=0)
    measured = judge(claim, Run(tmp_path / "run")).measured
    assert measured is not None
    assert measured.values == (0.5, 7.0)


def test_results_are_found_by_dotted_name(run: Run) -> None:
    assert verdict(run, {"kind": "result", "name": "distance.late"}, at_most=0.3) == ("held", 0.25)
    assert verdict(run, {"kind": "result", "name": "many"}, at_least=2) == ("held", 2)
    assert verdict(run, {"kind": "result", "name": "distance.early"}, at_most=1)[0] == "open"


def test_what_was_not_recorded_stays_open(run: Run) -> None:
    quantity = {"kind": "value", "arm": "fast", "metric": "centroid_norm"}
    assert verdict(run, quantity, at_least=0) == ("open", None)
    assert verdict(run, {**quantity, "arm": "absent"}, at_least=0) == ("open", None)


UNRECORDED = [
    {"kind": "delay"},
    {"kind": "steps_to", "metric": "probe_accuracy", "target": 0.9},
    {"kind": "speed_up", "baseline": "slow", "metric": "probe_accuracy", "target": 0.9},
    *(
        {"kind": "value", "metric": "test_accuracy", "at": at}
        for at in ("memorized", "onset.start", "onset.middle", "onset.end")
    ),
    {"kind": "change", "metric": "test_accuracy", "at": "onset.end", "over": "first"},
    {"kind": "difference", "baseline": "slow", "metric": "test_accuracy", "at": "memorized"},
]


@pytest.mark.parametrize("quantity", UNRECORDED, ids=lambda one: "-".join(map(str, one.values())))
@pytest.mark.parametrize("bound", ["at_least", "at_most"])
def test_a_claim_on_an_accuracy_that_was_not_recorded_stays_open(
    run: Run, quantity: dict, bound: str
) -> None:
    assert verdict(run, {**quantity, "arm": "fast"}, **{bound: 50})[0] == "open"


def test_a_target_that_both_arms_meet_at_the_first_evaluation_has_no_speed_up(run: Run) -> None:
    quantity = {"kind": "speed_up", "arm": "fast", "baseline": "slow", "target": 0.1}
    assert verdict(run, quantity, at_least=2)[0] == "open"
    assert verdict(run, quantity, at_most=2)[0] == "open"


def test_claims_that_cannot_be_judged_leave_the_others_their_verdicts(tmp_path: Path) -> None:
    value = {"kind": "value", "arm": "a", "at": "first"}
    claims = [
        {"says": "known", "quantity": {**value, "metric": "norm"}, "at_least": 1},
        {"says": "of no accuracy", "quantity": {"kind": "delay", "arm": "a"}, "at_least": 2},
        {"says": "of per cents", "quantity": {"kind": "delay", "arm": "b"}, "at_least": 2},
        {"says": "without a bound", "quantity": {**value, "metric": "norm"}},
        {"says": "known too", "quantity": {**value, "metric": "norm"}, "at_most": 1},
    ]
    with RunDirectory.create(tmp_path / "x", {"name": "x", "claims": claims}, "cpu", [0]) as writer:
        writer.trial("a", 0).append({"step": 0, "norm": 2.0}, {})
        writer.trial("b", 0).append({"step": 0, "train_accuracy": 99, "test_accuracy": 20}, {})
    summary = run_summary(Run(tmp_path / "x"))
    states = {one.claim.says: one.state for one in summary.verdicts}
    assert states == {"known": "held", "of no accuracy": "open", "known too": "not held"}
    unjudged = [line for line in summary.problems if "could not be judged" in line]
    assert ["claim 3" in unjudged[0], "claim 4" in unjudged[1], len(unjudged)] == [True, True, 2]


def test_a_claim_without_a_bound_is_a_mistake() -> None:
    with pytest.raises(ValidationError, match="at_least or at_most"):
        Claim(says="so", quantity={"kind": "steps_to", "arm": "a", "target": 1})


@pytest.fixture
def grokked(tmp_path: Path) -> Run:
    """One arm rises from 0.2 at step 1,000 to 0.8 at 10,000; one at once, and one never."""
    with RunDirectory.create(tmp_path / "grokked", {"name": "x"}, "cpu", [0]) as writer:
        for arm in ("late", "soon", "never"):
            for power in range(51):
                step, log = round(10 ** (power / 10)), power / 10
                test = {
                    "late": min(0.8, max(0.2, 0.2 + 0.6 * (log - 3))),
                    "soon": min(0.9, 0.45 * log),
                    "never": 0.1,
                }[arm]
                row = {
                    "step": step,
                    "train_accuracy": min(1.0, log / 2),
                    "test_accuracy": test,
                    "norm": 10 - log,
                }
                if power % 5:  # measured at some of the rows
                    del row["norm"]
                writer.trial(arm, 0).append(row, {"train_seconds": 1.0})
    return Run(tmp_path / "grokked")


@pytest.mark.parametrize(
    ("at", "value"),
    [
        ("first", 10.0),
        ("last", 5.0),
        ("max", 10.0),
        ("memorized", 8.0),
        ("onset.start", 6.9),
        ("onset.middle", 6.5),
        ("onset.end", 6.1),
    ],
)
def test_a_metric_at_a_moment_of_the_onset(grokked: Run, at: str, value: float) -> None:
    quantity = {"kind": "value", "arm": "late", "metric": "norm", "at": at}
    assert verdict(grokked, quantity, at_least=0) == ("held", pytest.approx(value, abs=0.02))


def test_change_over_the_onset(grokked: Run) -> None:
    moments = {"at": "onset.end", "over": "onset.start"}
    quantity = {"kind": "change", "arm": "late", "metric": "norm", **moments}
    found = verdict(grokked, quantity, at_most=0.95)
    assert found == ("held", pytest.approx(6.1 / 6.9, abs=0.005))
    assert verdict(grokked, {**quantity, "arm": "soon"}, at_most=0.95) == ("open", None)
    assert verdict(grokked, {**quantity, "metric": "loss"}, at_most=0.95) == ("open", None)


def test_delay(grokked: Run) -> None:
    late, soon, never = ({"kind": "delay", "arm": arm} for arm in ("late", "soon", "never"))
    assert verdict(grokked, late, at_least=10) == ("held", pytest.approx(10**1.5, rel=0.05))
    assert verdict(grokked, soon, at_most=1) == ("held", 1)
    assert verdict(grokked, soon, at_least=2)[0] == "not held"
    assert verdict(grokked, never, at_least=2) == ("held", pytest.approx(1000))
    assert verdict(grokked, never, at_most=1)[0] == "not held"


def test_a_delay_is_bounded_by_the_last_test(tmp_path: Path) -> None:
    tested = {1: 0.1, 10: 0.1, 100: 0.1}
    with RunDirectory.create(tmp_path / "x", {"name": "x"}, "cpu", [0]) as writer:
        for step in (1, 10, 100, 5000):
            test = {"test_accuracy": tested[step]} if step in tested else {}
            writer.trial("never", 0).append({"step": step, "train_accuracy": 1.0, **test}, {})
            early = {"test_accuracy": 0.1} if step == 1 else {}
            row = {"step": step, "train_accuracy": float(step > 10), **early}
            writer.trial("untested", 0).append(row, {})
    run = Run(tmp_path / "x")
    assert verdict(run, {"kind": "delay", "arm": "never"}, at_least=101) == ("open", 100)
    assert verdict(run, {"kind": "delay", "arm": "untested"}, at_least=2) == ("open", 1)
