"""The frozen result of `bench`: its rows, its table, and the same for programs."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import torch
from torch import Tensor

from ..errors import GradCamError
from ..metrics.comparison import CONTROLS, DIGITS, Interval, interval
from ..results import Explanation
from .contenders import DEFAULT_CUT

MEASURES = ("bank", "srg", "energy", "pointing")
"""What is measured."""

FOLDS = 5


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Entry:
    """What was measured of the maps of one contender at one layer.

    Attributes:
        name: Of the contender or control.
        layer: Module path; "" where there is none to choose.
        values: For each measure one number a photo, (N,); NaN where it was not measured.
    """

    name: str
    layer: str
    values: dict[str, Tensor]

    def mean(self, measure: str = "bank") -> float:
        """Mean over the photos where there is a number."""
        return float(self.values[measure].nanmean()) if measure in self.values else math.nan

    @property
    def photos(self) -> int:
        """Number of photos on which it was measured."""
        return int((~self.values["bank"].isnan()).sum())


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Summary:
    """A row of the table: a contender at the layer that the bank finds best on the other photos.

    Attributes:
        name: Of the contender or control.
        layer: The best layer on all photos, or "".
        values: For each measure one number a photo; each photo judges the layer chosen without it.
        photos: Number of photos on which it was measured.
        dear: Whether it was too dear for all photos and layers.
        control: Whether its maps do not depend on the model.
        forwards: What all its maps of a photo cost, in forward passes; None where that was not measured.
    """

    name: str
    layer: str
    values: dict[str, Tensor]
    photos: int
    dear: bool
    control: bool
    forwards: float | None

    def interval(self, measure: str) -> Interval:
        """Mean over the photos and its 95 % interval, by bootstrap; NaN where it was not measured."""
        return interval(self.values[measure]) if measure in self.values else (math.nan,) * 3


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """A photo with the map of the best contender.

    Attributes:
        photo: Number of the photo.
        value: The correlation that the bank gives the map.
        explanation: The map.
        box: Left, top, right and bottom of its box, as parts of the picture, or None.
    """

    photo: int
    value: float
    explanation: Explanation
    box: tuple[float, float, float, float] | None


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Bench:
    """The result of `bench`; `print` shows the table, `grad_cam.rendering.write_bench` writes a page.

    Attributes:
        model: Name of the model's class.
        photos: Names of the photos.
        classes: The name of what was explained of each.
        layers: Module paths of the layers, shallow to deep.
        entries: Contender by contender, layer by layer; the controls last.
        few: Numbers of the photos on which dear contenders were measured.
        dear: Names of the dear contenders.
        forwards: For each contender that was timed, what its maps of a photo cost in forward passes.
        srg: For each contender `metrics.srg` at its best layer, a number a photo; empty if it was not requested.
        refused: Contenders that made no map at all, with the reason; and photos that one of them failed on.
        worst: Photos on which the best contender does worst.
        best: Those on which it does best.
        masks: Number of coalitions of the bank.
        baseline: The row that the others are compared with.
    """

    model: str
    photos: tuple[str, ...]
    classes: tuple[str, ...]
    layers: tuple[str, ...]
    entries: tuple[Entry, ...]
    few: tuple[int, ...]
    dear: frozenset[str]
    forwards: dict[str, float]
    srg: dict[str, Tensor]
    refused: tuple[tuple[str, str], ...]
    worst: tuple[Example, ...]
    best: tuple[Example, ...]
    masks: int
    baseline: str = DEFAULT_CUT

    def __repr__(self) -> str:
        top = self.rows[0]
        return (
            f"Bench({len(self.rows)} rows, {len(self.layers)} layers, {len(self.photos)} photos, best {top.name}: "
            f"{top.interval('bank')[0]:.3g})"
        )

    def at(self, name: str, layer: str | None = None) -> Entry:
        """What was measured of a contender at a layer; without a layer at its best one.

        Raises:
            GradCamError: There is no such contender or layer.
        """
        own = [entry for entry in self.entries if entry.name == name]
        if not own:
            names = ", ".join(dict.fromkeys(entry.name for entry in self.entries))
            raise GradCamError(f"there is no row {name!r}", remedy=f"choose one of {names}")
        if layer is None:
            return max(own, key=lambda entry: -math.inf if math.isnan(entry.mean()) else entry.mean())
        for entry in own:
            if entry.layer == layer:
                return entry
        raise GradCamError(
            f"{name} was not measured at {layer!r}", remedy=f"choose one of {', '.join(e.layer for e in own)}"
        )

    @functools.cached_property
    def rows(self) -> tuple[Summary, ...]:
        """A row for each contender, the best first, then those that were measured on few photos, then the controls."""
        names = dict.fromkeys(entry.name for entry in self.entries)
        rows = [self._summary(name) for name in names]
        return tuple(sorted(rows, key=lambda row: (row.control, row.dear, -_or_low(row.interval("bank")[0]))))

    def _summary(self, name: str) -> Summary:
        own = [entry for entry in self.entries if entry.name == name]
        best = self.at(name)
        values = chosen_elsewhere(own)
        if name in self.srg:
            values["srg"] = self.srg[name]
        return Summary(
            name, best.layer, values, best.photos, name in self.dear, name in CONTROLS, self.forwards.get(name)
        )  # fmt: skip

    def against(self, name: str, measure: str = "bank", other: str | None = None) -> Interval:
        """By how much a row is above another one (the baseline), photo by photo, with the 95 % interval."""
        of = {row.name: row.values.get(measure) for row in self.rows}
        own, base = of.get(name), of.get(other or self.baseline)
        return (math.nan,) * 3 if own is None or base is None else interval(own - base)

    @property
    def digits(self) -> dict[str, int]:
        """The digits after the point that are shown of each measure."""
        return {measure: DIGITS[measure] for measure in self.measures}

    @property
    def measures(self) -> tuple[str, ...]:
        """What was measured."""
        return tuple(m for m in MEASURES if any(m in row.values for row in self.rows))

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes under the table."""
        found = [
            "bank: correlation, over random coalitions of regions, of the map's visible part with the score. Each "
            "photo is judged at the layer that is best on the others."
        ]
        if self.dear:
            found.append(
                f"* dear methods, on {len(self.few)} of {len(self.photos)} photos and at a few layers: "
                f"{', '.join(sorted(self.dear))}."
            )
        if self.srg:
            count = max(int((~each.isnan()).sum()) for each in self.srg.values())
            found.append(f"srg: on {count} of {len(self.photos)} photos, at the best layer of all.")
        return tuple(found)

    def __str__(self) -> str:
        measures = self.measures
        lines = [["", "layer", "photos", *measures, "bank against the default cut"]]
        for row in self.rows:
            cells = [shown(row.interval(measure), DIGITS[measure]) for measure in measures]
            against = "" if row.name == self.baseline else shown(self.against(row.name), 3, signed=True)
            lines.append([row.name + "*" * row.dear, row.layer or "–", str(row.photos), *cells, against])
        width = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        table = ["  ".join(cell.ljust(w) for cell, w in zip(line, width, strict=True)).rstrip() for line in lines]
        refused = [f"no map: {name}: {reason}" for name, reason in self.refused]
        return "\n".join([*table, "", *self.notes, *refused])

    def as_dict(self) -> dict[str, Any]:
        """Everything but the pictures, for programs; None for NaN."""
        return {
            "model": self.model,
            "photos": [{"name": n, "class": c} for n, c in zip(self.photos, self.classes, strict=True)],
            "layers": list(self.layers),
            "rows": [
                {
                    "name": row.name, "layer": row.layer or None, "photos": row.photos, "dear": row.dear,
                    "control": row.control, "forwards": row.forwards,
                    "against_default_cut": _plain(self.against(row.name)),
                    **{measure: _plain(row.interval(measure)) for measure in self.measures},
                }
                for row in self.rows
            ],
            "entries": [
                {"name": e.name, "layer": e.layer or None, **{m: _plain(v.tolist()) for m, v in e.values.items()}}
                for e in self.entries
            ],
            "srg": {name: _plain(each.tolist()) for name, each in self.srg.items()},
            "refused": [{"name": name, "why": why} for name, why in self.refused],
            "notes": list(self.notes),
        }  # fmt: skip


def chosen_elsewhere(entries: list[Entry], folds: int = FOLDS) -> dict[str, Tensor]:
    """The values of several layers joined: each photo's are those of the layer that the bank finds best on the others.

    Photos are left out in a few groups. Where there is nothing to choose from, the only layer's; where a group is all
    there is, the layer that is best on it.
    """
    joined = {measure: torch.full_like(values, torch.nan) for measure, values in entries[0].values.items()}
    bank = torch.stack([entry.values["bank"] for entry in entries])  # (layers, N)
    measured = (~bank.isnan()).any(0).nonzero()[:, 0]
    for fold in range(min(folds, len(measured))):
        inside = measured[fold::folds]
        others = measured[~torch.isin(measured, inside)] if len(measured) > 1 else measured
        means = bank[:, others].nanmean(1).nan_to_num(nan=-math.inf)
        chosen = entries[int(means.argmax())].values
        for measure, values in joined.items():
            values[inside] = chosen[measure][inside]
    return joined


def shown(found: Interval, digits: int, signed: bool = False) -> str:
    """A mean with its interval as text; a dash where there is none."""
    if math.isnan(found[0]):
        return "–"
    sign = "+" if signed else ""
    mean, low, high = (f"{value:{sign}.{digits}f}" for value in found)
    return f"{mean} [{low}, {high}]"


def _or_low(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _plain(values: Any) -> Any:
    return [None if math.isnan(value) else float(f"{value:.6g}") for value in values]
