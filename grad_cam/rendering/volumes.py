"""Maps of videos and volumes as pictures: a strip of frames or slices, and frames for an animation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ..arguments import as_maps, check_fraction
from ..errors import GradCamError
from ..resampling import interpolation
from .colors import overlay
from .display import Display
from .figures import headline
from .grid import Bar, Panel, draw_grid
from .heatmaps import Heat, resizer, scaled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 8
"""Frames that a strip shows."""


def volume_heat(map: ArrayLike, size: tuple[int, int, int], display: Display) -> Heat:
    """Turns a raw map (t, h, w) into a heatmap (T, H, W) as `heatmap` does: one scale for all frames.

    Args:
        map: Raw signed map.
        size: Frames, height and width of what is shown.
        display: Settings.
    """
    raw = as_maps(map)
    if raw.ndim != 3:
        raise GradCamError("the map of a video or volume is (t, h, w)", f"shape {raw.shape}", "draw them one by one")
    threshold = check_fraction(display.threshold, "threshold", below_one=True)
    rows, columns = resizer(raw.shape[1:], size[1:], display.sigma(size[1:]))
    scale = np.abs(raw).max() or 1.0
    frames = np.tensordot(interpolation(raw.shape[0], size[0]), raw / scale, (1, 0))  # (T, h, w)
    return scaled(rows @ frames @ columns.T, float(scale), threshold, display.view)


def chosen_frames(heat: NDArray[np.float32], most: int = MOST) -> list[int]:
    """The frames a strip shows: evenly spread, the one with the strongest evidence among them."""
    count = len(heat)
    if count <= most:
        return list(range(count))
    places = np.linspace(0, count - 1, most).round().astype(int)
    strongest = int(np.abs(heat).max((1, 2)).argmax())
    places[np.abs(places - strongest).argmin()] = strongest
    return sorted(set(places.tolist()))


def volume_strip(
    frames: NDArray[np.uint8], heat: Heat, *, title: str, note: str | None, display: Display, kind: str = "frame",
    remark: str = "", most: int = MOST,
) -> Figure:  # fmt: skip
    """Draws frames or slices in a row, and their overlays below.

    Args:
        frames: uint8 (T, H, W, 3).
        heat: As `volume_heat` gives it.
        title: What is shown; lines after the first are set smaller.
        note: What to warn of, or None.
        display: Settings.
        kind: What a frame is called.
        remark: A quiet line under all.
        most: Frames shown at most.
    """
    shown = chosen_frames(heat.values, most)
    note = note or ("map: nowhere positive" if not heat.values.any() else None)
    cells = [Panel(frames[t], f"{kind} {t + 1}") for t in shown]
    cells += [Panel(np.asarray(over), "") for over in volume_overlays(frames, heat, display, shown)]
    if len(shown) < len(frames):
        remark = remark or f"{len(shown)} of {len(frames)} {kind}s, on one scale."
    return draw_grid(cells, len(shown), 1.2, headline(title, note), bar=Bar.of(display, heat[1:]), remark=remark)


def volume_overlays(
    frames: NDArray[np.uint8], heat: Heat, display: Display, which: list[int] | None = None
) -> list[Image.Image]:
    """The overlays of some frames, or of all."""
    look = {"alpha": display.alpha, "colormap": display.colormap}
    return [
        overlay(frames[t], heat.values[t], view=display.view, **look)  # type: ignore[arg-type]
        for t in (range(len(frames)) if which is None else which)
    ]


def require_pictures(images: Any) -> None:
    """Raises GradCamError for videos and volumes, whose sweeps no grid, curve or page shows.

    Args:
        images: The batch, (B, C, H, W) where it is of pictures.
    """
    if images.ndim != 4:
        raise GradCamError(
            "a sweep is drawn over pictures, and these are videos or volumes", f"images {tuple(images.shape)}",
            "look at its explanations one by one: sweep[-1].figure()",
        )  # fmt: skip


def montage(pictures: list[Image.Image]) -> Image.Image:
    """Pictures of one size beside each other."""
    width, height = pictures[0].size
    canvas = Image.new("RGB", (width * len(pictures), height))
    for n, picture in enumerate(pictures):
        canvas.paste(picture, (n * width, 0))
    return canvas
