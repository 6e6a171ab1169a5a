"""Ways to bring generalization forward: a function for one's own loop, a class for ours."""

from grokscope.methods.adversarial import AdversarialTraining
from grokscope.methods.base import Method
from grokscope.methods.clipping import GradientClipping
from grokscope.methods.gradient_noise import GradientNoise
from grokscope.methods.grokalign import GrokAlign
from grokscope.methods.grokfast import Grokfast
from grokscope.methods.networks import Networks, OneNetwork
from grokscope.methods.orthograd import OrthoGrad

METHODS: dict[str, type[Method]] = {
    AdversarialTraining.name: AdversarialTraining,
    GradientClipping.name: GradientClipping,
    GradientNoise.name: GradientNoise,
    GrokAlign.name: GrokAlign,
    Grokfast.name: Grokfast,
    OrthoGrad.name: OrthoGrad,
}

__all__ = [
    "METHODS",
    "AdversarialTraining",
    "GradientClipping",
    "GradientNoise",
    "GrokAlign",
    "Grokfast",
    "Method",
    "Networks",
    "OneNetwork",
    "OrthoGrad",
]
