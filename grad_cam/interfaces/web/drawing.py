"""How the page draws a raw map: the display controls, and pictures as addresses that hold them."""

from __future__ import annotations

import base64
import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ... import rendering

__all__ = ["COLORMAPS", "KINDS", "Drawing", "image_uri", "npy_uri"]

COLORMAPS = {"Blue, green, red": rendering.COLORMAP} | {
    name.capitalize(): name for name in ("turbo", "viridis", "inferno", "magma", "cividis", "gray")
}
KINDS = {"Evidence for": "positive", "For and against": "signed", "Raw map": "raw"}


class Drawing(NamedTuple):
    """The display controls; nothing of it changes the map."""

    threshold: float = rendering.Display().threshold
    smoothing: float = 5.0
    alpha: float = rendering.ALPHA
    colormap: str = rendering.COLORMAP
    kind: str = "positive"

    def picture(self, seen: NDArray[np.uint8], map: NDArray[np.float32]) -> Image.Image:
        """The overlay of a raw map over the picture; of the raw view, its values as they are, zero in the middle."""
        if self.kind == "raw":
            largest = float(np.abs(map).max()) or 1.0
            squares = Image.fromarray(rendering.colorize(map / largest, self.colormap, "signed"))
            return squares.resize((seen.shape[1], seen.shape[0]), Image.Resampling.NEAREST)
        return self._display().overlay(seen, map)

    def ramp(self) -> list[str]:
        """Colours of the scale from low to high, for a style sheet."""
        colours = rendering.palette(self.colormap, self._view)[::17]
        return ["#{:02x}{:02x}{:02x}".format(*map(int, colour)) for colour in colours]

    def ends(self, map: NDArray[np.float32], size: tuple[int, int]) -> tuple[str, str]:
        """What the ends of the scale stand for, in units of the score, for a picture of a height and width."""
        if self.kind == "raw":
            largest = float(np.abs(map).max())
            return number(-largest), number(largest)
        heat = self._display().heat(map, size)
        return number(heat.low), number(heat.high)

    def _display(self) -> rendering.Display:
        return rendering.Display(self.threshold, self.smoothing, self.alpha, self.colormap, self._view)

    @property
    def _view(self) -> rendering.View:
        """The view; that of raw values has zero in the middle, too."""
        return "positive" if self.kind == "positive" else "signed"


def number(value: float) -> str:
    """A value of a map with three digits and a true minus sign."""
    return f"{value:.3g}".replace("-", "−")


def image_uri(picture: Image.Image, kind: str = "png") -> str:
    """A picture as an address that holds it."""
    out = io.BytesIO()
    picture.save(out, kind, **({"compress_level": 3} if kind == "png" else {"quality": 90}))
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def npy_uri(map: NDArray[np.float32]) -> str:
    """A raw map as an address that holds a .npy file."""
    out = io.BytesIO()
    np.save(out, map, allow_pickle=False)
    return f"data:application/octet-stream;base64,{base64.b64encode(out.getvalue()).decode()}"
