"""The whole of a photo of which a model sees a part: the rest dimmed, and a sentence on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from .preprocess import Preprocessing

SIDE = 900
"""Longer side, in pixels, to which a photo is scaled down for display."""

_REST = 0.4  # what is left of the brightness where the model does not look


class WholePhoto(NamedTuple):
    """What became of a photo on its way into the model.

    Attributes:
        picture: The whole photo with the unused part dimmed, RGB; None where all of it is used.
        note: A sentence, such as "12 % of the photo was used"; empty where there is nothing to say.
    """

    picture: Image.Image | None = None
    note: str = ""


def whole_photo(preprocessing: Preprocessing, image: Image.Image) -> WholePhoto:
    """Shows what a preprocessing uses of a photo.

    Args:
        preprocessing: How the model's images are prepared.
        image: The whole photo, as `load_image` returns it.
    """
    note = preprocessing.used_note(image) or ""
    left, top, right, bottom = preprocessing.used_box(image)
    if not note or (right - left, bottom - top) == image.size:
        return WholePhoto(None, note)
    shrink = min(1.0, SIDE / max(image.size))
    size = max(1, round(image.width * shrink)), max(1, round(image.height * shrink))
    bright = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    across, down = size[0] / image.width, size[1] / image.height
    box = round(left * across), round(top * down), round(right * across), round(bottom * down)
    shown = bright.point(lambda value: round(_REST * value))
    shown.paste(bright.crop(box), box[:2])
    line = max(1, round(max(size) / 300))
    ImageDraw.Draw(shown).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline="white", width=line)
    return WholePhoto(shown, note)
