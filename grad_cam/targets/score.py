"""A target, and the scores it becomes on a batch, whose classes are fixed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol, SupportsIndex, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from ..errors import GradCamError

Class: TypeAlias = "SupportsIndex | str | None"
"""A class: its index, its name, or None for the class predicted for each image."""


@runtime_checkable
class Resolver(Protocol):
    """Finds classes by name, such as `grad_cam.loading.ClassNames`."""

    def index_of(self, name: str) -> int:
        """The index of the class of a name; an error that offers other names where there is none."""
        ...


Names: TypeAlias = "Sequence[str] | Resolver | Callable[[str], int] | None"
"""Where class names are looked up: the names in order (only exact ones are found in a plain list), a
resolver, a function from a name to its index, or None where they are unknown."""


Mark: TypeAlias = "tuple[float, float, float, float] | Tensor"
"""Part of a picture: a box (left, top, right, bottom) in pixels, or a mask (h, w)."""


class TargetError(GradCamError):
    """A target does not fit the model's output; the message says what would."""


@dataclasses.dataclass(frozen=True, eq=False)
class Score:
    """One score per image, with its classes fixed.

    Attributes:
        function: Logits (N, classes) and the image of every row (N,) to scores (N,).
        names: What is explained, as a phrase, one per image of the batch it was made for.
        classes: Class indices (B,), or None if it is not about a class.
        marks: What it is about in each picture, to be drawn, or None.
    """

    function: Callable[[Tensor, Tensor], Tensor] = dataclasses.field(repr=False)
    names: tuple[str, ...]
    classes: Tensor | None = None
    marks: tuple[Mark, ...] | None = dataclasses.field(default=None, repr=False)

    def __call__(self, logits: Tensor, rows: Tensor | None = None) -> Tensor:
        """Scores logits.

        Args:
            logits: (N, classes).
            rows: The image of the batch that each row is a version of, (N,); None means one row for each image.

        Returns:
            (N,).
        """
        if rows is None:
            if len(logits) != len(self.names):
                raise TargetError(
                    "each row of the logits needs its image",
                    f"{len(logits)} rows for a target made for {len(self.names)} images",
                    "say which image each row belongs to with rows=",
                )
            rows = torch.arange(len(logits))
        scores = self.function(logits, rows.to(logits.device))
        if not isinstance(scores, Tensor) or scores.numel() != len(logits) or scores.ndim > 2:
            got = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise TargetError(
                "the target must turn logits into one score per image",
                f"{got} for logits {tuple(logits.shape)}",
                f"return ({len(logits)},), without a sum or a mean over the batch",
            )
        return scores.reshape(-1)


@dataclasses.dataclass(frozen=True, eq=False)
class Resolved:
    """A target fixed on a batch.

    Attributes:
        scores: K scores per image.
        classes: Class indices (B, K), or None if a score is not about a class.
        names: What is explained, as phrases: one list of K names per image.
        several: Whether the target gives a list of scores per image, so that maps are (B, K, h, w).
        marks: What the scores are about in the pictures: for each image K of them; empty where nothing is to be drawn.
    """

    scores: tuple[Score, ...]
    classes: Tensor | None
    names: list[list[str]]
    several: bool
    marks: tuple[tuple[Mark, ...], ...] = dataclasses.field(default=(), repr=False)


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """A target that can be named and fixed on a batch; made by the functions of `grad_cam.targets`.

    It survives pickle and deep copies: `bind` is a function of a module with its settings.

    Attributes:
        name: How it is written in code.
        bind: Logits and class names to K scores; if `sized`, the height and width of the pictures come third.
        several: Whether it gives a list of scores per image.
        sized: Whether it needs the size of the pictures.
    """

    name: str
    bind: Callable[..., tuple[Score, ...]] = dataclasses.field(repr=False)
    several: bool = False
    sized: bool = False

    def __call__(self, logits: Tensor) -> Tensor:
        """Scores a batch on its own logits: (B, classes) to (B,), or (B, K) for `top`."""
        scores = self.bind(logits.detach(), None)
        return torch.stack([score(logits) for score in scores], 1) if self.several else scores[0](logits)

    def __repr__(self) -> str:
        """Writes it as it is made."""
        return self.name
