"""The optional packages that folders need, and the errors of this room."""

from __future__ import annotations

from typing import Any

from ..errors import GradCamError, import_extra


class SourceError(GradCamError):
    """A source of pictures cannot be read, or holds none."""


class RunError(GradCamError):
    """A run cannot begin, go on or be read."""


def arrow(module: str = "pyarrow") -> Any:
    """Loads pyarrow, or a module of it; an error that names the extra where it is not installed."""
    return import_extra(module, "runs over folders need pyarrow", "folders")


def ray_data() -> Any:
    """Loads Ray Data; an error that names the extra where it is not installed."""
    return import_extra("ray.data", "runs over folders need ray[data]", "ray")
