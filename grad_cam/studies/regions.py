"""Regions of the frame that shortcuts are looked for in, and whether what is there repeats in one class."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from .features import SMALL
from .pictures import Box

CORNER = 0.3
"""Side of a corner, as a part of the frame's."""
RIM = 0.12
"""Width of the border."""
BAND = (0.1, 0.3)
"""Where the colour of a whole picture is measured: the parts of the frame between these distances from its rim."""


@dataclasses.dataclass(frozen=True)
class Region:
    """A part of the frame.

    Attributes:
        kind: "corner", "edge", "border", "inside" or "tint" (the colour of the whole picture).
        place: Where it is, such as "top left corner".
        box: x0, y0, x1, y1 as parts 0..1; of a border or a tint the whole frame.
    """

    kind: str
    place: str
    box: Box

    def mask(self, height: int, width: int) -> Tensor:
        """Where it lies in an image, bool (height, width)."""
        inside = box_mask(self.box, height, width)
        if self.kind == "border":
            inside &= ~box_mask((RIM, RIM, 1 - RIM, 1 - RIM), height, width)
        return inside

    def meets(self, other: Region) -> bool:
        """Whether the two share a part of the frame that is more than a sliver."""
        mine, others = self.mask(SMALL, SMALL), other.mask(SMALL, SMALL)
        return int((mine & others).sum()) > 0.1 * min(int(mine.sum()), int(others.sum()))


def box_mask(box: Box, height: int, width: int) -> Tensor:
    """The pixels of a box, bool (height, width)."""
    x0, y0, x1, y1 = box
    rows, columns = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
    return ((rows >= y0) & (rows < y1))[:, None] & ((columns >= x0) & (columns < x1))[None]


def rim_regions() -> list[Region]:
    """The corners, the middles of the edges, the border, and the whole frame for its colour."""
    far, middle = 1 - CORNER, ((1 - CORNER) / 2, (1 + CORNER) / 2)
    ends = {"top": (0.0, CORNER), "bottom": (far, 1.0)}
    sides = {"left": (0.0, CORNER), "right": (far, 1.0)}
    found = [
        Region("corner", f"{v} {h} corner", (sides[h][0], ends[v][0], sides[h][1], ends[v][1]))
        for v, h in itertools.product(ends, sides)
    ]
    low, high = middle
    found += [Region("edge", f"middle of the {v} edge", (low, ends[v][0], high, ends[v][1])) for v in ends]
    found += [Region("edge", f"middle of the {h} edge", (sides[h][0], low, sides[h][1], high)) for h in sides]
    whole = (0.0, 0.0, 1.0, 1.0)
    found.append(Region("border", "border on all sides", whole))
    return [*found, Region("tint", "colour of the whole picture", whole)]


def window_at(x: float, y: float) -> Region:
    """A window of the size of a corner around a point, moved into the frame."""
    left, top = (min(1 - CORNER, max(0.0, at - CORNER / 2)) for at in (x, y))
    words = f"{_third(left + CORNER / 2, 'left', 'right')} {_third(top + CORNER / 2, 'top', 'bottom')}".strip()
    return Region("inside", f"inside, {words or 'in the middle'}", (left, top, left + CORNER, top + CORNER))


def _third(at: float, low: str, high: str) -> str:
    return low if at < 0.4 else high if at > 0.6 else ""


# ------------------------------------------------------------------------------------------------------- does it repeat


def look_of(small: Tensor, region: Region) -> Tensor:
    """What a region of small pictures looks like, coarsely.

    Args:
        small: (N, 4, s, s): colour and local contrast.
        region: Which region.

    Returns:
        (N, D).
    """
    size = small.shape[-1]
    if region.kind == "tint":
        inner, outer = BAND
        band = box_mask((inner, inner, 1 - inner, 1 - inner), size, size)
        band &= ~box_mask((outer, outer, 1 - outer, 1 - outer), size, size)
        values = small[:, :3, band]
        return torch.cat([values.mean(2), values.std(2)], 1)
    if region.kind == "border":
        coarse = torch.nn.functional.adaptive_avg_pool2d(small, 2 * round(1 / RIM))
        rim = Region("border", "", region.box).mask(coarse.shape[-2], coarse.shape[-1])
        return coarse[:, :, rim].flatten(1)
    x0, y0, x1, y1 = (round(end * size) for end in region.box)
    return torch.nn.functional.adaptive_avg_pool2d(small[:, :, y0:y1, x0:x1], 6).flatten(1)


@dataclasses.dataclass(frozen=True)
class Repetition:
    """How well the look of a region tells a class from the others, on pictures it was not learnt from.

    Attributes:
        area: Part of pairs (one of the class, one of another) that are told apart, 0.5 by chance.
        within: Part of the class's pictures that look like it.
        elsewhere: Part of the others that do.
    """

    area: float
    within: float
    elsewhere: float


def repetition(looks: Tensor, members: Tensor, parts: Sequence[int] | Tensor) -> Repetition:
    """Learns the look of a class from some pictures and finds it among the others.

    Args:
        looks: (N, D), see `look_of`.
        members: (N,) bool, which are of the class.
        parts: (N,) the part each is dealt to (see `folds`).
    """
    parts = torch.as_tensor(parts)
    scores = torch.zeros(len(looks), dtype=torch.float64)
    looks = looks.double()
    for part in parts.unique():
        fitted, judged = parts != part, parts == part
        own, others = looks[fitted & members], looks[fitted & ~members]
        spread = (own.var(0) + others.var(0)) / 2
        spread = spread + 0.1 * spread.mean() + 1e-9
        direction = (own.mean(0) - others.mean(0)) / spread
        middle = (own.mean(0) + others.mean(0)) / 2
        scale = ((own.mean(0) - others.mean(0)) @ direction).clamp(min=1e-12)
        scores[judged] = (looks[judged] - middle) @ direction / scale
    inside, outside = scores[members], scores[~members]
    wins = (inside[:, None] > outside[None]).double() + 0.5 * (inside[:, None] == outside[None]).double()
    return Repetition(float(wins.mean()), float((inside > 0).double().mean()), float((outside > 0).double().mean()))


def striking_points(small: Tensor, members: Tensor, count: int = 2) -> list[tuple[float, float]]:
    """The places (x, y) of the frame where a class differs most from the others, in standard errors."""
    cells = torch.nn.functional.avg_pool2d(small.double(), 4)  # (N,4,8,8)
    own, others = cells[members], cells[~members]
    error = (own.var(0) / len(own) + others.var(0) / len(others)).sqrt().clamp(min=1e-6)
    off = ((own.mean(0) - others.mean(0)).abs() / error).amax(0)  # (8,8)
    found = []
    for _ in range(count):
        best = int(off.argmax())
        row, column = divmod(best, off.shape[1])
        found.append(((column + 0.5) / off.shape[1], (row + 0.5) / off.shape[0]))
        off[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = 0
    return found


def likeness(small: Tensor, region: Region) -> float:
    """How alike a region is from picture to picture: the mean correlation of its grey values, 1 for the same."""
    x0, y0, x1, y1 = (round(end * small.shape[-1]) for end in region.box)
    grey = small[:, :3, y0:y1, x0:x1].mean(1).flatten(1)
    centred = grey - grey.mean(1, keepdim=True)
    unit = centred / centred.norm(dim=1, keepdim=True).clamp(min=1e-6)
    count = len(unit)
    return float(((unit @ unit.T).sum() - count) / max(1, count * (count - 1)))
