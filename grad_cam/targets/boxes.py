"""Targets about the boxes of a detector: the class of a box, whether there is an object, and where its edges are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, SupportsIndex

import torch
from torch import Tensor

from ..arguments import ArgumentTypeError, is_index
from ..detections import COLUMNS
from ..detections.tables import overlaps
from ..habits import answered
from ..predictions import percentage
from .classes import labels, plain
from .regions import as_numbers
from .score import Names, Score, Target, TargetError

Kind = Literal["class", "objectness", "edge", "left", "top", "right", "bottom", "similarity"]
"""What is explained of a box."""

KINDS = ("class", "objectness", "edge", "left", "top", "right", "bottom", "similarity")
_LABEL, _LOGIT, _OBJECT = COLUMNS.index("label"), COLUMNS.index("logit"), COLUMNS.index("objectness")
_PROBABILITY, _HAS_OBJECT = COLUMNS.index("probability"), COLUMNS.index("has_objectness")
NEAR = 0.5
"""Intersection over union from which two boxes count as the same."""


@answered
def box(which: SupportsIndex | Sequence[float], score: Kind = "class") -> Target:
    """One box of a detector.

    Args:
        which: Its number among the boxes that the model returns for an image, the likeliest first; or (left, top,
            right, bottom) in pixels of the pictures, which takes the box that overlaps it most.
        score: "class": the logit of its class. "objectness": the logit of there being an object (Faster R-CNN; of FCOS
            the centre-ness). "edge": its width and height in pixels, summed, so that what pushes its edges outwards is
            positive; "left", "top", "right", "bottom": one edge. "similarity": the probability of its class times the
            overlap with the box in changed versions of an image, for methods that change images.

    Raises:
        ArgumentTypeError: It is neither a number nor four numbers, or there is no such score.

    Source:
        "similarity": Petsiuk et al., CVPR 2021 (D-RISE), eq. 1 for one class, https://arxiv.org/abs/2006.03204
    """
    return Target(f"box({_written(which)}, {score!r})", partial(_bind, (_which(which),), _kind(score)))


@answered
def boxes(which: SupportsIndex | Sequence[SupportsIndex | Sequence[float]] = 5, score: Kind = "class") -> Target:
    """Several boxes of a detector, from one forward pass: a map for each.

    Args:
        which: Largest number of the likeliest; or a list of them, each as for `box`.
        score: As for `box`.
    """
    chosen: Any
    if is_index(which):
        chosen = plain(which)
        if chosen < 1:
            raise TargetError(f"boxes({chosen}) names no box", remedy="give 1 or more")
    else:
        if not isinstance(which, Sequence) or isinstance(which, str) or not which:
            raise ArgumentTypeError(f"boxes({which!r}) names no box", "", "give a number, or a list of boxes")
        chosen = tuple(_which(one) for one in which)
    return Target(f"boxes({which!r}, {score!r})", partial(_bind, chosen, _kind(score)), several=True)


def _written(which: Any) -> str:
    return repr(plain(which) if is_index(which) else tuple(which) if isinstance(which, Sequence) else which)


def _which(which: Any) -> Any:
    if is_index(which):
        return plain(which)
    try:
        edges = as_numbers(None if isinstance(which, str) else which, 4) or (math.nan,)
        if not all(map(math.isfinite, edges)):
            raise ValueError(edges)
        return edges
    except (TypeError, ValueError):
        raise ArgumentTypeError(
            f"{which!r} is not a box", type(which).__name__, "give its number, or (left, top, right, bottom) in pixels"
        ) from None


def _kind(score: Any) -> str:
    if score not in KINDS:
        raise ArgumentTypeError(f"score={score!r} is not a score of a box", "", f"give one of {', '.join(KINDS)}")
    return str(score)


def is_table(logits: Tensor) -> bool:
    """Whether what a model returns is a table of boxes."""
    return logits.ndim == 3 and logits.shape[2] == len(COLUMNS)


def _bind(which: Any, kind: str, logits: Tensor, names: Names) -> tuple[Score, ...]:
    if not is_table(logits):
        raise TargetError(
            "a box is of a detector, and the model returns none", str(tuple(logits.shape)),
            "for a head that scores every anchor give output=grad_cam.detections.raw(...)",
        )  # fmt: skip
    counts = (logits[..., _LABEL] >= 0).sum(1).tolist()
    if not min(counts):
        raise TargetError(
            f"the detector finds no box in image {counts.index(0)}", "",
            "lower its threshold (model.roi_heads.score_thresh, model.score_thresh)",
        )  # fmt: skip
    chosen = range(min(which, *counts)) if isinstance(which, int) else which
    return tuple(_score(one, kind, logits, counts, names) for one in chosen)


def _score(which: Any, kind: str, logits: Tensor, counts: list[int], names: Names) -> Score:
    rows = torch.tensor([_row(which, logits[b], count, b) for b, count in enumerate(counts)], device=logits.device)
    picked = logits[torch.arange(len(logits), device=logits.device), rows]  # (B,columns)
    if kind == "objectness" and not bool(picked[:, _HAS_OBJECT].all()):
        raise TargetError("this detector has no score for there being an object", "", 'use score="class"')
    edges, classes = picked[:, :4], picked[:, _LABEL].long()
    words = []
    for b, (label, probability) in enumerate(zip(labels(classes, names), picked[:, _PROBABILITY], strict=True)):
        of = {"class": "", "similarity": "", "objectness": "objectness of ", "edge": "edges of "}
        words.append(f"{of.get(kind, f'{kind} edge of ')}{label} {int(rows[b]) + 1}, {percentage(float(probability))}")
    marks = tuple(tuple(float(v) for v in one) for one in edges)
    return Score(partial(_value, kind, edges, classes), tuple(words), classes, marks)  # type: ignore[arg-type]


def _row(which: Any, table: Tensor, count: int, image: int) -> int:
    """The row of a box in the table of an image."""
    if isinstance(which, int):
        if not 0 <= which < count:
            raise TargetError(f"box {which} of {count} found in image {image}", remedy=f"use 0..{count - 1}")
        return which
    near = overlaps(table[:count, :4], table.new_tensor(which))
    best = int(near.argmax())
    if float(near[best]) < NEAR:
        listed = "; ".join(
            f"{n}: {tuple(round(v) for v in one[:4].tolist())}" for n, one in enumerate(table[:count][:8])
        )
        raise TargetError(
            f"the detector finds no box at {tuple(round(v) for v in which)} in image {image}", f"it finds {listed}",
            "give one of these, or its number",
        )  # fmt: skip
    return best


def _value(kind: str, edges: Tensor, classes: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
    """The score of a box in versions of images: of the box of its class that lies nearest."""
    near = overlaps(logits[..., :4].detach(), edges.to(logits)[rows][:, None])  # (N,boxes)
    near = near * (logits[..., _LABEL] == classes[rows][:, None])
    if kind == "similarity":
        return (near * logits[..., _PROBABILITY]).amax(1) if logits.shape[1] else logits.new_zeros(len(logits))
    best = near.argmax(1) if logits.shape[1] else None
    if best is None or bool((near.gather(1, best[:, None]) < NEAR).any()):
        raise TargetError(
            "the box is not found in a changed version of the image, where it has no score", "",
            'score="similarity", which is 0 there, or a gradient method such as method="grad_cam"',
        )  # fmt: skip
    picked = logits[torch.arange(len(logits), device=logits.device), best]
    if kind in ("class", "objectness"):
        return picked[:, _LOGIT if kind == "class" else _OBJECT]
    left, top, right, bottom = picked[:, :4].unbind(1)
    sides = {"left": left, "top": top, "right": right, "bottom": bottom}
    return right - left + bottom - top if kind == "edge" else sides[kind]
