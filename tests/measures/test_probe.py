from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

import grokscope as gs


def _data(seed: int, count: int = 120, num_features: int = 6, num_classes: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((count, num_features), generator=generator, dtype=torch.float64)
    teacher = torch.randn((num_features, num_classes), generator=generator, dtype=torch.float64)
    noise = torch.randn((count, num_classes), generator=generator, dtype=torch.float64)
    return [x, (x @ teacher + noise).argmax(1)]


@pytest.mark.parametrize("l2", [1e-3, 0.3])
def test_agrees_with_scikit_learn(l2: float) -> None:
    x, y = _data(0)
    x_test, y_test = _data(1)
    accuracy, probe = gs.linear_probe(x, y, x_test, y_test, l2=l2)
    model = LogisticRegression(C=1 / (len(x) * l2), solver="newton-cg", tol=1e-10, max_iter=1000)
    model.fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(probe.weight.numpy(), model.coef_, atol=1e-5)
    assert accuracy == pytest.approx(model.score(x_test.numpy(), y_test.numpy()))
    assert probe.train_accuracy == pytest.approx(model.score(x.numpy(), y.numpy()))
    assert probe.gradient < 1e-7
    torch.testing.assert_close(probe(x_test).argmax(1), torch.tensor(model.predict(x_test.numpy())))


def test_objective_is_at_its_minimum() -> None:
    x, y = _data(2)
    probe = gs.linear_probe(x, y, x, y, l2=0.05).probe
    weight, bias = probe.weight.clone().requires_grad_(), probe.bias.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(x @ weight.T + bias, y)
    loss = loss + 0.025 * weight.square().sum()
    loss.backward()
    assert probe.loss == pytest.approx(float(loss.detach()))
    assert weight.grad is not None
    assert float(weight.grad.abs().max()) < 1e-7


def test_images_float32_and_frozen_features_are_fine() -> None:
    x, y = _data(3, num_features=12)
    images = x.float().reshape(-1, 3, 2, 2).requires_grad_()
    before = torch.random.get_rng_state()
    with torch.inference_mode():
        found = gs.linear_probe(images, y, images, y)
    assert found.accuracy == pytest.approx(gs.linear_probe(x, y, x, y).accuracy)
    assert images.grad is None
    assert torch.equal(torch.random.get_rng_state(), before)


def test_label_that_was_not_trained_counts_as_missed() -> None:
    x, y = torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1])
    assert gs.linear_probe(x, y, x, torch.tensor([0, 5])).accuracy == 0.5


def test_sgd_probe_is_a_linear_layer_trained_by_sgd() -> None:
    x, y = _data(4)
    x_test, y_test = _data(5)
    options = {"num_examples": 50, "num_epochs": 3, "batch_size": 16, "learning_rate": 0.5}
    generator = torch.Generator().manual_seed(7)
    found = gs.sgd_probe(x, y, x_test, y_test, 3, generator=generator, **options)

    generator.manual_seed(7)
    subset = torch.rand((3, 120), generator=generator).argsort(1)[:, :50]
    shape = (3, 4, 7)
    start = (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1) / 6**0.5
    orders = [torch.rand((3, 50), generator=generator).argsort(1) for _ in range(3)]
    for repeat in range(3):
        layer = torch.nn.Linear(6, 4).double()
        with torch.no_grad():
            layer.weight.copy_(start[repeat, :, :-1])
            layer.bias.copy_(start[repeat, :, -1])
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
        for order in orders:
            for batch in subset[repeat][order[repeat]].split(16):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(layer(x[batch]), y[batch]).backward()
                optimizer.step()
        expected = (layer(x_test).argmax(1) == y_test).double().mean()
        assert float(found[repeat]) == pytest.approx(float(expected))
    assert len(set(found.tolist())) > 1


def test_paper_protocol_runs_on_digits() -> None:
    from sklearn.datasets import load_digits

    x, y = (torch.tensor(a) for a in load_digits(return_X_y=True))
    split = x[:1400].float(), y[:1400], x[1400:].float(), y[1400:]
    accuracies = gs.sgd_probe(*split)
    assert accuracies.shape == (10,)
    assert 0.8 < float(accuracies.mean()) < 1


@pytest.mark.parametrize("probe", [gs.linear_probe, gs.sgd_probe])
def test_mistakes_are_named(probe) -> None:
    x, y = _data(6)
    with pytest.raises(ValueError, match=r"train_y must be integers from 0 of shape \(120,\)"):
        probe(x, y.double(), x, y)
    with pytest.raises(ValueError, match=r"test_y must be integers from 0"):
        probe(x, y, x, y[:5])
    with pytest.raises(ValueError, match=r"test_features has 5 features and train_features 6"):
        probe(x, y, x[:, :5], y)
    with pytest.raises(ValueError, match=r"train_features holds NaN"):
        probe(x.log(), y, x, y)


def test_options_out_of_range_are_named() -> None:
    x, y = _data(7)
    with pytest.raises(ValueError, match="l2 must be a finite number of at least 0"):
        gs.linear_probe(x, y, x, y, l2=-1.0)
    with pytest.raises(ValueError, match="batch_size must be a positive integer: got 0"):
        gs.sgd_probe(x, y, x, y, batch_size=0)
