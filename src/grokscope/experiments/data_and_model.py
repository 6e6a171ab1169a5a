"""The sections of an experiment that say what is trained on what: data and a model.

Both come by name, with the options of the data set's loader or the architecture's class, or by an
import path; data also from a file.
"""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from grokscope.data import DATASETS
from grokscope.experiments.errors import mistakes
from grokscope.findings.sections import Strict, one_of, section_of
from grokscope.imports import check_import_path
from grokscope.models import ACTIVATIONS, MODELS
from grokscope.models.registry import FROM_DATA
from grokscope.spelling import shortened, unknown_name

# below what PyTorch, NumPy and a row of metrics take
Positive = Annotated[int, Field(ge=1, lt=2**63)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
_BESIDE_OPTIONS = ("name", "options", "reduce_to_span")
DATA_FILES = (".npz", ".safetensors")
_GIVEN_BY_US = ("data_dir", "dtype")  # arguments of a data set's loader


class DataSpec(Strict):
    """Which examples; ``options`` go to the data set's own loader.

    With ``reduce_to_span`` training takes place in the span of the first layer's rows and the
    training data, where it is the same and cheaper; see ``grokscope.data.reduce_to_span``.
    """

    name: str
    classes: tuple[int, ...] | None = None
    train_size: Positive | None = None
    test_size: Positive | None = None
    subset: Literal["first", "seeded"] = "first"
    seed: Seed = 0
    normalize: tuple[float, float] | None = None
    flatten: bool = True
    options: dict[str, Any] = Field(default_factory=dict)
    reduce_to_span: bool = False

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in DATASETS:
            raise ValueError(unknown_name("data set", name, DATASETS) + _own(name))
        return name

    @model_validator(mode="after")
    def _has_its_own_options(self) -> DataSpec:
        fields = [field for field in DataSpec.model_fields if field not in _BESIDE_OPTIONS]
        known = signature(DATASETS[self.name].loader).parameters.keys() - {*fields, *_GIVEN_BY_US}
        for option in self.options:
            if option in fields:
                raise ValueError(f"options.{option}: write it as data.{option}, outside options")
            if option not in known:
                raise ValueError(
                    unknown_name(f"option of {self.name}", option, known)
                    if known
                    else f"options.{option}: {self.name} takes no options"
                )
        section = section_of(DATASETS[self.name].loader, without={*fields, *_GIVEN_BY_US})
        try:
            section.model_validate(self.options)
        except ValidationError as error:
            raise ValueError("; ".join(mistakes(error, section, "options."))) from None
        return self


def _own(name: Any) -> str:
    """How what was given as a name is written, where it is a user's own."""
    if not isinstance(name, str):
        return ""
    key = "file" if name.endswith(DATA_FILES) else "import" if ":" in name else None
    return f"; your own is written {{{key}: {shortened(name)}}}" if key else ""


class FileSpec(Strict):
    """Data of one's own in a .npz or .safetensors file; see ``grokscope.data.load_file``."""

    file: str
    reduce_to_span: bool = False


def _keyword(name: str) -> str:
    if not name.isidentifier():
        raise ValueError("takes names of arguments, as in {width: 64}")
    return name


# "import" is a word of Python, so that these fields are written as a dictionary
_IMPORT: dict[str, Any] = {
    "import": (Annotated[str, AfterValidator(check_import_path)], ...),
    "arguments": (dict[Annotated[str, AfterValidator(_keyword)], Any], Field(default_factory=dict)),
    "folder": (str | None, None),
}


class ImportedDataSpec(
    create_model("ImportedData", __base__=Strict, **_IMPORT)  # type: ignore[misc]
):
    """Data from a function of one's own, called with ``arguments``.

    It returns what ``fit`` takes: a ``Dataset``, or train_x, train_y, test_x and test_y, or data
    sets or loaders of torch for training and test. Its module is looked for in ``folder`` first,
    which is that of the experiment's file.
    """

    reduce_to_span: bool = False


class ImportedModelSpec(
    create_model("ImportedModel", __base__=Strict, **_IMPORT)  # type: ignore[misc]
):
    """A network of one's own, called with ``arguments``; ``folder`` as for data."""


def _checked_activation(activation: str) -> str:
    if activation not in ACTIVATIONS:
        raise ValueError(unknown_name("activation", activation, ACTIVATIONS))
    return activation


_Activation = Annotated[str, AfterValidator(_checked_activation)]
_MODEL_FIELDS: dict[str, dict[str, Any]] = {
    "mlp": {
        "widths": (tuple[Positive, ...], (200, 200)),
        "scalar_output": (bool, False),
        "activation": _Activation,
    },
    "cnn": {"widths": tuple[Positive, ...], "activation": _Activation},
    "transformer": {"activation": _Activation},
}
MODEL_SPECS: dict[str, type[Strict]] = {
    name: section_of(
        architecture,
        without=[*FROM_DATA, "seed"],
        name=(Literal[name], name),
        **_MODEL_FIELDS.get(name, {}),
    )
    for name, (_, architecture) in MODELS.items()
}


def _data_tag(value: Any) -> str:
    for key, section in (("import", ImportedDataSpec), ("file", FileSpec)):
        if isinstance(value, section) or (isinstance(value, dict) and key in value):
            return section.__name__
    return ImportedDataSpec.__name__ if _is_import(value) else DataSpec.__name__


def _model_tag(value: Any) -> str:
    given = value if isinstance(value, dict) else dict(value) if isinstance(value, Strict) else {}
    if "import" in given or _is_import(value):
        return ImportedModelSpec.__name__
    name = given.get("name", "mlp")
    return name if _is_known_model(name) else "mlp"


def _is_import(value: Any) -> bool:
    """Whether a path of an import stands where its section belongs."""
    return isinstance(value, str) and ":" in value


def _is_known_model(name: Any) -> bool:
    return isinstance(name, str) and name in MODEL_SPECS


def _of_known_model(value: Any) -> Any:
    if not isinstance(value, dict) or "import" in value:
        return value
    if _is_known_model(value.get("name", "mlp")):
        return value
    raise ValueError(unknown_name("model", value["name"], MODEL_SPECS) + _own(value["name"]))


if TYPE_CHECKING:
    AnyDataSpec = Any
    AnyModelSpec = Any
else:
    AnyDataSpec = Annotated[
        one_of(
            *(Annotated[own, Tag(own.__name__)] for own in (DataSpec, FileSpec, ImportedDataSpec))
        ),
        Discriminator(_data_tag),
    ]
    AnyModelSpec = Annotated[
        one_of(
            *(Annotated[section, Tag(name)] for name, section in MODEL_SPECS.items()),
            Annotated[ImportedModelSpec, Tag(ImportedModelSpec.__name__)],
        ),
        Discriminator(_model_tag),
        BeforeValidator(_of_known_model),
    ]
