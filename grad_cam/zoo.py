"""Old name of parts of `loading`; gone in the next release."""

from __future__ import annotations

import warnings

from .loading import ModelError, class_count, class_index, load, samples
from .loading import class_names as labels

__all__ = ["ModelError", "class_count", "class_index", "labels", "load", "samples"]

warnings.warn(
    "grad_cam.zoo is now grad_cam.loading (load, samples, class_index, class_count; labels is now class_names); this "
    "name goes with the next release",
    FutureWarning,
    stacklevel=2,
)
