"""Heatmaps: raw signed maps brought to the size of the picture, floored and scaled. Needs numpy alone."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arguments import as_array, as_maps, as_number, check_fraction
from ..errors import GradCamError
from ..resampling import interpolation

View = Literal["positive", "signed"]


class Heat(NamedTuple):
    """A heatmap and the numbers it stands for.

    Attributes:
        values: (H, W) in 0..1; in -1..1 in the signed view.
        low: The map's value at the lowest heat shown, in units of the score.
        high: The map's value at heat 1.
    """

    values: NDArray[np.float32]
    low: float
    high: float


def default_smoothing(size: tuple[int, int]) -> float:
    """Returns a smoothing that suits a picture: 5 pixels where the shorter side is 224, in proportion elsewhere.

    Enough to soften the creases of bilinear interpolation in a 7x7 map, little enough to keep the detail of a 28x28
    map.

    Args:
        size: Height and width of the shown picture in pixels.
    """
    return 5 * min(_size(size)) / 224


def heatmap(
    maps: ArrayLike,
    size: tuple[int, int],
    threshold: float = 0.0,
    smoothing: float = 0.0,
    view: View = "positive",
) -> NDArray[np.float32]:
    """Turns raw maps into heatmaps: what is shown, from 0 (nothing) to 1 (the map's strongest evidence).

    The raw, signed map is resized to the picture first (bilinear, half-pixel centres) and smoothed; only then is
    everything under the floor cut off and the rest scaled. Cutting after resizing keeps the border between evidence for
    and evidence against where the interpolated map crosses zero.

    Args:
        maps: Raw signed maps (..., h, w), array or tensor.
        size: Height and width (H, W) of the shown picture in pixels.
        threshold: Floor as a fraction of the maximum, in [0, 1). 0 keeps all that is positive (ReLU).
        smoothing: Sigma of a Gaussian in pixels of the shown picture; 0 for none. The picture is continued beyond its
            edges by reflection, the kernel ends at four sigma.
        view: "positive", or "signed": values from -1 to 1, where 1 is the largest magnitude of either sign and
            magnitudes under the floor are 0.

    Returns:
        Heatmaps (..., H, W) in 0..1, all zero where a map is nowhere positive; in -1..1 in the signed view.

    Raises:
        ValueError: If a map holds NaN or infinite values or has no two axes, or if a setting is out of range.
    """
    raw = as_maps(maps)
    heats = np.zeros((*raw.shape[:-2], *_size(size)), np.float32)  # (..., H, W)
    resize = resizer(raw.shape[-2:], size, smoothing)
    threshold = check_fraction(threshold, "threshold", below_one=True)
    for index in np.ndindex(raw.shape[:-2]):
        heats[index] = _stretched(resize, raw[index], threshold, view).values
    return heats


def heat(map: ArrayLike, size: tuple[int, int], threshold: float, smoothing: float, view: View = "positive") -> Heat:
    """Turns one raw map (h, w) into a heatmap as `heatmap` does, and keeps the numbers its ends stand for."""
    raw = as_maps(map)
    if raw.ndim != 2:
        raise GradCamError("a figure shows one map (h, w)", f"shape {raw.shape}", "draw them one by one")
    threshold = check_fraction(threshold, "threshold", below_one=True)
    return _stretched(resizer((raw.shape[0], raw.shape[1]), size, smoothing), raw, threshold, view)


AGAINST = ("all negative", "nowhere positive")
"""What `describe` says of maps that hold nothing but what speaks against the target."""


def describe(map: ArrayLike) -> str | None:
    """Describes what is unusual about a raw map, as a phrase for titles and warnings.

    Args:
        map: One raw signed map (h, w).

    Returns:
        "all zero", "all negative", "nowhere positive" (zero at best), "the same everywhere", or None for an ordinary
        map.

    Raises:
        ValueError: If the map holds NaN or infinite values or has no two axes.
    """
    raw = as_maps(map)
    low, high = raw.min(), raw.max()
    if low == high == 0:
        return "all zero"
    if high < 0:
        return "all negative"
    if high == 0:
        return "nowhere positive"
    if low == high and raw.size > 1:
        return "the same everywhere"
    return None


def _size(size: tuple[int, int]) -> tuple[int, int]:
    height, width = size
    if height < 1 or width < 1 or int(height) != height or int(width) != width:
        raise GradCamError(
            f"size={tuple(size)} is not a height and a width in pixels", remedy="give two whole numbers over 0"
        )
    return int(height), int(width)


class Resizer(NamedTuple):
    """Resizing and smoothing are linear and separable: both together are one small matrix on either side."""

    rows: NDArray[np.float64]  # (H, h)
    columns: NDArray[np.float64]  # (W, w)


def resizer(grid: tuple[int, ...], size: tuple[int, int], smoothing: float) -> Resizer:
    """How maps of a grid are brought to a size and smoothed."""
    height, width = _size(size)
    smoothing = as_number(
        smoothing, "smoothing", 0, max(height, width), what=f"a sigma in pixels for a picture of {height}x{width}",
        remedy=f"give a number from 0 (none) to {max(height, width)}",
    )  # fmt: skip
    rows, columns = interpolation(grid[0], height), interpolation(grid[1], width)
    return Resizer(_blurred(rows, smoothing), _blurred(columns, smoothing))


def _stretched(resize: Resizer, raw: NDArray[np.float64], threshold: float, view: View) -> Heat:
    """Resizes one map (h, w), cuts what is under the floor, and scales the rest to 1."""
    scale = np.abs(raw).max() or 1.0
    return scaled(resize.rows @ (raw / scale) @ resize.columns.T, float(scale), threshold, view)


def scaled(shown: NDArray[np.float64], scale: float, threshold: float, view: View) -> Heat:
    """Cuts what is under the floor of resized values (..., H, W), and scales the rest to 1.

    Args:
        shown: The values, divided by `scale`.
        scale: What they were divided by.
        threshold: As for `heatmap`.
        view: As for `heatmap`.
    """
    strength = np.abs(shown) if view == "signed" else shown
    top = strength.max()
    if top <= 0:
        return Heat(np.zeros(shown.shape, np.float32), 0.0, 0.0)
    floor = threshold * top
    values = (np.maximum(strength, floor) - floor) / (top - floor)
    if view == "signed":
        return Heat((np.sign(shown) * values).astype(np.float32), -float(top * scale), float(top * scale))
    return Heat(values.astype(np.float32), float(floor * scale), float(top * scale))


def part_of(maps: ArrayLike, part: tuple[float, float] | None) -> NDArray[np.float64]:
    """Reads the upper left part of maps, at their own size.

    Args:
        maps: (..., h, w).
        part: The part of the height and of the width, 0 to 1; None is the whole.
    """
    values = as_array(maps).astype(np.float64, copy=False)
    if part is None:
        return values
    down, right = (interpolation(n, n, share) for n, share in zip(values.shape[-2:], part, strict=True))
    made: NDArray[np.float64] = down @ values @ right.T
    return made


def _blurred(matrix: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Smooths the columns of a matrix (H, h) by a Gaussian that is cut at four sigma and reflected at both ends."""
    radius = math.ceil(4 * sigma)
    if radius == 0:
        return matrix
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    padded = np.pad(matrix, ((radius, radius), (0, 0)), mode="symmetric")
    blurred = np.zeros_like(matrix)
    for shift, weight in enumerate(weights):
        blurred += weight * padded[shift : shift + len(matrix)]
    return blurred
