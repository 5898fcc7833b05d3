"""Which axes of an activation are positions of the picture, followed from the images through the recorded operations.

Every value gets a label for each axis: the batch, channels, rows, columns, rows and columns merged into tokens, or
nothing. Convolutions and pooling keep rows and columns, reshaping merges and splits them, a residual addition passes
them on. What is not known here is found out by an experiment (`positions`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from ..layouts import Layout
from .log import Log, Param, Ref, Step
from .nested import leaves


class Axis(NamedTuple):
    """A label: "B" batch, "C" channels, "T" frames or slices, "H" rows, "W" columns, "P" tokens and others."""

    kind: str
    grid: tuple[int, ...] = (0, 0)
    prefix: int = 0
    suffix: int = 0


Labels = tuple["Axis | None", ...]
B, C = Axis("B"), Axis("C")
T, H, W = Axis("T"), Axis("H"), Axis("W")
_INPUTS: tuple[Labels, ...] = ((B, C, H, W), (B, C, T, H, W))

_SPATIAL = frozenset({
    "conv2d", "conv_transpose2d", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d",
    "batch_norm", "group_norm", "instance_norm", "interpolate", "upsample", "pixel_shuffle", "pixel_unshuffle",
    "local_response_norm", "lp_pool2d", "max_pool2d_with_indices", "upsample_nearest", "upsample_bilinear",
    "conv3d", "conv_transpose3d", "max_pool3d", "avg_pool3d", "adaptive_avg_pool3d", "adaptive_max_pool3d",
    "lp_pool3d", "max_pool3d_with_indices", "upsample_trilinear", "dropout3d", "native_batch_norm",
    "boolean_dispatch", "fn", "channel_shuffle",
})  # fmt: skip
_LAST = frozenset({"linear"})
POINTWISE = frozenset({
    "add", "sub", "subtract", "mul", "multiply", "div", "divide", "true_divide", "neg", "negative", "pow", "square",
    "sqrt", "rsqrt", "exp", "log", "log1p", "abs", "sign", "sin", "cos", "tanh", "sigmoid", "relu", "relu6",
    "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardswish", "hardsigmoid", "hardtanh", "softplus",
    "prelu", "rrelu", "glu", "logsigmoid", "softsign", "threshold", "clamp", "clamp_min", "clamp_max", "clip",
    "maximum", "minimum", "where", "masked_fill", "dropout", "dropout1d", "dropout2d", "alpha_dropout",
    "feature_dropout", "feature_alpha_dropout", "layer_norm", "rms_norm", "normalize", "softmax", "log_softmax",
    "clone", "contiguous", "to", "float", "half", "bfloat16", "double", "type", "type_as", "detach", "addcmul",
    "addcdiv", "lerp", "round", "floor", "nan_to_num", "radd", "rsub", "rmul", "rtruediv", "truediv", "rpow",
    "iadd", "isub", "imul", "itruediv", "expm1", "erf", "fake_quantize", "data", "requires_grad", "real",
    "refreshed", "rdiv", "idiv",
})  # fmt: skip


def labels_of(log: Log, spatial: Collection[str] = (), frames_first: bool = False) -> dict[Ref, Labels]:
    """The labels of the values whose positions can be followed from the images.

    Args:
        log: The log.
        spatial: Parameters of convolutions whose results count as rows and columns whatever they are given: what such a
            layer declares, not what is known.
        frames_first: Whether a video is given as (B, T, C, H, W).
    """
    whole = {4: (B, C, H, W), 5: (B, T, C, H, W) if frames_first else (B, C, T, H, W)}
    found: dict[Ref, Labels] = {Ref(0): whole.get(len(log.shapes[0]), (B,))}
    for event in log.events:
        if type(event) is Step and event.depends:
            _follow(event, log, found)
            given = event.args[1] if len(event.args) > 1 else None
            out = event.outs[0] if event.outs else None
            if out is not None and out not in found and isinstance(given, Param) and given.path in spatial:
                if len(log.shapes[out]) in (4, 5) and log.shapes[out][0] == log.batch:
                    found[out] = _INPUTS[len(log.shapes[out]) - 4]
    return found


def layout_of(labels: Labels | None, shape: Sequence[int]) -> Layout | None:
    """The layout that labels say, if they say one."""
    if labels is None or len(labels) != len(shape):
        return None
    kinds = "".join(axis.kind if axis else "?" for axis in labels)
    if kinds in ("BCHW", "B?HW"):
        return Layout("NCHW", (shape[2], shape[3]), shape[1])
    if kinds in ("BHWC", "BHW?"):
        return Layout("NHWC", (shape[1], shape[2]), shape[3])
    if kinds in ("BCTHW", "B?THW"):
        return Layout("NCDHW", tuple(shape[2:]), shape[1])
    if kinds in ("BTHWC", "BTHW?"):
        return Layout("NDHWC", tuple(shape[1:4]), shape[4])
    for pattern, axis in (("BPC", 1), ("BP?", 1), ("BCP", 2), ("B?P", 2)):
        token = labels[axis] if kinds == pattern else None
        if token is not None and shape[axis] == token.prefix + math.prod(token.grid) + token.suffix:
            if axis == 1 or token.prefix == token.suffix == 0:
                return Layout(
                    "tokens", token.grid, shape[3 - axis], prefix=token.prefix, axis=axis, suffix=token.suffix
                )
    return None


# Long because it is the table of operations.
def _follow(step: Step, log: Log, found: dict[Ref, Labels]) -> None:
    name = getattr(step.func, "__name__", "")
    plain = name.strip("_") if name.endswith("_") or name.startswith("__") else name
    given = [(r, found.get(r)) for r in step.reads if log.depends[r]]
    outs = [r for r in step.outs if r is not None]
    if step.changed:  # written in place: as before
        for old, new in step.changed:
            if type(old) is Ref and old in found:
                found[new] = found[old]
        return
    if not outs or not given:
        return
    first, labels = given[0]
    shape, result = log.shapes[first], log.shapes[outs[0]]
    made: Labels | None = None
    if name in _SPATIAL:
        made = labels if labels in _INPUTS and len(result) == len(labels) else None
    elif name == "pad":
        made = _padded(labels, shape, result)
    elif name in _LAST:
        if labels is not None and labels[-1] in (C, None) and len(result) == len(shape):
            made = (*labels[:-1], C)
        elif labels is not None and len(result) == len(shape):
            made = (*labels[:-1], None)
    elif plain in ("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "mT", "T", "t", "adjoint"):
        made = _permuted(plain, step, labels, len(shape))
    elif plain in ("reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as"):
        made = _reshaped(labels, shape, result)
    elif plain in ("getitem", "select", "narrow", "split", "chunk", "unbind", "tensor_split", "split_with_sizes"):
        for out in outs:
            cut = _sliced(plain, step, labels, shape, log.shapes[out])
            if cut is not None:
                found[out] = cut
        return
    elif plain in ("cat", "concat", "concatenate"):
        made = _joined(step, log, found, result)
    elif plain in POINTWISE:
        same = [lab for r, lab in given if lab is not None and log.shapes[r] == result]
        made = same[0] if same and all(lab == same[0] for lab in same) else None
    if made is not None:
        for out in outs:
            if log.shapes[out] == result:
                found[out] = made


def _dims(step: Step, start: int = 1) -> list[int]:
    values = [v for v in leaves((step.args[start:], step.kwargs)) if type(v) is int]
    return values


def _permuted(name: str, step: Step, labels: Labels | None, ndim: int) -> Labels | None:
    if labels is None:
        return None
    if name in ("mT", "T", "t", "adjoint"):
        order = [*range(ndim - 2), ndim - 1, ndim - 2] if name != "T" or ndim == 2 else list(range(ndim))[::-1]
    else:
        dims = [d % ndim for d in _dims(step)]
        if name == "permute":
            order = dims
        elif name in ("movedim", "moveaxis"):
            if len(dims) != 2:
                return None
            order = [d for d in range(ndim) if d != dims[0]]
            order.insert(dims[1], dims[0])
        else:
            if len(dims) != 2:
                return None
            order = list(range(ndim))
            order[dims[0]], order[dims[1]] = order[dims[1]], order[dims[0]]
    return tuple(labels[d] for d in order) if sorted(order) == list(range(ndim)) else None


def _reshaped(labels: Labels | None, old: Sequence[int], new: Sequence[int]) -> Labels | None:
    """Labels after a reshape in row-major order: groups of axes with the same number of elements."""
    if labels is None or 0 in old:
        return None
    out: list[Axis | None] = []
    i = j = 0
    while i < len(old) or j < len(new):
        a, b = [i], [j]
        i, j = i + 1, j + 1
        if a[0] >= len(old) or b[0] >= len(new):  # axes of length one at the end
            out += [None] * (b[0] < len(new))
            continue
        size, other = old[a[0]], new[b[0]]
        while size != other:
            if size < other:
                size, a, i = size * old[i], [*a, i], i + 1
            else:
                other, b, j = other * new[j], [*b, j], j + 1
        out += _group([labels[k] for k in a], [old[k] for k in a], [new[k] for k in b])
    return tuple(out) if len(out) == len(new) else None


_AXES = {2: (H, W), 3: (T, H, W)}


def _group(labels: list[Axis | None], old: list[int], new: list[int]) -> list[Axis | None]:
    """Labels of the axes that one group of axes becomes."""
    pairs = [(lab, n) for lab, n in zip(labels, old, strict=True) if n != 1 or lab in (T, H, W, B)]
    kinds = [lab for lab, _ in pairs]
    wide = [k for k, n in enumerate(new) if n != 1]
    result: list[Axis | None] = [None] * len(new)
    if len(labels) == len(new) == 1:
        return list(labels)
    if len(wide) <= 1:  # merged into one axis
        where = wide[0] if wide else 0
        if kinds in ([H, W], [T, H, W]):
            result[where] = Axis("P", tuple(n for _, n in pairs))
        elif len(kinds) == 1:
            result[where] = kinds[0]
        elif C in kinds and all(k in (C, None) for k in kinds):
            result[where] = C
        return result
    if len(kinds) == 1 and kinds[0] is not None:
        kind, major = kinds[0], new[wide[0]]
        if kind.kind == "P" and [new[k] for k in wide] == list(kind.grid) and kind.prefix == 0:
            for k, axis in zip(wide, _AXES[len(wide)], strict=True):
                result[k] = axis
        elif kind in (T, H, W):
            result[wide[0]] = kind if major > 1 else None
        elif kind == B:
            result[wide[0]] = B if wide[0] == 0 and major == old[0] else None
    elif kinds in ([H, W], [T, H, W]) and [new[k] for k in wide] == [n for _, n in pairs]:
        for k, axis in zip(wide, _AXES[len(wide)], strict=True):
            result[k] = axis
    return result


def _sliced(name: str, step: Step, labels: Labels | None, old: Sequence[int], new: Sequence[int]) -> Labels | None:
    if labels is None:
        return None
    if name in ("split", "chunk", "tensor_split", "split_with_sizes", "narrow"):
        changed = [k for k, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
        return labels if all(labels[k] in (C, None) for k in changed) else None
    if name in ("unbind", "select"):
        removed = (_dims(step)[:1] or [0])[0] % len(old)
        return None if labels[removed] not in (C, None) else (*labels[:removed], *labels[removed + 1 :])
    return _indexed(step, labels, old)


def _indexed(step: Step, labels: Labels, old: Sequence[int]) -> Labels | None:
    """What is left of the axes by an index such as ``x[:, 1:, None]``."""
    index = step.args[1] if isinstance(step.args[1], tuple) else (step.args[1],)
    if any(type(i) not in (int, slice, type(None), type(Ellipsis)) for i in index):
        return None
    taken = sum(type(i) in (int, slice) for i in index)
    full: list[Any] = []
    for i in index:
        full += [slice(None)] * (len(old) - taken) if i is Ellipsis else [i]
    full += [slice(None)] * (len(old) - sum(i is not None for i in full))
    out: list[Axis | None] = []
    axis = 0
    for i in full:
        if i is None:
            out.append(None)
            continue
        label, size = labels[axis], old[axis]
        axis += 1
        if type(i) is int:
            if label in (B, T, H, W) or (label is not None and label.kind == "P"):
                return None
            continue
        start, stop, stride = i.indices(size)
        if (start, stop, stride) == (0, size, 1) or label in (C, None):
            out.append(label)
        elif label in (T, H, W):
            edge = stride + (size >= 8)  # a row or column at the border may be cut off
            out.append(label if stop > size - edge and start < edge else None)
        elif (
            label is not None and label.kind == "P" and stride == 1 and size - stop <= label.suffix
            and start <= label.prefix
        ):  # fmt: skip
            out.append(label._replace(prefix=label.prefix - start, suffix=label.suffix - (size - stop)))
        else:
            out.append(None)
    return tuple(out)


def _padded(labels: Labels | None, old: Sequence[int], new: Sequence[int]) -> Labels | None:
    """Padding for a convolution, which takes it off again, keeps the grid; padding to whole windows is another one."""
    if labels is None or len(old) != len(new):
        return None
    least = 6 if labels in _INPUTS else 2
    small = all(
        a == b or label in (C, None) or (label in (T, H, W) and b - a <= max(least, a // 8))
        for label, a, b in zip(labels, old, new, strict=True)
    )
    return labels if small else None


def _joined(step: Step, log: Log, found: dict[Ref, Labels], result: Sequence[int]) -> Labels | None:
    """Concatenation: along channels, or of other tokens before those of the grid."""
    parts = [leaf for leaf in leaves(step.args[0])]
    dims = _dims(step)
    axis = (dims[0] if dims else 0) % len(result)
    known = [(k, found[r]) for k, r in enumerate(parts) if type(r) is Ref and r in found]
    if not known:
        return None
    with_grid = [(k, lab) for k, lab in known if lab[axis] is not None and lab[axis].kind == "P"]  # type: ignore[union-attr]
    which, labels = (with_grid or known)[-1]
    label = labels[axis]
    if label in (C, None):
        return labels if len(known) == len(parts) and all(lab == labels for _, lab in known) else None
    if label.kind != "P" or len(with_grid) != 1:
        return None
    after = sum(log.shapes[part][axis] if type(part) is Ref else 0 for part in parts[which + 1 :])
    if any(type(part) is not Ref for part in parts[which:]):
        return None
    before = result[axis] - log.shapes[parts[which]][axis] - after
    moved = label._replace(prefix=label.prefix + before, suffix=label.suffix + after)
    return (*labels[:axis], moved, *labels[axis + 1 :])
