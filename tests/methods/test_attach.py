"""A method attached to an optimizer takes the steps that it takes when the loop calls it."""

from __future__ import annotations

import copy
import gc
import io
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import LBFGS, SGD, AdamW, Optimizer
from torch.testing import assert_close

import grokscope as gs
from grokscope.measures.chain import chain_of
from grokscope.measures.guard import without_wrappers
from grokscope.measures.view import unwrapped
from grokscope.methods import METHODS, Method
from grokscope.methods.attachment import Attachment

BATCHES = [torch.randn(6, 5, generator=torch.Generator().manual_seed(i)) for i in range(8)]
LABELS = torch.arange(6) % 3

Build = Callable[[], nn.Module]
# what is attached, how its twin in the loop is made, and at every how many steps that one acts
ATTACHED: dict[str, tuple[Callable[[], Method], Callable[[], Method], int]] = {
    "grokalign": (lambda: gs.GrokAlign(0.1), lambda: gs.GrokAlign(0.1), 1),
    "grokalign, every second step": (
        lambda: gs.GrokAlign(0.1, projections=None, every=2),
        lambda: gs.GrokAlign(0.2, projections=None),
        2,
    ),
    "grokalign, constrained": (
        lambda: gs.GrokAlign(0.1, "constrain", 2.0, projections=None, offset_weight=0.3),
        lambda: gs.GrokAlign(0.1, "constrain", 2.0, projections=None, offset_weight=0.3),
        1,
    ),
    "grokfast": (lambda: gs.Grokfast(), lambda: gs.Grokfast(), 1),
    "grokfast, windows": (
        lambda: gs.Grokfast("ma", window=2),
        lambda: gs.Grokfast("ma", window=2),
        1,
    ),
    "orthograd": (lambda: gs.OrthoGrad(), lambda: gs.OrthoGrad(), 1),
    "gradient_noise": (lambda: gs.GradientNoise(), lambda: gs.GradientNoise(), 1),
    "clipping": (lambda: gs.GradientClipping(0.3), lambda: gs.GradientClipping(0.3), 1),
}
every_method = pytest.mark.parametrize("name", ATTACHED)
# A difference takes its length from the inputs of its batch, so it is the same but for rounding
# where the network is smooth; in processes only, as some of the other tests' networks have kinks.
_SMOOTH = {
    "grokalign, by differences": (
        lambda: gs.GrokAlign(0.1, projections=None, estimator="difference"),
        lambda: gs.GrokAlign(0.1, projections=None, estimator="difference"),
        1,
    )
}


class TwoInputs(nn.Module):
    """A model of a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.read = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        return self.read(F.gelu(self.own(features * mask)))


def perceptron() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).double()


def smooth() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3)).double()


def place(model: nn.Module) -> torch.dtype:
    return next(model.parameters()).dtype


def by_its_calls(
    model: nn.Module,
    optimizer: Optimizer,
    name: str,
    micro: int = 1,
    batches: Sequence[Tensor] = BATCHES,
) -> None:
    """The twin: the method is called in the loop, where its page says it is."""
    _, make, every = (ATTACHED | _SMOOTH)[name]
    method = make()
    for step, first in enumerate(range(0, len(batches), micro), 1):
        optimizer.zero_grad()
        for x in batches[first : first + micro]:
            x = x.to(place(model))
            loss = F.cross_entropy(model(x), torch.cat([LABELS] * (len(x) // 6)))
            if isinstance(method, gs.GrokAlign) and step % every == 0:
                loss = loss + method(model, x)
            (loss / micro).backward()
        if not isinstance(method, gs.GrokAlign):
            method(model)
        optimizer.step()


def plainly(model: nn.Module, optimizer: Optimizer, micro: int = 1) -> None:
    """The loop that knows of no method."""
    for first in range(0, len(BATCHES), micro):
        optimizer.zero_grad()
        for x in BATCHES[first : first + micro]:
            (F.cross_entropy(model(x.to(place(model))), LABELS) / micro).backward()
        model.eval()
        model(BATCHES[0].to(place(model)))  # an evaluation in between is not trained on
        model.train()
        model(BATCHES[1].to(place(model)))  # nor is a forward pass without a backward pass
        optimizer.step()


def assert_same(one: nn.Module, other: nn.Module, rtol: float = 1e-11, atol: float = 1e-13) -> None:
    for mine, its in zip(one.parameters(), other.parameters(), strict=True):
        assert_close(mine, its, rtol=rtol, atol=atol)


def test_every_method_is_in_the_table() -> None:
    own = {type(make()) for make, _, _ in ATTACHED.values()}
    assert {METHODS[name] for name in METHODS} - own == {gs.AdversarialTraining}


@every_method
@pytest.mark.parametrize("build", [perceptron, smooth])
@pytest.mark.parametrize("micro", [1, 4])
def test_the_steps_are_those_of_the_method_in_the_loop(build: Build, name: str, micro: int) -> None:
    models = build(), build()
    by_its_calls(models[0], SGD(models[0].parameters(), lr=0.1), name, micro)
    optimizer = SGD(models[1].parameters(), lr=0.1)
    method = ATTACHED[name][0]().attach(models[1], optimizer)
    plainly(models[1], optimizer, micro)
    assert_same(*models)
    method.detach()
    apart = copy.deepcopy(models[1])
    plainly(models[1], optimizer, micro)
    plainly(apart, SGD(apart.parameters(), lr=0.1), micro)
    assert_same(apart, models[1], 0, 0)


@every_method
def test_an_optimizer_that_is_given_a_closure(name: str) -> None:
    models = smooth(), smooth()
    by_its_calls(models[0], AdamW(models[0].parameters(), lr=0.01), name)
    optimizer = AdamW(models[1].parameters(), lr=0.01)
    ATTACHED[name][0]().attach(models[1], optimizer)
    for step, x in enumerate(BATCHES):

        def closure(x: Tensor = x) -> Tensor:
            loss = F.cross_entropy(models[1](x.double()), LABELS)
            optimizer.zero_grad()  # as Lightning does it, after the forward pass
            loss.backward()
            return loss

        loss = optimizer.step(closure) if step % 2 else optimizer.step(closure=closure)
        assert isinstance(loss, Tensor)
    assert_same(*models)


def test_a_closure_that_is_called_several_times_is_one_step() -> None:
    model = smooth()
    optimizer = LBFGS(model.parameters(), max_iter=5)
    method = gs.GrokAlign(0.1, projections=None).attach(model, optimizer)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(BATCHES[0].double()), LABELS)
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
    assert method.state["steps"] == 2


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_a_line_search_goes_by_the_loss_with_the_penalty(search: str | None) -> None:
    models = smooth(), smooth()
    optimizers = [LBFGS(own.parameters(), max_iter=6, line_search_fn=search) for own in models]
    methods = [gs.GrokAlign(0.1, projections=None) for _ in models]
    methods[1].attach(models[1], optimizers[1])
    for x in BATCHES[:3]:
        losses = []
        for model, optimizer in zip(models, optimizers, strict=True):

            def closure(model: Any = model, optimizer: Any = optimizer, x: Any = x) -> Any:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x.double()), LABELS)
                if model is models[0]:
                    loss = loss + methods[0](model, x.double())
                loss.backward()
                return loss

            losses.append(optimizer.step(closure))
        assert_close(losses[1], losses[0], rtol=1e-9, atol=1e-9)
    assert_same(*models, rtol=1e-8, atol=1e-8)


@every_method
@pytest.mark.parametrize("micro", [1, 2])
def test_bfloat16_autocast(name: str, micro: int) -> None:
    models = smooth().float(), smooth().float()
    for model, attached in zip(models, (False, True), strict=True):
        optimizer = SGD(model.parameters(), lr=0.1)
        method = ATTACHED[name][not attached]()
        if attached:
            method.attach(model, optimizer)
        for step, first in enumerate(range(0, 8, micro), 1):
            optimizer.zero_grad()
            for x in BATCHES[first : first + micro]:
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = F.cross_entropy(model(x), LABELS)
                penalized = isinstance(method, gs.GrokAlign) and not attached
                if penalized and step % ATTACHED[name][2] == 0:
                    loss = loss + method(model, x)
                (loss / micro).backward()
            if not attached and not isinstance(method, gs.GrokAlign):
                method(model)
            optimizer.step()
    assert_same(*models, rtol=1e-5, atol=1e-6)


@every_method
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("late", [False, True])
def test_a_step_that_a_scaler_leaves_out_does_nothing(name: str, fused: bool, late: bool) -> None:
    model, twin = smooth().float(), smooth().float()
    optimizer = AdamW(model.parameters(), lr=0.01, fused=fused)
    ATTACHED[name][0]().attach(model, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    for step, batch in enumerate(BATCHES[:5]):
        if not late:
            optimizer.zero_grad()
        loss = F.cross_entropy(model(batch), LABELS)
        if late:  # gradients are dropped between the forward pass and the backward pass
            optimizer.zero_grad()
        scaler.scale(loss * (torch.inf if step in (0, 2) else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
    kept = [BATCHES[step] for step in (1, 3, 4)]
    by_its_calls(twin, AdamW(twin.parameters(), lr=0.01), name, batches=kept)
    assert_same(model, twin, rtol=2e-5, atol=2e-6)


def test_without_strength_nothing_changes() -> None:
    models = perceptron(), perceptron()
    optimizers = [SGD(model.parameters(), lr=0.1) for model in models]
    for method in (gs.GrokAlign(0), gs.Grokfast(strength=0), gs.OrthoGrad(0), gs.GradientNoise(0)):
        method.attach(models[1], optimizers[1])
    for model, optimizer in zip(models, optimizers, strict=True):
        plainly(model, optimizer, 2)
    assert_same(*models, 0, 0)


def test_of_several_methods_the_first_attached_acts_first() -> None:
    models = smooth(), smooth()
    optimizers = [SGD(model.parameters(), lr=0.1) for model in models]
    grokalign, clipping = gs.GrokAlign(0.1, projections=None), gs.GradientClipping(0.1)
    for x in BATCHES:
        optimizers[0].zero_grad()
        x = x.double()
        (F.cross_entropy(models[0](x), LABELS) + grokalign(models[0], x)).backward()
        clipping(models[0])
        optimizers[0].step()
    gs.GrokAlign(0.1, projections=None).attach(models[1], optimizers[1])
    gs.GradientClipping(0.1).attach(models[1], optimizers[1])
    plainly(models[1], optimizers[1])
    assert_same(*models)


@every_method
def test_each_of_several_optimizers_has_a_method_of_its_own(name: str) -> None:
    models: list[Any] = [smooth(), smooth()]
    parts = [[model[:2], model[2:]] for model in models]
    optimizers = [[SGD(part.parameters(), lr=0.1) for part in own] for own in parts]
    attached = [ATTACHED[name][0]() for _ in parts]
    called: list[Any] = [ATTACHED[name][1]() for _ in parts]
    penalty = isinstance(called[0], gs.GrokAlign)
    for method, optimizer in zip(attached, optimizers[1], strict=True):
        method.attach(models[1], optimizer)
    for step, x in enumerate(BATCHES[:2], 1):
        # of one part at a time, as a penalty is taken on the network as it is at the step
        for place in (0, 1):
            for model, own in zip(models, optimizers, strict=True):
                model.zero_grad()
                loss = F.cross_entropy(model(x.double()), LABELS)
                if model is models[0] and penalty and step % ATTACHED[name][2] == 0:
                    loss = loss + called[place](model, x.double())
                loss.backward()
                if model is models[0] and not penalty:
                    called[place](parts[0][place])
                own[place].step()
    assert_same(*models)


def test_a_method_of_ones_own() -> None:
    class Heavier(Method):
        """A penalty and a filter that go by the number of the step."""

        def penalty(self, step: int, networks: Any, x: Any, outputs: Any) -> Tensor | None:
            return step * networks(x).square().mean().unsqueeze(0)

        def filter_gradients(self, step: int, networks: Any) -> None:
            for _, _, gradient in networks.gradients():
                gradient /= step

    models = smooth(), smooth()
    optimizers = [SGD(model.parameters(), lr=0.1) for model in models]
    for step, x in enumerate(BATCHES, 1):
        optimizers[0].zero_grad()
        outputs = models[0](x.double())
        (F.cross_entropy(outputs, LABELS) + step * outputs.square().mean()).backward()
        for own in models[0].parameters():
            own.grad /= step
        optimizers[0].step()
    Heavier().attach(models[1], optimizers[1])
    plainly(models[1], optimizers[1])
    assert_same(*models)


@pytest.mark.parametrize("called", ["the view", "its model"])
def test_a_model_of_a_dictionary(called: str) -> None:
    torch.manual_seed(1)
    model = TwoInputs().double()
    twin = copy.deepcopy(model)
    batch = {"features": BATCHES[0].double(), "mask": (BATCHES[1] > 0).double()}
    view = gs.View(twin, lambda m, b: m(**b), wrt="features")
    (F.cross_entropy(twin(**batch), LABELS) + gs.GrokAlign(0.1, projections=None)(view, batch)
     ).backward()  # fmt: skip
    optimizer = SGD(model.parameters(), lr=0.0)
    # of two floating-point inputs a view says which the Jacobian is by
    seen = gs.View(model, lambda m, b: m(**b), wrt="features")
    gs.GrokAlign(0.1, projections=None).attach(seen, optimizer)
    outputs = seen(batch) if called == "the view" else model(**batch)
    F.cross_entropy(outputs, LABELS).backward()
    optimizer.step()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert_close(one.grad, other.grad, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("first", ["compiled", "attached"])
def test_a_compiled_model(first: str) -> None:
    models = smooth(), smooth()
    torch.compiler.reset()
    by_its_calls(models[0], SGD(models[0].parameters(), lr=0.1), "grokalign")
    optimizer = SGD(models[1].parameters(), lr=0.1)
    method = gs.GrokAlign(0.1)
    if first == "attached":
        method.attach(models[1], optimizer)
    compiled = torch.compile(models[1], backend="aot_eager")
    if first == "compiled":
        method.attach(compiled, optimizer)
    for x in BATCHES:
        optimizer.zero_grad()
        F.cross_entropy(compiled(x.double()), LABELS).backward()
        optimizer.step()
    assert_same(*models)


def test_mistakes_are_named() -> None:
    model = perceptron()
    optimizer = SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match=r"optimizer must be a torch.optim.Optimizer: got str"):
        gs.GrokAlign().attach(model, "adamw")
    with pytest.raises(ValueError, match="AdversarialTraining changes the inputs"):
        gs.AdversarialTraining().attach(model, optimizer)
    for wrong in (gs.GrokAlign(), gs.Grokfast()):
        with pytest.raises(ValueError, match="optimizer moves no parameter of Sequential, to"):
            wrong.attach(copy.deepcopy(model), optimizer)
    method = gs.GrokAlign().attach(model, optimizer)
    with pytest.raises(ValueError, match="attached already"):
        method.attach(model, optimizer)
    for own in model.parameters():
        own.grad = torch.ones_like(own)
    with pytest.raises(ValueError, match="to which GrokAlign is attached, was not called"):
        optimizer.step()


def test_a_module_that_is_not_called_with_tensors_is_named() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron()

        def forward(self, batch: list[Tensor], _index: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0].double()), batch[1])

    model = Whole()
    optimizer = SGD(model.parameters(), lr=0.1)
    gs.GrokAlign().attach(model, optimizer)
    with pytest.raises(TypeError, match=r"Whole, .* GrokAlign is attached, is not called"):
        model([BATCHES[0], LABELS], 3)


# But for these, the average over the processes is that of the whole batch: random directions are
# drawn for six examples and not for twelve, and a distance from a target is no mean over examples.
_BY_PROCESS = ("grokalign", "grokalign, constrained")
IN_PROCESSES = sorted((ATTACHED | _SMOOTH).keys() - set(_BY_PROCESS))


def _process(rank: int, path: str) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{path}/rendezvous", rank=rank, world_size=2
    )
    for name in IN_PROCESSES:
        make, _, _ = (ATTACHED | _SMOOTH)[name]
        model = nn.parallel.DistributedDataParallel(smooth())
        optimizer = SGD(model.parameters(), lr=0.1)
        make().attach(model, optimizer)
        for first in (0, 2, 4):
            optimizer.zero_grad()
            F.cross_entropy(model(BATCHES[first + rank].double()), LABELS).backward()
            optimizer.step()
        torch.save(without_wrappers(model).state_dict(), f"{path}/{name}-{rank}.pt")
    torch.distributed.barrier()  # one that leaves first would end what the other still reads
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(_process, (str(path),), nprocs=2)
    return path


@pytest.mark.parametrize("name", IN_PROCESSES)
def test_two_processes_take_the_steps_of_the_whole_batch(name: str, of_two_processes: Path) -> None:
    twin = smooth()
    pairs = [torch.cat(BATCHES[first : first + 2]) for first in (0, 2, 4)]
    by_its_calls(twin, SGD(twin.parameters(), lr=0.1), name, batches=pairs)
    states = [
        torch.load(of_two_processes / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1)
    ]
    rtol = 1e-8 if name in _SMOOTH else 1e-11
    for key, expected in twin.state_dict().items():
        assert torch.equal(states[0][key], states[1][key])
        assert_close(states[0][key], expected, rtol=rtol, atol=rtol / 100)


class Noted(Method):
    """A penalty that keeps what it is taken on."""

    def __init__(self) -> None:
        self.steps: list[list[int]] = []

    def penalty(self, step: int, networks: Any, x: Any, outputs: Any = None) -> Tensor:
        if len(self.steps) < step:
            self.steps += [[] for _ in range(step - len(self.steps))]
        self.steps[step - 1].append(int(x[0, 0, 0]))
        return 0 * networks(x).sum().unsqueeze(0)


class Loop:
    """A loop on batches that are told by the number that they begin with."""

    def __init__(self) -> None:
        self.model: Any = perceptron()
        self.optimizer = SGD(self.model.parameters(), lr=0.1)

    def batch(self, number: int) -> Tensor:
        return BATCHES[number].double().index_fill(1, torch.tensor(0), number)

    def loss(self, number: int) -> Tensor:
        return F.cross_entropy(self.model(self.batch(number)), LABELS)

    def step(self, *numbers: int) -> None:
        self.optimizer.zero_grad()
        for number in numbers:
            self.loss(number).backward()
        self.optimizer.step()


def in_eval_mode(loop: Loop) -> None:
    loop.step(1)
    loop.model.eval()
    loop.step(2)
    loop.step(3)


def failed(loop: Loop) -> None:
    with pytest.raises(RuntimeError):
        loop.model(torch.ones(6, 4))
    loop.step(1)


def interrupted(loop: Loop) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = loop.model[1].register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        loop.loss(2)
    handle.remove()
    loop.step(1)


def looked_at(loop: Loop) -> None:
    loop.optimizer.zero_grad()
    loss = loop.loss(1)
    loop.model(loop.batch(2)).detach()
    loss.backward()
    loop.model(loop.batch(3)).detach()
    loop.optimizer.step()
    loop.step(4)


def by_inputs(loop: Loop) -> None:
    x = loop.batch(2).requires_grad_()
    torch.autograd.grad(loop.model(x).sum(), x)
    loop.step(1)


def two_losses(loop: Loop) -> None:
    outputs = loop.model(loop.batch(1))
    outputs.sum().backward(retain_graph=True)
    outputs.square().sum().backward()
    loop.optimizer.step()


def zeroed_in_place(loop: Loop) -> None:
    loop.step(1)
    for number in (2, 3):  # of which a GradScaler leaves the first out
        loop.optimizer.zero_grad(set_to_none=False)
        loop.loss(number).backward()
    loop.optimizer.step()


def of_weights_alone(loop: Loop) -> None:
    loop.step(1)
    loop.optimizer.zero_grad()
    sum(own.square().sum() for own in loop.model.parameters()).backward()
    loop.optimizer.step()
    loop.step(2)


def measured(loop: Loop) -> None:
    def own(model: Any, x: Tensor, y: Tensor) -> float:
        F.cross_entropy(model(x), y).backward()
        return 0.0

    monitor = gs.Monitor(loop.model, probe=(loop.batch(7), LABELS), measures=[own], schedule=1)
    loop.optimizer.zero_grad()
    for number in (1, 2):
        loop.loss(number).backward()
        gs.empirical_ntk(loop.model, loop.batch(6))
        monitor.step()
    loop.optimizer.step()


def asked_for(loop: Loop) -> None:
    loop.optimizer.zero_grad()
    for number in (1, 2):
        loop.loss(number).backward()
        torch.autograd.grad(loop.loss(6), [*loop.model.parameters()])
    loop.optimizer.step()


def empty(loop: Loop) -> None:
    loop.optimizer.zero_grad()
    loop.loss(1).backward()
    loop.model(loop.batch(2)[:0]).sum().backward()
    loop.optimizer.step()


def without_gradient(loop: Loop) -> None:
    loop.optimizer.zero_grad()
    loop.loss(1).mul(0).backward()
    loop.loss(2).backward()
    loop.optimizer.step()


def set_by_the_loop(loop: Loop) -> None:
    for number in (1, 2):
        own = [*loop.model.parameters()]
        for each, gradient in zip(own, torch.autograd.grad(loop.loss(number), own), strict=True):
            each.grad = gradient
        loop.optimizer.step()


TRAINED_ON: dict[str, tuple[Callable[[Loop], None], list[list[int]]]] = {
    "batches in eval mode": (in_eval_mode, [[1], [2], [3]]),
    "no batch on which the forward pass failed": (failed, [[1]]),
    "none on which it was interrupted": (interrupted, [[1]]),
    "none whose outputs are only looked at": (looked_at, [[1], [4]]),
    "none that is differentiated by its inputs": (by_inputs, [[1]]),
    "a batch of two losses once": (two_losses, [[1]]),
    "all batches that are accumulated": (lambda loop: loop.step(1, 2, 3), [[1, 2, 3]]),
    "none whose gradients were filled with zeros": (zeroed_in_place, [[1], [3]]),
    "none of an earlier step": (of_weights_alone, [[1], [], [2]]),
    "none of a measure": (measured, [[1, 2]]),
    "none whose gradients are only asked for": (asked_for, [[1, 2]]),
    "a batch whose gradient is zero": (without_gradient, [[1, 2]]),
    "none without examples": (empty, [[1]]),
    "batches whose gradients the loop sets itself": (set_by_the_loop, [[1], [2]]),
}


@pytest.mark.parametrize("what", TRAINED_ON)
def test_the_penalty_is_taken_on(what: str) -> None:
    run, expected = TRAINED_ON[what]
    loop, method = Loop(), Noted()
    method.attach(loop.model, loop.optimizer)
    run(loop)
    assert method.steps == expected


@pytest.mark.parametrize("seen", ["plain", "a view", "compiled"])
def test_a_chain_stays_one(seen: str) -> None:
    model, x = perceptron(), BATCHES[0].double()
    shown: nn.Module = gs.View(model) if seen == "a view" else model
    expected = gs.jacobian_penalty(model, x, offset_weight=0.5, generator=torch.Generator())
    expected.backward()
    gradients = [own.grad for own in model.parameters()]
    optimizer = SGD(model.parameters(), lr=0.0)
    method = gs.GrokAlign(1.0, offset_weight=0.5).attach(shown, optimizer)
    method.generators = [torch.Generator()]
    assert chain_of(unwrapped(shown), x) is not None
    optimizer.zero_grad()
    called: Any = torch.compile(model, backend="eager") if seen == "compiled" else shown
    (0 * called(x)).sum().backward()
    optimizer.step()
    # one projection estimates offsets of other models; those of a chain are exact
    for own, gradient in zip(model.parameters(), gradients, strict=True):
        assert_close(own.grad, gradient, rtol=1e-11, atol=1e-13)


@every_method
@pytest.mark.parametrize("width", [7, 8])
def test_layers_that_are_replaced_in_mid_training(name: str, width: int) -> None:
    models: Any = smooth(), smooth()
    called: Any = ATTACHED[name][1]()
    attached = ATTACHED[name][0]()
    optimizers = [SGD(model.parameters(), lr=0.1) for model in models]
    attached.attach(models[1], optimizers[1])
    for step in range(1, 5):
        for model, optimizer in zip(models, optimizers, strict=True):
            if step == 3:
                torch.manual_seed(5)
                model[0], model[2] = nn.Linear(5, width).double(), nn.Linear(width, 3).double()
                optimizer.add_param_group({"params": list(model.parameters())})
            optimizer.zero_grad()
            x = BATCHES[step].double()
            loss = F.cross_entropy(model(x), LABELS)
            if model is models[0] and isinstance(called, gs.GrokAlign):
                loss = loss + (called(model, x) if step % ATTACHED[name][2] == 0 else 0)
            loss.backward()
            if model is models[0] and not isinstance(called, gs.GrokAlign):
                called(model)
            optimizer.step()
    assert_same(*models)


def test_a_penalty_that_is_taken_in_another_thread_hides_no_batch() -> None:
    inside, trained = threading.Event(), threading.Event()

    class Slow(Noted):
        def penalty(self, step: int, networks: Any, x: Any, outputs: Any = None) -> Tensor:
            inside.set()
            assert trained.wait(60)
            return super().penalty(step, networks, x)

    slow, loop, method = Loop(), Loop(), Noted()
    Slow().attach(slow.model, slow.optimizer)
    method.attach(loop.model, loop.optimizer)
    thread = threading.Thread(target=slow.step, args=(1,))
    thread.start()
    assert inside.wait(60)
    try:
        loop.step(2)
    finally:
        trained.set()
        thread.join()
    assert method.steps == [[2]]


def test_copies_are_attached_to_nothing() -> None:
    model = perceptron()
    optimizer = SGD(model.parameters(), lr=0.1)
    method = gs.GrokAlign().attach(model, optimizer)

    def attachments() -> int:
        gc.collect()  # those of other tests
        return sum(type(each) is Attachment for each in gc.get_objects())

    before = attachments()
    average = torch.optim.swa_utils.AveragedModel(model)
    saved = io.BytesIO()
    torch.save(model, saved)
    saved.seek(0)
    twin, loaded = copy.deepcopy(method), torch.load(saved, weights_only=False)
    assert attachments() == before
    for other in (average.module, loaded):
        kept = weakref.ref(batch := BATCHES[0].double())
        other(batch).sum().backward()
        del batch
        assert kept() is None
    twin.detach()  # which takes nothing off the model
    F.cross_entropy(model(BATCHES[0].double()), LABELS).backward()
    optimizer.step()
    assert method.state["steps"] == 1


def test_a_compiled_model_that_was_called_before() -> None:
    torch.compiler.reset()
    model, x = perceptron(), BATCHES[0].double()
    compiled: Any = torch.compile(model, backend="eager")
    optimizer = SGD(model.parameters(), lr=0.1)
    compiled(x).sum().backward()
    optimizer.zero_grad()
    method = gs.GrokAlign().attach(model, optimizer)
    compiled(x).sum().backward()
    with pytest.raises(ValueError, match=r"had compiled that before.*torch.compiler.reset\(\)"):
        optimizer.step()
    method.detach()
    method.attach(compiled, optimizer)
    compiled(x).sum().backward()
    optimizer.step()
    method.detach()
    method.attach(model, optimizer)
    torch.compiler.reset()
    compiled(x).sum().backward()
    optimizer.step()


def test_a_call_with_more_than_a_batch_is_named_with_what_to_do() -> None:
    class Flagged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron()

        def forward(self, x: Tensor, flag: bool = False) -> Tensor:
            return self.net(x) * (2 if flag else 1)

    model, x = Flagged(), BATCHES[0].double()
    view = gs.View(model, lambda m, x: m(x, flag=True))
    optimizer = SGD(model.parameters(), lr=0.1)
    for shown in (model, view):
        method = gs.GrokAlign().attach(shown, optimizer)
        with pytest.raises(ValueError, match=r"arguments \(flag\).*call that in the loop too"):
            model(x, flag=True)
        method.detach()
    gs.GrokAlign().attach(view, optimizer)
    view(x).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("micro", [1, 2])
def test_a_buffer_that_is_filled_anew_between_backward_passes_is_refused(micro: int) -> None:
    model, buffer = perceptron(), torch.empty(6, 5, dtype=torch.float64)
    optimizer = SGD(model.parameters(), lr=0.1)
    gs.GrokAlign(0.1, projections=None).attach(model, optimizer)
    for _ in range(2):  # filled anew after a step it serves
        for batch in BATCHES[:micro]:
            buffer.copy_(batch)
            F.cross_entropy(model(buffer), LABELS).backward()
        if micro > 1:
            with pytest.raises(ValueError, match=r"a batch was written to .* x = buffer.clone\(\)"):
                optimizer.step()
            return
        optimizer.step()
        optimizer.zero_grad()
