"""One file per figure or table: what is run and what is claimed."""

from grokscope.experiments.catalogue import reproducible, shipped
from grokscope.experiments.errors import SpecError
from grokscope.experiments.registry import load_experiment
from grokscope.experiments.runner import Observer, run_experiment
from grokscope.experiments.spec import Experiment

__all__ = [
    "Experiment",
    "Observer",
    "SpecError",
    "load_experiment",
    "reproducible",
    "run_experiment",
    "shipped",
]
