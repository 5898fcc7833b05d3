"""The models of the page: opened once, shared by all visitors, only a few kept in memory."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import logging
import os
import re
import threading
from concurrent.futures import Future
from typing import Any

from torch import nn

from ... import explain, sweep
from ...errors import LayerError
from ...loading import ModelError, load_image, samples
from ...loading.clips import clip_channels
from ..common import LayerChoice, Opened, layer_choices, open_model
from .errors import AppError

__all__ = ["SUGGESTED", "Models", "OpenedModel", "open_page_model"]

SUGGESTED = (
    "demo", "resnet18", "resnet50", "convnext_tiny", "efficientnet_b0", "mobilenetv3_large_100",
    "vit_small_patch16_224", "deit3_small_patch16_224", "swin_tiny_patch4_window7_224", "torchvision/resnet50",
    "hf:microsoft/resnet-18",
)  # fmt: skip

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class OpenedModel(Opened):
    """A model with its layers.

    Attributes:
        layers: The layers of the slider, from the picture to the logits.
        start: Position of the layer that is shown first, the one that `explain` takes by itself.
        skipped: The layers without a map, with the reason.
    """

    layers: tuple[LayerChoice, ...]
    start: int
    skipped: tuple[tuple[str, str], ...]


def open_page_model(model: str | nn.Module, **how: Any) -> OpenedModel:
    """Loads a model and finds its layers, by a sweep of a sample photo.

    Args:
        model: A name for `loading.load`, or a model.
        **how: As for `common.open_model`.

    Raises:
        GradCamError: There is no such model, or no layer of it carries a map.
    """
    opened = open_model(model, **how)
    if clip_channels(opened.model) is not None:
        raise AppError(
            f"{opened.name} takes videos or volumes, and this page explains pictures",
            remedy="grad-cam explain clip.mp4 --model NAME, or grad_cam.explain and loading.load_frames, load_volume",
        )
    example, _ = opened.prepare(load_image(next(iter(samples().values()))))
    try:
        found = sweep(opened.model, example)
        usual = explain(opened.model, example, method="grad_cam").layer.name
    except LayerError as error:
        raise AppError(error.what, error.given, "choose a model with a layer that has a spatial grid") from error
    layers = tuple(layer_choices(found))
    inside = [i for i, layer in enumerate(layers) if f"{layer.name}.".startswith(f"{usual}.")]
    return OpenedModel(
        opened.name, opened.model, opened.prepare, opened.labels, layers=layers,
        start=inside[-1] if inside else len(layers) - 1, skipped=tuple((at.name, why) for at, why in found.skipped),
    )  # fmt: skip


class Models:
    """The opened models, shared by all visitors; the least used one is dropped when there are too many.

    Args:
        name: Name of the model that the page was started with; it is never dropped.
        first: That model, which may still be loading.
        capacity: Number of models kept, the first included.
    """

    def __init__(self, name: str, first: Future[OpenedModel], capacity: int) -> None:
        self.name = name
        self.first = first
        self._capacity = max(capacity, 1)
        self._opened: collections.OrderedDict[str, OpenedModel] = collections.OrderedDict()
        self._lock = threading.Lock()

    def has(self, name: str) -> bool:
        """Whether a model is there already."""
        return self.first.done() if name == self.name else name in self._opened

    def __call__(self, name: str) -> OpenedModel:
        """Opens a model by the name that a visitor gave; waits for the first one while it is loading.

        Raises:
            GradCamError: No such model, or one that only the owner of the page may open.
        """
        if name == self.name:
            return self.first.result()
        if name in self._opened:
            with contextlib.suppress(KeyError):
                self._opened.move_to_end(name)
                return self._opened[name]
        _require_harmless(name)
        with self._lock:  # one at a time: loading is what takes memory
            if name not in self._opened:
                self._opened[name] = _open_published(name)
                while len(self._opened) > self._capacity - 1 and len(self._opened) > 1:
                    self._opened.popitem(last=False)
            return self._opened[name]


def _require_harmless(name: str) -> None:
    """A name typed into a page must not run code or read files of the server."""
    names = "type a timm name, torchvision/NAME, hf:OWNER/NAME or demo"
    if not name:
        raise AppError("no model is named", remedy=names)
    if not re.fullmatch(r"(torchvision/)?[\w.]+|(hf:|hf-hub:|hf_hub:)[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
        own = "a model of your own is opened with grad-cam app --model package.module:function"
        raise AppError(f"{name[:80]!r} cannot be opened from the page", remedy=f"{names}; {own}")


def _open_published(name: str) -> OpenedModel:
    """Opens a model for a visitor; a name of the Hugging Face Hub never means a folder of the server.

    Raises:
        AppError: Also for the name of a folder, in the words for a name that the Hub does not know, which reveal
            nothing about the folders of the server.
    """
    hub, _, repository = name.rpartition(":")
    try:
        if hub and os.path.lexists(repository):
            raise ModelError(f"{repository} is a folder of the server")
        return open_page_model(name)
    except ModelError as error:
        if not hub:
            raise
        _log.info("a visitor requested %r: %s", name, error)
        raise AppError(
            f"cannot get {name!r} from the Hugging Face Hub",
            remedy="check that it is the name of an image classifier there and that the server reaches the Hub; "
            "the model 'demo' needs no network",
        ) from None
