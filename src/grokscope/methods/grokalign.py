"""GrokAlign: make a network generalize sooner by holding its input Jacobians down.

Walker, Humayun, Balestriero & Baraniuk (2025), "GrokAlign: Geometric Characterisation and
Acceleration of Grokking", arXiv:2506.12284. See `grokscope.methods.penalty` for the penalty itself.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grokscope.arguments import checked_arguments
from grokscope.measures.batches import Batch, leaves, map_leaves
from grokscope.measures.view import Model
from grokscope.methods.base import Loss, Method
from grokscope.methods.networks import Networks, OneNetwork
from grokscope.methods.penalty import (
    check_estimate,
    check_projections,
    check_training_batch,
    mean_root,
    squared_terms,
)


class GrokAlign(Method):
    """Adds the Jacobian penalty to the training loss.

    ``mode="minimize"`` adds weight * R with R the mean over the batch of ||A_x||_F^2 (of ||A_x||_F
    if not ``squared``), A_x the Jacobian of the outputs at input x. ``mode="constrain"`` adds
    weight * |target - mean ||A_x||_F|, which holds the mean norm at a level and can so delay
    generalization as well as hasten it (Figure 7 of the paper). ``offset_weight`` adds in either
    mode weight * offset_weight * mean ||b_x||^2, b_x = f(x) - A_x x.

    In one's own loop add the result of a call to the loss. ``start`` and ``finish`` are optional
    there: between them the penalty reuses the training's own forward pass in place of one more. A
    model that is no chain of layers (see `jacobian_penalty`) is then given inputs that require
    gradients.

    Args:
        weight: strength; 0 leaves training as it is, bit for bit.
        mode: "minimize" or "constrain".
        target: the mean Frobenius norm to hold; for "constrain" only.
        every: apply at every ``every``-th step, with ``every`` times the weight.
        projections: random directions for each example (Hoffman et al. 2019); if None exact, where
            examples do not depend on each other.
        squared: for "minimize": the squared norm or the norm. "constrain" is always on the norm.
        offset_weight: strength on ||b_x||^2 relative to the Jacobian's.
        examples: take the penalty on this many random examples of each batch; on all if None.
        estimator: "auto", "derivative" or "difference", as for `jacobian_penalty`.
        seed: of the method's own generator; the global random state is not touched.

    Raises:
        ValueError: if an argument is out of range, or ``target`` does not go with ``mode``.

    Example:
        >>> import torch, grokscope as gs
        >>> model, x, y = torch.nn.Linear(3, 2), torch.randn(8, 3), torch.zeros(8, dtype=torch.long)
        >>> grokalign = gs.GrokAlign(weight=1e-3)
        >>> loss = torch.nn.functional.cross_entropy(model(x), y) + grokalign(model, x)

        Or without a change to the loop:

        >>> optimizer = torch.optim.AdamW(model.parameters())
        >>> grokalign = gs.GrokAlign(weight=1e-3).attach(model, optimizer)
    """

    name: ClassVar[str] = "grokalign"
    stays_in_span: ClassVar[bool] = True
    always_kept: ClassVar[tuple[str, ...]] = ("generator", "steps")

    @checked_arguments
    def __init__(
        self,
        weight: float = 1e-3,
        mode: str = "minimize",
        target: float | None = None,
        every: int = 1,
        projections: int | None = 1,
        squared: bool = True,
        offset_weight: float = 0.0,
        examples: int | None = None,
        estimator: str = "auto",
        seed: int = 0,
    ) -> None:
        if mode not in ("minimize", "constrain"):
            raise ValueError(f"mode must be 'minimize' or 'constrain': got {mode!r}")
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weight must be 0 or positive, and finite: got {weight}")
        if mode == "constrain" and (target is None or not 0 <= target < float("inf")):
            raise ValueError(
                f"mode='constrain' needs target, the mean Jacobian norm to hold: got {target}"
            )
        if mode == "minimize" and target is not None:
            raise ValueError(f"target is for mode='constrain': got {target} with mode='minimize'")
        if every < 1:
            raise ValueError(f"every must be a positive integer: got {every}")
        check_projections(projections)
        check_estimate(examples, estimator, offset_weight)
        self.weight = weight
        self.mode = mode
        self.target = target
        self.every = every
        self.projections = projections
        self.squared = squared
        self.offset_weight = offset_weight
        self.examples = examples
        self.estimator = estimator
        self.generators = [torch.Generator().manual_seed(seed)]
        self.state = {"steps": 0}
        self._watched: Networks | None = None

    def adds_penalty(self) -> bool:
        """Whether the weight is not 0."""
        return self.weight > 0

    def changes_inputs(self) -> bool:
        """No: ``perturb`` gives them back as they are."""
        return False

    def start(self, networks: Networks | nn.Module) -> None:
        """Watch the forward passes of a network, so that the penalty need not repeat them."""
        self.finish()
        watched = OneNetwork(networks) if isinstance(networks, nn.Module) else networks
        watched.watch()
        watched.watching = self._watches(self.state["steps"] + 1)
        self._watched = watched

    def finish(self) -> None:
        """Stop watching."""
        if self._watched is not None:
            self._watched.unwatch()
        self._watched = None

    def perturb(self, step: int, networks: Networks, x: Batch, y: Tensor, loss: Loss) -> Batch:
        """The inputs as they are; forward passes that no penalty follows are not watched."""
        if self._watches(step):
            networks.watching = True
        return x

    def penalty(
        self, step: int, networks: Networks, x: Batch, outputs: Tensor | None = None
    ) -> Float[Tensor, " s"] | None:
        """What to add to each network's loss at this step, or None. ``outputs`` is not needed."""
        if not self.applies(step):
            return None
        norms, offsets = squared_terms(
            networks,
            x,
            self.projections,
            self.generators,
            with_offset=self.offset_weight > 0,
            step=step,
            examples=self.examples,
            estimator=self.estimator,
        )
        networks.watching = False
        return self._weighted(norms, offsets)

    def _weighted(
        self, norms: Float[Tensor, "s n"], offsets: Float[Tensor, "s n"] | None
    ) -> Float[Tensor, " s"]:
        """What is added to the loss, from the squared norms and offsets of every example."""
        if self.target is not None:
            penalty = (self.target - mean_root(norms)).abs()
        else:
            penalty = norms.mean(-1) if self.squared else mean_root(norms)
        if offsets is not None:
            penalty = penalty + self.offset_weight * offsets.mean(-1)
        return self.every * self.weight * penalty

    def __call__(self, model: Model, x: Batch) -> Float[Tensor, ""]:
        """The scalar to add to the loss in one's own loop; every call counts as one step."""
        check_training_batch(x)
        self.state["steps"] += 1
        watched = self._watched
        is_watched = isinstance(watched, OneNetwork) and watched.is_of(model)
        networks = watched if watched is not None and is_watched else OneNetwork(model)
        whole = map_leaves(lambda leaf: leaf.unsqueeze(0), x)
        penalty = self.penalty(self.state["steps"], networks, whole)
        networks.watching = self._watches(self.state["steps"] + 1)
        if penalty is not None:
            return penalty.squeeze(0)
        return torch.zeros((), device=next(iter(leaves(x).values())).device)

    def load_state_dict(self, *states: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned, one dictionary for each network.

        Raises:
            ValueError: if it is no state of such a method.
        """
        super().load_state_dict(*states)
        if self._watched is not None:
            self._watched.watching = self._watches(self.state["steps"] + 1)

    def capturable(self) -> bool:
        """Whether nothing but examples and projections comes from Python.

        A difference of outputs puts random generators back, so that dropout draws a mask twice.
        """
        return self.estimator != "difference"

    def variant(self, step: int) -> bool:
        """Whether there is a penalty at this step."""
        return self.applies(step)

    def applies(self, step: int) -> bool:
        """Whether there is a penalty at this step."""
        return self.weight > 0 and step % self.every == 0

    def _watches(self, step: int) -> bool:
        """Whether the penalty can use the forward pass of this step, on the batch as a whole."""
        return self.examples is None and self.applies(step)
