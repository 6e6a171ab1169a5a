from __future__ import annotations

import pytest
import torch

import grokscope as gs
from grokscope.measures import kernels
from tests.reference import kernels as reference


def random_kernel(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 2, 2)])
def test_distance_equals_the_definition(shape: tuple[int, ...]) -> None:
    first, second = random_kernel(*shape), random_kernel(*shape)
    expected = 1 - reference.cosine(first, second)
    torch.testing.assert_close(gs.kernel_distance(first, second), expected)
    torch.testing.assert_close(gs.kernel_distance(7 * first, second), expected)


def test_distance_of_close_kernels_keeps_its_relative_accuracy() -> None:
    kernel, direction = torch.eye(3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    direction[0, 1] = 1e-9
    # orthogonal to the kernel, so that 1 - cos = 1 - 1 / sqrt(1 + e^2 / 3) = e^2 / 6
    distance = gs.kernel_distance(kernel, kernel + direction)
    torch.testing.assert_close(distance.item(), 1e-18 / 6, rtol=1e-6, atol=0)


def test_distances_do_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    several = [random_kernel(7, 5) for _ in range(4)]
    whole = gs.kernel_distance_matrix(several)
    monkeypatch.setattr(kernels, "_BLOCK", 12)
    torch.testing.assert_close(gs.kernel_distance_matrix(several), whole)
    torch.testing.assert_close(gs.kernel_distance(*several[:2]), whole[0, 1])


def test_distance_matrix_holds_all_pairs() -> None:
    several = [random_kernel(4, 3, 2, 2) for _ in range(3)]
    matrix = gs.kernel_distance_matrix(several)
    for i, first in enumerate(several):
        for j, second in enumerate(several):
            expected = 0 if i == j else 1 - reference.cosine(first, second).item()
            assert matrix[i, j].item() == pytest.approx(expected, abs=1e-12)
    assert torch.equal(matrix, matrix.T)


def test_velocity_is_the_distance_per_step() -> None:
    several = [random_kernel(4, 3) for _ in range(3)]
    expected = [
        gs.kernel_distance(several[0], several[1]) / 2,
        gs.kernel_distance(several[1], several[2]) / 5,
    ]
    velocity = gs.ntk_velocity(several, steps=[1, 3, 8])
    torch.testing.assert_close(velocity, torch.stack(expected))


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("shape", [(6, 6), (6, 6, 3, 3)])
@pytest.mark.parametrize("labels", ["classes", "targets"])
def test_alignment_equals_the_definition(
    shape: tuple[int, ...], labels: str, centered: bool
) -> None:
    kernel = random_kernel(*shape)
    y = torch.tensor([0, 2, 1, 1, 2, 2])
    targets = torch.nn.functional.one_hot(y).double()
    if labels == "targets":
        y = targets = random_kernel(6, 3)
    expected_label = reference.label_kernel(targets, kernel)
    expected_kernel = kernel
    if centered:
        expected_label = reference.centered(expected_label)
        expected_kernel = reference.centered(kernel)
    torch.testing.assert_close(
        gs.kernel_alignment(kernel, y, centered=centered),
        reference.cosine(expected_kernel, expected_label),
    )


def test_alignment_with_the_label_kernel_itself_is_one() -> None:
    y = torch.tensor([-1.0, 1.0, 1.0])
    assert gs.kernel_alignment(torch.outer(y, y), y).item() == pytest.approx(1)


def test_float32_stays_float32() -> None:
    kernel = torch.rand(4, 4)
    assert gs.kernel_distance(kernel, kernel.T).dtype == torch.float32
    assert gs.kernel_distance_matrix([kernel, kernel.T]).dtype == torch.float32
    assert gs.kernel_alignment(kernel, torch.tensor([0, 1, 1, 0])).dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gs.kernel_distance(torch.ones(2, 2), torch.ones(3, 2)), "one shape"),
        (lambda: gs.kernel_distance(torch.zeros(2, 2), torch.ones(2, 2)), "K1 is zero"),
        (lambda: gs.kernel_distance(torch.ones(2, 2), torch.full((2, 2), torch.nan)), "K2 is not"),
        (lambda: gs.kernel_distance_matrix([]), "empty"),
        (lambda: gs.kernel_distance_matrix([torch.ones(2, 2), torch.ones(3)]), r"kernels\[1\]"),
        (lambda: gs.ntk_velocity([torch.ones(2, 2)]), "at least two"),
        (lambda: gs.ntk_velocity([torch.ones(2, 2)] * 2, steps=[1]), "one for each"),
        (lambda: gs.ntk_velocity([torch.ones(2, 2)] * 2, steps=[1, 1]), "increase"),
        (lambda: gs.kernel_alignment(torch.ones(2, 3), torch.ones(2)), "K must be"),
        (lambda: gs.kernel_alignment(torch.ones(2, 2), torch.ones(3)), "each of 2"),
        (lambda: gs.kernel_alignment(torch.ones(2, 2), torch.tensor([-1, 1])), "from 0 on"),
        (lambda: gs.kernel_alignment(torch.ones(2, 2, 2, 2), torch.tensor([0, 5])), "class 5"),
        (lambda: gs.kernel_alignment(torch.ones(2, 2, 2, 2), torch.ones(2, 3)), "fit K"),
        (lambda: gs.kernel_alignment(torch.eye(2), torch.ones(2), centered=True), "same for all"),
    ],
)
def test_mistakes_are_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
