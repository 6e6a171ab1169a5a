"""The linear regions of a small network, cell by cell, in exact rational arithmetic.

Every cell carries the affine map of the activations so far, from slice coordinates, and is
clipped by one line at a time. No vertices are shared, nothing is rounded, nothing is batched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import nn

Point = tuple[Fraction, Fraction]
Form = tuple[Fraction, Fraction, Fraction]  # a x + b y + c
ZERO: Form = (Fraction(0), Fraction(0), Fraction(0))


@dataclass
class Affine:
    """x -> matrix x + bias."""

    matrix: list[list[Fraction]]
    bias: list[Fraction]


@dataclass
class Kinked:
    """Entry by entry: between kinks i - 1 and i the function slopes[j][i] x + intercepts[i]."""

    kinks: Sequence[float]
    slopes: Sequence[Sequence[float | Fraction]]
    intercepts: Sequence[float]


@dataclass
class Max:
    """The largest entry of each window of indices."""

    windows: list[list[int]]


@dataclass
class Residual:
    """x -> x + steps(x)."""

    steps: list[Any]


def relu(width: int) -> Kinked:
    return Kinked([0.0], [[0.0, 1.0]] * width, [0.0, 0.0])


def dense(module: nn.Module, shape: Sequence[int]) -> Affine:
    """Any affine module as a matrix, by feeding it zero and the unit vectors."""
    module = module.double()
    size = torch.Size(shape).numel()
    with torch.no_grad():
        zero = module(torch.zeros(1, *shape, dtype=torch.float64)).flatten()
        units = module(torch.eye(size, dtype=torch.float64).reshape(size, *shape)).flatten(1)
    matrix = [[Fraction(v) - Fraction(z) for v, z in zip(row, zero.tolist(), strict=True)]
              for row in units.tolist()]  # fmt: skip
    return Affine(
        [list(row) for row in zip(*matrix, strict=True)], [Fraction(z) for z in zero.tolist()]
    )


def forms(origin: torch.Tensor, basis: torch.Tensor) -> list[Form]:
    """The entries of origin + x basis[0] + y basis[1]."""
    columns = zip(*basis.flatten(1).tolist(), origin.flatten().tolist(), strict=True)
    return [(Fraction(a), Fraction(b), Fraction(c)) for a, b, c in columns]


def cells(
    steps: Sequence[Any], start: list[Form], polygon: Sequence[Sequence[float]]
) -> list[tuple[list[Point], list[Form]]]:
    """(outline, affine map of the outputs) of every linear region."""
    outline = [(Fraction(x), Fraction(y)) for x, y in polygon]
    found = [(outline, start)]
    for step in steps:
        found = [finer for cell in found for finer in _apply(step, *cell)]
    return found


def area(outline: Sequence[Point]) -> Fraction:
    pairs = zip(outline, [*outline[1:], outline[0]], strict=True)
    return sum((a[0] * b[1] - a[1] * b[0] for a, b in pairs), Fraction(0)) / 2


def _apply(step: Any, outline: list[Point], x: list[Form]) -> list[tuple[list[Point], list[Form]]]:
    if isinstance(step, Affine):
        return [
            (outline, [_combine(row, x, b) for row, b in zip(step.matrix, step.bias, strict=True)])
        ]
    if isinstance(step, Residual):
        return _residual(step, outline, x)
    if isinstance(step, Max):
        return _max(step, outline, x)
    found: list[tuple[list[Point], list[Form]]] = [(outline, [])]
    for form, slopes in zip(x, step.slopes, strict=True):
        finer = []
        for part, done in found:
            for piece, i in _pieces(part, form, step.kinks):
                slope, intercept = Fraction(slopes[i]), Fraction(step.intercepts[i])
                value = (slope * form[0], slope * form[1], slope * form[2] + intercept)
                finer.append((piece, [*done, value]))
        found = finer
    return found


def _residual(
    step: Residual, outline: list[Point], x: list[Form]
) -> list[tuple[list[Point], list[Form]]]:
    found = [(outline, x)]
    for inner in step.steps:
        found = [finer for cell in found for finer in _apply(inner, *cell)]
    return [
        (part, [(a[0] + b[0], a[1] + b[1], a[2] + b[2]) for a, b in zip(x, y, strict=True)])
        for part, y in found
    ]


def _max(step: Max, outline: list[Point], x: list[Form]) -> list[tuple[list[Point], list[Form]]]:
    found: list[tuple[list[Point], list[Form]]] = [(outline, [])]
    for window in step.windows:
        finer = []
        for part, done in found:
            forms_seen: list[Form] = []
            for i in window:
                if x[i] in forms_seen:
                    continue
                forms_seen.append(x[i])
                piece: list[Point] | None = part
                for j in window:
                    difference = tuple(a - b for a, b in zip(x[i], x[j], strict=True))
                    if piece is not None and difference != ZERO:
                        piece = _clip(piece, difference)  # type: ignore[arg-type]
                if piece is not None:
                    finer.append((piece, [*done, x[i]]))
        found = finer
    return found


def _pieces(
    outline: list[Point], form: Form, kinks: Sequence[float]
) -> list[tuple[list[Point], int]]:
    """The parts of a cell on each side of each kink, with the number of kinks below."""
    found, rest = [], [(outline, 0)]
    for kink in kinks:
        shifted = (form[0], form[1], form[2] - Fraction(kink))
        lower = tuple(-v for v in shifted)
        new = []
        for part, i in rest:
            below, above = _clip(part, lower), _clip(part, shifted)  # type: ignore[arg-type]
            if above is not None:
                new.append((above, i + 1))
            if below is not None or above is None:
                found.append((below or part, i))
        rest = new
    return found + rest


def _clip(outline: list[Point], form: Form) -> list[Point] | None:
    """The part where the form is not negative; None where that has no interior."""
    value = [form[0] * x + form[1] * y + form[2] for x, y in outline]
    if max(value) <= 0:
        return None
    kept: list[Point] = []
    for i, (point, v) in enumerate(zip(outline, value, strict=True)):
        if v >= 0:
            kept.append(point)
        after, w = outline[(i + 1) % len(outline)], value[(i + 1) % len(outline)]
        if v * w < 0:
            t = v / (v - w)
            kept.append(
                (point[0] + t * (after[0] - point[0]), point[1] + t * (after[1] - point[1]))
            )
    return kept


def _combine(row: Sequence[Fraction], x: Sequence[Form], bias: Fraction) -> Form:
    total = [
        sum((w * form[i] for w, form in zip(row, x, strict=True)), Fraction(0)) for i in range(3)
    ]
    return total[0], total[1], total[2] + bias
