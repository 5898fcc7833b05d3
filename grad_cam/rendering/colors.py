"""Colours of a heatmap, and a picture under them.

Lightness has to rise along a scale that is read without its colours, in print or by the colour-blind. "plasma" is
the default because it does so evenly and because its violet and magenta are rare in photographs: of the perceptual
colormaps, inferno and magma end in skin and sand, viridis in grass. "bgr", the colours of `GradCAM`, separates more
levels, but gets lighter only up to yellow, then darker to red.
"""

from __future__ import annotations

import difflib
import functools
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ..arguments import as_array, as_number
from ..errors import GradCamError
from .heatmaps import View

if TYPE_CHECKING:
    from matplotlib.colors import Colormap

ALPHA = 0.6
"""Default opacity of the hottest spot of an overlay."""

COLORMAP = "bgr"
"""Blue for low, green for medium, red for high: the colours of `GradCAM`."""

DEFAULT = "plasma"
"""Colours of everything else: from dark violet over magenta to light yellow."""

SIGNED = "RdBu_r"
"""Colours of the signed view: red for, blue against, which the colour-blind can tell apart (ColorBrewer)."""

COLORMAPS = (COLORMAP, DEFAULT, "turbo", "viridis", "inferno", "magma", "cividis", "gray")
"""The colormaps that explorer, page and report offer."""

_BGR = (
    (0, "#1d2680"), (39, "#1f57b1"), (52, "#1d68be"), (90, "#1798ba"), (100, "#1ba1b1"), (115, "#27aa95"),
    (133, "#3bb36d"), (141, "#54b85f"), (150, "#7abf58"), (173, "#cad043"), (178, "#d7cf3d"), (184, "#e1c838"),
    (191, "#e8ba34"), (212, "#f38a2c"), (224, "#ec692b"), (235, "#e1442b"), (245, "#d02427"), (255, "#b80f1f"),
)  # fmt: skip
_DIVERGING = ("PiYG", "PRGn", "BrBG", "PuOr", "RdGy", "RdBu", "RdYlBu", "RdYlGn", "Spectral", "coolwarm", "bwr",
              "seismic", "berlin", "managua", "vanimo")  # fmt: skip


@functools.lru_cache(maxsize=32)
def palette(colormap: str = DEFAULT, view: View = "positive") -> NDArray[np.uint8]:
    """Returns the colours of a colormap, from low to high.

    Args:
        colormap: "bgr" or the name of a matplotlib colormap.
        view: "positive": 256 colours. "signed": 255 diverging ones, zero in the middle; those of `colormap` if it is a
            diverging one, else red for evidence for and blue for evidence against.

    Returns:
        Colours (256, 3), or (255, 3) in the signed view; read-only.

    Raises:
        GradCamError: There is no such colormap, the closest names are offered; or there is no such view.
    """
    if view not in ("positive", "signed"):
        raise GradCamError(f"view={view!r} is unknown", remedy="use 'positive' or 'signed'")
    found = _colormap(colormap)
    if view == "signed" and colormap.removesuffix("_r") not in _DIVERGING:
        found = _colormap(SIGNED)
    places = np.linspace(0, 1, 255 if view == "signed" else 256)
    colours: NDArray[np.uint8] = np.rint(found(places)[:, :3] * 255).astype(np.uint8)
    colours.flags.writeable = False
    return colours


def _colormap(name: str) -> Colormap:
    import matplotlib
    from matplotlib.colors import LinearSegmentedColormap

    if name == "bgr":
        return LinearSegmentedColormap.from_list("bgr", [(place / 255, colour) for place, colour in _BGR])
    if name not in matplotlib.colormaps:
        names = ["bgr", *matplotlib.colormaps]
        folded = {known.lower(): known for known in reversed(names)}
        close = [folded[known] for known in difflib.get_close_matches(str(name).lower(), folded, n=3, cutoff=0.5)]
        remedy = f"did you mean {' or '.join(close)}?" if close else "try bgr, viridis, inferno or turbo"
        raise GradCamError(f"no colormap is called {name!r}", remedy=remedy)
    return matplotlib.colormaps[name]


def colorize(heatmap: ArrayLike, colormap: str = DEFAULT, view: View = "positive") -> NDArray[np.uint8]:
    """Gives every value of a heatmap its colour.

    Args:
        heatmap: Heatmap (H, W) in 0..1, in the signed view -1..1; values outside are shown as the nearest end.
        colormap: "bgr" or the name of a matplotlib colormap.
        view: "positive" or "signed".

    Returns:
        Colours (H, W, 3).
    """
    heat = as_heat(heatmap, view)
    level = np.rint(127 * heat).astype(int) + 127 if view == "signed" else np.rint(255 * heat).astype(int)
    colours: NDArray[np.uint8] = palette(colormap, view)[level]
    return colours


def opacity(heatmap: ArrayLike, alpha: float = ALPHA) -> NDArray[np.float32]:
    """Returns how opaque the colours of an overlay are: `alpha * (1 - (1 - |h|)^2)` at heat h.

    Args:
        heatmap: Heat in 0..1 or -1..1, any shape.
        alpha: Opacity of the hottest spot, 0..1.
    """
    alpha = as_number(
        alpha, "alpha", 0, 1, what="an opacity", remedy="give a number from 0 (picture only) to 1 (colours only)"
    )
    cold = 1 - np.clip(np.abs(np.asarray(heatmap, np.float32)), 0, 1)
    opacity: NDArray[np.float32] = np.float32(alpha) * (1 - cold * cold)
    return opacity


def overlay(
    picture: Image.Image | ArrayLike,
    heatmap: ArrayLike,
    *,
    alpha: float = ALPHA,
    colormap: str = DEFAULT,
    view: View = "positive",
) -> Image.Image:
    """Lays the colours of a heatmap over a picture.

    The colours are the more opaque the hotter the spot (see `opacity`): where there is no heat the picture is
    untouched, without the veil of colour that a constant opacity leaves. Blending is done in floating point and rounded
    once.

    Args:
        picture: The picture (H, W): PIL, or an array (H, W, 3) of bytes.
        heatmap: Heatmap (H, W) in 0..1, in the signed view -1..1, of the picture's size.
        alpha: Opacity of the hottest spot, 0 (picture only) to 1 (colours only).
        colormap: "bgr" or the name of a matplotlib colormap.
        view: "positive" or "signed".

    Returns:
        An RGB picture of the same size.

    Raises:
        ValueError: If the sizes differ or a setting is out of range.
    """
    below = as_pixels(picture)  # (H, W, 3)
    heat = as_heat(heatmap, view, below.shape[:2])
    strength = opacity(heat, alpha)[..., None]  # (H, W, 1)
    blend = below + strength * (colorize(heat, colormap, view).astype(np.float32) - below)
    return Image.fromarray(np.rint(blend).clip(0, 255).astype(np.uint8))


def as_heat(heatmap: ArrayLike, view: View = "positive", size: tuple[int, ...] | None = None) -> NDArray[np.float32]:
    """Reads a heatmap (H, W) as numbers in 0..1, in the signed view in -1..1."""
    heat = as_array(heatmap).astype(np.float32, copy=False)
    if heat.ndim != 2:
        raise GradCamError("a heatmap has shape (H, W)", f"got {heat.shape}", "take one of the batch")
    if size is not None and heat.shape != tuple(size):
        raise GradCamError(
            f"the heatmap is {heat.shape[0]}x{heat.shape[1]}, the picture {size[0]}x{size[1]}",
            remedy="make the heatmap at the picture's size (see heatmap(maps, size))",
        )
    if np.isnan(heat).any():
        raise GradCamError("the heatmap holds NaN", remedy="make it with heatmap(maps, size)")
    return heat.clip(-1 if view == "signed" else 0, 1)


def as_pixels(picture: Image.Image | ArrayLike) -> NDArray[np.uint8]:
    """Reads a picture as bytes (H, W, 3)."""
    if isinstance(picture, Image.Image):
        return np.asarray(picture.convert("RGB"))
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise GradCamError(
            "a picture is a PIL image or bytes (H, W, 3)", f"got {pixels.dtype} {pixels.shape}", "convert it first"
        )
    return pixels
