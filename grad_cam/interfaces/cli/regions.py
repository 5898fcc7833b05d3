"""Parts of the photo on the command line, in its own pixels: `--point`, `--mask` and the places of `--boxes`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import GradCamError
from ..common import Opened
from .options import WHAT, TargetOptions, option
from .parsing import two_numbers
from .photos import Photo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def _point(text: str) -> Any:
    """X,Y as numbers."""
    x, y = two_numbers(text)
    if math.isnan(x):
        raise typer.BadParameter(f"{text!r} is no point: give x,y in pixels of the photo, such as 120,80")
    return x, y


@dataclass(frozen=True)
class RegionOptions(TargetOptions):
    """Which score is explained, and where in the photo."""

    point: Annotated[
        Any,
        option("--point", panel=WHAT, metavar="X,Y", parser=_point,
               help="For segmenters: the class at this pixel of the photo, or of --class its score there."),
    ] = None  # fmt: skip
    mask: Annotated[
        Path | None,
        option("--mask", panel=WHAT, metavar="FILE",
               help="For segmenters: a picture of the photo's size, white where the class is explained."),
    ] = None  # fmt: skip

    @property
    def _named(self) -> str | None:
        return "--point" if self.point is not None else "--mask" if self.mask is not None else None

    def check(self) -> None:
        """Refuses options that contradict each other."""
        super().check()
        others = {
            "--text": self.text, "--boxes": self.boxes, "--top": self.top, "--rather-than": self.rather_than,
            "--counterfactual": self.counterfactual or None,
        }  # fmt: skip
        given = [name for name, value in others.items() if value not in (None, [])]
        if self.point is not None and self.mask is not None:
            given.append("--mask")
        if self._named is not None and given:
            raise typer.BadParameter(f"{self._named} and {given[0]} contradict each other: give one of them")
        if self.mask is not None and not self.mask.is_file():
            raise FileNotFoundError(f"--mask: there is no file {str(self.mask)!r}")

    def of_photos(self, opened: Opened) -> Callable[[Sequence[Photo]], Any]:
        """The target for a batch of photos, as `grad_cam.explain` takes it."""
        import torch

        from ... import loading, targets

        if self.boxes and not isinstance(self._boxes, int):
            return lambda photos: [self._seen_boxes(photo) for photo in photos]
        if self._named is None:
            resolve = self.resolve(opened)
            return lambda photos: resolve(torch.cat([photo.tensor for photo in photos]))
        chosen: list[Any] = [loading.class_index(opened.model, name) for name in dict.fromkeys(self.class_ or ())] or [
            None
        ]

        def of(photo: Photo) -> list[Any]:
            if self.point is not None:
                where = _seen_at(self.point, photo)
                return [targets.segmentation(k, point=where) for k in chosen]
            mask = _seen_mask(self.mask, opened, photo)  # type: ignore[arg-type]
            return [targets.segmentation(k, mask=mask) for k in chosen]

        return lambda photos: [of(photo) for photo in photos]

    def _seen_boxes(self, photo: Photo) -> list[Any]:
        """A target for every box that is named, whose place is one in the photo."""
        from ... import targets

        chosen = [one if isinstance(one, int) else _seen_box(one, photo) for one in self._boxes]  # type: ignore[union-attr]
        return [targets.box(one, self.score or "class") for one in chosen]  # type: ignore[arg-type]


def _scaled(point: Sequence[float], photo: Photo) -> tuple[float, float]:
    """Where a pixel (x, y) of a photo lies in what the model sees: from 0 to 1 if it does."""
    (top, left), (bottom, right) = photo.geometry.start, photo.geometry.stop
    return (point[0] - left) / (right - left), (point[1] - top) / (bottom - top)


def _seen_box(box: Sequence[float], photo: Photo) -> list[float]:
    """Where a box of a photo lies in what the model sees, in its pixels."""
    (high, wide), (height, width) = photo.geometry.original, photo.tensor.shape[-2:]
    left, top, right, bottom = box
    if not (left < right and top < bottom and right > 0 and bottom > 0 and left < wide and top < high):
        raise GradCamError(
            f"the box {','.join(f'{v:g}' for v in box)} holds nothing of the photo",
            f"{photo.path}: {wide} x {high} pixels", "give left,top,right,bottom in pixels of the photo",
        )  # fmt: skip
    (x0, y0), (x1, y1) = _scaled(box[:2], photo), _scaled(box[2:], photo)
    return [x0 * width, y0 * height, x1 * width, y1 * height]


def box_of(mark: Any, photo: Photo) -> list[float] | None:
    """The box that a map is about, in pixels of the photo: left, top, right and bottom; None where it is of no box.

    Args:
        mark: What the score is about, as an explanation has it.
        photo: The photo.
    """
    if not isinstance(mark, tuple) or len(mark) != 4 or len(photo.geometry.original) != 2:
        return None
    (top, left), (bottom, right) = photo.geometry.start, photo.geometry.stop
    height, width = photo.tensor.shape[-2:]
    across, down = (right - left) / width, (bottom - top) / height
    edges = left + mark[0] * across, top + mark[1] * down, left + mark[2] * across, top + mark[3] * down
    return [round(float(v), 1) for v in edges]


def _seen_at(point: tuple[float, float], photo: Photo) -> tuple[float, float]:
    """Where a pixel of a photo lies in what the model sees, (x, y)."""
    where, (height, width) = photo.geometry, photo.tensor.shape[-2:]
    x, y = _scaled(point, photo)
    high, wide = where.original
    if not (0 <= point[0] <= wide and 0 <= point[1] <= high):
        raise GradCamError(
            f"the point {point[0]:g},{point[1]:g} lies beside the photo", f"{photo.path}: {wide} x {high} pixels",
            "give x,y in pixels of the photo",
        )  # fmt: skip
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise GradCamError(
            f"the model does not see the point {point[0]:g},{point[1]:g}", f"{photo.path}: {photo.whole.note}",
            "add --no-crop, or give a point nearer to the middle",
        )  # fmt: skip
    return float(x * width), float(y * height)


def _seen_mask(mask: Path, opened: Opened, photo: Photo) -> NDArray[np.bool_]:
    """The part of a mask that the model sees, (H, W)."""
    import numpy as np

    from ...loading import load_image

    drawn, (high, wide) = load_image(mask), photo.geometry.original
    if drawn.size != (wide, high):
        raise GradCamError(
            "--mask has another size than the photo", f"{drawn.width} x {drawn.height}, the photo {wide} x {high}",
            "give a picture of the photo's size, white where the class is explained",
        )  # fmt: skip
    seen = np.asarray(opened.prepare.view(drawn).convert("L")) > 127
    if not seen.any():
        raise GradCamError(
            "--mask marks nothing of what the model sees", str(mask), "paint the part white, or add --no-crop"
        )
    return seen
