"""The engine: a request becomes passes through the model, a pass becomes maps, maps become frozen results.

`explain` and `sweep` share one path: the model is cut at some places, run forward once, the score is differentiated
there, and the method gets the ingredients that its parameters name (see `ingredients`). The model is never touched:
everything runs on an eval copy of it.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn

from . import automatic, targets
from .arguments import ArgumentTypeError, as_layer, check_images, check_model
from .depths import WHOLE, depth_of, empty_cuts
from .detections import seen_size
from .differentiable import LiveForward, LivePass, check_differentiable
from .errors import LayerError
from .habits import answered
from .ingredients import Forward, Pass
from .inputs import Inputs
from .introspection import is_multi_label, matched_to
from .loading import class_names
from .loading.geometry import check_geometry
from .loading.normalisation import warn_if_unnormalised
from .methods import METHODS, Method
from .methods import aug_smooth as _aug_smooth
from .methods import fuse as _fuse
from .methods.chunks import Progress, Score
from .methods.combinators import Fusion
from .methods.factorization import Factorization
from .outliers import outliers_at
from .outputs import Output
from .predictions import class_label
from .requests import AnyLayer, AnyMethod, Geometries, Layers, Request, Reshape, Target, check_volume, part_of
from .results import Explanation, Layer, Sweep
from .rules.ledger import warn_of_gaps
from .seen import Seen, seen_of
from .splitting import Chain
from .splitting.cuts import Cutter
from .splitting.default import default_cut
from .splitting.plan import Cut
from .splitting.public import network_of, open_images, stages_of
from .towers import with_tower
from .volumes import VolumeExplanation


def _prepared(model: nn.Module, images: Tensor, live: bool = False) -> tuple[nn.Module, Tensor]:
    """Checks the images and puts them where the model is."""
    if not isinstance(model, nn.Module):
        if isinstance(images, nn.Module):
            raise ArgumentTypeError("model and images are swapped", remedy="write explain(model, images)")
        check_model(model)
    inner = network_of(model)
    images = check_images(images) if live else check_images(images).detach()
    if any(p.is_meta for p in itertools.islice(inner.parameters(), 1)):
        check_model(inner)
    if images.is_inference():
        images = images.clone()
    return inner, matched_to(inner, images)


def _cutter(model: nn.Module, inner: nn.Module, images: Tensor, output: Output, inputs: Inputs) -> Cutter:
    """What cuts a model for these images; in a `Chain` its own stages are counted."""
    if not isinstance(model, Chain):
        return open_images(inner, images, output, 1, inputs)
    output = model.output if output is None else output
    return open_images(inner, images, output, model.depth, model.inputs if inputs is None else inputs)


# ------------------------------------------------------------------------------------------------------------- explain


@overload
def explain(
    model: nn.Module, images: Tensor, *, layer: Layers, target: Target = None,
    method: AnyMethod | None = None, reshape_transform: Reshape = None, fuse: None = None, aug_smooth: bool = False,
    eigen_smooth: bool = False, output: Output = None, inputs: Inputs = None, rules: str | None = None,
    residual: float = 0.0, differentiable: bool = False, geometry: Geometries = None,
    progress: Progress | None = None, **options: Any,
) -> list[Explanation]: ...  # fmt: skip
@overload
def explain(
    model: nn.Module, images: Tensor, *, layer: Layers, target: Target = None,
    method: AnyMethod | None = None, reshape_transform: Reshape = None, fuse: Fusion, aug_smooth: bool = False,
    eigen_smooth: bool = False, output: Output = None, inputs: Inputs = None, rules: str | None = None,
    residual: float = 0.0, differentiable: bool = False, geometry: Geometries = None,
    progress: Progress | None = None, **options: Any,
) -> Explanation: ...  # fmt: skip
@overload
def explain(
    model: nn.Module, images: Tensor, *, layer: AnyLayer | None = None, target: Target = None,
    method: AnyMethod | None = None, reshape_transform: Reshape = None, fuse: None = None, aug_smooth: bool = False,
    eigen_smooth: bool = False, output: Output = None, inputs: Inputs = None, rules: str | None = None,
    residual: float = 0.0, differentiable: bool = False, geometry: Geometries = None,
    progress: Progress | None = None, **options: Any,
) -> Explanation: ...  # fmt: skip
@answered
def explain(
    model: nn.Module, images: Tensor, *, layer: AnyLayer | Layers | None = None, target: Target = None,
    method: AnyMethod | None = None, reshape_transform: Reshape = None, fuse: Fusion | None = None,
    aug_smooth: bool = False, eigen_smooth: bool = False, output: Output = None, inputs: Inputs = None,
    rules: str | None = None, residual: float = 0.0, differentiable: bool = False, geometry: Geometries = None,
    progress: Progress | None = None, **options: Any,
) -> Explanation | list[Explanation]:  # fmt: skip
    """Explains what a model saw in a batch of images.

    Args:
        model: Any image classifier, or a `Chain` of one. It is left exactly as found and explained in eval mode.
        images: (B, C, H, W), normalised as the model expects; moved to the model's device and dtype.
        layer: Where to cut: layer_idx, module path or module (see `split`); a list gives one explanation each. With a
            method, None takes the last cut with a spatial grid whose gradient reaches the grid. Methods that read the
            images alone or the whole network have no layer.
        target: What to explain: None (the predicted class), class index or name, a list with one per image (or one list
            per image), `targets.top(k)`, or a callable from logits (B, classes) to scores (B,).
        method: A name or title from `METHODS`, or a function whose positional parameters are named after ingredients
            (`methods.INGREDIENTS`), such as ``lambda activations, gradients: (activations * gradients).sum(1)``.
            None is "auto", what measured best within `cost` ("tail", "pass" or "unlimited"; see `automatic`), or
            "grad_cam" where a layer, rules or other settings of a method are given.
        reshape_transform: Layout of the activation if it is not found by itself: "NCHW", "NHWC", "tokens", or a
            callable from the activation to (B, C, H, W).
        fuse: With a list of layers: join their maps into one, "mean", "max" or "product".
        aug_smooth: Average over mirrored and brightened copies of the images.
        eigen_smooth: First principal component of the method's terms instead of their sum.
        output: Which part of what the model returns are the logits, where that is not plain: a key or attribute, an
            index, or a callable from what the model returns to the logits.
        inputs: What the model takes besides the images: ``{"name": value}``, or a tuple in the order of its arguments;
            ``...`` stands where the images go, if that is not the first argument left (or ``pixel_values``). Tensors
            with as many rows as there are images have a row for each of them.
        rules: "balanced" takes the gradient by rules under which maps add up: at every cut the HiResCAM map and
            the ledger (`Explanation.ledger`) sum to the score. For methods that read gradients at a cut, and FullGrad.
            None takes PyTorch's own.
        residual: With rules: strength of the rule for residual additions, under which branches that cancel pass on
            little; 0 is the plain sum, 1.0 is what is recommended. At a cut inside a residual branch the other branch
            is a constant of the map, so that the rule does not act on the addition that joins them.
        differentiable: Keep the graph in `map` and `logits`, to the model's parameters and to images that ask for a
            gradient, so that a loss on the map trains the model. The model runs in eval mode all the same. For gradient
            methods of one pass; memory and time are those of a second derivative.
        geometry: Where the images lie in their originals, for `Explanation.to_original`: what
            `Preprocessing.geometry(photo)` gives, one or a list with one per image.
        progress: Called by perturbation methods as (done, total), in perturbed copies scored.
        **options: The method's own settings, such as `chunk` for perturbation methods.

    Returns:
        A frozen `Explanation`; a list of them for a list of layers that is not fused.

    Raises:
        ValueError: No such layer, method or class; images that do not fit; NaN in weights or activations; a method that
            does not fit the model or the cut.
        SplitError: The model cannot be cut exactly there.
    """
    named = automatic.method_for(
        method, layer, options, reshape_transform, fuse, eigen_smooth, rules, residual, differentiable
    )
    model, target, output = with_tower(model, images, target, output)
    request = Request.of(
        "explain", named, target, reshape_transform, fuse, aug_smooth, eigen_smooth, progress, output,
        rules, residual, inputs, **options,
    )  # fmt: skip
    several = isinstance(layer, (list, tuple))
    if fuse is not None and not several:
        raise ValueError(f"fuse={fuse!r} joins the maps of several layers: give layer=[...]")
    if several and not layer:
        raise ValueError("layer=[] names no layer: give at least one")
    inner, images = _prepared(model, images, differentiable)
    if differentiable:
        request = dataclasses.replace(request, differentiable=True)
        check_differentiable(request, images, inner.parameters())
    request = dataclasses.replace(request, geometry=check_geometry(geometry, len(images), images.ndim - 2))
    warn_if_unnormalised(inner, images.detach())
    with torch.inference_mode(False), torch.no_grad():
        cutter = _cutter(model, inner, images.detach(), output, inputs)
        cuts = _cuts(cutter, request.method, layer)
        cutter.images = images
        found = _explained(cutter, cuts, request)
    if method is None and named == "auto" and not options:
        automatic.announce(found[0])
    return found if several and fuse is None else found[0]


@answered
def score_function(
    model: nn.Module, images: Tensor, target: Target = None, *, output: Output = None, inputs: Inputs = None
) -> Score:
    """Makes the function that metrics score versions of images with.

    Args:
        model: As for `explain`.
        images: As for `explain`; the target is fixed on them.
        target: As for `explain`.
        output: As for `explain`.
        inputs: As for `explain`.

    Returns:
        A function from images (N, C, H, W), and for each the number of the image (N,) that it is a version of, to
        scores (N, K), without a graph.
    """
    model, target, output = with_tower(model, images, target, output)
    inner, images = _prepared(model, images)
    with torch.inference_mode(False), torch.no_grad():
        cutter = _cutter(model, inner, images, output, inputs)
        names = class_names(cutter.model)
        forward = Forward(cutter, [], METHODS["occlusion"], lambda z: targets.resolve(target, z, names, _size(images)))
        score = Pass(forward).score
        forward.targets  # noqa: B018 (a target that does not fit is refused now)

    def scores(versions: Tensor, index: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            return score(versions.to(images), index.to(images.device))

    return scores


def _cuts(cutter: Cutter, method: Method, layer: Any) -> list[Cut]:
    """The cuts that layers mean; none for a method without a layer."""
    if method.scope == "layer":
        return [_cut(cutter, one) for one in (layer if isinstance(layer, (list, tuple)) else [layer])]
    if layer is not None:
        raise LayerError(
            f"{method.title} {_READS[method.scope]}, so that there is no layer to choose", f"layer={layer!r}"[:80],
            "leave layer out",
        )  # fmt: skip
    return []


def _cut(cutter: Cutter, layer: Any) -> Cut:
    found = as_layer(layer)
    return default_cut(cutter) if found is None else cutter.cut(found)


_READS = {"input": "reads the images alone", "network": "reads the whole network"}
_NO_LAYER = {"input": Layer("the input", None), "network": Layer("the whole network", None)}


# ------------------------------------------------------------------------------------------------------ the shared path


def _explained(cutter: Cutter, cuts: Sequence[Cut], request: Request) -> list[Explanation]:
    """An explanation for each cut (one if the method has no layer), or the one they are fused into."""
    if request.method.name == "auto":
        return [automatic.explained(cutter, request, _explained)]
    found: dict[int, Explanation] = {}
    check_volume(request, cutter.images)
    seen = seen_of(cutter.model, cutter.images, request.geometry)
    groups = _groups(cuts, request)
    for i, group in enumerate(groups):
        each = dataclasses.replace(request, progress=part_of(request.progress, i, len(groups)))
        results = cutter.retrying(functools.partial(_of_one_run, cutter, [cuts[n] for n in group], each, seen))
        found.update(zip(group or [0], results, strict=True))
    explanations = [found[n] for n in sorted(found)]
    if request.rules is not None:
        warn_of_gaps([(e.layer.name, e.balance) for e in explanations if e.balance is not None], cutter.images.dtype)
    return explanations if request.fuse is None else [_fused(explanations, request.fuse)]


def _groups(cuts: Sequence[Cut], request: Request) -> list[list[int]]:
    """The numbers of the cuts that one forward pass serves: all of them, as far as method and model allow."""
    if not request.method.one_pass or request.method.gives != "map":
        return [[n] for n in range(len(cuts))] or [[]]
    # a ledger books what crosses a cut beside the activation as constant, which in another cut's graph it is not
    alone = [n for n, cut in enumerate(cuts) if cut.point is None or (request.rules is not None and cut.context)]
    together = [n for n in range(len(cuts)) if n not in alone]
    return [*([together] if together else []), *([n] for n in alone)]


def _of_one_run(cutter: Cutter, cuts: list[Cut], request: Request, seen: Seen) -> list[Explanation]:
    """The explanations of cuts that one forward pass serves."""
    names = class_names(cutter.model)
    forward = (LiveForward if request.differentiable else Forward)(
        cutter, cuts, request.method, lambda z: targets.resolve(request.target, z, names, _size(cutter.images)),
        request.layout, request.rules,
    )  # fmt: skip
    logits = forward.graph if request.differentiable else forward.graph.detach()
    places = [Layer(cut.name, cut.layer_idx) for cut in cuts] if cuts else [_NO_LAYER[request.method.scope]]
    found = _maps_of(forward, request, len(places))
    return [
        _result(Pass(forward, n), place, maps, logits, request, seen, names)
        for n, (place, maps) in enumerate(zip(places, found, strict=True))
    ]


def _maps_of(forward: Forward, request: Request, count: int) -> Sequence[Tensor | Factorization]:
    """The maps, or the concepts, at each of a number of cuts of a run."""

    def maps_of(run: Forward) -> list[Tensor | Factorization]:
        passes = [(LivePass if request.differentiable else Pass)(run, n, request.progress) for n in range(count)]
        return [
            one.nothing() if request.rules is not None and one.is_dead else
            one.maps(request.method, request.function, request.options) for one in passes
        ]  # fmt: skip

    if not request.aug_smooth:
        return maps_of(forward)
    if forward.targets.marks:
        raise targets.TargetError(
            "aug_smooth mirrors the pictures, and what is explained is a part of them", "", "leave aug_smooth out"
        )
    return _aug_smooth(lambda images: maps_of(forward.on(images)), forward.cutter.images)  # type: ignore[arg-type, return-value]


def _result(
    run: Pass, place: Layer, maps: Tensor | Factorization, logits: Tensor, request: Request, seen: Seen,
    names: list[str] | None,
) -> Explanation:  # fmt: skip
    """The explanation of one cut."""
    cutter, resolved, live = run.forward.cutter, run.forward.targets, request.differentiable
    words, classes = tuple(tuple(each) for each in resolved.names), resolved.classes
    if isinstance(maps, Factorization):
        words, classes = (_concept_names(run, maps, names),) * len(cutter.images), None
        maps = maps.maps
    else:
        cutter.require_finite(maps.detach(), f"the map at '{place.name}'")
        with torch.set_grad_enabled(live):
            maps = maps if resolved.several else maps[:, 0]
    at_cut = request.method.scope == "layer"
    return (VolumeExplanation if cutter.images.ndim == 5 else Explanation)(
        maps if live else maps.detach(), logits, words, classes, place, request.name, seen,
        run.ledger() if at_cut and request.rules is not None else None,
        outliers=outliers_at(run) if at_cut else (), marks=resolved.marks, part=_part_seen(cutter),
        multi_label=is_multi_label(cutter.model),
    )  # fmt: skip


def _concept_names(run: Pass, found: Factorization, names: list[str] | None) -> tuple[str, ...]:
    """A name for each concept, after the class that the tail gives to a grid full of it."""
    best = run.class_of(found.offset + found.concepts)
    return tuple(f"concept {i + 1}: {class_label(names, c)}" for i, c in enumerate(best))


def _fused(each: list[Explanation], how: Fusion) -> Explanation:
    name = "+".join(e.layer.name for e in each)
    joined = _fuse([e.map for e in each], how)
    method = f"{each[-1].method}, {how}"
    return dataclasses.replace(each[-1], map=joined, layer=Layer(name, None), method=method, balance=None, outliers=())


def _part_seen(cutter: Cutter) -> tuple[float, float] | None:
    """The part of a map's height and width that the pictures lie on, where the model pads them; else None."""
    whole, inside = seen_size(cutter.model, _size(cutter.images))
    return None if whole == inside else (inside[0] / whole[0], inside[1] / whole[1])


def _size(images: Tensor) -> tuple[int, int]:
    return int(images.shape[-2]), int(images.shape[-1])


# --------------------------------------------------------------------------------------------------------------- sweep


@overload
def sweep(
    model: nn.Module, images: Tensor, *, layers: str | Sequence[AnyLayer] = "auto", target: Target = None,
    method: AnyMethod = "grad_cam", reshape_transform: Reshape = None, fuse: None = None, aug_smooth: bool = False,
    eigen_smooth: bool = False, output: Output = None, inputs: Inputs = None, rules: str | None = None,
    residual: float = 0.0, progress: Progress | None = None, **options: Any,
) -> Sweep: ...  # fmt: skip
@overload
def sweep(
    model: nn.Module, images: Tensor, *, layers: str | Sequence[AnyLayer] = "auto", target: Target = None,
    method: AnyMethod = "grad_cam", reshape_transform: Reshape = None, fuse: Fusion, aug_smooth: bool = False,
    eigen_smooth: bool = False, output: Output = None, inputs: Inputs = None, rules: str | None = None,
    residual: float = 0.0, progress: Progress | None = None, **options: Any,
) -> Explanation: ...  # fmt: skip
@answered
def sweep(
    model: nn.Module, images: Tensor, *, layers: str | Sequence[AnyLayer] = "auto", target: Target = None,
    method: AnyMethod = "grad_cam", reshape_transform: Reshape = None, fuse: Fusion | None = None,
    aug_smooth: bool = False, eigen_smooth: bool = False, output: Output = None, inputs: Inputs = None,
    rules: str | None = None, residual: float = 0.0, progress: Progress | None = None, **options: Any,
) -> Sweep | Explanation:  # fmt: skip
    """Explains a model at many cuts, in one forward and one backward pass.

    The activation of every cut is kept and the gradient of the score is taken on all of them at once, so memory grows
    with the number of layers requested. Methods that read more than activations and gradients are run cut by cut; a
    method without a layer is run once, and `skipped` says so.

    Args:
        model: As for `explain`.
        images: As for `explain`.
        layers: "auto" (the blocks where there are any, else the stages), "stages" (top-level children), "blocks" (the
            blocks inside them), or a list of layers as for `explain`.
        target: As for `explain`.
        method: As for `explain`.
        reshape_transform: As for `explain`, used at every cut.
        fuse: Join the maps of all layers into one, "mean", "max" or "product".
        aug_smooth: As for `explain`.
        eigen_smooth: As for `explain`.
        output: As for `explain`.
        inputs: As for `explain`.
        rules: As for `explain`; one backward pass serves the ledgers of all layers.
        residual: As for `explain`.
        progress: As for `explain`, over all layers.
        **options: The method's own settings.

    Returns:
        A `Sweep`: the explanations in order of depth; one `Explanation` if they are fused.

    Raises:
        ValueError: No cut carries a map, or as for `explain`.
    """
    model, target, output = with_tower(model, images, target, output)
    request = Request.of(
        "sweep", method, target, reshape_transform, fuse, aug_smooth, eigen_smooth, progress, output,
        rules, residual, inputs, **options,
    )  # fmt: skip
    if isinstance(layers, str) and layers not in WHOLE:
        raise ValueError(f'layers={layers!r}: give "auto", "stages", "blocks" or a list of layers')
    if not isinstance(layers, str) and not len(layers):
        raise ValueError("layers=[] names no layer: give at least one")
    inner, images = _prepared(model, images)
    warn_if_unnormalised(inner, images)
    with torch.inference_mode(False), torch.no_grad():
        cutter = _cutter(model, inner, images, output, inputs)
        depth, cuts, skipped = _swept(cutter, request.method, layers)
        empty = empty_cuts(cutter, depth) if request.rules is not None and layers in WHOLE and fuse is None else []
        cuts = sorted([*cuts, *empty], key=lambda cut: cut.position)
        found = _explained(cutter, cuts, request)
        if fuse is not None:
            return found[0]
        stages = stages_of(cutter, depth)
    balances = tuple((one.layer, one.balance) for one in found if one.balance is not None)
    found = [one for n, one in enumerate(found) if not cuts or cuts[n] not in empty]
    return Sweep(tuple(found), tuple(skipped), type(cutter.model).__name__, stages, class_names(cutter.model), balances)


def _swept(
    cutter: Cutter, method: Method, layers: str | Sequence[AnyLayer]
) -> tuple[int, list[Cut], list[tuple[Layer, str]]]:
    """The depth that a sweep goes through, its cuts in order of depth, and what is skipped with the reason."""
    if method.scope != "layer":
        skipped = [(Layer("every layer", None), f"{method.title} {_READS[method.scope]}: one map for all")]
        return cutter.depth, [], skipped
    if isinstance(layers, str):
        depth, cuts, skipped = depth_of(cutter, layers)
    else:
        depth, skipped = cutter.depth, []
        listed: dict[Any, Cut] = {}
        for layer in layers:
            cut = _cut(cutter, layer)
            listed.setdefault(cut.value, cut)
        cuts = list(listed.values())
    return depth, sorted(cuts, key=lambda cut: cut.position), skipped
