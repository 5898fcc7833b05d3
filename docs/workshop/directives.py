"""The directive ``{example}``: code, run by the build, and what it printed and drew."""

from __future__ import annotations

import pathlib
import textwrap
import traceback
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from . import examples

MADE = "_made"  # below the source folder: the pictures of this build

logger = logging.getLogger(__name__)
_pages: dict[str, examples.Page] = {}
_read_now: set[str] = set()


class Example(SphinxDirective):
    """Code, run by the build, and under it what it printed and drew."""

    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {
        "hide-code": directives.flag,
        "hide-output": directives.flag,
        "alt": directives.unchanged,
        "class": directives.class_option,
    }

    def run(self) -> list[nodes.Node]:
        """The nodes of the block."""
        name = self.env.docname
        count = self.env.temp_data["examples"] = self.env.temp_data.get("examples", 0) + 1
        if count == 1:
            _pages[name] = examples.Page(name, self.config.examples)
        code = "\n".join(self.content)
        try:
            output = _pages[name].output(code)
        except Exception as error:  # the other pages are built all the same; with -W the build fails in the end
            last = traceback.format_exception_only(error)[-1].strip()
            logger.warning("example %d does not run: %s", count, last, location=self.get_location())
            output = examples.Output(last)
        around = nodes.container(classes=["example", *self.options.get("class", [])])
        if "hide-code" not in self.options:
            around += nodes.literal_block(code, code, language="python")
        if "hide-output" not in self.options:
            around += self._shown(output, f"{name.replace('/', '-')}-{count}")
        return [around] if around.children else []

    def _shown(self, output: examples.Output, stem: str) -> list[nodes.Node]:
        found: list[nodes.Node] = []
        if output.text:
            lines = (textwrap.fill(line, 96) if _is_prose(line) else line for line in output.text.splitlines())
            text = "\n".join(lines)
            found.append(nodes.literal_block(text, text, language="text", classes=["output"]))
        for number, (suffix, data) in enumerate(output.pictures):
            address = write_picture(pathlib.Path(self.env.srcdir), f"{stem}-{number}", suffix, data)
            alt = self.options.get("alt", "What the code above draws")
            found.append(nodes.image(uri=address, alt=alt, loading="lazy"))
        return found


def _is_prose(line: str) -> bool:
    """Whether a long line may be broken: no row of a table."""
    return len(line) > 100 and "  " not in line.strip() and not line.startswith(("[", "{"))


def write_picture(source: pathlib.Path, stem: str, suffix: str, data: bytes) -> str:
    """Writes a picture below the source folder, if it is another than before.

    Returns:
        Its address in the pages.
    """
    path = source / MADE / f"{stem}{suffix}"
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_bytes() != data:
        path.write_bytes(data)
    return f"/{MADE}/{path.name}"


def finish(app: Sphinx, error: Exception | None) -> None:
    """Forgets outputs that no page uses any more, after a build of every page without an error."""
    if error is None and app.config.examples != "stored" and set(app.env.found_docs) == _read_now:
        examples.forget_others(examples.USED)


def note_page(app: Sphinx, name: str, source: list[str]) -> None:
    """Remembers that a page was read in this build; a page that no menu names is put at the end of the front page's."""
    _read_now.add(name)
    if name == "index":
        others = sorted(page for page in app.env.found_docs if "/" not in page and page != name)
        lines = set(source[0].splitlines())
        if missing := [page for page in others if page not in lines]:
            source[0] += "\n".join(["", "```{toctree}", ":hidden:", ":caption: More", "", *missing, "```", ""])
