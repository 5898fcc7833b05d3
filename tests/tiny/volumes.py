"""A net of volumes, made by hand: how bright the brightest ball in a volume is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from grad_cam.loading import Preprocessing


def finder() -> nn.Module:
    """One score for a volume (B, 1, D, H, W): the mean of what is left of it above a threshold once it is smoothed."""
    smooth = nn.Conv3d(1, 1, 5, padding=2)
    nn.init.constant_(smooth.weight, 1 / 125)
    nn.init.constant_(smooth.bias, -0.6)  # type: ignore[arg-type]
    head = nn.Linear(1, 1, bias=False)
    nn.init.ones_(head.weight)
    model = nn.Sequential(nn.Sequential(smooth, nn.ReLU()), nn.AdaptiveAvgPool3d(1), nn.Flatten(), head)
    model.preprocessing = Preprocessing(size=(24, 24), mean=(0.0,), std=(1.0,), channels=1)
    return model.eval()


def volume(seed: int = 0, size: int = 24) -> tuple[Tensor, tuple[int, int, int]]:
    """A noisy volume (1, 1, D, H, W) in 0..1 with a bright ball, and the middle of the ball."""
    generator = torch.Generator().manual_seed(seed)
    found = 0.3 * torch.rand(1, 1, size, size, size, generator=generator)
    z, y, x = torch.randint(5, size - 5, (3,), generator=generator).tolist()
    places = torch.arange(size)
    squares = (places[:, None, None] - z) ** 2 + (places[:, None] - y) ** 2 + (places - x) ** 2
    found[0, 0, squares < 14] += 0.65
    return found, (z, y, x)
