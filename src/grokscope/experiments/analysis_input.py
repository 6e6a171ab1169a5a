"""What an analysis sees of an experiment whose training is over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from grokscope.data import Dataset
from grokscope.runs import Run, RunDirectory


class AnalysisInput:
    """The trained networks of an experiment with their data and records.

    Args:
        directory: the run directory, open for writing.
        data: the data set of each arm.
        build: builds the network of an arm and a seed, as it was before training.
        load: loads a data set that no arm trains on, from a section like a spec's ``data``.
    """

    def __init__(
        self,
        directory: RunDirectory,
        data: Mapping[str, Dataset],
        build: Callable[[str, int], nn.Module],
        load: Callable[[Mapping[str, Any]], Dataset],
    ) -> None:
        self.run = Run(directory.path)
        self.data = data
        self._directory = directory
        self._build = build
        self.load = load

    def model(self, arm: str, seed: int, step: int | None = None) -> nn.Module:
        """The network at a step whose checkpoint was kept, or at the last; in eval mode.

        Raises:
            RunError: if that checkpoint was not kept.
        """
        model = self._build(arm, seed)
        model.load_state_dict(self.run.checkpoint(arm, seed, step)["model"])
        return model.eval()

    def initial(self, arm: str, seed: int) -> nn.Module:
        """The network as it was before training; on the CPU, in eval mode."""
        return self._build(arm, seed).eval()

    def save_arrays(self, arm: str, seed: int, name: str, arrays: Mapping[str, Tensor]) -> None:
        """Write tensors for the report under ``arrays/ARM/seed-S/NAME.safetensors``."""
        self._directory.trial(arm, seed).save_arrays(name, arrays)
