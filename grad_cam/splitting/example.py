"""The batch that a model is recorded on where the user gives none, or a size alone."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..introspection import device_and_dtype, input_channels, input_size


def example_images(model: nn.Module, example: Any) -> Tensor:
    """The batch to record a model on."""
    device, dtype = device_and_dtype(model)
    if isinstance(example, Tensor):
        if example.ndim not in (4, 5) or 0 in example.shape:
            raise InputError(f"example must be a batch (B, C, H, W), got a tensor of shape {tuple(example.shape)}")
        images = example.detach().to(device=device, dtype=dtype)
        return images.clone() if images.is_inference() else images
    if example is None:
        size: Any = input_size(model)
    elif isinstance(example, (tuple, list)):
        size = example
    else:
        size = (example, example)
    try:
        sizes = tuple(operator.index(n) for n in size)
        if isinstance(example, bool) or len(sizes) not in (2, 3):
            raise TypeError
    except TypeError:
        raise TypeError(f"example must be a batch (B, C, H, W), a size (H, W) or None, got {example!r}") from None
    if min(sizes) < 1:
        raise ValueError(f"example={example!r} is not a size; give (height, width) in pixels")
    shape = (2, *(sizes if len(sizes) == 3 else (input_channels(model), *sizes)))
    if math.prod(shape) > 2**29:
        raise InputError(f"example={example!r} is too large a size", f"{math.prod(shape):.1e} numbers", "example=224")
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device=device, dtype=dtype)
