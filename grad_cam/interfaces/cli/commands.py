"""All commands, in the order `grad-cam --help` lists them."""

from __future__ import annotations

from . import demo, explain, layers, methods, page, report, sweep  # noqa: F401, I001  (each registers its command)
from .edge import app
from .methods import methods_table

__all__ = ["app", "methods_table"]
