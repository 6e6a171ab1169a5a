from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import grokscope as gs


def _network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Dropout(0.5),
        nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip


def test_each_layer_is_what_the_layers_up_to_it_compute() -> None:
    model, x = _network().eval(), torch.randn(7, 2, 4, 4)
    found = gs.layer_activations(model, x)
    assert list(found) == ["0", "1", "2", "5"]
    for name, activation in found.items():
        plain = nn.Sequential(*[nn.ReLU() if isinstance(m, nn.ReLU) else m for m in model])
        expected = plain[: int(name) + 1](x).flatten(1)
        torch.testing.assert_close(activation, expected)
        assert not activation.requires_grad


def test_chunks_change_nothing() -> None:
    model, x = _network().eval(), torch.randn(7, 2, 4, 4)
    whole, parts = gs.layer_activations(model, x), gs.layer_activations(model, x, chunk_size=3)
    assert list(parts) == list(whole) == ["0", "1", "2", "5"]
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name])


def test_named_layers_and_the_models_own_output() -> None:
    model = nn.ModuleDict({"body": nn.Linear(4, 3)})
    model.forward = lambda x: model["body"](x).sum(1)  # type: ignore[method-assign]
    x = torch.randn(6, 4)
    found = gs.layer_activations(model, x, ["", "body"])
    assert {name: tuple(h.shape) for name, h in found.items()} == {"body": (6, 3), "": (6, 1)}


def test_layer_called_twice_keeps_both() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x).relu())

    model, x = Twice(), torch.randn(5, 4)
    found = gs.layer_activations(model, x)
    assert list(found) == ["layer", "layer#2"]
    torch.testing.assert_close(found["layer#2"], model(x))


@pytest.mark.parametrize("fails", [False, True])
def test_model_in_training_mode_is_left_as_it_was(fails: bool) -> None:
    model = _network()
    x = torch.randn(7, 2, 5, 5) if fails else torch.randn(7, 2, 4, 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    if fails:
        with pytest.raises(ValueError, match="model does not run on x"):
            gs.layer_activations(model, x)
    else:
        gs.layer_activations(model, x)
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_outputs_that_are_not_tensors_over_the_batch() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.LSTM(3, 2, batch_first=True))
    x = torch.randn(5, 6, 4)
    assert list(gs.layer_activations(model, x)) == ["0"]
    with pytest.raises(ValueError, match="names '1', whose output is not a tensor over the batch"):
        gs.layer_activations(model, x, ["1"])


def test_mistakes_are_named() -> None:
    model, x = _network(), torch.randn(7, 2, 4, 4)
    with pytest.raises(ValueError, match=r"layers names 'fc1', which the model has not got"):
        gs.layer_activations(model, x, ["fc1"])
    with pytest.raises(TypeError, match=r"layers must be a list or None: got '0'; pass \['0'\]"):
        gs.layer_activations(model, x, "0")
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module: got function"):
        gs.layer_activations(lambda x: x, x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"BatchNorm2d in training mode"):
        gs.layer_activations(model, x, chunk_size=2)
    model.add_module("unused", nn.Linear(2, 2))
    model.forward = lambda x: model[0](x)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="names 'unused', which did not run"):
        gs.layer_activations(model, x, ["unused"])


class SequenceFirst(nn.Module):
    """A layer that has the sequence on its first axis, as PyTorch's transformer layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.inner(x.transpose(0, 1))).mean(0))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("n", "length", "chunk_size"),
    [(6, 6, None), (3, 3, None), (2, 2, None), (8, 6, 6), (6, 2, 2), (6, 3, 3), (8, 2, 6)],
)
def test_a_sequence_as_long_as_the_batch_is_not_taken_for_it(
    n: int, length: int, chunk_size: int | None, training: bool
) -> None:
    model, x = SequenceFirst().train(training), torch.randn(n, length, 3)
    assert list(gs.layer_activations(model, x, chunk_size=chunk_size)) == ["head"]
    with pytest.raises(ValueError, match="names 'inner', whose output is not a tensor over"):
        gs.layer_activations(model, x, ["inner"], chunk_size=chunk_size)
    with pytest.raises(ValueError, match=r"'inner', whose outputs have . entries on the"):
        gs.layer_radii(model, x, ["inner"], chunk_size=chunk_size)


def test_what_only_some_parts_of_the_batch_run_is_left_out() -> None:
    model, x = _network().eval(), torch.randn(5, 2, 4, 4)
    extra = nn.Linear(5, 5)
    whole = nn.ModuleDict({"body": model, "extra": extra})
    x[:3, 0, 0, 0] = 1.0
    x[3:, 0, 0, 0] = -1.0

    def forward(x: Tensor) -> Tensor:
        h = model(x)
        wanted = (x[:, 0, 0, :1] > 0).to(h)
        return h + wanted * extra(h) if bool(wanted.any()) else h

    whole.forward = forward  # type: ignore[method-assign]
    assert "extra" in gs.layer_activations(whole, x)
    assert "extra" not in gs.layer_activations(whole, x, chunk_size=3)
    with pytest.raises(ValueError, match="names 'extra', which did not run"):
        gs.layer_activations(whole, x, ["extra"], chunk_size=3)
