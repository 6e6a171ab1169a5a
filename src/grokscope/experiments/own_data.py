"""What a run records of data of one's own, so that it is not resumed with others.

The spec names a file or a function, and either may give other numbers of the same shape later.
Data sets by name need no such record: what they give follows from their settings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch

from grokscope.data import Dataset
from grokscope.experiments.data_and_model import FileSpec, ImportedDataSpec
from grokscope.experiments.errors import SpecError
from grokscope.experiments.spec import Experiment
from grokscope.measures.batches import leaves


def own_data_digests(experiment: Experiment, data: Mapping[str, Dataset]) -> dict[str, str]:
    """For each arm with data from a file or an import, the SHA-256 of its examples."""
    return {
        arm: _digest(data[arm])
        for arm, trial in experiment.arms.items()
        if isinstance(trial.data, (FileSpec, ImportedDataSpec))
    }


def check_same_data(
    experiment: Experiment, recorded: Mapping[str, Any], digests: Mapping[str, str]
) -> None:
    """Raise where a run would go on with other data; a run recorded without digests goes on.

    Raises:
        SpecError: if the examples of an arm are not those that the run began with.
    """
    for arm, digest in digests.items():
        if recorded.get(arm, digest) != digest:
            spec = experiment.arms[arm].data
            source = (
                spec.file if isinstance(spec, FileSpec) else f"import {getattr(spec, 'import')}"
            )
            raise SpecError(
                f"arms.{arm}.data: {source} gives other data than the run began with; put those "
                "back, or name another folder with --out"
            )


def _digest(data: Dataset) -> str:
    parts = {name: getattr(data, name) for name in ("train_x", "train_y", "test_x", "test_y")}
    found = hashlib.sha256()
    for name, part in {**parts, **data.test_parts}.items():
        for key, tensor in leaves(part).items():
            values = tensor.detach().cpu().contiguous()
            found.update(f"{name}/{key}: {values.dtype} {tuple(values.shape)};".encode())
            found.update(
                values.reshape(-1).view(torch.uint8).numpy().data
            )  # their bytes, row by row
    return found.hexdigest()
