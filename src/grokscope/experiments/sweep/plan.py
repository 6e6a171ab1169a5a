"""Which settings and seeds a sweep has: a grid or a list, each resolved to an experiment."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from grokscope.experiments.catalogue import assign, raw_experiment
from grokscope.experiments.errors import SpecError, mistakes
from grokscope.experiments.registry import check_other_presets, resolve
from grokscope.experiments.spec import Experiment, as_now
from grokscope.experiments.sweep.engine import Job
from grokscope.findings.sections import Strict
from grokscope.runs.sweep_folder import SweepFolder, write_sweep
from grokscope.runs.yaml_text import parse_yaml
from grokscope.spelling import shortened

_MOST_RUNS = 1_000_000
_LONGEST_NAME = 120  # of a setting, which names a folder


class SweepSpec(Strict):
    """The section ``sweep`` of an experiment: a grid, or a list of settings.

    ``grid`` gives each path its values, and every combination is a setting; ``settings`` lists
    them one by one.
    """

    grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    settings: tuple[dict[str, Any], ...] = ()

    @field_validator("grid", mode="before")
    @classmethod
    def _takes_single_values(cls, grid: Any) -> Any:
        if not isinstance(grid, Mapping):
            return grid
        return {path: of if isinstance(of, list) else [of] for path, of in grid.items()}

    @model_validator(mode="after")
    def _is_one_of_the_two(self) -> SweepSpec:
        if bool(self.grid) == bool(self.settings):
            raise ValueError("give a grid or a list of settings, one of them")
        if any("seeds" in setting for setting in [self.grid, *self.settings]):
            raise ValueError("seeds are those of the whole sweep; give them by --seeds")
        if any("preset" in setting for setting in [self.grid, *self.settings]):
            raise ValueError("the preset is that of the whole sweep; choose it by --preset")
        for path, values in self.grid.items():
            if not values:
                raise ValueError(f"grid.{path} has no values")
        _check_count(math.prod(len(values) for values in self.grid.values()), "settings")
        return self

    def combinations(self) -> list[dict[str, Any]]:
        """What each setting changes."""
        if self.settings:
            return [dict(setting) for setting in self.settings]
        return [
            dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())
        ]


@dataclass(frozen=True)
class Setting:
    """One point of a sweep: its name, what it changes, and the experiment that it makes."""

    name: str
    changes: dict[str, Any]
    experiment: Experiment


@dataclass(frozen=True)
class Plan:
    """All of a sweep: each setting is run with each seed."""

    name: str
    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]

    def write(self, folder: str | Path, command: Sequence[str] = ()) -> SweepFolder:
        """Start this sweep in a folder, or go on with it, or widen the one that is there.

        Raises:
            RunError: if the folder holds a run, or another experiment under a setting's name.
        """
        return write_sweep(
            Path(folder),
            self.name,
            {setting.name: setting.changes for setting in self.settings},
            {setting.name: setting.experiment.model_dump(mode="json") for setting in self.settings},
            self.seeds,
            list(command),
            as_now,
        )

    def jobs(
        self,
        folder: str | Path,
        device: str = "auto",
        data_dir: str | Path | None = None,
        threads: int | None = None,
    ) -> list[Job]:
        """All runs, seed by seed, so that an unfinished sweep has something to compare.

        Args:
            folder: the sweep's folder.
            device: "auto", "cpu", "cuda" or "mps".
            data_dir: a folder that holds the data sets already.
            threads: CPU threads of each run, unless the experiment says so itself.
        """
        data = None if data_dir is None else str(Path(data_dir).resolve())
        place = Path(folder).resolve()
        return [
            Job(str(place / setting.name), seed, device, data, threads)
            for seed in self.seeds
            for setting in self.settings
        ]


def plan_sweep(
    name: str,
    preset: str = "quick",
    settings: Sequence[str] = (),
    grid: Sequence[str] = (),
    num_seeds: int | None = None,
) -> Plan:
    """The settings and seeds of a sweep, each setting checked as an experiment.

    Args:
        name: name of an experiment, of the figure it reproduces, or a YAML file.
        preset: "quick" or "paper".
        settings: ``path=value`` each, for all settings of the sweep.
        grid: ``path=value,value,...`` each, in place of the experiment's own section ``sweep``.
        num_seeds: seeds 0 to ``num_seeds - 1`` instead of the experiment's own.

    Raises:
        SpecError: if a name, a path or a value is wrong; or a path changes nothing.
    """
    raw = raw_experiment(name, preset, settings, num_seeds)
    section = _section(raw.pop("sweep", None), grid, name)
    changes = section.combinations() if section else [{}]
    _check_count(len(changes) * max(1, len(raw.get("seeds") or [])), "runs")
    names = _names(changes)
    asked = "--grid" if grid else "sweep:"
    found = []
    for label, change in zip(names, changes, strict=True):
        varied = dict(raw)
        for path, value in change.items():
            varied = assign(varied, path, value, f"{asked} {path}")
        said = ", ".join(f"{path}={value}" for path, value in change.items())
        found.append(
            Setting(label, change, resolve(varied, f"{name} with {said}" if said else name))
        )
    _differ(found)
    check_other_presets(name, preset)
    return Plan(found[0].experiment.name, tuple(found), found[0].experiment.seeds)


def _check_count(count: int, what: str) -> None:
    if count > _MOST_RUNS:
        raise SpecError(f"a sweep has at most {_MOST_RUNS:,} runs: this one has {count:,} {what}")


def _section(section: Any, grid: Sequence[str], name: str) -> SweepSpec | None:
    if grid:
        section = {"grid": _parse_grid(grid)}
    if section is None:
        return None
    try:
        return SweepSpec.model_validate(section)
    except ValidationError as error:
        raise SpecError.of(name, mistakes(error, SweepSpec, "sweep.")) from None


def _parse_grid(texts: Sequence[str]) -> dict[str, list[Any]]:
    """``path=value,value,...`` each, as a grid; commas inside brackets belong to a value."""
    grid: dict[str, list[Any]] = {}
    for text in texts:
        path, equals, values = text.partition("=")
        path = path.strip()
        if not equals or not path or not values.strip():
            raise SpecError(
                "--grid takes path=value,value,..., as in training.lr=1e-3,3e-3: got "
                f"{shortened(text)!r}"
            )
        if path in grid:
            raise SpecError(f"--grid names {path} twice; give all its values at once")
        try:
            grid[path] = parse_yaml(f"[{values}]")
        except ValueError:
            given = shortened(f"--grid {path}={values}")
            raise SpecError(f"{given}: the values are no list in YAML") from None
    return grid


def _names(changes: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each setting, fit for a folder: the ends of its paths and its values.

    A single setting that changes nothing has an empty name: its runs lie in the sweep's folder.
    """
    paths = list(dict.fromkeys(path for change in changes for path in change))
    ends = {path: re.sub(r"[^A-Za-z0-9._]+", "-", _short(path, paths)).strip("-") for path in paths}
    names: list[str] = []
    for change in changes:
        parts = [f"{ends[path]}={_word(value)}" for path, value in change.items()]
        name = "_".join(parts)[:_LONGEST_NAME] or ("" if len(changes) == 1 else "as-it-is")
        taken = sum(other == name or other.startswith(f"{name}+") for other in names)
        names.append(f"{name}+{taken + 1}" if taken else name)
    return names


def _short(path: str, paths: Sequence[str]) -> str:
    """The shortest end of a path that no other of the paths has; never a mere place in a list."""
    parts = path.split(".")
    for start in range(len(parts) - 1, -1, -1):
        end = ".".join(parts[start:])
        alone = all(other == path or not f".{other}".endswith(f".{end}") for other in paths)
        if alone and not parts[start].isdigit():
            return end
    return path


def _word(value: Any) -> str:
    if isinstance(value, list):
        return "-".join(map(_word, value))
    if isinstance(value, bool):
        value = "yes" if value else "no"
    if isinstance(value, float) and float(f"{value:g}") == value:
        value = f"{value:g}"
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", str(value)).rstrip("-.")[:40]


def _differ(settings: Sequence[Setting]) -> None:
    """Settings that make the same experiment are a mistake: a path that every arm overrides."""
    seen: dict[str, Setting] = {}
    for setting in settings:
        same = seen.setdefault(setting.experiment.model_dump_json(), setting)
        if same is not setting:
            raise SpecError(
                f"the settings {same.name} and {setting.name} make the same experiment: a value "
                "is given twice, or every arm has its own, which wins; vary arms.ARM.PATH instead"
            )
