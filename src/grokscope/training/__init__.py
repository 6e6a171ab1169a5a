"""The training loop, its schedules and checkpoints, and the monitor."""

from grokscope.findings.phase import Phase
from grokscope.findings.settled import StopWhenSettled
from grokscope.training.fit import fit, fit_seeds
from grokscope.training.host_memory import keep_freed_memory
from grokscope.training.layer_geometry import LayerGeometry
from grokscope.training.measure import measure
from grokscope.training.measure_with_memory import MeasureWithMemory
from grokscope.training.member import FitResult
from grokscope.training.monitor import Monitor
from grokscope.training.noise_accuracy import NoiseAccuracy
from grokscope.training.ntk_distance import NTKDistance
from grokscope.training.robust_accuracy import RobustAccuracy
from grokscope.training.schedule import Schedule
from grokscope.training.settings import TrainingSettings

__all__ = [
    "FitResult",
    "LayerGeometry",
    "MeasureWithMemory",
    "Monitor",
    "NTKDistance",
    "NoiseAccuracy",
    "Phase",
    "RobustAccuracy",
    "Schedule",
    "StopWhenSettled",
    "TrainingSettings",
    "fit",
    "fit_seeds",
    "keep_freed_memory",
    "measure",
]
