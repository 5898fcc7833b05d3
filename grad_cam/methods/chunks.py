"""Scores of perturbed copies, computed in chunks.

Copies are made in chunks and never all at once; the size of a chunk changes neither the map nor, beyond rounding, its
numbers. When a chunk does not fit into memory it is halved. The score function learns which image each row belongs
to, so that targets which differ from image to image work.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..arguments import is_index
from .common import MethodError

Score = Callable[[Tensor, Tensor], Tensor]
"""``(perturbed (N, ...), image_index (N,)) -> scores (N,) or (N, K)``. The perturbed rows are only valid during the
call and all belong to one image; `image_index` says to which of the batch."""

Progress = Callable[[int, int], None]
"""``(done, total)``, in perturbed copies scored."""

_WORKSPACE = 1 << 29  # bytes a chunk may take, together with what the network computes of it
COPIES = 32  # a network's working memory, in copies of its input
_ROWS = {"cpu": 32}  # larger chunks gain nothing on a CPU
_SMALL = 1 << 24  # bytes a chunk of activations should not exceed for its own sake: it stays in the cache


class ChunkedScores:
    """Scores perturbed copies chunk by chunk: chooses the chunk, reports progress, survives a lack of memory."""

    def __init__(
        self, score: Score, batch: int, copies_each: int, one: Tensor, chunk: int | None, progress: Progress | None,
        copies: int = COPIES,
    ) -> None:  # fmt: skip
        if chunk is not None and (not is_index(chunk) or chunk < 1):
            raise ValueError(f"chunk={chunk!r} is not a number of copies: use 1 or more, or None to have it chosen")
        self.score: Score = score
        self.progress: Progress | None = progress
        self.several: bool = False
        self.chunk: int = _chunk(one, copies) if chunk is None else int(chunk)
        # On a CPU convolutions run about 1.5 times as fast with the channels last, and other layers no slower.
        fast = one.device.type == "cpu" and one.ndim == 3
        self.format: torch.memory_format = torch.channels_last if fast else torch.contiguous_format
        self.done: int = 0
        self.total: int = batch * copies_each

    def parts(self, count: int) -> Iterator[slice]:
        """Cuts `count` copies into chunks of the current size."""
        start = 0
        while start < count:
            stop = min(count, start + self.chunk)
            yield slice(start, stop)
            start = stop

    def __call__(self, image: int, perturbed: Tensor) -> Tensor:
        """Scores (n, K) of perturbed copies (n, ...) of one image."""
        scores = self._scored(image, perturbed)
        if not bool(torch.isfinite(scores).all()):
            raise MethodError(
                f"the score of a perturbed copy of image {image} is NaN or infinite; check the precision and range of "
                "the input"
            )
        self.done += len(perturbed)
        if self.progress is not None:
            self.progress(self.done, self.total)
        return scores

    def _scored(self, image: int, perturbed: Tensor) -> Tensor:
        index = torch.full((len(perturbed),), image, device=perturbed.device)
        again = scores = None
        try:
            scores = self.score(perturbed.contiguous(memory_format=self.format), index)
        except RuntimeError as error:
            again = self._remedy(error, len(perturbed))
            if again is None:
                raise
        if again == "format":
            self.format = torch.contiguous_format
            return self._scored(image, perturbed)
        if scores is None:  # outside of the handler, whose traceback holds on to the memory
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.chunk = min(self.chunk, max(1, len(perturbed) // 2))
            return torch.cat([self._scored(image, perturbed[part]) for part in self.parts(len(perturbed))])
        if scores.ndim not in (1, 2) or len(scores) != len(perturbed):
            raise ValueError(
                f"the score function returned {tuple(scores.shape)} for {len(perturbed)} copies; it has to return one "
                f"score each, ({len(perturbed)},) or ({len(perturbed)}, K)"
            )
        self.several = scores.ndim == 2
        wide = torch.float64 if scores.dtype == torch.float64 else torch.float32
        return scores.detach().to(wide, copy=True).reshape(len(perturbed), -1)  # a copy: the buffer is used again

    def _remedy(self, error: RuntimeError, rows: int) -> str | None:
        """What can be tried after an error: another memory format for a model that uses `view`, or fewer rows."""
        if "view size is not compatible" in str(error) and self.format is torch.channels_last:
            return "format"
        return "rows" if out_of_memory(error) and rows > 1 else None

    def skip(self, copies: int) -> None:
        """Counts copies as done that need no scoring."""
        self.done += copies
        if self.progress is not None and copies:
            self.progress(self.done, self.total)

    def shaped(self, maps: Tensor) -> Tensor:
        """Drops the axis of scores if the score function returns a single score."""
        return maps if self.several else maps[:, 0]


def scores_of_edited(
    run: ChunkedScores, image: int, one: Tensor, count: int, place: Callable[[int], tuple[Any, ...]], fill: float
) -> Tensor:
    """Scores (count, K) of copies of `one` that are overwritten with `fill` at one place each.

    One buffer holds the copies of a chunk; before the next chunk only the overwritten places are put back, unless the
    score function wrote into the buffer itself.
    """
    buffer = one.new_empty((0, *one.shape))
    version, scores = -1, []
    before: list[tuple[Any, ...]] = []
    for part in run.parts(count):
        length = part.stop - part.start
        if length > len(buffer) or buffer._version != version or not buffer.is_contiguous(memory_format=run.format):
            buffer = one.expand(max(length, len(buffer)), *one.shape).clone(memory_format=run.format)
        else:
            for row, where in zip(buffer, before, strict=False):
                row[where] = one[where]
        before = [place(i) for i in range(part.start, part.stop)]
        for row, where in zip(buffer, before, strict=False):
            row[where] = fill
        version = buffer._version
        scores.append(run(image, buffer[:length]))
    return torch.cat(scores)


# ---------------------------------------------------------------------------------------------------------- memory


def _chunk(one: Tensor, copies: int) -> int:
    """How many copies of `one` to score at once, when scoring takes the memory of `copies` inputs each."""
    size = max(1, one.numel() * one.element_size())
    budget: float = _WORKSPACE
    limit = _ROWS.get(one.device.type, 128)
    free = free_memory(one.device)
    if one.device.type != "cpu":
        budget *= 8
    elif copies < COPIES:
        limit = max(8, min(limit, _SMALL // size))
    if free is not None:
        budget = min(budget, free / 4)
    return int(max(1, min(limit, budget // (size * copies))))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short, on the device or outside it."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(w in text for w in ("out of memory", "can't allocate memory"))


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated on a device, as far as the system reports.

    Args:
        device: Where.

    Returns:
        Free bytes: what CUDA reports, or what the operating system calls available, within the limit of a container.
        None where nothing is known.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    known = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        known.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    with contextlib.suppress(OSError, ValueError):
        limit, used = (int(pathlib.Path(f"/sys/fs/cgroup/memory.{n}").read_text()) for n in ("max", "current"))
        known.append(max(0, limit - used))
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if not known:
            known.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(known) if known else None
