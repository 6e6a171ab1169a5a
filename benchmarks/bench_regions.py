"""Linear regions of MNIST networks: CPU seconds, beside regioncam where it is installed.

    python benchmarks/bench_regions.py [--data FOLDER] [--rounds N]

Networks are trained here for a minute in all, on MNIST's idx files if ``--data`` or
GROKSCOPE_DATA names a folder that holds them, else on random clusters of the same size. Both
programs run in turn in each round, in one process and on one thread; medians and their ratio are
reported. Ours is complete: float64, tracing, the check against the model and ordered polygons
included. regioncam (https://pypi.org/project/regioncam/, Rust, float32) is given the first layer
already restricted to the slice. The cost of the best-known graph-based tool is not measured here:
it was recorded once, for trained networks of the same shapes, and is compared cell for cell.
Two rows more: a thousand small slices around training points in one call against one after another,
and a network of convolutions and max-pooling in forward passes of as many points as it has cells.
The results go to ``benchmarks/results/regions.json``.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import importlib
import importlib.util
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor, nn

import grokscope as gs

HALF_WIDTH = 8.0
WIDTHS = ([50, 50], [100, 100], [200, 200], [200, 200, 200], [250, 250, 250])
# CPU seconds and cells of the graph-based tool, recorded on [-8, 8]^2 for trained networks.
GRAPH_TOOL = {
    "784-100-100-10": (8.6, 7_373),
    "784-200-200-10": (47.0, 40_259),
    "784-200-200-200-10": (161.0, 93_096),
}
RESULTS = Path(__file__).parent / "results" / "regions.json"


def read_idx(path: Path) -> Tensor:
    """An idx file of bytes, plain or gzipped."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(data[3])]
    return torch.frombuffer(bytearray(data[4 + 4 * data[3] :]), dtype=torch.uint8).reshape(shape)


def training_data(folder: Path | None) -> tuple[Tensor, Tensor, str]:
    """Images (n, 784) in [0, 1], labels (n,), and what they are."""
    found = {}
    for kind in ("train-images", "train-labels"):
        paths = sorted(folder.rglob(f"{kind}*idx*")) if folder else []
        if paths:
            found[kind] = read_idx(paths[0])
    if len(found) == 2:
        images = found["train-images"].flatten(1).float() / 255
        return images, found["train-labels"].long(), "MNIST"
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (20_000,), generator=generator)
    centers = torch.rand(10, 784, generator=generator)
    noise = 0.3 * torch.randn(len(labels), 784, generator=generator)
    return (centers[labels] + noise).clamp(0, 1), labels, "random clusters"


def trained(widths: list[int], x: Tensor, y: Tensor, epochs: int = 10) -> nn.Sequential:
    """A ReLU network after some epochs of Adam."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in pairwise([784, *widths]):
        layers += [nn.Linear(a, b), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(widths[-1], 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(256):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    return model


def ours(model: nn.Sequential, plane: gs.Slice) -> int:
    """The number of cells, after everything that a user gets."""
    regions = gs.linear_regions(model, plane)
    return len(regions.polygons)


def theirs(model: nn.Sequential, plane: gs.Slice) -> int:
    """The number of cells by regioncam."""
    regioncam = importlib.import_module("regioncam")
    camera = regioncam.Regioncam(size=HALF_WIDTH)
    linear = [layer for layer in model if isinstance(layer, nn.Linear)]
    for i, layer in enumerate(linear[:-1]):
        weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
        if i == 0:
            weight, bias = weight @ plane.basis.T, weight @ plane.origin + bias
        camera.linear(weight.T.float().contiguous().numpy(), bias.float().numpy())
        camera.relu()
    return int(camera.num_faces)


def timed(function: Callable[[], int]) -> tuple[float, int]:
    """CPU seconds and the count."""
    start = time.process_time()
    count = function()
    return time.process_time() - start, count


def peak_memory(model: nn.Sequential, plane: gs.Slice) -> float:
    """The peak memory in GB of a fresh process that finds the regions (Linux)."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh) as pool:
        return pool.submit(_peak_memory, model, plane.origin, plane.basis).result()


def _peak_memory(model: nn.Sequential, origin: Tensor, basis: Tensor) -> float:
    torch.set_num_threads(1)
    ours(model, gs.Slice(origin, basis, HALF_WIDTH))
    # Not ru_maxrss, in which a process inherits the peak of the one that started it.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def compared(model: nn.Sequential, plane: gs.Slice, rounds: int, peer: bool) -> dict[str, Any]:
    """Medians over interleaved rounds, the first of which is not counted."""
    seconds: dict[str, list[float]] = {"grokscope": [], "regioncam": []}
    cells: dict[str, int] = {}
    for _ in range(rounds + 1):
        for name, function in (("grokscope", ours), ("regioncam", theirs)):
            if name == "grokscope" or peer:
                taken, cells[name] = timed(lambda f=function: f(model, plane))  # type: ignore[misc]
                seconds[name].append(taken)
    medians = {name: statistics.median(all_[1:]) for name, all_ in seconds.items() if all_}
    row: dict[str, Any] = {"cells": cells, "seconds": medians}
    if peer:
        row["times_faster"] = medians["regioncam"] / medians["grokscope"]
    return row


def many_slices(model: nn.Sequential, x: Tensor, rounds: int, count: int = 1000) -> dict[str, Any]:
    """Seconds for many small slices at random through training points, together and in turn."""
    generator = torch.Generator().manual_seed(0)
    planes = [gs.Slice.random(point.double(), 0.5, generator) for point in x[:count]]
    together, in_turn = [], []
    for _ in range(rounds + 1):
        taken, cells = timed(lambda: sum(map(len, gs.linear_regions(model, planes))))
        together.append(taken)
        taken, same = timed(lambda: sum(len(gs.linear_regions(model, plane)) for plane in planes))
        in_turn.append(taken)
        assert cells == same
    seconds = {name: statistics.median(all_[1:]) for name, all_ in
               (("together", together), ("in turn", in_turn))}  # fmt: skip
    ratio = seconds["in turn"] / seconds["together"]
    return {"slices": count, "cells": cells, "seconds": seconds, "times_faster": ratio}


def convolutions(rounds: int) -> dict[str, Any]:
    """Seconds for a network of convolutions and pooling, and for forward passes of its cells."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.PReLU(16), nn.MaxPool2d(3, 2),
        nn.Conv2d(16, 32, 3), nn.PReLU(32), nn.MaxPool2d(3, 2),
        nn.Conv2d(32, 48, 2), nn.ReLU(), nn.Flatten(), nn.Linear(432, 64), nn.ReLU(),
        nn.Linear(64, 10),
    ).eval()  # fmt: skip
    a, b, c = torch.randn(3, 3, 28, 28)
    plane = gs.Slice.through(a, b, c, half_width=0.05)
    points = plane.points(torch.zeros(len(gs.linear_regions(model, plane)), 2))
    double = copy.deepcopy(model).double()
    regions, forward = [], []
    for _ in range(rounds + 1):
        taken, cells = timed(lambda: len(gs.linear_regions(model, plane)))
        regions.append(taken)
        with torch.no_grad():
            forward.append(timed(lambda: len(double(points)))[0])
    seconds = {name: statistics.median(all_[1:]) for name, all_ in
               (("regions", regions), ("forward pass of the cells", forward))}  # fmt: skip
    return {
        "cells": cells,
        "seconds": seconds,
        "forward_passes": seconds["regions"] / seconds["forward pass of the cells"],
    }


def main() -> None:
    """Train, time, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = os.environ.get("GROKSCOPE_DATA")
    parser.add_argument("--data", type=Path, default=Path(default) if default else None)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    x, y, what = training_data(arguments.data)
    a, b, c = x[:3].double()
    plane = gs.Slice.through(a, b, c, half_width=HALF_WIDTH)
    peer = importlib.util.find_spec("regioncam") is not None
    print(f"{what}, [-8, 8]^2 through three images; regioncam {'' if peer else 'not '}installed")
    columns = f"{'grokscope':>10} {'regioncam':>10} {'ratio':>6} {'graph':>6} {'memory':>9}"
    print(f"{'network':20} {'cells':>8} {columns}")
    rows = []
    for widths in WIDTHS:
        name = "-".join(map(str, [784, *widths, 10]))
        model = trained(widths, x, y)
        row = {"network": name, **compared(model, plane, arguments.rounds, peer)}
        row["peak_memory_gb"] = peak_memory(model, plane)
        seconds, cells = row["seconds"], row["cells"]["grokscope"]
        if name in GRAPH_TOOL:
            known_seconds, known_cells = GRAPH_TOOL[name]
            per_cell = known_seconds / known_cells
            row["times_faster_than_graph_tool"] = per_cell / (seconds["grokscope"] / cells)
        rows.append(row)
        other = f"{seconds['regioncam']:9.3f}s {row['times_faster']:6.2f}" if peer else 17 * " "
        graph = row.get("times_faster_than_graph_tool")
        print(
            f"{name:20} {cells:8,} {seconds['grokscope']:9.3f}s {other} "
            f"{f'{graph:6.0f}' if graph else 6 * ' '} {row['peak_memory_gb']:6.2f} GB"
        )
    many = many_slices(trained([200, 200], x, y), x, max(1, arguments.rounds // 2))
    print(
        f"{many['slices']:,} slices of half width 0.5 at 784-200-200-10, {many['cells']:,} cells: "
        f"{many['seconds']['together']:.2f}s together, {many['times_faster']:.1f} times faster "
        "than in turn"
    )
    conv = convolutions(arguments.rounds)
    print(f"convolutions, {conv['cells']:,} cells: {conv['forward_passes']:.1f} forward passes")
    versions = {"torch": torch.__version__, "numpy": np.__version__}
    result = {
        "data": what, "versions": versions, "rounds": arguments.rounds, "rows": rows,
        "many_slices": many, "convolutions": conv,
    }  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
