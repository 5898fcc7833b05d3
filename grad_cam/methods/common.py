"""The error and the working precision that all methods share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from ..errors import GradCamError

_Options = ParamSpec("_Options")
_Result = TypeVar("_Result")

NARROW = (torch.float16, torch.bfloat16)
INSTEAD_OF_ATTENTION = "use grad_cam, hires_cam, layer_cam or eigen_cam instead"


class MethodError(GradCamError):
    """A method cannot be applied to this model, cut or activation; the message says why and what fits."""


def working(tensor: Tensor) -> Tensor:
    """Reads a tensor in the precision the methods compute in: half precisions as float32, the others as they are."""
    return tensor.float() if tensor.dtype in NARROW else tensor


def away_from_zero(tensor: Tensor, floor: Tensor | float) -> Tensor:
    """Raises magnitudes to at least `floor` and keeps the signs (zero counts as positive): a denominator."""
    magnitude = torch.maximum(tensor.abs(), torch.as_tensor(floor, dtype=tensor.dtype, device=tensor.device))
    return torch.where(tensor < 0, -magnitude, magnitude)


def weighted_sum(weights: Tensor, activations: Tensor) -> Tensor:
    """sum_k w_k A_k: (B, C) and (B, C, H, W) to (B, H, W)."""
    return (weights[:, :, None, None] * activations).sum(1)  # no matmul: autocast would round it to half precision


def without_autocast(
    function: Callable[Concatenate[Tensor, _Options], _Result],
) -> Callable[Concatenate[Tensor, _Options], _Result]:
    """Keeps the matrix products of a function in the precision of its tensors inside a caller's `torch.autocast`."""

    @functools.wraps(function)
    def wrapped(tensor: Tensor, /, *args: _Options.args, **options: _Options.kwargs) -> _Result:
        with torch.autocast(tensor.device.type, enabled=False):
            return function(tensor, *args, **options)

    return wrapped
