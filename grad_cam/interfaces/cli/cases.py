"""Reads a table of photos with their classes and boxes; all mistakes are reported before a model is loaded."""

from __future__ import annotations

import csv
import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import GradCamError, message_of

if TYPE_CHECKING:
    from torch import Tensor

    from ...loading import Preprocessing

FILE = ("file", "photo", "image", "path", "filename")
CLASS = ("class", "index", "imagenet_index", "target", "label")
BOX = ("box", "boxes", "bbox")
SHOWN = 4
"""Number of mistakes that one error lists."""

Box = tuple[float, float, float, float]


class CasesError(GradCamError):
    """A table of photos that cannot be used."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A row of the table.

    Attributes:
        line: Its line in the file.
        path: The photo.
        name: Of its class, or its index as text; "" for the predicted class.
        boxes: Left, top, right and bottom in pixels of the photo.
    """

    line: int
    path: Path
    name: str
    boxes: tuple[Box, ...] = ()


def read_cases(table: Path, folder: Path | None = None, class_column: str | None = None) -> list[Case]:
    """Reads a CSV file with a header.

    Args:
        table: Its columns are `file`, `class` (a name or an index; an empty cell is the predicted class) and, if there
            are boxes, `box`: left, top, right, bottom in pixels of the photo, several of them apart by ";".
        folder: Where the photos are; by default beside the table, or in a folder of its name.
        class_column: The column of the class; by default the first that is called class, index, target or label.

    Raises:
        CasesError: It is not such a table, a photo is missing, or a box is not one. All mistakes are listed.
    """
    header, rows = _rows(table)
    file, box = _column(header, FILE, table), _column(header, BOX, table, needed=False)
    chosen = (class_column,) if class_column is not None else CLASS
    name = _column(header, chosen, table)
    found, wrong = [], []
    for line, row in rows:
        text = (row[file] or "").strip()
        path = _photo(text, table, folder)
        if path is None:
            where = (
                f"the folder {str(folder)!r}" if folder is not None else "the folder of the table, or one of its name"
            )
            wrong.append(f"line {line}: " + (f"there is no file {text!r} in {where}" if text else "no photo is named"))
            continue
        try:
            boxes = _boxes((row[box] or "") if box is not None else "")
        except ValueError as error:
            wrong.append(f"line {line}: {error}")
            continue
        found.append(Case(line, path, (row[name] or "").strip(), boxes))
    if wrong:
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise CasesError(f"{table.name}: {'; '.join(wrong[:SHOWN])}{more}")
    if not found:
        raise CasesError(f"{table.name} names no photo", remedy="write one a line under the header")
    return found


def _rows(table: Path) -> tuple[list[str], list[tuple[int, dict[str, str | None]]]]:
    """The header in small letters, and the rows with their line numbers."""
    if not table.is_file():
        raise FileNotFoundError(f"there is no file {str(table)!r}: give a CSV file with the columns file and class")
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise CasesError(f"{table.name} is not text in UTF-8", remedy="save it as CSV, UTF-8") from None
    first = text.partition("\n")[0]
    reader = csv.reader(text.splitlines(), delimiter=max(",;\t", key=first.count))
    lines = [(reader.line_num, cells) for cells in reader]
    if not lines:
        raise CasesError(f"{table.name} is empty", remedy="write a header, file,class,box, and one photo a line")
    header = [cell.strip().casefold() for cell in lines[0][1]]
    rows: list[tuple[int, dict[str, str | None]]] = [
        (number, dict(zip(header, [*cells, *[None] * len(header)], strict=False)))
        for number, cells in lines[1:] if any(cell.strip() for cell in cells)
    ]  # fmt: skip
    return header, rows


def _column(header: list[str], names: tuple[str, ...], table: Path, needed: bool = True) -> Any:
    """The first of some names that the header has."""
    found = next((name for name in names if name.casefold() in header), None)
    if found is None and needed:
        what = f"{names[0]!r}" if len(names) == 1 else f"{names[0]!r} (or {', '.join(names[1:])})"
        raise CasesError(f"{table.name} has no column {what}", f"its columns are {', '.join(header) or 'none'}",
                         "the first line names the columns, such as file,class,box")  # fmt: skip
    return None if found is None else found.casefold()


def _photo(text: str, table: Path, folder: Path | None) -> Path | None:
    """The file of a photo, or None."""
    if not text:
        return None
    folders = [folder] if folder is not None else [table.parent, table.with_suffix("")]
    return next((each / text for each in folders if (each / text).is_file()), None)


def _boxes(text: str) -> tuple[Box, ...]:
    """The boxes that a cell holds."""
    return tuple(_box(part) for part in text.split(";") if part.strip())


def _box(text: str) -> Box:
    remedy = "write left, top, right and bottom in pixels of the photo, such as 22 85 216 176"
    try:
        left, top, right, bottom = (float(each) for each in re.split(r"[\s,]+", text.strip(" ()[]\t")))
    except ValueError:
        raise ValueError(f"{text.strip()!r} is not a box: {remedy}") from None
    if not all(map(math.isfinite, (left, top, right, bottom))) or not (0 <= left < right and 0 <= top < bottom):
        raise ValueError(f"the box {text.strip()!r} holds nothing: {remedy}")
    return left, top, right, bottom


def classes_of(cases: list[Case], model: Any, skip: bool = False) -> Iterator[tuple[Case, int | None]]:
    """The cases with the indices of their classes; with `skip` without those whose class the model does not know.

    Raises:
        CasesError: The model does not know some of the classes.
    """
    from ...loading import class_index

    wrong = []
    for case in cases:
        try:
            yield case, class_index(model, case.name) if case.name else None
        except ValueError as error:
            wrong.append(f"line {case.line}: {message_of(error)}")
    if wrong and not skip:
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise CasesError(f"{'; '.join(wrong[:SHOWN])}{more}", remedy="--skip-unknown leaves such photos out")


def box_mask(case: Case, prepare: Preprocessing) -> Any:
    """Where the boxes of a photo are in what the model sees, a bool array (H, W); None without one that is seen."""
    import numpy as np
    from PIL import Image, ImageDraw

    from ...loading import load_image

    if not case.boxes:
        return None
    photo = load_image(case.path)
    canvas = Image.new("RGB", photo.size)
    for left, top, right, bottom in case.boxes:
        if left >= photo.width or top >= photo.height:
            raise CasesError(f"line {case.line}: a box lies beside the photo, which is {photo.width} x {photo.height}")
        right, bottom = min(right, photo.width), min(bottom, photo.height)
        ImageDraw.Draw(canvas).rectangle((left, top, right - 1, bottom - 1), fill=(255, 255, 255))
    seen = np.asarray(prepare.view(canvas).convert("L")) > 127
    return seen if seen.any() else None


def prepared(case: Case, prepare: Preprocessing) -> Tensor:
    """What the model computes on, (1, C, H, W)."""
    from ...loading import load_image

    try:
        return prepare(load_image(case.path))[0]
    except (ValueError, OSError) as error:
        raise CasesError(f"line {case.line}: {case.path.name}: {message_of(error)}") from None
