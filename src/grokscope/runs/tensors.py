"""Nested state as safetensors: tensors as they are, all else as JSON in the file's header.

Nothing is pickled, so a checkpoint can be opened by any reader of safetensors and can run no code.
The header holds a digest of the rest, so that a changed bit is noticed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from grokscope.runs.files import RunError, inside, read_bytes, write_atomically
from grokscope.runs.side_files import ARRAYS

_METADATA = "__metadata__"  # safetensors' name of the part of the header for the user's own
_DIGEST = "__sha256__"
_ALIGNMENT = 8  # bytes, as safetensors aligns the data
_DAMAGED = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)
_TENSOR = "__tensor__"
_PAIRS = "__pairs__"


def _strip(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """``value`` with each tensor moved to ``tensors`` and its name left in its place."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().to("cpu").contiguous().clone()
        return {_TENSOR: path}
    if isinstance(value, Mapping):
        # JSON turns integer keys, which optimizer states have, into strings: keep them as pairs.
        return {
            _PAIRS: [[key, _strip(item, f"{path}.{key}", tensors)] for key, item in value.items()]
        }
    if isinstance(value, (list, tuple)):
        return [_strip(item, f"{path}.{i}", tensors) for i, item in enumerate(value)]
    return value


def _restore(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_restore(item, tensors) for item in value]
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        return {key: _restore(item, tensors) for key, item in value[_PAIRS]}
    return value


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a nested mapping of tensors, numbers, strings, lists and mappings, atomically.

    Raises:
        TypeError: if a value is none of these.
        RunError: if the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    metadata = {
        key: json.dumps(_strip(value, key, tensors), allow_nan=True) for key, value in state.items()
    }
    header, data = _parts(save(tensors, metadata=metadata))
    header.setdefault(_METADATA, {})[_DIGEST] = _digest(header, data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    write_atomically(path, b"".join([len(text).to_bytes(8, "little"), text, data]))


def load_state(path: Path, needs: Sequence[str] = ()) -> dict[str, Any]:
    """What ``save_state`` wrote, with tensors on the CPU.

    Args:
        path: the file.
        needs: keys that it has to have.

    Raises:
        RunError: if the file is missing, was changed since, is cut short, or not one of ours.
    """
    try:
        content = read_bytes(path)
        header, data = _parts(content)
        metadata = header.get(_METADATA, {})
        digest = metadata.pop(_DIGEST, None)  # none in a file from before there were digests
        if digest is not None and digest != _digest(header, data):
            raise RunError(
                f"{path} is damaged: it is not what was written; put a copy back, or remove it"
            )
        tensors = load(content)
        state = {key: _restore(json.loads(value), tensors) for key, value in metadata.items()}
    except FileNotFoundError:
        raise RunError(f"there is no file {path}") from None
    except OSError as error:
        raise RunError(f"could not read {path}: {error.strerror or error}") from None
    except (*_DAMAGED, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"{path} is damaged or not one of ours: {reason}") from None
    if missing := [key for key in needs if key not in state]:
        raise RunError(f"{path} is damaged or not one of ours: it has no {missing[0]!r}")
    return state


def _parts(content: bytes) -> tuple[dict[str, Any], memoryview]:
    """The header of a safetensors file, and the bytes of its tensors."""
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 + size:
        raise ValueError("it is cut short")
    header = json.loads(content[8 : 8 + size])
    if not isinstance(header, dict):
        raise ValueError("its header is no mapping")
    return header, memoryview(content)[8 + size :]


def _digest(header: Mapping[str, Any], data: memoryview) -> str:
    """SHA-256 of the tensors and of a header that does not hold it yet."""
    found = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    found.update(data)
    return found.hexdigest()


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The state of torch's global generators, the CPU's and, on CUDA, the device's."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Put the global generators back to ``random_state``."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


class Arrays:
    """The tensors of one training: ``arrays/ARM/seed-S/NAME.safetensors`` in a run directory.

    Args:
        run: path of the run directory.
        arm: name of the experiment's arm.
        seed: seed of the training.

    Raises:
        RunError: if a name would lead out of the run directory.
    """

    def __init__(self, run: Path, arm: str, seed: int) -> None:
        self._arrays = inside(run, ARRAYS, arm, f"seed-{seed}")

    def save_arrays(self, name: str, arrays: Mapping[str, Tensor]) -> None:
        """Write tensors under a name."""
        save_state(inside(self._arrays, f"{name}.safetensors"), dict(arrays))

    def arrays(self, name: str) -> dict[str, Tensor] | None:
        """The tensors written under a name; None where there are none."""
        path = inside(self._arrays, f"{name}.safetensors")
        return load_state(path) if path.exists() else None

    def array_names(self) -> list[str]:
        """The names under which tensors were written, sorted."""
        return sorted(path.stem for path in self._arrays.glob("*.safetensors"))

    def drop_arrays(self, name: str) -> None:
        """Remove the tensors under a name, if there are any."""
        inside(self._arrays, f"{name}.safetensors").unlink(missing_ok=True)
