"""The parts that rules are made of: an operation with a backward of its own, and sums by image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..methods.common import working

Back: TypeAlias = "Callable[[Tensor], tuple[Tensor, ...]]"
"""From the gradient on a result to those on the inputs."""

Run: TypeAlias = "Callable[..., tuple[Tensor, Back]]"
"""From inputs to a result and its backward."""


def live(value: Any) -> bool:
    """Whether a value takes part in the gradient."""
    return isinstance(value, Tensor) and value.requires_grad


def any_live(values: Any) -> bool:
    """Whether a tensor in nested lists, tuples and dicts takes part in the gradient."""
    for value in values:
        kind = type(value)
        if kind is list or kind is tuple:
            if any_live(value):
                return True
        elif kind is dict:
            if any_live(value.values()):
                return True
        elif isinstance(value, Tensor) and value.requires_grad:
            return True
    return False


def map_tensors(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """Nested lists, tuples and dicts with their tensors replaced."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, (list, tuple)):
        parts = [map_tensors(v, function) for v in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, dict):
        return {k: map_tensors(v, function) for k, v in value.items()}
    return value


class Linearised(torch.autograd.Function):
    """An operation whose backward is given with it.

    Its first argument takes the inputs and returns the result and a function from the gradient on it to those on the
    inputs. What that function needs is kept as it is, so that no later operation may write to it.
    """

    @staticmethod
    def forward(ctx: Any, run: Run, *inputs: Tensor) -> Any:
        """The result of the operation."""
        out, ctx.back = run(*inputs)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """The gradients that the rule gives."""
        return None, *ctx.back(gradient)


class Shared(torch.autograd.Function):
    """A copy of an operand that gets a fraction of its gradient."""

    @staticmethod
    def forward(ctx: Any, operand: Tensor, fraction: float) -> Tensor:
        """The operand."""
        ctx.fraction = fraction
        return operand.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """A fraction of the gradient."""
        return gradient * ctx.fraction, None


def total(values: Tensor) -> Tensor:
    """Sums over the last axis, in float64; groups of at most 16 are added one by one, which is quicker."""
    values, count = working(values), values.shape[-1]
    group = next((k for k in (16, 8, 7, 4, 2) if count % k == 0), 1) if count > 512 else 1
    if group > 1 and values.dtype != torch.float64:
        values = values.unflatten(-1, (group, count // group)).sum(-2)
    return values.sum(-1, dtype=torch.float64)


def images_first(gradient: Tensor, images: int) -> Tensor:
    """Brings (N, B, ...) or (N * B, ...), as inside `nn.MultiheadAttention`, into (B, N, ...)."""
    if gradient.ndim > 2 and gradient.shape[1] == images:
        return gradient.transpose(0, 1)
    return gradient.unflatten(0, (-1, images)).transpose(0, 1) if gradient.shape[0] % images == 0 else gradient


def by_image(gradient: Tensor, constant: Any, images: int) -> Tensor | None:
    """Sums <g, c> for every image, in float64.

    Args:
        gradient: (B, ...), (B * n, ...) with an image's rows together, or one with the images along another axis.
        constant: What is broadcast to it, or a number.
        images: Number of images B.

    Returns:
        (B,), or None where no axis can be that of the images.
    """
    if gradient.ndim == 0:
        gradient = gradient[None]
    sizes = list(gradient.shape)
    axis = 0 if sizes[0] % images == 0 else (sizes.index(images) if images in sizes else None)
    if axis is None:
        return None
    if not isinstance(constant, Tensor):
        times: Tensor = total(gradient.movedim(axis, 0).reshape(images, -1)) * constant
        return times
    fixed = constant.double()
    fixed = fixed.reshape([1] * (gradient.ndim - fixed.ndim) + list(fixed.shape))
    over = [i for i in range(gradient.ndim) if i != axis and fixed.shape[i] == 1 and gradient.shape[i] > 1]
    if over and over[-1] == gradient.ndim - 1 and len(over) == gradient.ndim - over[0] and gradient.is_contiguous():
        gradient = total(gradient.flatten(over[0])).reshape(gradient.shape[: over[0]] + (1,) * len(over))
    elif over:
        gradient = working(gradient).sum(over, keepdim=True)
    gradient, fixed = gradient.movedim(axis, 0).double(), fixed.movedim(axis, 0)
    rows = (gradient * fixed).reshape(len(gradient), -1).sum(1)
    return rows.reshape(images, -1).sum(1)
