"""Outlines of what was explained, a box or a region, drawn onto pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..errors import GradCamError

WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def outlined(pixels: NDArray[np.uint8], mark: Any) -> NDArray[np.uint8]:
    """Draws a mark onto a picture, white with a black rim.

    Args:
        pixels: The picture, bytes (H, W, 3).
        mark: A box (left, top, right, bottom) in pixels; or a mask (h, w), enlarged to the picture; or None.

    Returns:
        A copy with the outline.
    """
    if mark is None:
        return pixels
    width = max(1, round(min(pixels.shape[:2]) / 160))
    if isinstance(mark, tuple):
        return _box(pixels, mark, width)
    mask = np.asarray(mark).astype(bool)
    if mask.ndim != 2:
        raise GradCamError("a mark is a box or a mask (h, w)", f"shape {mask.shape}", "give one of them")
    size = (pixels.shape[1], pixels.shape[0])
    inside = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)) > 0
    made: NDArray[np.uint8] = pixels.copy()
    made[_edge(inside, 2 * width) & ~inside] = BLACK
    made[_edge(inside, width)] = WHITE
    return made


def _box(pixels: NDArray[np.uint8], box: tuple[float, ...], width: int) -> NDArray[np.uint8]:
    height, across = pixels.shape[:2]
    left, right = (min(max(round(v), 0), across - 1) for v in (box[0], box[2]))
    top, bottom = (min(max(round(v), 0), height - 1) for v in (box[1], box[3]))
    drawn = Image.fromarray(pixels)
    pen = ImageDraw.Draw(drawn)
    outer = (max(left - width, 0), max(top - width, 0), min(right + width, across - 1), min(bottom + width, height - 1))
    pen.rectangle(outer, outline=BLACK, width=width)
    if right - left > 2 * width and bottom - top > 2 * width:
        inner = (left + width, top + width, right - width, bottom - width)
        pen.rectangle(inner, outline=BLACK, width=width)
    pen.rectangle((left, top, right, bottom), outline=WHITE, width=width)
    return np.asarray(drawn, dtype=np.uint8)


def _edge(inside: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """The positions on either side of a border, up to a width inside and outside."""
    found = np.zeros_like(inside)
    for axis in (0, 1):
        for by in range(1, width + 1):
            moved = np.roll(inside, by, axis)
            edge = inside != moved
            edge[(slice(None),) * axis + (slice(0, by),)] = False
            found |= edge | np.roll(edge, -by, axis)
    return found
