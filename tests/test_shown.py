"""What results show of themselves, in a terminal and in a notebook."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from torch import nn

import grokscope as gs
from grokscope.findings import Claim, Interval, SeedValues, Verdict
from grokscope.shown import shown, value_text
from tests.test_bad_inputs import CALLS, NOT_BUILT


def numbers(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


def clouds() -> list[torch.Tensor]:
    return [numbers(5, 6) + 3 * i * torch.eye(6)[i] for i in range(3)]


def network() -> nn.Module:
    return gs.MLP(4, [5], 3, seed=0)


def regions() -> gs.LinearRegions:
    return gs.linear_regions(network(), gs.Slice(torch.zeros(4), torch.eye(4)[:2]))


def history() -> gs.History:
    rows = [{"step": 2**i, "train_accuracy": 1.0, "test_accuracy": i / 9} for i in range(9)]
    return gs.History(rows)


def monitor() -> gs.Monitor:
    watch = gs.Monitor(network(), probe=(numbers(6, 4), torch.arange(6) % 3))
    watch.step(0)
    return watch


def fitted() -> gs.FitResult:
    x, y = numbers(6, 4), torch.arange(6) % 3
    return gs.fit(network(), (x, y, x, y), max_steps=1, device="cpu")


def run(folder: Path) -> gs.Run:
    x, y = numbers(6, 4), torch.arange(6) % 3
    gs.fit(network(), (x, y, x, y), max_steps=1, device="cpu", out=folder / "run")
    return gs.Run(folder / "run")


def opened(folder: Path) -> gs.RunDirectory:
    spec = {"name": "x", "title": "x", "seeds": [0], "arms": {"run": {"title": "x"}}}
    with gs.RunDirectory.create(folder / "closed", spec, "cpu", [0]) as directory:
        return directory


def verdict() -> Verdict:
    speed = {"kind": "speed_up", "arm": "fast", "target": 0.9}
    claim = Claim.model_validate({"says": "it is faster", "quantity": speed, "at_least": 2})
    return Verdict(claim, "held", SeedValues.exact([3.0]))


def probe() -> gs.ProbeResult:
    return gs.linear_probe(numbers(6, 4), torch.arange(6) % 3, numbers(5, 4), torch.arange(5) % 3)


def progress() -> gs.ProgressMeasures:
    results = torch.arange(7).repeat(7)
    return gs.progress_measures(numbers(49, 7), results, results < 3, [1, 3])


# Each with words that it shows.
TABLE: dict[str, tuple[Callable[..., Any], list[str]]] = {
    "CenterStructure": (
        lambda: gs.center_structure(torch.stack([c.mean(0) for c in clouds()])),
        ["num_components", "residual_correlations"],
    ),
    "Dataset": (lambda: gs.load_data("digits", train_size=50), ["50 train", "(64,)", "10 classes"]),
    "DecisionBoundary": (lambda: regions().decision_boundary(), ["segments"]),
    "FitResult": (fitted, ["MLP", "max_steps", "History(rows 2"]),
    "GlueGeometry": (lambda: gs.glue_geometry(clouds(), num_samples=4), ["capacity", "utility"]),
    "GrokAlign": (lambda: gs.GrokAlign(0.1), ["weight=0.1", "mode='minimize'"]),
    "History": (history, ["rows", "1 to 256", "test_accuracy"]),
    "Interval": (lambda: Interval(0.5, 20_000), ["low=0.5", "high=20000"]),
    "JacobianGeometry": (
        lambda: gs.jacobian_geometry(network(), numbers(6, 4)),
        ["norm", "(6,) mean ", "centroid_alignment"],
    ),
    "LinearProbe": (lambda: probe().probe, ["train_accuracy", "(3, 4) mean"]),
    "LinearRegions": (regions, ["activation cells"]),
    "ManifoldGeometry": (
        lambda: gs.manifold_geometry(clouds(), num_samples=4),
        ["mean_capacity", "radius", "(3,) mean"],
    ),
    "MergedRegions": (lambda: regions().merged(), ["areas"]),
    "Monitor": (monitor, ["MLP", "probe examples", "fitting"]),
    "NTKPlan": (lambda: gs.ntk_plan(network(), numbers(6, 4)), ["4 structured", "outputs"]),
    "NonnegativeSolution": (
        lambda: gs.nonnegative_least_squares(numbers(4, 5), numbers(3, 4)),
        ["residual", "num_rounds"],
    ),
    "NTKDistance": (lambda: gs.NTKDistance(9), ["num_points=9"]),
    "Onset": (lambda: gs.onset(history()), ["delayed"]),
    "Phase": (lambda: monitor().phase(), ["fitting", "the training data are not yet memorized"]),
    "ProbeResult": (probe, ["accuracy"]),
    "ParameterPlan": (
        lambda: gs.ntk_plan(network(), numbers(6, 4)).parameters["linear1.weight"],
        ["structured"],
    ),
    "ProgressMeasures": (progress, ["restricted_loss", "logit_share"]),
    "Run": (run, ["finished", "2"]),
    "RunDirectory": (opened, ["closed", "finished"]),
    "SeedValues": (
        lambda: SeedValues.censored([13_900, 0.25, None], [20_000, 1, 20_000]),
        ["3", "median", "13,900", "0.25", "at least 20,000"],
    ),
    "SimulatedCapacity": (
        lambda: gs.simulated_capacity(clouds(), num_trials=2, progress=False),
        ["num_features"],
    ),
    "Schedule": (lambda: gs.Schedule(every=7), ["every=7"]),
    "Slice": (lambda: regions().slice, ["inputs (4,)"]),
    "StopWhenSettled": (gs.StopWhenSettled, ["patience=4"]),
    "Target": (lambda: gs.Target("test_accuracy", 0.9), ["test_accuracy"]),
    "Verdict": (verdict, ["held", "it is faster", "known 1"]),
}
# Packages whose public names are looked through, and their classes that act and are not looked at.
PACKAGES = ("", ".data", ".findings", ".methods", ".training", ".runs", ".measures.regions")
ACTORS = {"LaterRows", "Loss", "Networks", "OneNetwork", "SweepFolder", "TrialGroup"}


def test_every_result_is_in_the_table() -> None:
    assert set(TABLE) >= NOT_BUILT - {"__version__"}


def public_classes() -> dict[str, type]:
    """The classes among the public names, but for networks, errors and specs."""
    found: dict[str, type] = {}
    for package in PACKAGES:
        module = import_module(f"grokscope{package}")
        named = {name: getattr(module, name) for name in module.__all__}
        found |= {name: own for name, own in named.items() if isinstance(own, type)}
    others = (nn.Module, BaseException, BaseModel)
    return {name: own for name, own in found.items() if not issubclass(own, others)}


def test_every_public_class_shows_itself() -> None:
    silent = {
        name
        for name, own in public_classes().items()
        if own.__repr__ is object.__repr__ or not hasattr(own, "_repr_html_")
    }
    assert silent <= ACTORS, "decorate them with @shown() and add them to TABLE"
    assert silent >= ACTORS & set(public_classes()), "not silent any more: take them from ACTORS"


def gives_more_than_a_tensor(name: str) -> bool:
    given = getattr(gs, name)
    annotation = "" if isinstance(given, type) else str(signature(given).return_annotation)
    return "|" in annotation or not annotation.startswith(("Float[", "Shaped[", "Int64["))


@pytest.mark.parametrize("name", [name for name in sorted(CALLS) if gives_more_than_a_tensor(name)])
def test_what_a_public_name_gives_shows_no_address(name: str) -> None:
    result = getattr(gs, name)(**CALLS[name]())
    results = [result, *(result if isinstance(result, tuple) else ())]
    for each in results:
        if type(each).__module__.startswith("grokscope") and not isinstance(each, nn.Module):
            assert " object at 0x" not in repr(each)
            assert each._repr_html_().startswith("<table>")


@pytest.mark.parametrize("name", TABLE)
def test_a_result_shows_its_facts_and_not_its_numbers(name: str, tmp_path: Path) -> None:
    build, words = TABLE[name]
    result = build(tmp_path) if name in ("Run", "RunDirectory") else build()
    assert type(result).__name__ == name
    text, page = repr(result), result._repr_html_()
    assert text.startswith(name)
    for word in words:
        assert word in text
    assert "tensor(" not in text + page
    assert max(map(len, text.splitlines())) < 200
    assert page.startswith(f"<table><caption>{name}</caption>")
    assert page.count("<tr>") >= 1


def test_what_it_shows_cannot_be_markup() -> None:
    @shown("note")
    class Result:
        note = "<script>alert(1)</script>"

    page = Result()._repr_html_()  # type: ignore[attr-defined]
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.tensor([1.0, float("nan"), 3.0]), "(3,) mean 2, 1 to 3, 1 not finite"),
        (torch.tensor([[1, 2, 7]]), "(1, 3) 1 to 7"),
        (torch.tensor([True, False]), "(2,) 0 to 1"),
        (torch.empty(0, 4), "(0, 4)"),
        (torch.tensor(0.5, requires_grad=True), "0.5"),
        ({"a": 1}, "1 entries"),
        (None, "None"),
        (True, "True"),
        (float("nan"), "nan"),
        (nn.Linear(3, 4), "Linear(in_features=3, out_features=4, bias=True)"),
        ("x" * 90, "x" * 90),
    ],
)
def test_values_in_a_few_words(value: Any, text: str) -> None:
    assert value_text(value) == text
