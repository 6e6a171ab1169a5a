"""What a check of a statement found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """A statement and its largest deviation.

    Attributes:
        key: a short name, for claims.
        theorem: where the paper states it.
        statement: as we read it.
        condition: what it needs.
        deviation: the largest over all networks, relative to the size of what is compared.
        tolerance: up to which deviation it counts as held.
        counterexample: whether the condition was left out on purpose, to see what happens.
    """

    key: str
    theorem: str
    statement: str
    condition: str
    deviation: float
    tolerance: float
    counterexample: bool = False

    @property
    def held(self) -> bool:
        """Whether no network deviates by more than the tolerance."""
        return self.deviation <= self.tolerance

    def row(self) -> dict[str, Any]:
        """The finding as a row of a table."""
        return {
            "theorem": self.theorem,
            "statement": self.statement,
            "condition": self.condition,
            "deviation": self.deviation,
            "tolerance": self.tolerance,
            "held": self.held,
        }
