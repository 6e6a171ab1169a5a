"""How each operation with a weight splits the weight's gradient into inputs and cotangents.

For example i, output j and position s (a token, a pixel, a time step, a further call with the same
weight), an operation that multiplies its weight into its input has the gradient

    df_j(x_i)/dW = sum_s  g_ijs a_is^T,

with ``a`` its input at s (a patch of it for a convolution, a one-hot token for an embedding) and
``g`` the cotangent of its output. A normalization has the elementwise ``sum_s g_ijs * a_is``
instead, ``a`` being its normalized input. A rule turns a call's input and cotangent into ``a``
(c, S, I) and ``g`` (c, S, O) for c examples.

Calls are seen as functions (``F.linear``, ``F.conv2d``, ...) and not as modules: so the rules hold
for PyTorch's layers, for Hugging Face's ``Conv1D`` and for a forward that multiplies by a parameter
itself. Attention and recurrent layers are one function each, whose projections leave no output to
take a cotangent of: they are taken apart into linear maps and what is between them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grokscope.measures.ntk.window import Axis, Window


@dataclass(frozen=True)
class BatchAxis:
    """Where a tensor keeps its examples.

    ``fold`` positions share the axis with each example, as after ``x.flatten(0, 1)``;
    ``positions_first`` says that the position, not the example, varies slowest there.
    """

    axis: int
    fold: int = 1
    positions_first: bool = False

    def examples_first(self, tensor: Tensor) -> Tensor:
        """``tensor`` with its examples on axis 0, and folded positions, if any, on axis 1."""
        tensor = tensor.movedim(self.axis, 0)
        if self.fold == 1:
            return tensor
        if self.positions_first:
            return tensor.unflatten(0, (self.fold, -1)).transpose(0, 1)
        return tensor.unflatten(0, (-1, self.fold))


class Rule:
    """One call of an operation, and how its weight's gradient is built.

    Attributes:
        family: "outer" for products of inputs and cotangents, "lookup" where the inputs are
            tokens, "scale" for elementwise weights.
        input: what the weight met.
        weight, bias: the parameters, or whatever else stood in their place.
        groups: blocks of the weight that meet blocks of the input.
        transposed: the weight is kept as (I, O), and not as (O, I).
        padding: the token whose row is never trained.
    """

    family = "outer"
    groups = 1
    transposed = False
    padding: int | None = None

    def __init__(self, input: Tensor, weight: Tensor | None, bias: Tensor | None = None) -> None:
        self.input = input
        self.weight = weight
        self.bias = bias

    @property
    def key(self) -> tuple[type[Rule], int, int]:
        """What must agree between two calls for one to stand for the other."""
        # what a parametrization or a weight norm computes is another tensor at each call
        ids = [id(w) if isinstance(w, nn.Parameter) else 0 for w in (self.weight, self.bias)]
        return type(self), ids[0], ids[1]

    @property
    def window(self) -> Window | None:
        """How a kernel moves over the input, where the inputs are its patches."""
        return None

    def accepts(self, axis: BatchAxis) -> bool:
        """Whether an input of this shape, its examples on this axis, is understood."""
        return True

    def inputs(self, axis: BatchAxis) -> Tensor:
        """``a`` (c, S, I), or the tokens (c, S) of an embedding."""
        raise NotImplementedError

    def cotangents(self, grad: Tensor, axis: BatchAxis) -> Tensor:
        """``g`` (c, S, O)."""
        return _features_last(grad, axis)


class LinearRule(Rule):
    """A matrix product; every axis but the examples' and the last is a position."""

    def __init__(
        self, input: Tensor, weight: Tensor, bias: Tensor | None = None, transposed: bool = False
    ) -> None:
        super().__init__(input, weight, bias)
        self.transposed = transposed

    def accepts(self, axis: BatchAxis) -> bool:
        return axis.axis < self.input.ndim - 1

    def inputs(self, axis: BatchAxis) -> Tensor:
        return _features_last(self.input, axis)


class EmbeddingRule(Rule):
    """A look-up in a table; its input to the weight is a one-hot token, kept as the token."""

    family = "lookup"

    def __init__(
        self, input: Tensor, weight: Tensor, padding_idx: int | None = None, *_: Any, **__: Any
    ) -> None:
        super().__init__(input, weight)
        self.padding = padding_idx
        if padding_idx is not None and padding_idx < 0:
            self.padding = padding_idx + len(weight)

    def inputs(self, axis: BatchAxis) -> Tensor:
        return axis.examples_first(self.input).reshape(_num_examples(self.input, axis), -1)


class ConvRule(Rule):
    """A convolution; a position is a place of the kernel."""

    def __init__(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | tuple[int, ...] = 1,
        padding: str | int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
    ) -> None:
        super().__init__(input, weight, bias)
        self.groups = groups
        self._kernel = tuple(weight.shape[2:])
        self._stride = self._per_axis(stride)
        self._dilation = self._per_axis(dilation)
        self._padding = padding if isinstance(padding, str) else self._per_axis(padding)

    def _per_axis(self, value: int | tuple[int, ...]) -> tuple[int, ...]:
        values = (value,) if isinstance(value, int) else tuple(value)
        return values * len(self._kernel) if len(values) == 1 else values

    def accepts(self, axis: BatchAxis) -> bool:
        return axis.axis == 0 and self.input.ndim == len(self._kernel) + 2

    @property
    def window(self) -> Window:
        """How the kernel moves over an input."""
        paddings = [self._pads(d) for d in range(len(self._kernel))]
        sizes = self.input.shape[2:]
        given = zip(sizes, self._kernel, self._stride, self._dilation, paddings, strict=True)
        axes = (Axis(size, k, step, reach, *pads) for size, k, step, reach, pads in given)
        return Window(self.input.shape[1], tuple(axes))

    def inputs(self, axis: BatchAxis) -> Tensor:
        patches = self.window.patches(self.window.pixels(self.input))
        # with folded positions patches are regrouped as outputs are, their channels on axis 1
        return patches if axis.fold == 1 else self.cotangents(patches.transpose(1, 2), axis)

    def cotangents(self, grad: Tensor, axis: BatchAxis) -> Tensor:
        return _channels_last(grad, axis)

    def _pads(self, d: int) -> tuple[int, int]:
        """Zeros before and behind the input along one axis."""
        if self._padding == "valid":
            return 0, 0
        if isinstance(self._padding, str):
            total = self._dilation[d] * (self._kernel[d] - 1)
            return total // 2, total - total // 2
        return self._padding[d], self._padding[d]


class NormRule(Rule):
    """Scale and shift of a normalization, which ``normalized`` computes without either.

    They hold a number for each entry of the last ``axes`` axes, or, where ``axes`` is None, for
    each channel on axis 1.
    """

    family = "scale"

    def __init__(
        self,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        normalized: Callable[[], Tensor],
        axes: int | None,
    ) -> None:
        super().__init__(input, weight, bias)
        self._normalized = normalized
        self._axes = axes

    def accepts(self, axis: BatchAxis) -> bool:
        return axis.axis == 0 if self._axes is None else axis.axis < self.input.ndim - self._axes

    def inputs(self, axis: BatchAxis) -> Tensor:
        return self.cotangents(self._normalized(), axis)

    def cotangents(self, grad: Tensor, axis: BatchAxis) -> Tensor:
        if self._axes is None:
            return _channels_last(grad, axis)
        return _features_last(grad.flatten(-self._axes), axis)


def _addmm(input: Tensor, mat1: Tensor, mat2: Tensor, beta: Any = 1, alpha: Any = 1) -> Rule | None:
    """``bias + x W``, as in Hugging Face's ``Conv1D``."""
    if beta != 1 or alpha != 1:
        return None
    return LinearRule(mat1, mat2, _for_each_output(input, mat2.shape[1]), transposed=True)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Rule | None:
    if weight.ndim != 2:
        return None  # one vector, as the query of attention pooling: the output has lost its axis
    return LinearRule(input, weight, _for_each_output(bias, len(weight)))


def _for_each_output(bias: Tensor | None, num_outputs: int) -> Tensor | None:
    """The bias, unless one number stands for several outputs: no rule covers it then."""
    return bias if bias is not None and tuple(bias.shape) == (num_outputs,) else None


def _matmul(input: Tensor, other: Tensor) -> Rule | None:
    return LinearRule(input, other, transposed=True) if other.ndim == 2 else None


def _normalization(func: Callable[..., Tensor]) -> Callable[..., Rule | None]:
    """The rule of calls of ``func``, which normalizes before it scales and shifts."""
    signature = inspect.signature(func)

    def rule(*args: Any, **kwargs: Any) -> Rule | None:
        given = signature.bind(*args, **kwargs).arguments
        if given.get("training"):
            return None  # batch statistics: an example's gradient then is not its own
        x, weight, bias = given["input"], given.pop("weight", None), given.pop("bias", None)
        bare = {**given, "input": x.detach()}
        shape = given.get("normalized_shape")
        axes = None if shape is None else len(shape)
        # computed again where it is needed: to keep it would double what a forward pass holds
        return NormRule(x, weight, bias, lambda: func(**bare), axes)

    return rule


RULES: dict[Any, Callable[..., Rule | None]] = {
    F.linear: _linear,
    torch.addmm: _addmm,
    torch.mm: _matmul,
    torch.matmul: _matmul,
    Tensor.matmul: _matmul,
    Tensor.mm: _matmul,
    Tensor.__matmul__: _matmul,
    F.conv1d: ConvRule,
    F.conv2d: ConvRule,
    F.conv3d: ConvRule,
    F.embedding: EmbeddingRule,
    F.layer_norm: _normalization(F.layer_norm),
    F.rms_norm: _normalization(F.rms_norm),
    F.group_norm: _normalization(F.group_norm),
    F.batch_norm: _normalization(F.batch_norm),
    F.instance_norm: _normalization(F.instance_norm),
}


def _num_examples(tensor: Tensor, axis: BatchAxis) -> int:
    return tensor.shape[axis.axis] // axis.fold


def _features_last(tensor: Tensor, axis: BatchAxis) -> Tensor:
    """(…, F) as (c, S, F)."""
    examples = axis.examples_first(tensor).unsqueeze(-2)  # also where there is no further axis
    return examples.flatten(1, -2)


def _channels_last(tensor: Tensor, axis: BatchAxis) -> Tensor:
    """(b, F, …) as (c, S, F); the result is a view where that costs no copy."""
    tensor = tensor.flatten(2) if tensor.ndim > 2 else tensor.unsqueeze(2)
    if axis.fold == 1:
        return tensor.transpose(1, 2)
    count = _num_examples(tensor, axis)
    return axis.examples_first(tensor).transpose(2, 3).reshape(count, -1, tensor.shape[1])


Linear = Callable[..., Tensor]


def _attention(
    linear: Linear,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """``F.multi_head_attention_forward`` with its projections as calls of their own.

    What is between them runs as PyTorch has it, with unit matrices for projections.
    """
    if args or kwargs.get("static_k") is not None or kwargs.get("static_v") is not None:
        return None
    width = embed_dim_to_check
    if kwargs.pop("use_separate_proj_weight", False):
        names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        pairs = zip((query, key, value), names, strict=True)
        q, k, v = (linear(x, kwargs.pop(name)) for x, name in pairs)
        bias = in_proj_bias
    elif in_proj_weight is None:
        return None
    elif query is key and key is value:
        q, k, v = linear(query, in_proj_weight, in_proj_bias).split(width, dim=-1)
        bias = None
    else:
        # each of the three needs a third of the rows; taken whole, the weight is the parameter
        wholes = [linear(x, in_proj_weight, in_proj_bias) for x in (query, key, value)]
        q, k, v = (whole[..., i * width : (i + 1) * width] for i, whole in enumerate(wholes))
        bias = None
    # PyTorch's own function goes on from here, masks, heads and dropout included: it multiplies by
    # its projections whatever is done, so these are unit matrices and the real ones are calls above
    # and below, which the recorder sees
    unit = torch.eye(width, dtype=q.dtype, device=q.device)
    mixed, weights = F.multi_head_attention_forward(
        q,
        k,
        v,
        width,
        num_heads,
        None,
        bias,
        bias_k,
        bias_v,
        add_zero_attn,
        dropout_p,
        unit,
        None,
        use_separate_proj_weight=True,
        q_proj_weight=unit,
        k_proj_weight=unit,
        v_proj_weight=unit,
        **{name: value for name, value in kwargs.items() if not name.endswith("_proj_weight")},
    )
    return linear(mixed, out_proj_weight, out_proj_bias), weights


def _lstm_step(given: Tensor, own: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    # PyTorch's order of the gates: input, forget, cell, output
    i, f, g, o = (given + own).chunk(4, dim=1)
    cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def _gru_step(given: Tensor, own: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (r, z, n), (own_r, own_z, own_n) = given.chunk(3, dim=1), own.chunk(3, dim=1)
    # the reset gate multiplies the product with its bias, as PyTorch has it, not the state before
    # it
    new = (n + (r + own_r).sigmoid() * own_n).tanh()
    return (new + (z + own_z).sigmoid() * (state[0] - new),)


def _unrolled(step: Callable[..., tuple[Tensor, ...]]) -> Callable[..., Any]:
    """A recurrent layer of PyTorch as one product for all inputs and one for each time step."""

    def run(linear: Linear, x: Tensor, hx: Any, params: Any, *rest: Any, **kwargs: Any) -> Any:
        if kwargs or len(rest) != 6 or (isinstance(hx, Tensor) and hx.dtype == torch.int64):
            return None  # a packed sequence
        biases, num_layers, dropout, training, both_ways, batch_first = rest
        size = 4 if biases else 2
        directions = 2 if both_ways else 1
        if (dropout and training) or len(params) != size * num_layers * directions:
            return None  # a projection has a fifth weight
        states = hx if isinstance(hx, tuple | list) else (hx,)
        h = x.transpose(0, 1) if batch_first else x
        last: list[tuple[Tensor, ...]] = []
        for layer in range(num_layers):
            outs = []
            for way in range(directions):
                at = layer * directions + way
                weights = params[at * size : (at + 1) * size]
                state = tuple(s[at] for s in states)
                out, state = _one_way(linear, step, h, state, weights, backwards=way == 1)
                outs.append(out)
                last.append(state)
            h = torch.cat(outs, dim=2) if len(outs) > 1 else outs[0]
        final = [torch.stack(values) for values in zip(*last, strict=True)]
        return (h.transpose(0, 1) if batch_first else h, *final)

    return run


def _one_way(
    linear: Linear,
    step: Callable[..., tuple[Tensor, ...]],
    x: Tensor,
    state: tuple[Tensor, ...],
    weights: list[Tensor],
    backwards: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One direction of one recurrent layer, (T, n, H), and the state that it ends with."""
    input_weight, own_weight, *biases = weights
    input_bias, own_bias = biases or (None, None)
    # all time steps at once, as cuDNN has it: only the product with the state must wait its turn
    given = linear(x, input_weight, input_bias)
    order = range(len(x) - 1, -1, -1) if backwards else range(len(x))
    outs = {}
    for t in order:
        state = step(given[t], linear(state[0], own_weight, own_bias), state)
        outs[t] = state[0]
    return torch.stack([outs[t] for t in range(len(x))]), state


_VF: Any = torch._VF
TAKEN_APART: dict[Any, Callable[..., Any]] = {
    F.multi_head_attention_forward: _attention,
    _VF.lstm: _unrolled(_lstm_step),
    _VF.gru: _unrolled(_gru_step),
    _VF.rnn_tanh: _unrolled(lambda given, own, _: ((given + own).tanh(),)),
    _VF.rnn_relu: _unrolled(lambda given, own, _: ((given + own).relu(),)),
}
