"""Figures: the panels of a map, comparisons, sweeps and raw maps.

Figures are made without pyplot, so no global state is touched and several threads can draw at once. matplotlib's
constrained layout places the panels, and is switched off once it has: a figure keeps its layout. matplotlib is imported
when the first figure is made.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ..errors import GradCamError
from . import files
from .colors import as_heat, as_pixels, colorize, overlay, palette
from .display import Display
from .heatmaps import as_maps, describe
from .text import fitted, font, number, width_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


DPI = 150
INK, QUIET, FRAME, ALERT, LINE = "#1f2328", "#6a7078", "#d5d8dc", "#b3261e", "#1e5fae"
_TITLE, _CAPTION, _DETAIL, _TICK = 11.0, 8.5, 7.5, 7.0  # points
_BAR, _CURVE, _MARGIN = 0.09, 0.62, 0.16  # inches: width of the colour bar, height of a curve, margin of a figure

Line = tuple[str, float, str]  # text, size in points, colour
Scale = tuple[float, float]  # what the ends of the colours stand for, in units of the score


@dataclasses.dataclass(frozen=True)
class _Panel:
    """One panel: what is shown (H, W, 3), what stands above it, what to warn of."""

    pixels: NDArray[np.uint8]
    caption: str
    note: str | None = None
    crisp: bool = False


@dataclasses.dataclass(frozen=True)
class _Bar:
    """A colour bar: its colours, and labels at places 0..1."""

    colours: NDArray[np.uint8]
    labels: Sequence[tuple[float, str]]

    @classmethod
    def of(cls, display: Display, scale: Scale | None) -> _Bar:
        """The bar of a display; without a scale in words."""
        colours = palette(display.colormap, display.view)
        if display.view == "signed":
            top = "" if scale is None else number(scale[1])
            ends = (f"{top} for".strip(), f"{top and '−'}{top} against".strip())
            return cls(colours, [(1.0, ends[0]), (0.5, "0"), (0.0, ends[1])])
        if scale is None:
            return cls(colours, [(1.0, "high"), (0.0, "low")])
        low, high = scale
        return cls(colours, [(1.0, number(high)), (0.0, f"≤ {number(low)}")] if high > 0 else [(0.0, "0")])


# --- the figures -----------------------------------------------------------------------------------------------------


def panels(
    picture: Image.Image | ArrayLike,
    heatmap: ArrayLike,
    *,
    title: str = "",
    note: str | None = None,
    scale: Scale | None = None,
    display: Display | None = None,
    **changes: Any,
) -> Figure:
    """Draws the four panels: image, overlay, heatmap and colormap, with a colour bar; three in the signed view.

    Args:
        picture: The picture (H, W): PIL, or an array (H, W, 3) of bytes.
        heatmap: Heatmap (H, W) in 0..1, in the signed view -1..1, of the picture's size.
        title: What is shown; lines after the first are set smaller.
        note: What to warn of, from `describe`; without one, an empty heatmap is reported as such.
        scale: What the lowest and highest colour stand for, in units of the score; "low" and "high" by default.
        display: Settings, of which alpha, colormap and view matter here; `Display()` by default.
        **changes: Single settings.

    Returns:
        A figure as wide as its panels need.
    """
    display = Display.of(display, **changes)
    pixels = as_pixels(picture)
    heat = as_heat(heatmap, display.view, pixels.shape[:2])
    shown = [_Panel(pixels, "image"), _Panel(_over(pixels, heat, display), "overlay")]
    if display.view == "positive":
        shown.append(_Panel(np.repeat(np.rint(heat * 255).astype(np.uint8)[..., None], 3, axis=2), "heatmap"))
    shown.append(_Panel(colorize(heat, display.colormap, display.view), "colormap"))
    aspect = pixels.shape[1] / pixels.shape[0]
    columns = len(shown) if aspect <= 3 else 2 if aspect <= 6 else 1
    note = _note(note, heat)
    return _grid(shown, columns, 2.15, _headline(title, note and f"map is {note}"), bar=_Bar.of(display, scale))


def comparison(
    picture: Image.Image | ArrayLike,
    heatmaps: ArrayLike | Sequence[ArrayLike],
    titles: Sequence[str],
    *,
    columns: int | None = None,
    title: str = "",
    notes: Sequence[str | None] | None = None,
    scales: Sequence[Scale] | None = None,
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
        display: Settings, of which alpha, colormap and view matter here; `Display()` by default.
        **changes: Single settings.
    """
    display = Display.of(display, **changes)
    cells = _overlays(picture, heatmaps, titles, notes, scales, display)
    bar, remark = _compared(display, scales, len(cells) - 1)
    return _grid(cells, _checked(columns), 1.75, _headline(title), bar=bar, remark=remark)


def overview(
    pictures: Sequence[Image.Image | ArrayLike],
    heatmaps: Sequence[Sequence[ArrayLike]],
    titles: Sequence[Sequence[str]],
    *,
    title: str = "",
    notes: Sequence[Sequence[str | None]] | None = None,
    scales: Sequence[Sequence[Scale]] | None = None,
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
        display: Settings, of which alpha, colormap and view matter here; `Display()` by default.
        **changes: Single settings.
    """
    display = Display.of(display, **changes)
    columns = min(1 + max(len(heats) for heats in heatmaps), 8)
    cells: list[_Panel | None] = []
    for number_, (picture, heats, names) in enumerate(zip(pictures, heatmaps, titles, strict=True)):
        own = notes[number_] if notes else None
        cells += _overlays(picture, heats, names, own, scales[number_] if scales else None, display)
        cells += [None] * (-len(cells) % columns)
    flat = [scale for row in scales for scale in row] if scales else None
    bar, remark = _compared(display, flat, sum(map(len, heatmaps)))
    return _grid(cells, columns, 1.75, _headline(title), bar=bar, remark=remark)


def sweep_figure(
    picture: Image.Image | ArrayLike,
    heatmaps: ArrayLike | Sequence[ArrayLike],
    titles: Sequence[str],
    curves: Mapping[str, Sequence[float]] | None = None,
    *,
    columns: int | None = None,
    title: str = "",
    notes: Sequence[str | None] | None = None,
    scales: Sequence[Scale] | None = None,
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
        columns: Panels in a row, the picture included; by default rows of about the same length.
        title: Of the whole figure.
        notes: One for each heatmap, from `describe`, or None.
        scales: One for each heatmap: what its lowest and highest colour stand for, in units of the score.
        display: Settings, of which alpha, colormap and view matter here; `Display()` by default.
        **changes: Single settings.
    """
    display = Display.of(display, **changes)
    cells = _overlays(picture, heatmaps, titles, notes, scales, display)
    for name, values in (curves or {}).items():
        if len(values) != len(cells) - 1:
            raise GradCamError(
                f"curve {name!r} has {len(values)} values for {len(cells) - 1} layers", remedy="give one for each"
            )
    curves = {name: values for name, values in (curves or {}).items() if np.isfinite(values).any()}
    bar, remark = _compared(display, scales, len(cells) - 1)
    return _grid(
        cells, _checked(columns), 1.3, _headline(title), most=10, bar=bar, remark=remark, curves=curves,
    )  # fmt: skip


def map_figure(
    map: ArrayLike, *, title: str = "", note: str | None = None, display: Display | None = None, **changes: Any
) -> Figure:
    """Draws a raw map at the layer's own size: one square a position, a colour bar with the signed values.

    Args:
        map: Raw signed map (h, w).
        title: What is shown; lines after the first are set smaller.
        note: What to warn of; by default what `describe` says.
        display: Settings, of which colormap and view matter here; `Display()` by default. The signed view has zero in
            the middle, the other runs from the smallest value to the largest.
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
        heat, bar = raw / (high or 1.0), _Bar.of(display, (-high, high))
    else:
        half = high / 2 - low / 2  # halves, so that the range of the largest numbers does not overflow
        heat = np.zeros(raw.shape) if half == 0 else (raw / 2 - low / 2) / half
        zero = -low / 2 / half if half else 0.0
        labels = [(1.0, number(high))] * (half > 0) + [(zero, "0")] * (0.1 < zero < 0.9) + [(0.0, number(low))]
        bar = _Bar(palette(display.colormap), labels)
    pixels = colorize(heat, display.colormap, display.view)
    panel = _Panel(pixels, f"raw map, {raw.shape[0]} × {raw.shape[1]}", crisp=True)
    return _grid([panel], 1, 3.0, _headline(title, note and f"map is {note}"), bar=bar)


# --- files -----------------------------------------------------------------------------------------------------------


def png_bytes(figure: Figure, dpi: float | None = None) -> bytes:
    """Returns a figure as a PNG file.

    Args:
        figure: The figure.
        dpi: Pixels per inch; the figure's own (150) by default.
    """
    return _encoded(figure, "png", dpi)


def save(
    picture: Figure | Image.Image, path: str | os.PathLike[str], *, dpi: float | None = None, force: bool = True
) -> pathlib.Path:
    """Writes a figure or a picture; the suffix of the path says in which format.

    The file is written once it is complete in memory, so a format that fails leaves an existing file as it was.

    Args:
        picture: The figure or picture.
        path: Where to; a folder that is not there is made.
        dpi: Pixels per inch of a figure; its own (150) by default.
        force: Replace a file that exists.

    Returns:
        The path.

    Raises:
        GradCamError: The suffix is of no known format.
        FileExistsError: The file exists and `force` is False.
    """
    path = pathlib.Path(path)
    kind = path.suffix.lower().lstrip(".")
    known: Iterable[str] = ("png", "jpg", "jpeg", "webp", "tif", "tiff")
    known = (*known, "bmp") if isinstance(picture, Image.Image) else (*known, "pdf", "svg")
    if kind not in known:
        raise GradCamError(
            f"cannot tell a picture format from {path.name!r}", remedy=f"end the name in one of .{', .'.join(known)}"
        )
    return files.write(path, _encoded(picture, kind, dpi), force=force)


def _encoded(picture: Figure | Image.Image, kind: str, dpi: float | None) -> bytes:
    kind = {"jpg": "jpeg", "tif": "tiff"}.get(kind, kind)
    buffer = io.BytesIO()
    quality = {"quality": 95} if kind in ("jpeg", "webp") else {}
    if isinstance(picture, Image.Image):
        picture.save(buffer, kind.upper(), **quality)
    else:
        options: dict[str, Any] = {"pil_kwargs": quality} if quality else {}
        if kind in ("pdf", "svg"):
            options["metadata"] = {"CreationDate" if kind == "pdf" else "Date": None}  # the same figure, the same file
        picture.savefig(
            buffer, format=kind, dpi=dpi or picture.dpi, bbox_inches=picture.bbox_inches,
            facecolor=picture.get_facecolor(), edgecolor="none", transparent=False, **options,
        )  # fmt: skip
    return buffer.getvalue()


# --- panels ----------------------------------------------------------------------------------------------------------


def _checked(columns: int | None) -> int | None:
    if columns is not None and columns < 1:
        raise GradCamError(f"columns={columns} leaves no room for a panel", remedy="give 1 or more")
    return columns


def _over(pixels: NDArray[np.uint8], heat: NDArray[np.float32], display: Display) -> NDArray[np.uint8]:
    return np.asarray(overlay(pixels, heat, alpha=display.alpha, colormap=display.colormap, view=display.view))


def _note(note: str | None, heat: NDArray[np.float32]) -> str | None:
    """The note given, or what an empty heatmap says of its map."""
    return note or ("nowhere positive" if not heat.any() else None)


def _overlays(
    picture: Image.Image | ArrayLike,
    heatmaps: ArrayLike | Sequence[ArrayLike],
    titles: Sequence[str],
    notes: Sequence[str | None] | None,
    scales: Sequence[Scale] | None,
    display: Display,
) -> list[_Panel]:
    """The picture and one overlay a heatmap, its largest value above it where scales differ."""
    pixels = as_pixels(picture)
    heats = [as_heat(heat, display.view, pixels.shape[:2]) for heat in heatmaps]  # type: ignore[union-attr]
    notes = [None] * len(heats) if notes is None else list(notes)
    if not heats:
        raise GradCamError("there is no heatmap to show", remedy="give at least one")
    for name, given in (("titles", titles), ("notes", notes), ("scales", scales or heats)):
        if len(given) != len(heats):
            raise GradCamError(f"{len(given)} {name} for {len(heats)} heatmaps", remedy="give one for each")
    tops = [""] * len(heats) if scales is None or len(heats) == 1 else [f"\nmax {number(s[1])}" for s in scales]
    detail = f"\n{pixels.shape[0]} × {pixels.shape[1]}" if any("\n" in title for title in titles) else ""
    return [_Panel(pixels, "image" + detail)] + [
        _Panel(_over(pixels, heat, display), title + (top if heat.any() else ""), _note(note, heat))
        for heat, title, top, note in zip(heats, titles, tops, notes, strict=True)
    ]


def _compared(display: Display, scales: Sequence[Scale] | None, count: int) -> tuple[_Bar, str]:
    """The colour bar of several panels, and what to say of their scales."""
    if count == 1:
        return _Bar.of(display, scales[0] if scales else None), ""
    above = "; its largest value stands above it" if scales else ""
    return _Bar.of(display, None), f"Every panel has a scale of its own{above}."


def _headline(title: str, note: str | None = None) -> list[Line]:
    """Title, subtitle and note."""
    first, *rest = title.split("\n")
    lines = [(first, _TITLE, INK), *((text, _CAPTION, QUIET) for text in rest), (note or "", _CAPTION, ALERT)]
    return [line for line in lines if line[0]]


def _above(panel: _Panel) -> list[Line]:
    first, *rest = panel.caption.split("\n")
    lines = [(first, _CAPTION, INK), *((text, _DETAIL, QUIET) for text in rest), (panel.note or "", _DETAIL, ALERT)]
    return [line for line in lines if line[0]]


def _wrapped(lines: Sequence[Line], width: float) -> list[Line]:
    """Lines that fit a width in inches: the first of them may take two, the others one or two."""
    return [
        (part, size, colour)
        for text, size, colour in lines
        for part in fitted(text, width, 2 if size > _DETAIL else 1, lambda t, size=size: width_of(t, size))
    ]


def _tall(lines: Sequence[Line]) -> float:
    """Height of lines in inches."""
    return sum(1.42 * size for _, size, _ in lines) / 72


# --- layout ----------------------------------------------------------------------------------------------------------


@functools.cache
def _figure_class() -> type[Figure]:
    """Matplotlib's figure, which a notebook also shows where no plotting backend has been chosen."""
    from matplotlib.figure import Figure

    class Picture(Figure):
        def _repr_png_(self) -> bytes:
            return png_bytes(self)

    return Picture


def _grid(
    cells: Sequence[_Panel | None],
    columns: int | None,
    area: float,
    headline: Sequence[Line],
    *,
    bar: _Bar,
    most: int = 6,
    remark: str = "",
    curves: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """Lays out panels of one size in rows, a colour bar at their right, a headline over and curves under them.

    Args:
        cells: The panels; None leaves a place free.
        columns: Panels in a row; None for rows of about the same length.
        area: Side of a square panel in inches; others get about the same area.
        headline: Lines over all.
        bar: The colour bar.
        most: Panels in a row, when square, that `columns=None` does not exceed.
        remark: A quiet line under all.
        curves: Name -> one value for each panel but the first.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    first = cells[0]
    assert first is not None
    aspect = min(max(first.pixels.shape[1] / first.pixels.shape[0], 1 / 8), 8.0)
    width = max(area * math.sqrt(aspect), 0.7)
    height = width / aspect
    if columns is None:
        room = max(int(most * area / width + 0.5), 2)
        columns = math.ceil(len(cells) / math.ceil(len(cells) / room))
    columns = min(columns, len(cells))
    rows = math.ceil(len(cells) / columns)
    captions = [_wrapped(_above(cell), width) if cell else [] for cell in cells]
    curves = curves or {}

    # About the size that is needed: what the layout leaves free is cut off at the end.
    across = columns * (width + 0.12) + 0.6
    down = rows * (height + max(map(_tall, captions)) + 0.15) + len(curves) * (_CURVE + 0.5)
    engine = ConstrainedLayoutEngine(compress=True, w_pad=0.06, h_pad=0.06, wspace=0, hspace=0)
    figure = _figure_class()(figsize=(across, down), dpi=DPI, facecolor="white", layout=engine)
    FigureCanvasAgg(figure)  # with a canvas that keeps its renderer, measuring text is quick
    grid = figure.add_gridspec(
        rows + len(curves), columns + 1, width_ratios=[width] * columns + [_BAR],
        height_ratios=[height] * rows + [_CURVE] * len(curves),
    )  # fmt: skip
    drawn = []
    for i, (cell, caption) in enumerate(zip(cells, captions, strict=True)):
        if cell is not None:
            row = i // columns
            room = max(map(_tall, captions[row * columns : (row + 1) * columns]))
            drawn.append(_bare(figure.add_subplot(grid[row, i % columns])))
            _show(drawn[-1], cell, width, caption, room)
    beside = _bare(figure.add_subplot(grid[0, columns]))
    _draw_bar(beside, bar)
    single = rows == 1 and len(cells) > 1
    below = [_bare(figure.add_subplot(grid[rows + i, int(single) : columns])) for i in range(len(curves))]
    for axes, (name, values) in zip(below, curves.items(), strict=True):
        _draw_curve(axes, name, values)
    engine.execute(figure)
    figure.set_layout_engine("none")

    box, first_box = beside.get_position(), drawn[0].get_position()
    beside.set_position((box.x0, first_box.y0, box.width, first_box.height))
    if single:
        for axes in below:
            _stand_under(axes, drawn[1:])
    elif below:
        _name_points(below[-1], [cell.caption.split("\n")[0] for cell in cells[1:] if cell is not None])
    _cut(figure, headline, remark)
    return figure


def _bare(axes: Axes) -> Axes:
    """Axes without anything that the user's settings may have put there."""
    axes.set_facecolor("none")
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(linewidth=0.5, color=FRAME, visible=True)
    return axes


def _style(size: float, colour: str) -> dict[str, Any]:
    return {"color": colour, "fontproperties": font(size), "parse_math": False, "usetex": False}


def _caption(axes: Axes, lines: Sequence[Line], room: float = 0.0) -> None:
    """Lines of text above axes, each on its own baseline, the first at the top of the room (in inches)."""
    offset = 72 * max(room, _tall(lines)) + 4
    for text, size, colour in lines:
        offset -= 1.42 * size
        axes.annotate(
            text, (0, 1), (0, offset), xycoords="axes fraction", textcoords="offset points", va="baseline", ha="left",
            annotation_clip=False, **_style(size, colour),
        )  # fmt: skip


def _show(axes: Axes, panel: _Panel, width: float, caption: Sequence[Line], room: float) -> None:
    """One panel: at most twice as many pixels as are printed, so that figures of photographs stay small and quick."""
    shown, most = panel.pixels, round(width * DPI * 2)
    if not panel.crisp and shown.shape[1] > most:
        size = (most, max(round(shown.shape[0] * most / shown.shape[1]), 1))
        shown = np.asarray(Image.fromarray(shown).resize(size, Image.Resampling.BOX))
    height, wide = shown.shape[:2]
    ratio = min(max(wide / height, 1 / 8), 8.0) * height / wide  # a strip of a picture is shown wider than it is
    axes.imshow(
        shown, aspect=1 / ratio, interpolation="nearest" if panel.crisp else "antialiased", origin="upper",
    )  # fmt: skip
    _caption(axes, caption, room)


def _draw_bar(axes: Axes, bar: _Bar) -> None:
    """A colour bar, high at the top, with labels at its right; those at the ends stay level with it."""
    axes.imshow(bar.colours[::-1, None], aspect="auto", interpolation="nearest", origin="upper", extent=(0, 1, 0, 1))
    for spine in axes.spines.values():
        spine.set_visible(False)
    for place, text in bar.labels:
        level = "top" if place >= 1 else "bottom" if place <= 0 else "center"
        axes.annotate(
            text, (1, place), (4, 0), xycoords="axes fraction", textcoords="offset points", va=level, ha="left",
            annotation_clip=False, **_style(_TICK, QUIET),
        )  # fmt: skip


def _draw_curve(axes: Axes, name: str, values: Sequence[float]) -> None:
    """One summary over the layers, its range from 0 or -1 to 1 where the values are such."""
    y = np.asarray(values, np.float64)
    low, high = float(np.nanmin(y)), float(np.nanmax(y))
    if -1 <= low and high <= 1:
        low, high = (0.0 if low >= 0 else -1.0), 1.0
    elif low == high:
        low, high = low - 1, high + 1
    space = 0.08 * (high - low)
    axes.set_ylim(low - space, high + space)
    axes.set_xlim(-0.5, len(y) - 0.5)
    levels = (low, 0.0, high) if low < 0 < high else (low, high)
    axes.set_yticks(levels, [number(level) for level in levels], **_style(_TICK, QUIET))
    axes.yaxis.set_in_layout(False)  # labels stand beside the panels above without moving them
    axes.tick_params(axis="y", length=0, pad=4, left=False, right=False, labelleft=True, labelright=False)
    for level in levels:
        axes.axhline(level, color=FRAME, linewidth=0.6, zorder=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.plot(
        np.arange(len(y)), y, color=LINE, linestyle="-", linewidth=1.3, marker="o", markersize=3.2, markeredgewidth=0,
        clip_on=False, zorder=3,
    )  # fmt: skip
    first, *rest = name.split("\n")
    _caption(axes, [(first, _CAPTION, INK), *((text, _DETAIL, QUIET) for text in rest)])


def _stand_under(axes: Axes, above: Sequence[Axes]) -> None:
    """Moves the points of a curve under their panels."""
    place = axes.get_position()
    middles = [panel.get_position() for panel in above]
    axes.set_xlim(0, 1)
    axes.lines[-1].set_xdata([((box.x0 + box.x1) / 2 - place.x0) / place.width for box in middles])


def _name_points(axes: Axes, names: Sequence[str]) -> None:
    """Names under as many points of a curve as there is room for, the first and the last among them."""
    figure = axes.get_figure()
    assert figure is not None
    room = max(int(axes.get_position().width * figure.get_size_inches()[0] / 1.2), 2)
    chosen = sorted({round(i) for i in np.linspace(0, len(names) - 1, min(room, len(names)))})
    labels = ["\n".join(fitted(names[i], 1.1, 1, lambda text: width_of(text, _TICK))) for i in chosen]
    axes.set_xticks(chosen, labels, **_style(_TICK, QUIET))
    axes.tick_params(axis="x", length=0, pad=4, bottom=False, top=False, labelbottom=True, labeltop=False)


def _cut(figure: Figure, headline: Sequence[Line], remark: str) -> None:
    """Cuts a figure to what is drawn and a margin, with a headline above and a remark under it."""
    across, down = figure.get_size_inches()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    left, bottom = min(box.x0 for box in boxes) / DPI - _MARGIN, min(box.y0 for box in boxes) / DPI - _MARGIN
    right, top = max(box.x1 for box in boxes) / DPI + _MARGIN, max(box.y1 for box in boxes) / DPI + _MARGIN
    right = max(right, left + 3.2)
    headline = _wrapped(headline, right - left - 2 * _MARGIN)
    bottom -= 0.2 if remark else 0
    wide, high = right - left, top - bottom + _tall(headline) + (0.08 if headline else 0)
    places = [axes.get_position() for axes in figure.axes]
    figure.set_size_inches(wide, high)
    for axes, box in zip(figure.axes, places, strict=True):
        x, y = (box.x0 * across - left) / wide, (box.y0 * down - bottom) / high
        axes.set_position((x, y, box.width * across / wide, box.height * down / high))
    flush = figure.axes[0].get_position().x0
    y = high - _MARGIN
    for text, size, colour in headline:
        figure.text(flush, (y - size / 72) / high, text, va="baseline", ha="left", **_style(size, colour))
        y -= 1.42 * size / 72
    if remark:
        figure.text(flush, _MARGIN / high, remark, va="bottom", ha="left", **_style(_DETAIL, QUIET))
