"""Functions that wrap or join methods: eigen-smoothing, averaging over flips and brightness, fusing several cuts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from .factorization import principal_component

Fusion = Literal["mean", "max", "product"]


def contributions(method: Callable[[Tensor, Tensor], Tensor], activations: Tensor, gradients: Tensor) -> Tensor:
    """What every channel adds to a method's map: the terms of its sum over k.

    Args:
        method: A method whose map is a sum over channels, each computed from that channel alone.
        activations: A at the cut, (B, C, H, W).
        gradients: d score / d A, (B, C, H, W).

    Returns:
        (B, C, H, W), whose sum over the channels is the map.
    """
    each = [tensor.reshape(-1, 1, *tensor.shape[2:]) for tensor in (activations, gradients)]  # (B*C,1,H,W)
    return method(*each).reshape(activations.shape)


def eigen_smooth(method: Callable[[Tensor, Tensor], Tensor], activations: Tensor, gradients: Tensor) -> Tensor:
    """Replaces a method's sum over channels by the first principal component of its terms: a cleaner, coarser map.

    Args:
        method: A gradient method whose `Method.eigen_smooth` is True.
        activations: A at the cut, (B, C, H, W).
        gradients: d score / d A, (B, C, H, W).

    Returns:
        Map, (B, H, W), centred on zero, of the sign that agrees with the method's own map.

    Source:
        Gildenblat et al., pytorch-grad-cam, 2021, https://github.com/jacobgil/pytorch-grad-cam
    """
    return principal_component(contributions(method, activations, gradients))


def fuse(maps: Sequence[Tensor], how: Fusion = "product", *, size: tuple[int, int] | None = None) -> Tensor:
    """Joins the maps of several cuts into one.

    Each map is resized (bilinear, half-pixel centres), cut off below zero and divided by its maximum per image.

    Args:
        maps: Raw maps, each (B, h, w) or (B, K, h, w), of any sizes.
        how: "mean", "max" (what any cut shows) or "product" (what every cut shows).
        size: Height and width of the result; by default the largest of the maps'.

    Returns:
        (B, H, W) or (B, K, H, W), 0..1. A map without a positive value counts as zeros.

    Raises:
        ValueError: No maps, an unknown `how`, or maps of different batches.

    Source:
        "product": Domeniconi et al., 2026 (RefineCAM), https://arxiv.org/abs/2605.14641; "max": Jiang et al., IEEE
        TIP 2021 (LayerCAM), sec. III-C, https://doi.org/10.1109/TIP.2021.3089943
    """
    joins: dict[str, Callable[[Tensor], Tensor]] = {
        "mean": lambda stack: stack.mean(0),
        "max": lambda stack: stack.amax(0),
        "product": lambda stack: stack.prod(0),
    }
    if how not in joins:
        raise ValueError(f"fuse={how!r} is not a way to join maps: use one of {', '.join(joins)}")
    if not maps or any(each.ndim not in (3, 4) or each.shape[:-2] != maps[0].shape[:-2] for each in maps):
        shapes = ", ".join(str(tuple(each.shape)) for each in maps) or "none"
        raise ValueError(f"fuse needs maps (B, h, w) or (B, K, h, w) of one batch; it was given {shapes}")
    height, width = size or (max(each.shape[-2] for each in maps), max(each.shape[-1] for each in maps))
    return joins[how](torch.stack([_shown(each, height, width) for each in maps]))


def _shown(raw: Tensor, height: int, width: int) -> Tensor:
    images = raw.float().reshape(-1, 1, *raw.shape[-2:])  # (B*K,1,h,w)
    images = functional.interpolate(images, (height, width), mode="bilinear", align_corners=False).clamp(min=0)
    highest = images.amax((2, 3), keepdim=True)
    return torch.where(highest > 0, images / highest, 0).reshape(*raw.shape[:-2], height, width)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """A change of the image that a good map follows.

    Attributes:
        name: What it does.
        apply: Images (B, C, H, W) to changed images.
        undo: Map (..., h, w) of the changed images to the map of the original ones.
    """

    name: str
    apply: Callable[[Tensor], Tensor]
    undo: Callable[[Tensor], Tensor]


def _augmentation(flip: bool, factor: float) -> Augmentation:
    def turn(images: Tensor) -> Tensor:
        return images.flip(-1) if flip else images

    return Augmentation(f"{'mirrored, ' if flip else ''}x{factor}", lambda images: turn(images) * factor, turn)


AUGMENTATIONS = tuple(_augmentation(flip, factor) for flip in (False, True) for factor in (0.9, 1.0, 1.1))


def aug_smooth(
    explain: Callable[[Tensor], Sequence[Tensor]],
    images: Tensor,
    augmentations: Sequence[Augmentation] = AUGMENTATIONS,
) -> list[Tensor]:
    """Averages the maps of changed copies of the images, each put back in place.

    Args:
        explain: Images (B, C, H, W) to raw maps, one (B, h, w) or (B, K, h, w) for each cut, for targets fixed
            beforehand.
        images: Model inputs, (B, C, H, W).
        augmentations: The changes; by default as it is and mirrored, each at 0.9, 1 and 1.1 times the values.

    Returns:
        The mean of the maps for each cut, of the shapes `explain` gives.

    Source:
        Gildenblat et al., pytorch-grad-cam, 2021, https://github.com/jacobgil/pytorch-grad-cam
    """
    if not augmentations:
        raise ValueError("aug_smooth needs at least one augmentation")
    runs = [[each.undo(maps) for maps in explain(each.apply(images))] for each in augmentations]
    return [torch.stack(maps).mean(0) for maps in zip(*runs, strict=True)]
