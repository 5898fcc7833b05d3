"""The optional packages that folders need, and the errors of this room."""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import GradCamError


class SourceError(GradCamError):
    """A source of pictures cannot be read, or holds none."""


class RunError(GradCamError):
    """A run cannot begin, go on or be read."""


def arrow(module: str = "pyarrow") -> Any:
    """Loads pyarrow, or a module of it; an error that names the extra where it is not installed."""
    return _loaded(module, "folders", "pyarrow")


def ray_data() -> Any:
    """Loads Ray Data; an error that names the extra where it is not installed."""
    return _loaded("ray.data", "ray", "ray[data]")


def _loaded(module: str, extra: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"runs over folders need {package}, which is not installed: pip install 'gradcam-layers[{extra}]'"
        ) from error
