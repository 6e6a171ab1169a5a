"""Train one network for each of many seeds, all of them at once where that pays."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import nn

from grokscope.data import Dataset
from grokscope.methods.base import Method
from grokscope.runs import Trial, TrialGroup
from grokscope.spelling import unknown_name
from grokscope.training.device import resolve_device
from grokscope.training.fit import Data, assembled, data_of, fit, opened_trials
from grokscope.training.loop import FitResult
from grokscope.training.monitor import Monitor
from grokscope.training.stackable import obstacle, slower
from grokscope.training.stacked_loop import Member, StackedLoop

OnSeedEvaluation = Callable[[int, dict[str, Any], float], None]

_LOG = logging.getLogger(__name__)
_OWN = ("model", "data", "methods", "monitor", "seed", "device", "out", "resume", "on_evaluation")


def fit_seeds(
    build: Callable[[int], nn.Module],
    data: Data,
    seeds: Sequence[int],
    *,
    methods: Callable[[int], Sequence[Method]] | None = None,
    monitor: Callable[[nn.Module], Monitor | None] | None = None,
    vectorize: bool | str = "auto",
    device: str | torch.device = "auto",
    out: str | Path | Sequence[Trial] | None = None,
    resume: bool = False,
    on_evaluation: OnSeedEvaluation | None = None,
    **settings: Any,
) -> list[FitResult]:
    """Train a network for each seed, as ``fit`` would one after the other.

    Networks of one architecture are trained as one, with a leading axis of networks on every
    tensor. Each keeps its own initialization, order of batches, optimizer state, random numbers
    and measurements; its figures are those that ``fit`` gives for its seed, up to the rounding of
    floating-point numbers, which matrix products of another shape do otherwise. A network that
    comes to its end leaves the others. ``train_seconds`` is a network's share: the time of a step
    over the number of networks in it.

    Args:
        build: makes the network of a seed, a new one at each call.
        data: a ``Dataset``, or training inputs, training labels, test inputs and test labels.
        seeds: one for each network, all different.
        methods: makes the methods of a seed.
        monitor: makes the monitor of a network.
        vectorize: True trains the networks as one, False one after another; "auto" as one where
            that is possible and not slower, and logs why where it is not.
        device: "auto" (the best there is), "cpu", "cuda" or "mps".
        out: a folder to write a run directory to, with a training for each seed.
        resume: go on with the run in ``out``, if there is one, the way in which it was begun.
        on_evaluation: called with the seed, each row and the training seconds so far.
        **settings: what else ``fit`` takes; ``optimizer`` by name.

    Returns:
        What came of each network, in the order of the seeds.

    Raises:
        ValueError: an argument is wrong, or ``vectorize=True`` is not possible; the message says
            why.
        RunError: the run directory is in use, holds another run, or cannot be written.

    Example:
        >>> import grokscope as gs
        >>> data = gs.load_data("digits", train_size=300)
        >>> results = gs.fit_seeds(
        ...     lambda seed: gs.MLP(64, [32], 10, seed=seed), data, seeds=range(3),
        ...     lr=1e-2, batch_size=100, max_steps=60, device="cpu",
        ... )
        >>> [bool(result.history["test_accuracy"][-1] > 0.7) for result in results]
        [True, True, True]
    """
    _check(seeds, vectorize, settings)
    place = resolve_device(device)
    models = [build(seed) for seed in seeds]
    if len({id(model) for model in models}) < len(models):
        raise ValueError("build must make a new network for each seed: it gave one network twice")
    # Once for all: each network's own conversion then finds nothing to do.
    dataset = data_of(data)
    dtype = settings.get("dtype") or next((p.dtype for p in models[0].parameters()), torch.float32)
    dataset = dataset.to(place, dtype)
    plans = [
        _Plan(seed, model, methods, monitor, on_evaluation)
        for seed, model in zip(seeds, models, strict=True)
    ]
    shared = {**fit_defaults(), **settings, "device": place}
    with opened_trials(out, resume, place, seeds) as trials:
        group = TrialGroup(trials) if trials else None
        members = _members(plans, dataset, shared, vectorize, group)
        if members:
            return StackedLoop(members, group).run()
        return [
            fit(plan.model, dataset, out=trial, **plan.arguments, **shared)
            for plan, trial in zip_longest(plans, trials)
        ]


class _Plan:
    """What is a network's own: its seed, itself, its methods and monitor."""

    def __init__(
        self,
        seed: int,
        model: nn.Module,
        methods: Callable[[int], Sequence[Method]] | None,
        monitor: Callable[[nn.Module], Monitor | None] | None,
        on_evaluation: OnSeedEvaluation | None,
    ) -> None:
        self.model = model
        self.arguments: dict[str, Any] = {
            "seed": seed,
            "methods": [] if methods is None else methods(seed),
            "monitor": None if monitor is None else monitor(model),
            "on_evaluation": on_evaluation and partial(on_evaluation, seed),
        }


def _members(
    plans: Sequence[_Plan],
    data: Dataset,
    shared: Mapping[str, Any],
    vectorize: bool | str,
    group: TrialGroup | None,
) -> list[Member]:
    """The trainings that go on as one; none if they are to go one after another."""
    begun = group is not None and group.has_begun_together()
    if len(plans) == 1 or (group is not None and group.has_begun_apart()):
        return []
    if vectorize is False and not begun:
        return []
    members: list[Member] = []
    for plan in plans:
        members.append(assembled(Member, plan.model, data, **plan.arguments, **shared))
        data = members[0].evaluation.data  # which may be a copy: one will do
    for member, trial in zip(members, group.trials if group else [], strict=False):
        member.trial = trial
    reason = obstacle(members)
    if reason and (vectorize is True or begun):
        raise ValueError(f"these networks cannot be trained as one: {reason}; use vectorize=False")
    if not (vectorize is True or begun):
        reason = reason or slower(members)
    if reason:
        _LOG.warning("training %d seeds one after another: %s", len(plans), reason)
    return [] if reason else members


def fit_defaults() -> dict[str, Any]:
    """The settings of ``fit`` that all networks share, at their defaults."""
    parameters = inspect.signature(fit).parameters.items()
    return {name: parameter.default for name, parameter in parameters if name not in _OWN}


def _check(seeds: Sequence[int], vectorize: bool | str, settings: Mapping[str, Any]) -> None:
    if len(seeds) == 0:
        raise ValueError("seeds is empty: give it at least one seed")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must all be different: got {list(seeds)}")
    if vectorize not in (True, False, "auto"):
        raise ValueError(f'vectorize must be True, False or "auto": got {vectorize!r}')
    known = fit_defaults()
    for name in settings:
        if name not in known:
            raise ValueError(unknown_name("setting of fit_seeds", name, known))
    if not isinstance(settings.get("optimizer", "adamw"), str):
        raise ValueError("optimizer must be a name: every network needs an optimizer of its own")
