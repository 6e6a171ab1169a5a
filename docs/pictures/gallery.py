"""The pictures of the gallery, one for each figure of both papers, from ``docs/results/*.json``.

Nothing is trained: each picture is of what the recorded run measured, so that it goes with the
verdicts beside it. The figures that are pictures of inputs (GrokAlign, Figures 1, 5 and 6) and
Table 1 have pictures of their own, made where their runs are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from drawing import STYLES, Curve, lines, recorded, save, sheet

from grokscope.experiments.catalogue import raw_experiment, shipped

DOCS = Path(__file__).parents[1]
FIGURES = DOCS / "images/figures"
NOISE = ("0.2", "0.6", "1")
NORM = "Jacobian norm"
Rows = Sequence[Mapping[str, Any]]


def panels(count: int = 3) -> tuple[Any, Any]:
    """A figure of the width of a page with panels side by side."""
    return sheet(1, count, (7.6, 2.7), squeeze=False)


def draw(name: str, plots: Mapping[str, Mapping[str, Curve]], shaded: Any = None) -> None:
    """One panel for each title, with the curves over training that it names.

    Args:
        name: paper and figure, as in ``grokalign-fig2``.
        plots: title -> label -> (steps, values); the legend of all panels stands below.
        shaded: the first and last step of a span that every panel shades.
    """
    figure, (places,) = panels(len(plots))
    for axes, (title, curves) in zip(places, plots.items(), strict=True):
        lines(axes, curves)
        axes.set_title(title, fontsize=8.5)
        axes.set_xlabel("training step")
        if title == NORM:  # over training it falls by orders of magnitude
            axes.set_yscale("log")
        if shaded:
            axes.axvspan(*shaded, color="0.9", zorder=0)
    _legend(figure, places)
    save(figure, FIGURES / f"{name}.png")


def _legend(figure: Any, places: Sequence[Any]) -> None:
    """One legend below all panels, which share their conditions."""
    shown = {}
    for axes in places:
        shown.update(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    columns = 4 if sum(map(len, shown)) < 110 else 3
    figure.legend(
        shown.values(), shown, loc="outside lower center", ncols=columns, frameon=False, fontsize=8
    )


def _columns(arms: Mapping[str, Any], metric: str) -> dict[str, Curve]:
    """A metric of every condition, from a record of columns."""
    return {arm["title"]: (arm["step"], arm[metric]) for arm in arms.values() if arm.get(metric)}


def _rows(rows: Rows, metric: str) -> Curve:
    """A metric where it was measured, from a record of rows."""
    known = [row for row in rows if row.get(metric) is not None]
    return [row["step"] for row in known], [row[metric] for row in known]


def _arms(record: Any, metric: str, names: Sequence[str] = ()) -> dict[str, Curve]:
    """A metric of every condition in which it was measured, from a record of rows."""
    found = {
        arm["title"]: _rows(arm["evaluations"], metric)
        for name, arm in record["arms"].items()
        if not names or name in names
    }
    return {title: curve for title, curve in found.items() if curve[0]}


def _arms_of(record: Any) -> dict[str, Any]:
    """The conditions of a recorded run under the titles that its experiment gives them today."""
    known = record["experiment"] in shipped()
    now = raw_experiment(record["experiment"], record["preset"], (), None)["arms"] if known else {}
    return {
        name: arm | {"title": (now.get(name) or {}).get("title", arm["title"])}
        for name, arm in record["arms"].items()
    }


# figure -> the recorded run, and its metrics under their titles
CURVES: dict[str, tuple[str, dict[str, str]]] = {
    "fig2": (
        "fig2-paper",
        {
            "jacobian_pc1": "PC1 of the Jacobians",
            "test_accuracy": "test accuracy",
            "row_alignment": "row alignment: max |cos(row, x)|",
        },
    ),
    "fig7": (
        "fig7-published",
        {
            "test_accuracy": "test accuracy",
            "jacobian_norm": NORM,
            "centroid_alignment": "cosine of image and centroid",
        },
    ),
    **{
        figure: (
            f"{figure}-paper",
            {
                "unseen_accuracy": "accuracy on pairs unseen in either order",
                "jacobian_norm": NORM,
                f"{part}_gini": f"Gini, {part.replace('_', '-')}",
            },
        )
        for figure, part in (("fig8", "embedding"), ("fig9", "neuron_logit"))
    },
}


def _curves() -> None:
    record = recorded("grokalign-figures")
    for figure, (run, titles) in CURVES.items():
        arms = _arms_of(record[run])
        draw(
            f"grokalign-{figure}",
            {title: _columns(arms, metric) for metric, title in titles.items()},
        )


def _feature_learning() -> None:
    run = recorded("feature-learning")["experiments"]["mnist-feature-learning"]
    titles = {
        "point_ntk": "mean kernel value of an image",
        "point_inner_product": "inner product, image and centroid",
        "point_alignment": "cosine of image and centroid",
    }
    arms = {name.replace("-", " "): arm for name, arm in run["trajectories"].items()}
    plots = {
        title: {name: (arm["step"], arm[metric]) for name, arm in arms.items()}
        for metric, title in titles.items()
        if all(metric in arm for arm in arms.values())
    }
    # the kernel of three layers is many times that of two: each relative to its first value
    plots["mean kernel value, relative to step 0"] = {
        name: (steps, [value / values[0] for value in values])
        for name, (steps, values) in plots.pop(titles["point_ntk"]).items()
    }
    spans = list(run["spans"].values())
    shaded = (max(span["start"] for span in spans), min(span["end"] for span in spans))
    draw("grokalign-fig3", dict(reversed(plots.items())), shaded)


def _xor() -> None:
    arms = _arms_of(recorded("grokalign-figures")["fig4-paper"])
    noisy = {
        f"accuracy, noise {deviation}": _columns(arms, f"noise_accuracy/{deviation}")
        for deviation in NOISE[:2]
    }
    aligned = {"row alignment: max |cos(row, x)|": _columns(arms, "row_alignment")}
    draw("grokalign-fig4", {**noisy, **aligned})


def _cifar() -> None:
    arms = _arms_of(recorded("cifar")["paper"])
    titles = {
        "robust_accuracy": "accuracy under attack",
        "jacobian_pc1": "PC1 of the Jacobians",
        "centroid_alignment": "cosine of image and centroid",
    }
    draw("grokalign-fig5", {title: _columns(arms, name) for name, title in titles.items()})


def _lazy_or_rich() -> None:
    points = recorded("feature-learning")["experiments"]["mnist-lazy-or-rich"]["points"]
    figure, (places,) = panels(2)
    for kind, style in zip(("weights", "outputs"), STYLES, strict=False):
        own = sorted((p for p in points if p["scaled"] == kind), key=lambda p: p["scale"])
        for axes, x, y in (
            (places[0], "reciprocal_norm", "rate"),
            (places[1], "scale", "max_alignment"),
        ):
            pairs = sorted((p[x], p[y]) for p in own)
            axes.plot(*zip(*pairs, strict=True), label=f"scaled {kind}", markersize=4, **style)
    places[0].set(
        xscale="log",
        yscale="log",
        xlabel="reciprocal norm of the centroid at initialization",
        title="initial rate of the inner product",
    )
    places[1].set(xscale="log", xlabel="scale", title="largest cosine of image and centroid")
    for axes in places:
        axes.grid(alpha=0.25)
    _legend(figure, places)
    save(figure, FIGURES / "grokalign-fig10.png")


def _regions() -> None:
    arms = recorded("regions")["mnist-regions-slices"]["trajectory"]
    titles = {
        "norm": "operator norm around training points",
        "norm_spread": "its standard deviation",
        "local_complexity": "regions within distance 1",
    }
    plots = {
        title: {name.replace("-", " "): _rows(rows, metric) for name, rows in arms.items()}
        for metric, title in titles.items()
    }
    draw("grokalign-fig11", plots)


def _cosines() -> None:
    """The mean largest and smallest cosine of each condition, a point for each seed."""
    record = recorded("table2")
    figure, axes = sheet(1, 1, (7.6, 2.7))
    for place, row in enumerate(record["table"]):
        seeds = record["by_seed"][row["arm"]]
        style = STYLES[1 if "grokalign" in row["arm"] else 2 if "adv" in row["arm"] else 0]
        low, high = mean(seeds["min"]), mean(seeds["max"])
        axes.plot([low, high], [place, place], color=style["color"], linewidth=2)
        for part in ("min", "max"):
            spots = [place] * len(seeds[part])
            axes.plot(seeds[part], spots, "o", color=style["color"], alpha=0.6, markersize=4)
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.set_yticks(range(len(record["table"])), [row["title"] for row in record["table"]])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.25)
    axes.set_title(
        "smallest and largest cosine of a Jacobian row with its input, three seeds", fontsize=8.5
    )
    save(figure, FIGURES / "grokalign-table2.png")


def draw_grokalign() -> None:
    """The figures of the first paper that are curves or points."""
    for picture in (
        _curves,
        _feature_learning,
        _xor,
        _cifar,
        _lazy_or_rich,
        _regions,
        _cosines,
    ):
        picture()


def _kernel_places() -> None:
    """Kernel distances at the images that Figure A6 compares."""
    record = recorded("rich-mnist")
    words = {
        "train-256": "256 training images",
        "train-512": "512 training images",
        "test-256": "256 test images",
    }
    arms = {"outputs-half": "output scale 0.5", "outputs-thousandth": "output scale 0.001"}
    draw(
        "rich-regime-figA6",
        {
            f"kernel distance, {title}": {
                words[points]: (found[arm]["steps"], found[arm]["distance"])
                for points, found in record["kernel_points"].items()
            }
            for arm, title in arms.items()
        },
    )


def _mnist() -> None:
    record = recorded("rich-mnist")
    accuracy, kernel = "test_accuracy", "ntk_distance_init"
    scores = {accuracy: "test accuracy", kernel: "kernel distance from step 0"}
    capacity = {"test_capacity/linear3": "capacity of the output"}
    norms = {"weight_norm": "norm of all weights", "last_layer_norm": "norm of the last layer"}
    figures: dict[str, tuple[Sequence[str], Mapping[str, str]]] = {
        "fig1": (("outputs-half", "outputs-thousandth"), scores | capacity),
        "figA7": (("weights-8", "weights-2"), scores | capacity),
        "figA8": (("weights-8", "weights-2"), {accuracy: "test accuracy"} | norms),
        "figA9": (("outputs-half", "outputs-thousandth"), {accuracy: "test accuracy"} | norms),
    }
    for figure, (names, titles) in figures.items():
        draw(
            f"rich-regime-{figure}",
            {title: _arms(record, metric, names) for metric, title in titles.items()},
        )


def _geometry(record: Any, arm: str) -> dict[str, dict[str, Curve]]:
    """Accuracy with the kernel's distance, and three layers on test images."""
    rows = record["arms"][arm]["evaluations"]
    scores = {
        "train accuracy": _rows(rows, "train_accuracy"),
        "test accuracy": _rows(rows, "test_accuracy"),
        "kernel distance": _rows(rows, "ntk_distance_init"),
    }
    plots = {"accuracy, kernel distance": scores}
    for what in ("capacity", "radius", "dimension"):
        plots[what] = {
            layer: _rows(rows, f"test_{what}/{layer}")
            for layer in ("linear2", "activation3", "linear4")
        }
    return plots


def _adam() -> None:
    """Adam with an L2 penalty on MNIST, for the page of results."""
    arms = recorded("rich-regime")["experiments"]["rich-mnist-adam (quick)"]["arms"]
    titles = {
        "test_accuracy": "test accuracy",
        "weight_norm": "norm of all weights",
        "test_capacity_linear3": "capacity of the output",
        "ntk_distance_init": "kernel distance from step 0",
    }
    names = {"weights-8": "Initialization scale 8", "weights-2": "Initialization scale 2"}
    plots = {
        title: {name: _rows(arms[arm]["looks"], metric) for arm, name in names.items()}
        for metric, title in titles.items()
    }
    draw("rich-mnist-adam", plots)


def _emnist() -> None:
    record = recorded("rich-emnist")
    draw("rich-regime-fig2", _geometry(record, "images-1000"))
    titles = {
        "test_accuracy": "test accuracy",
        "ntk_distance_init": "kernel distance from step 0",
        "test_capacity/linear4": "capacity of the output",
    }
    both_scales = ["outputs-half", "outputs-thousandth"]
    draw(
        "rich-regime-fig3",
        {title: _arms(record, metric, both_scales) for metric, title in titles.items()},
    )
    draw("rich-regime-figA5", _geometry(record, "weights-1"))
    rows = record["arms"]["images-1000"]["evaluations"]
    both = {
        f"{what} of the output": {
            "test images": _rows(rows, f"test_{what}/linear4"),
            "training images": _rows(rows, f"{what}/linear4"),
        }
        for what in ("capacity", "radius", "dimension")
    }
    draw("rich-regime-figA14", both)
    _probes(record)
    _scatter("rich-regime-figA10", record, ["outputs-half"])
    _scatter("rich-regime-figA13", record, ["images-1000"])
    _scatter("rich-regime-figA15", record, list(record["arms"]))
    _onsets("rich-regime-table1", record)


def _probes(record: Any) -> None:
    """Accuracy on MNIST of probes of two layers of networks that learned EMNIST."""
    layers = {"linear4": "output", "activation3": "second-to-last layer"}
    probes = {"sgd": "SGD probe", "ridge": "ridge probe"}
    scales = {"outputs-half": "output scale 0.5", "outputs-thousandth": "output scale 0.001"}
    draw(
        "rich-regime-fig4",
        {
            f"probe accuracy on MNIST, {layer}": {
                f"{scale}, {probe}": (found["steps"], found["upright"])
                for arm, scale in scales.items()
                for kind, probe in probes.items()
                for found in [record["shift"][f"{name}_{kind}"][arm]]
            }
            for name, layer in layers.items()
        },
    )


def _scatter(name: str, record: Any, names: Sequence[str]) -> None:
    """Test accuracy against capacity of the output and against kernel distance."""
    figure, (places,) = panels(2)
    metrics = ("test_capacity/linear4", "ntk_distance_init")
    titles = ("capacity of the output", "kernel distance from step 0")
    for axes, metric, title in zip(places, metrics, titles, strict=True):
        for arm, style in zip(names, STYLES, strict=False):
            rows = [row for row in record["arms"][arm]["evaluations"] if metric in row]
            points = [(row[metric], row["test_accuracy"]) for row in rows]
            if points:
                look = {"color": style["color"], "marker": style["marker"], "markersize": 4}
                label = record["arms"][arm]["title"]
                axes.plot(*zip(*points, strict=True), linestyle="", label=label, **look)
        axes.set(xlabel=title, ylabel="test accuracy")
        axes.grid(alpha=0.25)
    _legend(figure, places)
    save(figure, FIGURES / f"{name}.png")


def _onsets(name: str, record: Any) -> None:
    """When each setting fits its training images, and its onset from start to end."""
    figure, axes = sheet(1, 1, (7.6, 1.3 + 0.2 * len(record["arms"])))
    labels = {}
    for place, arm in enumerate(record["arms"].values()):
        end = arm["steps_run"] if arm["end"] is None else arm["end"]
        labels["fits 99 % of the training images"] = axes.plot(
            arm["memorized"], place, "s", color=STYLES[0]["color"]
        )[0]
        if arm["start"] is not None:
            labels["onset of generalization, from start to end"] = axes.plot(
                [arm["start"], end], [place, place], color=STYLES[1]["color"], linewidth=5
            )[0]
        axes.text(end * 1.3, place, arm["state"], va="center", color="0.35")
    titles = [arm["title"] for arm in record["arms"].values()]
    axes.set_yticks(range(len(titles)), titles)
    axes.set_ylim(len(titles) - 0.4, -0.6)
    axes.set(xscale="log", xlabel="training step")
    axes.set_xlim(100, 1e7)
    axes.grid(axis="x", alpha=0.25)
    figure.legend(
        labels.values(), labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8
    )
    save(figure, FIGURES / f"{name}.png")


def _seeds(record: Any) -> None:
    """Performance and geometry of one setting, a line for each seed."""
    titles = {
        "test_accuracy": "test accuracy",
        "ntk_distance_init": "kernel distance",
        "test_capacity/linear4": "output capacity",
        "test_radius/linear4": "output radius",
        "test_dimension/linear4": "output dimension",
    }
    plots = {
        title: {
            key.partition(", ")[2]: _rows(arm["evaluations"], metric)
            for key, arm in record["arms"].items()
        }
        for metric, title in titles.items()
    }
    draw("rich-regime-figA11", plots)


def draw_rich_regime() -> None:
    """The figures of the second paper."""
    _mnist()
    _kernel_places()
    _adam()
    _emnist()
    _seeds(recorded("rich-emnist-seeds"))
    record = recorded("rich-emnist-adam")
    titles = {
        "test_accuracy": "test accuracy",
        "test_loss": "test loss",
        "ntk_distance_init": "kernel distance from step 0",
    }
    plots = {title: _arms(record, metric) for metric, title in titles.items()}
    draw("rich-regime-figA12", plots)


PARTS: Sequence[Callable[[], None]] = (draw_grokalign, draw_rich_regime)


def draw_gallery(wanted: set[str]) -> dict[str, Any]:
    """All pictures of the gallery that come of recorded numbers alone."""
    FIGURES.mkdir(exist_ok=True)
    for part in PARTS:
        part()
    return {}
