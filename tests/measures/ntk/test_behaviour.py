"""What the kernel leaves alone, what it refuses, and what it does when its rules do not hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import grokscope as gs
from grokscope.measures.ntk import check as check_module
from grokscope.measures.ntk import memory, rules
from tests.measures.ntk.models import build
from tests.reference.ntk import full_kernel


def state_of(model: nn.Module) -> list[object]:
    hooks = [
        (list(m._forward_hooks), list(m._forward_pre_hooks), list(m._backward_hooks), m.training)
        for m in model.modules()
    ]
    parameters = [(p.requires_grad, p.grad, p._version) for p in model.parameters()]
    return [hooks, parameters, [b.clone() for b in model.buffers()], torch.get_rng_state()]


def same(first: object, second: object) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.equal(first, second)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


@pytest.mark.parametrize("name", ["mlp", "residual", "gru", "frozen", "conv1d"])
def test_leaves_the_model_as_it_was(name: str) -> None:
    model, x1, x2 = build(name)
    seen: list[str] = []
    model.register_forward_hook(lambda *_: seen.append("mine"))
    before = state_of(model)
    for reduce in ("full", "trace", "sum"):
        gs.empirical_ntk(model, x1, x2, reduce=reduce)
    gs.ntk_plan(model, x1)
    assert same(before, state_of(model))
    assert seen


def test_leaves_a_training_model_in_training() -> None:
    model = nn.Sequential(
        nn.Conv1d(2, 3, 2), nn.InstanceNorm1d(3, track_running_stats=True), nn.Flatten()
    ).double()
    x = torch.randn(4, 2, 5, dtype=torch.float64)
    before = state_of(model)
    kernel = gs.empirical_ntk(model, x)  # normalized outputs sum to zero: no reduction to "sum"
    assert same(before, state_of(model))
    torch.testing.assert_close(kernel, full_kernel(model, x, x))


def test_removes_its_hooks_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 2))
    with pytest.raises(ValueError, match="does not run on x of shape"):
        gs.empirical_ntk(model, torch.randn(4, 3))
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_where_the_caller_has_derivatives_off(mode: Callable[[], object]) -> None:
    model, x1, _ = build("transformer")
    expected = gs.empirical_ntk(model, x1)
    with mode():  # type: ignore[attr-defined]
        torch.testing.assert_close(gs.empirical_ntk(model, x1 + 0), expected)


def test_the_result_has_no_graph() -> None:
    model, x, _ = build("mlp")
    x = x.clone().requires_grad_()
    assert not gs.empirical_ntk(model, x * 1).requires_grad
    assert x.grad is None


def test_hooks_that_replace_inputs_and_outputs_are_followed() -> None:
    model, x, _ = build("mlp")
    model[0].register_forward_pre_hook(lambda _, args: (args[0] * 2,))
    model[0].register_forward_hook(lambda _, args, output: output.square())
    torch.testing.assert_close(gs.empirical_ntk(model, x), full_kernel(model, x, x))


def test_a_subclass_with_its_own_forward_is_followed() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 3 * super().forward(x)

    model = nn.Sequential(Scaled(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    x = torch.randn(4, 4, dtype=torch.float64)
    assert gs.ntk_plan(model, x).parameters["0.weight"].path == "structured"
    torch.testing.assert_close(gs.empirical_ntk(model, x), full_kernel(model, x, x))


def test_checkpointed_activations_and_sparse_gradients() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(7, 4, sparse=True)
            self.inner, self.head = nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, tokens: Tensor) -> Tensor:
            h = self.embed(tokens).sum(1)
            return self.head(checkpoint(lambda h: self.inner(h).tanh(), h, use_reentrant=False))

    model, dense = Checkpointed().double(), Checkpointed().double()
    dense.load_state_dict(model.state_dict())
    dense.embed.sparse = False
    x = torch.randint(7, (5, 3))
    torch.testing.assert_close(gs.empirical_ntk(model, x), full_kernel(dense, x, x))


def test_a_standard_encoder_layer_and_an_lstm() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
            self.lstm = nn.LSTM(4, 3, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(self.layer(x))[0][:, -1]

    model = Both().double().eval()
    x = torch.randn(4, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(gs.empirical_ntk(model, x), full_kernel(model, x, x))


@pytest.mark.parametrize("reduce", ["full", "trace", "sum"])
def test_a_wrong_rule_is_found_named_and_replaced(
    reduce: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x1, x2 = build("norms")
    expected = gs.empirical_ntk(model, x1, x2, reduce=reduce)
    right = rules.NormRule.inputs
    monkeypatch.setattr(rules.NormRule, "inputs", lambda *args: right(*args) * 1.001)
    with pytest.warns(RuntimeWarning, match=r"uses '1.weight', '4.weight'; these"):
        kernel = gs.empirical_ntk(model, x1, x2, reduce=reduce)
    torch.testing.assert_close(kernel, expected)
    unchecked = gs.empirical_ntk(model, x1, x2, reduce=reduce, check=False)
    assert not torch.allclose(unchecked, expected, rtol=1e-5)


def test_the_check_sees_what_only_large_batches_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """A triangle that is not mirrored, as a prototype had it."""
    monkeypatch.setattr("grokscope.measures.ntk.memory.symmetrize", lambda kernel: None)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x = torch.randn(200, 4, dtype=torch.float64)
    with pytest.warns(RuntimeWarning, match="does not cover"):
        gs.empirical_ntk(model, x)


def test_the_check_where_the_model_has_no_second_derivative() -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)  # type: ignore[attr-defined]
            return x.square()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: object, grad: Tensor) -> Tensor:
            return 2 * ctx.saved_tensors[0] * grad  # type: ignore[attr-defined]

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(Square.apply(self.inner(x)))

    model = Model().double()
    x = torch.randn(6, 4, dtype=torch.float64)
    torch.testing.assert_close(gs.empirical_ntk(model, x), full_kernel(model, x, x))
    names = dict(model.named_parameters())
    kernel = gs.empirical_ntk(model, x).permute(2, 0, 3, 1)
    directions = torch.eye(2, dtype=torch.float64)
    assert check_module.relative_error(model, names, kernel, x, x, directions) < 1e-12
    # too large, one side's rows in another order, and a difference that is antisymmetric
    other = torch.randn(kernel.shape, dtype=torch.float64)
    skew = other - other.permute(2, 3, 0, 1)
    for wrong in (1.1 * kernel, kernel.flip(0), kernel + 0.1 * kernel.norm() * skew):
        assert check_module.relative_error(model, names, wrong, x, x, directions) > 1e-3


def test_calls_that_depend_on_the_batch_take_the_generic_path() -> None:
    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return (
                self.inner(x)
                if len(x) < 4
                else self.inner(x[:2]).new_tensor(0)
                + torch.cat([self.inner(x[:2]), self.inner(x[2:])])
            )

    model = Moody().double()
    x = torch.randn(6, 3, dtype=torch.float64)
    with pytest.warns(RuntimeWarning, match=r"inner.weight"):
        kernel = gs.empirical_ntk(model, x)
    torch.testing.assert_close(kernel, full_kernel(model, x, x))


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(4),
        nn.Dropout(0.1),
        nn.RReLU(),
        nn.BatchNorm1d(4, track_running_stats=False).eval(),
    ],
)
def test_refuses_layers_that_mix_or_draw(layer: nn.Module) -> None:
    with pytest.raises(ValueError, match="depends on"):
        gs.empirical_ntk(nn.Sequential(nn.Linear(4, 4), layer), torch.randn(3, 4))
    recurrent = nn.GRU(4, 3, num_layers=2, dropout=0.5)
    with pytest.raises(ValueError, match="GRU in training mode"):
        gs.ntk_plan(nn.Sequential(recurrent), torch.randn(3, 4))


def test_embeddings_that_renormalize_or_scale() -> None:
    model = nn.Sequential(nn.Embedding(7, 4, max_norm=1.0), nn.Flatten(), nn.Linear(8, 3)).double()
    x = torch.randint(7, (5, 2))
    torch.testing.assert_close(gs.empirical_ntk(model, x), full_kernel(model, x, x))
    model[0].scale_grad_by_freq = True
    with pytest.raises(ValueError, match="scale_grad_by_freq at '0'"):
        gs.empirical_ntk(model, x)


def test_refuses_a_forward_that_mixes_examples() -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x - x.mean(0))

    with pytest.raises(ValueError, match="rest of its batch or on chance"):
        gs.empirical_ntk(Mixing(), torch.randn(5, 3))


def test_refuses_a_kernel_that_does_not_fit_before_computing_it() -> None:
    model = nn.Linear(2, 50)
    x = torch.zeros(1, 2).expand(200_000, 2)
    with pytest.raises(MemoryError, match=r"\(200000, 200000, 50, 50\).*takes 400000.0 GB and"):
        gs.empirical_ntk(model, x)


def test_knows_the_free_memory() -> None:
    free = memory.free_bytes(torch.device("cpu"))
    if Path("/proc/meminfo").exists():
        assert free is not None
        assert 1e6 < free < 1e15
    assert memory.free_bytes(torch.device("meta")) is None


def test_what_is_free_is_the_lesser_of_the_machines_and_the_groups(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = {
        "/proc/meminfo": "MemTotal: 9000 kB\nMemFree: 1 kB\nMemAvailable: 3000 kB\n",
        "/sys/fs/cgroup/memory.max": "max\n",
        "/sys/fs/cgroup/memory.current": "1500000\n",
        "/sys/fs/cgroup/memory.stat": "anon 7\ninactive_file 20000\nactive_file 3\n",
    }
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: files[str(self)])
    cpu = torch.device("cpu")
    assert memory.free_bytes(cpu) == 3000 * 1024
    files["/sys/fs/cgroup/memory.max"] = "2000000\n"
    assert memory.free_bytes(cpu) == 520_000
    files["/sys/fs/cgroup/memory.max"] = "9000000\n"
    assert memory.free_bytes(cpu) == 3000 * 1024


LINEAR = nn.Linear(3, 2)
X = torch.randn(4, 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gs.empirical_ntk(LINEAR, X[0]), ValueError, "x1 needs a batch axis"),
        (lambda: gs.empirical_ntk(LINEAR, X[:0]), ValueError, "x1 is empty"),
        (lambda: gs.empirical_ntk(LINEAR, X, X * torch.nan), ValueError, "x2 holds NaN"),
        (lambda: gs.empirical_ntk(LINEAR, X, X[:, :2]), ValueError, "x1 and x2 must differ"),
        (lambda: gs.empirical_ntk(LINEAR, X, X.double()), ValueError, "x1 and x2 must differ"),
        (lambda: gs.empirical_ntk(LINEAR, X.double()), ValueError, "does not run on x of shape"),
        (lambda: gs.empirical_ntk(LINEAR, torch.randn(4, 5)), ValueError, "does not run on x"),
        (lambda: gs.empirical_ntk(LINEAR, X, chunk_size=0), ValueError, "chunk_size must be"),
        (lambda: gs.empirical_ntk(LINEAR, X, parameters=["w"]), ValueError, "names 'w'"),
        (lambda: gs.empirical_ntk(LINEAR, X, parameters=[]), ValueError, "parameters is empty"),
        (
            lambda: gs.empirical_ntk(nn.Linear(3, 2).requires_grad_(False), X),
            ValueError,
            "no trainable parameters",
        ),
        (
            lambda: gs.empirical_ntk(nn.Linear(3, 2).requires_grad_(False), X, parameters=["bias"]),
            ValueError,
            "no trainable parameters|frozen",
        ),
        (lambda: gs.empirical_ntk(nn.Conv1d(1, 1, 1), X[:, None]), ValueError, "model must map"),
        (
            lambda: gs.empirical_ntk(nn.utils.skip_init(nn.Linear, 3, 2).apply(_spoil), X),
            ValueError,
            "model returns NaN",
        ),
    ],
)
def test_mistakes_are_named(
    call: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()


def _spoil(module: nn.Module) -> None:
    nn.init.constant_(module.weight, torch.nan)  # type: ignore[arg-type]


def test_the_plan_names_every_parameter() -> None:
    for name in ("transformer", "frozen", "tied transpose", "raw parameters", "weight norm"):
        model, x, _ = build(name)
        plan = gs.ntk_plan(model, x)
        assert list(plan.parameters) == [n for n, _ in model.named_parameters()]
        assert sorted(n for names, _ in plan.groups() for n in names) == sorted(plan.parameters)
        assert str(plan).count("\n") == len(plan.groups())
    paths = {n: p.path for n, p in gs.ntk_plan(*build("frozen")[:2]).parameters.items()}
    assert paths["0.bias"] == paths["4.weight"] == "frozen"
    assert paths["0.weight"] == paths["2.bias"] == "structured"
    raw = gs.ntk_plan(*build("raw parameters")[:2]).parameters
    assert (raw["weight"].path, raw["unused"].path) == ("structured", "unused")
    only = gs.ntk_plan(*build("mlp")[:2], parameters=["2.bias"])
    assert list(only.parameters) == ["2.bias"]


def test_what_the_plan_promises_of_common_layers() -> None:
    generic = {
        "mlp": set(),
        "cnn stride": set(),
        "residual": set(),
        "norms": set(),
        "conv1d": set(),
        "tied weights": set(),
        "folded": set(),
        "folded, positions first": set(),
        "transformer": set(),
        "tied transpose": {"encode.weight"},
        "raw transformer": set(),
        "attention": set(),
        "gru": set(),
    }
    for name, expected in generic.items():
        plan = gs.ntk_plan(*build(name)[:2])
        assert {n for n, p in plan.parameters.items() if p.path == "generic"} == expected, name


def test_parameters_that_broadcast_are_expanded_and_no_others() -> None:
    class Trap(nn.Module):
        """At one position the copies meet the positions' axis; only the first is then read."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 4)
            self.shift = nn.Parameter(torch.randn(4))

        def forward(self, x: Tensor) -> Tensor:
            return (self.inner(x).unsqueeze(1) + self.shift)[:, 0].square()

    plan = gs.ntk_plan(*build("raw transformer")[:2]).parameters
    assert {n for n, p in plan.items() if p.path == "expanded"} == {
        "token",
        "places",
        "gain",
    }
    model = Trap().double()
    for n in (1, 2, 3, 5):
        x = torch.randn(n, 3, dtype=torch.float64)
        torch.testing.assert_close(gs.empirical_ntk(model, x), full_kernel(model, x, x))


def test_expanded_parameters_where_batch_and_positions_are_equally_many() -> None:
    model, x1, x2 = build("raw transformer")
    x = torch.cat([x1, x2])[:4]
    torch.testing.assert_close(gs.empirical_ntk(model, x), full_kernel(model, x, x))


def test_unknown_reduction() -> None:
    with pytest.raises(ValueError, match="unknown reduce 'mean'; known: full, sum, trace"):
        gs.empirical_ntk(nn.Linear(3, 2), torch.eye(3), reduce="mean")


class Converted(nn.Module):
    """A network as converters make it: its weights are buffers but for one."""

    def __init__(self, *, trained: bool) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(4, 3))
        self.register_buffer("count", torch.zeros(100, dtype=torch.int64))
        self.bias = nn.Parameter(torch.zeros(4), requires_grad=trained)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.mT + self.bias


def test_the_plan_names_weights_that_are_buffers() -> None:
    plan = gs.ntk_plan(Converted(trained=True), torch.randn(5, 3)).parameters
    assert {name: p.path for name, p in plan.items()} == {
        "bias": plan["bias"].path,
        "weight": "buffer",
    }
    statistics = nn.Sequential(nn.Linear(3, 2, bias=False), nn.BatchNorm1d(2, affine=False)).eval()
    assert "buffer" not in {
        p.path for p in gs.ntk_plan(statistics, torch.randn(5, 3)).parameters.values()
    }


def test_weights_that_are_buffers_are_spoken_of() -> None:
    with pytest.raises(ValueError, match="but 1 floating-point buffers, where a converted"):
        gs.empirical_ntk(Converted(trained=False), torch.randn(5, 3))
    with pytest.warns(RuntimeWarning, match="keeps 12 numbers in 1 floating-point buffers"):
        assert list(gs.weight_norms(Converted(trained=True))) == ["bias"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 30.0])  # 30: saturated
def test_a_kernel_of_a_constant_sum_is_called_noise(dtype: torch.dtype, scale: float) -> None:
    torch.manual_seed(0)
    logits = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5)).to(dtype)
    with torch.no_grad():
        logits[2].weight.mul_(scale)
    x = torch.randn(7, 4, dtype=dtype)
    with pytest.warns(RuntimeWarning, match="summed outputs is rounding noise"):
        gs.empirical_ntk(nn.Sequential(logits, nn.Softmax(1)), x, reduce="sum")
    gs.empirical_ntk(nn.Sequential(logits, nn.Softmax(1)), x, reduce="trace")
    gs.empirical_ntk(logits, x, reduce="sum")


class Pooled(nn.Module):
    """Attention pooling: the query is a vector, and the product with it a number a token."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.head = nn.Parameter(torch.randn(5)), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        weights = F.linear(x, self.query).softmax(1)
        return self.head((weights.unsqueeze(2) * x).sum(1))


class OneBias(nn.Module):
    """One number as the bias of all outputs."""

    def __init__(self, func: Callable[..., Tensor]) -> None:
        super().__init__()
        shape = (4, 5) if func is F.linear else (5, 4)
        self.weight, self.bias = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.randn(1))
        self.func = func

    def forward(self, x: Tensor) -> Tensor:
        if self.func is F.linear:
            return F.linear(x, self.weight, self.bias).tanh()
        return torch.addmm(self.bias, x, self.weight).tanh()


class WithEmpty(nn.Module):
    """A parameter without numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.nothing = nn.Linear(5, 3), nn.Parameter(torch.zeros(0))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).tanh() + self.nothing.sum()


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (Pooled, (7, 5)),
        (lambda: OneBias(F.linear), (5,)),
        (lambda: OneBias(torch.addmm), (5,)),
        (WithEmpty, (5,)),
    ],
    ids=["vector", "linear's bias", "addmm's bias", "empty"],
)
def test_weights_of_unusual_shapes(
    make: Callable[[], nn.Module], shape: tuple[int, ...], check: bool
) -> None:
    model = make().double()
    x = torch.randn(6, *shape, dtype=torch.float64)
    gs.ntk_plan(model, x)
    torch.testing.assert_close(gs.empirical_ntk(model, x, check=check), full_kernel(model, x, x))


def test_a_model_without_outputs_is_named() -> None:
    model = nn.Linear(6, 2)
    view = gs.View(model, lambda m, x: m(x)[:, :0])
    with pytest.raises(ValueError, match=r"must return one output or more: got \(2, 0\)"):
        gs.empirical_ntk(view, torch.randn(3, 6))
