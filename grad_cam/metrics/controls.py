"""Maps that know nothing of the model: what every method has to beat."""

from __future__ import annotations

import torch
from torch import Tensor


def random_maps(count: int, cells: int = 7, seed: int = 0) -> Tensor:
    """Draws maps of normal noise, smoothed over neighbours as the maps of deep layers are.

    Args:
        count: Number of maps.
        cells: Positions along each side.
        seed: Seed of a generator of its own.

    Returns:
        (count, cells, cells).
    """
    noise = torch.randn(count, 1, cells + 2, cells + 2, generator=torch.Generator().manual_seed(seed))
    bell = torch.tensor([1.0, 2.0, 1.0]) / 4
    return torch.nn.functional.conv2d(noise, (bell[:, None] * bell)[None, None])[:, 0]


def centred_gaussian(count: int, cells: int = 7, width: float = 0.25) -> Tensor:
    """Makes a bell in the middle of the picture: photographers put the object there.

    Args:
        count: Number of copies.
        cells: Positions along each side.
        width: Standard deviation, as a part of the side.

    Returns:
        (count, cells, cells).
    """
    place = (torch.arange(cells) + 0.5) / cells - 0.5
    bell = torch.exp(-(place**2) / (2 * width**2))
    return (bell[:, None] * bell).expand(count, -1, -1).clone()
