"""How the documentation is built: `make docs`. No network is needed."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

import spender_core  # noqa: E402

project = "spender"
author = "the spender developers"
copyright = author
version = release = spender_core.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "docstrings",
    "generated",
    "drawings",
]
default_role = "name"
exclude_patterns = ["_build", "_ext", "_static"]
source_suffix = {".md": "markdown"}
language = "en_GB"

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_class_signature = "mixed"
autodoc_default_options = {"members": True, "exclude-members": "model_config"}
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
add_module_names = False

# what other packages document is not looked up, since a build needs no network
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!spender_).*"),
    ("py:.*", r".*\._\w+"),
    # parts of what is public, and of no use alone
    ("py:class", r"spender_core\.interfaces\.imaging\.Imaging"),
    ("py:class", r"spender_core\.ops\.(fused\.Taps|layout\.Layout)"),
    ("py:class", r"spender_core\.plugins\.manager\.Discovery"),
]

html_theme = "pydata_sphinx_theme"
html_title = "spender"
html_static_path = ["_static"]
html_css_files = ["spender.css"]
html_logo = "_static/icon.svg"
html_favicon = "_static/icon.svg"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = {
    "logo": {"text": "spender"},
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button"],
    "header_links_before_dropdown": 8,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "back_to_top_button": False,
}
html_sidebars = {page: [] for page in ("index", "quickstart", "gallery", "models")}
