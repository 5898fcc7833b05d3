"""The way in: images, how a model's are prepared, models by name, checkpoints, and the names of classes."""

from ..errors import ModelError
from ..introspection import class_count
from .clips import clip_tensor, load_frames, load_volume, volume_tensor
from .geometry import Geometry
from .images import ImageError, ImageWarning, load_image, read_image
from .labels import ClassNames, class_index, class_names
from .models import imported, load, samples
from .normalisation import normalisation_note
from .preprocess import Preprocessing, preprocessing
from .whole import WholePhoto

__all__ = [
    "ClassNames", "Geometry", "ImageError", "ImageWarning", "ModelError", "Preprocessing", "WholePhoto", "class_count",
    "class_index", "class_names", "clip_tensor", "imported", "load", "load_frames", "load_image", "load_volume",
    "normalisation_note", "preprocessing", "read_image", "samples", "volume_tensor",
]  # fmt: skip
