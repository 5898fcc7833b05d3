"""Maps from activations and gradients: weights for the channels, and their weighted sum.

Every method is one pure function of the activations A (B, C, H, W) at the cut and the gradients g (B, C, H, W) of the
score with respect to them, and returns the raw, signed map (B, H, W) at the layer's own size. Clipping at zero and
scaling to 0..1 belong to the display, so a ReLU appears here only where it is inside the published sum.

Half-precision tensors are read as float32. Three methods need more than one gradient; they receive it as an argument
(see `TailGradient` and `NoisyGradients`), never the model.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .common import MethodError, away_from_zero, weighted_sum, working
from .registry import method

_CANCELLED = 1e-5  # a sum this small beside the sum of magnitudes is rounding error
_INSTEAD = "use grad_cam or integrated_grad_cam, which need none"
_hessian_lock = threading.Lock()  # sdpa_kernel sets process-wide switches

NoisyGradients = Callable[[int, float, int], Iterable[Tensor]]
"""``(samples, noise, seed)`` to the gradients (B, C, H, W) of noisy copies of the images, see `noisy_copies`."""


class TailGradient(Protocol):
    """The gradient of the tail's score as a function of the activations."""

    def __call__(self, activations: Tensor, along: Tensor | None = None) -> Tensor:
        """Differentiates the score at given activations.

        Args:
            activations: Where to differentiate, (B, C, H, W).
            along: None for the gradient; a direction v, (B, C, H, W), for the Hessian-vector product H v.

        Returns:
            The gradient, or H v, (B, C, H, W), without a graph.
        """
        ...


@method(
    "Grad-CAM", kind="gradient", source="Selvaraju et al., ICCV 2017", link="https://arxiv.org/abs/1610.02391",
    advice="The usual start: coarse and robust at the last feature map of a network.", channelwise=True,
)  # fmt: skip
def grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Channels weighted by their mean gradient.

    Args:
        activations: A at the cut, (B, C, H, W).
        gradients: d score / d A, (B, C, H, W).

    Returns:
        sum_k mean_p(g_k) A_k, (B, H, W), signed, in units of the score.

    Source:
        Selvaraju et al., ICCV 2017, eq. 1-2, https://arxiv.org/abs/1610.02391

    Note:
        The ReLU of eq. 2 is left to the display.
    """
    activations, gradients = working(activations), working(gradients)
    return weighted_sum(gradients.mean((2, 3)), activations)


@method(
    "Grad-CAM++", kind="gradient", source="Chattopadhay et al., WACV 2018", link="https://arxiv.org/abs/1710.11063",
    advice="Shows all of several objects of one class; wants a layer after a ReLU.", channelwise=True,
)  # fmt: skip
def grad_cam_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    """Channels weighted by their positive gradients, each position divided by its share.

    Args:
        activations: A at the cut, (B, C, H, W), not negative (after a ReLU).
        gradients: d score / d A, (B, C, H, W).

    Returns:
        sum_k w_k A_k with w_k = sum_p ReLU(g) g^2 / (2 g^2 + (sum_p A_k) g^3), (B, H, W).

    Source:
        Chattopadhay et al., WACV 2018, eq. 19, https://arxiv.org/abs/1710.11063

    Note:
        The fraction is taken as 1 / (2 + (sum_p A_k) g): equal where g is not zero, and free of the underflow of g^2
        and g^3. The paper explains exp(score); its positive factor exp(score), one number per image, is left out.
        Where activations sum to a negative number the formula has a pole; `layer_cam` and `hires_cam` have none.
    """
    activations, gradients = working(activations), working(gradients)
    share = 2 + activations.sum((2, 3), keepdim=True) * gradients  # (B,C,H,W)
    weights = gradients.clamp(min=0) / away_from_zero(share, 1e-6)
    return weighted_sum(weights.sum((2, 3)), activations)


@method(
    "Smooth Grad-CAM++", kind="gradient", source="Omeiza et al., 2019", link="https://arxiv.org/abs/1908.01224",
    advice="Grad-CAM++ with less noise, at the cost of one whole pass per noisy copy.",
)  # fmt: skip
def smooth_grad_cam_plus_plus(
    activations: Tensor, noisy_gradients: NoisyGradients, *, samples: int = 8, noise: float = 0.15, seed: int = 0
) -> Tensor:
    """Grad-CAM++ with the powers of the gradient averaged over noisy copies of the image.

    Args:
        activations: A of the image itself, (B, C, H, W).
        noisy_gradients: d score / d A for one noisy copy of the images after another; taken one at a time, so that
            a generator keeps no more than one of them in memory.
        samples: Number of copies.
        noise: Standard deviation, as a fraction of each image's own range (see `noisy_copies`).
        seed: Seed of the noise.

    Returns:
        sum_k w_k A_k with w_k = sum_p ReLU(<g>) <g^2> / (2 <g^2> + (sum_p A_k) <g^3>), (B, H, W).

    Source:
        Omeiza et al., 2019, eq. 7-9, https://arxiv.org/abs/1908.01224

    Note:
        The paper's numerator reads <g>; the one of Grad-CAM++, which it sets out to smooth, is <g^2> and is used here.
    """
    activations = working(activations)
    powers, count = [torch.zeros_like(activations) for _ in range(3)], 0
    for noisy in noisy_gradients(samples, noise, seed):
        noisy, count = working(noisy), count + 1
        for mean, power in zip(powers, (noisy, noisy * noisy, noisy * noisy * noisy), strict=True):
            mean += (power - mean) / count  # running mean
    if count == 0:
        raise ValueError(f"samples={samples} leaves nothing to average: use at least one noisy copy")
    first, second, third = powers
    share = 2 * second + activations.sum((2, 3), keepdim=True) * third
    alpha = torch.where(second > 0, second / away_from_zero(share, 1e-6 * second), 0)
    return weighted_sum((alpha * first.clamp(min=0)).sum((2, 3)), activations)


@method(
    "XGrad-CAM", kind="gradient", source="Fu et al., BMVC 2020", link="https://arxiv.org/abs/2008.02312",
    advice="Grad-CAM with weights that best conserve the score; wants a layer after a ReLU.", channelwise=True,
)  # fmt: skip
def xgrad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Channels weighted by their gradients, averaged with the activations as weights.

    Args:
        activations: A at the cut, (B, C, H, W).
        gradients: d score / d A, (B, C, H, W).

    Returns:
        sum_k w_k A_k with w_k = sum_p g_k A_k / sum_p A_k, (B, H, W).

    Raises:
        MethodError: In most of the channels the activations cancel to a zero sum (after an instance normalisation,
            for instance), so that the weights do not exist.

    Source:
        Fu et al., BMVC 2020, eq. 8-9, https://arxiv.org/abs/2008.02312

    Note:
        The denominator keeps its sign and at least 1e-5 of the channel's sum of magnitudes; a channel of zeros adds
        nothing.
    """
    activations, gradients = working(activations), working(gradients)
    total, magnitude = activations.sum((2, 3)), activations.abs().sum((2, 3))  # (B,C)
    alive = magnitude > 0
    cancelled = alive & (total.abs() <= _CANCELLED * magnitude)
    if 2 * cancelled.sum() > alive.sum():
        raise MethodError(
            f"xgrad_cam divides by the sum of each channel's activations, which is zero in {int(cancelled.sum())} of "
            f"{int(alive.sum())} active channels here; use hires_cam or grad_cam, or cut after an activation function"
        )
    tiny = torch.finfo(total.dtype).tiny
    weights = (gradients * activations).sum((2, 3)) / away_from_zero(total, (_CANCELLED * magnitude).clamp(min=tiny))
    return weighted_sum(weights, activations)


@method(
    "HiResCAM", kind="gradient", source="Draelos and Carin, 2020", link="https://arxiv.org/abs/2011.08891",
    advice="Only what the model really used at each position; the safe choice for early layers and flattening heads.",
    channelwise=True,
)  # fmt: skip
def hires_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Activations times gradients at every position: what each position adds to the score, to first order.

    Args:
        activations: A at the cut, (B, C, H, W).
        gradients: d score / d A, (B, C, H, W).

    Returns:
        sum_k g_k A_k, (B, H, W), signed.

    Source:
        Draelos and Carin, 2020, eq. 3, https://arxiv.org/abs/2011.08891
    """
    return (working(gradients) * working(activations)).sum(1)


@method(
    "Grad-CAM element-wise", kind="gradient", source="Gildenblat et al., 2021",
    link="https://github.com/jacobgil/pytorch-grad-cam",
    advice="HiResCAM with every channel's evidence against the class left out.", channelwise=True,
)  # fmt: skip
def grad_cam_element_wise(activations: Tensor, gradients: Tensor) -> Tensor:
    """The positive part of every activation times its gradient.

    Args:
        activations: A at the cut, (B, C, H, W).
        gradients: d score / d A, (B, C, H, W).

    Returns:
        sum_k ReLU(g_k A_k), (B, H, W), not negative.

    Source:
        Gildenblat et al., pytorch-grad-cam, 2021, https://github.com/jacobgil/pytorch-grad-cam
    """
    return (working(gradients) * working(activations)).clamp(min=0).sum(1)


@method(
    "LayerCAM", kind="gradient", source="Jiang et al., IEEE TIP 2021", link="https://doi.org/10.1109/TIP.2021.3089943",
    advice="Fine detail at early layers; fuse several of them.", channelwise=True,
)  # fmt: skip
def layer_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Activations weighted by their own positive gradient; works at early layers too.

    Args:
        activations: A at the cut, (B, C, H, W).
        gradients: d score / d A, (B, C, H, W).

    Returns:
        sum_k ReLU(g_k) A_k, (B, H, W).

    Source:
        Jiang et al., IEEE TIP 2021, eq. 6-7, https://doi.org/10.1109/TIP.2021.3089943
    """
    return (working(gradients).clamp(min=0) * working(activations)).sum(1)


@method(
    "NormGrad", kind="gradient", source="Rebuffi et al., CVPR 2020", link="https://arxiv.org/abs/2004.02866",
    advice="Where a layer would learn from, for and against alike; sharp at early layers.",
)  # fmt: skip
def norm_grad(activations: Tensor, gradients: Tensor) -> Tensor:
    """How much a position could change a weight that is shared by all positions: where the model would learn from.

    Args:
        activations: A at the cut, (B, C, H, W).
        gradients: d score / d A, (B, C, H, W).

    Returns:
        The norm of g over the channels times that of A, (B, H, W); never negative.

    Source:
        Rebuffi et al., CVPR 2020 (NormGrad), sec. 3, https://arxiv.org/abs/2004.02866
    """
    norms: Tensor = working(gradients).norm(dim=1) * working(activations).norm(dim=1)
    return norms


@method(
    "ShapleyCAM", kind="gradient", source="Cai, 2025", link="https://arxiv.org/abs/2501.06261",
    advice="Grad-CAM corrected for the curvature of the score; differs only where the tail is not linear.",
)  # fmt: skip
def shapley_cam(activations: Tensor, tail_gradient: TailGradient) -> Tensor:
    """Grad-CAM less the change of the gradient along the activations: Shapley values to second order.

    Args:
        activations: A at the cut, (B, C, H, W).
        tail_gradient: The tail's gradient and Hessian-vector product.

    Returns:
        sum_k w_k A_k with w_k = mean_p(g_k - (H A)_k / 2), (B, H, W). Equal to Grad-CAM where the tail is linear.

    Source:
        Cai, 2025, https://arxiv.org/abs/2501.06261
    """
    curvature = tail_gradient(activations, along=activations)  # H A, (B,C,H,W)
    return grad_cam(activations, working(tail_gradient(activations)) - working(curvature) / 2)


@method(
    "Integrated Grad-CAM", kind="gradient", source="Sattarzadeh et al., ICASSP 2021",
    link="https://arxiv.org/abs/2102.07805", advice="When the score is saturated and its gradient vanishes.",
)  # fmt: skip
def integrated_grad_cam(activations: Tensor, tail_gradient: TailGradient, *, steps: int = 20) -> Tensor:
    """Grad-CAM averaged while the activations grow from zero to what they are; sees through saturated scores.

    Args:
        activations: A at the cut, (B, C, H, W).
        tail_gradient: The tail's gradient.
        steps: Number n of points on the way, at least 1.

    Returns:
        mean of Grad-CAM at the activations t A over t = 1/n, 2/n, ..., 1, (B, H, W).

    Source:
        Sattarzadeh et al., ICASSP 2021, https://arxiv.org/abs/2102.07805

    Note:
        The paper draws the path through image space; here it is drawn at the cut, which needs the tail only.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} leaves nothing to average: use 1 or more")
    total = torch.zeros_like(working(activations[:, 0]))  # (B,H,W)
    for step in range(1, steps + 1):
        point = activations * (step / steps)
        total += grad_cam(point, tail_gradient(point))
    return total / steps


@method(
    "Random CAM", kind="gradient", source="control",
    advice="The control: a method that does not beat it explains nothing.", aug_smooth=False,
)  # fmt: skip
def random_cam(activations: Tensor, *, seed: int = 0) -> Tensor:
    """Channels weighted at random: the control that every method must beat.

    Args:
        activations: A at the cut, (B, C, H, W).
        seed: Seed of the weights, which are drawn from a generator of their own; every image gets the same ones.

    Returns:
        sum_k w_k A_k with w_k uniform in [-1, 1), (B, H, W).
    """
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(activations.shape[1], generator=generator) * 2 - 1  # (C,)
    activations = working(activations)
    return weighted_sum(weights.to(activations).expand(len(activations), -1), activations)


# ------------------------------------------------------------------------------------------- how gradients are made


def noisy_copies(images: Tensor, samples: int, noise: float, seed: int) -> Iterator[Tensor]:
    """Copies of a batch with Gaussian noise, for `smooth_grad_cam_plus_plus`.

    Args:
        images: Model inputs, (B, C, H, W).
        samples: Number of copies.
        noise: Standard deviation, as a fraction of each image's own range (max - min).
        seed: Seed of the noise, drawn from a generator of its own; every image of the batch gets the same draw, so
            that a batch gives what its images give one by one.

    Yields:
        Noisy images, (B, C, H, W), `samples` times.
    """
    generator = torch.Generator().manual_seed(seed)
    flat = images.flatten(1)
    spread = noise * (flat.amax(1) - flat.amin(1)).reshape(-1, *[1] * (images.ndim - 1))
    for _ in range(samples):
        yield images + spread * torch.randn(images.shape[1:], generator=generator).to(images)


def gradient_of(score: Callable[[Tensor], Tensor]) -> TailGradient:
    """Makes a `TailGradient` of a tail's score.

    Args:
        score: Activations (B, C, H, W) to scores (B,), each depending on its own image only.

    Returns:
        The function that differentiates it; works inside `torch.no_grad` and leaves no graph and no `.grad` behind.

    Raises:
        MethodError: (by the returned function) the score does not depend on the activations, or has no second
            derivative.
    """

    def gradient(activations: Tensor, along: Tensor | None = None) -> Tensor:
        if along is None:
            return _differentiate(score, activations)
        with written_out():
            return _differentiate(score, activations, along)

    return gradient


@contextlib.contextmanager
def written_out() -> Iterator[None]:
    """Runs attention written out: its fused kernels have no second derivative."""
    with _hessian_lock, sdpa_kernel(SDPBackend.MATH):
        yield


@torch.enable_grad()
def _differentiate(score: Callable[[Tensor], Tensor], activations: Tensor, along: Tensor | None = None) -> Tensor:
    leaf = activations.detach().clone().requires_grad_()
    scores = score(leaf)  # (B,)
    if not scores.requires_grad:
        raise MethodError("the score does not depend on the activations at this cut, so it has no gradient there")
    (first,) = torch.autograd.grad(scores.sum(), leaf, create_graph=along is not None, materialize_grads=True)
    if along is None:
        return first
    opaque = opaque_step(scores)
    if opaque is not None:
        raise MethodError(f"the tail has no second derivative: {opaque} is written for one derivative only; {_INSTEAD}")
    if not first.requires_grad:  # a linear tail has a constant gradient
        return torch.zeros_like(leaf)
    try:
        (second,) = torch.autograd.grad(first, leaf, grad_outputs=along.detach(), materialize_grads=True)
    except RuntimeError as error:
        raise MethodError(f"the tail has no second derivative ({error}); {_INSTEAD}") from error
    return second


def opaque_step(scores: Tensor) -> str | None:
    """Finds a custom step of a graph whose backward PyTorch cannot differentiate: it would count as constant."""
    waiting, seen = [scores.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        custom = getattr(node, "_forward_cls", None)
        if custom is not None and hasattr(custom.backward, "__wrapped__"):  # @once_differentiable
            return str(custom.__name__)
        waiting.extend(following for following, _ in node.next_functions)
    return None
