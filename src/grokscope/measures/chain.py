"""Networks that are a chain of linear layers and piecewise-linear activations.

On the linear region of x such a network is the affine map f(x') = A x' + b with

    A = D_L W_L ... D_1 W_1,

where D_l holds the slopes of layer l's activations at x (Balestriero & Baraniuk 2018). The
factors are known after one forward pass, so that the input Jacobian and products with it need no
autograd, and its Gram matrix A A^T = V (W_1 W_1^T) V^T, V = D_L W_L ... W_2 D_1, needs no
(n, k, d) tensor.

A model is taken for a chain only where that is certain; everything else goes through autograd.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from grokscope.measures.hooks import only_observed
from grokscope.measures.scale import Scale
from grokscope.measures.view import Model

_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.Hardtanh, Scale)
_DROPOUTS = (nn.Dropout, nn.AlphaDropout)
# The tables that torch.nn.modules.module.register_module_*_hook write into. They are picked by
# what they are, since torch has no public way to ask for them that all its releases share.
GLOBAL_HOOKS = [
    table
    for name, table in vars(torch_module).items()
    if name.startswith(("_global_forward", "_global_backward")) and isinstance(table, dict)
]


class Stage(NamedTuple):
    """One linear layer and the activations that follow it."""

    linear: nn.Linear
    activations: tuple[nn.Module, ...]


class Chain:
    """The stages of a network from input to output.

    Attributes:
        stages: the linear layers, each with its activations.
        weights: the matrices W_1 ... W_L, each (outputs, inputs) of its layer.
        biases: the vectors b_1 ... b_L, None for a layer without.
    """

    def __init__(self, stages: list[Stage]) -> None:
        self.stages = stages
        self.weights: list[Tensor] = [stage.linear.weight for stage in stages]
        self.biases: list[Tensor | None] = [stage.linear.bias for stage in stages]

    def run(self, x: Float[Tensor, " n *d"]) -> ChainPoint:
        """The outputs at ``x`` and what the local affine map there is made of."""
        first = self.stages[0].linear
        before_bias = x.flatten(1) @ first.weight.mT
        hidden = before_bias if first.bias is None else before_bias + first.bias
        folds: list[Fold] = []
        for index, (linear, activations) in enumerate(self.stages):
            if index > 0:
                hidden = F.linear(hidden, linear.weight, linear.bias)
            steps: list[tuple[Tensor, Tensor | None]] = []
            for activation in activations:
                hidden = _apply(activation, hidden)
                steps.append(activation_fold(activation, hidden))
            folds.append(composed(steps))
        return ChainPoint(outputs=hidden, first_product=before_bias, folds=folds)


class Fold(NamedTuple):
    """The affine map z -> slope z + intercept that a stage's activations are at z.

    Both are (n, h); None stands for a slope of one and an intercept of zero.
    """

    slope: Tensor | None
    intercept: Tensor | None


class ChainPoint(NamedTuple):
    """A forward pass of a chain: what its local affine maps are made of."""

    outputs: Tensor  # (n, k)
    first_product: Tensor  # (n, h_1) = x W_1^T
    folds: list[Fold]  # one for each stage


def _apply(activation: nn.Module, hidden: Tensor) -> Tensor:
    match activation:
        case nn.ReLU():
            return F.relu(hidden)
        case nn.LeakyReLU():
            return F.leaky_relu(hidden, activation.negative_slope)
        case nn.Hardtanh():  # and nn.ReLU6, which is Hardtanh(0, 6)
            return F.hardtanh(hidden, activation.min_val, activation.max_val)
        case Scale():
            return activation.factor * hidden
    raise TypeError(f"{type(activation).__name__} is not a known piecewise-linear activation")


def activation_fold(
    activation: nn.Module, output: Float[Tensor, "*n h"]
) -> tuple[Tensor, Tensor | None]:
    """Slope and intercept, read off the activation's output; at a kink the ones autograd uses."""
    if isinstance(activation, nn.Hardtanh):
        # strict: a saturated output is its limit, and at the limit itself autograd's slope is zero
        # too
        inside = (output > activation.min_val) & (output < activation.max_val)
        slope = inside.to(output.dtype)
        return slope, output * (1 - slope)
    if isinstance(activation, Scale):
        return torch.full_like(output, activation.factor), None
    sign = output.sign()  # several times faster than a comparison and a cast
    if isinstance(activation, nn.LeakyReLU):
        positive = sign.clamp_min_(0)
        return positive + activation.negative_slope * (1 - positive), None
    return sign, None  # ReLU: its output is zero or positive


def composed(steps: list[tuple[Tensor, Tensor | None]]) -> Fold:
    """One activation after the other as one affine map."""
    # s2 (s1 z + c1) + c2 = (s2 s1) z + (s2 c1 + c2); None stands for no term, and costs nothing
    slope: Tensor | None = None
    intercept: Tensor | None = None
    for step_slope, step_intercept in steps:
        slope = step_slope if slope is None else slope * step_slope
        carried = None if intercept is None else intercept * step_slope
        intercept = step_intercept
        if carried is not None:
            intercept = carried if step_intercept is None else carried + step_intercept
    return Fold(slope, intercept)


def chain_of(model: Model, x: Tensor) -> Chain | None:
    """The chain that ``model`` is on batches like ``x``, or None where that is not certain.

    Certain means: exact PyTorch types (a subclass may compute anything), nn.Sequential's own
    forward, plain parameters, and no hook, parametrization or active dropout on the way.
    """
    if not isinstance(model, nn.Module) or any(GLOBAL_HOOKS) or x.ndim < 2:
        return None
    leaves = leaves_of(model)
    if not leaves:
        return None
    # how a network with one output often ends: it makes (n,) of (n, 1)
    squeezed = type(leaves[-1]) is nn.Flatten and leaves[-1].start_dim == 0
    stages: list[Stage] = []
    flat = x.ndim == 2
    for leaf in leaves[:-1] if squeezed else leaves:
        if type(leaf) is nn.Flatten and leaf.start_dim == 1 and leaf.end_dim == -1:
            flat = True
        elif type(leaf) is nn.Linear and flat:
            stages.append(Stage(leaf, ()))
        elif type(leaf) in _ACTIVATIONS and stages and is_known(leaf):
            stages[-1] = Stage(stages[-1].linear, (*stages[-1].activations, leaf))
        elif not is_identity(leaf):
            return None
    if not stages or (squeezed and stages[-1].linear.out_features != 1):
        return None
    chain = Chain(stages)
    return chain if _fits(chain, x) else None


def activations_of(model: nn.Module) -> list[nn.Module] | None:
    """The activation modules of what may be a chain, each once, or None if it cannot be one."""
    leaves = leaves_of(model)
    if leaves is None or any(module._compiled_call_impl is not None for module in model.modules()):
        return None
    return list(dict.fromkeys(leaf for leaf in leaves if type(leaf) in _ACTIVATIONS))


def leaves_of(module: nn.Module) -> list[nn.Module] | None:
    """The modules that a nest of plain nn.Sequentials runs, in order; None where it is none."""
    if not _runs_own_forward(module):
        return None
    if not isinstance(module, nn.Sequential):
        return [module]
    kind = type(module)
    # a subclass that changes either one may skip a layer, or run it twice
    if kind.forward is not nn.Sequential.forward or kind.__iter__ is not nn.Sequential.__iter__:
        return None
    leaves: list[nn.Module] = []
    for child in module:
        inner = leaves_of(child)
        if inner is None:
            return None
        leaves += inner
    return leaves


def _runs_own_forward(module: nn.Module) -> bool:
    """Whether calling the module runs its class's forward and nothing else."""
    return (
        type(module).__call__ is nn.Module.__call__
        and "forward" not in vars(module)
        and only_observed(module._forward_hooks)
        and only_observed(module._forward_pre_hooks)
        and not module._backward_hooks
        and not module._backward_pre_hooks
    )


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer's own parameters are plain tensors, and all of them set."""
    tensors = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
    return _are_plain(tensors)


def _are_plain(tensors: Iterable[Any]) -> bool:
    return all(type(tensor) in (nn.Parameter, Tensor) for tensor in tensors)


def is_known(activation: nn.Module) -> bool:
    """Whether the slope can be read off the output: a falling LeakyReLU hides the sign."""
    return not (isinstance(activation, nn.LeakyReLU) and activation.negative_slope < 0)


def is_identity(module: nn.Module) -> bool:
    """Whether a module returns its input as it is, as dropout that is switched off does."""
    if type(module) in _DROPOUTS:
        return not module.training or bool(module.p == 0)
    return type(module) is nn.Identity


def _fits(chain: Chain, x: Tensor) -> bool:
    """Whether parameters are plain, and shapes, dtypes and devices agree.

    Where they do not, the model itself says so best.
    """
    width, dtype, device = math.prod(x.shape[1:]), x.dtype, x.device
    for weight in chain.weights:
        if weight.shape[1] != width or weight.dtype != dtype or weight.device != device:
            return False
        width = weight.shape[0]
    return _are_plain(chain.weights) and _are_plain(own for own in chain.biases if own is not None)


def pull_back(
    weights: list[Tensor], folds: list[Fold], v: Float[Tensor, "m r k"]
) -> Float[Tensor, "n r h"]:
    """The products v D_L W_L ... W_2 D_1, with which the first layer's matrix makes v A.

    The leading size m is n, or 1 for the same vectors at every example.
    """
    for index in range(len(weights) - 1, -1, -1):
        # from the outputs inward: r rows travel, and not the Jacobian of each layer
        slope = folds[index].slope
        if slope is not None:
            v = v * slope.unsqueeze(1)
        if index > 0:
            v = v @ weights[index]
    return v


def gram(matrix: Float[Tensor, "h d"]) -> Float[Tensor, "h h"]:
    """The product of a matrix with its transpose, which is symmetric.

    On CPU just the blocks on and above the diagonal are multiplied, the rest mirrored.
    """
    height, block = matrix.shape[0], 64
    if matrix.device.type != "cpu" or height <= block:
        return matrix @ matrix.mT
    result = matrix.new_empty(height, height)
    for start in range(0, height, block):
        stop = start + block
        # blocks from the diagonal on; written into place, the mirror is read back from them
        torch.mm(matrix[start:stop], matrix[start:].mT, out=result[start:stop, start:])
        result[stop:, start:stop] = result[start:stop, stop:].mT
    return result
