"""Small trainings, one after another and as one, and the comparison of the two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

import grokscope as gs

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
Y = (X[:, :3] + 0.3 * X[:, 3:]).argmax(1)
TEST_X = torch.randn(30, 6, generator=torch.Generator().manual_seed(2))
TEST_Y = TEST_X[:, :3].argmax(1)
DATA = (X, Y, TEST_X, TEST_Y)
SEEDS = (3, 0, 8)

Build = Callable[[int], nn.Module]


def mlp(seed: int) -> nn.Module:
    return gs.MLP(6, [9, 5], 3, weight_scale=2.0, seed=seed)


def alone(
    build: Build, methods: Any = None, monitor: Any = None, data: Any = DATA, **settings: Any
) -> list[gs.FitResult]:
    """The trainings of ``SEEDS`` by ``gs.fit``, the reference."""
    results = []
    for seed in SEEDS:
        model = build(seed)
        own = [] if methods is None else methods(seed)
        watch = None if monitor is None else monitor(model)
        results.append(gs.fit(model, data, methods=own, monitor=watch, seed=seed, **settings))
    return results


def together(build: Build, data: Any = DATA, **settings: Any) -> list[gs.FitResult]:
    return gs.fit_seeds(build, data, SEEDS, vectorize=True, **settings)


def assert_same(
    ours: Sequence[gs.FitResult], theirs: Sequence[gs.FitResult], rtol: float = 1e-8
) -> None:
    """The same steps, the same columns, and figures and parameters equal up to rounding."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.stopped == other.stopped
        assert one.history.steps.tolist() == other.history.steps.tolist()
        assert one.history.names == other.history.names
        for name in other.history.names:
            np.testing.assert_allclose(
                one.history[name], other.history[name], rtol, 1e-10, err_msg=name
            )
        for own, expected in zip(one.model.parameters(), other.model.parameters(), strict=True):
            # Adam divides small gradients, rounding and all, by their size
            torch.testing.assert_close(own, expected, rtol=1e-6, atol=1e-7)
