"""Facts read off a model: what it wraps, the input it takes, its prefix tokens, its classes, its device and dtype.

No model is run, and nothing is imported that the model itself does not come from: torchvision is consulted only for
models of torchvision's own classes. A fact that no part of a model declares is None, or a default whose source is None,
so that an error message never claims that "the model says" what nothing says.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .configurations import Declared, as_size, is_count, processor_size, settings, timm_config
from .detectors import detector_classes, detector_size, is_detector
from .published import torchvision_weights

DEFAULT_SIZE = (224, 224)
"""Height and width in pixels that are assumed of a model that declares none."""

DEFAULT_CHANNELS = 3
"""Number of channels that is assumed of a model that declares none."""

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
        torchvision's models do not keep which weights they carry. The newest ones of the architecture are assumed;
        where those of a family differ and the number of parameters does not decide, the result is None.
    """
    for outer in wrapped(model):
        if (found := _set_size(outer, "model")) is not None:
            return found
    model = unwrap(model)
    if (size := detector_size(model)) is not None:
        return Declared(size, "model.transform")
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
    """What a Hugging Face, timm or torchvision model declares, or None for any other model."""
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
    for value, where in settings(config, ("image_size", "img_size"), f"{path}.config"):
        if (size := as_size(value)) is not None:
            return Declared(size, where)
    known = torchvision_weights(model)
    return (_built_size(model, path) or _weights_size(model, known)) if known else None


def _built_size(model: nn.Module, path: str) -> Declared[tuple[int, int]] | None:
    """The size a model was built for, or later set to (timm's `img_size=` and `set_input_size`), if it keeps it."""
    stems = [
        (f"{path}.{name}", part)
        for name, part in model.named_children()
        if "embed" in name or name in ("stem", "visual")
    ]
    for where, part in [(path, model), *stems]:
        first = part[0] if isinstance(part, nn.ModuleList) and len(part) else part
        for name in ("img_size", "image_size"):
            if (size := as_size(getattr(first, name, None))) is not None:
                return Declared(size, f"{where}.{name}")
    return None


def _weights_size(model: nn.Module, known: list[Any]) -> Declared[tuple[int, int]] | None:
    presets = [weights.transforms() for weights in known]  # those of segmenters resize, and cut nothing
    sizes = {as_size(getattr(preset, "crop_size", None) or preset.resize_size) for preset in presets}
    size = sizes.pop() if len(sizes) == 1 else None
    if size is None:
        return None
    named = str(known[0]) if len(known) == 1 else f"each of torchvision's weights for {type(model).__name__}"
    return Declared(size, named)


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
        if is_count(channels):
            return Declared(channels, "model.preprocessing")
    model = unwrap(model)
    inner = getattr(model, "timm_model", None)
    for owner, path in ((model, "model"), (inner, "model.timm_model")):
        if is_count(channels := getattr(owner, "in_chans", None)):
            return Declared(channels, f"{path}.in_chans")
    for value, path in settings(getattr(model, "config", None), ("num_channels", "in_chans"), "model.config"):
        if is_count(value):
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
            area = next((side**2 for side in sides if is_count(side)), taken // DEFAULT_CHANNELS)
            return Declared(taken // area, f"{source} after {type(module).__name__}") if taken % area == 0 else None
    if taken not in (1, DEFAULT_CHANNELS):  # registered first is not called first, if only another takes a picture
        makes_colours = any(getattr(layer, "out_channels", 0) == DEFAULT_CHANNELS for _, layer in layers)
        if not makes_colours and (other := next((n for n, c in layers if c.in_channels == DEFAULT_CHANNELS), None)):
            return Declared(DEFAULT_CHANNELS, f"model.{other}")
    return Declared(taken, source)


def _is_convolution(layer: nn.Module) -> bool:
    """Whether a module is a convolution over images, also a quantised one."""
    kernel = getattr(layer, "kernel_size", None)
    return is_count(getattr(layer, "in_channels", None)) and isinstance(kernel, tuple) and len(kernel) == 2


def declared_frames(model: nn.Module) -> int | None:
    """The number of frames that a model of videos declares, as Hugging Face's do, which take frames first; or None."""
    config = getattr(unwrap(model), "config", None)
    return next((int(value) for value, _ in settings(config, ("num_frames",), "config") if is_count(value)), None)


def is_multi_label(model: nn.Module) -> bool:
    """Whether several classes of a model may be true at once: it says `multi_label`, or its configuration does."""
    for each in (*wrapped(model), unwrap(model)):
        own = getattr(each, "multi_label", None)
        if isinstance(own, bool):
            return own
    return getattr(getattr(unwrap(model), "config", None), "problem_type", None) == "multi_label_classification"


def clip_channels(model: nn.Module) -> int | None:
    """The number of channels of the videos or volumes that a model takes; None where it takes pictures."""
    model = unwrap(model)
    if declared_frames(model):
        return input_channels(model)
    for layer in model.modules():
        kernel, channels = getattr(layer, "kernel_size", None), getattr(layer, "in_channels", None)
        if is_count(channels) and isinstance(kernel, tuple):
            return channels if len(kernel) == 3 else None
    return None


def frames_first(model: nn.Module, shape: Sequence[int]) -> bool:
    """Whether a video is given to a model as (B, T, C, H, W) rather than (B, C, T, H, W).

    Args:
        model: Any module.
        shape: Shape of one input, (T, C, H, W) or (C, T, H, W); one of a picture (C, H, W) has no frames.

    Note:
        Hugging Face's models of videos declare a number of frames and take them first. Of others the channels of the
        first convolution tell, where they fit one of the two axes alone.
    """
    if len(shape) != 4:
        return False
    if declared_frames(model):
        return True
    model = unwrap(model)
    layers = (m for m in model.modules() if hasattr(m, "kernel_size") and is_count(getattr(m, "in_channels", None)))
    channels = getattr(next(layers, None), "in_channels", None)
    return channels is not None and shape[0] != channels == shape[1]


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
    config = getattr(unwrap(model), "config", None)
    found = settings(config, ("num_frames",), "model.config")
    clauses += [f"{where} says {count} frames" for count, where in found if is_count(count)][:1]
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
        if is_count(value):
            found.add(int(value))
    for size, _ in settings(getattr(model, "config", None), ("patch_size",), "config"):
        if is_count(size):
            depths = getattr(getattr(model, "config", None), "depths", None)
            found |= {int(size) << level for level in range(len(depths) if isinstance(depths, (list, tuple)) else 1)}
    return found


def declared_class_count(model: nn.Module) -> int | None:
    """The number of classes a model declares.

    timm's and torchvision's `num_classes`, else `config.num_labels` of a Hugging Face model with a layer of that many
    outputs (their configurations count two labels where there are none).

    Args:
        model: Any module; wrappers are looked through.

    Returns:
        The number; 0 if the model declares that it has no classifier; None if it declares nothing.
    """
    model = unwrap(model)
    if is_detector(model):
        return detector_classes(model)
    count = getattr(model, "num_classes", None)
    if isinstance(count, int) and not isinstance(count, bool) and count >= 0:
        return count
    labels = getattr(getattr(model, "config", None), "num_labels", None)
    outputs = (getattr(m, "out_features", getattr(m, "out_channels", None)) for m in model.modules())
    return labels if is_count(labels) and labels in outputs else None


def class_count(model: nn.Module) -> int | None:
    """The number of classes a model declares, else the outputs of its last layer; None if it has no classifier."""
    model = unwrap(model)
    count = declared_class_count(model)
    if count is None:
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                count = module.out_features if isinstance(module, nn.Linear) else module.out_channels
    return count or None


# --------------------------------------------------------------------------------------------------------------- place


_COMPUTED_IN = frozenset({torch.float32, torch.float64, torch.float16, torch.bfloat16})


def matched_to(model: nn.Module, images: Tensor) -> Tensor:
    """Images on the device and of the dtype of a model's first floating point parameter, unchanged without one."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    return images if weight is None else images.to(device=weight.device, dtype=weight.dtype)


def device_and_dtype(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """The device and the dtype that a model's images have to have.

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
