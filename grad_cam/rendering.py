"""From raw maps to pictures: heatmaps, colours, overlays and figures.

Arrays go in; arrays, PIL pictures or matplotlib figures come out. Nothing is shown, and only `save` and `animation`
write a file. Figures are made without pyplot, so no global state is touched and several threads can draw at once.
matplotlib is imported when the first figure is made: pictures in the default colours do not need it.
"""

from __future__ import annotations

import dataclasses
import difflib
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
from PIL import Image, ImageDraw, ImageFont

from .arguments import as_number, check_fraction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ALPHA = 0.6
"""Default opacity of the hottest spot of an overlay."""

COLORMAP = "bgr"
"""Default colours: blue for low, green for medium, red for high."""

_STOPS = (
    (0.00, "#1d2680"),
    (0.20, "#1e66c0"),
    (0.38, "#18a0b8"),
    (0.54, "#3db55f"),
    (0.70, "#dcd43a"),
    (0.84, "#f5852a"),
    (0.95, "#d9232a"),
    (1.00, "#b80f1f"),
)


# --- from maps to heatmaps -------------------------------------------------------------------------------------------


def default_smoothing(size: tuple[int, int]) -> float:
    """Returns a smoothing that suits a picture: 5 pixels where the shorter side is 224, in proportion elsewhere.

    Enough to soften the creases of bilinear interpolation in a 7x7 map, little enough to leave the detail of a 28x28
    map standing.

    Args:
        size: Height and width of the shown picture in pixels.
    """
    return 5 * min(_size(size)) / 224


def heatmap(
    maps: ArrayLike, size: tuple[int, int], threshold: float = 0.0, smoothing: float = 0.0
) -> NDArray[np.float32]:
    """Turns raw maps into heatmaps: what is shown, from 0 (nothing) to 1 (the map's strongest evidence).

    The raw, signed map is resized to the picture first (bilinear, half-pixel centres) and smoothed; only then is
    everything under the floor cut off and the rest scaled. Cutting after resizing keeps the border between evidence for
    and evidence against where the interpolated map crosses zero.

    Args:
        maps: Raw signed maps (..., h, w), array or tensor.
        size: Height and width (H, W) of the shown picture in pixels.
        threshold: Floor as a fraction of the maximum, in [0, 1). 0 keeps all that is positive (ReLU).
        smoothing: Sigma of a Gaussian in pixels of the shown picture; 0 for none. The picture is continued beyond its
            edges by reflection, the kernel ends at four sigma.

    Returns:
        Heatmaps (..., H, W) in 0..1; all zero where a map is nowhere positive.

    Raises:
        ValueError: If a map holds NaN or infinite values or has no two axes, or if a setting is out of range.
    """
    raw = _maps(maps)
    height, width = _size(size)
    threshold = check_fraction(threshold, "threshold", below_one=True)
    smoothing = as_number(
        smoothing, "smoothing", 0, max(height, width), what=f"a sigma in pixels for a picture of {height}x{width}",
        remedy=f"give a number from 0 (none) to {max(height, width)}",
    )  # fmt: skip
    rows = _blurred(_bilinear(raw.shape[-2], height), smoothing)  # (H, h)
    columns = _blurred(_bilinear(raw.shape[-1], width), smoothing)  # (W, w)

    heat = np.zeros((*raw.shape[:-2], height, width), np.float32)  # (..., H, W)
    for index in np.ndindex(raw.shape[:-2]):
        one = raw[index]  # (h, w)
        scale = np.abs(one).max()
        if scale == 0:
            continue
        # Resizing and smoothing are linear and separable: both together are one small matrix on either side.
        shown = rows @ (one / scale) @ columns.T  # (H, W)
        top = shown.max()
        if top > 0:
            floor = threshold * top
            heat[index] = (np.maximum(shown, floor) - floor) / (top - floor)
    return heat


def describe(map: ArrayLike) -> str | None:
    """Says what is unusual about a raw map, in words fit for a title and a warning.

    Args:
        map: One raw signed map (h, w).

    Returns:
        "all zero", "all negative", "nowhere positive" (zero at best), "the same everywhere", or None for an ordinary
        map.

    Raises:
        ValueError: If the map holds NaN or infinite values or has no two axes.
    """
    raw = _maps(map)
    low, high = raw.min(), raw.max()
    if low == high == 0:
        return "all zero"
    if high < 0:
        return "all negative"
    if high == 0:
        return "nowhere positive"
    if low == high and raw.size > 1:
        return "the same everywhere"
    return None


def _bilinear(source: int, target: int) -> NDArray[np.float64]:
    """The matrix (target, source) of linear interpolation between pixel centres, constant beyond the outer ones."""
    place = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    left = np.minimum(place.astype(int), max(source - 2, 0))
    matrix = np.zeros((target, source))
    matrix[np.arange(target), left] = 1 - (place - left)
    matrix[np.arange(target), np.minimum(left + 1, source - 1)] += place - left
    return matrix


def _blurred(matrix: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Smooths the columns of a matrix (H, h) by a Gaussian that is cut at four sigma and reflected at both ends."""
    radius = math.ceil(4 * sigma)
    if radius == 0:
        return matrix
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    padded = np.pad(matrix, ((radius, radius), (0, 0)), mode="symmetric")
    return sum(weight * padded[shift : shift + len(matrix)] for shift, weight in enumerate(weights))


# --- colours ---------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=32)
def palette(colormap: str = COLORMAP) -> NDArray[np.uint8]:
    """Returns the 256 colours of a colormap, from low to high.

    "bgr" runs from blue over green and yellow to red. It is interpolated in a perceptual colour space, so no step
    stands out, and gets lighter up to yellow, then darker to red.

    Args:
        colormap: "bgr" or the name of a matplotlib colormap.

    Returns:
        Colours (256, 3), read-only.

    Raises:
        ValueError: If there is no such colormap; the message offers the closest names.
    """
    if colormap == COLORMAP:
        colours = _interpolated(_STOPS)
    else:
        import matplotlib

        known = matplotlib.colormaps
        if colormap not in known:
            names = [COLORMAP, *known]
            folded = {name.lower(): name for name in reversed(names)}
            close = [folded[name] for name in difflib.get_close_matches(str(colormap).lower(), folded, n=3, cutoff=0.5)]
            hint = f"did you mean {' or '.join(close)}?" if close else f"try {COLORMAP}, viridis, inferno or turbo"
            raise ValueError(f"no colormap is called {colormap!r}: {hint}")
        colours = np.rint(known[colormap](np.linspace(0, 1, 256))[:, :3] * 255).astype(np.uint8)
    colours.flags.writeable = False
    return colours


def colorize(heatmap: ArrayLike, colormap: str = COLORMAP) -> NDArray[np.uint8]:
    """Gives every value of a heatmap its colour.

    Args:
        heatmap: Heatmap (H, W) in 0..1; values outside are shown as the nearest end.
        colormap: "bgr" or the name of a matplotlib colormap.

    Returns:
        Colours (H, W, 3).
    """
    return palette(colormap)[_levels(_heat(heatmap))]


def opacity(heatmap: ArrayLike, alpha: float = ALPHA) -> NDArray[np.float32]:
    """Says how opaque the colours of an overlay are: `alpha * (1 - (1 - h)^2)` at heat h.

    Args:
        heatmap: Heat in 0..1, any shape.
        alpha: Opacity of the hottest spot, 0..1.
    """
    alpha = as_number(
        alpha, "alpha", 0, 1, what="an opacity", remedy="give a number from 0 (picture only) to 1 (colours only)"
    )
    cold = 1 - np.clip(np.asarray(heatmap, np.float32), 0, 1)
    return np.float32(alpha) * (1 - cold * cold)


def overlay(
    picture: Image.Image | ArrayLike, heatmap: ArrayLike, *, alpha: float = ALPHA, colormap: str = COLORMAP
) -> Image.Image:
    """Lays the colours of a heatmap over a picture.

    The colours are the more opaque the hotter the spot (see `opacity`): where there is no heat the picture is
    untouched, without the veil of blue that a constant opacity leaves. Blending is done in floating point and rounded
    once.

    Args:
        picture: The picture (H, W): PIL, or an array (H, W, 3) of bytes.
        heatmap: Heatmap (H, W) in 0..1, of the picture's size.
        alpha: Opacity of the hottest spot, 0 (picture only) to 1 (colours only).
        colormap: "bgr" or the name of a matplotlib colormap.

    Returns:
        An RGB picture of the same size.

    Raises:
        ValueError: If the sizes differ or a setting is out of range.
    """
    below = _pixels(picture)  # (H, W, 3)
    heat = _heat(heatmap, below.shape[:2])
    strength = opacity(heat, alpha)[..., None]  # (H, W, 1)
    blend = below + strength * (colorize(heat, colormap).astype(np.float32) - below)
    return Image.fromarray(np.rint(blend).clip(0, 255).astype(np.uint8))


def _interpolated(stops: Sequence[tuple[float, str]]) -> NDArray[np.uint8]:
    """256 colours through the given ones, in OKLab (Ottosson 2020, https://bottosson.github.io/posts/oklab/)."""
    to_lms = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                       [0.0883024619, 0.2817188376, 0.6299787005]])  # fmt: skip
    to_lab = np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                       [0.0259040371, 0.7827717662, -0.8086757660]])  # fmt: skip
    bytes_ = np.array([[int(code[i : i + 2], 16) for i in (1, 3, 5)] for _, code in stops]) / 255
    linear = np.where(bytes_ <= 0.04045, bytes_ / 12.92, ((bytes_ + 0.055) / 1.055) ** 2.4)
    lab = np.cbrt(linear @ to_lms.T) @ to_lab.T  # (stops, 3)
    at, place = np.linspace(0, 1, 256), [position for position, _ in stops]
    lab = np.stack([np.interp(at, place, lab[:, axis]) for axis in range(3)], axis=1)  # (256, 3)
    inner = np.pad(lab, ((8, 8), (0, 0)), mode="reflect", reflect_type="odd")
    lab = np.stack([inner[i : i + 256] for i in range(17)]).mean(0)  # rounds the bends at the stops
    linear = (lab @ np.linalg.inv(to_lab).T) ** 3 @ np.linalg.inv(to_lms).T
    linear = np.clip(linear, 0, 1)
    bytes_ = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(bytes_ * 255).astype(np.uint8)


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


def save(picture: Figure | Image.Image, path: str | os.PathLike[str], *, dpi: float | None = None) -> pathlib.Path:
    """Writes a figure or a picture; the suffix of the path says in which format.

    The file is written once it is complete in memory, so a format that fails leaves an existing file as it was.

    Args:
        picture: The figure or picture.
        path: Where to; a folder that is not there is made.
        dpi: Pixels per inch of a figure; its own (150) by default.

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
    return _written(path, _encoded(picture, kind, dpi))


def _written(path: pathlib.Path, content: bytes) -> pathlib.Path:
    """Writes a file, and makes its folder if there is none."""
    if path.parent.exists() and not path.parent.is_dir():
        raise NotADirectoryError(f"{str(path.parent)!r} is a file, not a folder: choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


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


# --- moving pictures -------------------------------------------------------------------------------------------------


def captioned(
    picture: Image.Image, text: str, detail: str = "", *, progress: float | None = None, width: int | None = None
) -> Image.Image:
    """Sets a caption under a picture: a frame of an animation.

    Args:
        picture: The picture.
        text: What is shown; shortened when it is too long.
        detail: Set in grey at the right, when there is room.
        progress: How far the animation has come, 0..1, drawn as a line between picture and caption.
        width: Width in pixels the picture is resized to first.

    Returns:
        An RGB picture, taller by the caption.
    """
    if progress is not None and not 0 <= progress <= 1:
        raise ValueError(f"progress={progress} is not a fraction: give a number from 0 to 1")
    picture = picture.convert("RGB")
    if width is not None:
        height = max(round(picture.height * width / picture.width), 1)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    size = max(round(picture.width * 0.042), 11)
    line, pad = max(size // 5, 2), round(size * 0.75)
    frame = Image.new("RGB", (picture.width, picture.height + line + 2 * pad + round(size * 1.1)), "white")
    frame.paste(picture, (0, 0))
    draw = ImageDraw.Draw(frame)
    if progress is not None:
        draw.rectangle((0, picture.height, frame.width - 1, picture.height + line - 1), fill=_FRAME)
        if round(frame.width * progress):
            end = round(frame.width * progress) - 1
            draw.rectangle((0, picture.height, end, picture.height + line - 1), fill=_LINE)
    font = _truetype(size)

    def measure(words: str, _: float) -> float:
        return font.getlength(words)

    room = frame.width - 2 * pad
    base = picture.height + line + pad + round(size * 0.9)
    text, detail = _shortened(_clean(text), room, size, measure), _clean(detail)
    draw.text((pad, base), text, _INK, font, anchor="ls")
    if detail and font.getlength(text) + font.getlength(detail) + size <= room:
        draw.text((frame.width - pad, base), detail, _QUIET, font, anchor="rs")
    return frame


def animation(
    frames: Sequence[Image.Image], path: str | os.PathLike[str], duration_ms: int | Sequence[int] = 600
) -> pathlib.Path:
    """Writes frames as an endless animation, a GIF or a WebP.

    Args:
        frames: Pictures of one size.
        path: Where to, ending in .gif or .webp; a folder that is not there is made.
        duration_ms: How long each frame is shown, in milliseconds: one number for all or one for each; at least 20,
            below which viewers play a GIF slowly.

    Returns:
        The path.

    Raises:
        ValueError: If there is no frame, the sizes differ, a duration is too short, or the suffix is another.
    """
    path = pathlib.Path(path)
    kind = path.suffix.lower()
    if kind not in (".gif", ".webp"):
        raise ValueError(f"cannot write an animation to {path.name!r}: end the name in .gif or .webp")
    if not frames:
        raise ValueError("an animation needs at least one frame, got none")
    sizes = {frame.size for frame in frames}
    if len(sizes) > 1:
        given = ", ".join(f"{width}x{height}" for width, height in sorted(sizes))
        raise ValueError(f"the frames have different sizes ({given}): resize them to one")
    durations = [duration_ms] * len(frames) if isinstance(duration_ms, int) else list(duration_ms)
    if len(durations) != len(frames):
        raise ValueError(f"{len(durations)} durations for {len(frames)} frames: give one for each, or a single number")
    if min(durations) < 20:
        raise ValueError(f"duration_ms={min(durations)} is too short: give at least 20 milliseconds")
    frames = [frame.convert("RGB") for frame in frames]
    buffer = io.BytesIO()
    if kind == ".gif":
        frames = [frame.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG) for frame in frames]
        options: dict[str, Any] = {"optimize": False}
    else:
        options = {"quality": 88, "method": 4}
    frames[0].save(
        buffer, kind[1:].upper(), save_all=True, append_images=frames[1:], duration=durations, loop=0, **options
    )
    return _written(path, buffer.getvalue())


@functools.lru_cache(maxsize=8)
def _truetype(size: int) -> ImageFont.FreeTypeFont:
    from matplotlib import font_manager

    return ImageFont.truetype(font_manager.findfont(_families()[0]), size)


# --- what comes in ---------------------------------------------------------------------------------------------------


def _array(values: Any) -> NDArray[Any]:
    """An array or a tensor of any device and dtype as numpy, without importing torch."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.double().numpy() if values.is_floating_point() else values.numpy()
    return np.asarray(values)


def _maps(maps: ArrayLike) -> NDArray[np.float64]:
    """Raw maps as numbers (..., h, w), finite and not empty."""
    raw = _array(maps)
    if raw.dtype.kind not in "buif":
        raise TypeError(f"a map is made of real numbers, got {raw.dtype}: give a float array or tensor (..., h, w)")
    raw = raw.astype(np.float64, copy=False)
    if raw.ndim < 2 or 0 in raw.shape:
        raise ValueError(f"a map has a height and a width, got shape {raw.shape}: give (..., h, w)")
    bad = raw.size - np.count_nonzero(np.isfinite(raw))
    if bad:
        raise ValueError(
            f"{bad} of {raw.size} values of the map are NaN or infinite: look for them in the model's weights, "
            "the input, or a computation in half precision"
        )
    return raw


def _size(size: tuple[int, int]) -> tuple[int, int]:
    height, width = size
    if height < 1 or width < 1 or int(height) != height or int(width) != width:
        raise ValueError(f"size={tuple(size)} is not a height and a width in pixels: give two whole numbers over 0")
    return int(height), int(width)


def _heat(heatmap: ArrayLike, size: tuple[int, int] | None = None) -> NDArray[np.float32]:
    """A heatmap (H, W) as numbers in 0..1."""
    heat = _array(heatmap).astype(np.float32, copy=False)
    if heat.ndim != 2:
        raise ValueError(f"a heatmap has shape (H, W), got {heat.shape}: take one of the batch")
    if size is not None and heat.shape != tuple(size):
        raise ValueError(
            f"the heatmap is {heat.shape[0]}x{heat.shape[1]}, the picture {size[0]}x{size[1]}: make the heatmap at the "
            "picture's size (see heatmap(maps, size))"
        )
    if np.isnan(heat).any():
        raise ValueError("the heatmap holds NaN: make it with heatmap(maps, size)")
    return heat.clip(0, 1)


def _levels(heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(heat * 255).astype(np.uint8)


def _pixels(picture: Image.Image | ArrayLike) -> NDArray[np.uint8]:
    """A picture as bytes (H, W, 3)."""
    if isinstance(picture, Image.Image):
        return np.asarray(picture.convert("RGB"))
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(
            f"a picture is a PIL image or bytes (H, W, 3), got {pixels.dtype} {pixels.shape}: convert it first"
        )
    return pixels


def _reduced(pixels: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """The picture at most so wide: figures of photographs stay small and quick."""
    if pixels.shape[1] <= width:
        return pixels
    height = max(round(pixels.shape[0] * width / pixels.shape[1]), 1)
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX, reducing_gap=None))


def _note(note: str | None, heat: NDArray[np.float32]) -> str | None:
    """The note given, or what an empty heatmap says of its map."""
    return note or ("nowhere positive" if not heat.any() else None)
