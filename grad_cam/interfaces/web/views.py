"""What one visitor looks at: the controls, and the maps that answer them."""

from __future__ import annotations

import dataclasses
import inspect
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ... import METHODS, evidence, explain, sweep
from ...loading import WholePhoto, class_index
from ..common import LayerChoice, one_line
from .errors import AppError
from .models import OpenedModel
from .uploads import Limits, read

__all__ = [
    "OPTIONS", "TABS", "Computed", "Controls", "Key", "Progress", "View", "checked_options", "of_layer",
    "option_defaults", "settled", "view_for", "with_evidence",
]  # fmt: skip

TABS = ("layer", "layers", "methods")
_UNSHOWN = ("chunk", "progress", "grid")  # options of a method that the page itself sets

Map = NDArray[np.float32]
Progress = Callable[[int, int], None]


class Controls(NamedTuple):
    """The values of the controls of the page."""

    photo: pathlib.Path
    model: str
    position: int
    target: int | str | None
    method: str
    chosen: tuple[str, ...]
    tab: str
    options: tuple[float | None, ...] = ()


class Key(NamedTuple):
    """What one result depends on, besides picture, model and class; `layer` is None where layers do not matter."""

    method: str
    layer: str | None
    options: tuple[float | None, ...]


class Computed(NamedTuple):
    """Raw signed maps (K, h, w), their targets, and what was taken and where; more than one are concepts."""

    maps: Map
    names: tuple[str, ...]
    taken: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """What one visitor looks at.

    Attributes:
        controls: The controls it answers, with every value in range and the class as an index.
        opened: The model.
        tensor: The picture as the model takes it, (1, C, H, W).
        seen: The picture as the model sees it, uint8 (H, W, 3).
        whole: The whole photo, and how much of it the model sees.
        notes: What is unusual about how its file was read.
        logits: (classes,).
        word: Name of the target.
        results: What is computed of this picture and class; a text gives the reason where there is no map.
        evidence: The evidence for those maps for which it was requested, as a sentence.
    """

    controls: Controls
    opened: OpenedModel
    tensor: torch.Tensor
    seen: NDArray[np.uint8]
    whole: WholePhoto = WholePhoto()
    notes: tuple[str, ...] = ()
    logits: NDArray[np.float32] = dataclasses.field(default_factory=lambda: np.zeros(0, np.float32))
    word: str = ""
    results: Mapping[Key, Computed | str] = dataclasses.field(default_factory=dict)
    evidence: Mapping[Key, str] = dataclasses.field(default_factory=dict)

    @property
    def layer(self) -> LayerChoice:
        return self.opened.layers[self.controls.position]

    @property
    def target(self) -> int | None:
        """Index of the class explained, or None where the model has none."""
        return self.controls.target  # type: ignore[return-value]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture."""
        return self.seen.shape[0], self.seen.shape[1]

    @property
    def place(self) -> str:
        """What the map is of: a layer, or all of the network."""
        return self.layer.name if of_layer(self.controls.method) else "the whole network"

    @property
    def result(self) -> Computed | str | None:
        """The result under the slider."""
        return self.result_of(self.controls.method, self.layer)

    def key(self, method: str, layer: LayerChoice) -> Key:
        """The key of a result; a method beside others has its default options."""
        own = method == self.controls.method
        options = self.controls.options if own else tuple(option_defaults(method).values())
        return Key(method, layer.name if of_layer(method) else None, options)

    def result_of(self, method: str, layer: LayerChoice) -> Computed | str | None:
        """The result of a method at a layer, if it is computed."""
        return self.results.get(self.key(method, layer))

    def keys(self) -> list[Key]:
        """The results that the visitor's tab shows; the first is the one under the slider."""
        method, chosen, tab = self.controls.method, self.controls.chosen, self.controls.tab
        keys = [self.key(method, self.layer)]
        if tab == "methods":
            keys += [self.key(one, self.layer) for one in chosen]
        if tab == "layers":
            keys += [self.key(method, layer) for layer in self.opened.layers]
        return list(dict.fromkeys(keys))

    def missing(self) -> list[Key]:
        """The keys of the tab that have no map yet."""
        return [key for key in self.keys() if not isinstance(self.results.get(key), Computed)]


def of_layer(method: str) -> bool:
    """Whether the map of a method depends on the layer."""
    return METHODS[method].scope == "layer"


def option_defaults(method: str) -> dict[str, float | None]:
    """The options of a method that the page offers: its numbers, None where the method chooses them itself."""
    numbers = {n: None if d is inspect.Parameter.empty else d for n, d in METHODS[method].options.items()}
    return {n: d for n, d in numbers.items() if n not in _UNSHOWN and (d is None or isinstance(d, (int, float)))}


OPTIONS = max(len(option_defaults(method)) for method in METHODS)
"""The largest number of options that a method has on the page."""


def checked_options(method: str, values: tuple[Any, ...]) -> tuple[float | None, ...]:
    """The options as the method takes them, its default in the place of an empty field.

    Raises:
        AppError: One is not a number, or so large that the server would be busy with it for long.
    """
    checked: list[float | None] = []
    for (name, default), value in zip(option_defaults(method).items(), values, strict=False):
        most = 10 * default if default else 1000
        if value in (None, ""):
            checked.append(default)
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
            raise AppError(f"{name}={str(value)[:20]} is not a number from 0 to {most:g}", remedy="change it")
        whole = float(value).is_integer() and not isinstance(default, float)
        if isinstance(default, int) and not whole:
            raise AppError(f"{name}={value} is not a whole number", remedy="change it")
        checked.append(int(value) if whole else float(value))
    return tuple(checked)


def settled(controls: Controls, opened: OpenedModel, before: View | None) -> Controls:
    """The controls as a view shows them: a new model starts at its usual layer, a new method with its own options.

    Raises:
        AppError: The page has no such tab or method, or an option is out of range.
    """
    if controls.tab not in TABS:
        raise AppError(f"the page has no tab {controls.tab!r}", remedy="load it again")
    for method in (controls.method, *controls.chosen):
        if method not in METHODS:
            raise AppError(f"the page has no method {method!r}", remedy=f"choose one of {', '.join(METHODS)}")
    position, target, options = opened.start, None, tuple(option_defaults(controls.method).values())
    if before is not None and before.opened is opened:
        position = min(max(controls.position, 0), len(opened.layers) - 1)
        if before.controls.photo == controls.photo:
            given = controls.target
            target = before.target if given in (None, "") else class_index(opened.model, given)
    if before is not None and before.controls.method == controls.method:
        options = checked_options(controls.method, controls.options)
    return controls._replace(position=position, target=target, options=options)


def view_for(
    controls: Controls,
    opened: OpenedModel,
    before: View | None = None,
    *,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> View:
    """Computes the view for the controls, reusing the results of the view before it.

    A new picture or model is explained for its predicted class, a new model at its usual layer.

    Args:
        controls: The controls.
        opened: The model they name.
        before: What the visitor saw until now.
        limits: For the picture.
        progress: Called with (done, total) by methods that take long.

    Raises:
        ValueError: A picture, class, method or layer that is not there or does not fit.
    """
    shown = settled(controls, opened, before)
    if before is not None and before.opened is opened and before.controls.photo == shown.photo:
        same = shown.target == before.target
        results, said = (before.results, before.evidence) if same else ({}, {})
        view = dataclasses.replace(before, controls=shown, results=results, evidence=said)
    else:
        photo, notes = read(shown.photo, limits or Limits())
        tensor, seen = opened.prepare(photo)
        view = View(shown, opened, tensor, np.asarray(seen), opened.prepare.whole(photo), notes)
    return compute_missing_maps(view, progress)


def with_evidence(view: View) -> View:
    """A view with the evidence for the map under the slider, from 40 forward passes and one for the target.

    Raises:
        ValueError: There is no map of a class to ask about.
    """
    key, found = view.key(view.controls.method, view.layer), view.result
    if key in view.evidence:
        return view
    if not isinstance(found, Computed) or len(found.maps) > 1 or view.target is None:
        raise AppError("the model can only be asked about one map of one class", remedy="choose another method")
    model = view.opened.model
    result = explain(model, view.tensor, target=view.target, layer=view.layer.name, method="random_cam")
    result = dataclasses.replace(result, map=torch.from_numpy(found.maps))  # (1,h,w)
    return dataclasses.replace(view, evidence={**view.evidence, key: str(evidence(model, result))})


def compute_missing_maps(view: View, progress: Progress | None = None) -> View:
    """Computes the maps that a view lacks: all layers at once where one pass gives them, else those that are shown.

    Raises:
        ValueError: The map under the slider cannot be computed. For the others, the reason takes the map's place.
    """
    first = view.keys()[0]
    for key in view.missing():
        if isinstance(view.results.get(key), Computed):  # it came with another one
            continue
        try:
            if progress is not None and not METHODS[key.method].quick:
                progress(0, 1)  # the visitor may have left while the map before was computed
            view = _computed(view, key, progress)
        except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
            if key == first:
                raise
            view = dataclasses.replace(view, results={**view.results, key: one_line(error)})
    return view


def _computed(view: View, key: Key, progress: Progress | None) -> View:
    """A view with one more result, or with those of all layers where they cost nothing more."""
    entry, model = METHODS[key.method], view.opened.model
    options: dict[str, Any] = dict(zip(option_defaults(key.method), key.options, strict=True))
    if entry.one_pass and entry.gives == "map":
        found = list(sweep(model, view.tensor, target=view.target, method=key.method, **options))
        keys = [key._replace(layer=one.layer.name) for one in found]
    else:
        where: dict[str, Any] = {} if key.layer is None else {"layer": key.layer}
        given: dict[str, Any] = {"target": view.target, "method": key.method, "progress": progress}
        found, keys = [explain(model, view.tensor, **given, **where, **options)], [key]
    several = range(len(found[0].target[0]))
    maps = [np.stack([one.on_picture(0, k) for k in several]).astype(np.float32) for one in found]  # (K,h,w)
    names = [tuple(one.target[0]) for one in found]
    taken = [one.title().partition("\n")[2] for one in found]
    results = dict(zip(keys, map(Computed, maps, names, taken), strict=True))
    logits = found[0].logits.detach().float().cpu().numpy().reshape(len(found[0].logits), -1)[0]
    target, word = view.target, view.word
    if found[0].classes is not None:
        target, word = int(found[0].classes.flatten()[0]), names[0][0]
    elif entry.gives == "map":
        word = names[0][0]
    elif target is None and logits.size > 1:
        target = int(logits.argmax())
        word = view.opened.label(target)
    controls = view.controls._replace(target=target)
    return dataclasses.replace(view, controls=controls, results={**view.results, **results}, word=word, logits=logits)
