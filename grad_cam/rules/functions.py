"""The rules: how each kind of operation passes a score on to what it was computed from.

Every rule takes the mode, the operation and its arguments and returns what the operation returns, bit for bit. Where
PyTorch's own gradient already is the rule it returns `OWN`, and the operation is run as it is. In the formulas g is the
gradient on the result y; a rule is *balanced* if what it passes on adds up: sum <g_x, x> + <g, constant> = <g, y>.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from ..methods.common import working
from .linear import Back, Linearised, Shared, live, map_tensors

if TYPE_CHECKING:
    from .balanced import Balanced

Args: TypeAlias = "tuple[Any, ...]"
Options: TypeAlias = "dict[str, Any]"
Rule: TypeAlias = "Callable[[Balanced, Any, Args, Options], Any]"

OWN = object()
"""What a rule returns if PyTorch's own gradient is the rule."""


def argument(args: Args, kwargs: Options, place: int, name: str, default: Any = None) -> Any:
    """An argument that may be given by place or by name."""
    return args[place] if len(args) > place else kwargs.get(name, default)


def replaced(args: Args, kwargs: Options, place: int, name: str, value: Any) -> tuple[Args, Options]:
    """Arguments with one exchanged."""
    if len(args) > place:
        return (*args[:place], value, *args[place + 1 :]), kwargs
    return args, {**kwargs, name: value}


# --------------------------------------------------------------------------------------------- weights and their biases


def weighted(channel_axis: int | None) -> Rule:
    """Linear layers and convolutions, y = W x + b: g_x = W^T g, the constant is b.

    Args:
        channel_axis: Axis of the bias in the result; None for convolutions, whose result may have no batch axis.
    """

    def rule(mode: Balanced, func: Any, args: Args, kwargs: Options) -> Any:
        given, weight = argument(args, kwargs, 0, "input"), argument(args, kwargs, 1, "weight")
        bias = argument(args, kwargs, 2, "bias")
        if live(given) and live(weight):  # weights made from the image count as constants, as a gate does
            args, kwargs = replaced(args, kwargs, 1, "weight", weight.detach())
        out = func(*args, **kwargs)
        if bias is not None and not live(bias):
            trailing = 0 if channel_axis is not None else weight.ndim - 2
            mode.constant(out, bias.detach().reshape(-1, *[1] * trailing), func)
        return out

    return rule


def matrix_plus_product(mode: Balanced, func: Any, args: Args, kwargs: Options) -> Any:
    """For addmm, baddbmm, addcmul, y = c + a b: as the product of a and b; c is the constant, if it is one."""
    names = ("batch1", "batch2") if "bmm" in func.__name__ else ("mat1", "mat2")
    names = ("tensor1", "tensor2") if "addc" in func.__name__ else names
    factors = [argument(args, kwargs, i + 1, name) for i, name in enumerate(names)]
    divides = "div" in func.__name__
    if all(live(f) for f in factors):
        for i, name in enumerate(names):
            new = Shared.apply(factors[i], 0.5) if not divides else (factors[i] if i == 0 else factors[i].detach())
            args, kwargs = replaced(args, kwargs, i + 1, name, new)
    return affine(mode, func, args, kwargs)


def product(*places: int) -> Rule:
    """Products of n factors that depend on the image, y = a b: each gets 1/n of its gradient, g_a = g b / 2."""

    def rule(mode: Balanced, func: Any, args: Args, kwargs: Options) -> Any:
        count = sum(live(args[i]) for i in places if i < len(args)) + sum(live(v) for v in kwargs.values())
        if count < 2:
            return OWN
        out = func(*args, **kwargs)
        mode.scale(out, 1 / count)
        return out

    return rule


def einsum(mode: Balanced, func: Any, args: Args, kwargs: Options) -> Any:
    """Products by einsum: as `product`."""
    operands = args[1] if len(args) == 2 and isinstance(args[1], (list, tuple)) else args[1:]
    count = sum(live(o) for o in operands)
    if count < 2:
        return OWN
    out = func(*args, **kwargs)
    mode.scale(out, 1 / count)
    return out


def linear_but_for(place: int, name: str) -> Rule:
    """Operations that are linear once one argument counts as a constant: a divisor, or where a grid is read.

    For y = a / b this is g_a = g / b.
    """

    def rule(mode: Balanced, func: Any, args: Args, kwargs: Options) -> Any:
        given = argument(args, kwargs, place, name)
        if not live(given):
            return OWN
        args, kwargs = replaced(args, kwargs, place, name, given.detach())
        return func(*args, **kwargs)

    return rule


# ------------------------------------------------------------------------------------------------------------ additions


def addition(sign: float, turned: bool = False) -> Rule:
    """For y = a + b: both get g; a constant operand is the constant; with `residual`, see `residual_gradients`.

    Args:
        sign: Of the second operand.
        turned: Whether the sign is the first operand's (``1 - x``).
    """

    def rule(mode: Balanced, func: Any, args: Args, kwargs: Options) -> Any:
        one, two = args[0], argument(args, kwargs, 1, "other")
        second = sign * argument(args, kwargs, 2, "alpha", 1) if "alpha" in kwargs else sign
        signs = (second, 1.0) if turned else (1.0, second)
        if live(one) and live(two):
            if not mode.residual or one.shape != two.shape or one is two:
                return OWN
            return _residual(mode.residual, func, args, kwargs, signs)
        constant, scale = (two, signs[1]) if live(one) else (one, signs[0])
        if not isinstance(constant, Tensor) and constant == 0:
            return OWN
        out = func(*args, **kwargs)
        mode.constant(out, constant, func, scale)
        return out

    return rule


def residual_factors(one: Tensor, two: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """What a residual addition y = a + b multiplies the gradient by, for a and for b.

    With s = sign(y) and p(t) = t where s t > 0, else 0:

        g_a = g |y| (1 + gamma [s a > 0]) / (|y| + gamma (|p(a)| + |p(b)|)), and g_b alike.

    Then a g_a + b g_b = y g exactly, and |a g_a| + |b g_b| <= (1 + 2 / gamma) |y g|: two large branches that cancel
    pass on no more than their sum.

    Source:
        The bound is that of Berend et al., https://arxiv.org/abs/2609.17152.
    """
    total = one + two
    share = total.abs()  # in place from here on: fresh memory costs more than the arithmetic
    speaking = torch.maximum(one.abs(), two.abs())
    torch.maximum(speaking, share, out=speaking)  # |p(a)| + |p(b)|: |y| if both speak, else the larger one
    share.div_(speaking.mul_(gamma).add_(share)).nan_to_num_(nan=1.0)  # a = b = 0: the plain sum
    factors = [(part * total).sign_().relu_() for part in (one, two)]  # 1 where s a > 0, else 0
    for factor in factors:
        factor.mul_(gamma).add_(1).mul_(share)
    return factors[0], factors[1]


def _residual(gamma: float, func: Any, args: Args, kwargs: Options, signs: tuple[float, float]) -> Tensor:
    def run(one: Tensor, two: Tensor) -> tuple[Tensor, Back]:
        out = func(one, two, **kwargs)
        signed = [t if s == 1 else t * s for t, s in zip((one, two), signs, strict=True)]
        wide = [working(t) for t in signed]
        first, second = (f.to(out.dtype) for f in residual_factors(wide[0], wide[1], gamma))
        return out, lambda g: (g * first * signs[0], g * second * signs[1])

    summed: Tensor = Linearised.apply(run, args[0], argument(args, kwargs, 1, "other"))
    return summed


# ---------------------------------------------------------------------------------------------------------- activations


def through_zero(limit: float) -> Rule:
    """Activations with f(0) = 0, y = f(x): g_x = g y / x.

    Args:
        limit: y / x for x = 0.
    """

    def rule(mode: Balanced, func: Any, args: Args, kwargs: Options) -> Any:
        def run(x: Tensor) -> tuple[Tensor, Back]:
            out = func(x, *args[1:], **kwargs)
            ratio = torch.nan_to_num_(out / x, nan=limit, posinf=limit, neginf=limit)
            return out, lambda g: (g * ratio,)

        return Linearised.apply(run, args[0])

    return rule


def power(mode: Balanced, func: Any, args: Args, kwargs: Options) -> Any:
    """Powers, x ** p: with a positive p as `through_zero`, else a constant."""
    exponent = argument(args, kwargs, 1, "exponent")
    if live(exponent) or not live(args[0]):
        return constant(mode, func, args, kwargs)
    positive = bool((exponent > 0).all()) if isinstance(exponent, Tensor) else exponent > 0
    if isinstance(exponent, (int, float)) and exponent == 1:
        return OWN
    return (through_zero(0.0) if positive else constant)(mode, func, args, kwargs)


def clamped(mode: Balanced, func: Any, args: Args, kwargs: Options) -> Any:
    """Clamping, hardtanh: ReLU's gradient, `through_zero` if the range holds 0, else values outside are constants."""
    low = argument(args, kwargs, 1, "min", kwargs.get("min_val"))
    high = argument(args, kwargs, 2, "max", kwargs.get("max_val"))
    if func.__name__.startswith("hardtanh"):
        low, high = (-1.0 if low is None else low), (1.0 if high is None else high)
    if func.__name__.startswith("clamp_min") or func.__name__.startswith("clamp_max"):
        bound = argument(args, kwargs, 1, "min", kwargs.get("max"))
        low, high = (bound, None) if "min" in func.__name__ else (None, bound)
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        plain = [b.detach() if isinstance(b, Tensor) else b for b in (low, high)]
        return _outside(mode, torch.clamp, (args[0], *plain), {})
    if low == 0 and high is None or high == 0 and low is None:
        return OWN
    if (low is None or low <= 0) and (high is None or high >= 0):
        return through_zero(0.0 if low == 0 or high == 0 else 1.0)(mode, func, args, kwargs)
    return _outside(mode, func, args, kwargs)


def _outside(mode: Balanced, func: Any, args: Args, kwargs: Options) -> Any:
    out = func(*args, **kwargs)
    mode.constant(out, torch.where(out == args[0], torch.zeros_like(out), out).detach(), func)
    return out


def larger(mode: Balanced, func: Any, args: Args, kwargs: Options) -> Any:
    """Maximum, minimum: PyTorch's own; where a constant wins it is the constant."""
    one, two = args[0], argument(args, kwargs, 1, "other")
    if live(one) and live(two):
        return OWN
    moving, fixed = (one, two) if live(one) else (two, one)
    wins = (fixed > moving) if "max" in func.__name__ else (fixed < moving)
    tied = torch.where(fixed == moving, 0.5, 0.0)  # PyTorch gives each of two equal numbers half the gradient
    out = func(*args, **kwargs)
    mode.constant(out, fixed * (wins.to(fixed.dtype) + tied.to(fixed.dtype)), func)
    return out


def gated_unit(mode: Balanced, func: Any, args: Args, kwargs: Options) -> Any:
    """Gated linear unit, y = a sigmoid(b): g_a = g sigmoid(b); the gate counts as a constant."""
    axis = argument(args, kwargs, 1, "dim", -1)

    def run(x: Tensor) -> tuple[Tensor, Back]:
        gate = x.chunk(2, axis)[1].sigmoid()
        return func(x, axis), lambda g: (torch.cat([g * gate, torch.zeros_like(g)], axis),)

    return Linearised.apply(run, args[0])


def constant(mode: Balanced, func: Any, args: Args, kwargs: Options) -> Any:
    """Softmax, sigmoid, norms, roots, exponentials: what weighs or scales counts as a constant, g_x = 0."""
    args, kwargs = map_tensors((args, kwargs), Tensor.detach)
    return func(*args, **kwargs)


def variance_and_mean(mode: Balanced, func: Any, args: Args, kwargs: Options) -> Any:
    """Variance and mean at once: the spread is a constant, the mean is linear."""
    spread, mean = func(*args, **kwargs)
    return spread.detach(), mean


# ------------------------------------------------------------------------------------------- attention, what is affine


def attention(mode: Balanced, func: Any, args: Args, kwargs: Options) -> Any:
    """Attention A v with A = softmax(q k^T): g_v = A^T g; queries, keys and mask count as constants."""
    names = ("query", "key", "value", "attn_mask")
    for i, name in enumerate(names):
        given = argument(args, kwargs, i, name)
        if name != "value" and live(given):
            args, kwargs = replaced(args, kwargs, i, name, given.detach())
    return func(*args, **kwargs)


def affine(mode: Balanced, func: Any, args: Args, kwargs: Options) -> Any:
    """Whatever is affine in its operands (cat, stack, where, masked_fill, pad): the constant is its value at zero."""
    out = func(*args, **kwargs)
    with torch.no_grad():
        args, kwargs = map_tensors((args, kwargs), lambda t: torch.zeros_like(t) if t.requires_grad else t)
        offset = func(*args, **kwargs)
    if bool(offset.any()):
        mode.constant(out, offset.masked_fill(~offset.isfinite(), 0), func)
    return out


def joined(mode: Balanced, func: Any, args: Args, kwargs: Options) -> Any:
    """Cat, stack: as `affine` where a part is constant."""
    parts = argument(args, kwargs, 0, "tensors")
    return OWN if all(live(p) for p in parts) else affine(mode, func, args, kwargs)


def padded(mode: Balanced, func: Any, args: Args, kwargs: Options) -> Any:
    """Padding: as `affine` where it is not with zeros."""
    return affine(mode, func, args, kwargs) if argument(args, kwargs, 3, "value") else OWN


def chosen(mode: Balanced, func: Any, args: Args, kwargs: Options) -> Any:
    """Selection by `where`: as `affine` where one of the two is a constant."""
    return OWN if sum(live(a) for a in (*args, *kwargs.values())) == 2 else affine(mode, func, args, kwargs)


def interpolated(mode: Balanced, func: Any, args: Args, kwargs: Options) -> Any:
    """Interpolation, a + w (b - a): linear in a and b; the weight counts as a constant."""
    weight = argument(args, kwargs, 2, "weight")
    if live(weight):
        args, kwargs = replaced(args, kwargs, 2, "weight", weight.detach())
    return affine(mode, func, args, kwargs)


def written(mode: Balanced, func: Any, args: Args, kwargs: Options) -> Any:
    """Writing into a part of a tensor (`x[i] = v`, index_copy_): the constant is what remains there at zero."""
    with torch.no_grad():
        zeroed = map_tensors((args, kwargs), lambda t: torch.zeros_like(t) if t.requires_grad else t)
        if live(args[0]) or not isinstance(args[0], Tensor):
            target = zeroed[0][0]
        else:
            target = args[0].clone()
        func(target, *zeroed[0][1:], **zeroed[1])
    out = func(*args, **kwargs)
    if args[0].requires_grad and bool(target.any()):
        mode.constant(args[0], target.masked_fill(~target.isfinite(), 0), func)
    return out
