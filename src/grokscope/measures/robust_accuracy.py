"""Accuracy under attack: the share of examples that no perturbation found makes misclassified.

An example counts as robust if the network classifies it correctly and so do all points that the
attacks try within the ball. The value is therefore an upper bound on the true robust accuracy, and
the stronger the attack, the closer: AutoAttack (Croce & Hein 2020, arXiv:2003.01690) is the
standard of published values, and GrokAlign's Figure 5 is measured with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, overload

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from grokscope.arguments import checked_arguments
from grokscope.measures.attacks import autoattack
from grokscope.measures.attacks.apgd import apgd
from grokscope.measures.attacks.autoattack import Attack, standard_attacks
from grokscope.measures.attacks.ball import NORMS, Ball
from grokscope.measures.attacks.pgd import Logits, pgd
from grokscope.measures.batches import Batch, Key, leaf_at, rows, with_leaf, wrt_key
from grokscope.measures.company import Company
from grokscope.measures.guard import undisturbed
from grokscope.measures.inputs import (
    check_batch,
    check_chunk_size,
    check_differentiable,
    check_not_batch_dependent,
    check_outputs,
)
from grokscope.measures.precision import full_precision
from grokscope.measures.robustness import check_classes, check_labels
from grokscope.measures.view import Model, outputs_of, wrt_of
from grokscope.spelling import unknown_name

ATTACKS = ("autoattack", "apgd", "pgd")
_STEPS = {"apgd": 100, "pgd": 20}
_CHUNK = 250
_MOST_TARGETS = 9
Progress = Callable[[str, float], object]


@overload
def robust_accuracy(
    model: Model,
    x: Batch,
    y: Tensor,
    attack: str = ...,
    norm: str = ...,
    eps: float = ...,
    *,
    bounds: tuple[float, float] | None = ...,
    steps: int | None = ...,
    seed: int = ...,
    threshold: float = ...,
    chunk_size: int | None = ...,
    progress: Progress | None = ...,
    return_inputs: Literal[False] = ...,
) -> float: ...
@overload
def robust_accuracy(
    *given: Any, return_inputs: Literal[True], **settings: Any
) -> tuple[float, Batch]: ...
@checked_arguments  # type: ignore[misc]  # the second takes what the first does
def robust_accuracy(
    model: Model,
    x: Batch,
    y: Tensor,
    attack: str = "autoattack",
    norm: str = "Linf",
    eps: float = 4 / 255,
    *,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    steps: int | None = None,
    seed: int = 0,
    threshold: float = 0.0,
    chunk_size: int | None = None,
    progress: Progress | None = None,
    return_inputs: bool = False,
) -> float | tuple[float, Batch]:
    """Share of examples that stay correctly classified under attack.

    Args:
        model: maps a batch to (n, k) or (n,), every example by itself.
        x: the batch. Of a tuple or dictionary, the leaf is attacked that input derivatives are
            taken by (see `View`), the others stay as they are; AutoAttack takes one tensor.
        y: labels (n,): classes 0..k-1; with one output positive numbers for above the threshold.
        attack: "autoattack" (extra ``[attack]``) is the standard ensemble of Auto-PGD, FAB and
            Square in float32 arithmetic; "apgd" is Auto-PGD on the cross-entropy, then on the
            targeted difference of logits ratio for each of the nine likeliest other classes;
            "pgd" is projected gradient descent on the cross-entropy, cheap enough for every
            evaluation of a training.
        norm: "Linf" or "L2", for AutoAttack also "L1".
        eps: radius of the ball, in the units of ``x``.
        bounds: lowest and highest value that an input may take; None for inputs without a range,
            which AutoAttack does not take.
        steps: of "pgd", 20 if None, and of each "apgd", 100 if None; AutoAttack has its own.
        seed: of the random starts; the global random state is left alone.
        threshold: where one output is divided.
        chunk_size: examples at a time; 250 if None, as in AutoAttack's own evaluation. Random
            starts depend on it.
        progress: called as ``progress(attack, accuracy)`` after each chunk of each attack with the
            attack's name and the share of examples that are still correct.
        return_inputs: return the perturbed batch as well. An example that is robust, or that was
            misclassified without a perturbation, is in it unperturbed.

    Returns:
        The accuracy, or (accuracy, perturbed batch).

    Raises:
        ValueError: if an argument is out of range, ``x`` holds values outside of ``bounds``, or
            the model's outputs are not finite or depend on the rest of the batch.
        ImportError: if AutoAttack is asked for and not installed.

    Cost: for each example not yet broken one forward and backward pass to the input a step: 20 for
    "pgd", up to 1,000 for "apgd" with ten classes, up to 1,900 for AutoAttack, and 5,000 forward
    passes.

    Example:
        >>> import torch, grokscope as gs
        >>> x, y = torch.tensor([[0.2, 0.6], [0.5, 0.52]]), torch.tensor([1, 1])
        >>> gs.robust_accuracy(lambda x: x, x, y, attack="apgd", eps=0.1)
        0.5
    """
    check_batch(x)
    check_chunk_size(chunk_size)
    check_not_batch_dependent(model)
    key = wrt_key(x, wrt_of(model))
    leaf = leaf_at(x, key).detach()
    check_differentiable(leaf)
    check_labels(y, len(leaf))
    check_attack(attack, norm, eps, bounds, steps)
    _check_range(leaf, bounds)
    if attack == "autoattack" and key is not None:
        raise ValueError(
            "attack='autoattack' takes a batch that is one tensor: pass attack='apgd', or a "
            "gs.View of the model that holds the other tensors"
        )
    size = chunk_size or _CHUNK
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed must be from -2**63 to 2**64 - 1: got {seed}")
    with undisturbed(model), torch.inference_mode(False), torch.no_grad(), full_precision(leaf):
        target = _Target(model, x, y, key, threshold)
        intact = target.correct(size)
        found, attacks = leaf.clone(), {}
        if eps > 0:
            attacks = _attacks(attack, norm, eps, bounds, steps, seed, target)
        for name, run in attacks.items():
            if not bool(intact.any()):
                break  # an empty tensor splits into one empty part, which no model runs on
            for part in intact.nonzero().flatten().split(size):
                moved = run(target.logits(part), leaf[part], target.y[part])
                broken = ~target.correct_at(moved, part)
                found[part[broken]], intact[part[broken]] = moved[broken], False
                if progress is not None:
                    progress(name, float(intact.double().mean()))
    accuracy = float(intact.double().mean())
    return (accuracy, with_leaf(x, key, found)) if return_inputs else accuracy


class _Target:
    """The model and the batch that are attacked, with the labels as classes of two or more."""

    def __init__(self, model: Model, x: Batch, y: Tensor, key: Key, threshold: float) -> None:
        self._model, self._x, self._key, self._threshold = model, x, key, threshold
        self.leaf = leaf_at(x, key).detach()
        y = y.to(self.leaf.device)
        few = torch.arange(min(3, len(self.leaf)), device=y.device)
        self.num_classes = self.outputs(self.leaf[: len(few)], few).shape[1]
        if self._is_scalar:
            y = (y > 0).long()
        check_classes(y, self.num_classes)
        self.y = y.long()

    def outputs(self, points: Tensor, index: Tensor) -> Float[Tensor, "m k"]:
        """The outputs at points, each of which stands in for the example of that index."""
        batch: Batch = points
        if self._key is not None:
            batch = with_leaf(rows(self._x, index), self._key, points)
        outputs = check_outputs(outputs_of(self._model, batch), len(points))
        self._is_scalar = outputs.shape[1] == 1
        # one output that is above its threshold is the second of two classes
        shifted = outputs - self._threshold
        return torch.cat([0 * shifted, shifted], 1) if self._is_scalar else outputs

    def logits(self, index: Tensor) -> Logits:
        """The outputs as attacks ask for them, at points of the examples of ``index``."""
        return lambda points, examples: self.outputs(points, index[examples])

    def correct(self, size: int) -> Bool[Tensor, " n"]:
        """Which examples are classified correctly as they are.

        Raises:
            ValueError: if outputs are not finite, or depend on the rest of the batch.
        """
        company = Company(self._model, self._x, chunk_size=size)
        parts = torch.arange(len(self.leaf), device=self.leaf.device).split(size)
        return torch.cat([self.correct_at(self.leaf[part], part, company) for part in parts])

    def correct_at(
        self, points: Tensor, index: Tensor, company: Company | None = None
    ) -> Bool[Tensor, " m"]:
        """Which points, of the examples of ``index``, are classified correctly.

        With ``company`` they must be examples in a row as they are in the batch.
        """
        outputs = self.outputs(points, index)
        if company is not None:
            own = outputs[:, 1:] + self._threshold if self._is_scalar else outputs
            company.check(own, int(index[0]))
        if not bool(outputs.isfinite().all()):
            raise ValueError("model's outputs hold NaN or infinity: no attack can tell their order")
        return outputs.argmax(1) == self.y[index]


def _attacks(
    attack: str,
    norm: str,
    eps: float,
    bounds: tuple[float, float] | None,
    steps: int | None,
    seed: int,
    target: _Target,
) -> dict[str, Attack]:
    """The attacks that are run one after the other, each on what those before it left."""
    if attack == "autoattack" and bounds is not None:
        images = target.leaf.ndim == 4
        return standard_attacks(target.num_classes, images, norm, eps, bounds, seed)
    ball, steps = Ball(norm, eps, bounds), steps or _STEPS[attack]

    def by_gradient(logits: Logits, x: Tensor, y: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return (pgd if attack == "pgd" else apgd)(logits, x, y, ball, steps, generator)

    def towards(rank: int) -> Attack:
        def targeted(logits: Logits, x: Tensor, y: Tensor) -> Tensor:
            every = torch.arange(len(x), device=x.device)
            classes = logits(x, every).argsort(1)[:, -rank]
            return apgd(logits, x, y, ball, steps, torch.Generator().manual_seed(seed), classes)

        return targeted

    if attack == "pgd":
        return {"pgd": by_gradient}
    ranks = range(2, 2 + min(target.num_classes - 1, _MOST_TARGETS))
    return {"apgd": by_gradient, **{f"apgd-target-{rank - 1}": towards(rank) for rank in ranks}}


def check_attack(
    attack: str,
    norm: str,
    eps: float,
    bounds: tuple[float, float] | None,
    steps: int | None,
) -> None:
    """Raise unless there is such an attack, with settings that it can have."""
    if attack not in ATTACKS:
        raise ValueError(unknown_name("attack", attack, ATTACKS))
    norms = autoattack.NORMS if attack == "autoattack" else NORMS
    if norm not in norms:
        raise ValueError(unknown_name(f"norm of {attack}", norm, norms))
    if not (math.isfinite(eps) and eps >= 0):
        raise ValueError(f"eps must be 0 or positive, and finite: got {eps}")
    if attack == "autoattack" and (bounds is None or steps is not None):
        raise ValueError(
            "attack='autoattack' needs bounds, the range of inputs, and has steps of its own: got "
            f"bounds={bounds} and steps={steps}"
        )
    if steps is not None and steps < 1:
        raise ValueError(f"steps must be a positive integer or None: got {steps}")
    if bounds is not None and not bounds[0] < bounds[1]:
        raise ValueError(f"bounds must be a lowest and a highest value: got {bounds}")


def _check_range(x: Tensor, bounds: tuple[float, float] | None) -> None:
    if bounds is None:
        return
    low, high = float(x.min()), float(x.max())
    # a range such as (0 - mean) / std is rounded, and so are the inputs
    slack = 1e-5 * (bounds[1] - bounds[0])
    if low < bounds[0] - slack or high > bounds[1] + slack:
        raise ValueError(
            f"x must lie in bounds, from {bounds[0]:g} to {bounds[1]:g}: got {low:g} to {high:g}; "
            "pass the bounds of your inputs and eps in their units, or unnormalized inputs and a "
            "model that normalizes them, as gs.CNN(..., mean=..., std=...)"
        )
