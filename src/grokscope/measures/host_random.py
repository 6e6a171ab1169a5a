"""The random generators of the host: PyTorch's own, Python's and NumPy's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def host_random_kept() -> Iterator[None]:
    """Put the host's global generators back at the end.

    Example:
        >>> random.seed(0)
        >>> with host_random_kept():
        ...     inside = random.random()
        >>> inside == random.random()
        True
    """
    python, numpy, torch_ = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_)
