"""How the page draws a raw map: the display controls, and pictures as addresses that hold them."""

from __future__ import annotations

import base64
import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ... import rendering
from ...rendering.files import npy_bytes
from ...rendering.text import number
from .errors import AppError

__all__ = ["COLORMAPS", "KINDS", "SETTINGS", "Drawing", "npy_uri", "number"]

COLORMAPS = {("Blue, green, red" if name == "bgr" else name.capitalize()): name for name in rendering.COLORMAPS}
KINDS = {"Evidence for": "positive", "For and against": "signed", "Raw map": "raw"}
SETTINGS = ("threshold", "smoothing", "alpha", "colormap", "kind")
"""The display controls."""


@dataclasses.dataclass(frozen=True)
class Drawing(rendering.Display):
    """A display, which may also be the raw map.

    Attributes:
        raw: Whether the values of the map are shown as they are, zero in the middle.
    """

    raw: bool = False

    @classmethod
    def of_controls(cls, kind: str = "positive", **settings: Any) -> Drawing:
        """Reads the display controls.

        Args:
            kind: One of the values of `KINDS`.
            **settings: The other controls, by the names of the display's settings.

        Raises:
            GradCamError: A value is out of range, or there is no such kind or colormap.
            ArgumentTypeError: A number is of another type.
        """
        if kind not in KINDS.values():
            raise AppError(f"the page cannot show {kind!r}", remedy=f"choose one of {', '.join(KINDS.values())}")
        return cls(**settings, view="positive" if kind == "positive" else "signed", raw=kind == "raw")

    def picture(self, seen: NDArray[np.uint8], map: NDArray[np.float32]) -> Image.Image:
        """The overlay of a raw map over the picture; of the raw view, one square for each value."""
        if not self.raw:
            return self.overlay(seen, map)
        largest = float(np.abs(map).max()) or 1.0
        squares = Image.fromarray(rendering.colorize(map / largest, self.colormap, "signed"))
        return squares.resize((seen.shape[1], seen.shape[0]), Image.Resampling.NEAREST)

    def ramp(self) -> list[str]:
        """Colours of the scale from low to high, for a style sheet."""
        return ["#{:02x}{:02x}{:02x}".format(*map(int, c)) for c in rendering.palette(self.colormap, self.view)[::17]]

    def ends(self, map: ArrayLike, size: tuple[int, int]) -> tuple[str, str]:
        """What the ends of the scale stand for, in units of the score, for a picture of a height and width."""
        if not self.raw:
            return super().ends(map, size)
        largest = float(np.abs(map).max())
        return number(-largest), number(largest)


def npy_uri(map: NDArray[np.float32]) -> str:
    """A raw map as an address that holds a .npy file."""
    return f"data:application/octet-stream;base64,{base64.b64encode(npy_bytes(map)).decode()}"
