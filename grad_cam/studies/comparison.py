"""Two models, or two checkpoints of one, on the same pictures: where and at which depth they differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..errors import GradCamError
from ..metrics import agreement
from ..metrics.comparison import Interval, interval
from .classes import correct
from .knowledge import Depth, points
from .results import Findings, Study


@dataclasses.dataclass(frozen=True)
class DepthPair:
    """The same depth of both models: the same cut where both have it, else the nearest along the forward pass.

    Attributes:
        first: Of the first model.
        second: Of the second.
        gain: By how much more pictures a linear probe is right about at the second: mean and 95 % interval, picture by
            picture.
        same: The part of the pictures of which both probes say the same.
    """

    first: Depth
    second: Depth
    gain: Interval
    same: float

    @property
    def differs(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.gain[1] > 0 or self.gain[2] < 0


@dataclasses.dataclass(frozen=True)
class Change:
    """A picture of which the two models say different classes.

    Attributes:
        picture: Its number.
        first: The class that the first model gives it.
        second: The class that the second gives it.
        right: Which one is right: "first", "second", "neither", or "" where that is not known.
    """

    picture: int
    first: str
    second: str
    right: str


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Comparison(Findings):
    """What two studies of the same pictures say of their models; `print` shows the figures, `report` writes a page.

    Attributes:
        first: The study of the first model.
        second: Of the second.
        gain: By how much more pictures the second model is right about, mean and 95 % interval; None where it is not
            known which of its classes a picture's is.
        changes: The pictures of which they say different classes.
        depths: Depth by depth.
        maps: For each picture how far the maps of its class agree (rank correlation, 1 alike, 0 unrelated), NaN where
            one is nowhere positive; None where maps were not taken.
    """

    first: Study
    second: Study
    gain: Interval | None
    changes: tuple[Change, ...]
    depths: tuple[DepthPair, ...]
    maps: tuple[float, ...] | None

    @property
    def parts_at(self) -> DepthPair | None:
        """The first depth at which the probes' accuracy differs by more than chance."""
        return next((pair for pair in self.depths if pair.differs), None)

    def __str__(self) -> str:
        one, other = self.first, self.second
        lines = [f"{other.model} beside {one.model}, {len(one.pictures)} pictures"]
        if self.gain is not None:
            lines.append(f"Right: {one.knowledge.model} and {other.knowledge.model}, {points(self.gain)}")
        lines.append(f"They say different classes of {len(self.changes)} pictures.")
        pair = self.parts_at
        lines.append(
            "At no depth does a linear probe do better on one than on the other."
            if pair is None
            else f"The first depth that differs is {pair.second.place.name}: a linear probe there is right about "
            f"{pair.first.probe} and {pair.second.probe}, {points(pair.gain)}"
        )
        lines.append(f"Recommended layers: {one.layer} and {other.layer}")
        if self.maps is not None and not np.isnan(self.maps).all():
            lines.append(f"Their maps agree by {np.nanmedian(self.maps):.2f} in the median (rank correlation).")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The figures for programs."""
        names = self.first.pictures.names
        return {
            "models": [self.first.model, self.second.model], "pictures": len(names),
            "gain": None if self.gain is None else list(self.gain),
            "changes": [{**dataclasses.asdict(each), "picture": names[each.picture]} for each in self.changes],
            "depths": [
                {"first": p.first.place.name, "second": p.second.place.name, "probe": [p.first.probe.value,
                 p.second.probe.value], "gain": list(p.gain), "same": p.same, "differs": p.differs}
                for p in self.depths
            ],
            "maps": None if self.maps is None else {
                name: None if np.isnan(value) else value for name, value in zip(names, self.maps, strict=True)
            },
        }  # fmt: skip

    def _page(self) -> str:
        from .comparison_page import comparison_page

        return comparison_page(self)


def compare(first: Study, second: Study) -> Comparison:
    """Lays two studies of the same pictures side by side.

    Args:
        first: The study of one model.
        second: The study of another model, or of another checkpoint, on the same pictures.

    Raises:
        GradCamError: The pictures or their classes are not the same.
    """
    one, other = first.pictures, second.pictures
    if one.names != other.names or one.labels != other.labels or one.classes != other.classes:
        raise GradCamError(
            "the two studies are not of the same pictures", f"{len(one)} and {len(other)} pictures",
            "study the same folder with both models",
        )  # fmt: skip
    right = _right(first), _right(second)
    gain = None
    if right[0] is not None and right[1] is not None:
        gain = interval(_minus(right[1], right[0]))
    depths = tuple(_pair(d, second.knowledge.depths, one.labels) for d in first.knowledge.depths)
    maps = None
    if first.summaries is not None and second.summaries is not None:
        pairs = zip(first.summaries.maps, second.summaries.maps, strict=True)
        maps = tuple(float(agreement(a, b)) if a.max() > 0 < b.max() else float("nan") for a, b in pairs)
    return Comparison(first, second, gain, _changes(first, second, right), depths, maps)


def _right(study: Study) -> list[bool] | None:
    found = correct(study.classes, torch.tensor(study.pictures.labels), torch.tensor(study.answers))
    return None if found is None else found.tolist()


def _minus(more: Sequence[bool], less: Sequence[bool]) -> list[float]:
    return [float(a) - float(b) for a, b in zip(more, less, strict=True)]


def _pair(depth: Depth, others: Sequence[Depth], labels: Sequence[int]) -> DepthPair:
    same_name = [other for other in others if other.place.name == depth.place.name]
    other = same_name[0] if same_name else min(others, key=lambda each: abs(each.place.at - depth.place.at))
    one_right, other_right = ([a == b for a, b in zip(d.said, labels, strict=True)] for d in (depth, other))
    same = sum(a == b for a, b in zip(depth.said, other.said, strict=True)) / len(labels)
    return DepthPair(depth, other, interval(_minus(other_right, one_right)), same)


def _changes(
    first: Study, second: Study, right: tuple[list[bool] | None, list[bool] | None]
) -> tuple[Change, ...]:  # fmt: skip
    """Pictures of which the models say different classes; the same class may have another number in the other model."""
    found = []
    for i in range(len(first.pictures)):
        says = _name(first, i), _name(second, i)
        if says[0] == says[1]:
            continue
        word = ""
        if right[0] is not None and right[1] is not None:
            word = "first" if right[0][i] else "second" if right[1][i] else "neither"
        found.append(Change(i, *says, word))
    return tuple(found)


def _name(study: Study, i: int) -> str:
    """What a model says of a picture: the folder's class where it is one, else the model's own name."""
    answer = study.answers[i]
    if answer in study.classes.indices:
        return study.pictures.classes[study.classes.indices.index(answer)]
    return study.classes.label(answer)
