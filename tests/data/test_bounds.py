"""Files that unpack to more than they say, or than any file of a data set has."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from grokscope.data import DataError, Dataset, files
from grokscope.data.cifar10 import load_cifar10
from grokscope.data.emnist import load_emnist
from grokscope.data.mnist import load_mnist
from tests.data.published_files import (
    EMNIST_FILES,
    MNIST_FILES,
    idx_bytes,
    random_digits,
    write_idx_files,
)

ARRAYS = random_digits()
LONG = 2**27


@pytest.fixture(scope="module")
def zeros() -> bytes:
    """A gzip member of 600 KB that unpacks to 128 MiB."""
    return gzip.compress(bytes(LONG), compresslevel=1)


def refused(load: Callable[[Path], Dataset], folder: Path, said: str) -> None:
    """That the files are refused, and in little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=said):
            load(folder)
        assert tracemalloc.get_traced_memory()[1] < LONG / 4
    finally:
        tracemalloc.stop()


def test_unpacking_stops_where_the_header_of_an_idx_file_says(tmp_path: Path, zeros: bytes) -> None:
    write_idx_files(tmp_path, MNIST_FILES, ARRAYS)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx_bytes(ARRAYS["train_x"])) + zeros)
    size = 16 + 7 * 5 * 4
    refused(load_mnist, tmp_path, rf"{path} is longer than the {size} bytes that it can have")


def test_the_same_in_a_zip_archive(tmp_path: Path, zeros: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "emnist.zip", "w") as archive:
        for key, name in EMNIST_FILES.items():
            data = gzip.compress(idx_bytes(ARRAYS[key]))
            archive.writestr(f"gzip/{name}.gz", data + zeros * (key == "train_x"))
    refused(load_emnist, tmp_path, r"images-idx3-ubyte.gz in .* is longer than the 156 bytes")


@pytest.mark.parametrize("head", [b"", struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 2**20, 9)])
def test_what_claims_to_be_endless_is_bounded(
    tmp_path: Path, zeros: bytes, head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_MAX_BYTES", 2**16)
    write_idx_files(tmp_path, MNIST_FILES, ARRAYS)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(head) + zeros)
    refused(load_mnist, tmp_path, "is longer than the 65,536 bytes that it can have")
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(head + bytes(2**17))
    refused(load_mnist, tmp_path, "is longer than the 65,536 bytes that it can have")


@pytest.mark.parametrize("name", ["data_batch_1.bin", "other", None])
def test_a_tar_archive_is_not_unpacked_without_end(
    tmp_path: Path, name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_MAX_BYTES", 2**16)
    monkeypatch.setattr(files, "_MAX_ARCHIVE_BYTES", 2**20)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        if name is not None:
            member = tarfile.TarInfo(name)
            member.size = 2**18 if name.endswith(".bin") else 2**22
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    data = packed.getvalue() + bytes(2**22 if name is None else 0)
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(gzip.compress(data, 1))
    said = "is longer than the 65,536" if name == "data_batch_1.bin" else "more than 1,048,576"
    refused(load_cifar10, tmp_path, said)
