"""The readers on real data: complete MNIST, excerpts of EMNIST Balanced and CIFAR-10."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from grokscope.data import Dataset, fetch, load
from grokscope.data.mnist import FILES


def test_mnist_is_the_published_data(shared_data: Path) -> None:
    contents = FILES.read(shared_data)
    digest = hashlib.sha256(contents["train-images-idx3-ubyte"].data).hexdigest()
    assert digest == "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
    assert [file.verified for file in fetch("mnist", data_dir=shared_data)] == [True] * 4


def test_mnist_first_thousand(shared_data: Path) -> None:
    data = load("mnist", data_dir=shared_data, train_size=1000)
    assert repr(data) == (
        "Dataset('mnist': 1000 train, 10000 test, inputs (784,) float32, 10 classes, cpu)"
    )
    assert data.train_y[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.test_y[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert data.train_x.min() == 0
    assert data.train_x.max() == 1


def class_mean(data: Dataset, name: str) -> torch.Tensor:
    assert data.class_names is not None
    return data.train_x[data.train_y == data.class_names.index(name), 0].mean(0)


def test_emnist_is_upright(shared_data: Path) -> None:
    data = load("emnist", data_dir=shared_data, flatten=False)
    assert data.num_classes == 47
    assert torch.equal(data.train_y.unique(), torch.arange(47))
    assert data.test_y.bincount().tolist() == [200] * 47
    letter_l, letter_t = class_mean(data, "L"), class_mean(data, "T")
    # An L stands on its foot and a T hangs from its bar; transposed, an L would do neither.
    assert letter_l[14:].sum() > 1.2 * letter_l[:14].sum()
    assert letter_t[:14].sum() > 1.2 * letter_t[14:].sum()
    # The bar is wider than the stem is thick: in a transposed T the widest row would be the stem.
    assert letter_t[:14].sum(1).max() > 1.5 * letter_t[14:].sum(1).max()


def test_emnist_digits_look_like_mnist_digits(shared_data: Path) -> None:
    mnist = load("mnist", data_dir=shared_data, flatten=False, train_size=5000)
    emnist = load("emnist", data_dir=shared_data, flatten=False)
    for name in ("2", "4", "7"):
        ours, theirs = class_mean(emnist, name), class_mean(mnist, name)
        upright = torch.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0)
        transposed = torch.cosine_similarity(ours.T.flatten(), theirs.flatten(), dim=0)
        assert upright > transposed + 0.1


def test_cifar10_classes_and_colours(shared_data: Path) -> None:
    data = load("cifar10", data_dir=shared_data, flatten=False)
    assert data.train_y.bincount().tolist() == [410] * 10
    assert data.test_y.bincount().tolist() == [200] * 10
    red, _, blue = data.train_x[data.train_y == 8].mean((0, 2, 3)).tolist()  # ships, on water
    assert blue > red + 0.03
    neighbours = (data.train_x[..., 1:] - data.train_x[..., :-1]).abs().mean()
    assert neighbours < 0.1  # rows and planes are where they belong: a photograph is smooth
