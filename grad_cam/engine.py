"""The engine: one place that runs forward, target, gradient, layout and method, and the frozen result.

`explain` cuts the model, runs the extractor without a graph and the classifier with one, takes the gradient of the
score on the detached activation, and hands activations and gradients to a pure method. `sweep` does so at many cuts in
one forward and one backward pass. The model is never touched: everything runs on an eval copy of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import itertools
import math
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from . import layouts, targets
from .arguments import as_layer, check_images, check_model
from .errors import LayerError
from .introspection import unwrap
from .layouts import Layout
from .loading import class_names, preprocessing
from .methods import METHODS, Method, attention, find
from .methods import aug_smooth as _aug_smooth
from .methods import eigen_smooth as _eigen_smooth
from .methods import fuse as _fuse
from .methods.gradient import gradient_of, noisy_copies
from .outputs import Output
from .results import Explanation, Layer, Sweep
from .splitting import Chain
from .splitting.cuts import BLOCKS, Cut, Cutter, Taken
from .splitting.default import default_cut, inner_cuts, mark_dead
from .splitting.public import open_images, stages_of

if TYPE_CHECKING:
    pass
Target = Any
"""None (the predicted class), a class index or name, a list with one per image, `targets.top(k)`, or any callable
``logits (B, classes) -> score (B,)``."""


@dataclasses.dataclass
class _Pass:
    """One forward pass cut at one place, with what the methods ask of it."""

    cutter: Cutter
    cut: Cut
    layout: Layout
    raw: Tensor  # the activation as the model has it, a leaf
    logits: Tensor
    resolved: targets.Resolved
    names: list[str] | None

    @property
    def images(self) -> Tensor:
        return self.cutter.images

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
                gradient = self.cutter.gradients(total, [self.raw], keep_graph=k + 1 < len(scores))[0]
            _require_finite(gradient, f"the gradient at '{self.cut.name}'", self.cutter)
            out.append(self.layout.to_map(gradient))
        return out

    @functools.cached_property
    def _classifier(self) -> Callable[[Tensor, Tensor], Tensor]:
        return self.cutter.tail(self.cut, self.raw.detach(), self.logits.detach())

    def tail(self, maps: Tensor, index: Tensor | None = None) -> Tensor:
        """Logits of activations given as maps (N,C,h,w) whose rows belong to the images `index` (default: in order)."""
        if index is None:
            index = torch.arange(len(self.raw), device=self.raw.device)
        raw = self.layout.from_map(maps, self.raw.detach()[index])
        return self._classifier(raw, index)

    def whole(self, images: Tensor, index: Tensor) -> Tensor:
        """Logits of images."""
        with torch.no_grad():
            return self.cutter.forward(images)


def _score(score: targets.Score, logits: Tensor, rows: Tensor | None = None) -> Tensor:
    """The score (N,), computed in float32 at least."""
    return score(logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits, rows)


def _forward(
    cutter: Cutter, cut: Cut, layout: Any, target: Target | targets.Resolved, names: list[str] | None,
    taken: Taken | None = None,
) -> _Pass:  # fmt: skip
    taken = cutter.take([cut], by_image=layout is None) if taken is None else taken
    activation, logits = taken.activations[0], taken.logits
    found = _layout(cutter, cut, activation, layout)
    resolved = target if isinstance(target, targets.Resolved) else targets.resolve(target, logits.detach(), names)
    out = _Pass(cutter, cut, found, activation, logits, resolved, names)
    _require_finite(logits.detach(), "the logits", cutter)
    return out


def _layout(cutter: Cutter, cut: Cut, activation: Tensor, asked: Any) -> Layout:
    reading = cutter.reading(cut) if asked is None or isinstance(asked, str) else None
    if asked is not None:
        prefix = reading.layout.prefix if reading is not None and reading.layout is not None else None
        return layouts.named(asked, activation.detach(), cutter.record.positions.size, prefix, len(cutter.images))
    assert reading is not None
    if reading.layout is None or reading.layout.grid == (1, 1):
        raise layouts.LayoutError(
            f"no map can be drawn after '{cut.name}': {reading.note or '1x1'}", f"activation {tuple(activation.shape)}",
            "choose another layer (see print(grad_cam.chain(model))) or give reshape_transform",
        )  # fmt: skip
    return reading.layout


def _require_finite(values: Tensor, what: str, cutter: Cutter) -> None:
    """Raises ValueError that says where NaN or infinite values come from."""
    if bool(torch.isfinite(values.sum(dtype=torch.float32))) or bool(torch.isfinite(values).all()):
        return  # a finite sum says that all are; a sum may overflow without a culprit
    if not bool(torch.isfinite(cutter.images).all()):
        raise ValueError("the images hold NaN or infinite values; check their preprocessing")
    for name, tensor in (*cutter.model.named_parameters(), *cutter.model.named_buffers()):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(
                f"{what} hold NaN or infinite values: the weights '{name}' already do; reload the checkpoint"
            )
    where = cutter.first_not_finite()
    if where:
        raise ValueError(
            f"{what} hold NaN or infinite values: they appear first after {where}; "
            "try float32, or check the input's range"
        )
    raise ValueError(f"{what} hold NaN or infinite values")


def _prepared(model: nn.Module, images: Tensor) -> tuple[nn.Module, Tensor]:
    """Checks the images and puts them where the model is."""
    if not isinstance(model, nn.Module):
        check_model(model)
    inner = unwrap(model.model if isinstance(model, Chain) else model)
    images = check_images(images).detach()
    if any(p.is_meta for p in itertools.islice(inner.parameters(), 1)):
        check_model(inner)
    if images.is_inference():
        images = images.clone()
    weight = next((p for p in inner.parameters() if p.is_floating_point()), None)
    if weight is not None and (images.device != weight.device or images.dtype != weight.dtype):
        images = images.to(device=weight.device, dtype=weight.dtype)
    return inner, images


def _cutter(model: nn.Module, inner: nn.Module, images: Tensor, output: Output, depth: int = 1) -> Cutter:
    """What cuts a model for these images; `layer_idx` counts in the chain given, if one is."""
    if isinstance(model, Chain):
        depth, output = max(depth, model.depth), model.output if output is None else output
    return open_images(inner, images, output, depth)


_PREPARED: weakref.WeakKeyDictionary[nn.Module, dict[Any, Any]] = weakref.WeakKeyDictionary()


def _pictures(model: nn.Module, images: Tensor) -> NDArray[np.uint8]:
    """What the model saw, for display; how it was normalised is worked out once per model and size."""
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
    output: Output = None,
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
        output: Which part of what the model returns are the logits, where that is not plain: a key or attribute, an
            index, or a callable from what the model returns to the logits.
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
        cutter = _cutter(model, inner, images, output)
        if not several:
            return cutter.retrying(lambda: _explain(cutter, layer, ask))
        assert isinstance(layer, (list, tuple))
        if not layer:
            raise ValueError("layer=[] names no layer: give at least one")
        each = [cutter.retrying(lambda one=one: _explain(cutter, one, ask)) for one in layer]
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


def _explain(cutter: Cutter, layer: Any, ask: _Ask) -> Explanation:
    images = cutter.images
    cut = layer if isinstance(layer, Cut) else None
    if cut is None:
        cut = default_cut(cutter) if layer is None else cutter.cut(as_layer(layer))
    names = class_names(cutter.model)
    target = ask.target
    where = Layer(cut.name, cut.layer_idx)
    if ask.entry.needs == "images":
        where = Layer("the input", None)
    if ask.entry.needs in _WHOLE:
        where = Layer("the whole network", None)
        captured = _captured(cutter, cut, images) if ask.entry.needs == "attention" else None
        with torch.no_grad():
            logits = captured[0].detach() if captured else cutter.forward(images)

        def maps_of(changed: Tensor, resolved: targets.Resolved) -> Tensor:
            return _whole_maps(cutter, cut, ask, changed, resolved, captured if changed is images else None)

        _require_finite(logits, "the logits", cutter)
        resolved = targets.resolve(target, logits, names)
    else:
        run = _forward(cutter, cut, ask.layout, target, names)
        if ask.entry.gives == "concepts":
            return _concepts(run, ask)
        logits, resolved = run.logits, run.resolved

        def maps_of(images: Tensor, resolved: targets.Resolved) -> Tensor:
            if images is run.images:
                return _maps(run, ask)
            return _maps(_forward(cutter.for_images(images), cut, ask.layout, resolved, names), ask)

    if ask.aug_smooth:
        maps = _aug_smooth(lambda changed: maps_of(changed, resolved), images)
    else:
        maps = maps_of(images, resolved)
    _require_finite(maps, "the map", cutter)
    return _result(cutter, logits, resolved, maps, where, ask)


_WHOLE = ("attention", "block_attention", "network", "network_cam")
"""Needs of the methods that read the whole network and know no cut."""


def _grid(cutter: Cutter, cut: Cut) -> tuple[int, int]:
    """Height and width of the grid of positions at a cut."""
    reading = cutter.reading(cut)
    if reading.layout is None:
        raise layouts.LayoutError(f"no grid of positions is known at '{cut.name}': {reading.note}")
    return reading.layout.grid


def _captured(cutter: Cutter, cut: Cut, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the attention they were computed with, in one graph."""
    grid = _grid(cutter, cut)
    with torch.enable_grad(), attention.Capture(len(images), math.prod(grid)) as capture:
        logits = cutter.forward(images)
    return logits, capture.attentions()


def _whole_maps(
    cutter: Cutter,
    cut: Cut,
    ask: _Ask,
    images: Tensor,
    resolved: targets.Resolved,
    captured: tuple[Tensor, list[Tensor]] | None = None,
) -> Tensor:
    """The maps of methods that read the whole network, (B,K,h,w)."""
    entry, options = ask.entry, dict(ask.options)
    scores = [functools.partial(_score, score) for score in resolved.scores]
    if entry.needs in ("network", "network_cam"):
        extra: list[tuple[Tensor, ...]] = [()] * len(scores)
        if entry.needs == "network_cam":
            cam = dataclasses.replace(ask, entry=METHODS["grad_cam"], options={})
            there = cutter if images is cutter.images else cutter.for_images(images)
            maps = _maps(_forward(there, cut, ask.layout, resolved, None), cam)
            extra = [(one,) for one in maps.unbind(1)]
        if "grid" in inspect.signature(entry.function).parameters and cutter.reading(cut).layout is not None:
            options = {"grid": _grid(cutter, cut), **options}
        return torch.stack(
            [
                entry.function(images, lambda x, s=s: s(cutter.forward(x)), *more, **options)
                for s, more in zip(scores, extra, strict=True)
            ],
            1,
        )
    grid = _grid(cutter, cut)
    if entry.needs == "block_attention":
        stages = cutter.for_images(images).stages(BLOCKS)
        attentions, each = attention.block_gradients(stages, images, scores, math.prod(grid))
        return torch.stack([entry.function(attentions, g, grid, **options) for g in each], 1)
    maps = []
    with torch.enable_grad():
        logits, seen = captured or _captured(cutter, cut, images)
        for k, score in enumerate(scores):
            gradients = attention.gradients(score(logits), seen, keep_graph=k + 1 < len(scores))
            maps.append(entry.function([a.detach() for a in seen], gradients, grid, **options))
    return torch.stack(maps, 1)


def _result(
    cutter: Cutter,
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
        images=cutter.images,
        pictures=_pictures(cutter.model, cutter.images) if pictures is None else pictures,
    )


def _maps(run: _Pass, ask: _Ask) -> Tensor:
    """The maps of all targets, (B,K,h,w)."""
    entry, options, scores = ask.entry, dict(ask.options), run.resolved.scores
    activations = run.activations
    _require_finite(activations, f"the activations at '{run.cut.name}'", run.cutter)
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
                there = run.cutter.for_images(copy)
                yield _forward(there, run.cut, ask.layout, only, run.names).gradients()[0]

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


def _concepts(run: _Pass, ask: _Ask) -> Explanation:
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
        layer=Layer(run.cut.name, run.cut.layer_idx), method=ask.entry.name, images=run.images,
        pictures=_pictures(run.cutter.model, run.images),
    )  # fmt: skip


def _fused(each: list[Explanation], how: str) -> Explanation:
    name = "+".join(e.layer.name for e in each)
    joined = _fuse([e.map for e in each], how)  # type: ignore[arg-type]
    return dataclasses.replace(each[-1], map=joined, layer=Layer(name, None), method=f"{each[-1].method}, {how}")


def sweep(
    model: nn.Module,
    images: Tensor,
    *,
    layers: str | Sequence[int | str | nn.Module] = "auto",
    target: Target = None,
    method: str = "grad_cam",
    reshape_transform: str | Callable[[Tensor], Tensor] | None = None,
    output: Output = None,
    **options: Any,
) -> Sweep:
    """Explains a model at many cuts, in one forward and one backward pass.

    The activation of every cut is kept and the gradient of the score is taken on all of them at once, so memory grows
    with the number of layers asked for. Methods that need more than activations and gradients are run cut by cut.

    Args:
        model: As for `explain`.
        images: As for `explain`.
        layers: "auto" (the blocks where there are any, else the stages), "stages" (top-level children), "blocks" (the
            blocks inside them), or a list of layers as for `explain`.
        target: As for `explain`.
        method: A name from `METHODS`.
        reshape_transform: As for `explain`, used at every cut.
        output: As for `explain`.
        **options: The method's own settings.

    Returns:
        A `Sweep`: the explanations in order of depth.

    Raises:
        ValueError: No cut carries a map, or as for `explain`.
    """
    ask = _Ask.of(method, target, reshape_transform, False, False, options)
    inner, images = _prepared(model, images)
    if isinstance(layers, str) and layers not in ("auto", "stages", "blocks"):
        raise ValueError(f'layers={layers!r}: give "auto", "stages", "blocks" or a list of layers')
    with torch.inference_mode(False), torch.no_grad():
        cutter = _cutter(model, inner, images, output)
        if isinstance(layers, str):
            depth, cuts, skipped = _depth(cutter, layers)
        else:
            if not layers:
                raise ValueError("layers=[] names no layer: give at least one")
            listed = {c.value: c for c in (cutter.cut(as_layer(layer)) for layer in layers)}
            depth, cuts, skipped = cutter.depth, sorted(listed.values(), key=lambda c: c.position), []
        if ask.entry.needs in ("activations", "gradients") and ask.entry.gives == "map":
            found = cutter.retrying(lambda: _one_pass(cutter, cuts, ask))
        else:
            found = [cutter.retrying(lambda cut=cut: _explain(cutter, cut, ask)) for cut in cuts]
        stages = stages_of(cutter, depth)
    return Sweep(tuple(found), tuple(skipped), type(cutter.model).__name__, stages, class_names(cutter.model))


def _depth(cutter: Cutter, layers: str) -> tuple[int, list[Cut], list[tuple[Layer, str]]]:
    """The depth that a sweep goes through, its cuts that carry a map, and the others with the reason."""
    if layers == "stages":
        depths = [cutter.depth]
    else:
        depths = [max(BLOCKS, cutter.depth)]
    if layers == "auto":
        depths += [1]
    reasons: list[str] = []
    for depth in depths:
        cuts, skipped = _with_maps(cutter, depth)
        if cuts:
            return depth, cuts, skipped
        reasons += [f"{layer.name}: {note}" for layer, note in skipped]
    if layers == "auto":  # branches that share no border: their modules
        inner = list(reversed(inner_cuts(cutter)))
        mark_dead(cutter, [(c, cutter.reading(c).layout) for c in inner])
        cuts = [c for c in inner if not cutter.record.dead.get(c.value, False)]
        if cuts:
            return depths[0], cuts, []
    inside = default_cut(cutter)  # a model of one stage, or whose borders carry none
    raise LayerError(
        f"no {'block' if layers == 'blocks' else 'stage'} of {type(cutter.model).__name__} carries a map",
        "; ".join(dict.fromkeys(reasons)) or "it has one stage",
        f'layers="blocks" or layers=["{inside.name}"]' if layers == "stages" else f'layers=["{inside.name}"]',
    )


def _with_maps(cutter: Cutter, depth: int) -> tuple[list[Cut], list[tuple[Layer, str]]]:
    borders = cutter.borders_at(depth)
    cuts, skipped, values = [], [], {}
    for before, border in zip((None, *borders), borders[:-1], strict=False):
        cut = cutter.at_border(border)
        reading = cutter.reading(cut)
        note = reading.note
        if before is not None and cutter.record.plan.is_unchanged(before, border):
            note = note or f"the same as after {values.get(border.value, before.name)}"
        values.setdefault(border.value, border.name)
        if note or reading.layout is None:
            skipped.append((Layer(cut.name, cut.layer_idx), note))
        else:
            cuts.append((cut, reading.layout))
    mark_dead(cutter, cuts)
    alive = [cut for cut, _ in cuts if not cutter.record.dead.get(cut.value, False)]
    dead = [(Layer(cut.name, cut.layer_idx), "gradient at the patches is zero") for cut, _ in cuts if cut not in alive]
    return alive, [*skipped, *dead]


def _one_pass(cutter: Cutter, cuts: list[Cut], ask: _Ask) -> list[Explanation]:
    taken = cutter.take(cuts, by_image=ask.layout is None)
    names = class_names(cutter.model)
    logits = taken.logits
    resolved = targets.resolve(ask.target, logits.detach(), names)
    _require_finite(logits.detach(), "the logits", cutter)
    found = [_layout(cutter, cut, raw, ask.layout) for cut, raw in zip(cuts, taken.activations, strict=True)]
    gradients: list[list[Tensor]] = []
    if ask.entry.needs == "gradients":
        with torch.enable_grad():
            for k, score in enumerate(resolved.scores):
                total = _score(score, logits).sum()
                keep = k + 1 < len(resolved.scores)
                gradients.append(cutter.gradients(total, taken.activations, keep_graph=keep))
    pictures = _pictures(cutter.model, cutter.images)
    explained = []
    for n, (cut, raw, layout) in enumerate(zip(cuts, taken.activations, found, strict=True)):
        activations = layout.to_map(raw.detach())
        _require_finite(activations, f"the activations at '{cut.name}'", cutter)
        if ask.entry.needs == "activations":
            maps = [ask.entry.function(activations, **ask.options)] * len(resolved.scores)
        else:
            maps = [ask.entry.function(activations, layout.to_map(g[n]), **ask.options) for g in gradients]
        one = torch.stack(maps, 1)
        _require_finite(one, f"the map at '{cut.name}'", cutter)
        explained.append(_result(cutter, logits, resolved, one, Layer(cut.name, cut.layer_idx), ask, pictures))
    return explained
