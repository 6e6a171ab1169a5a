"""Auto-PGD (Croce & Hein 2020, arXiv:2003.01690, algorithm 1): PGD that sets its own step size.

    z = P(x_k + a s_k),    x_{k+1} = P(x_k + 3/4 (z - x_k) + 1/4 (x_k - x_{k-1})),

s_k the steepest step and P the projection onto the ball. The step a starts at 2 eps. At checkpoints
that come ever closer it is halved, example by example, and the search goes back to the best point
so far, if the loss rose in fewer than three quarters of the steps since the last one, or if neither
step size nor best loss has changed since.

The loss is the cross-entropy, or for a target class t the difference of logits ratio

    -(f_y - f_t) / (f_(1) - (f_(3) + f_(4)) / 2),

f_(j) the j-th largest output: it does not change when all outputs are scaled or shifted. With fewer
than four classes it does not exist, and the numerator serves alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from grokscope.measures.attacks.ball import Ball
from grokscope.measures.attacks.pgd import Logits, Loss, cross_entropy, outputs_and_slope

_MOMENTUM, _SHARE_OF_RISES = 0.75, 0.75


def apgd(
    logits: Logits,
    x: Float[Tensor, " n *d"],
    y: Int64[Tensor, " n"],
    ball: Ball,
    steps: int,
    generator: torch.Generator,
    targets: Int64[Tensor, " n"] | None = None,
) -> Float[Tensor, " n *d"]:
    """The first misclassified point that each example's search meets; the example if none is.

    Args:
        logits: outputs at points, given which of the n examples they belong to.
        x: the examples.
        y: their classes.
        ball: what points are allowed.
        steps: how many.
        generator: of the random start.
        targets: a class for each example that the targeted loss drives towards; cross-entropy if
            None.
    """
    found, alive = x.clone(), torch.arange(len(x), device=x.device)
    checkpoints, search = set(_checkpoints(steps)), _Search.at(ball.start(x, generator), ball)
    for step in range(steps + 1):
        loss = cross_entropy if targets is None else _towards(targets[alive])
        outputs, losses, slope = outputs_and_slope(logits, search["point"], y[alive], alive, loss)
        intact = outputs.argmax(1) == y[alive]
        found[alive[~intact]] = search["point"][~intact]
        search.note(losses, slope, first=step == 0)
        alive, search = alive[intact], search.only(intact)
        if not len(alive) or step == steps:
            break
        if step in checkpoints:
            search.halve_where_stuck()
        search.advance(x[alive], ball, momentum=_MOMENTUM if step else 1.0)
    return found


class _Search(dict[str, Tensor]):
    """Where each example's search stands, tensors (n, ...) by name.

    ``point``, ``before`` and ``slope`` are the current point, the one before and the gradient;
    ``best``, ``best_slope`` and ``best_loss`` those of the highest loss; ``size`` the step,
    ``loss`` the last loss, ``rises`` and ``steps`` counts since the last checkpoint, ``halved`` and
    ``loss_then`` what the last checkpoint saw.
    """

    @classmethod
    def at(cls, point: Tensor, ball: Ball) -> _Search:
        ones = point.new_ones(len(point))
        low = torch.full_like(ones, -torch.inf)
        return cls(
            point=point, before=point, slope=point, best=point, best_slope=point,
            best_loss=low, loss=low, loss_then=low,
            size=2 * ball.eps * ones, rises=0 * ones, steps=0 * ones, halved=ones > 0,
        )  # fmt: skip

    def only(self, rows: Tensor) -> _Search:
        """Of these examples alone."""
        return _Search({name: value[rows] for name, value in self.items()})

    def note(self, losses: Tensor, slope: Tensor, first: bool) -> None:
        """Take in loss and gradient at the current point."""
        if not first:
            self["rises"] = self["rises"] + (losses > self["loss"])
            self["steps"] = self["steps"] + 1
        self["loss"], self["slope"] = losses, slope
        better = losses > self["best_loss"]
        self["best_loss"] = torch.where(better, losses, self["best_loss"])
        for best, current in (("best", "point"), ("best_slope", "slope")):
            self[best] = torch.where(_wide(better, slope), self[current], self[best])
        if first:
            self["loss_then"] = self["best_loss"]

    def halve_where_stuck(self) -> None:
        """Halve the step and go back to the best point where the search makes no headway."""
        oscillates = self["rises"] <= _SHARE_OF_RISES * self["steps"]
        stagnates = ~self["halved"] & (self["best_loss"] <= self["loss_then"])
        stuck = oscillates | stagnates
        self["size"] = torch.where(stuck, self["size"] / 2, self["size"])
        for current, best in (("point", "best"), ("slope", "best_slope")):
            self[current] = torch.where(_wide(stuck, self[best]), self[best], self[current])
        self["halved"], self["loss_then"] = stuck, self["best_loss"]
        self["rises"], self["steps"] = 0 * self["rises"], 0 * self["steps"]

    def advance(self, centers: Tensor, ball: Ball, momentum: float) -> None:
        """Take the step, with its share of the step before."""
        point, slope = self["point"], self["slope"]
        ahead = ball.project(point + _wide(self["size"], slope) * ball.steepest(slope), centers)
        mixed = point + momentum * (ahead - point) + (1 - momentum) * (point - self["before"])
        self["point"], self["before"] = ball.project(mixed, centers), point


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """(n,) as (n, 1, ..., 1)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def _checkpoints(steps: int) -> Iterator[int]:
    """Where step sizes are looked at: after 22 % of the steps, then at shrinking distances.

    Example:
        >>> list(_checkpoints(100))
        [22, 41, 57, 70, 80, 87, 93, 99]
    """
    length, least, shrink = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    at = length
    while at < steps:
        yield at
        length = max(length - shrink, least)
        at += length


def _towards(targets: Int64[Tensor, " m"]) -> Loss:
    """The targeted difference of logits ratio."""

    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        rows = torch.arange(len(outputs), device=outputs.device)
        margin = outputs[rows, targets] - outputs[rows, y]
        if outputs.shape[1] < 4:
            return margin
        largest = outputs.topk(4, dim=1).values
        spread = largest[:, 0] - (largest[:, 2] + largest[:, 3]) / 2
        return margin / (spread + 1e-12)

    return loss
