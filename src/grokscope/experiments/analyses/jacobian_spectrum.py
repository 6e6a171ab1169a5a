"""How many directions the Jacobians of trained networks have, and what the directions are for.

GrokAlign (Walker et al. 2025, Figure 2) says that Jacobians become rank one, by the share PC1 of
the first squared singular value. Where PC1 stops short of one the rest of the spectrum says how:
two equal directions, or a tail. What a classifier decides by are its margins f_y - f_j of the label
y over each rival class j, and their gradients at x, the differences of the Jacobian's rows, say
what the directions are for: the Jacobian, less a row that is added to all of its rows, has rank one
exactly where the margins of one point all rise along one line. Each may also point its own way,
from the examples of class j to those of class y.
"""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from grokscope.experiments.analyses.trajectory import trajectory
from grokscope.experiments.analysis_input import AnalysisInput
from grokscope.measures.jacobian import input_jacobian

_SHARES = ("first", "second", "third", "fourth")
_CHUNK = 256
_TINY = 1e-300


def jacobian_spectrum(trained: AnalysisInput, *, points: int = 256) -> dict[str, Any]:
    """The spectrum of the Jacobians at training points and the directions of their margins.

    Args:
        trained: an experiment of classifiers whose monitor measured ``jacobian_pc1``.
        points: how many training points.

    Returns:
        All that ``trajectory`` says of PC1, and ``spectrum``: for each arm a list over seeds of the
        metrics of ``spectrum_metrics`` and ``margin_metrics`` after training; ``over_training``:
        for each arm the same at every kept step and the last, of the first seed;
        ``spectrum_table``: a row for each arm, means over seeds; ``pairs``: for each arm, of the
        first seed, the rows of ``by_pair``.
    """
    found: dict[str, Any] = trajectory(
        trained, metric="jacobian_pc1", name="First principal component of the Jacobians"
    )
    spectrum: dict[str, dict[str, list[float]]] = {}
    over_training, pairs = {}, {}
    for arm, seed in trained.run.trials:
        data = trained.data[arm]
        x, y = data.train_x[:points], data.train_y[:points]
        means = class_means(data.train_x, data.train_y)
        rows = []
        kept = trained.run.checkpoint_steps(arm, seed)
        last = int(trained.run.history(arm, seed).steps[-1])
        for step in sorted({*kept, last}):
            model = trained.model(arm, seed, step if step in kept else None)
            jacobian = input_jacobian(model, x, chunk_size=_CHUNK).flatten(2).double()
            outputs = model(x).detach().double()
            margins = margin_metrics(jacobian, outputs, x.flatten(1), y, means)
            rows.append({"step": step, **spectrum_metrics(jacobian), **margins})
        for name, value in rows[-1].items():
            spectrum.setdefault(arm, {}).setdefault(name, []).append(value)
        if arm not in over_training:
            over_training[arm], pairs[arm] = rows, by_pair(jacobian, outputs, y)
    titles = {arm: trained.run.spec["arms"][arm]["title"] or arm for arm in spectrum}
    table = {
        titles[arm]: {name: fmean(values) for name, values in metrics.items()}
        for arm, metrics in spectrum.items()
    }
    return {
        **found,
        "spectrum": spectrum,
        "over_training": over_training,
        "spectrum_table": table,
        "pairs": pairs,
    }


def spectrum_metrics(jacobian: Tensor) -> dict[str, float]:
    """What part of the Jacobians' squared norm each singular direction has; means over points.

    Args:
        jacobian: (n, k, d), float64.

    Returns:
        ``first`` to ``fourth``: the shares of the four largest squared singular values;
        ``second_over_first``: their ratio, 1 where two directions are equal; ``directions``: the
        participation ratio of the shares, 1 over the sum of their squares; ``sum_share``: the share
        of the direction in which all outputs rise alike, which a softmax does not see.

    Example:
        >>> equal = torch.eye(2, dtype=torch.float64)[None]
        >>> {name: round(value, 3) for name, value in spectrum_metrics(equal).items()}
        {'first': 0.5, 'second': 0.5, 'second_over_first': 1.0, 'directions': 2.0, 'sum_share': 0.5}
    """
    square = torch.linalg.svdvals(jacobian).square()
    total = square.sum(1, keepdim=True).clamp_min(_TINY)
    shares = square / total
    alike = jacobian.sum(1).square().sum(1) / jacobian.shape[1]
    return {
        **{name: float(share.mean()) for name, share in zip(_SHARES, shares.T, strict=False)},
        "second_over_first": float((square[:, 1] / square[:, 0].clamp_min(_TINY)).mean()),
        "directions": float((1 / shares.square().sum(1)).mean()),
        "sum_share": float((alike / total[:, 0]).mean()),
    }


def margin_metrics(
    jacobian: Tensor, outputs: Tensor, x: Tensor, y: Tensor, means: Tensor
) -> dict[str, float]:
    """Which way the gradients of a point's margins f_y - f_j point, means over points and rivals j.

    Args:
        jacobian: (n, k, d), float64.
        outputs: (n, k), float64.
        x: (n, d), the points.
        y: (n,), their labels.
        means: (k, d), the mean example of each class.

    Returns:
        Cosines: ``margin_cosine`` of the gradients of two margins of one point, 1 where the
        Jacobian less a constant has rank one; ``margin_to_own_pair`` of a gradient with the
        difference of the mean examples of y and j; ``margin_to_other_pair`` with that of y and
        another class; ``own_pair_lead``, the one less the other; ``margin_to_input`` with x.
        ``rivals``: how many classes the loss acts on, the perplexity of softmax over the rivals.
    """
    n, k = outputs.shape
    each = torch.arange(n)
    rival = torch.ones(n, k, dtype=torch.bool)
    rival[each, y] = False
    two = rival[:, :, None] & rival[:, None] & ~torch.eye(k, dtype=torch.bool)
    margins = _unit(jacobian[each, y][:, None] - jacobian)
    apart = _unit((means[y][:, None] - means).double())
    with_means = margins @ apart.transpose(1, 2)
    own = float(with_means.diagonal(dim1=1, dim2=2)[rival].mean())
    other = float(with_means[two].mean())
    odds = outputs.masked_fill(~rival, -torch.inf).log_softmax(1)
    entropy = -(odds.exp() * odds.masked_fill(~rival, 0)).sum(1)
    return {
        "margin_cosine": float((margins @ margins.transpose(1, 2))[two].mean()),
        "margin_to_own_pair": own,
        "margin_to_other_pair": other,
        "own_pair_lead": own - other,
        "margin_to_input": float((margins @ _unit(x.double())[:, :, None])[..., 0][rival].mean()),
        "rivals": float(entropy.exp().mean()),
    }


def by_pair(jacobian: Tensor, outputs: Tensor, y: Tensor) -> list[tuple[int, int, int, float]]:
    """Label, nearest rival, number of points and their mean PC1, for each pair, frequent first."""
    square = torch.linalg.svdvals(jacobian).square()
    pc1 = square[:, 0] / square.sum(1).clamp_min(_TINY)
    others = outputs.scatter(1, y[:, None], -torch.inf)
    groups: dict[tuple[int, int], list[float]] = defaultdict(list)
    for label, rival, share in zip(
        y.tolist(), others.argmax(1).tolist(), pc1.tolist(), strict=True
    ):
        groups[label, rival].append(share)
    rows = [(*pair, len(shares), fmean(shares)) for pair, shares in groups.items()]
    return sorted(rows, key=lambda row: (-row[2], *row[:2]))


def class_means(x: Tensor, y: Tensor) -> Tensor:
    """The mean example (k, d) of each class; classes are 0 to the largest label."""
    flat = x.flatten(1).double()
    return torch.stack([flat[y == label].mean(0) for label in range(int(y.max()) + 1)])


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(_TINY)
