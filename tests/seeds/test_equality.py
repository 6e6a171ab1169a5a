"""Seed i among others is seed i alone: every method, loss, optimizer and kind of network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import grokscope as gs
from tests.seeds.small import DATA, SEEDS, TEST_X, TEST_Y, X, Y, alone, assert_same, mlp, together

PLAIN = {
    "lr": 3e-3,
    "weight_decay": 0.02,
    "batch_size": 12,
    "max_steps": 40,
    "evaluate": 8,
    "dtype": torch.float64,
    "device": "cpu",
}
METHODS: dict[str, Any] = {
    "none": None,
    "projected": lambda seed: [gs.GrokAlign(0.01, seed=seed)],
    "several projections": lambda seed: [gs.GrokAlign(0.01, projections=2, seed=seed)],
    "exact": lambda seed: [gs.GrokAlign(0.01, projections=None, squared=False)],
    "every third": lambda seed: [gs.GrokAlign(0.01, every=3, seed=seed)],
    "offset": lambda seed: [gs.GrokAlign(0.01, offset_weight=0.5, seed=seed)],
    "constrain": lambda seed: [gs.GrokAlign(0.1, mode="constrain", target=2.0, seed=seed)],
    "strength 0": lambda seed: [gs.GrokAlign(0.0, seed=seed)],
    "grokfast": lambda seed: [gs.Grokfast(alpha=0.9)],
    "grokfast ma": lambda seed: [gs.Grokfast("ma", window=7, strength=0.5)],
    "orthograd": lambda seed: [gs.OrthoGrad(0.7)],
    "noise": lambda seed: [gs.GradientNoise(0.02, seed=seed)],
    "clipping": lambda seed: [gs.GradientClipping(0.5)],
    "perturbed": lambda seed: [gs.AdversarialTraining(0.2, seed=seed)],
    "adversarial": lambda seed: [
        gs.AdversarialTraining(0.2, attack="fgsm", schedule="error", floor=0.05, seed=seed)
    ],
    "two": lambda seed: [gs.GrokAlign(0.01, seed=seed), gs.Grokfast(alpha=0.9)],
}


@pytest.mark.parametrize("methods", METHODS.values(), ids=METHODS)
def test_every_method(methods: Any) -> None:
    assert_same(together(mlp, methods=methods, **PLAIN), alone(mlp, methods, **PLAIN))


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adam", "betas": (0.8, 0.95), "eps": 1e-3},
        {"optimizer": "sgd", "momentum": 0.9, "lr": 0.02},
        {"optimizer": "sgd", "lr": 0.02},
        {"warmup": 7, "decay": "cosine"},
        {"decay": "linear", "batch_size": None},
        {"batch_size": 40},
        {"batch_size": 7},
        {"loss": "mse", "label_smoothing": 0.1},
        {"loss": "stablemax", "label_smoothing": 0.1},
        {"loss": "cross_entropy", "label_smoothing": 0.2},
        {"loss": lambda outputs, y: F.cross_entropy(2 * outputs, y) + outputs.square().sum()},
    ],
    ids=lambda settings: ", ".join(settings),
)
def test_every_way_to_train(settings: dict[str, Any]) -> None:
    methods = METHODS["projected"]
    changed = {**PLAIN, **settings}
    assert_same(together(mlp, methods=methods, **changed), alone(mlp, methods, **changed))


@pytest.mark.parametrize("loss", ["mse", "binary_cross_entropy"])
@pytest.mark.parametrize(
    ("methods", "low"), [("perturbed", 0), ("perturbed", -1), ("adversarial", 0), ("offset", -1)]
)
def test_scalar_outputs(loss: str, methods: str, low: int) -> None:
    y, test_y = (part.eq(1).long() for part in (Y, TEST_Y))
    if low == -1 and loss == "mse":
        y, test_y = 2.0 * y - 1, 2.0 * test_y - 1
    data = (X, y, TEST_X, test_y)
    settings = {**PLAIN, "loss": loss, "data": data}

    def build(seed: int) -> nn.Module:
        return gs.MLP(6, [7], None, seed=seed)

    made = METHODS[methods]
    assert_same(together(build, methods=made, **settings), alone(build, made, **settings))


class Branches(nn.Module):
    """No chain of layers: a convolution, a normalization, a buffer and a residual sum."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv1d(1, 4, 3, padding=1)
        self.norm = nn.LayerNorm(6)
        self.out = nn.Linear(24, 3)
        self.register_buffer("shift", torch.rand(6))
        self.factor = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.conv((x + self.shift).unsqueeze(1)).tanh()
        return self.factor * self.out((self.norm(hidden) + x.unsqueeze(1)).flatten(1))


def smooth(seed: int) -> nn.Module:
    return gs.MLP(6, [9, 5], 3, activation="gelu", seed=seed)


def nested(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    first = nn.Sequential(nn.Linear(6, 8, bias=False), nn.LeakyReLU(0.2, inplace=True))
    middle = nn.Linear(8, 8)
    last = nn.Linear(8, 3, bias=False)
    return nn.Sequential(first, middle, nn.Identity(), nn.Hardtanh(), middle, nn.ReLU(), last)


def in_place(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    bounded = nn.Sequential(nn.Hardtanh(-0.5, 0.5, inplace=True), nn.LeakyReLU(0.1, inplace=True))
    return nn.Sequential(nn.Linear(6, 8), *bounded, nn.Linear(8, 3))


def tied(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Linear(6, 3))
    model[2].weight = model[0].weight
    return model


def scaled(seed: int) -> nn.Module:
    return gs.MLP(6, [9], 3, output_scale=0.5, bias=False, seed=seed)


def frozen(seed: int) -> nn.Module:
    model = mlp(seed)
    model[1].requires_grad_(False)
    model[3].bias.requires_grad_(False)
    return model


def attending(seed: int) -> nn.Module:
    """A transformer's layer, which has a fused pass of its own in eval mode."""
    torch.manual_seed(seed)
    layer = nn.TransformerEncoderLayer(2, 2, 5, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.Unflatten(1, (3, 2)), layer, nn.Flatten(), nn.Linear(6, 3))


@pytest.mark.parametrize("methods", ["two", "exact", "adversarial"])
@pytest.mark.parametrize(
    "build", [Branches, smooth, nested, in_place, tied, scaled, frozen, attending]
)
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of attention in a stack
def test_every_kind_of_network(build: Any, methods: str) -> None:
    made = METHODS[methods]
    settings = {**PLAIN, "max_steps": 20}
    assert_same(together(build, methods=made, **settings), alone(build, made, **settings))


def test_images_and_the_first_layer_by_its_gram_matrix() -> None:
    x = torch.randn(40, 1, 6, 7, generator=torch.Generator().manual_seed(4))
    settings = {**PLAIN, "max_steps": 20, "data": (x, Y, x[:9], Y[:9])}

    def build(seed: int) -> nn.Module:
        return gs.MLP(42, [8, 5], 3, seed=seed)

    for methods in (METHODS["exact"], METHODS["projected"]):
        assert_same(together(build, methods=methods, **settings), alone(build, methods, **settings))


def test_five_hundred_steps_in_single_precision() -> None:
    settings = {**PLAIN, "max_steps": 500, "evaluate": "log", "dtype": None, "lr": 1e-3}
    methods = METHODS["projected"]
    ours, theirs = together(mlp, methods=methods, **settings), alone(mlp, methods, **settings)
    for one, other in zip(ours, theirs, strict=True):
        assert len(one.history) == len(other.history) > 20
        for name in ("train_loss", "test_loss"):
            torch.testing.assert_close(
                torch.tensor(one.history[name]),
                torch.tensor(other.history[name]),
                rtol=1e-3,
                atol=1e-4,
            )


def test_every_measure_of_a_monitor() -> None:
    def monitor(model: nn.Module) -> gs.Monitor:
        measures = [
            "jacobian_norm",
            "jacobian_alignment",
            "row_alignment",
            "jacobian_pc1",
            "centroid_alignment",
            "centroid_norm",
            "centroid_inner_product",
            "weight_norm",
            "point_ntk",
            "point_alignment",
            gs.NTKDistance(num_points=6),
            gs.LayerGeometry(["linear2"], num_points=5, num_samples=10),
        ]
        probe = X[:20].double(), Y[:20]
        return gs.Monitor(
            model, probe, measures, schedule=[5, 20], test=(TEST_X.double(), TEST_Y), pictures=2
        )

    settings = {**PLAIN, "monitor": monitor, "max_steps": 25}
    ours, theirs = together(mlp, **settings), alone(mlp, **settings)
    assert "ntk_distance_previous" in ours[0].history
    assert_same(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("methods", ["two", "grokfast ma", "perturbed", "noise"])
def test_a_network_at_its_target_leaves_and_the_others_go_on(methods: str) -> None:
    settings = {
        **PLAIN,
        "lr": 2e-2,
        "max_steps": 150,
        "stop_at": gs.Target("train_accuracy", 0.8),
        "evaluate": 2,
        "methods": METHODS[methods],
        "decay": "linear",
    }
    ours, theirs = together(mlp, **settings), alone(mlp, **settings)
    steps = sorted(result.steps for result in theirs)
    assert steps[0] < steps[1] < steps[2]
    assert_same(ours, theirs)
    storages = [p.untyped_storage().data_ptr() for r in ours for p in r.model.parameters()]
    assert len(set(storages)) == len(storages), "networks must not share memory afterwards"


def test_a_network_that_diverges_leaves_the_others_as_they_are() -> None:
    def build(seed: int) -> nn.Module:
        return gs.MLP(6, [9, 5], 3, weight_scale=1e160 if seed == 0 else 1.0, seed=seed)

    settings = {**PLAIN, "methods": METHODS["two"]}
    ours, theirs = together(build, **settings), alone(build, **settings)
    assert [result.stopped for result in ours] == ["max_steps", "diverged", "max_steps"]
    assert_same([ours[0], ours[2]], [theirs[0], theirs[2]])
    assert ours[1].steps == theirs[1].steps


def test_the_first_rows_are_of_each_seeds_own_initialization() -> None:
    settings = {**PLAIN, "max_steps": 1}
    for one, other in zip(together(mlp, **settings), alone(mlp, **settings), strict=True):
        assert one.history["test_loss"][0] == other.history["test_loss"][0]


def test_global_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    together(mlp, methods=METHODS["projected"], **{**PLAIN, "max_steps": 3})
    assert torch.equal(torch.get_rng_state(), before)


def test_shares_of_the_time_add_up() -> None:
    seen: list[tuple[int, float]] = []
    results = gs.fit_seeds(
        mlp,
        DATA,
        SEEDS,
        vectorize=True,
        on_evaluation=lambda seed, row, seconds: seen.append((seed, seconds)),
        **{**PLAIN, "stop_at": None},
    )
    assert [seed for seed, _ in seen[:3]] == list(SEEDS)
    assert len({result.train_seconds for result in results}) == 1
    assert results[0].train_seconds == seen[-1][1] > 0
