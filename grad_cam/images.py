"""Old name of parts of `loading`; gone in the next release."""

from __future__ import annotations

import warnings

from .loading.images import MAX_PIXELS, ImageError, Source, load_image
from .loading.normalisation import looks_unnormalised, normalisation_note
from .loading.preprocess import CROP_MODES, IMAGENET_MEAN, IMAGENET_STD, Preprocessing, preprocessing

__all__ = [
    "CROP_MODES", "IMAGENET_MEAN", "IMAGENET_STD", "MAX_PIXELS", "ImageError", "Preprocessing", "Source", "load_image",
    "looks_unnormalised", "normalisation_note", "preprocessing",
]  # fmt: skip

warnings.warn(
    "grad_cam.images is now grad_cam.loading (load_image, preprocessing, Preprocessing, ...); this name goes with the "
    "next release",
    FutureWarning,
    stacklevel=2,
)
