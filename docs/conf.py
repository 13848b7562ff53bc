"""Sphinx: `make docs` makes the site. Nothing is fetched; warnings are errors."""

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "fgmp"
author = copyright = "the fgmp authors"
release = version = installed("fgmp")
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "configurator_page"]
exclude_patterns = ["_build", "pictures/*.py"]
html_theme = "furo"
html_title = "fgmp"
html_show_sourcelink = False
html_static_path = ["static"]

myst_enable_extensions = ["attrs_inline"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_cache_path = "../out/docs/notebooks"
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_execution_raise_on_error = True

napoleon_use_ivar = True
autodoc_member_order = "alphabetical"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_class_signature = "mixed"


def _no_types_in_properties(app, what, name, obj, options, lines):
    """Napoleon takes what stands before a colon in a property's first line for its type; ours are sentences."""
    if what in ("property", "attribute", "data") and lines:
        lines[0] = lines[0].replace(":", " \N{EN DASH}", 1)


def setup(app):
    """What Sphinx calls."""
    app.connect("autodoc-process-docstring", _no_types_in_properties, priority=100)
