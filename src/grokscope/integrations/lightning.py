"""Callbacks for Lightning: a monitor that watches a fit, and methods that act in it.

Both follow the steps of the optimizer, so accumulation, mixed precision and several processes need
no setting here. What they remember is part of Lightning's checkpoints, and a fit that goes on from
one goes on with it. ``lightning`` serves as well as ``pytorch_lightning``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from torch import nn

from grokscope.extras import require
from grokscope.measures.guard import without_wrappers
from grokscope.methods.attachment import Attachment
from grokscope.methods.base import Method
from grokscope.training.monitor import Monitor

_PACKAGES = ("lightning", "pytorch_lightning")
_IS_OLD = find_spec("lightning") is None and find_spec("pytorch_lightning") is not None
_lightning = require("pytorch_lightning" if _IS_OLD else "lightning.pytorch", "lightning")
_Callback: Any = _lightning.Callback

Part = str | Callable[[Any], nn.Module] | None

# they spread a parameter over processes, where each sees a part of it
_SHARDING = ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy", "XLAFSDPStrategy")


class MonitorCallback(_Callback):
    """Watches a network while Lightning fits it.

    Steps are those of the optimizer. The first process measures, and the others wait for it at
    their next step. The last network is measured when the fit ends, also by Ctrl-C.

    Args:
        probe: as for ``gs.Monitor``; None takes the examples of the training data loader.
        test: as for ``gs.Monitor``.
        model: what is measured: the name of a module within the LightningModule, or a function of
            the LightningModule, such as one that gives a ``gs.View``. None is the LightningModule
            itself if it has a ``forward``, else the only module in it.
        optimizer: the number of the optimizer whose steps count, where there are several.
        log: as for ``gs.Monitor``; "loggers" are those of the trainer.
        name: tells the states of several such callbacks apart in Lightning's checkpoints: give
            each beyond the first a name of its own.
        **settings: the other arguments of ``gs.Monitor``.

    Attributes:
        monitor: the ``gs.Monitor``, from the start of the fit on; on the first process only.

    Raises:
        ValueError: if it is not clear, at the start of the fit, which model is meant, or the
            parameters are spread over processes.
    """

    def __init__(
        self,
        probe: Any = None,
        *,
        test: Any = None,
        model: Part = None,
        optimizer: int = 0,
        log: Any = "loggers",
        name: str = "",
        **settings: Any,
    ) -> None:
        self.monitor: Monitor | None = None
        self._probe, self._test, self._log = probe, test, log
        self._model, self._optimizer = model, optimizer
        self._settings, self._name = settings, name
        self._state: dict[str, Any] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Measure the network as it is, and follow the optimizer from here on."""
        _check_strategy(trainer)
        if not trainer.is_global_zero:
            return
        probe = trainer.train_dataloader if self._probe is None else self._probe
        log = self._to_loggers(trainer) if self._log == "loggers" else self._log
        state = self.state_dict() if trainer.global_step else {}
        model = _part_of(pl_module, self._model)
        monitor = Monitor(model, probe, test=self._test, log=log, **self._settings)
        if state:
            monitor.load_state_dict(state)
        elif trainer.global_step:  # a checkpoint of a fit that had no monitor
            monitor.step(trainer.global_step)
        self.monitor = monitor.attach(trainer.optimizers[self._optimizer])

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure the last network."""
        if self.monitor is not None:
            self.monitor.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Measure the last network after Ctrl-C; after an error let go of the optimizer."""
        if self.monitor is not None:
            self.monitor.__exit__(type(exception), exception, None)

    @property
    def state_key(self) -> str:
        """Where its state is in a checkpoint."""
        return _key(self, self._name)

    def state_dict(self) -> dict[str, Any]:
        """What the monitor remembers, for a checkpoint."""
        return self._state if self.monitor is None else self.monitor.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint when the fit starts."""
        self.monitor, self._state = None, state_dict

    @staticmethod
    def _to_loggers(trainer: Any) -> Callable[..., None]:
        def log(row: dict[str, float], step: int) -> None:
            for logger in trainer.loggers:
                logger.log_metrics(row, step)

        return log


class MethodsCallback(_Callback):
    """Lets methods act in a fit, at every step of the optimizer; see ``Method.attach``.

    Gradient clipping by the trainer comes before them; ``gs.GradientClipping`` as the last method
    comes after.

    Args:
        methods: such as ``[gs.GrokAlign(1e-3)]``; the first one acts first.
        model: what is trained, as for ``MonitorCallback``: the module that ``training_step`` calls,
            or a ``gs.View`` of it.
        optimizer: the number of the optimizer at whose steps they act, where there are several.
        name: as for ``MonitorCallback``.

    Raises:
        ValueError: if a method changes the inputs, at the start of the fit, if it is not clear
            which model is meant, or the parameters are spread over processes.
    """

    def __init__(
        self,
        methods: Sequence[Method],
        *,
        model: Part = None,
        optimizer: int = 0,
        name: str = "",
    ) -> None:
        self.methods, self._name = list(methods), name
        self._model, self._optimizer = model, optimizer
        self._attachments: list[Attachment] = []
        self._steps = [0] * len(self.methods)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Act from here on."""
        _check_strategy(trainer)
        self._detach()
        model, optimizer = _part_of(pl_module, self._model), trainer.optimizers[self._optimizer]
        for method, steps in zip(self.methods, self._steps, strict=True):
            attached = Attachment(model, optimizer, method, distributed=trainer.world_size > 1)
            attached.steps = steps
            self._attachments.append(attached)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Act no longer."""
        self._detach()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Act no longer."""
        self._detach()

    @property
    def state_key(self) -> str:
        """Where its state is in a checkpoint."""
        return _key(self, self._name)

    def state_dict(self) -> dict[str, Any]:
        """What the methods remember, for a checkpoint."""
        steps = [own.steps for own in self._attachments] or self._steps
        return {
            "names": [method.name for method in self.methods],
            "methods": [method.state_dict() for method in self.methods],
            "steps": steps,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: if it is of other methods.
        """
        names = [method.name for method in self.methods]
        if state_dict["names"] != names:
            raise ValueError(
                f"the checkpoint is of methods {state_dict['names']}: pass MethodsCallback these, "
                f"not {names}"
            )
        for method, state in zip(self.methods, state_dict["methods"], strict=True):
            method.load_state_dict(state)
        self._steps = list(state_dict["steps"])

    def _detach(self) -> None:
        if self._attachments:
            self._steps = [own.steps for own in self._attachments]
        for attached in self._attachments:
            attached.detach()
        self._attachments = []


def _part_of(module: Any, part: Part) -> nn.Module:
    """The module that is meant of a LightningModule."""
    if callable(part):
        return part(module)
    if part is not None:
        try:
            return module.get_submodule(part)
        except AttributeError:
            names = [name for name, _ in module.named_children()]
            raise ValueError(
                f"model={part!r} is no module of {_name(module)}: it has {names}"
            ) from None
    own = type(module).forward.__module__.partition(".")[0] not in _PACKAGES
    if own:
        return module
    parts = {
        name: own for name, own in module.named_children() if any(True for _ in own.parameters())
    }
    if len(parts) != 1:
        raise ValueError(
            f"{_name(module)} has no forward, and {len(parts)} modules with parameters, "
            f"{', '.join(parts)}: name the one that is meant, as model={next(iter(parts), '...')!r}"
        )
    return next(iter(parts.values()))


def _key(callback: Any, name: str) -> str:
    """The key that Lightning gives a callback by itself, with a name where there is one."""
    return type(callback).__qualname__ + (f"[{name}]" if name else "")


def _name(module: nn.Module) -> str:
    return type(without_wrappers(module)).__name__


def _check_strategy(trainer: Any) -> None:
    name = type(trainer.strategy).__name__
    if name in _SHARDING:
        raise ValueError(
            f"{name} spreads each parameter over the processes, and a network is measured and "
            'penalized as a whole: use strategy="ddp" or one process'
        )
