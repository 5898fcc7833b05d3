"""An explorer for notebooks: sliders and pickers over one picture and one model.

Three parts, the first two without a browser or a widget in them: `LastWins` computes in the background what was asked
for last; `Explorer` knows the layers, methods and classes of a model and draws the picture of a choice; `Inspector`
joins both to ipywidgets. `inspect` makes one.
"""

from __future__ import annotations

import atexit
import html
import io
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from inspect import signature
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from .. import rendering
from ..arguments import as_layer, check_model
from ..engine import explain, sweep
from ..introspection import unwrap
from ..loading import class_names, load_image, preprocessing
from ..methods import METHODS, Method, find
from ..results import Explanation
from ..splitting import Chain, chain
from ..splitting.cuts import BLOCKS

__all__ = ["Choice", "Display", "Explorer", "Inspector", "LastWins", "inspect"]

COLORMAPS = (rendering.COLORMAP, "turbo", "viridis", "inferno", "magma", "cividis", "gray")
THRESHOLD = 1 / 8
"""The threshold `grad_cam.GradCAM` and the explorer begin with."""

GIVEN = "given"
"""The class of a `Choice` that stands for the target the caller gave, where that is not a class."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


# ------------------------------------------------------------------------------------------------------- in background


class Outcome(NamedTuple, Generic[K, V]):
    """What `LastWins` tells: `status` is "busy", "ready" (with a value) or "failed" (with an error)."""

    status: str
    key: K
    value: V | None = None
    error: Exception | None = None


class LastWins(Generic[K, V]):
    """Computes in the background what was asked for last, and remembers what it has computed.

    A newer request does not stop a computation that has begun, nor does it queue behind it: a second thread takes it
    up. What comes too late is only remembered. Threads live as long as there is something to compute; at the end of the
    process they are closed, since a thread that computes while the interpreter is taken down ends it with an abort.

    Args:
        compute: From a key to a mapping with its value, and with any others that came on the way.
        tell: Called with every `Outcome`, in the thread it arises in and never by two threads at once.
        group: Keys of one group are computed together, so that asking for one while another is under way means waiting
            for it.
        keep: Number of values remembered.

    Attributes:
        stopping: Set when it is closed, for computations that can stop in between.
    """

    THREADS = 2

    def __init__(
        self,
        compute: Callable[[K], Mapping[K, V]],
        tell: Callable[[Outcome[K, V]], None],
        group: Callable[[K], Hashable] = lambda key: key,
        keep: int = 256,
    ) -> None:
        self.lock = threading.RLock()
        self._compute, self._tell, self._group, self._keep = compute, tell, group, keep
        self._changed = threading.Condition(self.lock)
        self._values: OrderedDict[K, V] = OrderedDict()
        self._wanted: K | None = None
        self._under_way: set[Hashable] = set()
        self._threads: set[threading.Thread] = set()
        self._closed = False
        self.stopping = threading.Event()
        _OPEN.add(self)

    @property
    def busy(self) -> bool:
        """Whether the last request is still open."""
        with self.lock:
            return self._wanted is not None

    def ask(self, key: K) -> None:
        """Asks for a value: told at once if it is known, otherwise "busy" now and the rest later."""
        with self.lock:
            if self._closed:
                return
            if key in self._values:
                self._values.move_to_end(key)
                self._settle(Outcome("ready", key, self._values[key]))
                return
            self._wanted = key
            self._tell(Outcome("busy", key))
            self._start(key)

    def ahead(self, key: K) -> None:
        """Computes a value that may be asked for soon; nothing is told of it."""
        with self.lock:
            if not self._closed and key not in self._values:
                self._start(key)

    def put(self, values: Mapping[K, V]) -> None:
        """Remembers values."""
        with self.lock:
            self._values.update(values)
            while len(self._values) > self._keep:
                self._values.popitem(last=False)

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until nothing is asked for any more; False if that takes longer than `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._wanted is None, timeout)

    def close(self, timeout: float | None = None) -> bool:
        """Forgets everything and waits until nothing is computed any more; results of what still is are discarded.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether nothing is computed any more.
        """
        self.stopping.set()
        with self._changed:
            self._closed, self._wanted = True, None
            self._values.clear()
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._threads - {threading.current_thread()}, timeout)

    def _start(self, key: K) -> None:
        if self._group(key) not in self._under_way and len(self._under_way) < self.THREADS:
            self._under_way.add(self._group(key))
            thread = threading.Thread(target=self._run, args=(key,), name="grad_cam.inspect", daemon=True)
            self._threads.add(thread)
            thread.start()

    def _run(self, key: K) -> None:
        following: K | None = key
        try:
            while following is not None:
                following = self._once(following)
        finally:
            with self._changed:
                self._threads.discard(threading.current_thread())
                self._changed.notify_all()

    def _once(self, key: K) -> K | None:
        """Computes one key; gives the one to compute next, if it is for this thread to do."""
        found: Mapping[K, V] = {}
        error: Exception | None = None
        try:
            found = self._compute(key)
        except Exception as problem:  # whatever it is: it is told where the value would have been
            error = problem
        with self.lock:
            self._under_way.discard(self._group(key))
            if self._closed:
                return None
            self.put(found)
            wanted = self._wanted
            if wanted is None:
                return None
            if wanted in self._values:
                self._settle(Outcome("ready", wanted, self._values[wanted]))
            elif error is not None and self._group(wanted) == self._group(key):
                self._settle(Outcome("failed", wanted, error=error))
            elif self._group(wanted) not in self._under_way:
                self._under_way.add(self._group(wanted))
                return wanted
            return None

    def _settle(self, outcome: Outcome[K, V]) -> None:
        self._wanted = None
        try:
            self._tell(outcome)
        finally:
            self._changed.notify_all()


_OPEN: weakref.WeakSet[LastWins[Any, Any]] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for worker in list(_OPEN):
        worker.close()


class Stopped(Exception):  # noqa: N818  (not an error: the explorer was closed)
    """Ends a computation whose result is not wanted any more."""


# ------------------------------------------------------------------------------------------------------------- choices


class Choice(NamedTuple):
    """What has to be computed: a layer by its name, a method, a class by its index or the caller's target (`GIVEN`).

    A method that knows no classes has None in the place of the class.
    """

    layer: str
    method: str
    target: int | str | None


class Display(NamedTuple):
    """How it is shown; changing it computes nothing."""

    threshold: float
    smoothing: float
    alpha: float
    colormap: str
    view: str = "overlay"


class Cut(NamedTuple):
    """A layer one can choose: its name, module type and grid, and its layer_idx if it ends a top-level stage."""

    name: str
    type: str
    grid: tuple[int, int] | None
    layer_idx: int | None


class Explorer:
    """The choices a model and a picture offer, the maps behind them and their pictures; no widgets, no threads.

    Args:
        model: As for `grad_cam.explain`.
        image: As for `grad_cam.GradCAM`.
        layers: "auto" (the blocks where there are any, else the stages), "blocks", "stages", or a list of layers.
        target: Class index or name, or a target with one score; None is the predicted class.
        input_size: As for `grad_cam.GradCAM`.
        reshape_transform: As for `grad_cam.explain`.

    Attributes:
        picture: What the model sees.
        cuts: The layers that carry a map, shallow to deep.
        skipped: The names of the others, with the reason.
        classes: Class indices, most probable first.
        probabilities: By class index; None if the output is not a list of classes.
        target: The class, or `GIVEN`, to begin with.
        first: The explanation that was made to learn this.
        stopping: Once set, methods of many steps stop at the next one.
    """

    def __init__(
        self,
        model: nn.Module,
        image: Any,
        *,
        layers: str | Sequence[int | str | nn.Module] = "auto",
        layer: int | str | nn.Module | None = None,
        target: Any = None,
        input_size: int | tuple[int, int] | None = None,
        reshape_transform: str | Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        check_model(model)
        inner = unwrap(model.model if isinstance(model, Chain) else model)
        prepare = preprocessing(inner, input_size)
        self.picture: Image.Image = prepare.view(load_image(image))
        self._tensor: Tensor = prepare.tensor(self.picture)
        self._image, self._input_size, self._reshape = image, input_size, reshape_transform
        self.stopping = threading.Event()
        size = (self.picture.height, self.picture.width)
        if isinstance(model, Chain):  # its own stages are what it counts
            self._stages = self._links = model if model.size == size else chain(inner, size, depth=model.depth)
        else:
            self._stages = chain(inner, size)
            self._links = self._stages if layers == "stages" else chain(inner, size, depth=BLOCKS)
        self._given = target
        try:
            self.cuts, self.skipped = self._offered(
                "blocks" if isinstance(layers, str) and layers == "auto" else layers
            )
        except ValueError:
            if layers != "auto":
                raise
            self._links = self._stages
            self.cuts, self.skipped = self._offered("stages")
        self.start = self._place(layer)
        self.names = class_names(inner)
        self.first = self._explained(Choice(self.cuts[self.start].name, "grad_cam", GIVEN))
        self._learn()

    def _learn(self) -> None:
        """Classes and their probabilities, from the first explanation."""
        logits = self.first.logits.float().cpu()  # (1,classes)
        self.classes: list[int] = []
        self.probabilities: NDArray[np.float32] | None = None
        if logits.ndim == 2 and logits.shape[1] > 1:
            self.classes = logits[0].argsort(descending=True).tolist()
            self.probabilities = logits[0].softmax(-1).numpy()
        elif logits.ndim == 2:
            self.classes = [0]
        plain = self._given is None or isinstance(self._given, (int, str, np.integer))
        known = self.first.classes is not None and bool(self.classes)
        self.target: int | str = int(self.first.classes[0, 0]) if plain and known else GIVEN  # type: ignore[index]
        self.given_name = self.first.target[0][0]

    # -- layers

    def _offered(self, layers: str | Sequence[int | str | nn.Module]) -> tuple[list[Cut], list[tuple[str, str]]]:
        links = self._links
        if not isinstance(layers, str):
            if not layers:
                raise ValueError("layers=[] names no layer: give at least one")
            return [self._cut_of(layer) for layer in layers], []
        if layers not in ("blocks", "stages"):
            raise ValueError(f'layers={layers!r}: give "auto", "blocks", "stages" or a list of layers')
        ends = self._ends()
        cuts, skipped = [], []
        for stage, module in zip(links.stages[:-1], links, strict=False):
            if stage.layout is None and self._reshape is None or stage.note:
                skipped.append((stage.name, stage.note))
            elif not (cuts and isinstance(module, (nn.Identity, nn.Dropout))):  # these have the map of the cut before
                grid = stage.layout.grid if stage.layout else None
                cuts.append(Cut(stage.name, stage.type, grid, ends.get(stage.name)))
        if not cuts:
            why = "; ".join(f"{name}: {note}" for name, note in skipped)
            raise ValueError(f"no layer of {type(links.model).__name__} carries a map ({why or 'it has one stage'})")
        return cuts, skipped

    def _ends(self) -> dict[str, int]:
        """Where top-level stages end in the opened chain: name to layer_idx."""
        ends: dict[str, int] = {}
        for stage in self._stages.stages:
            inside = [n for n in self._links.names if n == stage.name or n.startswith(stage.name + ".")]
            if inside:
                ends[inside[-1]] = stage.layer_idx
        return ends

    def _cut_of(self, layer: int | str | nn.Module) -> Cut:
        layer = as_layer(layer)
        cut = (self._stages if isinstance(layer, int) else self._links).split(layer)
        if cut.layout is None and self._reshape is None:
            raise ValueError(f"no map can be drawn after '{cut.name}': {cut.note}; choose another layer")
        names = dict(self._links.model.named_modules())
        kind = type(names[cut.name]).__name__ if cut.name in names else ""
        return Cut(cut.name, kind, cut.layout.grid if cut.layout else None, self._ends().get(cut.name, None))

    def _place(self, layer: int | str | nn.Module | None) -> int:
        """The place in `cuts` of the layer to begin with."""
        names = [cut.name for cut in self.cuts]
        if layer is None:
            name = self._links.default_split().name
            return names.index(name) if name in names else len(names) - 1
        name = self._cut_of(layer).name
        ends = {stage.name: i for i, cut in enumerate(self.cuts) for stage in self._stages.stages
                if stage.layer_idx == cut.layer_idx}  # fmt: skip
        if name in names:
            return names.index(name)
        if name in ends:
            return ends[name]
        raise ValueError(f"'{name}' is not a layer of the slider ({', '.join(names)}); give layers=['{name}', ...]")

    # -- maps

    def normal(self, choice: Choice) -> Choice:
        """The choice without what makes no difference: some methods know no class, others no layer."""
        entry = METHODS[choice.method]
        if not entry.class_specific:
            choice = choice._replace(target=None)
        return choice if layered(entry) else choice._replace(layer=self.cuts[self._place(None)].name)

    def group(self, choice: Choice) -> Hashable:
        """Choices computed together: all layers, where one backward pass serves them all."""
        return choice[1:] if _sweeps(METHODS[choice.method]) else choice

    def compute(self, choice: Choice) -> dict[Choice, Explanation]:
        """Explains a choice, and with it every other layer that costs nothing more."""
        names = [cut.name for cut in self.cuts]
        if not (_sweeps(METHODS[choice.method]) and set(names) <= set(self._links.names)):
            return {choice: self._explained(choice)}
        found = sweep(
            self._links, self._tensor, layers=names, target=self._target(choice), method=choice.method,
            reshape_transform=self._reshape,
        )  # fmt: skip
        return {choice._replace(layer=one.layer.name): one for one in found}

    def _explained(self, choice: Choice) -> Explanation:
        def step(done: int, total: int) -> None:
            if self.stopping.is_set():
                raise Stopped

        steps = "progress" in signature(METHODS[choice.method].function).parameters
        one = explain(
            self._links, self._tensor, layer=choice.layer, target=self._target(choice), method=choice.method,
            reshape_transform=self._reshape, **({"progress": step} if steps else {}),
        )  # fmt: skip
        assert isinstance(one, Explanation)
        if one.map.ndim == 4:
            count = one.map.shape[1]
            raise ValueError(f"target={self._given!r} gives {count} maps, and the explorer shows one: give one class")
        return one

    def _target(self, choice: Choice) -> Any:
        return self._given if choice.target == GIVEN else choice.target

    # -- what is shown

    def render(self, one: Explanation, display: Display) -> Image.Image:
        """The picture of an explanation."""
        size = (self.picture.height, self.picture.width)
        heat = rendering.heatmap(one.map[0].float().cpu(), size, display.threshold, display.smoothing)
        if display.view == "heatmap":
            return Image.fromarray(rendering.colorize(heat, display.colormap))
        return rendering.overlay(self.picture, heat, alpha=display.alpha, colormap=display.colormap)

    def note(self, one: Explanation) -> str | None:
        """What is unusual about a map, or None."""
        return rendering.describe(one.map[0].float().cpu())

    def class_label(self, index: int | str) -> str:
        """A class in words."""
        if index == GIVEN:
            return self.given_name
        known = self.names is not None and int(index) < len(self.names)
        return self.names[int(index)] if known else f"class {index}"  # type: ignore[index]

    def percent(self, index: int | str) -> str:
        """The probability of a class in words, empty where there is none."""
        if self.probabilities is None or index == GIVEN:
            return ""
        value = 100 * float(self.probabilities[int(index)])
        return f"{value:.0f} %" if value >= 0.5 else "< 1 %"

    def found(self, words: str = "") -> list[tuple[str, int | str]]:
        """The classes whose name holds all the words, or whose index they are: labels and values, likeliest first."""
        wanted = words.casefold().split()
        rows: list[tuple[str, int | str]] = [(self.given_name, GIVEN)] if self.target == GIVEN else []
        for place, index in enumerate(self.classes):
            label = self.class_label(index)
            if all(word in label.casefold() for word in wanted) or words.strip() == str(index):
                percent = self.percent(index) if place < 5 else ""
                rows.append((f"{label}  ·  {percent}" if percent else label, index))
        return rows

    def cut(self, name: str) -> Cut:
        """The layer of a name."""
        return next(cut for cut in self.cuts if cut.name == name)

    def call(self, choice: Choice, display: Display) -> str:
        """Python that shows the picture outside the explorer."""
        cut = self.cut(choice.layer)
        layer = cut.layer_idx if cut.layer_idx is not None else cut.name
        image = repr(os.fspath(self._image)) if isinstance(self._image, (str, os.PathLike)) else "image"
        words = ["model", image]
        if layered(METHODS[choice.method]):
            words.append(f"layer_idx={layer!r}")
        if self._input_size is not None:
            words.append(f"input_size={self._input_size!r}")
        if choice.target is not None:
            words.append(f"class_idx={'target' if choice.target == GIVEN else choice.target}")
        words.append(f"method={choice.method!r}")
        usual = rendering.default_smoothing((self.picture.height, self.picture.width))
        defaults = Display(THRESHOLD, usual, rendering.ALPHA, rendering.COLORMAP)
        for name in ("threshold", "smoothing", "alpha", "colormap"):
            value = getattr(display, name)
            if value != getattr(defaults, name):
                words.append(f"{name}={round(value, 6) if isinstance(value, float) else value!r}")
        if self._reshape is not None:
            named = repr(self._reshape) if isinstance(self._reshape, str) else "reshape_transform"
            words.append(f"reshape_transform={named}")
        lines = ["cam = grad_cam.GradCAM("]
        for word in words:  # as many to a line as fit
            fits = len(lines) > 1 and len(lines[-1]) + len(word) + 2 <= 88
            lines = [*lines[:-1], f"{lines[-1]} {word},"] if fits else [*lines, f"    {word},"]
        return "\n".join([*lines, ")", "cam.imposing_visualization()"])


def layered(method: Method) -> bool:
    """Whether the layer makes a difference."""
    return method.needs not in ("images", "attention", "block_attention", "network")


def _sweeps(method: Method) -> bool:
    """Whether the maps of all layers come from one backward pass and cheap sums."""
    return method.kind == "gradient" and method.needs == "gradients"


# ------------------------------------------------------------------------------------------------------------- widgets


def inspect(
    model: nn.Module,
    image: Any,
    *,
    layer: int | str | nn.Module | None = None,
    target: Any = None,
    method: str = "grad_cam",
    layers: str | Sequence[int | str | nn.Module] = "auto",
    threshold: float = THRESHOLD,
    smoothing: float | None = None,
    alpha: float = rendering.ALPHA,
    colormap: str = rendering.COLORMAP,
    input_size: int | tuple[int, int] | None = None,
    reshape_transform: str | Callable[[Tensor], Tensor] | None = None,
) -> Inspector:
    """Opens an explorer in a notebook: choose layer, method and class, and see the map over the picture.

    Layers, methods and classes are computed in the background, the last choice wins; threshold, smoothing, opacity and
    colours only redraw. The call that shows the same picture outside the explorer is written under it.

    Args:
        model: Any image classifier, or a `Chain` of one.
        image: A path, a PIL image or an array.
        layer: Where to begin: layer_idx, module path or module; None takes the last layer with a map.
        target: What to begin with: class index or name, or any target that gives one score per image; None is the
            predicted class.
        method: A name from `METHODS`.
        layers: What the slider offers: "auto" (the blocks where there are any, else the stages), "blocks", "stages"
            (top-level children), or a list of layers.
        threshold: Fraction of the maximum under which the heatmap is floored.
        smoothing: Gaussian sigma in pixels of the picture; None takes what suits its size.
        alpha: Opacity of the hottest spot.
        colormap: "bgr" or any matplotlib colormap.
        input_size: Side length or (H, W) the picture is brought to; None takes the model's own.
        reshape_transform: Layout of the activations if it is not found by itself, as for `explain`.

    Returns:
        The explorer, which a notebook displays; its controls are attributes.

    Raises:
        ImportError: ipywidgets is not installed.
        ImageError: The picture cannot be read.
        ValueError: No layer carries a map, or a setting is out of range.
    """
    widgets = _widgets()
    entry = find(method)
    if entry.gives != "map":
        raise ValueError(f"the explorer shows one map at a time, {entry.name} gives several: use grad_cam.explain")
    rendering.palette(colormap), rendering.opacity(0.0, alpha)  # complain before anything is computed
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold={threshold} is not a fraction of the maximum: give a number from 0 up to, not 1")
    explorer = Explorer(
        model, image, layers=layers, layer=layer, target=target, input_size=input_size,
        reshape_transform=reshape_transform,
    )  # fmt: skip
    size = (explorer.picture.height, explorer.picture.width)
    if smoothing is None:
        smoothing = rendering.default_smoothing(size)
    elif not 0 <= smoothing <= max(size):
        raise ValueError(
            f"smoothing={smoothing} does not suit a picture of {size[0]}x{size[1]}: give pixels, 0..{max(size)}"
        )
    return Inspector(widgets, explorer, entry.name, Display(threshold, smoothing, alpha, colormap))


def _widgets() -> Any:
    try:
        import ipywidgets
    except ImportError as error:
        raise ImportError(
            "grad_cam.inspect needs ipywidgets, which is not installed: pip install 'gradcam-layers[notebook]'"
        ) from error
    return ipywidgets


_STYLE = """<style>
.gradcam-picture img { width: 100%; height: auto; border-radius: 4px; transition: opacity .15s .12s; }
.gradcam-busy img { opacity: .45; }
.gradcam-text, .gradcam-text * { line-height: 1.45 !important; }
.gradcam-text b { font-weight: 600; }
.gradcam-quiet { opacity: .7; font-size: 90%; }
.gradcam-alert { color: #d8392e; overflow-wrap: anywhere; }
.gradcam-spin { display: inline-block; width: .75em; height: .75em; margin-right: .45em; vertical-align: -.05em;
  border: 2px solid currentColor; border-right-color: transparent; border-radius: 50%;
  animation: gradcam-turn .8s linear infinite; }
@keyframes gradcam-turn { to { transform: rotate(360deg); } }
@keyframes gradcam-shown { to { opacity: 0; } }
.gradcam-keys { display: block; width: 1px; height: 1px; animation: gradcam-shown 1ms; }
.gradcam-call { display: flex; align-items: flex-start; gap: 8px; max-width: 860px; }
.gradcam-call pre { flex: 1; margin: 0; padding: 8px 10px; border-radius: 4px;
  font-family: var(--jp-code-font-family, monospace); font-size: 12px;
  white-space: pre-wrap; overflow-wrap: anywhere; background: rgba(128, 128, 128, .12); }
.gradcam-call button { padding: 5px 12px; border: 1px solid rgba(128, 128, 128, .5); border-radius: 4px;
  background: transparent; color: inherit; font: inherit; cursor: pointer; }
</style>"""

# JupyterLab takes the arrow keys for its cells unless an element says that it wants them. Widgets have no attributes of
# their own, so the page sets it, once the explorer is shown; an animation is what tells that.
_KEYS = (
    "this.closest('.gradcam-explorer')?.querySelectorAll('select')"
    ".forEach((list) => list.setAttribute('data-lm-suppress-shortcuts', 'true'))"
)

_COPY = (
    "const pre = this.previousElementSibling; getSelection().selectAllChildren(pre); "
    "(navigator.clipboard ? navigator.clipboard.writeText(pre.textContent) "
    ": Promise.resolve(document.execCommand('copy')))"
    ".then(() => { this.textContent = 'Copied'; setTimeout(() => { this.textContent = 'Copy'; }, 1500); }, () => {});"
)


class Inspector:
    """The explorer as widgets; made by `inspect`, displayed by a notebook as the last line of a cell.

    Attributes:
        widget: All of it, for `display` or a layout of one's own.
        layer: Slider over the layers; its value is a layer's name.
        method: Picker of the method.
        search: What narrows the list of classes.
        target: List of classes, likeliest first; its value is a class index.
        threshold: Slider, fraction of the maximum.
        smoothing: Slider, sigma in pixels.
        alpha: Slider, opacity.
        colormap: Picker.
        view: "overlay" or "heatmap".
        picture: The picture as PNG.
    """

    def __init__(self, widgets: Any, explorer: Explorer, method: str, display: Display) -> None:
        self._explorer = explorer
        self._quiet = False
        self._build(widgets, method, display)
        self._worker: LastWins[Choice, Explanation] = LastWins(explorer.compute, self._tell, explorer.group)
        explorer.stopping = self._worker.stopping
        first = Choice(self.layer.value, "grad_cam", explorer.target)
        self._shown = (first, explorer.first)
        self._worker.put({first: explorer.first})
        for control in (self.layer, self.method, self.target):
            control.observe(self._ask, "value")
        for control in (self.threshold, self.smoothing, self.alpha, self.colormap, self.view):
            control.observe(self._draw, "value")
        self.search.observe(self._narrow, "value")
        self._draw()
        self._ask()
        for cut in explorer.cuts:  # the other layers, while the user still looks at the first picture
            if cut.name != self.layer.value:
                self._worker.ahead(self._explorer.normal(Choice(cut.name, method, explorer.target)))
                break

    # -- for the user

    @property
    def explanation(self) -> Explanation:
        """The frozen result that is shown."""
        return self._shown[1]

    @property
    def call(self) -> str:
        """Python that shows the same picture outside the explorer."""
        return self._explorer.call(self._shown[0], self._display())

    @property
    def busy(self) -> bool:
        """Whether what is shown is not yet what is chosen."""
        return self._worker.busy

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until what is chosen is shown; False if that takes longer than `timeout` seconds."""
        return self._worker.wait(timeout)

    def close(self) -> None:
        """Ends the explorer: stops what is computed, forgets the maps and removes the widgets."""
        self._worker.close()
        for one in self._parts:
            one.close()

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        return self.widget._repr_mimebundle_(**kwargs)

    # -- what happens

    def _display(self) -> Display:
        return Display(
            self.threshold.value, self.smoothing.value, self.alpha.value, self.colormap.value, self.view.value
        )

    def _ask(self, _: Any = None) -> None:
        """Something to compute was chosen."""
        if self._quiet:
            return
        if self.target.value is not None:  # None: the chosen class is hidden by the search
            self._class = self.target.value
        entry = METHODS[self.method.value]
        self.target.disabled = self.search.disabled = not entry.class_specific
        self.layer.disabled = not layered(entry)
        self._advice.value = _small(entry.advice)
        self._worker.ask(self._explorer.normal(Choice(self.layer.value, entry.name, self._class)))

    def _narrow(self, _: Any = None) -> None:
        """Shows the classes that match the search; the chosen one stays chosen, whether it is among them or not."""
        rows = self._explorer.found(self.search.value)
        self._quiet = True
        try:
            self.target.options = rows
            self.target.value = self._class if self._class in [value for _, value in rows] else None
        finally:
            self._quiet = False

    def _tell(self, outcome: Outcome[Choice, Explanation]) -> None:
        """The worker has news; runs in its thread or in the caller's."""
        choice = outcome.key
        entry = METHODS[choice.method]
        words = html.escape(f"{entry.title} at {choice.layer}" if layered(entry) else entry.title)
        if outcome.status == "busy":
            self._status.value = f'<span class="gradcam-spin"></span>Computing {words} …'
            self._frame.add_class("gradcam-busy")
            return
        if outcome.status == "failed":
            self._status.value = f'<span class="gradcam-alert">{words}: {html.escape(str(outcome.error))}</span>'
            return
        assert outcome.value is not None
        self._shown = (choice, outcome.value)
        self._draw()
        self._status.value = ""
        self._frame.remove_class("gradcam-busy")

    def _draw(self, _: Any = None) -> None:
        """Draws what is known, as the display controls say."""
        with self._worker.lock:
            choice, one = self._shown
            buffer = io.BytesIO()
            self._explorer.render(one, self._display()).save(buffer, "PNG")
            self.picture.value = buffer.getvalue()
            self._caption.value = self._described(choice, one)
            self._code.value = _copyable(self._explorer.call(choice, self._display()))

    def _described(self, choice: Choice, one: Explanation) -> str:
        explorer, cut = self._explorer, self._explorer.cut(choice.layer)
        method = METHODS[choice.method]
        what = "whatever the class" if choice.target is None else explorer.class_label(choice.target)
        percent = "" if choice.target is None else explorer.percent(choice.target)
        here = layered(method)
        where = ["the whole network"] if not here else [cut.name, cut.type] if cut.type else [cut.name]
        where.append(f"map {one.map.shape[-2]} × {one.map.shape[-1]}")
        if here and cut.layer_idx is not None:
            where.append(f"layer_idx {cut.layer_idx}")
        lines = [f"<b>{html.escape(what)}</b>{', ' + percent if percent else ''} — {html.escape(method.title)}",
                 _small(" · ".join(where))]  # fmt: skip
        note = explorer.note(one)
        if note is not None:
            lines.append(f'<span class="gradcam-alert">The map is {note}.</span>')
        return "<br>".join(lines)

    # -- how it is laid out

    def _build(self, widgets: Any, method: str, display: Display) -> None:
        explorer = self._explorer
        wide = {"width": "auto"}
        label = {"description_width": "78px"}

        def text(value: str = "", **layout: str) -> Any:
            made = widgets.HTML(value, layout={"margin": "0 2px", **layout})
            made.add_class("gradcam-text")
            return made

        def slider(description: str, value: float, high: float, step: float, form: str) -> Any:
            return widgets.FloatSlider(
                value=value, min=0.0, max=high, step=step, description=description, readout_format=form, style=label,
                layout=wide,
            )  # fmt: skip

        self.layer = widgets.SelectionSlider(
            options=[cut.name for cut in explorer.cuts], value=explorer.cuts[explorer.start].name, description="Layer",
            style=label, layout=wide,
        )  # fmt: skip
        self.method = widgets.Dropdown(
            options=[(entry.title, name) for name, entry in METHODS.items() if entry.gives == "map"], value=method,
            description="Method", style=label, layout=wide,
        )  # fmt: skip
        self.search = widgets.Text(placeholder="search by name or index", description="Class", style=label, layout=wide)
        self._class = explorer.target
        self.target = widgets.Select(
            options=explorer.found(), value=explorer.target, rows=6, style=label, description=" ", layout=wide
        )
        height, width = explorer.picture.height, explorer.picture.width
        widest = max(display.smoothing, round(20 * min(height, width) / 224))
        self.threshold = slider("Threshold", display.threshold, max(0.95, display.threshold), 0.025, ".3f")
        self.smoothing = slider("Smoothing", display.smoothing, widest, widest / 40, ".1f")
        self.alpha = slider("Opacity", display.alpha, 1.0, 0.05, ".2f")
        self.colormap = widgets.Dropdown(
            options=list(dict.fromkeys((*COLORMAPS, display.colormap))), value=display.colormap, description="Colours",
            style=label, layout=wide,
        )  # fmt: skip
        self.view = widgets.ToggleButtons(
            options=[("Overlay", "overlay"), ("Heatmap", "heatmap")],
            value=display.view,
            style={"button_width": "92px"},
            layout={"margin": "4px 2px 2px 84px"},
        )
        self.picture = widgets.Image(format="png", layout={"width": "100%", "margin": "0"})
        self._frame = widgets.Box([self.picture], layout={"width": "100%", "margin": "0 0 6px"})
        self._frame.add_class("gradcam-picture")
        self._caption, self._status = text(), text(min_height="1.6em")
        self._code, self._advice = text(), text(margin="0 2px 6px 84px")
        keys = f'<span class="gradcam-keys" onanimationstart="{html.escape(_KEYS)}"></span>'
        style = widgets.HTML(_STYLE + keys, layout={"height": "0", "margin": "0"})
        left = widgets.VBox(
            [self._frame, self._caption, self._status],
            layout={"flex": f"1 1 {min(max(width, 320), 448)}px", "max_width": "480px", "min_width": "260px"},
        )
        right = widgets.VBox(
            [self.layer, self.method, self._advice, self.search, self.target, self.threshold, self.smoothing,
             self.alpha, self.colormap, self.view],
            layout={"flex": "1 1 340px", "max_width": "480px", "min_width": "280px", "overflow": "visible"},
        )  # fmt: skip
        both = widgets.HBox([left, right], layout={"flex_flow": "row wrap", "grid_gap": "20px", "width": "100%"})
        self.widget = widgets.VBox([style, both, self._code], layout={"width": "100%"})
        self.widget.add_class("gradcam-explorer")
        self._parts = [
            self.widget, both, left, right, style, self._frame, self.picture, self._caption, self._status, self._code,
            self._advice, self.layer, self.method, self.search, self.target, self.threshold, self.smoothing, self.alpha,
            self.colormap, self.view,
        ]  # fmt: skip


def _small(text: str) -> str:
    return f'<span class="gradcam-quiet">{html.escape(text)}</span>'


def _copyable(code: str) -> str:
    """Code with a button that copies it."""
    return (
        f'<div class="gradcam-call"><pre>{html.escape(code)}</pre>'
        f'<button type="button" onclick="{html.escape(_COPY)}">Copy</button></div>'
    )
