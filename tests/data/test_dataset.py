"""Dataset checks itself, and its methods do what they say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grokscope.data import Dataset


def make(**changes) -> Dataset:
    generator = torch.Generator().manual_seed(5)
    fields = {
        "name": "tiny",
        "train_x": torch.rand(11, 2, 3, 4, generator=generator),
        "train_y": torch.randint(3, (11,), generator=generator),
        "test_x": torch.rand(6, 2, 3, 4, generator=generator),
        "test_y": torch.randint(3, (6,), generator=generator),
        "num_classes": 3,
        "image_shape": (2, 3, 4),
    }
    return Dataset(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"train_y": torch.zeros(10).long()}, r"train_y must have one target .*\(11,\): got \(10,"),
        ({"test_y": torch.zeros(6, 1).long()}, r"test_y must have one target .* got \(6, 1\)"),
        ({"train_x": torch.rand(11)}, r"train_x must have shape \(n, \.\.\.\).* got \(11,\)"),
        ({"test_x": torch.rand(0, 2, 3, 4)}, r"test_x must have shape .*at least one"),
        ({"train_x": torch.ones(11, 24).int()}, r"train_x must be floating point, int64"),
        ({"train_y": torch.zeros(11)}, "train_y must be int64 class labels: got torch.float32"),
        ({"train_y": torch.full((11,), 3)}, r"train_y must lie in 0\.\.2: got 3\.\.3"),
        ({"test_y": torch.full((6,), -1)}, r"test_y must lie in 0\.\.2: got -1\.\.-1"),
        ({"num_classes": None}, "floating point where num_classes is None.*pass num_classes"),
        ({"test_x": torch.rand(6, 24)}, r"agree in x: feature shape: got \(2, 3, 4\) and \(24,\)"),
        ({"test_x": torch.rand(6, 2, 3, 4).double()}, "agree in x: dtype"),
        ({"image_shape": (1, 5, 5)}, "image_shape .* has 25 pixels, but train_x has 24"),
        ({"class_names": ("a", "b")}, "2 names for num_classes=3"),
        ({"test_parts": {"test": torch.ones(6).bool()}}, "'test' has an accuracy already"),
        ({"test_parts": {"odd": torch.ones(11).bool()}}, r"bool of shape \(6,\) on cpu: got .*11"),
        ({"test_parts": {"odd": torch.ones(6)}}, r"test_parts\['odd'\] must be a mask"),
        ({"test_parts": {"odd": torch.zeros(6).bool()}}, "marks no example: leave it out"),
        ({"train_x": torch.rand(11, 2, 3, 4, device="meta")}, "is on the meta device"),
    ],
)
def test_disagreeing_tensors_are_refused(changes: dict, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        make(**changes)


def test_scalar_targets_have_no_classes_to_choose_from() -> None:
    data = make(num_classes=None, train_y=torch.rand(11), test_y=torch.rand(6))
    with pytest.raises(ValueError, match="tiny has scalar targets and no classes"):
        data.of_classes([0, 1])


def test_to_changes_floating_tensors_only() -> None:
    data = make().to(dtype=torch.float64)
    assert data.train_x.dtype == data.test_x.dtype == torch.float64
    assert data.train_y.dtype == torch.int64
    regression = make(num_classes=None, train_y=torch.rand(11), test_y=torch.rand(6))
    assert regression.to("cpu", torch.float64).train_y.dtype == torch.float64
    tokens = torch.arange(22).reshape(11, 2)
    assert (
        make(train_x=tokens, test_x=tokens[:6], image_shape=None)
        .to(dtype=torch.float64)
        .train_x.equal(tokens)
    )
    with pytest.raises(ValueError, match="dtype must be a floating-point type"):
        data.to(dtype=torch.int64)


def test_first_takes_the_first() -> None:
    data = make()
    few = data.subset(4, 2)
    assert torch.equal(few.train_x, data.train_x[:4])
    assert torch.equal(few.test_y, data.test_y[:2])
    assert len(data.subset(train_size=4).test_x) == 6


@given(size=st.integers(1, 11), other=st.integers(1, 11), seed=st.integers(0, 2**40))
def test_a_seeded_subset_pairs_inputs_with_targets_nests_and_repeats(
    size: int, other: int, seed: int
) -> None:
    x = torch.arange(11.0)[:, None]
    data = Dataset("rows", x, x[:, 0], x, x[:, 0])
    few = data.subset(size, 5, "seeded", seed)
    assert torch.equal(few.train_x[:, 0], few.train_y)
    assert len(few.train_y.unique()) == size
    again = data.subset(other, 5, "seeded", seed)
    shared = min(size, other)
    assert torch.equal(few.train_y[:shared], again.train_y[:shared])
    assert torch.equal(few.test_y, again.test_y)
    assert torch.equal(few.test_y, data.subset(test_size=5, rule="seeded", seed=seed).test_y)


def test_a_seeded_subset_depends_on_the_seed_and_leaves_the_global_state_alone() -> None:
    data, before = make(), torch.get_rng_state()
    one, two = (data.subset(9, rule="seeded", seed=seed).train_x for seed in (0, 1))
    assert not torch.equal(one, two)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("size", [0, -1, 12, True])
def test_a_size_out_of_range_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="train_size must be an integer from 1 to 11 for tiny"):
        make().subset(train_size=size)


def test_flattened_keeps_the_order_of_pixels() -> None:
    flat = make().flattened()
    assert flat.train_x.shape == (11, 24)
    assert flat.image_shape == (2, 3, 4)
    assert torch.equal(flat.train_x.reshape(11, 2, 3, 4), make().train_x)
    assert flat.num_features == 24


def test_scaled_divides_in_the_requested_precision() -> None:
    pixels = torch.arange(255, -1, -1, dtype=torch.uint8).reshape(-1, 1)
    labels = torch.zeros(256, dtype=torch.int64)
    data = Dataset("grey", pixels, labels, pixels, labels, num_classes=1)
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(
            data.scaled(dtype).train_x[:, 0], torch.arange(255, -1, -1).to(dtype) / 255
        )
    with pytest.raises(ValueError, match="turns uint8 pixels"):
        data.scaled().scaled()
    with pytest.raises(ValueError, match="normalize needs floating-point"):
        data.normalized(0.5, 0.5)


@pytest.mark.parametrize("flatten", [False, True])
def test_normalized_per_channel_flattened_or_not(flatten: bool) -> None:
    data = make().flattened() if flatten else make()
    normal = data.normalized((0.5, 0.25), (2.0, 4.0))
    expected = torch.stack(
        [(make().test_x[:, 0] - 0.5) / 2, (make().test_x[:, 1] - 0.25) / 4], dim=1
    )
    assert torch.equal(normal.test_x.reshape(6, 2, 3, 4), expected)
    assert normal.test_x.shape == data.test_x.shape


def test_normalized_refuses_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="std must be positive"):
        make().normalized(0.0, 0.0)
    with pytest.raises(ValueError, match=r"one for each of 2 channel\(s\)"):
        make().normalized((0.1, 0.2, 0.3), 1.0)
    with pytest.raises(ValueError, match="mean must be a finite number"):
        make().normalized(float("nan"), 1.0)


def test_parts_of_the_test_data_stay_with_their_examples() -> None:
    data = make(test_y=torch.tensor([0, 1, 2, 0, 1, 2]))
    ends = torch.tensor([True, False, False, False, False, True])
    data = replace(data, test_parts={"ends": ends})
    assert data.subset(test_size=4).test_parts["ends"].tolist() == [True, False, False, False]
    seeded = data.subset(test_size=4, rule="seeded", seed=1)
    for x, marked in zip(seeded.test_x, seeded.test_parts["ends"], strict=True):
        assert bool(marked) == any(torch.equal(x, data.test_x[i]) for i in (0, 5))
    assert data.of_classes([1, 2]).test_parts["ends"].tolist() == [False, False, False, True]
    assert data.of_classes([1, 0]).subset(test_size=1).test_parts.keys() == {"ends"}
    inner = replace(data, test_parts={"inner": ~ends})
    assert inner.subset(test_size=1).test_parts == {}
    assert data.flattened().to(dtype=torch.float64).test_parts["ends"] is not None


def test_what_a_notebook_shows_counts_the_classes() -> None:
    x = torch.zeros(4, 3)
    classes = Dataset("a", x, torch.tensor([0, 1, 2, 0]), x, torch.tensor([0, 1, 2, 0]), 3)
    numbers = Dataset("b", x, torch.zeros(4, 2), x, torch.zeros(4, 2), None)
    assert classes._shown()["classes"] == 3
    assert numbers._shown()["classes"] == "numbers"
