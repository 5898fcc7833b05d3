"""The pictures of a study: of a folder, a table, a dataset or a run, or tensors, with classes and boxes of objects."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ..errors import GradCamError
from ..folders import Source, Stream, open_source, read
from ..folders.decoding import reason
from ..folders.kinds import Files, Indexed, listing
from ..folders.sources import Anything
from ..loading import ImageError, ImageWarning, Preprocessing, load_image, preprocessing

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1, as parts 0..1 of what the model sees."""


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures with the class each belongs to; they are read when they are used, and not kept.

    Attributes:
        names: What each is called: its path as the source lists it.
        labels: For each the number of its class in `classes`.
        classes: The names of the classes, in alphabetical order for a folder.
        boxes: For each the box of its object, where it is known.
        read: From the number of a picture to what the model takes, (C, H, W).
        preprocessing: How a tensor becomes a picture to look at.
        failed: The files that could not be read, with the reason.
    """

    names: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    boxes: tuple[Box | None, ...]
    read: Callable[[int], Tensor]
    preprocessing: Preprocessing
    failed: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def images(self, which: Sequence[int]) -> Tensor:
        """Some of the pictures as the model takes them, (n, C, H, W)."""
        return torch.stack([self.read(i) for i in which])

    def batches(self, which: Sequence[int], size: int) -> Iterator[tuple[list[int], Tensor]]:
        """Batches of one size: numbers of pictures, and images of which the last ones may be repeated ones."""
        for start in range(0, len(which), size):
            some = list(which[start : start + size])
            filled = some + [some[-1]] * (min(size, len(which)) - len(some))
            yield some, self.images(filled)

    def shown(self, images: Tensor) -> NDArray[np.uint8]:
        """Images as pictures, uint8 (n, H, W, 3)."""
        return self.preprocessing.pictures(images.float().cpu())

    @classmethod
    def of_source(
        cls, source: Anything, model: nn.Module, *, prepare: Preprocessing | None = None, limit: int | None = None
    ) -> Pictures:
        """Finds the pictures of a source that gives each a class.

        Args:
            source: What `folders.open_source` takes: a folder with one folder for each class, a table with the columns
                path, class and box or mask (a picture of the same size, not black where the object is), a dataset; or
                the folder of a run.
            model: The model they are prepared for.
            prepare: How; by default as the model declares.
            limit: Largest number of pictures of each class, evenly spread over the listing.

        Raises:
            GradCamError: There is no such source, or it does not hold two classes of two pictures.
        """
        prepare = preprocessing(model) if prepare is None else prepare
        opened = _of_run(source) or open_source(source)
        if isinstance(opened, Stream):
            raise GradCamError(
                "a study looks at a picture more than once", f"{opened.given} can only be read from its beginning",
                "give a folder, a table or a dataset with a length",
            )  # fmt: skip
        members: dict[str, list[int]] = {}
        failed: dict[str, str] = {}
        for number in range(len(opened)):
            try:
                label = opened.label(number) if isinstance(opened, Indexed) else opened[number].class_name
            except Exception as error:  # a data set of the user's may raise anything
                failed[opened[number].path] = reason(error)
                continue
            if label is not None:
                members.setdefault(str(label), []).append(number)
        kept: dict[str, list[tuple[int, Box | None]]] = {}
        for name in sorted(members):
            for number in _spread(members[name], limit):
                try:
                    kept.setdefault(name, []).append((number, _box_of(opened, number, prepare)))
                except Exception as error:
                    failed[opened[number].path] = reason(error)
        classes = tuple(name for name, each in kept.items() if len(each) > 1)
        if len(classes) < 2:
            first = next((f"; {len(failed)} pictures could not be read: {each}" for each in failed.values()), "")
            raise GradCamError(
                "a study needs two classes with two pictures each", f"{opened.given} holds {len(classes)}{first}",
                "give a folder that holds one folder for each class, or a table with a column class",
            )  # fmt: skip
        numbers = [number for name in classes for number, _ in kept[name]]
        labels = tuple(k for k, name in enumerate(classes) for _ in kept[name])
        boxes = tuple(box for name in classes for _, box in kept[name])
        names = tuple(opened[number].path for number in numbers)
        return cls(names, labels, classes, boxes, _Files(opened, tuple(numbers), prepare), prepare, failed)

    @classmethod
    def of_tensors(
        cls, images: Tensor, labels: Sequence[int], classes: Sequence[str], model: nn.Module, *,
        boxes: Sequence[Sequence[float] | None] | None = None,
    ) -> Pictures:  # fmt: skip
        """Makes pictures from tensors.

        Args:
            images: (N, C, H, W), as the model takes them.
            labels: For each the number of its class.
            classes: The names of the classes.
            model: The model.
            boxes: For each the box of its object (x0, y0, x1, y1) in pixels, or None.
        """
        if not len(images) == len(labels) or (boxes is not None and len(boxes) != len(images)):
            raise GradCamError(
                f"{len(images)} images, {len(labels)} labels", remedy="give one label, and one box, for each"
            )
        height, width = images.shape[-2:]
        size = (int(height), int(width))
        parts = [None if box is None else _part(box, 0, 0, width, height) for box in boxes or [None] * len(images)]
        names = tuple(f"{classes[k]}/{i}" for i, k in enumerate(labels))
        return cls(
            names, tuple(map(int, labels)), tuple(classes), tuple(parts), _Tensors(images), preprocessing(model, size)
        )  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class _Files:
    """Reads pictures from a source."""

    source: Source
    numbers: tuple[int, ...]
    prepare: Preprocessing

    def __call__(self, i: int) -> Tensor:
        opened = _opened(self.source, self.numbers[i])
        return opened if isinstance(opened, Tensor) else self.prepare(opened)[0][0]


@dataclasses.dataclass(frozen=True, eq=False)
class _Tensors:
    """Reads from tensors."""

    images: Tensor

    def __call__(self, i: int) -> Tensor:
        return self.images[i]


def _of_run(source: Any) -> Source | None:
    """The pictures that a run has maps of, if a source is the folder of a run."""
    if not isinstance(source, (str, os.PathLike)) or not (pathlib.Path(source) / "run.json").is_file():
        return None
    rows = read(source)
    if rows.about.get("root") is None:
        raise GradCamError(
            "the pictures of this run were not files", str(source), "study the source that it was run on"
        )
    table = rows.table(["input", "path", "class", "box", "mask", "error"]).to_pylist()
    each = list({row["input"]: row for row in table if row["error"] is None}.values())
    listed = listing(*([row[name] for row in each] for name in ("path", "class", "box", "mask")))
    return Files(f"the run {source}", listed, pathlib.Path(rows.about["root"]))


def _spread(numbers: list[int], limit: int | None) -> list[int]:
    if limit is None or len(numbers) <= limit:
        return numbers
    return [numbers[i * len(numbers) // limit] for i in range(limit)]


def _opened(source: Source, number: int) -> Image.Image | Tensor:
    opened = source.open(number)
    if isinstance(opened, Tensor):
        return opened.float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImageWarning)
        return load_image(opened)


def _box_of(source: Source, number: int, prepare: Preprocessing) -> Box | None:
    """The object's box as the model sees it; reads the picture, so that one that cannot be read is known now."""
    image, one = _opened(source, number), source[number]
    box = one.box if one.box is not None or one.mask is None else _box_of_mask(source, one.mask, image)
    if box is None:
        return None
    if isinstance(image, Tensor):
        return _part(box, 0, 0, image.shape[-1], image.shape[-2])
    left, top, right, bottom = prepare.used_box(image)
    return _part(box, left, top, right - left, bottom - top)


def _box_of_mask(source: Source, name: str, image: Image.Image | Tensor) -> Box | None:
    """The box around what a mask marks, in pixels; None where it marks nothing."""
    root = getattr(source, "root", pathlib.Path())
    mask = load_image(root / name).convert("L")
    size = image.size if isinstance(image, Image.Image) else (image.shape[-1], image.shape[-2])
    if mask.size != size:
        raise ImageError(f"the mask {name} is {mask.width} x {mask.height}, its picture {size[0]} x {size[1]}")
    return mask.getbbox()


def _part(box: Sequence[float], left: float, top: float, width: float, height: float) -> Box | None:
    """A box in pixels as parts of a window, or None if it lies outside."""
    x0, y0, x1, y1 = box
    ends = [(x0 - left) / width, (y0 - top) / height, (x1 - left) / width, (y1 - top) / height]
    x0, y0, x1, y1 = (min(1.0, max(0.0, float(end))) for end in ends)
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None
