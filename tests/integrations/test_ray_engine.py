"""Ray for real: started here, a worker killed in mid-run, the same numbers in the end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from grokscope.extras import MissingExtra
from grokscope.integrations.ray_engine import RayEngine
from tests.cli.running import start
from tests.cli.sweeping import SWEPT, assert_same, kill, plain_runs, wait_for_rows


def assert_closed_to_others(driver: int) -> None:
    """That what Ray started listens on this machine alone, and asks for the sweep's token."""
    import grpc

    listening = {
        (Path(f"/proc/{pid}/comm").read_text().strip(), *address)
        for pid in descendants(driver)
        for address in listening_at(pid)
    }
    names = {name for name, *_ in listening}
    assert {"gcs_server", "raylet"} <= names
    assert {host for _, host, _ in listening} == {"127.0.0.1"}
    port = next(port for name, _, port in listening if name == "gcs_server")
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask = channel.unary_unary(
            "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
            request_serializer=bytes,
            response_deserializer=bytes,
        )
        with pytest.raises(grpc.RpcError) as caught:
            ask(b"", timeout=30)
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def descendants(pid: int) -> set[int]:
    """A process and all that it started, directly or not."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        parents[int(entry.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def listening_at(pid: int) -> set[tuple[str, int]]:
    """The addresses at which a process listens."""
    inodes = set()
    for handle in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(OSError):
            inodes.add(os.readlink(handle).removeprefix("socket:[").rstrip("]"))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                host, port = fields[1].split(":")
                last = bytes.fromhex(host[-8:])[::-1]  # also of ::ffff:127.0.0.1
                mapped = len(host) == 8 or host[:24] == "0000000000000000FFFF0000"
                shown = ".".join(map(str, last)) if mapped else host
                found.add((shown, int(port, 16)))
    return found


def test_a_sweep_whose_worker_is_killed_comes_to_the_same(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = plain_runs(tmp_path_factory.mktemp("plain"))
    (tmp_path / "swept.yaml").write_text(SWEPT)
    sweep = tmp_path / "sweep"
    process = start(
        *("sweep", "swept.yaml", "--seeds", "2", "--device", "cpu", "--out", "sweep"),
        *("--engine", "ray", "--workers", "1"),
        folder=tmp_path,
    )
    worker = wait_for_rows(process, sweep / "seed-0", 9)
    assert_closed_to_others(process.pid)
    kill(worker)
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


@pytest.mark.parametrize("address", [None, "auto"])
@pytest.mark.parametrize("place", ["127.0.0.1", "192.0.2.7"])
def test_only_ray_that_is_started_here_has_to_be_on_loopback(
    monkeypatch: pytest.MonkeyPatch, address: str | None, place: str
) -> None:
    class Elsewhere(ModuleType):
        """Ray that was imported before, or a cluster of several machines."""

        util = SimpleNamespace(get_node_ip_address=lambda: place)
        closed = 0

        def init(self, **settings: object) -> None:
            assert settings["address"] == (address or "local")

        def shutdown(self) -> None:
            self.closed += 1

        def remote(self, **settings: object) -> Callable[[object], object]:
            return lambda task: task

        def is_initialized(self) -> bool:
            return False

    ray = Elsewhere("ray")
    monkeypatch.setitem(sys.modules, "ray", ray)
    if address is None and place != "127.0.0.1":
        with pytest.raises(ValueError, match="it would listen on all interfaces"):
            RayEngine(workers=1, address=address)
    else:
        RayEngine(workers=1, address=address)
    assert ray.closed == (address is None and place != "127.0.0.1")


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
