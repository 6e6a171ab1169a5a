"""Experiments by name, resolved to the last default."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from grokscope.experiments.catalogue import merge, other_presets, raw_experiment
from grokscope.experiments.errors import SpecError, mistakes
from grokscope.experiments.spec import Experiment, TrialSpec
from grokscope.spelling import unknown_name

SECTIONS = ("data", "model", "training", "monitor")


def load_experiment(
    name: str,
    preset: str = "quick",
    settings: Sequence[str] = (),
    num_seeds: int | None = None,
) -> Experiment:
    """An experiment with preset and settings applied and every default filled in.

    Args:
        name: name of a shipped experiment, of the figure or table it reproduces
            ("grokalign/fig7"), or a YAML file.
        preset: "quick" or "paper".
        settings: ``path=value`` each, such as ``training.lr=1e-3``; they win over the preset.
        num_seeds: seeds 0 to ``num_seeds - 1`` instead of the experiment's own.

    Raises:
        SpecError: if the name is unknown or the spec has mistakes; all of them are listed.
    """
    raw = raw_experiment(name, preset, settings, num_seeds)
    raw.pop("sweep", None)
    experiment = resolve(raw, name)
    check_other_presets(name, preset)
    return experiment


def check_other_presets(name: str, preset: str) -> None:
    """Raise where a preset that was not chosen has fields that there are none of.

    Its values are left to the day it is chosen: settings may go with them.

    Raises:
        SpecError: if it has such fields.
    """
    for other, raw in other_presets(name, preset).items():
        raw.pop("sweep", None)
        try:
            resolve(raw, name)
        except SpecError as error:
            lines = [line.strip() for line in str(error).splitlines()[1:]]
            if strange := [line for line in lines if ": unknown field " in line]:
                raise SpecError.of(f"{name}: presets.{other}", strange) from None


def resolve(raw: Mapping[str, Any], name: str) -> Experiment:
    """Give each arm all its settings and check the whole, with every mistake reported at once.

    A section (data, model, training, monitor) at the top holds for all arms; an arm gives only
    what differs.
    """
    spec: dict[str, Any] = copy.deepcopy(dict(raw))
    shared = {section: spec.pop(section) for section in SECTIONS if section in spec}
    arms = spec.get("arms")
    if not isinstance(arms, Mapping):
        raise SpecError(f"{name}: arms: missing; an experiment names its arms")
    spec["arms"] = {
        arm: merge(shared, patch or {}) if isinstance(patch or {}, Mapping) else patch
        for arm, patch in arms.items()
    }
    fields = [*Experiment.model_fields, *SECTIONS]
    strange = [key for key in spec if key not in fields]
    found = [f"{key}: {unknown_name('field', key, fields)}" for key in strange]
    for key in strange:
        del spec[key]
    shared_mistakes: list[str] = []
    try:
        TrialSpec.model_validate(shared)
    except ValidationError as error:
        shared_mistakes = [line for line in mistakes(error, TrialSpec) if line != "data: missing"]
    try:
        experiment = Experiment.model_validate(spec)
    except ValidationError as error:
        # What is wrong in a shared section would show again in each of the arms.
        repeated = tuple(f".{line}" for line in shared_mistakes)
        found += [
            line
            for line in mistakes(error, Experiment)
            if not (line.startswith("arms.") and line.endswith(repeated))
        ]
    found += shared_mistakes
    if not found:
        return experiment
    raise SpecError.of(name, found)
