"""Parameters that training leaves as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from grokscope.spelling import unknown_name


@contextmanager
def frozen(models: Sequence[nn.Module], names: Sequence[str]) -> Iterator[None]:
    """Inside, these parameters of the models require no gradient; afterwards as before.

    Args:
        models: networks of one architecture.
        names: parameters, or modules whose parameters are all meant, as ``named_parameters`` and
            ``named_modules`` have them.

    Raises:
        ValueError: if a name is neither.
    """
    changed = [parameter for model in models for parameter in freeze(model, names)]
    try:
        yield
    finally:
        for parameter in changed:
            parameter.requires_grad_(True)


def freeze(model: nn.Module, names: Sequence[str]) -> list[nn.Parameter]:
    """Freeze parameters by name, and return those that were trained before."""
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    chosen: dict[int, nn.Parameter] = {}
    for name in names:
        if name in parameters:
            meant = [parameters[name]]
        elif name and name in modules and any(True for _ in modules[name].parameters()):
            meant = list(modules[name].parameters())
        else:
            known = [*(key for key in modules if key), *parameters]
            raise ValueError(f"freeze: {unknown_name('parameter or module', name, known)}")
        chosen |= {id(own): own for own in meant if own.requires_grad}
    for parameter in chosen.values():
        parameter.requires_grad_(False)
    return list(chosen.values())
