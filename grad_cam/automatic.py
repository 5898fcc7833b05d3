"""What `method="auto"` takes: the maps that measured best, by the kind of model and by cost.

The choice follows from how a model is built, never from the photo. Two kinds of classifiers were measured, on photos
with boxes (see `metrics.srg`):

- *Transformers of one grid* (DINOv2 ViT-S): every block attends over all patches. The HiResCAM maps of the later half
  of the blocks that have one, under the balanced rules with the residual rule, their mean.
- *Convolutional networks that shrink on one path* (EfficientNet-Lite): the last map of every stage but the last from
  twice the last grid on, under the same rules and where it speaks for the class, and twice the map that Grad-CAM takes,
  which the last stage ends in; their mean, the finest of them smoothed as enlarging smooths the others.

All others take Grad-CAM at the default cut.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor
from torch.nn import functional

from .errors import LayerError
from .loading import preprocessing
from .loading.normalisation import mean_color
from .methods import METHODS, MethodError
from .methods.auto import Cost
from .methods.common import working
from .requests import AnyMethod, Request
from .results import Explanation, Layer
from .rules.balanced import Rules
from .rules.ledger import averaged
from .splitting.cuts import BLOCKS, Cutter
from .splitting.default import default_cut, mark_dead
from .splitting.log import Step
from .splitting.plan import Cut, Plan
from .splitting.records import Record

HEAD = 2.0
"""Weight of the last map of a convolutional network among those of its stages."""

GRIDS = 7, 8
"""Regions along each side of the two regressions whose mean is taken, so that the borders of one are inside regions of
the other."""

FEWEST = 3
"""Blocks that a transformer of one grid has at least."""

_ATTENTION = {"scaled_dot_product_attention", "softmax", "multi_head_attention_forward"}
_CONVOLUTIONAL = {
    "conv2d", "batch_norm", "relu", "relu_", "relu6", "hardtanh", "hardtanh_", "clamp", "add", "add_", "__add__",
    "__iadd__", "__radd__", "pad", "constant_pad_nd", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "mean",
    "flatten", "reshape", "view", "squeeze", "linear", "dropout", "contiguous",
}  # fmt: skip
"""Operations of the convolutional networks that were measured; gates, norms of layers and attention are not among them.
"""
_SCALING = {"mul", "mul_", "__mul__", "__rmul__", "__imul__", "sub", "sub_", "__sub__", "div", "div_", "__truediv__"}
"""Allowed as well where the other operand does not depend on the images."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """Maps to be taken of a model, and how they are joined.

    Attributes:
        method: Name of the method.
        cuts: Where, in order of depth; none for a method without a layer.
        weights: Of the maps.
        positive: Whether what speaks against the target is left out of all maps but the last.
        rules: How the backward is changed.
    """

    method: str
    cuts: tuple[Cut, ...] = ()
    weights: tuple[float, ...] = (1.0,)
    positive: bool = False
    rules: Rules | None = None


def choose(cutter: Cutter, request: Request) -> Choice:
    """Chooses by how the model is built and the `cost` among the options.

    With a layout of the caller's, or further inputs, nothing was measured.

    Raises:
        MethodError: There is no such cost.
    """
    cost = request.options.get("cost", "pass")
    plain = request.layout is None and request.inputs is None and cutter.images.ndim == 4
    if cost not in get_args(Cost):
        raise MethodError("there is no such cost", f"cost={cost!r}", f"choose one of {', '.join(get_args(Cost))}")
    found = None
    if cost == "unlimited" and plain and _is_classifier(cutter.record.plan):
        found = Choice("region_regression")
    if cost == "pass" and plain:
        default_cut(cutter)  # which may record the model anew
        if cutter.record not in _CHOSEN:
            _CHOSEN[cutter.record] = _measured(cutter)
        found = _CHOSEN[cutter.record]
    return found or Choice("grad_cam", (default_cut(cutter),))


_CHOSEN: weakref.WeakKeyDictionary[Record, Choice | None] = weakref.WeakKeyDictionary()


def explained(
    cutter: Cutter, request: Request, explain: Callable[[Cutter, Sequence[Cut], Request], list[Explanation]]
) -> Explanation:
    """Explains by what is chosen.

    Args:
        cutter: The model and the images.
        request: What the caller asks for.
        explain: Makes explanations at cuts.
    """
    choice = choose(cutter, request)
    if choice.method == "region_regression":
        each = [explain(cutter, (), _request_of(choice, request, cutter, cells=n))[0] for n in GRIDS]
        both = torch.stack([enlarged(e.map, (2 * GRIDS[0], 2 * GRIDS[0])) for e in each]).mean(0)
        return dataclasses.replace(each[0], map=both, method=f"{each[0].method}, mean of two grids")
    return joined(explain(cutter, choice.cuts, _request_of(choice, request, cutter)), choice)


def _request_of(choice: Choice, request: Request, cutter: Cutter, **options: Any) -> Request:
    """The request to the engine for a choice."""
    if choice.method == "region_regression":
        size = int(cutter.images.shape[-2]), int(cutter.images.shape[-1])
        options["fill"] = mean_color(preprocessing(cutter.model, size))
    return dataclasses.replace(request, method=METHODS[choice.method], rules=choice.rules, options=options, fuse=None)


def joined(each: Sequence[Explanation], choice: Choice) -> Explanation:
    """The weighted mean of explanations at several cuts, on the finest of their grids; one alone as it is.

    Every map keeps its sum when it is enlarged, so that the mean is in units of the score as they are.
    """
    last = each[-1]
    if len(each) == 1:
        return last
    sizes = [(int(e.map.shape[-2]), int(e.map.shape[-1])) for e in each]
    grid = max(height for height, _ in sizes), max(width for _, width in sizes)
    maps = [e.map.clamp(min=0) if choice.positive and e is not last else e.map for e in each]
    if choice.positive:
        maps = [smoothed(m) if size == grid else m for m, size in zip(maps, sizes, strict=True)]
    shares = [weight / sum(choice.weights) for weight in choice.weights]
    total = torch.stack([share * enlarged(m, grid) for share, m in zip(shares, maps, strict=True)]).sum(0)
    balances = [e.balance for e in each if e.balance is not None]
    whole = not choice.positive and len(balances) == len(each)
    name = f"{each[0].layer.name} ... {last.layer.name}"
    words = f"mean of {len(each)} layers" + (", the last twice" if choice.positive else "")
    return dataclasses.replace(
        last, map=total, layer=Layer(name, None), method=f"{last.method}, {words}",
        balance=averaged(balances, choice.weights) if whole else None,
    )  # fmt: skip


def enlarged(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Maps (..., h, w) on a finer grid, each value spread over the positions it becomes."""
    height, width = maps.shape[-2:]
    if (height, width) == grid:
        return working(maps)
    flat = working(maps).reshape(-1, 1, height, width)
    large = functional.interpolate(flat, size=grid, mode="bilinear", align_corners=False)
    return large.reshape(*maps.shape[:-2], *grid) * (height * width / (grid[0] * grid[1]))


def smoothed(maps: Tensor) -> Tensor:
    """Maps (..., h, w) with a quarter of each value given to either neighbour along each axis; sums stay.

    It is how far enlarging by two spreads a value.
    """
    height, width = maps.shape[-2:]
    padded = functional.pad(working(maps).reshape(-1, 1, height, width), (1, 1, 1, 1), mode="replicate")
    along = padded.new_tensor([0.25, 0.5, 0.25])
    smooth: Tensor = functional.conv2d(padded, (along[:, None] * along)[None, None])
    return smooth.reshape(maps.shape)


_ANNOUNCED: list[str] = []


def method_for(method: AnyMethod | None, layer: object, options: Mapping[str, Any], *settings: object) -> AnyMethod:
    """The method that is meant where none is named: Grad-CAM if anything is given that belongs to a method."""
    if method is not None:
        return method
    return "auto" if layer is None and set(options) <= {"cost"} and not any(settings) else "grad_cam"


def announce(found: Explanation) -> None:
    """Warns once that what was made by default is no longer Grad-CAM at one layer."""
    if found.method == "grad_cam" or _ANNOUNCED:
        return
    _ANNOUNCED.append(found.method)
    warnings.warn(
        f'explain without layer and method now takes method="auto", what measures best: here {found.method}, at '
        f'{found.layer}; method="grad_cam" gives the map of before',
        FutureWarning, stacklevel=4,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------- what was measured


def _measured(cutter: Cutter) -> Choice | None:
    """The choice for a kind of model that was measured; None for all others."""
    plan = cutter.record.plan
    if not _is_classifier(plan) or plan.is_data_dependent():
        return None
    steps = [(i, e) for i, e in enumerate(plan.log.events) if type(e) is Step and e.depends]
    if any(e.problem for _, e in steps) or any(c.opaque or c.custom or c.unknown for c in plan.log.calls):
        return None
    try:
        return _transformer(cutter, steps) or _convolutional(cutter, steps)
    except LayerError:  # no cut carries a map
        return None


def _is_classifier(plan: Plan) -> bool:
    """Whether the logits are (B, classes) and come out of a linear layer."""
    log = plan.log
    made = log.events[log.made[log.logits]] if log.made[log.logits] >= 0 else None
    two = len(log.shapes[log.logits]) == 2 and log.shapes[log.logits][1] > 1
    return two and type(made) is Step and _name(made) == "linear"


def _name(step: Step) -> str:
    return str(getattr(step.func, "__name__", ""))


def _transformer(cutter: Cutter, steps: Sequence[tuple[int, Step]]) -> Choice | None:
    """The later half of the blocks, where every attention is in one of them and over all patches of one grid."""
    plan, kinds = cutter.record.plan, cutter.record.kinds
    attending = [i for i, step in steps if _name(step) in _ATTENTION]
    blocks: list[Cut] = []
    inside = 0
    for border in cutter.borders_at(max(BLOCKS, cutter.depth))[:-1]:
        calls = plan.calls_of(border.name)
        held = sum(calls[-1].start < i < calls[-1].end for i in attending) if calls else 0
        if held:
            blocks.append(cutter.at_border(border))
            inside += held
    layouts = [cutter.reading(cut).layout for cut in blocks]
    if len(blocks) < FEWEST or inside < len(attending) or len({kinds.get(cut.name) for cut in blocks}) > 1:
        return None
    grids = {layout.grid for layout in layouts if layout is not None and layout.name == "tokens"}
    (grid,) = grids if len(grids) == 1 else ((),)
    if len(grid) != 2 or None in layouts or min(grid) < 2:
        return None
    if not all(_is_global(plan, plan.log.events[i], math.prod(grid)) for i in attending):
        return None
    mark_dead(cutter, [(cut, layout) for cut, layout in zip(blocks, layouts, strict=True) if layout is not None])
    alive = tuple(cut for cut in blocks if not cutter.record.dead.get(cut.value, False))
    if len(alive) < 2:
        return None
    later = alive[min(len(alive) // 2, len(alive) - 2) :]
    return Choice("hires_cam", later, (1.0,) * len(later), rules=Rules(1.0))


def _is_global(plan: Plan, step: Any, positions: int) -> bool:
    """Whether an attention is over all positions of the grid at once."""
    shapes = [plan.log.shapes[ref] for ref in step.outs if ref is not None]
    if _name(step) == "softmax":
        return bool(min(shapes[0][-2:]) >= positions)
    if _name(step) == "scaled_dot_product_attention":
        return bool(shapes[0][-2] >= positions)
    return bool(max(shapes[0]) >= positions)


def _convolutional(cutter: Cutter, steps: Sequence[tuple[int, Step]]) -> Choice | None:
    """The last cut of every stage but the last from twice the last grid on, and the default cut."""
    plan = cutter.record.plan
    if not all(_is_plain(plan, position, step) for position, step in steps):
        return None
    head = default_cut(cutter)
    layout = cutter.reading(head).layout
    if layout is None or layout.name != "NCHW" or len(layout.grid) != 2 or head.context:
        return None
    last: dict[str, Cut] = {}
    for border in cutter.borders_at(max(BLOCKS, cutter.depth))[:-1]:
        parent = border.name.rpartition(".")[0]
        if parent and border.position < head.position and border.value != head.value:
            last[parent] = cutter.at_border(border)
    before = list(last.values())[:-1]  # the last stage is what leads to the default cut
    layouts = {cut: found for cut in before if (found := cutter.reading(cut).layout) is not None}
    stages = [cut for cut, found in layouts.items() if all(
        a <= 2 * b for a, b in zip(found.grid, layout.grid, strict=True)
    )]  # fmt: skip
    if any(layouts[cut].grid > layout.grid for cut in stages):
        cuts = (*stages, head)
        return Choice("hires_cam", cuts, (*(1.0,) * len(stages), HEAD), positive=True, rules=Rules(1.0))
    return Choice("hires_cam", (head,)) if _reads_positions(plan, head) else None


def _is_plain(plan: Plan, position: int, step: Step) -> bool:
    """Whether an operation is one of those measured, and does not shrink the grid on one of several paths."""
    name = _name(step)
    varying = [ref for ref in step.reads if plan.log.depends[ref]]
    if name in _SCALING:
        return len(varying) == 1
    if name not in _CONVOLUTIONAL:
        return False
    before = [plan.log.shapes[ref] for ref in varying]
    after = [plan.log.shapes[ref] for ref in step.outs if ref is not None]
    if len(varying) != 1 or len(before[0]) != 4 or not after or len(after[0]) != 4:
        return True
    shrinks = after[0][-2:] < before[0][-2:] and max(after[0][-2:]) > 1
    return not shrinks or varying[0] == 0 or plan.only(position) == varying[0]


def _reads_positions(plan: Plan, head: Cut) -> bool:
    """Whether a linear layer after a cut has weights for every position, so that Grad-CAM's mean over them misleads."""
    _, *sides = plan.log.shapes[head.value]
    size = sides[0] * sides[1] * sides[2]
    return any(
        _name(step) == "linear" and plan.log.shapes[step.reads[0]][-1] == size > sides[0]
        for step in plan.steps(head.position, len(plan.log.events)) if step.depends
    )  # fmt: skip
