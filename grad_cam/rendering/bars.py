"""Signed bars: the parts that a score is the sum of, at every depth; not percentages, as parts may exceed the whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .text import FRAME, INK, QUIET, clean, font, number, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#1e5fae", "#e08a1e", "#2f8f5b", "#a8adb4")


@dataclasses.dataclass(frozen=True)
class SignedBars:
    """A sum at every layer.

    Attributes:
        parts: Name of a part -> its value at each layer, in units of the score.
        score: What the parts add up to.
    """

    parts: Mapping[str, Sequence[float]]
    score: float

    def stacked(self) -> Iterator[tuple[str, str, NDArray[np.float64], NDArray[np.float64]]]:
        """Each part with a value anywhere: its name, colour, values, and where its bars begin.

        Positive parts are stacked upwards from zero, negative parts downwards.
        """
        above = np.zeros(len(self))
        below = np.zeros(len(self))
        for (name, given), colour in zip(self.parts.items(), _COLOURS, strict=False):
            values = np.asarray(given, np.float64)
            if values.any():
                yield name, colour, values, np.where(values >= 0, above, below)
                above, below = above + values.clip(min=0), below + values.clip(max=0)

    def range(self) -> tuple[float, float]:
        """The lowest and the highest end of a bar."""
        ends = [start + values for _, _, values, start in self.stacked()]
        low, high = [float(e.min()) for e in ends], [float(e.max()) for e in ends]
        return min(0.0, self.score, *low), max(0.0, self.score, *high)

    def __len__(self) -> int:
        return max((len(values) for values in self.parts.values()), default=0)


def draw_bars(axes: Axes, bars: SignedBars, centres: Sequence[float] | None = None) -> None:
    """Draws upright bars, one stack a layer, a line at the score and the names of the parts above.

    Args:
        axes: Where to draw.
        bars: What to draw.
        centres: Places of the layers from 0 to 1 across the axes; by default they stand at 0, 1, 2, ...
    """
    axes.clear()
    count = len(bars)
    places = np.arange(count, dtype=float) if centres is None else np.asarray(centres)
    wide = 0.6 * float(np.diff(places).min()) if count > 1 else 0.3
    ends = (-0.5, count - 0.5) if centres is None else (0.0, 1.0)
    low, high = bars.range()
    for name, colour, values, start in bars.stacked():
        axes.bar(places, values, wide, start, color=colour, label=name, linewidth=0)
    axes.axhline(0, color=QUIET, linewidth=0.6)
    axes.axhline(bars.score, color=INK, linewidth=0.8, linestyle=(0, (3, 2)))
    axes.set(xlim=ends, ylim=(low - 0.06 * (high - low or 1), high + 0.06 * (high - low or 1)), xticks=[])
    levels = sorted({low, 0.0, high})
    axes.set_yticks(levels, [number(level) for level in levels], **style(7.0, QUIET))
    axes.yaxis.set_in_layout(False)
    axes.tick_params(axis="y", length=0, pad=4)
    axes.set_facecolor("none")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.legend(
        loc="lower right", bbox_to_anchor=(1, 1), ncols=len(_COLOURS), frameon=False, prop=font(7.0),
        handlelength=0.8, handleheight=0.8, handletextpad=0.4, columnspacing=1.0, borderpad=0, borderaxespad=0.3,
    )  # fmt: skip


def ledger_figure(layers: Sequence[str], bars: SignedBars, title: str = "") -> Figure:
    """Draws the sum at every layer, from the picture (top) to the logits (bottom).

    Args:
        layers: Names of the layers.
        bars: Their sums.
        title: Of the figure; lines after the first are set smaller.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 1.1 + 0.24 * len(layers)), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    rows = np.arange(len(layers))
    for name, colour, values, start in bars.stacked():
        axes.barh(rows, values, 0.66, start, color=colour, label=name, linewidth=0)
    axes.axvline(0, color=QUIET, linewidth=0.6)
    axes.axvline(bars.score, color=INK, linewidth=0.8, linestyle=(0, (3, 2)), label=f"score {number(bars.score)}")
    axes.set_yticks(rows, [clean(name) for name in layers], **style(7.0, INK))
    axes.invert_yaxis()
    ticks = [float(t) for t in axes.get_xticks()]
    axes.set_xticks(ticks, [number(t) for t in ticks], **style(7.0, QUIET))
    axes.set_xlim(*(end + pad for end, pad in zip(bars.range(), (-0.03, 0.03), strict=True)))
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set(color=FRAME, linewidth=0.5)
    first, *rest = title.split("\n") if title else [""]
    if first:
        axes.set_title("\n".join([first, *rest]), loc="left", **style(9.0, INK))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=5, frameon=False, prop=font(7.0))
    return figure
