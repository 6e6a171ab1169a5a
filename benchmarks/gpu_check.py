"""Right and fast on a GPU: one script, some five minutes, nothing fetched.

Run it: python benchmarks/gpu_check.py [--device cuda] [--out FILE] [--only correct|speed]. It
writes one JSON (benchmarks/results/gpu.json) that the table in docs/gpu.md is made from.

Correctness: every measure, method and training is computed on the CPU and on the GPU in float64 and
compared; the largest relative error of each stands in the JSON, and one above its tolerance is a
failure. Resumed trainings and graphed steps are held against uninterrupted and eager ones.

Speed: wall time, synchronized. A training step is the difference of two trainings of different
length, so that set-up and capture are left out; capture stands beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import grokscope as gs
from grokscope.data import Dataset
from grokscope.runs.environment import environment

RESULT = Path(__file__).parent / "results" / "gpu.json"
TOLERANCE = 1e-9
F64 = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    """A generator on the CPU, so that every device sees the same numbers."""
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    """Normal numbers from the CPU."""
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


class Recurrent(nn.Module):
    """An LSTM whose last state is read out."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 7, batch_first=True)
        self.read = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, 3) of sequences (n, t, 4)."""
        return self.read(self.lstm(x)[0][:, -1])


def convolutional() -> nn.Module:
    """Two convolutions with BatchNorm, in eval mode."""
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3, stride=2),
        nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 3),
    ).eval()  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: gs.MLP(6, [9, 7], 3, seed=0), (6,)),
    "cnn": (convolutional, (2, 8, 8)),
    "lstm": (lambda: Recurrent().eval(), (5, 4)),
}


def small(dtype: torch.dtype = torch.float32) -> Dataset:
    """300 of scikit-learn's digits."""
    return gs.load_data("digits", train_size=300, subset="seeded", dtype=dtype)


def measures(device: str, name: str) -> dict[str, Tensor]:
    """The measures of one network, by name."""
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    model = build().to(F64).to(device)
    x = normal(12, *shape, seed=1).to(device)
    y = (torch.arange(12) % 3).to(device)
    found = {
        "input_jacobian": gs.input_jacobian(model, x),
        "jacobian_norm": gs.jacobian_norm(model, x),
        "jacobian_norm_projected": gs.jacobian_norm(model, x, projections=2, generator=seeded()),
        "jacobian_alignment": gs.jacobian_alignment(model, x),
        "jacobian_pc1": gs.jacobian_pc1(model, x),
        "centroids": gs.centroids(model, x),
        "centroid_alignment": gs.centroid_alignment(model, x),
        "centroid_inner_product": gs.centroid_inner_product(model, x),
        "affine_map": gs.affine_map(model, x)[1],
        "robust_radius": gs.robust_radius(model, x, y),
        "jacobian_penalty": gs.jacobian_penalty(model, x, projections=None).reshape(1),
    }
    for reduce in ("full", "trace", "sum"):
        found[f"empirical_ntk {reduce}"] = gs.empirical_ntk(model, x[:7], x[7:], reduce=reduce)
    for layer, features in gs.layer_activations(model, x).items():
        found[f"layer_activations {layer}"] = features
    return found


def geometry(device: str) -> dict[str, Tensor]:
    """Manifold geometry, probes and regions."""
    manifolds = [normal(15, 20, seed=seed).to(device) + seed for seed in range(6)]
    found = gs.manifold_geometry(manifolds, num_samples=40, generator=seeded())
    x, y = normal(60, 8, seed=3).to(device), (torch.arange(60) % 4).to(device)
    probe = gs.linear_probe(x[:40], y[:40], x[40:], y[40:])
    model = gs.MLP(2, [12, 9], 3, seed=1).double().to(device)
    square = gs.Slice(
        torch.zeros(2, dtype=F64, device=device),
        torch.eye(2, dtype=F64, device=device),
        half_width=3.0,
    )
    regions = gs.linear_regions(model, square)
    return {
        "manifold_geometry capacity": found.capacity,
        "manifold_geometry radius": found.radius,
        "manifold_geometry dimension": found.dimension,
        "linear_probe": probe.probe.weight,
        "linear_regions number": torch.tensor([float(len(regions))]),
        "linear_regions area": regions.areas.sum().reshape(1),
        "weight_norms": torch.stack([torch.as_tensor(v) for v in gs.weight_norms(model).values()]),
    }


METHODS: dict[str, Callable[[], list[Any]]] = {
    "plain": list,
    "grokalign": lambda: [gs.GrokAlign(1e-3, seed=1)],
    "grokfast": lambda: [gs.Grokfast()],
    "orthograd": lambda: [gs.OrthoGrad()],
    "adversarial": lambda: [gs.AdversarialTraining(seed=2)],
    "gradient noise": lambda: [gs.GradientNoise(seed=3)],
}


def trained(device: str, method: str, **settings: Any) -> dict[str, Tensor]:
    """A short training of three seeds: weights and rows."""
    data = small(F64)
    results = gs.fit_seeds(
        lambda seed: gs.MLP(64, [16, 12], 10, weight_scale=4.0, seed=seed).double(),
        data,
        [0, 1, 2],
        methods=lambda seed: METHODS[method](),
        monitor=lambda model: gs.Monitor(
            model, (data.train_x[:32], data.train_y[:32]), schedule=[0, 25]
        ),
        vectorize=True,
        device=device,
        batch_size=100,
        max_steps=40,
        evaluate=[0, 25, 40],
        dtype=F64,
        **settings,
    )
    found = {"train_loss": torch.tensor([r.history["train_loss"].tolist() for r in results])}
    for name in ("centroid_alignment", "jacobian_norm"):
        found[name] = torch.tensor([r.history[name][:2].tolist() for r in results])
    weights = [torch.cat([p.detach().flatten() for p in r.model.parameters()]) for r in results]
    return {**found, "weights": torch.stack(weights)}


def resumed(device: str, compile: bool) -> dict[str, Tensor]:
    """A training stopped at step 21 and resumed, less one that was not stopped: zero."""
    data, found = small(), []

    class Stop(Exception):
        pass

    def stopping(row: Mapping[str, Any], seconds: float) -> None:
        if row["step"] == 30:
            raise Stop

    for stops in (True, False):
        with tempfile.TemporaryDirectory() as folder:
            settings: dict[str, Any] = {
                "methods": [gs.GrokAlign(1e-3)], "device": device, "batch_size": 100, "seed": 0,
                "max_steps": 60, "evaluate": [0, 10, 30, 60], "checkpoint_seconds": 0.0,
                "compile": compile, "out": Path(folder) / "run",
            }  # fmt: skip
            if stops:
                try:
                    model = gs.MLP(64, [16], 10, seed=0)
                    gs.fit(model, data, on_evaluation=stopping, **settings)
                except Stop:
                    settings |= {"methods": [gs.GrokAlign(1e-3)], "resume": True}
            result = gs.fit(gs.MLP(64, [16], 10, seed=0), data, **settings)
            weights = torch.cat([p.detach().flatten().cpu() for p in result.model.parameters()])
            found.append(weights)
    return {"difference": (found[0] - found[1]).abs().max().reshape(1)}


def error(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference relative to the largest entry; infinite where only one is finite."""
    ours, theirs = ours.detach().cpu().to(F64), theirs.detach().cpu().to(F64)
    finite = theirs.isfinite()
    if ours.shape != theirs.shape or not torch.equal(ours.isfinite(), finite):
        return float("inf")
    if not finite.any():
        return 0.0
    return float((ours - theirs)[finite].abs().max() / theirs[finite].abs().max().clamp_min(1e-300))


def correctness(device: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each check by name, with its largest relative error against the CPU."""
    pairs: dict[str, Callable[[str], dict[str, Tensor]]] = {
        **{f"measures, {name}": partial(measures, name=name) for name in NETWORKS},
        "geometry": geometry,
        **{f"fit, {name}": partial(trained, method=name) for name in METHODS},
    }
    for name, compute in pairs.items():
        yield name, attempt(against_the_cpu, compute, device)
    for name in METHODS:
        yield f"graphed steps, {name}", attempt(graphed, device, name)
    for compile in (False, True):
        yield f"resumed, compile={compile}", attempt(resumes, device, compile)
    yield "bfloat16 model in the monitor", attempt(half_precision, device)


def against_the_cpu(compute: Callable[[str], dict[str, Tensor]], device: str) -> dict[str, Any]:
    """What a function gives on a device, compared with what it gives on the CPU."""
    return compared(compute(device), compute("cpu"))


def graphed(device: str, method: str) -> dict[str, Any]:
    """Recorded steps compared with plain ones."""
    return compared(trained(device, method, compile=True), trained(device, method), tolerance=1e-7)


def resumes(device: str, compile: bool) -> dict[str, Any]:
    """Whether a resumed training is an uninterrupted one, to the bit."""
    return zero(resumed(device, compile))


def compared(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], tolerance: float = TOLERANCE
) -> dict[str, Any]:
    """Errors of values by name, and which are above the tolerance."""
    errors = {name: error(ours[name], theirs[name]) for name in theirs}
    wrong = {name: value for name, value in errors.items() if not value <= tolerance}
    return {"largest_error": max(errors.values()), "wrong": wrong, "held": not wrong}


def zero(found: Mapping[str, Tensor]) -> dict[str, Any]:
    """Whether all values are exactly zero."""
    largest = max(float(value.abs().max()) for value in found.values())
    return {"largest_difference": largest, "held": largest == 0}


def half_precision(device: str) -> dict[str, Any]:
    """A bfloat16 model is measured, close to its float32 copy."""
    x, y = normal(16, 8, dtype=torch.float32).to(device), (torch.arange(16) % 3).to(device)
    rows = []
    for dtype in (torch.bfloat16, torch.float32):
        own = gs.MLP(8, [16], 3, seed=0).to(device).to(torch.bfloat16).to(dtype)
        rows.append(gs.Monitor(own, (x.to(dtype), y)).measure(0))
    worst = max(abs(rows[0][k] - rows[1][k]) / (abs(rows[1][k]) + 1e-3) for k in rows[1])
    return {"largest_error": worst, "held": worst < 0.05}


def attempt(check: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What a check found, or how it failed: one failure must not hide the others."""
    try:
        return check(*arguments)
    except Exception as failure:
        lines = traceback.format_exc().strip().splitlines()
        return {"held": False, "failed": f"{type(failure).__name__}: {failure}", "at": lines[-4:]}


@contextmanager
def clock(device: str) -> Iterator[list[float]]:
    """Seconds of the block, the device's own included."""

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    taken: list[float] = []
    wait()
    begin = time.perf_counter()
    yield taken
    wait()
    taken.append(time.perf_counter() - begin)


def median_seconds(device: str, run: Callable[[], Any], repeats: int = 5) -> float:
    """Median seconds of a call, after one that is not counted."""
    run()
    found = []
    for _ in range(repeats):
        with clock(device) as taken:
            run()
        found += taken
    return statistics.median(found)


# The networks of the papers: widths, batch, loss and training images.
SHAPES: dict[str, tuple[tuple[int, ...], int, str, int]] = {
    "784-200-200-10, batch 200": ((784, 200, 200, 10), 200, "cross_entropy", 1000),
    "784-196-196-196-10, batch 256": ((784, 196, 196, 196, 10), 256, "mse", 1024),
    "784-128-512-128-47, batch 128": ((784, 128, 512, 128, 47), 128, "cross_entropy", 2048),
}


def pixels(features: int, classes: int, examples: int) -> Dataset:
    """Made-up examples of the size of the real ones: time does not depend on their values."""
    x = normal(examples, features, dtype=torch.float32)
    y = torch.arange(examples) % classes
    return Dataset("made up", x, y, x[:64], y[:64], num_classes=classes)


def step_seconds(
    device: str, shape: str, seeds: int, compile: bool, method: str = "plain", long: int = 1500
) -> dict[str, float]:
    """Seconds of a step of ``seeds`` networks as one, and of what comes before the steps."""
    widths, batch, loss, examples = SHAPES[shape]
    data = pixels(widths[0], widths[-1], examples)

    def run(steps: int) -> float:
        with clock(device) as taken:
            gs.fit_seeds(
                lambda seed: gs.MLP(widths[0], widths[1:-1], widths[-1], seed=seed),
                data,
                range(seeds),
                methods=lambda seed: METHODS[method](),
                vectorize=True if seeds > 1 else "auto",
                device=device,
                loss=loss,
                batch_size=batch,
                max_steps=steps,
                evaluate=[steps],
                compile=compile,
            )
        return taken[0]

    short = long // 5
    run(short // 5)
    first, second = run(short), run(long)
    per_step = (second - first) / (long - short)
    return {"step": per_step, "before": max(first - short * per_step, 0.0)}


def hand_written(device: str, shape: str, graphed: bool, steps: int = 1500) -> dict[str, float]:
    """Seconds of a step of the loop that one would write by hand."""
    widths, batch, loss, examples = SHAPES[shape]
    data = pixels(widths[0], widths[-1], examples).to(torch.device(device), torch.float32)
    model = gs.MLP(widths[0], widths[1:-1], widths[-1], seed=0).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True, capturable=graphed)
    y = F.one_hot(data.train_y, widths[-1]).float() if loss == "mse" else data.train_y
    index = torch.zeros(batch, dtype=torch.long, device=device)
    order = torch.randperm(examples, device=device)

    def step() -> None:
        outputs = model(data.train_x.index_select(0, index))
        target = y.index_select(0, index)
        (F.mse_loss if loss == "mse" else F.cross_entropy)(outputs, target).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=not graphed)

    take = step
    if graphed:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        take = graph.replay
    batches = order.split(batch)

    def loop() -> None:
        for at in range(steps):
            part = batches[at % (examples // batch)]
            index.copy_(part)
            take()

    return {"step": median_seconds(device, loop, repeats=2) / steps}


def speed(device: str) -> Iterator[tuple[str, Any]]:
    """The timings by name."""
    for shape in SHAPES:
        own: dict[str, Any] = {}
        for compile in (False, True):
            kind = "graphed" if compile else "eager"
            for seeds in (1, 10):
                own[f"{kind}, {seeds} seed(s)"] = attempt(
                    step_seconds, device, shape, seeds, compile
                )
            if device == "cuda" or not compile:
                own[f"{kind}, by hand"] = attempt(hand_written, device, shape, compile)
            own[f"{kind}, grokalign"] = attempt(
                step_seconds, device, shape, 1, compile, "grokalign"
            )
        yield shape, own
    yield "ntk", {name: attempt(run) for name, run in kernels(device).items()}


def kernels(device: str) -> dict[str, Callable[[], dict[str, Any]]]:
    """Seconds and peak memory of kernels."""
    cases: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
        "mlp 784-200-200-10, n = 256, full": (
            lambda: gs.MLP(784, [200, 200], 10, seed=0), (256, 784), "full"),
        "mlp 784-128-512-128-47, n = 256, full": (
            lambda: gs.MLP(784, [128, 512, 128], 47, seed=0), (256, 784), "full"),
        "cnn, n = 64, trace": (
            lambda: nn.Sequential(
                nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1),
                nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64 * 256, 10)),
            (64, 3, 32, 32), "trace"),
    }  # fmt: skip

    def timed(
        build: Callable[[], nn.Module], shape: tuple[int, ...], reduce: Any
    ) -> dict[str, Any]:
        model, x = build().to(device), normal(*shape, dtype=torch.float32).to(device)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = median_seconds(device, lambda: gs.empirical_ntk(model, x, reduce=reduce), 3)
        peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None
        return {"seconds": seconds, "peak_gib": peak}

    return {name: partial(timed, *case) for name, case in cases.items()}


def main() -> None:
    """Run the checks and the timings; every result is written as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--only", choices=["correct", "speed"])
    options = parser.parse_args()
    torch.set_num_threads(4)
    torch.backends.cuda.matmul.allow_tf32 = False
    found: dict[str, Any] = {"environment": environment(options.device, [])}
    if options.device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    begin = time.perf_counter()
    for section, run in (("correct", correctness), ("speed", speed)):
        if options.only in (None, section):
            found[section] = {}
            for name, result in run(options.device):
                found[section][name] = result
                print(f"{time.perf_counter() - begin:6.1f} s  {name}: {json.dumps(result)}")
                options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
