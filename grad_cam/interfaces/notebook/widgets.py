"""The explorer as widgets: `explore` makes an `Explorer`, which a notebook displays."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any, SupportsIndex

from torch import Tensor, nn

from ... import METHODS, Explanation, rendering
from ...errors import import_extra
from ...methods import MethodError, find
from ...rendering import Display
from . import markup
from .latest import LatestRequests, Outcome
from .state import Choice, ExplorerState

__all__ = ["Explorer", "explore"]


def explore(
    model: nn.Module,
    image: Any,
    *,
    layer: SupportsIndex | str | nn.Module | None = None,
    target: Any = None,
    method: str | None = None,
    layers: str | Sequence[int | str | nn.Module] = "auto",
    threshold: float = Display.threshold,
    smoothing: float | None = None,
    alpha: float = rendering.ALPHA,
    colormap: str = Display.colormap,
    input_size: int | tuple[int, int] | None = None,
    crop: bool = True,
    reshape_transform: str | Callable[[Tensor], Tensor] | None = None,
) -> Explorer:
    """Opens an explorer in a notebook: choose layer, method and class, and see the map over the picture.

    Layers, methods and classes are computed in the background, the latest choice is shown; threshold, smoothing,
    opacity and colours only redraw. The call that shows the same picture outside the explorer is written under it.

    Args:
        model: Any image classifier, or a `Chain` of one.
        image: A path, a PIL image or an array.
        layer: Layer to begin with: layer_idx, module path or module; None takes the default of `explain`.
        target: Class to begin with: index or name, or any target that gives one score per image; None is the predicted
            class.
        method: A name from `METHODS`; None is "auto", or Grad-CAM where a layer, layers or a layout are given.
        layers: What the slider offers, as for `sweep`: "auto" (the blocks where there are any, else the stages),
            "blocks", "stages" (top-level children), or a list of layers.
        threshold: Fraction of the maximum under which the heatmap is floored.
        smoothing: Gaussian sigma in pixels of the picture; None takes what suits its size.
        alpha: Opacity of the hottest spot.
        colormap: Any matplotlib colormap, or "bgr" (blue, green, red), the colours of `GradCAM`.
        input_size: Side length or (H, W) the picture is brought to; None takes the model's own.
        crop: False keeps the whole of the picture, padded, where the model's own way cuts off its sides.
        reshape_transform: Layout of the activations if it is not found by itself, as for `explain`.

    Returns:
        The explorer, which a notebook displays; its controls are attributes.

    Raises:
        ImportError: ipywidgets is not installed.
        ImageError: The picture cannot be read.
        ValueError: No layer carries a map, or a setting is out of range.
    """
    ipywidgets = import_extra("ipywidgets", "grad_cam.explore needs ipywidgets", "notebook")
    usual = "auto" if layer is None and reshape_transform is None and layers == "auto" else "grad_cam"
    entry = find(usual if method is None else method)
    if entry.gives != "map":
        raise MethodError(f"the explorer shows one map at a time, {entry.name} gives several: use grad_cam.explain")
    display = Display(threshold, smoothing, alpha, colormap)
    state = ExplorerState(
        model, image, layers=layers, layer=layer, target=target, input_size=input_size, crop=crop,
        reshape_transform=reshape_transform,
    )  # fmt: skip
    display.overlay(state.picture, [[1.0]])  # refuses a smoothing that exceeds the picture
    return Explorer(ipywidgets, state, entry.name, display)


class Stopped(Exception):  # noqa: N818  (not an error: the explorer was closed)
    """Stops a computation of a closed explorer."""


class Explorer:
    """The widgets of an explorer; made by `explore`, displayed by a notebook as the last line of a cell.

    Attributes:
        widget: The whole explorer, for `display` or your own layout.
        layer: Slider over the layers; its value is a layer's name.
        method: Picker of the method.
        search: Text that narrows the list of classes.
        target: List of classes, the likeliest first; its value is a class index.
        threshold: Slider, fraction of the maximum.
        smoothing: Slider, sigma in pixels.
        alpha: Slider, opacity.
        colormap: Picker.
        view: "overlay" (evidence for the class), "signed" (for and against) or "heatmap".
        picture: The picture as PNG.
    """

    def __init__(self, widgets: Any, state: ExplorerState, method: str, display: Display) -> None:
        self._state = state
        self._filtering = False
        self._target = state.start.target
        self._shown = (state.start, state.known[state.start])
        self._build(widgets, method, display)
        self._requests: LatestRequests[Choice, Explanation] = LatestRequests(state.compute, self._report, state.group)
        self._requests.store(state.known)
        state.progress = self._show_progress
        for control in (self.layer, self.method, self.target):
            control.observe(self._request, "value")
        for control in (self.threshold, self.smoothing, self.alpha, self.colormap, self.view):
            control.observe(self._draw, "value")
        self.search.observe(self._filter, "value")
        self._draw()
        self._request()

    # -- for the user

    @property
    def explanation(self) -> Explanation:
        """The frozen result that is shown."""
        return self._shown[1]

    @property
    def call(self) -> str:
        """Python that shows the same picture outside the explorer."""
        return self._state.call(self._shown[0], self._display)

    @property
    def busy(self) -> bool:
        """Whether the map of the choice is still computed."""
        return self._requests.busy

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the map of the choice is shown; False if that takes longer than `timeout` seconds."""
        return self._requests.wait(timeout)

    def close(self) -> None:
        """Ends the explorer: stops computations, forgets the maps and removes the widgets."""
        self._requests.close()
        _close(self.widget)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = self.widget._repr_mimebundle_(**kwargs)
        if bundle is not None:  # the picture is for viewers without a kernel
            bundle["image/png"] = base64.b64encode(self.picture.value).decode()
        return bundle

    # -- what follows a change of a control

    @property
    def _display(self) -> Display:
        view: Any = "signed" if self.view.value == "signed" else "positive"
        return Display(self.threshold.value, self.smoothing.value, self.alpha.value, self.colormap.value, view)

    def _request(self, _: Any = None) -> None:
        """Requests the map of the choice."""
        if self._filtering:
            return
        if self.target.value is not None:  # None: the chosen class is hidden by the search
            self._target = self.target.value
        method = METHODS[self.method.value]
        self.target.disabled = self.search.disabled = not method.class_specific
        self.layer.disabled = method.scope != "layer"
        layers = " Other methods, such as Grad-CAM, have layers to choose." if self.layer.disabled else ""
        self._advice.value = markup.quiet(method.advice + layers)
        self._requests.request(self._state.canonical(Choice(self.layer.value, method.name, self._target)))

    def _filter(self, _: Any = None) -> None:
        """Lists the classes that match the search; the chosen one stays chosen, whether it is among them or not."""
        rows = self._state.matching(self.search.value)
        self._filtering = True
        try:
            self.target.options = rows
            self.target.value = self._target if self._target in [value for _, value in rows] else None
        finally:
            self._filtering = False

    def _report(self, outcome: Outcome[Choice, Explanation]) -> None:
        """Shows the outcome of a request; runs in a thread of the pool or in the caller's."""
        if outcome.value is not None:
            self._shown = (outcome.key, outcome.value)
            self._draw()
            self._status.value = ""
            self._frame.remove_class("gradcam-busy")
        elif outcome.error is not None:
            self._status.value = markup.failed(outcome.key, outcome.error)
        else:
            self._status.value = markup.computing(outcome.key)
            self._frame.add_class("gradcam-busy")

    def _show_progress(self, choice: Choice, done: int, total: int) -> None:
        """Shows how much of a computation is done; stops it once the explorer is closed."""
        if self._requests.closed:
            raise Stopped
        with self._requests.lock:
            if choice == self._requests.wanted:
                self._status.value = markup.computing(choice, done / total)

    def _draw(self, _: Any = None) -> None:
        """Draws the map that is shown, with the settings of the display controls."""
        with self._requests.lock:  # the pool may draw, too
            choice, one = self._shown
            self.picture.value = rendering.png_bytes(self._state.render(one, self._display, self.view.value))
            self._caption.value = markup.caption(self._state, choice, one, self._display)
            self._code.value = markup.code(self.call)

    # -- layout

    def _build(self, widgets: Any, method: str, display: Display) -> None:
        """Makes the controls."""
        state = self._state
        named: dict[str, Any] = {"style": {"description_width": "78px"}, "layout": {"width": "auto"}}

        def slider(description: str, value: float, high: float, step: float, form: str) -> Any:
            return widgets.FloatSlider(
                value, min=0.0, max=high, step=step, description=description, readout_format=form, **named
            )

        layers, start = list(state.layers), state.start.layer
        self.layer: Any = widgets.SelectionSlider(options=layers, value=start, description="Layer", **named)
        titles = [(entry.title, name) for name, entry in METHODS.items()]
        self.method: Any = widgets.Dropdown(options=titles, value=method, description="Method", **named)
        self.search: Any = widgets.Text(placeholder="search by name or index", description="Class", **named)
        self.target: Any = widgets.Select(
            options=state.matching(), value=self._target, rows=6, description=" ", **named
        )
        size = (state.picture.height, state.picture.width)
        sigma, usual = display.sigma(size), rendering.default_smoothing(size)
        self.threshold: Any = slider("Threshold", display.threshold, max(0.95, display.threshold), 0.025, ".3f")
        # The page rounds to whole steps, so that the usual value has to be one.
        self.smoothing: Any = slider("Smoothing", sigma, max(sigma, 4 * usual), usual / 10, ".1f")
        self.alpha: Any = slider("Opacity", display.alpha, 1.0, 0.05, ".2f")
        colormaps = list(dict.fromkeys((*rendering.COLORMAPS, display.colormap)))
        self.colormap: Any = widgets.Dropdown(options=colormaps, value=display.colormap, description="Colours", **named)
        self.view: Any = widgets.ToggleButtons(
            options=[("Overlay", "overlay"), ("Signed", "signed"), ("Heatmap", "heatmap")],
            tooltips=["evidence for the class", "evidence for and against the class", "the colours alone"],
            style={"button_width": "92px"},
            layout={"margin": "4px 2px 2px 84px"},
        )
        self.picture: Any = widgets.Image(format="png", layout={"width": "100%", "margin": "0"})
        self._arrange(widgets)

    def _arrange(self, widgets: Any) -> None:
        """Puts the picture and its texts beside the controls, or above them where there is no room."""

        def text(**layout: str) -> Any:
            made = widgets.HTML(layout={"margin": "0 2px", **layout})
            made.add_class("gradcam-text")
            return made

        self._caption, self._status, self._code = text(), text(min_height="1.6em"), text()
        self._advice = text(margin="0 2px 6px 84px")
        self._frame = widgets.Box([self.picture], layout={"width": "100%", "margin": "0 0 6px"})
        self._frame.add_class("gradcam-picture")
        basis = min(max(self._state.picture.width, 320), 448)
        left = widgets.VBox(
            [self._frame, self._caption, self._status],
            layout={"flex": f"1 1 {basis}px", "max_width": "480px", "min_width": "260px"},
        )
        right = widgets.VBox(
            [self.layer, self.method, self._advice, self.search, self.target, self.threshold, self.smoothing,
             self.alpha, self.colormap, self.view],
            layout={"flex": "1 1 340px", "max_width": "480px", "min_width": "280px", "overflow": "visible"},
        )  # fmt: skip
        both = widgets.HBox([left, right], layout={"flex_flow": "row wrap", "grid_gap": "20px", "width": "100%"})
        style = widgets.HTML(markup.style(), layout={"height": "0", "margin": "0"})
        self.widget: Any = widgets.VBox([style, both, self._code], layout={"width": "100%"})
        self.widget.add_class("gradcam-explorer")


def _close(widget: Any) -> None:
    for child in getattr(widget, "children", ()):
        _close(child)
    widget.close()
