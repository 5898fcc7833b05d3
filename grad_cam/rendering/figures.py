"""Figures: panels, comparisons, sweeps and raw maps.

Figures are made without pyplot, so no global state is touched and several threads can draw at once. matplotlib is
imported when the first figure is made.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import itertools
import math
import os
import pathlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from . import files
from .colors import ALPHA, COLORMAP, colorize, overlay, palette
from .colors import as_heat as _heat
from .colors import as_pixels as _pixels
from .heatmaps import as_maps as _maps
from .heatmaps import describe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# --- figures ---------------------------------------------------------------------------------------------------------

_DPI = 150
_MARGIN, _GAP = 0.16, 0.12  # inches, as all lengths of a figure
_BAR, _BAR_GAP, _BAR_TEXT = 0.09, 0.12, 0.42
_INK, _QUIET, _FRAME, _ALERT, _LINE = "#1f2328", "#6a7078", "#d5d8dc", "#b3261e", "#1e5fae"
_TITLE, _SUBTITLE, _CAPTION, _DETAIL, _TICK = 11.0, 8.5, 8.5, 7.5, 7.0  # points


def panels(
    picture: Image.Image | ArrayLike,
    heatmap: ArrayLike,
    *,
    title: str = "",
    alpha: float = ALPHA,
    colormap: str = COLORMAP,
    note: str | None = None,
) -> Figure:
    """Draws the four panels: image, overlay, heatmap and colormap, with a colour bar.

    Args:
        picture: The picture (H, W): PIL, or an array (H, W, 3) of bytes.
        heatmap: Heatmap (H, W) in 0..1, of the picture's size.
        title: What is shown; lines after the first are set smaller.
        alpha: Opacity of the hottest spot of the overlay, 0..1.
        colormap: "bgr" or the name of a matplotlib colormap.
        note: What to warn of, from `describe`; without one, an empty heatmap is reported as such.

    Returns:
        A figure as wide as its panels need.
    """
    pixels = _pixels(picture)
    heat = _heat(heatmap, pixels.shape[:2])
    grey = np.repeat(_levels(heat)[..., None], 3, axis=2)
    shown = [pixels, np.asarray(overlay(pixels, heat, alpha=alpha, colormap=colormap)), grey, colorize(heat, colormap)]
    cells = [_Cell(*pair) for pair in zip(shown, ("image", "overlay", "heatmap", "colormap"), strict=True)]
    aspect = pixels.shape[1] / pixels.shape[0]
    columns = 4 if aspect <= 3 else 2 if aspect <= 6 else 1
    return _grid(cells, columns, area=2.15, title=title, note=_note(note, heat), colormap=colormap).figure


def comparison(
    picture: Image.Image | ArrayLike,
    heatmaps: ArrayLike | Sequence[ArrayLike],
    titles: Sequence[str],
    *,
    columns: int | None = None,
    title: str = "",
    alpha: float = ALPHA,
    colormap: str = COLORMAP,
    notes: Sequence[str | None] | None = None,
) -> Figure:
    """Draws a picture and, beside it, overlays of several heatmaps: methods, classes or layers.

    Args:
        picture: The picture (H, W): PIL, or an array (H, W, 3) of bytes.
        heatmaps: Heatmaps (N, H, W) in 0..1, of the picture's size.
        titles: One for each heatmap; lines after the first are set smaller.
        columns: Panels in a row, the picture included; by default rows of about the same length.
        title: Of the whole figure.
        alpha: Opacity of the hottest spot, 0..1.
        colormap: "bgr" or the name of a matplotlib colormap.
        notes: One for each heatmap, from `describe`, or None.
    """
    cells = _cells(picture, heatmaps, titles, notes, alpha, colormap)
    if columns is not None and columns < 1:
        raise ValueError(f"columns={columns} leaves no room for a panel: give 1 or more")
    return _grid(cells, columns, area=1.75, title=title, colormap=colormap).figure


def sweep_figure(
    picture: Image.Image | ArrayLike,
    heatmaps: ArrayLike | Sequence[ArrayLike],
    titles: Sequence[str],
    curves: Mapping[str, Sequence[float]] | None = None,
    *,
    columns: int | None = None,
    title: str = "",
    alpha: float = ALPHA,
    colormap: str = COLORMAP,
    notes: Sequence[str | None] | None = None,
) -> Figure:
    """Draws a network layer by layer: overlays from the shallowest to the deepest cut and curves under them.

    When all layers fit into one row, every point of a curve stands under its layer.

    Args:
        picture: The picture (H, W): PIL, or an array (H, W, 3) of bytes.
        heatmaps: Heatmaps (N, H, W) in 0..1, in the order of depth.
        titles: Names of the layers; lines after the first are set smaller ("layer3" over "5 · 14 × 14").
        curves: Name of a summary -> one value for each layer; NaN leaves a gap.
        columns: Panels in a row, the picture included; by default rows of about the same length.
        title: Of the whole figure.
        alpha: Opacity of the hottest spot, 0..1.
        colormap: "bgr" or the name of a matplotlib colormap.
        notes: One for each heatmap, from `describe`, or None.
    """
    cells = _cells(picture, heatmaps, titles, notes, alpha, colormap)
    curves = dict(curves or {})
    for name, values in curves.items():
        if len(values) != len(cells) - 1:
            raise ValueError(f"curve {name!r} has {len(values)} values for {len(cells) - 1} layers: give one for each")
    if columns is not None and columns < 1:
        raise ValueError(f"columns={columns} leaves no room for a panel: give 1 or more")
    strip, above, below = 0.62, 0.42, 0.24
    extra = len(curves) * (strip + above) + (below if curves else 0)
    sheet = _grid(cells, columns, area=1.3, most=10, title=title, colormap=colormap, extra=extra)
    names = [cell.caption.split("\n")[0] for cell in cells[1:]]
    for number, (name, values) in enumerate(curves.items()):
        top = sheet.bottom + number * (strip + above) + above
        _curve(sheet, top, strip, name, values, names if number == len(curves) - 1 else None)
    return sheet.figure


def map_figure(map: ArrayLike, *, title: str = "", colormap: str = COLORMAP, note: str | None = None) -> Figure:
    """Draws a raw map at the layer's own size: one square a position, a colour bar with the signed values.

    Args:
        map: Raw signed map (h, w).
        title: What is shown; lines after the first are set smaller.
        colormap: "bgr" or the name of a matplotlib colormap.
        note: What to warn of; by default what `describe` says.
    """
    raw = _maps(map)
    if raw.ndim != 2:
        raise ValueError(f"a figure shows one map (h, w), got shape {raw.shape}: draw them one by one")
    low, high = float(raw.min()), float(raw.max())
    half = high / 2 - low / 2  # halves, so that the range of the largest numbers does not overflow
    heat = np.zeros(raw.shape) if half == 0 else (raw / 2 - low / 2) / half
    cell = _Cell(colorize(heat, colormap), f"raw map, {raw.shape[0]} × {raw.shape[1]}", crisp=True)
    ticks = [(1.0, high), (0.0, low)] if half else [(0.0, low)]
    if half and 0.1 < -low / 2 / half < 0.9:
        ticks.insert(1, (-low / 2 / half, 0.0))
    labels = [(place, _number(value)) for place, value in ticks]
    note = note or describe(raw)
    return _grid([cell], 1, area=3.0, title=title, note=note, colormap=colormap, labels=labels).figure


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
        ValueError: If the suffix is of no known format.
    """
    path = pathlib.Path(path)
    kind = path.suffix.lower().lstrip(".")
    if isinstance(picture, Image.Image):
        known: Iterable[str] = ("png", "jpg", "jpeg", "webp", "tif", "tiff", "bmp")
    else:
        known = ("png", "jpg", "jpeg", "webp", "tif", "tiff", "pdf", "svg")
    if kind not in known:
        raise ValueError(
            f"cannot tell a picture format from {path.name!r}: end the name in one of .{', .'.join(known)}"
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
            buffer,
            format=kind,
            dpi=dpi or picture.dpi,
            bbox_inches=picture.bbox_inches,
            facecolor=picture.get_facecolor(),
            edgecolor="none",
            transparent=False,
            **options,
        )
    return buffer.getvalue()


@functools.cache
def _figure_class() -> type[Figure]:
    """Matplotlib's figure, which a notebook also shows where no plotting backend has been chosen."""
    from matplotlib.figure import Figure

    class Picture(Figure):
        def _repr_png_(self) -> bytes:
            return png_bytes(self)

    return Picture


@dataclasses.dataclass(frozen=True)
class _Cell:
    """One panel: what is shown (H, W, 3), what stands above it, what to warn of."""

    pixels: NDArray[np.uint8]
    caption: str
    note: str | None = None
    crisp: bool = False


@dataclasses.dataclass(frozen=True)
class _Sheet:
    """A figure measured in inches from its top left corner, and where its panels lie."""

    figure: Figure
    bottom: float  # of the panels
    left: float
    right: float
    centres: list[float] | None  # of the layers' panels, when they stand in one row

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        across, down = self.figure.get_size_inches()
        axes = self.figure.add_axes((x / across, 1 - (y + height) / down, width / across, height / down))
        axes.set_facecolor("none")
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set(linewidth=0.5, color=_FRAME)
        return axes

    def text(self, x: float, y: float, text: str, size: float, colour: str, anchor: str = "left top") -> None:
        across, down = self.figure.get_size_inches()
        horizontal, vertical = anchor.split()
        self.figure.text(
            x / across, 1 - y / down, text, color=colour, ha=horizontal, va=vertical, fontproperties=_font(size),
            parse_math=False, usetex=False,
        )  # fmt: skip

    def lines(self, x: float, y: float, lines: Sequence[tuple[str, float, str]]) -> None:
        """Lines of (text, size, colour) downwards from y, each on its own baseline."""
        for text, size, colour in lines:
            self.text(x, y + size / 72, text, size, colour, "left baseline")
            y += _leading(size)


def _cells(
    picture: Image.Image | ArrayLike,
    heatmaps: ArrayLike | Sequence[ArrayLike],
    titles: Sequence[str],
    notes: Sequence[str | None] | None,
    alpha: float,
    colormap: str,
) -> list[_Cell]:
    """The picture and one overlay a heatmap."""
    pixels = _pixels(picture)
    heats = [_heat(heat, pixels.shape[:2]) for heat in heatmaps]  # type: ignore[union-attr]
    notes = [None] * len(heats) if notes is None else list(notes)
    if not heats:
        raise ValueError("there is no heatmap to show: give at least one")
    for name, given in (("titles", titles), ("notes", notes)):
        if len(given) != len(heats):
            raise ValueError(f"{len(given)} {name} for {len(heats)} heatmaps: give one for each")
    detail = f"\n{pixels.shape[0]} × {pixels.shape[1]}" if any("\n" in title for title in titles) else ""
    cells = [_Cell(pixels, "image" + detail)]
    for heat, caption, note in zip(heats, titles, notes, strict=True):
        shown = np.asarray(overlay(pixels, heat, alpha=alpha, colormap=colormap))
        cells.append(_Cell(shown, caption, _note(note, heat)))
    return cells


def _grid(
    cells: Sequence[_Cell],
    columns: int | None,
    *,
    area: float,
    most: int = 6,
    title: str = "",
    note: str | None = None,
    colormap: str = COLORMAP,
    labels: Sequence[tuple[float, str]] = ((1.0, "high"), (0.0, "low")),
    extra: float = 0.0,
) -> _Sheet:
    """Lays out panels of one size in rows, captions above them, a colour bar at the right and a title over all.

    Args:
        cells: The panels.
        columns: Panels in a row; None for rows of about the same length.
        area: Side of a square panel in inches; others get the same area.
        most: Panels in a row, when square, that `columns=None` does not exceed.
        title: Over all.
        note: Under the title.
        colormap: Colours of the bar.
        labels: (place 0..1, text) beside the bar.
        extra: Height in inches to leave free under the panels.
    """
    aspect = min(max(cells[0].pixels.shape[1] / cells[0].pixels.shape[0], 1 / 8), 8.0)
    width = max(area * math.sqrt(aspect), 0.7)
    height = width / aspect
    if columns is None:
        room = max(int(most * area / width + 0.5), 2)
        columns = math.ceil(len(cells) / math.ceil(len(cells) / room))
    columns = min(columns, len(cells))
    rows = [list(cells[i : i + columns]) for i in range(0, len(cells), columns)]

    measure = _measure()
    bar_text = max([_BAR_TEXT - 0.1] + [measure(text, _TICK) for _, text in labels]) + 0.1
    inner = columns * width + (columns - 1) * _GAP
    across = _MARGIN + inner + _BAR_GAP + _BAR + bar_text + _MARGIN * 0.5
    across = max(across, 3.2)

    head = _headline(title, note, across - 2 * _MARGIN, measure)
    captions = [[_caption(cell, width, measure) for cell in row] for row in rows]
    tall = [max(sum(_leading(size) for _, size, _ in lines) for lines in row) for row in captions]
    top = _MARGIN + sum(_leading(size) for _, size, _ in head) + (0.08 if head else 0)
    down = top + sum(tall) + len(rows) * height + (len(rows) - 1) * 0.14 + extra + _MARGIN

    figure = _figure_class()(figsize=(across, down), dpi=_DPI, facecolor="white", layout="none")
    y = top
    single = len(rows) == 1 and len(cells) > 1
    centres = [_MARGIN + i * (width + _GAP) + width / 2 for i in range(1, len(cells))] if single else None
    sheet = _Sheet(figure, down - _MARGIN - extra, _MARGIN, _MARGIN + inner, centres)
    sheet.lines(_MARGIN, _MARGIN, head)
    for number, row in enumerate(rows):
        for i, (cell, lines) in enumerate(zip(row, captions[number], strict=True)):
            x = _MARGIN + i * (width + _GAP)
            sheet.lines(x, y, lines)
            axes = sheet.axes(x, y + tall[number], width, height)
            shown = cell.pixels if cell.crisp else _reduced(cell.pixels, round(width * _DPI * 2))
            axes.imshow(shown, aspect="auto", interpolation="nearest" if cell.crisp else "antialiased", origin="upper")
        if number == 0:
            x = _MARGIN + len(row) * (width + _GAP) - _GAP + _BAR_GAP
            _bar(sheet, x, y + tall[0], height, colormap, labels)
        y += tall[number] + height + 0.14
    return sheet


def _bar(sheet: _Sheet, x: float, y: float, height: float, colormap: str, labels: Sequence[tuple[float, str]]) -> None:
    """A colour bar, high at the top, with labels at its right."""
    axes = sheet.axes(x, y, _BAR, height)
    axes.imshow(palette(colormap)[::-1, None], aspect="auto", interpolation="nearest", origin="upper")
    for spine in axes.spines.values():
        spine.set_visible(False)
    for place, text in labels:
        # Labels at the ends stay level with the bar, those between stand beside their value.
        anchor = "left top" if place >= 1 else "left bottom" if place <= 0 else "left center"
        nudge = -0.01 if place >= 1 else 0.01 if place <= 0 else 0
        sheet.text(x + _BAR + 0.06, y + (1 - place) * height + nudge, text, _TICK, _QUIET, anchor)


def _curve(
    sheet: _Sheet, top: float, height: float, name: str, values: Sequence[float], names: Sequence[str] | None
) -> None:
    """One summary curve over the layers, with the layers' names under it when they are given."""
    left, right = sheet.left, sheet.right
    room = right - left
    y = np.asarray(values, np.float64)
    if sheet.centres is not None:
        x = np.asarray(sheet.centres)
    else:
        inset = min(0.35, room / (2 * len(y)))
        x = np.linspace(left + 0.3 + inset, right - inset, len(y)) if len(y) > 1 else np.array([left + room / 2])
    start = (
        left + 0.3
        if sheet.centres is None
        else max(x[0] - (x[1] - x[0] - _GAP) / 2 if len(x) > 1 else left, left + 0.3)
    )
    finite = y[np.isfinite(y)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    if 0 <= low and high <= 1:
        low, high = 0.0, 1.0
    elif -1 <= low and high <= 1:
        low, high = -1.0, 1.0
    elif low == high:
        low, high = low - 1, high + 1
    axes = sheet.axes(start, top, right - start, height)
    axes.set_xlim(start, right)
    space = 0.08 * (high - low)
    axes.set_ylim(low - space, high + space)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for level in (low, 0.0, high) if low < 0 < high else (low, high):
        axes.axhline(level, color=_FRAME, linewidth=0.6, zorder=0)
        place = top + height * (1 - (level - low + space) / (high - low + 2 * space))
        sheet.text(start - 0.06, place, _number(level), _TICK, _QUIET, "right center")
    axes.plot(x, y, color=_LINE, linewidth=1.3, marker="o", markersize=3.2, markeredgewidth=0, clip_on=False, zorder=3)
    sheet.text(start, top - 0.07, _clean(name), _CAPTION, _INK, "left bottom")
    if names is not None:
        measure = _measure()
        labels = [_shortened(_clean(text), 1.1, _TICK, measure) for text in names]
        for i in _spaced(x, [measure(text, _TICK) for text in labels]):
            sheet.text(x[i], top + height + 0.06, labels[i], _TICK, _QUIET, "center top")


def _spaced(x: NDArray[np.float64], widths: Sequence[float]) -> list[int]:
    """The labels that can stand beside each other: the first, the last, and every k-th between them."""
    count = len(x)
    for step in range(1, count + 1):
        chosen = [i for i in range(0, count, step) if i == 0 or (count - 1 - i) * 2 >= step] + [count - 1]
        chosen = sorted(set(chosen))
        apart = itertools.pairwise(chosen)
        if all(x[b] - x[a] > (widths[a] + widths[b]) / 2 + 0.08 for a, b in apart):
            return chosen
    return [0]


# --- text ------------------------------------------------------------------------------------------------------------


def _headline(title: str, note: str | None, width: float, measure: Any) -> list[tuple[str, float, str]]:
    """Title, subtitle and note as lines that fit."""
    first, *rest = title.split("\n")
    lines = [(text, _TITLE, _INK) for text in _wrapped(first, width, _TITLE, 2, measure)]
    for text in rest:
        lines += [(part, _SUBTITLE, _QUIET) for part in _wrapped(text, width, _SUBTITLE, 2, measure)]
    if note:
        lines += [(part, _SUBTITLE, _ALERT) for part in _wrapped(f"map is {note}", width, _SUBTITLE, 2, measure)]
    return lines


def _caption(cell: _Cell, width: float, measure: Any) -> list[tuple[str, float, str]]:
    """The lines above a panel."""
    first, *rest = cell.caption.split("\n")
    lines = [(text, _CAPTION, _INK) for text in _wrapped(first, width, _CAPTION, 2, measure)]
    for text in rest:
        lines += [(part, _DETAIL, _QUIET) for part in _wrapped(text, width, _DETAIL, 1, measure)]
    if cell.note:
        lines += [(part, _DETAIL, _ALERT) for part in _wrapped(cell.note, width, _DETAIL, 1, measure)]
    return lines


def _leading(size: float) -> float:
    """Height of a line of text in inches."""
    return size * 1.42 / 72


@functools.lru_cache(maxsize=1)
def _families() -> list[str]:
    """The quiet sans-serif fonts of this machine, then those that know more scripts; matplotlib ships the last."""
    from matplotlib import font_manager

    here = {font.name for font in font_manager.fontManager.ttflist}
    wanted = ("Arial", "Helvetica", "Liberation Sans", "DejaVu Sans")
    scripts = ("Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Yu Gothic",
               "Noto Sans Arabic", "Noto Sans Devanagari", "Arial Unicode MS")  # fmt: skip
    plain = [name for name in wanted if name in here] or ["DejaVu Sans"]
    return plain + [name for name in scripts if name in here]


def _font(size: float) -> Any:
    from matplotlib.font_manager import FontProperties

    return FontProperties(family=_families(), size=size)


def _measure() -> Any:
    """A function (text, size in points) -> width in inches, with some slack as it varies with the resolution."""
    from matplotlib.backends.backend_agg import RendererAgg

    renderer = RendererAgg(16, 16, _DPI)
    return lambda text, size: renderer.get_text_width_height_descent(text, _font(size), ismath=False)[0] * 1.05 / _DPI


def _clean(text: str) -> str:
    """One line of printable characters: names come from files and from the net."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return " ".join("".join(" " if unicodedata.category(c)[0] == "C" else c for c in text).split())


def _shortened(text: str, width: float, size: float, measure: Any) -> str:
    """The text, or as much of it as fits and an ellipsis."""
    if measure(text, size) <= width:
        return text
    low, high = 0, len(text)  # text[:low] fits, text[:high] does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if measure(text[:middle].rstrip() + "…", size) <= width else (low, middle)
    return text[:low].rstrip(" ,·") + "…"


def _wrapped(text: str, width: float, size: float, most: int, measure: Any) -> list[str]:
    """The text in at most so many lines, broken between words, ended by an ellipsis if it is longer still."""
    words = _clean(text).split()
    lines: list[str] = []
    while words and len(lines) < most - 1:
        count = len(words)
        while count > 1 and measure(" ".join(words[:count]), size) > width:
            count -= 1
        if count == 1 and measure(words[0], size) > width:
            break
        lines.append(" ".join(words[:count]))
        words = words[count:]
    return lines + ([_shortened(" ".join(words), width, size, measure)] if words else [])


def _number(value: float) -> str:
    """A number as it is printed: three digits, a real minus, no zeros in the exponent."""
    digits, _, exponent = f"{value:.3g}".partition("e")
    return (digits + (f"e{int(exponent)}" if exponent else "")).replace("-", "−")


def _levels(heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(heat * 255).astype(np.uint8)


def _reduced(pixels: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """The picture at most so wide: figures of photographs stay small and quick."""
    if pixels.shape[1] <= width:
        return pixels
    height = max(round(pixels.shape[0] * width / pixels.shape[1]), 1)
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX, reducing_gap=None))


def _note(note: str | None, heat: NDArray[np.float32]) -> str | None:
    """The note given, or what an empty heatmap says of its map."""
    return note or ("nowhere positive" if not heat.any() else None)
