"""The explorer without widgets and threads: what can be chosen, the maps of a choice, their pictures and their code."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from PIL import Image
from torch import Tensor, nn

from ... import METHODS, Explanation, Sweep, explain, rendering, sweep
from ...arguments import check_model
from ...loading import WholePhoto, load_image
from ...methods import Method, MethodError
from ...rendering import Display
from ..common import LayerChoice, Prediction, layer_choices, open_model, percentage, predictions

__all__ = ["GIVEN", "Choice", "ExplorerState"]

GIVEN = "given"
"""The class of a `Choice` that stands for the caller's target, where that is not a class."""


class Choice(NamedTuple):
    """What a map depends on.

    Attributes:
        layer: Name of a layer; None for a method that does not read one.
        method: Name of a method.
        target: Class index, or `GIVEN`; None for a method that does not depend on the class.
    """

    layer: str | None
    method: str
    target: int | str | None


class ExplorerState:
    """The choices that a model and an image offer, with their maps and pictures.

    Args:
        model: As for `grad_cam.explain`.
        image: As for `grad_cam.GradCAM`.
        layers: As for `grad_cam.sweep`.
        layer: Layer to begin with; None is the default of `grad_cam.explain`.
        target: Class index or name, or a target with one score; None is the predicted class.
        input_size: As for `grad_cam.GradCAM`.
        crop: As for `grad_cam.GradCAM`.
        reshape_transform: As for `grad_cam.explain`.

    Attributes:
        picture: What the model sees.
        whole: The whole photo, and how much of it the model sees.
        layers: The layers that carry a map, by name, shallow to deep.
        start: The choice to begin with.
        known: The explanations computed on opening.
        classes: All classes, the likeliest first.
        progress: Called by methods of many steps with the choice, the steps done and all steps; it may raise to stop.
    """

    def __init__(
        self,
        model: nn.Module,
        image: Any,
        *,
        layers: str | Sequence[int | str | nn.Module] = "auto",
        layer: SupportsIndex | str | nn.Module | None = None,
        target: Any = None,
        input_size: int | tuple[int, int] | None = None,
        crop: bool = True,
        reshape_transform: str | Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        check_model(model)
        opened = open_model(model, input_size=input_size, crop=crop)
        self._tensor: Tensor
        self.picture: Image.Image
        photo = load_image(image)
        self._tensor, self.picture = opened.prepare(photo)
        self.whole: WholePhoto = opened.prepare.whole(photo)
        self._model, self._layers, self._reshape = model, layers, reshape_transform
        self.progress: Callable[[Choice, int, int], None] = lambda choice, done, total: None
        self._image, self._input_size, self._crop, self._target = image, input_size, crop, target
        found = self._sweep("grad_cam", GIVEN)
        first = found[0]
        if first.map.ndim == 4:
            raise ValueError(
                f"target={target!r} gives {first.map.shape[1]} maps, the explorer shows one: give one class"
            )
        self.layers: dict[str, LayerChoice] = {layer.name: layer for layer in layer_choices(found)}
        self.classes: list[Prediction] = predictions(
            first.logits[0], opened.labels, first.logits.shape[-1], first.multi_label
        )
        self._by_index = {row.index: row for row in self.classes}
        self._given_name = first.target[0][0]
        is_class = target is None or isinstance(target, (int, str, np.integer))
        known = first.classes if is_class and self.classes else None
        self.start: Choice = Choice(self._named(layer), "grad_cam", GIVEN if known is None else int(known[0, 0]))
        self.known: dict[Choice, Explanation] = {self.start._replace(layer=one.layer.name): one for one in found}

    def _named(self, layer: SupportsIndex | str | nn.Module | None) -> str:
        """The name that the layer to begin with has on the slider."""
        found = explain(
            self._model, self._tensor, layer=layer, method="grad_cam", reshape_transform=self._reshape
        ).layer
        for choice in self.layers.values():
            if choice.name == found.name or (choice.layer_idx is not None and choice.layer_idx == found.layer_idx):
                return choice.name
        if layer is None:
            return list(self.layers)[-1]
        raise ValueError(
            f"'{found.name}' is not a layer of the slider ({', '.join(self.layers)}); give layers=['{found.name}', ...]"
        )

    # -- maps

    def canonical(self, choice: Choice) -> Choice:
        """The choice without what its method does not depend on."""
        method = METHODS[choice.method]
        layer = choice.layer if method.scope == "layer" else None
        return Choice(layer, method.name, choice.target if method.class_specific else None)

    def group(self, choice: Choice) -> Hashable:
        """The key of choices computed together: all but the layer where one backward pass serves all layers."""
        return choice._replace(layer=None) if _from_one_pass(METHODS[choice.method]) else choice

    def compute(self, choice: Choice) -> dict[Choice, Explanation]:
        """Explains a choice, and with it every other layer that costs nothing more."""
        method = METHODS[choice.method]
        if method.gives != "map":
            raise MethodError(
                f"{method.title} gives one map for each {method.gives.removesuffix('s')}, the explorer shows a single "
                f"one: grad_cam.explain(model, images, method={method.name!r}) gives them all"
            )
        if _from_one_pass(method):
            found = self._sweep(choice.method, choice.target)
            return {choice._replace(layer=one.layer.name): one for one in found}
        one = explain(
            self._model, self._tensor, layer=choice.layer, target=self._target_of(choice.target), method=choice.method,
            reshape_transform=self._reshape, progress=lambda done, total: self.progress(choice, done, total),
        )  # fmt: skip
        return {choice: one}

    def _sweep(self, method: str, target: int | str | None) -> Sweep:
        return sweep(
            self._model, self._tensor, layers=self._layers, target=self._target_of(target), method=method,
            reshape_transform=self._reshape,
        )  # fmt: skip

    def _target_of(self, target: int | str | None) -> Any:
        return self._target if target == GIVEN else target

    # -- what is shown

    def render(self, one: Explanation, display: Display, view: str = "overlay") -> Image.Image:
        """The picture of an explanation; `view` is "heatmap" or, for its overlay, anything else."""
        if view != "heatmap":
            display = display.showing([one.on_picture()])
            return display.overlay(self.picture, one.on_picture())
        return Image.fromarray(rendering.colorize(one.heatmap(display)[0], display.colormap))

    def label(self, target: int | str | None) -> str:
        """A class by name."""
        if target is None:
            return "whatever the class"
        return self._by_index[int(target)].label if target != GIVEN else self._given_name

    def percentage(self, target: int | str | None) -> str:
        """The probability of a class, empty where there is none."""
        return "" if target in (None, GIVEN) else percentage(self._by_index[int(target)].probability)

    def matching(self, search: str = "") -> list[tuple[str, int | str]]:
        """Labels and values of the classes whose name holds all the words or whose index it is, the likeliest first."""
        words = search.casefold().split()
        rows: list[tuple[str, int | str]] = [(self._given_name, GIVEN)] if self.start.target == GIVEN else []
        for place, row in enumerate(self.classes):
            if all(word in row.label.casefold() for word in words) or search.strip() == str(row.index):
                chance = f"  ·  {percentage(row.probability)}" if place < 5 else ""
                rows.append((row.label + chance, row.index))
        return rows

    def call(self, choice: Choice, display: Display) -> str:
        """Python that shows the same picture outside the explorer."""
        given = isinstance(self._image, (str, os.PathLike))
        words = ["model", repr(os.fspath(self._image)) if given else "image"]
        if choice.layer is not None:
            layer_idx = self.layers[choice.layer].layer_idx
            words.append(f"layer_idx={(choice.layer if layer_idx is None else layer_idx)!r}")
        if self._input_size is not None:
            words.append(f"input_size={self._input_size!r}")
        if not self._crop:
            words.append("crop=False")
        if choice.target is not None:
            words.append(f"class_idx={'target' if choice.target == GIVEN else choice.target}")
        words.append(f"method={choice.method!r}")
        usual = Display(smoothing=Display().sigma(self.picture.size[::-1]), colormap=rendering.COLORMAP)
        for name, value in dataclasses.asdict(display).items():
            shown, default = (round(v, 6) if isinstance(v, float) else v for v in (value, getattr(usual, name)))
            if shown != default:
                words.append(f"{name}={shown!r}")
        if self._reshape is not None:
            shown = repr(self._reshape) if isinstance(self._reshape, str) else "reshape_transform"
            words.append(f"reshape_transform={shown}")
        lines = ["cam = grad_cam.GradCAM("]
        for word in words:  # as many to a line as fit
            fits = len(lines) > 1 and len(lines[-1]) + len(word) + 2 <= 88
            lines = [*lines[:-1], f"{lines[-1]} {word},"] if fits else [*lines, f"    {word},"]
        return "\n".join([*lines, ")", "cam.imposing_visualization()"])


def _from_one_pass(method: Method) -> bool:
    """Whether the maps of all layers come from one backward pass and cheap sums."""
    return method.kind == "gradient" and method.one_pass
