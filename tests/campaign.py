"""Kill, damage and move runs for as long as it is given, and count what was not survived.

    python -m tests.campaign --seconds 300 --seed 0

Each try takes a small run of two conditions. A kill comes at a random moment, or at the k-th write:
before a file is flushed, before it takes its place, or within a line. The run is resumed, perhaps
killed again, until it is finished: its rows and networks have to be those of a run that was left
alone, to the bit. Of a run that was stopped half-way one byte is changed, or the end cut off, in
one of its files: resuming either comes to the same numbers or says in one line what is wrong; so
do the report and the table. The exit code is 1 if any try was not survived.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from grokscope.experiments import load_experiment, run_experiment
from grokscope.experiments.spec import Experiment
from grokscope.report import comparison_data, write_report
from grokscope.runs import Run
from grokscope.runs.directory import holds_run
from grokscope.runs.rows import RowFile
from tests.cli.running import EXPERIMENT

_LONGEST = 600  # characters of what is said


def main() -> int:
    """Run the campaign, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        counts = Campaign(Path(folder), random.Random(arguments.seed)).run(arguments.seconds)
    print(json.dumps(counts, indent=2))
    return int(any(of["failed"] for of in counts.values()))


class Campaign:
    """Tries on copies of one small run, in children of this process, which has torch loaded."""

    def __init__(self, folder: Path, draw: random.Random) -> None:
        self.folder, self.draw = folder, draw
        (folder / "small.yaml").write_text(EXPERIMENT)
        self.experiment: Experiment = load_experiment(str(folder / "small.yaml"))
        begin = time.monotonic()
        self.whole = self._finish(folder / "whole")
        self.takes = time.monotonic() - begin
        self.writes = self._count_writes()

    def run(self, seconds: float) -> dict[str, dict[str, int]]:
        """Tries of all kinds in turn until the time is over: how many, and how many failed."""
        kinds: dict[str, Callable[[Path], None]] = {
            "killed at a random moment": self.killed_at_a_moment,
            "killed at the k-th write": self.killed_at_a_write,
            "damaged, then resumed": self.damaged_and_resumed,
            "damaged, then shown": self.damaged_and_shown,
            "moved, then resumed": self.moved,
        }
        tries: Counter[str] = Counter()
        failed: Counter[str] = Counter()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for kind, attempt in kinds.items():
                place = self.folder / f"try-{tries.total()}"
                tries[kind] += 1
                try:
                    attempt(place)
                except Exception:
                    failed[kind] += 1
                    print(f"NOT SURVIVED, {kind}:\n{traceback.format_exc()}", file=sys.stderr)
                shutil.rmtree(place, ignore_errors=True)
        return {kind: {"tries": tries[kind], "failed": failed[kind]} for kind in kinds}

    def killed_at_a_moment(self, place: Path) -> None:
        """Up to three kills at any moment, then to the end."""
        for _ in range(self.draw.randint(1, 3)):
            self._killed_after(place, self.draw.uniform(0, 1.2) * self.takes)
        self._same(self._finish(place))

    def killed_at_a_write(self, place: Path) -> None:
        """Up to three kills within a write, then to the end."""
        for _ in range(self.draw.randint(1, 3)):
            self._killed_at(place, self.draw.randint(1, self.writes))
        self._same(self._finish(place))

    def damaged_and_resumed(self, place: Path) -> None:
        """The same numbers, or a word on what is wrong."""
        self._stopped_half_way(place)
        self._damage(place)
        self._whole_or_said(lambda: self._same(self._finish(place)), place)

    def damaged_and_shown(self, place: Path) -> None:
        """A page and a table, or a word on what is wrong."""
        shutil.copytree(self.whole, place)
        self._damage(place)
        self._whole_or_said(lambda: comparison_data([place]), place)
        self._whole_or_said(lambda: write_report([place]), place)

    def moved(self, place: Path) -> None:
        """Another name and another folder make no difference."""
        self._stopped_half_way(place)
        elsewhere = place.with_name(f"{place.name}-elsewhere")
        place.rename(elsewhere)
        self._same(self._finish(elsewhere))
        shutil.rmtree(elsewhere)

    def _finish(self, place: Path) -> Path:
        run_experiment(self.experiment, place, device="cpu", resume=True)
        return place

    def _same(self, place: Path) -> None:
        """Raise where a run has other numbers than the one that was left alone."""
        ours, theirs = ((at / "metrics.jsonl").read_bytes() for at in (place, self.whole))
        assert ours == theirs, "other rows"
        for arm in self.experiment.arms:
            found, wanted = (Run(at).checkpoint(arm, 0)["model"] for at in (place, self.whole))
            for name, value in wanted.items():
                assert torch.equal(found[name], value), f"another network: {arm} {name}"

    def _damage(self, place: Path) -> None:
        """Change a byte of one of the files that count, or cut its end off."""
        files = [path for path in place.rglob("*") if path.is_file() and path.suffix != ".html"]
        file = self.draw.choice(sorted(path for path in files if path.stat().st_size))
        content = bytearray(file.read_bytes())
        at = self.draw.randrange(len(content))
        if self.draw.random() < 0.3:
            file.write_bytes(content[:at])
        else:
            content[at] ^= 1 << self.draw.randrange(8)
            file.write_bytes(content)

    @staticmethod
    def _whole_or_said(use: Callable[[], Any], place: Path) -> None:
        try:
            use()
        except ValueError as error:
            said = str(error)
        except RuntimeError as error:
            if type(error).__name__ != "RunError":
                raise
            said = str(error)
        else:
            return
        assert len(said) < _LONGEST + len(str(place)), said

    def _stopped_half_way(self, place: Path) -> None:
        while not holds_run(place):
            shutil.rmtree(place, ignore_errors=True)
            self._killed_after(place, self.draw.uniform(0.3, 0.9) * self.takes)

    def _killed_after(self, place: Path, seconds: float) -> None:
        pid = _child(lambda: self._finish(place))
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def _killed_at(self, place: Path, number: int) -> None:
        def work() -> None:
            _die_at(number)
            self._finish(place)

        os.waitpid(_child(work), 0)

    def _count_writes(self) -> int:
        """How many moments of writing a whole run has."""
        reader, writer = os.pipe()

        def work() -> None:
            count = _die_at(sys.maxsize)
            self._finish(self.folder / "counted")
            os.write(writer, str(count()).encode())

        os.waitpid(_child(work), 0)
        return int(os.read(reader, 100))


def _child(work: Callable[[], Any]) -> int:
    """The id of a child of this process that does some work and ends."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid


def _die_at(number: int) -> Callable[[], int]:
    """Let this process be killed at a moment of writing; how many there were so far."""
    moments = [0]

    def pass_moment() -> None:
        moments[0] += 1
        if moments[0] >= number:
            os.kill(os.getpid(), signal.SIGKILL)

    fsync, replace, append = os.fsync, Path.replace, RowFile.append

    def flush(handle: int) -> None:
        pass_moment()
        fsync(handle)

    def put(self: Path, target: Any) -> Path:
        pass_moment()
        return replace(self, target)

    def write(self: RowFile, row: Any) -> None:
        if moments[0] + 1 >= number:
            line = json.dumps(dict(row)).encode()
            with self.path.open("ab") as file:
                file.write(line[: len(line) // 2])
        pass_moment()
        append(self, row)

    os.fsync = flush
    Path.replace = put  # type: ignore[method-assign, assignment]
    RowFile.append = write  # type: ignore[method-assign]
    return lambda: moments[0]


if __name__ == "__main__":
    sys.exit(main())
