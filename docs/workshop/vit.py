"""The vision transformer of real photos, whose weights are given by hand: `VIT=path`.

DINOv2's ViT-S/14 with a head of ten of ImageNet's classes. Nothing that is built or tested needs the weights: the
pictures made with them, and the figures measured on it, are stored.
"""

from __future__ import annotations

import pathlib
from typing import Any

import timm
from safetensors.torch import load_file

NAME = "vit_small_patch14_dinov2"
CLASSES = [
    "tench", "English springer", "cassette player", "chain saw", "church", "French horn", "garbage truck", "gas pump",
    "golf ball", "parachute",
]  # fmt: skip


def build(weights: str | pathlib.Path) -> Any:
    """The model for pictures of 224 pixels, in eval mode.

    Args:
        weights: A safetensors file of timm's `vit_small_patch14_dinov2` with `num_classes=10`, in any precision.
    """
    model: Any = timm.create_model(NAME, num_classes=len(CLASSES))
    model.load_state_dict({name: value.float() for name, value in load_file(weights).items()})
    model.set_input_size(img_size=224)
    model.class_names = CLASSES
    return model.eval()
