"""torchvision's published weights, found by the class of a model and its number of parameters."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy


def is_torchvision(model: nn.Module) -> bool:
    """Whether a module is of one of torchvision's model classes, or of a class derived from one."""
    return any(base.__module__.startswith("torchvision.models.") for base in type(model).__mro__)


def torchvision_weights(model: nn.Module) -> list[Any]:
    """The weights of torchvision a model was made for, as far as its class and its number of parameters say.

    Args:
        model: A module.

    Returns:
        The one member of torchvision's enumerations of weights that has as many parameters, whatever the number of
        classes and also without the last layer (the newest where several have); all default ones of the class if none
        has; [] if the module is none of torchvision's classifiers, segmenters or video nets.
    """
    if not is_torchvision(model):
        return []
    families = [weights for built, weights in _torchvision_published() if isinstance(model, built)]
    if not families:
        return []
    counts = _parameter_counts(model)
    for family in families:
        for weights in (family.DEFAULT, *family):
            if weights.meta["num_params"] in counts:
                return [weights]
    return [family.DEFAULT for family in families]


@functools.cache
def _torchvision_published() -> tuple[tuple[type[nn.Module], Any], ...]:
    """The class each of torchvision's classifiers, segmenters and video nets is of, and its weights' enumeration."""
    from torchvision import models

    found = []
    for name in (name for module in (models, models.segmentation, models.video) for name in models.list_models(module)):
        built = inspect.signature(models.get_model_builder(name)).return_annotation
        if isinstance(built, type):
            found.append((built, models.get_model_weights(name)))
    return tuple(found)


def torchvision_names(model: nn.Module, count: int | None) -> list[str] | None:
    """The names of classes that torchvision's published segmenters and video nets know, if there are `count`."""
    if not is_torchvision(model):
        return None
    from torchvision import models

    for name in (*models.list_models(module=models.segmentation), *models.list_models(module=models.video)):
        built = inspect.signature(models.get_model_builder(name)).return_annotation
        if isinstance(built, type) and isinstance(model, built):
            names = list(models.get_model_weights(name).DEFAULT.meta["categories"])
            if len(names) == count:
                return names
    return None


def _parameter_counts(model: nn.Module) -> set[int]:
    """The numbers of parameters as it is, and with 1000 outputs: of a changed last layer, and of one put after it."""
    if any(is_lazy(parameter) for parameter in model.parameters()):
        return set()
    count = sum(parameter.numel() for parameter in model.parameters())
    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    if not layers:
        return {count}
    outputs = layers[-1].weight.shape[0]
    per_output = sum(parameter.numel() for parameter in layers[-1].parameters()) // max(outputs, 1)
    widths = {outputs, *(m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d))}
    return {count, count + (1000 - outputs) * per_output, *(count + 1000 * (width + 1) for width in widths)}
