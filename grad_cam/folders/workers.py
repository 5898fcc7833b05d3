"""Decodes in processes of their own: a process that dies takes one input with it, not the run."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset

from .decoding import Batch, Decoder, Failed, together
from .explaining import Notify
from .needs import RunError
from .place import LOCKS

PREFETCH = 2
"""Batches that each process prepares before they are needed."""

DEATHS = 5
"""Inputs in a row whose process died, after which the run stops: then it is not the inputs."""


def default_workers() -> int:
    """Processes that decode while this one computes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, max(1, cores - 1))


def decoded(
    decoder: Decoder, numbers: Sequence[int], batch_size: int, workers: int, notify: Notify
) -> Generator[Batch, None, None]:
    """Decodes inputs in order.

    Args:
        decoder: Opens and prepares an input.
        numbers: Which inputs.
        batch_size: How many make a batch.
        workers: Processes that decode; 0 decodes in this one, where a fault of a decoder ends the run.
        notify: Called when a process dies.

    Raises:
        RunError: Processes die whatever they decode.
    """
    at = 0
    while at < len(numbers):
        try:
            for batch in _watched(_loader(decoder, numbers[at:], batch_size, workers)):
                at += len(batch.numbers)
                yield batch
        except _Died:
            suspects = numbers[at : at + batch_size * PREFETCH * max(1, workers)]
            notify(f"a process that decodes died; inputs {suspects[0]} to {suspects[-1]} are decoded one at a time")
            for batch in _one_by_one(decoder, suspects, batch_size):
                at += len(batch.numbers)
                yield batch


def _one_by_one(decoder: Decoder, numbers: Sequence[int], batch_size: int) -> Iterator[Batch]:
    """Decodes with one process that never has more than one input in hand, so that it is known which one kills it."""
    at = deaths = 0
    made: list[Any] = []
    while at < len(numbers):
        try:
            for (one,) in _watched(_loader(decoder, numbers[at:], 1, 1, prefetch=1, collate=list)):
                deaths = 0
                at += 1
                made.append(one)
                if len(made) == batch_size:
                    yield together(made)
                    made = []
        except _Died as error:
            deaths += 1
            if deaths == DEATHS:
                raise RunError(
                    f"the process that decodes dies at every input, the last time at input {numbers[at]}",
                    str(error)[:200],
                    "see whether memory or /dev/shm is short; workers=0 decodes in the main process",
                ) from error  # fmt: skip
            assert decoder.source is not None
            one = decoder.source[numbers[at]]
            made.append(Failed(one, f"the process that decoded it died: {str(error)[:200]}"))
            at += 1
    if made:
        yield together(made)


class _Died(Exception):
    """A process that decodes has died."""


class _Decoding(Dataset[Any]):
    def __init__(self, decoder: Decoder, numbers: Sequence[int]) -> None:
        self.decoder, self.numbers = decoder, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, n: int) -> Any:
        return self.decoder(int(self.numbers[n]))


def _loader(
    decoder: Decoder,
    numbers: Sequence[int],
    batch_size: int,
    workers: int,
    prefetch: int = PREFETCH,
    collate: Any = together,
) -> DataLoader[Any]:
    many: dict[str, Any] = {"prefetch_factor": prefetch, "worker_init_fn": _quiet} if workers else {}
    return DataLoader(
        _Decoding(decoder, numbers), batch_size=batch_size, num_workers=workers, collate_fn=collate, **many
    )


def _watched(loader: DataLoader[Any]) -> Iterator[Any]:
    """Goes through a loader; that a process has died is raised here, and not wherever this process happens to be."""
    others = set(multiprocessing.active_children())
    batches = iter(loader)
    workers = set(multiprocessing.active_children()) - others

    def look(*signal_and_frame: Any) -> None:
        ended = [process.exitcode for process in workers if process.exitcode]
        if ended:
            raise _Died(f"it ended with code {ended[0]}" if ended[0] > 0 else f"by {signal.Signals(-ended[0]).name}")

    main = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")
    before = signal.getsignal(signal.SIGCHLD) if main else None
    try:
        while True:
            if main:
                signal.signal(signal.SIGCHLD, look)
            try:
                look()
                batch = next(batches)
            except StopIteration:
                return
            except (OSError, EOFError) as error:  # the batch it was sending is lost with it
                raise _Died(f"{type(error).__name__}: {error}") from error
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise _Died(str(error)) from error
            finally:
                if main:
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            yield batch
    finally:
        for process in workers:  # the end of one that is left would be raised in other code
            process.kill()
            process.join()
        del batches
        if main:
            signal.signal(signal.SIGCHLD, before)


def _quiet(worker: int) -> None:
    """Leaves Ctrl-C and the lock to the process that writes, and ends when that does, however it ends."""
    for descriptor in LOCKS:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG; one that waits to send would wait for ever
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
