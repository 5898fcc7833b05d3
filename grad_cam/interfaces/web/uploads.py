"""The photos that visitors upload: where they are kept, and which files are taken."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import tempfile
import warnings
from typing import Any

from PIL import Image

from ...loading import ImageError, read_image
from ...suffixes import VIDEOS, VOLUMES
from .errors import AppError

__all__ = ["Limits", "read", "remove_uploads", "upload_folder", "uploaded"]


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of a visitor.

    Attributes:
        upload: Largest file, in bytes.
        pixels: Largest picture, in pixels.
        models: Number of models kept in memory.
        visitors: Number of visitors whose pictures and maps are kept; the one that left earliest is forgotten first.
    """

    upload: int = 20_000_000
    pixels: int = 50_000_000
    models: int = 3
    visitors: int = 200


@functools.cache
def _uploads() -> tempfile.TemporaryDirectory[str]:
    parent = os.environ.get("GRADIO_TEMP_DIR")
    if parent:
        os.makedirs(parent, exist_ok=True)
    folder = tempfile.TemporaryDirectory(prefix="grad-cam-", dir=parent)
    os.environ["GRADIO_TEMP_DIR"] = os.path.realpath(folder.name)
    return folder


def upload_folder() -> pathlib.Path:
    """Where gradio keeps what visitors upload: a folder of this process alone, removed when it ends."""
    return pathlib.Path(_uploads().name).resolve()


def remove_uploads() -> None:
    """Removes what visitors have uploaded."""
    _uploads().cleanup()


def uploaded(path: Any, folder: pathlib.Path) -> pathlib.Path:
    """The file a visitor has uploaded.

    Args:
        path: Its place, as the visitor sent it.
        folder: Where uploads are kept.

    Raises:
        AppError: It is anything but a file below that folder, or on the way there is a link.
    """
    found = pathlib.Path(os.path.abspath(str(path)))
    if found.resolve() != found or not found.is_relative_to(folder) or not found.is_file():
        raise AppError("this file was not uploaded to the page", remedy="choose it in the field for photos")
    return found


def read(path: pathlib.Path, limits: Limits) -> tuple[Image.Image, tuple[str, ...]]:
    """Reads a visitor's picture, with notes on how it was read.

    Raises:
        ImageError: It is too large, not a picture, or damaged; the message names the file, not its place on the server.
    """
    if path.name.lower().endswith((*VIDEOS, *VOLUMES)):
        raise ImageError(
            f"{path.name} is a video or a volume, and this page explains pictures: use grad-cam explain {path.name} "
            "--model NAME, or grad_cam.explain with loading.load_frames or load_volume."
        )
    try:
        size = path.stat().st_size
        if size > limits.upload:
            most = f"at most {limits.upload / 1e6:g} MB are taken"
            raise ImageError(f"{path} has {size / 1e6:.1f} MB, {most}: scale it down first.")
        width, height = _pixels(path)
        if width * height > limits.pixels:
            most = f"at most {limits.pixels / 1e6:g} million are taken"
            raise ImageError(f"{path} has {width} × {height} pixels, {most}: scale it down first.")
        image, notes = read_image(path)
        return image, tuple(note.replace(str(path), path.name) for note in notes)
    except FileNotFoundError:
        raise ImageError(f"{path.name} is no longer on the server: upload it again.") from None
    except ImageError as error:
        raise ImageError(str(error).replace(str(path), path.name)) from None


def _pixels(path: pathlib.Path) -> tuple[int, int]:
    """Width and height from the header of a picture, without decoding it; zeros if it cannot be read."""
    try:
        with warnings.catch_warnings(), Image.open(path) as header:
            warnings.simplefilter("ignore")
            size: tuple[int, int] = header.size
            return size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 0, 0
