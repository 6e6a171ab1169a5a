"""The queue of a sweep, with an engine that only pretends to work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from grokscope.experiments.sweep import Job, Outcome, RunState, driver, progress_of, work_through
from grokscope.runs import RunDirectory
from grokscope.runs.sweep_folder import claim


class Pretence:
    """An engine that does to a run what it is told, a tick after it was started."""

    def __init__(self, workers: int, does: Callable[[Job], Outcome]) -> None:
        self.workers, self.does = workers, does
        self.going_on: list[Job] = []
        self.started: list[Job] = []
        self.most = 0
        self.stopped = False

    def room(self) -> int:
        return self.workers - len(self.going_on)

    def start(self, jobs: Sequence[Job]) -> None:
        self.going_on += jobs
        self.started += jobs
        self.most = max(self.most, len(self.going_on))

    def ended(self) -> list[Outcome]:
        done, self.going_on = self.going_on, []
        return [self.does(job) for job in done]

    def stop(self) -> None:
        self.stopped = True


def finish(job: Job) -> Outcome:
    RunDirectory.create(job.run, {"name": "x"}, "cpu", [job.seed]).close("finished")
    return Outcome(job, "finished")


@pytest.fixture(autouse=True)
def _in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "TICK_SECONDS", 0.0)
    monkeypatch.setattr(driver, "CLAIM_SECONDS", 0.0)


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    return [Job(str(tmp_path), seed) for seed in range(5)]


def states(found: Mapping[Job, RunState]) -> list[str]:
    return [state.state for state in found.values()]


def test_all_runs_are_worked_on_never_more_at_a_time_than_there_is_room(jobs: list[Job]) -> None:
    engine = Pretence(2, finish)
    assert states(work_through(jobs, engine)) == ["finished"] * 5
    assert engine.started == jobs
    assert engine.most == 2
    assert engine.stopped


def test_a_run_that_fails_leaves_the_others_alone(jobs: list[Job]) -> None:
    def mostly(job: Job) -> Outcome:
        return Outcome(job, "failed", "no disk") if job.seed == 1 else finish(job)

    found = work_through(jobs, Pretence(2, mostly))
    assert states(found) == ["finished", "failed", "finished", "finished", "finished"]
    assert found[jobs[1]].message == "no disk"
    again = Pretence(5, finish)
    assert states(work_through(jobs, again)) == [
        *["done before", "finished"],
        *["done before"] * 3,
    ]
    assert again.started == [jobs[1]]


def test_a_run_that_another_process_works_on_is_left_to_it(jobs: list[Job]) -> None:
    jobs[2].run.mkdir()
    lock = claim(jobs[2].run)
    lock.acquire()
    engine = Pretence(5, finish)

    seen: set[str] = set()

    class Other:
        """The other process finishes its run once all else is done."""

        def changed(self, job: Job, state: RunState) -> None:
            """Nothing to note."""

        def tick(self, found: Mapping[Job, RunState]) -> None:
            seen.add(found[jobs[2]].state)
            if states(found).count("finished") == 4 and lock.is_locked:
                finish(jobs[2])
                lock.release()

    assert states(work_through(jobs, engine, Other())) == ["finished"] * 5
    assert seen == {"elsewhere", "finished"}
    assert jobs[2] not in engine.started


def test_a_run_whose_other_process_died_is_taken_over(jobs: list[Job]) -> None:
    tries: list[int] = []

    def busy_at_first(job: Job) -> Outcome:
        tries.append(job.seed)
        return finish(job) if tries.count(job.seed) > 1 else Outcome(job, "busy")

    assert states(work_through(jobs, Pretence(5, busy_at_first))) == ["finished"] * 5


def test_an_interruption_stops_the_engine_and_goes_on(jobs: list[Job]) -> None:
    def interrupted(job: Job) -> Outcome:
        raise KeyboardInterrupt

    engine = Pretence(1, interrupted)
    with pytest.raises(KeyboardInterrupt):
        work_through(jobs, engine)
    assert engine.stopped


def test_progress_is_read_while_it_is_written(tmp_path: Path) -> None:
    assert progress_of(tmp_path) is None
    rows = tmp_path / "metrics.jsonl"
    rows.write_text('{"arm": "a", "step": 20, "test_accuracy": 0.5}\n{"arm": "a", "st')
    found = progress_of(tmp_path)
    assert found is not None
    assert (found.arm, found.step, found.train_accuracy, found.test_accuracy) == (
        "a",
        20,
        None,
        0.5,
    )
    rows.write_text('{"arm": "a", "step": 1}\n' * 5000 + '{"arm": "b", "step": 7}\n')
    found = progress_of(tmp_path)
    assert found is not None
    assert (found.arm, found.step) == ("b", 7)
