"""What the methods share: their error and their working precision."""

from __future__ import annotations

import torch
from torch import Tensor

NARROW = (torch.float16, torch.bfloat16)


class MethodError(ValueError):
    """A method cannot be applied to this model, cut or activation; the message says why and what fits."""


def working(tensor: Tensor) -> Tensor:
    """Reads a tensor in the precision the methods compute in: half precisions as float32, the others as they are."""
    return tensor.float() if tensor.dtype in NARROW else tensor


def away_from_zero(tensor: Tensor, floor: Tensor | float) -> Tensor:
    """Raises magnitudes to at least `floor` and keeps the signs (zero counts as positive): a denominator."""
    magnitude = torch.maximum(tensor.abs(), torch.as_tensor(floor, dtype=tensor.dtype, device=tensor.device))
    return torch.where(tensor < 0, -magnitude, magnitude)
