"""Indices and names of classes in a model's output."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..arguments import ArgumentTypeError, is_index
from ..predictions import class_label
from .score import Class, Names, Resolver, Score, TargetError


def is_class(value: Any) -> bool:
    """Whether a value is an index or a name."""
    return isinstance(value, str) or is_index(value)


def plain(k: Any) -> Any:
    """A class or a count as it is written: numpy and torch integers as int."""
    return int(k) if is_index(k) else k


def columns(logits: Tensor) -> Tensor:
    """Outputs as (N, outputs), also of a model that returns (N,)."""
    return logits[:, None] if logits.ndim == 1 else logits


def pick(logits: Tensor, index: Tensor) -> Tensor:
    """The entry of each row: (N, classes) and (N,) to (N,)."""
    return logits.gather(1, index[:, None])[:, 0]


def class_score(index: Tensor, names: Names) -> Score:
    """The logit of the class of each image."""
    return Score(PerRow(pick, index), tuple(labels(index, names)), index)


class PerRow:
    """A score of logits (N, classes) and the class of every row (N,), for rows that are versions of images.

    Args:
        score: Logits (N, classes) and classes (N,) to scores (N,).
        index: The class of every image, (B,).
    """

    def __init__(self, score: Callable[[Tensor, Tensor], Tensor], index: Tensor) -> None:
        self.score = score
        self.index = index

    def __call__(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Scores logits (N, classes) of the images `rows` (N,)."""
        return self.score(logits, self.index[rows])


def require_classes(logits: Tensor) -> None:
    """Raises TargetError unless logits are (B, classes)."""
    if logits.ndim == 2:
        return
    hint = "segmentation(k, mask)" if logits.ndim == 4 else "a function from this output to one score per image"
    raise TargetError(
        "the model's output is not (B, classes)", str(tuple(logits.shape)), f"use {hint} as the target"
    )  # fmt: skip


def indices(k: Class, logits: Tensor, names: Names) -> Tensor:
    """The class of every image, (B,)."""
    require_classes(logits)
    if k is None:
        return logits.argmax(1)
    return torch.full((len(logits),), class_index(k, logits.shape[1], names), device=logits.device)


def class_index(k: Any, count: int, names: Names) -> int:
    """The index of a class, checked against the number of classes."""
    if isinstance(k, str):
        k = _index_of(k, names)
    if not is_class(k):
        raise ArgumentTypeError(f"{k!r} is not a class", type(k).__name__, f"use an index 0..{count - 1} or a name")
    if not 0 <= k < count:
        raise TargetError(f"class {k} of a model with {count} classes", remedy=f"use 0..{count - 1}")
    return int(k)


def _index_of(name: str, names: Names) -> int:
    if isinstance(names, Resolver):
        return names.index_of(name)
    if callable(names):
        return names(name)
    matches = [index for index, each in enumerate(names or ()) if each == name]
    if len(matches) == 1:
        return matches[0]
    if len(matches) > 1:
        raise TargetError(f"{len(matches)} classes are named {name!r}", remedy=f"give one of the indices {matches}")
    if re.fullmatch(r"\s*-?\d+\s*", name):
        return int(name)
    known = "the names of this model's classes are not known" if names is None else "no class has this name"
    raise TargetError(f"class {name!r}: {known}", remedy="give an index, or set model.class_names")


def labels(index: Tensor, names: Names) -> list[str]:
    """The names of classes, or "class 3" where they are not known."""
    known = names if isinstance(names, Sequence) else ()
    return [str(class_label(known, i)) for i in index.tolist()]
