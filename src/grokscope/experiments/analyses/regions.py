"""Linear regions around training points while a network learns (GrokAlign, Figures 1 and 11).

The paper shows a network that generalizes flatten around its training points, while its regions
migrate to the decision boundary. Both are measured at every checkpoint that was kept, in slices
through three training points each; so are the number and the area of the regions around the points,
of which the text says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from grokscope.experiments.analyses.migration import migration_metrics
from grokscope.experiments.analyses.region_pictures import picture, setting
from grokscope.experiments.analysis_input import AnalysisInput
from grokscope.findings.target import Target
from grokscope.measures import jacobian
from grokscope.measures.regions import Slice, linear_regions
from grokscope.runs import History

_SAMPLES = 64
_MEDIANS = ("cell_area", "region_distance", "decision_distance")
_SCORES = ("train_accuracy", "test_accuracy")
_FOUND = ("trajectory", "milestones", "ratio", "difference", "last_ratio", "last_difference")


@dataclass(frozen=True)
class Triple:
    """Three training points of three classes and the slice through them."""

    x: Tensor
    y: Tensor
    slice: Slice

    def around(self, point: int, radius: float) -> Slice:
        """The part of the slice within ``radius`` of a point, and the corners of its square."""
        return Slice(self.x[point], self.slice.basis, half_width=radius)


def regions_around_points(
    trained: AnalysisInput,
    *,
    triples: int = 10,
    pictured: Sequence[int] = (0,),
    radius: float = 1.0,
) -> dict[str, Any]:
    """Figures of the regions around training points, and pictures of the first slices.

    Args:
        trained: the trained networks; the checkpoints of some steps must have been kept.
        triples: how many slices, each through three training points of different classes.
        pictured: the slices that are stored as pictures, the first as ``slice-0`` and so on.
        radius: what counts as around a point, a length in input space.

    Returns:
        ``trajectory``: for each arm the metrics at each kept step, of the first seed;
        ``milestones``: those at the memorized, generalized and last step of each arm;
        ``ratio``: for each arm and metric what it is once generalized over what it was once
        memorized, a list over seeds, and ``last_ratio`` the same for the last step;
        ``difference``: the same for alignments, as differences; ``rank_correlation``: of each
        metric with the label alignment over the steps from memorized on. An arm that did not
        reach a milestone has no ratio to it.
    """
    found: dict[str, Any] = {name: {} for name in (*_FOUND, "rank_correlation")}
    for arm, seed in trained.run.trials:
        data = trained.data[arm]
        chosen = training_triples(data.train_x, data.train_y, triples)
        shown = _shown(chosen, pictured)
        for name, triple in shown.items():
            static = setting(triple.x, triple.y, triple.slice, radius, data.image_shape)
            trained.save_arrays(arm, seed, name, static)
        history = trained.run.history(arm, seed)
        trajectory = []
        for step in trained.run.checkpoint_steps(arm, seed):
            model = trained.model(arm, seed, step)
            row = next(row for row in history.rows if row["step"] == step)
            scores = {name: row[name] for name in _SCORES}
            trajectory.append({"step": step, **scores, **region_metrics(model, chosen, radius)})
            for name, triple in shown.items():
                drawn = picture(model, triple.x, triple.y, triple.slice, radius, data.image_shape)
                trained.save_arrays(arm, seed, f"{name}-step-{step:08d}", drawn)
        if not trajectory:
            raise ValueError(f"{arm} kept no checkpoints: set training.keep_checkpoints")
        _add(found, arm, trajectory, _milestones(trained, history, trajectory))
    return found


def _shown(chosen: Sequence[Triple], pictured: Sequence[int]) -> dict[str, Triple]:
    """The slices that are stored as pictures, by the names they are stored under."""
    for number in pictured:
        if not 0 <= number < len(chosen):
            raise ValueError(
                f"pictured must hold numbers from 0 to {len(chosen) - 1}: got {number}"
            )
    return {f"slice-{number}": chosen[number] for number in pictured}


def training_triples(x: Tensor, y: Tensor, count: int) -> list[Triple]:
    """The first training points of three different classes, and so on, no point used twice.

    Raises:
        ValueError: if there are fewer such triples.
    """
    triples: list[Triple] = []
    waiting: list[int] = []
    for index, label in enumerate(y.tolist()):
        if len(triples) == count:
            break
        if label not in y[waiting].tolist():
            waiting.append(index)
        if len(waiting) == 3:
            points = x[waiting].cpu()
            triples.append(Triple(points, y[waiting].cpu(), Slice.through(*points)))
            waiting = []
    if len(triples) < count:
        raise ValueError(
            f"triples={count}, but the training data have {len(triples)} triples of points of "
            "different classes"
        )
    return triples


def region_metrics(model: nn.Module, triples: Sequence[Triple], radius: float) -> dict[str, float]:
    """What is so around the points of all triples: means over points, or medians where said.

    ``local_complexity``: the regions within ``radius``. ``cell_area``: the median area of the
    region that holds the point, no more than that of its square. ``norm``: the Frobenius norm of
    the operator, the mean over the disc around the point; ``norm_spread``: its standard deviation
    over the disc; ``relative_spread``: that over the mean. ``operator_change``: how far, relative
    to its norm, the operator on the disc is from the one at the point. ``label_alignment``: cosine
    of the point and the row of its own label in the Jacobian; ``centroid_alignment``: of the point
    and its centroid.

    On the whole of each slice: ``region_distance`` and ``decision_distance``, the median distances
    of the points to the nearest boundary of a region and to the decision boundary;
    ``density_data`` and ``density_decision``, the length of boundaries per area in discs of
    ``radius`` around the points and along the decision boundary; ``migration``, the latter over the
    former, slice by slice. What no slice has is left out.
    """
    rows: dict[str, list[float]] = {}
    for triple in triples:
        for point in range(3):
            for name, value in _around(model, triple, point, radius).items():
                rows.setdefault(name, []).append(value)
        for name, values in migration_metrics(model, triple.slice, triple.x, radius).items():
            rows.setdefault(name, []).extend(values.tolist())
    found = {}
    for name, each in rows.items():
        of_all = torch.tensor(each, dtype=torch.float64)
        if each:
            found[name] = float(of_all.median() if name in _MEDIANS else of_all.mean())
    # A slice without a decision boundary, or of one region, has no distance to it.
    return {name: value for name, value in found.items() if value != math.inf}


def _around(model: nn.Module, triple: Triple, point: int, radius: float) -> dict[str, float]:
    plane = triple.around(point, radius)
    here = torch.zeros(1, 2, dtype=torch.float64)
    cells = linear_regions(model, plane)
    at_point = jacobian.input_jacobian(model, triple.x[point : point + 1])
    disc = plane.points(radius * sunflower(_SAMPLES)).to(triple.x)
    nearby = jacobian.input_jacobian(model, disc)
    norms = nearby.flatten(1).norm(dim=1)
    change = (nearby - at_point).flatten(1).norm(dim=1).mean() / at_point.norm()
    return {
        "local_complexity": float(cells.local_complexity(here, radius)),
        "cell_area": float(cells.areas[cells.locate(here)]),
        "norm": float(norms.mean()),
        "norm_spread": float(norms.std()),
        "relative_spread": float(norms.std() / norms.mean()),
        "operator_change": float(change),
        "label_alignment": _cosine(at_point[0, int(triple.y[point])], triple.x[point]),
        "centroid_alignment": _cosine(at_point[0].sum(0), triple.x[point]),
    }


def sunflower(count: int) -> Tensor:
    """Points (count, 2) spread evenly over the unit disc, float64."""
    place = torch.arange(count, dtype=torch.float64) + 0.5
    angle = math.pi * (3 - math.sqrt(5)) * place
    return (place / count).sqrt()[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def _milestones(
    trained: AnalysisInput, history: History, trajectory: list[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The metrics at the first kept step that reaches each milestone, and at the last."""
    reached = {}
    for name, entry in trained.run.spec["milestones"].items():
        first = Target(entry["metric"], entry["target"]).first_step(history)
        kept = [row for row in trajectory if first is not None and row["step"] >= first]
        if kept:
            reached[name] = kept[0]
    return {**reached, "last": trajectory[-1]}


def _add(
    found: dict[str, Any],
    arm: str,
    trajectory: list[dict[str, Any]],
    reached: dict[str, dict[str, Any]],
) -> None:
    """Enter what one training says."""
    found["trajectory"].setdefault(arm, trajectory)
    found["milestones"].setdefault(arm, reached)
    memorized = reached.get("memorized")
    if memorized is None:
        return
    names = [name for name in memorized if name not in ("step", *_SCORES)]
    for prefix, end in (("", reached.get("generalized")), ("last_", reached["last"])):
        if end is None:
            continue
        for name in (name for name in names if name in end):
            kind = "difference" if name.endswith("alignment") else "ratio"
            before, after = memorized[name], end[name]
            value = after - before if kind == "difference" else after / before
            found[prefix + kind].setdefault(arm, {}).setdefault(name, []).append(value)
    later = [row for row in trajectory if row["step"] >= memorized["step"]]
    if len(later) < 3:
        return
    for name in (name for name in names if all(name in row for row in later)):
        pairs = torch.tensor([(row["label_alignment"], row[name]) for row in later])
        correlations = found["rank_correlation"].setdefault(arm, {}).setdefault(name, [])
        correlations.append(rank_correlation(pairs))


def rank_correlation(pairs: Tensor) -> float:
    """Spearman's correlation of the columns of ``pairs`` (s, 2); no ties.

    Example:
        >>> rank_correlation(torch.tensor([[1.0, 8.0], [2.0, 9.0], [5.0, 1.0]]))
        -0.5
    """
    ranks = pairs.argsort(dim=0).argsort(dim=0).double()
    return float(torch.corrcoef(ranks.T)[0, 1])
