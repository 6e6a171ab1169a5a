"""Callbacks for Hugging Face's ``Trainer``: a monitor, and methods that act in a training.

Both follow the steps of the optimizer, so accumulation, mixed precision, gradient checkpointing and
several processes need no setting here. Tokens have no derivatives: input derivatives are those by
the embeddings. What monitor and methods remember is written into the Trainer's checkpoints.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from grokscope.extras import require
from grokscope.measures.batches import Batch
from grokscope.measures.labels import IGNORED, share_correct
from grokscope.measures.view import View, output_tensor
from grokscope.methods.attachment import Attachment
from grokscope.methods.base import Method
from grokscope.runs.tensors import load_state, save_state
from grokscope.training.examples import LABELS, PROBE_EXAMPLES, TEST_EXAMPLES, examples
from grokscope.training.measurements import DEFAULT_MEASURES
from grokscope.training.monitor import Monitor

_Callback: Any = require("transformers", "transformers").TrainerCallback

Viewed = Callable[[Any], nn.Module] | None

# the outputs at a position are of the token after it
_CAUSAL = ("ForCausalLM", "LMHeadModel", "DoubleHeadsModel")
# a whole Jacobian of these has a row for each token of the vocabulary at each position
_OF_VOCABULARIES = (*_CAUSAL, "ForMaskedLM", "ForPreTraining", "ForConditionalGeneration")
CENTROID_MEASURES = tuple(
    name for name in DEFAULT_MEASURES if name.startswith("centroid") or name == "weight_norm"
)


def logits_by_embeddings(model: Any) -> View:
    """A Transformers model as a function of a batch of tokens, differentiable at the embeddings.

    Its outputs are the logits, those of all positions side by side, (n, t k); of a causal language
    model those that predict a token of the batch, so all but the last position's. Labels in the
    batch are not looked at, and where Accelerate has put autocast into the model's forward pass, it
    is left out.

    Args:
        model: a ``PreTrainedModel``.
    """
    causal = type(model).__name__.endswith(_CAUSAL)

    def forward(module: Any, batch: Mapping[str, Tensor]) -> Tensor:
        entries = {name: entry for name, entry in batch.items() if name not in LABELS}
        run = vars(module).get("_original_forward", module)
        logits = output_tensor(run(**entries))
        return (logits[:, :-1] if causal else logits).flatten(1)

    def embed(module: Any, batch: Mapping[str, Tensor]) -> Batch:
        if "input_ids" not in batch:
            return batch
        rest = {name: entry for name, entry in batch.items() if name != "input_ids"}
        return {"inputs_embeds": module.get_input_embeddings()(batch["input_ids"]), **rest}

    return View(model, forward, embed=embed)


def token_scores(outputs: Float[Tensor, " n tk"], y: Integer[Tensor, " n *t"]) -> dict[str, float]:
    """Loss and accuracy of the tokens, or classes, that are labeled (not -100).

    Args:
        outputs: logits, those of all positions side by side.
        y: a label for each position, or one for each example.
    """
    logits = outputs.reshape(*y.shape, -1)
    loss = functional.cross_entropy(logits.flatten(0, -2), y.flatten(), ignore_index=IGNORED)
    return {"loss": float(loss), "accuracy": share_correct(logits.argmax(-1) == y, y)}


class MonitorCallback(_Callback):
    """Watches a network while the ``Trainer`` trains it.

    Steps are those of the optimizer. The first process measures, and the others wait for it at
    their next step. Of models that give logits for a vocabulary the default measures are those of
    the centroid, which take one backward pass; their Jacobian has a row for each token and
    position.

    Args:
        probe: as for ``gs.Monitor``, or a data set that the Trainer's data collator serves; None
            takes the Trainer's training set. Of causal language models labels are shifted here.
        test: the same of a test set.
        view: a function of the model that gives what is measured, such as a ``gs.View``; then
            labels are taken as they are. None is ``logits_by_embeddings``.
        log: as for ``gs.Monitor``. Rows join the ``log_history`` of the Trainer's state anyway.
        resume_from: the folder that a training goes on from; None looks for the Trainer's
            checkpoint of that step in its ``output_dir``.
        **settings: the other arguments of ``gs.Monitor``.

    Attributes:
        monitor: the ``gs.Monitor``, from the start of the training on; on the first process only.
    """

    def __init__(
        self,
        probe: Any = None,
        *,
        test: Any = None,
        view: Viewed = None,
        log: Any = None,
        resume_from: str | Path | None = None,
        **settings: Any,
    ) -> None:
        self.monitor: Monitor | None = None
        self._probe, self._test, self._log = probe, test, log
        self._view, self._resume_from, self._settings = view, resume_from, settings

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Measure the network as it is, and follow the optimizer from here on."""
        self._number = _number_among(self, state)
        if not state.is_world_process_zero:
            return
        model, loader = given["model"], given["train_dataloader"]
        probe = self._examples("probe", loader if self._probe is None else self._probe, given)
        test = None if self._test is None else self._examples("test", self._test, given)
        settings = dict(self._settings)
        if self._view is None and type(model).__name__.endswith(_OF_VOCABULARIES):
            settings.setdefault("measures", CENTROID_MEASURES)
            settings.setdefault("scores", token_scores)
        log = self._to_history(state)
        viewed = (self._view or logits_by_embeddings)(model)
        monitor = Monitor(viewed, probe, test=test, log=log, **settings)
        saved = _saved(self, args, state, self._resume_from)
        if saved is not None:
            monitor.load_state_dict(saved)
        elif state.global_step:  # a checkpoint of a training that had no monitor
            monitor.step(state.global_step)
        self.monitor = monitor.attach(given["optimizer"])

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Measure the last network at the last step, before a better one may take its place."""
        if self.monitor is not None and state.global_step >= state.max_steps:
            self.monitor.close()

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Measure the last network, unless the best one has taken its place."""
        if self.monitor is None:
            return
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self.monitor.detach()
        else:
            self.monitor.close()

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Write what the monitor remembers beside the checkpoint."""
        if self.monitor is not None:
            save_state(_place(self, args, state), self.monitor.state_dict())

    def _examples(self, name: str, source: Any, given: Mapping[str, Any]) -> tuple[Batch, Tensor]:
        """Inputs and labels, of a data set as the Trainer puts its examples together."""
        most = PROBE_EXAMPLES if name == "probe" else TEST_EXAMPLES
        if isinstance(source, list):  # of examples, and not of inputs and labels
            is_set = all(isinstance(own, Mapping) for own in source)
        else:
            is_set = hasattr(source, "__getitem__") and not isinstance(source, Mapping | tuple)
        if is_set:
            collate = given["train_dataloader"].collate_fn
            source = DataLoader(source, batch_size=32, collate_fn=collate)
        x, y = examples(name, source, most)
        shifted = self._view is None and type(given["model"]).__name__.endswith(_CAUSAL)
        return x, y[:, 1:] if shifted else y

    def _to_history(self, state: Any) -> Any:
        log = self._log
        if hasattr(log, "add_scalar"):
            return log

        def noted(row: dict[str, float], step: int) -> None:
            state.log_history.append({**row, "step": step})
            if log is not None:
                log(row, step=step)

        return noted


class MethodsCallback(_Callback):
    """Lets methods act in a training, at every step of the optimizer; see ``Method.attach``.

    The Trainer clips gradients before they act (``max_grad_norm``); ``gs.GradientClipping`` as the
    last method comes after.

    Args:
        methods: such as ``[gs.GrokAlign(1e-3)]``; the first one acts first.
        view: a function of the model that gives what penalties are taken of, such as a ``gs.View``.
            None is ``logits_by_embeddings``.
        resume_from: as for ``MonitorCallback``.

    Raises:
        ValueError: if a method changes the inputs, at the start of the training.
    """

    def __init__(
        self,
        methods: Sequence[Method],
        *,
        view: Viewed = None,
        resume_from: str | Path | None = None,
    ) -> None:
        self.methods = list(methods)
        self._view, self._resume_from = view, resume_from
        self._attachments: list[Attachment] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Act from here on."""
        self._number = _number_among(self, state)
        saved = _saved(self, args, state, self._resume_from)
        if saved is None and state.global_step:
            warnings.warn(
                "the checkpoint has no state of methods: they start anew; resume_from= of "
                "MethodsCallback names another folder",
                stacklevel=2,
            )
        self._detach()
        viewed = (self._view or logits_by_embeddings)(given["model"])
        for number, method in enumerate(self.methods):
            attached = Attachment(
                viewed, given["optimizer"], method, inputs=_tensors, distributed=args.world_size > 1
            )
            if saved is not None:
                method.load_state_dict(saved[f"{number} {method.name}"])
                attached.steps = saved["steps"][number]
            self._attachments.append(attached)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Act no longer."""
        self._detach()

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Write what the methods remember beside the checkpoint."""
        if state.is_world_process_zero:
            own: dict[str, Any] = {
                f"{i} {each.name}": each.state_dict() for i, each in enumerate(self.methods)
            }
            own["steps"] = [each.steps for each in self._attachments]
            save_state(_place(self, args, state), own)

    def _detach(self) -> None:
        for attached in self._attachments:
            attached.detach()
        self._attachments = []


def _tensors(_args: tuple[Any, ...], kwargs: dict[str, Any]) -> Batch:
    """What belongs to the examples among the arguments that the Trainer calls a model with."""
    return {
        name: value
        for name, value in kwargs.items()
        if isinstance(value, Tensor) and value.ndim and name not in LABELS
    }


def _number_among(callback: Any, state: Any) -> int:
    """Which one of its class it is in a training, 1 for the first: they begin in their order."""
    # A training has a state of its own, and what is no field of it is not saved.
    begun = vars(state).setdefault("_grokscope_begun", [])
    begun.append(type(callback).__name__)
    return int(begun.count(type(callback).__name__))


def _place(callback: Any, args: Any, state: Any, folder: str | Path | None = None) -> Path:
    """Where a callback's state is, in the checkpoint of the step or in ``folder``."""
    own = Path(args.output_dir) / f"checkpoint-{state.global_step}" if folder is None else folder
    among = f"-{callback._number}" if callback._number > 1 else ""
    return Path(own) / f"grokscope-{type(callback).__name__}{among}.safetensors"


def _saved(
    callback: Any, args: Any, state: Any, folder: str | Path | None
) -> dict[str, Any] | None:
    """The state that a training goes on from, if it goes on from one."""
    path = _place(callback, args, state, folder)
    return load_state(path) if state.global_step and path.exists() else None
