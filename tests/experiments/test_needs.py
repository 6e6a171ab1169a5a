"""What would fail, or be looked for in vain, once training is over is a mistake of the spec."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from grokscope.experiments import SpecError, load_experiment, run_experiment
from grokscope.experiments.columns import misspelt_column
from grokscope.experiments.data_and_model import DataSpec, ImportedDataSpec
from grokscope.runs import Run
from tests.experiments.small import SMALL

RECORDED = Path(__file__).resolve().parents[2] / "docs/results/runs"
CLAIM = "claims=[{says: It learns, quantity: {kind: %s, arm: baseline, metric: %s%s}, at_least: 0}]"
NOT_KEPT = "looks at kept checkpoints, of which arms.baseline has none: say which steps to keep"


def load(folder: Path, *settings: str) -> None:
    (folder / "small.yaml").write_text(SMALL)
    load_experiment(str(folder / "small.yaml"), settings=settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["analysis=regions"], f"the analysis regions {NOT_KEPT}"),
        (["analysis=modular_arithmetic"], f"the analysis modular_arithmetic {NOT_KEPT}"),
        (
            ["analysis=representation", "analysis_options.probe={layer: linear1}"],
            f"probe of the analysis representation {NOT_KEPT}",
        ),
        (
            ["analysis=representation", "analysis_options.embed={arms: [baseline]}"],
            f"embed of the analysis representation {NOT_KEPT}",
        ),
        (
            ["analysis=feature_learning"],
            "the analysis feature_learning needs point_ntk, which arms",
        ),
        (["analysis=scaling"], "the analysis scaling needs point_centroid_norm, which arms.b"),
        (
            ["analysis=jacobian_spectrum", "monitor.measures=[weight_norm]"],
            "the analysis jacobian_spectrum needs jacobian_pc1, which arms.baseline",
        ),
        (["analysis=trajectory"], "analysis_options: the analysis trajectory needs metric"),
        (
            ["milestones.generalized={metric: tset_accuracy, target: 0.9}"],
            "milestones.generalized.metric: unknown metric 'tset_accuracy'; did you mean 'test_acc",
        ),
        (
            [CLAIM % ("value", "tst_accuracy", "")],
            "the claim 'It learns': unknown metric 'tst_accuracy'; did you mean 'test_accuracy'?",
        ),
        ([CLAIM % ("steps_to", "weightnorm", ", target: 1")], "did you mean 'weight_norm'?"),
        ([CLAIM % ("value", "capcity/linear1", "")], "did you mean 'capacity/linear1'?"),
        ([CLAIM % ("value", "jacobian_norm_mean", "")], "did you mean 'jacobian_norm'?"),
    ],
)
def test_what_would_fail_after_training_is_told_before_it(
    tmp_path: Path, settings: list[str], said: str
) -> None:
    with pytest.raises(SpecError) as caught:
        load(tmp_path, *settings)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        ["analysis=regions", "training.keep_checkpoints=[0]"],
        ["analysis=representation"],
        ["analysis=robustness"],
        [
            "analysis=representation",
            "analysis_options.probe={layer: linear1, arms: [grokalign]}",
            "arms.grokalign.training={keep_checkpoints: true}",
        ],
        ["milestones.flat={metric: weight_norm, target: 3}"],
        [CLAIM % ("value", "robust_accuracy", ""), "monitor.measures=[]"],
        [CLAIM % ("value", "test_radius/linear2", "")],
        [CLAIM % ("value", "noise_accuracy/0.3", "")],
        [CLAIM % ("value", "jacobian_norm_max", "")],
    ],
)
def test_what_may_be_recorded_is_no_mistake(tmp_path: Path, settings: list[str]) -> None:
    load(tmp_path, *settings)


def test_every_recorded_column_is_known() -> None:
    for path in RECORDED.iterdir():
        run = Run(path, lenient=True)
        for (arm, _), history in run.histories.items():
            data = DataSpec(name=run.arm_spec(arm)["data"]["name"])
            columns = {*history.rows[0], *history.rows[-1]} - {"arm", "seed", "step"}
            assert not [column for column in columns if misspelt_column(column, [data])]


def test_parts_of_the_test_data_have_accuracies() -> None:
    assert misspelt_column("unseen_accuracy", [DataSpec(name="modular")]) is None
    assert misspelt_column("unseen_accuracy", [DataSpec(name="digits")])
    own = ImportedDataSpec(**{"import": "mine:load"})
    assert misspelt_column("hard_accuracy", [own]) is None
    assert misspelt_column("hard_acuracy", [own])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["training.betas=[2, 3]"], "betas must be at least 0 and less than 1: got (2.0, 3.0)"),
        (["training.freeze=[gone]"], "freeze: unknown parameter or module 'gone'"),
        (["training.loss=binary_cross_entropy", "training.label_smoothing=0.1"], "label_smoothing"),
        (["model.weight_scale=-1"], "weight_scale must be a positive number"),
        (["model={name: cnn, widths: [2]}"], "in_shape must be channels, height and width"),
        (["model.scalar_output=true"], "cross_entropy needs one output for each class"),
    ],
)
def test_a_mistake_of_the_last_arm_is_told_before_the_first_is_trained(
    tmp_path: Path, settings: list[str], said: str
) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    of_arm = [f"arms.grokalign.{setting}" for setting in settings]
    experiment = load_experiment(str(tmp_path / "small.yaml"), settings=of_arm)
    with pytest.raises(SpecError, match=re.escape(f"arms.grokalign: {said}")):
        run_experiment(experiment, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
