#!/usr/bin/env -S uv run --script

# /// script
# dependencies = ["nox>=2025.10.14"]
# ///
"""The checks in fresh environments: ``nox -s tests-3.12``; ``nox -l`` lists them.

The everyday commands are in the Makefile (``make test``); this is for several versions of Python.
"""

from __future__ import annotations

import nox

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "uv|virtualenv"

# small tensors: two workers share the cores better than two threads
PYTEST = ("python", "-m", "pytest", "-n", "2", "--dist", "loadfile")


@nox.session(python=["3.11", "3.12", "3.13"], default=False)
def tests(session: nox.Session) -> None:
    """Run the tests and doctests on the build of PyTorch that the project develops with."""
    session.install("-c", "constraints.txt", "-e", ".[dev]")
    session.run(*PYTEST, *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session(python="3.11", venv_backend="uv", default=False)
def lowest(session: nox.Session) -> None:
    """Run the tests on the oldest packages that pyproject.toml allows."""
    session.install("--resolution", "lowest-direct", "-e", ".[dev]")
    session.run(*PYTEST, *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, types and the direction of imports."""
    session.install("-c", "constraints.txt", "-e", ".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("lint-imports")


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Build the site, with a warning an error."""
    session.install("-c", "constraints.txt", "-e", ".[docs]")
    # all pages are written: the search index forgets the index entries of those that are not
    options = ("--fail-on-warning", "--write-all", "-b", "html")
    session.run("sphinx-build", *options, "docs", "docs/_build/html")


@nox.session(default=False)
def wheel(session: nox.Session) -> None:
    """Build the package, check it, and run the main job from the wheel alone."""
    session.run("make", "wheel-check", external=True)


if __name__ == "__main__":
    nox.main()
