"""What every page that is written as a file is made with."""

from __future__ import annotations

import base64
import functools
import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2


@functools.cache
def environment(package: str = "grad_cam.rendering") -> jinja2.Environment:
    """Jinja with autoescape: what comes from names enters the page as text, the data as JSON that ends no element.

    Args:
        package: Where the templates are; those of `grad_cam.rendering` may be included.
    """
    import jinja2

    loader = jinja2.ChoiceLoader([jinja2.PackageLoader(one) for one in dict.fromkeys((package, __package__ or ""))])
    made = jinja2.Environment(autoescape=True, loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True)
    made.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return made


def digest(text: str) -> str:
    """What a content security policy calls a style or a script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
