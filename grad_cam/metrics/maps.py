"""What a map looks like: how focused it is, and how far two maps agree.

Maps go in, numbers come out; no model takes part. Leading axes are kept: a map (h, w) gives one number, a batch
(B, h, w) gives B.
"""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arguments import as_maps
from ..resampling import interpolation

Numbers = NDArray[np.float64]


def entropy(maps: ArrayLike) -> Numbers:
    """Shannon entropy of the positive part of a map, as a share of the largest possible.

    Args:
        maps: Maps (..., h, w), raw or heatmaps; what is negative counts as zero.

    Returns:
        Numbers (...) from 0 (one position holds all) to 1 (all positions alike); NaN where nothing is positive.

    Note:
        The share depends on the number of positions. To compare layers of different sizes use `focus`.
    """
    heat = positive(maps)
    if heat.shape[-1] == 1:
        return np.where(heat[..., 0] > 0, 0.0, np.nan)[()]
    share: Numbers = _entropy(heat) / np.log(heat.shape[-1])
    return share


def focus(maps: ArrayLike) -> Numbers:
    """How small a part of the picture a map's evidence is on: one minus the part it effectively covers.

    The part is exp(entropy) / positions, the perplexity of the positive part taken as a distribution: a map that is
    even over a quarter of the picture and zero elsewhere covers a quarter, its focus is 0.75. Repeating every position,
    as
    nearest-neighbour enlargement does, leaves the focus as it is, so layers of different sizes can be compared.

    Args:
        maps: Maps (..., h, w), raw or heatmaps; what is negative counts as zero.

    Returns:
        Numbers (...) from 0 (even over the whole picture) to 1 - 1/(h*w) (one position holds all); NaN where nothing is
        positive.
    """
    heat = positive(maps)
    focused: Numbers = 1 - np.exp(_entropy(heat)) / heat.shape[-1]
    return focused


def agreement(a: ArrayLike, b: ArrayLike, kind: Literal["rank", "cosine"] = "rank") -> Numbers:
    """How far two maps agree, on the coarser of their grids.

    Both maps are averaged over the cells of a grid that has the smaller height and the smaller width of the two, so a
    fine map is not held against a coarse one for detail that the latter cannot show.

    Args:
        a: Maps (..., h, w), raw and signed, or heatmaps.
        b: Maps (..., h', w') of the same leading axes, or one map for all.
        kind: "rank": Spearman's correlation of the values, with tied ranks averaged; blind to any rising rescaling.
            "cosine": cosine of the angle between the maps as vectors; blind to scale only, the sign counts.

    Returns:
        Numbers (...) from -1 (opposite) over 0 (unrelated) to 1 (alike); NaN where a map is constant ("rank") or zero
        ("cosine"), so that nothing can be said.

    Source:
        Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018, https://arxiv.org/abs/1810.03292 (rank
        correlation of maps).
    """
    if kind not in ("rank", "cosine"):
        raise ValueError(f"no agreement is called {kind!r}: use 'rank' or 'cosine'")
    first, second = as_maps(a), as_maps(b)
    grid = (min(first.shape[-2], second.shape[-2]), min(first.shape[-1], second.shape[-1]))
    flat = [_flat(_scaled(on_grid(maps, grid))) for maps in (first, second)]  # (..., n) twice
    if kind == "rank":
        flat = [_ranks(maps.round(12)) for maps in flat]  # what averaging leaves unequal by rounding alone is a tie
        flat = [maps - maps.mean(-1, keepdims=True) for maps in flat]
    try:
        product = (flat[0] * flat[1]).sum(-1)
    except ValueError:
        raise ValueError(
            f"maps of shapes {first.shape} and {second.shape} cannot be paired: give as many of one as of the other"
        ) from None
    length = np.sqrt((flat[0] ** 2).sum(-1) * (flat[1] ** 2).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.clip(np.where(length > 0, product / length, np.nan), -1, 1)[()]


def _flat(maps: Numbers) -> Numbers:
    return maps.reshape(*maps.shape[:-2], -1)  # (..., h*w)


def _scaled(maps: Numbers) -> Numbers:
    """Maps whose largest value is 1 in size, so that squares and sums of very small or large values stay in range."""
    scale = np.abs(maps).max((-2, -1), keepdims=True)
    return maps / np.where(scale > 0, scale, 1)


def positive(maps: ArrayLike) -> Numbers:
    """Returns the positive part of maps, its largest value 1, as (..., h*w)."""
    return _flat(_scaled(np.maximum(as_maps(maps), 0)))


def _entropy(heat: Numbers) -> Numbers:
    """Entropy in nats of (..., n) taken as a distribution; NaN where nothing is positive."""
    total = heat.sum(-1, keepdims=True)
    part = heat / np.where(total > 0, total, 1)
    nats = -(part * np.log(np.where(part > 0, part, 1))).sum(-1)
    return np.where(total[..., 0] > 0, np.maximum(nats, 0), np.nan)[()]


def on_grid(maps: Numbers, grid: tuple[int, int]) -> Numbers:
    """Maps (..., h, w) on another grid: averages over its cells where it is coarser, interpolated where it is finer."""
    moved: Numbers = _cells(maps.shape[-2], grid[0]) @ maps @ _cells(maps.shape[-1], grid[1]).T
    return moved


@functools.lru_cache(64)
def _cells(source: int, target: int) -> Numbers:
    """The matrix (target, source) from a line of `source` values to one of `target` values."""
    if source == target:
        return np.eye(source)
    if target > source:
        return interpolation(source, target)
    start = np.arange(target)[:, None] * source / target
    end = start + source / target
    share = np.clip(np.minimum(end, np.arange(1, source + 1)) - np.maximum(start, np.arange(source)), 0, 1)
    averaging: Numbers = share * target / source
    return averaging


def _ranks(flat: Numbers) -> Numbers:
    """Ranks along the last axis, equal values sharing the mean of theirs."""
    ranks = np.empty_like(flat)
    for index in np.ndindex(flat.shape[:-1]):
        _, place, count = np.unique(flat[index], return_inverse=True, return_counts=True)
        ranks[index] = (np.cumsum(count) - (count - 1) / 2)[place]
    return ranks
