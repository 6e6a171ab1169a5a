"""A sweep on a SLURM cluster of this one machine; see ``slurm_node.sh``, and `make test-slurm`.

Jobs run, one is put back into the queue in mid-run, one is cancelled, and the sweep itself is
killed: all come to the numbers of runs that were left alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.running import grokscope, start
from tests.cli.sweeping import SWEPT, assert_same, kill, plain_runs, wait_for_rows

NODE = Path(__file__).with_name("slurm_node.sh")
# seconds may pass before SLURM does as it is told: the run has to be at work still
LONGER = SWEPT.replace("max_steps: 400", "max_steps: 4000")
COMMAND = ("sweep", "swept.yaml", "--seeds", "2", "--device", "cpu", "--out", "sweep")

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A cluster of this machine; the environment in which its commands are at home."""
    folder = tmp_path_factory.mktemp("slurm")
    try:
        subprocess.run([NODE, "start", folder], check=True, timeout=120)
        yield {"SLURM_CONF": str(folder / "slurm.conf")}
    finally:
        subprocess.run([NODE, "stop", folder], check=True)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[int, bytes]:
    return plain_runs(tmp_path_factory.mktemp("plain"), LONGER)


def slurm(*command: str, cluster: dict[str, str]) -> str:
    done = subprocess.run(
        command, env={**os.environ, **cluster}, check=True, capture_output=True, text=True
    )
    return done.stdout


def jobs(cluster: dict[str, str], state: str = "R") -> dict[int, str]:
    """The jobs in a state: the place in the array, which is the seed, and the job's name."""
    lines = slurm("squeue", "-h", "-r", "-t", state, "-o", "%i", cluster=cluster).split()
    return {int(name.rpartition("_")[2]): name for name in lines}


def until(condition: Callable[[], object], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.2)


def in_mid_run(folder: Path, cluster: dict[str, str]) -> tuple[subprocess.Popen[str], int]:
    """A sweep whose first run has some rows, and the process of that run."""
    (folder / "swept.yaml").write_text(LONGER)
    process = start(*COMMAND, "--engine", "slurm", folder=folder, **cluster)
    return process, wait_for_rows(process, folder / "sweep/seed-0", 9)


def test_a_job_that_is_queued_again_in_mid_run_comes_to_the_same(
    cluster: dict[str, str], rows: dict[int, bytes], tmp_path: Path
) -> None:
    process, _ = in_mid_run(tmp_path, cluster)
    slurm("scontrol", "requeue", jobs(cluster)[0], cluster=cluster)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, out + err
    assert_same(tmp_path / "sweep", rows)
    assert len(json.loads((tmp_path / "sweep/seed-0/env.json").read_text())["resumed"]) == 1


def test_a_job_that_is_cancelled_in_mid_run_is_noticed_and_goes_on_by_the_same_command(
    cluster: dict[str, str], rows: dict[int, bytes], tmp_path: Path
) -> None:
    process, _ = in_mid_run(tmp_path, cluster)
    slurm("scancel", jobs(cluster)[0], cluster=cluster)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 1, out + err
    assert "it was cancelled" in out + err
    done = grokscope(*COMMAND, "--engine", "slurm", folder=tmp_path, **cluster)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same(tmp_path / "sweep", rows)
    assert len(json.loads((tmp_path / "sweep/seed-0/env.json").read_text())["resumed"]) == 1


def test_a_sweep_that_is_killed_goes_on_with_the_jobs_that_it_left(
    cluster: dict[str, str], rows: dict[int, bytes], tmp_path: Path
) -> None:
    process, pid = in_mid_run(tmp_path, cluster)
    kill(process.pid)
    process.communicate()
    assert jobs(cluster)
    done = grokscope(*COMMAND, "--engine", "slurm", folder=tmp_path, **cluster)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same(tmp_path / "sweep", rows)
    status = (tmp_path / "sweep/seed-0/status.json").read_text()
    assert f'"pid": {pid}' in status  # the job that was left did it, and no other again
    until(lambda: not jobs(cluster) and not jobs(cluster, "PD"))
