"""The statements hold on random networks, and a wrong one is noticed."""

from __future__ import annotations

import pytest
import torch

from grokscope.experiments import load_experiment
from grokscope.experiments.analyses import ANALYSES
from grokscope.experiments.analyses.theorems import cells, kernel, optimum, radius
from grokscope.experiments.analysis_input import AnalysisInput
from grokscope.measures.ntk import empirical_ntk


def found(check, networks: int = 3) -> dict[str, float]:
    return {f.key: f for f in check(networks, torch.Generator().manual_seed(1))}


@pytest.mark.parametrize(
    "check",
    [
        optimum.optimum_findings,
        radius.radius_findings,
        cells.centroid_findings,
        kernel.kernel_findings,
    ],
)
def test_statements_hold_and_their_counterexamples_do_not(check) -> None:
    findings = found(check)
    assert findings
    for finding in findings.values():
        assert finding.held != finding.counterexample, finding.key


def test_every_statement_has_a_claim_with_its_tolerance() -> None:
    experiment = load_experiment("grokalign/theorems")
    assert experiment.arms == {}
    bounds = {c.quantity.name.removeprefix("deviations."): c for c in experiment.claims}
    nothing = AnalysisInput.__new__(AnalysisInput)  # the analysis looks at no training
    found = ANALYSES["theorems"](nothing, networks=1)
    bare = sum(row["held"] for row in found["theorems"])
    count = len(found["theorems"])
    assert found["finding"] == (
        f"{bare} of {bare} statements held over 1 random networks each; "
        f"{count - bare} more rows show what happens without a condition"
    )
    assert set(bounds) == set(found["deviations"])
    for row, claim in zip(found["theorems"], bounds.values(), strict=True):
        assert claim.at_most in (row["tolerance"], None)
    with pytest.raises(ValueError, match="networks must be a positive integer"):
        ANALYSES["theorems"](nothing, networks=0)


def test_the_optimum_is_found_and_not_assumed() -> None:
    """Another loss has another optimum; the search reports a map no loss could hold against it."""
    x = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    target = torch.tensor([0.3, -0.4], dtype=torch.float64)
    start = torch.randn(2, 3, dtype=torch.float64)
    steps = []

    def loss(z: torch.Tensor) -> torch.Tensor:
        steps.append(z)
        return (z - target).square().sum()

    best = optimum.minimizer(loss, x, 0.1, start)
    expected = 0.1 * torch.outer(target / target.norm(), x / x.norm())
    torch.testing.assert_close(best, expected)
    assert len(steps) < 200, "the search ends where it stands still"


def test_the_offset_within_the_bound_is_a_weight_on_a_constant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the constant the statement would be the one without an offset over again."""
    asked: list[tuple[torch.Tensor, float, torch.Tensor]] = []
    search = optimum.minimizer

    def noting(loss, x, radius, start) -> torch.Tensor:
        best = search(loss, x, radius, start)
        asked.append((x, radius, best))
        return best

    monkeypatch.setattr(optimum, "minimizer", noting)
    assert found(optimum.optimum_findings, 1)["theorem_2_offset"].held
    (plain, radius, best), (wide, narrower, with_offset) = asked[:2]
    assert torch.equal(wide, torch.cat([plain, torch.ones(1, dtype=torch.float64)]))
    # logits of one length on both balls: the constant is a part of what the bound is spent on
    assert narrower * float(wide.norm()) == pytest.approx(radius * float(plain.norm()))
    assert float(with_offset.norm()) == pytest.approx(narrower)
    torch.testing.assert_close(with_offset[:, :-1] / narrower**2, best / radius**2)
    assert with_offset[:, -1].abs().min() > 1e-3


def test_wrong_formulas_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "closed_form", lambda model, scale, x: x @ x.T)
    assert not found(kernel.kernel_findings)["lemma_8"].held
    monkeypatch.setattr(
        kernel, "centroid_inner_product", lambda model, x: 1.1 * model(x).detach().sum(1)
    )
    monkeypatch.setattr(kernel, "empirical_ntk", lambda *of, **how: 1.1 * empirical_ntk(*of, **how))
    rates = found(kernel.kernel_findings)
    for key in ("lemma_7", "theorem_9", "proposition_10", "corollary_11", "alignment_rate"):
        assert not rates[key].held, key
    monkeypatch.setattr(cells, "optimal_entries", lambda alpha, classes, length: (1.0, -1.0))
    assert not found(cells.centroid_findings)["proposition_6_cross_entropy"].held
    monkeypatch.setattr(radius, "robust_radius", lambda model, x, y: x.norm(dim=1))
    assert not found(radius.radius_findings)["theorem_3_rank_one"].held
