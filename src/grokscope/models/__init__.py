"""Architectures."""

from grokscope.models.cnn import CNN
from grokscope.models.mlp import ACTIVATIONS, MLP, Scale
from grokscope.models.registry import MODELS, build
from grokscope.models.seeding import seeded_initialization
from grokscope.models.transformer import Transformer

__all__ = [
    "ACTIVATIONS",
    "CNN",
    "MLP",
    "MODELS",
    "Scale",
    "Transformer",
    "build",
    "seeded_initialization",
]
