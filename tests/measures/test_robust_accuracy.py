"""Accuracy under attack: closed forms, the authors' own results, and what a call leaves alone."""

from __future__ import annotations

import functools
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import grokscope as gs
from grokscope.measures.attacks.apgd import _Search, apgd
from grokscope.measures.attacks.ball import Ball
from grokscope.measures.attacks.pgd import pgd

pyautoattack = pytest.importorskip("pyautoattack", reason="needs the extra [attack]")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(3)


@pytest.fixture
def short_square(monkeypatch: pytest.MonkeyPatch) -> None:
    """Square with 200 queries in place of 5,000, for the authors' evaluation and for ours."""
    original = pyautoattack.AutoAttack._set_version

    def short(self: Any, version: str) -> None:
        original(self, version)
        self.square.n_queries = 200

    monkeypatch.setattr(pyautoattack.AutoAttack, "_set_version", short)


def linear_case(k: int, n: int, dtype: torch.dtype) -> tuple[nn.Linear, Tensor, Tensor]:
    """Inputs far from the ends of the range, so that it never cuts a perturbation off."""
    model = nn.Linear(6, k).to(dtype)
    x = 0.3 + 0.4 * torch.rand(n, 6, dtype=dtype)
    with torch.no_grad():
        model.bias -= model(x).mean(0)  # every class occurs
        y = model(x).argmax(1)
    y[::7] = (y[::7] + 1) % k  # some are misclassified to begin with
    return model, x, y


def share_beyond(model: nn.Linear, x: Tensor, y: Tensor, eps: float, dual: float) -> float:
    """The share whose smallest margin over the normal's dual norm exceeds eps."""
    weight = model.weight.detach()
    with torch.no_grad():
        outputs = model(x)
    margins = outputs.gather(1, y[:, None]) - outputs
    radii = margins / (weight[y, None] - weight).norm(p=dual, dim=2)
    radii[torch.arange(len(x)), y] = torch.inf
    assert float((radii.amin(1) - eps).abs().min()) > 1e-6  # no example decided by rounding
    return float((radii.amin(1) > eps).double().mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("norm", "dual", "eps"), [("Linf", 1.0, 0.03), ("L2", 2.0, 0.06)])
@pytest.mark.parametrize(("attack", "k"), [("pgd", 2), ("apgd", 2), ("apgd", 3), ("apgd", 5)])
def test_a_linear_model_is_robust_where_its_margin_says_so(
    attack: str, k: int, norm: str, dual: float, eps: float, dtype: torch.dtype
) -> None:
    model, x, y = linear_case(k, 60, dtype)
    expected = share_beyond(model, x, y, eps, dual)
    assert 0.1 < expected < 0.8
    assert gs.robust_accuracy(model, x, y, attack, norm, eps, steps=20) == expected


@pytest.mark.parametrize(
    ("k", "norm", "dual"), [(2, "Linf", 1.0), (3, "L2", 2.0), (5, "Linf", 1.0)]
)
@pytest.mark.usefixtures("short_square")
def test_autoattack_takes_fewer_than_ten_classes(k: int, norm: str, dual: float) -> None:
    model, x, y = linear_case(k, 12, torch.float64)
    expected = share_beyond(model, x, y, 0.04, dual)
    assert 0 < expected < 0.8
    assert gs.robust_accuracy(model, x, y, norm=norm, eps=0.04) == expected


def test_one_output_is_two_classes() -> None:
    model = nn.Sequential(nn.Linear(6, 1), nn.Flatten(0)).double()
    x = 0.3 + 0.4 * torch.rand(40, 6).double()
    with torch.no_grad():
        model[0].bias += 0.1 - model(x).mean()
        margins = (model(x) - 0.1).abs() / model[0].weight.abs().sum()
        y = torch.where(model(x) > 0.1, 1.0, -1.0)
    eps = float(margins.median()) + 1e-3
    assert eps < 0.3
    for attack in ("pgd", "apgd"):
        found = gs.robust_accuracy(model, x, y, attack, eps=eps, threshold=0.1, steps=20)
        assert found == float((margins > eps).double().mean())


@functools.cache
def network() -> tuple[nn.Module, Tensor, Tensor]:
    """A small trained CNN, whose examples are broken one after the other as eps grows."""
    data = gs.load_data("digits", train_size=200, test_size=14, flatten=False)
    model = gs.CNN((1, 8, 8), [4, 6], 10, downsample="max", mean=0.3, std=0.37, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(data.train_x), data.train_y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return model, data.test_x, data.test_y


EPS = 0.13


@pytest.mark.usefixtures("short_square")
def test_the_authors_result_is_reproduced() -> None:
    model, x, y = network()
    x, y, eps = x[:9], y[:9], 0.08
    theirs = pyautoattack.AutoAttack(model, eps=eps, seed=5)
    expected, labels = theirs.run_standard_evaluation(x, y, batch_size=6)

    seen: list[tuple[str, float]] = []
    accuracy, found = gs.robust_accuracy(
        model, x, y, eps=eps, seed=5, chunk_size=6, return_inputs=True,
        progress=lambda name, share: seen.append((name, share)),
    )  # fmt: skip
    assert isinstance(found, Tensor)
    assert torch.equal(found, expected)
    assert accuracy == float((labels == y).double().mean())
    assert 0 < accuracy < 0.8
    assert list(dict(seen)) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert seen[-1][1] == accuracy

    weaker = gs.robust_accuracy(model, x, y, "pgd", eps=eps)
    assert accuracy <= gs.robust_accuracy(model, x, y, "apgd", eps=eps, steps=30) <= weaker


@pytest.mark.usefixtures("short_square")
def test_autoattack_leaves_random_state_tracing_and_gradients_alone() -> None:
    model, x, y = linear_case(4, 3, torch.float32)
    state = torch.get_rng_state()
    before = sys.gettrace()
    sys.settrace(trace := lambda *_: None)
    try:
        gs.robust_accuracy(model, x, y)
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_apgd_breaks_what_the_authors_breaks() -> None:
    """From the same random start; theirs is float32 and keeps the last point, ours the first."""
    model, x, y = network()
    from pyautoattack.autopgd_base import APGDAttack

    theirs = APGDAttack(model, eps=EPS, seed=2, n_iter=40, loss="ce")
    with torch.random.fork_rng(), torch.no_grad():
        correct = model(x).argmax(1) == y
        x, y = x[correct], y[correct]
        expected = model(theirs.perturb(x, y)).argmax(1) == y
        logits = lambda points, _: model(points)  # noqa: E731
        generator = torch.Generator().manual_seed(2)
        found = apgd(logits, x, y, Ball("Linf", EPS, (0.0, 1.0)), 40, generator)
        assert torch.equal(model(found).argmax(1) == y, expected)
    assert 0 < int(expected.sum()) < len(x)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("attack", [pgd, apgd])
def test_perturbations_stay_in_the_ball_and_in_the_range(attack: Any, norm: str) -> None:
    model, x, y = network()
    ball = Ball(norm, 0.4, (0.0, 1.0))
    seen: list[tuple[Tensor, Tensor]] = []

    def logits(points: Tensor, examples: Tensor) -> Tensor:
        seen.append((points.detach(), examples))
        return model(points)

    attack(logits, x, y, ball, 10, torch.Generator().manual_seed(0))
    lengths = []
    for points, examples in seen:
        assert float(points.min()) >= 0
        assert float(points.max()) <= 1
        steps = (points - x[examples]).flatten(1)
        lengths.append(steps.norm(p=torch.inf if norm == "Linf" else 2, dim=1).max())
    assert 0.39 < float(torch.stack(lengths).max()) < 0.4 + 1e-6


def test_perturbed_inputs_are_returned_where_they_fool_the_model() -> None:
    model, x, y = network()
    accuracy, found = gs.robust_accuracy(model, x, y, "pgd", eps=EPS, return_inputs=True)
    assert isinstance(found, Tensor)
    with torch.no_grad():
        before, after = model(x).argmax(1) == y, model(found).argmax(1) == y
    moved = (found != x).flatten(1).any(1)
    assert accuracy == float(after.double().mean())
    assert torch.equal(moved, before & ~after)
    assert 0 < int(moved.sum()) < int(before.sum())
    assert gs.robust_accuracy(model, x, y, "pgd", eps=0.0) == float(before.double().mean())


@pytest.mark.parametrize("attack", ["pgd", "apgd", "autoattack"])
@pytest.mark.usefixtures("short_square")
def test_no_attack_is_run_where_no_example_is_left(attack: str) -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(4, 3), torch.rand(6, 4)
    y = model(x).argmax(1)
    calls: list[tuple[str, float]] = []
    found, moved = gs.robust_accuracy(
        model, x, y, attack, eps=1.0, return_inputs=True, progress=lambda *now: calls.append(now)
    )
    assert found == 0
    assert not bool((model(moved).argmax(1) == y).any())
    assert [left for _, left in calls].index(0.0) == len(calls) - 1


def test_normalized_inputs_have_bounds_and_eps_of_their_own() -> None:
    model, x, y = network()
    raw, body = gs.robust_accuracy(model, x, y, "pgd", eps=EPS), nn.Sequential(*list(model)[1:])
    z, bounds = (x - 0.3) / 0.37, (-0.3 / 0.37, 0.7 / 0.37)
    assert gs.robust_accuracy(body, z, y, "pgd", eps=EPS / 0.37, bounds=bounds) == raw
    with pytest.raises(ValueError, match=r"x must lie in bounds, from 0 to 1: got -0.81\d* to"):
        gs.robust_accuracy(body, z, y, "pgd")
    unbounded = gs.robust_accuracy(body, z, y, "pgd", eps=EPS / 0.37, bounds=None)
    assert unbounded <= raw


class Masked(nn.Module):
    """Takes a dictionary: embeddings and which of them count."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, e: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head((e * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))}


def test_a_batch_of_several_tensors_keeps_each_example_with_its_own() -> None:
    """The mean of the m counted positions moves by eps, so the closed form is that of the head."""
    model = Masked().double()
    e = 0.3 + 0.4 * torch.rand(30, 5, 3).double()
    mask = (torch.rand(30, 5) < 0.5).double()
    mask[:, 0] = 1
    means = (e * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    with torch.no_grad():
        model.head.bias -= model.head(means).mean(0)
        y = model.head(means).argmax(1)
    expected = share_beyond(model.head, means, y, 0.02, 1.0)
    view = gs.View(model, wrt="e")
    batch = {"e": e, "mask": mask}
    for chunk_size in (None, 7):
        found, moved = gs.robust_accuracy(
            view, batch, y, "apgd", eps=0.02, steps=15, chunk_size=chunk_size, return_inputs=True
        )
        assert found == expected
        assert torch.equal(moved["mask"], mask)
    assert 0.1 < expected < 0.9
    with pytest.raises(ValueError, match="takes a batch that is one tensor"):
        gs.robust_accuracy(view, batch, y)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"attack": "agpd"}, "unknown attack 'agpd'; did you mean 'apgd'"),
        ({"attack": "pgd", "norm": "L1"}, "unknown norm of pgd 'L1'"),
        ({"eps": -0.1}, "eps must be 0 or positive"),
        ({"bounds": None}, "attack='autoattack' needs bounds"),
        ({"steps": 7}, "has steps of its own"),
        ({"attack": "pgd", "steps": 0}, "steps must be a positive integer"),
        ({"attack": "pgd", "bounds": (1.0, 0.0)}, "bounds must be a lowest and a highest"),
        ({"y": torch.zeros(4, dtype=torch.long)}, "y must hold a label for each of the 5"),
        ({"y": torch.full((5,), 9)}, "y must hold integer classes from 0 to 2"),
        ({"model": nn.Sequential(nn.Linear(6, 3), nn.Dropout())}, "Dropout in training mode"),
        ({"model": lambda x: x[:, :3] / 0}, "outputs hold NaN or infinity"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], problem: str) -> None:
    given = {"model": nn.Linear(6, 3), "x": torch.rand(5, 6), "y": torch.arange(5) % 3}
    with pytest.raises(ValueError, match=problem):
        gs.robust_accuracy(**given | options)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    model, x, y = linear_case(4, 5, torch.float32)
    with pytest.raises(ImportError, match=r"pip install 'grokscope\[attack\]'"):
        gs.robust_accuracy(model, x, y)


def test_apgd_halves_its_step_where_it_is_stuck() -> None:
    """Where three quarters of the steps at most rose, or none was the best since the last halving.

    The second counts only where the step was not halved the last time (Croce and Hein 2020,
    Section 3.3).
    """
    #         few rises, many; many and no better; so after a halving; many and better
    rises = torch.tensor([3.0, 4.0, 4.0, 4.0, 4.0])
    best = torch.tensor([2.0, 2.0, 1.0, 1.0, 1.5])
    halved = torch.tensor([False, False, False, True, True])
    points = torch.arange(5.0)[:, None]
    search = _Search(
        {
            "rises": rises, "steps": torch.full((5,), 4.0) + (rises == 4), "halved": halved,
            "best_loss": best, "loss_then": torch.ones(5), "size": torch.full((5,), 8.0),
            "point": points, "best": points + 10, "slope": points + 20, "best_slope": points + 30,
        }
    )  # fmt: skip
    search.halve_where_stuck()
    stuck = torch.tensor([True, False, True, False, False])
    assert torch.equal(search["size"], torch.where(stuck, 4.0, 8.0))
    assert torch.equal(search["halved"], stuck)
    assert torch.equal(search["point"], points + 10.0 * stuck[:, None])
    assert torch.equal(search["slope"], points + 20 + 10.0 * stuck[:, None])
    assert torch.equal(search["loss_then"], best)
    assert not search["rises"].any()
    assert not search["steps"].any()
