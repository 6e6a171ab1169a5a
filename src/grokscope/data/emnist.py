"""EMNIST Balanced: 112,800 + 18,800 handwritten characters in 47 classes (Cohen et al. 2017).

The files hold every image transposed, a relic of their way through MATLAB; here they are upright.
The publisher offers one archive with all six EMNIST splits (562 MB). It is kept as it came, and
the four Balanced files are read straight from it.
"""

from __future__ import annotations

import os

from grokscope.data.dataset import Dataset
from grokscope.data.download import Mirror, RemoteFile
from grokscope.data.files import DataFiles
from grokscope.data.idx import declared_size, labelled_images

# The digits, the capitals, and the small letters that do not look like their capitals.
CLASS_NAMES = tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt")

_NIST_DIGEST = "fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e"

FILES = DataFiles(
    dataset="emnist",
    members={
        f"{split}-{kind}": (f"emnist-balanced-{split}-{kind}-ubyte",)
        for split in ("train", "test")
        for kind in ("images-idx3", "labels-idx1")
    },
    remotes=(
        RemoteFile(
            "emnist-gzip.zip",
            (
                Mirror("https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip", _NIST_DIGEST),
                # The authors' university packs the same files anew, hence another hash.
                Mirror(
                    "https://rds.westernsydney.edu.au/Institutes/MARCS/BENS/EMNIST/emnist-gzip.zip",
                    "909a2a39c5e86bdd7662425e9b9c4a49bb582bf8d0edad427f3c3a9d0c6f7259",
                ),
                Mirror("https://www.itl.nist.gov/iaui/vip/cs_links/EMNIST/gzip.zip", _NIST_DIGEST),
            ),
        ),
    ),
    prefixes=("emnist",),
    nested=("raw", "gzip"),
    archives=("emnist-gzip.zip", "gzip.zip", "emnist.zip"),
    declared_size=declared_size,
)


def load_emnist(data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """The images upright, as uint8 pixels (n, 1, 28, 28), in the order of the files."""
    files = FILES.read(data_dir)
    num_classes = len(CLASS_NAMES)
    splits = {
        split: labelled_images(
            files[f"{split}-images-idx3"], files[f"{split}-labels-idx1"], num_classes
        )
        for split in ("train", "test")
    }
    (train_x, train_y), (test_x, test_y) = splits["train"], splits["test"]
    train_x, test_x = train_x.mT.contiguous(), test_x.mT.contiguous()
    return Dataset(
        "emnist",
        train_x,
        train_y,
        test_x,
        test_y,
        num_classes=num_classes,
        image_shape=(1, *train_x.shape[2:]),
        class_names=CLASS_NAMES,
    )
