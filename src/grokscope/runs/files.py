"""Files that a crash, a kill or a full disk never leaves half of, read without trust in them.

What stands in a run directory may be damaged, or made to do harm: a name may lead out of the
folder, a document may nest or repeat itself without end. Each is one error that names the file.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from grokscope.runs.yaml_text import MAX_YAML_BYTES, parse_yaml
from grokscope.spelling import shortened

# What a spec may name: an experiment, an arm, a milestone. Fit for a folder, and for a column.
NAME = r"[A-Za-z0-9][A-Za-z0-9._=+-]*"
NAME_TAKES = "letters, digits and . _ = + -, the first a letter or a digit"
_DEVICES = Path("/dev")
_MAX_NAME = 200  # bytes; file systems take 255


class RunError(RuntimeError):
    """A run directory cannot be used as asked; the message says why and what to do."""


def inside(folder: Path, *names: str) -> Path:
    """A path below a folder, each of the names one step down.

    Example:
        >>> inside(Path("arrays"), "baseline", "seed-0").as_posix()
        'arrays/baseline/seed-0'

    Raises:
        RunError: if a name would lead elsewhere, is empty, too long or begins with a dot.
    """
    for name in names:
        if (
            not name
            or name.startswith(".")
            or any(sign in name for sign in "/\\\0")
            or len(name.encode(errors="replace")) > _MAX_NAME
        ):
            raise RunError(
                f"{shortened(name)!r} cannot name a file in {folder}: use at most {_MAX_NAME} "
                "characters, no / or \\, and no dot in front"
            )
    return folder.joinpath(*names)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content``: readers see the old file or the new one, never a part.

    Raises:
        RunError: if the disk is full or the folder cannot be written, or what stands there is no
            file; the old file is untouched.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        if _is_special(path):  # /dev/stdout would be a plain file from then on
            raise RunError(f"could not write {path}: it is a device or a pipe; name a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:  # a signal too
        with suppress(OSError):  # there may be none, nor a folder for one
            partial.unlink()
        if isinstance(error, OSError):
            raise write_failure(path, error) from error
        raise


def write_failure(path: Path, error: OSError) -> RunError:
    """The error to raise where ``path`` could not be written."""
    return RunError(
        f"could not write {path}: {error.strerror or error}; what was written before is intact, "
        "so make room and go on with --resume"
    )


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by ``value`` as indented JSON."""
    write_atomically(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        RunError: if the file is missing, cannot be read or is not JSON.
    """
    try:
        return json.loads(read_text(path), parse_constant=_no_number)
    except RecursionError:
        raise RunError(f"{path} is damaged: it is nested too deeply") from None
    except ValueError as error:
        raise RunError(f"{path} is not valid JSON: {error}") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """The content of a JSON file that holds an object.

    Raises:
        RunError: if it does not.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise RunError(f"{path} is damaged: it does not hold a JSON object")
    return content


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """The content of a YAML file that holds a mapping.

    Raises:
        RunError: if the file is missing, cannot be read, or holds none.
    """
    try:
        content = parse_yaml(read_text(path, MAX_YAML_BYTES))
    except ValueError as error:
        raise RunError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} does not describe an experiment: it is not a mapping")
    return content


def read_text(path: Path, max_bytes: int | None = None) -> str:
    """The text of a file.

    Raises:
        RunError: if the file is missing, too large, or cannot be read as text.
    """
    try:
        return read_bytes(path, max_bytes).decode()
    except FileNotFoundError:
        raise RunError(f"{path} does not exist: is {path.parent} a run directory?") from None
    except UnicodeDecodeError:
        raise RunError(f"{path} is damaged: it is not a text file") from None
    except OSError as error:
        raise RunError(f"could not read {path}: {error.strerror or error}") from None


def read_bytes(path: Path, max_bytes: int | None = None) -> bytes:
    """The content of a file; never that of a device or a pipe, which may not end.

    Raises:
        RunError: if it is one of those, or larger than ``max_bytes``.
        OSError: if it cannot be read.
    """
    if _is_special(path):
        raise RunError(f"{path} is not a file but a device or a pipe")
    if max_bytes is not None and path.stat().st_size > max_bytes:
        raise RunError(f"{path} is larger than {max_bytes:,} bytes")
    return path.read_bytes()


def _is_special(path: Path) -> bool:
    """Whether a path is a device or a pipe, or as /dev/stdout a name that stands for one."""
    if path.is_symlink() and path.parent == _DEVICES:
        return True
    return path.exists() and not (path.is_file() or path.is_dir())


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")
