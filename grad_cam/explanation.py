"""The engine: one place that runs forward, target, gradient, layout and method, and the frozen result.

`explain` cuts the model, runs the extractor without a graph and the classifier with one, takes the gradient of the
score on the detached activation, and hands activations and gradients to a pure method. `sweep` does so at many cuts in
one forward and one backward pass. The model is never touched: everything runs on its `shadow`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from . import layouts, metrics, rendering, targets
from .layouts import Layout
from .methods import METHODS, Method
from .splitting import Chain, Split, chain, input_channels
from .tracing import logits_of, unwrap

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

    map: Tensor
    logits: Tensor
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
        return f"{self.target[image][target]}{self._confidence(image, target)}\n{self.method} at {self.layer}"

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
        return [
            rendering.save(self.figure(b, k, **display), name) for (b, k), name in zip(pairs, names, strict=True)
        ]

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
        if self.classes is None or self.logits.ndim != 2 or self.logits.shape[1] < 2:
            return ""
        probability = self.logits[image].float().softmax(-1)[self.classes[image, target]]
        return f", {100 * float(probability):.0f} %"


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
            _require_finite(gradient, f"the gradient at '{self.split.name}'", self)
            out.append(self.layout.to_map(gradient))
        return out

    def tail(self, maps: Tensor, index: Tensor | None = None) -> Tensor:
        """Logits of activations given as maps (N,C,h,w) whose rows belong to the images `index` (default: in order)."""
        like = self.raw.detach() if index is None else self.raw.detach()[index]
        raw = self.layout.from_map(maps, like)
        context = self.context if index is None else tuple(c[index] if len(c) == len(self.raw) else c for c in self.context)
        return _classify(self.split, raw, context)


def _score(score: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    values = score(logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits)
    if not isinstance(values, Tensor) or values.shape != (len(logits),):
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"the target returned {got}; it has to turn logits {tuple(logits.shape)} into a score ({len(logits)},)")
    return values


def _classify(split: Split, activation: Tensor, context: tuple[Tensor, ...]) -> Tensor:
    if split.mutates:  # an in-place operation follows the cut: it gets a copy
        activation, context = activation.clone(), tuple(c.clone() for c in context)
    return split.engine[1]((activation, *context) if context else activation)


def _forward(split: Split, images: Tensor, layout: str | Callable[[Tensor], Tensor] | None, target: Target, names: Any) -> _Pass:
    with torch.no_grad():
        handed = split.engine[0](images)
    activation, context = (handed[0], tuple(handed[1:])) if isinstance(handed, tuple) else (handed, ())
    found = _layout(split, activation, images, layout)
    activation = activation.detach()
    if activation.is_floating_point():
        activation.requires_grad_()
    with torch.enable_grad():
        logits = _classify(split, activation, context)
    logits = logits if logits.ndim > 1 else logits[:, None]
    resolved = targets.resolve(target, logits.detach(), names)
    out = _Pass(split, images, found, activation, context, logits, resolved)
    _require_finite(logits.detach(), "the logits", out)
    return out


def _layout(split: Split, activation: Tensor, images: Tensor, asked: Any) -> Layout:
    if asked is not None:
        size = (images.shape[-2], images.shape[-1])
        prefix = split.layout.prefix if split.layout is not None else None
        return layouts.named(asked, activation, size, prefix)
    if split.layout is None:
        raise layouts.LayoutError(
            f"no map can be drawn after '{split.name}': {split.note} (activation {tuple(activation.shape)}); choose another "
            "layer (see print(grad_cam.chain(model))) or give reshape_transform"
        )
    return split.layout


def _require_finite(values: Tensor, what: str, at: _Pass) -> None:
    if bool(torch.isfinite(values).all()):
        return
    if not bool(torch.isfinite(at.images).all()):
        raise ValueError("the images hold NaN or infinite values; check their preprocessing")
    for half in at.split.engine:
        for name, tensor in (*half.named_parameters(), *half.named_buffers()):
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"{what} hold NaN or infinite values: the weights '{name}' already do; reload the checkpoint")
    with torch.no_grad():
        x: Any = at.images
        for half in at.split.engine:
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
            f"images must be a tensor (B, C, H, W), got {type(images).__name__}; for files and pictures use grad_cam.GradCAM"
        )
    if images.ndim != 4 or 0 in images.shape:
        hint = "; add the batch axis with images[None]" if images.ndim == 3 else ""
        raise ValueError(f"images must be a batch (B, C, H, W), got shape {tuple(images.shape)}{hint}")
    if not images.is_floating_point():
        raise ValueError(f"images must be floating point and normalised as the model expects, got {images.dtype}")
    channels = input_channels(inner)
    if images.shape[1] != channels:
        raise ValueError(f"{type(inner).__name__} takes {channels} channels, got images of shape {tuple(images.shape)}")
    weight = next((p for p in inner.parameters() if p.is_floating_point()), None)
    images = images.detach()
    if images.is_inference():
        images = images.clone()
    if weight is not None and (images.device != weight.device or images.dtype != weight.dtype):
        images = images.to(device=weight.device, dtype=weight.dtype)
    return inner, images


def _chain_for(model: nn.Module, inner: nn.Module, images: Tensor) -> Chain:
    size = (int(images.shape[-2]), int(images.shape[-1]))
    if isinstance(model, Chain):
        return model if model.size == size else chain(inner, size, depth=model.depth)
    return chain(inner, size)


def class_names(model: nn.Module) -> list[str] | None:
    """The names of a model's classes if they are known (see `zoo.labels`)."""
    from . import zoo

    return zoo.labels(model)


def _pictures(model: nn.Module, images: Tensor) -> NDArray[np.uint8]:
    from .images import preprocessing

    size = (int(images.shape[-2]), int(images.shape[-1]))
    return preprocessing(model, size).pictures(images.float().cpu())


def explain(
    model: nn.Module,
    images: Tensor,
    *,
    layer: int | str | nn.Module | Sequence[Any] | None = None,
    target: Target = None,
    method: str = "grad_cam",
    reshape_transform: str | Callable[[Tensor], Tensor] | None = None,
    **options: Any,
) -> Explanation | list[Explanation]:
    """Explains what a model saw in a batch of images.

    Args:
        model: Any image classifier, or a `Chain` of one. It is left exactly as found and explained in eval mode.
        images: (B, C, H, W), normalised as the model expects; moved to the model's device and dtype.
        layer: Where to cut: layer_idx, module path or module (see `split`); a list gives one explanation each. None
            takes the last cut with a spatial grid whose gradient reaches the grid.
        target: What to explain: None (the predicted class), class index or name, a list with one per image,
            `targets.top(k)`, or a callable from logits (B, classes) to scores (B,).
        method: A name from `METHODS`.
        reshape_transform: Layout of the activation if it is not found by itself: "NCHW", "NHWC", "tokens", or a callable
            from the activation to (B, C, H, W).
        **options: The method's own settings, such as `chunk` for perturbation methods.

    Returns:
        A frozen `Explanation`; a list of them for a list of layers.

    Raises:
        ValueError: No such layer, method or class; images that do not fit; NaN in weights or activations.
        SplitError: The model cannot be cut exactly there.
    """
    entry = _method(method)
    inner, images = _prepared(model, images)
    with torch.inference_mode(False), torch.no_grad():
        links = _chain_for(model, inner, images)
        if isinstance(layer, (list, tuple)):
            return [
                _explain(links, images, one, target, entry, reshape_transform, options) for one in layer
            ]
        return _explain(links, images, layer, target, entry, reshape_transform, options)


def _method(name: str) -> Method:
    if name not in METHODS:
        import difflib

        close = difflib.get_close_matches(str(name), METHODS, n=3, cutoff=0.4)
        hint = f"; closest: {', '.join(close)}" if close else ""
        raise ValueError(f"there is no method {name!r}{hint}; grad_cam.METHODS lists all {len(METHODS)}")
    return METHODS[name]


def _explain(links: Chain, images: Tensor, layer: Any, target: Target, entry: Method, layout: Any, options: dict[str, Any]) -> Explanation:
    cut = links.default_split() if layer is None else links.split(layer)
    run = _forward(cut, images, layout, target, class_names(links.model))
    maps = torch.stack(_maps(entry, run, options), dim=1)  # (B,K,h,w)
    return _result(links, run, maps, entry.name)


def _result(links: Chain, run: _Pass, maps: Tensor, method: str) -> Explanation:
    maps = maps.detach()
    if not run.resolved.several:
        maps = maps[:, 0]
    return Explanation(
        map=maps, logits=run.logits.detach(), target=run.resolved.names, classes=run.resolved.classes,
        layer=Layer(run.split.name, run.split.layer_idx), method=method, images=run.images,
        pictures=_pictures(links.model, run.images),
    )  # fmt: skip


def _maps(entry: Method, run: _Pass, options: dict[str, Any]) -> list[Tensor]:
    """The map of every target: K times (B,h,w)."""
    activations = run.activations
    _require_finite(activations, f"the activations at '{run.split.name}'", run)
    return [entry.function(activations, gradient, **options) for gradient in run.gradients()]
