"""``load`` and ``fetch`` by name."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from grokscope.data import DATASETS, DataError, fetch, load
from grokscope.data.download import Mirror, RemoteFile
from tests.data.conftest import Server
from tests.data.published_files import MNIST_FILES, idx_bytes, random_digits, write_idx_files

ARRAYS = random_digits()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_idx_files(tmp_path / "mine", MNIST_FILES, ARRAYS)


def test_pixels_are_scaled_and_flattened(folder: Path) -> None:
    data = load("mnist", data_dir=folder)
    assert torch.equal(data.train_x, ARRAYS["train_x"].flatten(1).float() / 255)
    images = load("mnist", data_dir=folder, flatten=False, dtype=torch.float64)
    assert torch.equal(images.test_x, ARRAYS["test_x"].unsqueeze(1).double() / 255)


def test_subsets_and_normalization(folder: Path) -> None:
    data = load("mnist", data_dir=folder, train_size=4, test_size=2, normalize=(0.5, 0.25))
    assert torch.equal(data.train_y, ARRAYS["train_y"][:4])
    assert torch.equal(data.test_x, (ARRAYS["test_x"][:2].flatten(1).float() / 255 - 0.5) / 0.25)
    seeded = load("mnist", data_dir=folder, train_size=4, subset="seeded", seed=1)
    whole = load("mnist", data_dir=folder)
    assert torch.equal(seeded.train_x, whole.subset(4, rule="seeded", seed=1).train_x)


def test_classes_are_chosen_before_sizes_and_named_by_their_place(folder: Path) -> None:
    labels = ARRAYS["train_y"]  # 4 and 8 are among them, the 8 in the test split too
    wanted = ((labels == 8) | (labels == 4)).nonzero()[:, 0]
    data = load("mnist", data_dir=folder, classes=[8, 4])
    assert data.train_y.tolist() == [1, 1, 0]
    assert torch.equal(data.train_x, ARRAYS["train_x"][wanted].flatten(1).float() / 255)
    assert (data.num_classes, data.class_names) == (2, ("8", "4"))
    assert data.test_y.tolist() == [0]
    fewer = load("mnist", data_dir=folder, classes=[8, 4], train_size=2)
    assert torch.equal(fewer.train_x, data.train_x[:2])


@pytest.mark.parametrize("subset", ["first", "seeded"])
def test_classes_of_a_set_that_has_no_published_split(subset: str) -> None:
    data = load("digits", classes=[7, 1, 4], train_size=50, subset=subset, seed=2)
    assert (len(data.train_x), data.num_classes) == (50, 3)
    assert data.class_names == ("7", "1", "4")
    whole = load("digits", train_size=1796)
    pixels = torch.cat([whole.train_x, whole.test_x])
    labels = torch.cat([whole.train_y, whole.test_y])
    assert len(data.train_x) + len(data.test_x) == sum(int((labels == c).sum()) for c in (7, 1, 4))
    for x, y in zip(data.test_x[:9], data.test_y[:9], strict=True):
        row = (pixels == x).all(1).nonzero()[0, 0]
        assert labels[row] == [7, 1, 4][y]


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("mnsit", {}, "unknown data set 'mnsit'; did you mean 'mnist'?"),
        ("CIFAR-10", {}, "did you mean 'cifar10'?"),
        ("xor", {"dimensions": 9}, "unknown option of xor 'dimensions'; did you mean 'dimension'?"),
        ("mnist", {"classes": [1]}, "classes must be two or more of the 10 of mnist, each once"),
        ("mnist", {"classes": [1, 10]}, "counted from 0: got [1, 10]"),
        ("digits", {"classes": [1, 1]}, "of the 10 of digits, each once, counted from 0: got [1,"),
        ("modular", {"classes": [0, 1]}, "classes is for data sets of pictures: modular is gener"),
        ("mnist", {"modulus": 9}, "mnist takes no option 'modulus'"),
        ("mnist", {"train_size": 8}, "train_size must be an integer from 1 to 7 for mnist: got 8"),
        ("mnist", {"dtype": torch.int64}, "dtype must be a floating-point type"),
        ("modular", {"normalize": (0.0, 1.0), "encoding": "tokens"}, "normalize needs floating"),
    ],
)
def test_mistakes_are_named(folder: Path, name: str, options: dict, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)) as caught:
        load(name, data_dir=folder, **options)
    assert "\n" not in str(caught.value)


def test_a_misspelt_choice_gets_the_nearest() -> None:
    mistakes = {
        "load('digits', subset='frist')": "first",
        "load('xor', targets='signs')": "sign",
        "load('modular', operation='ad')": "add",
        "load('modular', encoding='onehot')": "one_hot",
    }
    # In a process of its own: under pytest the type checker would refuse the calls first.
    code = "from grokscope.data import load\n" + "".join(
        f"try: {call}\nexcept ValueError as error: print(error)\n" for call in mistakes
    )
    printed = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src")},
    ).stdout.splitlines()
    assert len(printed) == len(mistakes)
    for line, nearest in zip(printed, mistakes.values(), strict=True):
        assert f"did you mean '{nearest}'?" in line


def published(server: Server, damaged: str = "") -> tuple[RemoteFile, ...]:
    """MNIST's four files as a server publishes them, one of them damaged before its hash."""
    files = []
    for key, name in MNIST_FILES.items():
        data = gzip.compress(idx_bytes(ARRAYS[key]))
        data = data[:-12] if name == damaged else data
        url = server.serve(f"/{name}.gz", data)
        files.append(RemoteFile(f"{name}.gz", (Mirror(url, hashlib.sha256(data).hexdigest()),)))
    return tuple(files)


def publish(monkeypatch: pytest.MonkeyPatch, remotes: tuple[RemoteFile, ...]) -> None:
    from grokscope.data import mnist

    files = dataclasses.replace(mnist.FILES, remotes=remotes)
    monkeypatch.setattr(mnist, "FILES", files)
    monkeypatch.setitem(DATASETS, "mnist", dataclasses.replace(DATASETS["mnist"], files=files))


def test_load_fetches_into_the_cache_once(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, published(server))
    assert torch.equal(load("mnist").train_y, ARRAYS["train_y"])
    assert len(server.requests) == 4
    assert torch.equal(load("mnist").test_y, ARRAYS["test_y"])
    assert len(server.requests) == 4
    assert {path.name for path in (cache / "mnist").iterdir()} == {
        ".lock",
        *(f"{name}.gz" for name in MNIST_FILES.values()),
    }


def test_fetch_reports_every_file(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, published(server))
    first = fetch("mnist")
    assert [file.path for file in first] == [
        cache / "mnist" / f"{name}.gz" for name in MNIST_FILES.values()
    ]
    assert {(file.status, file.verified) for file in first} == {("downloaded", True)}
    assert [file.size for file in first] == [file.path.stat().st_size for file in first]
    size = f"{first[0].size:,}"
    assert str(first[0]) == f"{first[0].path} ({size} bytes): downloaded, verified"
    first[2].path.unlink()
    assert [file.status for file in fetch("mnist")] == ["cached", "cached", "downloaded", "cached"]


def test_fetch_says_which_files_of_the_users_are_the_published_ones(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, published(server))
    other = idx_bytes(ARRAYS["test_y"].flip(0))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(other))
    found = fetch("mnist", data_dir=folder)
    assert [file.status for file in found] == ["found"] * 4
    assert [file.verified for file in found] == [True, True, True, False]
    assert server.requests == []


def test_fetch_reads_what_it_fetched(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, published(server, damaged="train-images-idx3-ubyte"))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz is damaged"):
        fetch("mnist")


def test_there_is_nothing_to_fetch_for_what_is_generated() -> None:
    assert [name for name in DATASETS if DATASETS[name].files is None] == [
        "digits",
        "xor",
        "modular",
    ]
    assert fetch("xor") == fetch("modular") == []


@pytest.mark.parametrize("name", [name for name in DATASETS if DATASETS[name].files])
def test_every_published_file_has_mirrors_and_a_hash(name: str) -> None:
    files = DATASETS[name].files
    assert files is not None
    assert files.remotes
    for remote in files.remotes:
        assert remote.digests
        hosts = {mirror.url.split("/")[2] for mirror in remote.mirrors}
        assert len(hosts) > 1
        assert all(mirror.url.startswith("https://") for mirror in remote.mirrors)
        assert all(len(bytes.fromhex(digest)) == 32 for digest in remote.digests)
