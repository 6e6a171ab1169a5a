"""Experiments as they are written, by name: from the package or from a user's file.

Nothing here needs torch, so that a list, or a mistake in a name, is told at once.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

from grokscope.experiments.errors import SpecError
from grokscope.experiments.yaml_files import read_yaml, yaml_value
from grokscope.spelling import shortened, unknown_name

Preset = Literal["quick", "paper"]
PRESETS = get_args(Preset)
_MAX_SAID = 100  # characters of a path in a mistake
_MAX_SEEDS = 100_000
_SECTION = re.compile(r"\w[\w=+-]{0,99}")  # or a field: a part of a path between two dots


@cache
def shipped() -> dict[str, Path]:
    """The experiments that come with the package: name -> file."""
    folder = Path(str(files("grokscope.experiments") / "specs"))
    return dict(sorted((path.stem, path) for path in folder.glob("*.yaml")))


@dataclass(frozen=True)
class Entry:
    """What a list says of an experiment.

    Attributes:
        name: what ``grokscope run`` takes.
        title: what it shows.
        reproduces: the figures and tables of papers that it shows, as "paper/figure".
        source: the same in words.
        duration: how long each preset takes.
        recorded: the page of the documentation that has its results; empty where there is none.
    """

    name: str
    title: str
    reproduces: tuple[str, ...]
    source: str
    duration: dict[str, str]
    recorded: str

    @property
    def paper(self) -> str:
        """The paper whose figures it shows; empty for none."""
        return self.reproduces[0].partition("/")[0] if self.reproduces else ""

    @property
    def figures(self) -> list[str]:
        """The figures without the paper."""
        return [figure.partition("/")[2] for figure in self.reproduces]


def entries() -> list[Entry]:
    """What there is to run, in the order of papers and figures, the rest last."""
    recorded = read_yaml(Path(str(files("grokscope.experiments") / "recorded.yaml")))
    found = []
    for name, path in shipped().items():
        raw = read_yaml(path)
        figures = raw.get("reproduces") or ()
        found.append(
            Entry(
                name=name,
                title=str(raw["title"]),
                reproduces=(figures,) if isinstance(figures, str) else tuple(figures),
                source=str(raw.get("source") or ""),
                duration=dict(raw.get("duration") or {}),
                recorded=str(recorded.get(name) or ""),
            )
        )
    return sorted(found, key=lambda entry: (not entry.paper, entry.paper, _order(entry)))


def _order(entry: Entry) -> list[tuple[str, int]]:
    """Figures by their numbers: fig2 before fig10."""
    parts = (re.match(r"(\D*)(\d*)", figure) for figure in entry.figures)
    return [(part[1], int(part[2] or 0)) for part in parts if part] or [(entry.name, 0)]


@cache
def reproducible() -> dict[str, list[str]]:
    """The figures and tables that can be reproduced: "paper/figure" -> names of experiments."""
    found: dict[str, list[str]] = {}
    for name, path in shipped().items():
        figures = read_yaml(path).get("reproduces") or []
        for figure in [figures] if isinstance(figures, str) else figures:
            found.setdefault(figure, []).append(name)
    return found


def raw_experiment(
    name: str, preset: str, settings: Sequence[str], num_seeds: int | None
) -> dict[str, Any]:
    """An experiment as it is written, with preset, settings and seeds applied.

    See ``load_experiment`` for the arguments.

    Raises:
        SpecError: if the name, the preset or a setting is unknown, or the file is no mapping.
    """
    path = find(name)
    raw = read_yaml(path)
    if preset not in PRESETS:
        raise SpecError(unknown_name("preset", preset, PRESETS))
    raw = merge(raw, _presets(raw.pop("presets", None) or {}, name).get(preset) or {})
    if "preset" not in raw:
        raw["preset"] = preset
    for setting in settings:
        _apply(raw, setting)
    if num_seeds is not None:
        if not 1 <= num_seeds <= _MAX_SEEDS:
            raise SpecError(f"--seeds must be a number from 1 to {_MAX_SEEDS:,}: got {num_seeds}")
        raw["seeds"] = list(range(num_seeds))
    for part in [raw, *(raw["arms"].values() if isinstance(raw.get("arms"), Mapping) else ())]:
        _place(part, path.parent.resolve())
    return raw


def other_presets(name: str, preset: str) -> dict[str, dict[str, Any]]:
    """What a user's file would be with each preset of its own that was not chosen."""
    path = find(name)
    if path in shipped().values():
        return {}  # tests load those with every preset
    raw = read_yaml(path)
    presets = _presets(raw.pop("presets", None) or {}, name)
    return {other: merge(raw, own) for other, own in presets.items() if own and other != preset}


def _presets(presets: Any, name: str) -> Mapping[str, Any]:
    """The section ``presets``, each a mapping of settings."""
    if not isinstance(presets, Mapping):
        raise SpecError(f"{name}: presets: takes quick and paper, each a mapping: got {presets!r}")
    for preset, settings in presets.items():
        if preset not in PRESETS:
            raise SpecError(f"{name}: presets: {unknown_name('preset', preset, PRESETS)}")
        if not isinstance(settings or {}, Mapping):
            raise SpecError(
                f"{name}: presets.{preset}: takes a mapping of settings, as in "
                f"{{training: {{max_steps: 100}}}}: got {settings!r}"
            )
    return presets


def _place(part: Any, folder: Path) -> None:
    """Say of imports and data files in a part of a spec that they are relative to its folder."""
    for section in ("data", "model"):
        value = part.get(section) if isinstance(part, Mapping) else None
        if not isinstance(value, dict):
            continue
        if "import" in value:
            value.setdefault("folder", str(folder))
        if isinstance(value.get("file"), str):
            value["file"] = str(folder / value["file"])


def find(name: str) -> Path:
    """The file of an experiment.

    Raises:
        SpecError: if there is no such experiment and no such file.
    """
    known = shipped()
    if name in known:
        return known[name]
    if name.endswith((".yaml", ".yml")) or Path(name).is_file():
        return Path(name)
    reproduced = reproducible()
    if name in reproduced:
        several = reproduced[name]
        if len(several) > 1:
            raise SpecError(
                f"{name} is {len(several)} experiments: name one of {', '.join(several)}, or run "
                f"all by `grokscope reproduce {name}`"
            )
        return known[several[0]]
    raise SpecError(
        f"{unknown_name('experiment', name, [*known, *reproduced])} (`grokscope list` says what "
        "each shows; a YAML file of your own works too)"
    )


def merge(base: Any, patch: Any) -> Any:
    """``base`` with ``patch`` laid over it: mappings merge, everything else replaces."""
    if not (isinstance(base, Mapping) and isinstance(patch, Mapping)):
        return copy.deepcopy(patch)
    merged = copy.deepcopy(dict(base))
    for key, value in patch.items():
        merged[key] = merge(merged.get(key), value)
    return merged


def _apply(raw: dict[str, Any], setting: str) -> None:
    """Lay one ``path=value`` over a raw spec."""
    path, equals, text = setting.partition("=")
    if not equals or not path:
        shown = shortened(setting)
        raise SpecError(f"--set takes path=value, as in training.lr=1e-3: got {shown!r}")
    given = shortened(f"--set {setting}", _MAX_SAID)
    if path.strip() == "preset":  # a word alone, by which no setting changes
        raise SpecError(f"{given}: a preset is chosen by --preset")
    _assign(raw, path.strip(), yaml_value(given, text), given)


def assign(raw: Mapping[str, Any], path: str, value: Any, said: str) -> dict[str, Any]:
    """A raw spec with the value at a dotted path replaced; ``said`` is how it was asked for."""
    changed = copy.deepcopy(dict(raw))
    _assign(changed, path, value, said)
    return changed


def _assign(raw: dict[str, Any], path: str, value: Any, said: str) -> None:
    *parents, last = path.split(".")
    for part in (*parents, last):
        if not _SECTION.fullmatch(part):
            raise SpecError(
                f"{said}: {part[:_MAX_SAID]!r} names no section or field: a path is "
                "names with dots between them, as in training.lr"
            )
    arms = raw.get("arms")
    within_arm = len(parents) > 1 and parents[0] == "arms"
    if within_arm and isinstance(arms, Mapping) and parents[1] not in arms:
        raise SpecError(f"{said}: {unknown_name('arm', parents[1], arms)}")
    at: Any = raw
    for part in parents:
        at = _child(at, part, said)
    if isinstance(at, list):
        at[_index(at, last, said)] = value
    else:
        at[last] = value


def _child(at: Any, part: str, said: str) -> Any:
    if isinstance(at, list):
        return at[_index(at, part, said)]
    if at.get(part) is None:
        at[part] = {}
    if not isinstance(at[part], (dict, list)):
        raise SpecError(f"{said}: {part} is a value, not a section")
    return at[part]


def _index(at: list[Any], part: str, said: str) -> int:
    if not part.isdigit() or int(part) >= len(at):
        raise SpecError(f"{said}: {part} is not one of the {len(at)} places of the list")
    return int(part)
