"""Training methods at work on several networks at once.

``STACKED`` names the counterpart of each method, by its exact class: a subclass may do anything.
Put your own in to have it train many seeds at once; what has no entry trains one after another.
"""

from collections.abc import Sequence
from typing import Any

from grokscope.methods.adversarial import AdversarialTraining
from grokscope.methods.base import Method
from grokscope.methods.gradient_noise import GradientNoise
from grokscope.methods.grokalign import GrokAlign
from grokscope.methods.grokfast import Grokfast
from grokscope.methods.orthograd import OrthoGrad
from grokscope.methods.stacked.adversarial import StackedAdversarialTraining
from grokscope.methods.stacked.base import StackedLoss, StackedMethod, normal_numbers
from grokscope.methods.stacked.gradient_noise import StackedGradientNoise
from grokscope.methods.stacked.grokalign import StackedGrokAlign
from grokscope.methods.stacked.grokfast import StackedGrokfast
from grokscope.methods.stacked.network import StackedNetwork, rows_of
from grokscope.methods.stacked.orthograd import StackedOrthoGrad

STACKED: dict[type[Method], type[StackedMethod[Any]]] = {
    AdversarialTraining: StackedAdversarialTraining,
    GradientNoise: StackedGradientNoise,
    GrokAlign: StackedGrokAlign,
    Grokfast: StackedGrokfast,
    Method: StackedMethod,
    OrthoGrad: StackedOrthoGrad,
}


def stacked(methods: Sequence[Sequence[Method]]) -> list[StackedMethod[Any]]:
    """The methods of several networks, the same for each, as methods of the stack."""
    return [STACKED[type(same[0])](same) for same in zip(*methods, strict=True)]


def stacking_obstacle(methods: Sequence[Sequence[Method]]) -> str | None:
    """Why the methods of several networks cannot work on all of them at once, or None."""
    kinds = [[type(method) for method in own] for own in methods]
    if any(kind != kinds[0] for kind in kinds):
        return "the networks have different methods"
    for same in zip(*methods, strict=True):
        if type(same[0]) not in STACKED:
            return f"the method {type(same[0]).__name__} works on one network at a time"
        settings = [_settings(method) for method in same]
        for name, value in settings[0].items():
            if any(own.get(name) != value for own in settings):
                return f"{name} of {type(same[0]).__name__} differs between the networks"
    return None


def _settings(method: Method) -> dict[str, Any]:
    """What a method was made with: its public attributes that are plain values."""
    plain = (bool, int, float, str, tuple, type(None))
    return {
        name: value
        for name, value in vars(method).items()
        if not name.startswith("_") and isinstance(value, plain)
    }


__all__ = [
    "STACKED",
    "StackedLoss",
    "StackedMethod",
    "StackedNetwork",
    "normal_numbers",
    "rows_of",
    "stacked",
    "stacking_obstacle",
]
