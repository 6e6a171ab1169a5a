"""What a field of a spec takes at the most and at the least, and the next value, refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from grokscope.experiments import SpecError
from grokscope.experiments.catalogue import assign
from grokscope.experiments.spec import Experiment
from grokscope.experiments.sweep import plan

SMALL: dict[str, Any] = {
    "name": "small",
    "title": "Small",
    "data": {"name": "digits"},
    "arms": {},
}
TINY = 5e-324
COUNT = ([1, 2**63 - 1], [0, -1, 1.0, True, 2**63])
COUNT_OR_NONE = ([1, None], [0, -1, 1.5, "1"])
FROM_ZERO = ([0, 1], [-1, 0.5, False])
NUMBER_FROM_ZERO = ([0, 0.0, TINY, 1e300], [-TINY, float("inf"), float("nan"), True, "1"])
SEED = ([0, 1, 2**63 - 1], [-1, 2**63, 0.0])
SWITCH = ([True, False], [0, 1, "true", None])
FIELDS: dict[str, tuple[list[Any], list[Any]]] = {
    "threads": ([1, 1024, None], [0, 1025, 1.5, True]),
    "seeds": ([[0], [3, 2**63 - 1]], [[], [0, 0], [-1], [2**63], 3]),
    "name": (["a", "9", "a" * 100, "A._=+-"], ["", "a" * 101, ".a", "a b", 3]),
    "vectorize": ([True, False, "auto"], ["yes", 0, 1, None]),
    "preset": (["quick", "paper"], ["slow", None]),
    "milestones": (
        [{}, {"m": {"metric": "test_accuracy", "target": 1}}],
        [{"m/": {}}, {"m": {"metric": "test_accuracy"}}, {"m": {"metric": "x", "target": 1}}],
    ),
    "training.lr": NUMBER_FROM_ZERO,
    "training.weight_decay": NUMBER_FROM_ZERO,
    "training.momentum": NUMBER_FROM_ZERO,
    "training.eps": NUMBER_FROM_ZERO,
    "training.checkpoint_seconds": NUMBER_FROM_ZERO,
    "training.label_smoothing": ([0, 0.999], [-TINY, 1, 1.0, "0"]),
    "training.warmup": FROM_ZERO,
    "training.batch_size": COUNT_OR_NONE,
    "training.max_steps": COUNT,
    "training.shuffle": SWITCH,
    "training.loss_in_float64": SWITCH,
    "training.compile": SWITCH,
    "training.dtype": (["float32", "float64"], ["float16"]),
    "training.decay": (["none", "linear", "cosine"], ["step"]),
    "training.optimizer": (["adamw", "adam", "sgd"], ["lion"]),
    "training.keep_checkpoints": ([True, False, [], [0, 7]], [1, 0, [-1], [True], [0.5], "no"]),
    "training.evaluate.per_decade": COUNT_OR_NONE,
    "training.evaluate.every": COUNT_OR_NONE,
    "training.evaluate.at": ([[], [0, 9]], [[-1], [0.5], 3]),
    "training.stop_at": (
        [
            {"target": 0.5},
            {"name": "settled", "patience": 2, "give_up": 2, "aligned": 0},
            {"name": "settled", "patience": 1e9, "give_up": None, "aligned": 0.999},
        ],
        [
            {"name": "settled", "patience": 1.999},
            {"name": "settled", "give_up": 1.999},
            {"name": "settled", "aligned": 1},
            {"name": "settled", "aligned": -TINY},
            {"name": "settled", "patience": float("inf")},
        ],
    ),
    "monitor.probe_size": COUNT,
    "monitor.pictures": FROM_ZERO,
    "monitor.test_size": FROM_ZERO,
    "monitor.probe": (["train", "test"], ["valid"]),
    "monitor.schedule.per_decade": COUNT_OR_NONE,
    "monitor.ntk.num_points": COUNT,
    "monitor.ntk.reduce": (["full", "trace", "sum"], ["mean"]),
    "monitor.ntk.keep_kernels": SWITCH,
    "monitor.manifolds.num_points": COUNT,
    "monitor.manifolds.num_samples": COUNT,
    "monitor.manifolds.layers": ([None, ["a"], []], ["a", [1]]),
    "monitor.manifolds.linear_probe": SWITCH,
    "monitor.manifolds.probe_points": SWITCH,
    "monitor.noise.std": ([[0], [0.5, 1e9]], [[], [-TINY], 0.5, [float("nan")]]),
    "monitor.noise.from_feature": FROM_ZERO,
    "monitor.noise.seed": SEED,
    "monitor.noise.threshold": ([-1e300, 0, 1e300], [float("inf"), float("nan"), None]),
    "monitor.robust.attack": (["pgd", "apgd", "autoattack"], ["fgsm"]),
    "monitor.robust.norm": (["Linf", "L2"], ["L1"]),
    "monitor.robust.eps": NUMBER_FROM_ZERO,
    "monitor.robust.steps": COUNT_OR_NONE,
    "monitor.robust.seed": SEED,
    "data.train_size": COUNT_OR_NONE,
    "data.test_size": COUNT_OR_NONE,
    "data.subset": (["first", "seeded"], ["last"]),
    "data.seed": SEED,
    "data.normalize": ([None, [0.5, 2]], [[1], [1, 2, 3], 0.5]),
    "data.flatten": SWITCH,
    "data.reduce_to_span": ([False], [0, "no", None]),
    "model.widths": ([[1], [3, 1]], [[0], [-1], [1.5], 3]),
    "model.scalar_output": SWITCH,
    "model.bias": SWITCH,
}


def with_value(path: str, value: Any) -> dict[str, Any]:
    """The experiment with one field of it, or of its arm, given."""
    inside_arm = path.partition(".")[0] in ("training", "monitor", "data", "model")
    arm = {"data": {"name": "digits"}}
    changed = {name: of for name, of in SMALL.items() if name != "data"}
    if inside_arm:
        return {**changed, "arms": {"one": assign(arm, path, value, path)}}
    return {**changed, "arms": {"one": arm}, path: value}


@pytest.mark.parametrize("path", FIELDS)
def test_a_field_takes_what_lies_within_its_bounds_alone(path: str) -> None:
    taken, refused = FIELDS[path]
    for value in taken:
        Experiment.model_validate(with_value(path, value))
    for value in refused:
        with pytest.raises(ValidationError):
            Experiment.model_validate(with_value(path, value))


def test_a_sweep_has_a_million_runs_at_most() -> None:
    plan._check_count(1_000_000, "runs")
    with pytest.raises(SpecError, match=r"at most 1,000,000 runs: this one has 1,000,001 settings"):
        plan._check_count(1_000_001, "settings")


@pytest.mark.parametrize(("letters", "kept"), [(111, 119), (112, 120), (113, 120), (200, 120)])
def test_the_name_of_a_setting_is_bounded(letters: int, kept: int) -> None:
    path = f"milestones.{'m' * letters}"
    (name,) = plan._names([{path: "1234567"}])
    assert name == f"{'m' * letters}=1234567"[:kept]
    assert len(name) == kept
