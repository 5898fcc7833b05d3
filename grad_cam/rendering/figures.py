"""Figures: the panels of a map, comparisons, sweeps and raw maps.

Figures are made without pyplot, so no global state is touched and several threads can draw at once. matplotlib
is imported when the first figure is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ..arguments import as_maps
from ..errors import GradCamError
from .bars import SignedBars
from .colors import as_heat, as_pixels, colorize, overlay, palette
from .display import Display
from .grid import CAPTION, TITLE, Bar, Line, Panel, Scale, draw_grid
from .heatmaps import describe
from .marks import outlined
from .text import ALERT, INK, QUIET, noted, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Photo = tuple[Image.Image | None, str]
"""A whole photo, if there is more of it than the model saw, and what to say of it."""

# --- the figures -----------------------------------------------------------------------------------------------------


def panels(
    picture: Image.Image | ArrayLike,
    heatmap: ArrayLike,
    *,
    title: str = "",
    note: str | None = None,
    scale: Scale | None = None,
    remark: str = "",
    mark: Any = None,
    photo: Photo | None = None,
    display: Display | None = None,
    **changes: Any,
) -> Figure:
    """Draws the four panels: image, overlay, heatmap and colormap, with a colour bar; three in the signed view.

    Args:
        picture: The picture (H, W): PIL, or an array (H, W, 3) of bytes.
        heatmap: Heatmap (H, W) in 0..1, in the signed view -1..1, of the picture's size.
        title: What is shown; lines after the first are set smaller.
        note: What to warn about, from `describe`; without one, an empty heatmap is reported as such.
        scale: What the lowest and highest colour stand for, in units of the score; "low" and "high" by default.
        remark: A line under all panels.
        mark: A box or a mask to outline in image and overlay, see `marks.outlined`.
        photo: The whole photo that takes the place of the image, and what to say of it (see `loading.WholePhoto`).
        display: Settings, of which alpha, colormap and view matter here; `Display()` by default.
        **changes: Single settings.

    Returns:
        A figure as wide as its panels need.
    """
    display = Display.of(display, **changes)
    pixels = as_pixels(picture)
    heat = as_heat(heatmap, display.view, pixels.shape[:2])
    over = Panel(outlined(_over(pixels, heat, display), mark), "overlay")
    shown = [_image_panel(pixels, photo, mark=mark), over]
    if display.view == "positive":
        shown.append(Panel(np.repeat(np.rint(heat * 255).astype(np.uint8)[..., None], 3, axis=2), "heatmap"))
    shown.append(Panel(colorize(heat, display.colormap, display.view), "colormap"))
    aspect = pixels.shape[1] / pixels.shape[0]
    columns = len(shown) if aspect <= 3 else 2 if aspect <= 6 else 1
    note = _note(note, heat)
    return draw_grid(
        shown, columns, 2.15, headline(title, note and noted("map", note)), bar=Bar.of(display, scale),
        remark=_with_note(remark, photo),
    )  # fmt: skip


def comparison(
    picture: Image.Image | ArrayLike,
    heatmaps: ArrayLike | Sequence[ArrayLike],
    titles: Sequence[str],
    *,
    columns: int | None = None,
    title: str = "",
    notes: Sequence[str | None] | None = None,
    scales: Sequence[Scale] | None = None,
    marks: Sequence[Any] | None = None,
    photo: Photo | None = None,
    display: Display | None = None,
    **changes: Any,
) -> Figure:
    """Draws a picture and, beside it, overlays of several heatmaps: methods, classes or layers.

    Args:
        picture: The picture (H, W): PIL, or an array (H, W, 3) of bytes.
        heatmaps: Heatmaps (N, H, W) in 0..1, in the signed view -1..1, of the picture's size.
        titles: One for each heatmap; lines after the first are set smaller.
        columns: Panels in a row, the picture included; by default rows of about the same length.
        title: Of the whole figure.
        notes: One for each heatmap, from `describe`, or None.
        scales: One for each heatmap: what its lowest and highest colour stand for, in units of the score.
        marks: One for each heatmap: a box or a mask to outline, or None.
        photo: As for `panels`.
        display: Settings, of which alpha, colormap and view matter here; `Display()` by default.
        **changes: Single settings.
    """
    display = Display.of(display, **changes)
    cells = _overlays(picture, heatmaps, titles, notes, scales, display, marks=marks, photo=photo)
    return _side_by_side(cells, scales, display, title, columns, 1.75, photo=photo)


def overview(
    pictures: Sequence[Image.Image | ArrayLike],
    heatmaps: Sequence[Sequence[ArrayLike]],
    titles: Sequence[Sequence[str]],
    *,
    title: str = "",
    notes: Sequence[Sequence[str | None]] | None = None,
    scales: Sequence[Sequence[Scale]] | None = None,
    marks: Sequence[Sequence[Any]] | None = None,
    display: Display | None = None,
    **changes: Any,
) -> Figure:
    """Draws several pictures, one below the other, and beside each the overlays of its heatmaps.

    Args:
        pictures: The pictures (H, W), all of one size: PIL, or arrays (H, W, 3) of bytes.
        heatmaps: For each picture its heatmaps (H, W).
        titles: For each picture one title a heatmap; lines after the first are set smaller.
        title: Of the whole figure.
        notes: For each picture one a heatmap, from `describe`, or None.
        scales: For each picture one a heatmap, as for `comparison`.
        marks: For each picture one a heatmap: a box or a mask to outline, or None.
        display: Settings, of which alpha, colormap and view matter here; `Display()` by default.
        **changes: Single settings.
    """
    display = Display.of(display, **changes)
    columns = min(1 + max(len(heats) for heats in heatmaps), 8)
    cells: list[Panel | None] = []
    for i, (picture, heats, names) in enumerate(zip(pictures, heatmaps, titles, strict=True)):
        cells += _overlays(
            picture, heats, names, notes[i] if notes else None, scales[i] if scales else None, display,
            marks=marks[i] if marks else None,
        )  # fmt: skip
        cells += [None] * (-len(cells) % columns)
    flat = [scale for row in scales for scale in row] if scales else None
    return _side_by_side(cells, flat, display, title, columns, 1.75)


def sweep_figure(
    picture: Image.Image | ArrayLike,
    heatmaps: ArrayLike | Sequence[ArrayLike],
    titles: Sequence[str],
    curves: Mapping[str, Sequence[float]] | None = None,
    *,
    bars: SignedBars | None = None,
    columns: int | None = None,
    title: str = "",
    notes: Sequence[str | None] | None = None,
    scales: Sequence[Scale] | None = None,
    mark: Any = None,
    photo: Photo | None = None,
    display: Display | None = None,
    **changes: Any,
) -> Figure:
    """Draws a network layer by layer: overlays from the shallowest to the deepest cut and curves under them.

    When all layers fit into one row, every point of a curve stands under its layer.

    Args:
        picture: The picture (H, W): PIL, or an array (H, W, 3) of bytes.
        heatmaps: Heatmaps (N, H, W) in 0..1, in the signed view -1..1, in the order of depth.
        titles: Names of the layers; lines after the first are set smaller ("layer3" over "5 · 14 × 14").
        curves: Name of a summary -> one value for each layer; NaN leaves a gap. Lines after the first explain it.
        bars: What the score is the sum of at each layer, drawn under the curves.
        columns: Panels in a row, the picture included; by default rows of about the same length.
        title: Of the whole figure.
        notes: One for each heatmap, from `describe`, or None.
        scales: One for each heatmap: what its lowest and highest colour stand for, in units of the score.
        mark: A box or a mask to outline in every panel.
        photo: As for `panels`.
        display: Settings, of which alpha, colormap and view matter here; `Display()` by default.
        **changes: Single settings.
    """
    display = Display.of(display, **changes)
    cells = _overlays(picture, heatmaps, titles, notes, scales, display, marks=[mark] * len(titles), photo=photo)
    for name, values in (curves or {}).items():
        if len(values) != len(cells) - 1:
            raise GradCamError(
                f"curve {name!r} has {len(values)} values for {len(cells) - 1} layers", remedy="give one for each"
            )
    below: dict[str, Sequence[float] | SignedBars] = {
        name: values for name, values in (curves or {}).items() if np.isfinite(values).any()
    }
    if bars is not None:
        below[f"what the score {number(bars.score)} is made of"] = bars
    return _side_by_side(cells, scales, display, title, columns, 1.3, photo=photo, most=10, curves=below)


def map_figure(
    map: ArrayLike, *, title: str = "", note: str | None = None, display: Display | None = None, **changes: Any
) -> Figure:
    """Draws a raw map at the layer's own size: one square a position, a colour bar with the signed values.

    Args:
        map: Raw signed map (h, w).
        title: What is shown; lines after the first are set smaller.
        note: What to warn about; by default from `describe`.
        display: Settings, of which colormap and view matter here; `Display()` by default. The signed view has zero in
            the middle, the other one runs from the smallest value to the largest.
        **changes: Single settings.
    """
    display = Display.of(display, **changes)
    raw = as_maps(map)
    if raw.ndim != 2:
        raise GradCamError("a figure shows one map (h, w)", f"got shape {raw.shape}", "draw them one by one")
    note = note or describe(raw)
    low, high = float(raw.min()), float(raw.max())
    if display.view == "signed":
        high = float(np.abs(raw).max())
        heat, bar = raw / (high or 1.0), Bar.of(display, (-high, high))
    else:
        half = high / 2 - low / 2  # halves, so that the range of the largest numbers does not overflow
        heat = np.zeros(raw.shape) if half == 0 else (raw / 2 - low / 2) / half
        zero = -low / 2 / half if half else 0.0
        labels = [(1.0, number(high))] * (half > 0) + [(zero, "0")] * (0.1 < zero < 0.9) + [(0.0, number(low))]
        bar = Bar(palette(display.colormap), labels)
    pixels = colorize(heat, display.colormap, display.view)
    panel = Panel(pixels, f"raw map, {raw.shape[0]} × {raw.shape[1]}", crisp=True)
    return draw_grid([panel], 1, 3.0, headline(title, note and noted("map", note)), bar=bar)


# --- panels ----------------------------------------------------------------------------------------------------------


def _image_panel(pixels: NDArray[np.uint8], photo: Photo | None, detail: str = "", mark: Any = None) -> Panel:
    """What the model saw; or the whole photo in a panel of the same shape, on white."""
    if photo is None or photo[0] is None:
        return Panel(outlined(pixels, mark), "image" + detail)
    whole, (height, width) = photo[0], pixels.shape[:2]
    scale = max(whole.width / width, whole.height / height)
    canvas = Image.new("RGB", (round(width * scale), round(height * scale)), "white")
    canvas.paste(whole, ((canvas.width - whole.width) // 2, (canvas.height - whole.height) // 2))
    return Panel(np.asarray(canvas), photo[1] + detail)


def _with_note(remark: str, photo: Photo | None) -> str:
    """A remark, with the note on a photo that no panel shows."""
    if photo is None or photo[0] is not None or not photo[1]:
        return remark
    return f"{photo[1][0].upper()}{photo[1][1:]}. {remark}".strip()


def _over(pixels: NDArray[np.uint8], heat: NDArray[np.float32], display: Display) -> NDArray[np.uint8]:
    return np.asarray(overlay(pixels, heat, alpha=display.alpha, colormap=display.colormap, view=display.view))


def _note(note: str | None, heat: NDArray[np.float32]) -> str | None:
    """The note given, or one for an empty heatmap."""
    return note or ("nowhere positive" if not heat.any() else None)


def _overlays(
    picture: Image.Image | ArrayLike,
    heatmaps: ArrayLike | Sequence[ArrayLike],
    titles: Sequence[str],
    notes: Sequence[str | None] | None,
    scales: Sequence[Scale] | None,
    display: Display,
    *,
    marks: Sequence[Any] | None = None,
    photo: Photo | None = None,
) -> list[Panel]:
    """The picture and one overlay a heatmap, its largest value above it where scales differ."""
    pixels = plain = as_pixels(picture)
    heats = [as_heat(heat, display.view, pixels.shape[:2]) for heat in heatmaps]  # type: ignore[union-attr]
    notes = [None] * len(heats) if notes is None else list(notes)
    if not heats:
        raise GradCamError("there is no heatmap to show", remedy="give at least one")
    for name, given in (("titles", titles), ("notes", notes), ("scales", scales or heats)):
        if len(given) != len(heats):
            raise GradCamError(f"{len(given)} {name} for {len(heats)} heatmaps", remedy="give one for each")
    sign = "±" if display.view == "signed" else "max "
    tops = [""] * len(heats) if scales is None or len(heats) == 1 else [f"\n{sign}{number(s[1])}" for s in scales]
    detail = f"\n{pixels.shape[0]} × {pixels.shape[1]}" if any("\n" in title for title in titles) else ""
    marks = [None] * len(heats) if marks is None else marks
    for mark in marks:
        plain = outlined(plain, mark)
    return [_image_panel(plain, photo, detail)] + [
        Panel(outlined(_over(pixels, heat, display), mark), title + (top if heat.any() else ""), _note(note, heat))
        for heat, title, top, note, mark in zip(heats, titles, tops, notes, marks, strict=True)
    ]


def _side_by_side(
    cells: Sequence[Panel | None], scales: Sequence[Scale] | None, display: Display, title: str, columns: int | None,
    area: float, *, photo: Photo | None = None, **how: Any,
) -> Figure:  # fmt: skip
    """Lays panels out with a colour bar; several have one without numbers, and a remark on their scales."""
    if columns is not None and columns < 1:
        raise GradCamError(f"columns={columns} leaves no room for a panel", remedy="give 1 or more")
    bar, remark = Bar.of(display, scales[0] if scales else None), ""
    if sum(cell is not None for cell in cells) > 2:
        above = "; its largest value stands above it" if scales else ""
        bar, remark = Bar.of(display, None), f"Every panel has a scale of its own{above}."
    return draw_grid(cells, columns, area, headline(title), bar=bar, remark=_with_note(remark, photo), **how)


def headline(title: str, note: str | None = None) -> list[Line]:
    """Title, subtitle and note."""
    first, *rest = title.split("\n")
    lines = [(first, TITLE, INK), *((text, CAPTION, QUIET) for text in rest), (note or "", CAPTION, ALERT)]
    return [line for line in lines if line[0]]
