"""How well outputs fit their labels: loss and accuracy, or what a user's function says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from grokscope.measures.batches import Batch, chunks
from grokscope.measures.labels import are_by_position, share_correct
from grokscope.measures.magnitudes import wide
from grokscope.measures.view import Model, outputs_of
from grokscope.training.objective import Objective

ScoreFunction = Callable[[Tensor, Tensor], "float | Tensor | Mapping[str, Any]"]

_AT_ONCE = 10_000  # examples of a forward pass, where a user names no number


class Scores:
    """What is recorded of outputs and labels besides the measures of geometry.

    "auto" gives the loss, and the accuracy where labels are classes: integers (n,) for outputs
    (n, k), one for each token, (n, t) for outputs (n, t, k), or pixel, (n, h, w) for outputs
    (n, k, h, w), the label -100 left out; or 0 and 1 (-1 and 1) for one output. Of any other
    targets, as of a regression, it gives the loss alone. A function of outputs and labels gives a
    number, recorded as ``score``, or several by name. Half-precision outputs are scored in float32.

    Args:
        scores: "auto", a function or None for nothing.
        objective: the loss of "auto".

    Raises:
        ValueError: if ``scores`` is none of these.
    """

    def __init__(self, scores: str | ScoreFunction | None, objective: Objective) -> None:
        if scores is not None and scores != "auto" and not callable(scores):
            raise ValueError(
                f'scores must be "auto", a function (outputs, y) -> float or dict, or None: got '
                f"{scores!r}"
            )
        self._scores = scores
        self._objective = objective

    @torch.no_grad()
    def __call__(
        self, model: Model, x: Batch, y: Tensor, chunk_size: int | None = None
    ) -> dict[str, float]:
        """The scores of a model on examples."""
        if self._scores is None:
            return {}
        parts = chunks(x, chunk_size or _AT_ONCE)
        outputs = torch.cat([outputs_of(model, part) for part in parts])
        if outputs.is_floating_point():  # half precision is too coarse for a mean over examples
            outputs = wide(outputs)
        if callable(self._scores):
            return _named(self._scores(outputs, y))
        return self._automatic(outputs, y)

    def _automatic(self, outputs: Tensor, y: Tensor) -> dict[str, float]:
        objective = self._objective
        found = {"loss": float(objective(outputs, objective.targets(y, outputs)))}
        if are_classes(outputs, y):
            found["accuracy"] = share_correct(objective.correct(outputs, y), y)
        return found


def are_classes(outputs: Tensor, y: Tensor) -> bool:
    """Whether each of the outputs is right or wrong."""
    if are_by_position(y, outputs):
        return True
    if outputs.ndim == 2 and outputs.shape[1] > 1:
        return not y.is_floating_point() and y.ndim == 1
    if outputs.numel() != len(outputs) or y.numel() != len(outputs):
        return False
    return any(bool(((y == low) | (y == 1)).all()) for low in (0, -1))


def _named(found: float | Tensor | Mapping[str, Any]) -> dict[str, float]:
    """What a function of the user's returned, by name."""
    if isinstance(found, Mapping):
        return {str(name): float(value) for name, value in found.items()}
    try:
        return {"score": float(found)}
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"scores must return a number or a dictionary of numbers: got {type(found).__name__}"
        ) from error
