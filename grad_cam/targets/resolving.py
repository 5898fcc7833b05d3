"""Fixes what a caller gives as a target on the logits of a batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..arguments import ArgumentTypeError
from .boxes import box, is_table
from .classes import class_index, class_score, is_class, require_classes
from .kinds import logit
from .regions import Size, segmentation
from .score import Names, Resolved, Score, Target, TargetError


def resolve(target: Any, logits: Tensor, names: Names = None, size: Size | None = None) -> Resolved:
    """Fixes a target on a batch.

    Args:
        target: None (the predicted class); a class index or name; a list with one class or target per image; a list of
            lists with K classes per image; `top(k)` or another target; or any callable from logits to scores (B,).
        logits: The model's output for the batch, (B, classes), or (B, classes, H, W) for `segmentation`.
        names: Where class names are looked up: a resolver such as `grad_cam.loading.class_names(model)`, the names
            in order (a plain list finds only exact names), or a function from a name to an index.
        size: Height and width of the pictures, in whose pixels points and boxes are; by default those of the output.

    Returns:
        K scores per image with their classes and names.

    Raises:
        TargetError: An index out of range, an unknown name, a list that does not fit the batch, a callable whose
            result is not one score per image, a kind of target that does not fit the output.
        ArgumentTypeError: Not a target at all.
    """
    if hasattr(target, "tolist"):  # tensors, arrays and their scalars
        target = target.tolist()
    logits = logits.detach()
    if isinstance(target, (list, tuple)):
        return _resolve_list(list(target), logits, names, size)
    scores, several = _bind(target, logits, names, size)
    return _collect(scores, several)


def _resolve_list(target: list[Any], logits: Tensor, names: Names, size: Size | None) -> Resolved:
    batch = len(logits)
    if len(target) != batch:
        hint = f"; for {len(target)} classes of each image, write one list per image: [[...]]" if target else ""
        raise TargetError(
            f"a target list of {len(target)} for a batch of {batch}", remedy=f"give one entry per image{hint}"
        )
    rows = [list(each) if isinstance(each, (list, tuple)) else each for each in target]
    nested = [isinstance(each, list) for each in rows]
    if any(nested):
        lengths = sorted({len(each) if isinstance(each, list) else 1 for each in rows})
        if not all(nested) or len(lengths) > 1 or lengths[0] == 0:
            raise TargetError("a target list of lists needs equally many classes, 1 or more, in each", str(target))
        columns = [[row[k] for row in rows] for k in range(lengths[0])]
    else:
        columns = [rows]
    scores = tuple(_per_image(column, logits, names, size) for column in columns)
    return _collect(scores, any(nested))


def _per_image(column: list[Any], logits: Tensor, names: Names, size: Size | None) -> Score:
    """One score whose meaning differs from image to image."""
    if logits.ndim == 2 and all(each is None or is_class(each) for each in column):
        require_classes(logits)
        best, count = logits.argmax(1), logits.shape[1]
        index = [best[b] if each is None else class_index(each, count, names) for b, each in enumerate(column)]
        return class_score(torch.as_tensor(index, device=logits.device), names)
    parts = []
    for b, each in enumerate(column):
        bound, several = _bind(each, logits[b : b + 1], names, size)
        if several:
            raise TargetError(
                f"{each!r} gives several scores and cannot be part of a list", remedy="use it for the whole batch"
            )
        parts.append(bound[0])
    known = [part.classes for part in parts if part.classes is not None]
    classes = torch.cat(known) if len(known) == len(parts) else None
    marks = tuple(part.marks[0] for part in parts if part.marks is not None)
    words = tuple(part.names[0] for part in parts)
    return Score(partial(_mixed, parts), words, classes, marks if len(marks) == len(parts) else None)


def _mixed(parts: list[Score], logits: Tensor, rows: Tensor) -> Tensor:
    """The score of every row by the part of its image."""
    out: list[Tensor] = [logits.new_empty(0)] * len(logits)
    for b in rows.unique().tolist():
        at = (rows == b).nonzero()[:, 0]
        for place, value in zip(at.tolist(), parts[b](logits[at], torch.zeros_like(at)), strict=True):
            out[place] = value
    return torch.stack(out)


def _bind(target: Any, logits: Tensor, names: Names, size: Size | None) -> tuple[tuple[Score, ...], bool]:
    if target is None or is_class(target):
        target = _default(target, logits)
    if isinstance(target, Target):
        bound = target.bind(logits, names, size) if target.sized else target.bind(logits, names)
        return bound, target.several
    if not callable(target) or isinstance(target, type):
        raise ArgumentTypeError(
            f"target={target!r} is not a target",
            type(target).__name__,
            "use None, a class index or name, a list with one per image, a target from grad_cam.targets, or a "
            "function from logits to one score per image",
        )
    name = getattr(target, "__name__", type(target).__name__)
    name = "custom target" if name == "<lambda>" else name
    score = Score(partial(_custom, target), (name,) * len(logits))
    score(logits)  # fails now rather than in the middle of the work
    return (score,), False


def _default(target: Any, logits: Tensor) -> Target:
    """What a class, or None, means: of a segmenter where it is predicted, of a detector the likeliest box."""
    if logits.ndim == 4:
        return segmentation(target)
    if is_table(logits):
        if target is None:
            return box(0)
        raise TargetError("a detector is explained box by box", f"target={target!r}", "target=targets.box(number)")
    return logit(target)


def _custom(function: Callable[[Tensor], Tensor], logits: Tensor, rows: Tensor) -> Tensor:
    return function(logits)


def _collect(scores: tuple[Score, ...], several: bool) -> Resolved:
    columns = [score.classes for score in scores if score.classes is not None]
    classes = torch.stack(columns, 1) if len(columns) == len(scores) else None
    names = [list(row) for row in zip(*(score.names for score in scores), strict=True)]
    marks = [score.marks for score in scores if score.marks is not None]
    drawn = tuple(zip(*marks, strict=True)) if len(marks) == len(scores) else ()
    return Resolved(scores, classes, names, several, drawn)
