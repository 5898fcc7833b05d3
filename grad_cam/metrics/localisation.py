"""Whether a map lies on the object, given a box or a mask of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import GradCamError
from .maps import Numbers, positive


def pointing_game(heatmaps: ArrayLike, boxes: ArrayLike, tolerance: float = 0.0) -> Numbers:
    """Whether the hottest spot lies on the object.

    Args:
        heatmaps: Heatmaps (..., H, W) at the size of the picture the boxes are drawn in.
        boxes: A box (4,) or several (K, 4), as x0, y0, x1, y1: edges in pixels from the left and from the top, a box
            over the whole picture being 0, 0, W, H. Several boxes count as one area. Or a mask (H, W) of bools.
        tolerance: By how many pixels the spot may miss a box.

    Returns:
        Numbers (...): 1 for a hit, 0 for a miss; where several spots are the hottest, the part of them that hits.
        A map that is nowhere positive points at nothing: 0.

    Source:
        Zhang et al., Top-Down Neural Attention by Excitation Backprop, IJCV 2018, https://arxiv.org/abs/1608.00507
        (there with a tolerance of 15 pixels).
    """
    heat = positive(heatmaps)
    if not tolerance >= 0:
        raise ValueError(f"tolerance={tolerance} is not a distance: give a number of pixels from 0 up")
    height, width = np.shape(heatmaps)[-2:]
    near = _near(boxes, height, width, tolerance)
    top = heat.max(-1, keepdims=True)
    spots = (heat == top) & (top > 0)  # (..., H*W)
    share: Numbers = ((spots & near.ravel()).sum(-1) / np.maximum(spots.sum(-1), 1))[()]
    return share


def energy_inside(heatmaps: ArrayLike, boxes: ArrayLike) -> Numbers:
    """The part of a map's positive evidence that lies on the object.

    Compare it with the part of the picture that the boxes cover (`box_area`): an even map reaches that.

    Args:
        heatmaps: Heatmaps (..., H, W) at the size of the picture the boxes are drawn in.
        boxes: A box (4,), several (K, 4) or a mask (H, W), as for `pointing_game`. Pixels that a box cuts
            count by the part inside.

    Returns:
        Numbers (...) from 0 to 1; 0 for a map that is nowhere positive.

    Source:
        Wang et al., Score-CAM, CVPR Workshops 2020, https://arxiv.org/abs/1910.01279 (energy-based pointing
        game).
    """
    heat = positive(heatmaps)
    height, width = np.shape(heatmaps)[-2:]
    inside = (heat * _cover(boxes, height, width).ravel()).sum(-1)
    total = heat.sum(-1)
    share: Numbers = (inside / np.where(total > 0, total, 1))[()]
    return share


def box_area(boxes: ArrayLike, size: tuple[int, int]) -> float:
    """The part of the picture that the boxes cover together.

    Args:
        boxes: A box (4,) or several (K, 4), as x0, y0, x1, y1 in pixels, or a mask (H, W) of bools.
        size: Height and width of the picture in pixels.
    """
    return float(_cover(boxes, *size).mean())


def _near(boxes: ArrayLike, height: int, width: int, tolerance: float) -> NDArray[np.bool_]:
    """The pixels (H, W) whose centre is within a distance of the boxes, or from the pixels of a mask."""
    mask = _as_mask(boxes, height, width)
    y, x = np.mgrid[:height, :width] + 0.5  # (H, W) twice, pixel centres
    if mask is not None:
        if tolerance == 0:
            return mask
        rows, columns = mask.nonzero()
        areas = np.stack([columns, rows, columns + 1, rows + 1], 1).astype(np.float64)
    else:
        areas = _boxes(boxes, height, width)
    near = np.zeros((height, width), bool)
    for x0, y0, x1, y1 in areas:
        aside = np.maximum(np.maximum(x0 - x, x - x1), 0)
        above = np.maximum(np.maximum(y0 - y, y - y1), 0)
        near |= aside**2 + above**2 <= tolerance**2
    return near


def _as_mask(boxes: ArrayLike, height: int, width: int) -> NDArray[np.bool_] | None:
    """A mask (H, W) if that is what was given."""
    mask = np.asarray(boxes)
    if mask.dtype != bool:
        return None
    if mask.shape != (height, width):
        raise GradCamError(
            "a mask has the size of the heatmap", f"{mask.shape} for {height}x{width}", "resize one to the other"
        )
    if not mask.any():
        raise GradCamError("the mask holds nothing", f"{height}x{width}, all False", "give one with an object in it")
    return mask


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
    mask = _as_mask(boxes, height, width)
    if mask is not None:
        return mask.astype(np.float64)
    cover = np.zeros((height, width))
    for x0, y0, x1, y1 in _boxes(boxes, height, width):
        across = np.clip(np.minimum(x1, np.arange(1, width + 1)) - np.maximum(x0, np.arange(width)), 0, 1)
        down = np.clip(np.minimum(y1, np.arange(1, height + 1)) - np.maximum(y0, np.arange(height)), 0, 1)
        cover = np.maximum(cover, down[:, None] * across)
    return cover
