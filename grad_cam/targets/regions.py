"""Targets about a part of a picture, for models that score its positions: a class inside a mask, a point or a box."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..arguments import ArgumentTypeError, is_index
from ..habits import answered
from .classes import class_index, labels, plain
from .score import Class, Names, Score, Target, TargetError

Size = tuple[int, int]
"""Height and width in pixels."""

_BACKGROUND = re.compile(r"_*(background|unlabell?ed|void|bg)_*", re.IGNORECASE)


class Region(NamedTuple):
    """Where a class is looked at: one of these, or none."""

    mask: Tensor | None = None
    point: tuple[float, ...] | None = None
    box: tuple[float, ...] | None = None


@answered
def segmentation(
    k: Class = None, mask: Any = None, *, point: Sequence[float] | None = None, box: Sequence[float] | None = None
) -> Target:
    """The logits of class k inside a region of a segmentation model's output, summed.

    Args:
        k: Index or name of the class. None takes the class predicted most often inside the region; of the whole
            picture, the one predicted most often that is not named background.
        mask: Region, (H, W) or (B, H, W) at the size of the model's output or of the pictures: bool or weights 0..1,
            tensor or array.
        point: (x, y) in pixels of the pictures.
        box: (left, top, right, bottom) in pixels of the pictures.
            Without a region: the pixels where k is the predicted class.

    Raises:
        ArgumentTypeError: A mask is not an array, or a point or box is not made of numbers.
        TargetError: Several regions are given.

    Note:
        Grad-CAM weighs channels by their mean gradient and lights up wherever they are strong; HiResCAM and LayerCAM
        keep to the positions that the region depends on.

    Source:
        Vinogradova et al., AAAI 2020 (Seg-Grad-CAM), eq. 2, https://arxiv.org/abs/2002.11434
    """
    given = {"mask": mask, "point": point, "box": box}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise TargetError(f"segmentation() takes one region, not {' and '.join(named)}", remedy="give one of them")
    try:
        region = Region(None if mask is None else torch.as_tensor(mask), as_numbers(point, 2), as_numbers(box, 4))
    except (TypeError, ValueError, RuntimeError) as error:
        what, remedy = {
            "mask": ("a mask is an array or tensor of bool or weights 0..1", "give (H, W) or (B, H, W)"),
            "point": ("a point is two numbers", "give point=(x, y) in pixels"),
            "box": ("a box is four numbers", "give box=(left, top, right, bottom) in pixels"),
        }[named[0]]
        raise ArgumentTypeError(what, f"{type(given[named[0]]).__name__}", remedy) from error
    _require_weights(region.mask)
    where = f", {named[0]}={tuple(given[named[0]])!r}" if named and mask is None else ", mask" * bool(named)
    return Target(f"segmentation({plain(k)!r}{where})", partial(_bind, plain(k), region), sized=True)


def _require_weights(mask: Tensor | None) -> None:
    """Raises TargetError for a mask with weights beyond 0..1, which would turn a map round or change its units."""
    if mask is not None and mask.numel() and not bool(((mask >= 0) & (mask <= 1)).all()):
        low, high = (f"{float(end):g}" for end in (mask.min(), mask.max()))
        raise TargetError(
            "the weights of a mask go from 0 to 1", f"these go from {low} to {high}", "give mask=mask > 0"
        )


def as_numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """A sequence of a given number of numbers, or None."""
    if value is None:
        return None
    numbers = tuple(float(v) for v in (value.tolist() if hasattr(value, "tolist") else value))
    if len(numbers) != count:
        raise ValueError(f"{len(numbers)} numbers instead of {count}")
    return numbers


def most_common(logits: Tensor, names: Names, count: int = 1) -> Tensor:
    """The classes predicted at most positions of each image, (B, count), leaving out what is named background."""
    found = functional.one_hot(logits.argmax(1).flatten(1), logits.shape[1]).sum(1)  # (B,classes)
    known = names if isinstance(names, Sequence) else ()
    for index, name in enumerate(known[: logits.shape[1]]):
        if _BACKGROUND.fullmatch(str(name)):
            found[:, index] = -1
    return found.topk(count, dim=1).indices


def top_classes(k: int, logits: Tensor, names: Names) -> tuple[Score, ...]:
    """The k classes predicted at most positions of each image, each where it is predicted."""
    if not is_index(k) or not 1 <= k <= logits.shape[1]:
        raise TargetError(f"top({k!r}) of a model with {logits.shape[1]} classes", remedy=f"use 1..{logits.shape[1]}")
    best = most_common(logits, names, k)
    seen = [len(torch.unique(one)) for one in logits.argmax(1)]
    if min(seen) < k:
        raise TargetError(
            f"top({k}) where only {min(seen)} classes are predicted anywhere in an image",
            remedy=f"use top({min(seen)}) or less, or segmentation(class, mask=...)",
        )
    return tuple(_score(column, _predicted(logits, column), names, logits) for column in best.unbind(1))


def _bind(k: Class, region: Region, logits: Tensor, names: Names, size: Size | None = None) -> tuple[Score, ...]:
    if logits.ndim != 4:
        raise TargetError(
            "segmentation() needs an output (B, classes, H, W)", f"this one is {tuple(logits.shape)}", "use logit(k)"
        )
    inside = _weights(region, logits, size or (logits.shape[2], logits.shape[3]))
    if k is not None:
        index = torch.full((len(logits),), class_index(k, logits.shape[1], names), device=logits.device)
    elif inside is None:
        index = most_common(logits, names)[:, 0]
    else:
        votes = functional.one_hot(logits.argmax(1), logits.shape[1]) * inside[..., None]  # (B,h,w,classes)
        index = votes.sum((1, 2)).argmax(1)
    return (_score(index, _predicted(logits, index) if inside is None else inside, names, logits, inside is None),)


def _predicted(logits: Tensor, index: Tensor) -> Tensor:
    return (logits.argmax(1) == index[:, None, None]).to(logits)


def _score(index: Tensor, inside: Tensor, names: Names, logits: Tensor, own: bool = True) -> Score:
    words = labels(index, names)
    empty = next((b for b in range(len(inside)) if not bool(inside[b].any())), None)
    if empty is not None:
        why = f"{words[empty]} is predicted nowhere" if own else "the region is empty"
        raise TargetError(
            f"{why} in image {empty}", "", "give a mask, a point or a box, or another class"
        )  # fmt: skip
    return Score(partial(_region, index, inside), tuple(words), index, tuple((inside > 0).cpu()))


def _weights(region: Region, logits: Tensor, size: Size) -> Tensor | None:
    """The weight of every position of the output, (B, h, w), or None without a region."""
    batch, _, height, width = logits.shape
    if region.mask is not None:
        mask = region.mask.to(logits)
        mask = mask if mask.ndim == 3 else mask[None]
        if mask.ndim != 3 or len(mask) not in (1, batch) or tuple(mask.shape[1:]) not in ((height, width), size):
            raise TargetError(
                "the mask does not fit the output",
                f"{tuple(region.mask.shape)} for {height} x {width} pixels and {batch} images",
                f"resize it to ({height}, {width}) or ({batch}, {height}, {width})",
            )
        if tuple(mask.shape[1:]) != (height, width):
            mask = functional.interpolate(mask[:, None], (height, width), mode="area")[:, 0]
        return mask.expand(batch, -1, -1)
    if region.point is None and region.box is None:
        return None
    x0, y0, x1, y1 = region.box or (*region.point[:2], *region.point[:2])  # type: ignore[index]
    if not (0 <= x0 <= x1 <= size[1] and 0 <= y0 <= y1 <= size[0]) or (region.box and (x0 == x1 or y0 == y1)):
        what = f"the box {(x0, y0, x1, y1)}" if region.box else f"the point {(x0, y0)}"
        raise TargetError(f"{what} is not inside a picture of {size[1]} x {size[0]} pixels", remedy="give x before y")
    down, right = height / size[0], width / size[1]
    left, top = min(int(x0 * right), width - 1), min(int(y0 * down), height - 1)
    weights = logits.new_zeros(batch, height, width)
    weights[:, top : max(top + 1, round(y1 * down)), left : max(left + 1, round(x1 * right))] = 1
    return weights


def _region(index: Tensor, inside: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
    picked = logits[torch.arange(len(logits), device=logits.device), index[rows]]  # (N,h,w)
    return (picked * inside.to(logits)[rows]).sum((1, 2))
