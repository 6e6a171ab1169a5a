"""Inner products of a convolution's patches by way of its pixels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import grokscope as gs
from grokscope.measures.inputs import check_outputs
from grokscope.measures.ntk.inspect import inspected
from grokscope.measures.ntk.plan import Problem, paths_and_terms
from grokscope.measures.ntk.rules import BatchAxis, ConvRule
from tests.reference.ntk import full_kernel

CONVOLUTIONS = {
    "3x3": ((5, 6), (3, 3), {"padding": 1}),
    "without padding": ((5, 6), (3, 2), {}),
    "stride": ((7, 6), (3, 3), {"padding": 1, "stride": 2}),
    "strides of their own": ((7, 6), (2, 3), {"stride": (3, 1), "padding": (0, 2)}),
    "dilation": ((9, 8), (3, 3), {"padding": 2, "dilation": 2}),
    "same, with an even kernel": ((6, 5), (4, 2), {"padding": "same"}),
    "valid": ((6, 5), (4, 2), {"padding": "valid"}),
    "a kernel wider than the image": ((2, 2), (5, 5), {"padding": 3}),
    "more padding than image": ((2, 1), (2, 2), {"padding": 4, "stride": 3}),
    "a sequence": ((9,), (4,), {"padding": 2, "stride": 2, "dilation": 2}),
    "a volume": ((3, 4, 3), (2, 3, 3), {"padding": 1, "stride": (1, 2, 1)}),
}


def patches_one_by_one(x: Tensor, kernel: tuple[int, ...], **settings: object) -> Tensor:
    """(n, S, I): a convolution with a unit kernel for each entry of a patch."""
    entries = x.shape[1] * torch.Size(kernel).numel()
    units = torch.eye(entries, dtype=x.dtype).view(entries, x.shape[1], *kernel)
    convolution = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(kernel)]
    return convolution(x, units, **settings).flatten(2).transpose(1, 2)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_gram_of_pixels_is_that_of_patches(name: str) -> None:
    size, kernel, settings = CONVOLUTIONS[name]
    generator = torch.Generator().manual_seed(0)
    one, two = (
        torch.randn((n, 2, *size), dtype=torch.float64, generator=generator) for n in (3, 4)
    )
    window = ConvRule(one, torch.empty(1, 2, *kernel), None, **settings).window
    a1, a2 = (patches_one_by_one(x, kernel, **settings) for x in (one, two))
    assert window.num_places == a1.shape[1]
    torch.testing.assert_close(window.patches(window.pixels(one)), a1)
    gram = window.gram(window.pixels(one), window.pixels(two))
    torch.testing.assert_close(gram, torch.einsum("isp,jtp->isjt", a1, a2))


@pytest.mark.parametrize("positions_first", [False, True])
def test_patches_of_frames_that_share_the_batch_axis(positions_first: bool) -> None:
    x = torch.randn(3, 2, 2, 5, 5, dtype=torch.float64)  # three examples of two frames
    frames = (x.transpose(0, 1) if positions_first else x).flatten(0, 1)
    rule = ConvRule(frames, torch.empty(4, 2, 3, 3), None, padding=1)
    a = rule.inputs(BatchAxis(0, 2, positions_first))
    expected = torch.stack([patches_one_by_one(x[:, t], (3, 3), padding=1) for t in (0, 1)], 1)
    torch.testing.assert_close(a, expected.flatten(1, 2))


def deep() -> nn.Module:
    """Convolutions of few places and many channels, whose patches are never formed."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(24, 24, 3, padding=1), nn.GELU(), nn.Conv2d(24, 24, 3, padding=1, bias=False),
        nn.Tanh(), nn.Flatten(), nn.Linear(216, 4),
    ).double()  # fmt: skip


@pytest.mark.parametrize("both", [False, True], ids=["one batch", "two batches"])
@pytest.mark.parametrize("chunk_size", [None, 3])
def test_kernel_of_convolutions_kept_as_pixels(both: bool, chunk_size: int | None) -> None:
    model = deep()
    x1, x2 = torch.randn(7, 24, 3, 3).double(), torch.randn(5, 24, 3, 3).double()
    found = inspected(model, x1, dict(model.named_parameters()), "x")
    check_outputs(found.outputs, 3)
    terms = paths_and_terms(found, Problem(7, 7, 4, diagonal=False))[1]
    windows = {name: t.window for t in terms for name in t.names if t.form == "factored"}
    assert windows["0.weight"] is not None
    assert windows["2.weight"] is not None
    assert windows["5.weight"] is None
    for reduce in ("full", "trace", "sum"):
        kernel = gs.empirical_ntk(
            model, x1, x2 if both else None, reduce=reduce, chunk_size=chunk_size, check=False
        )
        expected = full_kernel(model, x1, x2 if both else x1)
        if reduce != "full":
            blocks = expected.diagonal(dim1=2, dim2=3)
            expected = blocks.mean(2) if reduce == "trace" else expected.sum((2, 3))
        torch.testing.assert_close(kernel, expected)


class Corner(nn.Module):
    """A convolution of which some outputs see the first places alone."""

    def __init__(self, all_of_some: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(24, 24, 3, padding=1)
        self.all_of_some = all_of_some

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv(x).tanh()[:, :4]
        corner = hidden[:, :, :2, 0].sum(2)
        whole = (x[:, 0, 0, 0] > 0).to(x.dtype)[:, None] * hidden.sum((2, 3))
        return corner + whole if self.all_of_some else corner


@pytest.mark.parametrize("all_of_some", [False, True])
def test_places_that_no_output_depends_on(all_of_some: bool) -> None:
    torch.manual_seed(0)
    model = Corner(all_of_some).double()
    x1, x2 = torch.randn(6, 24, 3, 3).double(), torch.randn(4, 24, 3, 3).double()
    x1[:, 0, 0, 0], x2[:, 0, 0, 0] = 1, -1  # all of x1 depend on every place, none of x2
    kernel = gs.empirical_ntk(model, x1, x2, check=False)
    torch.testing.assert_close(kernel, full_kernel(model, x1, x2))
