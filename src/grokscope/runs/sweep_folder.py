"""A sweep's folder: settings by seeds, each run in a run directory of its own.

    sweep.json             the experiment's name, the command, seeds, and the settings by name
    SETTING/               a folder for each setting; the sweep's own where there is only one
      experiment.yaml      the resolved experiment of this setting, with all its seeds
      seed-S/              a run directory of this experiment with one seed
        output.log         what the process that worked on it printed
        .claim             locked by the process that works on it
    report.html            the page made of all this

The run directories are the queue: a run is done if its status says so, and in work while its
claim is locked. A lock goes with the process that holds it, so that a run whose process was killed
is free for the next; and several processes, also on several machines with one shared disk, can
work on one sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from grokscope.runs.files import RunError, inside, read_json_object, write_json
from grokscope.runs.reader import Run
from grokscope.runs.seed_runs import SeedRuns, read_experiment, write_experiment
from grokscope.runs.side_files import CLAIM, STATUS, check_links, holds_run

SWEEP = "sweep.json"


class SweepFolder:
    """The folder of a sweep opened for reading.

    Args:
        path: the folder.

    Raises:
        RunError: if the folder holds no sweep.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not is_sweep(self.path):
            raise RunError(f"{path} holds no sweep: there is no {SWEEP} in it")
        self.content = _content(self.path)

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """What each setting changes, by the setting's name."""
        return dict(self.content["settings"])

    def folder(self, setting: str) -> Path:
        """The folder of a setting.

        Raises:
            RunError: if its name would lead out of the sweep's folder.
        """
        return setting_folder(self.path, setting)

    def runs(self) -> list[SeedRuns]:
        """Each setting as a run of all its seeds."""
        command = list(self.content.get("command") or [])
        return [SeedRuns(self.folder(setting), command) for setting in self.settings]


def setting_folder(sweep: Path, setting: str) -> Path:
    """The folder of a setting, which is the sweep's own where it has no name.

    Raises:
        RunError: if the name would lead out of the sweep's folder.
    """
    return inside(sweep, setting) if setting else sweep


def is_sweep(path: Path) -> bool:
    """Whether a folder is one of a sweep."""
    return (path / SWEEP).is_file()


def open_runs(paths: Iterable[str | Path | Run], *, lenient: bool = False) -> list[Run]:
    """Run directories opened for reading; of a sweep's folder, each setting as a run of all seeds.

    Runs of one name are told apart by their folders: ``name`` is then the shortest end of the path
    that no other run shares.

    Args:
        paths: run directories, folders of sweeps, or runs that are open already.
        lenient: whether to open them leniently; see ``Run``.

    Raises:
        RunError: if a folder is missing, or holds neither a run nor a sweep, or none is named.
    """
    opened = [run for path in paths for run in _opened(path)]
    if not opened:
        raise RunError("no run was named; name a run directory, as in runs/digits-grokking")
    if lenient:
        opened = [run.lenient() for run in opened]
    names = [run.name for run in opened]
    for run, name in zip(opened, names, strict=True):
        if names.count(name) > 1:
            run.name = _folder_name(run, opened)
    return opened


def _opened(path: str | Path | Run) -> list[Run]:
    if isinstance(path, Run):
        return [path]
    path = Path(path)
    return list(SweepFolder(path).runs()) if is_sweep(path) else [Run(path)]


def _folder_name(run: Run, runs: list[Run]) -> str:
    """The shortest end of the path of a run that no other run shares."""
    others = [other.path.resolve() for other in runs if other is not run]
    own = run.path.resolve()
    for length in range(1, len(own.parts)):
        tail = own.parts[-length:]
        if all(path.parts[-length:] != tail for path in others):
            return "/".join(tail)
    return str(own)


def write_sweep(
    path: Path,
    name: str,
    settings: Mapping[str, Mapping[str, Any]],
    experiments: Mapping[str, Mapping[str, Any]],
    seeds: Iterable[int],
    command: list[str],
    as_now: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
) -> SweepFolder:
    """Start a sweep in a folder, or widen the one it holds by further settings and seeds.

    Args:
        path: the folder.
        name: the experiment's name.
        settings: what each setting changes, by its name.
        experiments: the resolved experiment of each setting.
        seeds: seeds of all settings.
        command: what was typed.
        as_now: brings an experiment that was written before up to date, to be compared.

    Raises:
        RunError: if the folder holds a run, or a setting of that name which is another experiment.
    """
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file; name a folder with --out")
    if holds_run(path):
        raise RunError(f"{path} holds a run, not a sweep; name another folder with --out")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"could not create {path}: {error.strerror or error}") from error
    with FileLock(path / ".lock", timeout=30):
        before = _content(path) if is_sweep(path) else {"settings": {}, "seeds": []}
        wanted = list(dict.fromkeys([*before["seeds"], *seeds]))
        known = {**before["settings"], **{name: dict(of) for name, of in settings.items()}}
        folders = {setting: setting_folder(path, setting) for setting in known}
        written = {setting: read_experiment(folder) for setting, folder in folders.items()}
        for setting, spec in experiments.items():
            earlier = written[setting]
            if earlier is not None:
                _same(folders[setting], as_now(earlier), spec)
        for setting in known:
            spec = experiments.get(setting) or written[setting] or {}
            write_experiment(folders[setting], {**spec, "seeds": sorted(wanted)})
        content = {
            "experiment": name,
            "command": command,
            "seeds": sorted(wanted),
            "settings": known,
        }
        write_json(path / SWEEP, content)
    return SweepFolder(path)


def claim(run: Path) -> FileLock:
    """The lock that says that a process works on a run."""
    return FileLock(run / CLAIM)


def is_claimed(run: Path) -> bool:
    """Whether a process works on a run now."""
    if not (run / CLAIM).exists():
        return False
    try:
        with claim(run).acquire(timeout=0):
            return False
    except Timeout:
        return True


def is_finished(run: Path) -> bool:
    """Whether a run is over and done with.

    Raises:
        RunError: if its status is damaged, or something in it is a link that leads out of it.
    """
    check_links(run)
    if not holds_run(run) or not (run / STATUS).exists():
        return False
    return bool(read_json_object(run / STATUS).get("state") == "finished")


def _content(path: Path) -> dict[str, Any]:
    """What the sweep's file holds, with the parts that are read from it."""
    file = path / SWEEP
    content = read_json_object(file)
    settings, seeds = content.get("settings"), content.get("seeds")
    if not isinstance(settings, dict) or not all(isinstance(of, dict) for of in settings.values()):
        raise RunError(f"{file} is damaged: settings is not a mapping of mappings")
    if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds):
        raise RunError(f"{file} is damaged: seeds is not a list of whole numbers")
    if not isinstance(content.get("command") or [], list):
        raise RunError(f"{file} is damaged: command is not a list")
    return content


def _same(folder: Path, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    changed = sorted(
        key for key in {*before, *after} - {"seeds"} if before.get(key) != after.get(key)
    )
    if changed:
        raise RunError(
            f"{folder} is of another experiment (it differs in: {', '.join(changed)}); repeat the "
            "sweep with the same settings, or name another folder with --out"
        )
