"""Text in pictures: names come from files and from the net, may be of any script, and are longer than their place."""

from __future__ import annotations

import functools
import re
import textwrap
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.font_manager import FontProperties


INK, QUIET, FRAME, ALERT, LINE = "#1f2328", "#6a7078", "#d5d8dc", "#b3261e", "#1e5fae"
"""Colours of texts, frames, warnings and curves."""

_BREAK = "\x1f "  # marks where a path may be broken


def clean(text: str) -> str:
    """Returns one line of printable characters."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return " ".join("".join(" " if unicodedata.category(c)[0] == "C" else c for c in text).split())


def noted(subject: str, note: str) -> str:
    """A note about a map as a sentence: "map is all zero", but "map: token (3, 7) has ..."."""
    return f"{subject}: {note}" if note.startswith("token ") else f"{subject} is {note}"


def number(value: float) -> str:
    """Returns a number as it is printed: three digits, a real minus, no zeros in the exponent."""
    digits, _, exponent = f"{value:.3g}".partition("e")
    return (digits + (f"e{int(exponent)}" if exponent else "")).replace("-", "−")


def fitted(text: str, width: float, lines: int, measure: Callable[[str], float]) -> list[str]:
    """Wraps a text to at most so many lines of a width, ended by an ellipsis if it is longer still.

    Args:
        text: The text; it is cleaned.
        width: Of a line, in the unit of `measure`.
        lines: The most lines.
        measure: Width of a line of text.
    """
    text = clean(text)
    if not text or measure(text) <= width:
        return [text] if text else []
    breakable = re.sub(r"(?<=[./])(?=\w)", _BREAK, text)
    for letters in range(int(1.3 * len(text) * width / measure(text)) + 2, 1, -1):
        wrapped = [
            line.replace(_BREAK, "").replace(_BREAK.strip(" "), "")
            for line in textwrap.wrap(breakable, letters, break_on_hyphens=False)
        ]
        if len(wrapped) > lines:
            wrapped[lines - 1 :] = [wrapped[lines - 1][: letters - 1].rstrip(" ,·./") + "…"]
        if max(map(measure, wrapped)) <= width:
            return wrapped
    return ["…"]


@functools.lru_cache(maxsize=1)
def families() -> list[str]:
    """Returns the quiet sans-serif fonts of this machine, then those that know more scripts; matplotlib ships one."""
    from matplotlib import font_manager

    here = {font.name for font in font_manager.fontManager.ttflist}
    wanted = ("Arial", "Helvetica", "Liberation Sans", "DejaVu Sans")
    scripts = ("Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Yu Gothic",
               "Noto Sans Arabic", "Noto Sans Devanagari", "Arial Unicode MS")  # fmt: skip
    plain = [name for name in wanted if name in here] or ["DejaVu Sans"]
    return plain + [name for name in scripts if name in here]


def font(size: float) -> FontProperties:
    """Returns the font of figures at a size in points, whatever the user's settings of matplotlib."""
    from matplotlib.font_manager import FontProperties

    return FontProperties(family=families(), size=size)


def style(size: float, colour: str) -> dict[str, Any]:
    """Returns the settings of a text in a figure: its size in points and its colour; nothing in it is read as maths."""
    return {"color": colour, "fontproperties": font(size), "parse_math": False, "usetex": False}


def width_of(text: str, size: float) -> float:
    """Returns the width of a line of text in inches, with some slack as it varies with the resolution."""
    from matplotlib.backends.backend_agg import RendererAgg

    renderer = RendererAgg(16, 16, 150)
    width: float = renderer.get_text_width_height_descent(text, font(size), ismath=False)[0]
    return 1.05 * width / 150
