"""An experiment on modular arithmetic, very small: analysis, report, frozen parameters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import grokscope as gs
from grokscope.experiments import load_experiment, run_experiment
from grokscope.report import write_report
from grokscope.runs import Run

SMALL = [
    "data.options.modulus=7",
    "data.options.operation=subtract",
    "model.d_model=16",
    "model.d_mlp=12",
    "training.max_steps=40",
    "training.keep_checkpoints=[0, 20, 40]",
    "monitor.probe_size=5",
    "analysis_options={num_frequencies: 2}",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    experiment = load_experiment("modular-addition-frozen", settings=SMALL, num_seeds=2)
    return run_experiment(experiment, tmp_path_factory.mktemp("modular") / "run", device="cpu")


def test_progress_is_that_of_each_kept_checkpoint(run: Run) -> None:
    data = gs.load_data(
        "modular",
        modulus=7,
        operation="subtract",
        encoding="tokens",
        equals=True,
        train_fraction=0.8,
    )
    x, y = torch.cat([data.train_x, data.test_x]), torch.cat([data.train_y, data.test_y])
    train = torch.arange(49) < len(data.train_x)
    progress = run.results["progress"]["grokalign"]
    assert progress["steps"] == [0, 20, 40]
    for place, step in enumerate((0, 20, 40)):
        losses = []
        for seed in (0, 1):
            model = gs.Transformer(7, d_model=16, num_heads=4, d_mlp=12)
            model.load_state_dict(run.checkpoint("grokalign", seed, 40)["model"])
            neuron_logit = model.residue_weights()["neuron_logit"]
            keys = gs.key_frequencies(neuron_logit, 7, 2)
            model.load_state_dict(run.checkpoint("grokalign", seed, step)["model"])
            losses.append(gs.progress_measures(model(x), y, train, keys).excluded_loss)
        assert progress["excluded_loss"][place] == pytest.approx(sum(losses) / 2)
        spread = abs(losses[0] - losses[1]) / 2**0.5
        assert progress["excluded_loss_deviation"][place] == pytest.approx(spread)
    rows = [row for row in run.results["table"] if row["condition"] == "GrokAlign"]
    assert [row["seed"] for row in rows] == [0, 1]
    shares = [row["logit_share"] for row in rows]
    last = run.results["last"]
    assert last["grokalign"]["logit_share"] == pytest.approx(sum(shares) / 2)
    assert run.results["finding"] == (
        "Share of the logits' variance in key frequencies at the end: "
        f"Weight decay alone: {last['weight-decay']['logit_share']:.0%}; "
        f"GrokAlign: {last['grokalign']['logit_share']:.0%}"
    )


def test_what_is_frozen_stays_and_the_rest_is_trained(run: Run) -> None:
    for arm in ("weight-decay", "grokalign"):
        first, last = (run.checkpoint(arm, 1, step)["model"] for step in (0, 40))
        unchanged = {name for name in first if torch.equal(first[name], last[name])}
        assert unchanged == {"embed.weight", "unembed.weight"}
        spectra = run.arrays(arm, 1, "spectra")
        assert spectra["steps"].tolist() == [0, 20, 40]
        assert spectra["frequencies"].tolist() == [1, 2, 3]
        assert spectra["neuron_logit"].shape == (3, 3)
        assert torch.equal(spectra["neuron_logit"].amax(0), torch.ones(3))
        spectrum = gs.fourier_spectrum(first["embed.weight"], 7)[1:]
        torch.testing.assert_close(spectra["embedding"][:, 0], spectrum / spectrum.max())
    ours, alone = (run.history(arm, 0) for arm in ("grokalign", "weight-decay"))
    assert ours["jacobian_norm"][-1] < alone["jacobian_norm"][-1]
    assert "unseen_accuracy" in ours


def test_the_report_shows_them(run: Run, tmp_path: Path) -> None:
    page = write_report([run.path], tmp_path / "page.html").read_text()
    titles = "Progress measures", "Fourier spectrum of the neuron-logit map", "Key frequencies"
    for title in titles:
        assert title in page
