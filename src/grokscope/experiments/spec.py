"""What an experiment is: data, all of it, with every default spelled out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from inspect import signature
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from grokscope.experiments.analyses import ANALYSES
from grokscope.experiments.analyses.needs import (
    looks_at_checkpoints,
    measures_needed,
    missing_option,
)
from grokscope.experiments.catalogue import Preset
from grokscope.experiments.columns import misspelt_column
from grokscope.experiments.data_and_model import (
    MODEL_SPECS,
    AnyDataSpec,
    AnyModelSpec,
    Positive,
    Seed,
)
from grokscope.findings.claims import Claim
from grokscope.findings.curves import ALIGNMENTS
from grokscope.findings.panels import PanelSpec
from grokscope.findings.sections import Finite, Strict, one_of, section_of
from grokscope.findings.settled import StopWhenSettled
from grokscope.findings.target import TargetSection
from grokscope.methods import METHODS
from grokscope.runs.files import NAME
from grokscope.runs.reader import spelled_now
from grokscope.spelling import unknown_name
from grokscope.training.measurements import DEFAULT_MEASURES, MEASURES
from grokscope.training.noise_accuracy import NoiseAccuracy
from grokscope.training.robust_accuracy import RobustAccuracy
from grokscope.training.settings import TrainingSettings

NotNegativeInt = Annotated[int, Field(ge=0)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# Of an experiment, an arm or a milestone: the first two name folders and files.
Name = Annotated[str, Field(pattern=f"^{NAME}$", max_length=100)]
_MOST_THREADS = 1024  # the process dies of a million
_NEED_TEST_POINTS = (NoiseAccuracy.name, RobustAccuracy.name)


class ScheduleSpec(Strict):
    """When to evaluate: some steps per decade, every N steps, given steps."""

    per_decade: Positive | None = 12
    every: Positive | None = None
    at: tuple[NotNegativeInt, ...] = ()


class StopTargetSpec(TargetSection):
    """Training may stop where an accuracy has reached a value."""

    metric: Literal["train_accuracy", "test_accuracy"] = "test_accuracy"


class SettledSpec(
    section_of(  # type: ignore[misc]
        StopWhenSettled,
        name=(Literal["settled"], ...),
        patience=Annotated[float, Field(ge=2, allow_inf_nan=False)],
        aligned=Annotated[float, Field(ge=0, lt=1)],
        give_up=Annotated[float, Field(ge=2, allow_inf_nan=False)] | None,
    )
):
    """Training may stop where nothing is left to wait for; see ``grokscope.StopWhenSettled``.

    ``settled`` alone is the rule as it is; a mapping with that ``name`` has settings of its own.
    """

    @model_validator(mode="before")
    @classmethod
    def _may_be_its_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def goal(self) -> StopWhenSettled:
        """The rule itself."""
        return StopWhenSettled(**self.model_dump(exclude={"name"}))


def _stop_tag(value: Any) -> str:
    named = isinstance(value, (str, SettledSpec)) or (isinstance(value, dict) and "name" in value)
    return "settled" if named else StopTargetSpec.__name__


StopSpec = Annotated[
    Annotated[StopTargetSpec, Tag(StopTargetSpec.__name__)]
    | Annotated[SettledSpec, Tag("settled")],
    Discriminator(_stop_tag),
]


class TrainingSpec(
    section_of(  # type: ignore[misc]
        TrainingSettings,
        optimizer=Literal["adamw", "adam", "sgd"],
        lr=NotNegative,
        weight_decay=NotNegative,
        momentum=NotNegative,
        eps=NotNegative,
        warmup=NotNegativeInt,
        decay=Literal["none", "linear", "cosine"],
        loss=Literal["cross_entropy", "mse", "binary_cross_entropy", "stablemax"],
        label_smoothing=Annotated[float, Field(ge=0, lt=1)],
        batch_size=Positive | None,
        max_steps=Positive,
        stop_at=StopSpec | None,
        evaluate=(ScheduleSpec, ScheduleSpec()),
        dtype=(Literal["float32", "float64"], "float32"),
        keep_checkpoints=bool | tuple[int, ...],
        checkpoint_seconds=NotNegative,
    )
):
    """How the network is trained: the settings of ``grokscope.training.TrainingSettings``."""

    @field_validator("keep_checkpoints", mode="before")
    @classmethod
    def _is_a_switch_or_steps(cls, value: Any) -> Any:
        steps = value if isinstance(value, (list, tuple)) else [value]
        wanted = bool if steps is not value else int
        if any(type(step) is not wanted or step < 0 for step in steps):
            raise ValueError("takes true, false or a list of steps from 0 on")
        return value


class NTKSpec(Strict):
    """The kernel that the measure ``ntk_distance`` follows; see ``grokscope.NTKDistance``."""

    num_points: Positive = 64
    reduce: Literal["full", "trace", "sum"] = "full"
    keep_kernels: bool = True


class ManifoldSpec(Strict):
    """What the measure ``manifold_geometry`` looks at; see ``grokscope.LayerGeometry``."""

    layers: tuple[str, ...] | None = None
    num_points: Positive = 50
    num_samples: Positive = 100
    linear_probe: bool = True
    probe_points: bool = True


class NoiseSpec(Strict):
    """The noise of the measure ``noise_accuracy``; see ``grokscope.NoiseAccuracy``.

    It hits the features from ``from_feature`` on.
    """

    std: Annotated[tuple[NotNegative, ...], Field(min_length=1)] = (0.2, 0.4, 0.6, 0.8, 1.0)
    from_feature: NotNegativeInt = 0
    seed: Seed = 0
    threshold: Finite = 0.0


class RobustSpec(Strict):
    """The attack of the measure ``robust_accuracy``; see ``grokscope.RobustAccuracy``.

    ``eps`` is for inputs from 0 to 1, and is scaled with them where ``data.normalize`` is given.
    """

    attack: Literal["pgd", "apgd", "autoattack"] = "pgd"
    norm: Literal["Linf", "L2"] = "Linf"
    eps: NotNegative = 4 / 255
    steps: Positive | None = None
    seed: Seed = 0


class MonitorSpec(Strict):
    """What is measured on how many probe points, and how many of them are pictured.

    ``test_size`` test points are measured by ``manifold_geometry``, ``noise_accuracy`` and
    ``robust_accuracy``.
    ``after_training`` names measures that are taken at the kept checkpoints once training is over.
    """

    measures: tuple[str, ...] = DEFAULT_MEASURES
    after_training: tuple[str, ...] = ()
    probe: Literal["train", "test"] = "train"
    probe_size: Positive = 256
    pictures: NotNegativeInt = 8
    test_size: NotNegativeInt = 0
    ntk: NTKSpec = NTKSpec()
    manifolds: ManifoldSpec = ManifoldSpec()
    noise: NoiseSpec = NoiseSpec()
    robust: RobustSpec = RobustSpec()
    schedule: ScheduleSpec = ScheduleSpec()

    @field_validator("measures", "after_training")
    @classmethod
    def _are_known(cls, measures: tuple[str, ...]) -> tuple[str, ...]:
        for name in measures:
            if name not in MEASURES:
                raise ValueError(unknown_name("measure", name, MEASURES))
            if measures.count(name) > 1:
                raise ValueError(f"holds {name} twice; keep one")
        return measures

    @model_validator(mode="after")
    def _have_test_points(self) -> MonitorSpec:
        for name in _NEED_TEST_POINTS:
            if name in (*self.measures, *self.after_training) and not self.test_size:
                raise ValueError(
                    f"the measure {name} needs test points: say how many in monitor.test_size"
                )
        return self


class _MethodSection(Strict):
    """A method by its name, with the arguments of its class."""

    @model_validator(mode="after")
    def _makes_a_method(self) -> _MethodSection:
        settings = dict(self)
        try:
            METHODS[settings.pop("name")](**settings)  # the class checks its own arguments
        except TypeError as error:
            raise ValueError(str(error)) from None
        return self


METHOD_SPECS: dict[str, type[Strict]] = {
    name: section_of(method, without=["seed"], base=_MethodSection, name=(Literal[name], ...))
    for name, method in METHODS.items()
}
if TYPE_CHECKING:
    MethodSpec = Any
else:
    MethodSpec = Annotated[one_of(*METHOD_SPECS.values()), Field(discriminator="name")]


def _milestones() -> dict[str, TargetSection]:
    return {
        "memorized": TargetSection(metric="train_accuracy", target=0.99),
        "generalized": TargetSection(metric="test_accuracy", target=0.9),
    }


class TrialSpec(Strict):
    """One arm of an experiment: a training, all settings given."""

    title: str = ""
    methods: tuple[MethodSpec, ...] = ()
    data: AnyDataSpec
    model: AnyModelSpec = MODEL_SPECS["mlp"]()
    training: TrainingSpec = TrainingSpec()
    monitor: MonitorSpec = MonitorSpec()

    @model_validator(mode="after")
    def _measures_what_stops_it(self) -> TrialSpec:
        stop, measures = self.training.stop_at, self.monitor.measures
        blind = not any(name in measures for name in ALIGNMENTS)
        if isinstance(stop, SettledSpec) and stop.use_alignment and blind:
            raise ValueError(
                f"training.stop_at settled looks at {' or '.join(ALIGNMENTS)}: add one of them to "
                "monitor.measures, or set use_alignment: false"
            )
        return self

    @model_validator(mode="after")
    def _keeps_what_is_measured_afterwards(self) -> TrialSpec:
        later = self.monitor.after_training
        if later and not self.training.keep_checkpoints:
            raise ValueError(
                f"monitor.after_training ({', '.join(later)}) measures kept checkpoints: say which "
                "steps to keep in training.keep_checkpoints"
            )
        if twice := sorted(set(later) & set(self.monitor.measures)):
            raise ValueError(
                f"monitor.after_training and monitor.measures both hold {twice[0]}: keep one"
            )
        return self

    @model_validator(mode="after")
    def _stays_in_the_span(self) -> TrialSpec:
        if not self.data.reduce_to_span:
            return self
        if self.training.optimizer != "sgd":
            raise ValueError(
                "data.reduce_to_span is exact with training.optimizer sgd alone: "
                f"{self.training.optimizer} treats coordinates one by one"
            )
        exact = [name for name, method in METHODS.items() if method.stays_in_span]
        for own in self.methods:
            if own.name not in exact:
                raise ValueError(
                    f"data.reduce_to_span is not exact with {own.name}, only with "
                    f"{', '.join(exact)}"
                )
        return self


class Experiment(Strict):
    """One figure, table or question: arms that differ in a few settings, and what is claimed.

    ``reproduces`` names the figures and tables of papers that it shows, one or a list of them.
    ``analysis`` names what is computed from the trained networks (see ``analyses``), and
    ``analysis_options`` are the arguments it is given.
    ``threads`` is the number of CPU threads; None leaves PyTorch's. A small network is fastest on
    one, and with a fixed number the results are the same to the last bit on machines with more
    or fewer cores.
    ``vectorize`` says whether the seeds of an arm are trained as one (see ``fit_seeds``): "auto"
    where that is possible and not slower. Where seconds are to be those of a network by itself, it
    is false.
    """

    name: Name
    title: str
    description: str = ""
    source: str = ""
    reproduces: tuple[str, ...] = ()
    duration: dict[Preset, str] = Field(default_factory=dict)
    preset: Preset = "quick"
    seeds: tuple[Seed, ...] = (0,)
    threads: Annotated[int, Field(ge=1, le=_MOST_THREADS)] | None = None
    vectorize: bool | Literal["auto"] = "auto"
    milestones: dict[Name, TargetSection] = Field(default_factory=_milestones)
    arms: dict[Name, TrialSpec]
    analysis: str | None = None
    analysis_options: dict[str, Any] = Field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    panels: tuple[PanelSpec, ...] = ()

    @field_validator("vectorize", mode="before")
    @classmethod
    def _is_a_switch_or_auto(cls, value: Any) -> Any:
        if not isinstance(value, bool) and value != "auto":
            raise ValueError("takes true, false or auto")
        return value

    @field_validator("seeds")
    @classmethod
    def _differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds:
            raise ValueError("is empty: give at least one seed, as in [0]")
        for seed, times in Counter(seeds).items():
            if times > 1:
                raise ValueError(f"holds {seed} twice; give each seed once")
        return seeds

    @field_validator("reproduces", mode="before")
    @classmethod
    def _is_one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value or ()

    @model_validator(mode="after")
    def _speaks_of_its_own_arms(self) -> Experiment:
        if not self.arms and self.analysis is None:
            raise ValueError("an experiment needs at least one arm, or an analysis")
        if self.analysis is not None and self.analysis not in ANALYSES:
            raise ValueError(unknown_name("analysis", self.analysis, ANALYSES))
        options = list(signature(ANALYSES[self.analysis]).parameters)[1:] if self.analysis else []
        for option in self.analysis_options:
            if option not in options:
                raise ValueError(unknown_name("option of the analysis", option, options))
        reduced = any(trial.data.reduce_to_span for trial in self.arms.values())
        if self.analysis and reduced:
            raise ValueError("an analysis needs networks of whole inputs: drop reduce_to_span")
        if self.vectorize is True and reduced:
            raise ValueError(
                "vectorize: true does not go with data.reduce_to_span, which gives each network "
                "data of its own"
            )
        for claim in self.claims:
            for field in ("arm", "baseline"):
                arm = getattr(claim.quantity, field, None)
                if arm is not None and arm not in self.arms:
                    raise ValueError(
                        f"the claim {claim.says!r}: {unknown_name('arm', arm, self.arms)}"
                    )
        return self

    @model_validator(mode="after")
    def _gives_its_analysis_what_that_needs(self) -> Experiment:
        """Raise before the training where the analysis would after it."""
        if self.analysis is None:
            return self
        options = self.analysis_options
        if missing := missing_option(ANALYSES[self.analysis], options):
            raise ValueError(f"analysis_options: the analysis {self.analysis} needs {missing}")
        for arm, trial in self.arms.items():
            looks = looks_at_checkpoints(self.analysis, options, arm)
            if looks and not trial.training.keep_checkpoints:
                raise ValueError(
                    f"{looks} looks at kept checkpoints, of which arms.{arm} has none: say which "
                    "steps to keep in training.keep_checkpoints"
                )
            measured = (*trial.monitor.measures, *trial.monitor.after_training)
            for name in measures_needed(self.analysis, options):
                if name in MEASURES and name not in measured:
                    raise ValueError(
                        f"the analysis {self.analysis} needs {name}, which arms.{arm} does not "
                        "measure: name it in monitor.measures"
                    )
        return self

    @model_validator(mode="after")
    def _speaks_of_columns_that_are(self) -> Experiment:
        everywhere = [trial.data for trial in self.arms.values()]
        asked = [
            (f"milestones.{name}.metric", milestone.metric, everywhere)
            for name, milestone in self.milestones.items()
        ]
        for claim in self.claims:
            if metric := getattr(claim.quantity, "metric", None):
                own = [self.arms[claim.quantity.arm].data]  # type: ignore[union-attr]
                asked.append((f"the claim {claim.says!r}", metric, own))
        if self.analysis == "trajectory":
            metric = str(self.analysis_options["metric"])
            asked.append(("analysis_options.metric", metric, everywhere))
        for what, metric, data in asked:
            if mistake := misspelt_column(metric, data):
                raise ValueError(f"{what}: {mistake}")
        return self


def as_now(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded experiment as it is spelled now, with the fields that have come since at defaults.

    One that can no longer be read is given back as it is.
    """
    try:
        return Experiment.model_validate(spelled_now(recorded)).model_dump(mode="json")
    except ValidationError:
        return dict(recorded)
