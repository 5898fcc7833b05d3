"""Facts of torchvision's detectors, which resize and normalise pictures themselves."""

from __future__ import annotations

from typing import Any

from torch import nn


def is_detector(model: nn.Module) -> bool:
    """Whether a model is one of torchvision's detectors."""
    return any(cls.__module__.startswith("torchvision.models.detection.") for cls in type(model).__mro__)


def detector_size(model: nn.Module) -> tuple[int, int] | None:
    """Height and width that a detector resizes pictures to; if that depends on them, a square of its shorter side."""
    transform: Any = getattr(model, "transform", None)
    if not is_detector(model) or transform is None:
        return None
    fixed = getattr(transform, "fixed_size", None)
    if fixed is not None:
        return int(fixed[1]), int(fixed[0])
    sides = transform.min_size
    side = int(sides[-1] if isinstance(sides, (tuple, list)) else sides)
    return side, side


def detector_classes(model: nn.Module) -> int | None:
    """The number of classes of a detector, the background among them."""
    if not is_detector(model):
        return None
    for path, name in (
        ("roi_heads.box_predictor.cls_score", "out_features"), ("head.classification_head", "num_classes"),
        ("head.classification_head", "num_columns"),
    ):  # fmt: skip
        try:
            found = getattr(model.get_submodule(path), name, None)
        except AttributeError:
            continue
        if isinstance(found, int):
            return found
    return None


def detector_names(model: nn.Module) -> list[str] | None:
    """The names of the classes that torchvision's published detectors know, where the number of classes is theirs."""
    from torchvision.models import get_model_weights

    count = detector_classes(model)
    for family in ("fasterrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn"):
        names = list(get_model_weights(family).DEFAULT.meta["categories"])
        if len(names) == count:
            return names
    return None
