"""What results show of themselves, in a terminal and in a notebook."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import grokscope as gs
from grokscope.shown import shown, value_text
from tests.test_bad_inputs import NOT_BUILT


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
    "DecisionBoundary": (lambda: regions().decision_boundary(), ["segments"]),
    "FitResult": (fitted, ["MLP", "max_steps", "History(rows 2"]),
    "GlueGeometry": (lambda: gs.glue_geometry(clouds(), num_samples=4), ["capacity", "utility"]),
    "History": (history, ["rows", "1 to 256", "test_accuracy"]),
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
    "Onset": (lambda: gs.onset(history()), ["delayed"]),
    "Phase": (lambda: monitor().phase(), ["fitting", "the training data are not yet memorized"]),
    "ProbeResult": (probe, ["accuracy"]),
    "ProgressMeasures": (progress, ["restricted_loss", "logit_share"]),
    "Run": (run, ["finished", "2"]),
    "SimulatedCapacity": (
        lambda: gs.simulated_capacity(clouds(), num_trials=2, progress=False),
        ["num_features"],
    ),
    "Slice": (lambda: regions().slice, ["inputs (4,)"]),
}


def test_every_result_is_in_the_table() -> None:
    others = {"ParameterPlan", "RunDirectory", "__version__"}
    assert set(TABLE) >= NOT_BUILT - others


@pytest.mark.parametrize("name", TABLE)
def test_a_result_shows_its_facts_and_not_its_numbers(name: str, tmp_path: Path) -> None:
    build, words = TABLE[name]
    result = build(tmp_path) if name == "Run" else build()
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
