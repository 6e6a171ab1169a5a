"""A recorder of the calls that have rules, and of what PyTorch computes in one piece, taken apart.

Attention and recurrent layers are one function each, whose projections leave no output to take a
cotangent of. While a recorder is active they run as linear maps and what is between them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from grokscope.measures.ntk.rules import RULES, LinearRule, Rule


@dataclass
class Record:
    """One call: its rule, and the place of its output in the graph."""

    rule: Rule
    output: GradientEdge
    output_shape: tuple[int, ...]
    input_version: int

    @property
    def spoilt(self) -> bool:
        """Whether the input was written to since."""
        return self.rule.input._version != self.input_version


class Recorder(TorchFunctionMode):
    """Records, while active, every differentiable call of a known operation on a parameter.

    Args:
        shared: keys of the look-ups that are made once for all examples, as of positions: each
            example then gets its own copy of what was looked up, and so a cotangent of its own.
        count: the number of examples.

    Attributes:
        records: the calls, in order.
    """

    def __init__(self, shared: frozenset[Any] = frozenset(), count: int = 0) -> None:
        super().__init__()
        self.records: list[Record] = []
        self._shared, self._count = shared, count

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        apart = _TAKEN_APART.get(func)
        if apart is not None:
            outputs = apart(self, *args, **kwargs)
            if outputs is not None:
                return outputs
        output = func(*args, **kwargs)
        rule = RULES.get(func)
        if rule is not None and isinstance(output, Tensor) and output.requires_grad:
            made = rule(*args, **kwargs)
            if made is not None and made.key in self._shared:
                output = self._spread(made, output)
            self._note(made, output)
        return output

    def _spread(self, rule: Rule, output: Tensor) -> Tensor:
        """The output of a look-up with an axis for the examples, as broadcasting would give it."""
        if rule.input.ndim == 1:
            rule.input, output = rule.input.unsqueeze(0), output.unsqueeze(0)
        rule.input = rule.input.expand(self._count, *rule.input.shape[1:])
        return output.expand(self._count, *output.shape[1:])

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """``F.linear``, recorded."""
        output = F.linear(x, weight, bias)
        if output.requires_grad:
            self._note(LinearRule(x, weight, bias), output)
        return output

    def _note(self, rule: Rule | None, output: Tensor) -> None:
        if rule is None or not isinstance(rule.input, Tensor):
            return
        if not isinstance(rule.weight, nn.Parameter) and not isinstance(rule.bias, nn.Parameter):
            return
        version, rule.input = rule.input._version, rule.input.detach()
        try:
            # the edge, not the tensor: a later in-place operation, as of nn.ReLU(inplace=True),
            # changes the tensor's place in the graph
            edge = get_gradient_edge(output)
        except RuntimeError:  # inside of a functional transformation
            return
        self.records.append(Record(rule, edge, tuple(output.shape), version))


def _attention(
    recorder: Recorder,
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
        q, k, v = (recorder.linear(x, kwargs.pop(name)) for x, name in pairs)
        bias = in_proj_bias
    elif in_proj_weight is None:
        return None
    elif query is key and key is value:
        q, k, v = recorder.linear(query, in_proj_weight, in_proj_bias).split(width, dim=-1)
        bias = None
    else:
        # each of the three needs a third of the rows; taken whole, the weight is the parameter
        wholes = [recorder.linear(x, in_proj_weight, in_proj_bias) for x in (query, key, value)]
        q, k, v = (whole[..., i * width : (i + 1) * width] for i, whole in enumerate(wholes))
        bias = None
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
    return recorder.linear(mixed, out_proj_weight, out_proj_bias), weights


def _lstm_step(given: Tensor, own: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    i, f, g, o = (given + own).chunk(4, dim=1)
    cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def _gru_step(given: Tensor, own: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (r, z, n), (own_r, own_z, own_n) = given.chunk(3, dim=1), own.chunk(3, dim=1)
    new = (n + (r + own_r).sigmoid() * own_n).tanh()
    return (new + (z + own_z).sigmoid() * (state[0] - new),)


def _tanh_step(given: Tensor, own: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return ((given + own).tanh(),)


def _relu_step(given: Tensor, own: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return ((given + own).relu(),)


def _unrolled(step: Callable[..., tuple[Tensor, ...]]) -> Callable[..., Any]:
    """A recurrent layer of PyTorch as one product for all inputs and one for each time step."""

    def run(recorder: Recorder, x: Tensor, hx: Any, params: Any, *rest: Any, **kwargs: Any) -> Any:
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
                out, state = _one_way(recorder, step, h, state, weights, backwards=way == 1)
                outs.append(out)
                last.append(state)
            h = torch.cat(outs, dim=2) if len(outs) > 1 else outs[0]
        final = [torch.stack(values) for values in zip(*last, strict=True)]
        return (h.transpose(0, 1) if batch_first else h, *final)

    return run


def _one_way(
    recorder: Recorder,
    step: Callable[..., tuple[Tensor, ...]],
    x: Tensor,
    state: tuple[Tensor, ...],
    weights: list[Tensor],
    backwards: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One direction of one recurrent layer, (T, n, H), and the state that it ends with."""
    input_weight, own_weight, *biases = weights
    input_bias, own_bias = biases or (None, None)
    given = recorder.linear(x, input_weight, input_bias)
    order = range(len(x) - 1, -1, -1) if backwards else range(len(x))
    outs = {}
    for t in order:
        state = step(given[t], recorder.linear(state[0], own_weight, own_bias), state)
        outs[t] = state[0]
    return torch.stack([outs[t] for t in range(len(x))]), state


_VF: Any = torch._VF
_TAKEN_APART: dict[Any, Callable[..., Any]] = {
    F.multi_head_attention_forward: _attention,
    _VF.lstm: _unrolled(_lstm_step),
    _VF.gru: _unrolled(_gru_step),
    _VF.rnn_tanh: _unrolled(_tanh_step),
    _VF.rnn_relu: _unrolled(_relu_step),
}
