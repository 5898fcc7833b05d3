"""Classes in summary: where the evidence of a class lies, its most and least typical pictures, and what is confused."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..engine import explain
from ..introspection import matched_to
from ..outputs import Output
from ..targets import difference
from .classes import Classes
from .knowledge import Share
from .pictures import Box, Pictures
from .probes import standardised

SIDE = 28
"""Cells along each side of a mean map."""
TYPICAL = 3
CONFUSED, PER_CONFUSION = 6, 3
AROUND = 2.0
"""Side of the window around an object that aligned maps show, in sides of its box."""


@dataclasses.dataclass(frozen=True, eq=False)
class ClassSummary:
    """The pictures of one class.

    Attributes:
        label: The class, as its folder is called.
        right: For how many the model says its class; None where its classes are not known by name, but by its answers.
        mean: Mean over the pictures of the positive part of their maps, each scaled to a maximum of 1, (28, 28).
        spread: The standard deviation over the pictures, (28, 28).
        aligned: Whether the maps were laid over each other by the objects' boxes: the box is then the middle half.
        typical: Numbers of the pictures nearest to the mean of the class in the features of the recommended cut.
        untypical: The farthest.
    """

    label: str
    right: Share | None
    mean: NDArray[np.float32]
    spread: NDArray[np.float32]
    aligned: bool
    typical: tuple[int, ...]
    untypical: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Pictures of one class that the model takes for another one.

    Attributes:
        label: The class, as its folder is called.
        answer: What the model says.
        count: How many pictures.
        pictures: Numbers of some of them.
    """

    label: str
    answer: str
    count: int
    pictures: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Summaries:
    """Classes and confusions, with the maps of the pictures that stand for them.

    Attributes:
        layer: Where the maps were taken.
        classes: In the order of the folder's.
        confusions: The most frequent first.
        maps: For each picture the raw map (h, w) of its own class.
        contrasts: For numbers of confused pictures the raw map of the answer rather than the own class: positive where
            it speaks for the answer.
    """

    layer: int | str
    classes: tuple[ClassSummary, ...]
    confusions: tuple[Confusion, ...]
    maps: tuple[Tensor, ...]
    contrasts: dict[int, Tensor]


def summaries_of(
    model: nn.Module, pictures: Pictures, pooled: Tensor, classes: Classes, answers: Tensor, layer: int | str, *,
    batch_size: int, output: Output = None, progress: Callable[[int, int], None] | None = None,
) -> Summaries:  # fmt: skip
    """Takes the map of every picture at one cut and sums them up by class."""
    labels = torch.tensor(pictures.labels)
    own = [classes.indices[k] for k in pictures.labels]
    targets = [int(answers[i]) if index is None else index for i, index in enumerate(own)]
    orders = [_typical(pooled, labels == k) for k in range(len(pictures.classes))]
    maps: list[Tensor] = []
    heats = np.zeros((len(pictures), SIDE, SIDE), np.float32)
    for some, images in pictures.batches(range(len(pictures)), batch_size):
        wanted = [targets[i] for i in some] + [targets[some[-1]]] * (len(images) - len(some))
        found = explain(model, matched_to(model, images), layer=layer, target=wanted, output=output)
        for row, i in enumerate(some):
            maps.append(found.raw(row))
            heats[i] = aligned(maps[i], pictures.boxes[i])
        if progress is not None:
            progress(some[-1] + 1, len(pictures))
    confusions = _confusions(pictures, classes, answers)
    rows = [
        _summary(pictures, k, heats, orders[k], answers, classes.indices[k], classes.by_name)
        for k in range(len(pictures.classes))
    ]  # fmt: skip
    shown = [i for each in confusions for i in each.pictures]
    contrasts = _contrasts(model, pictures, shown, [(int(answers[i]), targets[i]) for i in shown], layer, output)
    return Summaries(layer, tuple(rows), confusions, tuple(maps), contrasts)


def aligned(raw: Tensor, box: Box | None) -> NDArray[np.float32]:
    """The positive part of a map, scaled to a maximum of 1, over the picture or over a window around a box.

    Args:
        raw: (h, w).
        box: x0, y0, x1, y1 as parts 0..1 of the picture, or None for all of it.

    Returns:
        (28, 28); zero outside the picture.
    """
    positive = raw.clamp(min=0)[None, None].float()
    if float(positive.amax()) > 0:
        positive = positive / positive.amax()
    x0, y0, x1, y1 = (0.0, 0.0, 1.0, 1.0) if box is None else _around(box)
    across, down = ((torch.arange(SIDE) + 0.5) / SIDE * (b - a) + a for a, b in ((x0, x1), (y0, y1)))
    rows, columns = torch.meshgrid(down, across, indexing="ij")
    grid = torch.stack([columns, rows], -1)[None] * 2 - 1
    found = torch.nn.functional.grid_sample(positive, grid, padding_mode="border", align_corners=False)[0, 0]
    inside = (rows >= 0) & (rows <= 1) & (columns >= 0) & (columns <= 1)
    return (found * inside).numpy().astype(np.float32)


def _around(box: Box) -> Box:
    x0, y0, x1, y1 = box
    more_x, more_y = (AROUND - 1) / 2 * (x1 - x0), (AROUND - 1) / 2 * (y1 - y0)
    return x0 - more_x, y0 - more_y, x1 + more_x, y1 + more_y


def _typical(pooled: Tensor, members: Tensor) -> list[int]:
    """The pictures of a class from the nearest to its mean to the farthest."""
    features = standardised(pooled.double(), pooled.double())[0][members]
    order = (features - features.mean(0)).norm(dim=1).argsort()
    found: list[int] = members.nonzero()[:, 0][order].tolist()
    return found


def _summary(
    pictures: Pictures, k: int, heats: NDArray[np.float32], order: list[int], answers: Tensor, index: int | None,
    named: bool,
) -> ClassSummary:  # fmt: skip
    boxed = [i for i in order if pictures.boxes[i] is not None]
    which = boxed or order
    few = min(TYPICAL, len(order) // 2)
    right = None if index is None or not named else Share(sum(int(answers[i]) == index for i in order), len(order))
    return ClassSummary(
        pictures.classes[k], right, heats[which].mean(0), heats[which].std(0), bool(boxed), tuple(order[:few]),
        tuple(reversed(order[-few:])),
    )  # fmt: skip


def _confusions(pictures: Pictures, classes: Classes, answers: Tensor) -> tuple[Confusion, ...]:
    found: dict[tuple[int, int], list[int]] = collections.defaultdict(list)
    for i, k in enumerate(pictures.labels):
        index, answer = classes.indices[k], int(answers[i])
        if index is not None and answer != index:
            found[k, answer].append(i)
    most = sorted(found.items(), key=lambda item: -len(item[1]))[:CONFUSED]
    return tuple(
        Confusion(pictures.classes[k], classes.label(answer), len(which), tuple(which[:PER_CONFUSION]))
        for (k, answer), which in most
    )  # fmt: skip


def _contrasts(
    model: nn.Module, pictures: Pictures, which: Sequence[int], pairs: Sequence[tuple[int, int]], layer: int | str,
    output: Output,
) -> dict[int, Tensor]:  # fmt: skip
    """The map of what speaks for the answer rather than the own class, of some pictures."""
    found = {}
    for i, (answer, own) in zip(which, pairs, strict=True):
        image = matched_to(model, pictures.images([i]))
        found[i] = explain(model, image, layer=layer, target=difference(answer, own), output=output).raw()
    return found
