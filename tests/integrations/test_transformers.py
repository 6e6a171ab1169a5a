"""The callbacks in a real ``Trainer``, on a small GPT-2 and a small BERT."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.data import Dataset, SequentialSampler
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
)

import grokscope as gs
from grokscope.integrations.transformers import (
    CENTROID_MEASURES,
    MethodsCallback,
    MonitorCallback,
    logits_by_embeddings,
    token_scores,
)
from grokscope.methods import Method
from grokscope.runs import History

# two names of one setting, by the version of Transformers
CHECKPOINTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in TrainingArguments.__dataclass_fields__
)
TOKENS = torch.randint(3, 20, (24, 6), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(TOKENS).index_put((torch.arange(0, 24, 3), torch.tensor(5)), torch.tensor(0))


class Texts(Dataset[dict[str, Tensor]]):
    """Dictionaries as a tokenizer gives them; labels are the tokens or a class."""

    def __init__(self, causal: bool) -> None:
        labels = TOKENS.masked_fill(MASK == 0, -100) if causal else TOKENS[:, 0] % 3
        self.columns = {"input_ids": TOKENS, "attention_mask": MASK, "labels": labels}

    def __len__(self) -> int:
        return len(TOKENS)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: column[index] for name, column in self.columns.items()}


NORMS = ("weight_norm", "last_layer_norm")


def gpt2() -> Any:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=20, n_positions=8, n_embd=16, n_layer=1, n_head=2,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
            attn_implementation="eager",
        )
    )  # fmt: skip


def bert() -> Any:
    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=20, max_position_embeddings=8, hidden_size=16, num_hidden_layers=1,
            num_attention_heads=2, intermediate_size=24, num_labels=3, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0, attn_implementation="eager",
        )
    )  # fmt: skip


class InOrder(Trainer):
    """A Trainer that takes the examples in the order of the data."""

    def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
        return SequentialSampler(self.train_dataset)


def methods() -> list[Method]:
    return [gs.GrokAlign(0.05), gs.Grokfast(alpha=0.5)]


def trained(
    model: Any, folder: Path, callbacks: list[Any], resume: bool = False, **arguments: Any
) -> Trainer:
    """A short training by the Trainer."""
    own = {"max_steps": 4, "save_strategy": "no", "gradient_accumulation_steps": 1, **arguments}
    trainer = InOrder(
        model,
        TrainingArguments(
            str(folder),
            per_device_train_batch_size=4,
            optim="sgd",
            learning_rate=0.1,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            logging_strategy="no",
            **own,
        ),
        train_dataset=Texts(isinstance(model, GPT2LMHeadModel)),
        callbacks=callbacks,
    )
    trainer.model_accepts_loss_kwargs = False  # the mean over micro-batches, for every model
    trainer.train(resume_from_checkpoint=resume or None)
    return trainer


def own_loop(model: Any, accumulate: int = 1, half: bool = False) -> History:
    """The same training in a loop of our own, by ``attach``."""
    view = logits_by_embeddings(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for method in methods():
        method.attach(view, optimizer)
    data, index = Texts(isinstance(model, GPT2LMHeadModel)), 0
    columns = data.columns
    causal = isinstance(model, GPT2LMHeadModel)
    y = columns["labels"][:, 1:] if causal else columns["labels"]
    x = {name: column for name, column in columns.items() if name != "labels"}
    settings: dict[str, Any] = (
        {"measures": CENTROID_MEASURES, "scores": token_scores} if causal else {}
    )
    monitor = gs.Monitor(view, (x, y), schedule=1, **settings).attach(optimizer)
    model.train()
    for _ in range(4):
        starts = [(index + i) * 4 % 24 for i in range(accumulate)]
        index += accumulate
        batches = [{n: c[s : s + 4] for n, c in columns.items()} for s in starts]
        for batch in batches:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                loss = model(**batch).loss
            (loss / accumulate).backward()
        optimizer.step()
        optimizer.zero_grad()
    return monitor.history


def assert_same(one: nn.Module, other: nn.Module, atol: float = 2e-5) -> None:
    for (name, mine), its in zip(one.named_parameters(), other.parameters(), strict=True):
        assert_close(mine, its, rtol=1e-4, atol=atol, msg=lambda said, name=name: f"{name}: {said}")


@pytest.mark.parametrize("build", [gpt2, bert])
@pytest.mark.parametrize(
    "arguments",
    [{}, {"gradient_accumulation_steps": 2}, {"bf16": True}, {CHECKPOINTING: True}],
    ids=["plain", "accumulation", "bf16", "checkpointing"],
)
def test_a_training_is_the_loop_with_methods_and_monitor(
    build: Any, arguments: dict[str, Any], tmp_path: Path
) -> None:
    model, twin = build(), build()
    watched = MonitorCallback(schedule=1)
    trainer = trained(model, tmp_path, [watched, MethodsCallback(methods())], **arguments)
    half = "bf16" in arguments
    history = own_loop(twin, arguments.get("gradient_accumulation_steps", 1), half)
    assert_same(model, twin, atol=1e-3 if half else 2e-5)
    assert watched.monitor is not None
    found = watched.monitor.history
    assert found.steps.tolist() == history.steps.tolist() == [0, 1, 2, 3, 4]
    for name in ("centroid_alignment", "centroid_norm", "probe_accuracy", "probe_loss"):
        assert_close(found[name], history[name], rtol=2e-2 if half else 1e-3, atol=1e-4)
    logged = [row for row in trainer.state.log_history if "centroid_alignment" in row]
    assert [row["step"] for row in logged] == [0, 1, 2, 3, 4]
    assert logged[2]["probe_loss"] == found["probe_loss"][2]


def test_the_methods_change_the_training(tmp_path: Path) -> None:
    with_them, without = gpt2(), gpt2()
    trained(with_them, tmp_path, [MethodsCallback([gs.GrokAlign(0.05)])])
    trained(without, tmp_path, [MethodsCallback([gs.GrokAlign(0.0)])])
    assert not torch.equal(with_them.lm_head.weight, without.lm_head.weight)


def test_a_training_that_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    whole, seen = bert(), MonitorCallback(schedule=1)
    trained(whole, tmp_path / "whole", [seen, MethodsCallback(methods())])
    watched = MonitorCallback(schedule=1)
    saving = {"save_strategy": "steps", "save_steps": 2}
    for steps in (2, 4):
        model, watched = bert(), MonitorCallback(schedule=1)
        callbacks = [watched, MethodsCallback(methods())]
        trained(model, tmp_path / "run", callbacks, steps > 2, max_steps=steps, **saving)
    assert_same(model, whole)
    assert seen.monitor is not None
    assert watched.monitor is not None
    assert_close(
        watched.monitor.history["centroid_alignment"], seen.monitor.history["centroid_alignment"]
    )
    # without its state a method says so, and a monitor counts from the checkpoint's step
    shutil.rmtree(tmp_path / "run/checkpoint-4")
    for path in (tmp_path / "run/checkpoint-2").glob("grokscope-*"):
        path.unlink()
    later = MonitorCallback(schedule=1)
    with pytest.warns(UserWarning, match="no state of methods"):
        trained(bert(), tmp_path / "run", [later, MethodsCallback(methods())], True)
    assert later.monitor is not None
    assert later.monitor.history.steps.tolist() == [2, 3, 4]


def test_two_monitors_go_on_from_a_checkpoint_each_from_its_own(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2}
    for steps in (2, 4):
        both = [MonitorCallback(schedule=1, measures=[name]) for name in NORMS]
        trained(bert(), tmp_path, both, steps > 2, max_steps=steps, **saving)
    for watched, name in zip(both, NORMS, strict=True):
        assert watched.monitor is not None
        found = watched.monitor.history
        assert found.steps.tolist() == [0, 1, 2, 3, 4]
        assert [other in found for other in NORMS] == [other == name for other in NORMS]


def test_what_is_measured_is_the_users_choice(tmp_path: Path) -> None:
    model = gpt2()
    rows: list[tuple[int, dict[str, float]]] = []
    columns = Texts(True).columns
    x = {name: columns[name] for name in ("input_ids", "attention_mask")}
    watched = MonitorCallback(
        (x, TOKENS[:, 0]),
        test=Texts(True).columns | {"labels": TOKENS[:, 0]},
        view=lambda m: gs.View(
            m,
            lambda own, b: own(**b).logits[:, 0],
            embed=lambda own, b: {
                "inputs_embeds": own.get_input_embeddings()(b["input_ids"]),
                "attention_mask": b["attention_mask"],
            },
        ),
        log=lambda row, step: rows.append((step, row)),
        measures=["jacobian_norm"],
        schedule=2,
    )
    trained(model, tmp_path, [watched])
    assert [step for step, _ in rows] == [0, 2, 4]
    assert {"jacobian_norm", "test_accuracy", "probe_accuracy"} <= set(rows[-1][1])


def test_the_view_is_the_model_at_its_embeddings() -> None:
    for model in (gpt2().eval(), bert().eval()):
        batch = {"input_ids": TOKENS[:4], "attention_mask": MASK[:4]}
        view = logits_by_embeddings(model)
        expected = model(**batch).logits
        expected = expected[:, :-1] if model.config.model_type == "gpt2" else expected
        expected = expected.flatten(1)
        assert_close(view(batch), expected)
        assert_close(view(view.continuous_inputs(batch)), expected)
        twin = copy.deepcopy(model)
        assert_close(gs.centroids(view, batch), gs.centroids(logits_by_embeddings(twin), batch))
