"""How the site is built: ``make docs`` runs Sphinx on this folder."""

from __future__ import annotations

import os
import sys
import tomllib
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import urlopen

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]
# the notebooks run in processes of their own, with this checkout and its command
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(HERE.parent / "src"), os.environ.get("PYTHONPATH")])
)
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ["COLUMNS"] = "88"

from grokscope import __version__  # noqa: E402

project = "grokscope"
author = "The grokscope authors"
copyright = "The grokscope authors"
release = version = __version__
# addresses are named once, in pyproject.toml
URLS = tomllib.loads((HERE.parent / "pyproject.toml").read_text("utf-8"))["project"]["urls"]

# The gallery is written from the recorded verdicts (figure_pages.py) and laid out by sphinx-design:
# sphinx-gallery would run a script for each figure at the build, and these train for hours.
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "sphinx_design",
    "docstrings",
    "mathml",
    "site_pages",
    "report_pages",
]
exclude_patterns = ["_build", "jupyter_execute", "results/runs"]
templates_path = ["_templates"]

default_role = "code"  # single backticks in docstrings

# The pages of the API: what the docstrings say, with types as they are written in the code.
autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_attr_annotations = False
python_use_unqualified_type_names = True

# Pages are Markdown; those of ``tutorials`` are notebooks, which run when the site is built.
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist", "attrs_block"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_timeout = 300
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "grokscope"
html_baseurl = f"{URLS['Documentation']}/en/latest/"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "navigation_with_keys": True,
    "source_repository": f"{URLS['Source']}/",
    "source_branch": "main",
    "source_directory": "docs/",
    "top_of_page_buttons": ["view"],
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Names of other libraries are linked where their index can be fetched. Without a network the
# build goes on: a name that cannot be looked up is then left as it is.
_INVENTORIES = {
    "python": "https://docs.python.org/3/",
    "torch": "https://docs.pytorch.org/docs/stable/",
    "numpy": "https://numpy.org/doc/stable/",
    "lightning": "https://lightning.ai/docs/pytorch/stable/",
}


def _reachable(url: str) -> bool:
    try:
        with urlopen(f"{url}objects.inv", timeout=5) as inventory:
            return bool(inventory.read(18) == b"# Sphinx inventory")
    except (OSError, HTTPException):
        return False


intersphinx_mapping = {name: (url, None) for name, url in _INVENTORIES.items() if _reachable(url)}
intersphinx_timeout = 20

nitpicky = True
nitpick_ignore_regex = [
    # names of other libraries where their index is out of reach
    *([(r"py:.*", rf"{name}(\..*)?") for name in _INVENTORIES if name not in intersphinx_mapping]),
    # shapes and types of attributes, such as Float[Tensor, "n k"], are not pages
    (r"py:class", r"(jaxtyping\..*|Tensor|'.*'|nn\.Module|collections\.abc\..*|)"),
]


def setup(app: Any) -> dict[str, bool]:
    """Nothing of the configuration hinders reading pages in parallel."""
    return {"parallel_read_safe": True}
