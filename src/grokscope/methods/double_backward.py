"""Layers whose second derivatives PyTorch computes slowly, put on graphs that do not.

Double backward, which the penalty of a network that is no chain goes by, meets two operations whose
second derivatives take several times as long as they need: convolutions and BatchNorm in training
mode. Forward hooks take their outputs as they are and put them on the graphs of
`grokscope.methods.convolutions` and `grokscope.methods.batch_norm`; the numbers are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from grokscope.measures.hooks import ObservingHook
from grokscope.methods.batch_norm import rewired_batch_norm
from grokscope.methods.convolutions import rewired_convolution

_LAYERS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
)
# by the node that PyTorch's own graph has at the output
_REWIRED: dict[str, Callable[[Any, Tensor], Tensor | None]] = {
    "ConvolutionBackward0": rewired_convolution,
    "NativeBatchNormBackward0": rewired_batch_norm,
}


@contextmanager
def cheap_second_derivatives(models: Sequence[nn.Module]) -> Iterator[None]:
    """Put what these models compute inside on graphs that are cheap to differentiate twice."""
    layers = [layer for model in models for layer in layers_to_rewire(model)]
    handles = [layer.register_forward_hook(OnLayer()) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def layers_to_rewire(model: nn.Module) -> list[nn.Module]:
    """The layers of a model that ``OnLayer`` may be of use to, each once."""
    return [layer for layer in model.modules() if isinstance(layer, _LAYERS)]


@dataclass(frozen=True)
class OnLayer(ObservingHook):
    """A forward hook that gives a layer's output, as it is, another graph.

    An output that is not the layer's own, as behind another hook, keeps its graph.

    Attributes:
        wanted: whether it should now; always if None.
    """

    wanted: Callable[[], bool] | None = None

    def __call__(self, _layer: nn.Module, _args: tuple[Any, ...], output: Any) -> Tensor | None:
        """The output with another graph, or None to keep its own."""
        if torch.compiler.is_compiling() or not isinstance(output, Tensor):
            return None
        node: Any = output.grad_fn
        if node is None or (self.wanted is not None and not self.wanted()):
            return None
        rewired = _REWIRED.get(node.name())
        return rewired(node, output) if rewired is not None and _is_held(node) else None


def _is_held(node: Any) -> bool:
    """Whether a node holds the tensors it saved, rather than what a checkpoint packed them into."""
    try:
        # a saved tensor takes hooks only once
        node._raw_saved_input.register_hooks(_same, _same)
    except RuntimeError:
        return False
    return True


def _same(tensor: Tensor) -> Tensor:
    return tensor
