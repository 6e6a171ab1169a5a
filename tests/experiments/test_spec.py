"""Specs: what they resolve to, and all of their mistakes at once."""

from __future__ import annotations

from pathlib import Path

import pytest

import grokscope as gs
from grokscope.experiments import (
    SpecError,
    load_experiment,
    reproducible,
    run_experiment,
    shipped,
)
from grokscope.experiments.sweep import plan_sweep
from grokscope.runs import Run, RunError
from grokscope.runs.yaml_text import dump_yaml
from tests.experiments.small import SMALL, broken


@pytest.fixture
def small(tmp_path: Path) -> str:
    (tmp_path / "small.yaml").write_text(SMALL)
    return str(tmp_path / "small.yaml")


@pytest.mark.parametrize("name", sorted(shipped()))
@pytest.mark.parametrize("preset", ["quick", "paper"])
def test_every_shipped_experiment_is_valid(name: str, preset: str) -> None:
    experiment = load_experiment(name, preset)
    assert experiment.name == name
    assert experiment.preset == preset
    assert experiment.claims
    assert all(panel.title for panel in experiment.panels)
    assert set(experiment.duration) == {"quick", "paper"}


@pytest.mark.parametrize("preset", ["quick", "paper"])
def test_panels_on_the_geometry_of_training_images_have_it_measured(preset: str) -> None:
    asking = {
        name: experiment
        for name in shipped()
        if "train_capacity" in str((experiment := load_experiment(name, preset)).panels)
    }
    assert "rich-emnist" in asking
    for experiment in asking.values():
        assert any(trial.monitor.manifolds.probe_points for trial in experiment.arms.values())


def test_figures_are_found_by_the_name_of_what_they_reproduce() -> None:
    figures = reproducible()
    assert {"grokalign/fig7", "grokalign/table1", "rich-regime/fig2"} <= set(figures)
    for figure, names in figures.items():
        assert all(figure in load_experiment(name).reproduces for name in names)
        if len(names) == 1:
            assert load_experiment(figure).name == names[0]


def test_a_table_of_several_experiments_names_them() -> None:
    several = ["mnist-table1", "mnist-table1-mse", "mnist-table1-published"]
    assert reproducible()["grokalign/table1"] == several
    with pytest.raises(SpecError, match=r"is 3 experiments: name one of mnist-table1, mnist-"):
        load_experiment("grokalign/table1")


def test_arms_share_the_sections_at_the_top(small: str) -> None:
    experiment = load_experiment(small)
    assert list(experiment.arms) == ["baseline", "grokalign"]
    for trial in experiment.arms.values():
        assert trial.model.widths == (16,)
        assert trial.training.lr == 1e-3
    assert experiment.arms["grokalign"].methods[0].weight == 1e-2


def test_presets_and_settings_win_in_that_order(small: str) -> None:
    assert load_experiment(small, "paper").arms["baseline"].training.max_steps == 40
    settings = ["training.max_steps=60", "arms.grokalign.methods.0.weight=0.5", "model.widths=[8]"]
    experiment = load_experiment(small, "paper", settings, num_seeds=3)
    assert experiment.arms["baseline"].training.max_steps == 60
    assert experiment.arms["grokalign"].methods[0].weight == 0.5
    assert experiment.arms["grokalign"].model.widths == (8,)
    assert experiment.seeds == (0, 1, 2)


def test_a_setting_adds_an_arm_and_a_mapping_is_one(small: str) -> None:
    experiment = load_experiment(small, settings=["arms.third={title: New, training: {lr: 0.5}}"])
    assert list(experiment.arms) == ["baseline", "grokalign", "third"]
    assert experiment.arms["third"].training.lr == 0.5
    assert experiment.arms["third"].model.widths == experiment.arms["baseline"].model.widths


def test_a_resolved_spec_resolves_to_itself(small: str, tmp_path: Path) -> None:
    experiment = load_experiment(small)
    (tmp_path / "again.yaml").write_text(dump_yaml(experiment.model_dump(mode="json")))
    assert load_experiment(str(tmp_path / "again.yaml")) == experiment


def test_kept_checkpoints_are_a_switch_or_steps(small: str) -> None:
    for text, value in (("true", True), ("[0, 5]", (0, 5))):
        experiment = load_experiment(small, settings=[f"training.keep_checkpoints={text}"])
        assert experiment.arms["baseline"].training.keep_checkpoints == value


def test_training_stops_at_a_target_or_where_it_has_settled(small: str) -> None:
    def stop(text: str) -> object:
        experiment = load_experiment(small, settings=[f"training.stop_at={text}"])
        return experiment.arms["baseline"].training.stop_at.goal

    assert stop("{target: 0.8}") == gs.Target("test_accuracy", 0.8)
    assert stop("settled") == gs.StopWhenSettled()
    asked = "{name: settled, patience: 3, aligned: 0.02, give_up: 30}"
    assert stop(asked) == gs.StopWhenSettled(patience=3, aligned=0.02, give_up=30)


def test_a_rule_that_looks_at_alignment_needs_it_measured(small: str) -> None:
    settings = ["training.stop_at=settled", "monitor.measures=[jacobian_norm]"]
    with pytest.raises(SpecError, match="add one of them to monitor"):
        load_experiment(small, settings=settings)
    settings[0] = "training.stop_at={name: settled, use_alignment: false}"
    assert load_experiment(small, settings=settings)


def test_a_run_stops_where_it_has_settled(small: str, tmp_path: Path) -> None:
    settings = [
        "training.stop_at={name: settled, patience: 3, aligned: 0.02}",
        *("training.lr=1e-2", "training.max_steps=1000", "training.evaluate={every: 10}"),
        *("model.widths=[32]", "monitor.measures=[row_alignment]"),
    ]
    run_experiment(load_experiment(small, settings=settings), tmp_path / "run", device="cpu")
    run = Run(tmp_path / "run")
    assert run.checkpoint("baseline", 0)["stopped"] == "settled"
    assert 0 < run.history("baseline", 0).steps[-1] < 1000


def without_eps(spec: Path) -> None:
    """A recorded experiment as it was written before there was this field."""
    text = spec.read_text()
    assert "eps: 1.0e-08" in text
    lines = [line for line in text.splitlines() if not line.strip().startswith("eps:")]
    spec.write_text("\n".join(lines) + "\n")


def test_what_was_recorded_before_a_field_came_goes_on(small: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_experiment(load_experiment(small), run, device="cpu")
    without_eps(run / "spec.yaml")
    run_experiment(load_experiment(small), run, device="cpu", resume=True)
    assert len(Run(run).env["resumed"]) == 1
    other = load_experiment(small, settings=["training.eps=1e-5"])
    with pytest.raises(SpecError, match=r"arms\.baseline\.training\.eps"):
        run_experiment(other, run, device="cpu", resume=True)


def test_a_sweep_from_before_a_field_came_goes_on(small: str, tmp_path: Path) -> None:
    plan_sweep(small).write(tmp_path / "sweep")
    without_eps(tmp_path / "sweep/experiment.yaml")
    plan_sweep(small).write(tmp_path / "sweep")
    without_eps(tmp_path / "sweep/experiment.yaml")
    with pytest.raises(RunError, match="of another experiment"):
        plan_sweep(small, settings=["training.eps=1e-5"]).write(tmp_path / "sweep")


def test_all_mistakes_are_reported_at_once_and_each_once(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    text = SMALL.replace("lr: 1e-3", "lrr: 1").replace("widths", "wdths").replace("weight", "wait")
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        load_experiment(str(path))
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert "3 mistakes" in lines[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: [", "is not valid YAML"),
        ("- 1", "holds no experiment"),
        ("name: a\nname: b", "'name' is given twice"),
        ("", "holds no experiment"),
    ],
)
def test_files_that_are_no_experiments(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=said):
        load_experiment(str(path))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("digits-groking",), "did you mean 'digits-grokking'"),
        (("gone.yaml",), r"cannot read gone\.yaml: No such file"),
        (("digits-grokking", "qick"), "did you mean 'quick'"),
        (("digits-grokking", "quick", ["training.lr"]), "--set takes path=value"),
        (("digits-grokking", "quick", ["preset=paper"]), "a preset is chosen by --preset"),
        (("digits-grokking", "quick", ["training.lr=["]), "is not a YAML value"),
        (("digits-grokking", "quick", ["training.lrr=1"]), "did you mean 'lr'"),
        (("digits-grokking", "quick", ["title.x=1"]), "title is a value, not a section"),
        (
            ("digits-grokking", "quick", ["arms.grokalign.methods.0.weight=-1"]),
            r"arms\.grokalign\.methods\.0\.weight: weight must be 0 or positive",
        ),
        (("digits-grokking", "quick", ["claims.9.says=x"]), "not one of the"),
        (("digits-grokking", "quick", [], 0), "--seeds must be a number from 1 to 100,000: got 0"),
        (("digits-grokking", "quick", [], 100_001), "from 1 to 100,000: got 100001"),
        (
            ("digits-grokking", "quick", ["title=" + "[" * 500]),
            r"\.\.\.: '\[{80}\.\.\.' is not a Y",
        ),
        (("digits-grokking", "quick", ["[" * 500]), r"got '\[{80}\.\.\.'$"),
    ],
)
def test_wrong_arguments_are_named(arguments: tuple, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        load_experiment(*arguments)


def test_a_claim_about_an_arm_that_is_not_there(tmp_path: Path) -> None:
    claim = (
        "claims: [{says: so, quantity: {kind: steps_to, arm: grokalgn, target: 1}, at_least: 1}]"
    )
    assert "did you mean 'grokalign'" in broken(tmp_path, "arms:", f"{claim}\narms:")


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_cannot_be_used_is_noticed_before_data_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: bool
) -> None:
    def download(*_args: object) -> None:
        pytest.fail("data were loaded")

    monkeypatch.setattr("grokscope.experiments.runner.load_dataset", download)
    taken = tmp_path / "file"
    taken.touch()
    with pytest.raises(RunError, match="is a file; name a folder with --out"):
        run_experiment(load_experiment("digits-grokking"), taken, resume=resume, device="cpu")
