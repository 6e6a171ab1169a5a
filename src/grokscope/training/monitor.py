"""A monitor that watches the geometry of a network while somebody's loop trains it."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from grokscope.arguments import checked_arguments
from grokscope.findings.phase import Phase, phase
from grokscope.measures.batches import leaf_at, leaves, rows, wrt_key
from grokscope.measures.guard import undisturbed, without_wrappers
from grokscope.measures.inputs import check_chunk_size, check_count, check_model
from grokscope.measures.view import continuous, wrt_of
from grokscope.methods.attachment import innermost_optimizer, leaves_out
from grokscope.runs import History
from grokscope.shown import shown
from grokscope.training.archive import Archive, MemoryArchive
from grokscope.training.examples import PROBE_EXAMPLES, TEST_EXAMPLES, examples, moved_to
from grokscope.training.measure_with_memory import MeasureWithMemory, Probe
from grokscope.training.measurements import DEFAULT_MEASURES, Measure, is_own, named, values_of
from grokscope.training.objective import Objective
from grokscope.training.schedule import Schedule
from grokscope.training.scores import ScoreFunction, Scores
from grokscope.training.second_process import SecondProcess
from grokscope.training.tracker import logged_by
from grokscope.training.watched_run import write_page

_FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@shown()
class Monitor:
    """Measures a network at scheduled steps, without disturbing its training.

    Call ``step()`` at every step of any loop, or ``attach`` the monitor to the optimizer: it does
    nothing but compare integers until the schedule says so. While it measures, the network is in
    eval mode; mode, gradients and the state of the random generators are put back as they were.

    Args:
        model: the network, also wrapped, compiled, in half precision, or as a ``gs.View``.
        probe: some 256 training points: inputs and labels (x, y), where x may be a tuple or
            dictionary of tensors; a dictionary with its labels under "labels", "label" or "y"; a
            ``Dataset`` or a ``DataLoader``, of which the first 256 examples are taken; a stream
            that can be read only once has lost them for the training.
        measures: names (see ``MEASURES``), functions ``(model, x, y) -> float or (n,)``,
            recorded under the function's name, or a measure with a memory such as
            ``NTKDistance(128)``.
        schedule: "log" (12 steps per decade), every N steps, a list of steps, or a
            ``Schedule``.
        test: the same of a test set, for the test accuracy that ``phase`` looks at; of a
            ``Dataset`` or ``DataLoader`` the first 2,048 examples.
        loss: "cross_entropy", "mse", "binary_cross_entropy" or a function, for the scores.
        scores: "auto", loss and the accuracy of class labels (n,), or (n, t) for tokens; a function
            of outputs and labels that gives a number or several by name; None for none. They are
            recorded as ``probe_NAME`` and ``test_NAME``.
        log: called with every measured row, as ``log(row, step=step)``: ``wandb.log``,
            ``trackio.log``, ``mlflow.log_metrics``, ``accelerator.log``; or a TensorBoard
            ``SummaryWriter``.
        pictures: how many probe points have their centroids kept at each measured step, in
            ``archive`` as ``step-00000100``.
        chunk_size: how many probe points are measured at once; None for all.
        exact: take the whole Jacobian at every probe point. Otherwise, for networks of 10 outputs
            and more that are no chain of linear layers, alignment of rows and PC1 are those of the
            ``jacobian_points`` that the row names, and the norm at the others is estimated from
            ``jacobian_projections`` random directions.
        asynchronous: measure a snapshot of the network in a second process, while training goes
            on: ``step`` returns None, and rows come to the history late but in order, with the
            same numbers; ``close`` waits for the last. It pays where measuring takes long and a
            core is free.

    Raises:
        TypeError: if the model is no ``nn.Module``, or probe or test hold no tensors.
        ValueError: if an argument is wrong; the message names it.

    Example:
        >>> import torch, grokscope as gs
        >>> model = gs.MLP(5, [8], 3, seed=0)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> x, y = torch.randn(16, 5), torch.arange(16) % 3
        >>> with gs.Monitor(model, probe=(x, y)).attach(optimizer) as monitor:
        ...     for _ in range(20):  # a training loop
        ...         torch.nn.functional.cross_entropy(model(x), y).backward()
        ...         optimizer.step()
        >>> monitor.history.steps
        array([ 0,  1,  2,  3,  4,  5,  6,  7,  8, 10, 12, 15, 18, 20])
    """

    @checked_arguments
    def __init__(
        self,
        model: nn.Module,
        probe: Any,
        measures: Sequence[str | Measure | MeasureWithMemory] = DEFAULT_MEASURES,
        schedule: str | int | Sequence[int] | Schedule = "log",
        *,
        test: Any = None,
        loss: str | Callable[[Tensor, Tensor], Tensor] = "cross_entropy",
        scores: str | ScoreFunction | None = "auto",
        log: Any = None,
        pictures: int = 0,
        chunk_size: int | None = None,
        exact: bool = False,
        asynchronous: bool = False,
    ) -> None:
        check_model(model)
        check_count("pictures", pictures, least=0)
        check_chunk_size(chunk_size)
        self.model = model
        self.schedule = Schedule.of(schedule)
        self.history = History()
        self.archive: Archive = MemoryArchive()
        self.probe = examples("probe", probe, PROBE_EXAMPLES)
        self.test = None if test is None else examples("test", test, TEST_EXAMPLES)
        self._scores = Scores(scores, Objective(loss))
        self._log = logged_by(log)
        self._num_pictures = min(pictures, len(self.probe[1]))
        self._image_shape: tuple[int, ...] | None = None
        self._chunk_size = chunk_size
        self._exact = exact
        self.asynchronous = asynchronous
        self._process: SecondProcess | None = None
        self._measures = named(measures)
        self._next: int | None = 0
        self._last = -1  # the step of the last call
        self._measured_at: int | None = None
        self._trained: list[Tensor] = []
        self._version = 0
        self._hook: RemovableHandle | None = None
        self._closed = False

    def _shown(self) -> dict[str, Any]:
        try:
            name = self.phase().name
        except ValueError:  # there is no training accuracy
            name = "not known"
        return {
            "model": type(self.model).__name__,
            "probe examples": len(self.probe[1]),
            "test examples": 0 if self.test is None else len(self.test[1]),
            "measures": ", ".join(self._measures) or "none",
            "next at step": self.due,
            "phase": name,
            "history": self.history,
        }

    @property
    def measure_names(self) -> list[str]:
        """What is measured, by name."""
        return list(self._measures)

    @property
    def due(self) -> int | None:
        """The next step at which the monitor measures; None when its schedule has run out."""
        return self._next

    def step(
        self, step: int | None = None, *, always: bool = False, **values: float
    ) -> dict[str, Any] | None:
        """Measure if ``step`` is due, and return the new row; otherwise return None at once.

        With ``asynchronous`` it returns None in any case.

        Args:
            step: number of steps trained so far; 0 is the network before training. None counts the
                calls: 0, 1, 2, ...
            always: measure whether due or not, as for a last step.
            values: values of your own, such as ``train_accuracy`` and ``test_accuracy``; they
                join the history even where the step is not due.

        Raises:
            ValueError: if the step is before that of the last call.
        """
        step = self._last + 1 if step is None else self._checked(step)
        self._last, self._closed = step, False
        due = self._next is not None and step >= self._next
        if self._hook is None:  # else it is told of every step
            self._version = self._parameter_version(anew=due or always)
        if not due and not always:
            if values:
                self._append({"step": step, **values})
            return None
        # The caller's own values win: they may be of all test points, ours of a few.
        row: dict[str, Any] = {"step": step, **values}
        measured = None if self.asynchronous else {**row, **self.measure(step), **row}
        self._next = self.schedule.after(step)
        self._measured_at = step
        if measured is not None:
            self._record(measured)
            return measured
        if self._process is None:
            self._process = SecondProcess(self._to_send())
        self._process.measure(row, without_wrappers(self.model))
        self._collect(wait=False)
        return None

    def wait(self) -> None:
        """Wait for the rows that a second process is still measuring."""
        self._collect(wait=True)
        if self._process is not None:  # what measures there remember is remembered here too
            remembered = self._process.memory()
            for measure in self.with_memory():
                measure.restore(self.history)
                measure.load_state_dict(remembered[measure.name])

    def _append(self, row: dict[str, Any]) -> None:
        """Put the caller's own values into the history, behind rows that are still to come."""
        if self._process is None:
            self.history.append(row)
        else:
            self._process.add(row)
            self._collect(wait=False)

    def _collect(self, *, wait: bool) -> None:
        if self._process is None:
            return
        for row, measured in self._process.arrived(self.archive, wait=wait):
            if measured:
                self._record(row)
            else:
                self.history.append(row)

    def _record(self, row: dict[str, Any]) -> None:
        self.history.append(row)
        if self._log is not None:
            values = {name: value for name, value in row.items() if name != "step"}
            self._log(values, row["step"])

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made of, or what is saved: it is attached to nothing."""
        self.wait()
        return {**vars(self), "_hook": None, "_process": None}

    def _to_send(self) -> Monitor:
        """A monitor of the same that measures at once, for another process."""
        sent = copy.copy(self)
        sent.model = without_wrappers(self.model)
        sent.asynchronous, sent._log = False, None
        sent.history = History()
        return sent

    def attach(self, optimizer: Any) -> Monitor:
        """Take a step whenever the optimizer does, from now on; step 0 is measured at once.

        It serves a plain loop, Accelerate and Lightning alike: steps are those of the optimizer,
        whatever is accumulated in between, and one that a ``GradScaler`` skips is none. ``close``
        detaches it again.

        Raises:
            TypeError: if there is no ``torch.optim.Optimizer`` in what is given.
            ValueError: if the monitor is attached already.
        """
        if self._hook is not None:
            raise ValueError("the monitor is attached to an optimizer already: close() it first")
        inner = innermost_optimizer(optimizer)
        self._closed = False
        if self._last < 0:
            self.step(0)

        def after_step(*_: Any) -> None:
            if not leaves_out(inner):
                self.step()

        self._hook = inner.register_step_post_hook(after_step)
        return self

    def close(self) -> None:
        """Measure the last network if that has not been done, finish, and detach.

        Where parameters have changed since the last ``step(i)``, it is of step i + 1.
        """
        attached = self._hook is not None
        self.detach()
        if self._last >= 0 and not self._closed:
            moved = not attached and self._parameter_version(anew=False) != self._version
            last = self._last + moved
            if last != self._measured_at:
                self.step(last, always=True)
        self._closed = True
        self.finish()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, KeyboardInterrupt):
            self.close()
        else:
            self.detach()

    def measure(self, step: int) -> dict[str, float]:
        """The values of the network as it is now, whatever the schedule says."""
        own_code = any(map(is_own, self._measures.values()))
        with (
            undisturbed(self.model, training=False, own_code=own_code) as rewind,
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(self._place().device.type, enabled=False),
        ):
            return self._measured(step, rewind)

    def finish(self) -> None:
        """Compute what needs all steps, as ``NTKDistance`` does; ``fit`` calls it at the end."""
        if self._process is not None:
            try:
                self.wait()
            finally:
                self._process.end()
                self._process = None
        for measure in self.with_memory():
            measure.finish(self.archive)

    def phase(self) -> Phase:
        """The phase that training is in, and the values that tell it.

        Raises:
            ValueError: if nothing was measured yet.
        """
        return phase(self.history)

    def report(self, path: str | Path = "report.html", title: str | None = None) -> Path:
        """Write the page of ``grokscope report`` on what was measured so far.

        Args:
            path: the file, or a folder for ``report.html``.
            title: of the page; the model's class by default.

        Returns:
            The file written: one HTML page that needs no network and no other file.

        Raises:
            RunError: if nothing was measured yet, or the page cannot be written.
        """
        named = title or type(self.model).__name__
        return write_page(self.history, self.archive, path, named, str(self._place().device))

    def keep_in(self, archive: Archive, image_shape: tuple[int, ...] | None = None) -> None:
        """Keep tensors in ``archive`` from now on; pictures in the shape of an image.

        Args:
            archive: such as the ``Trial`` of a run directory; in memory by default.
            image_shape: (channels, height, width) of an input that was flattened.
        """
        self.archive, self._image_shape = archive, image_shape
        if self._num_pictures:
            few = slice(0, self._num_pictures)
            x = continuous(self.model, rows(self.probe[0], few))
            shown = self._as_images(leaf_at(x, wrt_key(x, wrt_of(self.model))))
            archive.save_arrays("probe", {"x": shown, "y": self.probe[1][few]})

    def restore(self, history: History) -> None:
        """Go on after the rows of an earlier part of the same training."""
        self.history = history
        for measure in self.with_memory():
            measure.restore(history)
        if len(history):
            self._last = self._measured_at = int(history.steps[-1])
            self._next = self.schedule.after(self._last)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs, for its checkpoint: numbers, strings and tensors.

        Tensors kept in memory are part of it; those in a run directory stay there.
        """
        self.wait()
        archive = self.archive.kept if isinstance(self.archive, MemoryArchive) else {}
        return {
            "rows": [dict(row) for row in self.history],
            "last": self._last,
            "measured_at": self._measured_at,
            "next": self._next,
            "measures": {own.name: own.state_dict() for own in self.with_memory()},
            "archive": {name: dict(arrays) for name, arrays in archive.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned, after that step.

        Raises:
            ValueError: if it is not the state of a monitor with these measures.
        """
        missing = {"rows", "last", "measured_at", "next", "measures", "archive"} - set(state)
        if missing:
            raise ValueError(f"state is not that of a Monitor: it lacks {sorted(missing)}")
        own = {measure.name: measure for measure in self.with_memory()}
        if set(state["measures"]) != set(own):
            raise ValueError(
                f"state is of a Monitor that remembers {sorted(state['measures'])}: this one "
                f"remembers {sorted(own)}; give it the same measures"
            )
        if isinstance(self.archive, MemoryArchive):
            for name, arrays in state["archive"].items():
                self.archive.save_arrays(name, arrays)
        self.restore(History(state["rows"]))
        for name, measure in own.items():
            measure.load_state_dict(state["measures"][name])
        self._last, self._measured_at = state["last"], state["measured_at"]
        self._next = state["next"]
        self._version = self._parameter_version(anew=True)

    def _checked(self, step: int) -> int:
        """The step as an int; raise where it is none or goes backwards."""
        try:
            number = operator.index(step)
        except TypeError:
            raise TypeError(f"step must be an integer: got {type(step).__name__}") from None
        if number < max(self._last, 0):
            last = f"the last call was step {self._last}" if self._last >= 0 else "steps count up"
            raise ValueError(
                f"step {number} goes backwards: {last}; sort checkpoints by their steps, and for "
                "another training make another Monitor"
            )
        return number

    def detach(self) -> None:
        """Follow the optimizer no longer, and measure nothing."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _parameter_version(self, *, anew: bool) -> int:
        """A number that grows when an optimizer moves a part of the network, whichever it is."""
        if anew or not self._trained:  # seeking them takes longer than asking them
            self._trained = [
                own
                for own in self.model.parameters()
                if own.requires_grad and not own.is_inference()
            ]
        return sum(own._version for own in self._trained)

    def _place(self) -> Tensor:
        """A tensor of the device and precision of the network."""
        floating = (own for own in self.model.parameters() if own.dtype in _FLOATING)
        return next(floating, next(iter(leaves(self.probe[0]).values())))

    def _measured(self, step: int, rewind: Callable[[], None]) -> dict[str, float]:
        place = self._place()
        x, y = moved_to(self.probe, place)
        test = None if self.test is None else moved_to(self.test, place)
        probe = Probe(self.model, x, self._chunk_size, y, test, self._exact)
        row: dict[str, float] = {}
        for split, pair in (("probe", (x, y)), ("test", test)):
            if pair is not None:
                scores = self._scores(self.model, *pair, self._chunk_size)
                row |= {f"{split}_{name}": value for name, value in scores.items()}
        row |= values_of(self._measures, probe, step, self.archive, rewind)
        row |= probe.sampled
        if self._num_pictures:
            centroids = self._as_images(probe.geometry.centroids[: self._num_pictures])
            self.archive.save_arrays(f"step-{step:08d}", {"centroids": centroids})
        return row

    def with_memory(self) -> list[MeasureWithMemory]:
        """Its measures that remember earlier steps."""
        return [own for own in self._measures.values() if isinstance(own, MeasureWithMemory)]

    def _as_images(self, x: Tensor) -> Tensor:
        return x if self._image_shape is None else x.reshape(len(x), *self._image_shape)
