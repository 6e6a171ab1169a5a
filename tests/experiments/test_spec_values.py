"""Values of a spec: YAML 1.2, strict numbers and switches, and a line that says what is taken."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from grokscope.experiments import SpecError, load_experiment
from grokscope.experiments.sweep import plan_sweep
from grokscope.runs import yaml_text
from grokscope.runs.yaml_text import dump_yaml, parse_yaml
from tests.experiments.small import SMALL, broken


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E3", 1000.0),
        ("-2.5e+1", -25.0),
        (".5", 0.5),
        ("3", 3),
        ("+7", 7),
        (".inf", float("inf")),
        ("abc", "abc"),
        ("1e", "1e"),
        ("2026-11-22x", "2026-11-22x"),
        ("[1e-3, 2]", [1e-3, 2]),
        ("true", True),
        ("null", None),
        ("0100", 100),
        ("0o100", 64),
        ("0x1F", 31),
        ("0b11", "0b11"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("no", "no"),
        ("Yes", "Yes"),
        ("on", "on"),
        ("TRUE", True),
        ("~", None),
        ("", None),
        ("2024-01-01", "2024-01-01"),
        ("-.inf", float("-inf")),
        ("1.e3", 1000.0),
        ("{<<: {a: 1}, b: 2}", {"a": 1, "b": 2}),
    ],
)
def test_yaml_is_read_by_the_rules_of_1_2(text: str, value: object) -> None:
    parsed = parse_yaml(text)
    assert parsed == value
    assert type(parsed) is type(value)


TEXTS = ["no", "1:30", "0100", "0o17", "1e3", "1.5", "2024-01-01", "~", "", "on", "<<", "a: b"]


@pytest.mark.parametrize("text", [*TEXTS, "1_000", "=", ".inf", "-", "ü", "true", "null", "[a]"])
def test_what_is_written_reads_the_same_by_either_rules(text: str) -> None:
    value = {"text": text, "list": [text, 1e-8, 1, True, None], text or "key": 2}
    assert parse_yaml(dump_yaml(value)) == yaml.safe_load(dump_yaml(value)) == value


@pytest.mark.parametrize("text", ["[1, 2, 3, 4]", "[&a [1], *a]", "{a: 1, b: 2}"])
def test_values_are_counted_with_what_aliases_stand_for(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(yaml_text, "_MAX_VALUES", 5)
    parse_yaml(text)
    monkeypatch.setattr(yaml_text, "_MAX_VALUES", 4)
    with pytest.raises(ValueError, match="it holds more than 4 values once aliases are expanded"):
        parse_yaml(text)


CLAIM = "claims: [{says: x, quantity: %s, %s}]\narms:"
WHOLE = (
    "train_size: 100}\nmodel: {widths: [16]}\ntraining: {lr: 1e-3, max_steps: 20}\n"
    "arms:\n  baseline:\n  grokalign: {methods: [{name: grokalign, weight: 1e-2}]}"
)
SPAN = "reduce_to_span: true}\nmodel: {widths: [16]}\ntraining: {optimizer: sgd, max_steps: 20}\n"
MISTAKES = [
    ("lr: 1e-3", "learning_rate: 1", "training.learning_rate: unknown field"),
    ("widths", "width", "model.width: unknown field 'width'; did you mean 'widths'?"),
    ("name: digits", "name: digit", "data.name: unknown data set 'digit'; did you mean 'digit"),
    ("name: grokalign,", "name: grokaling,", "arms.grokalign.methods.0.name"),
    ("weight: 1e-2", "wieght: 1", "methods.0.wieght: unknown field 'wieght'; did you mean"),
    ("lr: 1e-3", "lr: fast", "training.lr: takes a number, as in 0.5; got"),
    ("lr: 1e-3", "lr: -1", "training.lr: Input should be greater than or equal to 0"),
    ("lr: 1e-3", "optimizer: adamm", "training.optimizer: unknown value 'adamm'; did you mean"),
    ("max_steps: 20", "max_steps: 0", "training.max_steps: Input should be greater"),
    (
        "lr: 1e-3",
        "keep_checkpoints: [3, -1]",
        "training.keep_checkpoints: takes true, false or",
    ),
    ("lr: 1e-3", "keep_checkpoints: often", "training.keep_checkpoints: takes true, false or"),
    ("lr: 1e-3", "stop_at: setled", "training.stop_at.name: unknown value 'setled'; did you"),
    (
        "lr: 1e-3",
        "stop_at: 0.9",
        "training.stop_at: takes a section with fields of its own; got",
    ),
    ("lr: 1e-3", "stop_at: {target: high}", "training.stop_at.target: takes a number"),
    ("lr: 1e-3", "stop_at: {metrics: a, target: 1}", "training.stop_at.metrics: unknown field"),
    (
        "lr: 1e-3",
        "stop_at: {name: settled, patienc: 3}",
        "training.stop_at.patienc: unknown field 'patienc'; did you mean 'patience'?",
    ),
    (
        "lr: 1e-3",
        "stop_at: {name: settled, patience: 1}",
        "training.stop_at.patience: Input should be greater than or equal to 2",
    ),
    ("title: A", "titel: A", "titel: unknown field 'titel'; did you mean 'title'?"),
    ("arms:", "arm:", "arms: missing"),
    ("data: {name: digits, train_size: 100}", "", "data: missing"),
    ("lr: 1e-3", "lr: true", "training.lr: takes a number, as in 0.5; got True"),
    ("lr: 1e-3", "lr: '1e-3'", "training.lr: takes a number, as in 0.5; got '1e-3'"),
    ("lr: 1e-3", "lr: .nan", "training.lr: Input should be a finite number"),
    ("lr: 1e-3", "shuffle: no", "training.shuffle: takes true or false; got 'no'"),
    ("lr: 1e-3", "shuffle: 1", "training.shuffle: takes true or false; got 1"),
    ("max_steps: 20", "max_steps: 1:30", "training.max_steps: takes a whole number, as in 100; "),
    ("max_steps: 20", "max_steps: 20.0", "max_steps: takes a whole number, as in 100; got 20.0"),
    ("max_steps: 20", "max_steps: true", "max_steps: takes a whole number, as in 100; got True"),
    ("max_steps: 20", "max_steps: '20'", "max_steps: takes a whole number, as in 100; got '20'"),
    ("weight: 1e-2", "weight: true", "arms.grokalign.methods.0.weight: takes a number"),
    ("name: grokalign,", "name: [a],", "arms.grokalign.methods.0.name: unknown name"),
    ("widths: [16]", "widths: 64", "model.widths: takes a list, as in [64]; got 64"),
    ("widths: [16]", "widths: [true]", "model.widths.0: takes a whole number"),
    ("widths: [16]", "name: [mlp]", "model: unknown model ['mlp']; did you mean 'mlp'?"),
    ("arms:", "seeds: 3\narms:", "seeds: takes a list, as in [3]; got 3"),
    ("arms:", "seeds: [true]\narms:", "seeds.0: takes a whole number"),
    ("arms:", "seeds: [0, 0]\narms:", "seeds: holds 0 twice; give each seed once"),
    ("arms:", "seeds: []\narms:", "seeds: is empty: give at least one seed, as in [0]"),
    ("arms:", "seeds: [-1]\narms:", "seeds.0: Input should be greater than or equal to 0"),
    ("arms:", f"seeds: [{10**20}]\narms:", "seeds.0: Input should be less than"),
    ("arms:", "threads: 1000000\narms:", "threads: Input should be less than or equal to 1024"),
    ("arms:", "vectorize: yes\narms:", "vectorize: takes true, false or auto; got 'yes'"),
    ("name: small", f"name: {'n' * 300}", "name: String should have at most 100 characters"),
    ("baseline:", f"{'n' * 120}:", "String should have at most 100 characters; got 'nnn"),
    ("baseline:", "1:", 'arms.1: takes text, in quotes where it looks like a number: "1"; got 1'),
    ("baseline:", "[a]:", "line 8: a key is text, and this is a list or a mapping"),
    ("arms:", "{a: 1}: 2\narms:", "line 7: a key is text, and this is a list or a mapping"),
    ("  paper: {", "  papr: {", "presets: unknown preset 'papr'; did you mean 'paper'?"),
    ("  paper: {training: {", "  paper: {trainig: {", "presets.paper has 1 mistake"),
    ("max_steps: 40", "max_step: 40", "training.max_step: unknown field 'max_step'; did you mean"),
    ("  paper: {training: {max_steps: 40}}", "  quick: 5", "presets.quick: takes a mapping of"),
    ("presets:\n  paper: {training: {max_steps: 40}}", "presets: [a]", "presets: takes quick and"),
    ("train_size: 100", "train_size: true", "data.train_size: takes a whole number"),
    (
        "train_size: 100",
        "options: {train_size: 5}",
        "data: options.train_size: write it as data.train_size, outside options",
    ),
    ("train_size: 100", "options: {foo: 5}", "data: options.foo: digits takes no options"),
    ("name: digits, train_size: 100", "name: xor, options: {dimensoin: 5}", "mean 'dimension'?"),
    ("train_size: 100", "options: {dtype: 5}", "data: options.dtype: digits takes no options"),
    (
        "name: digits, train_size: 100",
        "name: modular, options: {modulus: a, operation: plus}",
        "data: options.modulus: takes a whole number, as in 100; got 'a'; options.operation: unk",
    ),
    ("{name: digits, train_size: 100}", "digits", "own, as in {name: digits}; got 'digits'"),
    ("name: digits, train_size: 100", "name: x.npz", "; your own is written {file: x.npz}"),
    ("{widths: [16]}", "nets:Net", "of its own, as in {import: nets:Net}; got 'nets:Net'"),
    ("{widths: [16]}", "{name: 'nets:Net'}", "; your own is written {import: nets:Net}"),
    ("[{name: grokalign, weight: 1e-2}]", "[grokalign]", "of its own, as in {name: grokalign}"),
    ("widths: [16]", f"widths: [{10**20}]", "model.widths.0: Input should be less than"),
    (
        "arms:",
        "monitor: {measures: [noise_accuracy]}\narms:",
        "monitor: the measure noise_accuracy needs test points: say how many in monitor.test_size",
    ),
    ("arms:", "monitor: {measures: [robust_accuracy]}\narms:", "needs test points"),
    ("arms:", "monitor: {after_training: [robust_accuracy]}\narms:", "needs test points"),
    ("arms:", "monitor: {measures: [jacobian_pc1, jacobian_pc1]}\narms:", "holds jacobian_pc1 tw"),
    ("arms:", "monitor: {measures: jacobian_pc1}\narms:", "takes a list, as in [jacobian_pc1]"),
    ("lr: 1e-3", "evaluate: {at: [-5]}", "training.evaluate.at.0: Input should be greater"),
    ("lr: 1e-3", "stop_at: {target: 85}", "test_accuracy runs from 0 to 1: got 85; 85 % is 0.85"),
    (
        "arms:",
        "milestones: {g: {metric: test_accuracy, target: 85}}\narms:",
        "milestones.g: target: test_accuracy runs from 0 to 1: got 85; 85 % is 0.85",
    ),
    (
        "arms:",
        CLAIM % ("{kind: steps_to, arm: baseline, target: 85}", "at_least: 1"),
        "claims.0.quantity: target: test_accuracy runs from 0 to 1: got 85",
    ),
    (
        "arms:",
        CLAIM % ("{kind: speed_up, arm: grokalign, target: .5, since: 20}", "at_least: 1"),
        "claims.0.quantity: target: test_accuracy runs from 0 to 1: got 20",
    ),
    (
        "arms:",
        CLAIM % ("{kind: delay, arm: baseline}", "at_least: 2, at_most: 1"),
        "claims.0.at_least: at_least 2 is above at_most 1: no value is both",
    ),
    ("arms:", CLAIM % ("{kind: delay, arm: baseline}", "at_least: .nan"), "be a finite number"),
    (
        "arms:",
        "panels: [{kind: time_to_target, target: 85}]\narms:",
        "target: test_accuracy runs from 0 to 1: got 85",
    ),
    ("arms:", CLAIM % ("{arm: baseline}", "at_least: 1"), "has no 'kind', which says what it is"),
    (
        "arms:",
        CLAIM % ("{kind: step_to, arm: baseline, target: .5}", "at_least: 1"),
        "claims.0.quantity.kind: unknown kind 'step_to'; did you mean 'steps_to'?",
    ),
    (
        "arms:",
        CLAIM % ("{kind: speed_up, arm: grokalign, baseline: basline, target: .5}", "at_most: 1"),
        "the claim 'x': unknown arm 'basline'; did you mean 'baseline'?",
    ),
    ("arms:", "panels: [{title: x}]\narms:", "panels.0: has no 'kind', which says what it is"),
    (
        "arms:",
        "panels: [{kind: curve}]\narms:",
        "panels.0.kind: unknown kind 'curve'; did you mean 'curves'?",
    ),
    ("name: grokalign, ", "", "arms.grokalign.methods.0: has no 'name', which says what it is"),
    ("widths: [16]", "widths: [16], activation: relo", "unknown activation 'relo'; did you mean"),
    (
        "arms:",
        "monitor: {after_training: [ntk_distance]}\narms:",
        "monitor.after_training (ntk_distance) measures kept checkpoints: say which steps to keep",
    ),
    (
        "max_steps: 20}",
        "max_steps: 20, keep_checkpoints: true}\n"
        "monitor: {measures: [ntk_distance], after_training: [ntk_distance]}",
        "monitor.after_training and monitor.measures both hold ntk_distance: keep one",
    ),
    (
        "train_size: 100",
        "reduce_to_span: true",
        "data.reduce_to_span is exact with training.optimizer sgd alone: adamw treats",
    ),
    (
        WHOLE,
        SPAN + "arms:\n  baseline: {methods: [{name: adversarial, eps: 0.1}]}",
        "data.reduce_to_span is not exact with adversarial, only with",
    ),
    (
        WHOLE,
        SPAN + "analysis: representation\narms:\n  baseline:",
        "an analysis needs networks of whole inputs: drop reduce_to_span",
    ),
    (
        WHOLE,
        SPAN + "vectorize: true\narms:\n  baseline:",
        "vectorize: true does not go with data.reduce_to_span, which gives each network data of",
    ),
    (
        "arms:\n  baseline:\n  grokalign: {methods: [{name: grokalign, weight: 1e-2}]}",
        "arms: {}",
        "an experiment needs at least one arm, or an analysis",
    ),
    ("arms:", "analysis: region\narms:", "unknown analysis 'region'; did you mean 'regions'?"),
    (
        "arms:",
        "analysis: regions\nanalysis_options: {radus: 1}\narms:",
        "unknown option of the analysis 'radus'; did you mean 'radius'?",
    ),
]


@pytest.mark.parametrize(("old", "new", "said"), MISTAKES, ids=[row[1][:40] for row in MISTAKES])
def test_a_wrong_value_is_told_with_what_is_taken(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    message = broken(tmp_path, old, new)
    assert said in message
    assert len(message) < 700


def test_a_number_in_octal_or_with_zeros_in_front_is_the_one_it_looks_like(tmp_path: Path) -> None:
    for text, steps in (("0100", 100), ("0o100", 64)):
        (tmp_path / "s.yaml").write_text(SMALL.replace("max_steps: 20", f"max_steps: {text}"))
        arms = load_experiment(str(tmp_path / "s.yaml")).arms
        assert arms["baseline"].training.max_steps == steps


# Wherever a spec makes a name of a key: a folder, a file, a column, a section, an argument.
OWN = "import: 'os:getcwd', arguments"
NAMED = {
    "name: small": "name: '{}'",
    "title: A small experiment": "title: x\n'{}': 1",
    "data: {name: digits, train_size: 100}": "data: {name: digits, options: {'{}': 1}}",
    "train_size: 100": "'{}': 100",
    "name: digits, train_size: 100": f"{OWN}: {{'{{}}': 1}}",
    "name: digits": "name: '{}'",
    "widths: [16]": f"{OWN}: {{'{{}}': 1}}",
    "model: {widths": "model: {name: '{}', widths",
    "training: {": "training: {'{}': 1, ",
    "max_steps: 20": "evaluate: {'{}': 1}",
    "lr: 1e-3": "stop_at: {name: '{}'}",
    "arms:\n": "milestones: {'{}': {metric: test_accuracy, target: 0.5}}\narms:\n",
    "arms:": "duration: {'{}': 1 min}\narms:",
    "arms": "preset: '{}'\narms",
    "arms:\n ": "analysis: '{}'\narms:\n ",
    "arms:\n  ": "analysis: regions\nanalysis_options: {'{}': 1}\narms:\n  ",
    "arms:\n  b": "monitor: {measures: ['{}']}\narms:\n  b",
    "baseline:": "'{}':",
    "name: grokalign": "name: '{}'",
    "weight: 1e-2": "'{}': 1",
    "  paper: {": "  '{}': {",
}
HOSTILE = ["/tmp/evil", "../evil", "..", ".evil", "a/b", "a\\b", "e vil", "-evil", "n" * 300]


@pytest.mark.parametrize("name", ["/tmp/evil", "..", "a\\b", "n" * 300 + "-"])
@pytest.mark.parametrize(("place", "key"), list(NAMED.items()), ids=list(NAMED.values()))
def test_what_is_no_name_is_refused_wherever_a_spec_has_one(
    tmp_path: Path, place: str, key: str, name: str
) -> None:
    assert place in SMALL
    (tmp_path / "s.yaml").write_text(SMALL.replace(place, key.replace("{}", name), 1))
    with pytest.raises(SpecError) as caught:
        load_experiment(str(tmp_path / "s.yaml"))
    assert name[:30] in str(caught.value).replace("\\\\", "\\")
    assert len(str(caught.value)) < 700


PATHS = ["duration.{}", "milestones.{}", "arms.{}.title", "training.{}", "data.options.{}", "{}"]
WAYS = ["--set", "--grid", "grid", "settings"]


@pytest.mark.parametrize(
    ("way", "path", "name"),
    [
        *((way, "duration.{}", name) for way in WAYS for name in HOSTILE),
        *(("grid", path, "/tmp/evil") for path in PATHS[1:]),
    ],
)
def test_a_path_that_has_no_names_is_refused(
    tmp_path: Path, way: str, path: str, name: str
) -> None:
    path = path.replace("{}", name)
    lists = {"grid": f"grid: {{'{path}': [a, b]}}", "settings": f"settings: [{{'{path}': a}}]"}
    section = f"\nsweep: {{{lists[way]}}}\n" if way in lists else ""
    (tmp_path / "s.yaml").write_text(SMALL + section)
    given = [f"{path}=a"]
    with pytest.raises(SpecError) as caught:
        plan_sweep(
            str(tmp_path / "s.yaml"),
            settings=given if way == "--set" else (),
            grid=given if way == "--grid" else (),
        )
    assert "names no section or field: a path is names with dots between" in str(caught.value)
    assert len(str(caught.value)) < 700


TARGET = "{metric: test_accuracy, target: 0.5}"


@pytest.mark.parametrize(
    ("grid", "names"),
    [
        ("title: [/abs/path, ../x]", ["title=-abs-path", "title=..-x"]),
        (
            f"milestones.{'m' * 100}: [{TARGET}], title: [a, b]",
            ["m" * 100 + "=-metric-test-accura", "m" * 100 + "=-metric-test-accura+2"],
        ),
    ],
)
def test_a_setting_is_named_after_its_path_and_values_and_stays_in_the_folder(
    tmp_path: Path, grid: str, names: list[str]
) -> None:
    (tmp_path / "s.yaml").write_text(f"{SMALL}\nsweep: {{grid: {{{grid}}}}}\n")
    plan = plan_sweep(str(tmp_path / "s.yaml"))
    assert [setting.name for setting in plan.settings] == names
    plan.write(tmp_path / "sweep")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.yaml", "sweep"]
    assert all((tmp_path / "sweep" / name / "experiment.yaml").exists() for name in names)
