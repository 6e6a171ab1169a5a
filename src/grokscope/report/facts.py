"""What was run: settings as flat names, methods in words, machine, versions, command."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grokscope.report.wording import duration, listed
from grokscope.runs import Run, RunError, SeedRuns

_WORDS_ONLY = ("title", "description")
_STATES = {
    "running": "This run is still going on; the page shows how far it has got.",
    "interrupted": "This run was interrupted",
    "killed": "This run was killed before it finished",
    "failed": "This run failed before it finished",
    "unknown": "Whether this run is complete is not known.",
}


@dataclass(frozen=True)
class ArmFacts:
    """An arm in words, and its settings that no other arm shares."""

    arm: str
    title: str
    methods: str
    apart: dict[str, str]


def state_notice(run: Run) -> str:
    """A sentence on a run that is not complete; empty for one that is."""
    text = _STATES.get(run.state, "")
    if run.state in ("interrupted", "killed"):
        return f"{text}; {command} goes on with it." if (command := _resuming(run)) else f"{text}."
    error = run.status.get("error")
    if run.state == "failed":
        return f"{text}: {error}" if error else f"{text}."
    return text


def _resuming(run: Run) -> str:
    """The command that goes on with a run; empty for a copy that has not all it needs."""
    if run.env.get("kept"):
        return ""
    if isinstance(run, SeedRuns):
        return "the same grokscope sweep"
    if "measured" in run.spec:
        return "the same grokscope measure"
    return "grokscope run --resume"


def arm_facts(run: Run) -> list[ArmFacts]:
    """The arms with their methods in words."""
    settings = {arm: arm_settings(run, arm) for arm in run.arms}
    apart = differing(list(settings.values()))
    return [
        ArmFacts(
            arm=arm,
            title=run.arm_title(arm),
            methods=methods_text(run.arm_spec(arm)),
            apart={
                name: own[name]
                for name in apart
                if name in own and name.split(".")[0] in ("data", "model", "training")
            },
        )
        for arm, own in settings.items()
    ]


def methods_text(arm: Mapping[str, Any]) -> str:
    """The methods of an arm in words.

    Example:
        >>> methods_text({"methods": [{"name": "grokalign", "weight": 0.001, "every": 4}]})
        'grokalign (weight 0.001, every 4)'
        >>> methods_text({"methods": []})
        'no method added'
    """
    texts = []
    for method in arm.get("methods") or []:
        if not isinstance(method, Mapping):
            texts.append(str(method))
            continue
        options = flat_settings({key: item for key, item in method.items() if key != "name"})
        words = ", ".join(f"{key.replace('_', ' ')} {text}" for key, text in options.items())
        name = str(method.get("name", "method"))
        texts.append(f"{name} ({words})" if words else name)
    return listed(texts) or "no method added"


def common_settings(run: Run) -> dict[str, str]:
    """The settings that all arms share."""
    return shared_settings([arm_settings(run, arm) for arm in run.arms])


def run_facts(run: Run) -> dict[str, str]:
    """Versions, machine, command, times."""
    env = run.env
    packages, figures = env.get("packages"), run.spec.get("reproduces") or []
    facts = {
        "command": " ".join(map(str, env.get("command") or [])),
        "folder": str(run.path),
        "kept": env.get("kept"),
        "reproduces": figures if isinstance(figures, str) else ", ".join(figures),
        "preset": run.spec.get("preset"),
        "seeds": ", ".join(map(str, run.spec.get("seeds") or env.get("seeds") or [])),
        "state": run.state,
        "started": run.status.get("started") or env.get("started"),
        "ended": run.status.get("ended"),
        "training time": _training_time(run),
        "device": " ".join(str(env[k]) for k in ("device", "accelerator") if env.get(k)),
        "machine": _machine(env),
        "grokscope": env.get("grokscope"),
        "python": env.get("python"),
        "packages": ", ".join(f"{name} {of}" for name, of in packages.items())
        if isinstance(packages, Mapping)
        else "",
        "git commit": f"{env['git_commit']}{' with changes' if env.get('git_dirty') else ''}"
        if env.get("git_commit")
        else "",
        "resumed": ", ".join(str(entry.get("started")) for entry in env.get("resumed") or []),
    }
    return {name: str(text) for name, text in facts.items() if text}


def spec_text(run: Run) -> str:
    """The spec as it stands in the run directory."""
    path = run.spec_file
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise RunError(f"could not read {path}: {error.strerror or error}") from error


def _training_time(run: Run) -> str:
    total = sum(
        float(history["train_seconds"][-1])
        for history in run.histories.values()
        if len(history) and "train_seconds" in history
    )
    return duration(total) if total else ""


def _machine(env: Mapping[str, Any]) -> str:
    parts = [str(env[key]) for key in ("processor", "platform") if env.get(key)]
    if env.get("cores"):
        parts.insert(1, f"{env['cores']} cores, {env.get('threads', '?')} threads used")
    return "; ".join(parts)


def flat_settings(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested mapping as dotted names and texts; a list of named mappings goes by the names.

    Example:
        >>> flat_settings({"model": {"widths": [128, 64]}, "methods": [{"name": "a", "lr": 1.0}]})
        {'model.widths': '128, 64', 'methods': 'a', 'a.lr': '1.0'}
    """
    found: dict[str, str] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            found.update(flat_settings(item, f"{name}."))
        elif _is_named(item):
            found[name] = ", ".join(str(entry["name"]) for entry in item) or "none"
            for entry in item:
                options = {option: of for option, of in entry.items() if option != "name"}
                found.update(flat_settings(options, f"{entry['name']}."))
        elif item is not None:
            found[name] = _text(item)
    return found


def arm_settings(run: Run, arm: str) -> dict[str, str]:
    """Everything that defines one arm of a run."""
    entry = run.arm_spec(arm)
    return flat_settings({key: item for key, item in entry.items() if key not in _WORDS_ONLY})


def differing(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """The names that do not have the same value everywhere, in the order they first appear.

    Example:
        >>> differing([{"lr": "0.1", "batch": "200"}, {"lr": "0.2", "batch": "200", "every": "4"}])
        ['lr', 'every']
    """
    names = dict.fromkeys(name for entry in settings for name in entry)
    return [name for name in names if len({entry.get(name) for entry in settings}) > 1]


def shared_settings(settings: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The settings that are the same everywhere."""
    apart = set(differing(settings))
    return {
        name: text for name, text in (settings[0] if settings else {}).items() if name not in apart
    }


def _is_named(item: Any) -> bool:
    return isinstance(item, list) and all(
        isinstance(entry, Mapping) and "name" in entry for entry in item
    )


def _text(item: Any) -> str:
    if isinstance(item, bool):
        return "yes" if item else "no"
    if isinstance(item, str) or not isinstance(item, Iterable):
        return str(item)
    return ", ".join(str(entry) for entry in item)
