"""What a run found, in the formats of other programs: masks as PNG, and COCO annotations."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..arguments import check_fraction, slug
from ..errors import GradCamError
from ..loading.images import MAX_PIXELS
from ..rendering import Display
from ..rendering.files import png_bytes, write
from .needs import RunError
from .reading import Rows
from .rows import Row, numbered, unpacked

KINDS = ("masks", "coco")


def export(out: str | os.PathLike[str] | Rows, kind: str, *, threshold: float = 0.5) -> Path:
    """Writes the parts that maps mark, in pixels of the pictures themselves.

    Args:
        out: The folder of a run.
        kind: "masks" for a folder of black and white PNG files, one for each map; "coco" for `coco.json` with one
            annotation for each map: box, area and mask (run lengths, not compressed) of the marked part.
        threshold: What is marked: where the heatmap is at least this part of its maximum.

    Returns:
        The folder `masks`, or the file `coco.json`, in the folder of the run.

    Raises:
        GradCamError: There is no such kind.
    """
    if kind not in KINDS:
        raise GradCamError(f"there is no export {kind!r}", remedy=f"the exports are {', '.join(KINDS)}")
    check_fraction(threshold, "threshold")
    rows = out if isinstance(out, Rows) else Rows(out)
    return _masks(rows, threshold) if kind == "masks" else _coco(rows, threshold)


def file_name(row: Row, number: int, suffix: str) -> str:
    """The name of a file about a map: it is unlike any other and cannot leave its folder, whatever the input is called.

    Args:
        row: The row.
        number: Which of the rows of its input.
        suffix: With its dot.
    """
    stem = slug((row["path"].rpartition(".")[0] or row["path"])[-48:])
    return f"{row['input']:09d}-{number}-{stem}{suffix}"


def mask(row: Row, size: tuple[int, int], threshold: float) -> NDArray[np.bool_]:
    """The part of a picture that a map marks.

    Args:
        row: A row with a map.
        size: Height and width of the picture where the row does not say: a tensor.
        threshold: As for `export`.

    Returns:
        (H, W), the size of the picture; what the model did not see is not marked.
    """
    height, width = row["picture_size"] or size
    if height * width > MAX_PIXELS:
        raise RunError(f"{row['path']} is too large for a mask", f"{width} x {height}")
    heat = Display(threshold=0).heat(unpacked(row), size).values
    picture = Image.fromarray(np.asarray(heat, np.float32))
    left, top, right, bottom = row["frame"] or (0, 0, width, height)
    across, down = size[1] / (right - left), size[0] / (bottom - top)
    placed = picture.transform(
        (width, height), Image.Transform.AFFINE, (across, 0, -left * across, 0, down, -top * down),
        Image.Resampling.BILINEAR,
    )  # fmt: skip
    values = np.asarray(placed)
    found: NDArray[np.bool_] = (values >= threshold) & (values > 0)
    return found


def _marked(rows: Rows, threshold: float) -> Iterator[tuple[Row, int, NDArray[np.bool_]]]:
    """Every row with a map, which of its input's it is, and its mask."""
    prepare = rows.about.get("prepare") or {}
    for number, row in numbered(rows):
        if row["error"] is None:
            size = tuple(prepare.get("size", ())) or (224, 224)
            yield row, number, mask(row, (size[0], size[1]), threshold)


def _masks(rows: Rows, threshold: float) -> Path:
    folder = rows.path / "masks"
    for row, number, found in _marked(rows, threshold):
        picture = Image.fromarray(found.astype(np.uint8) * 255)
        write(folder / file_name(row, number, ".png"), png_bytes(picture), force=True)
    return folder


def _coco(rows: Rows, threshold: float) -> Path:
    images: dict[int, dict[str, Any]] = {}
    categories: dict[str, int] = {}
    annotations: list[dict[str, Any]] = []
    for row, _, found in _marked(rows, threshold):
        height, width = found.shape
        images[row["input"]] = {"id": row["input"], "file_name": row["path"], "width": width, "height": height}
        category = categories.setdefault(row["target"], len(categories) + 1)
        if found.any():
            annotations.append(
                {"id": len(annotations) + 1, "image_id": row["input"], "category_id": category, **_shape(found),
                 "iscrowd": 0, "score": row["target_probability"]}
            )  # fmt: skip
    named = [{"id": number, "name": name} for name, number in categories.items()]
    text = json.dumps({"images": list(images.values()), "categories": named, "annotations": annotations})
    return write(rows.path / "coco.json", text, force=True)


def _shape(found: NDArray[np.bool_]) -> dict[str, Any]:
    """Box, area and run lengths of a mask; runs go down the columns and begin with what is not marked."""
    down, across = np.nonzero(found.any(1))[0], np.nonzero(found.any(0))[0]
    left, top = int(across[0]), int(down[0])
    flat = found.reshape(-1, order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    ends = [0] * bool(flat[0]) + [0, *changes.tolist(), flat.size]
    return {
        "bbox": [left, top, int(across[-1]) + 1 - left, int(down[-1]) + 1 - top],
        "area": int(found.sum()),
        "segmentation": {"size": list(found.shape), "counts": np.diff(ends).tolist()},
    }
