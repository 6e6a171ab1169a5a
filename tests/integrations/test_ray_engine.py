"""Ray for real: started here, a worker killed in mid-run, the same numbers in the end."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from grokscope.extras import MissingExtra
from grokscope.integrations.ray_engine import RayEngine
from tests.cli.running import start
from tests.cli.sweeping import SWEPT, assert_same, kill, plain_runs, wait_for_rows


def test_a_sweep_whose_worker_is_killed_comes_to_the_same(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pytest.importorskip("ray", reason="needs grokscope[ray]")
    rows = plain_runs(tmp_path_factory.mktemp("plain"))
    (tmp_path / "swept.yaml").write_text(SWEPT)
    sweep = tmp_path / "sweep"
    process = start(
        *("sweep", "swept.yaml", "--seeds", "2", "--device", "cpu", "--out", "sweep"),
        *("--engine", "ray", "--workers", "1"),
        folder=tmp_path,
    )
    kill(wait_for_rows(process, sweep / "seed-0", 9))
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out + err
    assert "failed seed" not in out
    assert_same(sweep, rows)
    # The worker was really lost: another process went on with the run.
    assert len(json.loads((sweep / "seed-0/env.json").read_text())["resumed"]) == 1
    assert "resumed" not in json.loads((sweep / "seed-1/env.json").read_text())


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"ray is not installed: pip install 'grokscope\[ray\]'"):
        RayEngine(workers=1)


def test_no_workers_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="--workers must be a positive number: got -1"):
        RayEngine(workers=-1)


def test_ray_is_given_another_try_and_then_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stubborn(ModuleType):
        """Ray as it is on a machine that is too busy for it."""

        tries = 0

        def init(self, **settings: object) -> None:
            self.tries += 1
            raise RuntimeError("timed out\nduring startup")

        def shutdown(self) -> None:
            """Nothing was started."""

    ray = Stubborn("ray")
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(
        ValueError, match=r"Ray cannot be used as asked: it did not start: timed out$"
    ):
        RayEngine(workers=1)
    assert ray.tries == 3
    with pytest.raises(ValueError, match=r"no cluster at --address ray://nowhere:1: timed out$"):
        RayEngine(workers=1, address="ray://nowhere:1")
    assert ray.tries == 4
