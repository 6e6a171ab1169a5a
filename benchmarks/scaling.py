"""How the cost of every measure grows with examples, outputs, parameters and features.

``python benchmarks/scaling.py [--limit 20] [MEASURE ...]`` measures, writes
``results/scaling.json`` beside this file, where measures that are not named stay as they are, and
the tables of ``docs/cost.md`` from it; ``--tables`` writes the tables only.

One size of a base problem grows at a time. Every point is a fork of this process, on one thread:
CPU seconds are the median of up to three calls, memory is the peak beyond what the process held
before the call. An axis ends where the law of the points so far promises more than ``--limit``
seconds. An exponent is the slope of the logarithms over an axis's three largest sizes. Along
parameters that line is drawn on to a billion; what the three points before the largest say of it
shows how far such a law can be trusted.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

import grokscope as gs
from grokscope.runs.environment import environment
from records import rounded, write_tables

# Numba's OpenMP, which UMAP may run on, does not survive a fork
os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")

HERE = Path(__file__).parent
RESULT = HERE / "results" / "scaling.json"
PAGE = HERE.parent / "docs" / "cost.md"
Call = Callable[[], object]

# seconds of calls after which a point is not measured again
ENOUGH = 0.5
# peaks below this are the allocator's own noise
LEAST_BYTES = 4_000_000
FAR = 1e9  # parameters


@dataclass(frozen=True)
class Sizes:
    """One problem: a perceptron d-w-w-k on n examples, or classes of points in a feature space."""

    examples: int = 64
    outputs: int = 10
    parameters: int = 1_000_000
    inputs: int = 784
    classes: int = 10
    points: int = 50
    features: int = 256
    modulus: int = 113

    @property
    def width(self) -> int:
        """The width w of two hidden layers that comes nearest to the number of parameters."""
        sides = self.inputs + self.outputs + 2
        return max(1, round((-sides + math.sqrt(sides**2 + 4 * self.parameters)) / 2))


AXES: dict[str, Sequence[int]] = {
    "examples": (16, 64, 256, 1024, 4096),
    "outputs": (5, 10, 20, 40, 80, 160),
    "parameters": (1_000_000, 3_000_000, 10_000_000, 30_000_000, 100_000_000),
    "inputs": (196, 784, 3_136, 12_544, 50_176),
    "classes": (5, 10, 20, 40, 80),
    "points": (25, 50, 100, 200, 400),
    "features": (64, 256, 1024, 4096, 16_384),
    "modulus": (29, 59, 113, 227, 457, 919),
}
OF_A_MODEL = ("examples", "outputs", "parameters", "inputs")
OF_FEATURES = ("points", "classes", "features")


def network(s: Sizes) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """A perceptron with its examples and labels."""
    generator = torch.Generator().manual_seed(0)
    model = gs.MLP(s.inputs, [s.width, s.width], s.outputs, seed=0)
    x = torch.rand((s.examples, s.inputs), generator=generator)
    return model, x, torch.arange(s.examples) % s.outputs


def of_model(call: Callable[..., object]) -> Callable[[Sizes], Call]:
    """A measure that is called with a model and examples."""

    def prepared(s: Sizes) -> Call:
        model, x, _ = network(s)
        return lambda: call(model, x)

    return prepared


def of_labels(call: Callable[..., object]) -> Callable[[Sizes], Call]:
    """A measure that is called with a model, examples and labels."""

    def prepared(s: Sizes) -> Call:
        model, x, y = network(s)
        return lambda: call(model, x, y)

    return prepared


def manifolds(s: Sizes) -> torch.Tensor:
    """Clouds around centers of their own, (classes, points, features)."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn((s.classes, 1, s.features), generator=generator)
    spread = torch.randn((s.classes, s.points, s.features), generator=generator)
    return centers + 0.5 * spread


def of_manifolds(call: Callable[..., object]) -> Callable[[Sizes], Call]:
    """A measure that is called with class manifolds."""

    def prepared(s: Sizes) -> Call:
        clouds = manifolds(s)
        return lambda: call(clouds)

    return prepared


def of_probe(call: Callable[..., object]) -> Callable[[Sizes], Call]:
    """A probe, trained on all points and scored on as many more."""

    def prepared(s: Sizes) -> Call:
        train, test = manifolds(s).flatten(0, 1), manifolds(s).flatten(0, 1)
        y = torch.arange(s.classes).repeat_interleave(s.points)
        return lambda: call(train, y, test, y)

    return prepared


def of_kernel(call: Callable[..., object]) -> Callable[[Sizes], Call]:
    """A measure of kernels (n, n, k, k)."""

    def prepared(s: Sizes) -> Call:
        root = torch.rand(s.examples * s.outputs, 50)
        kernel = (root @ root.T).view(s.examples, s.outputs, s.examples, s.outputs)
        return lambda: call(kernel.permute(0, 2, 1, 3), torch.arange(s.examples) % s.outputs)

    return prepared


def training_step(s: Sizes) -> Call:
    """A step of AdamW on the examples, to see the rest beside it."""
    model, x, y = network(s)
    optimizer = torch.optim.AdamW(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def penalty(s: Sizes) -> Call:
    """GrokAlign's penalty with its gradient, which a training step pays besides."""
    model, x, _ = network(s)

    def step() -> None:
        model.zero_grad()
        gs.jacobian_penalty(model, x).backward()

    return step


def monitor(s: Sizes) -> Call:
    """A row of a monitor with its default measures."""
    model, x, y = network(s)
    watched = gs.Monitor(model, (x, y))
    return lambda: watched.measure(0)


def slices(s: Sizes) -> Call:
    """The linear regions of a plane through three examples."""
    model, x, _ = network(replace(s, examples=3))
    plane = gs.Slice.through(*x)
    return lambda: gs.linear_regions(model, plane)


def gaussian(s: Sizes) -> Call:
    """The Gini coefficient of as many numbers as there are parameters."""
    numbers = torch.randn(s.parameters)
    return lambda: gs.gini(numbers)


def embedding(call: Callable[..., object]) -> Callable[[Sizes], Call]:
    """A measure of an embedding (p, 128) on the circle of p tokens."""

    def prepared(s: Sizes) -> Call:
        weight = torch.randn(s.modulus, 128)
        return lambda: call(weight, s.modulus)

    return prepared


def progress(s: Sizes) -> Call:
    """The progress measures of all pairs modulo p."""
    a, b = torch.meshgrid(torch.arange(s.modulus), torch.arange(s.modulus), indexing="ij")
    results = ((a + b) % s.modulus).flatten()
    logits, train = torch.randn(len(results), s.modulus), torch.arange(len(results)) % 3 == 0
    return lambda: gs.progress_measures(logits, results, train, [1, 2, 3, 4, 5])


def pgd(model: Any, x: Any, y: Any) -> object:
    """Robust accuracy by projected gradients, ten steps."""
    return gs.robust_accuracy(model, x, y, attack="pgd", steps=10)


@dataclass(frozen=True)
class Measure:
    """What is called, the axes along which its problem grows, and the problem that grows."""

    prepared: Callable[[Sizes], Call]
    axes: Sequence[str] = OF_A_MODEL
    base: Sizes = Sizes()


MEASURES: dict[str, Measure] = {
    "a training step": Measure(training_step),
    "input_jacobian": Measure(of_model(gs.input_jacobian)),
    "affine_map": Measure(of_model(gs.affine_map)),
    "jacobian_norm": Measure(of_model(gs.jacobian_norm)),
    "jacobian_norm(projections=1)": Measure(of_model(lambda m, x: gs.jacobian_norm(m, x, 1))),
    "jacobian_alignment": Measure(of_model(gs.jacobian_alignment)),
    "jacobian_pc1": Measure(of_model(gs.jacobian_pc1)),
    "jacobian_geometry": Measure(of_model(gs.jacobian_geometry)),
    "centroids": Measure(of_model(gs.centroids)),
    "centroid_alignment": Measure(of_model(gs.centroid_alignment)),
    "centroid_inner_product": Measure(of_model(gs.centroid_inner_product)),
    "radii": Measure(of_model(gs.radii)),
    "layer_centroids": Measure(of_model(gs.layer_centroids)),
    "layer_radii": Measure(of_model(gs.layer_radii)),
    "jacobian_penalty": Measure(penalty),
    "Monitor, one row": Measure(monitor),
    "empirical_ntk": Measure(of_model(gs.empirical_ntk)),
    'empirical_ntk, "trace"': Measure(of_model(lambda m, x: gs.empirical_ntk(m, x, None, "trace"))),
    'empirical_ntk, "sum"': Measure(of_model(lambda m, x: gs.empirical_ntk(m, x, None, "sum"))),
    "empirical_ntk(sketch=100)": Measure(of_model(lambda m, x: gs.empirical_ntk(m, x, sketch=100))),
    "ntk_plan": Measure(of_model(gs.ntk_plan)),
    "kernel_distance": Measure(
        of_kernel(lambda k, _: gs.kernel_distance(k, 2 * k)), OF_A_MODEL[:2]
    ),
    "kernel_alignment": Measure(of_kernel(gs.kernel_alignment), OF_A_MODEL[:2]),
    "kernel_distance_matrix": Measure(
        of_kernel(lambda k, _: gs.kernel_distance_matrix([k, k + 1, k + 2])), OF_A_MODEL[:2]
    ),
    "ntk_velocity": Measure(
        of_kernel(lambda k, _: gs.ntk_velocity([k, k + 1, k + 2])), OF_A_MODEL[:2]
    ),
    "weight_norms": Measure(of_model(lambda m, _: gs.weight_norms(m)), ("parameters",)),
    "layer_activations": Measure(of_model(gs.layer_activations)),
    "stream_layer_activations": Measure(
        of_model(lambda m, x: [None for _ in gs.stream_layer_activations(m, x)])
    ),
    "noise_accuracy": Measure(of_labels(lambda m, x, y: gs.noise_accuracy(m, x, y, 0.1))),
    "robust_radius": Measure(of_labels(gs.robust_radius)),
    "robust_accuracy, PGD": Measure(of_labels(pgd)),
    "linear_regions": Measure(slices, ("parameters", "inputs"), Sizes(parameters=100_000)),
    "class_manifolds": Measure(
        of_manifolds(
            lambda c: gs.class_manifolds(
                c.flatten(0, 1), torch.arange(len(c)).repeat_interleave(c.shape[1])
            )
        ),
        OF_FEATURES,
    ),
    "manifold_geometry": Measure(of_manifolds(gs.manifold_geometry), OF_FEATURES),
    "glue_geometry": Measure(
        of_manifolds(lambda c: gs.glue_geometry(c, num_samples=20)), OF_FEATURES
    ),
    "center_structure": Measure(
        of_manifolds(lambda c: gs.center_structure(c.mean(1))), OF_FEATURES[1:]
    ),
    "simulated_capacity": Measure(
        of_manifolds(lambda c: gs.simulated_capacity(c, num_trials=5, progress=False)), OF_FEATURES
    ),
    "nonnegative_least_squares": Measure(
        of_manifolds(lambda c: gs.nonnegative_least_squares(c.mT[0], c[0])), ("points", "features")
    ),
    "linear_probe": Measure(of_probe(gs.linear_probe), OF_FEATURES),
    "sgd_probe": Measure(of_probe(gs.sgd_probe), OF_FEATURES),
    "embedding_2d": Measure(of_manifolds(lambda c: gs.embedding_2d(c.flatten(0, 1))), OF_FEATURES),
    "gini": Measure(gaussian, ("parameters",)),
    "fourier_spectrum": Measure(embedding(gs.fourier_spectrum), ("modulus",)),
    "fourier_gini": Measure(embedding(gs.fourier_gini), ("modulus",)),
    "key_frequencies": Measure(embedding(gs.key_frequencies), ("modulus",)),
    "progress_measures": Measure(progress, ("modulus",)),
}


def status(field: str) -> int:
    """Bytes of a field of this process's status, as VmRSS or VmHWM (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise KeyError(field)


def point(measure: Measure, sizes: Sizes) -> dict[str, float] | None:
    """Seconds and bytes of one problem, measured in a fork; None where it failed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            found = measured_here(measure, sizes)
            os.write(writing, json.dumps(found).encode())
        except BaseException as error:  # a fork must never go on with its parent's work
            print(f"  {type(error).__name__}: {error}", file=sys.stderr)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else None


def measured_here(measure: Measure, sizes: Sizes) -> dict[str, float]:
    """Seconds and bytes of one problem in this process."""
    torch.manual_seed(0)
    call = measure.prepared(sizes)
    gc.collect()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    seconds: list[float] = []
    for _ in range(3):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
        if len(seconds) == 1:
            peak = status("VmHWM") - before
        if sum(seconds) > ENOUGH:
            break
    return {"seconds": statistics.median(seconds), "bytes": max(0, peak)}


def along(name: str, axis: str, limit: float) -> dict[str, list[float]]:
    """A measure's points along one axis, until one takes longer than the limit."""
    measure, sizes = MEASURES[name], AXES[axis]
    found: dict[str, list[float]] = {"sizes": [], "seconds": [], "bytes": []}
    for size in sizes:
        if len(found["sizes"]) > 1 and promised(found["sizes"], found["seconds"], size) > limit:
            break
        result = point(measure, replace(measure.base, **{axis: size}))
        if result is None:
            break
        found["sizes"].append(size)
        for key, value in result.items():
            found[key].append(rounded(value))
    return found


def line(sizes: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Slope and offset of log(value) over log(size)."""
    slope, offset = np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-12)), 1)
    return float(slope), float(offset)


def promised(sizes: Sequence[float], values: Sequence[float], size: float) -> float:
    """What the line through the last three points says of another size."""
    slope, offset = line(sizes[-3:], values[-3:])
    return math.exp(offset + slope * math.log(size))


def exponent(found: Mapping[str, Sequence[float]], of: str) -> str:
    """The slope over the three largest sizes, as text; a dash where there is nothing to see."""
    sizes, values = found["sizes"][-3:], found[of][-3:]
    if len(sizes) < 3 or (of == "bytes" and min(values) < LEAST_BYTES):
        return "-"
    return f"{line(sizes, values)[0]:.1f}".replace("-0.0", "0.0")


def measured(name: str, limit: float) -> dict[str, Any]:
    """Every axis of a measure."""
    measure = MEASURES[name]
    smallest = {axis: AXES[axis][0] for axis in measure.axes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        measure.prepared(replace(measure.base, **smallest))()  # imports, first-use set-up
        return {axis: along(name, axis, limit) for axis in measure.axes}


def with_unit(seconds: float) -> str:
    """Seconds for a table."""
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def size(count: float) -> str:
    """Bytes for a table."""
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def growth(results: Mapping[str, Any], axes: Sequence[str]) -> str:
    """A table of the exponents of the measures that have the last of ``axes``, time and memory."""
    lines = [f"| measure | {' | '.join(axes)} | at the base | most measured |"]
    lines += ["|" + "---|" * (len(axes) + 3)]
    for name, found in results.items():
        if not set(found) & set(axes):
            continue
        cells = []
        for axis in axes:
            pair = [
                exponent(found[axis], of) if axis in found else "" for of in ("seconds", "bytes")
            ]
            cells.append(" / ".join(pair) if any(pair) else "")
        axis = next(iter(found))
        base = dict(zip(found[axis]["sizes"], found[axis]["seconds"], strict=True))
        at_base = base.get(getattr(MEASURES[name].base, axis))
        most = max(max(f["seconds"], default=0) for f in found.values())
        peak = max(max(f["bytes"], default=0) for f in found.values())
        lines.append(
            f"| `{name}` | {' | '.join(cells)} | {'' if at_base is None else with_unit(at_base)} | "
            f"{with_unit(most)}, {size(peak)} |"
        )
    return "\n".join(lines)


def beyond(results: Mapping[str, Any]) -> str:
    """A table of what the measures cost at the most parameters, and would cost at a billion."""
    lines = [
        "| measure | parameters | takes | the law said | peak | at 1e9 | peak at 1e9 | in steps |"
    ]
    lines += ["|" + "---|" * 8]
    rows = []
    for name, found in results.items():
        sizes, seconds, held = (
            found.get("parameters", {}).get(k, []) for k in ("sizes", "seconds", "bytes")
        )
        if len(sizes) < 4:
            continue
        said = promised(sizes[:-1], seconds[:-1], sizes[-1])
        peak = promised(sizes, held, FAR) if min(held[-3:]) > LEAST_BYTES else None
        rows.append(
            (promised(sizes, seconds, FAR), name, sizes[-1], seconds[-1], said, held[-1], peak)
        )
    step = next((row[0] for row in rows if row[1] == "a training step"), math.nan)
    for far, name, most, takes, said, held_most, peak in sorted(rows):
        lines.append(
            f"| `{name}` | {most:.0e} | {with_unit(takes)} | {with_unit(said)} | "
            f"{size(held_most)} | {with_unit(far)} | {'-' if peak is None else size(peak)} | "
            f"{far / step:.2g} |"
        )
    return "\n".join(lines)


def tables(results: Mapping[str, Any]) -> str:
    """All tables of the page."""
    of_models = {n: f for n, f in results.items() if set(f) & set(OF_A_MODEL)}
    of_features = {n: f for n, f in results.items() if set(f) & set(OF_FEATURES)}
    of_tokens = {n: f for n, f in results.items() if "modulus" in f}
    return "\n\n".join(
        [
            "**Measures of a model**, exponents of CPU seconds / of peak memory:",
            growth(of_models, OF_A_MODEL),
            "**Measures of class manifolds**:",
            growth(of_features, OF_FEATURES),
            "**Measures of modular arithmetic**:",
            growth(of_tokens, ("modulus",)),
            "**Toward a billion parameters**, 64 examples, 10 outputs:",
            beyond(results),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help=", ".join(MEASURES))
    parser.add_argument("--limit", type=float, default=20.0, help="CPU seconds of one call")
    parser.add_argument("--tables", action="store_true", help="write the page's tables only")
    options = parser.parse_args()
    if unknown := set(options.measures) - set(MEASURES):
        parser.error(f"no such measure: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    results = json.loads(RESULT.read_text("utf-8"))["measures"] if RESULT.exists() else {}
    for name in () if options.tables else options.measures or MEASURES:
        results[name] = measured(name, options.limit)
        record = {
            "torch": torch.__version__,
            "processor": environment("cpu", [0])["processor"],
            "threads": 1,
            "measures": {name: results[name] for name in MEASURES if name in results},
        }
        RESULT.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        print(name, file=sys.stderr)
    write_tables(PAGE, tables({name: results[name] for name in MEASURES if name in results}))


if __name__ == "__main__":
    main()
