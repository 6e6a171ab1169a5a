"""Which settings a sweep has, what they are called, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from grokscope.experiments import SpecError, load_experiment
from grokscope.experiments.sweep import plan_sweep

SMALL = """
name: small
title: A small experiment
seeds: [3, 5]
data: {name: digits, train_size: 100}
model: {widths: [16]}
training: {lr: 1e-3, max_steps: 20}
arms:
  baseline:
  grokalign: {methods: [{name: grokalign, weight: 1e-2}], training: {batch_size: 50}}
presets:
  paper: {training: {max_steps: 40}}
"""


@pytest.fixture
def small(tmp_path: Path) -> str:
    (tmp_path / "small.yaml").write_text(SMALL)
    return str(tmp_path / "small.yaml")


def with_section(small: str, section: str) -> str:
    Path(small).write_text(f"{SMALL}\nsweep: {section}\n")
    return small


def test_without_a_grid_there_is_one_setting_with_the_seeds_of_the_spec(small: str) -> None:
    plan = plan_sweep(small)
    assert [setting.name for setting in plan.settings] == [""]
    assert plan.seeds == (3, 5)
    assert plan.settings[0].experiment == load_experiment(small)
    assert plan_sweep(small, num_seeds=3).seeds == (0, 1, 2)


def test_a_grid_is_every_combination(small: str) -> None:
    plan = plan_sweep(
        small,
        preset="paper",
        settings=["training.weight_decay=0.1"],
        grid=["training.lr=1e-3,3e-3,.01", "model.widths=[8],[16,24]"],
    )
    assert [setting.name for setting in plan.settings] == [
        "lr=0.001_widths=8",
        "lr=0.001_widths=16-24",
        "lr=0.003_widths=8",
        "lr=0.003_widths=16-24",
        "lr=0.01_widths=8",
        "lr=0.01_widths=16-24",
    ]
    last = plan.settings[-1].experiment.arms["grokalign"]
    assert (last.training.lr, last.model.widths) == (0.01, (16, 24))
    assert (last.training.weight_decay, last.training.max_steps) == (0.1, 40)


def test_a_method_of_one_arm_can_be_varied(small: str) -> None:
    plan = plan_sweep(small, grid=["arms.grokalign.methods.0.weight=1e-3,1e-2"])
    weights = [s.experiment.arms["grokalign"].methods[0].weight for s in plan.settings]
    assert weights == [0.001, 0.01]
    assert [setting.name for setting in plan.settings] == ["weight=0.001", "weight=0.01"]


def test_names_tell_paths_with_the_same_end_apart(small: str) -> None:
    grid = ["arms.baseline.training.lr=1,2", "arms.grokalign.training.lr=3"]
    names = [setting.name for setting in plan_sweep(small, grid=grid).settings]
    assert names == [
        "baseline.training.lr=1_grokalign.training.lr=3",
        "baseline.training.lr=2_grokalign.training.lr=3",
    ]


def test_names_are_fit_for_folders(small: str) -> None:
    grid = ["title=a/b,../c,a b,'-1.5','1.5','0.10000001'"]
    names = [setting.name for setting in plan_sweep(small, grid=grid).settings]
    assert names == [
        *("title=a-b", "title=..-c", "title=a-b+2"),
        *("title=-1.5", "title=1.5", "title=0.10000001"),
    ]


def test_the_section_of_the_spec_is_a_grid_or_a_list(small: str) -> None:
    plan = plan_sweep(with_section(small, "{grid: {training.lr: [1e-3, 3e-3], model.bias: true}}"))
    assert [setting.name for setting in plan.settings] == [
        "lr=0.001_bias=yes",
        "lr=0.003_bias=yes",
    ]
    listed = "{settings: [{training.lr: 1e-3}, {training.lr: 3e-3, model.widths: [8]}]}"
    plan = plan_sweep(with_section(small, listed))
    assert [setting.name for setting in plan.settings] == ["lr=0.001", "lr=0.003_widths=8"]
    assert plan.settings[0].experiment.arms["baseline"].model.widths == (16,)
    instead = plan_sweep(small, grid=["training.lr=5"])
    assert [setting.name for setting in instead.settings] == ["lr=5"]


def test_a_run_takes_no_notice_of_the_section(small: str) -> None:
    before = load_experiment(small)
    assert load_experiment(with_section(small, "{grid: {training.lr: [1, 2]}}")) == before


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ("training.lrr=1,2", "training.lrr: unknown field 'lrr'; did you mean 'lr'?"),
        ("trainin.lr=1,2", "trainin: unknown field 'trainin'; did you mean 'training'?"),
        ("arms.grokalin.training.lr=1,2", "unknown arm 'grokalin'; did you mean 'grokalign'?"),
        ("arms.grokalign.methods.1.weight=1", "1 is not one of the 1 places of the list"),
        ("training.lr.rate=1,2", "lr is a value, not a section"),
        ("training.lr=fast", "training.lr: "),
        ("training.lr", "--grid takes path=value,value,..., as in training.lr=1e-3,3e-3"),
        ("training.lr=", "--grid takes path=value,value,..., as in training.lr=1e-3,3e-3"),
        ("preset=quick,paper", "the preset is that of the whole sweep; choose it by --preset"),
        ("training.lr=[1,2", "--grid training.lr=[1,2: the values are no list in YAML"),
        ("training.lr=1e-3,0.001", "make the same experiment"),
        ("training.batch_size=10,50", None),
    ],
)
def test_mistakes_name_the_path_and_what_is_nearest(
    small: str, grid: str, said: str | None
) -> None:
    if said is None:
        assert len(plan_sweep(small, grid=[grid]).settings) == 2
        return
    with pytest.raises(SpecError) as caught:
        plan_sweep(small, grid=[grid])
    assert said in str(caught.value)


def test_a_value_that_every_arm_overrides_is_a_mistake(small: str) -> None:
    Path(small).write_text(SMALL.replace("  baseline:\n", "  baseline: {training: {lr: 1}}\n"))
    assert len(plan_sweep(small, grid=["training.lr=2,3"]).settings) == 2
    Path(small).write_text(
        SMALL.replace("  baseline:\n", "  baseline: {training: {batch_size: 20}}\n")
    )
    with pytest.raises(SpecError, match=r"every arm has its own, which wins; vary arms\.ARM"):
        plan_sweep(small, grid=["training.batch_size=10,40"])


def test_naming_a_path_twice_is_a_mistake(small: str) -> None:
    with pytest.raises(SpecError, match=r"--grid names training\.lr twice"):
        plan_sweep(small, grid=["training.lr=1,2", "training.lr=3"])


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("{grid: {training.lr: [1]}, settings: [{training.lr: 1}]}", "one of them"),
        ("{}", "give a grid or a list of settings, one of them"),
        ("{grid: {training.lr: []}}", "grid.training.lr has no values"),
        ("{gird: {training.lr: [1]}}", "unknown field 'gird'; did you mean 'grid'?"),
        ("[1, 2]", "sweep"),
        ("{grid: {seeds: [1, 2]}}", "give them by --seeds"),
        ("{grid: {title.x: [1, 2]}}", "sweep: title.x: title is a value, not a section"),
        ("{settings: [{/abs: 1}]}", "sweep: /abs: '/abs' names no section or field"),
    ],
)
def test_mistakes_in_the_section(small: str, section: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        plan_sweep(with_section(small, section))
    assert said in str(caught.value)


def test_a_sweep_without_end_is_refused_before_it_is_made(small: str) -> None:
    values = list(range(101))
    section = f"{{grid: {{training.lr: {values}, data.train_size: {values}, threads: {values}}}}}"
    with pytest.raises(SpecError, match="at most 1,000,000 runs: this one has 1,030,301 settings"):
        plan_sweep(with_section(small, section))
    Path(small).write_text(SMALL)
    with pytest.raises(SpecError, match="at most 1,000,000 runs: this one has 1,010,000 runs"):
        plan_sweep(small, grid=[f"training.lr={values}"[:-1].replace("[", "")], num_seeds=10_000)
