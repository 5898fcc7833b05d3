"""Opens sources: folders, globs, tables, Hugging Face folders, datasets and anything that can be iterated."""

from __future__ import annotations

import glob
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import GradCamError, message_of
from ..suffixes import PICTURES
from . import embedded
from .kinds import Files, Indexed, Input, Source, Stream, listing
from .needs import SourceError, arrow

__all__ = ["COLUMNS", "Anything", "Input", "Source", "Stream", "open_source"]

COLUMNS: dict[str, tuple[str, ...]] = {
    "path": ("path", "file", "filename", "file_name", "image_path", "image", "img"),
    "class": ("class", "label", "class_name", "category"),
    "box": ("box",),
    "mask": ("mask", "mask_path"),
}
"""Names under which the columns of a table are found; the first that is there counts."""

Anything: TypeAlias = "str | os.PathLike[str] | Iterable[Any]"
"""What `open_source` takes."""


def open_source(
    source: Anything, *, class_folders: bool | None = None, columns: Mapping[str, str] | None = None,
    without: Path | None = None,
) -> Source | Stream:  # fmt: skip
    """Lists the inputs of a source.

    Args:
        source: A folder (with those inside it), a glob such as ``"photos/*/*.jpg"``, a CSV or Parquet table, a folder
            written by Hugging Face `datasets`, a list of files, a dataset, a DataLoader or another iterable. A table
            has a column of paths, relative to its own folder, and may have columns class, box (left, top, right,
            bottom in pixels) and mask.
        class_folders: Whether the folder a file is in is its class. None: where all files are in folders directly
            under the source, two or more.
        columns: Names of the columns of a table where they are not found by themselves, such as
            ``{"class": "species"}``.
        without: A folder whose files are left out.

    Raises:
        SourceError: There is no such source, or no picture in it.
    """
    if isinstance(source, Source | Stream):
        return source
    if not isinstance(source, (str, os.PathLike)):
        return _of_items(source)
    text = os.fspath(source)
    path = Path(text)
    if path.is_dir():
        return _of_folder(path, class_folders, columns, without)
    if path.suffix.lower() in (".csv", ".tsv", ".parquet") and path.is_file():
        return _of_table(path, [path], columns)
    if path.is_file():
        return _listed_files([path.name], path.absolute().parent, str(path.absolute()))
    if glob.has_magic(text):
        return _of_glob(text, class_folders, without)
    raise SourceError(
        f"there is no folder, table or picture {text!r}", f"looked for in {Path.cwd()}", "a glob needs a * or ?"
    )


def _of_folder(
    path: Path, class_folders: bool | None, columns: Mapping[str, str] | None, without: Path | None
) -> Source:
    root = path.absolute()
    if embedded.is_dataset(root):
        return embedded.dataset(root)
    names = sorted(_pictures_in(root, without))
    if not names and (tables := sorted(root.rglob("*.parquet"))):
        return _of_table(root, tables, columns)
    if not names:
        raise SourceError(f"there are no pictures in the folder {str(path)!r}", remedy=f"files end in {_suffixes()}")
    return _listed_files(names, root, str(root), class_folders)


def _pictures_in(root: Path, without: Path | None) -> Iterator[str]:
    """The names of the pictures in a folder and those inside it, but for hidden ones and links to folders."""
    left_out = None if without is None else os.path.realpath(without)
    for folder, folders, files in os.walk(root):
        folders[:] = [
            name for name in folders
            if not name.startswith((".", "__MACOSX")) and os.path.realpath(os.path.join(folder, name)) != left_out
        ]  # fmt: skip
        for name in files:
            if name.lower().endswith(PICTURES) and not name.startswith("."):
                yield os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")


def _of_glob(pattern: str, class_folders: bool | None, without: Path | None) -> Source:
    fixed = os.path.dirname(re.split(r"[*?\[]", pattern, maxsplit=1)[0])
    root = Path(fixed or ".").absolute()
    inner = pattern[len(fixed) :].lstrip("/" + os.sep)
    found = [path for path in _matching(root, inner) if path.is_file()]
    left_out = None if without is None else os.path.realpath(without) + os.sep
    kept = [path for path in found if left_out is None or not os.path.realpath(path).startswith(left_out)]
    if not kept:
        raise SourceError(f"no file is named like {pattern!r}", remedy="** stands for folders inside folders")
    names = sorted({os.path.relpath(path, root).replace(os.sep, "/") for path in kept})
    return _listed_files(names, root, os.path.join(Path.cwd(), pattern), class_folders)


def _matching(root: Path, pattern: str) -> Iterator[Path]:
    """What matches a pattern, but for what is hidden; ** does not follow links, which may lead in a circle."""
    parts = [part if part == "**" else re.sub(r"\*\*+", "*", part) for part in pattern.split("/")]
    hidden = any(part.startswith(".") for part in parts)
    for path in root.glob("/".join([*parts, "*"] if parts[-1] == "**" else parts)):
        if hidden or not any(part.startswith(".") for part in path.relative_to(root).parts):
            yield path


def _listed_files(names: Sequence[str], root: Path, given: str, class_folders: bool | None = False) -> Files:
    parents = [name.split("/")[0] if "/" in name else None for name in names]
    if class_folders is None:
        class_folders = all(name.count("/") == 1 for name in names) and len(set(parents)) > 1
    return Files(given, listing(names, parents if class_folders else None), root)


def _suffixes() -> str:
    return ", ".join(PICTURES[:4]) + ", ..."


# --------------------------------------------------------------------------------------------------------------- tables


def _of_table(given: Path, files: Sequence[Path], columns: Mapping[str, str] | None) -> Source:
    table = _read_tables(files)
    found = _columns(table.column_names, columns or {}, given)
    pictures = table.column(found["path"])
    root = given.absolute() if given.is_dir() else given.absolute().parent
    classes = _texts(table, found.get("class"))
    boxes = [_box(v, given) for v in _values(table.column(found["box"]), "box")] if "box" in found else None
    masks = _texts(table, found.get("mask"))
    if table.num_rows == 0:
        raise SourceError(f"the table {str(given)!r} has no rows")
    types = arrow("pyarrow.types")
    if not any(kind(pictures.type) for kind in (types.is_string, types.is_large_string, types.is_dictionary)):
        return embedded.of_column(str(given.absolute()), pictures, classes, boxes, masks, root)
    names = _values(pictures, found["path"])
    odd = next((n for n, name in enumerate(names) if not isinstance(name, str) or not name), None)
    if odd is not None:
        raise SourceError(f"row {odd} of {str(given)!r} names no file", repr(names[odd])[:60])
    return Files(str(given.absolute()), listing(names, classes, boxes, masks), root)


def _read_tables(files: Sequence[Path]) -> Any:
    try:
        if files[0].suffix.lower() == ".parquet":
            pq = arrow("pyarrow.parquet")
            return arrow().concat_tables([pq.read_table(file, partitioning=None) for file in files])
        csv = arrow("pyarrow.csv")
        delimiter = "\t" if files[0].suffix.lower() == ".tsv" else ","
        with open(files[0], encoding="utf-8-sig") as file:
            names = file.readline().strip("\r\n").split(delimiter)
        texts = {name.strip('"'): arrow().string() for name in names}
        return csv.read_csv(
            files[0], parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=csv.ConvertOptions(column_types=texts, strings_can_be_null=True, null_values=[""]),
        )  # fmt: skip
    except (ValueError, OSError) as error:
        raise SourceError(f"the table {str(files[0])!r} cannot be read", message_of(error, 200)) from error


def _columns(names: Sequence[str], given: Mapping[str, str], table: Path) -> dict[str, str]:
    """Which column of a table is what."""
    for what, name in given.items():
        if what not in COLUMNS:
            raise GradCamError(f"columns: there is no {what!r}", remedy=f"the names are {', '.join(COLUMNS)}")
        if name not in names:
            raise SourceError(f"{str(table)!r} has no column {name!r}", f"it has {', '.join(names)}")
    lower = {name.strip().lower(): name for name in reversed(names)}
    found = {what: next((lower[n] for n in usual if n in lower), None) for what, usual in COLUMNS.items()}
    chosen = {what: name for what, name in {**found, **given}.items() if name is not None}
    if "path" not in chosen:
        raise SourceError(
            f"{str(table)!r} has no column of files", f"it has {', '.join(names)}",
            'call it path, or say which it is: columns={"path": ...}',
        )  # fmt: skip
    return chosen


def _texts(table: Any, name: str | None) -> list[str | None] | None:
    if name is None:
        return None
    labels = _class_names(table.schema, name)
    return [_text(value, labels) for value in _values(table.column(name), name)]


def _text(value: Any, labels: Sequence[str] | None) -> str | None:
    """A value of a column of classes or masks; whole numbers are written so, whatever their type."""
    if isinstance(value, float):
        value = None if math.isnan(value) else int(value) if value.is_integer() else value
    if labels and isinstance(value, int):  # Hugging Face writes -1 where there is no label
        return labels[value] if 0 <= value < len(labels) else None
    return None if value is None else str(value)


def _values(column: Any, name: str) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except ValueError as error:  # bytes that are no text
        raise SourceError(f"the column {name!r} cannot be read", message_of(error, 200)) from error
    return values


def _class_names(schema: Any, name: str) -> list[str] | None:
    names: list[str] | None = embedded.features(schema).get(name, {}).get("names")
    return names


def _box(value: Any, table: Path) -> list[float] | None:
    """A box as four numbers, from a list or from text such as "10 20 50 60"."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        numbers = [float(v) for v in (re.split(r"[\s,;]+", value.strip(" []()")) if isinstance(value, str) else value)]
    except (TypeError, ValueError):
        numbers = []
    whole = len(numbers) == 4 and all(map(math.isfinite, numbers))
    if not whole or numbers[0] >= numbers[2] or numbers[1] >= numbers[3]:
        raise SourceError(
            f"a box of {str(table)!r} is not left, top, right, bottom", repr(value)[:60],
            "give four numbers in pixels of the picture, left < right and top < bottom",
        )  # fmt: skip
    return numbers


# ---------------------------------------------------------------------------------------------------------------- items


def _of_items(items: Any) -> Source | Stream:
    """A source of anything in memory; a DataLoader that goes through a dataset in order is read from the dataset."""
    from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, default_collate

    name = type(items).__name__
    if isinstance(items, DataLoader):
        if isinstance(items.sampler, RandomSampler):
            raise SourceError("the DataLoader shuffles", name, "give shuffle=False: a run must find every input again")
        plain = isinstance(items.sampler, SequentialSampler) and items.collate_fn is default_collate
        if not plain or items.batch_size is None or not _has_length(items.dataset):
            return Stream(name, items)
        return _of_items(items.dataset)
    if isinstance(items, (list, tuple)) and items and all(isinstance(i, (str, os.PathLike)) for i in items):
        return _listed_files([os.path.abspath(i) for i in items], Path("/"), f"a list of {len(items)} files")
    if _has_length(items) and hasattr(items, "__getitem__") and not isinstance(items, Mapping):
        if not len(items):
            raise SourceError("the source is empty", name)
        return Indexed(f"{name} of {len(items)}", listing([f"{n:06d}" for n in range(len(items))]), items)
    if hasattr(items, "__iter__"):
        return Stream(name, items)
    raise SourceError("a source is a path, a dataset or an iterable of pictures", name)


def _has_length(items: Any) -> bool:
    try:
        return len(items) >= 0
    except TypeError:
        return False
