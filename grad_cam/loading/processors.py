"""Hugging Face image processors, described by what they do to a few test images.

Processors write their settings in a dozen ways (`crop_pct`, a shorter edge scaled by 256/224, a crop before the resize,
a normalisation applied twice). What comes out is the same for all: one affine map of brightness per channel and one
affine map of positions. Both are measured here by running the processor, so that no setting can be read wrongly.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..introspection import run_processor

_SIDE = 512  # of the test images for positions
_TILT = 0.06


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a processor does.

    Attributes:
        size: Height and width of what it makes of a square image.
        mean: Mean of each channel that it subtracts, for pixels from 0 to 1, in the order of its output.
        std: Standard deviation of each channel that it divides by, likewise.
        bgr: Whether its output has the channels in the order blue, green, red.
        interpolation: Name of its interpolation.
        crop_pct: Side of the centre that it keeps of a square image, as a fraction.
        crop_mode: "center", "squash" or "border", as for `Preprocessing`.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool
    interpolation: str
    crop_pct: float
    crop_mode: str


def of_open_clip(model: Any) -> Measured | None:
    """What an OpenCLIP model says of its own preprocessing; None for other models, and where it says nothing."""
    settings = getattr(getattr(model, "visual", None), "preprocess_cfg", None)
    if not isinstance(settings, dict) or "mean" not in settings or "std" not in settings:
        return None
    size = settings.get("size", 224)
    modes = {"squash": "squash", "longest": "border"}
    return Measured(
        size=(size, size) if isinstance(size, int) else (int(size[0]), int(size[1])),
        mean=tuple(settings["mean"]), std=tuple(settings["std"]), bgr=False,
        interpolation="bilinear" if settings.get("interpolation") == "bilinear" else "bicubic",
        crop_pct=1.0, crop_mode=modes.get(settings.get("resize_mode", ""), "center"),
    )  # fmt: skip


def measure(processor: Any) -> Measured | None:
    """Measures what a processor does to images; None if it makes no (1, 3, H, W) of a plain one."""
    try:
        grey = run_processor(processor, Image.new("RGB", (_SIDE, _SIDE), (128, 128, 128)))
    except Exception:  # not callable, or in need of more than images
        return None
    if grey is None or grey.shape[1] != 3:
        return None
    black, white, red = (_centre(processor, colour) for colour in ("black", "white", "red"))
    if not (white > black).all():
        return None
    std = 1 / (white - black)
    mean = -black * std
    resample = getattr(processor, "resample", None)
    crop_pct, crop_mode = _geometry(processor, mean, std)
    return Measured(
        size=(int(grey.shape[2]), int(grey.shape[3])),
        mean=tuple(float(f"{value:.6g}") for value in mean),
        std=tuple(float(f"{value:.6g}") for value in std),
        bgr=bool((red * std + mean)[2] > 0.5),
        interpolation="bilinear" if resample is None else Image.Resampling(int(resample)).name.lower(),
        crop_pct=crop_pct,
        crop_mode=crop_mode,
    )


def _centre(processor: Any, colour: str) -> NDArray[np.float64]:
    """The values that one colour becomes, (3,)."""
    made = run_processor(processor, Image.new("RGB", (64, 64), colour))
    assert made is not None
    return made[0, :, made.shape[2] // 2, made.shape[3] // 2].double().numpy()


def _geometry(processor: Any, mean: NDArray[Any], std: NDArray[Any]) -> tuple[float, str]:
    """`crop_pct` by what is kept of a square image, and `crop_mode` by what is done to a wide one."""
    box, inside = _measure_box(processor, (_SIDE, _SIDE), mean, std)
    columns = np.flatnonzero(inside.any(0))
    crop_pct = (box[2] - box[0]) / _SIDE * inside.shape[1] / max(1, len(columns))
    crop_pct = 1.0 if abs(crop_pct - 1) < 0.004 else crop_pct
    box, inside = _measure_box(processor, (4 * _SIDE, _SIDE), mean, std)
    if (box[2] - box[0]) / (4 * _SIDE) < 0.9 * min(1.0, crop_pct):
        return crop_pct, "center"
    return crop_pct, "squash" if inside.all() else "border"


def used_box(processor: Any, size: tuple[int, int], mean: Any, std: Any) -> tuple[float, float, float, float]:
    """Measures which part of an image a processor keeps.

    Args:
        processor: The processor.
        size: Width and height of the image.
        mean: As measured, in the order of the processor's output.
        std: Likewise.

    Returns:
        Left, top, right and bottom in pixels of the image, accurate to about a pixel in a thousand.
    """
    return _measure_box(processor, size, mean, std)[0]


def frame(processor: Any, size: tuple[int, int], mean: Any, std: Any) -> tuple[float, float, float, float]:
    """Measures which part of an image the output shows, beyond its edges where it is padded; otherwise as `used_box`.

    Returns:
        Left, top, right and bottom in pixels of the image.
    """
    (left, top, right, bottom), inside = _measure_box(processor, size, mean, std)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    edges = []
    for low, high, places, length in ((left, right, columns, inside.shape[1]), (top, bottom, rows, inside.shape[0])):
        first, last = (int(places[0]), int(places[-1])) if len(places) else (0, length - 1)
        scale = (high - low) / (last - first + 1)
        edges.append((low - first * scale, low + (length - first) * scale))
    return edges[0][0], edges[1][0], edges[0][1], edges[1][1]


def _measure_box(
    processor: Any, size: tuple[int, int], mean: Any, std: Any
) -> tuple[tuple[float, float, float, float], NDArray[np.bool_]]:
    """The box that is kept, and where in the output it is, (H,W); elsewhere is padding."""
    across, down, there = _ramps(processor, size, mean, std)
    inside = there > 0.5
    columns, rows = np.flatnonzero(inside.any(0)), np.flatnonzero(inside.any(1))
    if not len(columns) or not len(rows):
        return (0.0, 0.0, float(size[0]), float(size[1])), inside
    kept = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    left, right = _edges(across[kept].mean(0), size[0])
    top, bottom = _edges(down[kept].mean(1), size[1])
    return (left, top, right, bottom), inside


def _ramps(processor: Any, size: tuple[int, int], mean: Any, std: Any) -> NDArray[np.float64]:
    """Where each pixel of a processor's output comes from: x and y from 0 to 1, and 1 where the image is, (3,H,W).

    Red grows mainly to the right and green mainly downwards. Each also grows a little the other way, so that rounding
    to 256 levels falls differently in every row and averages out.
    """
    width, height = size
    x, y = np.linspace(0, 1, width)[None, :], np.linspace(0, 1, height)[:, None]
    image = np.full((height, width, 3), 255, np.uint8)
    image[..., 0] = np.round(255 * ((1 - _TILT) * x + _TILT * y))
    image[..., 1] = np.round(255 * ((1 - _TILT) * y + _TILT * x))
    made = run_processor(processor, Image.fromarray(image))
    assert made is not None
    values = made[0].double().numpy() * np.reshape(std, (3, 1, 1)) + np.reshape(mean, (3, 1, 1))
    red, green, blue = values if values[2].mean() >= values[0].mean() else values[::-1]  # blue is 1 in the image
    across = ((1 - _TILT) * red - _TILT * green) / (1 - 2 * _TILT)
    down = ((1 - _TILT) * green - _TILT * red) / (1 - 2 * _TILT)
    return np.stack([across, down, blue])


def _edges(ramp: NDArray[np.float64], length: int) -> tuple[float, float]:
    """The coordinates of the outer edges of a line of pixels in an image of some length, by a straight line fit."""
    margin = min(2, (len(ramp) - 1) // 3)
    places = np.arange(margin, len(ramp) - margin) + 0.5
    positions = ramp[margin : len(ramp) - margin] * (length - 1) + 0.5
    if length < 2 or len(places) < 2:
        return 0.0, float(length)
    slope, start = np.polyfit(places, positions, 1)
    low, high = start, start + slope * len(ramp)
    return max(0.0, float(low)), min(float(length), float(high))


def process(processor: Any, image: Image.Image) -> Tensor:
    """Runs a processor on an image, (1,3,H,W)."""
    made = run_processor(processor, image)
    if made is None:
        raise TypeError(f"{type(processor).__name__} does not make a batch of images")
    return made


def rounded(box: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
    """The box in whole pixels, at least one wide and high."""
    left, top, right, bottom = (round(edge) for edge in box)
    return left, top, max(right, math.floor(box[0]) + 1), max(bottom, math.floor(box[1]) + 1)
