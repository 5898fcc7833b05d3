"""Facts read off a model: what it wraps, the input it takes, its prefix tokens, its classes, its device and dtype.

Nothing is run, and nothing is imported that the model itself does not come from: torchvision is asked only about models
of torchvision's own classes. A fact that no part of a model declares is None, or a default whose source is None, so
that an error message never claims that "the model says" what nothing says.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import numbers
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import nn

DEFAULT_SIZE = (224, 224)
"""Height and width in pixels that are assumed of a model that declares none."""

DEFAULT_CHANNELS = 3
"""Number of channels that is assumed of a model that declares none."""

T = TypeVar("T")


@dataclass(frozen=True)
class Declared(Generic[T]):
    """A fact and what declares it.

    Attributes:
        value: The fact.
        source: What declares it, as a phrase to go before "says": ``model.pretrained_cfg``.
    """

    value: T
    source: str


# ------------------------------------------------------------------------------------------------------------ wrappers


def wrapped(model: nn.Module) -> Iterator[nn.Module]:
    """Yields a model and what its wrappers hold, the outermost first and the wrapped model last."""
    yield model
    while isinstance(inner := _inside(model), nn.Module):
        yield inner
        model = inner


def unwrap(model: nn.Module) -> nn.Module:
    """Looks through wrappers, in any nesting.

    Args:
        model: Any module.

    Returns:
        What `DataParallel`, `DistributedDataParallel`, `torch.compile`, `AveragedModel` and timm's `ModelEma` hold; any
        other module as it is.
    """
    *_, inner = wrapped(model)
    return inner


def _inside(model: nn.Module) -> Any:
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    if isinstance(model, (*parallel, torch.optim.swa_utils.AveragedModel)):
        return model.module
    if type(model).__module__ == "timm.utils.model_ema":
        return getattr(model, "module", None)
    return getattr(model, "_orig_mod", None)  # torch.compile


# ---------------------------------------------------------------------------------------------------------- input size


def input_size(model: nn.Module) -> tuple[int, int]:
    """Height and width in pixels of the images a model is made for, else `DEFAULT_SIZE`."""
    found = declared_size(model)
    return DEFAULT_SIZE if found is None else found.value


def input_size_source(model: nn.Module) -> str | None:
    """What declares the input size of a model, such as ``model.pretrained_cfg``; None where it is assumed."""
    found = declared_size(model)
    return None if found is None else found.source


def declared_size(model: nn.Module) -> Declared[tuple[int, int]] | None:
    """Height and width of the images a model is made for, in pixels, and what declares them.

    In this order: a `preprocessing` the user set, on the model or a wrapper; the image processor and the configuration
    of a Hugging Face model, at any depth; the size a timm or torchvision model was built for or set to; timm's
    configuration; the transforms of torchvision's weights for the architecture; the same of the first part of the model
    that declares one.

    Args:
        model: Any module; wrappers are looked through.

    Returns:
        (height, width) and its source, or None if nothing declares a size.

    Note:
        torchvision's models do not keep which weights they carry. The newest ones of the architecture are supposed, and
        where those of a family differ and the number of parameters does not tell the model, there is no answer.
    """
    for outer in wrapped(model):
        if (found := _set_size(outer, "model")) is not None:
            return found
    model = unwrap(model)
    return _size_of(model, "model") or _built_size(model, "model") or _first_part(model)


def _first_part(model: nn.Module) -> Declared[tuple[int, int]] | None:
    """The first part of a model that declares an input size of its own."""
    for name, part in model.named_modules():
        if part is not model:
            found = _set_size(part, f"model.{name}") or _size_of(part, f"model.{name}")
            if found is not None:
                return found
    return None


def _set_size(model: nn.Module, path: str) -> Declared[tuple[int, int]] | None:
    size = as_size(getattr(getattr(model, "preprocessing", None), "size", None))
    return None if size is None else Declared(size, f"{path}.preprocessing")


def _size_of(model: nn.Module, path: str) -> Declared[tuple[int, int]] | None:
    """What a Hugging Face, timm or torchvision model declares, or None if it is none of them."""
    config, processor = getattr(model, "config", None), getattr(model, "image_processor", None)
    pretrained = timm_config(model)
    if pretrained is not None:
        size = as_size(pretrained.value.get("input_size"))
        configured = None if size is None else Declared(size, f"{path}.{pretrained.source}")
        return _built_size(getattr(model, "timm_model", model), path) or configured
    if processor is not None:
        size = processor_size(processor)
        if size is not None:
            return Declared(size, f"{path}.image_processor")
    if getattr(config, "model_type", None) == "perceiver":
        return None  # its image_size is that of the features
    for value, where in _settings(config, ("image_size", "img_size"), f"{path}.config"):
        if (size := as_size(value)) is not None:
            return Declared(size, where)
    known = torchvision_weights(model)
    return (_built_size(model, path) or _weights_size(model, known)) if known else None


def timm_config(model: nn.Module) -> Declared[Mapping[str, Any]] | None:
    """Reads timm's configuration of a model, also of one that Hugging Face wraps; None if it is none of timm's."""
    for owner, path in ((model, ""), (getattr(model, "config", None), "config.")):
        for name in ("pretrained_cfg", "default_cfg"):
            found = getattr(owner, name, None)
            found = found.to_dict() if hasattr(found, "to_dict") else found
            if isinstance(found, Mapping) and found:
                return Declared(found, path + name)
    return None


def _built_size(model: nn.Module, path: str) -> Declared[tuple[int, int]] | None:
    """The size a model was built for, or later set to (timm's `img_size=` and `set_input_size`), if it keeps it."""
    stems = [(f"{path}.{name}", part) for name, part in model.named_children() if "embed" in name or name == "stem"]
    for where, part in [(path, model), *stems]:
        first = part[0] if isinstance(part, nn.ModuleList) and len(part) else part
        for name in ("img_size", "image_size"):
            if (size := as_size(getattr(first, name, None))) is not None:
                return Declared(size, f"{where}.{name}")
    return None


def _weights_size(model: nn.Module, known: list[Any]) -> Declared[tuple[int, int]] | None:
    sizes = {as_size(getattr(weights.transforms(), "crop_size", None)) for weights in known}
    size = sizes.pop() if len(sizes) == 1 else None
    if size is None:
        return None
    named = str(known[0]) if len(known) == 1 else f"each of torchvision's weights for {type(model).__name__}"
    return Declared(size, named)


def processor_size(processor: Any) -> tuple[int, int] | None:
    """Height and width of what a Hugging Face image processor makes, if it makes images of one size."""
    if hasattr(processor, "to_dict"):
        settings = processor.to_dict()
    else:
        settings = dict(getattr(processor, "__dict__", {}))
    crop = as_size(settings.get("crop_size")) if settings.get("do_center_crop") else None
    return crop or as_size(settings.get("size"))


def as_size(value: Any) -> tuple[int, int] | None:
    """Reads height and width from the ways in which configurations write a size.

    Args:
        value: A number of pixels, a pair (height, width), a triple (channels, height, width), or a mapping with
            ``height`` and ``width`` or with ``shortest_edge``.

    Returns:
        (height, width), or None if that is no size.
    """
    if isinstance(value, Mapping):
        edge = value.get("shortest_edge")
        value = (value.get("height") or edge, value.get("width") or edge)
    elif _is_count(value):
        value = (value, value)
    if not isinstance(value, (tuple, list)) or len(value) not in (1, 2, 3) or not all(map(_is_count, value)):
        return None
    height, width = value[-2:] if len(value) > 1 else (value[0], value[0])
    return int(height), int(width)


def _is_count(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value > 0


def _settings(config: Any, names: tuple[str, ...], path: str) -> Iterator[tuple[Any, str]]:
    """All settings of some names in a configuration and those nested in it, the outer and those of vision first."""
    queue, seen = [(config, path)], {id(config)}
    while queue:
        config, path = queue.pop(0)
        items = _items(config)
        for name in names:
            if items.get(name) is not None:
                yield items[name], f"{path}.{name}"
        nested = [
            (value, f"{path}.{key}")
            for key, value in items.items()
            if ("config" in key or isinstance(value, Mapping)) and not any(part in key for part in _NOT_OF_IMAGES)
        ]
        nested.sort(key=lambda pair: "vision" not in pair[1].rpartition(".")[2])
        for value, where in nested:
            if id(value) not in seen and (isinstance(value, Mapping) or hasattr(value, "__dict__")):
                seen.add(id(value))
                queue.append((value, where))


_NOT_OF_IMAGES = ("text", "audio", "decoder", "qformer", "label", "prompt")
"""Words in the names of nested configurations and mappings that are not of what sees the image."""


def _items(config: Any) -> dict[str, Any]:
    if isinstance(config, Mapping):
        return {key: value for key, value in config.items() if isinstance(key, str)}
    named = {name: getattr(config, name, None) for name in ("image_size", "img_size", "num_channels", "in_chans")}
    return {**getattr(config, "__dict__", {}), **{name: value for name, value in named.items() if value is not None}}


# --------------------------------------------------------------------------------------------------------- torchvision


def is_torchvision(model: nn.Module) -> bool:
    """Whether a module is of one of torchvision's model classes, or of a class derived from one."""
    return any(base.__module__.startswith("torchvision.models.") for base in type(model).__mro__)


def torchvision_weights(model: nn.Module) -> list[Any]:
    """The weights of torchvision a model was made for, as far as its class and its number of parameters tell.

    Args:
        model: A module.

    Returns:
        The one member of torchvision's enumerations of weights that has as many parameters, whatever the number of
        classes and also without the last layer (the newest where several have); all default ones of the class if none
        has; [] if the module is none of torchvision's classifiers.
    """
    if not is_torchvision(model):
        return []
    families = [weights for built, weights in _torchvision_classifiers() if isinstance(model, built)]
    if not families:
        return []
    counts = _parameter_counts(model)
    for family in families:
        for weights in (family.DEFAULT, *family):
            if weights.meta["num_params"] in counts:
                return [weights]
    return [family.DEFAULT for family in families]


@functools.cache
def _torchvision_classifiers() -> tuple[tuple[type[nn.Module], Any], ...]:
    """The class each of torchvision's classifiers is of, and the enumeration of its weights."""
    from torchvision import models

    found = []
    for name in models.list_models(module=models):
        built = inspect.signature(models.get_model_builder(name)).return_annotation
        if isinstance(built, type):
            found.append((built, models.get_model_weights(name)))
    return tuple(found)


def _parameter_counts(model: nn.Module) -> set[int]:
    """The numbers of parameters with 1000 outputs: of a changed last layer, and of one put after the features."""
    if any(isinstance(parameter, nn.parameter.UninitializedTensorMixin) for parameter in model.parameters()):
        return set()
    count = sum(parameter.numel() for parameter in model.parameters())
    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    if not layers:
        return {count}
    outputs = layers[-1].weight.shape[0]
    per_output = sum(parameter.numel() for parameter in layers[-1].parameters()) // max(outputs, 1)
    widths = {outputs, *(m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d))}
    return {count + (1000 - outputs) * per_output, *(count + 1000 * (width + 1) for width in widths)}


# ------------------------------------------------------------------------------------------------------------ channels


def input_channels(model: nn.Module) -> int:
    """The number of channels of the images a model takes, else `DEFAULT_CHANNELS`."""
    found = declared_channels(model)
    return DEFAULT_CHANNELS if found is None else found.value


def input_channels_source(model: nn.Module) -> str | None:
    """What declares the number of channels, such as ``model.config.num_channels``; None where it is assumed."""
    found = declared_channels(model)
    return None if found is None else found.source


def declared_channels(model: nn.Module) -> Declared[int] | None:
    """The number of channels of the images a model takes, and what declares it.

    In this order: a `preprocessing` the user set, on the model or a wrapper; the model's `in_chans`; its configuration,
    at any depth; its first convolution. Where modules before that one fold pixels into channels (`nn.PixelUnshuffle`,
    space to depth), the image's own number is meant.

    Args:
        model: Any module; wrappers are looked through.

    Returns:
        The number and its source, or None if nothing declares one.
    """
    for outer in wrapped(model):
        channels = getattr(getattr(outer, "preprocessing", None), "channels", None)
        if _is_count(channels):
            return Declared(channels, "model.preprocessing")
    model = unwrap(model)
    inner = getattr(model, "timm_model", None)
    for owner, path in ((model, "model"), (inner, "model.timm_model")):
        if _is_count(channels := getattr(owner, "in_chans", None)):
            return Declared(channels, f"{path}.in_chans")
    for value, path in _settings(getattr(model, "config", None), ("num_channels", "in_chans"), "model.config"):
        if _is_count(value):
            return Declared(value, path)
    return _first_convolution(model)


def _first_convolution(model: nn.Module) -> Declared[int] | None:
    """The channels that the first convolution of a model takes, in the order in which the modules are registered."""
    layers = [(name, layer) for name, layer in model.named_modules() if _is_convolution(layer)]
    if not layers:
        return None
    name, first = layers[0]
    taken, source = first.in_channels, f"model.{name}" if name else "model"
    for module in itertools.takewhile(lambda module: module is not first, model.modules()):
        if any(word in type(module).__name__.lower() for word in ("pixelunshuffle", "spacetodepth", "focus")):
            sides = (getattr(module, name, None) for name in ("downscale_factor", "block_size", "bs"))
            area = next((side**2 for side in sides if _is_count(side)), taken // DEFAULT_CHANNELS)
            return Declared(taken // area, f"{source} after {type(module).__name__}") if taken % area == 0 else None
    if taken not in (1, DEFAULT_CHANNELS):  # registered first is not called first, if only another takes a picture
        makes_colours = any(getattr(layer, "out_channels", 0) == DEFAULT_CHANNELS for _, layer in layers)
        if not makes_colours and (other := next((n for n, c in layers if c.in_channels == DEFAULT_CHANNELS), None)):
            return Declared(DEFAULT_CHANNELS, f"model.{other}")
    return Declared(taken, source)


def _is_convolution(layer: nn.Module) -> bool:
    """Whether a module is a convolution over images, also a quantised one."""
    kernel = getattr(layer, "kernel_size", None)
    return _is_count(getattr(layer, "in_channels", None)) and isinstance(kernel, tuple) and len(kernel) == 2


def input_description(model: nn.Module) -> str:
    """The input that a model declares, as a clause for an error message; "" if it declares none.

    For example ``model.pretrained_cfg says 260x260, model.conv_stem takes 3 channels``.
    """
    size, channels = declared_size(model), declared_channels(model)
    clauses = []
    if size is not None:
        clauses.append(f"{size.source} says {size.value[0]}x{size.value[1]}")
    if channels is not None:
        clauses.append(f"{channels.source} says {channels.value} channel{'s' * (channels.value > 1)}")
    return ", ".join(clauses)


# -------------------------------------------------------------------------------------------------- tokens and classes


_TOKENS = frozenset({
    "cls_token", "class_token", "class_embedding", "dist_token", "distillation_token", "reg_token", "register_tokens",
    "cls_register_token",
})  # fmt: skip


def prefix_tokens(model: nn.Module) -> int | None:
    """The number of tokens a transformer puts before those of the image's patches.

    timm's `num_prefix_tokens`, else the learned class, distillation and register tokens that one module holds.

    Args:
        model: Any module; wrappers are looked through.

    Returns:
        The number, or None if the model has no such tokens and declares nothing.

    Note:
        Some models add their class token only in the last blocks (CaiT, XCiT, CvT); the number is what they have there.
    """
    model = unwrap(model)
    for module in model.modules():
        value = getattr(module, "num_prefix_tokens", None)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        held = [p for name, p in module._parameters.items() if name in _TOKENS and p is not None]
        if held:
            return sum(p.shape[-2] if p.ndim > 1 else 1 for p in held)
    return None


def reductions(model: nn.Module) -> set[int]:
    """By how much a model reduces height and width of its input, at the levels it declares.

    Args:
        model: Any module.

    Returns:
        timm's `feature_info` reductions, or the patch size of a Hugging Face configuration and, for models of several
        levels, its doubles; empty where nothing is declared.
    """
    found: set[int] = set()
    info = getattr(model, "feature_info", None)
    for level in getattr(info, "info", info) or ():
        value = level.get("reduction") if isinstance(level, Mapping) else None
        if _is_count(value):
            found.add(int(value))  # type: ignore[arg-type]
    for size, _ in _settings(getattr(model, "config", None), ("patch_size",), "config"):
        if _is_count(size):
            depths = getattr(getattr(model, "config", None), "depths", None)
            found |= {int(size) << level for level in range(len(depths) if isinstance(depths, (list, tuple)) else 1)}
    return found


def class_count(model: nn.Module) -> int | None:
    """The number of classes a model declares.

    timm's and torchvision's `num_classes`, else `config.num_labels` of a Hugging Face model with a layer of that many
    outputs (their configurations count two labels where there are none).

    Args:
        model: Any module; wrappers are looked through.

    Returns:
        The number; 0 if the model declares that it has no classifier; None if it declares nothing.
    """
    model = unwrap(model)
    count = getattr(model, "num_classes", None)
    if isinstance(count, int) and not isinstance(count, bool) and count >= 0:
        return count
    labels = getattr(getattr(model, "config", None), "num_labels", None)
    if not _is_count(labels):
        return None
    outputs = (getattr(m, "out_features", getattr(m, "out_channels", None)) for m in model.modules())
    return labels if labels in outputs else None


# --------------------------------------------------------------------------------------------------------------- place


_COMPUTED_IN = frozenset({torch.float32, torch.float64, torch.float16, torch.bfloat16})


def device_and_dtype(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where a model's images belong and in which precision.

    Args:
        model: Any module.

    Returns:
        Device and dtype of the first floating point parameter, else buffer. Without one, as in a quantised model, the
        device of the first parameter or buffer of any dtype, else the CPU, and float32. 8-bit floats count as other
        dtypes: nothing is computed in them. The device of a model that holds no values is ``meta``.
    """
    tensors = list(itertools.chain(model.parameters(), model.buffers()))
    for tensor in tensors:
        if tensor.dtype in _COMPUTED_IN:
            return tensor.device, tensor.dtype
    return tensors[0].device if tensors else torch.device("cpu"), torch.float32
