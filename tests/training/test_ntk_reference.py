"""The kernel's distance on a training run that the paper's authors recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import grokscope as gs


def test_the_recorded_distance_is_that_of_the_full_kernel(
    shared_data: Path, shared_reference: Path
) -> None:
    """Zheng et al. 2024, MNIST with outputs scaled by 0.001: from step 1 to step 500.

    Weights and batches are other draws than theirs, and so is the sample of 96 points: the size
    of the distance is compared, not its digits.
    """
    recorded = json.loads((shared_reference / "rich_regime_mnist_output_scale.json").read_text())
    run = recorded["alpha_0_001"]
    first, last = (run["checkpoints_steps"].index(step) for step in (1, 500))
    data = gs.load_data("mnist", data_dir=shared_data, train_size=1000, test_size=200)
    model = gs.MLP(784, [200, 200], 10, weight_scale=8.0, output_scale=0.001, seed=0)
    monitor = gs.Monitor(
        model,
        (data.train_x, data.train_y),
        [gs.NTKDistance(96)],
        schedule=[1, 500],
        loss="mse",
    )
    gs.fit(
        model,
        data,
        monitor=monitor,
        lr=1e-3,
        loss="mse",
        batch_size=200,
        max_steps=500,
        evaluate=[500],
        device="cpu",
    )
    stored = monitor.archive.arrays("ntk_distance")
    assert stored["steps"].tolist() == [0, 1, 500]
    expected = run["kernel_distance_train"][first][last]
    assert float(stored["matrix"][1, 2]) == pytest.approx(expected, rel=0.1)
    traces = [
        monitor.archive.arrays(f"ntk-{step:08d}")["kernel"].diagonal(dim1=2, dim2=3).mean(2)
        for step in (1, 500)
    ]
    assert float(gs.kernel_distance(*traces)) / expected < 0.5
