"""When to evaluate: at steps spaced evenly in their logarithm, at every N steps, or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grokscope.arguments import check_argument, check_fields
from grokscope.shown import shown

Scheduled = "str | int | Sequence[int] | Schedule"


@shown()
@dataclass(frozen=True)
class Schedule:
    """The steps at which to evaluate; step 0, the network before training, always is one.

    Args:
        per_decade: steps per factor of ten, log-spaced; None for none.
        every: at every N steps as well; None for none.
        at: these steps as well.

    Example:
        >>> Schedule(per_decade=4, every=50).steps(100)
        [0, 1, 2, 3, 6, 10, 18, 32, 50, 56, 100]
    """

    per_decade: int | None = 12
    every: int | None = None
    at: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        for name, value in (("per_decade", self.per_decade), ("every", self.every)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be a positive integer or None: got {value}")
        if any(step < 0 for step in self.at):
            raise ValueError(f"at must hold steps from 0 on: got {min(self.at)}")

    @classmethod
    def of(cls, schedule: str | int | Sequence[int] | Schedule, name: str = "schedule") -> Schedule:
        """A schedule from what a user writes: "log", every N steps, or the steps themselves.

        Raises:
            ValueError: if it is none of these.
        """
        check_argument(name, schedule, "str | int | Sequence[int] | Schedule")
        if isinstance(schedule, Schedule):
            return schedule
        if schedule == "log":
            return cls()
        if isinstance(schedule, int):
            return cls(per_decade=None, every=schedule)
        if isinstance(schedule, Sequence) and not isinstance(schedule, str):
            return cls(per_decade=None, at=tuple(sorted(schedule)))
        raise ValueError(
            f'{name} must be "log", a number of steps, a list of steps or a Schedule: '
            f"got {schedule!r}"
        )

    def after(self, step: int) -> int | None:
        """The first step of the schedule after ``step``, or None if there is no more."""
        candidates = [at for at in self.at if at > step]
        if self.per_decade is not None:
            candidates.append(self._log_after(step, self.per_decade))
        if self.every is not None:
            candidates.append((step // self.every + 1) * self.every)
        return min(candidates, default=None)

    def steps(self, last: int) -> list[int]:
        """All steps of the schedule up to ``last``, which is always among them."""
        steps = [0]
        while (following := self.after(steps[-1])) is not None and following < last:
            steps.append(following)
        return [*steps, last] if last > 0 else steps

    @staticmethod
    def _log_after(step: int, per_decade: int) -> int:
        if step < 1:
            return 1
        power = 0
        while 10 ** (power + 1) <= step:
            power += 1
        for index in range(power * per_decade, (power + 2) * per_decade):
            candidate = round(10 ** (index / per_decade))
            if candidate > step:
                return candidate
        raise AssertionError("a power of ten above the step is always among the candidates")
