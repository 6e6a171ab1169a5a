"""Steps that are recorded once and replayed: CUDA graphs on a GPU.

A step of a small network is some hundred kernels of a few microseconds each, and Python needs
longer to launch them than the GPU to run them. A CUDA graph launches all of them at once. In a
replay no Python runs: whatever changes from step to step must lie in tensors that are filled
before (the batch's indices, random numbers, the learning rate), and whatever branches in Python
must be known before (``Method.variant``): steps of one variant share a recording.

On a CPU nothing is captured: a replay runs the recorded operations through Python, from the same
filled tensors and with the step numbers of the recording, so that it gives the numbers of plain
steps, bit for bit, only if the step can be captured.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from grokscope.methods.networks import FromHost
from grokscope.training.batches import BatchOrder
from grokscope.training.state import TrainingState

WARM_UP = 3  # plain steps of a variant before it is recorded; they count as steps
BLOCK = 8  # steps in a recording, where as many lie before the next evaluation
_CAPTURING = threading.Lock()
_SIDE = threading.local()
MOST = 24  # recordings kept; where variants mix in more ways, steps are recorded one by one

Move = Callable[[int, Tensor | None], None]


@dataclass
class _Feed:
    """A tensor that Python fills before each replay."""

    make: FromHost
    buffer: Tensor


@dataclass
class _Recording:
    """Some steps in a row: the tensors they read, and what runs them."""

    indices: Tensor | None  # of all steps, one behind the other: filled by one copy
    feeds: list[list[_Feed]]
    run: Callable[[], None]
    graph: torch.cuda.CUDAGraph | None = None


@dataclass
class _Variant:
    """What is known of the steps of one variant from those that ran plainly."""

    seen: int = 0
    made: list[tuple[FromHost, Tensor]] = field(default_factory=list)


class RecordedSteps:
    """Takes the steps of a training from recordings.

    Where networks leave, the shapes change, and a new one must be made.

    Args:
        move: takes a step, given its number and the indices of its examples.
        state: what moves.
        order: the batches.

    Raises:
        ValueError: if a method or the optimizer cannot be recorded.
    """

    def __init__(self, move: Move, state: TrainingState, order: BatchOrder) -> None:
        check_capturable(state)
        self._move = move
        self._state = state
        self._order = order
        self._variants: dict[Hashable, _Variant] = {}
        self._recordings: dict[tuple[Hashable, ...], _Recording] = {}
        self._cuda = state.device.type == "cuda"
        # Warm-up and capture share one side stream. Capture is not allowed on the default stream,
        # and the nodes that add up gradients run on the stream on which they were first made.
        self._stream = _side_stream(state.device) if self._cuda else None
        if self._cuda and state.scheduler is not None:
            # A number would be baked into the graph; the scheduler fills a tensor in place.
            for group in state.optimizer.param_groups:
                group["lr"] = torch.tensor(float(group["lr"]), device=state.device)

    def take(self, first: int, last: int) -> int:
        """Take one or several steps from ``first`` on, not beyond ``last``; say which was last."""
        variant = self._variants.setdefault(self._variant(first), _Variant())
        taken = 1
        if variant.seen < WARM_UP:
            self._warm_up(first, variant)
        else:
            steps = self._block(first, last)
            taken = len(steps)
            recording = self._recordings.get(steps)
            if recording is None:
                recording = self._recordings[steps] = self._record(first, steps)
            self._replay(recording, first)
        if self._state.scheduler is not None:
            self._state.scheduler.step()
        return first + taken - 1

    def _variant(self, step: int) -> Hashable:
        size = 0 if self._order.full else self._order.size_at(step)
        return size, *(method.variant(step) for method in self._state.methods)

    def _block(self, first: int, last: int) -> tuple[Hashable, ...]:
        """The variants of the steps that are taken in one replay."""
        alone = (self._variant(first),)
        # a schedule moves the learning rate between any two steps
        if self._state.scheduler is not None or first + BLOCK - 1 > last:
            return alone
        steps = tuple(self._variant(first + place) for place in range(BLOCK))
        if steps not in self._recordings and len(self._recordings) >= MOST:
            return alone
        known = (self._variants.get(step) for step in steps)
        ready = all(variant is not None and variant.seen >= WARM_UP for variant in known)
        return steps if ready else alone

    def _warm_up(self, step: int, variant: _Variant) -> None:
        """Take a plain step, and note what Python makes for it.

        It also makes what a first step makes: the optimizer's moments, a method's averages,
        cuBLAS's workspaces. In a recording they would be made anew in each replay.
        """
        variant.made = []

        def feed(step: int, make: FromHost) -> Tensor:
            value = make(step)
            variant.made.append((make, value))
            return value

        with self._on_side_stream(), self._feeding(feed):
            self._move(step, self._order.at(step))
        variant.seen += 1

    def _record(self, first: int, steps: tuple[Hashable, ...]) -> _Recording:
        """Record the operations of some steps; on a GPU that runs none of them."""
        # Buffers are made before the capture: what is allocated within belongs to the graph's
        # own pool, where later replays reuse the memory.
        feeds = [
            [
                _Feed(make, torch.empty_like(value, memory_format=torch.contiguous_format))
                for make, value in self._variants[step].made
            ]
            for step in steps
        ]
        indices, parts = self._index_buffer(first, len(steps))

        def run() -> None:
            for place, index in enumerate(parts):
                with self._feeding(_buffers_of(feeds[place])):
                    self._move(first + place, index)

        recording = _Recording(indices, feeds, run)
        if self._stream is not None:
            recording.graph = self._captured(run, self._stream)
        return recording

    def _captured(self, run: Callable[[], None], stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
        # Gradients of plain steps must go, or the graph would add to memory that is not its own.
        self._state.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        try:
            # One capture at a time, and only this thread's calls belong to it: others may load
            # data or train other networks meanwhile.
            with (
                _CAPTURING,
                _without_collection(),
                torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
            ):
                run()
        except RuntimeError as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise RuntimeError(
                f"a step could not be captured as a CUDA graph ({reason}): the network, the loss "
                "or a method waits for values of tensors, or allocates on the CPU; use "
                "compile=False"
            ) from error
        return graph

    def _replay(self, recording: _Recording, first: int) -> None:
        """Fill the tensors, in the order in which plain steps would draw, and run."""
        if recording.indices is not None:
            recording.indices.copy_(self._order.during(first, len(recording.feeds)))
        for step, feeds in enumerate(recording.feeds, first):
            for feed in feeds:
                feed.buffer.copy_(feed.make(step))
        # All of it is on one stream, so the graph reads after it was filled and is read before
        # it is filled again.
        if recording.graph is None:
            recording.run()
        else:
            recording.graph.replay()

    def _index_buffer(
        self, first: int, count: int
    ) -> tuple[Tensor | None, Sequence[Tensor | None]]:
        """Room for the indices of some steps, and each step's part of it."""
        if self._order.full:
            return None, [None] * count
        sizes = [self._order.size_at(first + place) for place in range(count)]
        shape = len(self._state.networks), sum(sizes)
        indices = torch.empty(shape, dtype=torch.long, device=self._state.device)
        return indices, indices.split(sizes, -1)

    @contextmanager
    def _feeding(self, feed: Callable[[int, FromHost], Tensor]) -> Iterator[None]:
        networks = self._state.networks
        networks.feed = feed
        try:
            yield
        finally:
            networks.feed = None

    @contextmanager
    def _on_side_stream(self) -> Iterator[None]:
        """Run on the stream of the captures, after what was before and before what comes after."""
        if self._stream is None:
            yield
            return
        current = torch.cuda.current_stream(self._state.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)


def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """This thread's stream for recordings: torch has 32 of them, and hands them out in turn.

    With a new one for each recording, two threads that train at a time would come to share one,
    and what the second does on it would break the first one's capture.
    """
    streams: dict[torch.device, torch.cuda.Stream] = vars(_SIDE).setdefault("streams", {})
    if device not in streams:
        streams[device] = torch.cuda.Stream(device)
    return streams[device]


@contextmanager
def _without_collection() -> Iterator[None]:
    """Collect garbage now and none inside: a graph that is destroyed in a capture ends it."""
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _buffers_of(feeds: list[_Feed]) -> Callable[[int, FromHost], Tensor]:
    """Gives one filled tensor after the other."""
    filled = iter(feeds)
    return lambda _step, _make: next(filled).buffer


def check_capturable(state: TrainingState) -> None:
    """Raise where a method or an optimizer cannot be recorded.

    Raises:
        ValueError: if one cannot; the message names it.
    """
    for method in state.methods:
        # asked of the class itself: a subclass may do anything
        if "capturable" not in vars(type(method)) or not method.capturable():
            raise ValueError(
                f"compile=True does not go with the method {type(method).__name__}, which does "
                "not say that its steps can be recorded; use compile=False"
            )
    groups = state.optimizer.param_groups
    if state.device.type == "cuda" and not all(group.get("capturable", True) for group in groups):
        raise ValueError(
            f"compile=True needs an optimizer that can be captured: make "
            f"{type(state.optimizer).__name__} with capturable=True, or name it"
        )
