"""Maps of several methods in one table, with the controls that every method has to beat."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arguments import as_maps
from ..errors import GradCamError
from ..methods.chunks import Progress, Score
from ..methods.regions import MASKS, Fill
from .bank import Bank
from .controls import centred_gaussian, random_maps
from .faithfulness import STEPS, UNITS, deletion, insertion, srg
from .localisation import energy_inside, pointing_game
from .maps import on_grid

CONTROLS = ("centred Gaussian", "random map")
DIGITS = {"srg": 2, "insertion": 3, "deletion": 3, "bank": 3, "energy": 3, "pointing": 2}
"""The digits after the point that are shown of each measure."""


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """What was measured of the maps of one method.

    Attributes:
        name: Of the method or control.
        values: For each measure one number an image, (B,); NaN where it does not exist.
        control: Whether the maps know nothing of the model.
    """

    name: str
    values: dict[str, Tensor] = dataclasses.field(repr=False)
    control: bool = False

    def mean(self, measure: str) -> float:
        """Mean over the images where there is a number."""
        return float(self.values[measure].nanmean())


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """The result of `compare`: a row for each method, the controls last. `print` shows it as a table.

    Attributes:
        rows: In the order given.
        images: Number of images.
    """

    rows: tuple[Row, ...]
    images: int

    @property
    def measures(self) -> tuple[str, ...]:
        """What was measured."""
        return tuple(self.rows[0].values)

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise GradCamError(f"there is no row {name!r}", remedy=f"choose one of {', '.join(r.name for r in self.rows)}")

    def __repr__(self) -> str:
        best = max((row for row in self.rows if not row.control), key=lambda row: row.mean(self.measures[0]))
        found = f"{best.mean(self.measures[0]):.3g}"
        return f"Comparison({len(self.rows)} rows, {self.images} images, best {self.measures[0]} {best.name}: {found})"

    def __str__(self) -> str:
        cells = [["", *self.measures]]
        for row in self.rows:
            cells.append([row.name, *(f"{row.mean(m):.{DIGITS[m]}f}" for m in self.measures)])
        width = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        return "\n".join(
            "  ".join([line[0].ljust(width[0]), *(cell.rjust(w) for cell, w in zip(line[1:], width[1:], strict=True))])
            for line in cells
        )

    def against(self, name: str, measure: str | None = None, *, draws: int = 2000) -> dict[str, Interval]:
        """By how much the other rows are above one, image by image, each with its 95 % interval (see `interval`)."""
        measure = measure or self.measures[0]
        own = self[name].values[measure]
        return {
            row.name: interval(row.values[measure] - own, draws=draws) for row in self.rows if row.name != name
        }  # fmt: skip


Interval = tuple[float, float, float]
"""Mean, lower and upper end."""


def interval(values: Tensor | Sequence[float], *, draws: int = 2000, seed: int = 0) -> Interval:
    """The mean over images and its 95 % interval, by the bootstrap: images are drawn again and again, with replacement.

    Args:
        values: One number an image; what is NaN is left out. Differences give a paired interval.
        draws: Number of draws.
        seed: Seed of a generator of its own.
    """
    known = torch.as_tensor(values, dtype=torch.float64)
    known = known[~known.isnan()]
    if not len(known):
        return math.nan, math.nan, math.nan
    again = torch.randint(len(known), (draws, len(known)), generator=torch.Generator().manual_seed(seed))
    low, high = known[again].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return float(known.mean()), low, high


@torch.no_grad()
def compare(
    maps: Mapping[str, Tensor | Any], images: Tensor, score: Score, *, boxes: Sequence[Any] | None = None,
    probability: Score | None = None, bank: Bank | None = None, measures: Sequence[str] | None = None,
    units: int = UNITS, steps: int = STEPS, masks: int = MASKS, cells: int = 7, fill: Fill = 0.0, seed: int = 0,
    chunk: int | None = None, progress: Progress | None = None,
) -> Comparison:  # fmt: skip
    """Measures the maps of several methods and those of two controls on the same images.

    Args:
        maps: For each name raw signed maps (B, h, w), or an `Explanation` of one target.
        images: Model inputs, (B, C, H, W).
        score: One score of images, best a logit (`grad_cam.engine.score_function`).
        boxes: For each image its box, boxes or mask, in pixels of the input, or None: adds energy and pointing.
        probability: The same score as a probability: adds insertion and deletion.
        bank: A bank of these images; it is made if it is needed and not given.
        measures: What to measure, of "srg", "bank", "insertion", "deletion", "energy", "pointing"; by default all that
            can be measured.
        units: See `srg`.
        steps: See `srg`.
        masks: See `Bank.of`.
        cells: See `Bank.of`.
        fill: See `srg`.
        seed: Of everything random.
        chunk: Number of copies scored at once; None chooses by size and free memory.
        progress: Called after every chunk of a measure.

    Returns:
        A `Comparison`, with a centred Gaussian and a random map as its last rows.
    """
    able = (
        ["srg", "bank"] + ["insertion", "deletion"] * (probability is not None) + ["energy", "pointing"] * bool(boxes)
    )
    wanted = list(able if measures is None else measures)
    if not maps or not wanted or not set(wanted) <= set(able):
        raise GradCamError(
            "there is nothing to compare" if not maps else "not all of that can be measured", f"measures={wanted}",
            f"possible here: {', '.join(able)}; insertion and deletion need probability=, energy and pointing boxes=",
        )  # fmt: skip
    if boxes is not None and len(boxes) != len(images):
        raise GradCamError(f"{len(boxes)} boxes for {len(images)} images", remedy="give one entry for each, or None")
    if "bank" in wanted and bank is None:
        bank = Bank.of(images, score, masks=masks, cells=cells, fill=fill, seed=seed, chunk=chunk, progress=progress)
    given = {name: _map_of(name, each, len(images)) for name, each in maps.items()}
    given |= {CONTROLS[0]: centred_gaussian(len(images)), CONTROLS[1]: random_maps(len(images), seed=seed)}
    curve: dict[str, Any] = {"units": units, "steps": steps, "seed": seed, "chunk": chunk, "progress": progress}
    size = (images.shape[-2], images.shape[-1])

    def measured(name: str, one: Tensor) -> Tensor:
        if name == "srg":
            return srg(one, images, score, fill=fill, **curve)
        if name == "bank":
            assert bank is not None
            return bank.judge(one)
        if name in ("energy", "pointing"):
            return _localised(name, one, boxes or (), size)
        assert probability is not None
        if name == "insertion":
            return insertion(one, images, probability, **curve)
        return deletion(one, images, probability, fill=fill, **curve)

    rows = [
        Row(name, {measure: measured(measure, one) for measure in wanted}, name in CONTROLS)
        for name, one in given.items()
    ]
    return Comparison(tuple(rows), len(images))


def _map_of(name: str, given: Any, batch: int) -> Tensor:
    found = getattr(given, "map", given)
    if not isinstance(found, Tensor):
        raise GradCamError(f"'{name}' is not a map", type(given).__name__, "give a tensor (B, h, w) or an Explanation")
    if found.ndim == 4 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != 3 or len(found) != batch or name in CONTROLS:
        raise GradCamError(
            f"'{name}' does not hold one map for each image", f"{tuple(found.shape)} for {batch} images",
            "give (B, h, w), under another name than the controls have",
        )  # fmt: skip
    return found.detach().float().cpu()


def _localised(name: str, maps: Tensor, boxes: Sequence[Any], size: tuple[int, int]) -> Tensor:
    number = energy_inside if name == "energy" else pointing_game
    large = on_grid(as_maps(maps), size)
    found = [np.nan if box is None else float(number(one, box)) for one, box in zip(large, boxes, strict=True)]
    return torch.tensor(found, dtype=torch.float64)
