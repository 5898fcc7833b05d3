"""How an image is resized and cut to the size that a model takes, in the ways of `Preprocessing.crop_mode`."""

from __future__ import annotations

import math

from PIL import Image

CROP_MODES = ("center", "squash", "border", "keep")


def resized(image: tuple[int, int], size: tuple[int, int], crop_pct: float, mode: str) -> tuple[int, int]:
    """Width and height after resizing, before the cut; rounded as timm and torchvision do.

    Args:
        image: Width and height of the image.
        size: Height and width of the model's input.
        crop_pct: As for `Preprocessing`.
        mode: One of `CROP_MODES`.
    """
    width, height = image
    high, wide = (math.floor(side / crop_pct) or 1 for side in size)
    if mode == "squash":
        return wide, high
    if mode == "keep":
        high = wide = min(high, wide)
    if mode in ("center", "keep") and high == wide:
        short, long = min(width, height), max(width, height)
        long = int(wide * long / short)
        return (wide, long) if width <= height else (long, wide)
    choose = max if mode == "border" else min
    ratio = choose(height / high, width / wide)
    return round(width / ratio) or 1, round(height / ratio) or 1


def cut(image: Image.Image, width: int, height: int, fill: tuple[int, ...]) -> Image.Image:
    """Cuts the centre out; where the image is smaller than the cut, its border is filled."""
    if image.width < width or image.height < height:
        canvas = Image.new("RGB", (max(image.width, width), max(image.height, height)), fill)
        canvas.paste(image, (max(0, width - image.width) // 2, max(0, height - image.height) // 2))
        image = canvas
    left, top = round((image.width - width) / 2.0), round((image.height - height) / 2.0)
    return image.crop((left, top, left + width, top + height))


def used(length: int, now: int, kept: int) -> tuple[float, float]:
    """The part of an edge of an image that is seen of it, in its pixels.

    Args:
        length: Of the edge.
        now: Its length after resizing.
        kept: How much of that the model takes.
    """
    start = max(0, round((now - kept) / 2.0))
    return start * length / now, min(now, start + kept) * length / now


def framed(length: int, now: int, kept: int) -> tuple[float, float]:
    """Where the ends of what the model takes lie on an edge of an image, outside it where the image is padded."""
    start = round((max(now, kept) - kept) / 2.0) - max(0, kept - now) // 2
    return start * length / now, (start + kept) * length / now
