"""The inputs of a run: a listing, and how each is opened.

A `Source` is a listing (path, class, box, mask of every input, in an order that does not change) and a way to open
one input by its number. A `Stream` can only be read from its beginning.
"""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..loading import ImageError
from .needs import SourceError, arrow

MAX_BYTES = 1 << 30
"""Files that are longer are refused: no picture within the limit of pixels is."""


@dataclasses.dataclass(frozen=True)
class Input:
    """One picture of a source.

    Attributes:
        number: Its place in the listing, from 0.
        path: The file as it is listed, relative to the folder it was found in; a number where there is no file.
        class_name: The class that the source gives it, or None.
        box: Left, top, right and bottom of the object in pixels of the picture, or None.
        mask: Path of a mask of the object, or None.
    """

    number: int
    path: str
    class_name: str | None = None
    box: tuple[float, float, float, float] | None = None
    mask: str | None = None


class Source:
    """Pictures that can be opened by number.

    Attributes:
        given: What the source is, in one line.
        listing: An Arrow table with the columns path, class, box, mask; one row for each input.
    """

    def __init__(self, given: str, listing: Any) -> None:
        self.given: str = given
        self.listing: Any = listing

    def __len__(self) -> int:
        return int(self.listing.num_rows)

    def __getitem__(self, number: int) -> Input:
        """The input of a number."""
        if not 0 <= number < len(self):
            raise IndexError(f"number={number}: the source lists {len(self)} inputs")
        row = {name: self.listing.column(name)[number].as_py() for name in ("path", "class", "box", "mask")}
        box = row["box"]
        return Input(number, row["path"], row["class"], None if box is None else tuple(box), row["mask"])

    def __iter__(self) -> Iterator[Input]:
        return (self[number] for number in range(len(self)))

    def open(self, number: int) -> Any:
        """What `loading.load_image` takes for an input, or a tensor (C, H, W) that needs no preparation.

        Raises:
            ImageError: It is gone, or is not what a picture can be.
        """
        raise NotImplementedError

    def file(self, number: int) -> Path | None:
        """The file of an input; None where it has none."""
        return None


class Files(Source):
    """Files that a listing names, relative to a folder."""

    def __init__(self, given: str, listing: Any, root: Path) -> None:
        super().__init__(given, listing)
        self.root = root

    def open(self, number: int) -> Any:
        path = self.file(number)
        try:
            size = os.path.getsize(path)
        except OSError:
            return path  # what is wrong with it is said when it is read
        if size > MAX_BYTES:
            raise ImageError(f"{path} is too long a file for a picture", f"{size:,} bytes", "scale it down first")
        return path

    def file(self, number: int) -> Path:
        name: str = self.listing.column("path")[number].as_py()
        return self.root / name


class Embedded(Source):
    """Pictures whose encoded bytes are in a column of Arrow tables, as Hugging Face `datasets` writes them."""

    def __init__(self, given: str, listing: Any, pictures: Any, root: Path) -> None:
        super().__init__(given, listing)
        self.pictures: Any = pictures
        self.root: Path = root

    def open(self, number: int) -> Any:
        value = self.pictures[number].as_py()
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, Mapping) else (value, None)
        if data is None and path is None:
            raise ImageError(f"row {number} holds no picture")
        if data is None:
            return self.root / str(path)
        try:
            return Image.open(io.BytesIO(data))
        except Exception as error:
            raise ImageError(f"row {number} is not a picture that can be read", str(error)) from error


class Indexed(Source):
    """A sequence or map-style dataset whose items are pictures or tensors, alone, with a label, or in a mapping."""

    def __init__(self, given: str, listing: Any, items: Any) -> None:
        super().__init__(given, listing)
        self.items = items

    def open(self, number: int) -> Any:
        return item_of(self.items[number])[0]

    def label(self, number: int) -> str | int | None:
        """The label that comes with an item."""
        label: str | int | None = item_of(self.items[number])[1]
        return label


class Stream:
    """An iterable of pictures or tensors, or of batches of them; its order has to be the same every time.

    Attributes:
        given: What it is, in one line.
        batched: Whether tensors (B, C, H, W) are batches, as those of a DataLoader.
    """

    def __init__(self, given: str, items: Iterable[Any]) -> None:
        self.given: str = given
        self._items = items

    def __iter__(self) -> Iterator[tuple[Any, str | int | None]]:
        """One picture or tensor (C, H, W) after the other, with its label."""
        for item in self._items:
            image, label = item_of(item)
            if getattr(image, "ndim", 3) == 4:
                labels = [None] * len(image) if label is None else _listed(label)
                yield from zip(image, labels, strict=True)
            else:
                yield image, label


def item_of(item: Any) -> tuple[Any, Any]:
    """The picture and the label of an item: alone, (picture, label, ...), or a mapping with the usual names."""
    if isinstance(item, Mapping) or hasattr(item, "keys"):
        image = next((item[k] for k in ("pixel_values", "image", "img", "picture", "images") if k in item), None)
        if image is None:
            raise ImageError(f"an item has no picture: {', '.join(map(str, item.keys()))}", remedy="call it 'image'")
        return image, _plain(next((item[k] for k in ("label", "labels", "class", "target") if k in item), None))
    if isinstance(item, (tuple, list)):
        return item[0], _plain(item[1]) if len(item) > 1 else None
    return item, None


def _plain(label: Any) -> Any:
    if hasattr(label, "tolist"):
        label = label.tolist()
    return label if isinstance(label, (int, str, list)) else None


def _listed(labels: Any) -> list[Any]:
    return list(labels.tolist() if hasattr(labels, "tolist") else labels)


def listing(
    paths: Sequence[str], classes: Sequence[str | None] | None = None, boxes: Sequence[Any] | None = None,
    masks: Sequence[str | None] | None = None,
) -> Any:  # fmt: skip
    """The Arrow table of a listing."""
    pa = arrow()
    none = [None] * len(paths)
    names = [name.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for name in paths]
    if any(name != path for name, path in zip(names, paths, strict=True)):
        odd = next(path for name, path in zip(names, paths, strict=True) if name != path)
        raise SourceError("a file has a name that is no text", repr(odd), "rename it")
    columns = [
        pa.array(names, pa.string()),
        pa.array(none if classes is None else classes, pa.string()),
        pa.array(none if boxes is None else boxes, pa.list_(pa.float64())),
        pa.array(none if masks is None else masks, pa.string()),
    ]
    return pa.Table.from_arrays(columns, names=["path", "class", "box", "mask"])
