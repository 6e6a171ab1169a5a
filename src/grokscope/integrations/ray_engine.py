"""Sweeps on Ray: a remote task for each run, begun again where its worker was lost."""

from __future__ import annotations

import logging
import os
import secrets
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from grokscope.experiments.sweep.engine import LAST_LINES, Job, Outcome
from grokscope.experiments.sweep.work import work
from grokscope.extras import require

MAX_RETRIES = 5
_STOP_SECONDS = 30.0
_ATTEMPTS = 3
_OBJECT_STORE_BYTES = 100_000_000  # runs are passed by their folder, results by a word
_NO_CLUSTER = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # where it is off, Ray keeps to this machine
_LOOPBACK = ("127.0.0.1", "::1")


def _variables(local: bool) -> dict[str, str]:
    """What Ray is to find in the environment, as far as it is not said there already."""
    wanted = {
        "RAY_USAGE_STATS_ENABLED": "0",  # it sends nothing of its own accord
        # A job that takes no GPU for itself may still use what there is.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    if local:  # others on this machine, and on its network, run nothing through us
        wanted |= {
            _NO_CLUSTER: "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        }
    return {name: value for name, value in wanted.items() if name not in os.environ}


class RayEngine:
    """Each job as a task of a Ray cluster, or of Ray on this machine.

    A task whose worker is lost is begun again, up to five times, and goes on from the run's last
    checkpoint. The sweep's folder has to lie on a disk that all nodes share, and grokscope has to
    be installed on them.

    Args:
        workers: how many jobs at the same time; None for as many as the cluster has cores for.
        address: of a running cluster, such as "ray://head:10001" or "auto"; None starts Ray on
            this machine, for this machine alone and with a token of its own, and ends it with the
            sweep.
        threads: cores that each job takes.
        gpus: GPUs that each job takes.

    Raises:
        MissingExtra: if Ray is not installed.
        ValueError: if ``workers`` is not positive, there is no cluster at the address, or Ray does
            not start here.
    """

    def __init__(
        self,
        workers: int | None = None,
        address: str | None = None,
        threads: int = 1,
        gpus: int = 0,
    ) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"--workers must be a positive number: got {workers}")
        # Before Ray is imported, which reads them once.
        self._variables = _variables(local=address is None)
        os.environ.update(self._variables)
        self._ray: Any = require("ray", "ray")
        self._workers, self._needs = workers, {"CPU": threads, "GPU": gpus}
        self._tasks: dict[Any, Job] = {}
        self._connect(address)
        self._work = self._ray.remote(
            num_cpus=threads, num_gpus=gpus, max_retries=MAX_RETRIES, retry_exceptions=False
        )(_work)

    def room(self) -> int:
        """How many more jobs may be started now: Ray is given what it has cores for, no more."""
        workers = self._workers
        if workers is None:
            there = self._ray.cluster_resources()
            needs = {kind: number for kind, number in self._needs.items() if number}
            workers = max(1, min(int(there.get(kind, 0) // of) for kind, of in needs.items()))
        return workers - len(self._tasks)

    def start(self, jobs: Sequence[Job]) -> None:
        """Begin to work on jobs."""
        for job in jobs:
            self._tasks[self._work.remote(asdict(job))] = job

    def ended(self) -> list[Outcome]:
        """The jobs whose task is over."""
        if not self._tasks:
            return []
        done, _ = self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
        return [self._outcome(task, self._tasks.pop(task)) for task in done]

    def stop(self) -> None:
        """Interrupt all tasks, wait for them to note it, and leave Ray."""
        if not self._ray.is_initialized():
            return
        tasks = list(self._tasks)
        self._tasks.clear()
        with suppress(Exception):  # a cluster that is gone has no tasks left to stop
            for task in tasks:
                self._ray.cancel(task)
            if tasks:
                self._ray.wait(tasks, num_returns=len(tasks), timeout=_STOP_SECONDS)
        self._ray.shutdown()
        for name in self._variables:
            os.environ.pop(name, None)

    def _connect(self, address: str | None) -> None:
        cluster: dict[str, Any] = {"address": address}
        if address is None:
            cluster = {
                "address": "local",
                "include_dashboard": False,
                "object_store_memory": _OBJECT_STORE_BYTES,
                "num_cpus": None if self._workers is None else self._workers * self._needs["CPU"],
            }
        # Ray gives its own processes half a minute to start, which a busy machine may exceed.
        attempts = _ATTEMPTS if address is None else 1
        for attempt in range(attempts):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # what matters comes again as an error
                    self._ray.init(**cluster, log_to_driver=False, logging_level=logging.ERROR)
                break
            except Exception as error:
                self._ray.shutdown()
                if attempt + 1 == attempts:
                    where = f"no cluster at --address {address}" if address else "it did not start"
                    reason = (str(error).splitlines() or [type(error).__name__])[0]
                    raise ValueError(f"Ray cannot be used as asked: {where}: {reason}") from None
        if address is None and self._ray.util.get_node_ip_address() not in _LOOPBACK:
            self._ray.shutdown()
            raise ValueError(
                "Ray cannot be used as asked: it would listen on all interfaces, as it was "
                f"imported before: set {_NO_CLUSTER}=0 in the environment first"
            )

    def _outcome(self, task: Any, job: Job) -> Outcome:
        try:
            state, message = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            lines = [type(error).__name__, *str(error).strip().splitlines()[:LAST_LINES]]
            return Outcome(job, "failed", "\n".join(["Ray has given it up", *lines]))
        return Outcome(job, state, message)


def _work(job: dict[str, Any]) -> tuple[str, str]:
    """The task: how the job ended, and what went wrong, both as plain text."""
    try:
        return ("finished" if work(Job(**job)) else "busy"), ""
    except Exception:
        return "failed", "\n".join(traceback.format_exc().rstrip().splitlines()[-LAST_LINES:])
