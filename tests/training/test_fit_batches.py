"""`fit` on inputs of several tensors: the network that a hand-written loop trains."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

import grokscope as gs
from grokscope.experiments.data_and_model import ImportedDataSpec
from grokscope.experiments.errors import SpecError
from grokscope.experiments.from_spec import load_dataset
from grokscope.measures.batches import Batch, rows
from grokscope.measures.view import call, output_tensor

SETTINGS: dict[str, Any] = {"lr": 1e-2, "device": "cpu", "dtype": torch.float64}
N, M, T = 20, 9, 5


class Attender(nn.Module):
    """One attention layer over tokens; what the mask leaves out does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.mix = nn.Linear(6, 18)
        self.head = nn.Linear(6, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.attended(self.embed(ids), mask)

    def attended(self, embedded: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.mix(embedded).chunk(3, -1)
        scores = (q @ k.mT).masked_fill(~mask[:, None], float("-inf"))
        mixed = scores.softmax(-1) @ v * mask[..., None]
        return self.head(torch.tanh(mixed).sum(1) / mask.sum(1, keepdim=True))


class Recurrent(nn.Module):
    """An LSTM that is read off where each sequence ends."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, sequence: Tensor, lengths: Tensor) -> Tensor:
        states, _ = self.lstm(sequence)
        return self.head(states[torch.arange(len(sequence)), lengths - 1])


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BertConfig(
        **sizes, **off, intermediate_size=12, num_labels=3, attn_implementation="eager"
    )
    return BertForSequenceClassification(config)


def sentences(n: int, seed: int, names: tuple[str, str]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, T + 1, (n, 1), generator=generator)
    ids = torch.randint(11, (n, T), generator=generator)
    return {names[0]: ids, names[1]: torch.arange(T) < lengths}


def sequences(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, T, 3, generator=generator)
    return x, torch.randint(1, T + 1, (n,), generator=generator)


def labels(n: int, seed: int) -> Tensor:
    return torch.randint(3, (n,), generator=torch.Generator().manual_seed(seed))


class Case(NamedTuple):
    build: Callable[[], nn.Module]
    inputs: Callable[[int, int], Batch]
    has_penalty: bool


def embedded(model: nn.Module) -> nn.Module:
    """The attention layer with derivatives at its embeddings, where a batch holds tokens."""
    return gs.View(
        model,
        lambda m, b: m.attended(b["e"] if "e" in b else m.embed(b["ids"]), b["mask"]),
        wrt="e",
        embed=lambda m, b: {"e": m.embed(b["ids"]), "mask": b["mask"]},
    )


CASES = {
    "a dictionary": Case(Attender, lambda n, s: sentences(n, s, ("ids", "mask")), False),
    "a tuple": Case(Recurrent, sequences, True),
    "a view": Case(
        lambda: embedded(Attender()), lambda n, s: sentences(n, s, ("ids", "mask")), True
    ),
    "a Hugging Face model": Case(
        bert, lambda n, s: sentences(n, s, ("input_ids", "attention_mask")), False
    ),
}


def built(case: Case, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return case.build().double()


def data_of(case: Case) -> tuple[Batch, Tensor, Batch, Tensor]:
    return case.inputs(N, 1), labels(N, 2), case.inputs(M, 3), labels(M, 4)


def in_float64(x: Batch) -> Any:
    if isinstance(x, Tensor):
        return x.double() if x.is_floating_point() else x
    if isinstance(x, tuple):
        return tuple(map(in_float64, x))
    assert isinstance(x, dict)
    return {key: in_float64(leaf) for key, leaf in x.items()}


def by_hand(
    model: nn.Module,
    data: tuple[Batch, Tensor, Batch, Tensor],
    steps: int,
    batch_size: int,
    weight: float = 0.0,
) -> dict[str, float]:
    """Train on batches in the order of the data, and score the network."""
    x, y, test_x, test_y = data
    x, test_x = in_float64(x), in_float64(test_x)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0, fused=True)
    starts = range(0, len(y), batch_size)
    model.train()
    for step in range(steps):
        part = slice(starts[step % len(starts)], starts[step % len(starts)] + batch_size)
        batch = rows(x, part)
        loss = F.cross_entropy(output_tensor(call(model, batch)), y[part])
        if weight:
            loss = loss + weight * gs.jacobian_penalty(model, batch, projections=None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    scores: dict[str, float] = {}
    with torch.no_grad():
        for name, inputs, targets in (("train", x, y), ("test", test_x, test_y)):
            outputs = output_tensor(call(model, inputs))
            scores[f"{name}_loss"] = float(F.cross_entropy(outputs, targets))
            right = (outputs.argmax(1) == targets).sum()
            scores[f"{name}_accuracy"] = int(right) / len(targets)
    return scores


@pytest.mark.parametrize("batch_size", [N, 8, 1])
@pytest.mark.parametrize("name", CASES)
def test_fit_trains_as_a_hand_written_loop(name: str, batch_size: int) -> None:
    case = CASES[name]
    expected, model = built(case), built(case)
    scores = by_hand(expected, data_of(case), 6, batch_size)
    result = gs.fit(
        model, data_of(case), batch_size=batch_size, shuffle=False, max_steps=6, **SETTINGS
    )
    for own, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-13)
    for column, value in scores.items():
        assert result.history[column][-1] == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.has_penalty])
def test_the_penalty_is_that_of_a_hand_written_loop(name: str) -> None:
    case = CASES[name]
    expected, model = built(case), built(case)
    by_hand(expected, data_of(case), 6, 8, weight=0.1)
    methods = [gs.GrokAlign(0.1, projections=None)]
    how = {"batch_size": 8, "shuffle": False, "max_steps": 6, **SETTINGS}
    gs.fit(model, data_of(case), methods=methods, **how)
    for own, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-12)


def test_recorded_steps_are_those_of_plain_ones() -> None:
    case = CASES["a view"]
    trained = [built(case) for _ in range(2)]
    for model, recording in zip(trained, (False, True), strict=True):
        how = {"batch_size": 8, "max_steps": 30, "compile": recording, **SETTINGS}
        gs.fit(model, data_of(case), methods=[gs.GrokAlign(0.1)], **how)
    assert all(map(torch.equal, trained[0].parameters(), trained[1].parameters()))


@pytest.mark.parametrize("name", ["a dictionary", "a view"])
def test_two_seeds_in_a_stack_are_those_trained_apart(name: str) -> None:
    case = CASES[name]
    methods = (lambda seed: [gs.GrokAlign(0.1, seed=seed)]) if case.has_penalty else None
    how = {"batch_size": 8, "max_steps": 12, "methods": methods, **SETTINGS}

    def results(vectorize: bool) -> list[gs.FitResult]:
        return gs.fit_seeds(
            lambda seed: built(case, seed), data_of(case), [3, 5], vectorize=vectorize, **how
        )

    for together, apart in zip(results(True), results(False), strict=True):
        for column in ("train_loss", "test_loss"):
            assert together.history[column] == pytest.approx(apart.history[column], rel=1e-9)
    assert together.history["train_loss"][-1] < together.history["train_loss"][0]


def test_seeds_that_cannot_be_stacked_are_trained_apart(
    caplog: pytest.LogCaptureFixture,
) -> None:
    case = CASES["a tuple"]
    how = {"batch_size": 8, "max_steps": 3, **SETTINGS}
    with caplog.at_level(logging.WARNING, "grokscope"):
        results = gs.fit_seeds(lambda seed: built(case, seed), data_of(case), [0, 1], **how)
    assert [result.steps for result in results] == [3, 3]
    assert "one after another: Recurrent or its loss does not run on a stack" in caplog.text


def test_one_that_is_resumed_is_one_that_was_not(tmp_path: Path) -> None:
    case = CASES["a view"]
    how = {"batch_size": 8, **SETTINGS}
    whole = gs.fit(built(case), data_of(case), methods=[gs.GrokAlign(0.1)], max_steps=14, **how)
    for steps in (6, 14):
        model = built(case)
        methods = [gs.GrokAlign(0.1)]
        out = {"out": tmp_path, "resume": steps > 6}
        gs.fit(model, data_of(case), methods=methods, max_steps=steps, **how, **out)
    assert all(map(torch.equal, model.parameters(), whole.model.parameters()))


class Items(Dataset[Any]):
    """A data set whose items are what a function makes of their parts and label."""

    def __init__(self, x: Batch, y: Tensor, make: Callable[[Any, Tensor], Any]) -> None:
        self.x, self.y, self.make = x, y, make

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> Any:
        x = rows(self.x, torch.tensor([index]))
        parts = {key: leaf[0] for key, leaf in x.items()}  # type: ignore[union-attr]
        return self.make(parts, self.y[index])


FORMS: dict[str, Callable[[Batch, Tensor], Any]] = {
    "pair": lambda x, y: (x, y),
    "with its labels": lambda x, y: {**x, "labels": y},  # type: ignore[dict-item]
    "items with their label": lambda x, y: Items(x, y, lambda parts, label: {**parts, "y": label}),
    "pairs in a loader": lambda x, y: DataLoader(Items(x, y, lambda *own: own), 4, shuffle=True),
    "tuples": lambda x, y: TensorDataset(x["ids"], x["mask"], y),  # type: ignore[call-overload]
    "arrays": lambda x, y: ({key: leaf.numpy() for key, leaf in x.items()}, y.numpy()),  # type: ignore[union-attr]
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_dictionaries_trains_the_same_network(form: str) -> None:
    case = CASES["a dictionary"]
    x, y, test_x, test_y = data_of(case)
    given = [FORMS[form](x, y), FORMS[form](test_x, test_y)]
    expected, model = built(case), built(case)
    gs.fit(expected, (x, y, test_x, test_y), max_steps=3, **SETTINGS)
    gs.fit(model, given, max_steps=3, **SETTINGS)
    assert all(map(torch.equal, model.parameters(), expected.parameters()))


def test_a_data_set_of_dictionaries() -> None:
    x, y, test_x, test_y = data_of(CASES["a dictionary"])
    data = gs.Dataset("words", x, y, test_x, test_y, num_classes=3)
    assert repr(data) == (
        "Dataset('words': 20 train, 9 test, inputs ids: (5,) int64, mask: (5,) bool, "
        "3 classes, cpu)"
    )
    fewer = data.subset(train_size=7, test_size=4, rule="seeded")
    assert (len(fewer.train_x["ids"]), len(fewer.test_x["mask"])) == (7, 4)
    two = data.of_classes([2, 0])
    assert torch.equal(two.train_x["ids"], x["ids"][(y == 2) | (y == 0)])  # type: ignore[call-overload]
    cast = gs.Dataset("s", *(sequences(4, 0), labels(4, 0)) * 2, num_classes=3).to(
        "cpu", torch.half
    )
    assert [leaf.dtype for leaf in cast.train_x] == [torch.half, torch.int64]
    for name, ask in (("flattened", data.flattened), ("scaled", data.scaled)):
        with pytest.raises(TypeError, match=rf"{name}\(\) needs inputs of one tensor.* 'ids', 'ma"):
            ask()


def test_the_monitor_measures_a_data_set_of_several_tensors() -> None:
    case = CASES["a tuple"]
    model, data = built(case), gs.Dataset("s", *data_of(case), num_classes=3)
    monitor = gs.Monitor(model, probe=data, test=data)
    row = gs.fit(model, data, monitor=monitor, max_steps=2, **SETTINGS).history.rows[-1]
    x = in_float64(data.train_x)
    model.eval()
    assert row["jacobian_norm"] == pytest.approx(float(gs.jacobian_norm(model, x).mean()))
    assert row["probe_loss"] == pytest.approx(row["train_loss"])
    tested = (model(*in_float64(data.test_x)).argmax(1) == data.test_y).double().mean()
    assert row["test_accuracy"] == pytest.approx(float(tested))


@pytest.mark.parametrize(
    "method", [gs.GrokAlign(0.1), gs.AdversarialTraining(0.1)], ids=["GrokAlign", "adversarial"]
)
def test_a_method_that_needs_numbers_says_that_tokens_are_none(method: Any) -> None:
    case = CASES["a dictionary"]
    with pytest.raises(TypeError, match=r"x\['ids'\] is torch.int64.*embeddings and a gs.View"):
        gs.fit(built(case), data_of(case), methods=[method], max_steps=1, **SETTINGS)


def test_adversarial_training_moves_the_numbers_alone() -> None:
    case = CASES["a tuple"]
    x, y, *_ = data_of(case)
    x, model = in_float64(x), built(case)
    method = gs.AdversarialTraining(0.1, attack="fgsm")
    method.state["accuracy"] = torch.ones(1)
    moved = method(model, x, y)
    sequence = x[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(sequence, x[1]), y), sequence)
    torch.testing.assert_close(moved[0], x[0] + 0.1 * gradient.sign())  # type: ignore[index]
    assert torch.equal(moved[1], x[1])  # type: ignore[index]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x: x | {"mask": x["mask"][:7]}, ValueError, "one batch axis.*20.*has 7"),
        (lambda x: {"ids": x["ids"]}, ValueError, "agree in x: tensors: got 'ids' and 'ids', 'm"),
        (lambda x: x | {"mask": None}, TypeError, r"\['mask'\] must be a torch.Tensor: got None"),
        (lambda x: x | {"ids": x["ids"][:, :3]}, ValueError, r"x\['ids'\]: feature shape"),
        (lambda x: x | {"ids": x["ids"].int()}, ValueError, r"x\['ids'\]: dtype"),
        (lambda x: x | {"p": x["ids"] / 0}, ValueError, r"\['p'\] holds NaN"),
        (lambda x: {}, ValueError, "holds no tensor"),
    ],
)
def test_a_mistake_in_one_of_the_tensors_is_named(
    change: Callable[[Any], Any], error: type[Exception], message: str
) -> None:
    case = CASES["a dictionary"]
    x, *others = data_of(case)
    with pytest.raises(error, match=message):
        gs.fit(built(case), (change(x), *others), max_steps=1)


def test_a_spec_imports_dictionaries(tmp_path: Path) -> None:
    code = "import torch\n\ndef load(n):\n    x = {'ids': torch.ones(n, 2), 'w': torch.ones(n)}\n"
    (tmp_path / "my_words.py").write_text(
        code + "    return x, torch.arange(n), x, torch.arange(n)"
    )
    spec = {"import": "my_words:load", "folder": str(tmp_path)}
    data = load_dataset(ImportedDataSpec(**spec, arguments={"n": 3}), "float64", None)
    assert (data.name, data.num_classes, data.train_x["w"].dtype) == ("load", 3, torch.float64)
    with pytest.raises(SpecError, match=r"import my_words:load: .* is empty"):
        load_dataset(ImportedDataSpec(**spec, arguments={"n": 0}), "float64", None)
