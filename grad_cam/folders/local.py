"""The engine on one machine: decoding processes, one model, shards one after the other."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from types import FrameType
from typing import Any

import numpy as np

from .decoding import Batch, Decoder, Failed, Ready, reason, together
from .explaining import Explainer, Notify
from .kinds import Input, Source, Stream
from .place import Place, missing
from .rows import Row
from .workers import decoded

Progress = Callable[[int, "int | None", int], None]
"""Called with the number of inputs that are done, their total (None if it is not known) and the number that failed."""

SECONDS = 60.0
"""A shard is written after this time at the latest: what a power cut can cost."""


class Interrupted(KeyboardInterrupt):
    """A run was stopped by Ctrl-C; what is done is kept."""


@dataclasses.dataclass
class Settings:
    """How a run is computed; nothing here changes a row.

    Attributes:
        batch_size: Images explained at a time.
        workers: Processes that decode.
        shard: Inputs in a shard, at most.
        progress: Called after every batch.
        notify: Called with what the owner should know.
        draw: Called with the rows of every shard before it is written.
    """

    batch_size: int
    workers: int
    shard: int
    progress: Progress | None
    notify: Notify
    draw: Callable[[list[Row]], None]


class Writer:
    """Collects rows and writes shards of consecutive inputs."""

    def __init__(self, place: Place, settings: Settings) -> None:
        self.place: Place = place
        self.settings: Settings = settings
        self.rows: list[Row] = []
        self.start: int = 0
        self.stop: int = 0
        self.since: float = time.monotonic()

    def add(self, numbers: list[int], rows: list[Row]) -> None:
        """Takes the rows of some inputs; writes a shard when it is full, old, or a gap follows."""
        by_number: dict[int, list[Row]] = {}
        for row in rows:
            by_number.setdefault(row["input"], []).append(row)
        for number in numbers:
            if number != self.stop or self.stop - self.start >= self.settings.shard:
                self.flush()
                self.start = self.stop = number
            self.rows += by_number[number]
            self.stop += 1
        if self.stop - self.start >= self.settings.shard or time.monotonic() - self.since > SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes what there is."""
        if self.rows:
            self.settings.draw(self.rows)
            self.place.write(self.start, self.stop, self.rows)
        self.rows, self.start, self.since = [], self.stop, time.monotonic()


def compute(place: Place, source: Source | Stream, decoder: Decoder, explainer: Explainer, settings: Settings) -> None:
    """Computes the rows that are missing.

    Raises:
        Interrupted: Ctrl-C was pressed; the rows of the batch under way are written first.
    """
    done = place.done()
    finished = sum(stop - start for start, stop in done)
    total = len(source) if isinstance(source, Source) else None
    writer, failed = Writer(place, settings), 0
    if isinstance(source, Source):
        ranges = [np.arange(part.start, part.stop) for part in missing(done, len(source))]
        if not ranges:
            return
        batches = decoded(
            decoder, np.concatenate(ranges), settings.batch_size, settings.workers, settings.notify  # type: ignore[arg-type]
        )  # fmt: skip
    else:
        batches = _of_stream(source, decoder, done, settings.batch_size)
    with stop_on_interrupt() as stopped, contextlib.closing(batches):
        for batch in batches:
            writer.add(batch.numbers, explainer(batch))
            finished += len(batch.numbers)
            failed += len(batch.failed)
            if settings.progress is not None:
                settings.progress(finished, total, failed)
            if stopped():
                break
        writer.flush()
        if stopped():
            of = "" if total is None else f" of {total:,}"
            raise Interrupted(f"{finished:,}{of} inputs are done; the same again goes on from there")
    if total is None:
        place.finish(finished)


def _of_stream(
    stream: Stream, decoder: Decoder, done: list[tuple[int, int]], batch_size: int
) -> Generator[Batch, None, None]:
    """Batches of a stream, what is done left out."""
    known = {number for start, stop in done for number in range(start, stop)}
    made: list[Ready | Failed] = []
    items = enumerate(stream)
    while True:
        try:
            number, (opened, label) = next(items)
        except StopIteration:
            break
        if number in known:
            continue
        one = Input(number, f"{number:06d}")
        try:
            made.append(decoder.ready(one, opened, label))
        except Exception as error:
            made.append(Failed(one, reason(error)))
        if len(made) == batch_size:
            yield together(made)
            made = []
    if made:
        yield together(made)


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C, or a request to terminate, into a flag; the second Ctrl-C ends at once."""
    pressed = False
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed and number == signal.SIGINT:
            raise KeyboardInterrupt
        pressed = True

    kinds = [kind for kind in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(kind) is not signal.SIG_IGN]
    before: list[Any] = [signal.signal(kind, press) for kind in kinds]
    try:
        yield lambda: pressed
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)
