"""Maps at another size: the one interpolation of pictures and of numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["interpolation"]


def interpolation(source: int, target: int, part: float = 1.0) -> NDArray[np.float64]:
    """The matrix (target, source) of linear interpolation between pixel centres, constant beyond the outer ones.

    Args:
        source: Number of values along a line of the map.
        target: Number of values wanted.
        part: Of the values along the line, from the first on.

    Returns:
        Weights that sum to 1 in each row. `interpolation(h, H) @ map @ interpolation(w, W).T` is bilinear.
    """
    place = np.clip((np.arange(target) + 0.5) * part * source / target - 0.5, 0, source - 1)
    left = np.minimum(place.astype(int), max(source - 2, 0))
    matrix = np.zeros((target, source))
    matrix[np.arange(target), left] = 1 - (place - left)
    matrix[np.arange(target), np.minimum(left + 1, source - 1)] += place - left
    return matrix
