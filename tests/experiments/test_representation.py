"""The analysis of representations on a small experiment, against definitions."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import grokscope as gs
from grokscope.experiments import load_experiment, run_experiment
from grokscope.experiments.analyses.correlations import pearson
from grokscope.experiments.analyses.distribution_shift import _scores
from grokscope.experiments.analyses.kernel_points import kernel_points
from grokscope.experiments.analyses.late_compression import settled
from grokscope.experiments.analyses.representation import _finding
from grokscope.experiments.analysis_input import AnalysisInput
from grokscope.report import write_report
from grokscope.runs import RunDirectory
from tests.report.drawing import draw, figure_of

SPEC = """
name: small
title: A small experiment
data: {name: digits, classes: [0, 1, 8], train_size: 60, test_size: 100, subset: seeded}
model: {widths: [12, 9]}
training:
  lr: 0.01
  batch_size: 30
  max_steps: 200
  evaluate: {per_decade: 6}
  keep_checkpoints: &evaluated [0, 10, 50, 200]
monitor:
  measures: [ntk_distance, manifold_geometry]
  probe_size: 100
  test_size: 100
  pictures: 0
  ntk: {num_points: 8}
  manifolds: {layers: [activation2, linear3], num_points: 8, num_samples: 10, linear_probe: false}
  schedule: {per_decade: null, at: *evaluated}
milestones: {memorized: {metric: train_accuracy, target: 0.99}}
arms:
  plain: {title: Plain}
  large: {title: Large weights, model: {weight_scale: 4}}
seeds: [0, 1]
analysis: representation
analysis_options:
  probe: {layer: activation2, arms: [plain], repeats: 3, test_size: 80, num_epochs: 5}
  kernels: {sets: {few: [train, 5], more: [train, 9], unseen: [test, 6]}}
  shift:
    data: {name: digits, classes: [2, 3, 4]}
    layers: [linear1, linear3]
    arms: [large]
    draws: 2
    num_points: 60
panels:
  - {kind: table, title: Onsets, results: onsets}
  - kind: curves
    title: Probes
    results: probing
    columns: {mean: probe accuracy}
    band: deviation
    percent: true
  - {kind: heatmap, title: Kernels, results: kernel_points.unseen, mark: onset}
  - kind: scatter
    title: Capacity
    results: output_evaluations
    x: capacity
    y: accuracy
    series: arm
  - {kind: curves, title: Capacity, columns: [test_capacity/linear3], band: deviation, spans: onset}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> gs.Run:
    """The experiment, run once."""
    folder = tmp_path_factory.mktemp("representation")
    (folder / "small.yaml").write_text(SPEC)
    return run_experiment(load_experiment(str(folder / "small.yaml")), folder / "run")


def trained(run: gs.Run, step: int, seed: int = 0) -> torch.nn.Module:
    model = gs.MLP(64, [12, 9], 3, seed=seed)
    model.load_state_dict(run.checkpoint("plain", seed, step)["model"])
    return model.eval()


DATA = gs.load_data("digits", classes=[0, 1, 8], train_size=60, test_size=100, subset="seeded")


def test_correlations_are_those_of_the_columns(run: gs.Run) -> None:
    for place, seed in enumerate((0, 1)):
        history = run.history("large", seed)
        looked = ~np.isnan(history["ntk_distance_init"])
        assert looked.sum() == 4
        accuracy = history["test_accuracy"][looked]
        found = run.results["correlations"]["large"]
        for name, column in (
            ("capacity", "test_capacity/linear3"),
            ("dimension", "test_dimension/linear3"),
            ("kernel", "ntk_distance_init"),
        ):
            expected = stats.pearsonr(accuracy, history[column][looked]).statistic
            assert found[name][place] == pytest.approx(expected, abs=1e-9)
        expected = stats.pearsonr(
            history["radius/linear3"][looked], history["test_radius/linear3"][looked]
        ).statistic
        assert found["train_test_radius"][place] == pytest.approx(expected, abs=1e-9)
        every = [
            stats.pearsonr(accuracy, history[f"test_capacity/{layer}"][looked]).statistic
            for layer in ("activation2", "linear3")
        ]
        assert found["least_advantage"][place] == pytest.approx(min(every) - found["kernel"][place])
        assert found["advantage"][place] == pytest.approx(
            found["capacity"][place] - found["kernel"][place]
        )


def test_the_table_and_the_points_are_of_the_first_seed(run: gs.Run) -> None:
    rows = [row for row in run.results["correlation_table"] if row["arm"] == "Large weights"]
    assert [row["what"] for row in rows] == [
        "kernel distance",
        *(
            f"{figure}, {layer}"
            for layer in ("activation2", "linear3")
            for figure in ("capacity", "radius", "dimension")
        ),
    ]
    found = run.results["correlations"]["large"]
    assert rows[4]["accuracy"] == found["capacity"][0]
    assert "train" not in rows[0]  # the kernel is of training images as it is
    assert [row["train"] for row in rows[4:]] == [
        found[f"train_test_{figure}"][0] for figure in ("capacity", "radius", "dimension")
    ]
    points = [row for row in run.results["output_evaluations"] if row["arm"] == "large"]
    history = run.history("large", 0)
    known = ~np.isnan(history["test_capacity/linear3"])
    assert [row["capacity"] for row in points] == history["test_capacity/linear3"][known].tolist()
    kernels = [row for row in run.results["kernel_evaluations"] if row["arm"] == "large"]
    distances = history["ntk_distance_init"]
    assert [row["distance"] for row in kernels] == distances[~np.isnan(distances)].tolist()
    layers = {row["layer"] for row in run.results["layer_evaluations"]}
    assert layers == {"activation2", "linear3"}
    assert [row["train_capacity"] for row in points] == history["capacity/linear3"][known].tolist()


def test_a_correlation_needs_three_rows_and_two_values() -> None:
    a = np.array([1.0, 2.0, np.nan, 4.0])
    assert np.isnan(pearson(a, np.array([1.0, 2.0, 3.0, np.nan])))
    assert np.isnan(pearson(a, np.ones(4)))


def test_probes_are_the_measures_at_each_kept_checkpoint(run: gs.Run) -> None:
    probing = run.results["probing"]
    assert list(probing) == ["plain"]
    assert probing["plain"]["steps"] == [0, 10, 50, 200]
    model = trained(run, 50)
    train, test = (
        gs.layer_activations(model, x, ["activation2"])["activation2"].double()
        for x in (DATA.train_x, DATA.test_x[:80])
    )
    expected = gs.sgd_probe(
        train,
        DATA.train_y,
        test,
        DATA.test_y[:80],
        num_repeats=3,
        num_epochs=5,
        generator=torch.Generator().manual_seed(50),
    )
    assert probing["plain"]["mean"][2] == pytest.approx(float(expected.mean()))
    assert probing["plain"]["mean_deviation"][2] == pytest.approx(float(expected.std(correction=0)))
    start = settled(run.history("plain", 0))
    means = dict(zip(probing["plain"]["steps"], probing["plain"]["mean"], strict=True))
    after = [mean for step, mean in means.items() if step >= start]
    if len(after) > 1:
        assert run.results["probe_change"]["plain"] == pytest.approx(after[-1] - after[0])


def test_kernel_distances_are_those_of_the_sets(run: gs.Run) -> None:
    first, last = trained(run, 0), trained(run, 200)
    for name, x in (
        ("few", DATA.train_x[:5]),
        ("more", DATA.train_x[:9]),
        ("unseen", DATA.test_x[:6]),
    ):
        found = run.results["kernel_points"][name]["plain"]
        assert found["steps"] == [0, 10, 50, 200]
        expected = gs.kernel_distance(gs.empirical_ntk(first, x), gs.empirical_ntk(last, x))
        assert found["matrix"][0][3] == pytest.approx(float(expected), rel=1e-4)
        assert found["matrix"][3][0] == pytest.approx(found["matrix"][0][3])
    own = np.array(run.results["kernel_points"]["unseen"]["large"]["matrix"][0])
    few = np.array(run.results["kernel_points"]["few"]["large"]["matrix"][0])
    agreement = run.results["kernel_agreement"]["large"]
    assert agreement["few"] == 0
    assert agreement["unseen"] == pytest.approx(np.abs(own - few).max())


def test_a_split_that_is_none_is_named(run: gs.Run) -> None:
    with RunDirectory.resume(run.path, "cpu") as directory:
        seen = AnalysisInput(
            directory,
            {"plain": DATA, "large": DATA},
            lambda arm, seed: trained(run, 0),
            gs.load_data,
        )
        with pytest.raises(ValueError, match=r"must be of the split train or test: got 'tests'"):
            kernel_points(seen, {"a": ("tests", 5)})


def test_onsets_are_those_of_the_histories(run: gs.Run) -> None:
    rows = run.results["onsets"]
    titles = {"plain": "Plain", "large": "Large weights"}
    expected = [(titles[arm], seed) for arm, seed in run.trials]
    assert [(row["arm"], row["seed"]) for row in rows] == expected
    assert len(rows) == 4
    for row, (arm, seed) in zip(rows, run.trials, strict=True):
        found = gs.onset(run.history(arm, seed))
        assert row["memorized"] == found.memorized
        assert row["start"] == found.start
        assert row["generalization"].startswith(found.state)
    assert run.results["finding"] == _finding(run)


def test_the_finding_says_of_each_arm_what_most_of_its_seeds_did() -> None:
    steps = [0, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000]
    fitted, low, high = [0.1, *[1] * 10], [0.1, *[0.2] * 10], [0.1, *[0.9] * 10]
    courses = {
        "late": (fitted, [*low[:7], 0.3, *high[8:]]),
        "later": ([0.1, 0.5, *fitted[2:]], [*low[:8], *high[8:]]),
        "at once": (fitted, high),
        "never": (fitted, low),
        "fitting": (low, low),
    }
    histories = {
        name: gs.History(
            [
                {"step": step, "train_accuracy": train, "test_accuracy": test}
                for step, train, test in zip(steps, *course, strict=True)
            ]
        )
        for name, course in courses.items()
    }
    seeds = {
        "a": ["late", "later", "never"],
        "b": ["late", "never", "never"],
        "c": ["at once", "late", "at once"],
        "d": ["fitting"],
        "e": ["late", "late", "late"],
        "f": ["never", "at once"],
    }

    run = create_autospec(gs.Run, instance=True)
    run.arms = list(seeds)
    run.spec = {"arms": {arm: {"title": None if arm == "d" else arm.upper()} for arm in seeds}}
    run.seeds = lambda arm: range(len(seeds[arm]))
    run.history = lambda arm, seed: histories[seeds[arm][seed]]
    starts = [gs.onset(histories[name]).start for name in ("late", "later")]
    assert starts[0] is not None
    assert starts[1] is not None
    assert starts[1] > starts[0]
    assert _finding(run) == (
        f"A: generalizes from step {starts[1]:,.0f}, memorized at 10; "
        "B: has not generalized; C: generalizes without delay; d: has not memorized; "
        f"E: generalizes from step {starts[0]:,.0f}, memorized at 10; F: its seeds differ"
    )


def test_features_that_are_not_finite_are_not_probed() -> None:
    features = torch.ones(12, 3)
    features[4, 1] = torch.inf
    found = _scores(features, torch.arange(12) % 3, 2, 6)
    assert set(found) == {"sgd", "ridge"}
    for values in found.values():
        assert values.shape == (2,)
        assert values.isnan().all()


def test_late_is_from_where_test_accuracy_has_settled() -> None:
    rows = [
        {"step": step, "test_accuracy": accuracy}
        for step, accuracy in ((0, 0.1), (10, 0.6), (100, 0.899), (1000, 0.9), (10_000, 0.88))
    ]
    assert settled(gs.History(rows)) == 100


def test_the_late_figures_are_the_last_over_those_at_settling(run: gs.Run) -> None:
    late = run.results["late"]["plain"]
    for place, seed in enumerate((0, 1)):
        history = run.history("plain", seed)
        column = history["test_radius/linear3"]
        known = ~np.isnan(column)
        at = np.interp(
            np.log(settled(history)),
            np.log(np.maximum(history.steps[known], 0.5)),
            column[known],
        )
        assert late["radius"][place] == pytest.approx(column[known][-1] / at)


def test_its_panels_can_be_drawn(run: gs.Run) -> None:
    page = write_report([run.path]).read_text()
    assert "could not be drawn" not in page
    (probes,) = draw(
        run.path,
        kind="curves",
        title="Probes",
        results="probing",
        columns={"mean": "probe accuracy"},
        band="deviation",
    )
    band, line = figure_of(probes)["data"]
    trajectory = run.results["probing"]["plain"]
    assert line["y"] == pytest.approx(trajectory["mean"], rel=1e-5)
    top = np.add(trajectory["mean"], trajectory["mean_deviation"])
    assert band["y"][:4] == pytest.approx(top.tolist(), rel=1e-5)


def test_pictures_of_representations_need_umap(run: gs.Run, tmp_path: Path) -> None:
    umap = pytest.importorskip("umap", reason="umap-learn is not installed (extra embed)")
    assert umap
    spec = SPEC.replace("  probe:", "  embed: {layer: activation2, steps: [0, 180]}\n  probe:")
    (tmp_path / "small.yaml").write_text(spec)
    again = run_experiment(load_experiment(str(tmp_path / "small.yaml")), tmp_path / "run")
    stored = again.arrays("plain", 0, "embedding")
    assert stored["steps"].tolist() == [0, 200]
    assert stored["points"].shape == (2, 100, 2)


def test_spreads_orders_and_layers_are_ratios_of_what_the_rows_hold(run: gs.Run) -> None:
    distances = [run.history("large", seed)["ntk_distance_init"] for seed in (0, 1)]
    last = [of[np.isfinite(of)][-1] for of in distances]
    assert run.results["kernel_spread"]["large"] == pytest.approx(max(last) / min(last))
    capacities = {
        layer: run.history("plain", 1)[f"test_capacity/{layer}"]
        for layer in ("activation2", "linear3")
    }
    ends = {layer: of[np.isfinite(of)][-1] for layer, of in capacities.items()}
    found = run.results["capacity_by_layer"]["plain"]["last_over_first"]
    assert found[1] == pytest.approx(ends["linear3"] / ends["activation2"])
    delays = {
        arm: np.median([gs.onset(run.history(arm, seed)).delay for seed in (0, 1)])
        for arm in ("plain", "large")
    }
    order = run.results["delay_order"]["large"]["plain"]
    assert order == pytest.approx(delays["large"] / delays["plain"])


def test_probes_on_other_data_are_those_of_scikit_learn(run: gs.Run) -> None:
    data = gs.load_data("digits", classes=[2, 3, 4])
    model = gs.MLP(64, [12, 9], 3, weight_scale=4, seed=0)
    model.load_state_dict(run.checkpoint("large", 0, 200)["model"])
    found = run.results["shift_linear1_ridge"]["large"]
    assert found["steps"] == [0, 10, 50, 200]
    for orientation, x in (
        ("upright", data.test_x),
        ("transposed", data.test_x.reshape(-1, 8, 8).mT.reshape(-1, 64)),
    ):
        features = (x @ model.linear1.weight.T + model.linear1.bias).detach().double().numpy()
        accuracies = []
        for seed in range(2):
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).numpy()
            probe = make_pipeline(StandardScaler(), RidgeClassifier())
            probe.fit(features[order[:60]], data.test_y[order[:60]])
            accuracies.append(probe.score(features[order[60:120]], data.test_y[order[60:120]]))
        assert found[orientation][3] == pytest.approx(np.mean(accuracies), abs=0.01)
        assert found[f"{orientation}_deviation"][3] == pytest.approx(np.std(accuracies), abs=0.01)
        summary = run.results["shift"]["large"]["linear1"]["ridge"][orientation]
        assert summary["fall"] == found[orientation][3] - max(found[orientation])
        assert summary["rise"] == found[orientation][3] - found[orientation][0]
    assert 0.1 < run.results["shift_linear3_sgd"]["large"]["upright"][0] <= 1
