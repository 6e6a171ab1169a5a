"""Run directories that are damaged, or made to do harm: one error each, which names the file."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from grokscope.cli.compare import compare
from grokscope.experiments import SpecError, load_experiment
from grokscope.findings.summary import run_summary
from grokscope.report import comparison_data, write_report
from grokscope.runs import (
    LaterRows,
    Run,
    RunDirectory,
    RunError,
    SweepFolder,
    TrialGroup,
    files,
    open_runs,
)
from grokscope.runs.environment import environment
from grokscope.runs.files import inside
from grokscope.runs.rows import RowFile
from grokscope.runs.side_files import AFTER_TRAINING, ARRAYS, CHECKPOINTS, KEPT
from grokscope.runs.sweep_folder import is_finished, write_sweep

SPEC: dict[str, Any] = {
    "name": "small",
    "seeds": [0],
    "arms": {"a": {}, "b": {}},
    "milestones": {"generalized": {"metric": "test_accuracy", "target": 0.9}},
    "claims": [],
}
ROW = {"arm": "a", "seed": 0, "step": 5, "test_accuracy": 0.5}
HOSTILE = ["../x", "/tmp/evil", "..", ".hidden", "a/b", "a\\b", "x\0y", "n" * 300]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A finished run of two arms, measured after training as well, with results."""
    with RunDirectory.create(tmp_path / "run", SPEC, "cpu", [0]) as run:
        for arm in SPEC["arms"]:
            trial = run.trial(arm, 0)
            trial.append({"step": 0, "test_accuracy": 0.1}, {"train_seconds": 0.0})
            trial.append({"step": 9, "test_accuracy": 0.95}, {"train_seconds": 1.0})
            trial.finish(stopped="max_steps", steps=9)
        later = LaterRows(run.path, "a", 0)
        later.open()
        later.append({"step": 9, "capacity": 0.2})
        run.write_results({"value": 1.0})
    return tmp_path / "run"


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize(
    "use",
    [
        lambda run, name: Run(run).arrays("a", 0, name),
        lambda run, name: Run(run).arrays(name, 0, "x"),
        lambda run, name: Run(run).array_names(name, 0),
        lambda run, name: Run(run).checkpoint(name, 0),
        lambda run, name: Run(run).checkpoint_steps(name, 0),
        lambda run, name: LaterRows(run, name, 0).open(),
        lambda run, name: LaterRows(run, "a", 0).save_arrays(name, {}),
        lambda run, name: inside(run, "arrays", name),
        lambda run, name: write_sweep(
            run.parent / "sweep", "x", {name: {}}, {name: SPEC}, [0], ["grokscope"]
        ),
    ],
)
def test_a_name_that_leaves_the_folder_is_refused(
    path: Path, use: Callable[[Path, Any], object], name: str
) -> None:
    (path.parent / "sweep").mkdir()
    before = tree(path.parent)
    with pytest.raises(RunError, match="cannot name a file") as caught:
        use(path, name)
    assert len(str(caught.value)) < 600
    after = {name: of for name, of in tree(path.parent).items() if not name.endswith(".lock")}
    assert after == {name: of for name, of in before.items() if not name.endswith(".lock")}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_trial_writes_nowhere_else(path: Path, name: str) -> None:
    with RunDirectory.resume(path, "cpu") as run:
        before = tree(path.parent)
        with pytest.raises(RunError, match=r"is no name for an arm|cannot name a file"):
            run.trial(name, 0)
        trial = run.trial("a", 0)
        for use in (
            lambda: trial.save_arrays(name, {}),
            lambda: trial.arrays(name),
            lambda: trial.drop_arrays(name),
        ):
            with pytest.raises(RunError, match="cannot name a file"):
                use()
        assert tree(path.parent) == before


@pytest.mark.parametrize("name", ["metrics.jsonl", "after_training/a/seed-0.jsonl"])
def test_rows_are_not_written_through_a_link(path: Path, tmp_path: Path, name: str) -> None:
    within = path / "arrays/rows"
    within.parent.mkdir()
    within.write_text('{"step": 1}\nhalf a line')
    (path / name).unlink()
    (path / name).symlink_to(within)
    rows = RowFile(path / name)
    for use in (rows.trim, lambda: rows.append({"step": 2}), lambda: rows.truncate(3)):
        with pytest.raises(RunError, match=f"{name} is a link, through which no rows are written"):
            use()
    assert within.read_text() == '{"step": 1}\nhalf a line'


FOLDERS = (ARRAYS, CHECKPOINTS, AFTER_TRAINING)
LINKED = [
    *(name for name in KEPT if name not in FOLDERS),
    *(f"{top}{below}" for top in (ARRAYS, CHECKPOINTS) for below in ("", "/a", "/a/seed-0")),
    *(f"{AFTER_TRAINING}{below}" for below in ("", "/a", "/a/seed-0.jsonl")),
    "arrays/a/seed-0/x.safetensors",
    "checkpoints/a/seed-0/latest.safetensors",
    "checkpoints/a/resume.safetensors",
]
OPENED: dict[str, Callable[[Path], object]] = {
    "Run": Run,
    "Run, leniently": lambda run: Run(run, lenient=True),
    "report": lambda run: write_report([run]),
    "compare": lambda run: comparison_data([run]),
    "resume": lambda run: RunDirectory.resume(run, "cpu"),
    "sweep": is_finished,
}


@pytest.mark.parametrize("kind", ["there", "missing"])
@pytest.mark.parametrize("name", LINKED)
def test_nothing_in_a_run_is_read_or_written_through_a_link_out_of_it(
    path: Path, tmp_path: Path, name: str, kind: str
) -> None:
    place, outside = path / name, tmp_path / "outside" / name
    outside.parent.mkdir(parents=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        place.rename(outside)
    elif name in FOLDERS or name.endswith("seed-0"):
        outside.mkdir()
    else:
        outside.touch()
    place.symlink_to(outside)
    if kind == "missing":
        outside.rename(tmp_path / "elsewhere")
        if name == "spec.yaml":
            return  # there is no run in such a folder
    before = tree(tmp_path)
    said = f"{place} is a link that leads out of the run, to {outside}: put what is there in its"
    for use in OPENED.values():
        with pytest.raises(RunError, match=re.escape(said)):
            use(path)
    assert tree(tmp_path) == before


def test_no_run_is_begun_in_a_folder_with_a_link_out_of_it(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/checkpoints").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="checkpoints is a link that leads out of the run"):
        RunDirectory.create(tmp_path / "run", SPEC, "cpu", [0])


def test_links_to_runs_and_within_them_are_followed(path: Path, tmp_path: Path) -> None:
    """Whole run directories may be links, also those of a sweep; so may a user's own files."""
    with RunDirectory.resume(path, "cpu") as run:
        run.trial("a", 0).save_arrays("x", {"v": torch.ones(1)})
    (path / "arrays/b").symlink_to("a")
    (path / "notes").symlink_to(tmp_path)
    write_sweep(tmp_path / "sweep", "x", {"s": {}}, {"s": SPEC}, [0], ["grokscope"])
    (tmp_path / "sweep/s/seed-0").symlink_to(path)
    (tmp_path / "linked").symlink_to(tmp_path / "sweep")
    for folder in (path, tmp_path / "sweep/s/seed-0", tmp_path / "linked"):
        (opened,) = open_runs([folder])
        assert opened.state == "finished"
        assert opened.array_names("b", 0) == ["x"]
    assert is_finished(tmp_path / "linked/s/seed-0")
    RunDirectory.resume(tmp_path / "linked/s/seed-0", "cpu").close("finished")


def test_a_seed_with_a_link_out_of_it_is_left_out_and_named(path: Path, tmp_path: Path) -> None:
    write_sweep(tmp_path / "sweep", "x", {"s": {}}, {"s": SPEC}, [0, 1], ["grokscope"])
    one, other = (tmp_path / f"sweep/s/seed-{seed}" for seed in (0, 1))
    shutil.copytree(path, one)
    shutil.copytree(path, other)
    (other / "arrays").symlink_to(tmp_path)
    (opened,) = open_runs([tmp_path / "sweep"], lenient=True)
    assert list(opened.histories) == [("a", 0), ("b", 0)]
    assert [problem.split(":")[0] for problem in opened.problems] == ["seed 1 is left out"]
    assert f"{other}/arrays is a link that leads out of the run" in opened.problems[0]
    with pytest.raises(RunError, match="leads out of the run"):
        _ = open_runs([tmp_path / "sweep"])[0].histories
    (one / "arrays").symlink_to(tmp_path)
    with pytest.raises(RunError, match="seed-0/arrays is a link"):
        write_report([tmp_path / "sweep"])


def test_arrays_are_dropped_whether_or_not_they_are_there(path: Path) -> None:
    with RunDirectory.resume(path, "cpu") as run:
        trial = run.trial("a", 0)
        trial.save_arrays("x", {"v": torch.ones(1)})
        trial.save_arrays("y", {"v": torch.ones(1)})
        for _ in range(2):
            trial.drop_arrays("x")
            assert trial.array_names() == ["y"]


def test_a_run_that_disappears_is_noticed_and_not_begun_anew(path: Path) -> None:
    run = RunDirectory.resume(path, "cpu")
    trial = run.trial("a", 0)
    path.rename(path.parent / "elsewhere")
    for use in (
        lambda: trial.append({"step": 10}, {"train_seconds": 0.0}),
        lambda: trial.save_arrays("x", {}),
        lambda: trial.save_checkpoint(10, {}, keep=False, finished=True),
        lambda: TrialGroup([trial]).save_checkpoint(10, {}),
        lambda: run.write_results({}),
    ):
        with pytest.raises(RunError, match="was removed or moved while it was written"):
            use()
    run.close("failed", "it is gone")
    assert not path.exists()


def test_a_name_within_the_folder_is_taken(path: Path) -> None:
    assert inside(path, "lr=1e-3+2", "step-00000001.safetensors").parent == path / "lr=1e-3+2"
    assert inside(path) == path


def test_a_sweep_that_names_a_folder_elsewhere_is_refused(tmp_path: Path) -> None:
    write_sweep(tmp_path, "x", {"": {}}, {"": SPEC}, [0], ["grokscope"])
    content = json.loads((tmp_path / "sweep.json").read_text())
    (tmp_path / "sweep.json").write_text(json.dumps({**content, "settings": {"../outside": {}}}))
    with pytest.raises(RunError, match=r"'\.\./outside' cannot name a file"):
        open_runs([tmp_path])


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
# what a file is damaged to: a text, a folder in its place, or a pipe
PIPE = object()
Content = Any
PIPED = (PIPE, "is not a file but a device or a pipe")
ROW_DAMAGE: list[tuple[Content, str]] = [
    ("[1]\n", "line 1 is not a JSON object"),
    ('{"arm": "a"}\n', "it has no seed"),
    (json.dumps({**ROW, "arm": 3}) + "\n", "arm is not a name"),
    (json.dumps({**ROW, "seed": [0]}) + "\n", "seed is not a whole number"),
    (json.dumps({**ROW, "seed": True}) + "\n", "seed is not a whole number"),
    (json.dumps({**ROW, "step": "5"}) + "\n", "step is not a whole number"),
    (json.dumps({**ROW, "step": 10**30}) + "\n", "step is not a whole number"),
    (json.dumps({**ROW, "step": -5}) + "\n", "step is below 0"),
    (json.dumps({**ROW, "x": "high"}) + "\n", "x is not a number"),
    (json.dumps({**ROW, "x": [1]}) + "\n", "x is not a number"),
    (json.dumps({**ROW, "x": float("nan")}) + "\n", "x is not a finite number"),
    (json.dumps({**ROW, "x": 10**400}) + "\n", "x is not a finite number"),
    ("[" * 100_000 + "\n", "line 1 is not a JSON object"),
    (b"\xff\xfe\n", "line 1 is not a JSON object"),
    PIPED,
    (json.dumps({**ROW, "arm": "../../x"}) + "\n", "'../../x' cannot name a file"),
    (None, "Is a directory"),
]
SPEC_DAMAGE: list[tuple[Content, str]] = [
    ("- a list", "not a mapping"),
    ("arms: [a]", "arms is not a mapping"),
    ("arms: {1: {}}", "arms.1 is not a name"),
    ("milestones: {m: {metric: x, target: true}}", "milestones.m needs a metric and a target"),
    ("seeds: all", "seeds is not a list"),
    ("seeds: [a]", "seeds are not whole numbers"),
    ("claims: {a: 1}", "claims is not a list"),
    (BOMB, "more than 200,000 values once aliases are expanded"),
    ("&a [*a]", "more than 50 levels deep, or contains itself"),
    ("[" * 20_000, "not valid YAML"),
    ("a: " + "x" * 6_000_000, "larger than 5,000,000 bytes"),
    PIPED,
    (None, "Is a directory"),
]
JSON_DAMAGE: list[tuple[Content, str]] = [
    ("[]", "does not hold a JSON object"),
    ('{"a": NaN}', "NaN is no number"),
    ("[" * 100_000, "nested too deeply"),
    (b"\xff\xfe", "not a text file"),
    PIPED,
    (None, "Is a directory"),
]
DAMAGE = [
    *(("metrics.jsonl", content, said) for content, said in ROW_DAMAGE),
    *(("timing.jsonl", content, said) for content, said in ROW_DAMAGE[:-2]),
    *(("spec.yaml", content, said) for content, said in SPEC_DAMAGE),
    ("after_training/a/seed-0.jsonl", '{"capacity": 1}\n', "it has no step"),
    ("after_training/a/seed-0.jsonl", None, "Is a directory"),
]
SIDE_DAMAGE = [
    *(
        (name, content, said)
        for name in ("env.json", "status.json", "results.json")
        for content, said in JSON_DAMAGE
    ),
    ("env.json", '{"seeds": 3}', "seeds is 3"),
    ("env.json", '{"packages": []}', "packages is []"),
    ("status.json", '{"trials": []}', "trials is []"),
    ("status.json", '{"trials": {"a/seed-0": 1}}', "trials.a/seed-0 is 1"),
    ("status.json", '{"state": 5}', "state is 5"),
]


def damage(file: Path, content: Content) -> None:
    """Another content of a file, or a folder or a pipe in its place."""
    file.unlink()
    if content is None:
        file.mkdir()
    elif content is PIPE:
        os.mkfifo(file)
    else:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())


def said_once(file: Path, error: RunError, expected: str) -> None:
    said = str(error)
    assert expected in said
    assert file.name in said or "cannot name a file" in said
    assert "\n" not in said
    assert len(said) < 600


@pytest.mark.parametrize(("name", "content", "said"), DAMAGE)
def test_what_a_run_cannot_do_without_is_named(
    path: Path, name: str, content: Content, said: str
) -> None:
    damage(path / name, content)
    for use in (comparison_data, write_report):
        with pytest.raises(RunError) as caught:
            use([path])
        said_once(path / name, caught.value, said)


@pytest.mark.parametrize(("name", "content", "said"), SIDE_DAMAGE)
def test_a_file_beside_the_rows_is_named_and_the_rest_is_shown(
    path: Path, name: str, content: Content, said: str
) -> None:
    damage(path / name, content)
    with pytest.raises(RunError) as caught:
        getattr(Run(path), name.removesuffix(".json"))
    said_once(path / name, caught.value, said)
    assert [entry["arm"] for entry in comparison_data([path])] == ["a", "b"]
    assert name in write_report([path]).read_text()


@pytest.mark.parametrize(
    ("name", "content", "said"), [row for row in SIDE_DAMAGE if row[0] != "results.json"]
)
def test_a_run_with_a_damaged_file_is_not_resumed_and_left_as_it_was(
    path: Path, name: str, content: Content, said: str
) -> None:
    damage(path / name, content)
    before = tree(path)
    for _ in range(2):  # the lock is let go of
        with pytest.raises(RunError) as caught:
            RunDirectory.resume(path, "cpu")
        said_once(path / name, caught.value, said)
    assert tree(path) == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        *JSON_DAMAGE,
        ("{}", "settings is not a mapping"),
        ('{"settings": {"a": 1}, "seeds": []}', "settings is not a mapping of mappings"),
        ('{"settings": {}, "seeds": ["x"]}', "seeds is not a list of whole numbers"),
        ('{"settings": {}, "seeds": [], "command": "x"}', "command is not a list"),
    ],
)
def test_a_damaged_sweep_is_named(tmp_path: Path, content: Content, said: str) -> None:
    write_sweep(tmp_path, "x", {"s": {}}, {"s": SPEC}, [0], ["grokscope"])
    if content is None or content is PIPE:
        return  # a folder or a pipe of that name makes no sweep
    damage(tmp_path / "sweep.json", content)
    for use in (
        lambda: SweepFolder(tmp_path),
        lambda: write_sweep(tmp_path, "x", {"s": {}}, {"s": SPEC}, [0], ["grokscope"]),
    ):
        with pytest.raises(RunError) as caught:
            use()
        said_once(tmp_path / "sweep.json", caught.value, said)


def test_rows_that_were_changed_before_a_checkpoint_are_noticed(tmp_path: Path) -> None:
    for file, digit in (("metrics.jsonl", b"0.25"), ("timing.jsonl", b"7.5")):
        run = RunDirectory.create(tmp_path / file, SPEC, "cpu", [0])
        trial = run.trial("a", 0)
        trial.append({"step": 0, "loss": 0.25}, {"train_seconds": 7.5})
        TrialGroup([trial]).save_checkpoint(0, {0: {"w": 1}})
        trial.append({"step": 1, "loss": 0.125}, {"train_seconds": 8.5})
        run.close("killed")
        rows = run.path / file
        content = rows.read_bytes()
        assert content.count(digit) == 1
        rows.write_bytes(content.replace(digit, digit[:-1] + b"6"))
        again = RunDirectory.resume(run.path, "cpu")
        group = TrialGroup([again.trial("a", 0)])
        with pytest.raises(RunError, match=rf"{file} has other rows than when .*resume"):
            group.restore()
        rows.write_bytes(content)
        assert group.restore() == {0: {"w": 1, "step": 0}}
        assert len(again.trial("a", 0).history()) == 1
        again.close("finished")


LOST: dict[str, Callable[[Path], object]] = {
    "removed": Path.unlink,
    "empty": lambda file: file.write_bytes(b""),
    "cut off": lambda file: file.write_bytes(file.read_bytes().splitlines(keepends=True)[0]),
    "no text": lambda file: file.write_bytes(b"\xff\xfe\x00"),  # taken for a torn line
}


@pytest.mark.parametrize("way", LOST)
@pytest.mark.parametrize("name", ["metrics.jsonl", "timing.jsonl"])
def test_rows_that_are_lost_are_noticed(path: Path, name: str, way: str) -> None:
    assert Run(path).problems == run_summary(Run(path)).problems == []
    LOST[way](path / name)
    said = (
        "lacks rows of 2 finished training(s), a/seed-0 the first of them: put the whole file back"
    )
    for run in (Run(path), Run(path, lenient=True)):
        assert run.problems == run_summary(run).problems == [f"{path / name} {said}"]
    assert f"{name} lacks rows of" in write_report([path]).read_text()
    (path / "status.json").unlink()
    assert len(Run(path).problems) == 1  # that the status is not there


def test_a_training_of_no_step_has_a_row_too(path: Path) -> None:
    with RunDirectory.resume(path, "cpu") as run:
        run.record_trial("c", 0, state="finished", steps=0)
        assert "1 finished training(s), c/seed-0" in Run(path).problems[0]
        run.trial("c", 0).append({"step": 0}, {"train_seconds": 0.0})
        assert Run(path).problems == []


def test_a_comparison_says_what_is_lost(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path / "env.json").unlink()
    (path / "timing.jsonl").unlink()
    compare([path])
    env, timing = capsys.readouterr().err.splitlines()
    assert env == f"grokscope: {path}/env.json does not exist: is {path} a run directory?"
    assert timing.startswith(f"grokscope: {path}/timing.jsonl lacks rows of 2 finished training(s)")


@pytest.mark.parametrize("way", LOST)
def test_a_finished_training_whose_rows_are_lost_is_not_passed_on_resume(
    tmp_path: Path, way: str
) -> None:
    with RunDirectory.create(tmp_path / "run", SPEC, "cpu", [0]) as run:
        trial = run.trial("a", 0)
        for step in (0, 9):
            trial.append({"step": step, "loss": 0.5}, {"train_seconds": 1.0})
        trial.save_checkpoint(9, {"w": 1}, keep=False, finished=True)
    LOST[way](run.path / "metrics.jsonl")
    with RunDirectory.resume(run.path, "cpu") as again:
        with pytest.raises(RunError, match=r"metrics\.jsonl lacks rows of a, seed 0, which ended"):
            TrialGroup([again.trial("a", 0)]).restore()
        again.trial("a", 0).append({"step": 9, "loss": 0.5}, {"train_seconds": 1.0})
        # one that goes on to more steps has later rows than its last checkpoint
        again.trial("a", 0).append({"step": 12, "loss": 0.5}, {"train_seconds": 1.0})
        (state,) = TrialGroup([again.trial("a", 0)]).restore().values()
        assert state is not None
        assert state["step"] == 9


def test_a_finished_training_without_its_checkpoint_begins_anew(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run", SPEC, "cpu", [0]) as run:
        for arm in ("a", "b"):
            trial = run.trial(arm, 0)
            for step in (0, 9):
                trial.append({"step": step, "loss": 0.5}, {"train_seconds": 1.0})
            trial.save_checkpoint(9, {"w": 1}, keep=False, finished=True)
    run.trial("a", 0).latest.unlink()  # as is said of one that is damaged
    with RunDirectory.resume(run.path, "cpu") as again:
        assert TrialGroup([again.trial("a", 0)]).restore() == {0: None}
        assert [len(again.trial(arm, 0).history()) for arm in ("a", "b")] == [0, 2]
        assert [row["arm"] for row in again.timing.read()] == ["b", "b"]


def test_the_digest_of_rows_follows_what_is_written_and_taken_back(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run", SPEC, "cpu", [0]) as run:
        fresh = RunDirectory.sizes
        trial = run.trial("a", 0)
        digests = []
        for step in (0, 1, 2):
            trial.append({"step": step}, {"train_seconds": 0.0})
            digests.append(run.metrics.digest())
            assert run.metrics.digest(run.metrics.size()) == digests[-1]
        assert len(set(digests)) == 3
        run.drop_rows(lambda row: row["step"] == 2)
        assert run.metrics.digest() == digests[1]
        assert fresh(run)["metrics"] == {"bytes": run.metrics.size(), "sha256": digests[1]}


@pytest.mark.parametrize("kind", ["pipe", "device", "stdout"])
def test_a_device_or_a_pipe_is_not_replaced_by_a_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    place = path / "page.html"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "device":
        place = Path(os.devnull)
    else:  # a name for what the output goes to, here a file
        place.symlink_to(path / "spec.yaml")
        monkeypatch.setattr(files, "_DEVICES", path)
    monkeypatch.setattr(Path, "replace", pytest.fail)
    with pytest.raises(RunError, match="it is a device or a pipe; name a file"):
        write_report([path], place)


def test_what_killed_writes_left_is_removed_on_resume(path: Path) -> None:
    left = [path / ".status.json.123.partial", path / "checkpoints/a/.latest.safetensors.9.partial"]
    left[1].parent.mkdir(parents=True)
    for file in left:
        file.write_bytes(b"half")
    with RunDirectory.resume(path, "cpu"):
        assert not any(file.exists() for file in left)


def test_a_folder_that_may_not_be_written_can_be_read(path: Path) -> None:
    folders = [path, *(folder for folder in path.rglob("*") if folder.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert comparison_data([path])[0]["state"] == "finished"
    finally:
        for folder in folders:
            folder.chmod(0o755)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "more than 200,000 values"),
        ("title: &a [*a]", "recursive node"),
        ("title: " + "[" * 20_000, "not valid YAML"),
        ("title: " + "x" * 6_000_000, "larger than 5,000,000 bytes"),
        PIPED,
    ],
    ids=["bomb", "loop", "deep", "large", "pipe"],
)
def test_a_spec_that_does_not_end_is_refused(tmp_path: Path, text: Content, said: str) -> None:
    (tmp_path / "spec.yaml").touch()
    damage(tmp_path / "spec.yaml", text)
    with pytest.raises(SpecError, match=said) as caught:
        load_experiment(os.fspath(tmp_path / "spec.yaml"))
    assert len(str(caught.value)) < 600


def hostile_checkout(tmp_path: Path, setting: str, *script: str) -> Path:
    """A checkout of a commit, and in its settings a program of its own, which says that it ran."""
    program, checkout = tmp_path / "run-me", tmp_path / "checkout"
    program.write_text("\n".join(["#!/bin/sh", f"touch {tmp_path}/has-run", *script, ""]))
    program.chmod(0o755)
    subprocess.run(["git", "init", "-q", str(checkout)], check=True)
    (checkout / "file").write_text("old")
    for command in (
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "x"],
        ["config", setting, str(program)],
    ):
        subprocess.run(["git", "-C", str(checkout), *command], check=True)
    return checkout


def test_the_settings_of_a_checkout_run_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = hostile_checkout(tmp_path, "core.fsmonitor")
    monkeypatch.chdir(checkout)
    subprocess.run(["git", "status"], check=True, capture_output=True)
    assert (tmp_path / "has-run").exists()  # git alone does run it
    (tmp_path / "has-run").unlink()
    found = environment("cpu", [0])
    assert (found["git_dirty"], len(found["git_commit"])) == (False, 40)
    assert not (tmp_path / "has-run").exists()
    (checkout / "file").write_text("new")
    assert environment("cpu", [0])["git_dirty"] is True


def test_the_filters_of_a_checkout_are_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = hostile_checkout(tmp_path, "filter.own.clean", "cat")
    monkeypatch.chdir(checkout)
    (checkout / ".git/info/attributes").write_text("* filter=own")
    os.utime("file")
    assert environment("cpu", [0])["git_dirty"] is None
    assert not (tmp_path / "has-run").exists()
    subprocess.run(["git", "status"], check=True, capture_output=True)
    assert (tmp_path / "has-run").exists()  # git alone does run it


def test_a_signal_within_a_write_leaves_no_part_of_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    before = tree(path)
    monkeypatch.setattr(files.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(path / "status.json", b"new")
    assert tree(path) == before
