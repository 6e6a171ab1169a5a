"""The monitor on any model, batch, labels and loop."""

from __future__ import annotations

import copy
import pickle
import random
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import grokscope as gs
from grokscope.experiments.from_spec import build_monitor
from grokscope.experiments.spec import MonitorSpec
from grokscope.training.examples import examples
from grokscope.training.measurements import DEFAULT_MEASURES
from grokscope.training.scores import Scores

GENERATOR = torch.Generator().manual_seed(3)
X = torch.randn(12, 5, generator=GENERATOR)
Y = torch.arange(12) % 3


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))


RIGHT = gs.Monitor(network(), (X, Y), test=(X, Y)).step(0)


class Part(nn.Module):
    """A network as a part of one that takes or returns something else."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()


class Logits(Part):
    def forward(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.inner(x), loss=torch.zeros(()))


class Pair(Part):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner(x), x.softmax(1)


class Masked(Part):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.inner(x * mask)


class Named(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": X[index], "mask": torch.ones(5, dtype=torch.bool), "labels": Y[index]}


ONES = torch.ones(12, 5, dtype=torch.bool)
MODELS: dict[str, tuple[Any, Any]] = {
    "logits": (Logits, (X, Y)),
    "tuple of outputs": (Pair, (X, Y)),
    "tuple": (Masked, ((X, ONES), Y)),
    "dictionary": (Masked, ({"x": X, "mask": ONES}, Y)),
    "dictionary with labels": (Masked, {"x": X, "mask": ONES, "labels": Y.to(torch.int32)}),
    "loader of dictionaries": (Masked, DataLoader(Named(), batch_size=5)),
    "view": (lambda: gs.View(Masked(), lambda m, x: m(x, torch.ones_like(x))), (X, Y)),
    "view of a function": (lambda: gs.View(network()), (X, Y)),
    "compiled": (lambda: torch.compile(network(), backend="eager"), (X, Y)),
    "data parallel": (lambda: nn.DataParallel(network()), (X, Y)),
    "double inputs": (network, (X.double(), Y)),
}


@pytest.mark.parametrize("name", MODELS)
def test_rows_are_those_of_the_plain_model(name: str) -> None:
    make, source = MODELS[name]
    row = gs.Monitor(make(), source, test=source, log=None).step(0)
    assert row.keys() == RIGHT.keys()
    assert row == pytest.approx(RIGHT, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_measured_in_float32(dtype: torch.dtype) -> None:
    low = network().to(dtype)
    row = gs.Monitor(low, (X, Y), test=(X, Y)).step(0)
    right = gs.Monitor(copy.deepcopy(low).float(), (X.to(dtype).float(), Y), test=(X, Y)).step(0)
    # the outputs themselves are in half precision, and what is measured inside is not
    losses = {"probe_loss", "test_loss"}
    assert {n: row[n] for n in losses} == pytest.approx({n: right[n] for n in losses}, rel=2e-3)
    assert {n: row[n] for n in row if n not in losses} == pytest.approx(
        {n: right[n] for n in right if n not in losses}, rel=1e-5
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert gs.Monitor(network(), (X, Y), test=(X, Y)).step(0) == RIGHT


LABELS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.bool)


@pytest.mark.parametrize("dtype", LABELS)
@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "stablemax"])
def test_labels_may_be_of_any_integer_type(dtype: torch.dtype, loss: str) -> None:
    y = Y.clamp_max(1)
    measures = ["weight_norm", gs.LayerGeometry(num_points=4, num_samples=10)]
    rows = [
        gs.Monitor(network(), (X, labels), measures, test=(X, labels), loss=loss).step(0)
        for labels in (y, y.to(dtype))
    ]
    assert rows[0] == pytest.approx(rows[1], nan_ok=True)


@pytest.mark.parametrize("dtype", LABELS)
def test_fit_takes_labels_of_any_integer_type_and_arrays(dtype: torch.dtype) -> None:
    y = Y.clamp_max(1)
    plain = gs.fit(network(), (X, y, X, y), max_steps=3, device="cpu").history
    labels = y.to(dtype)
    found = gs.fit(network(), (X, labels, X, labels), max_steps=3, device="cpu").history
    assert found.rows == plain.rows
    arrays = [own.numpy() for own in (X, labels, X, labels)]
    assert gs.fit(network(), arrays, max_steps=3, device="cpu").history.rows == plain.rows


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Any:
        return iter(zip(X, Y, strict=True))


SOURCES: dict[str, Any] = {
    "arrays": (X.numpy(), Y.numpy()),
    "data set": TensorDataset(X, Y),
    "subset": Subset(TensorDataset(X, Y), range(12)),
    "loader": DataLoader(TensorDataset(X, Y), batch_size=5),
    "shuffled": DataLoader(TensorDataset(X, Y), batch_size=5, shuffle=True),
    "chosen": DataLoader(TensorDataset(X, Y), batch_size=5, sampler=range(12)),
    "stream": DataLoader(Stream(), batch_size=5),
    "ours": gs.Dataset("ours", X, Y, X[:3], Y[:3], num_classes=3),
}


@pytest.mark.parametrize("name", SOURCES)
def test_the_first_examples_of_any_source(name: str) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    x, y = examples("probe", SOURCES[name], 7)
    whole = name == "arrays"
    assert torch.equal(x, X if whole else X[:7])
    assert torch.equal(y, Y if whole else Y[:7])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


@pytest.mark.parametrize("most", [3, 4, 5])
def test_a_stream_gives_as_many_examples_as_are_asked_for(most: int) -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            return iter(zip(X, Y, strict=True))

    x, y = examples("probe", DataLoader(Stream(), batch_size=3), most)
    assert torch.equal(x, X[:most])
    assert torch.equal(y, Y[:most])


def test_a_loader_that_samples_gives_its_own_examples_and_keeps_its_generator() -> None:
    generator = torch.Generator().manual_seed(5)
    sampler = torch.utils.data.SubsetRandomSampler([2, 4, 6], generator=generator)
    loader = DataLoader(TensorDataset(X, Y), batch_size=2, sampler=sampler)
    before = generator.get_state()
    _, y = examples("probe", loader, 9)
    assert sorted(y.tolist()) == sorted(Y[[2, 4, 6]].tolist())
    assert torch.equal(generator.get_state(), before)


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Examples with noise of a generator of the data set's own."""

    def __init__(self, generator: Any) -> None:
        self.generator = generator

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return X[index] + self.draw(), Y[index]

    def draw(self) -> float:
        if isinstance(self.generator, torch.Generator):
            return float(torch.rand((), generator=self.generator))
        return float(self.generator.random())


GENERATORS: dict[str, Any] = {
    "numpy": lambda: np.random.default_rng(3),
    "numpy, of old": lambda: np.random.RandomState(3),
    "python": lambda: random.Random(3),
    "torch": lambda: torch.Generator().manual_seed(3),
}


@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize("held", [lambda data: data, DataLoader, lambda data: Subset(data, [1, 0])])
def test_reading_a_probe_draws_nothing_from_a_data_set(kind: str, held: Any) -> None:
    data = Augmented(GENERATORS[kind]())
    gs.Monitor(network(), held(data))
    assert data.draw() == Augmented(GENERATORS[kind]()).draw()


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        (7, TypeError, "probe must be .* got int"),
        ("x", TypeError, "probe must be .* got str"),
        ({"x": X}, ValueError, "probe has no labels"),
        ((X,), ValueError, "probe has no labels"),
        ((X, Y[:3]), ValueError, "12 inputs but 3 labels"),
        ((X, "labels"), TypeError, "labels of probe must be a tensor: got str"),
        (TensorDataset(X[:0], Y[:0]), ValueError, "probe is empty"),
        (DataLoader(TensorDataset(X)), ValueError, "probe has no labels"),
    ],
)
def test_what_is_no_source_is_said(source: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        gs.Monitor(network(), source)


def step_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(X), Y).backward()
    optimizer.step()


def test_attached_it_counts_the_optimizers_steps_and_measures_the_last_network() -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    logged: list[tuple[int, dict[str, float]]] = []

    def log(row: dict[str, float], step: int) -> None:
        logged.append((step, row))

    with gs.Monitor(model, (X, Y), ["weight_norm"], schedule=[3], log=log) as monitor:
        monitor.attach(optimizer)
        with pytest.raises(ValueError, match="attached to an optimizer already"):
            monitor.attach(optimizer)
        for _ in range(5):
            step_of(model, optimizer)
    assert monitor.history.steps.tolist() == [0, 3, 5]
    norm = torch.cat([own.detach().flatten() for own in model.parameters()]).norm()
    assert monitor.history["weight_norm"][-1] == pytest.approx(float(norm))
    assert [step for step, _ in logged] == [0, 3, 5]
    assert logged[-1][1]["weight_norm"] == monitor.history["weight_norm"][-1]
    step_of(model, optimizer)
    monitor.close()
    assert len(monitor.history) == 3  # detached, and closed twice


def test_an_optimizer_inside_another_is_found_and_gradients_stay() -> None:
    model = network()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gs.Monitor(model, (X, Y), schedule=1).attach(SimpleNamespace(optimizer=inner))
    step_of(model, inner)
    assert monitor.history.steps.tolist() == [0, 1]
    assert all(own.grad is not None for own in model.parameters())
    with pytest.raises(TypeError, match=r"must be a torch\.optim\.Optimizer: got int"):
        gs.Monitor(model, (X, Y)).attach(3)  # type: ignore[arg-type]


def test_a_copy_of_an_attached_monitor_is_attached_to_nothing() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gs.Monitor(model, (X, Y), schedule=1).attach(optimizer)
    copies = [copy.deepcopy(monitor), pickle.loads(pickle.dumps(monitor))]
    step_of(model, optimizer)
    assert monitor.history.steps.tolist() == [0, 1]
    for each in copies:
        assert each.history.steps.tolist() == [0]
        with each.attach(other := torch.optim.SGD(each.model.parameters(), lr=0.1)):
            step_of(each.model, other)
        assert list(each.history) == list(monitor.history)


class SharpnessAware(torch.optim.Optimizer):
    """As it is written mostly: the gradient of a step is that at weights moved uphill."""

    def __init__(self, parameters: Any, base: type[torch.optim.Optimizer], **settings: Any) -> None:
        super().__init__(parameters, settings)
        self.base_optimizer = base(self.param_groups, **settings)
        self.before: list[Tensor] = []

    @torch.no_grad()
    def first_step(self) -> None:
        moved = [own for group in self.param_groups for own in group["params"]]
        self.before = [own.clone() for own in moved]
        for own in moved:
            own.add_(own.grad, alpha=0.05)
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        moved = [own for group in self.param_groups for own in group["params"]]
        for own, before in zip(moved, self.before, strict=True):
            own.copy_(before)
        self.base_optimizer.step()


def test_an_optimizer_that_steps_by_another_one() -> None:
    model = network()
    optimizer = SharpnessAware(model.parameters(), torch.optim.SGD, lr=0.1)
    monitor = gs.Monitor(model, (X, Y), schedule=1).attach(optimizer)
    method = gs.GrokAlign(0.1).attach(model, optimizer)
    for _ in range(3):
        for move in (optimizer.first_step, optimizer.second_step):
            F.cross_entropy(model(X), Y).backward()
            move()
        optimizer.zero_grad()
    monitor.close()
    assert monitor.history.steps.tolist() == [0, 1, 2, 3]
    assert method.state["steps"] == 3


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("numbered", [True, False])
def test_the_last_network_is_measured_in_every_kind_of_loop(before: bool, numbered: bool) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gs.Monitor(model, (X, Y), ["weight_norm"], schedule=[0, 2]) as monitor:
        if not before:
            monitor.step()
        for i in range(4):
            if before:
                monitor.step(*[i] * numbered)
            step_of(model, optimizer)
            if not before:
                monitor.step(*[i + 1] * numbered)
    assert monitor.history.steps.tolist() == [0, 2, 4]
    assert monitor.measure(4)["weight_norm"] == monitor.history["weight_norm"][-1]


@pytest.mark.parametrize("part", [0, -1])
def test_the_last_network_is_measured_where_a_part_of_it_is_trained(part: int) -> None:
    model = network()
    optimizer = torch.optim.SGD(model[part].parameters(), lr=0.1)
    with gs.Monitor(model, (X, Y), ["weight_norm"], schedule=[0]) as monitor:
        for i in range(5):
            monitor.step(i)
            step_of(model, optimizer)
    assert monitor.history.steps.tolist() == [0, 5]


def test_an_error_in_the_loop_detaches_and_measures_nothing() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gs.Monitor(model, (X, Y), ["weight_norm"], schedule=[9])

    def loop() -> None:
        with monitor.attach(optimizer):
            step_of(model, optimizer)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()
    step_of(model, optimizer)
    assert monitor.history.steps.tolist() == [0]


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_a_scaler_leaves_out_is_none(fused: bool) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    monitor = gs.Monitor(model, (X, Y), measures=[], schedule=1).attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    for factor in (1.0, torch.inf, 1.0):
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(model(X), Y) * factor).backward()
        scaler.step(optimizer)
        scaler.update()
    assert monitor.history.steps.tolist() == [0, 1, 2]


def test_without_measures_the_scores_alone_are_recorded() -> None:
    monitor = gs.Monitor(network(), (X, Y), measures=[], test=(X[:4], Y[:4]))
    scores = {"probe_accuracy", "probe_loss", "test_accuracy", "test_loss"}
    assert set(monitor.step(0)) == {"step", *scores}
    assert monitor.measure_names == []
    assert "none" in repr(monitor)
    data = gs.load_data("digits", train_size=4)
    assert build_monitor(MonitorSpec(measures=()), network(), data, "mse") is None


@pytest.mark.parametrize(("steps", "said"), [((5, 4), "step 4 goes backwards"), ((-1,), "-1")])
def test_steps_that_go_backwards_are_refused(steps: tuple[int, ...], said: str) -> None:
    monitor = gs.Monitor(network(), (X, Y), ["weight_norm"])
    for step in steps[:-1]:
        monitor.step(step)
    with pytest.raises(ValueError, match=said):
        monitor.step(steps[-1])
    with pytest.raises(TypeError, match="step"):
        monitor.step(7.5)  # type: ignore[arg-type]


def test_a_state_goes_on_to_the_same_rows() -> None:
    def run(stop: int | None) -> gs.Monitor:
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def monitor() -> gs.Monitor:
            measures = [*DEFAULT_MEASURES, gs.NTKDistance(num_points=4)]
            return gs.Monitor(model, (X, Y), measures, schedule=3)

        own = monitor().attach(optimizer)
        for step in range(1, 9):
            step_of(model, optimizer)
            if step == stop:
                state = copy.deepcopy(own.state_dict())
                own.detach()
                own = monitor()
                own.load_state_dict(state)
                own.attach(optimizer)
        own.close()
        return own

    whole, resumed = run(None), run(4)
    assert resumed.history.steps.tolist() == [0, 3, 6, 8]
    assert resumed.history.rows == whole.history.rows
    matrices = [own.archive.arrays("ntk_distance") for own in (whole, resumed)]
    assert torch.equal(matrices[0]["matrix"], matrices[1]["matrix"])


def test_a_state_of_something_else_is_refused() -> None:
    monitor = gs.Monitor(network(), (X, Y), ["weight_norm"])
    with pytest.raises(ValueError, match="state is not that of a Monitor: it lacks"):
        monitor.load_state_dict({"rows": []})
    other = gs.Monitor(network(), (X, Y), ["noise_accuracy"], test=(X, Y))
    with pytest.raises(ValueError, match=r"remembers \['noise_accuracy'\]"):
        monitor.load_state_dict(other.state_dict())


def test_a_writer_serves_as_a_log_and_a_number_does_not() -> None:
    written: list[tuple[str, int]] = []

    class Writer:
        def add_scalar(self, name: str, value: float, step: int) -> None:
            assert isinstance(value, float)
            written.append((name, step))

    gs.Monitor(network(), (X, Y), ["weight_norm"], log=Writer()).step(0)
    assert written == [("probe_loss", 0), ("probe_accuracy", 0), ("weight_norm", 0)]
    with pytest.raises(TypeError, match="log must be a function"):
        gs.Monitor(network(), (X, Y), log=3)


OUTPUTS = torch.randn(4, 6, 3, generator=GENERATOR)
TOKENS = torch.tensor([[0, 1, 2, 0, -100, 1]] * 4)
COUNTED = TOKENS != -100
PER_TOKEN = {
    "loss": float(F.cross_entropy(OUTPUTS[COUNTED], TOKENS[COUNTED])),
    "accuracy": float((OUTPUTS.argmax(2) == TOKENS)[COUNTED].double().mean()),
}
WIDE = torch.randn(4, 3, generator=GENERATOR)
SCORED: dict[str, tuple[str, Tensor, Tensor, dict[str, float]]] = {
    "tokens": ("cross_entropy", OUTPUTS, TOKENS, PER_TOKEN),
    "pixels": ("cross_entropy", OUTPUTS.mT.unflatten(2, (2, 3)), TOKENS.view(4, 2, 3), PER_TOKEN),
    "tokens, squared error": (
        "mse",
        OUTPUTS,
        TOKENS,
        PER_TOKEN
        | {"loss": float(F.mse_loss(OUTPUTS[COUNTED], F.one_hot(TOKENS[COUNTED], 3).float()))},
    ),
    "regression": ("mse", WIDE[:, 0], WIDE[:, 1], {"loss": float(F.mse_loss(*WIDE.T[:2]))}),
    "several numbers": (
        "mse", WIDE, WIDE.flip(0), {"loss": float(F.mse_loss(WIDE, WIDE.flip(0)))}
    ),
    "several labels": (
        "binary_cross_entropy",
        WIDE,
        WIDE.flip(1) > 0,
        {"loss": float(F.binary_cross_entropy_with_logits(WIDE, (WIDE.flip(1) > 0).float()))},
    ),
    "signs": (
        "mse",
        WIDE[:, :1],
        torch.tensor([1.0, -1, -1, 1]),
        {
            "loss": float(F.mse_loss(WIDE[:, 0], torch.tensor([1.0, -1, -1, 1]))),
            "accuracy": float(((WIDE[:, 0] > 0) == torch.tensor([1, 0, 0, 1])).double().mean()),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCORED)
def test_scores_of_what_is_not_one_class_label_for_each_example(name: str) -> None:
    loss, outputs, y, right = SCORED[name]
    x = torch.arange(4.0).unsqueeze(1)
    scores = Scores("auto", gs.training.objective.Objective(loss))
    found = scores(lambda x: outputs[x[:, 0].long()], x, y, chunk_size=3)
    assert found == pytest.approx(right)


def test_scores_of_ones_own() -> None:
    def both(outputs: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"r2": outputs.sum(), "mae": (outputs[:, 0] - y).abs().mean()}

    model, y = network().requires_grad_(False), X[:, 0]
    row = gs.Monitor(model, (X, y), ["weight_norm"], test=(X, y), scores=both).step(0)
    assert set(row) == {
        "step", "probe_r2", "probe_mae", "test_r2", "test_mae", "weight_norm",
    }  # fmt: skip
    assert row["probe_mae"] == pytest.approx(float((model(X)[:, 0] - y).abs().mean()))
    number = gs.Monitor(model, (X, y), [], scores=lambda outputs, y: outputs.max()).step(0)
    assert number == {"step": 0, "probe_score": pytest.approx(float(model(X).max()))}
    assert gs.Monitor(model, (X, y), [], scores=None).step(0) == {"step": 0}
    for wrong, error in (("often", ValueError), (lambda outputs, y: outputs, TypeError)):
        with pytest.raises(error, match="scores must"):
            gs.Monitor(model, (X, y), [], scores=wrong).step(0)
    with pytest.raises(ValueError, match="cross_entropy needs integer class labels"):
        gs.Monitor(model, (X, y), []).step(0)


def test_what_is_no_module_is_refused_by_name() -> None:
    for wrong in (None, lambda x: x):
        with pytest.raises(TypeError, match="model"):
            gs.Monitor(wrong, (X, Y))  # type: ignore[arg-type]


UNMADE = """
import torch, grokscope as gs
x, y = torch.randn(6, 5), torch.arange(6) % 3
for wrong in (gs.Monitor, 3):
    try:
        gs.fit(gs.MLP(5, [4], 3, seed=0), (x, y, x, y), monitor=wrong, max_steps=1)
    except TypeError as error:
        print(error)
"""


def test_what_is_no_monitor_is_refused_by_name() -> None:
    # as users run it, without the suite's check of annotations
    done = subprocess.run([sys.executable, "-c", UNMADE], capture_output=True, text=True)
    said = "monitor must be made of the model, gs.Monitor(model, ...): got"
    assert done.stdout.splitlines() == [f"{said} Monitor", f"{said} int"], done.stderr


def test_a_monitor_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="monitor measures another model"):
        gs.fit(network(), (X, Y, X, Y), monitor=gs.Monitor(network(), (X, Y)), max_steps=1)
    model = network()
    monitor = gs.Monitor(gs.View(model), (X, Y), ["weight_norm"])
    assert gs.fit(model, (X, Y, X, Y), monitor=monitor, max_steps=1, device="cpu").steps == 1
