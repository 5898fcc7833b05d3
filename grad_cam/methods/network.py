"""Maps from the whole network, without a cut: FullGrad, guided backpropagation, Guided Grad-CAM.

A method here receives the images and a function that scores them, runs it once under a mode that sees every tensor
operation of the calling thread (`TorchFunctionMode`), and differentiates. No module is changed and no hook is set, so
operations written as functions count as much as modules.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .common import MethodError, working
from .registry import method

WholeScore = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) to scores (B,), each depending on its own image only."""


# -------------------------------------------------------------------------------------------------------- FullGrad


@dataclasses.dataclass(frozen=True, eq=False)
class FullGradient:
    """A score taken apart into the input's share and the share of every bias.

    Attributes:
        score: f(x), (B,).
        input: Gradient times input, like the images.
        biases: For each operation with a bias, in order, gradient times bias at its output, (B, ...).
        channel_axes: The axis of the channels in each of `biases`.
    """

    score: Tensor
    input: Tensor
    biases: list[Tensor]
    channel_axes: list[int]

    def residual(self) -> Tensor:
        """What the parts fail to add up to, (B,): f(x) minus their sum.

        Zero for networks of ReLUs, linear operations, normalisations with fixed statistics and pooling.
        """
        total = self.input.flatten(1).sum(1)
        for bias in self.biases:
            total = total + bias.flatten(1).sum(1)
        return self.score - total


def full_gradient(images: Tensor, score: WholeScore) -> FullGradient:
    """Takes a score apart into gradient times input and gradient times bias of every operation that has one.

    Args:
        images: Model inputs, (B, C, H, W).
        score: Scores of images; the model in eval mode.

    Returns:
        The parts. Biases are those of convolutions (transposed ones too), linear layers, and batch, layer, group and
        instance normalisation; a batch normalisation counts with its implicit bias, beta - gamma mean / std.

    Raises:
        MethodError: The score does not depend on the images through differentiable operations.

    Source:
        Srinivas and Fleuret, NeurIPS 2019, prop. 1 and sec. 3.3, https://arxiv.org/abs/1905.00780
    """
    leaf = images.detach().clone().requires_grad_()
    with torch.enable_grad(), _Biases() as seen:
        scores = score(leaf + 0)  # the model may write into its input
    edges = [edge for edge, _, _ in seen.found]
    grads = _differentiate(scores, [leaf, *edges])
    parts, axes = [], []
    for gradient, (_, bias, axis) in zip(grads[1:], seen.found, strict=True):
        if gradient is not None:
            shape = [1] * gradient.ndim
            shape[axis] = -1
            parts.append(gradient * bias.reshape(shape))
            axes.append(axis)
    whole = leaf.detach() * (torch.zeros_like(leaf) if grads[0] is None else grads[0])
    return FullGradient(scores.detach(), whole, parts, axes)


@method(
    "FullGrad", kind="network", source="Srinivas and Fleuret, NeurIPS 2019", link="https://arxiv.org/abs/1905.00780",
    advice="All layers at once, at image size; complete for networks of ReLUs.",
)  # fmt: skip
def full_grad(images: Tensor, whole_score: WholeScore, grid: tuple[int, int] | None = None) -> Tensor:
    """Input and biases of all layers, each by how strongly it takes part in the score.

    Args:
        images: Model inputs, (B, C, H, W).
        whole_score: Scores of images; the model in eval mode.
        grid: Height and width in tokens, for models whose layers see (B, N, C); without it, those are left out.

    Returns:
        psi(g x) + sum over layers and channels of psi(g b), psi being the absolute value scaled to 0..1 per image
        and layer and resized to the image, (B, H, W); never negative.

    Raises:
        MethodError: The score does not depend on the images through differentiable operations.

    Source:
        Srinivas and Fleuret, NeurIPS 2019, eq. 7, https://arxiv.org/abs/1905.00780

    Note:
        Layers without positions (the head) have no place on the map. For tokens the biases of the class token and
        the like are left out, and position embeddings, biases of another kind, do not count.
    """
    parts = full_gradient(images, whole_score)
    size = (images.shape[-2], images.shape[-1])
    total = _importance(parts.input, size)
    for bias, axis in zip(parts.biases, parts.channel_axes, strict=True):
        if len(bias) != len(images):
            raise MethodError(
                "a layer sees another number of rows than there are images, and its biases belong to no image",
                f"{len(bias)} rows for {len(images)} images", 'method="grad_cam" or another method of one layer',
            )  # fmt: skip
        maps = _as_maps(bias, axis, grid)
        if maps is not None:
            total = total + _importance(maps, size)
    return total


def _importance(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Absolute values of (B,C,h,w), scaled to 0..1 per image, resized and summed over channels: (B,H,W)."""
    maps = working(maps).abs()
    low, high = maps.amin((1, 2, 3), keepdim=True), maps.amax((1, 2, 3), keepdim=True)
    maps = (maps - low) / torch.where(high > low, high - low, torch.ones_like(high))
    # Resizing is linear, so the sum over channels may come first.
    return functional.interpolate(maps.sum(1, keepdim=True), size, mode="bilinear", align_corners=False)[:, 0]


def _as_maps(bias: Tensor, axis: int, grid: tuple[int, int] | None) -> Tensor | None:
    if bias.ndim == 4:
        return bias if axis == 1 else bias.movedim(axis, 1)  # (B,C,h,w)
    if bias.ndim == 3 and axis == 2 and grid is not None and 0 <= bias.shape[1] - grid[0] * grid[1] <= 64:
        tokens = bias[:, bias.shape[1] - grid[0] * grid[1] :]  # the prefix tokens come first
        return tokens.transpose(1, 2).reshape(len(bias), -1, *grid)
    return None


_CONVOLUTIONS = {
    torch.conv1d, torch.conv2d, torch.conv3d, functional.conv1d, functional.conv2d, functional.conv3d,
    torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d, functional.conv_transpose1d,
    functional.conv_transpose2d, functional.conv_transpose3d,
}  # fmt: skip
_NORMS = {  # position and name of the bias
    functional.layer_norm: (3, "bias"), torch.layer_norm: (3, "bias"), functional.group_norm: (3, "bias"),
    torch.group_norm: (3, "bias"), functional.instance_norm: (4, "bias"),
}  # fmt: skip


class _Biases(TorchFunctionMode):
    """Records the output of every operation that adds a bias: (place in the graph, bias, axis of the channels)."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[GradientEdge, Tensor, int]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        bias, channels_last = None, False
        if func in _CONVOLUTIONS:
            bias = _argument(args, kwargs, 2, "bias")
        elif func is functional.linear:
            bias, channels_last = _argument(args, kwargs, 2, "bias"), True
        elif func is functional.batch_norm:
            bias = _implicit(*args, **kwargs)
        elif func in _NORMS:
            bias = _argument(args, kwargs, *_NORMS[func])
            channels_last = func in (functional.layer_norm, torch.layer_norm)
        if bias is not None and isinstance(out, Tensor) and out.requires_grad:
            if bias.ndim == 1:
                axis = out.ndim - 1 if channels_last else out.ndim - self._spatial(args[0], func) - 1
                # An edge, not the tensor: what is done to the tensor in place afterwards does not move it.
                self.found.append((get_gradient_edge(out), bias.detach(), axis))
        return out

    @staticmethod
    def _spatial(given: Tensor, func: Any) -> int:
        if func in _CONVOLUTIONS:
            return int(func.__name__[-2])
        return given.ndim - 2


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], position: int, name: str) -> Any:
    return args[position] if len(args) > position else kwargs.get(name)


def _implicit(
    given: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor | None:  # fmt: skip
    """What a batch normalisation adds: beta - gamma mean / std."""
    if training or running_mean is None or running_var is None:
        return bias
    scaled = running_mean.detach() * (running_var.detach() + eps).rsqrt()
    shift = -scaled if weight is None else -scaled * weight.detach()
    return shift if bias is None else bias.detach() + shift


# --------------------------------------------------------------------------------------------------- guided backprop


def guided_gradient(images: Tensor, score: WholeScore) -> Tensor:
    """The gradient on the image that flows through positive gradients only at every ReLU.

    Args:
        images: Model inputs, (B, C, H, W).
        score: Scores of images; the model in eval mode.

    Returns:
        Guided gradient, signed, (B, C, H, W).

    Raises:
        MethodError: No ReLU was run, so that the guided gradient would be the plain one.

    Source:
        Springenberg et al., ICLR Workshops 2015, sec. 3.4, https://arxiv.org/abs/1412.6806

    Note:
        As ReLU count `relu`, `relu6`, `hardtanh` from 0, `threshold` at 0 and `clamp` from 0, as functions, methods
        and modules, in place or not. Of the bounded ones, what lies at the bound has no gradient, as usual. GELU,
        SiLU and the like keep their own gradient.
    """
    leaf = images.detach().clone().requires_grad_()
    with torch.enable_grad(), _Guided() as seen:
        scores = score(leaf + 0)  # the model may write into its input
    if seen.count == 0:
        raise MethodError(
            "guided backpropagation changes the gradient of ReLU, and this model runs none (GELU, SiLU and the like "
            "have no such rule); use full_grad, hires_cam or layer_cam instead"
        )
    (gradient,) = _differentiate(scores, [leaf])
    return torch.zeros_like(leaf) if gradient is None else gradient


@method(
    "Guided backprop", kind="network", source="Springenberg et al., ICLR Workshops 2015",
    link="https://arxiv.org/abs/1412.6806",
    advice="Fine lines, hardly about the class; for networks of ReLUs, and not to be trusted alone.", own_backward=True,
)  # fmt: skip
def guided_backprop(images: Tensor, whole_score: WholeScore) -> Tensor:
    """Where the guided gradient is strong: edges and textures that the network looks at, hardly about a class.

    Args:
        images: Model inputs, (B, C, H, W).
        whole_score: Scores of images; the model in eval mode.

    Returns:
        The largest magnitude over colours of `guided_gradient`, (B, H, W); never negative.

    Raises:
        MethodError: No ReLU was run.

    Source:
        Springenberg et al., ICLR Workshops 2015, https://arxiv.org/abs/1412.6806; one number per pixel: Simonyan et
        al., 2014, sec. 3.1, https://arxiv.org/abs/1312.6034
    """
    return working(guided_gradient(images, whole_score)).abs().amax(1)


@method(
    "Guided Grad-CAM", kind="network", source="Selvaraju et al., ICCV 2017", link="https://arxiv.org/abs/1610.02391",
    advice="Guided backprop's lines where Grad-CAM sees the class.", own_backward=True,
)  # fmt: skip
def guided_grad_cam(images: Tensor, whole_score: WholeScore, cam: Tensor) -> Tensor:
    """The fine lines of guided backpropagation where Grad-CAM sees the class.

    Args:
        images: Model inputs, (B, C, H, W).
        whole_score: Scores of images; the model in eval mode.
        cam: Grad-CAM of the same score at a layer, raw and signed, (B, h, w).

    Returns:
        `guided_backprop` times the positive part of the map, resized to the image, (B, H, W); never negative.

    Raises:
        MethodError: No ReLU was run.

    Source:
        Selvaraju et al., ICCV 2017, sec. 3.4, https://arxiv.org/abs/1610.02391

    Note:
        The paper's picture keeps the colours: `guided_gradient` times the resized map.
    """
    if cam.ndim != 3 or len(cam) != len(images):
        raise ValueError(
            f"guided_grad_cam needs one map (h, w) for each of {len(images)} images, got {tuple(cam.shape)}"
        )
    large = functional.interpolate(
        working(cam)[:, None].clamp(min=0), images.shape[-2:], mode="bilinear", align_corners=False
    )[:, 0]
    return guided_backprop(images, whole_score) * large


class _GuidedClamp(torch.autograd.Function):
    """Clamps to 0..limit; lets only positive gradients through, where the value lies inside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: float | None, inplace: bool) -> Tensor:
        out = x.clamp_(0, limit) if inplace else x.clamp(0, limit)
        if inplace:
            ctx.mark_dirty(x)
        inside = out > 0 if limit is None else (out > 0) & (out < limit)
        ctx.save_for_backward(inside)  # not the output, which may be written over
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors
        return gradient.clamp(min=0) * inside, None, None


_RELU = {torch.relu, Tensor.relu, functional.relu}
_RELU_INPLACE = {torch.relu_, Tensor.relu_, functional.relu_}
_CLAMP = {torch.clamp, Tensor.clamp, torch.clip, Tensor.clip, Tensor.clamp_, torch.clamp_}
_CLAMP_MIN = {torch.clamp_min, Tensor.clamp_min, Tensor.clamp_min_, torch.clamp_min_}
_HARDTANH = {functional.hardtanh, functional.hardtanh_}
_THRESHOLD_INPLACE = {vars(module)["threshold_"] for module in (torch, functional)}  # torch's stubs have none
_THRESHOLD = {functional.threshold, torch.threshold, *_THRESHOLD_INPLACE}


class _Guided(TorchFunctionMode):
    """Replaces ReLUs that act on the graph by their guided version."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        found = _as_clamp(func, args, kwargs)
        if found is None or not isinstance(args[0], Tensor) or not args[0].requires_grad:
            return func(*args, **kwargs)
        limit, inplace = found
        self.count += 1
        return _GuidedClamp.apply(args[0], limit, inplace)


def _as_clamp(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[float | None, bool] | None:
    """(upper limit, in place) if a call clamps at 0 from below, else None."""

    def given(position: int, name: str, default: Any) -> Any:
        return args[position] if len(args) > position else kwargs.get(name, default)

    if not args:
        return None
    if func in _RELU:
        return None, bool(given(1, "inplace", False))
    if func in _RELU_INPLACE:
        return None, True
    if func is functional.relu6:
        return 6.0, bool(given(1, "inplace", False))
    if func in _HARDTANH:
        low, high = given(1, "min_val", -1.0), given(2, "max_val", 1.0)
        inplace = func is functional.hardtanh_ or bool(given(3, "inplace", False))
        return (float(high), inplace) if low == 0 else None
    if func in _THRESHOLD:
        inplace = func in _THRESHOLD_INPLACE or bool(given(3, "inplace", False))
        return (None, inplace) if given(1, "threshold", None) == 0 and given(2, "value", None) == 0 else None
    if func in _CLAMP:
        low, high = given(1, "min", None), given(2, "max", None)
        if isinstance(low, Tensor) or isinstance(high, Tensor) or low != 0:
            return None
        return (None if high is None else float(high)), func in (Tensor.clamp_, torch.clamp_)
    if func in _CLAMP_MIN:
        low = given(1, "min", None)
        if isinstance(low, Tensor) or low != 0:
            return None
        return None, func in (Tensor.clamp_min_, torch.clamp_min_)
    return None


def _differentiate(scores: Tensor, inputs: list[Any]) -> tuple[Tensor | None, ...]:
    if scores.ndim != 1:
        raise ValueError(
            f"the score function returned {tuple(scores.shape)}; it has to return one score per image, (B,)"
        )
    if not scores.requires_grad:
        raise MethodError(
            "the score does not depend on the images through differentiable operations; use occlusion or rise instead"
        )
    return torch.autograd.grad(scores, inputs, torch.ones_like(scores), allow_unused=True)
