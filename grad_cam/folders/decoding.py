"""From an input to what the model computes on; of a picture that fails, the reason."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ..errors import GradCamError, message_of
from ..loading import ClassNames, ImageError, Preprocessing, read_image
from .kinds import Indexed, Input, Source

THUMBNAIL = 160
"""Longer side of the pictures in the rows, in pixels."""

MOST = 1 << 31
"""Classes of a model whose number is not known, at most."""


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of an input once it is decoded.

    Attributes:
        input: The input.
        class_index: The index of its class among the model's, or None.
        size: Height and width of the picture or tensor; None if it failed.
        frame: Left, top, right and bottom of what the model sees, in pixels of the picture; None if it failed.
        digest: Of the bytes of its file, or None.
        picture: What the model sees, small, as JPEG.
        remark: What its owner should know of how it was read.
    """

    input: Input
    class_index: int | None = None
    size: tuple[int, int] | None = None
    frame: tuple[float, float, float, float] | None = None
    digest: str | None = None
    picture: bytes = b""
    remark: str | None = None


class Failed(NamedTuple):
    """An input that could not be decoded or explained, with the reason."""

    input: Input
    reason: str


class Ready(NamedTuple):
    """An input that can be explained: (1, C, H, W) and its facts."""

    image: Tensor
    facts: Facts


class Batch(NamedTuple):
    """Inputs that were decoded together.

    Attributes:
        numbers: Their numbers, in order.
        groups: Images (n, C, H, W) of one size with the facts of each.
        failed: Those that failed.
    """

    numbers: list[int]
    groups: list[tuple[Tensor, list[Facts]]]
    failed: list[Failed]


class Decoder:
    """Opens and prepares inputs of a source.

    Args:
        source: The source; None for inputs that come opened.
        prepare: How images are prepared.
        names: The names of the model's classes, if known.
        count: Their number, if known.
    """

    def __init__(
        self, source: Source | None, prepare: Preprocessing, names: ClassNames | None, count: int | None
    ) -> None:
        self.source: Source | None = source
        self.prepare: Preprocessing = prepare
        self.names: ClassNames | None = names
        self.count: int | None = count

    def __call__(self, number: int) -> Ready | Failed:
        """The input of a number."""
        assert self.source is not None
        one = self.source[number]
        try:
            opened = self.source.open(number)
            label = self.source.label(number) if isinstance(self.source, Indexed) else None
            return self.ready(one, opened, label)
        except Exception as error:
            return Failed(one, reason(error))

    def ready(self, one: Input, opened: Any, label: Any = None) -> Ready:
        """Prepares an input that was opened.

        Args:
            one: The input.
            opened: A tensor (C, H, W), normalised; or anything that `loading.load_image` reads.
            label: The label that comes with it, an index or a name.
        """
        index = self._index(one.class_name if label is None else label)
        if label is not None and one.class_name is None:
            known = self.names is not None and index is not None
            one = dataclasses.replace(one, class_name=self.names[index] if known else str(label))  # type: ignore[index]
        if isinstance(opened, Tensor):
            return self._of_tensor(one, index, opened)
        picture, notes = read_image(opened)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self.prepare.processor is None:
                view = self.prepare.view(picture)
                image = self.prepare.tensor(view)
            else:
                image, view = self.prepare(picture)
        facts = Facts(
            one, index, (picture.height, picture.width), self.prepare.frame(picture),
            digest(opened) if isinstance(opened, (str, os.PathLike)) else None, _small(view), "; ".join(notes) or None,
        )  # fmt: skip
        return Ready(image, facts)

    def _of_tensor(self, one: Input, index: int | None, opened: Tensor) -> Ready:
        if opened.ndim != 3:
            raise ImageError("a tensor of one picture is (C, H, W)", f"this one is {tuple(opened.shape)}")
        image = opened.detach().cpu()[None]
        image = image if image.is_floating_point() else image.float()
        view = Image.fromarray(self.prepare.pictures(image)[0])
        height, width = int(image.shape[-2]), int(image.shape[-1])
        return Ready(image, Facts(one, index, (height, width), (0, 0, width, height), picture=_small(view)))

    def _index(self, label: Any) -> int | None:
        """The class of a label: an index, or a name that the model knows."""
        if isinstance(label, str) and self.names is None and label.strip().isdecimal():
            label = int(label)
        if isinstance(label, int):
            return label if 0 <= label < (self.count or MOST) else None
        if not isinstance(label, str) or self.names is None:
            return None
        try:
            return self.names.index_of(label)
        except GradCamError:
            return None


def together(made: Sequence[Ready | Failed]) -> Batch:
    """Puts images of one size into one tensor."""
    groups: dict[tuple[Any, ...], list[Ready]] = {}
    for one in made:
        if isinstance(one, Ready):
            groups.setdefault((one.image.shape, one.image.dtype), []).append(one)
    inputs = [one.facts.input if isinstance(one, Ready) else one.input for one in made]
    return Batch(
        [one.number for one in inputs],
        [(torch.cat([r.image for r in group]), [r.facts for r in group]) for group in groups.values()],
        [one for one in made if isinstance(one, Failed)],
    )


def digest(path: str | os.PathLike[str]) -> str:
    """A digest of a file's bytes."""
    found = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def reason(error: BaseException) -> str:
    """The message of an error in one line, at most 500 characters; an unexpected kind of error is named."""
    text = message_of(error, 500)
    return text if isinstance(error, GradCamError) and text else f"{type(error).__name__}: {text}".rstrip(": ")


def _small(view: Image.Image) -> bytes:
    small = view.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
