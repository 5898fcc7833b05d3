"""A map in the coordinates of the original: as an array, a mask, an annotation, or a volume in a file."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..arguments import check_fraction
from ..errors import GradCamError, import_extra
from ..predictions import percentage
from .display import Display
from .files import npy_bytes, png_bytes, write

SUFFIXES = (".npy", ".png", ".json", ".nii", ".nii.gz")


@dataclasses.dataclass(frozen=True, eq=False)
class OriginalMap:
    """A raw map put back over the original it is about; made by `Explanation.to_original`.

    Attributes:
        values: Raw signed values, float32 (H, W) of the upright photo, or of a volume in the order in which it is
            stored; NaN where the model saw nothing of it.
        target: What was explained.
        name: What the original is called, or "".
        affine: For volumes: the matrix (4, 4) from voxels to millimetres, or None.
    """

    values: NDArray[np.float32]
    target: str
    name: str = ""
    affine: NDArray[np.float64] | None = None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The values, for numpy."""
        return np.array(self.values, dtype=dtype, copy=True)

    def __repr__(self) -> str:
        """One line: the target, the original and its size."""
        seen = float(np.isfinite(self.values).mean())
        size = "x".join(map(str, self.values.shape))
        return f"OriginalMap({self.target!r} over {self.name or 'the original'}, {size}, {percentage(seen)} of it seen)"

    def mask(self, level: float = 0.5) -> NDArray[np.bool_]:
        """Where the map is at least a fraction of its highest value.

        Args:
            level: The fraction, over 0 and up to 1.

        Returns:
            bool, of the shape of `values`; False where the model saw nothing.

        Raises:
            GradCamError: The map is nowhere positive, or `level` is out of range.
        """
        level = check_fraction(level, "level")
        highest = float(np.nanmax(self.values))
        if level == 0 or highest <= 0:
            raise GradCamError(
                "a mask of no evidence would be empty or everything", f"level={level:g}, highest value {highest:g}",
                "use a level over 0, and a map that is somewhere positive",
            )  # fmt: skip
        return np.nan_to_num(self.values, nan=-np.inf) >= level * highest

    def coco(self, level: float = 0.5, *, image_id: int = 1, category_id: int = 1) -> dict[str, Any]:
        """The mask as a COCO file: one image, one category, one annotation with run lengths, column by column.

        Args:
            level: As for `mask`.
            image_id: Number of the image.
            category_id: Number of the category.

        Raises:
            GradCamError: The original is a volume, or as for `mask`.

        Source:
            Lin et al., ECCV 2014, https://cocodataset.org/#format-data (segmentation as uncompressed RLE)
        """
        self._require(2, "a COCO annotation is of a picture", "save it as .nii.gz or .npy")
        found = self.mask(level)
        rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
        flat = found.T.reshape(-1)
        changes = np.flatnonzero(np.diff(np.concatenate([[False], flat])))
        counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        height, width = found.shape
        return {
            "images": [{"id": image_id, "file_name": self.name, "width": width, "height": height}],
            "categories": [{"id": category_id, "name": self.target}],
            "annotations": [{
                "id": 1, "image_id": image_id, "category_id": category_id, "iscrowd": 1, "area": int(found.sum()),
                "bbox": [int(edge) for edge in box], "segmentation": {"size": [height, width], "counts": counts},
            }],
        }  # fmt: skip

    def overlay(self, photo: Image.Image, *, display: Display | None = None, **changes: Any) -> Image.Image:
        """The map over the whole photo; what the model did not see stays as it is.

        Args:
            photo: The upright photo, of the size of `values`.
            display: Settings; smoothing is not applied again.
            **changes: Single settings: threshold, alpha, colormap, view.
        """
        from .colors import overlay

        self._require(2, "an overlay is of a picture", "take a slice of values")
        if (photo.height, photo.width) != self.values.shape:
            raise GradCamError(
                "the photo is not the one the map lies on", f"{photo.height} x {photo.width}, map {self.values.shape}",
                "grad_cam.loading.load_image(...) of the same file",
            )  # fmt: skip
        display = Display.of(display, **{"smoothing": 0.0, **changes})
        heat = display.heat(np.nan_to_num(self.values), (photo.height, photo.width)).values
        return overlay(photo, heat, alpha=display.alpha, colormap=display.colormap, view=display.view)

    def save(self, path: str | os.PathLike[str], *, level: float = 0.5, force: bool = False) -> pathlib.Path:
        """Writes the map in the format that the suffix names.

        Args:
            path: `.npy` for the raw values, `.png` for the mask (0 and 255), `.json` for COCO; for volumes `.npy`, or
                `.nii` and `.nii.gz` for the raw values with the original's orientation and spacing (0 where nothing
                was seen).
            level: As for `mask`.
            force: Overwrite a file that exists.

        Returns:
            The path.

        Raises:
            GradCamError: Another suffix, or one that does not fit the number of axes.
            FileExistsError: A file is there already and `force` is False.
        """
        path = pathlib.Path(path)
        suffix = next((s for s in sorted(SUFFIXES, key=len, reverse=True) if path.name.lower().endswith(s)), "")
        if suffix == ".npy":
            return write(path, npy_bytes(self.values), force=force)
        if suffix == ".png":
            self._require(2, "a PNG mask is of a picture", "save it as .nii.gz or .npy")
            return write(path, png_bytes(Image.fromarray(self.mask(level).astype(np.uint8) * 255)), force=force)
        if suffix == ".json":
            return write(path, json.dumps(self.coco(level), ensure_ascii=False), force=force)
        if suffix in (".nii", ".nii.gz"):
            return write(path, self._nifti(compressed=suffix == ".nii.gz"), force=force)
        raise GradCamError(f"cannot tell a format from {path.name!r}", remedy=f"end the name in {', '.join(SUFFIXES)}")

    def _nifti(self, compressed: bool) -> bytes:
        self._require(3, "NIfTI is for volumes", "save it as .png, .json or .npy")
        nibabel = import_extra("nibabel", "writing NIfTI needs nibabel", "medical")
        affine = np.eye(4) if self.affine is None else self.affine
        content: bytes = nibabel.Nifti1Image(np.nan_to_num(self.values), affine).to_bytes()
        if compressed:
            import gzip

            return gzip.compress(content, mtime=0)
        return content

    def _require(self, axes: int, what: str, remedy: str) -> None:
        if self.values.ndim != axes:
            raise GradCamError(what, f"this map has {self.values.ndim} axes", remedy)
