"""Pages that are written as one HTML file each: their templates, styles and scripts."""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import refuse_existing
from . import files

if TYPE_CHECKING:
    import jinja2

__all__ = ["rendered", "write_page"]


def rendered(
    page: str, *, style: str, script: str | None = None, package: str = "grad_cam.rendering", images: str = "data:",
    switched: bool = False, **values: Any,
) -> str:  # fmt: skip
    """One HTML document; its security policy allows its own style and script and nothing else.

    Args:
        page: The template, which gets the values, `css`, `js` and `policy`.
        style: The style sheet; the colours and fonts of all pages come before it.
        script: The script, if there is one.
        package: Where these three are; those of `grad_cam.rendering` may be included.
        images: Where images may come from, as a security policy says it.
        switched: Whether dark colours go by the attribute `data-theme`, and not by what the browser prefers.
        **values: What the template shows.
    """
    made = _environment(package)
    assert made.loader is not None
    css = made.get_template("palette.css").render(switched=switched) + made.loader.get_source(made, style)[0]
    js = made.loader.get_source(made, script)[0] if script else ""
    scripts = f"script-src '{_digest(js)}'; " if script else ""
    policy = (
        f"default-src 'none'; img-src {images}; style-src '{_digest(css)}'; {scripts}base-uri 'none'; "
        "form-action 'none'"
    )
    text = made.get_template(page).render(css=css, js=js, policy=policy, **values)
    return text.encode("utf-8", "replace").decode()  # file names may carry bytes that are no text


def write_page(path: str | os.PathLike[str], content: Callable[[], str], force: bool) -> pathlib.Path:
    """Writes a page; a file in the way is refused before the work.

    Raises:
        FileExistsError: The file exists already and `force` is False.
        IsADirectoryError: The path is a folder.
    """
    if pathlib.Path(path).is_file():
        refuse_existing([pathlib.Path(path)], force)
    return files.write(path, content(), force=force)


@functools.cache
def _environment(package: str) -> jinja2.Environment:
    """Jinja with autoescape: names enter the page as text, the data as JSON that ends no element."""
    import jinja2

    loader = jinja2.ChoiceLoader([jinja2.PackageLoader(one) for one in dict.fromkeys((package, __package__ or ""))])
    made = jinja2.Environment(autoescape=True, loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True)
    made.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return made


def _digest(text: str) -> str:
    """What a content security policy calls a style or a script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
