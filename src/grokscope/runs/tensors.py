"""Nested state as safetensors: tensors as they are, all else as JSON in the file's header.

Nothing is pickled, so a checkpoint can be opened by any reader of safetensors and can run no code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from grokscope.runs.files import RunError, write_atomically

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
        TypeError: a value is none of these.
        RunError: the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    header = {
        key: json.dumps(_strip(value, key, tensors), allow_nan=True) for key, value in state.items()
    }
    write_atomically(path, save(tensors, metadata=header))


def load_state(path: Path) -> dict[str, Any]:
    """What ``save_state`` wrote, with tensors on the CPU.

    Raises:
        RunError: the file is missing, cut short, or not one of ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return {key: _restore(json.loads(value), tensors) for key, value in header.items()}
    except FileNotFoundError:
        raise RunError(f"there is no file {path}") from None
    except (SafetensorError, json.JSONDecodeError, KeyError) as error:
        raise RunError(f"{path} is damaged or not one of ours: {error}") from None


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
