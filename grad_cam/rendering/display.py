"""The settings with which a map is shown: the one default for results, interfaces and report."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from ..arguments import ArgumentTypeError, as_number, check_fraction
from ..errors import GradCamError
from . import colors, heatmaps
from .marks import outlined
from .text import number

_Display = TypeVar("_Display", bound="Display")


@dataclasses.dataclass(frozen=True)
class Display:
    """How a map is shown. Settings concern only the picture: nothing is computed again when they change.

    Attributes:
        threshold: Fraction of the maximum under which the heatmap is floored, 0 to less than 1; 0 keeps all that is
            positive.
        smoothing: Sigma of a Gaussian in pixels of the shown picture; None chooses by its size (5 at 224).
        alpha: Opacity of the hottest spot of an overlay, 0 (picture only) to 1 (colours only).
        colormap: The name of a matplotlib colormap, or "bgr" (blue, green, red), the colours of `GradCAM`. "plasma"
            gets lighter from low to high, so that it can be read without its colours, and is seen against photographs.
        view: "positive" shows evidence for the target; "signed" also shows evidence against it, in diverging colours
            with zero in the middle.

    Raises:
        GradCamError: A setting is out of range, or there is no such colormap or view.
        ArgumentTypeError: A number is of another type.
    """

    threshold: float = 1 / 8
    smoothing: float | None = None
    alpha: float = colors.ALPHA
    colormap: str = colors.DEFAULT
    view: heatmaps.View = "positive"

    def __post_init__(self) -> None:
        checked = {"threshold": check_fraction(self.threshold, "threshold", below_one=True)}
        if self.smoothing is not None:
            remedy = "give a sigma in pixels, a number from 0 (none), or None for what suits the size"
            checked["smoothing"] = as_number(self.smoothing, "smoothing", 0, what="a sigma in pixels", remedy=remedy)
        checked["alpha"] = check_fraction(self.alpha, "alpha")
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        colors.palette(self.colormap, self.view)

    @classmethod
    def of(cls, display: Display | None = None, **changes: Any) -> Display:
        """Returns a display, the default one if it is None, with some settings changed.

        Args:
            display: The settings to start from.
            **changes: threshold, smoothing, alpha, colormap, view.

        Raises:
            GradCamError: There is no such setting, or its value is out of range.
            ArgumentTypeError: `display` is not a `Display`, or a number is of another type.
        """
        if display is not None and not isinstance(display, Display):
            raise ArgumentTypeError(
                "display is not a Display", type(display).__name__, "give grad_cam.rendering.Display(threshold=...)"
            )
        names = [field.name for field in dataclasses.fields(cls)]
        for name in changes:
            if name not in names:
                close = difflib.get_close_matches(name, names, n=1)
                remedy = f"did you mean {close[0]}?" if close else f"the settings are {', '.join(names)}"
                raise GradCamError("no such display setting", name, remedy)
        return dataclasses.replace(display or cls(), **changes)

    def showing(self: _Display, maps: Iterable[ArrayLike]) -> _Display:
        """Returns these settings, but in the signed view where a raw map (h, w) holds nothing but what speaks against.

        In the positive view nothing of such a map would be seen; pictures beside each other keep one view.
        """
        lacking = self.view == "positive" and any(heatmaps.describe(map) in heatmaps.AGAINST for map in maps)
        return dataclasses.replace(self, view="signed") if lacking else self

    def sigma(self, size: tuple[int, int]) -> float:
        """Returns the smoothing for a picture of a height and width: the setting, or what suits the size."""
        return heatmaps.default_smoothing(size) if self.smoothing is None else self.smoothing

    def heat(self, map: ArrayLike, size: tuple[int, int]) -> heatmaps.Heat:
        """Returns the heatmap of one raw map (h, w) for a picture of a height and width, and its range in the score.

        Raises:
            GradCamError: The map holds NaN or infinite values, or the smoothing exceeds the picture.
        """
        return heatmaps.heat(map, size, self.threshold, self.sigma(size), self.view)

    def ends(self, map: ArrayLike, size: tuple[int, int]) -> tuple[str, str]:
        """Returns what the ends of the colours stand for, in units of the score, as texts for a colour bar."""
        heat = self.heat(map, size)
        low, high = number(heat.low), number(heat.high)
        if self.view == "signed":
            return f"against {low}", f"{high} for"
        return f"≤ {low}" if heat.high else "0", high

    def overlay(self, picture: Image.Image | ArrayLike, map: ArrayLike, mark: Any = None) -> Image.Image:
        """Lays the colours of one raw map (h, w) over a picture (H, W), PIL or bytes (H, W, 3), and outlines a mark."""
        pixels = colors.as_pixels(picture)
        values = self.heat(map, (pixels.shape[0], pixels.shape[1])).values
        made = colors.overlay(pixels, values, alpha=self.alpha, colormap=self.colormap, view=self.view)
        return made if mark is None else Image.fromarray(outlined(np.asarray(made), mark))
