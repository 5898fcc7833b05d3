"""The pictures of a study: a folder with one folder per class, or tensors, with classes and boxes of objects."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ..errors import GradCamError
from ..loading import ImageError, ImageWarning, Preprocessing, load_image, preprocessing

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"})

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1, as parts 0..1 of what the model sees."""


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures with the class each belongs to; they are read when they are asked for, and not kept.

    Attributes:
        names: What each is called: its path within the folder, with slashes.
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
    def of_folder(
        cls, folder: str | os.PathLike[str], model: nn.Module, *, prepare: Preprocessing | None = None,
        boxes: Mapping[str, Sequence[float]] | None = None, limit: int | None = None,
    ) -> Pictures:  # fmt: skip
        """Finds the pictures of a folder that holds one folder for each class.

        Args:
            folder: The folder; below a class's folder there may be more.
            model: The model they are prepared for.
            prepare: How; by default as the model declares.
            boxes: For names of pictures, as `Pictures.names` has them, the box of the object (x0, y0, x1, y1) in
                pixels of the file.
            limit: At most so many pictures of each class, evenly spread over their names.

        Raises:
            GradCamError: There is no such folder, or it does not hold two classes of two pictures.
        """
        root = pathlib.Path(folder)
        if not root.is_dir():
            raise GradCamError(
                f"there is no folder {str(root)!r}", remedy="give a folder that holds one folder for each class"
            )
        prepare = preprocessing(model) if prepare is None else prepare
        found = {each.name: _pictures_in(each, limit) for each in sorted(root.iterdir()) if each.is_dir()}
        found = {name: paths for name, paths in found.items() if paths}
        failed: dict[str, str] = {}
        kept: list[tuple[pathlib.Path, str, Box | None]] = []
        for name, paths in found.items():
            for path in paths:
                key = path.relative_to(root).as_posix()
                try:
                    image = _opened(path)
                    kept.append((path, name, None if boxes is None or key not in boxes else _seen_box(
                        boxes[key], image, prepare)))  # fmt: skip
                except ImageError as error:
                    failed[key] = str(error)
        classes = tuple(name for name in found if sum(name == each for _, each, _ in kept) > 1)
        kept = [each for each in kept if each[1] in classes]
        if len(classes) < 2:
            raise GradCamError(
                "a study needs two classes with two pictures each", f"{str(root)!r} holds {len(classes)}",
                "give a folder that holds one folder for each class",
            )  # fmt: skip
        paths_, labels = [path for path, _, _ in kept], [classes.index(name) for _, name, _ in kept]
        names = tuple(path.relative_to(root).as_posix() for path in paths_)
        read = _Files(tuple(paths_), prepare)
        return cls(names, tuple(labels), classes, tuple(box for _, _, box in kept), read, prepare, failed)

    @classmethod
    def of_tensors(
        cls, images: Tensor, labels: Sequence[int], classes: Sequence[str], model: nn.Module, *,
        boxes: Sequence[Sequence[float] | None] | None = None,
    ) -> Pictures:  # fmt: skip
        """Pictures that are at hand.

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
    """Reads pictures from files."""

    paths: tuple[pathlib.Path, ...]
    prepare: Preprocessing

    def __call__(self, i: int) -> Tensor:
        return self.prepare(_opened(self.paths[i]))[0][0]


@dataclasses.dataclass(frozen=True, eq=False)
class _Tensors:
    """Gives images that are at hand."""

    images: Tensor

    def __call__(self, i: int) -> Tensor:
        return self.images[i]


def _pictures_in(folder: pathlib.Path, limit: int | None) -> list[pathlib.Path]:
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if limit is None or len(paths) <= limit:
        return paths
    return [paths[i * len(paths) // limit] for i in range(limit)]


def _opened(path: pathlib.Path) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImageWarning)
        return load_image(path)


def _seen_box(box: Sequence[float], image: Image.Image, prepare: Preprocessing) -> Box | None:
    left, top, right, bottom = prepare.used_box(image)
    return _part(box, left, top, right - left, bottom - top)


def _part(box: Sequence[float], left: float, top: float, width: float, height: float) -> Box | None:
    """A box in pixels as parts of a window, or None if it lies outside."""
    x0, y0, x1, y1 = box
    ends = [(x0 - left) / width, (y0 - top) / height, (x1 - left) / width, (y1 - top) / height]
    x0, y0, x1, y1 = (min(1.0, max(0.0, float(end))) for end in ends)
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None
