"""The detectors of libraries: what they compute on the way to their boxes, so that scores are logits and have a graph.

torchvision's drop what does not count as a detection and return probabilities. Their own post-processing is run as it
is, and what it was given is kept: every box it returns is looked up there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import OutputError
from ..introspection import is_detector
from .skipping import skipping_zeros
from .tables import Found, of_dicts, of_queries, table

_SOFTMAX = ("Detr", "TableTransformer", "Yolos")
_SIGMOID = ("RTDetr", "RtDetr", "DFine", "DeformableDetr", "ConditionalDetr", "DabDetr", "Deta")


def detect(model: nn.Module, size: tuple[int, int], args: Any, kwargs: Any) -> Any:
    """What a model returns; of detectors that are known, the table of their boxes.

    Args:
        model: The model.
        size: Height and width of the pictures.
        args: Its arguments.
        kwargs: Likewise.
    """
    if is_detector(model) and not model.training:
        two_stages = hasattr(model, "roi_heads") and hasattr(model, "rpn")
        if two_stages or hasattr(model, "postprocess_detections"):
            return skipping_zeros((_two_stages if two_stages else _one_stage)(model, args, kwargs))
    returned = model(*args, **kwargs)
    if isinstance(returned, list) and returned and all(_is_found(one) for one in returned):
        return of_dicts(returned)
    logits, boxes = (getattr(returned, name, None) for name in ("logits", "pred_boxes"))
    if isinstance(logits, Tensor) and isinstance(boxes, Tensor):
        name = type(returned).__name__
        if not name.startswith((*_SOFTMAX, *_SIGMOID)):
            raise OutputError(
                "whether the scores of its queries are a softmax or sigmoids is unknown", name,
                "output=lambda r: grad_cam.detections.of_queries(r.logits, r.pred_boxes, (height, width), softmax=...)",
            )  # fmt: skip
        return of_queries(logits, boxes, size, name.startswith(_SOFTMAX))
    return returned


def seen_size(model: nn.Module, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """What the trunk of a model sees of pictures: height and width with the padding, and without it.

    Args:
        model: The model; torchvision's detectors resize pictures and pad them.
        size: Height and width of the pictures.
    """
    transform: Any = getattr(model, "transform", None)
    if not is_detector(model) or transform is None:
        return size, size
    weight = next(model.parameters())
    with torch.no_grad():
        listed, _ = transform([torch.zeros(3, *size, device=weight.device, dtype=weight.dtype)])
    whole, inside = listed.tensors.shape[-2:], listed.image_sizes[0]
    return (int(whole[0]), int(whole[1])), (int(inside[0]), int(inside[1]))


def default_layer(model: nn.Module, is_called: Callable[[str], bool]) -> str | None:
    """The last layer of a detector's trunk that all its feature maps come from, or None."""
    if not is_detector(model):
        return None
    body = getattr(getattr(model, "backbone", None), "body", None)
    names = [f"backbone.body.{name}" for name, _ in body.named_children()][::-1] if body is not None else []
    return next((n for n in (*names, "backbone.features.0", "backbone.features", "backbone") if is_called(n)), None)


def _is_found(one: Any) -> bool:
    return isinstance(one, dict) and all(isinstance(one.get(k), Tensor) for k in ("boxes", "labels", "scores"))


@contextlib.contextmanager
def _watched(module: nn.Module, name: str, seen: dict[str, Any]) -> Iterator[None]:
    """Keeps the arguments and the result of a method of a module."""
    own = getattr(module, name)

    def watching(*args: Any, **kwargs: Any) -> Any:
        made = own(*args, **kwargs)
        kept = [dict(one) if isinstance(one, dict) else one for one in made]  # rescaled in place later
        seen[name] = args, kept
        return made

    vars(module)[name] = watching
    try:
        yield
    finally:
        vars(module).pop(name, None)


def _two_stages(model: Any, args: Any, kwargs: Any) -> Tensor:
    """The table of a Faster, Mask or Keypoint R-CNN; its head has a graph for the proposals that became boxes."""
    seen: dict[str, Any] = {}
    heads = model.roi_heads
    with _watched(heads, "postprocess_detections", seen), _watched(model.rpn, "filter_proposals", seen):
        with _detached(heads, seen):
            returned = model(*args, **kwargs)
    (class_logits, regression, proposals, shapes), made = seen["postprocess_detections"]
    candidates, objectness, *_ = seen["filter_proposals"][0]
    with torch.no_grad():
        decoded = _decoded(heads, regression, proposals, shapes)
    logits = class_logits.split([len(one) for one in proposals])
    rows = [
        _looked_up(z.detach().softmax(-1), boxes, one["labels"], one["scores"], edges)
        for z, boxes, one, edges in zip(logits, decoded, returned, made[0], strict=True)
    ]
    picked, found = [z[r] for z, r in zip(logits, rows, strict=True)], list(returned)
    if "features" in seen and any(len(r) for r in rows):
        picked, boxes = _again(heads, seen["features"], proposals, shapes, rows, torch.cat(picked))
        found = [_with_graph(*each) for each in zip(found, boxes, made[0], strict=True)]
    each = []
    for b, one in enumerate(found):
        labels, there = one["labels"], objectness.reshape(len(proposals), -1)[b]
        anchors = _rows_of(_clipped(candidates[b], shapes[b]), proposals[b][rows[b]])
        own = picked[b].gather(1, labels[:, None])[:, 0]
        each.append(Found(one["boxes"], own, labels, one["scores"], there[anchors]))
    return table(each)


@contextlib.contextmanager
def _detached(heads: Any, seen: dict[str, Any]) -> Iterator[None]:
    """Runs the head of a detector on features without their graph, and keeps those that have one."""
    pool = getattr(heads, "box_roi_pool", None)
    if pool is None or not all(hasattr(heads, name) for name in ("box_head", "box_predictor", "box_coder")):
        yield
        return

    def pooling(features: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        if not any(feature.requires_grad for feature in features.values()):
            return pool(features, *args, **kwargs)
        seen["features"] = features
        return pool({name: feature.detach() for name, feature in features.items()}, *args, **kwargs)

    vars(heads)["box_roi_pool"] = pooling
    try:
        yield
    finally:
        vars(heads).pop("box_roi_pool", None)


def _again(
    heads: Any, features: Any, proposals: list[Tensor], shapes: Any, rows: list[Tensor], wanted: Tensor
) -> tuple[list[Tensor], list[Tensor]]:  # fmt: skip
    """The class logits (D, classes) and the boxes (D, classes, 4) of some proposals of each image, with their graph.

    Raises:
        OutputError: The head does not give the logits `wanted` again.
    """
    everything = [torch.arange(len(one), device=one.device) for one in proposals]
    for chosen in (rows, everything):  # all of them where it does not judge each by itself
        given = [one[r] for one, r in zip(proposals, chosen, strict=True)]
        made, regression = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, given, shapes)))
        logits, boxes = made.split([len(one) for one in given]), _decoded(heads, regression, given, shapes)
        if chosen is everything:
            logits, boxes = ([one[r] for one, r in zip(each, rows, strict=True)] for each in (logits, boxes))
        off = (torch.cat(list(logits)) - wanted).detach().abs().max()
        if float(off) <= 1e-3 * max(1.0, float(wanted.detach().abs().max())):
            return list(logits), boxes
    raise OutputError(
        "the head of the detector gives other logits when it is run again", f"a difference of {float(off):.2g}",
        "output=lambda returned: ... that gives one score per image",
    )  # fmt: skip


def _decoded(heads: Any, regression: Tensor, proposals: list[Tensor], shapes: Any) -> list[Tensor]:
    """The boxes of proposals for every class, (N, classes, 4) for each image, within it."""
    boxes = heads.box_coder.decode(regression, proposals).split([len(one) for one in proposals])
    return [_clipped(one, shape) for one, shape in zip(boxes, shapes, strict=True)]


def _with_graph(one: dict[str, Tensor], boxes: Tensor, edges: Tensor) -> dict[str, Tensor]:
    """The boxes of an image as they were returned, with the graph of those that were decoded.

    Args:
        one: What the detector returned for it.
        boxes: Decoded for every class, (D, classes, 4).
        edges: The boxes before they were brought to the size of the picture, (D, 4).
    """
    own = boxes[torch.arange(len(boxes), device=boxes.device), one["labels"]]  # (D,4)
    returned = one["boxes"].detach()
    scale = (returned.sum(0) / edges.detach().sum(0).clamp(min=1e-6)).view(2, 2).amax(0).repeat(2)  # of x and y
    return {**one, "boxes": returned + (own - own.detach()) * scale}


def _one_stage(model: Any, args: Any, kwargs: Any) -> Tensor:
    """The table of a RetinaNet, FCOS or SSD."""
    seen: dict[str, Any] = {}
    with _watched(model, "postprocess_detections", seen):
        returned = model(*args, **kwargs)
    (head, anchors, shapes), made = seen["postprocess_detections"]
    logits, regression, middle = (_joined(head.get(k)) for k in ("cls_logits", "bbox_regression", "bbox_ctrness"))
    found = []
    for b, one in enumerate(returned):
        with torch.no_grad():
            places = anchors[b] if isinstance(anchors[b], Tensor) else torch.cat(list(anchors[b]))
            coder = model.box_coder
            decode = coder.decode_single if hasattr(coder, "decode_single") else coder.decode
            boxes = _clipped(decode(regression[b], places), shapes[b])[:, None]  # (N,1,4)
            if middle is not None:
                scores = (logits[b].sigmoid() * middle[b].sigmoid()).sqrt()
            else:
                scores = logits[b].softmax(-1) if hasattr(model.head, "classification_head") and _is_ssd(model) else (
                    logits[b].sigmoid()
                )  # fmt: skip
        labels = one["labels"]
        rows = _looked_up(scores, boxes, labels, one["scores"], made[b]["boxes"])
        there = None if middle is None else middle[b][rows, 0]
        found.append(Found(one["boxes"], logits[b][rows, labels], labels, one["scores"], there))
    return table(found)


def _is_ssd(model: nn.Module) -> bool:
    return any(cls.__name__ == "SSD" for cls in type(model).__mro__)


def _joined(levels: Any) -> Any:
    return torch.cat(list(levels), 1) if isinstance(levels, (list, tuple)) else levels


def _clipped(boxes: Tensor, shape: tuple[int, int]) -> Tensor:
    height, width = shape
    return torch.stack([
        boxes[..., 0].clamp(0, width), boxes[..., 1].clamp(0, height), boxes[..., 2].clamp(0, width),
        boxes[..., 3].clamp(0, height),
    ], -1)  # fmt: skip


def _looked_up(scores: Tensor, boxes: Tensor, labels: Tensor, found: Tensor, edges: Tensor) -> Tensor:
    """The rows that boxes come from: of the same score for their class, and the same box.

    Args:
        scores: Of every row and class, (N, classes).
        boxes: Of every row and class, (N, classes, 4), or (N, 1, 4).
        labels: The class of each box, (D,).
        found: Its score, (D,).
        edges: The box, (D, 4).
    """
    rows = []
    with torch.no_grad():
        for label, score, edge in zip(labels.tolist(), found, edges, strict=True):
            off = (scores[:, label] - score).abs()
            near = (off <= 1e-5).nonzero()[:, 0]
            there = boxes[near, label if boxes.shape[1] > 1 else 0]
            away = (there - edge).abs().sum(1)
            if not len(near) or float(away.min()) > 1e-2 * max(1.0, float(edge.abs().max())):
                raise OutputError(
                    "a box of the detector is not among its candidates", f"score {float(score):.3g}",
                    "output=lambda returned: ... that gives one score per image",
                )  # fmt: skip
            rows.append(int(near[away.argmin()]))
    return torch.tensor(rows, dtype=torch.long, device=scores.device)


def _rows_of(all_boxes: Tensor, boxes: Tensor) -> Tensor:
    """The rows where boxes (D, 4) stand among others (N, 4)."""
    with torch.no_grad():
        away = torch.stack([(all_boxes - one).abs().sum(1).argmin() for one in boxes]) if len(boxes) else None
    return torch.zeros(0, dtype=torch.long, device=boxes.device) if away is None else away
