"""The web page: a photo, a model, and what it saw at every layer.

`launch` serves the page, `build` makes it without a server. What the page computes and shows is made by functions that
know nothing of gradio: `look` and `settle` compute maps, those named *_html turn them into text, `answer` puts both
together. gradio is imported when a page is built.

Each visitor has a `View` of their own, kept by the server for their session; models are shared. Maps are computed when
a picture, model, class, method or layer is new; a display control only draws the maps that are there once more.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import collections
import contextlib
import dataclasses
import errno
import functools
import html
import inspect
import io
import ipaddress
import itertools
import logging
import math
import os
import pathlib
import re
import signal
import socket
import sys
import tempfile
import threading
import urllib.parse
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from .. import METHODS, Chain, chain, explain, metrics, rendering, sweep
from .. import loading as zoo
from ..loading import ImageError, Preprocessing, load_image, preprocessing
from ..splitting.cuts import BLOCKS

if TYPE_CHECKING:
    import gradio

__all__ = ["AppError", "Limits", "Page", "build", "launch"]

HOST, PORT, PORTS = "127.0.0.1", 7860, 20
SCALES = {"Blocks": BLOCKS, "Stages": 1}  # depth to which the model is opened
TABS = ("layer", "methods", "layers")
COLORMAPS = {"Blue, green, red": rendering.COLORMAP} | {
    name.capitalize(): name for name in ("turbo", "viridis", "inferno", "magma", "cividis", "gray")
}
COMPARED = ("grad_cam", "grad_cam_plus_plus", "layer_cam", "eigen_cam")
SUGGESTED = (
    "demo", "resnet18", "resnet50", "convnext_tiny", "efficientnet_b0", "mobilenetv3_large_100",
    "vit_small_patch16_224", "deit3_small_patch16_224", "swin_tiny_patch4_window7_224", "torchvision/resnet50",
    "hf:microsoft/resnet-18",
)  # fmt: skip
THRESHOLD = 0.125
CHANGED = (
    "view", "notice", "headline", "predictions", "where", "advice", "seen", *TABS, "photo", "model", "scale",
    "position", "target", "method", "chosen", "smoothing",
)  # fmt: skip  # the parts of the page that `answer` may change
TOP = 5  # classes with a bar
LISTED = 1000  # classes to choose from; a model with more offers its likeliest

_log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


class AppError(ValueError):
    """A page that cannot be shown, or a wish of a visitor that cannot be fulfilled."""


class Superseded(Exception):  # noqa: N818  (not an error: the visitor wants something else by now, or has left)
    """Stops a computation that nobody waits for any more."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a visitor may ask of the server.

    Attributes:
        upload: Largest file, in bytes.
        pixels: Largest picture, in pixels.
        models: Number of models kept in memory.
        visitors: Number of visitors whose pictures and maps are kept; the one away longest is forgotten first.
    """

    upload: int = 20_000_000
    pixels: int = 50_000_000
    models: int = 3
    visitors: int = 200


# -------------------------------------------------------------------------------------------------------------- models


class Rung(NamedTuple):
    """One place on the layer slider: a cut that carries a map."""

    name: str
    layer_idx: int
    grid: tuple[int, int]

    @property
    def size(self) -> str:
        return f"{self.grid[0]} × {self.grid[1]}"


@dataclasses.dataclass(frozen=True, eq=False)
class Opened:
    """A model with all that the page asks about it.

    Attributes:
        name: As the visitor knows it.
        labels: Names of its classes, or None.
        prepare: How it wants its pictures.
        chains: The model as a chain, by scale ("Blocks", "Stages"). A scale without any map is left out: the stages of
            a Hugging Face model, for example, are the whole network and the classifier.
        rungs: The cuts that carry a map, from the picture to the logits, by scale.
        start: Position of the rung that is shown first, by scale.
        skipped: The other cuts with the reason, by scale.
    """

    name: str
    labels: list[str] | None
    prepare: Preprocessing
    chains: Mapping[str, Chain]
    rungs: Mapping[str, tuple[Rung, ...]]
    start: Mapping[str, int]
    skipped: Mapping[str, tuple[tuple[str, str], ...]]

    @property
    def model(self) -> nn.Module:
        return next(iter(self.chains.values())).model

    def label(self, index: int) -> str:
        """Name of a class."""
        return self.labels[index] if self.labels is not None and index < len(self.labels) else f"class {index}"


def open_model(model: str | nn.Module, *, input_size: int | tuple[int, int] | None = None, **how: Any) -> Opened:
    """Loads a model and cuts it into stages and blocks.

    Args:
        model: A name for `loading.load`, or a model.
        input_size: Size of its pictures instead of its own.
        **how: pretrained and checkpoint, for `loading.load`.

    Raises:
        ValueError: No such model, or no cut of it carries a map.
    """
    name = model if isinstance(model, str) else type(model).__name__
    loaded = zoo.load(model, **how) if isinstance(model, str) else model
    prepare = preprocessing(loaded, input_size)
    chains, rungs, start, skipped = {}, {}, {}, {}
    for scale, depth in SCALES.items():
        links = chain(loaded, prepare.size, depth)
        inner = links.stages[:-1]
        carriers = tuple(Rung(s.name, s.layer_idx, s.layout.grid) for s in inner if s.layout and not s.note)
        skipped[scale] = tuple((s.name, s.note or "no map") for s in inner if not s.layout or s.note)
        if carriers:
            names, chosen = [rung.name for rung in carriers], links.default_split().name
            chains[scale], rungs[scale] = links, carriers
            start[scale] = names.index(chosen) if chosen in names else len(names) - 1
    if not chains:
        why = "; ".join(dict.fromkeys(f"{stage}: {note}" for scale in SCALES for stage, note in skipped[scale]))
        raise AppError(
            f"no layer of {name} carries a map ({why or 'it has one stage'}): choose one with a spatial grid"
        )
    return Opened(name, zoo.class_names(loaded), prepare, chains, rungs, start, skipped)


class Models:
    """The opened models, shared by all visitors; the least used one is dropped when there are too many.

    Args:
        first: The model the page was started with; it is never dropped.
        capacity: Number of models kept, the first included.
    """

    def __init__(self, first: Opened, capacity: int = Limits.models) -> None:
        self.first, self._capacity = first, max(capacity, 1)
        self._opened: collections.OrderedDict[str, Opened] = collections.OrderedDict()
        self._lock = threading.Lock()

    def has(self, name: str) -> bool:
        """Whether a model is there already."""
        return name == self.first.name or name in self._opened

    def __call__(self, name: str) -> Opened:
        """Opens a model that a visitor asks for by name.

        Raises:
            ValueError: No such model, or one that only the owner of the page may open.
        """
        name = str(name or "").strip()
        if name == self.first.name:
            return self.first
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
    if not name:
        raise AppError("no model is named: type a timm name, torchvision/NAME, hf:OWNER/NAME or demo")
    if not re.fullmatch(r"(torchvision/)?[\w.]+|(hf:|hf-hub:|hf_hub:)[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
        raise AppError(
            f"{name[:80]!r} cannot be opened from the page: type a timm name, torchvision/NAME, hf:OWNER/NAME or demo; "
            "a model of your own is opened with grad-cam app --model package.module:function"
        )


def _open_published(name: str) -> Opened:
    """Opens a model for a visitor; a name of the Hugging Face Hub never means a folder of the server.

    Raises:
        AppError: The same words for a folder as for a name that the Hub does not know, since they would tell which
            folders there are.
    """
    hub, _, repository = name.rpartition(":")
    try:
        if hub and os.path.lexists(repository):
            raise zoo.ModelError(f"{repository} is a folder of the server")
        return open_model(name)
    except zoo.ModelError as error:
        if not hub:
            raise
        _log.info("a visitor asked for %r: %s", name, error)
        raise AppError(
            f"{name!r} cannot be had from the Hugging Face Hub: check that it is the name of an image classifier there "
            "and that the server reaches the Hub; the model 'demo' needs no network"
        ) from None


# --------------------------------------------------------------------------------------------------------------- views


class Asked(NamedTuple):
    """What the controls of the page say."""

    photo: pathlib.Path
    model: str
    scale: str
    position: int
    target: int | str | None
    method: str
    chosen: tuple[str, ...]
    tab: str


class LatestRequests:
    """The latest request of every visitor, so that a long computation can stop when it is no longer wanted.

    Args:
        capacity: Number of visitors remembered; the oldest are forgotten, which only lets their computations finish.
    """

    def __init__(self, capacity: int = 1000) -> None:
        self._latest: collections.OrderedDict[str, Asked | None] = collections.OrderedDict()
        self._capacity, self._closed, self._running = capacity, False, 0
        self._changed = threading.Condition()

    def note(self, visitor: str, asked: Asked | None) -> None:
        """Remembers a request; None for a visitor who has left."""
        with self._changed:
            self._latest[visitor] = asked
            self._latest.move_to_end(visitor)
            while len(self._latest) > self._capacity:
                self._latest.popitem(last=False)

    def check(self, visitor: str, asked: Asked) -> None:
        """Raises `Superseded` if the visitor has another request by now, or the page is closed."""
        if self._closed or self._latest.get(visitor, asked) != asked:
            raise Superseded

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Counts a computation while it lasts."""
        with self._changed:
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Stops all computations at their next step."""
        self._closed = True

    def idle(self, timeout: float | None = 0) -> bool:
        """Whether nothing is computed, if need be after `timeout` seconds; None waits for as long as it takes."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._running, timeout)


Map = NDArray[np.float32]
Key = tuple[str, int | None]  # method and layer_idx; None for a method to which layers make no difference


def key(method: str, layer_idx: int) -> Key:
    """Under which a map is kept."""
    return method, layer_idx if METHODS[method].scope == "layer" else None


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """What one visitor looks at.

    Attributes:
        asked: The controls it answers.
        opened: The model.
        tensor: The picture as the model takes it, (1, C, H, W).
        seen: The picture as the model sees it, uint8 (H, W, 3).
        logits: (classes,).
        scale: "Blocks" or "Stages".
        position: Of the layer, among the rungs of that scale.
        target: Index of the class explained, or None where the model has none.
        word: What is explained, in words.
        method: Name of the method.
        chosen: Methods set side by side.
        maps: Raw signed maps (h, w) of this picture, scale and class; a text where there is none says why.
    """

    asked: Asked
    opened: Opened
    tensor: torch.Tensor
    seen: NDArray[np.uint8]
    logits: NDArray[np.float32]
    scale: str
    position: int
    target: int | None
    word: str
    method: str
    chosen: tuple[str, ...]
    maps: Mapping[Key, Map | str]

    @property
    def rungs(self) -> tuple[Rung, ...]:
        return self.opened.rungs[self.scale]

    @property
    def rung(self) -> Rung:
        return self.rungs[self.position]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture."""
        return self.seen.shape[0], self.seen.shape[1]

    @property
    def name(self) -> str:
        """Name of the picture."""
        return self.asked.photo.stem

    @property
    def probabilities(self) -> NDArray[np.float64]:
        return probabilities(self.logits)

    @property
    def map(self) -> Map | str:
        return self.maps[key(self.method, self.rung.layer_idx)]

    @property
    def place(self) -> str:
        """What the map is of: a layer, or all of the network."""
        return self.rung.name if METHODS[self.method].scope == "layer" else "the whole network"


class Display(NamedTuple):
    """How a map is drawn; nothing of it changes the map."""

    threshold: float = THRESHOLD
    smoothing: float = 5.0
    alpha: float = rendering.ALPHA
    colormap: str = rendering.COLORMAP


def shown_methods() -> list[str]:
    """The methods that the page offers: those that give one map."""
    return [name for name, method in METHODS.items() if method.gives == "map"]


def one_pass(method: str) -> bool:
    """Whether one forward and one backward pass give the maps of all layers."""
    return METHODS[method].one_pass and METHODS[method].gives == "map"


QUEUES = {"maps": 2, "models": 1, "slow": 1}  # what is computed at the same time, so that nobody waits for slow work


def queue_for(before: View | None, asked: Asked, models: Models) -> str:
    """In which queue a request is answered: one of its own for opening models, and for methods of many passes."""
    if not models.has(asked.model):
        return "models"
    methods = {asked.method, *(asked.chosen if asked.tab == "methods" else ())}
    if not any(method in METHODS and many_passes(method) for method in methods):
        return "maps"
    if before is None or before.asked._replace(position=0, method="", chosen=(), tab="") != asked._replace(
        position=0, method="", chosen=(), tab=""
    ):
        return "slow"
    position = min(max(asked.position, 0), len(before.rungs) - 1)
    view = dataclasses.replace(before, asked=asked, position=position, method=asked.method, chosen=asked.chosen)
    missing = [method for method, at in wanted(view) if not isinstance(view.maps.get((method, at)), np.ndarray)]
    return "slow" if any(many_passes(method) for method in missing) else "maps"


def many_passes(method: str) -> bool:
    """Whether a method runs the model, or the rest of it, for every channel, mask or noisy copy."""
    return not METHODS[method].one_pass and METHODS[method].scope != "network"


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Softmax over the classes; of a single output, the sigmoid."""
    if logits.size == 1:
        return 1 / (1 + np.exp(-logits.astype(np.float64)))
    powers = np.exp(logits.astype(np.float64) - logits.max())
    return powers / powers.sum()


def read(path: pathlib.Path, limits: Limits) -> Image.Image:
    """Reads a visitor's picture.

    Raises:
        ImageError: It is too large, no picture or damaged; the message names the file, not where the server keeps it.
    """
    try:
        size = path.stat().st_size
        if size > limits.upload:
            raise ImageError(
                f"{path} has {size / 1e6:.1f} MB, at most {limits.upload / 1e6:g} MB are taken: scale it down first."
            )
        pixels = _pixels(path)
        if pixels is not None and pixels[0] * pixels[1] > limits.pixels:
            raise ImageError(
                f"{path} has {pixels[0]} × {pixels[1]} pixels, at most {limits.pixels / 1e6:g} million are taken: "
                "scale it down first."
            )
        return load_image(path)
    except FileNotFoundError:
        raise ImageError(f"{path.name} is no longer on the server: upload it again.") from None
    except ImageError as error:
        raise ImageError(str(error).replace(str(path), path.name)) from None


@functools.cache
def _uploads() -> tempfile.TemporaryDirectory[str]:
    parent = os.environ.get("GRADIO_TEMP_DIR")
    if parent:
        os.makedirs(parent, exist_ok=True)
    folder = tempfile.TemporaryDirectory(prefix="grad-cam-", dir=parent)
    os.environ["GRADIO_TEMP_DIR"] = os.path.realpath(folder.name)
    return folder


def upload_folder() -> pathlib.Path:
    """Where gradio keeps what visitors upload: a folder of this process alone, removed when it ends."""
    return pathlib.Path(_uploads().name).resolve()


def uploaded(path: Any, folder: pathlib.Path) -> pathlib.Path:
    """The file a visitor has uploaded.

    Args:
        path: Where the visitor says it is.
        folder: Where uploads are kept.

    Raises:
        AppError: It is anything but a file below that folder, or on the way there is a link.
    """
    found = pathlib.Path(os.path.abspath(str(path)))
    if found.resolve() != found or not found.is_relative_to(folder) or not found.is_file():
        raise AppError("this file was not uploaded to the page: choose it in the field for photos")
    return found


def _pixels(path: pathlib.Path) -> tuple[int, int] | None:
    """Width and height from the header of a picture, without decoding it; None if it cannot be read."""
    try:
        with warnings.catch_warnings(), Image.open(path) as header:
            warnings.simplefilter("ignore")
            return header.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def look(
    asked: Asked,
    opened: Opened,
    before: View | None = None,
    *,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> View:
    """Answers what a visitor asks, with as much of what was there before as still holds.

    A new picture or model is explained for its predicted class, a new model or scale at its usual layer. A new model
    that has no map at the scale asked for is shown at its other one.

    Args:
        asked: The controls.
        opened: The model they name.
        before: What the visitor saw until now.
        limits: For the picture.
        progress: Called with (done, total) by methods that take long.

    Raises:
        ValueError: A picture, class, method or layer that is not there or does not fit.
    """
    if asked.scale not in SCALES or asked.tab not in TABS:
        raise AppError(f"the page has no scale {asked.scale!r} or no tab {asked.tab!r}: load it again")
    for method in (asked.method, *asked.chosen):
        if method not in shown_methods():
            raise AppError(f"the page has no method {method!r}: choose one of {', '.join(shown_methods())}")
    same_model = before is not None and before.opened is opened
    scale = asked.scale
    if scale not in opened.rungs:
        if same_model:
            raise AppError(f"no layer of {opened.name} carries a map in {scale!r}: choose {', '.join(opened.rungs)}")
        scale = next(iter(opened.rungs))
    rungs = opened.rungs[scale]
    same_scale = same_model and before.scale == scale
    position = min(max(asked.position, 0), len(rungs) - 1) if same_scale or before is None else opened.start[scale]
    if before is not None and same_model and before.asked.photo == asked.photo:
        target = before.target if asked.target in (None, "") else zoo.class_index(opened.model, asked.target)
        view = dataclasses.replace(before, target=target)
        if target != before.target or not same_scale:
            view = dataclasses.replace(view, maps={})
    else:
        tensor, seen = opened.prepare(read(asked.photo, limits or Limits()))
        nothing = np.zeros(0, np.float32)
        view = View(asked, opened, tensor, np.asarray(seen), nothing, scale, 0, None, "", asked.method, (), {})
    view = dataclasses.replace(
        view, asked=asked, scale=scale, position=position, method=asked.method, chosen=asked.chosen
    )
    return settle(view, progress)


def wanted(view: View) -> list[Key]:
    """The maps that the visitor's tab shows; the first is the one under the slider."""
    keys = [key(view.method, view.rung.layer_idx)]
    if view.asked.tab == "methods":
        keys += [key(method, view.rung.layer_idx) for method in view.chosen]
    if view.asked.tab == "layers":
        keys += [key(view.method, rung.layer_idx) for rung in view.rungs]
    return list(dict.fromkeys(keys))


def settle(view: View, progress: Progress | None = None) -> View:
    """Computes the maps that a view lacks: all layers at once where one pass gives them, else those that are shown.

    Raises:
        ValueError: The map under the slider cannot be had. Of the others, the reason takes the map's place.
    """
    for number, (method, layer_idx) in enumerate(wanted(view)):
        if isinstance(view.maps.get((method, layer_idx)), np.ndarray):
            continue
        try:
            if progress is not None and many_passes(method):
                progress(0, 1)  # the visitor may have left while the map before was computed
            view = _explained(view, method, layer_idx, progress)
        except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
            if number == 0:
                raise
            view = dataclasses.replace(view, maps={**view.maps, (method, layer_idx): _one_line(error)})
    return view


def _explained(view: View, method: str, layer_idx: int | None, progress: Progress | None) -> View:
    links = view.opened.chains[view.scale]
    if one_pass(method):
        found = list(sweep(links, view.tensor, layers="stages", target=view.target, method=method))
        keys = [(method, e.layer.layer_idx) for e in found]
    else:
        found = [explain(links, view.tensor, layer=layer_idx, target=view.target, method=method, progress=progress)]
        keys = [(method, layer_idx)]
    first = found[0]
    maps = {k: e.map.reshape(e.map.shape[-2:]).float().cpu().numpy() for k, e in zip(keys, found, strict=True)}
    target = view.target if first.classes is None else int(first.classes.flatten()[0])
    return dataclasses.replace(
        view, maps={**view.maps, **maps}, target=target, word=first.target[0][0],
        logits=first.logits.detach().float().cpu().numpy().reshape(len(first.logits), -1)[0],
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- drawing


def draw(seen: NDArray[np.uint8], map: Map, display: Display) -> Image.Image:
    """The heatmap of a raw map over the picture."""
    heat = rendering.heatmap(map, (seen.shape[0], seen.shape[1]), display.threshold, display.smoothing)
    return rendering.overlay(seen, heat, alpha=display.alpha, colormap=display.colormap)


def data_uri(picture: Image.Image, kind: str = "png") -> str:
    """A picture as an address that holds it."""
    out = io.BytesIO()
    if kind == "png":
        picture.save(out, "png", compress_level=3)
    else:
        picture.save(out, "jpeg", quality=90)
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def npy_uri(map: Map) -> str:
    """A raw map as an address that holds a .npy file."""
    out = io.BytesIO()
    np.save(out, map, allow_pickle=False)
    return f"data:application/octet-stream;base64,{base64.b64encode(out.getvalue()).decode()}"


def percent(probability: float) -> str:
    """A probability in words, never 0 % or 100 % unless it is."""
    if 0 < probability < 0.005:
        return "< 1 %"
    if 0.995 <= probability < 1:
        return "> 99 %"
    return f"{100 * probability:.0f} %"


def file_name(view: View, ending: str) -> str:
    """Name for a download: picture, class, method and layer."""
    parts = (view.name, view.word, view.method, view.place)
    return "-".join(re.sub(r"[^\w.]+", "_", part).strip("_")[:40] for part in parts) + ending


def photo_html(view: View) -> str:
    """The picture as the model sees it."""
    height, width = view.size
    return (
        f'<figure class="gc-picture"><img id="gc-photo" src="{data_uri(Image.fromarray(view.seen), "jpeg")}" '
        f'alt="{_text(view.name)} as the model sees it">'
        f"<figcaption>What the model sees, {width} × {height} pixels</figcaption></figure>"
    )


def overlay_html(view: View, display: Display) -> str:
    """The overlay, with what it shows in words, a colour scale and the downloads."""
    map = view.map
    if isinstance(map, str):  # cannot happen after `settle`
        return _lack(map)
    note = rendering.describe(map)
    title = METHODS[view.method].title
    alt = f"{title} for {view.word} at {view.place}, over the picture"
    picture, raw = (_text(file_name(view, ending)) for ending in (".png", ".npy"))
    links = (
        f'<a class="gc-link" id="gc-save-picture" download="{picture}" href="#" '
        "onclick=\"this.href=document.getElementById('gc-overlay').src\">Picture</a>"
        f'<a class="gc-link" id="gc-save-map" download="{raw}" href="{npy_uri(map)}">Raw map</a>'
    )
    figure = (
        f'<figure class="gc-picture"><img id="gc-overlay" src="{data_uri(draw(view.seen, map, display))}" '
        f'alt="{_text(alt)}"><figcaption><span class="gc-scale">low{_ramp(display.colormap)}high</span>'
        f'<span class="gc-links"><span>Download</span>{links}</span></figcaption></figure>'
    )
    if not _nothing(note):
        return figure
    warning = f"This map is {note}: nothing speaks for {view.word}."
    return f'{figure}<p class="gc-note" role="status">{_text(warning)}</p>'


def headline_html(view: View) -> str:
    """What is explained, by which method, where."""
    chance = ""
    if view.target is not None and view.logits.size > 1:
        chance = f' <span class="gc-quiet">{_text(percent(float(view.probabilities[view.target])))}</span>'
    at = f"{METHODS[view.method].title}, {view.place}"
    if METHODS[view.method].scope == "layer":
        at = f"{METHODS[view.method].title} at <code>{_text(view.rung.name)}</code>, {view.rung.size}"
    return f'<div class="gc-headline"><h2>{_text(view.word)}{chance}</h2><p>{at}</p></div>'


def layer_html(view: View) -> str:
    """Under the slider: where it is, between the first layer and the last."""
    rungs, rung = view.rungs, view.rung
    index = f"layer_idx {rung.layer_idx} · " if view.scale == "Stages" else ""
    return (
        f'<div class="gc-layer"><span>{_text(rungs[0].name)}</span>'
        f'<span id="gc-layer" aria-live="polite"><b>{_text(rung.name)}</b> {index}{rung.size} · '
        f"{view.position + 1} of {len(rungs)}</span><span>{_text(rungs[-1].name)}</span></div>"
    )


def predictions_html(view: View) -> str:
    """The likeliest classes as bars; a click chooses one."""
    chances = view.probabilities
    best = [int(k) for k in np.argsort(-chances, kind="stable")[:TOP]]
    if view.target is not None and view.target not in best:
        best.append(view.target)
    rows = [
        f'<button type="button" class="gc-bar" data-pick="{k}" aria-pressed="{str(k == view.target).lower()}">'
        f'<span class="gc-name">{_text(view.opened.label(k))}</span>'
        f'<span class="gc-number">{_text(percent(float(chances[k])))}</span>'
        f'<span class="gc-track"><i style="width:{100 * float(chances[k]):.1f}%"></i></span></button>'
        for k in best
    ]
    return f'<div class="gc-bars" role="group" aria-label="Predictions">{"".join(rows)}</div>'


def classes(view: View) -> list[tuple[str, int]]:
    """The classes to choose from, likeliest first."""
    chances = view.probabilities
    order = np.argsort(-chances, kind="stable")[:LISTED]
    return [(f"{view.opened.label(int(k))} ({int(k)})", int(k)) for k in order]


def methods_html(view: View, display: Display) -> str:
    """The chosen methods side by side, at one layer."""
    if not view.chosen:
        return '<p class="gc-quiet">Choose one or more methods.</p>'
    cards = []
    for method in view.chosen:
        map = view.maps.get(key(method, view.rung.layer_idx), "not computed yet")
        entry = METHODS[method]
        same = ["class"] * (not entry.class_specific) + ["layer"] * (entry.scope != "layer")
        about = _text(f"{entry.source}; the same for every {' and '.join(same)}" if same else entry.source)
        cards.append(_card(view, map, display, entry.title, about, method, method == view.method))
    return f'<div class="gc-grid">{"".join(cards)}</div>'


def layers_html(view: View, display: Display) -> str:
    """The sweep: every layer that carries a map, from the picture to the logits."""
    if METHODS[view.method].scope != "layer":
        card = _card(view, view.map, display, view.place, "", str(view.position), True)
        said = f"{METHODS[view.method].title} has one map for all layers."
        return f'<div class="gc-grid">{card}</div><p class="gc-quiet">{_text(said)}</p>'
    keys = [key(view.method, rung.layer_idx) for rung in view.rungs]
    last = view.maps.get(keys[-1])
    cards = []
    for position, (rung, at) in enumerate(zip(view.rungs, keys, strict=True)):
        map = view.maps.get(at, "not computed yet")
        about = f"<span>{rung.size}"
        if isinstance(map, np.ndarray) and isinstance(last, np.ndarray):
            agreement = metrics.agreement(torch.from_numpy(map), torch.from_numpy(last))
            about += "" if math.isnan(agreement) else f"</span><span>{agreement:.2f}".replace("-", "−")
        about += "</span>"
        cards.append(_card(view, map, display, rung.name, about, str(position), position == view.position))
    skipped = view.opened.skipped[view.scale]
    rest = "".join(f"<li><code>{_text(name)}</code> {_text(note)}</li>" for name, note in skipped)
    more = (
        f'<details class="gc-skipped"><summary>{len(skipped)} without a map</summary><ul>{rest}</ul></details>'
        if skipped
        else ""
    )
    return (
        f'<div class="gc-grid">{"".join(cards)}</div><p class="gc-quiet">From shallow to deep. The number at '
        f"the right is the agreement with the last layer's map, a correlation. A click moves the slider.</p>{more}"
    )


def _card(view: View, map: Map | str, display: Display, title: str, about: str, pick: str, current: bool) -> str:
    if isinstance(map, str):
        return f'<div class="gc-card">{_lack(map)}<b>{_text(title)}</b><small>{about}</small></div>'
    note = rendering.describe(map)
    return (
        f'<button type="button" class="gc-card" data-pick="{_text(pick)}" aria-pressed="{str(current).lower()}">'
        f'<img src="{data_uri(draw(view.seen, map, display), "jpeg")}" alt="{_text(f"{title}, {view.word}")}">'
        f"<b>{_text(title)}</b><small>{_text(note) if _nothing(note) else about}</small></button>"
    )


def samples_html() -> str:
    """The photos that come with the package; a click chooses one."""
    return f'<div class="gc-samples" role="group" aria-label="Sample photos">{"".join(_thumbnails())}</div>'


@functools.cache
def _thumbnails() -> tuple[str, ...]:
    found = []
    for name, path in zoo.samples().items():
        small = load_image(path)
        side = min(small.size)
        left, top = (small.width - side) // 2, (small.height - side) // 2
        small = small.crop((left, top, left + side, top + side)).resize((160, 160), Image.Resampling.LANCZOS)
        found.append(
            f'<button type="button" data-pick="{_text(name)}" title="{_text(name)}">'
            f'<img src="{data_uri(small, "jpeg")}" alt="Sample photo: {_text(name)}"></button>'
        )
    return tuple(found)


def method_html(method: str) -> str:
    """What a method is good for, and where it comes from."""
    entry = METHODS[method]
    source = _text(entry.source)
    if entry.link:
        source = f'<a href="{_text(entry.link)}" target="_blank" rel="noopener noreferrer">{source}</a>'
    return f'<p class="gc-advice">{_text(entry.advice)} <span class="gc-quiet">{source}</span></p>'


_FOLDERS = re.compile(r"""(?<![\w.:/\\])(?:[A-Za-z]:)?[\\/](?:[^\s'"/\\]+[\\/])+""")  # of a path from the root


def notice_html(message: str) -> str:
    """A message above the pictures, without the folders of the server; nothing for an empty one."""
    return f'<div class="gc-notice" role="alert">{_text(_FOLDERS.sub("", message))}</div>' if message else ""


def _ramp(colormap: str) -> str:
    colours = rendering.palette(colormap)[::17]
    stops = ",".join("#{:02x}{:02x}{:02x}".format(*map(int, colour)) for colour in colours)
    return f'<i class="gc-ramp" style="background:linear-gradient(to right,{stops})"></i>'


def _nothing(note: str | None) -> bool:
    return note in ("all zero", "all negative", "nowhere positive")


def _lack(reason: str) -> str:
    return f'<div class="gc-lack">{_text(_FOLDERS.sub("", reason))}</div>'


def _text(text: Any) -> str:
    return html.escape(str(text))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# --------------------------------------------------------------------------------------------------------- the answers


def answer(
    before: View | None,
    asked: Asked,
    display: Display,
    models: Callable[[str], Opened],
    *,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """What changes on the page when the controls have changed; a text or a dict of settings for each part of it.

    Whatever goes wrong becomes the notice, and the controls go back to what the page shows.
    """
    if before is not None and before.asked == asked:
        return {}
    try:
        view = look(asked, models(asked.model), before, limits=limits, progress=progress)
        return _changed(before, asked, view, display)
    except Superseded:
        return {}
    except (ValueError, TypeError, NotImplementedError) as error:
        return {"notice": notice_html(_one_line(error)), **_back(before, asked)}
    except Exception as error:
        _log.exception("the page could not answer %s", asked)
        message = f"This did not work: {type(error).__name__}: {_one_line(error)}"
        return {"notice": notice_html(message), **_back(before, asked)}


def _changed(before: View | None, asked: Asked, view: View, display: Display) -> dict[str, Any]:
    """The parts of the page that show a new view."""
    # As the controls will be when they show this view, so that their change finds nothing to do.
    shown = asked._replace(scale=view.scale, position=view.position, target=view.target)
    view = dataclasses.replace(view, asked=shown)
    parts: dict[str, Any] = {
        "view": view, "notice": "", "headline": headline_html(view), "predictions": predictions_html(view),
        "where": layer_html(view), "advice": method_html(view.method),
    }  # fmt: skip
    new_model = before is None or before.opened is not view.opened
    if before is not None and new_model:
        suits = round(rendering.default_smoothing(view.size), 1)
        display = display._replace(smoothing=suits)
        parts["smoothing"] = {"value": suits, "maximum": 4 * suits}
    if new_model:
        parts["scale"] = {"choices": list(view.opened.rungs), "value": view.scale}
    if new_model or before.scale != view.scale:
        last = len(view.rungs) - 1
        parts["position"] = {"value": view.position, "maximum": max(last, 1), "interactive": last > 0}
    if new_model or before.asked.photo != asked.photo:
        parts["seen"] = photo_html(view)
        parts["target"] = {"choices": classes(view), "value": view.target}
    return {**parts, **redraw(view, display)}


def _back(before: View | None, asked: Asked) -> dict[str, Any]:
    """The controls that say something else than the page shows, as it shows them."""
    if before is None:
        return {}
    wrong = {
        name: shown
        for name, shown, wish in zip(Asked._fields, before.asked, asked, strict=True)
        if shown != wish and name != "tab"
    }
    return {name: shown if name == "photo" else {"value": _plain(shown)} for name, shown in wrong.items()}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def redraw(view: View, display: Display) -> dict[str, Any]:
    """The pictures of the visitor's tab, drawn from the maps that are there."""
    tab = view.asked.tab
    make = {"layer": overlay_html, "layers": layers_html, "methods": methods_html}[tab]
    return {tab: make(view, display)}


def restyled(view: View, display: Display) -> dict[str, Any]:
    """What changes on the page when only a display control has; what cannot be drawn becomes the notice."""
    try:
        return {"notice": "", **redraw(view, display)}
    except Exception as error:
        if not isinstance(error, (ValueError, TypeError)):
            _log.exception("the page could not draw with %s", display)
        return {"notice": notice_html(_one_line(error))}


# ---------------------------------------------------------------------------------------------------------- the wiring

# A click on anything with data-pick is told to the server; the listener stays when the content changes.
_PICK = """
element.addEventListener('click', (event) => {
  const picked = event.target.closest('[data-pick]');
  if (picked) trigger('click', { pick: picked.dataset.pick });
});
"""


def _gradio() -> Any:
    """gradio, with its telemetry off."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError:
        raise AppError("the web page needs gradio: pip install 'gradcam-layers[app]'") from None
    if int(gradio.__version__.split(".")[0]) < 6:
        raise AppError(
            f"the web page needs gradio 6 or newer, {gradio.__version__} is installed: "
            "pip install -U 'gradcam-layers[app]'"
        )
    return gradio


def build(
    model: str | nn.Module = "demo", *, limits: Limits | None = None, input_size: int | tuple[int, int] | None = None,
    checkpoint: str | os.PathLike[str] | None = None, pretrained: bool = True,
) -> gradio.Blocks:  # fmt: skip
    """Makes the page without serving it.

    Args:
        model: Name (see `loading.load`) or model that the page opens with.
        limits: What a visitor may ask of the server.
        input_size: Size of the model's pictures instead of its own.
        checkpoint: File with the model's weights.
        pretrained: Load the published weights; False gives random ones.

    Raises:
        AppError: gradio is missing or too old, or the model has no layer with a map.
        ModelError: There is no such model.
    """
    gr, limits = _gradio(), limits or Limits()
    how = {"checkpoint": checkpoint, "pretrained": pretrained} if isinstance(model, str) else {}
    first = open_model(model, input_size=input_size, **how)
    models = Models(first, limits.models)
    methods = [(METHODS[name].title, name) for name in shown_methods()]
    latest, uploads, tickets = LatestRequests(), upload_folder(), itertools.count(1)

    with _blocks(gr)(
        title="Grad-CAM, layer by layer", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)
    ) as page:
        part = _layout(gr, first, methods)
        tabs = {name: part.pop(f"tab {name}") for name in TABS}
        controls = [part[name] for name in Asked._fields]
        display = [part[name] for name in Display._fields]

        def told(updates: dict[str, Any]) -> Any:
            changes = {part[k]: gr.update(**v) if isinstance(v, dict) else v for k, v in updates.items()}
            return changes or gr.skip()

        busy = gr.Progress()
        turns = {queue: gr.State(0) for queue in QUEUES if queue != "maps"}

        def wish(
            photo: Any, model: Any, scale: Any, position: Any, target: Any, method: Any, chosen: Any, tab: Any
        ) -> Asked:
            return Asked(
                photo, str(model or "").strip(), scale, int(position), target, method, tuple(chosen or ()), tab
            )

        def note(
            photo: Any, model: Any, scale: Any, position: Any, target: Any, method: Any, chosen: Any, tab: Any,
            request: Any,
        ) -> None:  # fmt: skip
            latest.note(request.session_hash, wish(photo, model, scale, position, target, method, chosen, tab))

        def gone(visitor: str) -> bool:
            """Whether the connection over which a visitor waits for an answer has ended."""
            events = [event for job in page._queue.active_jobs if job for event in job]
            return any(event.session_hash == visitor and not event.alive for event in events)

        def refresh(
            queue: str, before: Any, photo: Any, model: Any, scale: Any, position: Any, target: Any, method: Any,
            chosen: Any, tab: Any, threshold: Any, smoothing: Any, alpha: Any, colormap: Any, request: Any,
            progress: Any = busy,
        ) -> Any:  # fmt: skip
            asked = wish(photo, model, scale, position, target, method, chosen, tab)

            def step(done: int, total: int) -> None:
                latest.check(request.session_hash, asked)
                if gone(request.session_hash):
                    raise Superseded
                progress((done, total), desc=METHODS[method].title)

            with latest.computing():
                if queue == "models":
                    with contextlib.suppress(Exception):  # `answer` says what is wrong
                        models(asked.model)
                due = queue_for(before, asked, models)
                if due != queue and due in turns:
                    return {turns[due]: next(tickets)}
                shown = Display(threshold, smoothing, alpha, colormap)
                parts = answer(before, asked, shown, models, limits=limits, progress=step)
                if queue != "maps":
                    try:
                        latest.check(request.session_hash, asked)
                    except Superseded:  # the page may show the answer to the newer request already
                        return gr.skip()
                return told(parts)

        def restyle(view: Any, *settings: Any) -> Any:
            return gr.skip() if view is None else told(restyled(view, Display(*settings)))

        def upload(path: Any) -> tuple[Any, None]:
            try:
                return uploaded(path, uploads), None  # the field is empty again, for the next photo
            except AppError as error:
                raise gr.Error(str(error), print_exception=False) from None

        def sample(event: Any) -> Any:
            return zoo.samples().get(event.pick, gr.skip())

        def choose_class(event: Any) -> Any:
            return int(event.pick)

        def choose_layer(event: Any) -> Any:
            return int(event.pick)

        def choose_method(event: Any) -> Any:
            return event.pick if event.pick in METHODS else gr.skip()

        def leave(request: Any) -> None:
            latest.note(request.session_hash, None)

        # gradio hands these over by their annotation, which has to be a class and not its name.
        answering = {queue: _in_queue(refresh, queue) for queue in QUEUES}
        for function in (note, leave, *answering.values()):
            function.__annotations__["request"] = gr.Request
        for function in (sample, choose_class, choose_layer, choose_method):
            function.__annotations__["event"] = gr.EventData

        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        wanted = [page.load, *(control.change for control in controls)]
        gr.on(wanted, note, controls, None, trigger_mode="multiple", concurrency_limit=None, **quiet)
        # One listener for all that may need a map: while it works, only the last request of a visitor waits. What it
        # leaves to another queue is answered by the listener there, called by a change of its turn.
        for queue, function in answering.items():
            gr.on(
                [turns[queue].change] if queue in turns else wanted, function, [part["view"], *controls, *display],
                [*(part[name] for name in CHANGED), *turns.values()], trigger_mode="always_last", concurrency_id=queue,
                concurrency_limit=QUEUES[queue], show_progress="minimal", show_progress_on=part["headline"],
                api_visibility="private",
            )  # fmt: skip
        gr.on(
            [control.change for control in display], restyle, [part["view"], *display],
            [part["notice"], *(part[name] for name in TABS)],
            trigger_mode="always_last", concurrency_id="drawing", concurrency_limit=8, **quiet,
        )  # fmt: skip
        part["upload"].upload(upload, part["upload"], [part["photo"], part["upload"]], **quiet)
        part["samples"].click(sample, None, part["photo"], **quiet)
        part["predictions"].click(choose_class, None, part["target"], **quiet)
        part["layers"].click(choose_layer, None, part["position"], **quiet)
        part["methods"].click(choose_method, None, part["method"], **quiet)
        for name, one in tabs.items():
            one.select(functools.partial(str, name), None, part["tab"], **quiet)
        page.unload(leave)
    # gradio checks the paths that a visitor sends only where this is set, and `mount_gradio_app` does not set it.
    page.has_launched = True
    page.latest = latest
    return page


def _in_queue(refresh: Callable[..., Any], queue: str) -> Callable[..., Any]:
    """The answering function for one queue, as gradio reads it: a function with the signature that is left."""

    @functools.wraps(refresh)
    def answering(*values: Any, **rest: Any) -> Any:
        return refresh(queue, *values, **rest)

    rest = list(inspect.signature(refresh).parameters.values())[1:]
    answering.__signature__ = inspect.Signature(rest)  # type: ignore[attr-defined]
    answering.__annotations__ = dict(refresh.__annotations__)
    return answering


def _blocks(gr: Any) -> type:
    """Page of gradio with a log instead of the tracebacks that it prints for every request it cannot take."""

    class Blocks(gr.Blocks):  # type: ignore[misc,name-defined]
        async def process_api(self, *values: Any, **rest: Any) -> Any:
            try:
                return await super().process_api(*values, **rest)
            except gr.Error as error:
                error.print_exception = False
                raise
            except Exception as error:
                _log.info("a request was not answered", exc_info=True)
                raise gr.Error("the page cannot answer this request", print_exception=False) from error

    return Blocks


def _layout(gr: Any, first: Opened, methods: list[tuple[str, str]]) -> dict[str, Any]:
    """The parts of the page by name, laid out."""
    part: dict[str, Any] = {
        "view": gr.State(None), "photo": gr.State(zoo.samples()["cat"]), "tab": gr.State(TABS[0]),
    }  # fmt: skip
    scale, suits = next(iter(first.rungs)), round(rendering.default_smoothing(first.prepare.size), 1)
    gr.HTML('<header class="gc-header"><h1>Grad-CAM, layer by layer</h1><p>See what a vision model saw</p></header>')
    with gr.Row(elem_classes="gc-main"):
        with gr.Column(scale=0, min_width=250, elem_classes="gc-side"):
            gr.HTML("<h3>Photo</h3>")
            with gr.Row(elem_classes="gc-source"):
                part["samples"] = gr.HTML(samples_html(), js_on_load=_PICK, elem_id="gc-samples")
                part["upload"] = gr.File(
                    label="Upload a photo", file_count="single", file_types=["image"], height=88, elem_id="gc-upload",
                    show_label=False, min_width=100,
                )  # fmt: skip
            part["model"] = gr.Dropdown(
                list(dict.fromkeys((first.name, *SUGGESTED))), value=first.name, label="Model", elem_id="gc-model",
                info="Any timm name, torchvision/NAME or hf:OWNER/NAME", allow_custom_value=True,
            )  # fmt: skip
            gr.HTML("<h3>Predictions</h3>")
            part["predictions"] = gr.HTML(js_on_load=_PICK, elem_id="gc-predictions")
            part["target"] = gr.Dropdown([], label="Class to explain", elem_id="gc-class")
        with gr.Column(scale=1, min_width=560, elem_classes="gc-stage"):
            part["notice"] = gr.HTML(elem_id="gc-notice")
            part["headline"] = gr.HTML(elem_id="gc-headline")
            with gr.Tabs():
                with gr.Tab("One layer") as part["tab layer"], gr.Row(elem_classes="gc-pictures"):
                    part["seen"] = gr.HTML(elem_id="gc-seen")
                    part["layer"] = gr.HTML(elem_id="gc-shown")
                with gr.Tab("All layers") as part["tab layers"]:
                    part["layers"] = gr.HTML(js_on_load=_PICK, elem_id="gc-layers")
                with gr.Tab("Methods side by side") as part["tab methods"]:
                    part["chosen"] = gr.Dropdown(
                        methods, value=[name for name in COMPARED if name in METHODS], multiselect=True,
                        label="Methods to compare", show_label=False, container=False, elem_id="gc-chosen",
                    )  # fmt: skip
                    part["methods"] = gr.HTML(js_on_load=_PICK, elem_id="gc-methods")
            with gr.Column(elem_classes="gc-panel"):
                with gr.Row(elem_classes="gc-along"):
                    part["position"] = gr.Slider(
                        0, max(len(first.rungs[scale]) - 1, 1), first.start[scale], step=1, label="Layer", scale=4,
                        elem_id="gc-position", buttons=[],
                    )  # fmt: skip
                    part["scale"] = gr.Radio(
                        list(first.rungs), value=scale, label="Detail", scale=0, min_width=190, elem_id="gc-scale",
                    )  # fmt: skip
                part["where"] = gr.HTML(elem_id="gc-where")
        with gr.Column(scale=0, min_width=210, elem_classes="gc-controls"):
            part["method"] = gr.Dropdown(methods, value="grad_cam", label="Method", min_width=190, elem_id="gc-method")
            part["advice"] = gr.HTML(method_html("grad_cam"), elem_id="gc-advice")
            part["threshold"] = gr.Slider(
                0, 0.95, THRESHOLD, step=0.005, label="Threshold", min_width=130, elem_id="gc-threshold", buttons=[]
            )
            part["smoothing"] = gr.Slider(
                0, 4 * suits, suits, step=0.1, label="Smoothing (pixels)", min_width=130, elem_id="gc-smoothing",
                buttons=[],
            )  # fmt: skip
            part["alpha"] = gr.Slider(
                0, 1, rendering.ALPHA, step=0.01, label="Opacity", min_width=130, elem_id="gc-alpha", buttons=[]
            )
            part["colormap"] = gr.Dropdown(
                list(COLORMAPS.items()), value=rendering.COLORMAP, label="Colours", min_width=110, elem_id="gc-colormap"
            )
    return part


# --------------------------------------------------------------------------------------------------------- the serving


class Page:
    """A page that is being served; close it, or use it in a `with` statement.

    Attributes:
        url: Where it is.
    """

    def __init__(self, blocks: Any, url: str) -> None:
        self._blocks, self.url = blocks, url
        self._closed = threading.Event()

    def wait(self) -> None:
        """Waits until the page is closed, or Ctrl-C or the system asks this process to end."""
        with contextlib.suppress(KeyboardInterrupt):
            self._closed.wait()

    def close(self) -> None:
        """Stops serving and computing, and removes what visitors have uploaded."""
        self._blocks.latest.close()
        self._blocks.close(verbose=False)
        self._blocks.latest.idle(0.3)
        self._closed.set()

    def leave(self) -> None:
        """Ends this process at once, after removing what visitors have uploaded; for the command line.

        What is still computed then, such as a model being opened, could not be stopped, and torch takes seconds to end.
        """
        _uploads().cleanup()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(0)

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def launch(
    model: str | nn.Module = "demo", port: int | None = None, *, host: str = HOST, limits: Limits | None = None,
    input_size: int | tuple[int, int] | None = None, checkpoint: str | os.PathLike[str] | None = None,
    pretrained: bool = True, block: bool = True, hosts: Sequence[str] = (),
) -> Page:  # fmt: skip
    """Serves the page.

    Args:
        model: Name (see `loading.load`) or model that the page opens with.
        port: Where; None takes the first free port from 7860 on, 0 any free one.
        host: Address to listen at. The default can only be reached from this computer, "0.0.0.0" from
            everywhere, without a password.
        limits: What a visitor may ask of the server.
        input_size: Size of the model's pictures instead of its own.
        checkpoint: File with the model's weights.
        pretrained: Load the published weights; False gives random ones.
        block: Serve until Ctrl-C and say where; otherwise come back while the page is served from a thread.
        hosts: Names under which this computer is known to visitors, besides `host` and its own name. Requests to
            other names, and from other web sites, are refused.

    Returns:
        The page, closed if `block`.

    Raises:
        AppError: The port is in use, gradio is missing, or the model has no layer with a map.
        ModelError: There is no such model.
    """
    with _ended_by_the_system() if block else contextlib.nullcontext():
        page = _serve(
            model, port, host, limits or Limits(), hosts, input_size=input_size, checkpoint=checkpoint,
            pretrained=pretrained,
        )  # fmt: skip
        if block:
            with page:
                sys.stdout.write(f"The page is at {page.url} (Ctrl-C stops it)\n")
                sys.stdout.flush()
                page.wait()
    return page


def _serve(
    model: str | nn.Module, port: int | None, host: str, limits: Limits, hosts: Sequence[str], **how: Any
) -> Page:
    """Builds the page and starts to serve it."""
    gr = _gradio()
    from starlette.middleware import Middleware

    number = free_port(host, port)
    blocks: Any = build(model, limits=limits, **how)
    name = f"[{host}]" if ":" in host else host
    try:
        with _no_proxy_to(host):  # gradio asks the page it serves whether it is there
            blocks.launch(
                server_name=name, server_port=number, prevent_thread_lock=True, quiet=True, share=False, inline=False,
                show_error=False, footer_links=[], run_history=False, max_file_size=limits.upload, ssr_mode=False,
                state_session_capacity=limits.visitors,
                mcp_server=False, pwa=False, enable_monitoring=False, theme=_theme(gr),
                css=files(__package__).joinpath("templates/app.css").read_text("utf-8"),
                app_kwargs={
                    "middleware": [
                        Middleware(KnownHosts, host, (socket.gethostname(), *hosts)), Middleware(NoTracebacks),
                    ],
                    "docs_url": None, "redoc_url": None, "openapi_url": None,
                },
            )  # fmt: skip
    except OSError as error:
        raise AppError(f"the page cannot be served at port {number} of {host}: {_one_line(error)}") from error
    shown = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(name, name)
    blocks.server.config.timeout_graceful_shutdown = 0.5  # seconds for open connections; gradio waits for them for good
    # A thread that computes while the interpreter is taken down would end the process with an abort.
    atexit.register(blocks.latest.idle, None)
    return Page(blocks, f"http://{shown}:{number}/")


@contextlib.contextmanager
def _ended_by_the_system() -> Iterator[None]:
    """Lets a request of the system to end (SIGTERM) work as Ctrl-C does, so that nothing is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class NoTracebacks:
    """Answers requests that make gradio's own code fail, such as for a function that is not there; logs why.

    Args:
        app: The application behind it.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.responses import PlainTextResponse

        begun = False

        async def note(message: Any) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, note)
        except (Exception, asyncio.CancelledError):  # cancelled: the page is closed while a connection is open
            if scope["type"] != "http":
                raise
            _log.info("a request was not answered", exc_info=True)
            if begun:
                await send({"type": "http.response.body", "body": b""})
            else:
                refusal = "The page cannot answer this request."
                await PlainTextResponse(refusal, status_code=400)(scope, receive, send)


class KnownHosts:
    """Refuses what other web sites have a visitor's browser send to the page.

    A site can point its own name to this computer and read the answers as its own; the Host header still holds that
    name. It can also send a form without reading the answer; the Origin header says so.

    Args:
        app: The application behind it.
        host: Address the page listens at. Where that is every address of the computer, any number will do as Host,
            because only a name can be pointed elsewhere.
        names: Other names of this computer.
    """

    def __init__(self, app: Any, host: str = HOST, names: Sequence[str] = ()) -> None:
        self._app, self._everywhere = app, host in ("0.0.0.0", "::")
        self._names = {name.lower() for name in ("localhost", "127.0.0.1", "::1", host, *names)}

    def knows(self, place: str) -> bool:
        """Whether a host, with a port or without, is this computer."""
        try:
            name = urllib.parse.urlsplit(f"//{place}").hostname or ""
            return name in self._names or self._everywhere and bool(ipaddress.ip_address(name))
        except ValueError:
            return False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.responses import PlainTextResponse

        if scope["type"] in ("http", "websocket"):
            headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
            host, origin = headers.get(b"host", ""), headers.get(b"origin")
            refusal = ""
            if not self.knows(host):
                refusal = f"This page is not at {host[:80]!r}: open it at the address that it was started with."
            elif origin is not None and origin.partition("://")[2] != host:
                refusal = f"This page takes no requests from {origin[:80]!r}."
            if refusal:
                await PlainTextResponse(refusal, status_code=403)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def free_port(host: str = HOST, port: int | None = None) -> int:
    """Finds the port to serve at.

    Args:
        host: Address to listen at.
        port: None takes the first free one from 7860 on, 0 any free one.

    Raises:
        AppError: It is in use, or not ours to take.
    """
    if port is not None and not 0 <= port <= 65535:
        raise AppError(f"port={port} is not a port: give a number from 1 to 65535 (--port)")
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in range(PORT, PORT + PORTS) if port is None else (port,):
        with socket.socket(kind, socket.SOCK_STREAM) as found:
            if os.name == "posix":
                found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not held back by connections just closed
            try:
                found.bind((host, number))
                found.listen(1)
                return int(found.getsockname()[1])
            except OSError as error:
                if port is not None:
                    taken = error.errno == errno.EADDRINUSE
                    why = "is in use" if taken else f"cannot be used ({error.strerror or error})"
                    raise AppError(
                        f"port {port} of {host} {why}: choose another with --port (port=...), or give none"
                    ) from None
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise AppError(f"cannot listen at {host!r}: {error.strerror or error}") from None
    raise AppError(f"ports {PORT} to {PORT + PORTS - 1} of {host} are in use: choose another with --port (port=...)")


@contextlib.contextmanager
def _no_proxy_to(host: str) -> Iterator[None]:
    """Has requests to this computer leave out the proxy that the environment may name."""
    before = os.environ.get("no_proxy")
    direct = (before, os.environ.get("NO_PROXY"), "localhost", "127.0.0.1", "::1", host)
    os.environ["no_proxy"] = ",".join(filter(None, direct))
    try:
        yield
    finally:
        if before is None:
            del os.environ["no_proxy"]
        else:
            os.environ["no_proxy"] = before


def _theme(gr: Any) -> Any:
    """Quiet colours, the fonts of the visitor's computer."""
    sans = ("-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "system-ui", "sans-serif")
    mono = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")
    paper, card, ink, quiet, line, soft, accent = (
        ("#f6f5f2", "#141413"), ("#ffffff", "#1d1c1a"), ("#1c1b19", "#edebe6"), ("#66625b", "#a19c93"),
        ("#dedbd4", "#34322e"), ("#eceae4", "#282623"), ("#b3420c", "#ff9457"),
    )  # fmt: skip
    settings = {
        "body_background_fill": paper, "body_text_color": ink, "body_text_color_subdued": quiet,
        "background_fill_primary": card, "background_fill_secondary": soft, "border_color_primary": line,
        "border_color_accent": accent, "color_accent_soft": soft, "block_background_fill": card,
        "block_border_color": line, "block_label_text_color": quiet, "block_title_text_color": quiet,
        "block_info_text_color": quiet, "input_background_fill": card, "input_border_color": line,
        "input_border_color_focus": accent, "slider_color": accent, "link_text_color": accent,
        "link_text_color_hover": accent, "link_text_color_visited": accent, "link_text_color_active": accent,
        "checkbox_background_color_selected": accent, "checkbox_border_color_selected": accent,
        "checkbox_label_background_fill": card, "checkbox_label_background_fill_selected": soft,
        "checkbox_label_text_color_selected": ink, "loader_color": accent,
    }  # fmt: skip
    colours = {name: light for name, (light, _) in settings.items()}
    colours |= {f"{name}_dark": dark for name, (_, dark) in settings.items()}
    base = gr.themes.Base(primary_hue="orange", neutral_hue="stone", font=sans, font_mono=mono, radius_size="md")
    return base.set(**colours, color_accent=accent[0], block_title_text_size="13px", block_shadow="none")
