"""How activations are laid out: followed from the images where that is possible, else found by an experiment.

The question is where in the picture a position comes from: one patch of the image is changed, and it is looked
where the activation changes. A reading of its axes is confirmed where the change lies at the patch, contradicted where
it lies elsewhere, and undecided where the layer mixes everything.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import introspection, layouts
from ..inputs import at
from ..layouts import Layout
from .axes import Labels, labels_of, layout_of
from .intercept import Point, observe
from .log import Ref
from .plan import Plan

if TYPE_CHECKING:
    from .session import Session

PATCHES = ((0.22, 0.34, 0.62, 0.74), (0.70, 0.82, 0.14, 0.26))
FRAMES = ((0.62, 0.88), (0.12, 0.38))
"""First and last frame of the patches in a video or volume, as fractions of its length."""
"""Top, bottom, left and right of the patches that are changed, as fractions of the image; off centre and diagonals."""

NO_POSITIONS = "its axes are not positions of the picture"


class Reading(NamedTuple):
    """How an activation is laid out.

    Attributes:
        layout: The layout, or None where there is no map.
        note: Why there is none, or "".
        evidence: "followed" (from the images, through the operations), "declared" (by the model), "confirmed",
            "contradicted" or "undecided" (by
            the experiment), or "".
    """

    layout: Layout | None
    note: str
    evidence: str


class Positions:
    """The layouts of the values of one record."""

    def __init__(self, plan: Plan, root: nn.Module, size: tuple[int, ...], frames_first: bool = False) -> None:
        self.plan = plan
        self.size = size
        self.frames_first = frames_first
        self.prefix: int | None = introspection.prefix_tokens(root)
        self._orders = _token_orders(root, plan)
        self._spatial = {n for n, p in root.named_parameters() if p.ndim == len(size) + 2 and min(p.shape[2:]) > 1}
        self._assumed: dict[Ref, Labels] | None = None
        trunk = introspection.is_detector(root)  # it pads pictures in ways that are not followed
        self._trunk = {r for c in plan.log.calls if trunk and c.path.split(".")[0] == "backbone" for r in c.outs}
        planes = {size[-2:]} if len(size) == 2 else set()  # frames are not declared in these terms
        self._grids = {(-(-h // r), -(-w // r)) for r in introspection.reductions(root) for h, w in planes}
        self._grids |= {(h // r, w // r) for r in introspection.reductions(root) for h, w in planes}
        self._labels: dict[Ref, Labels] | None = None
        self._known: dict[tuple[Ref, bool], Reading] = {}
        self._measured: dict[Ref, list[tuple[Layout, str, float]]] = {}

    @property
    def labels(self) -> dict[Ref, Labels]:
        """Labels of the axes of the values."""
        if self._labels is None:
            self._labels = labels_of(self.plan.log, (), self.frames_first)
        return self._labels

    def of(
        self, value: Ref, name: str, measure: Callable[[Sequence[Ref]], Any], careful: bool = False
    ) -> Reading:  # fmt: skip
        """How a value is laid out; `measure` runs the experiment for some values if it is needed."""
        key = (value, careful)
        if key not in self._known:
            self._known[key] = self._read(value, measure, careful)
        return self._known[key]

    def _read(self, value: Ref, measure: Callable[[Sequence[Ref]], Any], careful: bool) -> Reading:
        shape = self.plan.log.shapes[value]
        if shape[:1] != (self.plan.log.batch,):
            return Reading(None, "not one row per image", "")
        followed = layout_of(self.labels.get(value), shape)
        if followed is not None and followed.is_single:
            return Reading(None, "1x1", "")
        if followed is None:
            orders = self._orders.get(value, [])
            first = orders[0].order if orders else None
            if first is not None and all(o.order is not None and o.order.equal(first) for o in orders):
                followed = orders[0]
        if followed is not None and not careful:
            return Reading(followed, "", "followed")
        declared = self._declared_grid(value) or (self._convolved(value) if value in self._trunk else None)
        if declared is not None and not careful and value not in self._measured:
            return Reading(declared, "", "declared")
        candidates = self.candidates(value)
        if not candidates:
            return Reading(
                None,
                "no spatial axes" if len(shape) not in self._ndims else "no grid with the picture's proportions",
                "",
            )
        if all(c.is_single for c in candidates):
            return Reading(None, "1x1", "")
        if value not in self._measured:
            measure(self._open_questions(value, careful))
        return self._decide(value, followed)

    def _open_questions(self, value: Ref, careful: bool) -> list[Ref]:
        """The values that one experiment can answer for: all that modules return and that are not followed."""
        found = {value}
        for call in self.plan.log.calls:
            for ref in call.outs:
                if ref is not None and self.plan.log.depends[ref] and self.plan.last[ref] >= 0:
                    shape = self.plan.log.shapes[ref]
                    if careful or layout_of(self.labels.get(ref), shape) is None:
                        found.add(ref)
        return [r for r in found if r not in self._measured and self.candidates(r)]

    def candidates(self, value: Ref) -> list[Layout]:
        """All readings that the shape of a value allows."""
        shape = self.plan.log.shapes[value]
        found = [*self._orders.get(value, ())]
        followed = layout_of(self.labels.get(value), shape)
        if followed is not None:
            found.append(followed)
        if shape[:1] == (self.plan.log.batch,) and len(shape) in self._ndims:
            found += [c for c in layouts.candidates(shape, self.size, self.prefix) if len(shape) != 3 or c.channels > 1]
        return [c for i, c in enumerate(found) if c not in found[:i] or c.order is not None]

    def _decide(self, value: Ref, followed: Layout | None) -> Reading:
        measured = self._measured.get(value, [])
        confirmed = [(score, c) for c, verdict, score in measured if verdict == "confirmed"]
        if followed is not None:
            verdict = next((v for c, v, _ in measured if c == followed), "undecided")
            return Reading(followed, "", verdict)
        if len(confirmed) > 1 and len(self.size) == 3:  # orders of tokens between which the patches do not decide
            return Reading(None, "several orders of its tokens fit frames and places", "undecided")
        if confirmed:
            best = max(confirmed, key=lambda pair: pair[0])[1]
            return Reading(best, "1x1" if best.is_single else "", "confirmed")
        if measured and all(verdict == "contradicted" for _, verdict, _ in measured):
            return Reading(None, NO_POSITIONS, "contradicted")
        declared = self._declared(value)
        if declared is not None:
            return Reading(declared, "", "undecided")
        return Reading(None, NO_POSITIONS + " as far as can be seen", "undecided")

    @property
    def _ndims(self) -> tuple[int, int]:
        """The numbers of axes that an activation with positions has: tokens, or a grid."""
        return 3, len(self.size) + 2

    def _declared_grid(self, value: Ref) -> Layout | None:
        """The only reading whose grid is one that the model itself declares, if there is just one."""
        labels = self.labels.get(value, ())
        if any(axis is not None and axis.kind != "B" for axis in labels):
            return None  # some axis is known, and they are not a grid
        found = [
            c for c in self.candidates(value)
            if c.grid in self._grids and not c.is_single and c.channels > 3
            and c.axis == 1 and c.prefix in (0, self.prefix)
        ]  # fmt: skip
        return found[0] if len(found) == 1 else None

    def _declared(self, value: Ref) -> Layout | None:
        """The reading that a convolution declares, or what the model declares of its tokens, if that leaves one."""
        shape = self.plan.log.shapes[value]
        orders = self._orders.get(value)
        if orders:
            return orders[0]
        verdicts = {c: v for c, v, _ in self._measured.get(value, [])}
        declared = self._declared_grid(value)
        if declared is not None and verdicts.get(declared) != "contradicted":
            return declared
        assumed = self._convolved(value)
        if assumed is not None:
            return assumed
        if self.prefix is None or len(shape) != 3:
            return None
        fitting = [
            c for c in layouts.candidates(shape, self.size, self.prefix) if c.axis == 1 and c.prefix == self.prefix
        ]
        return fitting[0] if len(fitting) == 1 and verdicts.get(fitting[0]) != "contradicted" else None

    def _convolved(self, value: Ref) -> Layout | None:
        """The reading that convolutions on the way to a value declare, or None."""
        if self._assumed is None:
            self._assumed = labels_of(self.plan.log, self._spatial, self.frames_first)
        return layout_of(self._assumed.get(value), self.plan.log.shapes[value])

    # ---------------------------------------------------------------------------------------------------- experiment

    def measure(self, session: Session, points: dict[Ref, Point]) -> None:
        """Changes patches of an image and notes what that says about the candidates of some values."""
        values = list(points)
        maps: dict[Ref, list[tuple[Layout, Tensor]]] = {}

        def exchange(index: int, tensor: Any) -> Any:
            value = values[index]
            if isinstance(tensor, Tensor) and len(tensor) == 1 + len(PATCHES) and tensor.is_floating_point():
                with torch.no_grad():
                    change = (tensor[1:] - tensor[:1]).detach().abs().float()  # (patches, ...)
                    found = []
                    for layout in self.candidates(value):
                        with contextlib.suppress(RuntimeError, IndexError):
                            found.append((layout, layout.unfolded(layout.to_map(change).mean(1))))  # (patches,h,w)
                    maps[value] = found
            return tensor

        batch = changed_patches(session.images[:1], self.frames_first)
        first = at(session.output, torch.zeros(len(batch), dtype=torch.long))
        try:
            observe(
                session.new_copy(batch), batch, list(points.values()), exchange, first, mode=session.record.mode,
                anywhere=True,
            )  # fmt: skip
        except Exception:  # a model that takes no such batch: undecided
            maps = {}
        for value in values:
            self._measured[value] = [(layout, *verdict_of(map_)) for layout, map_ in maps.get(value, [])]


def changed_patches(image: Tensor, frames_first: bool = False) -> Tensor:
    """An image (1, C, H, W), and copies of it with one patch changed in each: (1 + patches, C, H, W).

    Of a video or volume (1, C, T, H, W), or (1, T, C, H, W), a patch is changed in some frames.
    """
    if image.ndim == 5 and frames_first:
        return changed_patches(image.transpose(1, 2)).transpose(1, 2)
    height, width = image.shape[-2:]
    generator = torch.Generator().manual_seed(0)
    spread = image.float().std().nan_to_num().clamp(min=1e-3).to(image.dtype)
    rows_ = [image]
    for (top, bottom, left, right), (first, last) in zip(PATCHES, FRAMES, strict=True):
        copy = image.clone()
        some = copy
        if image.ndim == 5:
            start, length = int(first * image.shape[2]), image.shape[2]
            some = copy[:, :, start : max(start + 1, math.ceil(last * length))]
        y0, x0 = int(top * height), int(left * width)
        y1, x1 = max(y0 + 1, math.ceil(bottom * height)), max(x0 + 1, math.ceil(right * width))
        patch = some[..., y0:y1, x0:x1]
        noise = torch.randn(patch.shape, generator=generator).to(image)
        some[..., y0:y1, x0:x1] = 2 * spread * noise - patch
        rows_.append(copy)
    return torch.cat(rows_)


def verdict_of(maps: Tensor) -> tuple[str, float]:
    """What the changes (patches, h, w), read with one layout, say about it: the verdict, and how sharply.

    Confirmed: for every patch the largest change lies at the patch, and is larger there than on the average.
    Contradicted: it is sharply elsewhere. Undecided: neither.
    """
    grid = maps.shape[1:]
    if math.prod(grid[-2:]) < 4 or not bool(torch.isfinite(maps).all()):
        return "undecided", 0.0
    near, sharp = [], []
    for map_, (top, bottom, left, right), (first, last) in zip(maps, PATCHES, FRAMES, strict=True):
        mean = float(map_.mean())
        if mean == 0:
            return "undecided", 0.0
        peak = torch.unravel_index(map_.argmax(), grid)
        centre = ((first + last) / 2, (top + bottom) / 2, (left + right) / 2)[-len(grid) :]
        near.append(all(abs(int(p) + 0.5 - c * n) <= _slack(n) for p, c, n in zip(peak, centre, grid, strict=True)))
        sharp.append(float(map_.max()) / mean)
    score = min(sharp)
    if all(near) and score > (1.2 if min(grid[-2:]) > 4 else 2.0):  # few cells are hit by chance
        return "confirmed", score
    if not any(near) and score > 2.5:
        return "contradicted", score
    return "undecided", score


def _slack(size: int) -> float:
    """How far from a patch's centre, in cells, the largest change may lie: a small grid must hit the very cell."""
    return 0.6 if size <= 4 else max(1.4, 0.14 * size)


def _token_orders(root: nn.Module, plan: Plan) -> dict[Ref, list[Layout]]:
    """Hiera keeps its tokens grouped by mask unit; its own `reroll` says where each one lies."""
    reroll = getattr(root, "reroll", None)
    found: dict[Ref, list[Layout]] = {}
    if reroll is None or not hasattr(reroll, "schedule"):
        return found
    block, started = 0, False
    for call in plan.log.calls:
        started = started or call.path == "unroll"
        parts = call.path.split(".")
        if parts[0] == "blocks" and len(parts) > 1 and parts[1].isdecimal():
            block = int(parts[1])
        for ref in call.outs:
            if ref is None or not started or len(plan.log.shapes[ref]) != 3 or ref in found:
                continue
            _, tokens, channels = plan.log.shapes[ref]
            kept = []
            for which in dict.fromkeys((block, max(block - 1, 0))):
                with contextlib.suppress(Exception):
                    order = reroll(torch.arange(tokens).view(1, tokens, 1), which)  # (1,h,w,1)
                    grid = (int(order.shape[1]), int(order.shape[2]))
                    if grid[0] * grid[1] == tokens and order.flatten().sort().values.equal(torch.arange(tokens)):
                        kept.append(Layout("tokens", grid, channels, order=order.flatten()))
            if kept:
                found[ref] = kept
    return found
