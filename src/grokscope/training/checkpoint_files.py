"""Networks saved by any training: which files, of which steps, and the parameters in them.

A checkpoint is a state dictionary in a safetensors file or one of ``torch.save``. The latter is a
pickle, which could run code: it is read with ``weights_only=True`` and refused where that does not
do. Nothing but tensors is taken from a file.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from grokscope.runs.files import RunError
from grokscope.runs.tensors import load_state

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
# A folder for each checkpoint, as Hugging Face's Trainer keeps them, holds its network as one of:
_IN_FOLDER = ("model.safetensors", "pytorch_model.bin")
_NESTED = ("state_dict", "model_state_dict", "model", "module", "network", "net")
_PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.")
_NAMED_STEP = re.compile(r"(?:step|iteration|iter|epoch|checkpoint|ckpt)s?[=_-]?(\d+)", re.I)


def checkpoint_files(
    sources: str | Path | Sequence[str | Path], pattern: str | None = None
) -> dict[int, Path]:
    """The files of checkpoints by their steps, in the order of steps.

    Args:
        sources: files, and folders that hold them, or that hold a folder for each checkpoint with
            ``model.safetensors`` or ``pytorch_model.bin``.
        pattern: of the names to take, as ``net-{step}.pt``; ``*`` stands for anything. By default
            the step is the number after "step", or else after "iter", "epoch" or "checkpoint", or
            else the last number of the name.

    Raises:
        ValueError: if there is no such file, a name has no step, or two have the same.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("net-20.pt", "net-3.pt"):
        ...         torch.save(nn.Linear(2, 1).state_dict(), Path(folder) / name)
        ...     {step: path.name for step, path in checkpoint_files(folder).items()}
        {3: 'net-3.pt', 20: 'net-20.pt'}
    """
    named = [sources] if isinstance(sources, str | Path) else list(sources)
    wanted = None if pattern is None else _compiled(pattern)
    found: dict[int, Path] = {}
    for path, name in (file for source in named for file in _files(Path(source))):
        if wanted is not None and not wanted.fullmatch(name):
            continue
        step = _step(path, name, wanted)
        if step in found and found[step] != path:
            raise ValueError(
                f"{found[step]} and {path} are both of step {step}: leave one out, or say where "
                "the step stands by a pattern such as 'net-{step}.pt'"
            )
        found[step] = path
    if not found:
        raise ValueError(
            "checkpoints is empty: name files, or folders of them"
            if wanted is None
            else f"pattern {pattern!r} is like the name of none of the checkpoints"
        )
    return dict(sorted(found.items()))


def load_network(model: nn.Module, path: Path) -> None:
    """Give a network the parameters and buffers in a checkpoint.

    A prefix that all names share and the model's do not, as data parallelism, ``torch.compile`` and
    Lightning put there, is taken off.

    Raises:
        ValueError: if the file is damaged, holds no state dictionary, would run code, or does
            not fit the model.
    """
    own = model.state_dict()
    state = _without_prefix(_state(path), own)
    shapes = [
        f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    faults = [
        *_listed("it lacks", [name for name in own if name not in state]),
        *_listed("the model lacks", [name for name in state if name not in own]),
        *_listed("other shapes:", shapes),
    ]
    if faults:
        raise ValueError(
            f"{path} does not fit the model {type(model).__name__}: {'; '.join(faults)}"
        )
    model.load_state_dict(state)


def _files(source: Path) -> list[tuple[Path, str]]:
    """The checkpoints that a name stands for, each with the name that has its step."""
    if source.is_file():
        return [(source, source.name)]
    if not source.is_dir():
        raise ValueError(f"checkpoints: there is no {source}; name files, or folders of them")
    inside = sorted(source.iterdir())
    found = [(path, path.name) for path in inside if path.suffix in SUFFIXES and path.is_file()]
    found += [
        (next(path / name for name in _IN_FOLDER if (path / name).is_file()), path.name)
        for path in inside
        if any((path / name).is_file() for name in _IN_FOLDER)
    ]
    if not found:
        raise ValueError(
            f"{source} holds no checkpoint: none of its files ends in {', '.join(SUFFIXES)}"
        )
    return found


def _compiled(pattern: str) -> re.Pattern[str]:
    if pattern.count("{step}") != 1:
        raise ValueError(
            f"pattern must say once where the step stands, as in 'net-{{step}}.pt': got {pattern!r}"
        )
    return re.compile(
        "".join(
            {"{step}": r"(\d+)", "*": ".*"}.get(part, re.escape(part))
            for part in re.split(r"(\{step\}|\*)", pattern)
        )
    )


def _step(path: Path, name: str, wanted: re.Pattern[str] | None) -> int:
    if wanted is not None:
        match = wanted.fullmatch(name)
        assert match is not None
        return int(match[1])
    stem = name if path.name != name else path.stem
    named = {found[0].lower(): found[1] for found in _NAMED_STEP.finditer(stem)}
    after_step = [number for words, number in named.items() if words.startswith("step")]
    numbers = after_step or list(named.values()) or re.findall(r"\d+", stem)
    if not numbers:
        raise ValueError(
            f"no step in the name of {path}: leave it out, or say which names to take by a pattern "
            "such as 'net-{step}.pt'"
        )
    return int(numbers[-1])


def _state(path: Path) -> dict[str, Tensor]:
    """The state dictionary in a file."""
    content = _safetensors(path) if path.suffix == ".safetensors" else _torch_file(path)
    for _ in range(2):  # a trainer's checkpoint holds the network's, beside the optimizer's
        if not isinstance(content, Mapping):
            break
        tensors = {str(k): value for k, value in content.items() if isinstance(value, Tensor)}
        if tensors and len(tensors) == len(content):
            return tensors
        content = next((content[key] for key in _NESTED if key in content), None)
    raise ValueError(f"{path} holds no state dictionary: save model.state_dict()")


def _safetensors(path: Path) -> Any:
    try:
        with safe_open(path, framework="pt") as file:
            ours = "model" in (file.metadata() or {})
        return load_state(path)["model"] if ours else load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged, or no safetensors file: {error}") from None
    except RunError as error:
        raise ValueError(str(error)) from None


def _torch_file(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle's protocol; what fails is told below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is None:
            raise ValueError(f"{path} is damaged, or no file of torch.save") from None
        raise ValueError(
            f"{path} is a pickle that holds {refused[1]}, which could run code and is refused "
            "(weights_only): save model.state_dict() instead"
        ) from None
    except MemoryError:
        raise
    except Exception:  # junk can mean anything to the unpickler, and fail it in any way
        raise ValueError(f"{path} is damaged, or no file of torch.save") from None


def _without_prefix(state: dict[str, Tensor], own: Mapping[str, Any]) -> dict[str, Tensor]:
    while not any(name in own for name in state):
        prefix = next((each for each in _PREFIXES if all(n.startswith(each) for n in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _listed(words: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return [f"{words} {', '.join(names[:2])}{more}"]
