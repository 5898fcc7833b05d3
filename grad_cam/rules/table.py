"""Which rule holds for which operation.

An operation in no line is either linear or homogeneous of degree one (views, sums, means, pooling, resizing, ReLU, its
leaky relatives, absolute values, maxima, sorting, indexing), so that PyTorch's own gradient is balanced, or it is
unknown; then the ledger shows a gap and `audit` names it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from . import functions as rules
from . import norms
from .functions import Rule

_PLACES = (torch, Tensor, functional, torch._C._nn, torch.special, torch.linalg)

NAMES: dict[Rule, str] = {
    rules.weighted(-1): "linear",
    rules.weighted(None): "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d",
    norms.batch_norm: "batch_norm",
    norms.layer_norm: "layer_norm",
    norms.group_norm: "group_norm",
    norms.instance_norm: "instance_norm",
    norms.rms_norm: "rms_norm",
    rules.attention: "scaled_dot_product_attention",
    rules.product(0, 1): "mul multiply matmul mm bmm mv dot outer __mul__ __rmul__ __matmul__ __rmatmul__ inner vdot",
    rules.product(0, 1, 2): "bilinear",
    rules.einsum: "einsum",
    rules.linear_but_for(1, "other"): "div divide true_divide __truediv__ __div__",
    rules.addition(1.0): "add __add__ __radd__",
    rules.addition(-1.0): "sub subtract __sub__",
    rules.addition(-1.0, turned=True): "rsub __rsub__",
    rules.matrix_plus_product: "addmm baddbmm addcmul addcdiv",
    rules.interpolated: "lerp",
    rules.through_zero(0.5): "gelu silu hardswish",
    rules.through_zero(0.6): "mish",
    rules.through_zero(1.0): "tanh elu celu selu sin atan erf expm1 log1p asinh",
    rules.through_zero(0.0): "relu6 square softshrink hardshrink",
    rules.power: "pow __pow__ float_power",
    rules.clamped: "clamp clip hardtanh clamp_min clamp_max",
    rules.larger: "maximum minimum",
    rules.gated_unit: "glu",
    rules.variance_and_mean: "var_mean std_mean",
    rules.joined: "cat concat concatenate stack hstack vstack dstack",
    rules.padded: "pad",
    rules.chosen: "where",
    rules.affine: (
        "masked_fill scatter index_copy index_fill masked_scatter index_put scatter_add index_add select_scatter "
        "slice_scatter"
    ),
    rules.linear_but_for(1, "grid"): "grid_sample grid_sampler",
    rules.constant: (
        "softmax log_softmax softmin sigmoid logsigmoid log_sigmoid hardsigmoid softplus exp exp2 log log2 log10 cos "
        "sqrt rsqrt reciprocal var std norm vector_norm matrix_norm logsumexp expit cdist sign sgn round floor ceil "
        "trunc frac __rtruediv__ __rdiv__ __rpow__ heaviside gumbel_softmax"
    ),
}  # fmt: skip
"""The table: names of operations by rule."""

_WRITES = "__setitem__ index_copy_ index_fill_ index_put_ masked_scatter_ scatter_ scatter_add_ index_add_ fill_ zero_"
_IN_PLACE = {
    "__iadd__": "add", "__isub__": "sub", "__imul__": "mul", "__itruediv__": "div", "__idiv__": "div", "__ipow__": "pow"
}  # fmt: skip


def _all(names: str) -> list[Any]:
    """The operations of some names; functions written in others are run as these (see `Balanced`)."""
    found = [getattr(place, name) for name in names.split() for place in _PLACES if hasattr(place, name)]
    return [f for f in found if getattr(f, "__globals__", None) is not vars(functional)]


RULES: dict[Any, Rule] = {func: rule for rule, names in NAMES.items() for func in _all(names)}
"""Rules by operation."""
RULES |= dict.fromkeys(_all(_WRITES), rules.written)


def _pairs() -> dict[Any, Any]:
    """The operations that write to their first operand, and what they do beside it."""
    found = {}
    for names in NAMES.values():
        for name in names.split():
            for place in _PLACES:
                writing, plain = getattr(place, f"{name}_", None), getattr(place, name, None)
                if writing is not None and plain in RULES and writing not in RULES:
                    found[writing] = plain
    for writing, name in _IN_PLACE.items():
        if hasattr(Tensor, writing):
            found[getattr(Tensor, writing)] = getattr(Tensor, name)
    return found


IN_PLACE: dict[Any, Any] = _pairs()
"""Operations that write to their first operand, with what each does beside it."""
