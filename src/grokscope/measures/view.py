"""A model as a function of a batch: how it is called, and which of its outputs are meant.

A model is called as ``model(x)`` on a tensor, ``model(*x)`` on a tuple or list and ``model(**x)``
on a dictionary. Its outputs are the tensor it returns, or the ``.logits``, or the first tensor of a
tuple, or the entry "logits" or else the only tensor of a dictionary. Where that guess is wrong, a
`View` says what is meant.

A model of tokens has no derivative by them. It may have a method ``continuous_inputs(x)`` that
gives the embeddings of a batch of tokens, on which it runs as well (``gs.Transformer`` has it, and
`View` takes one as ``embed``): input derivatives of a batch of tokens are then taken there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from grokscope.arguments import checked_arguments
from grokscope.measures.batches import Batch, Key, leaf_name, leaves, map_leaves
from grokscope.measures.guard import runs_known_code
from grokscope.measures.hooks import only_observed

Model = nn.Module | Callable[..., Any]

# What a view shares with the module it shows: both see the same parameters under the same names.
_SHARED = ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules")


class View(nn.Module):
    """Any model as a function of a batch, which every measure, method and monitor takes.

    It is an ``nn.Module`` with the parameters, buffers and submodules of the model under their own
    names, and in its mode: ``state_dict``, ``train``, ``eval`` and ``to`` act on the model itself.

    Args:
        model: an nn.Module, or any function of a batch (a view of one has no parameters).
        forward: maps (model, batch) to the outputs, (n, k) or (n,), where ``batch`` is the tensor,
            tuple or dictionary that was passed. If None, the model is called on the batch in the
            usual way and its outputs are picked by the rules of this module.
        wrt: key of the floating-point tensor of the batch that input derivatives are taken by; the
            only one there is if None.
        embed: maps (model, batch of tokens) to the batch with their embeddings, which ``forward``
            takes as well; derivatives of a batch of tokens are taken there, at the embeddings as
            they are at the time.

    Raises:
        TypeError: if ``model``, ``forward`` or ``embed`` cannot be called, or ``wrt`` is no key.

    Example:
        >>> import torch, grokscope as gs
        >>> lstm = torch.nn.LSTM(3, 4, batch_first=True)
        >>> last = gs.View(lstm, lambda m, x: m(x)[0][:, -1])
        >>> gs.centroid_alignment(last, torch.randn(5, 7, 3)).shape
        torch.Size([5])
        >>> [name for name, _ in last.named_parameters()][:2]
        ['weight_ih_l0', 'weight_hh_l0']
    """

    _view_model: Model
    _view_forward: Callable[[Any, Any], Any] | None
    _view_wrt: Key
    _view_embed: Callable[[Any, Any], Any] | None

    @checked_arguments
    def __init__(
        self,
        model: Model,
        forward: Callable[[Any, Any], Any] | None = None,
        wrt: Key = None,
        embed: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(wrt, bool) or not isinstance(wrt, int | str | None):
            raise TypeError(f"wrt must be a position, a key or None: got {type(wrt).__name__}")
        # Past nn.Module.__setattr__, which would register the model as a child of its own name.
        # The names are unlike those of a model's children, which they would hide.
        vars(self).update(
            _view_model=model, _view_forward=forward, _view_wrt=wrt, _view_embed=embed
        )
        if isinstance(model, nn.Module):
            vars(self).update({name: getattr(model, name) for name in _SHARED})

    def forward(self, *args: Any, **entries: Any) -> Any:
        """The outputs at a batch, given whole or as ``call`` spreads it."""
        batch: Any = entries or (args[0] if len(args) == 1 else args)
        if self._view_forward is not None:
            return self._view_forward(self._view_model, batch)
        return output_tensor(call(self._view_model, batch))

    def continuous_inputs(self, x: Batch) -> Batch:
        """The batch with embeddings in place of tokens, by ``embed`` or as the model has it."""
        if self._view_embed is not None:
            return self._view_embed(self._view_model, x)
        return continuous(self._view_model, x)

    @property
    def training(self) -> bool:
        """The mode of the model."""
        return getattr(vars(self).get("_view_model"), "training", False)

    @training.setter
    def training(self, mode: bool) -> None:
        if isinstance(model := vars(self).get("_view_model"), nn.Module):
            model.training = mode

    def train(self, mode: bool = True) -> View:
        """Set the mode of the model, by its own ``train``."""
        if isinstance(self._view_model, nn.Module):
            self._view_model.train(mode)
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The state of the model."""
        model = self._view_model
        return model.state_dict(*args, **kwargs) if isinstance(model, nn.Module) else {}

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load the state of the model."""
        if not isinstance(self._view_model, nn.Module):
            return super().load_state_dict(state_dict, *args, **kwargs)
        return self._view_model.load_state_dict(state_dict, *args, **kwargs)

    def extra_repr(self) -> str:
        """What is shown of it between its brackets."""
        kind = type(self._view_model).__name__
        return kind if self._view_wrt is None else f"{kind}, wrt={self._view_wrt!r}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> View:
        # Models override this (a recurrent layer keeps its weights in one piece), so it is theirs.
        if isinstance(self._view_model, nn.Module):
            self._view_model._apply(fn, recurse)
        return self


def call(model: Model, x: Batch) -> Any:
    """What the model returns on a batch, called as the batch's kind asks for."""
    if isinstance(x, Tensor) or isinstance(model, View):
        return model(x)
    return model(**x) if isinstance(x, Mapping) else model(*x)


def outputs_of(model: Model, x: Batch) -> Tensor:
    """The output tensor of the model on a batch, of whatever shape; the batch stays as it is.

    Raises:
        TypeError: if what it returns holds no tensor, or several of a dictionary without "logits".
        ValueError: if it does not run on the batch.
    """
    return output_tensor(explained_call(model, to_give_away(model, x)))


def to_give_away(model: Model, x: Batch) -> Batch:
    """The batch, or a copy of it where the model might write into what it is given."""
    inside = unwrapped(model)
    if isinstance(inside, nn.Module) and not any(map(_may_write, inside.modules())):
        return x
    return map_leaves(torch.clone, x)


def _may_write(module: nn.Module) -> bool:
    """Whether a module might change its input: by code of its own, or as a layer in place."""
    own = vars(module)
    return bool(
        own.get("inplace", False)
        or own.get("_forward_pre_hooks")
        or "forward" in own
        or isinstance(module, View)
        or not runs_known_code(type(module))
    )


def explained_call(model: Model, x: Batch) -> Any:
    """What the model returns on a batch; raise, with the shapes that met, where it does not run."""
    try:
        return call(model, x)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, LookupError, AssertionError) as error:
        parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
        theirs = "" if parameter is None else f"; its weights are {_kind(parameter)}"
        raise ValueError(f"model does not run on {_described(x)}{theirs}: {error}") from error


def output_tensor(outputs: Any) -> Tensor:
    """The tensor that is meant among what a model returned.

    Example:
        >>> output_tensor((torch.ones(5, 2), (torch.ones(1), torch.ones(1)))).shape
        torch.Size([5, 2])
    """
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(logits := getattr(outputs, "logits", None), Tensor):
        return logits
    if isinstance(outputs, Mapping):
        tensors = {key: value for key, value in outputs.items() if isinstance(value, Tensor)}
        if "logits" in tensors:
            return tensors["logits"]
        if len(tensors) == 1:
            return next(iter(tensors.values()))
        keys = ", ".join(map(repr, outputs)) or "nothing in it"
        raise TypeError(
            f"model returns a {type(outputs).__name__} with {keys}: say which is meant, "
            "as in gs.View(model, lambda m, x: m(**x)['last_hidden_state'][:, 0])"
        )
    if isinstance(outputs, tuple | list) and outputs and isinstance(outputs[0], Tensor):
        return outputs[0]
    raise TypeError(
        f"model must return a tensor of shape (n, k) or (n,), or a tuple or dictionary that holds "
        f"one: got {type(outputs).__name__}; pick the tensor to study with "
        "gs.View(model, lambda m, x: ...)"
    )


def continuous(model: Model, x: Batch) -> Batch:
    """The batch that input derivatives are taken at: embeddings where it holds tokens.

    Every other batch (see `holds_tokens`) is given back as it is.

    Raises:
        ValueError: if ``x`` is taken for tokens, but the embedding does not run on it.

    Example:
        >>> import torch, grokscope as gs
        >>> model = gs.Transformer(7, d_model=16, d_mlp=32)
        >>> continuous(model, torch.tensor([[3, 5, 7]])).shape
        torch.Size([1, 3, 16])
    """
    if not holds_tokens(model, x):
        return x
    try:
        embedded: Batch = model.continuous_inputs(x)  # type: ignore[union-attr, operator]
        return embedded
    except torch.OutOfMemoryError:
        raise
    except (LookupError, TypeError, RuntimeError) as error:
        if not any(leaf.is_floating_point() for leaf in leaves(x).values()):
            raise
        raise ValueError(
            f"x holds integers, which are taken for tokens, and the model makes no embeddings of "
            f"{_described(x)} ({type(error).__name__}: {error}); where x holds embeddings already, "
            "name them, as in gs.View(model, wrt='e')"
        ) from error


def holds_tokens(model: Model, x: Batch) -> bool:
    """Whether a batch is one of tokens, of which the model makes embeddings.

    It is if it holds integers and the model has a method ``continuous_inputs``, whatever
    floating-point tensors stand beside the integers: a mask is no embedding. Where a view names by
    ``wrt`` what derivatives are taken by, a batch that has it in floating point is none.
    """
    if getattr(model, "continuous_inputs", None) is None:
        return False
    found = leaves(x)
    named = found.get(wrt_of(model))
    if named is not None and named.is_floating_point():
        return False
    return any(_is_integer(leaf) for leaf in found.values())


def _is_integer(leaf: Tensor) -> bool:
    return not (leaf.is_floating_point() or leaf.is_complex() or leaf.dtype is torch.bool)


def wrt_of(model: Model) -> Key:
    """The key that a view names to differentiate by; None for every other model."""
    while isinstance(model, View):
        if model._view_wrt is not None:
            return model._view_wrt
        model = model._view_model
    return None


def unwrapped(model: Model) -> Model:
    """The model that a view without a forward of its own shows; every other model as it is."""
    while (
        isinstance(model, View)
        and model._view_forward is None
        and only_observed(model._forward_hooks)
    ):
        model = model._view_model
    return model


def _described(x: Batch) -> str:
    """The tensors of a batch in words, and how the model was called on them."""
    found = [
        f"{leaf_name(key)} of shape {tuple(leaf.shape)}, {_kind(leaf)}"
        for key, leaf in leaves(x).items()
    ]
    how = "" if isinstance(x, Tensor) else f", as model({'**' if isinstance(x, Mapping) else '*'}x)"
    return " and ".join(found) + how


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} on {tensor.device}"
