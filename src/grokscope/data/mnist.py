"""MNIST: 60,000 + 10,000 handwritten digits of 28 x 28 grey pixels (LeCun, Cortes & Burges)."""

from __future__ import annotations

import os

from grokscope.data.dataset import Dataset
from grokscope.data.download import Mirror, RemoteFile
from grokscope.data.files import DataFiles
from grokscope.data.idx import declared_size, labelled_images

_ADDRESSES = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)

# file -> SHA-256 of the published .gz, SHA-256 of what is in it
_DIGESTS = {
    "train-images-idx3-ubyte": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "train-labels-idx1-ubyte": (
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "t10k-images-idx3-ubyte": (
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "t10k-labels-idx1-ubyte": (
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}

FILES = DataFiles(
    dataset="mnist",
    # Unpacked copies also go by the publisher's older spelling, with a dot before idx.
    members={name: (name, name.replace("-idx", ".idx")) for name in _DIGESTS},
    remotes=tuple(
        RemoteFile(
            f"{name}.gz",
            tuple(Mirror(f"{address}{name}.gz", packed) for address in _ADDRESSES),
        )
        for name, (packed, _) in _DIGESTS.items()
    ),
    prefixes=("mnist",),
    nested=("raw",),
    digests=frozenset(unpacked for _, unpacked in _DIGESTS.values()),
    declared_size=declared_size,
)


def load_mnist(data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """The images as uint8 pixels (n, 1, 28, 28), in the order of the files."""
    files = FILES.read(data_dir)
    train_x, train_y = labelled_images(
        files["train-images-idx3-ubyte"], files["train-labels-idx1-ubyte"], 10
    )
    test_x, test_y = labelled_images(
        files["t10k-images-idx3-ubyte"], files["t10k-labels-idx1-ubyte"], 10
    )
    return Dataset(
        "mnist",
        train_x,
        train_y,
        test_x,
        test_y,
        num_classes=10,
        image_shape=(1, *train_x.shape[2:]),
        class_names=tuple("0123456789"),
    )
