"""What holds for the tests and for the examples of docstrings and documentation alike."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

# What builds the site is run by `make docs`, and its pages are tested where they are written.
collect_ignore_glob = ["docs/*.py", "docs/_build/*"]

# A busy machine is no defect: examples are bounded by their number, not by the clock.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Small tensors: a second thread costs more than it brings, and two workers share the cores.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is for a CUDA device where there is none."""
    if torch.cuda.is_available():
        return
    left_out = [item for item in items if item.get_closest_marker("cuda")]
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
