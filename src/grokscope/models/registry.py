"""The architectures by name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from grokscope.models.cnn import CNN
from grokscope.models.mlp import MLP
from grokscope.models.transformer import Transformer
from grokscope.spelling import unknown_name


def _mlp(
    in_shape: Sequence[int], out_features: int | None, widths: Sequence[int], **options: Any
) -> MLP:
    return MLP(math.prod(in_shape), widths, out_features, **options)


def _cnn(
    in_shape: Sequence[int], out_features: int | None, widths: Sequence[int], **options: Any
) -> CNN:
    return CNN(in_shape, widths, out_features, **options)


def _transformer(in_shape: Sequence[int], out_features: int | None, **options: Any) -> Transformer:
    if out_features is None or len(in_shape) != 1:
        raise ValueError(
            "transformer is for tokens and classes, as of modular with encoding tokens: got "
            f"inputs of shape {tuple(in_shape)} and {out_features} classes"
        )
    return Transformer(out_features, length=in_shape[0], **options)


# name -> builder, called with the shape of one input, the outputs and the options, and the class
# whose arguments the options are
MODELS: dict[str, tuple[Callable[..., nn.Module], type[nn.Module]]] = {
    "cnn": (_cnn, CNN),
    "mlp": (_mlp, MLP),
    "transformer": (_transformer, Transformer),
}

# arguments of an architecture that follow from the data
FROM_DATA = ("self", "in_shape", "in_features", "out_features", "modulus", "length")


def build(
    name: str, in_shape: Sequence[int], out_features: int | None, **options: Any
) -> nn.Module:
    """The architecture called ``name``, sized for a data set.

    Args:
        name: one of ``MODELS``.
        in_shape: shape of one input, such as (784,) or (3, 32, 32).
        out_features: number of outputs; None for a scalar output, as a data set's ``num_classes``.
        **options: what the architecture takes besides, such as ``widths`` for ``"mlp"``.

    Raises:
        ValueError: if the name or an option is not known, or an option is missing or out of range.

    Example:
        >>> from grokscope.models import build
        >>> len(build("mlp", (784,), 10, widths=[200, 200], seed=0))
        6
    """
    if name not in MODELS:
        raise ValueError(unknown_name("model", name, MODELS))
    builder, architecture = MODELS[name]
    parameters = inspect.signature(architecture.__init__).parameters
    known = {key: parameters[key] for key in parameters if key not in FROM_DATA}
    for option in options:
        if option not in known:
            raise ValueError(unknown_name(f"option of {name}", option, known))
    for key, parameter in known.items():
        if parameter.default is parameter.empty and key not in options:
            raise ValueError(f"{name} needs the option {key!r}")
    return builder(in_shape, out_features, **options)
