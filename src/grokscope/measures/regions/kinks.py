"""The functions whose zero sets are a layer's kinks, and its affine pieces, on batches of inputs.

``inputs`` is always (n, features), the flattened input of the layer, and ``scale`` (features,) the
size of the terms that each feature is the sum of.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from grokscope.measures.regions.mesh import Ints
from grokscope.measures.regions.operations import Breakpoints, Nonlinearity, Window, window_members

# A value this small beside its terms is the rounding of zero. Cells narrower than this relative
# to the slice cannot be told from it; lines are told apart at a hundred times more.
ROUNDING = 1e-14
# Values this small beside their terms lie on a kink, and so on both pieces beside it.
_ON_A_KINK = 1e-12


class KinkFunctions(ABC):
    """A layer's kinks.

    They are found in ``num_stages`` steps: the functions of a stage are affine on the cells that
    the earlier stages left.

    Attributes:
        num_units: what activation patterns have an entry for.
        num_features: the number of inputs.
        num_stages: how many times the mesh must be split.
        overcuts: whether the zero sets reach further than the kinks, so that cells with one
            pattern must be joined afterwards.
    """

    num_units: int
    num_features: int
    num_stages: int
    overcuts: bool

    @abstractmethod
    def select(self, units: Tensor) -> tuple[Tensor, KinkFunctions]:
        """The features that some units read, and the units as functions of these alone."""

    @abstractmethod
    def values(self, inputs: Tensor, stage: int) -> Tensor:
        """(n, C), the functions of a stage."""

    @abstractmethod
    def scales(self, scale: Tensor, stage: int) -> Tensor:
        """(C,), the size of the terms of each function."""

    @abstractmethod
    def labels(self, stage: int) -> Ints:
        """(C, 2), the unit of each function, and which of the unit's kinks it is."""

    @abstractmethod
    def pattern(self, inputs: Tensor, scale: Tensor) -> Tensor:
        """(n, units) int16, which of its affine pieces each unit is on."""

    @abstractmethod
    def possible(self, inputs: Tensor, scale: Tensor) -> Tensor:
        """(n, pieces, units) bool, which affine pieces each unit can be said to be on.

        On a kink that is both pieces beside it. A piece is a convex set of inputs: where it holds
        at all corners of a cell on which the inputs are affine, it holds on the whole cell.
        """


class BreakpointFunctions(KinkFunctions):
    """Units with a kink where they cross fixed values, as ReLU has at zero."""

    def __init__(self, at: tuple[float, ...], num_units: int) -> None:
        self.at, self.num_units, self.num_features = at, num_units, num_units
        self.num_stages = 1
        self.overcuts = False

    def select(self, units: Tensor) -> tuple[Tensor, KinkFunctions]:
        """Every unit reads the feature of its own number."""
        return units, BreakpointFunctions(self.at, len(units))

    def values(self, inputs: Tensor, stage: int) -> Tensor:
        """The inputs less each breakpoint, unit by unit."""
        if self.at == (0.0,):
            return inputs
        kinks = inputs.new_tensor(self.at)
        return (inputs[:, :, None] - kinks).flatten(1)

    def scales(self, scale: Tensor, stage: int) -> Tensor:
        """The size of the inputs and of the breakpoints."""
        return (scale[:, None] + scale.new_tensor(self.at).abs()).flatten()

    def labels(self, stage: int) -> Ints:
        """Units and breakpoints, unit by unit."""
        units, kinks = np.arange(self.num_units), np.arange(len(self.at))
        return np.stack([np.repeat(units, len(kinks)), np.tile(kinks, len(units))], axis=1)

    def pattern(self, inputs: Tensor, scale: Tensor) -> Tensor:
        """How many of its breakpoints each unit is above."""
        above = [inputs > kink + ROUNDING * scale for kink in self.at]
        return torch.stack(above).sum(0, dtype=torch.int16)

    def possible(self, inputs: Tensor, scale: Tensor) -> Tensor:
        """The pieces between neighboring breakpoints, ends included."""
        pieces = inputs.new_ones(len(inputs), len(self.at) + 1, self.num_units, dtype=torch.bool)
        for piece, kink in enumerate(self.at):
            width = _ON_A_KINK * (scale + abs(kink))
            pieces[:, piece] &= inputs <= kink + width
            pieces[:, piece + 1] &= inputs >= kink - width
        return pieces


class WindowFunctions(KinkFunctions):
    """Units that are the largest of several inputs, as in max-pooling.

    Stage s compares the largest of a window's first s + 1 members with the next one: affine once
    the mesh has been split by the stages before.

    Args:
        members: (units, K), the features of each window; -1 fills up short ones, at the end.
        sign: -1 for the smallest of the inputs.
    """

    def __init__(self, members: Tensor, sign: float = 1.0) -> None:
        self.members, self.sign = members, sign
        self.num_units, self.num_features = len(members), int(members.max()) + 1
        self.num_stages = members.shape[1] - 1
        self.overcuts = members.shape[1] > 2

    def select(self, units: Tensor) -> tuple[Tensor, KinkFunctions]:
        """The members of the windows, each once, and the windows over them."""
        members = self.members[units]
        features, place = torch.unique(members, return_inverse=True)
        if len(features) and int(features[0]) < 0:
            features, place = features[1:], place - 1
        return features, WindowFunctions(place, self.sign)

    def _members_until(self, stage: int, device: torch.device) -> Tensor:
        """(windows that reach this stage, stage + 2), their members up to the new one."""
        long = self.members[:, stage + 1] >= 0
        return self.members[long, : stage + 2].to(device)

    def values(self, inputs: Tensor, stage: int) -> Tensor:
        """The largest member so far less the next one."""
        members = self._members_until(stage, inputs.device)
        # The maximum of affine functions is convex, not affine, but on the cells that the stages
        # before have left one member wins throughout.
        largest = self.sign * inputs[:, members[:, 0]]
        for place in range(1, stage + 1):
            torch.maximum(largest, self.sign * inputs[:, members[:, place]], out=largest)
        return largest - self.sign * inputs[:, members[:, -1]]

    def scales(self, scale: Tensor, stage: int) -> Tensor:
        """The size of the largest term among the members."""
        return scale[self._members_until(stage, scale.device)].amax(1)

    def labels(self, stage: int) -> Ints:
        """The windows that reach this stage, and the stage."""
        unit = np.nonzero(self.members[:, stage + 1].numpy() >= 0)[0]
        return np.stack([unit, np.full_like(unit, stage)], axis=1)

    def pattern(self, inputs: Tensor, scale: Tensor) -> Tensor:
        """The place of each window's largest member, the first of equals."""
        members = self.members.to(inputs.device)
        largest = self.sign * inputs[:, members[:, 0]]
        winner = torch.zeros(largest.shape, dtype=torch.int16, device=inputs.device)
        for place in range(1, members.shape[1]):
            value = self.sign * inputs[:, members[:, place]]
            better = (value > largest + ROUNDING * scale[members[:, place]]) & (
                members[:, place] >= 0
            )
            winner[better] = place
            largest = torch.where(better, value, largest)
        return winner

    def possible(self, inputs: Tensor, scale: Tensor) -> Tensor:
        """The members that are the largest, or equal to it."""
        members = self.members.to(inputs.device)
        # A missing member is -1 and so reads the last feature: masked out where it could win.
        values = self.sign * inputs[:, members.T]
        values.masked_fill_(members.T < 0, -torch.inf)
        return values >= values.amax(1, keepdim=True) - _ON_A_KINK * scale[members].amax(1)


def kink_functions(kind: Nonlinearity, shape: torch.Size) -> KinkFunctions:
    """The kinks of a layer whose inputs have this shape, without the batch axis."""
    if isinstance(kind, Breakpoints):
        return BreakpointFunctions(kind.at, shape.numel())
    if isinstance(kind, Window):
        return WindowFunctions(window_members(kind, shape))
    first = torch.arange(shape.numel(), device="cpu")
    pairs = torch.stack([first, first + len(first)], dim=1)
    return WindowFunctions(pairs, -1.0 if kind.smaller else 1.0)
