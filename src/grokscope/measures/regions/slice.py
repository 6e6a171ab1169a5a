"""A two-dimensional affine slice of input space, x = origin + a basis[0] + b basis[1]."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from grokscope.arguments import checked_arguments
from grokscope.measures.inputs import generator_or_fresh
from grokscope.shown import shown


@shown("origin", "basis", "polygon", "half_width")
class Slice:
    """A convex piece of a plane in input space, with coordinates (a, b) on it.

    Attributes:
        origin: (*d,), the point with coordinates (0, 0), float64.
        basis: (2, *d), the directions of the two coordinates, float64.
        polygon: (m, 2), the corners of the domain in slice coordinates, counter-clockwise.
        half_width: of a square domain; None for any other.

    Example:
        >>> import torch
        >>> import grokscope as gs
        >>> plane = gs.Slice(torch.zeros(3), torch.eye(3)[:2], half_width=2.0)
        >>> plane.points(torch.tensor([[1.0, -2.0]]))
        tensor([[ 1., -2.,  0.]], dtype=torch.float64)
    """

    @checked_arguments
    def __init__(
        self,
        origin: Float[Tensor, "..."],
        basis: Float[Tensor, "..."],
        half_width: float = 1.0,
        polygon: Float[Tensor, "..."] | None = None,
    ) -> None:
        """Set up the slice.

        Args:
            origin: (*d,), one input without a batch axis.
            basis: (2, *d), two independent directions; coordinates are lengths if they are
                orthonormal.
            half_width: the domain is |a|, |b| <= half_width, unless ``polygon`` is given.
            polygon: (m, 2), the corners of a convex domain, in order, either way round.

        Raises:
            ValueError: for shapes that do not fit, NaN, dependent directions, an empty or
                non-convex domain.
        """
        if origin.ndim == 0:
            raise ValueError("origin must be one input of shape (*d,): got a scalar")
        if tuple(basis.shape) != (2, *origin.shape):
            raise ValueError(
                f"basis must have shape {(2, *origin.shape)} to go with origin of shape "
                f"{tuple(origin.shape)}: got {tuple(basis.shape)}"
            )
        for name, tensor in (("origin", origin), ("basis", basis)):
            if not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"{name} holds NaN or infinity")
        if not 0 < half_width < float("inf"):
            raise ValueError(f"half_width must be positive and finite: got {half_width}")
        self.origin = origin.detach().double()
        self.basis = basis.detach().double()
        directions = self.basis.flatten(1)
        self._gram = directions @ directions.T
        if float(torch.det(self._gram)) <= 1e-20 * float(self._gram.diagonal().prod()):
            raise ValueError("basis must hold two independent directions: got parallel ones")
        self.half_width = half_width if polygon is None else None
        self.polygon = _square(half_width) if polygon is None else _convex(polygon)

    @classmethod
    def through(
        cls,
        a: Float[Tensor, "..."],
        b: Float[Tensor, "..."],
        c: Float[Tensor, "..."],
        half_width: float | None = None,
    ) -> Slice:
        """The slice through three inputs of shape (*d,), centered on their mean.

        The basis is orthonormal, by Gram-Schmidt of a - mean and b - mean, so that coordinates
        are Euclidean lengths. Without ``half_width`` the domain holds the points with a margin
        of a quarter.

        Raises:
            ValueError: if the shapes differ, or the points lie on one line.

        Example:
            >>> import torch
            >>> import grokscope as gs
            >>> a, b, c = torch.eye(4)[:3]
            >>> gs.Slice.through(a, b, c).coordinates(a[None]).norm().square()
            tensor(0.6667, dtype=torch.float64)
        """
        if not a.shape == b.shape == c.shape:
            raise ValueError(
                "a, b and c must have one shape: got "
                f"{tuple(a.shape)}, {tuple(b.shape)} and {tuple(c.shape)}"
            )
        points = torch.stack([a, b, c]).detach().double()
        origin = points.mean(0)
        from_origin = (points - origin).flatten(1)
        first = from_origin[0] / from_origin[0].norm()
        second = from_origin[1] - (from_origin[1] @ first) * first
        if not float(second.norm()) > 1e-6 * float(from_origin.norm()):
            raise ValueError("a, b and c lie on one line: three points in general position needed")
        basis = torch.stack([first, second / second.norm()])
        if half_width is None:
            half_width = 1.25 * float((from_origin @ basis.T).abs().max())
        return cls(origin, basis.reshape(2, *a.shape), half_width)

    @classmethod
    def random(
        cls,
        origin: Float[Tensor, "..."],
        half_width: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Slice:
        """A slice through ``origin`` (*d,) in two orthonormal directions, uniformly at random.

        ``generator`` is the source of the directions. If None, a fresh one seeded by the operating
        system: the global random state is left alone, and two calls differ.

        Example:
            >>> import torch
            >>> import grokscope as gs
            >>> plane = gs.Slice.random(torch.zeros(5), generator=torch.Generator().manual_seed(0))
            >>> plane
            Slice(inputs (5,), [-1, 1] x [-1, 1])
        """
        if origin.numel() < 2:
            raise ValueError(f"origin needs two features or more: got shape {tuple(origin.shape)}")
        source = generator_or_fresh(generator)
        normal = torch.randn(
            origin.numel(), 2, generator=source, dtype=torch.float64, device=source.device
        )
        directions = torch.linalg.qr(normal).Q.T.to(origin.device)
        return cls(origin, directions.reshape(2, *origin.shape), half_width)

    def points(self, coordinates: Float[Tensor, "n 2"]) -> Float[Tensor, "n ..."]:
        """The inputs (n, *d) at slice coordinates (n, 2), float64."""
        coordinates = coordinates.to(self.basis)
        return self.origin + (coordinates @ self.basis.flatten(1)).reshape(-1, *self.origin.shape)

    def coordinates(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n 2"]:
        """The slice coordinates (n, 2) of the orthogonal projections of inputs (n, *d)."""
        if x.shape[1:] != self.origin.shape:
            raise ValueError(
                f"x must have shape (n, {', '.join(map(str, self.origin.shape))}): "
                f"got {tuple(x.shape)}"
            )
        offset = (x.to(self.origin) - self.origin).flatten(1)
        return torch.linalg.solve(self._gram, self.basis.flatten(1) @ offset.T).T

    @property
    def metric(self) -> Float[Tensor, "2 2"]:
        """L with |basis^T c| = |c L|: turns differences of coordinates into input-space lengths."""
        return torch.linalg.cholesky(self._gram)

    def __repr__(self) -> str:
        lower, upper = self.polygon.min(0).values.tolist(), self.polygon.max(0).values.tolist()
        span = " x ".join(f"[{a:g}, {b:g}]" for a, b in zip(lower, upper, strict=True))
        kind = "" if len(self.polygon) == 4 else f"{len(self.polygon)} corners within "
        return f"Slice(inputs {tuple(self.origin.shape)}, {kind}{span})"


def _square(half_width: float) -> Tensor:
    corners = [[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]
    return half_width * torch.tensor(corners, dtype=torch.float64, device="cpu")


def _convex(polygon: Tensor) -> Tensor:
    """The corners counter-clockwise; raise unless they bound a convex polygon."""
    if polygon.ndim != 2 or polygon.shape[1] != 2 or len(polygon) < 3:
        raise ValueError(f"polygon must have shape (m, 2) with m >= 3: got {tuple(polygon.shape)}")
    corners = polygon.detach().double().cpu()
    if not bool(torch.isfinite(corners).all()):
        raise ValueError("polygon holds NaN or infinity")
    side = corners.roll(-1, 0) - corners
    after = side.roll(-1, 0)
    cross = side[:, 0] * after[:, 1] - side[:, 1] * after[:, 0]
    turns = torch.atan2(cross, (side * after).sum(1)).sum() / (2 * torch.pi)
    if not bool((cross > 0).all() | (cross < 0).all()) or abs(abs(float(turns)) - 1) > 1e-6:
        raise ValueError("polygon must be strictly convex, with its corners in order")
    return corners if float(turns) > 0 else corners.flip(0)
