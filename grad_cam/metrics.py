"""Numbers that say what a map looks like: how focused it is, how far two maps agree, whether it points at an object.

Maps go in, numbers come out; no model takes part. Leading axes are kept: a map (h, w) gives one number, a batch
(B, h, w) gives B.

Nothing of this package is imported here.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
    heat = _positive(maps)
    if heat.shape[-1] == 1:
        return np.where(heat[..., 0] > 0, 0.0, np.nan)[()]
    return _entropy(heat) / np.log(heat.shape[-1])


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
    heat = _positive(maps)
    return 1 - np.exp(_entropy(heat)) / heat.shape[-1]


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
    first, second = _maps(a), _maps(b)
    grid = (min(first.shape[-2], second.shape[-2]), min(first.shape[-1], second.shape[-1]))
    flat = [_flat(_scaled(_averaged(maps, grid))) for maps in (first, second)]  # (..., n) twice
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


def pointing_game(heatmaps: ArrayLike, boxes: ArrayLike, tolerance: float = 0.0) -> Numbers:
    """Whether the hottest spot lies on the object.

    Args:
        heatmaps: Heatmaps (..., H, W) at the size of the picture the boxes are drawn in.
        boxes: A box (4,) or several (K, 4), as x0, y0, x1, y1: edges in pixels from the left and from the top, a box
            over the whole picture being 0, 0, W, H. Several boxes count as one area.
        tolerance: By how many pixels the spot may miss a box.

    Returns:
        Numbers (...): 1 for a hit, 0 for a miss; where several spots are the hottest, the part of them that hits.
        A map that is nowhere positive points at nothing: 0.

    Source:
        Zhang et al., Top-Down Neural Attention by Excitation Backprop, IJCV 2018, https://arxiv.org/abs/1608.00507
        (there with a tolerance of 15 pixels).
    """
    heat = _positive(heatmaps)
    if not tolerance >= 0:
        raise ValueError(f"tolerance={tolerance} is not a distance: give a number of pixels from 0 up")
    height, width = np.shape(heatmaps)[-2:]
    y, x = np.mgrid[:height, :width] + 0.5  # (H, W) twice, pixel centres
    near = np.zeros((height, width), bool)
    for x0, y0, x1, y1 in _boxes(boxes, height, width):
        aside = np.maximum(np.maximum(x0 - x, x - x1), 0)
        above = np.maximum(np.maximum(y0 - y, y - y1), 0)
        near |= aside**2 + above**2 <= tolerance**2
    top = heat.max(-1, keepdims=True)
    spots = (heat == top) & (top > 0)  # (..., H*W)
    return ((spots & near.ravel()).sum(-1) / np.maximum(spots.sum(-1), 1))[()]


def energy_inside(heatmaps: ArrayLike, boxes: ArrayLike) -> Numbers:
    """The part of a map's positive evidence that lies on the object.

    To be read beside the part of the picture that the boxes cover (`box_area`), which an even map reaches.

    Args:
        heatmaps: Heatmaps (..., H, W) at the size of the picture the boxes are drawn in.
        boxes: A box (4,) or several (K, 4), as for `pointing_game`. Pixels that a box cuts count by the part inside.

    Returns:
        Numbers (...) from 0 to 1; 0 for a map that is nowhere positive.

    Source:
        Wang et al., Score-CAM, CVPR Workshops 2020, https://arxiv.org/abs/1910.01279 (energy-based pointing
        game).
    """
    heat = _positive(heatmaps)
    height, width = np.shape(heatmaps)[-2:]
    inside = (heat * _cover(boxes, height, width).ravel()).sum(-1)
    total = heat.sum(-1)
    return (inside / np.where(total > 0, total, 1))[()]


def box_area(boxes: ArrayLike, size: tuple[int, int]) -> float:
    """The part of the picture that the boxes cover together.

    Args:
        boxes: A box (4,) or several (K, 4), as x0, y0, x1, y1 in pixels.
        size: Height and width of the picture in pixels.
    """
    return float(_cover(boxes, *size).mean())


def _boxes(boxes: ArrayLike, height: int, width: int) -> Numbers:
    """Boxes (K, 4), checked and cut to the picture."""
    given = np.asarray(boxes, np.float64)
    if given.shape == (4,):
        given = given[None]
    if given.ndim != 2 or given.shape[1] != 4 or not len(given):
        raise ValueError(f"boxes are (4,) or (K, 4), as x0, y0, x1, y1, got shape {given.shape}")
    for x0, y0, x1, y1 in given:
        if not (x0 < x1 and y0 < y1 and x0 < width and y0 < height and x1 > 0 and y1 > 0):
            raise ValueError(
                f"box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) holds nothing of a picture of {height}x{width}: give x0, y0, "
                "x1, y1 in pixels from the top left, x0 < x1 and y0 < y1"
            )
    return given.clip(0, [width, height, width, height])


def _cover(boxes: ArrayLike, height: int, width: int) -> Numbers:
    """How much of every pixel (H, W) the boxes cover; where several share a pixel, the one that covers most counts."""
    cover = np.zeros((height, width))
    for x0, y0, x1, y1 in _boxes(boxes, height, width):
        across = np.clip(np.minimum(x1, np.arange(1, width + 1)) - np.maximum(x0, np.arange(width)), 0, 1)
        down = np.clip(np.minimum(y1, np.arange(1, height + 1)) - np.maximum(y0, np.arange(height)), 0, 1)
        cover = np.maximum(cover, down[:, None] * across)
    return cover


def _maps(maps: Any) -> Numbers:
    """Arrays or tensors (..., h, w) as finite numbers."""
    if hasattr(maps, "detach"):
        maps = maps.detach().cpu().double().numpy()
    raw = np.asarray(maps)
    if raw.dtype.kind not in "buif":
        raise TypeError(f"a map is made of real numbers, got {raw.dtype}: give a float array or tensor (..., h, w)")
    if raw.ndim < 2 or 0 in raw.shape:
        raise ValueError(f"a map has a height and a width, got shape {raw.shape}: give (..., h, w)")
    if not np.isfinite(raw).all():
        raise ValueError("the map holds NaN or infinite values: look for them in the model's weights or the input")
    return raw.astype(np.float64, copy=False)


def _flat(maps: Numbers) -> Numbers:
    return maps.reshape(*maps.shape[:-2], -1)  # (..., h*w)


def _scaled(maps: Numbers) -> Numbers:
    """Maps whose largest value is 1 in size, so that squares and sums of very small or large values stay in range."""
    scale = np.abs(maps).max((-2, -1), keepdims=True)
    return maps / np.where(scale > 0, scale, 1)


def _positive(maps: ArrayLike) -> Numbers:
    """The positive part of maps, its largest value 1, as (..., h*w)."""
    return _flat(_scaled(np.maximum(_maps(maps), 0)))


def _entropy(heat: Numbers) -> Numbers:
    """Entropy in nats of (..., n) taken as a distribution; NaN where nothing is positive."""
    total = heat.sum(-1, keepdims=True)
    part = heat / np.where(total > 0, total, 1)
    nats = -(part * np.log(np.where(part > 0, part, 1))).sum(-1)
    return np.where(total[..., 0] > 0, np.maximum(nats, 0), np.nan)[()]


def _averaged(maps: Numbers, grid: tuple[int, int]) -> Numbers:
    """Maps (..., h, w) averaged over the cells of a grid that is no finer."""
    return _cells(maps.shape[-2], grid[0]) @ maps @ _cells(maps.shape[-1], grid[1]).T


def _cells(source: int, target: int) -> Numbers:
    """The matrix (target, source) of averages over `target` equal parts of a line of `source` values."""
    if source == target:
        return np.eye(source)
    start = np.arange(target)[:, None] * source / target
    end = start + source / target
    share = np.clip(np.minimum(end, np.arange(1, source + 1)) - np.maximum(start, np.arange(source)), 0, 1)
    return share * target / source


def _ranks(flat: Numbers) -> Numbers:
    """Ranks along the last axis, equal values sharing the mean of theirs."""
    ranks = np.empty_like(flat)
    for index in np.ndindex(flat.shape[:-1]):
        _, place, count = np.unique(flat[index], return_inverse=True, return_counts=True)
        ranks[index] = (np.cumsum(count) - (count - 1) / 2)[place]
    return ranks
