"""What changes on the page: from the controls to texts and settings for its parts, without gradio."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from typing import Any

from ... import METHODS, rendering
from ..common import one_line
from . import fragments
from .drawing import Drawing
from .errors import Superseded
from .models import OpenedModel
from .uploads import Limits
from .views import OPTIONS, Controls, Progress, View, of_layer, option_defaults, view_for, with_evidence

__all__ = ["CHANGED", "evidence_update", "page_update", "redrawn"]

CHANGED = (
    "view", "notice", "headline", "predictions", "where", "advice", "seen", "layer", "layers", "methods", "along",
    "photo", "model", "position", "target", "method", "chosen", "smoothing", "evidence",
)  # fmt: skip
"""The parts of the page that `page_update` may change, besides "option 0", "option 1" and so on."""

_log = logging.getLogger(__name__)


def page_update(
    before: View | None,
    controls: Controls,
    settings: Mapping[str, Any],
    models: Callable[[str], OpenedModel],
    *,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """What changes on the page when the controls have changed; a text or a dict of settings for each part of it.

    `settings` are the values of the display controls, by name.
    An error becomes the notice, and the controls go back to what the page shows.
    """
    if before is not None and before.controls == controls:
        return {}
    try:
        view = view_for(controls, models(controls.model), before, limits=limits, progress=progress)
        return _changed(before, view, Drawing.of_controls(**settings))
    except (Superseded, CancelledError):  # cancelled: the model could not be loaded, and the page ends
        return {}
    except Exception as error:
        return {**_noticed(error, "the page could not answer %s", controls), **_restored(before, controls)}


def redrawn(view: View, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What changes on the page when only a display control has; what cannot be drawn becomes the notice."""
    try:
        return {"notice": "", **_pictures(view, Drawing.of_controls(**settings))}
    except Exception as error:
        return _noticed(error, "the page could not draw with %s", settings)


def _changed(before: View | None, view: View, drawing: Drawing) -> dict[str, Any]:
    """The parts of the page that show a new view."""
    controls, now = view.controls, None if before is None else before.controls
    parts: dict[str, Any] = {
        "view": view, "notice": "", "headline": fragments.headline(view), "advice": fragments.advice(controls.method),
        "predictions": fragments.prediction_bars(view), "where": fragments.layer(view),
    }  # fmt: skip
    new_model = before is None or before.opened is not view.opened
    if new_model:
        suits, last = round(rendering.default_smoothing(view.size), 1), len(view.opened.layers) - 1
        drawing = dataclasses.replace(drawing, smoothing=suits)
        parts["smoothing"] = {"value": suits, "maximum": 4 * suits}
        parts["position"] = {"value": controls.position, "maximum": max(last, 1), "interactive": last > 0}
    if new_model or now is None or now.photo != controls.photo:
        parts["seen"] = fragments.photo(view)
        parts["target"] = {"choices": fragments.classes(view), "value": view.target}
    if now is None or now.method != controls.method:
        for number, (name, default) in enumerate(option_defaults(controls.method).items()):
            parts[f"option {number}"] = {"label": name, "value": default, "visible": True}
        for number in range(len(option_defaults(controls.method)), OPTIONS):
            parts[f"option {number}"] = {"visible": False}
    methods = (controls.method, *(controls.chosen if controls.tab == "methods" else ()))
    parts["along"] = {"visible": any(map(of_layer, methods))}
    parts["evidence"] = {"visible": METHODS[controls.method].gives == "map" and view.target is not None}
    return {**parts, **_pictures(view, drawing)}


def evidence_update(view: View, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What changes on the page when the evidence for the map under the slider is computed; an error is the notice."""
    try:
        view = with_evidence(view)
        return {"view": view, "notice": "", **_pictures(view, Drawing.of_controls(**settings))}
    except Exception as error:
        return _noticed(error, "there is no evidence for %s", view.controls)


def _noticed(error: Exception, what: str, about: Any) -> dict[str, Any]:
    """The notice for an error; one that does not follow from the request is logged."""
    if not isinstance(error, (ValueError, TypeError, NotImplementedError)):
        _log.exception(what, about)
    return {"notice": fragments.notice(one_line(error))}


def _pictures(view: View, drawing: Drawing) -> dict[str, Any]:
    """The pictures of the visitor's tab, drawn from the maps that are there."""
    tab = view.controls.tab
    make = {"layer": fragments.result, "layers": fragments.layer_cards, "methods": fragments.method_cards}[tab]
    return {tab: make(view, drawing)}


def _restored(before: View | None, controls: Controls) -> dict[str, Any]:
    """The controls that differ from what the page shows, set back to it."""
    if before is None:
        return {}
    shown = before.controls._asdict()
    wrong = {name: shown[name] for name, value in controls._asdict().items() if shown[name] != value and name != "tab"}
    back: dict[str, Any] = {name: {"value": value} for name, value in wrong.items()}
    if "photo" in back:
        back["photo"] = shown["photo"]  # a state, which has no settings
    if "chosen" in back:
        back["chosen"] = {"value": list(shown["chosen"])}
    for number, value in enumerate(back.pop("options", {"value": ()})["value"]):
        back[f"option {number}"] = {"value": value}
    return back
