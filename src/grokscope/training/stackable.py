"""Whether several trainings can be one, and whether that pays."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from grokscope.measures.batches import Batch, map_leaves, rows
from grokscope.measures.hooks import HOOK_TABLES, ObservingHook
from grokscope.measures.modes import into_training, modes_kept, resting
from grokscope.methods.base import Method, difference
from grokscope.training.evaluation import Evaluation
from grokscope.training.objective import NetworksObjective
from grokscope.training.stacked_networks import StackedNetworks, functional_outputs

_LARGE = 100_000  # parameters of a network whose products alone keep a CPU core busy


def obstacle(methods: Sequence[Sequence[Method]], evaluations: Sequence[Evaluation]) -> str | None:
    """Why the trainings of these networks, with these methods, cannot be one, or None."""
    models = [evaluation.model for evaluation in evaluations]
    found = _difference(models) or _hooked(models) or difference(methods)
    return found or _behaviour(models, evaluations[0])


def slower(model: nn.Module) -> str | None:
    """Why one after another is the faster way here, or None; see benchmarks/bench_seeds.py."""
    if next(model.parameters()).device.type != "cpu":
        return None
    if not StackedNetworks([model]).is_layered:
        return "on a CPU only perceptrons are faster together"
    if sum(parameter.numel() for parameter in model.parameters()) > _LARGE:
        return f"on a CPU networks of more than {_LARGE:,} parameters are not faster together"
    return None


def _difference(models: Sequence[nn.Module]) -> str | None:
    """What in the architecture is not the same."""
    if any(
        type(model) is not type(models[0]) or repr(model) != repr(models[0]) for model in models
    ):
        return "the networks differ in their architecture"
    named = ([*model.named_parameters(), *model.named_buffers()] for model in models)
    forms = [
        [(name, own.shape, own.dtype, own.device, own.requires_grad) for name, own in tensors]
        for tensors in named
    ]
    if any(form != forms[0] for form in forms):
        return "the networks differ in the shapes of their parameters, or in which are trained"
    return None


def _hooked(models: Sequence[nn.Module]) -> str | None:
    for model in models:
        for name, module in model.named_modules():
            hooks = [hook for kind in HOOK_TABLES for hook in getattr(module, kind).values()]
            if not all(isinstance(hook, ObservingHook) for hook in hooks):
                return f"{name or 'the network'} has hooks, which a stack would not call"
    return None


@torch.no_grad()
def _behaviour(models: Sequence[nn.Module], evaluation: Evaluation) -> str | None:
    """What a stack of the networks would do otherwise than they, on two training examples."""
    device = evaluation.data.train_y.device
    x, y = rows(evaluation.data.train_x, slice(0, 2)), evaluation.train_targets[:2]
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices), modes_kept(*models):
            for model in models:
                into_training(model, resting([model]))
            changed = _changed_buffer(models[0], x)
            if changed is not None:
                return f"training changes {changed}, of which a stack would lose count"
            own = torch.stack([_run(model, x) for model in models])
            whole = map_leaves(lambda leaf: leaf.expand(len(models), *leaf.shape), x)
            together = StackedNetworks(models)(whole)
            targets = y.expand(len(models), *y.shape)
            loss = NetworksObjective(evaluation.objective)(own, targets)
            alone = torch.stack([evaluation.objective(outputs, y) for outputs in own]).sum()
    except Exception as error:  # whatever a user's forward pass or loss may raise under vmap
        if "randomness" in str(error):
            return "the networks draw random numbers in training, as dropout does"
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        return f"{type(models[0]).__name__} or its loss does not run on a stack: {reason}"
    if not _same(own, together):
        return "the networks give other outputs in a stack: they differ in more than parameters"
    return None if _same(alone, loss) else "the loss of several networks is not the sum of theirs"


def _run(model: nn.Module, x: Batch) -> Tensor:
    return functional_outputs(
        model, {name: buffer.clone() for name, buffer in model.named_buffers()}, x
    )


def _changed_buffer(model: nn.Module, x: Batch) -> str | None:
    copies = {name: buffer.clone() for name, buffer in model.named_buffers()}
    before = {name: (copy._version, copy) for name, copy in copies.items()}
    functional_outputs(model, copies, x)
    for name, (version, copy) in before.items():
        if copy._version != version or copies[name] is not copy:
            return name
    return None


def _same(one: Tensor, other: Tensor) -> bool:
    size = one.abs().amax().nan_to_num(posinf=1.0)
    return one.shape == other.shape and torch.allclose(
        one, other, rtol=1e-3, atol=1e-4 * float(size), equal_nan=True
    )
