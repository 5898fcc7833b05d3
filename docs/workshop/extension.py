"""Builds the site: examples that are run, cards of methods from the registry, formulas without a foreign script.

A Sphinx extension. `examples` runs the code of the pages, `cards` writes the pages of the methods and of the numbers,
`formulas` draws mathematics, `tiny` trains the small networks of the pictures.
"""

from __future__ import annotations

import pathlib
import shutil
from typing import Any

from sphinx.application import Sphinx

from . import cards, formulas, numbers
from .cards import put
from .directives import Example, finish, note_page

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _write_sources(app: Sphinx) -> None:
    """Puts the pages that are made, and the notebooks, where Sphinx looks for them."""
    source = pathlib.Path(app.srcdir)
    cards.write(source, app.config.examples)
    numbers.write(source)
    for name in ("CHANGELOG", "CONTRIBUTING"):
        text = (ROOT / f"{name}.md").read_text(encoding="utf-8").replace("](docs/", "](")
        put(source / f"{name.lower()}.md", text)
    tutorials = source / "tutorials"
    tutorials.mkdir(exist_ok=True)
    kept = set()
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        kept.add(notebook.name)
        target = tutorials / notebook.name
        if not target.exists() or target.read_bytes() != notebook.read_bytes():
            shutil.copyfile(notebook, target)
    for other in tutorials.glob("*.ipynb"):
        if other.name not in kept:
            other.unlink()


def setup(app: Sphinx) -> dict[str, Any]:
    """Connects the workshop to Sphinx."""
    app.add_config_value("examples", "run", "env", (str,))  # see examples.Page
    app.add_directive("example", Example)
    app.add_html_math_renderer("mathml", (formulas.inline, None), (formulas.block, None))
    app.connect("builder-inited", _write_sources)
    app.connect("source-read", note_page)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
