"""Which of the model's classes a folder's class is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..loading import ModelError, class_index, class_names
from ..predictions import class_label

MOSTLY = 0.5
BY_NAME = "by name"


@dataclasses.dataclass(frozen=True)
class Classes:
    """The classes of a folder and of the model.

    Attributes:
        indices: The model's class for each class of the folder, or None where it is not known.
        note: How that is known.
        labels: The names of the model's classes, if it has any.
    """

    indices: tuple[int | None, ...]
    note: str
    labels: tuple[str, ...] | None

    @property
    def by_name(self) -> bool:
        """Whether the model knows the folder's classes by their names."""
        return self.note == BY_NAME

    def label(self, index: int) -> str:
        """Name of one of the model's classes: its own, else the folder's, else its number."""
        return class_label(self.labels, index)


def matched(model: nn.Module, classes: Sequence[str], labels: Tensor, answers: Tensor) -> Classes:
    """Finds the model's classes by name, else by what the model answers.

    Args:
        model: The model.
        classes: The names of the folder's classes.
        labels: (N,), the class of each picture in the folder.
        answers: (N,), the model's class for each.
    """
    known = class_names(model)
    names = None if known is None else tuple(known)
    by_name = [_by_name(model, each) for each in classes] if known is not None else [None] * len(classes)
    found = [each for each in by_name if each is not None]
    if len(found) == len(classes) and len(set(found)) == len(found):
        return Classes(tuple(by_name), BY_NAME, names)
    votes: list[int | None] = []
    for k in range(len(classes)):
        values, counts = answers[labels == k].unique(return_counts=True)
        best = int(counts.argmax())
        votes.append(int(values[best]) if int(counts[best]) > MOSTLY * int(counts.sum()) else None)
    taken = [each for each in votes if each is not None]
    indices = tuple(None if each is None or taken.count(each) > 1 else each for each in votes)
    missing = [name for name, index in zip(classes, indices, strict=True) if index is None]
    note = "the class that the model gives to most of a folder's pictures, as it knows none by the folders' names"
    if missing:
        note += f"; none for {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}"
    if names is None and not missing:  # the folders' names are what the classes are called
        count = 1 + max(int(answers.max()), *(index for index in indices if index is not None))
        called = [f"class {i}" for i in range(count)]
        for name, index in zip(classes, indices, strict=True):
            if index is not None:
                called[index] = name
        names = tuple(called)
    return Classes(indices, note, names)


def _by_name(model: nn.Module, name: str) -> int | None:
    try:
        return class_index(model, name)
    except (ModelError, ValueError, TypeError):
        return None


def correct(classes: Classes, labels: Tensor, answers: Tensor) -> Tensor | None:
    """Whether the model is right, (N,) bool; None unless every class of the folder is one of the model's, by name.

    Where the model's classes follow from its answers, being right would follow from them, too.
    """
    if not classes.by_name:
        return None
    wanted = torch.tensor([-1 if each is None else each for each in classes.indices])
    return answers == wanted[labels]
