"""A recorded run, small enough for the repository: docs/results/runs/EXPERIMENT-PRESET.

Run it: python benchmarks/keep_run.py RUN... The site makes its report pages of what is kept, and
`grokscope report docs/results/runs/NAME` does the same. All rows and results are kept, with six
digits; of the tensors those that the report draws, of the first seed, at a few steps; of the
environment what does not belong to one machine's folders. Checkpoints are not kept. Then
results_index.py FOLDER puts the verdicts on its claims into docs/results/claims.json.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grokscope.report.panels.pictures import thinned
from grokscope.runs import LaterRows, Run
from grokscope.runs.files import write_json
from grokscope.runs.rows import METRICS, TIMING, RowFile
from grokscope.runs.tensors import Arrays
from records import RESULTS, environment_of
from records import rounded as rounded_to

KEPT = RESULTS / "runs"
KEPT_PARTS = "all rows and results to six digits, tensors of a few steps, no checkpoints"
DIGITS = 6
PICTURES, SLICES = 6, 3  # the steps of training at which they are kept
_STEP = re.compile(r"(slice-\d+-)?step-\d+")
_LEFT_OUT = re.compile(r"ntk-\d+")  # kernels, whose distances are kept
_LARGEST_HALF = torch.finfo(torch.float16).max


def keep(run: Run, folder: Path) -> None:
    """Write what is kept of a run into a folder, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(respelled(run.spec_file.read_text()))
    write_json(folder / "env.json", _environment(run))
    write_json(folder / "status.json", _status(run))
    if run.results:
        write_json(folder / "results.json", json.loads(respelled(json.dumps(rounded(run.results)))))
    for name in (METRICS, TIMING):
        _copy_rows(run.path / name, folder / name)
    for arm, seed in run.trials:
        later = Path("after_training") / arm / f"seed-{seed}.jsonl"
        if LaterRows(run.path, arm, seed).read():
            _copy_rows(run.path / later, folder / later)
    for arm in run.arms:
        for seed in run.seeds(arm)[:1]:  # the report draws tensors of the first seed
            _copy_arrays(run, arm, seed, Arrays(folder, arm, seed))


def rounded(value: Any) -> Any:
    """Numbers to six significant digits, however deep.

    Example:
        >>> rounded({"steps": [1000000], "norm": [0.12345678, None]})
        {'steps': [1000000], 'norm': [0.123457, None]}
    """
    return rounded_to(value, DIGITS)


def respelled(text: str) -> str:
    """Names and words of older runs as they are spelled now, which a reader of runs does too.

    Example:
        >>> respelled("generali" "ses later than it memori" "sed")
        'generalizes later than it memorized'
    """
    return re.sub(r"\b([Mm]emor|[Gg]eneral)is(?=e|ing|ation)", r"\1iz", text)


def _environment(run: Run) -> dict[str, Any]:
    """Where and with what it was run, without folders of that machine."""
    env = run.env
    found = environment_of(run)
    found |= {key: env[key] for key in ("cores", "device", "seeds") if key in env}
    if command := _command(env.get("command") or []):
        found["command"] = command
    if env.get("resumed"):
        found["resumed"] = [{"started": part.get("started")} for part in env["resumed"]]
    return found | {"kept": KEPT_PARTS}


def _command(words: list[str]) -> list[str]:
    """The command as it is typed; empty where a program of its own called the library.

    Example:
        >>> _command(["__main__.py", "run", "digits-grokking", "--out", "x", "--device", "cpu"])
        ['grokscope', 'run', 'digits-grokking', '--device', 'cpu']
    """
    if not words or Path(words[0]).name not in ("__main__.py", "grokscope"):
        return []
    kept, rest = ["grokscope"], iter(words[1:])
    for word in rest:
        if word in ("--out", "--data-dir"):
            next(rest, None)
        else:
            kept.append(word)
    return kept


def _status(run: Run) -> dict[str, Any]:
    return {key: of for key, of in run.status.items() if key not in ("pid", "updated")}


def _copy_rows(source: Path, target: Path) -> None:
    if source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        write_rows(target, (rounded(row) for row in RowFile(source).read()))


def write_rows(path: Path, rows: Iterable[Any]) -> None:
    """Write a file of rows whole."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def _copy_arrays(run: Run, arm: str, seed: int, kept: Arrays) -> None:
    for name in _chosen(run.array_names(arm, seed)):
        stored = run.arrays(arm, seed, name) or {}
        kept.save_arrays(name, {key: _halved(key, of) for key, of in stored.items()})


def _chosen(names: Iterable[str]) -> Iterator[str]:
    """The tensors that are kept: of those of many steps a few, evenly over training."""
    series = defaultdict(list)
    for name in names:
        if match := _STEP.fullmatch(name):
            series[match[1]].append(name)
        elif not _LEFT_OUT.fullmatch(name):
            yield name
    for of, own in series.items():
        yield from thinned(own, SLICES if of else PICTURES)


def _halved(name: str, tensor: Tensor) -> Tensor:
    """Single and double precision as half, where that is finer than what the report draws.

    Pictures have 255 levels, and a slice 2,047 places; corners around a point are finer.
    """
    fine = name.startswith("near_") or not tensor.is_floating_point() or not tensor.numel()
    return tensor if fine or float(tensor.abs().max()) > _LARGEST_HALF else tensor.half()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    for path in parser.parse_args().runs:
        run = Run(path)
        folder = KEPT / f"{run.spec['name']}-{run.spec['preset']}"
        keep(run, folder)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        print(f"{folder.relative_to(RESULTS.parents[1])}: {size / 1000:,.0f} kB")


if __name__ == "__main__":
    main()
