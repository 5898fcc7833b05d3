"""All commands, in the order `grad-cam --help` lists them."""
# ruff: noqa: F401, I001 (each module registers its command)

from __future__ import annotations

from . import demo, layers, explain, sweep, report, run, study, bench, methods, page
from .edge import app
from .methods import methods_table

__all__ = ["app", "methods_table"]
