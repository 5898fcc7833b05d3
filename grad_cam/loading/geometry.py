"""Where an input lies in the original it was made from, so that a map can be put back there."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arguments import as_maps, is_index
from ..errors import GradCamError
from ..resampling import interpolation_at


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Which part of an original an input shows: the frame that was cut out, resized to the input and possibly turned.

    Coordinates are those of edges: pixel i of an axis goes from i to i + 1. A frame that begins below 0 or ends beyond
    the original was padded. A photo is meant upright, as `load_image` returns it.

    Attributes:
        original: Size of the original along the axes of the input: (height, width), or (depth, height, width).
        start: Where the input begins in the original, for each of these axes.
        stop: Where it ends.
        order: For each axis of the input, the axis of the stored original that it is; None means the same order.
        flipped: For each axis of the input, whether it runs backwards in the stored original.
        affine: For volumes: the matrix (4, 4) of the stored original from voxels to millimetres, as NIfTI has it.
        name: What the original is called, such as its file.
    """

    original: tuple[int, ...]
    start: tuple[float, ...]
    stop: tuple[float, ...]
    order: tuple[int, ...] | None = None
    flipped: tuple[bool, ...] | None = None
    affine: tuple[tuple[float, ...], ...] | None = None
    name: str = ""

    def __post_init__(self) -> None:
        axes = len(self.original)
        given = [each for each in (self.start, self.stop, self.order, self.flipped) if each is not None]
        if axes not in (2, 3) or any(len(each) != axes for each in given):
            raise GradCamError(
                "a geometry has two axes or three, and everything once for each", f"{self}", "(height, width)"
            )
        if not all(is_index(n) and n > 0 for n in self.original):
            raise GradCamError("the size of an original is made of whole numbers over 0", f"{self.original}")
        if not all(math.isfinite(a) and math.isfinite(b) and b > a for a, b in zip(self.start, self.stop, strict=True)):
            raise GradCamError("a frame ends after it begins", f"start={self.start}, stop={self.stop}")
        if self.order is not None and sorted(self.order) != list(range(axes)):
            raise GradCamError("order names every axis of the stored original once", f"{self.order}")
        if not any(a < n and b > 0 for a, b, n in zip(self.start, self.stop, self.original, strict=True)):
            raise GradCamError("the frame shows nothing of the original", f"start={self.start}, stop={self.stop}")

    @classmethod
    def whole(cls, *original: int, name: str = "") -> Geometry:
        """The whole of an original was resized to the input: `Geometry.whole(height, width)`."""
        return cls(tuple(original), (0.0,) * len(original), tuple(map(float, original)), name=name)

    @classmethod
    def box(cls, original: Sequence[int], box: Sequence[float], *, name: str = "") -> Geometry:
        """A box of a picture was cut out and resized.

        Args:
            original: Height and width of the picture.
            box: Left, top, right and bottom in its pixels; beyond its edges it was padded.
            name: What the picture is called.
        """
        left, top, right, bottom = (float(edge) for edge in box)
        height, width = original
        return cls((int(height), int(width)), (top, left), (bottom, right), name=name)

    @property
    def stored(self) -> tuple[int, ...]:
        """Size of the original along its own axes, as it is stored."""
        sizes = [0] * len(self.original)
        for axis, n in zip(self._order, self.original, strict=True):
            sizes[axis] = n
        return tuple(sizes)

    def restore(self, maps: ArrayLike) -> NDArray[np.float32]:
        """Puts a map over the original.

        Args:
            maps: A raw map (h, w), or (t, h, w) for three axes.

        Returns:
            float32 of the size `stored`, interpolated linearly between the centres of the map's cells; NaN where the
            input shows nothing of the original.

        Raises:
            GradCamError: The map has another number of axes.
        """
        values = as_maps(maps)
        if values.ndim != len(self.original):
            raise GradCamError(
                f"a map of {values.ndim} axes does not lie in an original of {len(self.original)}",
                f"map {values.shape}, original {self.original}", "give the geometry of what the map is of",
            )  # fmt: skip
        seen = np.ones((1,) * values.ndim, bool)
        for axis, (size, start, stop) in enumerate(zip(self.original, self.start, self.stop, strict=True)):
            places = np.arange(size, dtype=np.float64) + 0.5
            matrix = interpolation_at((places - start) / (stop - start), values.shape[axis])
            values = np.moveaxis(np.tensordot(matrix, values, (1, axis)), 0, axis)
            inside = (places >= start) & (places < stop)
            seen = seen & inside.reshape([-1 if a == axis else 1 for a in range(values.ndim)])
        found = np.where(seen, values, np.nan).astype(np.float32)
        backwards = tuple(axis for axis, flip in enumerate(self.flipped or ()) if flip)
        return np.ascontiguousarray(np.flip(found, backwards).transpose(np.argsort(self._order)))

    @property
    def _order(self) -> tuple[int, ...]:
        return self.order or tuple(range(len(self.original)))


def file_name(source: Any) -> str:
    """The name of a file without its folder; "" for anything that is not a path."""
    return os.path.basename(os.fsdecode(source)) if isinstance(source, (str, os.PathLike)) else ""


def check_geometry(geometry: Any, batch: int, axes: int) -> tuple[Geometry, ...] | None:
    """Validates the geometry of a batch: none, one for a single image, or a sequence with one per image.

    Args:
        geometry: What the caller gave.
        batch: Number of images.
        axes: Number of spatial axes of the images.

    Raises:
        GradCamError: It does not fit the batch.
    """
    if geometry is None:
        return None
    found = (geometry,) if isinstance(geometry, Geometry) else tuple(geometry)
    if not all(isinstance(one, Geometry) for one in found) or len(found) != batch:
        raise GradCamError(
            f"geometry= is one Geometry for each of the {batch} images",
            f"{len(found)} of {', '.join(sorted({type(one).__name__ for one in found})) or 'nothing'}",
            "geometry=[prepare.geometry(photo) for photo in photos], with prepare = loading.preprocessing(model)",
        )  # fmt: skip
    if any(len(one.original) != axes for one in found):
        raise GradCamError(
            f"the images have {axes} spatial axes, the geometry another number", f"original {found[0].original}",
            "give the geometry of what the images were made from",
        )  # fmt: skip
    return found
