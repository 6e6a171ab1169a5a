"""In which order the weights of convolutions lie in memory while a CPU trains them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from grokscope.measures.batches import Batch, rows
from grokscope.measures.host_random import host_random_kept
from grokscope.measures.modes import into_training, modes_kept, resting
from grokscope.measures.view import outputs_of
from grokscope.methods.networks import OneNetwork


def gaining(model: nn.Module, x: Batch) -> list[nn.Module]:
    """A model's 2-D convolutions that a CPU trains faster with the channels last in memory.

    oneDNN then computes them as tensors lie, and need not bring each into another order first; what
    follows a convolution takes on its order. Sums come in another order, so numbers differ by
    rounding. There are none where the model does not run on that, as with a ``Tensor.view`` of
    what a convolution returns, or draws numbers, as with dropout, which would fall otherwise.

    Args:
        model: the network, on its device and in its precision.
        x: examples, of which two are passed through it and back.
    """
    shared = _shared(model)
    convolutions = [module for module in model.modules() if _gains(module, shared)]
    if not convolutions:
        return []
    with channels_last(convolutions):
        return convolutions if _runs(model, rows(x, slice(0, 2))) else []


@contextmanager
def channels_last(
    convolutions: Sequence[nn.Module], optimizer: Optimizer | None = None
) -> Iterator[None]:
    """Lay weights out with the channels last for a few steps, and at the end as they lay.

    A fused ``optimizer`` goes through weights, gradients and moments as they lie in memory: its
    moments are laid out with them, and stay so, since nothing else reads them.
    """
    weights = [module.get_parameter("weight") for module in convolutions]
    usual = [weight.data for weight in weights]
    try:
        for weight in weights:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
            _lay_gradient(weight, torch.channels_last)
            moments = {} if optimizer is None else optimizer.state.get(weight, {})
            for name, value in moments.items():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    moments[name] = value.contiguous(memory_format=torch.channels_last)
        yield
    finally:
        # into the memory that they had, which others may refer to
        for weight, before in zip(weights, usual, strict=True):
            weight.data = before.copy_(weight.data)
            _lay_gradient(weight, torch.contiguous_format)


def _shared(model: nn.Module) -> set[int]:
    """Where memory begins in which more than one parameter lies: each would get its own."""
    starts = Counter(_start(parameter) for parameter in model.parameters())
    return {start for start, count in starts.items() if count > 1}


def _start(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _gains(module: nn.Module, shared: Container[int]) -> bool:
    """Whether this is a convolution whose own weight lies in PyTorch's usual order, on a CPU."""
    if type(module) is not nn.Conv2d or module._parameters.get("weight") is None:
        return False
    weight = module.weight
    return (
        weight.device.type == "cpu"
        and weight.dtype is torch.float32
        and weight.is_contiguous()
        and not weight.is_shared()  # with other processes, which go on with this memory
        and _start(weight) not in shared
        and torch.backends.mkldnn.is_available()
    )


def _lay_gradient(weight: nn.Parameter, order: torch.memory_format) -> None:
    if weight.grad is not None:
        weight.grad = weight.grad.contiguous(memory_format=order)


def _runs(model: nn.Module, x: Batch) -> bool:
    """Whether the model, in training, computes outputs and gradients, and draws no numbers."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with suppress(Exception), modes_kept(model), host_random_kept():
        into_training(model, resting([model]))
        before = torch.get_rng_state()
        outputs = outputs_of(OneNetwork(model).function, x)
        torch.autograd.grad(outputs.sum(), trained, allow_unused=True)
        return torch.equal(torch.get_rng_state(), before)
    return False
