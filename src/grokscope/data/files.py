"""A published data set's files: what they are called, where they are looked for, their bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grokscope.data.download import RemoteFile, cache_folder, fetch_file, sha256
from grokscope.data.errors import DataError
from grokscope.shown import shown

_GZIP_MAGIC = b"\x1f\x8b"
# No file of these data sets is as large, nor an archive eight times that: what unpacks to more is
# none of theirs, and could be made to unpack to anything.
_MAX_BYTES = 2**28
_MAX_ARCHIVE_BYTES = 2**31
_HEAD_BYTES = 64
# What the standard library raises on damaged bytes; a zip archive's damaged header may ask for an
# unknown compression (NotImplementedError), a password (RuntimeError) or an impossible name.
_DAMAGE = (
    EOFError,
    zlib.error,
    struct.error,
    gzip.BadGzipFile,
    tarfile.TarError,
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    UnicodeDecodeError,
)


@dataclass(frozen=True)
class Content:
    """A file's bytes, unpacked, with what an error about them has to say."""

    data: bytes
    source: str
    dataset: str

    def error(self, problem: str) -> DataError:
        """The error that says ``problem`` of this file, and the fix."""
        return DataError(
            f"{self.source} {problem}; replace it with an intact copy, as `grokscope data "
            f"{self.dataset}` fetches"
        )


@shown()
@dataclass(frozen=True)
class FetchedFile:
    """One file of a data set, as ``fetch`` found it.

    Attributes:
        path: where it is.
        size: its length in bytes.
        status: ``"downloaded"`` now, ``"cached"`` by an earlier call, or ``"found"`` in a folder
            of the user's.
        verified: its SHA-256, or that of what is packed in it, is the published one. False for
            an excerpt, and for files from an archive of which only the archive's hash is known.
    """

    path: Path
    size: int
    status: str
    verified: bool

    def __str__(self) -> str:
        state = f"{self.status}, {'verified' if self.verified else 'not verified'}"
        return f"{self.path} ({self.size:,} bytes): {state}"


@dataclass(frozen=True)
class DataFiles:
    """What a data set's files are called and where they come from.

    Attributes:
        dataset: the data set's name.
        members: role -> the names that the file goes by, each with or without ``.gz``.
        optional: roles that an excerpt may lack.
        remotes: what to fetch where the user names no folder.
        archives: names of zip or tar archives that hold the members.
        prefixes: how the names of sub-folders to search begin, in lower case.
        nested: folders to search inside each of those.
        refused: name of a file or folder -> why it is not read and what to do.
        digests: SHA-256 of the genuine files unpacked, besides those of ``remotes``.
        declared_size: from a file's first bytes how long it says that it is, if it does; no more
            is unpacked.
    """

    dataset: str
    members: Mapping[str, tuple[str, ...]]
    remotes: tuple[RemoteFile, ...]
    prefixes: tuple[str, ...]
    nested: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()
    archives: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    digests: frozenset[str] = frozenset()
    declared_size: Callable[[bytes], int | None] | None = None

    def read(self, data_dir: str | os.PathLike[str] | None = None) -> dict[str, Content]:
        """The bytes of every file that there is, by role; fetched first where no folder is named.

        Raises:
            DataError: if the files are absent, damaged or cannot be fetched.
        """
        folder, named_by = _user_folder(data_dir)
        if folder is None:
            folder, named_by = cache_folder() / self.dataset, "the cache"
            for remote in self.remotes:
                fetch_file(remote, folder)
        with _reading():
            found = self._find(folder, named_by)
            if isinstance(found, Path):
                return self._read_archive(found)
            return {role: self._read_file(path) for role, path in found}

    def fetch(
        self, data_dir: str | os.PathLike[str] | None = None, progress: Any = None
    ) -> list[FetchedFile]:
        """Make sure of the files: those in the user's folder, or fetched into the cache."""
        folder, named_by = _user_folder(data_dir)
        if folder is None:
            folder = cache_folder() / self.dataset
            return [
                _report(
                    folder / remote.name,
                    "downloaded" if fetch_file(remote, folder, progress) else "cached",
                    verified=True,
                )
                for remote in self.remotes
            ]
        with _reading():
            found = self._find(folder, named_by)
            paths = [found] if isinstance(found, Path) else [path for _, path in found]
            return [_report(path, "found", self._is_genuine(path)) for path in paths]

    def _is_genuine(self, path: Path) -> bool:
        """Whether a file, or what is packed in it, has a published SHA-256."""
        genuine = self.digests.union(*(remote.digests for remote in self.remotes))
        if sha256(path) in genuine:
            return True
        if path.name in self.archives:
            return False
        unpacked = self._read_file(path).data
        return hashlib.sha256(unpacked).hexdigest() in genuine

    def _find(self, folder: Path, named_by: str) -> list[tuple[str, Path]] | Path:
        """The files by role, or the archive that holds them; the first folder with all wins."""
        if not folder.is_dir():
            raise DataError(
                f"{named_by} names {folder}, which is not a folder; name one that holds the files "
                f"of {self.dataset}"
            )
        searched = list(self._folders(folder))
        nearest: list[tuple[str, Path]] = []
        for place in searched:
            files = [
                (role, path)
                for role, names in self.members.items()
                if (path := _first_file(place, names)) is not None
            ]
            if {role for role, _ in files} >= self.members.keys() - self.optional:
                return files
            archive = _first_file(place, self.archives)
            if archive is not None:
                return archive
            nearest = max(nearest, files, key=len)
        raise self._missing(searched, nearest, named_by)

    def _folders(self, folder: Path) -> Iterator[Path]:
        children = sorted(
            (
                child
                for child in folder.iterdir()
                if child.is_dir() and child.name.lower().startswith(self.prefixes)
            ),
            key=lambda child: (child.name.lower() != self.dataset, child.name),
        )
        for place in (folder, *children):
            yield place
            for name in self.nested:
                if (place / name).is_dir() and place / name not in children:
                    yield place / name

    def _missing(
        self, searched: list[Path], nearest: list[tuple[str, Path]], named_by: str
    ) -> DataError:
        for place in searched:
            for name, reason in self.refused.items():
                if (place / name).exists():
                    return DataError(f"{place / name} {reason}")
        present = {role for role, _ in nearest}
        wanted = [
            names[0]
            for role, names in self.members.items()
            if role not in present and role not in self.optional
        ]
        beside = f" beside {nearest[0][1]}" if nearest else ""
        return DataError(
            f"{self.dataset}: no {', '.join(wanted)} (with or without .gz){beside}; {named_by} "
            f"made us search {', '.join(map(str, searched))}; put the files there, or leave "
            "data_dir and GROKSCOPE_DATA unset and run "
            f"`grokscope data {self.dataset}` to fetch them into the cache"
        )

    def _read_archive(self, path: Path) -> dict[str, Content]:
        """The members' bytes, in one pass; nothing is unpacked onto the disk."""
        roles = {
            name + end: role
            for role, names in self.members.items()
            for name in names
            for end in ("", ".gz")
        }
        contents: dict[str, Content] = {}
        try:
            for member, data in _archive_files(path, frozenset(roles)):
                role = roles[member.rpartition("/")[2]]
                contents[role] = self._unpacked(data, f"{member} in {path}")
        except PermissionError:
            raise
        except (OSError, *_DAMAGE) as error:  # OSError: a damaged offset points nowhere
            raise self._damaged(str(path), error) from error
        missing = [self.members[role][0] for role in self.members if role not in contents]
        if missing:
            whole = Content(b"", str(path), self.dataset)
            raise whole.error(f"does not hold {', '.join(missing)}")
        return contents

    def _read_file(self, path: Path) -> Content:
        with path.open("rb") as file:
            size = min(path.stat().st_size, _MAX_BYTES)
            return self._unpacked(file.read(size + 1), str(path))

    def _unpacked(self, data: bytes, source: str) -> Content:
        """The content of a file, gunzipped if it is gzip, whatever its name says."""
        if data.startswith(_GZIP_MAGIC):
            try:
                data, limit = self._gunzipped(data)
            except _DAMAGE as error:
                raise self._damaged(source, error) from error
        else:
            limit = _MAX_BYTES
        content = Content(data, source, self.dataset)
        if len(data) > limit:
            raise content.error(f"is longer than the {limit:,} bytes that it can have")
        if not data:
            raise content.error("is empty")
        return content

    def _gunzipped(self, packed: bytes) -> tuple[bytes, int]:
        """What is packed, as far as one byte beyond what it can have, and that size."""
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
            head = file.read(_HEAD_BYTES)
            declared = self.declared_size(head) if self.declared_size else None
            limit = min(_MAX_BYTES, _MAX_BYTES if declared is None else declared)
            # At the end, and only there, gzip holds its checksum against what came.
            return head + file.read(max(0, limit - len(head)) + 1), limit

    def _damaged(self, source: str, error: Exception) -> DataError:
        reason = str(error).partition("\n")[0] or type(error).__name__
        return Content(b"", source, self.dataset).error(f"is damaged or cut short ({reason})")


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot read the data set's files: {error}; check that you may read them"
        ) from error


def _user_folder(data_dir: str | os.PathLike[str] | None) -> tuple[Path | None, str]:
    """The folder that the user named, and by what; None to use the cache."""
    if data_dir is not None:
        return Path(data_dir).expanduser(), "data_dir"
    from_environment = os.environ.get("GROKSCOPE_DATA")
    if from_environment:
        return Path(from_environment).expanduser(), "GROKSCOPE_DATA"
    return None, ""


def _first_file(folder: Path, names: tuple[str, ...]) -> Path | None:
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    return None


def _archive_files(path: Path, wanted: frozenset[str]) -> Iterator[tuple[str, bytes]]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.rpartition("/")[2] in wanted:
                    with archive.open(name) as file:
                        yield name, file.read(_MAX_BYTES + 1)
        return
    with gzip.open(path) as packed:
        with tarfile.open(fileobj=packed, mode="r|") as archive:
            for member in archive:
                _check_unpacked(member.offset_data + member.size)
                found = archive.extractfile(member) if member.isfile() else None
                if found is not None and member.name.rpartition("/")[2] in wanted:
                    yield member.name, found.read(_MAX_BYTES + 1)
        while packed.read(2**20):  # to the end, where the checksum is
            _check_unpacked(packed.tell())


def _check_unpacked(size: int) -> None:
    if size > _MAX_ARCHIVE_BYTES:
        raise tarfile.TarError(f"it unpacks to more than {_MAX_ARCHIVE_BYTES:,} bytes")


def _report(path: Path, status: str, verified: bool) -> FetchedFile:
    return FetchedFile(path, path.stat().st_size, status, verified)
