"""Whether a map depends on what the model has learned."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import GradCamError
from .maps import agreement


class Randomised(NamedTuple):
    """How much of a map is left when a layer, and all before it in the order, is random.

    Attributes:
        layer: Module path of the layer randomised last.
        agreement: Rank correlation with the map of the trained model, (B,).
    """

    layer: str
    agreement: Tensor


def parameter_randomisation(
    model: nn.Module, images: Tensor, maps: Callable[[nn.Module, Tensor], Tensor], *, samples: int = 8,
    noise: float = 0.1, order: Literal["top_down", "bottom_up"] = "top_down", layers: int | None = None, seed: int = 0,
) -> tuple[Randomised, ...]:  # fmt: skip
    """Randomises the layers of a model one after another and follows its maps, averaged over noisy images.

    Args:
        model: Any model; it is left as it is.
        images: (B, C, H, W).
        maps: From a model and images to maps (B, h, w), such as
            ``lambda model, images: explain(model, images, target=classes).map``, with the target given.
        samples: Noisy copies of the images to average over; 1 with `noise=0` is the test without smoothing.
        noise: Standard deviation of the noise, as a part of each image's range.
        order: From the head to the images, or from the images to the head.
        layers: Number of points to take, evenly spread over the layers; None takes all.
        seed: Seed of weights and noise; the caller's random state is kept.

    Returns:
        One `Randomised` for each point. A map that stays as it was does not depend on what was learned there.

    Source:
        Hedstroem et al., Sanity Checks Revisited, 2024, sec. 3 (smooth MPRT), https://arxiv.org/abs/2401.06465, after
        Adebayo et al., NeurIPS 2018, https://arxiv.org/abs/1810.03292
    """
    if order not in ("top_down", "bottom_up"):
        raise GradCamError(f"order={order!r}", remedy='use "top_down" or "bottom_up"')
    if samples < 1:
        raise GradCamError(f"samples={samples} leaves nothing to average", remedy="use 1 or more")
    generator = torch.Generator().manual_seed(seed)
    spread = noise * (images.amax((1, 2, 3), keepdim=True) - images.amin((1, 2, 3), keepdim=True))
    drawn = torch.randn(samples, *images.shape, generator=generator).to(images)
    copies = [images + spread * each for each in drawn]

    def smooth(of: nn.Module) -> Tensor:
        return torch.stack([maps(of, each).detach().double().cpu() for each in copies]).mean(0)

    wanted, found = smooth(model), []
    changed = copy.deepcopy(model)
    names = [name for name, module in changed.named_modules() if list(module.parameters(recurse=False))]
    names = names[::-1] if order == "top_down" else names
    stops = set(torch.linspace(len(names) - 1, 0, min(layers or len(names), len(names))).round().long().tolist())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for place, name in enumerate(names):
            _randomise(changed.get_submodule(name))
            if place in stops:
                changed = copy.deepcopy(changed)  # another model: nothing remembered about the former holds
                found.append(Randomised(name, torch.as_tensor(agreement(wanted, smooth(changed)))))
    return tuple(found)


@torch.no_grad()
def _randomise(module: nn.Module) -> None:
    """Draws new parameters for one module: as when it is made, or else normal ones of the same size."""
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
        return
    for weight in module.parameters(recurse=False):
        weight.copy_(torch.randn(weight.shape) * weight.std(unbiased=False).clamp(min=1e-3).cpu())
