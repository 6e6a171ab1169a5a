"""What can be set is written once: keywords, sections of a spec and classes agree."""

from __future__ import annotations

from dataclasses import fields
from inspect import signature
from typing import Any

import pytest

import grokscope as gs
from grokscope.experiments.data_and_model import MODEL_SPECS
from grokscope.experiments.spec import METHOD_SPECS, SettledSpec, TrainingSpec
from grokscope.methods import METHODS
from grokscope.models import MODELS
from grokscope.training import TrainingSettings

# what YAML writes otherwise than Python
OTHERWISE = ("evaluate", "dtype")


@pytest.mark.parametrize("function", [gs.fit, gs.fit_seeds])
def test_every_setting_is_a_keyword_with_its_default(function: Any) -> None:
    shown = signature(function).parameters
    for field in fields(TrainingSettings):
        assert shown[field.name].default == field.default
        assert shown[field.name].kind is shown[field.name].KEYWORD_ONLY
    assert "settings" not in shown


def test_the_section_of_a_spec_has_the_same_settings_and_defaults() -> None:
    section = TrainingSpec()
    names = [field.name for field in fields(TrainingSettings)]
    assert list(TrainingSpec.model_fields) == names
    for field in fields(TrainingSettings):
        if field.name not in OTHERWISE:
            assert getattr(section, field.name) == field.default, field.name
    assert gs.StopWhenSettled(**SettledSpec(name="settled").model_dump(exclude={"name"})) == (
        gs.StopWhenSettled()
    )


@pytest.mark.parametrize("name", METHODS)
def test_a_method_of_a_spec_has_the_arguments_of_its_class(name: str) -> None:
    method: Any = METHODS[name]
    arguments = {key: of.default for key, of in signature(method).parameters.items()}
    arguments.pop("seed", None)
    section = METHOD_SPECS[name]
    assert [key for key in section.model_fields if key != "name"] == list(arguments)
    assert {key: of.default for key, of in section.model_fields.items() if key != "name"} == (
        arguments
    )


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_a_spec_takes_arguments_of_its_class(name: str) -> None:
    arguments = signature(MODELS[name][1]).parameters
    own = {"name", "scalar_output"}  # whether the data's targets are numbers is the data's matter
    assert set(MODEL_SPECS[name].model_fields) - own <= set(arguments)


def test_a_setting_that_is_not_one_is_named() -> None:
    with pytest.raises(ValueError, match="unknown setting of fit 'lrr'; did you mean 'lr'"):
        gs.fit(gs.MLP(2, [3], 2), (), lrr=1)


@pytest.mark.parametrize("stop_at", [0.1, "soon"])
def test_what_training_can_never_stop_at_is_refused(stop_at: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="stop_at"):
        TrainingSettings(stop_at=stop_at)
