"""The errors of the page."""

from __future__ import annotations

from ...errors import GradCamError

__all__ = ["AppError", "Superseded"]


class AppError(GradCamError):
    """A page that cannot be served, or a request that the page cannot serve."""


class Superseded(Exception):  # noqa: N818  (not an error: the visitor has another request, or has left)
    """Stops a computation whose request was replaced by a newer one."""
