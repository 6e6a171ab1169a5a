"""Draw the pictures of cards, README, gallery and Table 1: ``make pictures``, some minutes.

Trains the networks of ``training.py``, takes every measure on copies of them, draws what it finds
into ``docs/images`` and keeps the numbers in ``docs/measures/values.json`` and
``docs/methods/values.json``. Names given on the command line draw these cards alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from drawing import Curve, over_training, photograph, save, start
from gallery import draw_gallery
from recorded import draw_table1
from values import DIGITS

import grokscope as gs
from training import (
    Trajectory,
    digits,
    digits_network,
    digits_trajectory,
    modular_data,
    modular_trajectory,
)

DOCS = Path(__file__).parents[1]
MEASURES, METHODS = DOCS / "images/measures", DOCS / "images/methods"
BASELINE, OURS = "weight decay alone", "GrokAlign"

# what is trained for the card of each method, beside weight decay alone: its name, its settings
COMPARED: dict[str, tuple[str, dict[str, Any]]] = {
    "grokalign": (OURS, {"methods": [gs.GrokAlign(1e-3)]}),
    "grokfast": ("Grokfast", {"methods": [gs.Grokfast(alpha=0.98, strength=5.0)]}),
    "orthograd": (
        "OrthoGrad with StableMax",
        {"methods": [gs.OrthoGrad()], "loss": "stablemax"},
    ),
    "adversarial": (
        "adversarial training",
        {"methods": [gs.AdversarialTraining(eps=0.03, attack="fgsm")]},
    ),
    "baselines": (
        "noise and smoothing",
        {"methods": [gs.GradientNoise(variance=0.01)], "label_smoothing": 0.1},
    ),
}


def draw_measures(wanted: set[str]) -> dict[str, Any]:
    """The pictures of measures on the digits, and their numbers."""
    data = digits()
    penalty = gs.GrokAlign(1e-3)
    runs = {BASELINE: digits_trajectory(None, 12_000)}
    if not wanted or wanted - {"onset", "regions", "embedding-2d"}:
        runs[OURS] = digits_trajectory(penalty, 12_000)
    accuracy: dict[str, Curve] = {
        name: (run.steps, run.test_accuracy) for name, run in runs.items()
    }
    numbers: dict[str, Any] = {"steps": runs[BASELINE].steps, "test_accuracy": _values(accuracy)}
    path = DOCS / "measures/values.json"
    for card, (title, value) in DIGITS.items():
        if wanted and card not in wanted:
            continue
        curves = {
            name: (run.steps, [value(model, data) for model in run.networks])
            for name, run in runs.items()
        }
        over_training(MEASURES / f"{card}.png", title, accuracy, curves)
        numbers[card] = {"value": title, **_values(curves)}
        _merge(path, numbers)
    for card, draw in {"kernel-distance": _kernels, "ntk-velocity": _velocity}.items():
        if not wanted or card in wanted:
            numbers[card] = draw(card, runs, accuracy)
    for card, picture in {"onset": _onset, "regions": _slices, "embedding-2d": _embedding}.items():
        if not wanted or card in wanted:
            numbers[card] = picture(card, runs[BASELINE])
    if not wanted or "simulated-capacity" in wanted:
        numbers["simulated-capacity"] = _simulated(runs[OURS])
    return numbers


def _values(curves: dict[str, Curve]) -> dict[str, list[float]]:
    return {name: [float(f"{v:.4g}") for v in values] for name, (_, values) in curves.items()}


def _kernels(card: str, runs: dict[str, Trajectory], accuracy: dict[str, Curve]) -> Any:
    curves: dict[str, Curve] = {}
    for name, run in runs.items():
        x = digits().train_x[:64]
        kernels = [gs.empirical_ntk(model, x) for model in run.networks]
        curves[name] = (run.steps, [float(gs.kernel_distance(kernels[0], k)) for k in kernels])
    over_training(MEASURES / f"{card}.png", "distance from step 0", accuracy, curves)
    return _values(curves)


def _velocity(card: str, runs: dict[str, Trajectory], accuracy: dict[str, Curve]) -> Any:
    curves: dict[str, Curve] = {}
    for name, run in runs.items():
        x = digits().train_x[:64]
        kernels = [gs.empirical_ntk(model, x) for model in run.networks]
        velocity = gs.ntk_velocity(kernels, run.steps) * 1000
        curves[name] = (run.steps[1:], velocity.tolist())
    over_training(MEASURES / f"{card}.png", "distance in 1,000 steps", accuracy, curves)
    return _values(curves)


def _onset(card: str, run: Trajectory) -> Any:
    columns = {
        "step": run.steps,
        "train_accuracy": run.train_accuracy,
        "test_accuracy": run.test_accuracy,
    }
    found = gs.onset(columns)
    figure, axes = start(rows=1)
    for name, style in (("train_accuracy", "--"), ("test_accuracy", "-")):
        axes.plot([max(s, 0.5) for s in run.steps], columns[name], style, label=name)
    axes.axvline(found.memorized, color="0.6", linestyle=":")
    axes.axvspan(found.start, found.end or run.steps[-1], alpha=0.15)
    axes.axvline(found.middle, color="#c4501b")
    axes.set(xscale="log", xlabel="training step")
    axes.set_title(str(found), fontsize=8)
    axes.legend(frameon=False)
    save(figure, MEASURES / f"{card}.png")
    return {"found": str(found)}


def _slices(card: str, run: Trajectory) -> Any:
    from grokscope.report.regions_plot import plot_regions

    data = digits()
    plane = gs.Slice.through(*data.train_x[:3], half_width=4.0)
    figure, plots = start(rows=1, columns=3)
    chosen = [0, len(run.steps) // 2, len(run.steps) - 1]
    counts = {}
    for axes, index in zip(plots, chosen, strict=True):
        regions = gs.linear_regions(run.networks[index], plane)
        plot_regions(regions, axes, color="class", points=plane.coordinates(data.train_x[:3]))
        axes.set_title(f"step {run.steps[index]:,}: {len(regions):,} cells", fontsize=8)
        axes.set(xlabel="", ylabel="")
        counts[run.steps[index]] = len(regions)
    save(figure, MEASURES / f"{card}.png")
    return counts


def _embedding(card: str, run: Trajectory) -> Any:
    data = digits()
    x, y = data.test_x[:400], data.test_y[:400]
    figure, plots = start(rows=1, columns=2)
    for axes, index in zip(plots, (0, -1), strict=True):
        features = gs.layer_activations(run.networks[index], x)["activation2"]
        points = gs.embedding_2d(features)
        axes.scatter(*points.T, c=y, cmap="tab10", s=6)
        axes.set(xticks=[], yticks=[], title=f"step {run.steps[index]:,}")
    save(figure, MEASURES / f"{card}.png")
    return {"steps": [run.steps[0], run.steps[-1]]}


def _simulated(run: Trajectory) -> Any:
    data = digits()
    theory, experiment = [], []
    chosen = list(range(0, len(run.steps), 6))
    for index in chosen:
        features = gs.layer_activations(run.networks[index], data.test_x[:500])["activation2"]
        clouds = gs.class_manifolds(features, data.test_y[:500], num_points=10)
        theory.append(float(gs.manifold_geometry(clouds, correlations="keep").mean_capacity))
        found = gs.simulated_capacity(clouds, num_trials=20, progress=False)
        experiment.append(float(found.capacity))
    steps = [run.steps[index] for index in chosen]
    curves = {"by theory": (steps, theory), "by experiment": (steps, experiment)}
    accuracy = {OURS: (run.steps, run.test_accuracy)}
    over_training(MEASURES / "simulated-capacity.png", "capacity", accuracy, curves)
    return _values(curves)


def draw_modular(wanted: set[str]) -> dict[str, Any]:
    """The pictures of the Fourier and progress measures, on modular addition."""
    run, data = modular_trajectory(6000), modular_data()
    x = torch.cat([data.train_x, data.test_x])
    y = torch.cat([data.train_y, data.test_y])
    train = torch.arange(len(x)) < len(data.train_x)
    weights = [model.residue_weights() for model in run.networks]
    keys = gs.key_frequencies(weights[-1]["neuron_logit"], 41)
    accuracy: dict[str, Curve] = {
        "test pairs": (run.steps, run.test_accuracy),
        "training pairs": (run.steps, run.train_accuracy),
    }
    gini = {
        part: (run.steps, [float(gs.fourier_gini(w[part], 41)) for w in weights])
        for part in ("embedding", "unembedding", "neuron_logit")
    }
    over_training(MEASURES / "fourier-gini.png", "Gini coefficient", accuracy, gini, "accuracy")
    with torch.no_grad():
        found = [gs.progress_measures(model(x), y, train, keys) for model in run.networks]
    losses: dict[str, Curve] = {
        "restricted loss": (run.steps, [float(f.restricted_loss) for f in found]),
        "excluded loss": (run.steps, [float(f.excluded_loss) for f in found]),
        "logit share": (run.steps, [float(f.logit_share) for f in found]),
    }
    over_training(MEASURES / "progress-measures.png", "value", accuracy, losses, "accuracy")
    spectra = torch.stack([gs.fourier_spectrum(w["embedding"], 41) for w in weights])
    figure, axes = start(rows=1)
    share = spectra / spectra.sum(1, keepdim=True)
    axes.pcolormesh(run.steps[1:], range(spectra.shape[1]), share[1:].T, cmap="viridis")
    axes.set(xscale="log", xlabel="training step", ylabel="frequency of the embedding")
    save(figure, MEASURES / "fourier-spectrum.png")
    shown = {"key_frequencies": keys, "steps": run.steps}
    return {"modular": {**shown, "fourier-gini": _values(gini), "progress": _values(losses)}}


def draw_methods(wanted: set[str]) -> dict[str, Any]:
    """The pictures of methods: test accuracy with and without, on the digits."""
    shared = {"lr": 1e-3, "weight_decay": 0.01, "batch_size": 200, "max_steps": 12_000}
    numbers = {}
    baseline = gs.fit(digits_network(), digits(), device="cpu", **shared).history
    for card, (name, settings) in COMPARED.items():
        if wanted and card not in wanted:
            continue
        ours = gs.fit(digits_network(), digits(), device="cpu", **shared, **settings).history
        curves: dict[str, Curve] = {
            BASELINE: (baseline.steps, baseline["test_accuracy"]),
            name: (ours.steps, ours["test_accuracy"]),
        }
        train: dict[str, Curve] = {
            BASELINE: (baseline.steps, baseline["train_accuracy"]),
            name: (ours.steps, ours["train_accuracy"]),
        }
        over_training(METHODS / f"{card}.png", "test accuracy", train, curves, "training\naccuracy")
        reached = {
            label: next((int(s) for s, v in zip(*c, strict=True) if v >= 0.9), None)
            for label, c in curves.items()
        }
        numbers[card] = {"steps to 90 % test accuracy": reached, **_last(curves)}
        _merge(DOCS / "methods/values.json", numbers)
    return numbers


def draw_readme(wanted: set[str]) -> dict[str, Any]:
    """The picture of the README, by its own lines."""
    readme = (DOCS.parent / "README.md").read_text("utf-8")
    block = next(part for part in readme.split("```python")[1:] if "history.plot" in part)
    lines = [line[4:] for line in block.splitlines() if line.startswith((">>>", "..."))]
    names: dict[str, Any] = {}
    exec("\n".join(lines), names)
    names["figure"].set_size_inches(6.4, 3.0)
    save(names["figure"], DOCS / "images/readme.png")
    return {}


def draw_report(wanted: set[str]) -> dict[str, Any]:
    """The picture of the report of the main job, by a headless Chromium."""
    with TemporaryDirectory() as folder:
        run = [sys.executable, "-m", "grokscope", "run", "digits-grokking", "--out", folder]
        subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
        photograph(Path(folder) / "report.html", DOCS / "images/report.png")
    return {}


def _last(curves: dict[str, Curve]) -> dict[str, Any]:
    return {"test accuracy at the end": {k: round(float(v[-1]), 4) for k, (_, v) in curves.items()}}


def _merge(path: Path, numbers: dict[str, Any]) -> None:
    known = json.loads(path.read_text("utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**known, **numbers}, indent=1) + "\n", encoding="utf-8")


def main(wanted: set[str]) -> None:
    """Draw all pictures, or those of the cards that are named."""
    torch.set_num_threads(1)
    parts = {"measures": draw_measures, "modular": draw_modular, "methods": draw_methods}
    parts |= {"readme": draw_readme, "report": draw_report}
    parts |= {"table1": draw_table1, "gallery": draw_gallery}
    asked = [name for name in parts if name in wanted] or list(parts)
    for name in asked:
        numbers = parts[name](wanted - set(parts))
        folder = "methods" if name == "methods" else "measures"
        if numbers:
            _merge(DOCS / folder / "values.json", numbers)


if __name__ == "__main__":
    main(set(sys.argv[1:]))
