"""The rules of normalisations: what scales counts as a constant, means are linear, shifts are the constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..methods.common import working
from .functions import Args, Options, argument
from .linear import Back, Linearised

if TYPE_CHECKING:
    from .balanced import Balanced


def layer_norm(mode: Balanced, func: Any, args: Args, kwargs: Options) -> Any:
    """For y = w (x - mean) / std + b: g_x = (w g - mean(w g)) / std; std counts as a constant, the constant is b."""
    shape = argument(args, kwargs, 1, "normalized_shape")
    weight, bias = (_fixed(argument(args, kwargs, i, n)) for i, n in ((2, "weight"), (3, "bias")))
    eps = argument(args, kwargs, 4, "eps", 1e-5)
    axes = tuple(range(-len(shape), 0))

    def run(x: Tensor) -> tuple[Tensor, Back]:
        if torch.is_autocast_enabled(x.device.type):
            out = func(x, shape, weight, bias, eps)
            scale = _spread(x, axes, eps)
        else:
            out, _, scale = torch.native_layer_norm(x, shape, weight, bias, eps)

        def back(g: Tensor) -> tuple[Tensor, ...]:
            wide = working(g.clone() if weight is None else g * weight)
            return (wide.sub_(wide.mean(axes, keepdim=True)).mul_(scale).to(x.dtype),)  # in place: no fresh memory

        return out, back

    out = Linearised.apply(run, args[0])
    if bias is not None:
        mode.constant(out, bias, func)
    return out


def group_norm(mode: Balanced, func: Any, args: Args, kwargs: Options) -> Any:
    """As `layer_norm`, over groups of channels."""
    groups = argument(args, kwargs, 1, "num_groups")
    weight, bias = (_fixed(argument(args, kwargs, i, n)) for i, n in ((2, "weight"), (3, "bias")))
    eps = argument(args, kwargs, 4, "eps", 1e-5)
    return _by_channels(mode, func, args, kwargs, weight, bias, groups, eps)


def instance_norm(mode: Balanced, func: Any, args: Args, kwargs: Options) -> Any:
    """As `layer_norm`, over the positions of each channel; as `batch_norm` with running statistics."""
    weight, bias, mean, variance = (_fixed(a) for a in args[1:5])
    if not args[5]:
        return _by_statistics(mode, func, args, weight, bias, mean, variance, args[7])
    return _by_channels(mode, func, args, kwargs, weight, bias, args[0].shape[1], args[7])


def _by_channels(
    mode: Balanced, func: Any, args: Args, kwargs: Options, weight: Tensor | None, bias: Tensor | None, groups: int,
    eps: float,
) -> Any:  # fmt: skip
    columns = [-1, *[1] * (args[0].ndim - 2)]
    weight = None if weight is None else weight.reshape(columns)

    def run(x: Tensor) -> tuple[Tensor, Back]:
        grouped = (len(x), groups, -1)
        scale = _spread(x.reshape(grouped), (-1,), eps)

        def back(g: Tensor) -> tuple[Tensor, ...]:
            wide = working(g if weight is None else g * weight).reshape(grouped)
            wide = (wide - wide.mean(-1, keepdim=True)) * scale
            return (wide.reshape(x.shape).to(x.dtype),)

        return func(x, *args[1:], **kwargs), back

    out = Linearised.apply(run, args[0])
    if bias is not None:
        mode.constant(out, bias.reshape(columns), func)
    return out


def rms_norm(mode: Balanced, func: Any, args: Args, kwargs: Options) -> Any:
    """For y = w x / rms: g_x = w g / rms; the root mean square counts as a constant."""
    shape = argument(args, kwargs, 1, "normalized_shape")
    weight, eps = _fixed(argument(args, kwargs, 2, "weight")), argument(args, kwargs, 3, "eps")
    axes = tuple(range(-len(shape), 0))

    def run(x: Tensor) -> tuple[Tensor, Back]:
        small = torch.finfo(x.dtype).eps if eps is None else eps
        scale = (working(x).square().mean(axes, keepdim=True) + small).rsqrt()

        def back(g: Tensor) -> tuple[Tensor, ...]:
            return ((working(g if weight is None else g * weight) * scale).to(x.dtype),)

        return func(x, shape, weight, eps), back

    return Linearised.apply(run, args[0])


def batch_norm(mode: Balanced, func: Any, args: Args, kwargs: Options) -> Any:
    """With running statistics y = w (x - m) / s + b: g_x = g w / s; the constant is b - w m / s.

    Without them, as `layer_norm` over batch and positions.
    """
    _, weight, bias, mean, variance, training = (_fixed(a) for a in args[:6])
    eps = args[7]
    if not training:
        return _by_statistics(mode, func, args, weight, bias, mean, variance, eps)
    columns = [-1, *[1] * (args[0].ndim - 2)]
    axes = (0, *range(2, args[0].ndim))

    def run(x: Tensor) -> tuple[Tensor, Back]:
        scale = _spread(x, axes, eps)

        def back(g: Tensor) -> tuple[Tensor, ...]:
            wide = working(g if weight is None else g * weight.reshape(columns))
            return (((wide - wide.mean(axes, keepdim=True)) * scale).to(x.dtype),)

        return func(x, *args[1:]), back

    out = Linearised.apply(run, args[0])
    if bias is not None:
        mode.constant(out, bias.reshape(columns), func)
    return out


def _by_statistics(
    mode: Balanced, func: Any, args: Args, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor,
    eps: float,
) -> Any:  # fmt: skip
    columns = [-1, *[1] * (args[0].ndim - 2)]
    scale = 1 / (working(variance) + eps).sqrt()  # as the kernel rounds: an error here is the same at every position
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    factor = scale.reshape(columns)

    def run(x: Tensor) -> tuple[Tensor, Back]:
        return func(x, *args[1:]), lambda g: ((g * factor).to(x.dtype),)

    out = Linearised.apply(run, args[0])
    mode.constant(out, shift.reshape(columns), func)
    return out


def _fixed(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _spread(x: Tensor, axes: Sequence[int], eps: float) -> Tensor:
    """The value of 1 / std."""
    return (torch.var(working(x), tuple(axes), correction=0, keepdim=True) + eps).rsqrt()
