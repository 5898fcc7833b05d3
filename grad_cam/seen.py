"""What a model sees of a batch: the images, how they were made, and where they lie in their originals."""

from __future__ import annotations

import dataclasses
import functools
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from .errors import GradCamError
from .introspection import frames_first
from .loading.geometry import Geometry
from .loading.preprocess import Preprocessing, preprocessing
from .rendering import OriginalMap


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
    """A batch as the model sees it, shared by its explanations.

    Attributes:
        images: (B, C, H, W).
        preprocessing: How the pictures were made into images.
        geometry: Where each image lies in its original, if that is known.
        frames_first: Whether videos are (B, T, C, H, W) rather than (B, C, T, H, W).
    """

    images: Tensor = dataclasses.field(repr=False)
    preprocessing: Preprocessing
    geometry: tuple[Geometry, ...] | None = None
    frames_first: bool = False

    @functools.cached_property
    def pictures(self) -> NDArray[np.uint8]:
        """The batch for display, uint8 (B, H, W, 3); of videos and volumes (B, T, H, W, 3)."""
        images = self.images.float().cpu()
        if images.ndim == 4:
            return self.preprocessing.pictures(images)
        clips = images if self.frames_first else images.transpose(1, 2)  # (B, T, C, H, W)
        if clips.shape[2] == 1 and self.preprocessing.assumed:  # of unknown units: from the lowest to the highest value
            low, high = (getattr(clips, end)((1, 2, 3, 4), keepdim=True) for end in ("amin", "amax"))
            grey = ((clips - low) / (high - low).clamp(min=1e-9) * 255).round().nan_to_num().clamp(0, 255).byte()
            return np.ascontiguousarray(grey.expand(-1, -1, 3, -1, -1).permute(0, 1, 3, 4, 2).numpy())
        frames = self.preprocessing.pictures(clips.flatten(0, 1))
        return frames.reshape(*clips.shape[:2], *frames.shape[1:])

    def restored(self, image: int, raw: Tensor, target: str) -> OriginalMap:
        """A raw map of an image put back over its original.

        Raises:
            GradCamError: Where the image lies in its original is not known.
        """
        if self.geometry is None:
            raise GradCamError(
                "where the image lies in its original is not known", "",
                "explain(..., geometry=grad_cam.loading.preprocessing(model).geometry(photo)), or use GradCAM",
            )  # fmt: skip
        where = self.geometry[image]
        affine = None if where.affine is None else np.array(where.affine)
        return OriginalMap(where.restore(raw), target, where.name, affine)


_PREPARED: weakref.WeakKeyDictionary[nn.Module, dict[tuple[int, int], tuple[list[Any], Preprocessing]]] = (
    weakref.WeakKeyDictionary()
)


def seen_of(model: nn.Module, images: Tensor, geometry: tuple[Geometry, ...] | None) -> Seen:
    """What a model sees, safe from later changes; how it was normalised is worked out once per model and size."""
    size = (int(images.shape[-2]), int(images.shape[-1]))
    known = _PREPARED.setdefault(model, {})
    given = [getattr(model, name, None) for name in ("preprocessing", "image_processor")]
    if size not in known or any(old is not new for old, new in zip(known[size][0], given, strict=True)):
        known[size] = given, preprocessing(model, size)
    return Seen(images.detach().clone(), known[size][1], geometry, frames_first(model, images.shape[1:]))
