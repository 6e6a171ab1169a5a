"""Made-up runs and a browser, each made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.report.browser import Browser, started


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one run of each kind; tests read them and write elsewhere."""
    # here: older versions of jaxtyping check no package that a conftest has imported before them
    from tests.report import made_up_runs

    root = tmp_path_factory.mktemp("runs")
    made_up_runs.grokking(root / "finished")
    made_up_runs.grokking(root / "three-seeds", seeds=(0, 1, 2), shape=None)
    made_up_runs.never_generalized(root / "never")
    made_up_runs.killed(root / "killed")
    made_up_runs.started(root / "started")
    return root


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium; the test is skipped where there is none."""
    yield from started(tmp_path_factory.mktemp("profile"))
