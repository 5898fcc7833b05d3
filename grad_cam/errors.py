"""The package's own errors: each says what is wrong, what was given and what to do.

Nothing of this package is imported here.
"""

from __future__ import annotations

import importlib
import pathlib
from collections.abc import Sequence
from typing import Any


class GradCamError(ValueError):
    """Something the package refuses to do, because the result would be wrong or does not exist.

    Attributes:
        what: What is wrong, in one clause.
        given: What the caller or the model gave, or "".
        remedy: What to do instead; an argument that helps, such as ``layer="blocks.2"``, is written as it is typed.
    """

    def __init__(self, what: str, given: str = "", remedy: str = "") -> None:
        self.what = what
        self.given = given
        self.remedy = remedy
        super().__init__("; ".join(part for part in (f"{what} ({given})" if given else what, remedy) if part))

    def __reduce__(self) -> tuple[type[GradCamError], tuple[str, str, str]]:
        return type(self), (self.what, self.given, self.remedy)


class SplitError(GradCamError):
    """A model cannot be cut exactly."""


class OutputError(SplitError):
    """No tensor in what a model returns is known to be the logits."""


class InputError(GradCamError):
    """The images or the example do not fit the model."""


class LayerError(GradCamError):
    """There is no such layer, or no map can be drawn there."""


class LayoutError(LayerError):
    """An activation cannot be read as a grid of positions."""


class ModelError(GradCamError):
    """A model, a checkpoint or a class that does not exist; the message says what does."""


class MissingExtraError(GradCamError, ImportError):
    """A package is not installed that one of the optional extras brings."""


def install(extra: str) -> str:
    """The command that installs an extra, as the remedy of an error."""
    return f"pip install 'gradcam-layers[{extra}]'"


def import_extra(module: str, what: str, extra: str, error: type[GradCamError] = MissingExtraError) -> Any:
    """Imports a module that an optional extra brings.

    Args:
        module: Its name.
        what: What needs which package, such as "the web page needs gradio", for the error.
        extra: Name of the extra.
        error: Raised where the module is missing.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise error(f"{what}, which is not installed", remedy=install(extra)) from None


def message_of(error: BaseException, most: int | None = None) -> str:
    """The message of an error in one line, cut to a number of characters."""
    return " ".join(str(error).split())[:most]


def refuse_existing(paths: Sequence[pathlib.Path], force: bool = False) -> None:
    """Raises FileExistsError if any of the files exists, unless `force`."""
    there = [] if force else [str(path) for path in paths if path.exists()]
    if there:
        more = f" and {len(there) - 3} more" if len(there) > 3 else ""
        verb = "exists" if len(there) == 1 else "exist"
        raise FileExistsError(
            f"{', '.join(there[:3])}{more} {verb} already; choose another name or pass force=True (--force)"
        )
