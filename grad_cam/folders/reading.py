"""`read`: what a run wrote, as a table and as explanations."""

from __future__ import annotations

import bisect
import functools
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..loading import Preprocessing
from ..results import Explanation, Layer
from ..seen import Seen
from .decoding import digest
from .needs import RunError, arrow
from .place import Place, missing
from .rows import COLUMNS, Row, unpacked


class Rows(Sequence[Row]):
    """The rows of a run, in the order of its inputs; read from the shards when they are used.

    Attributes:
        path: The folder of the run.
        about: The request of the run: model, layer, method, target, options, preprocessing, source, labels.
        columns: The meaning of every column.
    """

    columns: dict[str, str] = {name: meaning for name, (_, meaning) in COLUMNS.items()}

    def __init__(self, path: str | os.PathLike[str], preprocessing: Preprocessing | None = None) -> None:
        place = Place(path)
        self.path: Path = place.path
        self.about: dict[str, Any] = place.about()
        self._done, self._shards = place.done(), place.shards()
        counts = [arrow("pyarrow.parquet").read_metadata(shard).num_rows for shard in self._shards]
        self._ends = list(itertools.accumulate(counts))
        self._prepare = preprocessing
        self._listed = place.listing
        self._cache: tuple[int, list[Row]] = (-1, [])

    def __repr__(self) -> str:
        of = "" if self.total is None else f" of {self.total}"
        return f"Rows({str(self.path)!r}, {len(self)} rows of {self.done}{of} inputs)"

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, row: Any) -> Any:
        """A row as a dict; its map as flat float16 numbers (see `raw`)."""
        if isinstance(row, slice):
            return [self[n] for n in range(*row.indices(len(self)))]
        if not -len(self) <= row < len(self):
            raise IndexError(f"row={row}: the run has {len(self)} rows")
        row %= len(self)
        shard = bisect.bisect_right(self._ends, row)
        if self._cache[0] != shard:
            self._cache = shard, _table(self._shards[shard]).to_pylist()
        return self._cache[1][row - (self._ends[shard - 1] if shard else 0)]

    def __iter__(self) -> Iterator[Row]:
        return itertools.chain.from_iterable(self.shards())

    def shards(self, most: int | None = None) -> Iterator[list[Row]]:
        """The rows shard by shard, until there are at least `most`."""
        for shard, end in zip(self._shards, [0, *self._ends], strict=False):
            if most is not None and end >= most:
                return
            yield _table(shard).to_pylist()

    @property
    def done(self) -> int:
        """The number of inputs that have rows."""
        return sum(stop - start for start, stop in self._done)

    @functools.cached_property
    def total(self) -> int | None:
        """The number of inputs; None while a stream has not been read to its end."""
        if self._listed.exists():
            return int(arrow("pyarrow.parquet").read_metadata(self._listed).num_rows)
        return self.about.get("total")

    @property
    def complete(self) -> bool:
        """Whether every input has its rows."""
        return self.total is not None and not missing(self._done, self.total)

    def table(self, columns: Sequence[str] | None = None) -> Any:
        """The rows as a `pyarrow.Table`; `.to_pandas()` makes a data frame of it.

        Args:
            columns: Which of `columns`; all of them by default. Without maps, logits and pictures it is small.
        """
        from .rows import schema

        wanted = list(COLUMNS) if columns is None else list(columns)
        for name in wanted:
            if name not in COLUMNS:
                raise RunError(f"there is no column {name!r}", remedy=f"the columns are {', '.join(COLUMNS)}")
        if not self._shards:
            return schema().empty_table().select(wanted)
        return arrow().concat_tables([_table(shard, wanted) for shard in self._shards])

    @property
    def errors(self) -> Any:
        """The inputs without a map and why, as a `pyarrow.Table` with the columns input, path and error."""
        found = self.table(["input", "path", "error"])
        return found.filter(arrow("pyarrow.compute").is_valid(found.column("error")))

    def raw(self, row: int) -> Tensor:
        """The raw signed map (h, w) of a row, float32, to three digits of its largest value.

        Raises:
            RunError: The row has no map; the message is the reason.
        """
        found = self[row]
        if found["error"] is not None:
            raise RunError(f"there is no map of {found['path']}", found["error"])
        return unpacked(found)

    def explanation(self, row: int, image: Tensor | None = None) -> Explanation:
        """The `Explanation` of a row.

        Args:
            row: Which row.
            image: What the model saw, (1, C, H, W) or (C, H, W). By default the picture is read again.

        Raises:
            RunError: The row has no map; the picture is gone or not the same; it was no file and `image` is not given.
        """
        found = self[row]
        raw = self.raw(row)[None]
        image = self._image(found) if image is None else image
        image = image[None] if image.ndim == 3 else image
        index = found["target_index"]
        return Explanation(
            raw, torch.tensor([found["logits"] or []], dtype=torch.float32), ((found["target"],),),
            None if index is None else torch.tensor([[index]]), Layer(found["layer"], found["layer_idx"]),
            found["method"], Seen(image, self._preparation()),
        )  # fmt: skip

    def explanations(self, rows: Iterable[int] | None = None) -> Iterator[Explanation]:
        """The explanations of rows one by one; by default of all that have a map."""
        if rows is None:
            rows = (n for n, error in enumerate(self.table(["error"]).column("error").to_pylist()) if error is None)
        return (self.explanation(row) for row in rows)

    def file(self, row: int) -> Path | None:
        """The file of the picture of a row; None where it was none."""
        root = self.about.get("root")
        return None if root is None else Path(root) / self[row]["path"]

    def _image(self, row: Row) -> Tensor:
        root = self.about.get("root")
        if root is None or row["digest"] is None:
            raise RunError(f"the picture of {row['path']} was no file", remedy="give image=..., as the model saw it")
        path = Path(root) / row["path"]
        if not path.is_file():
            raise RunError(f"the picture {str(path)!r} is gone", remedy="give image=..., as the model saw it")
        if digest(path) != row["digest"]:
            raise RunError(f"the picture {str(path)!r} has changed since it was explained", remedy="explain it again")
        return self._preparation()(path)[0]

    def _preparation(self) -> Preprocessing:
        if self._prepare is not None:
            return self._prepare
        known = self.about.get("prepare")
        if known is None:
            raise RunError(
                "an image processor of its own prepared the pictures", self.about.get("preprocessing", "")[:100],
                "give read(out, preprocessing=grad_cam.loading.preprocessing(model))",
            )  # fmt: skip
        return Preprocessing(**known)


def read(out: str | os.PathLike[str], *, preprocessing: Preprocessing | None = None) -> Rows:
    """Reads what `run` wrote, also while it is still running.

    Args:
        out: The folder of the run.
        preprocessing: How its pictures were prepared, where a Hugging Face image processor did that.

    Returns:
        A sequence of rows (dicts), with `table`, `raw`, `explanation`, `explanations` and `errors`.

    Raises:
        RunError: There is no run in the folder.
    """
    return Rows(out, preprocessing)


def _table(shard: Path, columns: Sequence[str] | None = None) -> Any:
    found = arrow("pyarrow.parquet").read_table(
        shard, columns=None if columns is None else list(columns), partitioning=None
    )
    return found.replace_schema_metadata(None)
