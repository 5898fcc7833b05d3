"""Whether a map at a cut would be the map of scores that the model itself returns.

Where a model scores every position of a picture, as segmenters do, and what follows a cut treats every position by
itself, the activations there are the scores written in other channels: a map of them shows what the output shows.
"""

from __future__ import annotations

from typing import Any

from ..errors import LayerError
from .axes import POINTWISE
from .cuts import Cutter
from .log import Exit, Log, Param, Step
from .nested import leaves
from .plan import Cut

NOTE = "what follows scores every position by itself: the map would be the map of scores that the model returns"

_BY_ITSELF = POINTWISE | {
    "interpolate", "upsample", "upsample_nearest", "upsample_bilinear", "pixel_shuffle", "linear", "batch_norm",
    "reshape", "view", "flatten", "unflatten", "permute", "transpose", "squeeze", "unsqueeze", "getitem", "movedim",
    "fn", "crop", "_to_copy", "argmax",
}  # fmt: skip
"""Operations that mix no positions, but for enlarging."""


def scores_positions(cutter: Cutter) -> bool:
    """Whether the model gives scores for positions of the picture, (B, classes, h, w)."""
    log = cutter.record.plan.log
    return len(log.shapes[log.logits]) == 4


def operations_behind(log: Log) -> list[int]:
    """For every value of a log, the length of the longest path of operations from the images to it."""
    found = [0] * len(log.shapes)
    for event in log.events:
        if type(event) is Step and event.depends:
            length = 1 + max((found[r] for r in event.reads if log.depends[r]), default=0)
            for ref in (*event.outs, *(new for _, new in event.changed)):
                if ref is not None:
                    found[ref] = max(found[ref], length)
    return found


def is_score_map(cutter: Cutter, cut: Cut) -> bool:
    """Whether what follows a cut gives a score to every position by itself."""
    if cut.context or not scores_positions(cutter):
        return False
    events = cutter.record.plan.log.events[cut.position :]
    if any(type(event) is Exit and event.call.opaque for event in events):
        return False
    return all(_by_itself(event, cutter) for event in events if type(event) is Step and event.depends)


def require_no_score_map(cutter: Cutter, cut: Cut) -> None:
    """Raises LayerError where a map at a cut would be the map of scores."""
    if is_score_map(cutter, cut):
        raise LayerError(
            f"the map at '{cut.name}' would explain nothing", NOTE,
            "leave layer out, or choose an earlier one (see print(grad_cam.chain(model)))",
        )  # fmt: skip


def _by_itself(step: Step, cutter: Cutter) -> bool:
    name = getattr(step.func, "__name__", "").strip("_")
    if name in ("conv2d", "conv_transpose2d"):
        return _kernel_is_one(step, cutter)
    return name in _BY_ITSELF


def _kernel_is_one(step: Step, cutter: Cutter) -> bool:
    """Whether a convolution sees one position at a time; a transposed one may make several of it."""
    weights: list[Any] = [leaf for leaf in leaves((step.args, step.kwargs)) if isinstance(leaf, Param)]
    if not weights:
        return False
    size = tuple(cutter.copy.own[weights[0].path].shape[2:])
    strides = [v for v in (*step.args[3:4], step.kwargs.get("stride")) if v is not None]
    stride = strides[0] if strides else 1
    one = size == (1, 1)
    tiles = getattr(step.func, "__name__", "") == "conv_transpose2d" and stride in (size, size[0], list(size))
    return one or tiles
