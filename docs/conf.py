"""Sphinx: `python -m sphinx -c docs . docs/_build/html`, from the root of the repository.

The source folder is the root, so that links between docs/, notebooks/ and README.md are the same
here and where the repository is read. DOCS_FAST=1 leaves the notebooks unexecuted.
"""

import os
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS)]

from mathjax_file import put_mathjax  # noqa: E402  the two folders have to be on the path

project = "minqwen"
html_title = "minqwen"
author = "the authors of minqwen"
root_doc = "docs/index"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "concept_pages",
    "reference",
    "links",
    "play",
    "fast_navigation",
    "run_notebooks",
    "chinese_search",
    "figures",
]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
include_patterns = ["docs/**", "notebooks/**", "README.md", "benchmarks/README.md"]
exclude_patterns = [
    ".*",
    "build",
    "dist",
    "runs",
    "tour",
    "minqwen",
    "tests",
    "*.egg-info",
    "docs/_build",
    "docs/_ext",
    "docs/_templates",
    "**/.ipynb_checkpoints",
    "notebooks/zh/[0-9]*.md",  # the words alone; with the code they are the .ipynb beside them
]

html_theme = "furo"
html_static_path = ["_static", str(put_mathjax(DOCS / "_build" / "vendor"))]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_favicon = "_static/favicon.svg"
html_search_scorer = str(DOCS / "_static" / "search_order.js")
html_copy_source = html_show_sourcelink = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": False}
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
mathjax_path = "mathjax/tex-svg.js"

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 4
myst_links_external_new_tab = False
default_role = "code"  # `name` in our docstrings
autodoc_typehints = "none"  # shapes stand in the words; the types would repeat ndarray
autodoc_member_order = "bysource"
napoleon_custom_sections = [("Returns", "params_style"), ("Yields", "params_style")]
add_module_names = False
toc_object_entries = False

nb_execution_mode = "off" if os.environ.get("DOCS_FAST") else "cache"
nb_execution_timeout = 600
nb_merge_streams = True  # lines printed one by one are one output
nb_execution_raise_on_error = True
nb_execution_cache_path = str(DOCS / "_build" / "jupyter_cache")
suppress_warnings = ["toc.empty_glob", "toc.not_included", "mystnb.unknown_mime_type"]
