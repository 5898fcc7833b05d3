"""Writes files whole or not at all, and over another file only with `force`."""

from __future__ import annotations

import base64
import io
import os
import pathlib
import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from ..errors import GradCamError, refuse_existing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write(
    path: str | os.PathLike[str], content: bytes | str, *, force: bool = False, durable: bool = False
) -> pathlib.Path:
    """Writes a file under a temporary name beside it and renames it once it is complete.

    A disk that is full, or a computation that is interrupted, leaves nothing behind, and an old file as it was. Of two
    processes that write one name at the same time, only one succeeds without `force`.

    Args:
        path: The file to write; a missing folder is made. A device or a pipe is written to directly.
        content: Bytes, or text that is encoded in UTF-8.
        force: Replace a file that exists; a link is followed.
        durable: Wait until the content is on the disk before the file gets its name.

    Returns:
        The path.

    Raises:
        FileExistsError: The file exists and `force` is False.
        NotADirectoryError: A parent of the path is a file.
        IsADirectoryError: The path is a folder.
    """
    path = pathlib.Path(path)
    data = content.encode() if isinstance(content, str) else content
    parent = next(folder for folder in path.parents if folder.exists())
    if not parent.is_dir():
        raise NotADirectoryError(f"{str(parent)!r} is a file, not a folder; choose another name")
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a folder; give the name of a file")
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return path
    refuse_existing([path], force)
    path.parent.mkdir(parents=True, exist_ok=True)
    target = pathlib.Path(os.path.realpath(path)) if force else path
    temporary = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        if force:
            os.replace(temporary, target)
        else:
            _publish(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _publish(temporary: pathlib.Path, target: pathlib.Path) -> None:
    """Gives a complete file its name, unless another process has taken the name meanwhile."""
    try:
        try:
            os.link(temporary, target)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links: the name is taken first, then filled
            open(target, "xb").close()
            os.replace(temporary, target)
    except FileExistsError:
        refuse_existing([target], False)
        raise


def png_bytes(picture: Figure | Image.Image, dpi: float | None = None) -> bytes:
    """Returns a figure or a picture as a PNG file.

    Args:
        picture: The figure or picture.
        dpi: Pixels per inch of a figure; its own (150) by default.
    """
    return _encoded(picture, "png", dpi)


def npy_bytes(values: ArrayLike) -> bytes:
    """Returns an array as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def data_uri(picture: Image.Image, kind: str = "png") -> str:
    """Returns a picture as an address that holds it: a PNG, or a JPEG without loss of colour resolution."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {"compress_level": 3} if kind == "png" else {"quality": 92, "subsampling": 0}
    picture.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def save(
    picture: Figure | Image.Image, path: str | os.PathLike[str], *, dpi: float | None = None, force: bool = True
) -> pathlib.Path:
    """Writes a figure or a picture; the suffix of the path says in which format.

    The file is written once it is complete in memory, so a format that fails leaves an existing file as it was.

    Args:
        picture: The figure or picture.
        path: The file to write; a missing folder is made.
        dpi: Pixels per inch of a figure; its own (150) by default.
        force: Replace a file that exists.

    Returns:
        The path.

    Raises:
        GradCamError: The suffix is of no known format.
        FileExistsError: The file exists and `force` is False.
    """
    path = pathlib.Path(path)
    kind = path.suffix.lower().lstrip(".")
    known: Iterable[str] = ("png", "jpg", "jpeg", "webp", "tif", "tiff")
    known = (*known, "bmp") if isinstance(picture, Image.Image) else (*known, "pdf", "svg")
    if kind not in known:
        raise GradCamError(
            f"cannot tell a picture format from {path.name!r}", remedy=f"end the name in one of .{', .'.join(known)}"
        )
    return write(path, _encoded(picture, kind, dpi), force=force)


def _encoded(picture: Figure | Image.Image, kind: str, dpi: float | None) -> bytes:
    kind = {"jpg": "jpeg", "tif": "tiff"}.get(kind, kind)
    buffer = io.BytesIO()
    quality = {"quality": 95} if kind in ("jpeg", "webp") else {}
    if isinstance(picture, Image.Image):
        picture.save(buffer, kind.upper(), **quality)
    else:
        options: dict[str, Any] = {"pil_kwargs": quality} if quality else {}
        if kind in ("pdf", "svg"):
            options["metadata"] = {"CreationDate" if kind == "pdf" else "Date": None}  # the same figure, the same file
        picture.savefig(
            buffer, format=kind, dpi=dpi or picture.dpi, bbox_inches=picture.bbox_inches,
            facecolor=picture.get_facecolor(), edgecolor="none", transparent=False, **options,
        )  # fmt: skip
    return buffer.getvalue()
