"""Parses options and arguments: sizes, numbers, settings, files and folders. Nothing heavy is imported."""

from __future__ import annotations

import ast
import difflib
import math
import re
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer

from ...errors import refuse_existing
from ...suffixes import PICTURES

DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu", "mtia", "xla", "npu")
"""Kinds of devices of torch that compute pictures."""


def size(text: str) -> Any:
    """224, 224x320 (height x width), or 32x96x96 (slices x height x width)."""
    found = re.fullmatch(r"(\d+)(?:\s*[x×,]\s*(\d+))?(?:\s*[x×,]\s*(\d+))?", text.strip())
    if not found or any(part is not None and not int(part) for part in found.groups()):
        raise typer.BadParameter(f"{text!r} is not a size: give one number, 224, or height and width, 224x320")
    if found[3] is not None:
        return int(found[1]), int(found[2]), int(found[3])
    height, width = int(found[1]), int(found[2] or found[1])
    return height if height == width else (height, width)


def number(low: float, high: float | None = None) -> Callable[[str], float]:
    """Makes a parser of numbers in a range."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (low <= value and (high is None or value <= high)) or math.isinf(value):
            allowed = f"of {low:g} or more" if high is None else f"from {low:g} to {high:g}"
            raise typer.BadParameter(f"{str(text)!r} is not a number {allowed}")
        return value

    return read


def two_numbers(text: str) -> tuple[float, float]:
    """Two finite numbers with a comma between them; NaN twice for any other text."""
    try:
        one, other = (float(part) for part in text.split(","))
    except ValueError:
        one = other = math.nan
    return (one, other) if math.isfinite(one) and math.isfinite(other) else (math.nan, math.nan)


def one_of(*values: str) -> Callable[[str], str]:
    """Makes a parser of one of a few words."""

    def read(text: str) -> str:
        if text not in values:
            raise typer.BadParameter(f"{text!r} is not one of {', '.join(values)}")
        return text

    return read


def device(text: str) -> str:
    """The name of a device, whether it is there or not."""
    if not re.fullmatch(rf"({'|'.join(DEVICES)})(:\d+)?", text):
        raise typer.BadParameter(f"{text!r} is not a device: give cpu, cuda, cuda:1, mps, ...")
    return text


def colormap(text: str) -> str:
    """The name of a colormap; those that are usual need no look at matplotlib's, which takes a moment."""
    if text in ("bgr", "plasma"):
        return text
    import matplotlib

    if text not in matplotlib.colormaps:
        folded = {name.casefold(): name for name in ("bgr", *matplotlib.colormaps)}
        close = [folded[name] for name in difflib.get_close_matches(text.casefold(), folded, cutoff=0.5)]
        offered = " or ".join(close) or "bgr, viridis, inferno or turbo"
        raise typer.BadParameter(f"no colormap is called {text!r}: try {offered}")
    return text


def named_values(texts: Sequence[str] | None) -> dict[str, Any]:
    """Options of a method, each NAME=VALUE; a value is a number, True, False, None, a tuple, or else a text."""
    found: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise typer.BadParameter(f"--option {text!r}: write it as name=value, such as samples=8")
        try:
            found[name.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            found[name.strip()] = value.strip()
    return found


def check_folder(path: Path) -> Path:
    """Makes sure that files can be written to a folder, made when the first one is; nothing is left behind."""
    there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OSError(
            f"cannot write to the folder {str(path)!r} ({error.strerror or error}): choose another with -o"
        ) from None
    return path


def check_page(path: Path, force: bool) -> None:
    """Makes sure that a page can be written: no folder has its name, nothing is overwritten unless `force`."""
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a folder: give the name of a file, such as page.html")
    refuse_existing([path], force)
    check_folder(path.parent)


def find_pictures(given: Sequence[str], recursive: bool = False) -> tuple[list[str], list[str]]:
    """The pictures that names of files and folders mean, and the names that do not exist."""
    found: list[str] = []
    missing: list[str] = []
    for name in given:
        path = Path(name)
        if path.is_dir():
            inside = sorted(path.rglob("*") if recursive else path.iterdir())
            pictures = [str(p) for p in inside if p.suffix.lower() in PICTURES and p.is_file()]
            if not pictures:
                hint = "" if recursive else "; --recursive looks into the folders inside it"
                raise FileNotFoundError(f"there are no pictures in the folder {name!r}{hint}")
            found += pictures
        else:
            (found if path.exists() else missing).append(name)
    if len(given) == len(found) == 1:
        _check_picture(found[0])
    return list(dict.fromkeys(found)), missing


def _check_picture(name: str) -> None:
    """Refuses a file that begins like no picture; what else is wrong with it is found when it is read."""
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            Image.open(name).close()
        except UnidentifiedImageError:
            formats = "such as JPEG, PNG, WebP or TIFF"
            raise ValueError(f"{name!r} is not an image in a format that can be read, {formats}") from None
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            pass


def open_viewer(paths: Sequence[Path]) -> None:
    """Opens files with the programs that show them."""
    for path in paths:
        typer.launch(str(path))
