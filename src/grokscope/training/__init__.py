"""The training loop, its schedules and checkpoints, and the monitor."""

from grokscope.training.fit import fit, fit_seeds
from grokscope.training.layer_geometry import LayerGeometry
from grokscope.training.member import FitResult
from grokscope.training.monitor import Monitor
from grokscope.training.noise_accuracy import NoiseAccuracy
from grokscope.training.ntk_distance import NTKDistance
from grokscope.training.phase import Phase
from grokscope.training.recorder import Recorder
from grokscope.training.robust_accuracy import RobustAccuracy
from grokscope.training.schedule import Schedule
from grokscope.training.settings import TrainingSettings
from grokscope.training.settled import StopWhenSettled

__all__ = [
    "FitResult",
    "LayerGeometry",
    "Monitor",
    "NTKDistance",
    "NoiseAccuracy",
    "Phase",
    "Recorder",
    "RobustAccuracy",
    "Schedule",
    "StopWhenSettled",
    "TrainingSettings",
    "fit",
    "fit_seeds",
]
