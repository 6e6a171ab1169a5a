"""In which order the weights of convolutions lie in memory while a CPU trains them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import torch
from torch import nn

from grokscope.measures.batches import Batch, rows
from grokscope.measures.view import outputs_of
from grokscope.methods.networks import OneNetwork


@contextmanager
def channels_last(model: nn.Module, x: Batch) -> Iterator[None]:
    """Lay a model's 2-D convolutions out with the channels last, and at the end as they lay.

    oneDNN then computes them as tensors lie, and need not bring each into another order first; what
    follows a convolution takes on its order. Sums come in another order, so numbers differ by
    rounding. A model stays as it is where it does not run on that, as with a ``Tensor.view`` of
    what a convolution returns, or draws numbers, as with dropout, which would fall otherwise.

    Args:
        model: the network, on its device and in its precision.
        x: examples, of which two are passed through it and back.
    """
    convolutions = [module for module in model.modules() if _gains(module)]
    try:
        _lay(convolutions, torch.channels_last)
        if convolutions and not _runs(model, rows(x, slice(0, 2))):
            _lay(convolutions, torch.contiguous_format)
        yield
    finally:
        _lay(convolutions, torch.contiguous_format)


def _gains(module: nn.Module) -> bool:
    """Whether this is a convolution whose own weight lies in PyTorch's usual order, on a CPU."""
    if type(module) is not nn.Conv2d or module._parameters.get("weight") is None:
        return False
    weight = module.weight
    return (
        weight.device.type == "cpu"
        and weight.dtype is torch.float32
        and weight.is_contiguous()
        and not weight.is_shared()  # with other processes, which go on with this memory
        and torch.backends.mkldnn.is_available()
    )


def _lay(convolutions: Iterable[nn.Module], order: torch.memory_format) -> None:
    for module in convolutions:
        weight = module.get_parameter("weight")
        weight.data = weight.data.contiguous(memory_format=order)


def _runs(model: nn.Module, x: Batch) -> bool:
    """Whether the model, in training, computes outputs and gradients, and draws no numbers."""
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with suppress(Exception), torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        outputs = outputs_of(OneNetwork(model).function, x)
        torch.autograd.grad(outputs.sum(), trained, allow_unused=True)
        return torch.equal(torch.get_rng_state(), before)
    return False
