"""Every method inside ``fit``: strength 0 is the baseline, methods combine, a crash is undone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import grokscope as gs
from grokscope.experiments import load_experiment
from grokscope.experiments.from_spec import build_method
from grokscope.methods import METHODS, Method, Networks
from grokscope.methods.base import check_methods
from tests.training.test_resume import DATA, Crash, network, weights

Make = Callable[[], list[Method]]

AT_WORK: dict[str, Make] = {
    "grokfast": lambda: [gs.Grokfast()],
    "grokfast ma": lambda: [gs.Grokfast("ma", window=3)],
    "orthograd": lambda: [gs.OrthoGrad()],
    "noise": lambda: [gs.GradientNoise(0.1)],
    "clipping": lambda: [gs.GradientClipping(0.1)],
    "adversarial": lambda: [gs.AdversarialTraining(0.1)],
    "adversarial gradient": lambda: [gs.AdversarialTraining(0.1, "fgsm", "error", 0.05)],
    "grokalign and grokfast": lambda: [gs.GrokAlign(0.01), gs.Grokfast()],
    "all": lambda: [
        gs.AdversarialTraining(0.1),
        gs.GrokAlign(0.01, every=2),
        gs.GradientNoise(0.1),
        gs.Grokfast(),
        gs.OrthoGrad(0.5),
    ],
}
AT_REST: dict[str, Make] = {
    "grokfast": lambda: [gs.Grokfast(strength=0)],
    "grokfast ma": lambda: [gs.Grokfast("ma", strength=0, window=2)],
    "orthograd": lambda: [gs.OrthoGrad(0)],
    "noise": lambda: [gs.GradientNoise(0)],
    "clipping": lambda: [gs.GradientClipping(1e30)],
    "adversarial": lambda: [gs.AdversarialTraining(0)],
    "adversarial gradient": lambda: [gs.AdversarialTraining(0, "fgsm", "error")],
}


def train(methods: Sequence[Method], **settings: Any) -> gs.FitResult:
    arguments: dict[str, Any] = {
        "lr": 0.01,
        "weight_decay": 0.01,
        "batch_size": 7,
        "max_steps": 11,
        "evaluate": [4, 8],
        "device": "cpu",
    }
    return gs.fit(network(), DATA, methods=methods, **(arguments | settings))


@pytest.fixture(scope="module")
def baseline() -> Tensor:
    return weights(train([]).model)


@pytest.mark.parametrize("name", AT_REST)
def test_strength_zero_is_the_baseline_bit_for_bit(name: str, baseline: Tensor) -> None:
    assert torch.equal(weights(train(AT_REST[name]()).model), baseline)


@pytest.mark.parametrize("name", AT_WORK)
def test_a_method_at_work_changes_training_and_repeats(name: str, baseline: Tensor) -> None:
    found = weights(train(AT_WORK[name]()).model)
    assert found.isfinite().all()
    assert not torch.equal(found, baseline)
    assert torch.equal(found, weights(train(AT_WORK[name]()).model))


@pytest.mark.parametrize("crash", [1, 2, 6, 11])
@pytest.mark.parametrize("name", AT_WORK)
def test_a_crash_is_undone(name: str, crash: int, tmp_path: Path) -> None:
    whole = train(AT_WORK[name]())
    where: dict[str, Any] = {"out": tmp_path / "run", "resume": True, "checkpoint_seconds": 0.0}
    with pytest.raises(ConnectionResetError):
        train([*AT_WORK[name](), Crash(crash)], **where)
    resumed = train([*AT_WORK[name](), Crash(None)], **where)
    assert torch.equal(weights(resumed.model), weights(whole.model))


def test_combined_filters_apply_in_the_order_given() -> None:
    one = weights(train([gs.Grokfast(), gs.OrthoGrad()]).model)
    other = weights(train([gs.OrthoGrad(), gs.Grokfast()]).model)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("loss", ["stablemax", "mse"])
def test_the_losses_train_and_can_be_smoothed(loss: str) -> None:
    plain = train([], loss=loss, max_steps=40)
    smoothed = train([], loss=loss, label_smoothing=0.1, max_steps=40)
    for result in (plain, smoothed):
        assert result.history["train_loss"][-1] < result.history["train_loss"][0]
    assert not torch.equal(weights(plain.model), weights(smoothed.model))


SPEC = """
name: methods
title: All methods
data: {name: digits, train_size: 40, test_size: 20}
model: {widths: [8]}
training: {max_steps: 3, loss: stablemax, label_smoothing: 0.1}
arms:
  all:
    methods:
      - {name: adversarial, eps: 0.1, attack: fgsm, schedule: error, floor: 0.05}
      - {name: clipping, max_norm: 2}
      - {name: gradient_noise, variance: 0.1}
      - {name: grokalign, weight: 1e-2}
      - {name: grokfast, kind: ma, window: 4}
      - {name: orthograd}
"""


def test_a_spec_names_every_method(tmp_path: Path) -> None:
    path = tmp_path / "methods.yaml"
    path.write_text(SPEC)
    trial = load_experiment(str(path)).arms["all"]
    found = [build_method(method.model_dump(), seed=3) for method in trial.methods]
    assert [method.name for method in found] == sorted(METHODS)
    assert isinstance(found[0], gs.AdversarialTraining)
    assert (found[0].attack, found[0].floor) == ("fgsm", 0.05)
    noise = found[2]
    assert isinstance(noise, gs.GradientNoise)
    assert torch.equal(
        noise.state_dict()["generator"], gs.GradientNoise(seed=3).state_dict()["generator"]
    )


def test_a_method_that_is_misspelt_is_named_with_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "methods.yaml"
    path.write_text(SPEC.replace("name: grokfast, kind: ma", "name: grokfats, kind: ma"))
    with pytest.raises(ValueError, match="did you mean 'grokfast'"):
        load_experiment(str(path))
    path.write_text(SPEC.replace("kind: ma", "kind: sma"))
    with pytest.raises(ValueError, match=r"arms\.all\.methods\.4\.kind: .*'sma'"):
        load_experiment(str(path))


def test_gradient_filters_see_the_gradients_of_the_penalty() -> None:
    seen: list[Tensor] = []

    class Look(Method):
        def filter_gradients(self, step: int, networks: Networks) -> None:
            seen.append(torch.cat([gradient.flatten() for _, _, gradient in networks.gradients()]))

    train([Look()], max_steps=1)
    train([gs.GrokAlign(1.0), Look()], max_steps=1)
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("name", AT_WORK)
def test_a_training_leaves_nothing_behind_in_its_methods(name: str) -> None:
    methods = AT_WORK[name]()
    first, second = train(methods), train(methods)
    assert_close(weights(second.model), weights(first.model), rtol=0, atol=0)


@pytest.mark.parametrize("vectorize", [False, True])
@pytest.mark.parametrize("name", ["grokfast", "grokfast ma", "all"])
def test_a_method_may_serve_several_seeds(name: str, vectorize: bool) -> None:
    def ends(methods: Callable[[int], list[Method]]) -> list[Tensor]:
        settings: dict[str, Any] = {"max_steps": 6, "batch_size": 7, "device": "cpu"}
        results = gs.fit_seeds(
            lambda seed: gs.MLP(6, [9], 3, seed=seed),
            DATA,
            [0, 1],
            methods=methods,
            vectorize=vectorize,
            **settings,
        )
        return [weights(result.model) for result in results]

    shared = AT_WORK[name]()
    assert_close(ends(lambda seed: shared), ends(lambda seed: AT_WORK[name]()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([gs.GrokAlign], r"methods\[0\] must be a method: got the class GrokAlign; pass Gro"),
        ([gs.OrthoGrad(), "grokfast"], r"methods\[1\] must be a grokscope.methods.Method: got str"),
    ],
)
def test_what_is_no_method_is_named(given: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        check_methods(given)
