"""What each depth already knows: where the class is decided, for a data set and for each of its pictures."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from ..metrics.comparison import Interval
from ..predictions import percentage
from .features import Features, Place, mapped_places
from .probes import folds, held_out, wilson

PARTS = 5


@dataclasses.dataclass(frozen=True)
class Share:
    """A part of pictures, with its 95 % interval (Wilson).

    Attributes:
        right: Number of pictures that are right.
        count: Number of pictures.
    """

    right: int
    count: int

    @property
    def value(self) -> float:
        """0..1, NaN of none."""
        return self.right / self.count if self.count else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end."""
        return wilson(self.right, self.count)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{percentage(self.value)} ({100 * low:.0f}–{100 * high:.0f})" if self.count else "–"


def points(gain: Interval) -> str:
    """A difference of shares in percentage points, with its interval."""
    mean, low, high = (100 * value for value in gain)
    return f"{mean:+.0f} points ({low:+.0f}..{high:+.0f})"


@dataclasses.dataclass(frozen=True)
class Depth:
    """What the features at one cut say of pictures that no classifier was fitted to.

    Attributes:
        place: The cut.
        nearest_mean: Right by the nearest class mean.
        probe: Right by a linear probe.
        agreement: Where a probe fitted to the model's own answers says what the model says.
        said: What the linear probe says of each picture, a number of a class.
    """

    place: Place
    nearest_mean: Share
    probe: Share
    agreement: Share
    said: tuple[int, ...] = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Knowledge:
    """The curve over depth.

    Attributes:
        depths: From the picture to the logits.
        model: Right by the model itself, or None where its classes are not known to be the folder's.
        chance: The part of the most frequent class.
        recommended: Number of the depth recommended for maps of this data set.
        reason: Why, in a sentence.
        tips: For each picture the number of the depth from which on its answer is the model's, or None if it never is.
        parts: Number of parts of the cross-validation.
    """

    depths: tuple[Depth, ...]
    model: Share | None
    chance: float
    recommended: int
    reason: str
    tips: tuple[int | None, ...]
    parts: int

    @property
    def layer(self) -> int | str:
        """The recommended layer, as `explain` takes it: its layer_idx, or its name within a stage."""
        place = self.depths[self.recommended].place
        return place.name if place.layer_idx is None else place.layer_idx


def knowledge_of(found: Features, labels: Tensor, answers: Tensor, right: Tensor | None, seed: int = 0) -> Knowledge:
    """Fits the probes at every cut.

    Args:
        found: The run over the pictures.
        labels: (N,), the class of each.
        answers: (N,), what the model says of each.
        right: (N,), whether the model is right, or None where that is not known.
        seed: Of the parts of the cross-validation.
    """
    own = _frequent(answers)
    parts = max(2, min(PARTS, int(labels.bincount().amin()) if len(labels) else 2))
    dealt, dealt_own = folds(labels, parts, seed), folds(own, parts, seed)
    depths, agreeing, decided = [], [], int((own >= 0).sum())
    for place, pooled in zip(found.places, found.pooled, strict=True):
        means, probe = held_out(pooled, labels, dealt)
        agreeing.append((held_out(pooled, own, dealt_own)[1] == own) & (own >= 0))
        by_mean, by_probe = (Share(int((said == labels).sum()), len(labels)) for said in (means, probe))
        depths.append(Depth(place, by_mean, by_probe, Share(int(agreeing[-1].sum()), decided), tuple(probe.tolist())))
    table = torch.stack(agreeing)  # (depths, N)
    which = mapped_places(found.places)
    chosen, best = recommended(table[:, own >= 0], which)
    model = None if right is None else Share(int(right.sum()), len(right))
    chance = int(labels.bincount().amax()) / len(labels)
    return Knowledge(
        tuple(depths), model, chance, chosen, _reason(depths, which, chosen, best), _tips(table), parts
    )  # fmt: skip


def _frequent(answers: Tensor) -> Tensor:
    """Answers counted from 0; -1 for those given to one picture only, of which nothing can be held out."""
    values, index, counts = answers.unique(return_inverse=True, return_counts=True)
    kept = counts > 1
    renamed = torch.where(kept, kept.cumsum(0) - 1, torch.full_like(values, -1))
    return renamed[index]


def recommended(agreeing: Tensor, which: list[int]) -> tuple[int, int]:
    """The shallowest cut with a map that is as good as the best one, and the best one.

    As good: what it lacks is at most one standard error of the difference, picture by picture.

    Args:
        agreeing: (depths, N) bool.
        which: The numbers of the cuts with a map.
    """
    values = agreeing.double()
    best = max(which, key=lambda n: float(values[n].mean()))
    for n in which:
        lacking = values[best] - values[n]
        error = float(lacking.std()) / math.sqrt(lacking.numel()) if lacking.numel() > 1 else 0.0
        if float(lacking.mean()) <= error + 1e-9:
            return n, best
    return best, best


def _reason(depths: list[Depth], which: list[int], chosen: int, best: int) -> str:
    here, last = depths[chosen], depths[which[-1]]
    text = (
        f"The first of {len(which)} cuts with a map at which the class is as good as decided: there a linear probe "
        f"gives the model's own answer for {here.agreement} of the pictures it was not fitted to"
    )
    text += "." if chosen == best else f", at the best cut ({depths[best].place.name}) for {depths[best].agreement}."
    if chosen != which[-1] and here.place.grid and last.place.grid:
        finer, coarse = here.place.grid, last.place.grid
        if finer != coarse:
            text += f" Its map has {finer[0]} x {finer[1]} positions, the last one {coarse[0]} x {coarse[1]}."
    if here.agreement.count and here.agreement.interval[0] < 0.5:
        text += " That is little: at no cut with a map does a linear probe know what the model will say."
    return text


def _tips(agreeing: Tensor) -> tuple[int | None, ...]:
    """For each picture the depth from which on all agree."""
    still = agreeing.flip(0).int().cumprod(0).sum(0)  # how many of the last depths agree
    count = len(agreeing)
    return tuple(None if n == 0 else count - int(n) for n in still)
