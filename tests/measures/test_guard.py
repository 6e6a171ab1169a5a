"""A model is what it was after a measure, whatever its forward pass does and however it is held."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import grokscope as gs
from grokscope.measures.guard import modules_within, undisturbed, without_wrappers


class Restless(nn.Module):
    """Changes everything that a forward pass can change."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
        self.out = nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(3))
        self.scale = nn.Parameter(torch.ones(3))
        self.count = 0
        self.seen: list[int] = []
        self.table = torch.zeros(2)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.count += 1
        self.seen.append(len(x))
        self.table[0] += 1
        random.random()
        with torch.no_grad():
            self.scale.data.mul_(0.9)
            self.out.weight.clamp_(-0.1, 0.1)
        self.out.register_forward_hook(lambda *_: None)
        h = self.out(self.inner(x)) * self.scale
        self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)  # another tensor under the name
        return h + torch.rand(3)


def restless() -> nn.Module:
    return Restless()


def renormalized() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 5), Rounded(), nn.Embedding(9, 3, max_norm=0.1), Summed())
    return model


class Rounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.abs().long().clamp(max=8)


class Summed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1)


def spectral() -> nn.Module:
    old = nn.utils.spectral_norm(nn.Linear(4, 5))
    new = nn.utils.parametrizations.spectral_norm(nn.Linear(5, 3))
    return nn.Sequential(old, nn.Tanh(), new)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "restless": restless,
    "max_norm behind code of its own": renormalized,
    "spectral norm": spectral,
}

GLOBAL_MODEL = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


def through_a_global(x: Tensor) -> Tensor:
    return GLOBAL_MODEL(x) + 1


class Holder:
    """An object with a model, called by a method that calls a method."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.unrelated = nn.Linear(1, 1)

    def outputs(self, x: Tensor) -> Tensor:
        return self._inner(x)

    def _inner(self, x: Tensor) -> Tensor:
        return self.model(x)

    def __call__(self, x: Tensor) -> Tensor:
        return self.outputs(x)


def with_model(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)


HOLDERS: dict[str, Callable[[nn.Module], Callable[[Tensor], Tensor]]] = {
    "itself": lambda model: model,
    "lambda": lambda model: lambda x: 2 * model(x),
    "lambda in a lambda": lambda model: (lambda f: lambda x: f(x))(lambda x: model(x)),
    "comprehension": lambda model: lambda x: torch.stack([model(x) for _ in range(2)]).sum(0),
    "default argument": lambda model: lambda x, m=model: m(x),
    "partial": lambda model: functools.partial(with_model, model),
    "bound method": lambda model: model.forward,
    "method of an object": lambda model: Holder(model).outputs,
    "callable object": lambda model: Holder(model),
    "attribute of an object": lambda model: (lambda o: lambda x: o.net(x))(
        SimpleNamespace(net=model)
    ),
    "list": lambda model: (lambda models: lambda x: models[0](x))([model]),
    "unregistered": lambda model: Unregistered(model),
    "data parallel": lambda model: nn.DataParallel(model),
    "view": lambda model: gs.View(model),
    "view with a forward of its own": lambda model: gs.View(model, lambda m, x: m(x)),
    "view of a lambda": lambda model: gs.View(lambda x: model(x)),
    "view of an object": lambda model: gs.View(Holder(model)),
    "view with another model in its forward": lambda model: gs.View(
        nn.Identity(), lambda _, x: model(x)
    ),
}


class Unregistered(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.held = [model]

    def forward(self, x: Tensor) -> Tensor:
        return self.held[0](x)


def everything(model: nn.Module) -> dict[str, Any]:
    """All that must not change, in a form that compares."""
    found: dict[str, Any] = {"torch": torch.get_rng_state(), "python": random.getstate()}
    for name, module in model.named_modules():
        found[f"{name}.mode"] = module.training
        for key, value in vars(module).items():
            if isinstance(value, Tensor):
                value = value.detach()
            found[f"{name}.{key}"] = dict(value) if key == "_modules" else copy.deepcopy(value)
    found["gradients"] = {n: p.grad for n, p in model.named_parameters()}
    return found


def same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return isinstance(second, Tensor) and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, nn.Module) or callable(first):
        return type(first) is type(second)
    return first == second


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("training", [None, False, True])
def test_everything_is_put_back(name: str, holder: str, training: bool | None) -> None:
    torch.manual_seed(0)
    model = MODELS[name]()
    x = torch.randn(7, 4)
    model.get_submodule("0" if name != "restless" else "inner").train(False)  # modes that differ
    last = list(model.parameters())[-1]
    last.grad = torch.ones_like(last)
    function = HOLDERS[holder](model)
    before = everything(model)
    with undisturbed(function, training):
        function(x)
        assert all(p.grad is None for p in model.parameters())
        if training is not None:
            assert {m.training for m in model.modules()} == {training}
        last.grad = torch.zeros_like(last)
    after = everything(model)
    assert [k for k in before if not same(before[k], after[k])] == []


def test_all_models_of_the_table_are_changed_by_a_forward_pass() -> None:
    for build in MODELS.values():
        model = build()
        before = everything(model)
        model(torch.randn(7, 4))
        after = everything(model)
        assert any(not same(before[k], after[k]) for k in before if k not in ("torch", "python"))


def test_put_back_after_an_error() -> None:
    model = Restless()
    before = everything(model)
    with pytest.raises(RuntimeError, match="shapes"), undisturbed(model, training=False):
        model(torch.randn(7, 5))
    after = everything(model)
    assert all(same(before[k], after[k]) for k in before)


def test_a_graph_from_before_still_runs_backward() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval()
    loss = model(torch.randn(5, 4)).sum()
    with undisturbed(lambda x: model(x)):
        model(torch.randn(5, 4))
    loss.backward()


@pytest.mark.filterwarnings("ignore:.torch.jit.:DeprecationWarning")
def test_compiled_code_runs_eagerly_inside() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    x, ran = torch.randn(6, 4), []
    for model in (torch.compile(net, backend="aot_eager"), net):
        if model is net:
            net.compile(backend="aot_eager")
        model(x)
        with undisturbed(model):
            handle = net[0].register_forward_hook(lambda *_: ran.append(1))
            model(x)
            handle.remove()
    assert len(ran) == 2
    assert without_wrappers(torch.compile(nn.DataParallel(net))) is net


def test_distributed_data_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        net = Restless()
        model = nn.parallel.DistributedDataParallel(net)
        assert without_wrappers(model) is net
        before = everything(net)
        with undisturbed(model, training=False), monkeypatch.context() as patch:
            patch.setattr(model, "_pre_forward", None)  # where what is collective begins
            model(torch.randn(7, 4))
        after = everything(net)
        assert all(same(before[k], after[k]) for k in before)
        model(torch.randn(7, 4)).sum().backward()
    finally:
        # a thread of gloo's that still lets go of gradients waits for the lock that its end holds
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def test_globals_are_followed_but_not_into_what_the_code_does_not_name() -> None:
    assert modules_within(through_a_global) == [GLOBAL_MODEL]
    holder = Holder(nn.Linear(2, 2))
    assert modules_within(holder) == [holder.model]
    assert modules_within(lambda x: F.relu(x)) == []


def test_a_parameter_without_a_copy_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grokscope.measures.guard._COPIED_BYTES", 10)
    model = Restless()
    with pytest.raises(RuntimeError, match="'weight' was changed, by"), undisturbed(model):
        model(torch.randn(7, 4))
    kept = nn.Sequential(nn.Linear(4, 3))
    with undisturbed(kept):
        kept(torch.randn(7, 4))


@pytest.mark.cuda
def test_cuda_random_state() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).cuda()
    before = torch.cuda.get_rng_state()
    with undisturbed(model, training=True):
        model(torch.randn(7, 4, device="cuda"))
    assert torch.equal(before, torch.cuda.get_rng_state())


class Normalizing:
    """A plain object that holds a module, called by its own method or by itself."""

    def __init__(self) -> None:
        self.norm = nn.BatchNorm1d(4)

    def __call__(self, x: Tensor) -> Tensor:
        return self.norm(x)

    def apply(self, x: Tensor) -> Tensor:
        return self(x)


class Slotted:
    __slots__ = ("norm",)

    def __init__(self) -> None:
        self.norm = nn.BatchNorm1d(4)

    def apply(self, x: Tensor) -> Tensor:
        return self.norm(x)


class WithObject(nn.Module):
    """Holds what it calls in a plain object, a container in a container, and a generator."""

    def __init__(self, pre: Any, how: str) -> None:
        super().__init__()
        self.pre, self.how = pre, how
        self.layer = nn.Linear(4, 3)
        self.seen: dict[str, list[int]] = {"sizes": []}
        self.generator = torch.Generator()

    def forward(self, x: Tensor) -> Tensor:
        self.seen["sizes"].append(len(x))
        return self.layer(self.prepared(x)) + torch.rand(3, generator=self.generator)

    def prepared(self, x: Tensor) -> Tensor:
        return self.pre(x) if self.how == "called" else self.pre.apply(x)


@pytest.mark.parametrize(
    ("make", "how"), [(Normalizing, "called"), (Normalizing, "method"), (Slotted, "method")]
)
def test_what_a_module_holds_in_plain_objects_is_put_back(make: Any, how: str) -> None:
    model = WithObject(make(), how)
    state = model.generator.get_state()
    with undisturbed(model, training=True):
        model(torch.randn(5, 4))
    assert int(model.pre.norm.num_batches_tracked) == 0
    assert model.seen == {"sizes": []}
    assert torch.equal(model.generator.get_state(), state)


def generated(name: str, model: nn.Module, x: Tensor) -> Any:
    if name == "fx":
        return torch.fx.symbolic_trace(model)
    if name == "export":
        shapes = ({0: torch.export.Dim("n", min=1, max=64)},)
        return torch.export.export(model, (x,), dynamic_shapes=shapes).module()
    return torch.jit.script(model) if name == "script" else torch.jit.trace(model, x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["fx", "export", "script", "trace"])
def test_code_that_pytorch_generated_is_measured(name: str) -> None:
    x = torch.randn(6, 4)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
    made = generated(name, model, x)
    torch.testing.assert_close(gs.input_jacobian(made, x), gs.input_jacobian(model, x))
    if name in ("fx", "export"):
        # what torch.export made has no layers left that run as modules
        assert len(gs.layer_activations(made, x)) == (3 if name == "fx" else 0)
        torch.testing.assert_close(gs.empirical_ntk(made, x), gs.empirical_ntk(model, x))
    else:
        for measure in (gs.layer_activations, gs.layer_centroids, gs.empirical_ntk):
            with pytest.raises(ValueError, match="pass the module that it was scripted from"):
                measure(made, x)


def test_a_model_made_in_inference_mode_is_named_and_left_as_it_was() -> None:
    with torch.inference_mode():
        made = nn.Linear(4, 8)
    model = nn.Sequential(made, nn.BatchNorm1d(8), nn.Linear(8, 3))
    x = torch.randn(6, 4)
    model[2].weight.grad = torch.ones(3, 8)
    before = everything(model)
    with undisturbed(model), torch.no_grad():
        model(x)
        random.random()
    assert [k for k, v in everything(model).items() if not same(before[k], v)] == []
    model.eval()
    with pytest.raises(ValueError, match=r"inference_mode.*pass copy.deepcopy\(model\)"):
        gs.input_jacobian(model, x)
    assert gs.input_jacobian(copy.deepcopy(model), x).shape == (6, 3, 4)
