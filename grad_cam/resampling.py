"""Maps at another size: the one interpolation of pictures and of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["interpolation", "interpolation_at"]


def interpolation(source: int, target: int, part: float = 1.0) -> NDArray[np.float64]:
    """The matrix (target, source) of linear interpolation between pixel centres, constant beyond the outer ones.

    Args:
        source: Number of values along a line of the map.
        target: Number of values wanted.
        part: Of the values along the line, from the first on.

    Returns:
        Weights that sum to 1 in each row. `interpolation(h, H) @ map @ interpolation(w, W).T` is bilinear.
    """
    return interpolation_at((np.arange(target) + 0.5) * part / target, source)


def interpolation_at(places: NDArray[np.floating[Any]], source: int) -> NDArray[np.float64]:
    """The matrix (places, source) of linear interpolation between values that fill 0..1, constant beyond the outer."""
    at = np.clip(places * source - 0.5, 0, source - 1)
    left = np.minimum(at.astype(int), max(source - 2, 0))
    matrix = np.zeros((len(places), source))
    rows = np.arange(len(places))
    matrix[rows, left] = 1 - (at - left)
    matrix[rows, np.minimum(left + 1, source - 1)] += at - left
    return matrix
