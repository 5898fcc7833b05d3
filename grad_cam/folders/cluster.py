"""The engine on a cluster: Ray Data reads the listing, actors explain, every block is written where it was made."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .decoding import Decoder, together
from .explaining import Explainer, Question, fitting
from .kinds import Files, Input, Source
from .needs import RunError, arrow, ray_data
from .place import Place, missing
from .rows import as_table


class Listed(Files):
    """Some rows of a listing under their own numbers: what one batch needs of a listing of any length."""

    def __init__(self, listing: Any, root: Path, numbers: Sequence[int]) -> None:
        super().__init__("", listing, root)
        self._places = {number: n for n, number in enumerate(numbers)}

    def __getitem__(self, number: int) -> Input:
        """The input of a number."""
        return dataclasses.replace(super().__getitem__(self._places[number]), number=number)

    def file(self, number: int) -> Path:
        return super().file(self._places[number])


@dataclasses.dataclass(frozen=True)
class Job:
    """What every actor gets.

    Attributes:
        model: The model.
        decoder: Opens and prepares inputs; without its source where that is files.
        question: What is asked.
        root: The folder of the files; None where the source comes with the decoder.
        whole: Explain all of a batch at a time; else as many as fit the actor's device best.
    """

    model: nn.Module
    decoder: Decoder
    question: Question
    root: Path | None
    whole: bool = False


class Actor:
    """Explains blocks of a listing: the callable that `map_batches` runs."""

    def __init__(self, sent: Any) -> None:
        import ray

        job: Job = ray.get(sent)
        torch.set_num_threads(1)
        model = job.model.cuda() if torch.cuda.is_available() else job.model
        self.job = job
        most = None if job.whole else fitting(model)
        self.explainer: Explainer = Explainer(model, job.question, logging.getLogger(__name__).warning, most=most)

    def __call__(self, batch: Any) -> Any:
        """From a table with the columns input, path, class, box, mask to a table of rows."""
        numbers = batch.column("input").to_pylist()
        decoder = self.job.decoder
        if self.job.root is not None:
            listed = Listed(batch.drop_columns(["input"]), self.job.root, numbers)
            decoder = Decoder(listed, decoder.prepare, decoder.names, decoder.count)
        return as_table(self.explainer(together([decoder(number) for number in numbers])))


def compute(
    place: Place, source: Source, job: Job, batch_size: int, shard: int, address: str | None, actors: int | None
) -> None:  # fmt: skip
    """Computes the rows that are missing; actors that die are replaced and their batches done again by Ray.

    Args:
        place: The folder, which all machines of the cluster can write to.
        source: The inputs.
        job: What every actor gets.
        batch_size: Images explained at a time.
        shard: Inputs in a Parquet file, about.
        address: Of a cluster; None starts Ray on this machine.
        actors: How many; None takes the GPUs, or else the cores, that Ray sees.
    """
    collect(place)
    ranges = missing(place.done(), len(source))
    if not ranges:
        return
    data = ray_data()
    listing = source.listing.add_column(0, "input", arrow().array(range(len(source)), arrow().int64()))
    wanted = arrow().concat_tables([listing.slice(part.start, len(part)) for part in ranges])
    blocks = [wanted.slice(start, shard) for start in range(0, wanted.num_rows, shard)]
    with _running(address) as ray, torch.inference_mode(False):
        gpus = int(ray.cluster_resources().get("GPU", 0))
        many = actors or gpus or max(1, int(ray.cluster_resources().get("CPU", 1)))
        sent = ray.put(job)  # once for all actors of a machine; held until all is done
        rows = data.from_arrow(blocks).map_batches(
            Actor, fn_constructor_args=(sent,), batch_size=batch_size, batch_format="pyarrow",
            compute=data.ActorPoolStrategy(size=many), num_cpus=0 if gpus else 1, num_gpus=1 if gpus else 0,
            max_restarts=-1, max_task_retries=3,
        )  # fmt: skip
        folder = place.path / "ray" / secrets.token_hex(4)
        folder.mkdir(parents=True)
        try:
            rows.write_parquet(str(folder), min_rows_per_file=shard)
        finally:
            collect(place)
    if left := sum(map(len, missing(place.done(), len(source)))):
        raise RunError(f"{left} inputs have no rows yet", remedy="the same again goes on with them")


@contextlib.contextmanager
def _running(address: str | None) -> Iterator[Any]:
    """Ray, started if it is not running and stopped again if it was not."""
    ray_data()
    import ray

    begun = not ray.is_initialized()
    if begun:
        alone = {"include_dashboard": False} if address is None else {}
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **alone)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    try:
        yield ray
    finally:
        if begun:
            ray.shutdown()


def collect(place: Place) -> None:
    """Takes what actors have written as shards: whole files only, every input once."""
    pq = arrow("pyarrow.parquet")
    for path in sorted((place.path / "ray").rglob("*.parquet")):
        try:
            table = pq.read_table(path, partitioning=None)
        except (OSError, ValueError):  # it was being written when its process ended
            path.unlink()
            continue
        numbers = table.column("input").to_numpy()
        for start, stop in _runs(np.unique(numbers), place.done()):
            part = table.filter(arrow().array((numbers >= start) & (numbers < stop)))
            place.write_table(start, stop, part.take(arrow("pyarrow.compute").sort_indices(part.column("input"))))
        path.unlink()
    shutil.rmtree(place.path / "ray", ignore_errors=True)


def _runs(numbers: Any, done: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ranges of consecutive numbers that are not done."""
    known = np.zeros(len(numbers), bool)
    for start, stop in done:
        known |= (numbers >= start) & (numbers < stop)
    numbers = numbers[~known]
    if not len(numbers):
        return []
    ends = np.flatnonzero(np.diff(numbers) != 1)
    starts = [0, *(ends + 1).tolist()]
    stops = [*ends.tolist(), len(numbers) - 1]
    return [(int(numbers[a]), int(numbers[b]) + 1) for a, b in zip(starts, stops, strict=True)]
