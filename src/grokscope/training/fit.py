"""Train a network, or one for each of many seeds, with their geometry in view."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from grokscope.arguments import checked_arguments
from grokscope.data import Dataset
from grokscope.imports import is_ours
from grokscope.measures.inputs import check_model
from grokscope.measures.modes import modes_kept
from grokscope.methods.base import Method, check_methods, joined
from grokscope.methods.networks import Networks, OneNetwork
from grokscope.runs import RunDirectory, Trial, TrialGroup
from grokscope.runs.files import read_yaml_mapping
from grokscope.runs.side_files import SPEC, holds_run
from grokscope.training.batches import BatchOrder
from grokscope.training.device import resolve_device
from grokscope.training.evaluation import Evaluation
from grokscope.training.examples import Data, data_of
from grokscope.training.freezing import freeze, frozen
from grokscope.training.loop import Loop
from grokscope.training.member import FitResult, Member, OnEvaluation
from grokscope.training.memory_order import gaining
from grokscope.training.monitor import Monitor
from grokscope.training.optimizers import learning_rate_schedule, named_optimizer
from grokscope.training.progress_line import SHOWN, ProgressLine, progress_line
from grokscope.training.recorded import check_recorded, recorded
from grokscope.training.settings import TrainingSettings, takes_settings
from grokscope.training.stackable import obstacle, slower
from grokscope.training.stacked_networks import StackedNetworks
from grokscope.training.state import TrainingState

OnSeedEvaluation = Callable[[int, dict[str, Any], float], None]

_LOG = logging.getLogger(__name__)


@takes_settings
@checked_arguments
def fit(
    model: nn.Module,
    data: Data,
    *,
    methods: Sequence[Method] = (),
    monitor: Monitor | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    out: str | Path | Trial | None = None,
    resume: bool = False,
    progress: bool | str = "auto",
    on_evaluation: OnEvaluation | None = None,
    **settings: Any,
) -> FitResult:
    """Train a network and record how it does.

    Args:
        model: the network; it is moved to the device and trained in place, in training mode but
            for layers that are in evaluation mode where the model is not.
        data: a ``Dataset``; or training inputs, training labels, test inputs and test labels,
            tensors or NumPy arrays; or a pair (train, test), each a torch ``Dataset``, a
            ``DataLoader`` or (x, y). Inputs may be tuples or dictionaries of tensors, on which the
            model is called as ``model(*x)`` or ``model(**x)``, and an item of a data set
            (x1, x2, ..., y) or a dictionary with its labels under "labels", "label" or "y". A data
            set is read once, in its order, and held in memory; a loader's own batches and
            shuffling have no say.
        methods: what brings generalization forward, such as ``GrokAlign()``. A training begins
            from what they remember and leaves it as it was.
        monitor: measures the network's geometry; its figures join the history.
        seed: decides the order of the batches; the initialization is the model's own.
        device: "auto" (the best there is), "cpu", "cuda" or "mps".
        out: a folder to write a run directory to, which ``grokscope report`` can read.
        resume: go on with the run in ``out``, if there is one; one that has finished trains the
            steps that a larger ``max_steps`` asks for.
        progress: "auto" shows a line on a terminal (on stderr) and in a notebook while training
            goes on; True elsewhere too, as a line of text every ten seconds; False none.
        on_evaluation: called with each row and the training seconds so far.
        **settings: optimizer, lr, weight_decay, batch_size, max_steps and the other fields of
            ``grokscope.training.TrainingSettings``, which says what each means.

    Returns:
        The trained model, the history of its evaluations, and how training ended: after Ctrl-C as
        "interrupted", with what there is by then. The model is in the mode that it had.

    Raises:
        ValueError: if an argument is wrong, or another than the run in ``out`` was trained with;
            the message names it.
        RunError: if the run directory is in use, holds another run, or cannot be written.

    Example:
        >>> import grokscope as gs
        >>> model = gs.MLP(64, [32], 10, seed=0)
        >>> data = gs.load_data("digits", train_size=300)
        >>> result = gs.fit(model, data, lr=1e-2, batch_size=100, max_steps=60)
        >>> result.steps, bool(result.history["test_accuracy"][-1] > 0.7)
        (60, True)
    """
    _check_progress(progress)
    if seed < 0:
        raise ValueError(f"seed must be 0 or positive: got {seed}")
    how = TrainingSettings.of(settings, "fit")
    place = resolve_device(device)
    own = _Own(seed, model, methods, monitor, on_evaluation)
    is_part = isinstance(out, Trial)
    with frozen([model], how.freeze), modes_kept(model):
        member = own.member(_moved(data, model, place, how), how, place)
        loop = _loop([own], [member], OneNetwork(model), place)
        training = recorded(how, methods, member.evaluation.data, model)
        try:
            with (
                _opened_trials(out, resume, place, [seed], training) as trials,
                progress_line(progress, [member], quiet=is_part) as line,
            ):
                (result,) = _run(loop, trials, line)
                return result
        except KeyboardInterrupt:
            if is_part:  # of an experiment, which is interrupted as a whole
                raise
            return member.as_it_is()


@takes_settings
@checked_arguments
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
    progress: bool | str = "auto",
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
        data: as for ``fit``.
        seeds: one for each network, all different.
        methods: makes the methods of a seed, of which each training begins anew.
        monitor: makes the monitor of a network.
        vectorize: True trains the networks as one, False one after another; "auto" as one where
            that is possible and not slower, and logs why where it is not.
        device: "auto" (the best there is), "cpu", "cuda" or "mps".
        out: a folder to write a run directory to, with a training for each seed.
        resume: go on with the run in ``out``, if there is one, the way in which it was begun.
        progress: as for ``fit``, a line for all networks.
        on_evaluation: called with the seed, each row and the training seconds so far.
        **settings: the fields of ``grokscope.training.TrainingSettings``; ``optimizer`` by name.

    Returns:
        The result of each network, in the order of the seeds; after Ctrl-C what there is of each:
        those that were done as they ended, all others as "interrupted", one whose turn had not come
        with 0 steps and no rows. Models are in the mode that they had.

    Raises:
        ValueError: if an argument is wrong, or ``vectorize=True`` is not possible; the message
            says why.
        RunError: if the run directory is in use, holds another run, or cannot be written.

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
    _check_seeds(seeds, vectorize)
    _check_progress(progress)
    how = TrainingSettings.of(settings, "fit_seeds")
    if not isinstance(how.optimizer, str):
        raise ValueError("optimizer must be a name: every network needs an optimizer of its own")
    place = resolve_device(device)
    models = [build(seed) for seed in seeds]
    if len({id(model) for model in models}) < len(models):
        raise ValueError("build must make a new network for each seed: it gave one network twice")
    dataset = _moved(data, models[0], place, how)
    owns = [
        _Own(
            seed,
            model,
            [] if methods is None else methods(seed),
            None if monitor is None else monitor(model),
            on_evaluation and partial(on_evaluation, seed),
        )
        for seed, model in zip(seeds, models, strict=True)
    ]
    members: list[Member] = []
    is_part = not (out is None or isinstance(out, str | Path))
    with frozen(models, how.freeze), modes_kept(*models):
        try:
            training = recorded(how, owns[0].methods, dataset, models[0])
            with _opened_trials(out, resume, place, seeds, training) as trials:
                for own in owns:
                    members.append(own.member(dataset, how, place))
                    dataset = members[0].evaluation.data  # which may be a copy: one will do
                group = TrialGroup(trials) if trials else None
                as_one = _are_trained_as_one(owns, members, vectorize, group)
                with progress_line(progress, members, quiet=is_part) as line:
                    return _results(owns, members, as_one, place, trials, line)
        except KeyboardInterrupt:
            if is_part or len(members) < len(owns):
                raise
            return [member.as_it_is() for member in members]


class _Own:
    """What is a network's own: its seed, itself, its methods and monitor."""

    def __init__(
        self,
        seed: int,
        model: nn.Module,
        methods: Sequence[Method],
        monitor: Monitor | None,
        on_evaluation: OnEvaluation | None,
    ) -> None:
        check_methods(methods)
        self.seed = seed
        self.model = model
        self.methods = methods
        self.monitor = monitor
        self.on_evaluation = on_evaluation

    def member(self, data: Dataset, how: TrainingSettings, place: torch.device) -> Member:
        """The network moved to its place, with its data."""
        check_model(self.model)
        if self.monitor is not None and not isinstance(self.monitor, Monitor):
            given = self.monitor
            got = given.__name__ if isinstance(given, type) else type(given).__name__
            raise TypeError(f"monitor must be made of the model, gs.Monitor(model, ...): got {got}")
        self.model.to(device=place, dtype=how.dtype)
        if self.monitor is not None and not _share(self.monitor.model, self.model):
            raise ValueError(
                "monitor measures another model than the one to train: pass monitor=gs.Monitor("
                "model, ...) with the same model"
            )
        if not any(own.requires_grad for own in self.model.parameters()):
            raise ValueError("model has no parameter to train: all are frozen, or there are none")
        evaluation = Evaluation(self.model, data, how.objective)
        return Member(self.seed, evaluation, how, self.monitor, self.on_evaluation)


def _loop(
    owns: Sequence[_Own], members: Sequence[Member], networks: Networks, place: torch.device
) -> Loop:
    """The loop of networks that are trained together; it writes nowhere as yet."""
    how = members[0].settings
    optimizer = how.optimizer
    if isinstance(optimizer, Optimizer):
        _check_trains(optimizer, members[0].model)
    else:
        optimizer = named_optimizer(
            optimizer,
            networks.trained,
            lr=how.lr,
            weight_decay=how.weight_decay,
            momentum=how.momentum,
            betas=how.betas,
            eps=how.eps,
            capturable=how.compile and place.type == "cuda",
        )
    scheduler = learning_rate_schedule(optimizer, how.max_steps, how.warmup, how.decay)
    methods = [joined(same) for same in zip(*(own.methods for own in owns), strict=True)]
    seeds = [member.seed for member in members]
    data = members[0].evaluation.data
    return Loop(
        members,
        TrainingState(networks, optimizer, scheduler, methods, place),
        BatchOrder(len(data.train_y), how.batch_size, seeds, place, how.shuffle),
    )


def _check_trains(optimizer: Optimizer, model: nn.Module) -> None:
    """Raise unless the optimizer moves a parameter of the model."""
    own = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    if not any(id(one) in own for group in optimizer.param_groups for one in group["params"]):
        raise ValueError(
            "optimizer holds no parameter of the model to train: make it of those of this very "
            "model, model.parameters()"
        )


def steps_of(
    models: Sequence[nn.Module],
    data: Data,
    seeds: Sequence[int],
    methods: Sequence[Sequence[Method]],
    settings: TrainingSettings,
    device: torch.device,
) -> Callable[[int], None]:
    """A function that takes a step of these networks, by its number from 1: for benchmarks.

    Several networks are trained as one. What ``fit`` sets up around its steps, where weights lie
    and zeros for denormal numbers, is left out.
    """
    owns = [
        _Own(seed, model, own, None, None)
        for seed, model, own in zip(seeds, models, methods, strict=True)
    ]
    for model in models:
        freeze(model, settings.freeze)
    members = [
        own.member(_moved(data, own.model, device, settings), settings, device) for own in owns
    ]
    networks: Networks = OneNetwork(models[0])
    if len(models) > 1:
        networks = stack = StackedNetworks(models)
        stack.bind()
    loop = _loop(owns, members, networks, device)
    for method in loop.state.methods:
        method.start(networks)
    return loop.take


def _results(
    owns: Sequence[_Own],
    members: Sequence[Member],
    as_one: bool,
    place: torch.device,
    trials: Sequence[Trial],
    line: ProgressLine | None,
) -> list[FitResult]:
    """Train the networks, as one or one after another."""
    if as_one:
        stack = StackedNetworks([own.model for own in owns])
        stack.bind()
        return _run(_loop(owns, members, stack, place), trials, line)
    return [
        result
        for row, (own, member) in enumerate(zip(owns, members, strict=True))
        for result in _run(
            _loop([own], [member], OneNetwork(own.model), place), trials[row : row + 1], line
        )
    ]


def _run(loop: Loop, trials: Sequence[Trial], line: ProgressLine | None) -> list[FitResult]:
    """Train, writing into the trials if there are any."""
    loop.group = TrialGroup(trials) if trials else None
    loop.progress = line
    for member, trial in zip(loop.members, trials, strict=False):
        member.trial = trial
    loop.convolutions = _gaining(loop)
    return loop.run()


def _gaining(loop: Loop) -> Sequence[nn.Module]:
    """The convolutions whose weights are to lie in the order in which a step is fastest.

    None for an optimizer or a method of the user's own, which may count on the usual order.
    """
    (first, *_), state = loop.members, loop.state
    own = isinstance(first.settings.optimizer, Optimizer) or not all(map(is_ours, state.methods))
    if own or not isinstance(state.networks, OneNetwork):
        return ()
    return gaining(first.model, first.evaluation.data.train_x)


def _are_trained_as_one(
    owns: Sequence[_Own],
    members: Sequence[Member],
    vectorize: bool | str,
    group: TrialGroup | None,
) -> bool:
    """Whether the networks go on as one: as they were begun, as asked, or where it pays."""
    begun = group is not None and group.has_begun_together()
    if len(members) == 1 or (group is not None and group.has_begun_apart()):
        return False
    if vectorize is False and not begun:
        return False
    reason = obstacle([own.methods for own in owns], [member.evaluation for member in members])
    if reason and (vectorize is True or begun):
        raise ValueError(f"these networks cannot be trained as one: {reason}; use vectorize=False")
    if not (vectorize is True or begun):
        reason = reason or slower(members[0].model)
    if reason:
        _LOG.warning("training %d seeds one after another: %s", len(members), reason)
    return reason is None


def _moved(data: Data, model: nn.Module, place: torch.device, how: TrainingSettings) -> Dataset:
    """The data where the model is trained and in its precision."""
    dtype = how.dtype or next((own.dtype for own in model.parameters()), torch.float32)
    return data_of(data).to(place, dtype)


def _share(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules have parameters in common, as a view and its model have."""
    own = {id(parameter) for parameter in one.parameters()}
    return one is other or any(id(parameter) in own for parameter in other.parameters())


def _check_seeds(seeds: Sequence[int], vectorize: bool | str) -> None:
    if len(seeds) == 0:
        raise ValueError("seeds is empty: give it at least one seed")
    if min(seeds) < 0:
        raise ValueError(f"seeds must be 0 or positive: got {list(seeds)}")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must all be different: got {list(seeds)}")
    if vectorize not in (True, False, "auto"):
        raise ValueError(f'vectorize must be True, False or "auto": got {vectorize!r}')


def _check_recorded_seeds(before: Sequence[int], now: Sequence[int], folder: Path) -> None:
    further = [seed for seed in now if seed not in before]
    if further:
        raise ValueError(
            f"{folder} was trained with seeds {list(before)} and not {further}: go on with those, "
            "or train anew in another folder"
        )


def _check_progress(progress: bool | str) -> None:
    if progress not in SHOWN:
        raise ValueError(f'progress must be True, False or "auto": got {progress!r}')


@contextmanager
def _opened_trials(
    out: str | Path | Sequence[Trial] | Trial | None,
    resume: bool,
    device: torch.device,
    seeds: Sequence[int],
    training: dict[str, Any],
) -> Iterator[list[Trial]]:
    """Where to write: the trials given, those of a run directory of its own, or nowhere."""
    if out is None or isinstance(out, Trial):
        yield [] if out is None else [out]
        return
    if not isinstance(out, (str, Path)):
        yield list(out)
        return
    path = Path(out)
    if resume and holds_run(path):
        spec = read_yaml_mapping(path / SPEC)
        check_recorded(spec.get("training", {}), training, path)
        _check_recorded_seeds(spec.get("seeds", seeds), seeds, path)
        run = RunDirectory.resume(path, str(device))
    else:
        spec = {
            "name": path.name,
            "title": path.name,
            "seeds": list(seeds),
            "arms": {"run": {"title": path.name}},
            "training": training,
        }
        run = RunDirectory.create(path, spec, str(device), list(seeds))
    with run:
        yield [run.trial("run", seed) for seed in seeds]
