"""Outlier tokens: positions of a transformer whose norm is far above the others', where no part of the picture is.

Trained transformers without registers keep global facts in a few patches of the background. Such a token draws
attention and gradient to a place that holds no evidence.

Source:
    Darcet et al., ICLR 2024, "Vision Transformers Need Registers", https://arxiv.org/abs/2309.16588
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .ingredients import Pass

FACTOR = 5.0
"""A token whose norm is this many times the median of its grid is an outlier; published ones have 5 to 20 times."""

_OF_BLOCKS = frozenset({
    "linear", "matmul", "__matmul__", "bmm", "einsum", "softmax", "scaled_dot_product_attention",
})  # fmt: skip
"""Operations of the blocks of transformers, and of none that only makes patches."""

TOKENS = 16
"""A grid of fewer tokens has no usual norm."""


class Outlier(NamedTuple):
    """A token whose norm is far above the others'.

    Attributes:
        position: Row and column in the grid; frame first in a video.
        factor: Its norm, in medians of the grid.
    """

    position: tuple[int, ...]
    factor: float

    def __str__(self) -> str:
        return f"token ({', '.join(map(str, self.position))}) has {self.factor:.0f}x the usual norm"


def outliers(activations: Tensor, grid: tuple[int, ...]) -> tuple[tuple[Outlier, ...], ...]:
    """Finds the outlier tokens of every image, the largest first.

    Args:
        activations: At the cut of a transformer, (B, C, h, w).
        grid: Its grid: height and width, with the frames first if there are any.
    """
    norms = activations.detach().double().norm(dim=1).flatten(1)  # (B,N)
    if norms.shape[1] < TOKENS:
        return ((),) * len(norms)
    factors = norms / norms.median(1, keepdim=True).values.clamp(min=torch.finfo(norms.dtype).tiny)
    found = []
    for row in factors:
        which = [int(i) for i in row.argsort(descending=True)[: TOKENS // 2] if row[i] >= FACTOR]
        places = (torch.unravel_index(torch.tensor(i), grid) for i in which)
        found.append(tuple(Outlier(tuple(map(int, p)), float(row[i])) for p, i in zip(places, which, strict=True)))
    return tuple(found)


def outliers_at(there: Pass) -> tuple[tuple[Outlier, ...], ...]:
    """The outlier tokens at a cut; empty where positions are not tokens, or patches that no block has seen yet."""
    if there.layout.name != "tokens" or not _is_after_a_block(there):
        return ()
    return outliers(there.activations, there.layout.grid)


def _is_after_a_block(there: Pass) -> bool:
    """Whether anything but convolutions comes before a cut: until then a strong patch is strong in the picture."""
    position = there.forward.cuts[there.n].position
    before = there.cutter.record.plan.log.events[:position]
    return any(getattr(getattr(event, "func", None), "__name__", "") in _OF_BLOCKS for event in before)


def warning_of(found: tuple[Outlier, ...]) -> str | None:
    """What to say of an image's outlier tokens, or None."""
    if not found:
        return None
    more = f" ({len(found) - 1} more like it)" if len(found) > 1 else ""
    return f"{found[0]}{more}: known artefact, not evidence"
