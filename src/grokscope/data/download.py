"""Fetching published files into the cache: verified by SHA-256, from the first mirror that works.

Pooch downloads and verifies. A file is moved to its final name only once its hash is right, and
within one file system, so that no reader ever meets part of a file. One process downloads into a
folder at a time; what a killed one left behind is removed by the next.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grokscope.data.errors import DataError

_PARTIAL = ".partial-"


@dataclass(frozen=True)
class Mirror:
    """One address of a published file, and the SHA-256 of what it serves."""

    url: str
    sha256: str


@dataclass(frozen=True)
class RemoteFile:
    """A published file: its name in the cache and where to get it."""

    name: str
    mirrors: tuple[Mirror, ...]

    @property
    def digests(self) -> frozenset[str]:
        """The SHA-256 of every genuine copy."""
        return frozenset(mirror.sha256 for mirror in self.mirrors)


def cache_folder() -> Path:
    """Where fetched data sets are kept: the system's folder for caches, ``grokscope`` in it."""
    import pooch

    return Path(pooch.os_cache("grokscope"))


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_file(remote: RemoteFile, folder: Path, progress: Any = None) -> bool:
    """Make ``folder / remote.name`` the published file; True where that took a download.

    A file that is there already is verified; one with another hash is fetched anew.

    Args:
        remote: what to fetch.
        folder: where to keep it; made if absent.
        progress: an object with ``total`` to set and ``update(num_bytes)``, ``reset()`` and
            ``close()`` to call, as pooch takes it; None shows nothing.

    Raises:
        DataError: if no mirror served the file, or the folder cannot be written.
    """
    target = folder / remote.name
    try:
        if _is_genuine(target, remote):
            return False
        folder.mkdir(parents=True, exist_ok=True)
        with _staging(folder) as staging:
            if _is_genuine(target, remote):  # another process fetched it while we waited
                return False
            os.replace(_download(remote, staging, progress), target)
    except OSError as error:
        raise DataError(
            f"cannot keep {remote.name} in {folder}: {error.strerror or error}; make room or give "
            "access there, or set GROKSCOPE_DATA to a folder that holds the files"
        ) from error
    return True


def _is_genuine(path: Path, remote: RemoteFile) -> bool:
    return path.is_file() and sha256(path) in remote.digests


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A fresh folder in ``folder`` for this process alone, gone afterwards."""
    from filelock import FileLock

    with FileLock(folder / ".lock"):
        for left_behind in folder.glob(f"{_PARTIAL}*"):  # holding the lock: nobody works in it
            shutil.rmtree(left_behind, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=_PARTIAL) as staging:
            yield Path(staging)


def _download(remote: RemoteFile, staging: Path, progress: Any) -> Path:
    """The verified file in ``staging``, from the first mirror that serves it."""
    import pooch
    import requests

    # A server that compresses on the way would have the file unpacked here, and its hash changed.
    downloader = pooch.HTTPDownloader(
        progressbar=progress or False, chunk_size=2**18, headers={"Accept-Encoding": "identity"}
    )
    failures = []
    for mirror in remote.mirrors:
        try:
            path = pooch.retrieve(
                mirror.url,
                known_hash=f"sha256:{mirror.sha256}",
                fname=remote.name,
                path=staging,
                downloader=downloader,
            )
            return Path(path)
        except (requests.RequestException, ValueError) as error:
            failures.append(f"{mirror.url}: {_reason(error)}")
    raise DataError(
        f"cannot fetch {remote.name} ({'; '.join(failures)}); check the connection and try again, "
        "or get the file by other means and name its folder by data_dir or GROKSCOPE_DATA"
    )


def _reason(error: Exception) -> str:
    """Why a mirror failed, in a few words."""
    import requests

    if isinstance(error, requests.HTTPError):
        return str(error).split(" for url")[0]
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the download broke off"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    if "hash" in str(error):
        return "what it serves has another SHA-256 than the published file"
    return str(error).splitlines()[0]
