"""Drawn scenes: discs, squares and triangles on a noisy ground, with their boxes and masks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

NAMES = ("background", "disc", "square", "triangle")
COLOURS = ((214, 72, 60), (66, 133, 214), (250, 200, 60), (90, 180, 100), (170, 90, 190))


class Scene(NamedTuple):
    """A picture and what is in it.

    Attributes:
        picture: uint8 (H, W, 3).
        boxes: (N, 4), left, top, right, bottom in pixels.
        labels: (N,), numbers in `NAMES`.
        mask: (H, W), the number of the shape that each pixel shows.
    """

    picture: NDArray[np.uint8]
    boxes: Tensor
    labels: Tensor
    mask: Tensor

    @property
    def image(self) -> Tensor:
        """The picture for a model, float32 (3, H, W) in 0..1."""
        return torch.from_numpy(self.picture).permute(2, 0, 1).float() / 255


def scene(seed: int, size: int = 128, most: int = 5, least: int = 1) -> Scene:
    """Draws a scene whose shapes do not overlap."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(70, 130) + rng.normal(0, 12, (size, size, 1)) + rng.normal(0, 6, (size, size, 3))
    picture = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
    mask = Image.new("L", (size, size))
    boxes: list[tuple[int, int, int, int]] = []
    labels = []
    wanted = int(rng.integers(least, most + 1))
    for _ in range(60):
        if len(boxes) == wanted:
            break
        side = int(rng.integers(size // 6, size // 3))
        x, y = (int(v) for v in rng.integers(2, size - side - 2, 2))
        box = (x, y, x + side, y + side)
        if any(box[0] < b[2] + 3 and b[0] < box[2] + 3 and box[1] < b[3] + 3 and b[1] < box[3] + 3 for b in boxes):
            continue
        label = int(rng.integers(1, len(NAMES)))
        colour = COLOURS[int(rng.integers(len(COLOURS)))]
        for canvas, fill in ((ImageDraw.Draw(picture), colour), (ImageDraw.Draw(mask), label)):
            if label == 1:
                canvas.ellipse(box, fill=fill)
            elif label == 2:
                canvas.rectangle(box, fill=fill)
            else:
                canvas.polygon([(x, y + side), (x + side, y + side), (x + side // 2, y)], fill=fill)
        boxes.append(box)
        labels.append(label)
    return Scene(
        np.array(picture), torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(labels),
        torch.from_numpy(np.array(mask)).long(),
    )  # fmt: skip


def scenes(count: int, seed: int = 0, size: int = 128, **how: int) -> list[Scene]:
    """Draws scenes with consecutive seeds."""
    return [scene(seed + i, size, **how) for i in range(count)]
