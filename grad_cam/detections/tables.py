"""The table of a detector's boxes, and how what detectors return is made into one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..arguments import ArgumentTypeError
from ..errors import OutputError

COLUMNS = ("left", "top", "right", "bottom", "logit", "objectness", "label", "probability", "has_objectness")
"""The columns of a table of boxes: edges in pixels of the pictures; the class's logit; that of the object being there,
if the detector has one; the class, -1 in rows that are no box; its probability."""

MOST = 300
"""Number of boxes of an image that a table holds at most."""


class Found(NamedTuple):
    """The boxes found in one image, the likeliest first.

    Attributes:
        boxes: Left, top, right, bottom in pixels of the picture, (N, 4).
        logits: Of the class of each box, (N,).
        labels: The class of each box, (N,).
        probabilities: (N,).
        objectness: The logit of there being an object, (N,), or None.
    """

    boxes: Tensor
    logits: Tensor
    labels: Tensor
    probabilities: Tensor
    objectness: Tensor | None = None


def table(each: Sequence[Found]) -> Tensor:
    """The boxes of a batch as a tensor.

    Args:
        each: The boxes of each image.

    Returns:
        (B, most boxes of an image, columns), see `COLUMNS`; rows that are no box have the label -1.
    """
    most = max(len(one.boxes) for one in each)
    made = []
    for one in each:
        like = one.boxes
        objectness = torch.zeros_like(one.logits) if one.objectness is None else one.objectness.to(like)
        known = torch.full_like(one.logits, float(one.objectness is not None))
        columns = [one.logits, objectness, one.labels.to(like), one.probabilities, known]
        rows = torch.cat([like, torch.stack([column.to(like) for column in columns], 1)], 1)  # (N,columns)
        empty = like.new_zeros(most - len(rows), len(COLUMNS))
        empty[:, COLUMNS.index("label")] = -1
        made.append(torch.cat([rows, empty]))
    return torch.stack(made)


def of_queries(logits: Tensor, boxes: Tensor, size: tuple[int, int], softmax: bool) -> Tensor:
    """The table of a DETR: one row for each query and its likeliest class, the likeliest first.

    Args:
        logits: (B, queries, classes), with a last class "none" if they go through a softmax.
        boxes: Middle, width and height as fractions of the picture, (B, queries, 4).
        size: Height and width of the pictures.
        softmax: Whether probabilities are a softmax, else a sigmoid of each class.
    """
    if softmax:
        probabilities, logits = logits.softmax(-1)[..., :-1], logits[..., :-1]
    else:
        probabilities = logits.sigmoid()
    scale = boxes.new_tensor([size[1], size[0], size[1], size[0]])
    best, labels = probabilities.max(-1)  # (B,queries)
    order = best.argsort(dim=1, descending=True, stable=True)[:, :MOST]
    chosen = logits.gather(2, labels[..., None])[..., 0]
    edges = (_edges(boxes, "cxcywh") * scale).gather(1, order[..., None].expand(-1, -1, 4))
    nothing = torch.zeros_like(edges[..., 0])  # no objectness
    columns = [chosen.gather(1, order), nothing, labels.gather(1, order), best.gather(1, order), nothing]
    return torch.cat([edges, torch.stack([column.to(edges) for column in columns], -1)], -1)


Form = Literal["xyxy", "xywh", "cxcywh"]


def raw(
    form: Form = "cxcywh", *, scores: Literal["logits", "probabilities"] = "probabilities", objectness: bool = False,
    channels_first: bool = True, output: Callable[[Any], Tensor] | None = None, overlap: float = 0.5,
) -> Callable[[Any], Tensor]:  # fmt: skip
    """Makes an `output=` for a detector whose head returns a score for every class at every anchor, as YOLO does.

    Args:
        form: How a box is written: "cxcywh" (middle, width, height), "xywh" (left, top, width, height) or "xyxy"; in
            pixels of the pictures.
        scores: Whether objectness and class scores are logits or probabilities.
        objectness: Whether a column for it stands between the box and the classes (YOLOv5) or not (YOLOv8).
        channels_first: Whether what is returned is (B, columns, anchors) rather than (B, anchors, columns).
        output: From what the model returns to that tensor; by default its first tensor.
        overlap: Intersection over union above which the less likely of two boxes of a class is dropped.

    Returns:
        A function from what the model returns to the table of boxes.
    """
    if form not in ("xyxy", "xywh", "cxcywh"):
        raise ArgumentTypeError(f"form={form!r} is no form of a box", "", 'give "cxcywh", "xywh" or "xyxy"')
    return partial(_raw, form, scores == "logits", objectness, channels_first, output, overlap)


def _raw(
    form: Form, are_logits: bool, objectness: bool, channels_first: bool, output: Any, overlap: float, returned: Any
) -> Tensor:
    found = returned if output is None else output(returned)
    while isinstance(found, (tuple, list)) and found:
        found = found[0]
    if not isinstance(found, Tensor) or found.ndim != 3:
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise OutputError(
            "the head of the detector gives no table", str(got), "give detections.raw(output=lambda returned: ...)"
        )
    rows = found.transpose(1, 2) if channels_first else found  # (B,anchors,columns)
    first = 4 + objectness
    if rows.shape[2] <= first:
        raise OutputError(
            f"{rows.shape[2]} columns leave no class", str(tuple(found.shape)),
            f"give detections.raw(channels_first={not channels_first})",
        )  # fmt: skip
    if not are_logits:
        _require_probabilities(rows.detach()[..., 4:], channels_first)
    logits = rows[..., first:] if are_logits else _logit(rows[..., first:])
    there = None if not objectness else rows[..., 4] if are_logits else _logit(rows[..., 4])
    edges = _edges(rows[..., :4], form)
    return table([_kept(edges[b], logits[b], None if there is None else there[b], overlap) for b in range(len(rows))])


def _require_probabilities(found: Tensor, channels_first: bool) -> None:
    """Refuses a table read the wrong way round, where pixels stand among the probabilities, and logits."""
    with torch._C.DisableTorchFunction():  # a look at the values is no step of the model
        low, high = (float(end) for end in found.aminmax())
    if not (low >= 0 and high <= 1):
        raise OutputError(
            f"read with channels_first={channels_first}, the head's table holds probabilities beyond 0..1",
            f"{low:.4g} to {high:.4g}",
            f'give detections.raw(channels_first={not channels_first}), or scores="logits"',
        )  # fmt: skip


def _kept(boxes: Tensor, logits: Tensor, objectness: Tensor | None, overlap: float) -> Found:
    """The likeliest boxes of an image that do not overlap another one of their class too far."""
    from torchvision.ops import batched_nms

    best, labels = logits.max(1)
    sure = best.sigmoid() if objectness is None else best.sigmoid() * objectness.sigmoid()
    order = sure.detach().argsort(descending=True, stable=True)[: 4 * MOST]
    keep = order[batched_nms(boxes[order].detach().float(), sure[order].detach().float(), labels[order], overlap)]
    keep = keep[:MOST]
    there = None if objectness is None else objectness[keep]
    return Found(boxes[keep], best[keep], labels[keep], sure[keep], there)


def of_dicts(returned: Sequence[dict[str, Tensor]]) -> Tensor:
    """The table of a list of dictionaries with boxes, labels and scores; logits are those of the scores."""
    return table([
        Found(one["boxes"], _logit(one["scores"]), one["labels"], one["scores"]) for one in returned
    ])  # fmt: skip


def _logit(probabilities: Tensor) -> Tensor:
    found: Tensor = torch.special.logit(probabilities, eps=torch.finfo(probabilities.dtype).eps)
    return found


def _edges(boxes: Tensor, form: Form) -> Tensor:
    """Left, top, right and bottom, (..., 4)."""
    if form == "xyxy":
        return boxes
    x, y, width, height = boxes.unbind(-1)
    if form == "cxcywh":
        x, y = x - width / 2, y - height / 2
    return torch.stack([x, y, x + width, y + height], -1)


def overlaps(one: Tensor, two: Tensor) -> Tensor:
    """Intersection over union of boxes (..., 4) that broadcast; 1 where they are the same."""
    low, high = torch.maximum(one[..., :2], two[..., :2]), torch.minimum(one[..., 2:], two[..., 2:])
    inside = (high - low).clamp(min=0).prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1) for box in (one, two)]
    found = inside / (areas[0] + areas[1] - inside).clamp(min=1e-9)
    return found.where((one != two).any(-1), torch.ones_like(found))  # also of boxes without an area
