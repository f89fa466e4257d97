"""The documentation site: `make docs`. Pages that have their one copy elsewhere are made by `pages.py`."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import pages  # noqa: E402

import crysjax  # noqa: E402

pages.write(HERE / "generated")

# Kernels of executed pages share compiled programs, and draw without a display.
CACHE = HERE.parent / "build" / "docs-cache"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

project, author = "crysjax", "the crysjax authors"
version = release = crysjax.__version__
copyright = f"{author}, Apache-2.0"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["generated/parts/*", "**/.ipynb_checkpoints"]
default_role = "literal"  # docstrings write code in single backticks

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
smartquotes = False  # they would make a dash of the two hyphens of an option

# Pages with cells are executed from top to bottom, each in a kernel of its own; an error there is a warning, which
# fails the build in the end. Notebooks are shown with their stored outputs: tests/test_notebooks.py executes them.
nb_execution_mode = os.environ.get("CRYSJAX_DOCS_EXECUTE", "force")  # "off" or "cache" while writing
nb_execution_cache_path = str(CACHE / "cells")
nb_execution_in_temp = True
nb_execution_excludepatterns = ["generated/notebooks/*"]
nb_execution_timeout = 600
nb_ipywidgets_js: dict[str, dict] = {}  # they would come from other servers
nb_mime_priority_overrides = [("html", "text/html", 0)]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False

html_theme = "pydata_sphinx_theme"
html_title = "crysjax"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_copy_source = html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "crysjax"},
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "header_links_before_dropdown": 7,
    "show_toc_level": 2,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_center": [],
    "footer_end": [],
}
html_sidebars = {"index": []}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def fields_of(app: Any, what: str, name: str, made: Any, options: Any, lines: list[str]) -> None:
    """The fields of a NamedTuple or dataclass, by the comments beside them: Sphinx knows only their names."""
    if what != "class" or not getattr(made, "__annotations__", None):
        return
    said = {}
    for line in inspect.getsource(made).splitlines():
        field, colon, rest = line.strip().partition(":")
        if colon and field in made.__annotations__:
            said[field] = rest.partition("#")[2].strip()
    lines += ["", "Fields:", ""]
    for field, hint in made.__annotations__.items():
        text = f"``{getattr(hint, '__forward_arg__', getattr(hint, '__name__', hint))!s}``"
        lines += [f"* **{field}**: {text}{'. ' + literal(said[field]) if said.get(field) else ''}"]


def skip_field(app: Any, what: str, name: str, made: Any, skip: bool, options: Any) -> bool | None:
    """The fields of a NamedTuple stand in the list of `fields_of`."""
    return True if type(made).__name__ == "_tuplegetter" else None


def no_signature(app: Any, what: str, name: str, made: Any, *rest: Any) -> tuple[str, None] | None:
    """Fields stand in a list of their own, so a class needs no signature."""
    return ("", None) if what == "class" else None


def literal(comment: str) -> str:
    """A comment as reStructuredText: nothing in it is markup but single backticks."""
    return comment.replace("\\", "\\\\").replace("*", "\\*").replace("|", "\\|").replace("_", "\\_")


def setup(app: Any) -> dict:
    app.connect("autodoc-process-docstring", fields_of)
    app.connect("autodoc-process-signature", no_signature)
    app.connect("autodoc-skip-member", skip_field)
    return {"parallel_read_safe": True}
