"""The engine: one place that runs forward, target, gradient, layout and method, and the frozen result.

`explain` cuts the model, runs the extractor without a graph and the classifier with one, takes the gradient of the
score on the detached activation, and hands activations and gradients to a pure method. `sweep` does so at many cuts in
one forward and one backward pass. The model is never touched: everything runs on its `shadow`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import math
import os
import pathlib
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from . import layouts, metrics, rendering, targets
from .layouts import Layout
from .methods import METHODS, Method, attention, find
from .methods import aug_smooth as _aug_smooth
from .methods import eigen_smooth as _eigen_smooth
from .methods import fuse as _fuse
from .methods.gradient import gradient_of, noisy_copies
from .splitting import Chain, Links, Split, StageInfo, Stages
from .splitting import links as links_of
from .tracing import unwrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

Target = Any
"""None (the predicted class), a class index or name, a list with one per image, `targets.top(k)`, or any callable
``logits (B, classes) -> score (B,)``."""


class Layer(NamedTuple):
    """Where a map was taken: the module path, and the number of stages after the cut (None inside a stage)."""

    name: str
    layer_idx: int | None

    def __str__(self) -> str:
        return self.name if self.layer_idx is None else f"{self.name} (layer_idx {self.layer_idx})"


# -------------------------------------------------------------------------------------------------------------- results


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """The result of `explain`; nothing changes it, display settings are given when it is shown.

    Attributes:
        map: Raw signed map in units of the score per activation, (B, h, w), or (B, K, h, w) for K targets an image.
        logits: (B, classes).
        target: What was explained, in words: one list of K names per image.
        classes: Class indices (B, K), or None if the target is not a class.
        layer: Name and layer_idx of the cut.
        method: Name of the method.
        images: The model's input (B, C, H, W).
        pictures: What the model saw, for display, uint8 (B, H, W, 3).
    """

    map: Tensor = dataclasses.field(repr=False)
    logits: Tensor = dataclasses.field(repr=False)
    target: list[list[str]]
    classes: Tensor | None
    layer: Layer
    method: str
    images: Tensor = dataclasses.field(repr=False)
    pictures: NDArray[np.uint8] = dataclasses.field(repr=False)

    def heatmap(self, threshold: float = 0.0, smoothing: float = 0.0) -> NDArray[np.float32]:
        """The display form of the map, at image size.

        Args:
            threshold: Fraction of the maximum under which the heatmap is floored; 0 is ReLU.
            smoothing: Gaussian sigma in pixels of the picture.

        Returns:
            float32 in 0..1, (B, H, W) or (B, K, H, W).
        """
        return rendering.heatmap(self.map, self._size, threshold, smoothing)

    def note(self, image: int = 0, target: int = 0) -> str | None:
        """What is unusual about a map ("all negative", "all zero", ...), or None."""
        return rendering.describe(self._one(image, target))

    def overlay(
        self, image: int = 0, target: int = 0, *, threshold: float = 0.0, smoothing: float | None = None,
        alpha: float = rendering.ALPHA, colormap: str = rendering.COLORMAP,
    ) -> Image.Image:  # fmt: skip
        """The heatmap over the picture the model saw, as a PIL image of its size."""
        heat = self._heat(image, target, threshold, smoothing)
        return rendering.overlay(self.pictures[image], heat, alpha=alpha, colormap=colormap)

    def figure(
        self, image: int = 0, target: int = 0, *, threshold: float = 0.0, smoothing: float | None = None,
        alpha: float = rendering.ALPHA, colormap: str = rendering.COLORMAP,
    ) -> Figure:  # fmt: skip
        """The four panels: image, overlay, heatmap, colormap."""
        heat = self._heat(image, target, threshold, smoothing)
        return rendering.panels(
            self.pictures[image], heat, title=self.title(image, target), alpha=alpha, colormap=colormap,
            note=self.note(image, target),
        )  # fmt: skip

    def map_figure(self, image: int = 0, target: int = 0, *, colormap: str = rendering.COLORMAP) -> Figure:
        """The raw map at the layer's own size, with its signed values."""
        return rendering.map_figure(
            self._one(image, target).numpy(), title=self.title(image, target), colormap=colormap,
        )  # fmt: skip

    def title(self, image: int = 0, target: int = 0) -> str:
        """What a figure of this explanation says above the picture."""
        return f"{self.target[image][target]}{self._confidence(image, target)}\n{_title(self.method)} at {self.layer}"

    def save(self, path: str | os.PathLike[str], *, force: bool = False, **display: Any) -> list[pathlib.Path]:
        """Writes the four panels, one file per image and target.

        Args:
            path: A picture file; with several images or targets, `-0`, `-1`, ... is put before the suffix.
            force: Overwrite files that exist.
            **display: threshold, smoothing, alpha, colormap, as for `figure`.

        Returns:
            The files written.

        Raises:
            FileExistsError: A file is there already and `force` is False; nothing is written.
        """
        path = pathlib.Path(path)
        pairs = [(b, k) for b in range(len(self.map)) for k in range(self._per_image)]
        names = [path if len(pairs) == 1 else path.with_stem(f"{path.stem}-{i}") for i in range(len(pairs))]
        refuse_existing(names, force)
        return [rendering.save(self.figure(b, k, **display), name) for (b, k), name in zip(pairs, names, strict=True)]

    def _repr_png_(self) -> bytes:
        return rendering.png_bytes(self.figure())

    @property
    def _size(self) -> tuple[int, int]:
        return int(self.images.shape[-2]), int(self.images.shape[-1])

    @property
    def _per_image(self) -> int:
        return self.map.shape[1] if self.map.ndim == 4 else 1

    def _one(self, image: int, target: int) -> Tensor:
        if not -len(self.map) <= image < len(self.map):
            raise IndexError(f"image={image}: this explanation holds {len(self.map)} images")
        if not 0 <= target < self._per_image:
            raise IndexError(f"target={target}: this explanation holds {self._per_image} targets for every image")
        one = self.map[image, target] if self.map.ndim == 4 else self.map[image]
        return one.float().cpu()  # (h,w)

    def _heat(self, image: int, target: int, threshold: float, smoothing: float | None) -> NDArray[np.float32]:
        if smoothing is None:
            smoothing = rendering.default_smoothing(self._size)
        one = self._one(image, target)
        note = rendering.describe(one)
        if note in ("all zero", "all negative", "nowhere positive"):
            warnings.warn(
                f"the map of {self.target[image][target]} at {self.layer.name} is {note}: nothing there speaks for it",
                stacklevel=3,
            )
        return rendering.heatmap(one, self._size, threshold, smoothing)

    def _confidence(self, image: int, target: int) -> str:
        plain = self.classes is not None and self.logits.ndim == 2 and self.logits.shape[1] > 1
        if not plain or any(word in self.target[image][target] for word in _COMPARING):
            return ""
        assert self.classes is not None
        probability = self.logits[image].float().softmax(-1)[self.classes[image, target]]
        return f", {100 * float(probability):.0f} %"


_COMPARING = (" rather than ", "against ", "probability of ", "what sets ", "concept ")
"""Words of targets that are about more than one class's score: their title carries no probability."""


def _title(method: str) -> str:
    """A method's name as figures show it; what wraps or fuses it stays as it is."""
    name = next((n for n in sorted(METHODS, key=len, reverse=True) if method.startswith(n)), "")
    return METHODS[name].title + method[len(name) :] if name else method


def refuse_existing(paths: Sequence[pathlib.Path], force: bool) -> None:
    """Raises FileExistsError if any of the files exists, unless `force`."""
    there = [str(p) for p in paths if p.exists()]
    if there and not force:
        raise FileExistsError(f"{', '.join(there)} exists already; choose another name or pass force=True (--force)")


# --------------------------------------------------------------------------------------------------------------- engine


@dataclasses.dataclass
class _Pass:
    """One forward pass cut at one place, with what the methods ask of it."""

    split: Split
    images: Tensor
    layout: Layout
    raw: Tensor  # the activation as the model has it, a leaf
    context: tuple[Tensor, ...]
    logits: Tensor
    resolved: targets.Resolved
    names: list[str] | None

    @property
    def activations(self) -> Tensor:
        return self.layout.to_map(self.raw.detach())  # (B,C,h,w)

    def gradients(self) -> list[Tensor]:
        """The gradient of every target's score on the activation, as maps: K times (B,C,h,w)."""
        out = []
        scores = self.resolved.scores
        for k, score in enumerate(scores):
            with torch.enable_grad():
                total = _score(score, self.logits).sum()
                (gradient,) = (
                    torch.autograd.grad(total, self.raw, retain_graph=k + 1 < len(scores), allow_unused=True)
                    if total.requires_grad else (None,)
                )  # fmt: skip
            gradient = torch.zeros_like(self.raw) if gradient is None else gradient
            _require_finite(gradient, f"the gradient at '{self.split.name}'", self.split.engine, self.images)
            out.append(self.layout.to_map(gradient))
        return out

    def tail(self, maps: Tensor, index: Tensor | None = None) -> Tensor:
        """Logits of activations given as maps (N,C,h,w) whose rows belong to the images `index` (default: in order)."""
        like = self.raw.detach() if index is None else self.raw.detach()[index]
        raw = self.layout.from_map(maps, like)
        context = (
            self.context if index is None else tuple(c[index] if len(c) == len(self.raw) else c for c in self.context)
        )
        return _columns(_classify(self.split, raw, context))

    def whole(self, images: Tensor, index: Tensor) -> Tensor:
        """Logits of images."""
        with torch.no_grad():
            handed = self.split.engine[0](images)
            return _columns(self.split.engine[1](handed))


def _score(score: targets.Score, logits: Tensor, rows: Tensor | None = None) -> Tensor:
    """The score (N,), computed in float32 at least."""
    return score(logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits, rows)


def _classify(split: Split, activation: Tensor, context: tuple[Tensor, ...]) -> Tensor:
    if split.mutates:  # an in-place operation follows the cut: it gets a copy
        activation, context = activation.clone(), tuple(c.clone() for c in context)
    return split.engine[1]((activation, *context) if context else activation)


def _forward(
    split: Split, images: Tensor, layout: Any, target: Target | targets.Resolved, names: list[str] | None
) -> _Pass:
    with torch.no_grad():
        handed = split.engine[0](images)
    activation, context = (handed[0], tuple(handed[1:])) if isinstance(handed, tuple) else (handed, ())
    found = _layout(split, activation, images, layout)
    activation = activation.detach()
    activation.requires_grad_()
    with torch.enable_grad():
        logits = _columns(_classify(split, activation, context))
    resolved = target if isinstance(target, targets.Resolved) else targets.resolve(target, logits.detach(), names)
    out = _Pass(split, images, found, activation, context, logits, resolved, names)
    _require_finite(logits.detach(), "the logits", split.engine, images)
    return out


def _columns(logits: Tensor) -> Tensor:
    return logits if logits.ndim > 1 else logits[:, None]


def _layout(split: Split | StageInfo, activation: Tensor, images: Tensor, asked: Any) -> Layout:
    if asked is not None:
        size = (images.shape[-2], images.shape[-1])
        prefix = split.layout.prefix if split.layout is not None else None
        return layouts.named(asked, activation, size, prefix)
    if split.layout is None:
        raise layouts.LayoutError(
            f"no map can be drawn after '{split.name}': {split.note} (activation {tuple(activation.shape)}); choose "
            "another layer (see print(grad_cam.chain(model))) or give reshape_transform"
        )
    return split.layout


def _require_finite(values: Tensor, what: str, parts: Sequence[nn.Module], images: Tensor) -> None:
    """Raises ValueError that says where NaN or infinite values come from."""
    if bool(torch.isfinite(values.sum(dtype=torch.float32))) or bool(torch.isfinite(values).all()):
        return  # a finite sum says that all are; a sum may overflow without a culprit
    if not bool(torch.isfinite(images).all()):
        raise ValueError("the images hold NaN or infinite values; check their preprocessing")
    for half in parts:
        for name, tensor in (*half.named_parameters(), *half.named_buffers()):
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise ValueError(
                    f"{what} hold NaN or infinite values: the weights '{name}' already do; reload the checkpoint"
                )
    with torch.no_grad():
        x: Any = images
        for half in parts:
            for name, module in half.named_children():
                x = module(x)
                if isinstance(x, Tensor) and x.is_floating_point() and not bool(torch.isfinite(x).all()):
                    raise ValueError(
                        f"{what} hold NaN or infinite values: they appear first after '{name}' ({x.dtype}); "
                        "try float32, or check the input's range"
                    )
    raise ValueError(f"{what} hold NaN or infinite values")


def _prepared(model: nn.Module, images: Tensor) -> tuple[nn.Module, Tensor]:
    """Checks the images and puts them where the model is."""
    inner = unwrap(model.model if isinstance(model, Chain) else model)
    if not isinstance(images, Tensor):
        raise TypeError(
            f"images must be a tensor (B, C, H, W), got {type(images).__name__}; for files and pictures use "
            "grad_cam.GradCAM"
        )
    if images.ndim != 4 or 0 in images.shape:
        hint = "; add the batch axis with images[None]" if images.ndim == 3 else ""
        raise ValueError(f"images must be a batch (B, C, H, W), got shape {tuple(images.shape)}{hint}")
    if not images.is_floating_point():
        raise ValueError(f"images must be floating point and normalised as the model expects, got {images.dtype}")
    weight = next((p for p in inner.parameters() if p.is_floating_point()), None)
    images = images.detach()
    if images.is_inference():
        images = images.clone()
    if weight is not None and (images.device != weight.device or images.dtype != weight.dtype):
        images = images.to(device=weight.device, dtype=weight.dtype)
    return inner, images


def _links(model: nn.Module, inner: nn.Module, images: Tensor) -> Links:
    """The chain for images of this shape; the one given, if it is for this shape."""
    shape = tuple(int(n) for n in images.shape[1:])
    if isinstance(model, Chain):
        return model.links if model.links.fits(images) else links_of(inner, shape, depth=model.depth)
    return links_of(inner, shape)


def class_names(model: nn.Module) -> list[str] | None:
    """The names of a model's classes if they are known (see `zoo.labels`)."""
    from . import zoo

    return zoo.labels(model)


_PREPARED: weakref.WeakKeyDictionary[nn.Module, dict[Any, Any]] = weakref.WeakKeyDictionary()


def _pictures(model: nn.Module, images: Tensor) -> NDArray[np.uint8]:
    """What the model saw, for display; how it was normalised is worked out once per model and size."""
    from .images import preprocessing

    size = (int(images.shape[-2]), int(images.shape[-1]))
    known = _PREPARED.setdefault(model, {})
    key = (size, id(getattr(model, "preprocessing", None)), id(getattr(model, "image_processor", None)))
    if key not in known:
        known[key] = preprocessing(model, size)
    return known[key].pictures(images.float().cpu())


def explain(
    model: nn.Module,
    images: Tensor,
    *,
    layer: int | str | nn.Module | Sequence[Any] | None = None,
    target: Target = None,
    method: str = "grad_cam",
    reshape_transform: str | Callable[[Tensor], Tensor] | None = None,
    fuse: str | None = None,
    aug_smooth: bool = False,
    eigen_smooth: bool = False,
    **options: Any,
) -> Explanation | list[Explanation]:
    """Explains what a model saw in a batch of images.

    Args:
        model: Any image classifier, or a `Chain` of one. It is left exactly as found and explained in eval mode.
        images: (B, C, H, W), normalised as the model expects; moved to the model's device and dtype.
        layer: Where to cut: layer_idx, module path or module (see `split`); a list gives one explanation each. None
            takes the last cut with a spatial grid whose gradient reaches the grid.
        target: What to explain: None (the predicted class), class index or name, a list with one per image (or one list
            per image), `targets.top(k)`, or a callable from logits (B, classes) to scores (B,).
        method: A name from `METHODS`.
        reshape_transform: Layout of the activation if it is not found by itself: "NCHW", "NHWC", "tokens", or a
            callable from the activation to (B, C, H, W).
        fuse: With a list of layers: join their maps into one, "mean", "max" or "product".
        aug_smooth: Average over mirrored and brightened copies of the images.
        eigen_smooth: First principal component of the method's terms instead of their sum.
        **options: The method's own settings, such as `chunk` for perturbation methods.

    Returns:
        A frozen `Explanation`; a list of them for a list of layers that is not fused.

    Raises:
        ValueError: No such layer, method or class; images that do not fit; NaN in weights or activations; a method that
            does not fit the model or the cut.
        SplitError: The model cannot be cut exactly there.
    """
    ask = _Ask.of(method, target, reshape_transform, aug_smooth, eigen_smooth, options)
    several = isinstance(layer, (list, tuple))
    if fuse is not None and not several:
        raise ValueError(f"fuse={fuse!r} joins the maps of several layers: give layer=[...]")
    inner, images = _prepared(model, images)
    with torch.inference_mode(False), torch.no_grad():
        links = _links(model, inner, images)
        if not several:
            return _explain(links, images, layer, ask)
        assert isinstance(layer, (list, tuple))
        if not layer:
            raise ValueError("layer=[] names no layer: give at least one")
        each = [_explain(links, images, one, ask) for one in layer]
        return each if fuse is None else _fused(each, fuse)


@dataclasses.dataclass(frozen=True)
class _Ask:
    """What the caller wants, checked."""

    entry: Method
    target: Target
    layout: str | Callable[[Tensor], Tensor] | None
    aug_smooth: bool
    eigen_smooth: bool
    options: dict[str, Any]

    @classmethod
    def of(cls, method: str, target: Target, layout: Any, aug: bool, eigen: bool, options: dict[str, Any]) -> _Ask:
        entry = find(method)
        for asked, allowed, name in (
            (aug, entry.aug_smooth, "aug_smooth"),
            (eigen, entry.eigen_smooth, "eigen_smooth"),
        ):
            if asked and not allowed:
                fits = ", ".join(m.name for m in METHODS.values() if getattr(m, name))
                raise ValueError(f"{name} cannot wrap {entry.name}; it wraps {fits}")
        accepted = inspect.signature(entry.function).parameters
        known = [n for n, p in accepted.items() if p.kind is p.KEYWORD_ONLY]
        if entry.needs == "noisy_gradients":
            known += ["samples", "noise", "seed"]
        for name in options:
            if name not in known:
                has = f"it takes {', '.join(known)}" if known else "it takes none"
                raise TypeError(f"{entry.name} has no option {name!r}; {has}")
        return cls(entry, target, layout, aug, eigen, options)


def _explain(links: Links, images: Tensor, layer: Any, ask: _Ask) -> Explanation:
    cut = links.default_split() if layer is None else links.split(layer)
    names = class_names(links.model)
    target = _indexed(ask.target, links.model)
    where = Layer(cut.name, cut.layer_idx)
    if ask.entry.needs == "images":
        where = Layer("the input", None)
    if ask.entry.needs in _WHOLE:
        where = Layer("the whole network", None)
        captured = _captured(cut, images) if ask.entry.needs == "attention" else None
        with torch.no_grad():
            logits = captured[0].detach() if captured else _columns(cut.engine[1](cut.engine[0](images)))

        def maps_of(changed: Tensor, resolved: targets.Resolved) -> Tensor:
            return _whole_maps(links, cut, ask, changed, resolved, captured if changed is images else None)

        _require_finite(logits, "the logits", cut.engine, images)
        resolved = targets.resolve(target, logits, names)
    else:
        run = _forward(cut, images, ask.layout, target, names)
        if ask.entry.gives == "concepts":
            return _concepts(links, run, ask)
        logits, resolved = run.logits, run.resolved

        def maps_of(images: Tensor, resolved: targets.Resolved) -> Tensor:
            return _maps(run if images is run.images else _forward(cut, images, ask.layout, resolved, names), ask)

    if ask.aug_smooth:
        maps = _aug_smooth(lambda changed: maps_of(changed, resolved), images)
    else:
        maps = maps_of(images, resolved)
    _require_finite(maps, "the map", cut.engine, images)
    return _result(links, images, logits, resolved, maps, where, ask)


_WHOLE = ("attention", "block_attention", "network", "network_cam")
"""Needs of the methods that read the whole network and know no cut."""


def _captured(cut: Split, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the attention they were computed with, in one graph."""
    if cut.layout is None:
        raise layouts.LayoutError(f"no grid of positions is known at '{cut.name}': {cut.note}")
    with torch.enable_grad(), attention.Capture(len(images), math.prod(cut.layout.grid)) as capture:
        logits = _columns(cut.engine[1](cut.engine[0](images)))
    return logits, capture.attentions()


def _whole_maps(
    links: Links,
    cut: Split,
    ask: _Ask,
    images: Tensor,
    resolved: targets.Resolved,
    captured: tuple[Tensor, list[Tensor]] | None = None,
) -> Tensor:
    """The maps of methods that read the whole network, (B,K,h,w)."""
    entry, options = ask.entry, dict(ask.options)
    scores = [functools.partial(_score, score) for score in resolved.scores]
    if entry.needs in ("network", "network_cam"):
        whole = _model(links)
        extra: list[tuple[Tensor, ...]] = [()] * len(scores)
        if entry.needs == "network_cam":
            cam = dataclasses.replace(ask, entry=METHODS["grad_cam"], options={})
            maps = _maps(_forward(cut, images, ask.layout, resolved, None), cam)
            extra = [(one,) for one in maps.unbind(1)]
        if "grid" in inspect.signature(entry.function).parameters and cut.layout is not None:
            options = {"grid": cut.layout.grid, **options}
        return torch.stack(
            [
                entry.function(images, lambda x, s=s: s(whole(x)), *more, **options)
                for s, more in zip(scores, extra, strict=True)
            ],
            1,
        )
    if cut.layout is None:
        raise layouts.LayoutError(f"no grid of positions is known at '{cut.name}': {cut.note}")
    grid = cut.layout.grid
    if entry.needs == "block_attention":
        deep = links_of(links.model, tuple(images.shape[1:]), depth=BLOCKS)
        attentions, each = attention.block_gradients(deep.engine[0], images, scores, math.prod(grid))
        return torch.stack([entry.function(attentions, g, grid, **options) for g in each], 1)
    maps = []
    with torch.enable_grad():
        logits, seen = captured or _captured(cut, images)
        for k, score in enumerate(scores):
            gradients = attention.gradients(score(logits), seen, keep_graph=k + 1 < len(scores))
            maps.append(entry.function([a.detach() for a in seen], gradients, grid, **options))
    return torch.stack(maps, 1)


def _model(links: Links) -> Callable[[Tensor], Tensor]:
    """The stand-in of the whole model, as a function from images to logits."""
    modules, _ = links.engine
    return lambda images: _columns(functools.reduce(lambda x, module: module(x), modules, images))


def _indexed(target: Target, model: nn.Module) -> Target:
    """Class names, also in lists, as indices: synonyms count; for an unknown name the closest are offered."""
    if isinstance(target, str):
        from . import zoo

        return zoo.class_index(model, target)
    if isinstance(target, (list, tuple)):
        return [_indexed(each, model) for each in target]
    return target


def _result(
    links: Links,
    images: Tensor,
    logits: Tensor,
    resolved: targets.Resolved,
    maps: Tensor,
    layer: Layer,
    ask: _Ask,
    pictures: NDArray[np.uint8] | None = None,
) -> Explanation:
    name = ask.entry.name + " + eigen_smooth" * ask.eigen_smooth + " + aug_smooth" * ask.aug_smooth
    return Explanation(
        map=maps.detach() if resolved.several else maps.detach()[:, 0],
        logits=logits.detach(),
        target=resolved.names,
        classes=resolved.classes,
        layer=layer,
        method=name,
        images=images,
        pictures=_pictures(links.model, images) if pictures is None else pictures,
    )


def _maps(run: _Pass, ask: _Ask) -> Tensor:
    """The maps of all targets, (B,K,h,w)."""
    entry, options, scores = ask.entry, dict(ask.options), run.resolved.scores
    activations = run.activations
    _require_finite(activations, f"the activations at '{run.split.name}'", run.split.engine, run.images)
    if entry.needs == "activations":
        return torch.stack([entry.function(activations, **options)] * len(scores), 1)
    if entry.needs == "gradients":
        function = functools.partial(_eigen_smooth, entry.function) if ask.eigen_smooth else entry.function
        return torch.stack([function(activations, g, **options) for g in run.gradients()], 1)
    if entry.needs == "tail_gradient":
        return torch.stack(
            [
                entry.function(activations, gradient_of(lambda a, s=s: _score(s, run.tail(a))), **options)
                for s in scores
            ],
            1,
        )
    if entry.needs == "noisy_gradients":
        noise = {key: options.pop(key) for key in ("samples", "noise", "seed") if key in options}

        def gradients(k: int) -> Iterator[Tensor]:
            for copy in noisy_copies(run.images, **noise):
                only = dataclasses.replace(run.resolved, scores=run.resolved.scores[k : k + 1])
                yield _forward(run.split, copy, run.layout.transform, only, run.names).gradients()[0]

        return torch.stack([entry.function(activations, gradients(k), **options) for k in range(len(scores))], 1)
    with torch.no_grad(), _progress(entry, options):
        if entry.needs == "tail":
            tail = functools.partial(_scores, run, run.tail)
            return entry.function(activations, tail, **options)
        whole = functools.partial(_scores, run, run.whole)
        if entry.needs == "score":
            return entry.function(activations, run.images, whole, **options)
        return entry.function(run.images, whole, **options)


def _scores(run: _Pass, logits_of: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, index: Tensor) -> Tensor:
    """The scores of perturbed copies, (N,K)."""
    logits = logits_of(inputs, index)
    return torch.stack([_score(score, logits, index) for score in run.resolved.scores], 1)


@contextlib.contextmanager
def _progress(entry: Method, options: dict[str, Any]) -> Iterator[None]:
    """Gives a method that reports its progress a bar on an interactive terminal, unless the caller has a callback."""
    wanted = "progress" in inspect.signature(entry.function).parameters and "progress" not in options
    if not wanted or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(entry.title, total=None)
        options["progress"] = lambda done, total: bar.update(task, completed=done, total=total)
        yield


def _concepts(links: Links, run: _Pass, ask: _Ask) -> Explanation:
    """Concept maps, each named after the class that the tail gives to a grid full of that concept."""
    found = ask.entry.function(run.activations, **ask.options)
    rows = torch.zeros(len(found.concepts), dtype=torch.long, device=run.raw.device)
    full = (found.offset + found.concepts)[:, :, None, None].expand(-1, -1, *run.layout.grid)  # (k,C,h,w)
    with torch.no_grad():
        best = run.tail(full.to(run.raw.dtype), rows).argmax(1)
    names = [
        f"concept {i + 1}: {run.names[c] if run.names and c < len(run.names) else f'class {c}'}"
        for i, c in enumerate(best.tolist())
    ]
    return Explanation(
        map=found.maps.detach(), logits=run.logits.detach(), target=[names] * len(run.images), classes=None,
        layer=Layer(run.split.name, run.split.layer_idx), method=ask.entry.name, images=run.images,
        pictures=_pictures(links.model, run.images),
    )  # fmt: skip


def _fused(each: list[Explanation], how: str) -> Explanation:
    name = "+".join(e.layer.name for e in each)
    joined = _fuse([e.map for e in each], how)  # type: ignore[arg-type]
    return dataclasses.replace(each[-1], map=joined, layer=Layer(name, None), method=f"{each[-1].method}, {how}")


# ---------------------------------------------------------------------------------------------------------------- sweep


@dataclasses.dataclass(frozen=True, eq=False)
class Sweep(Sequence[Explanation]):
    """An explanation for every cut that carries a map, from the picture towards the logits.

    Attributes:
        explanations: In order of depth.
        skipped: The other cuts, with the reason why they carry no map.
        model: Name of the model's class.
        stages: The whole layer table.
        labels: Names of the model's classes, if known.
    """

    explanations: tuple[Explanation, ...]
    skipped: tuple[tuple[Layer, str], ...]
    model: str
    stages: tuple[StageInfo, ...] = dataclasses.field(repr=False)
    labels: Sequence[str] | None = dataclasses.field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.explanations)

    def __getitem__(self, index: Any) -> Any:
        return self.explanations[index]

    def curves(self, image: int = 0, target: int = 0) -> dict[str, list[float]]:
        """Per-layer summaries of the maps: how focused each is, and how far it agrees with the deepest one."""
        maps = [e._one(image, target) for e in self.explanations]
        return {
            "focus": [metrics.focus(m) for m in maps],
            "agreement with the last": [metrics.agreement(m, maps[-1]) for m in maps],
        }

    def figure(
        self, image: int = 0, target: int = 0, *, threshold: float = 0.0, smoothing: float | None = None, **display: Any
    ) -> Figure:
        """The grid of overlays, shallow to deep, with the summary curves under it."""
        first = self.explanations[0]
        return rendering.sweep_figure(
            first.pictures[image], self._heats(image, target, threshold, smoothing), self._titles(),
            self.curves(image, target), title=f"{first.target[image][target]}, {_title(first.method)}",
            notes=[e.note(image, target) for e in self.explanations], **display,
        )  # fmt: skip

    def animate(
        self, path: str | os.PathLike[str], image: int = 0, target: int = 0, *, duration_ms: int = 500,
        threshold: float = 0.0, smoothing: float | None = None, alpha: float = rendering.ALPHA,
        colormap: str = rendering.COLORMAP, force: bool = False,
    ) -> pathlib.Path:  # fmt: skip
        """Writes a GIF or WebP that goes from the shallowest to the deepest layer."""
        path = pathlib.Path(path)
        refuse_existing([path], force)
        picture = self.explanations[0].pictures[image]
        heats = self._heats(image, target, threshold, smoothing)
        frames = [
            rendering.captioned(rendering.overlay(picture, heat, alpha=alpha, colormap=colormap), title)
            for heat, title in zip(heats, self._titles(), strict=True)
        ]
        rendering.animation(frames, path, duration_ms)
        return path

    def save(self, folder: str | os.PathLike[str], *, force: bool = False, **display: Any) -> list[pathlib.Path]:
        """Writes `sweep.png` and one overlay per layer for every image and target into a folder."""
        folder = pathlib.Path(folder)
        jobs: list[tuple[pathlib.Path, Callable[[], Any]]] = []
        count = self.explanations[0]._per_image
        for b in range(len(self.explanations[0].map)):
            for k in range(count):
                tag = (f"-{b}" if len(self.explanations[0].map) > 1 else "") + (f"-{k}" if count > 1 else "")
                jobs.append((folder / f"sweep{tag}.png", functools.partial(self.figure, b, k, **display)))
                for i, one in enumerate(self.explanations):
                    name = "".join(c if c.isalnum() or c in "._-" else "_" for c in one.layer.name)
                    jobs.append((folder / f"{i:02d}-{name}{tag}.png", functools.partial(one.overlay, b, k, **display)))
        refuse_existing([path for path, _ in jobs], force)
        folder.mkdir(parents=True, exist_ok=True)
        return [rendering.save(make(), path) for path, make in jobs]

    def report(
        self, path: str | os.PathLike[str], *, names: Sequence[str] | None = None, force: bool = False, **display: Any
    ) -> pathlib.Path:
        """Writes one self-contained HTML page with every image, target and layer, to look through in a browser.

        Args:
            path: The file to write.
            names: What to call the images; their numbers by default.
            force: Overwrite a file that exists.
            **display: threshold, smoothing, alpha, colormap the page opens with.

        Returns:
            The path.
        """
        from .interfaces.report import report_of, write_report  # the only step upwards, taken when it is asked for

        return write_report(report_of(self, names=names, **display), path, force)

    def _heats(self, image: int, target: int, threshold: float, smoothing: float | None) -> list[NDArray[np.float32]]:
        if smoothing is None:
            smoothing = rendering.default_smoothing(self.explanations[0]._size)
        return [rendering.heatmap(e._one(image, target), e._size, threshold, smoothing) for e in self.explanations]

    def _titles(self) -> list[str]:
        titles = []
        for one in self.explanations:
            idx = "" if one.layer.layer_idx is None else f"{one.layer.layer_idx} · "
            titles.append(f"{one.layer.name}\n{idx}{one.map.shape[-2]} × {one.map.shape[-1]}")
        return titles

    def _repr_png_(self) -> bytes:
        return rendering.png_bytes(self.figure())


BLOCKS = 4
"""Depth at which the stages of the known architectures are open down to their blocks."""


def sweep(
    model: nn.Module,
    images: Tensor,
    *,
    layers: str | Sequence[int | str | nn.Module] = "stages",
    target: Target = None,
    method: str = "grad_cam",
    reshape_transform: str | Callable[[Tensor], Tensor] | None = None,
    **options: Any,
) -> Sweep:
    """Explains a model at many cuts, in one forward and one backward pass.

    The activation of every cut is kept and the gradient of the score is taken on all of them at once, so memory grows
    with the number of layers asked for. Methods that need more than activations and gradients are run cut by cut.

    Args:
        model: As for `explain`.
        images: As for `explain`.
        layers: "stages" (top-level children), "blocks" (the blocks inside them), or a list of layers as for `explain`.
        target: As for `explain`.
        method: A name from `METHODS`.
        reshape_transform: As for `explain`, used at every cut.
        **options: The method's own settings.

    Returns:
        A `Sweep`: the explanations in order of depth.

    Raises:
        ValueError: No cut carries a map, or as for `explain`.
    """
    ask = _Ask.of(method, target, reshape_transform, False, False, options)
    inner, images = _prepared(model, images)
    if isinstance(layers, str) and layers not in ("stages", "blocks"):
        raise ValueError(f'layers={layers!r}: give "stages", "blocks" or a list of layers')
    with torch.inference_mode(False), torch.no_grad():
        links = _links(model, inner, images)
        if layers == "blocks" and links.depth < BLOCKS:
            links = links_of(inner, tuple(images.shape[1:]), depth=BLOCKS)
        wanted, skipped = _wanted(links, layers, reshape_transform)
        if ask.entry.needs in ("activations", "gradients") and ask.entry.gives == "map" and wanted is not None:
            found = _one_pass(links, images, wanted, ask)
        else:
            cuts = list(layers) if wanted is None else [len(links.names) - 1 - i for i in wanted]
            found = [_explain(links, images, cut, ask) for cut in cuts]
    return Sweep(tuple(found), tuple(skipped), type(links.model).__name__, links.stages, class_names(links.model))


def _wanted(links: Links, layers: Any, layout: Any) -> tuple[list[int] | None, list[tuple[Layer, str]]]:
    """The stages to explain after (None: not all of them are borders of the chain), and the others with the reason."""
    stages = links.stages
    if not isinstance(layers, str):
        if not layers:
            raise ValueError("layers=[] names no layer: give at least one")
        found = []
        for layer in layers:
            index = len(stages) - 1 - layer if isinstance(layer, int) and not isinstance(layer, bool) else None
            if isinstance(layer, str) and layer in links.names:
                index = links.names.index(layer)
            if index is None or not 0 <= index < len(stages) - 1 or (stages[index].layout is None and layout is None):
                return None, []  # `split` and `explain` have the words for what is wrong
            found.append(index)
        return sorted(dict.fromkeys(found)), []
    modules, _ = links.engine
    notes = {i: s.note for i, s in enumerate(stages[:-1])}
    for i in notes:
        if i and isinstance(modules[i], (nn.Identity, nn.Dropout)):  # in eval mode both hand on what they are handed
            notes[i] = notes[i] or f"the same as after {stages[i - 1].name}"
    usable = [i for i, note in notes.items() if stages[i].layout is not None and not note]
    skipped = [(Layer(stages[i].name, stages[i].layer_idx), note) for i, note in notes.items() if note]
    if not usable:
        why = "; ".join(f"{layer.name}: {note}" for layer, note in skipped)
        raise ValueError(f"no cut of {type(links.model).__name__} carries a map ({why or 'it has one stage'})")
    return usable, skipped


def _one_pass(links: Links, images: Tensor, wanted: list[int], ask: _Ask) -> list[Explanation]:
    modules, mutates = links.engine
    kept: dict[int, Tensor] = {}
    x: Any = images
    with torch.enable_grad():
        for i, module in enumerate(modules):
            x = module(x.clone() if kept and mutates[i] else x)  # a kept activation must stay as it is
            if i in wanted:
                kept[i] = x if kept else x.detach().requires_grad_()
                x = kept[i]
        logits = _columns(x)
        names = class_names(links.model)
        resolved = targets.resolve(_indexed(ask.target, links.model), logits.detach(), names)
        gradients: list[tuple[Tensor, ...]] = []
        for k, score in enumerate(resolved.scores):
            total = _score(score, logits).sum()
            gradients.append(
                torch.autograd.grad(
                    total, list(kept.values()), retain_graph=k + 1 < len(resolved.scores), materialize_grads=True
                )
            )
    found = []
    logits = logits.detach()
    pictures = _pictures(links.model, images)
    whole = (Stages(list(zip(links.names, modules, strict=True))),)
    _require_finite(logits, "the logits", whole, images)
    for n, (i, raw) in enumerate(kept.items()):
        stage = links.stages[i]
        layout = _layout(stage, raw, images, ask.layout)
        activations = layout.to_map(raw.detach())
        _require_finite(activations, f"the activations at '{stage.name}'", whole, images)
        if ask.entry.needs == "activations":
            maps = [ask.entry.function(activations, **ask.options)] * len(resolved.scores)
        else:
            maps = [ask.entry.function(activations, layout.to_map(g[n]), **ask.options) for g in gradients]
        one = torch.stack(maps, 1)
        _require_finite(one, f"the map at '{stage.name}'", whole, images)
        where = Layer(stage.name, stage.layer_idx)
        found.append(_result(links, images, logits, resolved, one, where, ask, pictures))
    return found
