"""Reads the configurations and image processors that models carry."""

from __future__ import annotations

import contextlib
import numbers
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeGuard, TypeVar

import torch
from torch import nn

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")


@dataclass(frozen=True)
class Declared(Generic[T]):
    """A fact and what declares it.

    Attributes:
        value: The fact.
        source: What declares it, as a phrase to go before "says": ``model.pretrained_cfg``.
    """

    value: T
    source: str


def timm_config(model: nn.Module) -> Declared[Mapping[str, Any]] | None:
    """Reads timm's configuration of a model, also of one that Hugging Face wraps; None for any other model."""
    for owner, path in ((model, ""), (getattr(model, "config", None), "config.")):
        for name in ("pretrained_cfg", "default_cfg"):
            found: Any = getattr(owner, name, None)
            found = found.to_dict() if hasattr(found, "to_dict") else found
            if isinstance(found, Mapping) and found:
                return Declared(found, path + name)
    return None


def processor_size(processor: Any) -> tuple[int, int] | None:
    """Height and width of what a Hugging Face image processor makes of a square image, found by running it once."""
    from PIL import Image

    made = None
    if callable(processor):
        with contextlib.suppress(Exception):  # one that takes more than images: its settings have to do
            made = run_processor(processor, Image.new("RGB", (64, 64)))
    if made is not None:
        return int(made.shape[-2]), int(made.shape[-1])
    crop = as_size(getattr(processor, "crop_size", None)) if getattr(processor, "do_center_crop", False) else None
    return crop or as_size(getattr(processor, "size", None))


def run_processor(processor: Any, image: Image.Image) -> torch.Tensor | None:
    """Runs a Hugging Face image processor on an image: (1,C,H,W), or None if it makes anything else.

    Those of videos take it as a video of one frame.
    """
    made = torch.as_tensor(processor(images=image, return_tensors="pt")["pixel_values"])
    if made.ndim == 5 and made.shape[:2] == (1, 1):  # one video, one frame
        made = made[:, 0]
    return made if made.ndim == 4 and len(made) == 1 else None


def as_size(value: Any) -> tuple[int, int] | None:
    """Reads height and width from the ways in which configurations write a size.

    Args:
        value: A number of pixels, a pair (height, width), a triple (channels, height, width), or a mapping with
            ``height`` and ``width`` or with ``shortest_edge``.

    Returns:
        (height, width), or None if that is not a size.
    """
    if isinstance(value, Mapping):
        edge = value.get("shortest_edge")
        value = (value.get("height") or edge, value.get("width") or edge)
    elif is_count(value):
        value = (value, value)
    if not isinstance(value, (tuple, list)) or len(value) not in (1, 2, 3) or not all(map(is_count, value)):
        return None
    height, width = value[-2:] if len(value) > 1 else (value[0], value[0])
    return int(height), int(width)


def is_count(value: Any) -> TypeGuard[int]:
    """Whether a value is an integer of at least 1, numpy's included; not a bool."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) > 0


def settings(config: Any, names: tuple[str, ...], path: str) -> Iterator[tuple[Any, str]]:
    """All settings of some names in a configuration and those nested in it, the outer and those of vision first."""
    queue, seen = [(config, path)], {id(config)}
    while queue:
        config, path = queue.pop(0)
        items = _items(config)
        for name in names:
            if items.get(name) is not None:
                yield items[name], f"{path}.{name}"
        nested = [
            (value, f"{path}.{key}")
            for key, value in items.items()
            if ("config" in key or isinstance(value, Mapping)) and not any(part in key for part in _NOT_OF_IMAGES)
        ]
        nested.sort(key=lambda pair: "vision" not in pair[1].rpartition(".")[2])
        for value, where in nested:
            if id(value) not in seen and (isinstance(value, Mapping) or hasattr(value, "__dict__")):
                seen.add(id(value))
                queue.append((value, where))


_NOT_OF_IMAGES = ("text", "audio", "decoder", "qformer", "label", "prompt")
"""Words in the names of nested configurations and mappings of parts that do not see the image."""


def _items(config: Any) -> dict[str, Any]:
    if isinstance(config, Mapping):
        return {key: value for key, value in config.items() if isinstance(key, str)}
    named = {name: getattr(config, name, None) for name in ("image_size", "img_size", "num_channels", "in_chans")}
    return {**getattr(config, "__dict__", {}), **{name: value for name, value in named.items() if value is not None}}
