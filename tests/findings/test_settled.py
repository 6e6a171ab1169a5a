"""The rule for stopping, on curves whose answer is plain, and in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import grokscope as gs
from grokscope.findings.curves import Curves
from tests.training.test_resume import Crash

STEPS = [0, *(round(10 ** (i / 12)) for i in range(12, 66))]


def curves(until: int, align: tuple[float, float], rise: tuple[float, float]) -> gs.History:
    """Memorizes at 100 steps; alignment and test accuracy rise between two logarithms of steps."""
    rows = []
    for step in (step for step in STEPS if step <= until):
        log = np.log10(max(step, 1))
        rows.append(
            {
                "step": step,
                "train_accuracy": float(np.clip(log - 1, 0.1, 1.0)),
                "test_accuracy": float(np.interp(log, rise, [0.3, 0.9])),
                "row_alignment": float(np.interp(log, align, [0.05, 0.5])),
            }
        )
    return gs.History(rows)


def first_stop(rule: gs.StopWhenSettled, align: Any, rise: Any) -> int | None:
    last = STEPS[-1]
    return next((s for s in STEPS if rule(curves(s, align, rise)) or s == last), None)


DELAYED = {"align": (3.0, 4.3), "rise": (3.5, 4.3)}


def test_it_waits_through_a_plateau_and_stops_after_the_rise() -> None:
    rule = gs.StopWhenSettled()
    stopped = first_stop(rule, **DELAYED)
    assert stopped is not None
    # settled from 10^4.3 = 20,000 on, and then four times as many steps
    assert 3 * 10**4.3 < stopped < 4 * 10**4.4
    assert "settled" in rule.reason(curves(stopped, **DELAYED))
    for until, why in (
        (50, "not yet memorized"),
        (700, "memorized and not generalized"),
        (2500, "memorized and is aligning"),
        (10_000, "test accuracy is rising"),
        (30_000, "test accuracy is rising"),
    ):
        assert why in rule.reason(curves(until, **DELAYED))


@pytest.mark.parametrize("patience", [2.0, 8.0])
def test_patience_is_a_factor_of_steps(patience: float) -> None:
    stopped = first_stop(gs.StopWhenSettled(patience), **DELAYED)
    assert patience * 10**4.1 < stopped < patience * 10**4.5


def test_high_accuracy_without_alignment_is_waited_for() -> None:
    """Test accuracy rose with training accuracy, as where a network memorizes half-well."""
    early = {"align": (4.5, 5.2), "rise": (1.0, 2.0)}
    assert first_stop(gs.StopWhenSettled(use_alignment=False), **early) < 1000
    rule = gs.StopWhenSettled()
    assert not rule(curves(5000, **early))
    assert (
        rule.reason(curves(5000, **early)) == "the network has not aligned with its training data"
    )


def test_alignment_that_moves_is_waited_for() -> None:
    late = {"align": (1.5, 5.3), "rise": (1.0, 2.0)}
    rule = gs.StopWhenSettled()
    assert rule.reason(curves(20_000, **late)) == "alignment is still changing"


def test_giving_up_takes_alignment_that_stands_still() -> None:
    """Generalization that never comes: the plateau is left only where nothing moves."""
    rule = gs.StopWhenSettled(give_up=10)
    hopeless = {"align": (8.0, 9.0), "rise": (8.0, 9.0)}
    assert not gs.StopWhenSettled()(curves(STEPS[-1], **hopeless))
    assert 10 * 90 < first_stop(rule, **hopeless) < 10 * 150
    aligning = {"align": (2.0, 5.4), "rise": (8.0, 9.0)}
    assert not any(rule(curves(step, **aligning)) for step in STEPS)


def test_without_its_columns_it_says_what_it_lacks() -> None:
    rows = [{"step": s, "train_accuracy": 1.0} for s in (0, 1, 2)]
    with pytest.raises(ValueError, match="StopWhenSettled needs test_accuracy"):
        gs.StopWhenSettled()(gs.History(rows))
    rows = [{**row, "test_accuracy": 0.5} for row in rows]
    with pytest.raises(ValueError, match="needs one of row_alignment and centroid_alignment"):
        gs.StopWhenSettled()(gs.History(rows))
    for wrong in ({"patience": 1.5}, {"give_up": float("inf")}, {"aligned": -0.1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            gs.StopWhenSettled(**wrong)


def train(path: Path | None, crash: int | None = None, **settings: Any) -> gs.FitResult:
    data = gs.load_data("digits", train_size=200, test_size=200, subset="seeded")
    model = gs.MLP(64, [32], 10, seed=0)
    monitor = gs.Monitor(
        model, (data.train_x[:64], data.train_y[:64]), ["row_alignment"], schedule=20
    )
    return gs.fit(
        model,
        data,
        methods=[Crash(crash)],
        monitor=monitor,
        lr=1e-2,
        max_steps=400,
        evaluate=10,
        device="cpu",
        out=path,
        resume=True,
        checkpoint_seconds=0,
        **settings,
    )


def test_fit_stops_where_the_history_says_so_and_resumes_to_the_same(tmp_path: Path) -> None:
    rule = gs.StopWhenSettled(patience=3, aligned=0.02)
    whole = train(tmp_path / "whole", stop_at=rule)
    assert whole.stopped == "settled"
    assert 0 < whole.steps < 400
    assert whole.steps % 20 == 0
    measured = [row for row in whole.history if "row_alignment" in row]
    asked = [
        rule(gs.History(whole.history.rows[: whole.history.rows.index(row) + 1]))
        for row in measured
    ]
    assert asked == [False] * (len(measured) - 1) + [True]
    with pytest.raises(ConnectionResetError):
        train(tmp_path / "cut", crash=whole.steps - 25, stop_at=rule)
    resumed = train(tmp_path / "cut", stop_at=rule)
    assert (resumed.stopped, resumed.steps) == ("settled", whole.steps)
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    again = train(tmp_path / "cut", stop_at=rule)
    assert (again.stopped, again.steps) == ("settled", whole.steps)


def test_fit_needs_a_monitor_for_it() -> None:
    data = gs.load_data("digits", train_size=100)
    model = gs.MLP(64, [8], 10)
    with pytest.raises(ValueError, match=r"looks at alignment: pass monitor=gs\.Monitor"):
        gs.fit(model, data, stop_at=gs.StopWhenSettled(), max_steps=1)
    monitor = gs.Monitor(model, data, measures=["jacobian_alignment"])
    assert gs.fit(model, data, stop_at=gs.StopWhenSettled(), monitor=monitor, max_steps=1).steps
    blind = gs.StopWhenSettled(use_alignment=False)
    assert gs.fit(model, data, stop_at=blind, max_steps=1).steps == 1


def test_curves_have_not_risen_before_there_is_anything_to_rise() -> None:
    whole = curves(STEPS[-1], **DELAYED)
    found = Curves(whole)
    fitted = whole.steps.tolist().index(100)
    assert not any(found.had_risen(row) or found.has_risen(row) for row in range(fitted))
    blind = [{k: v for k, v in row.items() if k != "test_accuracy"} for row in whole]
    found = Curves(gs.History(blind))
    assert found.fitted(len(blind) - 1) is not None
    assert not any(found.had_risen(row) or found.has_risen(row) for row in range(len(blind)))
