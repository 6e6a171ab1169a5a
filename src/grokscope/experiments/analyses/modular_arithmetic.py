"""How much of a network is the algorithm for modular arithmetic, at every kept checkpoint.

The progress measures of Nanda et al. 2023 (see ``grokscope.measures.progress``) by the key
frequencies of the network as it is at its last step, as in the paper: those at which its
neuron-logit map is largest. Of a network that has not generalized they are the largest of a flat
spectrum and mean little; its logit share says so. Beside them the Fourier spectra of its weights
over the residues, as pictures over training.
"""

from __future__ import annotations

from statistics import fmean, median, stdev
from typing import Any

import torch
from torch import Tensor

from grokscope.data import Dataset
from grokscope.experiments.analysis_input import AnalysisInput
from grokscope.measures.fourier import fourier_spectrum
from grokscope.measures.progress import key_frequencies, progress_measures
from grokscope.models.transformer import residue_weights

MEASURES = ("restricted_loss", "excluded_loss", "logit_share")
Columns = dict[str, list[float]]


def modular_arithmetic(trained: AnalysisInput, *, num_frequencies: int = 5) -> dict[str, Any]:
    """Progress measures and spectra at the kept checkpoints of every training.

    Args:
        trained: the trained networks: models with ``residue_weights``, on the data set ``modular``.
        num_frequencies: how many key frequencies a network has.

    Returns:
        ``finding``: a sentence. ``progress``: for each arm ``steps``, and by name of a measure its
        mean over seeds and as ``NAME_deviation`` the standard deviation, where there are several.
        ``last``: for each arm the measures at the last step, medians over seeds. ``table``: a row
        for each training with its key frequencies. As the tensors ``spectra`` of each training are
        stored ``steps`` (s,), ``frequencies`` (f,), and (f, s) the spectrum of each weight, its
        largest component 1.

    Raises:
        ValueError: if a training is of other data or of a model without ``residue_weights``.
    """
    run = trained.run
    found: dict[str, dict[int, Columns]] = {arm: {} for arm in run.arms}
    table = []
    for arm, seed in run.trials:
        data = trained.data[arm]
        if data.name != "modular":
            raise ValueError(f"modular_arithmetic is of the data modular: {arm} has {data.name}")
        weight = residue_weights(trained.model(arm, seed))["neuron_logit"]
        keys = key_frequencies(weight, len(weight), num_frequencies)
        columns = _progress(trained, arm, seed, data, keys)
        found[arm][seed] = columns
        _save_spectra(trained, arm, seed)
        table.append(
            {
                "condition": _title(trained, arm),
                "seed": seed,
                "frequencies": ", ".join(map(str, keys)),
                **{name: columns[name][-1] for name in MEASURES},
            }
        )
    last = {
        arm: {name: median([columns[name][-1] for columns in seeds.values()]) for name in MEASURES}
        for arm, seeds in found.items()
    }
    return {
        "finding": _finding(trained, last),
        "progress": {arm: _over_seeds(seeds) for arm, seeds in found.items()},
        "last": last,
        "table": table,
    }


def _progress(
    trained: AnalysisInput, arm: str, seed: int, data: Dataset, keys: list[int]
) -> Columns:
    """``steps`` and the progress measures of one training."""
    x, y = torch.cat([data.train_x, data.test_x]), torch.cat([data.train_y, data.test_y])
    train = torch.arange(len(x)) < len(data.train_x)
    columns: Columns = {name: [] for name in ("steps", *MEASURES)}
    for step in trained.run.checkpoint_steps(arm, seed):
        with torch.no_grad():
            logits = trained.model(arm, seed, step)(x)
        measures = progress_measures(logits, y, train, keys)
        columns["steps"].append(step)
        for name in MEASURES:
            columns[name].append(getattr(measures, name))
    return columns


def _save_spectra(trained: AnalysisInput, arm: str, seed: int) -> None:
    """Store the spectra of a training's weights over residues at its kept checkpoints."""
    steps = trained.run.checkpoint_steps(arm, seed)
    spectra: dict[str, list[Tensor]] = {}
    for step in steps:
        for name, weight in residue_weights(trained.model(arm, seed, step)).items():
            spectrum = fourier_spectrum(weight, len(weight))[1:]
            spectra.setdefault(name, []).append(spectrum / spectrum.max().clamp_min(1e-30))
    pictures = {name: torch.stack(columns, 1) for name, columns in spectra.items()}
    frequencies = torch.arange(1, 1 + len(next(iter(pictures.values()))))
    arrays = {"steps": torch.tensor(steps), "frequencies": frequencies, **pictures}
    trained.save_arrays(arm, seed, "spectra", arrays)


def _over_seeds(seeds: dict[int, Columns]) -> Columns:
    """Means over seeds at the steps that all of them kept, with deviations where there are some."""
    kept = [set(columns["steps"]) for columns in seeds.values()]
    steps = sorted(set.intersection(*kept))
    merged: Columns = {"steps": steps}
    for name in MEASURES:
        by_step = [dict(zip(one["steps"], one[name], strict=True)) for one in seeds.values()]
        values = [[row[step] for row in by_step] for step in steps]
        merged[name] = [fmean(at) for at in values]
        if len(by_step) > 1:
            merged[f"{name}_deviation"] = [stdev(at) for at in values]
    return merged


def _finding(trained: AnalysisInput, last: dict[str, dict[str, float]]) -> str:
    parts = [
        f"{_title(trained, arm)}: {measures['logit_share']:.0%}" for arm, measures in last.items()
    ]
    return f"Share of the logits' variance in key frequencies at the end: {'; '.join(parts)}"


def _title(trained: AnalysisInput, arm: str) -> str:
    return trained.run.spec["arms"][arm].get("title") or arm
