"""The spectrum of Jacobians and the directions of margins, against one point and pair at a time."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import grokscope as gs
from grokscope.experiments import load_experiment, run_experiment
from grokscope.experiments.analyses.jacobian_spectrum import (
    by_pair,
    class_means,
    margin_metrics,
    spectrum_metrics,
)

SPEC = """
name: small
title: A small experiment
seeds: [0, 1]
data: {name: digits, train_size: 60, test_size: 20}
model: {widths: [9, 7]}
training: {max_steps: 12, lr: 1e-2, evaluate: {per_decade: 3}, keep_checkpoints: KEPT}
monitor: {measures: [jacobian_pc1], pictures: 0}
arms: {baseline: {title: Alone}}
analysis: jacobian_spectrum
analysis_options: {points: 30}
"""


@pytest.fixture
def problem() -> tuple[Tensor, ...]:
    """Jacobians (n, k, d), outputs, points, labels and class means, of five points."""
    generator = torch.Generator().manual_seed(4)
    shapes = [(5, 4, 6), (5, 4), (5, 6), (4, 6)]
    jacobian, outputs, x, means = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes
    )
    return jacobian, outputs, x, torch.tensor([3, 0, 2, 2, 1]), means


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / a.norm() / b.norm())


def test_the_spectrum_is_that_of_each_jacobian(problem: tuple[Tensor, ...]) -> None:
    jacobian = problem[0]
    found = spectrum_metrics(jacobian)
    shares, ratios, numbers, alike = [], [], [], []
    for own in jacobian:
        square = torch.linalg.eigvalsh(own @ own.T).flip(0)
        part = square / square.sum()
        shares.append(part)
        ratios.append(float(part[1] / part[0]))
        numbers.append(1 / sum(float(p) ** 2 for p in part))
        ones = torch.full((4,), 0.5, dtype=torch.float64)
        alike.append(float((ones @ own).square().sum() / own.square().sum()))
    for place, name in enumerate(("first", "second", "third", "fourth")):
        assert found[name] == pytest.approx(sum(float(s[place]) for s in shares) / 5)
    assert found["second_over_first"] == pytest.approx(sum(ratios) / 5)
    assert found["directions"] == pytest.approx(sum(numbers) / 5)
    assert found["sum_share"] == pytest.approx(sum(alike) / 5)


def test_margins_are_compared_pair_by_pair(problem: tuple[Tensor, ...]) -> None:
    jacobian, outputs, x, y, means = problem
    found = margin_metrics(*problem)
    two, own, other, to_input, rivals = [], [], [], [], []
    for point in range(5):
        label = int(y[point])
        others = [j for j in range(4) if j != label]
        weight = [math.exp(float(outputs[point, j])) for j in others]
        share = [w / sum(weight) for w in weight]
        rivals.append(math.exp(-sum(s * math.log(s) for s in share)))
        for j in others:
            margin = jacobian[point, label] - jacobian[point, j]
            own.append(cosine(margin, means[label] - means[j]))
            to_input.append(cosine(margin, x[point]))
            for i in others:
                if i != j:
                    two.append(cosine(margin, jacobian[point, label] - jacobian[point, i]))
                    other.append(cosine(margin, means[label] - means[i]))
    expected = {
        "margin_cosine": two,
        "margin_to_own_pair": own,
        "margin_to_other_pair": other,
        "margin_to_input": to_input,
        "rivals": rivals,
    }
    for name, values in expected.items():
        assert found[name] == pytest.approx(sum(values) / len(values)), name
    lead = found["margin_to_own_pair"] - found["margin_to_other_pair"]
    assert found["own_pair_lead"] == pytest.approx(lead)


def test_margins_of_a_rank_one_jacobian_are_parallel(problem: tuple[Tensor, ...]) -> None:
    """Its rows differ by multiples of one direction, here x, whatever all rows have in common."""
    _, outputs, x, y, means = problem
    along = torch.eye(4, dtype=torch.float64)[y]  # only the label's row: every margin rises along x
    common = torch.arange(6, dtype=torch.float64)
    found = margin_metrics(along[:, :, None] * x[:, None] + common, outputs, x, y, means)
    assert found["margin_cosine"] == pytest.approx(1)
    assert found["margin_to_input"] == pytest.approx(1)


def test_pairs_are_of_label_and_nearest_rival() -> None:
    first, second = torch.diag(torch.tensor([3.0, 1.0, 0.0])), torch.diag(torch.ones(3))
    outputs = torch.tensor([[5.0, 1, 2], [5, 0, 1], [0, 2, 9]])
    rows = by_pair(torch.stack([first, second, second]), outputs, torch.tensor([0, 0, 1]))
    assert rows == [
        (0, 2, 2, pytest.approx((0.9 + 1 / 3) / 2)),
        (1, 2, 1, pytest.approx(1 / 3)),
    ]


@pytest.mark.parametrize(("kept", "seen"), [("[0, 5]", [0, 5, 12]), ("false", [12])])
def test_the_analysis_looks_at_every_kept_step_and_the_last(
    tmp_path: Path, kept: str, seen: list[int]
) -> None:
    (tmp_path / "small.yaml").write_text(SPEC.replace("KEPT", kept))
    experiment = load_experiment(str(tmp_path / "small.yaml"))
    run = run_experiment(experiment, tmp_path / "run", device="cpu")
    results = run.results
    assert [row["step"] for row in results["over_training"]["baseline"]] == seen
    data = gs.load_data("digits", train_size=60, test_size=20)
    for place, seed in enumerate((0, 1)):
        model = gs.MLP(64, [9, 7], 10, seed=seed)
        model.load_state_dict(run.checkpoint("baseline", seed)["model"])
        x, y = data.train_x[:30], data.train_y[:30]
        expected = float(gs.jacobian_pc1(model, x).mean())
        assert results["spectrum"]["baseline"]["first"][place] == pytest.approx(expected, rel=1e-5)
        jacobian = gs.input_jacobian(model, x).double()
        means = class_means(data.train_x, data.train_y)
        own = margin_metrics(jacobian, model(x).detach().double(), x, y, means)
        assert results["spectrum"]["baseline"]["rivals"][place] == pytest.approx(own["rivals"])
    assert results["spectrum_table"]["Alone"]["step"] == 12
    assert sum(row[2] for row in results["pairs"]["baseline"]) == 30
    assert results["arms"]["baseline"]["last"] == [
        run.history("baseline", seed)["jacobian_pc1"][-1] for seed in (0, 1)
    ]
