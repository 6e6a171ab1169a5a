"""Manifold geometry against one quadratic programme at a time, and the center search.

Writes ``results/capacity.json`` and the tables of ``docs/capacity.md``. Times are CPU seconds of
one thread; each figure is the median of interleaved repeats. The per-vector peers are a quadratic
programme by CVXOPT at the authors' tolerances (extra ``[bench]``; left out where it is missing) and
SciPy's non-negative least squares. What the authors' whole implementation costs was recorded
elsewhere and is marked so.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import nnls
from threadpoolctl import threadpool_limits
from torch import Tensor

import grokscope as gs
from grokscope.measures import capacity, center_search, glue
from grokscope.measures.manifolds import check_manifolds, thin_coordinates, without_subspace
from records import write_tables

HERE = Path(__file__).resolve().parent
NUM_SAMPLES = 200
REPEATS = 3
# (manifolds, points, features): CPU seconds of the authors' implementation, recorded elsewhere.
RECORDED = {(10, 50, 784): 5.9, (10, 200, 784): 16.8, (30, 90, 300): 16.0, (47, 200, 128): 132.0}
QP_CASE = (10, 200, 784)
MEMORY_CASE = (47, 200, 512)
SEVEN_LAYERS = (128, 128, 512, 512, 128, 128, 47)  # features of an MLP's layers on EMNIST
NUM_GLUE_SAMPLES = 5
CENTER_CASES = ((10, 200, 784), (47, 200, 128))


def clouds(count: int, num_points: int, num_features: int) -> list[Tensor]:
    """Rectified clouds of decaying spectrum around partly shared centers, as in a hidden layer."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    spectrum = torch.arange(1, 65) ** -0.5
    mixing = normal(64, num_features) / 8
    shared = normal(2, 64)
    centers = normal(count, 1, 64) + normal(count, 1, 2) @ shared
    return list(((centers + 2 * spectrum * normal(count, num_points, 64)) @ mixing).relu())


def prepared(manifolds: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Points as columns with a row of ones, and Gaussian vectors as rows, for each manifold."""
    structure = gs.center_structure(torch.stack([points.mean(0) for points in manifolds]))
    generator = torch.Generator().manual_seed(1)
    columns = []
    for points in without_subspace(check_manifolds(manifolds), structure.subspace):
        thin = thin_coordinates(points)
        columns.append(torch.cat([thin, thin.new_ones(1, thin.shape[1])]))
    vectors = [
        torch.randn((NUM_SAMPLES, len(c)), generator=generator, dtype=torch.float64)
        for c in columns
    ]
    return columns, vectors


def cvxopt_fits(columns: list[Tensor], vectors: list[Tensor]) -> list[np.ndarray]:
    """S a for each vector: min |v - t|^2 subject to S' v <= 0, one programme a vector."""
    from cvxopt import matrix, solvers

    solvers.options.update(
        show_progress=False, maxiters=1_000_000, abstol=1e-12, reltol=1e-12, feastol=1e-12
    )
    fits = []
    for s, rows in zip(columns, vectors, strict=True):
        identity, constraints = matrix(np.eye(len(s))), matrix(s.numpy().T)
        zero = matrix(np.zeros(s.shape[1]))
        solutions = [solvers.qp(identity, matrix(-t), constraints, zero)["x"] for t in rows.numpy()]
        fits.append(rows.numpy() - np.stack([np.asarray(x)[:, 0] for x in solutions]))
    return fits


def scipy_fits(columns: list[Tensor], vectors: list[Tensor]) -> list[np.ndarray]:
    """The same by SciPy's active-set solver, one problem a vector."""
    return [
        np.stack([s.numpy() @ nnls(s.numpy(), t)[0] for t in rows.numpy()])
        for s, rows in zip(columns, vectors, strict=True)
    ]


def our_fits(columns: list[Tensor], vectors: list[Tensor]) -> list[np.ndarray]:
    """The same, all vectors of a manifold at once."""
    return [
        (gs.nonnegative_least_squares(s, rows).coefficients @ s.mT).numpy()
        for s, rows in zip(columns, vectors, strict=True)
    ]


def interleaved(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median CPU seconds of each call, after a warm-up of the cheap ones."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(REPEATS):
        for name, call in calls.items():
            start = time.process_time()
            call()
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def anchor_stage() -> dict[str, object]:
    columns, vectors = prepared(clouds(*QP_CASE))
    solvers = {"grokscope": our_fits, "scipy": scipy_fits, "cvxopt": cvxopt_fits}
    try:
        import cvxopt  # noqa: F401
    except ModuleNotFoundError:
        del solvers["cvxopt"]
    ours = our_fits(columns, vectors)
    largest = {
        name: max(
            float(np.abs(a - b).max()) for a, b in zip(ours, solve(columns, vectors), strict=True)
        )
        for name, solve in solvers.items()
        if name != "grokscope"
    }
    seconds = interleaved({n: partial(f, columns, vectors) for n, f in solvers.items()})
    return {
        "shape": QP_CASE,
        "num_vectors": NUM_SAMPLES * QP_CASE[0],
        "cpu_seconds": seconds,
        "ratio": {n: s / seconds["grokscope"] for n, s in seconds.items() if n != "grokscope"},
        "largest_difference": largest,
    }


def one_at_a_time(
    points: Tensor, targets: Tensor, signs: Tensor | None = None
) -> gs.NonnegativeSolution:
    """SciPy's solver in the place of ours."""
    columns, rows = points.numpy(), []
    for i, target in enumerate(targets.numpy()):
        matrix = columns if signs is None else columns * signs[i].numpy()
        rows.append(nnls(matrix, target, maxiter=100 * matrix.shape[1])[0])
    return gs.NonnegativeSolution(torch.from_numpy(np.stack(rows)), targets.new_zeros(len(rows)), 0)


def seven_layers() -> dict[str, object]:
    """The QPs of seven layers of 47 classes by our batched solver and by SciPy's, in one run."""
    seconds: dict[str, dict[str, float]] = {"geometry": {}, "glue": {}}
    solvers = {"grokscope": gs.nonnegative_least_squares, "scipy": one_at_a_time}
    for num_features in SEVEN_LAYERS:
        manifolds = clouds(47, 200, num_features)
        calls: dict[str, Callable[[], object]] = {
            "geometry": partial(gs.manifold_geometry, manifolds, correlations="keep"),
            "glue": partial(gs.glue_geometry, manifolds, num_samples=NUM_GLUE_SAMPLES),
        }
        for name, solver in solvers.items():
            capacity.nonnegative_least_squares = glue.nonnegative_least_squares = solver
            for part, call in calls.items():
                start = time.process_time()
                call()
                spent = time.process_time() - start
                seconds[part][name] = seconds[part].get(name, 0.0) + spent
    capacity.nonnegative_least_squares = solvers["grokscope"]
    glue.nonnegative_least_squares = solvers["grokscope"]
    return {"features": SEVEN_LAYERS, "glue_samples": NUM_GLUE_SAMPLES, "cpu_seconds": seconds}


def center_searches() -> list[dict[str, object]]:
    """Our search, and the published ten starts of a thousand steps for the same ranks."""
    rows: list[dict[str, object]] = []
    for shape in CENTER_CASES:
        centers = torch.stack([points.mean(0) for points in clouds(*shape)])
        structure = gs.center_structure(centers)
        seconds = interleaved({"grokscope": partial(gs.center_structure, centers)})["grokscope"]
        centered = (centers - centers.mean(0)).double()
        left, values, _ = torch.linalg.svd(centered, full_matrices=False)
        coordinates = (left * values)[:, :-1].numpy()
        start = time.process_time()
        stream = np.random.default_rng(0)
        for k in range(1, len(structure.candidates) + 1):
            starts = np.linalg.qr(stream.standard_normal((10, coordinates.shape[1], k)))[0]
            center_search.leave(coordinates, starts, 1000)
        published = time.process_time() - start
        rows.append(
            {
                "centers": shape[0],
                "ranks": len(structure.candidates),
                "cpu_seconds": seconds,
                "published_steps_cpu_seconds": published,
                "ratio": published / seconds,
            }
        )
    return rows


def end_to_end(recordings: Path | None) -> list[dict[str, object]]:
    """Whole calls, beside what the authors' implementation took elsewhere.

    On clouds of the recorded shapes; and on the recorded data themselves where given.
    """
    cases = [
        (" x ".join(map(str, shape)), partial(gs.manifold_geometry, clouds(*shape)), recorded)
        for shape, recorded in RECORDED.items()
    ]
    for path in sorted(recordings.glob("*.json")) if recordings else []:
        record, data = json.loads(path.read_text()), np.load(path.with_suffix(".npz"))
        manifolds = [torch.from_numpy(data[f"X{i}"]).mT for i in range(record["P"])]
        t = [torch.from_numpy(data[f"t{i}"]) for i in range(record["P"])]
        name = f"{record['P']} x {record['M']} x {record['N']}, {path.stem}, same data"
        cases.append((name, partial(gs.manifold_geometry, manifolds, t=t), record["cpu_s"]))
    rows = []
    for name, call, recorded in cases:
        seconds = interleaved({"grokscope": call})["grokscope"]
        rows.append(
            {
                "case": name,
                "cpu_seconds": seconds,
                "authors_cpu_seconds_recorded_elsewhere": recorded,
                "ratio": recorded / seconds,
            }
        )
    return rows


def peak_megabytes() -> float:
    """Largest resident size of a fresh process that measures ``MEMORY_CASE``."""
    code = (
        "import resource, sys; sys.path.insert(0, sys.argv[1]); import bench_capacity as b\n"
        "b.torch.set_num_threads(1)\n"
        "b.gs.manifold_geometry(b.clouds(*b.MEMORY_CASE))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(HERE)], capture_output=True, text=True, check=True
    )
    return int(done.stdout) / 1024


def tables(results: dict) -> str:
    stage = results["anchor_stage"]
    lines = [
        f"Anchor points of {stage['num_vectors']} Gaussian vectors "
        f"({' x '.join(map(str, stage['shape']))}):",
        "",
        "| solver | CPU s | ratio | largest difference |",
        "|---|---|---|---|",
        f"| grokscope, all vectors of a manifold at once | {stage['cpu_seconds']['grokscope']:.2f} "
        "| 1 | |",
    ]
    lines += [
        f"| {name}, one vector at a time | {stage['cpu_seconds'][name]:.2f} | {ratio:.0f} "
        f"| {stage['largest_difference'][name]:.0e} |"
        for name, ratio in stage["ratio"].items()
    ]
    whole = results["seven_layers"]
    lines += [
        "",
        f"The same solvers in the whole, 47 manifolds x 200 points in layers of "
        f"{', '.join(map(str, whole['features']))} features:",
        "",
        "| measure | grokscope, CPU s | scipy, CPU s | ratio |",
        "|---|---|---|---|",
    ]
    names = {
        "geometry": "`manifold_geometry`, center search left out",
        "glue": f"`glue_geometry`, {whole['glue_samples']} samples",
    }
    for part, label in names.items():
        ours, theirs = (whole["cpu_seconds"][part][name] for name in ("grokscope", "scipy"))
        lines.append(f"| {label} | {ours:.1f} | {theirs:.1f} | {theirs / ours:.1f} |")
    lines += [
        "",
        "`center_structure`, beside ten starts of a thousand published steps for the same ranks, "
        "batched in NumPy as ours are:",
        "",
        "| centers | ranks | CPU s | published steps, CPU s | ratio |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['centers']} | {row['ranks']} | {row['cpu_seconds']:.2f} "
        f"| {row['published_steps_cpu_seconds']:.1f} | {row['ratio']:.0f} |"
        for row in results["center_search"]
    ]
    lines += [
        "",
        "`manifold_geometry`, end to end, 200 vectors a manifold:",
        "",
        "| manifolds x points x features | CPU s | authors' CPU s, recorded elsewhere | ratio |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['case']} | {row['cpu_seconds']:.2f} "
        f"| {row['authors_cpu_seconds_recorded_elsewhere']:.1f} | {row['ratio']:.0f} |"
        for row in results["end_to_end"]
    ]
    shape = " x ".join(map(str, MEMORY_CASE))
    lines += ["", f"Peak memory at {shape}: {results['peak_megabytes']:.0f} MB, Python included."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recordings", type=Path, help="folder of the authors' recorded runs")
    recordings = parser.parse_args().recordings
    torch.set_num_threads(1)
    with threadpool_limits(1):
        results = measured(recordings)
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "capacity.json").write_text(json.dumps(results, indent=1) + "\n")
    text = tables(results)
    print(text)
    write_tables(HERE.parent / "docs" / "capacity.md", text)


def measured(recordings: Path | None) -> dict:
    return {
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "machine": platform.machine(),
            "threads": 1,
        },
        "anchor_stage": anchor_stage(),
        "seven_layers": seven_layers(),
        "center_search": center_searches(),
        "end_to_end": end_to_end(recordings),
        "peak_megabytes": peak_megabytes(),
    }


if __name__ == "__main__":
    main()
