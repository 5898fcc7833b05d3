"""A tiny vision transformer that tells four drawn shapes apart, trained in seconds, so that its pictures are true.

`python -m docs.workshop.tiny` trains it anew. Its weights are stored, since no two machines train the same ones and the
pages say what is to be seen in its maps.
"""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from grad_cam import loading

SHAPES = ["disc", "ring", "diagonal cross", "upright cross"]
SIDE, CELL = 48, 8
WEIGHTS = pathlib.Path(__file__).with_name("tiny_vit.safetensors")
"""In half precision."""


def _masks() -> list[Tensor]:
    y, x = torch.meshgrid(torch.arange(CELL) - 3.5, torch.arange(CELL) - 3.5, indexing="ij")
    radius = x.hypot(y)
    return [
        radius < 3.2,
        (radius < 4) & (radius > 2),
        (x.abs() - y.abs()).abs() < 1.1,
        torch.minimum(x.abs(), y.abs()) < 1,
    ]


def draw(shapes: dict[int, int] | list[int], seed: int) -> Tensor:
    """Draws shapes in cells of a noisy ground.

    Args:
        shapes: Numbers of shapes for random cells, or {cell: shape} with cells 0..35 in reading order.
        seed: Of noise, colours and places.

    Returns:
        The normalised picture, (1, 3, 48, 48).
    """
    generator = torch.Generator().manual_seed(seed)
    image = 0.25 + 0.1 * torch.randn(3, SIDE, SIDE, generator=generator)
    if not isinstance(shapes, dict):
        cells = torch.randperm(36, generator=generator)[: len(shapes)].tolist()
        shapes = dict(zip(cells, shapes, strict=True))
    masks = _masks()
    for cell, shape in shapes.items():
        top, left = CELL * (cell // 6), CELL * (cell % 6)
        colour = 0.3 + 0.4 * torch.rand(3, 1, 1, generator=generator)
        image[:, top : top + CELL, left : left + CELL] += colour * masks[shape]
    return ((image.clamp(0, 1) - 0.25) / 0.2)[None]  # (1,3,48,48)


def _train(model: nn.Module, steps: int = 160) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for step in range(steps):
        labels = torch.randint(4, (64,), generator=torch.Generator().manual_seed(step))
        images = torch.cat([draw([int(k)], 64 * step + n) for n, k in enumerate(labels)])
        loss = functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _untrained() -> Any:
    model: Any = timm.models.VisionTransformer(
        img_size=SIDE, patch_size=CELL, embed_dim=48, depth=4, num_heads=4, num_classes=4
    )
    model.class_names = SHAPES
    model.preprocessing = loading.Preprocessing(size=SIDE, mean=(0.25,) * 3, std=(0.2,) * 3)
    return model


@functools.cache
def vit() -> Any:
    """The trained network: a ViT with four blocks, a class token and a 6x6 grid of patches, in eval mode."""
    model = _untrained()
    model.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return model.eval()


def main() -> None:
    """Trains the network and stores its weights."""
    torch.manual_seed(0)
    model = _untrained()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.trunc_normal_(parameter, std=0.02)
    _train(model)
    save_file({name: value.half().contiguous() for name, value in model.state_dict().items()}, WEIGHTS)


def scene(seed: int = 3) -> Tensor:
    """A picture with a ring and an upright cross, (1, 3, 48, 48)."""
    return draw({14: 1, 27: 3}, seed)


def write_folder(path: str, count: int, seed: int = 0) -> pathlib.Path:
    """Writes pictures of one shape each as PNG files, in one folder for each shape.

    Args:
        path: The folder to make.
        count: Pictures of each shape.
        seed: Of the first picture.
    """
    folder = pathlib.Path(path)
    for shape, name in enumerate(SHAPES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = draw([shape], seed + 1000 * shape + number)[0] * 0.2 + 0.25  # (3,48,48), 0..1
            picture = Image.fromarray((pixels.permute(1, 2, 0) * 255).round().byte().numpy())
            picture.save(folder / name / f"{number}.png")
    return folder


if __name__ == "__main__":
    main()
