"""`run`: explanations of a whole source, written so that nothing is lost and nothing is done twice."""

from __future__ import annotations

import dataclasses
import functools
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..arguments import as_index, check_model
from ..errors import GradCamError
from ..habits import answered
from ..introspection import class_count
from ..loading import Preprocessing, class_names, load
from ..loading import preprocessing as preprocessing_of
from ..methods import METHODS, find
from ..rendering import Display
from ..rendering.files import write
from ..requests import AnyLayer, AnyMethod, Layers, OneTarget
from ..splitting.public import network_of
from . import local
from .decoding import Decoder, Ready
from .explaining import OVERLAY, Explainer, Notify, Question, fitting, probed
from .exports import file_name
from .fast import COMPILE, accelerated
from .kinds import Files, Source, Stream
from .needs import SourceError, ray_data
from .place import Place
from .reading import Rows, read
from .request import described, model_digest, refuse_changed
from .rows import Row, numbered
from .sheet import MOST, contact_sheet, draw
from .sources import Anything, open_source
from .workers import default_workers

BATCH = 16
"""Images that are decoded together, and explained together on a GPU, where that is left open."""


class RunWarning(UserWarning):
    """Something in a run that its owner should know of."""


@answered
def run(
    model: nn.Module | str, source: Anything, out: str | os.PathLike[str], *, layer: AnyLayer | Layers | None = None,
    target: OneTarget | Sequence[OneTarget] = None, method: AnyMethod = "grad_cam", of_class: bool = False,
    evidence: bool = False, preprocessing: Preprocessing | None = None, class_folders: bool | None = None,
    columns: Mapping[str, str] | None = None, batch_size: int | None = None, workers: int | None = None,
    shard: int = 1000, overlays: bool = False, sheet: bool = True, display: Display | None = None,
    fast: bool | str = False, engine: str = "local", address: str | None = None, actors: int | None = None,
    progress: local.Progress | None = None, notify: Notify | None = None, **options: Any,
) -> Rows:  # fmt: skip
    """Explains every picture of a source and keeps the results in a folder.

    It can be stopped at any moment, by Ctrl-C or without warning, and called again: every input ends exactly once as
    a row with its map or with the reason why there is none. Files that were added to a folder meanwhile are explained,
    too. Needs the extra ``[folders]``.

    Args:
        model: Any image classifier, or the name of one (see `loading.load`).
        source: A folder (with those inside it), a glob, a CSV or Parquet table (path, class, box, mask), a folder that
            Hugging Face `datasets` wrote, a list of files, a dataset, a DataLoader or another iterable, of pictures or
            of normalised tensors. An iterable has to give the same items in the same order when a run goes on.
        out: The folder to write; a run that was begun there is gone on with, if it is the same.
        layer: As for `explain`; a list gives one row for each layer. None takes the default of the first picture.
        target: As for `explain`, but the same for every input; a list gives one row for each of its targets.
        method: As for `explain`.
        of_class: Explain the class that the source gives, where it gives one that the model knows.
        evidence: Ask the model how far each map holds (see `evidence`): 40 further forward passes for each map.
        preprocessing: How pictures are prepared; as the model says by default.
        class_folders: Whether the folder of a picture is its class; None sees by itself.
        columns: Names of the columns of a table: ``{"path": ..., "class": ..., "box": ..., "mask": ...}``.
        batch_size: Images explained at a time; halved where memory does not suffice. None takes 16 on a GPU, and 4 on a
            CPU (or as many as PyTorch has threads), where more take longer for each, but for the fast path.
        workers: Processes that read pictures; None takes the number of cores less one, 0 reads in this process.
        shard: Inputs in one Parquet file at most.
        overlays: Write every map over its picture, in the folder `overlays`.
        sheet: Write the contact sheet `index.html` (see `folders.contact_sheet`).
        display: How overlays and the sheet are drawn; nothing else depends on it.
        fast: Make what comes before the layer quicker (memory layout, folded batch norms, bfloat16 where the processor
            has it). A step is kept only if the maps of a batch stay the same: rank correlation of .99, same classes.
            "compile" tries `torch.compile` after these: a minute or more at the beginning, for runs of many thousands.
        engine: "local", or "ray" for Ray Data (extra ``[ray]``), on this machine or a cluster.
        address: Of a Ray cluster; None starts Ray on this machine.
        actors: Processes that explain under Ray; None takes the GPUs, or else the cores, that Ray has.
        progress: Called as (done, total or None, failed) after every batch.
        notify: Called with one sentence about what the owner should know; by default it is a `RunWarning`.
        **options: The other arguments of `explain`.

    Returns:
        What `read(out)` gives.

    Raises:
        RunError: The folder holds another run: model, layer, method, target, options, preprocessing or source have
            changed; or the disk is full. What is done is kept.
        SourceError: There is no such source.
        Interrupted: Ctrl-C was pressed (a KeyboardInterrupt); what is done is kept.
    """
    model = _opened(model)
    say = notify or (lambda text: warnings.warn(text, RunWarning, stacklevel=3))
    batch_size = None if batch_size is None else as_index(batch_size, "batch_size", least=1)
    shard = as_index(shard, "shard", least=1)
    place = Place(out)
    question = Question(layer, target, method, of_class, evidence, options)
    _check_engine(engine, address, actors, overlays, fast)
    opened = open_source(source, class_folders=class_folders, columns=columns, without=place.path)
    prepare = preprocessing or preprocessing_of(model)
    decoder = Decoder(opened if isinstance(opened, Source) else None, prepare, class_names(model), class_count(model))
    shown = Display.of(display)
    settings = local.Settings(
        batch_size or BATCH, default_workers() if workers is None else workers, shard, progress, say,
        functools.partial(_draw, place, shown if sheet else None),
    )  # fmt: skip
    with place.locked():
        question = _begun(place, opened, model, question, decoder, say, fast)
        most = None if batch_size else fitting(model)
        explainer = Explainer(model, question, say, shown if overlays else None, most)
        if fast:
            _accelerate(place, explainer, opened, decoder, settings.batch_size, fast == COMPILE)
        if engine == "ray":
            _on_ray(place, opened, explainer, decoder, settings, address, actors)
        else:
            local.compute(place, opened, decoder, explainer, settings)
        if sheet:
            contact_sheet(place.path, display=shown)
    return read(place.path)


def _check_engine(engine: str, address: str | None, actors: int | None, overlays: bool, fast: bool | str) -> None:
    if fast not in (False, True, COMPILE):
        raise GradCamError(f"fast={fast!r} is no fast path", remedy=f'give True, or "{COMPILE}" for torch.compile, too')
    if engine not in ("local", "ray"):
        raise GradCamError(f"there is no engine {engine!r}", remedy="the engines are local and ray")
    if engine == "local" and (address is not None or actors is not None):
        raise GradCamError("address and actors are of the engine ray", remedy='give engine="ray"')
    if engine == "ray":
        ray_data()
        if overlays or fast:
            raise GradCamError(
                f"{'overlays=True' if overlays else f'fast={fast!r}'} works with the engine local alone",
                remedy="leave it out",
            )


def _accelerate(
    place: Place, explainer: Explainer, source: Source | Stream, decoder: Decoder, batch_size: int, compiled: bool
) -> None:
    """Puts the explainer on the fast path; a run that is gone on with takes the steps it was begun with."""
    about = place.about()
    images = _examples(source, decoder, min(8, batch_size))
    if compiled:  # for whole batches
        count = min(batch_size, len(source)) if isinstance(source, Source) else batch_size
        images = images[torch.arange(count) % len(images)]
    found = accelerated(explainer.model, images, explainer.question, explainer.notify, about.get("steps"), compiled)
    if about.get("steps") is None:
        place.note({**about, "steps": list(found.steps) if found else []})
    if found is not None:
        explainer.asked, explainer.asked_as, explainer.named = found.model, found.ask, found.named
        explainer.most = None


def _on_ray(
    place: Place, source: Source | Stream, explainer: Explainer, decoder: Decoder, settings: local.Settings,
    address: str | None, actors: int | None,
) -> None:  # fmt: skip
    from . import cluster

    if not isinstance(source, Source):
        raise SourceError("an iterable cannot be divided among actors", source.given, 'give engine="local"')
    root = source.root if isinstance(source, Files) else None
    sent = Decoder(None if root is not None else source, decoder.prepare, decoder.names, decoder.count)
    job = cluster.Job(explainer.model, sent, explainer.question, root, whole=explainer.most is None)
    cluster.compute(place, source, job, settings.batch_size, settings.shard, address, actors)


def _draw(place: Place, sheet: Display | None, rows: list[Row]) -> None:
    """Writes the overlays of a shard, and the small pictures of the contact sheet."""
    for number, row in numbered(rows):
        if OVERLAY in row:
            write(place.path / "overlays" / file_name(row, number, ".jpg"), row.pop(OVERLAY), force=True)
    if sheet is not None and rows[0]["input"] < MOST:
        draw(place.path, rows, sheet)


def _opened(model: Any) -> nn.Module:
    if isinstance(model, str):
        model = load(model)
    check_model(model)
    return network_of(model)


def _begun(
    place: Place, source: Source | Stream, model: nn.Module, question: Question, decoder: Decoder, say: Notify,
    fast: bool | str,
) -> Question:  # fmt: skip
    """Begins a run, or makes sure that the one in the folder is the same; returns the question with its layers."""
    about = {**_about(source, model, question, decoder), "fast": fast}
    if place.exists:
        before = place.about()
        refuse_changed(before, about, str(place.path))
        if isinstance(source, Source) and (added := place.enlist(source)):
            say(f"{added} inputs have been added to the source since the run was begun")
        for name in place.remove_damaged():
            say(f"{name} was damaged; its inputs are explained again")
        layers = before["layers"]
    else:
        place.check_new()
        question = probed(model, _examples(source, decoder), question)
        layers = question.layer if isinstance(question.layer, str) else None
        if isinstance(source, Source):
            place.enlist(source)
        extra = {"layers": layers, "labels": decoder.names and list(decoder.names), "prepare": _fields(decoder.prepare)}
        place.begin({**about, **extra, "root": str(source.root) if isinstance(source, Files) else None})
    return dataclasses.replace(question, layer=layers) if question.layer is None and layers is not None else question


def _about(source: Source | Stream, model: nn.Module, question: Question, decoder: Decoder) -> dict[str, Any]:
    """What a run is; it goes on only if all of this is the same."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    return {
        "model": {"type": type(model).__name__, "weights": model_digest(model), "dtype": str(weight.dtype)},
        "layer": described(question.layer, model),
        "method": _method(question.method),
        "target": described(question.target),
        "of_class": question.of_class,
        "evidence": question.evidence,
        "options": described(question.options, model),
        "preprocessing": described(decoder.prepare),
        "source": source.given,
    }


def _method(given: AnyMethod) -> str:
    """The name of a method; of one that is not in the table also a digest of what it does."""
    found = find(given)
    known = METHODS.get(found.name)
    same = known is not None and known.function is found.function
    return found.name if same else f"{found.name}: {described(found.function)}"


def _fields(prepare: Preprocessing) -> dict[str, Any] | None:
    """The settings of a preprocessing; None where a processor of its own does it."""
    if prepare.processor is not None:
        return None
    return {f.name: getattr(prepare, f.name) for f in dataclasses.fields(prepare) if f.name != "processor"}


def _examples(source: Source | Stream, decoder: Decoder, count: int = 1, tries: int = 32) -> torch.Tensor:
    """Images (B, C, H, W) to try the question on: the first that can be read, else grey."""
    found: list[torch.Tensor] = []
    if isinstance(source, Source):
        for number in range(min(tries, len(source))):
            one = decoder(number)
            if isinstance(one, Ready) and (not found or one.image.shape == found[0].shape):
                found.append(one.image)
            if len(found) == count:
                break
    if found:
        return torch.cat(found)
    height, width = decoder.prepare.size
    return torch.zeros(1, decoder.prepare.channels, height, width)
