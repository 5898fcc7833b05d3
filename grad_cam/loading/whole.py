"""A whole photo of which a model sees a part: the rest dimmed, and a sentence about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from .preprocess import Preprocessing

SIDE = 900
"""Longer side, in pixels, to which a photo is scaled down for display."""

_REST = 0.4  # what is left of the brightness where the model does not look


class WholePhoto(NamedTuple):
    """A whole photo, and how much of it the model sees.

    Attributes:
        picture: The whole photo with the unused part dimmed, RGB; None where all of it is used.
        note: A sentence, such as "12 % of the photo was used"; empty where there is nothing to say.
    """

    picture: Image.Image | None = None
    note: str = ""


def note_on(preprocessing: Preprocessing, size: tuple[int, int], box: tuple[int, int, int, int]) -> str | None:
    """States how much of a photo of a width and height is used; None for the whole of it in its own proportions."""
    (left, top, right, bottom), (height, width) = box, preprocessing.size
    fraction = (right - left) * (bottom - top) / (size[0] * size[1])
    if fraction < 0.995:
        return f"{max(1, round(100 * fraction))} % of the photo was used"
    if preprocessing.crop_mode == "keep" or 0.98 < (width / size[0]) / (height / size[1]) < 1.02:
        return None
    how = "padded" if preprocessing.crop_mode == "border" else "resized without keeping its proportions"
    return f"the whole photo was used, {how} to {width} x {height}"


def whole_photo(preprocessing: Preprocessing, image: Image.Image) -> WholePhoto:
    """Shows what a preprocessing uses of a photo.

    Args:
        preprocessing: How the model's images are prepared.
        image: The whole photo, as `load_image` returns it.
    """
    left, top, right, bottom = used = preprocessing.used_box(image)
    note = note_on(preprocessing, image.size, used) or ""
    if not note or (right - left, bottom - top) == image.size:
        return WholePhoto(None, note)
    shrink = min(1.0, SIDE / max(image.size))
    size = max(1, round(image.width * shrink)), max(1, round(image.height * shrink))
    bright = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    across, down = size[0] / image.width, size[1] / image.height
    x, y = min(round(left * across), size[0] - 1), min(round(top * down), size[1] - 1)
    box = x, y, max(round(right * across), x + 1), max(round(bottom * down), y + 1)  # at least a pixel
    shown = bright.point(lambda value: round(_REST * value))
    shown.paste(bright.crop(box), box[:2])
    line = max(1, round(max(size) / 300))
    ImageDraw.Draw(shown).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline="white", width=line)
    return WholePhoto(shown, note)
