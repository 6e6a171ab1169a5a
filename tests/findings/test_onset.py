"""The onset of delayed generalization on curves whose onset is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grokscope.findings import onset
from grokscope.findings.onset import value_at
from grokscope.runs import History

STEPS = np.unique(np.round(10 ** np.linspace(0, 5, 101)).astype(int))


def curves(
    test: Callable[[Any], Any], steps: Any = STEPS, noise: float = 0.0, seed: int = 0
) -> dict[str, list[float]]:
    """Training accuracy rises in log time to 1 at 100 steps; test accuracy is a function of it."""
    log = np.log10(np.maximum(steps, 0.5))
    values = test(log)
    values = values + noise * np.random.default_rng(seed).standard_normal(len(steps))
    return {
        "step": list(steps),
        "train_accuracy": list(np.clip(log / 2, 0, 1)),
        "test_accuracy": list(np.clip(values, 0, 1)),
    }


def delayed(log: Any) -> Any:
    """From 0.2 to 0.8, linear in log time from 10^3 to 10^4."""
    return np.interp(log, [3, 4], [0.2, 0.8])


def test_the_moments_of_a_ramp_in_log_time() -> None:
    found = onset(curves(delayed))
    assert found.state == "delayed"
    assert found.memorized == 100
    assert (found.before, found.after) == pytest.approx((0.2, 0.8))
    moments = [np.log10(found.at(name)) for name in ("start", "middle", "end")]
    assert moments == pytest.approx([3.1, 3.5, 3.9], abs=1e-6)
    assert found.delay == pytest.approx(10**1.5, rel=1e-4)
    assert not found.rising


@pytest.mark.parametrize("seed", range(8))
def test_noise_moves_the_moments_little(seed: int) -> None:
    found = onset(curves(delayed, noise=0.03, seed=seed))
    assert found.state == "delayed"
    moments = [np.log10(found.at(name)) for name in ("start", "middle", "end")]
    assert moments == pytest.approx([3.1, 3.5, 3.9], abs=0.12)


def test_one_outlier_changes_nothing_much() -> None:
    columns = curves(delayed)
    columns["test_accuracy"][45] = 0.95  # long before the rise
    columns["test_accuracy"][80] = 0.0  # long after it
    columns["train_accuracy"][20] = 1.0
    found = onset(columns)
    assert (found.state, found.memorized) == ("delayed", 100)
    assert np.log10(found.middle) == pytest.approx(3.5, abs=0.05)


def test_a_step_is_found_between_its_evaluations() -> None:
    found = onset(curves(lambda log: np.where(log < 3.52, 0.1, 0.9)))
    for moment in (found.start, found.middle, found.end):
        assert 10**3.5 <= moment <= 10**3.56


@pytest.mark.parametrize("every", [1, 3])
def test_the_answer_does_not_depend_on_how_often_one_looks(every: int) -> None:
    dense = np.unique([*STEPS[::every], *range(0, 100_001, 500)])
    found = onset(curves(delayed, steps=dense))
    assert found.middle == pytest.approx(10**3.5, rel=0.03)


@pytest.mark.parametrize(
    "test",
    [
        lambda log: np.clip(0.9 * log / 2, 0.1, 0.9),
        lambda log: np.interp(log, [0.5, 2.1], [0.02, 0.7]),  # a wide gap stays, but no delay
    ],
)
def test_generalizing_with_the_training_data_is_no_delay(test: Any) -> None:
    found = onset(curves(test))
    assert found.state == "no delay"
    assert found.delay == 1
    assert found.start is None
    assert "no delay" in str(found)


def test_memorizing_alone_is_never() -> None:
    found = onset(curves(lambda log: np.full_like(log, 0.1), noise=0.01))
    assert (found.state, found.start, found.delay) == ("never", None, None)
    assert "has not generalized" in str(found)


def test_a_network_that_still_fits_has_no_onset() -> None:
    columns = curves(delayed, steps=STEPS[STEPS < 80])
    found = onset(columns)
    assert (found.state, found.memorized) == ("fitting", None)
    assert np.isnan(found.after)
    assert "not yet memorized" in str(found)


def test_an_unfinished_rise_has_no_end_yet() -> None:
    found = onset(curves(delayed, steps=STEPS[STEPS < 6000]))
    assert (found.state, found.end, found.rising) == ("delayed", None, True)
    assert 1000 < found.start < found.middle < 6000
    early = onset(curves(delayed, steps=STEPS[STEPS < 1400]))
    assert (early.state, early.rising) == ("never", True)


def test_forgetting_later_does_not_move_the_onset() -> None:
    found = onset(curves(lambda log: np.interp(log, [3, 4, 4.4, 5], [0.2, 0.8, 0.8, 0.3])))
    assert found.state == "delayed"
    assert found.after == pytest.approx(0.8)
    assert np.log10([found.start, found.middle, found.end]) == pytest.approx([3.1, 3.5, 3.9])


def test_missing_values_are_left_out() -> None:
    whole = curves(delayed)
    rows = [
        {"step": step, "train_accuracy": a, "test_accuracy": b, "loss": 1.0}
        for step, a, b in zip(*whole.values(), strict=True)
    ]
    between = [
        {"step": int(step) + 1, "test_accuracy": float("nan"), "norm": 2.0} for step in STEPS[60:80]
    ]
    mixed = History(sorted([*rows, *between], key=lambda row: row["step"]))
    assert onset(mixed) == onset(whole)


def test_a_probe_stands_in_for_the_training_set() -> None:
    columns = curves(delayed)
    columns["probe_accuracy"] = columns.pop("train_accuracy")
    assert onset(columns).state == "delayed"


def test_a_network_that_was_not_tested_since_it_memorized_has_no_onset() -> None:
    nan = float("nan")
    columns = {"train_accuracy": [0.1, 0.5, 0.8, 1, 1], "test_accuracy": [0.1, 0.2, 0.3, nan, nan]}
    found = onset({"step": [1, 10, 50, 100, 200], **columns})
    assert (found.state, found.memorized, found.last, found.delay) == ("untested", 100, 50, None)
    assert str(found) == (
        "memorized at step 100, test accuracy last evaluated before it, at step 50"
    )


def test_never_is_said_of_the_steps_at_which_test_accuracy_was_evaluated() -> None:
    columns = {"train_accuracy": [0.1, 1, 1, 1], "test_accuracy": [0.1, 0.1, 0.1, None]}
    found = onset({"step": [1, 10, 100, 5000], **columns})
    assert str(found) == "memorized at step 10, has not generalized by step 100"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_accuracy": None}, "'test_accuracy', which the history lacks"),
        ({"train_accuracy": None}, "'train_accuracy' or 'probe_accuracy', which the history lacks"),
        ({"step": [], "train_accuracy": [], "test_accuracy": []}, "history is empty"),
        ({"step": [*STEPS[:-1], float("nan")]}, "step must be a whole number in each row: got nan"),
        ({"step": STEPS / 10}, "step must be a whole number in each row: got 0.1; count"),
        ({"step": [*STEPS[:-1], "last"]}, "step must be a whole number in each row"),
        ({"test_accuracy": [float("nan")] * len(STEPS)}, "no value"),
        ({"test_accuracy": [20.0] * len(STEPS)}, "divide per cents by 100"),
        ({"step": list(STEPS)[::-1]}, "must not fall"),
        ({"step": None}, "no 'step'"),
        ({"step": [1, 2]}, "different lengths"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    columns = {**curves(delayed), **changes}
    with pytest.raises(ValueError, match=message):
        onset({name: values for name, values in columns.items() if values is not None})


def test_few_evaluations_are_enough() -> None:
    one = onset({"step": [0], "train_accuracy": [1.0], "test_accuracy": [0.1]})
    assert one.state == "never"
    columns = {"train_accuracy": [0.1, 1, 1], "test_accuracy": [0.1, 0.1, 0.9]}
    found = onset({"step": [0, 10, 1000], **columns})
    assert found.state == "delayed"
    assert 10 < found.middle < 1000


def test_values_between_evaluations_are_interpolated_in_log_time() -> None:
    history = History(
        [{"step": 0, "a": 5.0}, {"step": 10, "a": 1.0}, {"step": 50}, {"step": 1000, "a": 3.0}]
    )
    assert value_at(history, "a", 100) == pytest.approx(2.0)
    assert value_at(history, "a", 0) == 5.0
    assert value_at(history, "a", 9999) == 3.0


def test_the_authors_own_curves(shared_reference: Path) -> None:
    runs = json.loads((shared_reference / "rich_regime_mnist_output_scale.json").read_text())
    found = {}
    for alpha in ("alpha_0_5", "alpha_0_001"):
        recorded = runs[alpha]["curves"]
        found[alpha] = onset(
            {
                "step": [int(step) for step in recorded["log_steps"]],
                "train_accuracy": recorded["train_accuracies"],
                "test_accuracy": recorded["test_accuracies"],
            }
        )
    late = found["alpha_0_5"]
    assert late.state == "delayed"
    # By eye, in the curve: 0.31 at 10,000 steps, 0.5 at 20,700, 0.8 at 55,000, 0.847 at the end.
    assert 9_000 < late.start < 12_000
    assert 20_000 < late.middle < 27_000
    assert 45_000 < late.end < 56_000
    assert found["alpha_0_001"].state == "no delay"


def test_the_authors_own_curves_on_emnist(shared_reference: Path) -> None:
    runs = json.loads((shared_reference / "rich_regime_emnist.json").read_text())["runs"]
    recorded = runs["AdamW-10-2000-0.5-0"]["curves"]
    found = onset(
        {
            "step": recorded["epoch"],
            "train_accuracy": [value / 100 for value in recorded["train_accuracies"]],
            "test_accuracy": [value / 100 for value in recorded["test_accuracies"]],
        }
    )
    # By eye: 0.18 at 300 epochs, 0.47 at 3,500, 0.52 at 12,500.
    assert found.state == "delayed"
    assert 300 < found.start < 1_500 < found.middle < 3_500 < found.end < 17_000
