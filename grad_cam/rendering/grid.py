"""Panels of one size in rows: their captions, a colour bar, a headline over them and curves under them.

matplotlib's constrained layout places everything, and is switched off once it has: a figure keeps its layout.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .bars import SignedBars, draw_bars
from .colors import palette
from .display import Display
from .files import png_bytes
from .text import ALERT, FRAME, INK, LINE, QUIET, fitted, number, style, width_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec

DPI = 150
TITLE, CAPTION, _DETAIL, _TICK = 11.0, 8.5, 7.5, 7.0  # points
_BAR, _CURVE, _MARGIN = 0.09, 0.62, 0.16  # inches: width of the colour bar, height of a curve, margin of a figure

Line = tuple[str, float, str]  # text, size in points, colour
Scale = tuple[float, float]  # what the ends of the colours stand for, in units of the score


@dataclasses.dataclass(frozen=True)
class Panel:
    """One panel: what is shown (H, W, 3), its caption, and what to warn about."""

    pixels: NDArray[np.uint8]
    caption: str
    note: str | None = None
    crisp: bool = False


@dataclasses.dataclass(frozen=True)
class Bar:
    """A colour bar: its colours, and labels at places 0..1."""

    colours: NDArray[np.uint8]
    labels: Sequence[tuple[float, str]]

    @classmethod
    def of(cls, display: Display, scale: Scale | None) -> Bar:
        """The bar of a display; without a scale its ends are called high and low."""
        colours = palette(display.colormap, display.view)
        if display.view == "signed":
            top = "" if scale is None else number(scale[1])
            ends = (f"{top} for".strip(), f"{top and '−'}{top} against".strip())
            return cls(colours, [(1.0, ends[0]), (0.5, "0"), (0.0, ends[1])])
        if scale is None:
            return cls(colours, [(1.0, "high"), (0.0, "low")])
        low, high = scale
        return cls(colours, [(1.0, number(high)), (0.0, f"≤ {number(low)}")] if high > 0 else [(0.0, "0")])


def _above(panel: Panel) -> list[Line]:
    first, *rest = panel.caption.split("\n")
    lines = [(first, CAPTION, INK), *((text, _DETAIL, QUIET) for text in rest), (panel.note or "", _DETAIL, ALERT)]
    return [line for line in lines if line[0]]


def _wrapped(lines: Sequence[Line], width: float) -> list[Line]:
    """Lines that fit a width in inches: the first of them may take two, the others one or two."""
    return [
        (part, size, colour)
        for text, size, colour in lines
        for part in fitted(text, width, 2 if size > _DETAIL else 1, functools.partial(width_of, size=size))
    ]


def _tall(lines: Sequence[Line]) -> float:
    """Height of lines in inches."""
    return sum(1.42 * size for _, size, _ in lines) / 72


@functools.cache
def _figure_class() -> type[Figure]:
    """Matplotlib's figure, which a notebook also shows where no plotting backend has been chosen."""
    from matplotlib.figure import Figure

    class Picture(Figure):
        def _repr_png_(self) -> bytes:
            return png_bytes(self)

    return Picture


def draw_grid(
    cells: Sequence[Panel | None],
    columns: int | None,
    area: float,
    headline: Sequence[Line],
    *,
    bar: Bar,
    most: int = 6,
    remark: str = "",
    curves: Mapping[str, Sequence[float] | SignedBars] | None = None,
) -> Figure:
    """Lays out panels of one size in rows, a colour bar at their right, a headline over and curves under them.

    Args:
        cells: The panels; None leaves a place free.
        columns: Panels in a row; None for rows of about the same length.
        area: Side of a square panel in inches; others get about the same area.
        headline: Lines over all.
        bar: The colour bar.
        most: Panels in a row, when square, that `columns=None` does not exceed.
        remark: A line under all panels.
        curves: Name -> one value for each panel but the first, or a sum for each.
    """
    first = cells[0]
    assert first is not None
    aspect = min(max(first.pixels.shape[1] / first.pixels.shape[0], 1 / 8), 8.0)
    width = max(area * math.sqrt(aspect), 0.7)
    columns = min(_columns(len(cells), most * area / width) if columns is None else columns, len(cells))
    rows, curves = math.ceil(len(cells) / columns), curves or {}
    captions = [_wrapped(_above(cell), width) if cell else [] for cell in cells]
    figure, grid = _empty_figure(rows, columns, width, width / aspect, max(map(_tall, captions)), len(curves))
    panels = []
    for i, (cell, caption) in enumerate(zip(cells, captions, strict=True)):
        if cell is not None:
            row = i // columns
            room_above = max(map(_tall, captions[row * columns : (row + 1) * columns]))
            panels.append(_bare(figure.add_subplot(grid[row, i % columns])))
            _show(panels[-1], cell, width, caption, room_above)
    beside = _bare(figure.add_subplot(grid[0, columns]))
    _draw_bar(beside, bar)
    single = rows == 1 and len(cells) > 1
    below = [_bare(figure.add_subplot(grid[rows + i, int(single) : columns])) for i in range(len(curves))]
    for axes, (name, values) in zip(below, curves.items(), strict=True):
        _draw_summary(axes, name, values)
    _place(figure, panels, beside)
    if single:
        for axes, (name, values) in zip(below, curves.items(), strict=True):
            _draw_summary(axes, name, values, _middles(axes, panels[1:]))
    elif below:
        _name_points(below[-1], [cell.caption.split("\n")[0] for cell in cells[1:] if cell is not None])
    _cut(figure, headline, remark)
    return figure


def _columns(count: int, room: float) -> int:
    """Columns that make rows of about the same length, with about as many panels as there is room for."""
    return math.ceil(count / math.ceil(count / max(int(room + 0.5), 2)))


def _empty_figure(
    rows: int, columns: int, width: float, height: float, above: float, curves: int
) -> tuple[Figure, GridSpec]:
    """A figure of about the size that is needed; what the layout leaves free is cut off at the end."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    size = (columns * (width + 0.12) + 0.6, rows * (height + above + 0.15) + curves * (_CURVE + 0.5))
    engine = ConstrainedLayoutEngine(compress=True, w_pad=0.06, h_pad=0.06, wspace=0, hspace=0)
    figure = _figure_class()(figsize=size, dpi=DPI, facecolor="white", layout=engine)
    FigureCanvasAgg(figure)  # with a canvas that keeps its renderer, measuring text is quick
    ratios = {"width_ratios": [width] * columns + [_BAR], "height_ratios": [height] * rows + [_CURVE] * curves}
    return figure, figure.add_gridspec(rows + curves, columns + 1, **ratios)


def _place(figure: Figure, panels: Sequence[Axes], beside: Axes) -> None:
    """Lays the figure out once and for all, the colour bar as high as the first panel."""
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)
    figure.set_layout_engine("none")
    box, first = beside.get_position(), panels[0].get_position()
    beside.set_position((box.x0, first.y0, box.width, first.height))


def _bare(axes: Axes) -> Axes:
    """Axes without anything that the user's settings may have put there."""
    axes.set_facecolor("none")
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(linewidth=0.5, color=FRAME, visible=True)
    return axes


def _caption(axes: Axes, lines: Sequence[Line], room: float = 0.0) -> None:
    """Lines of text above axes, each on its own baseline, the first at the top of the room (in inches)."""
    offset = 72 * max(room, _tall(lines)) + 4
    for text, size, colour in lines:
        offset -= 1.42 * size
        axes.annotate(
            text, (0, 1), (0, offset), xycoords="axes fraction", textcoords="offset points", va="baseline", ha="left",
            annotation_clip=False, **style(size, colour),
        )  # fmt: skip


def _show(axes: Axes, panel: Panel, width: float, caption: Sequence[Line], room: float) -> None:
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


def _draw_bar(axes: Axes, bar: Bar) -> None:
    """A colour bar, high at the top, with labels at its right; those at the ends stay level with it."""
    axes.imshow(bar.colours[::-1, None], aspect="auto", interpolation="nearest", origin="upper", extent=(0, 1, 0, 1))
    for spine in axes.spines.values():
        spine.set_visible(False)
    for place, text in bar.labels:
        level = "top" if place >= 1 else "bottom" if place <= 0 else "center"
        axes.annotate(
            text, (1, place), (4, 0), xycoords="axes fraction", textcoords="offset points", va=level, ha="left",
            annotation_clip=False, **style(_TICK, QUIET),
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
    axes.set_yticks(levels, [number(level) for level in levels], **style(_TICK, QUIET))
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
    _caption_curve(axes, name)


def _draw_summary(
    axes: Axes, name: str, values: Sequence[float] | SignedBars, middles: Sequence[float] | None = None
) -> None:
    """One summary over the layers; once the panels have their places, each value under its own panel."""
    if isinstance(values, SignedBars):
        draw_bars(axes, values, middles)
        _caption_curve(axes, name)
    elif middles is None:
        _draw_curve(axes, name, values)
    else:
        axes.set_xlim(0, 1)
        axes.lines[-1].set_xdata(middles)


def _caption_curve(axes: Axes, name: str) -> None:
    first, *rest = name.split("\n")
    _caption(axes, [(first, CAPTION, INK), *((text, _DETAIL, QUIET) for text in rest)])


def _middles(axes: Axes, above: Sequence[Axes]) -> list[float]:
    """The middles of panels as places across the axes under them, from 0 to 1."""
    place = axes.get_position()
    boxes = [panel.get_position() for panel in above]
    return [((box.x0 + box.x1) / 2 - place.x0) / place.width for box in boxes]


def _name_points(axes: Axes, names: Sequence[str]) -> None:
    """Names under as many points of a curve as there is room for, the first and the last among them."""
    from matplotlib.figure import Figure

    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    left, right = axes.get_xlim()
    pitch = axes.get_position().width * figure.get_size_inches()[0] / (right - left)  # inches from point to point
    last = len(names) - 1
    step = min(math.ceil(1.2 / pitch), max(last, 1))
    chosen = [*range(0, last - step + 1, step), last]
    labels = ["\n".join(fitted(names[i], 1.1, 1, lambda text: width_of(text, _TICK))) for i in chosen]
    axes.set_xticks(chosen, labels, **style(_TICK, QUIET))
    axes.tick_params(axis="x", length=0, pad=4, bottom=False, top=False, labelbottom=True, labeltop=False)


def _cut(figure: Figure, headline: Sequence[Line], remark: str) -> None:
    """Cuts a figure to what is drawn and a margin, with a headline above and a remark under it."""
    across, down = figure.get_size_inches()
    boxes = [box for axes in figure.axes if (box := axes.get_tightbbox()) is not None]
    left, bottom = min(box.x0 for box in boxes) / DPI - _MARGIN, min(box.y0 for box in boxes) / DPI - _MARGIN
    right, top = max(box.x1 for box in boxes) / DPI + _MARGIN, max(box.y1 for box in boxes) / DPI + _MARGIN
    right = max(right, left + 3.2)
    headline = _wrapped(headline, right - left - 2 * _MARGIN)
    remarks = fitted(remark, right - left - 2 * _MARGIN, 4, lambda text: width_of(text, _DETAIL))
    bottom -= _tall([(line, _DETAIL, QUIET) for line in remarks]) + 0.05 if remarks else 0
    wide, high = right - left, top - bottom + _tall(headline) + (0.08 if headline else 0)
    places = [axes.get_position() for axes in figure.axes]
    figure.set_size_inches(wide, high)
    for axes, box in zip(figure.axes, places, strict=True):
        x, y = (box.x0 * across - left) / wide, (box.y0 * down - bottom) / high
        axes.set_position((x, y, box.width * across / wide, box.height * down / high))
    flush = figure.axes[0].get_position().x0
    y = high - _MARGIN
    for text, size, colour in headline:
        figure.text(flush, (y - size / 72) / high, text, va="baseline", ha="left", **style(size, colour))
        y -= 1.42 * size / 72
    for i, line in enumerate(reversed(remarks)):
        y = _MARGIN + _tall([(line, _DETAIL, QUIET)]) * i
        figure.text(flush, y / high, line, va="bottom", ha="left", **style(_DETAIL, QUIET))
