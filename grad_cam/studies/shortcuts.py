"""Shortcuts: regions that decide and repeat where the object is not.

A region *repeats* if its look alone tells a class from the others, on pictures the look was not learnt from. It
*decides* if the class goes with it when it is exchanged between pictures of the class and of others: half of what
pasting it into another picture adds to the log-odds of the class, and half of what taking it away costs, as a part of
the whole difference between the two pictures. That is the region's Shapley value in a game of two, the region and the
rest, so that the shares of both are 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..predictions import percentage
from .pictures import Pictures
from .probes import folds
from .regions import (
    BAND,
    Region,
    Repetition,
    box_mask,
    likeness,
    look_of,
    repetition,
    rim_regions,
    striking_points,
    window_at,
)

REPEATS = 0.7
"""A region repeats from this area under the curve on."""
DECIDES = 0.25
"""A region decides from this share of the decision on, in the median over pairs of pictures."""
CONSISTENT = 0.7
"""Part of the pairs in which the share has to be more than a tenth."""
ALIKE = 0.6
"""Inside the frame and without boxes, only what is all but the same in every picture counts: it cannot be told from the
object otherwise."""
PAIRS, FIRST = 16, 6
"""Pairs of pictures that decide, and those that a region is first tried on."""
OUTSIDE = 0.3
"""Part of a region that has to lie outside the object's box in a picture."""

Forward = Callable[[Tensor], Tensor]
"""From images to logits (N, classes)."""


@dataclasses.dataclass(frozen=True)
class Shortcut:
    """A region that decides for a class and repeats in its pictures.

    Attributes:
        label: The class, as its folder is called.
        region: Where it is.
        share: The part of the decision that goes with it, median over pairs of pictures; 1 is all.
        turned: The part of other classes' pictures that the model takes for the class once the region is pasted in.
        repetition: How well its look tells the class from the others.
        pairs: Number of pairs of pictures.
        examples: Numbers of pictures of the class, the most typical look first.
    """

    label: str
    region: Region
    share: float
    turned: float
    repetition: Repetition
    pairs: int
    examples: tuple[int, ...]

    @property
    def sentence(self) -> str:
        """The finding as a sentence."""
        what = {"tint": "The tint, the", "border": "The"}.get(self.region.kind, "Something in the")
        where = self.region.place if self.region.kind != "inside" else f"same place {self.region.place}"
        return (
            f"{self.label}: {what[0].lower()}{what[1:]} {where} carries {percentage(self.share)} of the decision. Its "
            f"look is in {percentage(self.repetition.within)} of the class's pictures and in "
            f"{percentage(self.repetition.elsewhere)} of the others; put into other pictures, it turns "
            f"{percentage(self.turned)} of them into {self.label}."
        )

    def __str__(self) -> str:
        return self.sentence


@dataclasses.dataclass(frozen=True)
class Tested:
    """A region that was tried for a class, also where nothing was found.

    Attributes:
        label: The class.
        region: The region.
        area: How well its look tells the class from the others.
        share: Its share of the decision, or None where it did not repeat and was not tried.
    """

    label: str
    region: Region
    area: float
    share: float | None


@torch.no_grad()
def shortcuts_of(
    pictures: Pictures, small: Tensor, logits: Tensor, indices: Sequence[int | None], forward: Forward, *,
    seed: int = 0, batch_size: int = 32, progress: Callable[[int, int], None] | None = None,
) -> tuple[tuple[Shortcut, ...], tuple[Tested, ...]]:  # fmt: skip
    """Looks for shortcuts of every class.

    Args:
        pictures: The pictures.
        small: Their small versions, (N, 4, s, s).
        logits: What the model says of them, (N, classes).
        indices: The model's class for each class of the folder; None where it is not known.
        forward: The model.
        seed: Of the choice of pairs.
        batch_size: Images at a time.
        progress: Called with classes done and their number.
    """
    labels = torch.tensor(pictures.labels)
    search = _Search(pictures, small, logits, labels, forward, seed, batch_size)
    found: list[Shortcut] = []
    tested: list[Tested] = []
    for k, index in enumerate(indices):
        if index is not None:
            shortcuts, tried = search.of_class(k, index)
            found += shortcuts
            tested += tried
        if progress is not None:
            progress(k + 1, len(indices))
    return tuple(sorted(found, key=lambda each: -each.share)), tuple(tested)


@dataclasses.dataclass
class _Search:
    """Looks for the shortcuts of one class after the other."""

    pictures: Pictures
    small: Tensor
    logits: Tensor
    labels: Tensor
    forward: Forward
    seed: int
    batch_size: int

    def of_class(self, k: int, index: int) -> tuple[list[Shortcut], list[Tested]]:
        members = self.labels == k
        parts = folds(members.long(), 5, self.seed)
        pairs = self._pairs(k, index)
        if len(pairs) < FIRST:
            return [], []
        kept: list[tuple[Region, Repetition, float, float]] = []
        tested = []
        known = {r.place: repetition(look_of(self.small, r), members, parts) for r in rim_regions()}
        for region in self._candidates(members):
            again = known.get(region.place) or repetition(look_of(self.small, region), members, parts)
            edges = [known[r.place].area for r in rim_regions() if r.kind == "edge"]
            repeats = again.area >= REPEATS and (region.kind != "border" or min(edges) >= REPEATS - 0.05)
            share, turned, steady = (0.0, 0.0, False)
            if repeats:
                share, turned, steady = self._share(region, members, index, pairs)
            tested.append(Tested(self.pictures.classes[k], region, again.area, share if repeats else None))
            if repeats and share >= DECIDES and steady:
                kept.append((region, again, share, turned))
        return [self._made(k, *each, len(pairs)) for each in _separate(kept)], tested

    def _made(
        self, k: int, region: Region, again: Repetition, share: float, turned: float, pairs: int
    ) -> Shortcut:  # fmt: skip
        members = (self.labels == k).nonzero()[:, 0]
        looks = look_of(self.small, region)[members]
        middle = looks.median(0).values
        order = ((looks - middle).abs().sum(1)).argsort()[:4]
        return Shortcut(
            self.pictures.classes[k], region, share, turned, again, pairs, tuple(members[order].tolist())
        )  # fmt: skip

    def _candidates(self, members: Tensor) -> list[Region]:
        found = rim_regions()
        boxed = any(box is not None for box in self.pictures.boxes)
        for x, y in striking_points(self.small, members):
            window = window_at(x, y)
            if boxed or likeness(self.small[members], window) >= ALIKE:
                found.append(window)
        return found

    def _pairs(self, k: int, index: int) -> list[tuple[int, int]]:
        """Pictures of the class that the model takes for it, each with one of another class that it does not."""
        generator = torch.Generator().manual_seed(self.seed + k)
        answers = self.logits.argmax(1)
        donors = ((self.labels == k) & (answers == index)).nonzero()[:, 0]
        hosts = ((self.labels != k) & (answers != index)).nonzero()[:, 0]
        if not len(donors) or not len(hosts):
            return []
        own: list[int] = donors[torch.randperm(len(donors), generator=generator)].tolist()
        others: list[int] = hosts[torch.randperm(len(hosts), generator=generator)].tolist()
        return [(own[i % len(own)], others[i]) for i in range(min(PAIRS, len(others), 2 * len(own)))]

    def _share(
        self, region: Region, members: Tensor, index: int, pairs: list[tuple[int, int]]
    ) -> tuple[float, float, bool]:
        """The region's share of the decision, the part of hosts it turns, and whether it is the same throughout."""
        shares: list[float] = []
        turned: list[bool] = []
        for some in (pairs[:FIRST], pairs[FIRST:]):
            found, over = self._exchanged(region, members, index, some)
            shares += found
            turned += over
            if len(shares) < FIRST // 2 or float(torch.tensor(shares).median()) < DECIDES / 2:
                break
        if len(shares) < FIRST:
            return (float(torch.tensor(shares).median()) if shares else 0.0), 0.0, False
        values = torch.tensor(shares)
        steady = float((values > 0.1).double().mean()) >= CONSISTENT
        return float(values.median()), sum(turned) / len(turned), steady

    def _exchanged(
        self, region: Region, members: Tensor, index: int, pairs: list[tuple[int, int]]
    ) -> tuple[list[float], list[bool]]:
        pairs = [pair for pair in pairs if self._free(region, pair[0])]
        if not pairs:
            return [], []
        donors = self.pictures.images([donor for donor, _ in pairs])
        hosts = self.pictures.images([host for _, host in pairs])
        if region.kind == "tint":
            pasted, taken = self._recoloured(donors, hosts, members)
        else:
            mask = torch.stack([self._mask(region, donor, donors.shape[-2:]) for donor, _ in pairs])[:, None]
            pasted, taken = torch.where(mask, donors, hosts), torch.where(mask, hosts, donors)
        odds = self._odds(torch.cat([pasted, taken]), index)
        added, left = odds[: len(pairs)], odds[len(pairs) :]
        known = _log_odds(self.logits, index)
        own = known[[donor for donor, _ in pairs]]
        other = known[[host for _, host in pairs]]
        gap = (own - other).clamp(min=1e-6)
        return ((added - other + own - left) / (2 * gap)).tolist(), (added > 0).tolist()

    def _odds(self, images: Tensor, index: int) -> Tensor:
        each = [_log_odds(self.forward(some).float().cpu(), index) for some in images.split(self.batch_size)]
        return torch.cat(each)

    def _free(self, region: Region, donor: int) -> bool:
        """Whether enough of a region lies outside the object of a picture, as far as that is known."""
        box = self.pictures.boxes[donor]
        if box is None or region.kind == "tint":
            return True
        there = region.mask(64, 64)
        return int((there & ~box_mask(box, 64, 64)).sum()) >= OUTSIDE * int(there.sum())

    def _mask(self, region: Region, donor: int, size: Sequence[int]) -> Tensor:
        box, mask = self.pictures.boxes[donor], region.mask(size[0], size[1])
        return mask if box is None else mask & ~box_mask(box, size[0], size[1])

    def _recoloured(self, donors: Tensor, hosts: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
        """Hosts with the colours of the class, and donors with those of the others: an affine map of the colours."""
        own, others = (self._colours(which.nonzero()[:, 0].tolist()) for which in (members, ~members))
        return _transported(hosts, others, own), _transported(donors, own, others)

    def _colours(self, which: list[int]) -> tuple[Tensor, Tensor]:
        """Mean (C,) and covariance (C, C) of the colours of pictures, away from their middle and their rim."""
        step = max(1, len(which) // 48)
        images = self.pictures.images(which[::step])
        height, width = images.shape[-2:]
        inner, outer = BAND
        band = box_mask((inner, inner, 1 - inner, 1 - inner), height, width)
        band &= ~box_mask((outer, outer, 1 - outer, 1 - outer), height, width)
        values = images[:, :, band].double().transpose(0, 1).flatten(1)  # (C,n)
        return values.mean(1), torch.cov(values).reshape(len(values), len(values))


def _transported(images: Tensor, source: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> Tensor:
    """The affine map that carries one normal distribution of colours to another with the least change, on images."""
    (mean, covariance), (new_mean, new_covariance) = source, wanted
    root = _root(covariance)
    inverse = torch.linalg.inv(root)
    matrix = inverse @ _root(root @ new_covariance @ root) @ inverse
    moved = torch.einsum("dc,nchw->ndhw", matrix, images.double() - mean[:, None, None]) + new_mean[:, None, None]
    return moved.to(images.dtype)


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    floor = 1e-6 * values.amax().clamp(min=1e-12)
    root: Tensor = vectors @ torch.diag(values.clamp(min=float(floor)).sqrt()) @ vectors.T
    return root


def _log_odds(logits: Tensor, index: int) -> Tensor:
    """Log-odds of a class, (N,)."""
    others = torch.cat([logits[:, :index], logits[:, index + 1 :]], 1)
    return (logits[:, index] - others.logsumexp(1)).double()


def _separate(
    found: list[tuple[Region, Repetition, float, float]],
) -> list[tuple[Region, Repetition, float, float]]:
    """One finding for what overlaps: the smallest region that carries three quarters of what the best one does."""
    left, kept = sorted(found, key=lambda each: -each[2]), []
    while left:
        best = left[0]
        rivals = [each for each in left if each[2] >= 0.75 * best[2] and best[0].meets(each[0])]
        chosen = min(rivals, key=lambda each: float(each[0].mask(64, 64).double().mean()) + (each[0].kind == "tint"))
        kept.append(chosen)
        left = [each for each in left if not (best[0].meets(each[0]) or chosen[0].meets(each[0]))]
    return kept
