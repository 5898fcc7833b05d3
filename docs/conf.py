"""Sphinx configuration of the site: `make docs` builds it into site/."""

import configparser
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

_setup = configparser.ConfigParser()
_setup.read(ROOT / "setup.cfg", encoding="utf-8")

project = "gradcam-layers"
author = "The gradcam-layers authors"
copyright = "2026, the gradcam-layers authors; MIT licence"
release = version = _setup["metadata"]["version"]
language = "en"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "docs.workshop.extension"]
exclude_patterns = ["_made", "_tables", "methods/_tiles.md", "data", "workshop", "**/.ipynb_checkpoints"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
suppress_warnings = ["ref.python"]  # SplitError is in two modules

myst_heading_anchors = 3
nb_execution_mode = "off"  # the notebooks are stored with the outputs of a run; a test runs them
nb_ipywidgets_js = {}  # nothing from another host
html_math_renderer = "mathml"

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
add_module_names = False
python_maximum_signature_line_length = 90
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = [("Source", "notes_style")]

html_theme = "furo"
html_title = "gradcam-layers"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
pygments_style = "friendly"
pygments_dark_style = "monokai"
copybutton_selector = "div.highlight-python pre"
