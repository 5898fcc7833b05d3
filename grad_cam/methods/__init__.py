"""The methods: pure functions of named ingredients, registered beside themselves in `METHODS`.

A new method is one function with `@method(...)` above it, and one reference in the tests. The command line, the page,
the tests and the documentation read this table; nothing else lists methods.
"""
# ruff: noqa: F401, I001 (the order of imports is that of METHODS)

from __future__ import annotations

from . import auto, gradient, factorization, perturbation, regions, attention, network
from .combinators import aug_smooth, eigen_smooth, fuse
from .common import MethodError
from .registry import INGREDIENTS, METHODS, Method, find, method

register = method

__all__ = [
    "INGREDIENTS", "METHODS", "Method", "MethodError", "aug_smooth", "eigen_smooth", "find", "fuse", "method",
    "register",
]  # fmt: skip
