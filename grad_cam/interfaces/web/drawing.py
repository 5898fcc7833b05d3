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
KINDS = {"Evidence for": "positive", "Raw map": "raw"}


class Drawing(NamedTuple):
    """The display controls; nothing of it changes the map."""

    threshold: float = 1 / 8
    smoothing: float = 5.0
    alpha: float = rendering.ALPHA
    colormap: str = rendering.COLORMAP
    kind: str = "positive"

    def picture(self, seen: NDArray[np.uint8], map: NDArray[np.float32]) -> Image.Image:
        """The overlay of a raw map over the picture; of the raw view, its values as they are, zero in the middle."""
        if self.kind == "raw":
            largest = float(np.abs(map).max()) or 1.0
            squares = Image.fromarray(rendering.colorize((map / largest + 1) / 2, _SIGNED))
            return squares.resize((seen.shape[1], seen.shape[0]), Image.Resampling.NEAREST)
        heat = rendering.heatmap(map, (seen.shape[0], seen.shape[1]), self.threshold, self.smoothing)
        return rendering.overlay(seen, heat, alpha=self.alpha, colormap=self.colormap)

    def ramp(self) -> list[str]:
        """Colours of the scale from low to high, for a style sheet."""
        colours = rendering.palette(_SIGNED if self.kind == "raw" else self.colormap)[::17]
        return ["#{:02x}{:02x}{:02x}".format(*map(int, colour)) for colour in colours]

    def ends(self, map: NDArray[np.float32]) -> tuple[str, str]:
        """What the ends of the scale stand for."""
        largest = float(np.abs(map).max())
        return (number(-largest), number(largest)) if self.kind == "raw" else ("low", "high")


_SIGNED = "PuOr_r"  # for and against in colours that everyone can tell apart


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
