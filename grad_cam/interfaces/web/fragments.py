"""The parts of the page as HTML, made from a view; the templates are in `templates/page.html`."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2
import torch
from PIL import Image

from ... import METHODS, metrics, rendering
from ...loading import load_image, samples
from ...rendering import data_uri
from ..common import Prediction, percentage, predictions, probabilities, slug
from .drawing import Drawing, npy_uri, number
from .views import Computed, View, of_layer

__all__ = [
    "advice", "classes", "headline", "layer", "layer_cards", "method_cards", "notice", "photo", "prediction_bars",
    "result", "sample_buttons", "starting",
]  # fmt: skip

TOP = 5  # classes with a bar
LISTED = 1000  # classes to choose from; a model with more offers its likeliest
_OWN_SCALES = "Every picture has a scale of its own."
NUMBERS = 16  # largest side of a map whose values are listed
_FOLDERS = re.compile(r"""(?<![\w.:/\\])(?:[A-Za-z]:)?[\\/](?:[^\s'"/\\]+[\\/])+""")  # of a path from the root


@functools.cache
def _templates() -> Any:
    loader = jinja2.PackageLoader(__package__)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.get_template("page.html").module


def _html(macro: str, *values: Any) -> str:
    """A part of the page, by its macro; every value is escaped."""
    return str(getattr(_templates(), macro)(*values)).strip()


class Card(NamedTuple):
    """One picture of many; `lack` is the reason if there is none, `pick` is what a click on it chooses."""

    title: str
    src: str = ""
    alt: str = ""
    about: Sequence[str] = ()
    pick: str = ""
    current: bool = False
    lack: str = ""


def starting(model: str) -> str:
    """What is shown in place of the first picture while the model is loading."""
    return _html("starting", model)


def notice(message: str) -> str:
    """A message above the pictures, without the folders of the server; nothing for an empty one."""
    return _html("notice", _FOLDERS.sub("", message))


def sample_buttons() -> str:
    """The photos that come with the package; a click chooses one."""
    return _html("samples", _thumbnails())


@functools.cache
def _thumbnails() -> tuple[tuple[str, str], ...]:
    found = []
    for name, path in samples().items():
        small = load_image(path)
        side = min(small.size)
        left, top = (small.width - side) // 2, (small.height - side) // 2
        small = small.crop((left, top, left + side, top + side)).resize((160, 160), Image.Resampling.LANCZOS)
        found.append((name, data_uri(small, "jpeg")))
    return tuple(found)


def advice(method: str) -> str:
    """What a method is good for, and where it comes from."""
    return _html("method", METHODS[method])


def photo(view: View) -> str:
    """The picture as the model sees it, and the whole photo where that is more."""
    height, width = view.size
    name, (whole, used) = view.controls.photo.stem, view.whole
    around = "" if whole is None else data_uri(whole, "jpeg")
    return _html("photo", data_uri(Image.fromarray(view.seen), "jpeg"), name, width, height, around, used, view.notes)


def headline(view: View) -> str:
    """What is explained, by which method, where."""
    sure = view.target is not None and view.logits.size > 1
    chance = percentage(float(probabilities(view.logits, view.opened.multi_label)[view.target])) if sure else ""
    method = view.controls.method
    found = view.result
    taken = found.taken if method == "auto" and isinstance(found, Computed) else ""
    layer = view.layer if of_layer(method) else None
    return _html("headline", view.word, chance, METHODS[method].title, layer, taken)


def layer(view: View) -> str:
    """Under the slider: where it is, between the first layer and the last."""
    return _html("layer", view.opened.layers, view.controls.position)


def prediction_bars(view: View) -> str:
    """The likeliest classes as bars; a click chooses one."""
    rows = _guesses(view, len(view.logits))
    shown = [row for i, row in enumerate(rows) if i < TOP or row.index == view.target]
    bars = [vars(row) | {"percentage": percentage(row.probability)} for row in shown]
    return _html("predictions", bars, view.target)


def classes(view: View) -> list[tuple[str, int]]:
    """The classes to choose from, likeliest first."""
    return [(f"{row.label} ({row.index})", row.index) for row in _guesses(view, LISTED)]


def _guesses(view: View, count: int) -> list[Prediction]:
    return predictions(view.logits, view.opened.labels, count, view.opened.multi_label)


def result(view: View, drawing: Drawing) -> str:
    """The map under the slider over the picture, with its colour scale, its numbers and the downloads; or concepts."""
    found, method = view.result, view.controls.method
    if not isinstance(found, Computed):  # cannot happen after `view_for`
        return _lack(found)
    if len(found.maps) > 1:
        cards = [
            Card(name, data_uri(drawing.picture(view.seen, map)), name)
            for map, name in zip(found.maps, found.names, strict=True)
        ]
        return _html("cards", cards, "Each concept is named after the class that the model gives to it alone.")
    map, asked = found.maps[0], drawing
    drawing = asked.showing([map])
    note, title = _nothing(rendering.describe(map)), METHODS[method].title
    instead = f"nothing speaks for {view.word}" + ("" if drawing is asked else "; blue is what speaks against it")
    height, width = map.shape
    facts = f"Raw map of {height} × {width} values from {number(map.min())} to {number(map.max())}"
    rows = [[number(value) for value in row] for row in map.tolist()] if max(map.shape) <= NUMBERS else []
    file = "-".join(slug(part, 40) for part in (view.controls.photo.stem, view.word, method, view.place))
    return _html("picture",
        data_uri(drawing.picture(view.seen, map)), f"{title} for {view.word} at {view.place}, over the picture",
        drawing.ramp(), *drawing.ends(map, view.size), facts, rows, f"{file}.png", f"{file}.npy", npy_uri(map),
        f"This map is {note}: {instead}." if note else "",
        view.evidence.get(view.key(method, view.layer), ""),
    )  # fmt: skip


def method_cards(view: View, drawing: Drawing) -> str:
    """The chosen methods side by side, at one layer."""
    cards = []
    for method in view.controls.chosen:
        entry = METHODS[method]
        same = ["class"] * (not entry.class_specific) + ["layer"] * (not of_layer(method))
        about = [f"{entry.source}; the same for every {' and '.join(same)}" if same else entry.source]
        current = method == view.controls.method
        cards.append(_card(view, view.result_of(method, view.layer), drawing, entry.title, about, method, current))
    return _html("cards", cards, _OWN_SCALES if cards else "Choose one or more methods.")


def layer_cards(view: View, drawing: Drawing) -> str:
    """The sweep: every layer that carries a map, from the picture to the logits."""
    method, position = view.controls.method, view.controls.position
    if not of_layer(method):
        card = _card(view, view.result, drawing, view.place, (), str(position), True)
        said = f"{METHODS[method].title} has one map for all layers; Grad-CAM, for example, has one of each."
        return _html("cards", [card], said)
    results = [view.result_of(method, layer) for layer in view.opened.layers]
    last, cards = results[-1], []
    for i, (layer, found) in enumerate(zip(view.opened.layers, results, strict=True)):
        about = [layer.size]
        if isinstance(found, Computed) and isinstance(last, Computed):
            maps = torch.from_numpy(found.maps[0]), torch.from_numpy(last.maps[0])
            agreement = metrics.agreement(*maps)
            about += [] if math.isnan(agreement) else [f"{agreement:.2f}".replace("-", "−")]
        cards.append(_card(view, found, drawing, layer.name, about, str(i), i == position))
    said = "From shallow to deep. The number at the right is the agreement with the last layer's map, a correlation."
    return _html("cards", cards, f"{said} A click moves the slider. {_OWN_SCALES}") + _html(
        "skipped", view.opened.skipped
    )


def _card(
    view: View,
    found: Computed | str | None,
    drawing: Drawing,
    title: str,
    about: Sequence[str],
    pick: str,
    current: bool,
) -> Card:
    """The card of a result: its picture, or why there is none."""
    if isinstance(found, Computed) and len(found.maps) > 1:
        found = "several maps, one for each concept: they are shown on the tab of one layer"
    if not isinstance(found, Computed):
        return Card(title, lack=_FOLDERS.sub("", found or "not computed yet"))
    map = found.maps[0]
    note = _nothing(rendering.describe(map))
    src = data_uri(drawing.showing([map]).picture(view.seen, map), "jpeg")
    return Card(title, src, f"{title}, {view.word}", [note] if note else about, pick, current)


def _lack(reason: str | None) -> str:
    return _html("lack", _FOLDERS.sub("", reason or "not computed yet"))


def _nothing(note: str | None) -> str:
    """The note of a map without evidence for the class."""
    return note if note in ("all zero", "all negative", "nowhere positive") else ""
