"""Seeds x settings of one experiment, on one machine or many."""

from grokscope.experiments.sweep.driver import RunState, SweepObserver, work_through
from grokscope.experiments.sweep.engine import Engine, Job, Outcome
from grokscope.experiments.sweep.plan import Plan, Setting, plan_sweep
from grokscope.experiments.sweep.processes import ProcessEngine, num_cores, visible_gpus
from grokscope.experiments.sweep.progress import Progress, progress_of
from grokscope.experiments.sweep.work import work

__all__ = [
    "Engine",
    "Job",
    "Outcome",
    "Plan",
    "ProcessEngine",
    "Progress",
    "RunState",
    "Setting",
    "SweepObserver",
    "num_cores",
    "plan_sweep",
    "progress_of",
    "visible_gpus",
    "work",
    "work_through",
]
