"""Checks of arguments: each returns the value in the type the package works with, or raises an error with a remedy.

torch is imported only by the checks of images and models, so that drawing pictures does not need it.
"""

from __future__ import annotations

import difflib
import math
import numbers
import operator
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, overload

from .errors import GradCamError, InputError, LayerError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn


class ArgumentTypeError(GradCamError, TypeError):
    """An argument is of a type that the function does not take."""


# ------------------------------------------------------------------------------------------------------------- numbers


def is_index(value: Any) -> bool:
    """Whether a value is a whole number: an int, numpy's integers, a 0-d array or tensor; not a bool."""
    if isinstance(value, numbers.Integral):
        return not isinstance(value, bool)
    scalar = getattr(value, "ndim", None) == 0 and "int" in str(getattr(value, "dtype", ""))
    return scalar and not getattr(value, "is_meta", False)


def as_index(value: Any, name: str, *, least: int | None = None) -> int:
    """Reads a whole number.

    Args:
        value: What the caller gave; an int, a numpy integer or a 0-d tensor; not a bool or a float.
        name: Name of the argument.
        least: Smallest number allowed; None allows all.

    Raises:
        ArgumentTypeError: It is not a whole number.
        GradCamError: It is smaller than `least`.
    """
    if not is_index(value):
        raise ArgumentTypeError(
            f"{name}={_short(value)} is not a whole number", type(value).__name__, f"give an integer, such as {name}=2"
        )
    index = operator.index(value)
    if least is not None and index < least:
        raise GradCamError(f"{name}={index} is too small", remedy=f"give {least} or more")
    return index


def as_number(
    value: Any, name: str, low: float = -math.inf, high: float = math.inf, *, what: str = "a number", remedy: str = ""
) -> float:
    """Reads a finite number in a range.

    Args:
        value: What the caller gave: an int, a float, numpy's numbers, a 0-d array or tensor; not a bool.
        name: Name of the argument.
        low: Smallest number allowed.
        high: Largest number allowed.
        what: What the number has to be, with an article, for the error.
        remedy: What to give instead; by default a number in the range.

    Raises:
        ArgumentTypeError: It is not a number.
        GradCamError: It is NaN, infinite or out of range.
    """
    remedy = remedy or f"give a number from {low:g} to {high:g}"
    scalar = getattr(value, "ndim", None) == 0 and "bool" not in str(getattr(value, "dtype", ""))
    if isinstance(value, (bool, complex)) or not (isinstance(value, numbers.Real) or scalar):
        raise ArgumentTypeError(f"{name}={_short(value)} is not {what}", type(value).__name__, remedy)
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):  # text or complex numbers in an array, a tensor without values
        raise ArgumentTypeError(f"{name}={_short(value)} is not {what}", type(value).__name__, remedy) from None
    if not (math.isfinite(number) and low <= number <= high):
        raise GradCamError(f"{name}={_short(value)} is not {what}", remedy=remedy)
    return number


def check_fraction(value: Any, name: str, *, below_one: bool = False) -> float:
    """Reads a number from 0 to 1.

    Args:
        value: What the caller gave.
        name: Name of the argument.
        below_one: Whether 1 itself is refused, as for a threshold, above which nothing would be left.

    Raises:
        ArgumentTypeError: It is not a number.
        GradCamError: It is out of range.
    """
    remedy = f"give a number from 0 up to{', not' if below_one else ''} 1"
    high = math.nextafter(1.0, 0.0) if below_one else 1.0
    return as_number(value, name, 0.0, high, what="a fraction", remedy=remedy)


# -------------------------------------------------------------------------------------------------------------- layers


@overload
def as_layer(value: SupportsIndex | str | nn.Module, name: str = "layer") -> int | str | nn.Module: ...
@overload
def as_layer(value: Any, name: str = "layer") -> int | str | nn.Module | None: ...
def as_layer(value: Any, name: str = "layer") -> int | str | nn.Module | None:
    """Reads what a caller gives for one layer; whether the model has it is not checked.

    Args:
        value: A layer_idx, a module path, a module, or None for the default.
        name: Name of the argument.

    Returns:
        The same, whole numbers as int.

    Raises:
        ArgumentTypeError: It is none of these.
        LayerError: It is an empty path.
    """
    if is_index(value):
        return operator.index(value)
    if isinstance(value, str):
        if not value.strip():
            raise LayerError(
                f"{name}={value!r} names no layer", remedy=f"give a module path, or {name}=None for the default"
            )
        return value
    if value is None or _is_module(value):
        found: nn.Module | None = value
        return found
    raise ArgumentTypeError(
        f"{name}={_short(value)} is not a layer", type(value).__name__,
        "give a whole number (layer_idx), a module path or a module of the model",
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------- images and models


def check_images(images: Any) -> Tensor:
    """Checks a batch of images, except for its number of channels, its size and whether its values are finite.

    Args:
        images: What the caller gave.

    Returns:
        The same.

    Raises:
        ArgumentTypeError: It is not a tensor.
        InputError: It is not (B, C, H, W), or (B, C, T, H, W) of videos and volumes, is empty, or holds no floating
            point numbers that can be computed with.
    """
    import torch

    if not isinstance(images, torch.Tensor):
        stack = isinstance(images, (list, tuple)) and images and all(isinstance(i, torch.Tensor) for i in images)
        array = type(images).__module__ == "numpy"
        raise ArgumentTypeError(
            "images must be a tensor (B, C, H, W)", type(images).__name__,
            "give torch.stack(images)" if stack
            else "give torch.from_numpy(images), or use grad_cam.GradCAM for a picture" if array
            else "for files and pictures use grad_cam.GradCAM",
        )  # fmt: skip
    given = f"{images.dtype}, shape {'?' if images.is_nested else tuple(images.shape)}"
    if images.is_nested:
        raise InputError("images must be one tensor (B, C, H, W), not a nested one", given, "bring them to one size")
    if images.layout is not torch.strided:
        raise InputError(f"images must be dense, not {images.layout}", given, "give images.to_dense()")
    if images.is_meta:
        raise InputError("images on the meta device hold no values", given, "give a batch on the CPU or a GPU")
    if images.ndim not in (4, 5) or 0 in images.shape:
        remedy = "add the batch axis with images[None]" if images.ndim == 3 and images.numel() else ""
        raise InputError(
            "images must be a batch (B, C, H, W), or (B, C, T, H, W)", f"shape {tuple(images.shape)}", remedy
        )
    if images.dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        remedy = "give images.dequantize()" if images.is_quantized else "give images.float()"
        if images.dtype is torch.uint8:
            remedy = "give images.float() / 255, normalised"
        raise InputError("images must be floating point and normalised as the model expects", given, remedy)
    return images


def check_model(model: Any) -> nn.Module:
    """Checks that something is a model whose parameters hold values.

    Args:
        model: What the caller gave.

    Returns:
        The same.

    Raises:
        ArgumentTypeError: It is not a module.
        GradCamError: Its parameters are on the meta device, or were never initialised.
    """
    import torch
    from torch import nn
    from torch.nn.parameter import is_lazy

    if not isinstance(model, nn.Module):
        remedy = "give the network itself"
        if isinstance(model, str):
            remedy = f"build it first, for example with grad_cam.loading.load({model!r})"
        elif isinstance(model, type) and issubclass(model, nn.Module):
            remedy = f"make one: {model.__name__}(...)"
        elif isinstance(model, torch.Tensor):
            remedy = "give the model first, then the images"
        elif isinstance(model, dict):
            remedy = "build the network and load these weights with load_state_dict"
        raise ArgumentTypeError("model must be a torch.nn.Module", _kind(model), remedy)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise GradCamError(
                "the model has lazy parameters without a shape", f"such as '{name}'", "run it once on a batch first"
            )
        if tensor.device == torch.device("meta"):
            raise GradCamError(
                "the model holds no values", f"'{name}' is on the meta device",
                "load its weights with load_state_dict(..., assign=True), or build it outside of torch.device('meta')",
            )  # fmt: skip
    return model


def _is_module(value: Any) -> bool:
    return any(
        base.__module__ == "torch.nn.modules.module" and base.__name__ == "Module" for base in type(value).__mro__
    )


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _short(value: Any) -> str:
    """A value on one line, cut where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else f"{text[:37]}..."


# ---------------------------------------------------------------------------------------------------------------- maps


def canonical(name: str) -> str:
    """The name or title of a method as names are compared: capitals, hyphens, blanks and underscores do not matter."""
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("+", "plus"))


def slug(text: str, length: int = 80) -> str:
    """A text as part of a file name: letters of any script, digits, `_` and `.`, and hyphens for everything else."""
    return re.sub(r"[^\w.]+", "-", text).strip("-.")[:length].rstrip("-.") or "image"


def as_maps(maps: Any) -> NDArray[np.float64]:
    """Reads raw maps (..., h, w), arrays or tensors of any device and dtype: finite and not empty."""
    import numpy as np

    raw = as_array(maps)
    if raw.dtype.kind not in "buif":
        raise ArgumentTypeError(
            "a map is made of real numbers", str(raw.dtype), "give a float array or tensor (..., h, w)"
        )
    raw = raw.astype(np.float64, copy=False)
    if raw.ndim < 2 or 0 in raw.shape:
        raise GradCamError("a map has a height and a width", f"got shape {raw.shape}", "give (..., h, w)")
    bad = raw.size - np.count_nonzero(np.isfinite(raw))
    if bad:
        raise GradCamError(
            f"{bad} of {raw.size} values of the map are NaN or infinite",
            remedy="look for them in the model's weights, the input, or a computation in half precision",
        )
    return raw


def as_array(values: Any) -> NDArray[Any]:
    """Returns an array or a tensor of any device and dtype as numpy, without importing torch."""
    import numpy as np

    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.double().numpy() if values.is_floating_point() else values.numpy()
    return np.asarray(values)


# ---------------------------------------------------------------------------------------------------------------- names


def closest(name: str, names: Iterable[str]) -> str:
    """A suggestion of the names closest to one ("did you mean ...?"); "" if none is close."""
    lowered: dict[str, str] = {}
    for each in names:
        lowered.setdefault(each.casefold(), each)
    key = name.casefold()
    close = difflib.get_close_matches(key, lowered, n=3, cutoff=0.6)
    close += [each for each in lowered if key in each and each not in close and len(key) > 2][: 3 - len(close)]
    return f"did you mean {' or '.join(repr(lowered[each]) for each in close)}?" if close else ""


_AT_THE_CUT = frozenset({"activations", "gradients", "tail_gradient", "noisy_gradients", "cam", "tail"})
_OF_THE_NETWORK = frozenset({
    "whole_score", "attention", "attention_reading", "attention_gradients", "block_attention", "block_gradients",
})  # fmt: skip


def scope_of(ingredients: Iterable[str]) -> Literal["layer", "input", "network"]:
    """What a method with these ingredients reads: the activation at a cut, the whole network, or images alone."""
    names = set(ingredients)
    if names & _AT_THE_CUT:
        return "layer"
    return "network" if names & _OF_THE_NETWORK else "input"
