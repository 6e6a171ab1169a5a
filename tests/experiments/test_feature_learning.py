"""The analyses of feature learning, on a small experiment, against definitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import grokscope as gs
from grokscope.experiments import load_experiment, run_experiment
from grokscope.experiments.analyses.feature_learning import (
    kernel_span,
    kernel_words,
    outputs_over_weights,
    rank_correlation,
)
from grokscope.findings.claims import verdicts
from grokscope.report import write_report
from tests.reference.ntk import full_kernel

SPEC = """
name: small
title: A small experiment
data: {name: digits, classes: [1, 0], train_size: 40}
model: {widths: [12], bias: false, scalar_output: true}
training: {optimizer: sgd, lr: 0.5, loss: binary_cross_entropy, max_steps: 60}
monitor:
  measures: [point_ntk, point_inner_product, point_alignment, point_centroid_norm]
  pictures: 0
arms:
  plain: {title: Plain}
  small: {title: Small, model: {weight_scale: 0.5}}
  large: {title: Large, model: {output_scale: 30}, training: {lr: 3e-4}}
seeds: [0, 1]
analysis: ANALYSIS
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, gs.Run]:
    """The experiment with each of the two analyses."""
    folder = tmp_path_factory.mktemp("feature_learning")
    made = {}
    for analysis in ("feature_learning", "scaling"):
        path = folder / f"{analysis}.yaml"
        path.write_text(SPEC.replace("ANALYSIS", analysis))
        made[analysis] = run_experiment(load_experiment(str(path)), folder / analysis)
    return made


def model(seed: int, **scales: float) -> torch.nn.Module:
    return gs.MLP(64, [12], None, bias=False, seed=seed, **scales).double()


def test_the_rate_is_that_of_the_kernel_and_of_a_small_step(runs: dict[str, gs.Run]) -> None:
    data = gs.load_data("digits", classes=[1, 0], train_size=40, dtype=torch.float64)
    points = runs["scaling"].results["points"]
    for scales, arm in (({}, "plain"), ({"weight_scale": 0.5}, "small")):
        network = model(1, **scales)
        kernel = full_kernel(network, data.train_x[:1], data.train_x)[0, :, 0, 0]
        errors = data.train_y - torch.sigmoid(network(data.train_x))
        expected = float((kernel * errors).mean().detach())
        own = [point for point in points if (point["arm"], point["seed"]) == (arm, 1)]
        # the plain arm counts for either scale
        assert len(own) == (2 if arm == "plain" else 1)
        for point in own:
            assert point["rate"] == pytest.approx(expected, rel=1e-6)
            assert point["measured_rate"] == pytest.approx(expected, rel=1e-4)
            centroid = gs.centroids(network, data.train_x[:1])
            assert point["reciprocal_norm"] == pytest.approx(1 / float(centroid.norm()), rel=1e-5)


def test_arms_count_for_the_scale_that_they_change(runs: dict[str, gs.Run]) -> None:
    results = runs["scaling"].results
    found = {(p["scaled"], p["arm"], p["scale"]) for p in results["points"]}
    assert found == {
        ("weights", "plain", 1.0),
        ("outputs", "plain", 1.0),
        ("weights", "small", 0.5),
        ("outputs", "large", 30.0),
    }
    assert len(results["points"]) == 8
    outputs = [p for p in results["points"] if p["scaled"] == "outputs"]
    highest = {
        arm: np.mean([p["max_alignment"] for p in outputs if p["arm"] == arm])
        for arm in ("plain", "large")
    }
    assert results["outputs"]["alignment_drop"] == pytest.approx(
        highest["plain"] - highest["large"]
    )
    rising = [p for p in outputs if p["rate"] > 0]
    fit = stats.linregress(
        *(np.log([p[name] for p in rising]) for name in ("reciprocal_norm", "rate"))
    )
    assert results["outputs"]["rate_exponent"] == pytest.approx(fit.slope)


def test_outputs_are_compared_with_weights_at_the_smallest_scale_and_the_same_norm(
    runs: dict[str, gs.Run],
) -> None:
    results = runs["scaling"].results
    for seed in (0, 1):
        reached = {
            (p["scaled"], p["arm"]): (np.log(p["reciprocal_norm"]), p["max_alignment"])
            for p in results["points"]
            if p["seed"] == seed
        }
        plain, small, large = (
            reached["weights", "plain"],
            reached["weights", "small"],
            reached["outputs", "large"],
        )
        # The unscaled network is the smallest output scale, and where the two curves meet.
        expected = plain[1] - small[1]
        found = results["outputs_over_weights"]
        assert found["smallest_scale"][seed] == pytest.approx(expected)
        assert large[0] < plain[0] < small[0]
        assert found["same_norm"][seed] == pytest.approx(0, abs=1e-12)


def test_two_curves_of_alignment_are_apart_by_their_mean_distance() -> None:
    def curve(scaled: str, *values: tuple[float, float, float]) -> list[dict[str, Any]]:
        return [
            {"scaled": scaled, "seed": 3, "scale": s, "reciprocal_norm": r, "max_alignment": a}
            for s, r, a in values
        ]

    outputs = curve("outputs", (0.1, 1000.0, 0.9), (1.0, 10.0, 0.5))
    weights = curve("weights", (0.5, 100.0, 0.6), (1.0, 10.0, 0.5), (2.0, 1.0, 0.1))
    found = outputs_over_weights(outputs + weights)
    assert found["smallest_scale"] == pytest.approx([0.3])
    # From 10 to 100, by the logarithm: outputs rise from 0.5 to 0.7, weights from 0.5 to 0.6.
    assert found["same_norm"] == pytest.approx([0.05])
    assert outputs_over_weights(outputs) == {}


def test_the_span_is_where_the_kernel_makes_its_change(runs: dict[str, gs.Run]) -> None:
    run = runs["feature_learning"]
    arm = run.results["arms"]["small"]
    ends: dict[str, list[float]] = {"start": [], "end": []}
    for seed in (0, 1):
        history = run.history("small", seed)
        known = ~np.isnan(history["point_ntk"])
        steps, kernel, inner = (
            column[known]
            for column in (history.steps, history["point_ntk"], history["point_inner_product"])
        )
        largest = np.abs(kernel - kernel[0]).argmax()
        share = ((kernel - kernel[0]) / (kernel[largest] - kernel[0]))[: largest + 1]
        start = max(i for i in range(len(share)) if share[i] < 0.1) + 1
        end = min(i for i in range(len(share)) if share[i] >= 0.9)
        ends["start"].append(steps[start])
        ends["end"].append(steps[end])
        assert arm["inner_product_share"][seed] == pytest.approx(
            (inner[end] - inner[start]) / (max(inner) - inner[0])
        )
        assert arm["kernel_growth"][seed] == pytest.approx(max(kernel) / kernel[0])
        assert arm["rank_correlation"][seed] == pytest.approx(stats.spearmanr(kernel, inner)[0])
    span = run.results["spans"]["small"]
    assert span == {name: float(np.mean(values)) for name, values in ends.items()}
    assert arm["rate_ratio"] == pytest.approx([1, 1], abs=1e-4)
    assert run.results["table"]["Small"]["kernel_growth"] == pytest.approx(
        np.median(arm["kernel_growth"])
    )


@pytest.mark.parametrize(
    ("kernel", "span"),
    [
        ([1, 2, 3, 10, 11], (1, 3)),  # a tenth and nine tenths are reached to the last digit
        ([-1, -1.5, -3, -2], (1, 2)),
        ([1, 1.5, 0, 20, 21, 1], (3, 3)),
        ([2, 3], (1, 1)),
        ([2, 2.9, 1.1], None),
    ],
)
def test_a_span_is_from_a_tenth_of_the_largest_change_to_nine(
    kernel: list[float], span: tuple[int, int] | None
) -> None:
    assert kernel_span(np.array(kernel, dtype=np.float64)) == span


@pytest.mark.parametrize(
    ("metrics", "learning", "words"),
    [
        ({"kernel_growth": 1.2}, [False, False], "the kernel changed by less than half"),
        (
            {"kernel_growth": 8.0},
            [True, False, True],
            "the kernel changed by half or more with 2 of 3 seeds",
        ),
        (
            {"kernel_growth": 8.0},
            [True],
            "the kernel grew 8 times, and alignment did not rise with every seed",
        ),
        (
            {"kernel_growth": 1.0, "alignment_share": 0.5},
            [True],
            "the kernel changed by half or more, and 50 % of the alignment's rise came with it",
        ),
    ],
)
def test_what_is_said_of_the_kernel_goes_by_every_seed(
    metrics: dict[str, float], learning: list[bool], words: str
) -> None:
    assert kernel_words(metrics, learning) == words


def test_a_network_that_stays_linear_has_no_span(runs: dict[str, gs.Run]) -> None:
    results = runs["feature_learning"].results
    assert max(results["arms"]["large"]["kernel_growth"]) < 1.5
    assert set(results["spans"]) == {"plain", "small"}
    assert "alignment_share" not in results["arms"]["large"]
    plain, small = (results["table"][title] for title in ("Plain", "Small"))
    assert results["finding"] == (
        f"Plain: the kernel grew {plain['kernel_growth']:.2g} times, and "
        f"{100 * plain['alignment_share']:.0f} % of the alignment's rise came with it; "
        f"Small: the kernel grew {small['kernel_growth']:.2g} times, and "
        f"{100 * small['alignment_share']:.0f} % of the alignment's rise came with it; "
        "Large: the kernel changed by less than half"
    )


def test_the_finding_on_scales_says_how_far_alignment_falls(runs: dict[str, gs.Run]) -> None:
    results = runs["scaling"].results
    weights, outputs = (results[scaled]["alignment_drop"] for scaled in ("weights", "outputs"))
    assert results["finding"] == (
        f"From the smallest weights to the largest, the largest alignment falls by {weights:.2f}; "
        f"from the smallest outputs to the largest, the largest alignment falls by {outputs:.2f}"
    )


@pytest.mark.parametrize(
    "columns",
    [([1, 2, 3, 4], [1, 4, 9, 2]), ([1, 1, 2, 3], [5, 4, 4, 4.5]), ([3, 2, 1], [1, 2, 3])],
)
def test_rank_correlation_shares_the_ranks_of_equal_values(columns: Any) -> None:
    a, b = (np.array(column, dtype=np.float64) for column in columns)
    assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b)[0])


@pytest.mark.parametrize("name", ["mnist-feature-learning", "mnist-lazy-or-rich"])
def test_the_shipped_experiments_run_from_end_to_end(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    settings = ["training.max_steps=200", "data.train_size=48", "data.test_size=48"]
    experiment = load_experiment(name, "quick", settings)
    run = run_experiment(experiment, tmp_path / "run", data_dir=shared_data)
    found = verdicts(run)
    assert len(found) == len(experiment.claims) > 0
    assert all(verdict.measured is not None for verdict in found)
    assert "could not be drawn" not in write_report([run.path]).read_text()
    data = gs.load_data(
        "mnist", data_dir=shared_data, classes=[1, 0], train_size=3, normalize=(0.1307, 0.3081)
    )
    assert data.train_y[0] == 1, "the image that is followed is a zero, and its output rises"
    arm, seed = run.trials[0]
    network = gs.MLP(784, [64], None, bias=False, seed=seed)
    first = run.history(arm, seed)["point_inner_product"][0]
    assert first == pytest.approx(float(network(data.train_x[:1]).detach()), rel=1e-4)
