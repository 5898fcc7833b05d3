"""The folder that a run writes: the request, the listing of its inputs, and shards of rows.

A shard holds the rows of inputs START to STOP, both in its name, and gets that name once it is whole and on the disk.
What is done can thus be read off the names, at any moment and after any kind of end.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..rendering.files import write
from .kinds import Files, Source
from .needs import RunError, arrow
from .rows import Row, as_table

FORMAT = 1
_SHARD = re.compile(r"(\d{12})-(\d{12})\.parquet")
_WRITTEN = ("overlays", "masks")
_PART = re.compile(r"\.[0-9a-f]{16}\.part")


_FULL: dict[int | None, str] = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of the disk is used up",
    errno.EFBIG: "files may not become this large here",
}
_REFUSED: dict[int | None, str] = {
    **_FULL,
    errno.EROFS: "the disk can only be read",
    errno.EACCES: "there is no right to write here",
    errno.EPERM: "there is no right to write here",
    errno.ENOTDIR: "a file is where the folder should be",
    errno.EEXIST: "a file is where the folder should be",
    errno.ENAMETOOLONG: "the name is too long",
}
"""Why nothing can be written, by the number of the error."""

LOCKS: set[int] = set()
"""Descriptors of locks that this process holds; a process that it starts has to close them."""


class Place:
    """The folder of a run.

    Attributes:
        path: The folder.
        rows: The folder of the shards.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Path = Path(path)
        self.rows: Path = self.path / "rows"

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / "run.json").is_file()

    @property
    def listing(self) -> Path:
        """The file that lists the inputs."""
        return self.path / "inputs.parquet"

    # -- the request

    def about(self) -> dict[str, Any]:
        """The request of the run.

        Raises:
            RunError: There is no run here, or it was written by another version.
        """
        try:
            found: dict[str, Any] = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"{str(self.path)!r} is not the folder of a run", "it has no run.json") from None
        except (OSError, ValueError) as error:
            raise RunError(f"what was asked of the run in {str(self.path)!r} cannot be read", str(error)) from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise RunError(f"the run in {str(self.path)!r} was written by another version of this package")
        return found

    def check_new(self) -> None:
        """Makes sure that the folder is new.

        Raises:
            RunError: It holds other things.
        """
        begun = {".lock", self.listing.name}  # of a run that was killed before it had written its request
        if any(path.name not in begun for path in self.path.iterdir()):
            raise RunError(f"the folder {str(self.path)!r} is not empty and holds no run", remedy="give another one")
        self.listing.unlink(missing_ok=True)

    def begin(self, about: Mapping[str, Any]) -> None:
        """Writes the request down; from here on there is a run."""
        self.note({**about, "format": FORMAT})

    def finish(self, total: int) -> None:
        """Writes down the number of inputs of a stream that was read to its end."""
        self.note({**self.about(), "total": total})

    def note(self, about: Mapping[str, Any]) -> None:
        """Replaces the request that is written down."""
        text = json.dumps(about, ensure_ascii=False, indent=1)
        write(self.path / "run.json", text + "\n", force=True, durable=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from writing to the folder; the lock ends with this process, however it ends.

        Raises:
            RunError: Another process is writing to it, or nothing can be written to it: a full disk says so whenever
                that is.
        """
        with contextlib.ExitStack() as stack:
            with self._said(_REFUSED):
                self.path.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(open(self.path / ".lock", "w"))
            stack.enter_context(self._said(_FULL))
            try:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(f"another run is writing to {str(self.path)!r}", remedy="wait until it ends") from None
            except (ImportError, OSError):  # no locks here: names of shards are taken by one process only, see `write`
                yield
                return
            self._remove_parts()
            LOCKS.add(file.fileno())
            stack.callback(LOCKS.discard, file.fileno())
            yield

    @contextlib.contextmanager
    def _said(self, reasons: Mapping[int | None, str]) -> Iterator[None]:
        """Says why nothing can be written to the folder."""
        try:
            yield
        except OSError as error:
            if error.errno not in reasons:
                raise
            remedy = "make room and give the same again: what is done is kept" if error.errno in _FULL else ""
            where = f"writing to {str(self.path)!r}"
            raise RunError(reasons[error.errno], where, remedy or "give another folder") from error

    def _remove_parts(self) -> None:
        """Removes what a process that was killed has left half-written."""
        for folder in (self.path, self.rows, *(self.path / "sheet").glob("*"), *map(self.path.joinpath, _WRITTEN)):
            if folder.is_dir():
                for path in folder.iterdir():
                    if _PART.fullmatch(path.name):
                        path.unlink(missing_ok=True)

    # -- the listing

    def enlist(self, source: Source) -> int:
        """Lists the inputs of a source; those of an earlier run keep their numbers, new ones come after them.

        Returns:
            The number of new ones after an earlier listing.
        """
        found, added = source.listing, 0
        if self.listing.exists():
            before = arrow("pyarrow.parquet").read_table(self.listing)
            fresh = found.filter(self._new(before, source))
            added = fresh.num_rows
            found = arrow().concat_tables([before, fresh]) if added else before
        if added or not self.listing.exists():
            write(self.listing, _parquet(found), force=True, durable=True)
        source.listing = found
        return added

    def _new(self, before: Any, source: Source) -> Any:
        """Which inputs of a source are not listed yet; a source whose inputs have changed is refused."""
        if not isinstance(source, Files) and not source.listing.equals(before):
            raise RunError(
                f"the source has changed since the run in {str(self.path)!r} was begun",
                f"it listed {before.num_rows} inputs, now {source.listing.num_rows}",
                "give another folder for a new run",
            )  # fmt: skip
        known = {repr(row) for row in before.to_pylist()}
        paths = set(before.column("path").to_pylist())
        rows = source.listing.to_pylist()
        odd = next((row for row in rows if row["path"] in paths and repr(row) not in known), None)
        if odd is not None:
            raise RunError(
                f"class, box or mask of {odd['path']!r} has changed since the run in {str(self.path)!r} was begun",
                remedy="give another folder for a new run",
            )
        return arrow().array([row["path"] not in paths for row in rows], arrow().bool_())

    # -- shards

    def done(self) -> list[tuple[int, int]]:
        """The ranges of inputs that have their rows, in order.

        Raises:
            RunError: Two shards hold the same input.
        """
        ranges = sorted(
            (int(name[1]), int(name[2])) for name in map(_SHARD.fullmatch, _names(self.rows)) if name is not None
        )
        for before, after in zip(ranges, ranges[1:], strict=False):
            if after[0] < before[1]:
                raise RunError(
                    f"two shards of {str(self.path)!r} hold input {after[0]}", f"{_name(*before)} and {_name(*after)}",
                    "remove one of them; its inputs that are missing then are done again",
                )  # fmt: skip
        return ranges

    def shards(self) -> list[Path]:
        """The files of rows, in the order of the inputs."""
        return [self.rows / _name(*each) for each in self.done()]

    def write(self, start: int, stop: int, rows: Sequence[Row]) -> Path:
        """Writes the rows of inputs from `start` to before `stop`.

        Raises:
            OSError: The disk is full, or the like; nothing is left of the shard.
        """
        return self.write_table(start, stop, as_table(rows))

    def write_table(self, start: int, stop: int, table: Any) -> Path:
        """The same for rows that are an Arrow table."""
        return write(self.rows / _name(start, stop), _parquet(table), durable=True)

    def remove_damaged(self) -> list[str]:
        """Removes shards that cannot be read, such as after a power cut; returns their names."""
        pq = arrow("pyarrow.parquet")
        damaged = []
        for path in self.shards():
            try:
                pq.read_metadata(path)
            except (OSError, ValueError):
                path.unlink(missing_ok=True)
                damaged.append(path.name)
        return damaged


def missing(done: Sequence[tuple[int, int]], total: int) -> list[range]:
    """The ranges of inputs that have no rows yet."""
    found, at = [], 0
    for start, stop in [*done, (total, total)]:
        if start > at:
            found.append(range(at, min(start, total)))
        at = max(at, stop)
    return [each for each in found if len(each)]


def _name(start: int, stop: int) -> str:
    return f"{start:012d}-{stop:012d}.parquet"


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _parquet(table: Any) -> bytes:
    pa, pq = arrow(), arrow("pyarrow.parquet")
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content
