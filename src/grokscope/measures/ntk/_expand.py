"""Parameters that may stand as one copy for each example in the very pass that records calls.

A positional embedding added to (n, S, d), a gain, a matrix in ``x @ self.weight``: where such a
parameter broadcasts against a batch, it can be replaced by n copies of itself without a change in
the outputs, and the gradient of copy i is that of example i. Whether it can is tried out on two
and three examples, so that nothing is assumed of how the model uses it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from grokscope.measures.inputs import check_outputs
from grokscope.measures.ntk._probe import Probe

# a copy's own leading axis of one stands for the batch; or that many axes follow the batch axis
_LEADING = -1
_WAYS = (_LEADING, 0, 1, 2)


def copies(parameter: Tensor, way: int, count: int) -> Tensor:
    """``count`` copies of ``parameter``, as a view that records gradients."""
    kept = parameter.detach()
    if way != _LEADING:
        kept = kept[(None,) * (way + 1)]
    return kept.expand(count, *kept.shape[1:]).requires_grad_()


def ways_to_expand(
    model: nn.Module, x: Tensor, parameters: Mapping[str, nn.Parameter], found: Probe
) -> dict[str, int]:
    """Those of ``parameters`` that may be expanded, and how.

    Args:
        model: the module.
        x: (n, ...) examples; three are used.
        parameters: candidates by name.
        found: what the probe found of the same examples.
    """
    three = x[torch.arange(3, device=x.device) % len(x)]
    first_try = {n: _LEADING if p.shape[:1] == (1,) else 0 for n, p in parameters.items()}
    if first_try and _works(model, three, first_try, parameters, found):
        return first_try
    ways: dict[str, int] = {}
    for name, parameter in parameters.items():
        for way in _WAYS:
            if way == _LEADING and parameter.shape[:1] != (1,):
                continue
            if _works(model, three, {**ways, name: way}, parameters, found):
                ways[name] = way
                break
    return ways


def _works(
    model: nn.Module,
    three: Tensor,
    ways: Mapping[str, int],
    parameters: Mapping[str, nn.Parameter],
    found: Probe,
) -> bool:
    """Whether outputs and the first example's gradients stay what they are."""
    for x in (three[:2], three):
        leaves = {name: copies(parameters[name], way, len(x)) for name, way in ways.items()}
        try:
            outputs = check_outputs(functional_call(model, leaves, (x,)), len(x))
        except (RuntimeError, ValueError, TypeError, IndexError):
            return False
        if outputs.shape[1] != found.num_outputs or not _close(outputs, found.outputs[: len(x)]):
            return False
    grads = torch.autograd.grad(
        (outputs * found.weights).sum(), list(leaves.values()), materialize_grads=True
    )
    # of all examples' derivatives the first copy must get the first example's and no other
    return all(
        _close(grad[0].flatten(), found.gradients[id(parameters[name])].flatten())
        for name, grad in zip(ways, grads, strict=True)
    )


def _close(first: Tensor, second: Tensor) -> bool:
    allowed = max(1e-4, 16 * torch.finfo(second.dtype).eps) * float(second.abs().max())
    return first.shape == second.shape and float((first - second).detach().abs().max()) <= allowed
