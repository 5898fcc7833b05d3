"""Pictures inside Arrow and Parquet files, as Hugging Face `datasets` writes them; read as data, no code is run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import message_of
from .kinds import Embedded, listing
from .needs import SourceError, arrow


def is_dataset(folder: Path) -> bool:
    """Whether a folder was written by `Dataset.save_to_disk` or `DatasetDict.save_to_disk`."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def dataset(folder: Path) -> Embedded:
    """The pictures of all splits of a saved dataset.

    Raises:
        SourceError: It has no column of pictures, or cannot be read.
    """
    try:
        parts = [folder]
        if (folder / "dataset_dict.json").is_file():
            splits = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
            parts = [folder / _inside(name) for name in splits]
        tables = [table for part in parts for table in _tables(part)]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise SourceError(f"the dataset {str(folder)!r} cannot be read", message_of(error, 200)) from error
    if not tables:
        raise SourceError(f"the dataset {str(folder)!r} is empty")
    table = arrow().concat_tables(tables)
    known = features(table.schema)
    name = next((n for n in table.column_names if known.get(n, {}).get("_type") == "Image"), None)
    if name is None:
        raise SourceError(f"the dataset {str(folder)!r} has no column of pictures", ", ".join(table.column_names))
    labels = next((n for n in table.column_names if known.get(n, {}).get("_type") == "ClassLabel"), None)
    classes = None
    if labels is not None:
        names = known[labels]["names"]
        classes = [names[k] if k is not None and k >= 0 else None for k in table.column(labels).to_pylist()]
    return of_column(str(folder), table.column(name), classes, None, None, folder)


def _tables(part: Path) -> list[Any]:
    """The Arrow tables of one split, mapped into memory."""
    pa = arrow()
    state = json.loads((part / "state.json").read_text(encoding="utf-8"))
    files = [part / _inside(each["filename"]) for each in state["_data_files"]]
    return [pa.ipc.open_stream(pa.memory_map(str(file))).read_all() for file in files]


def _inside(name: str) -> str:
    """The name of a file in the same folder."""
    if Path(name).name != name or name in ("", ".", ".."):
        raise SourceError("a dataset names a file outside its folder", name)
    return name


def features(schema: Any) -> dict[str, Any]:
    """What the metadata of a Hugging Face table say of its columns; empty for other tables."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return {name: each for name, each in found.items() if isinstance(each, dict)}


def of_column(
    given: str, pictures: Any, classes: Sequence[str | None] | None, boxes: Sequence[Any] | None,
    masks: Sequence[str | None] | None, root: Path,
) -> Embedded:  # fmt: skip
    """A source of a column of encoded pictures: binary, or structs of bytes and path."""
    types = arrow("pyarrow.types")
    kind = pictures.type
    struct = types.is_struct(kind) and any(kind.field(i).name in ("bytes", "path") for i in range(kind.num_fields))
    if not (struct or types.is_binary(kind) or types.is_large_binary(kind)):
        raise SourceError(f"the column of pictures of {given!r} holds neither file names nor bytes", str(kind))
    names = [f"{n:06d}" for n in range(len(pictures))]
    if struct and any(kind.field(i).name == "path" for i in range(kind.num_fields)):
        paths = arrow("pyarrow.compute").struct_field(pictures, "path").to_pylist()
        names = [f"{name}/{Path(path).name}" if path else name for name, path in zip(names, paths, strict=True)]
    return Embedded(given, listing(names, classes, boxes, masks), pictures, root)
