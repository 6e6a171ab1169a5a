"""A data set and a network named on the command line, in the terms of a spec."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from grokscope.data import Dataset
from grokscope.experiments.data_and_model import DATA_FILES
from grokscope.experiments.errors import SpecError, mistakes
from grokscope.experiments.from_spec import build_model, check_trial, load_dataset
from grokscope.experiments.spec import TrialSpec
from grokscope.experiments.yaml_files import yaml_value

_IMPORT = re.compile(r"[\w.]+:\w+")


def named_data_and_model(
    data: str,
    model: str,
    *,
    data_arguments: Sequence[str] = (),
    model_arguments: Sequence[str] = (),
    loss: str = "cross_entropy",
    data_dir: str | Path | None = None,
) -> tuple[Dataset, nn.Module]:
    """What a spec's sections ``data`` and ``model`` would give.

    Args:
        data: ``module:function``, a .npz or .safetensors file, or the name of a data set.
        model: ``module:Name`` of a class or function, or the name of an architecture.
        data_arguments: ``name=value`` each.
        model_arguments: the same for the model.
        loss: the loss to record.
        data_dir: a folder that holds the data sets already.

    Raises:
        SpecError: if a name or an argument is wrong, or an import finds nothing.
        DataError: if data are missing or damaged.
    """
    sections = {
        "data": _section("--data", data, "--data-arg", data_arguments),
        "model": _section("--model", model, "--model-arg", model_arguments),
        "training": {"loss": loss},
    }
    try:
        spec = TrialSpec.model_validate(sections)
    except ValidationError as error:
        lines = [line.removeprefix("training.") for line in mistakes(error, TrialSpec)]
        raise SpecError("; ".join(f"--{line}" for line in lines)) from None
    found = load_dataset(spec.data, spec.training.dtype, data_dir)
    check_trial(spec, found, 0)
    return found, build_model(spec.model, found, seed=0)


def _section(option: str, named: str, argument: str, given: Sequence[str]) -> dict[str, Any]:
    arguments = dict(_argument(argument, text) for text in given)
    if _IMPORT.fullmatch(named):
        return {"import": named, "arguments": arguments, "folder": str(Path.cwd())}
    if option == "--data" and (Path(named).suffix in DATA_FILES or Path(named).is_file()):
        if arguments:
            raise SpecError(f"{argument} goes with module:function or a data set by name: {named}")
        return {"file": named}
    return {"name": named, **arguments}


def _argument(option: str, text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise SpecError(f"{option} takes name=value, as in width=64: got {text!r}")
    return name, yaml_value(f"{option} {text}", value)
