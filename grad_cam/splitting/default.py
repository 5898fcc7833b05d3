"""The default cut: the last place with a grid of positions that a gradient reaches.

The search goes from the logits towards the images. A dead cut (the last block of a class-token transformer) costs one
short run of what follows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ..detections import default_layer
from ..errors import LayerError
from ..inputs import at
from ..layouts import Layout
from .cuts import Cutter, Reached, Taken
from .evalcopy import EvalCopy
from .intercept import intercept
from .log import Param, Ref, Step
from .nested import leaves
from .plan import Cut
from .scoremaps import NOTE, is_score_map, operations_behind, scores_positions

DEEPEST = 6
"""Depth down to which stages are opened in the search."""


def default_cut(cutter: Cutter) -> Cut:
    """Finds the default cut of a model; it is kept with its record.

    Raises:
        LayerError: No cut carries a map.
    """
    record = cutter.record
    if record.default is None:
        found = cutter.retrying(_Search(cutter).run)
        if cutter.record is not record:
            return default_cut(cutter)
        record.default = found
    return record.default


class _Search:
    def __init__(self, cutter: Cutter) -> None:
        self.cutter = cutter
        self.plan = cutter.record.plan
        self.notes: list[str] = []
        self.last_parameter = _last_parameter(cutter)

    def run(self) -> Cut:
        name = default_layer(self.cutter.copy.root, lambda path: bool(self.plan.calls_of(path)))
        if name is not None:
            return self.cutter.cut(name)
        borders = self.cutter.borders_at(1)
        dead = False
        for cut in [self.cutter.at_border(b) for b in reversed(borders[:-1])]:
            layout = self._layout(cut)
            if layout is None:
                continue
            found = self._deeper(cut.position) if dead else None  # a dead stage may hold blocks that are not
            if found is not None:
                return found
            stop = next(b.position for b in borders if b.position > cut.position)
            found = self._inside(cut.position, stop)  # cheaper to try than the cut itself: less follows it
            if found is not None:
                return found
            if self._is_alive(cut, layout):
                return cut
            dead = True
        found = self._deeper(0)
        if found is not None:
            return found
        starts = [0, *[b.position for b in borders]]
        for start, stop in reversed(list(zip(starts, starts[1:], strict=False))):
            found = self._inside(start, stop)
            if found is not None:
                return found
        found = self._deepest() if scores_positions(self.cutter) else None
        if found is not None:
            return found
        self.cutter.require_gradients()
        offered = next((c for c in inner_cuts(self.cutter) if self._is_alive(c, self._layout(c))), None)
        remedy = (
            f'layer="{offered.name}"' if offered else "choose a module, and give reshape_transform if it has a grid"
        )
        raise LayerError(
            f"no single cut of {type(self.cutter.model).__name__} carries a spatial map with a gradient",
            "; ".join(dict.fromkeys(self.notes)) or "it has one stage", remedy,
        )  # fmt: skip

    def _deepest(self) -> Cut | None:
        """The last module whose output, of the tensors alive with it, has most operations behind it: no skip path."""
        behind = operations_behind(self.plan.log)
        for cut in inner_cuts(self.cutter):
            if all(behind[cut.value] >= behind[r] for r in cut.context) and self._is_alive(cut, self._layout(cut)):
                return cut
        return None

    def _deeper(self, after: int) -> Cut | None:
        """The last usable border after a position when stages are opened, as shallow as possible."""
        known = self.cutter.borders_at(1)
        best: Cut | None = None
        for depth in range(2, DEEPEST + 1):
            deeper = self.cutter.borders_at(depth)
            if deeper == known and depth > 2:
                break
            known = deeper
            for border in reversed(deeper[:-1]):
                if border.position <= (best.position if best is not None else after):
                    break
                cut = self.cutter.at_border(border)
                layout = self._layout(cut)
                if layout is not None and self._is_alive(cut, layout):
                    best = best if best is not None and cut.name.startswith(best.name + ".") else cut
                    break
        return best

    def _is_alive(self, cut: Cut, layout: Layout | None) -> bool:
        if layout is None:
            return False
        alive = is_alive(self.cutter, cut, layout)
        if not alive:
            self.notes.append(f"{cut.name}: gradient at the patches is zero")
        return alive

    def _layout(self, cut: Cut) -> Layout | None:
        reading = self.cutter.reading(cut)
        if reading.layout is None or min(reading.layout.grid[-2:]) < 2:
            self.notes.append(f"{cut.name}: {reading.note or '1x1'}")
            return None
        if cut.position > self.last_parameter:
            self.notes.append(f"{cut.name}: the scores themselves")
            return None
        if is_score_map(self.cutter, cut):
            self.notes.append(f"{cut.name}: {NOTE}")
            return None
        return reading.layout

    def _inside(self, start: int, stop: int) -> Cut | None:
        """The last usable module between two positions, where several tensors may be alive."""
        tried = 0
        for cut in self._candidates(start, stop):
            layout = self._layout(cut)
            if layout is None:
                continue
            if self._is_alive(cut, layout):
                return cut
            tried += 1
            if tried == 6:
                break
        return None

    def _candidates(self, start: int, stop: int) -> Iterator[Cut]:
        calls = [c for c in self.plan.visible(frozenset({""})) if start <= c.start < stop]
        paths = [c.path for c in calls]
        if len(calls) < 2:  # one container: the blocks it holds
            modules = self.cutter.copy.modules
            inner = [
                c for c in self.plan.log.calls
                if any(c.path.startswith(p + ".") for p in paths) and isinstance(
                    modules.get(c.path.rpartition(".")[0]), (nn.Sequential, nn.ModuleList)
                )
            ]  # fmt: skip
            paths = [c.path for c in inner]
        for path in dict.fromkeys(reversed(paths)):
            try:
                yield self.cutter.cut(path)
            except LayerError:
                continue


def inner_cuts(cutter: Cutter) -> list[Cut]:
    """Modules with a grid, the last first, wherever they are: for a model whose branches share no border."""
    plan = cutter.record.plan
    found: dict[Ref, Cut] = {}
    for call in sorted(plan.log.calls, key=lambda c: -c.end):
        holder = cutter.copy.modules.get(call.path.rpartition(".")[0])
        if not call.path or not (isinstance(holder, (nn.Sequential, nn.ModuleList)) or "." not in call.path):
            continue
        try:
            cut = cutter.cut(cutter.record.plan.name_of(call))
        except LayerError:
            continue
        layout = cutter.reading(cut).layout
        if layout is not None and min(layout.grid[-2:]) > 1:
            found.setdefault(cut.value, cut)
    return list(found.values())


def is_alive(cutter: Cutter, cut: Cut, layout: Layout, taken: Taken | None = None) -> bool:
    """Whether a gradient of the logits reaches the grid at a cut, whatever is explained."""
    known = cutter.record.dead.get(cut.value)
    if known is not None:
        return not known
    if taken is None:
        cutter.values()
        taken = cutter.take([cut])
        cutter.taken = (cut, taken)
    reach = _reach(cutter, taken.logits, taken.activations[0], layout)
    if reach is None:  # a head of zeros says nothing: the same is tried with noise in it
        reach = _reach_with_noise(cutter, cut, layout)
    cutter.record.dead[cut.value] = not reach
    return bool(reach)


def _reach(cutter: Cutter, logits: Tensor, activation: Tensor, layout: Layout) -> bool | None:
    """Whether the gradient of the best class is anywhere on the grid other than zero; None if it is zero everywhere."""
    with torch.enable_grad():
        (gradient,) = cutter.gradients(_best(logits), [activation], keep_graph=True)
        leaf = logits.detach().requires_grad_()
        cutter.reached = Reached(activation, torch.autograd.grad(_best(leaf), leaf)[0], gradient)
    if not bool(gradient.count_nonzero()):
        return None
    return bool(layout.to_map(gradient).count_nonzero())


def _best(logits: Tensor) -> Tensor:
    return logits.float().flatten(1).max(dim=1).values.sum()


def _reach_with_noise(cutter: Cutter, cut: Cut, layout: Layout) -> bool:
    copy = cutter.new_copy()
    if not _fill_zero_matrices(copy):
        return False
    values = cutter.recorded_at(cut)
    run = None if values is None else cutter.tail_from(cut, values, copy)
    if run is not None:
        activation, logits = run
    elif cut.point is not None:
        images, mode = cutter.images[:1], cutter.record.mode
        asked = at(cutter.output, torch.zeros(1, dtype=torch.long))
        taken = intercept(copy, images, [cut.point], asked, mode=mode, cloned=[True])
        (activation,), logits = taken
    else:
        return False
    with torch.enable_grad():
        return bool(_reach(cutter, logits.reshape(len(activation), -1), activation, layout))


def _fill_zero_matrices(copy: EvalCopy) -> bool:
    """Puts noise in place of a copy's matrices of zeros; whether there were any."""
    generator = torch.Generator().manual_seed(0)
    changed = False
    for module in copy.modules.values():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for name, weight in module._parameters.items():
            if weight is not None and weight.ndim > 1 and weight.is_floating_point() and not weight.count_nonzero():
                noise = torch.randn(weight.shape, generator=generator).to(weight)
                module._parameters[name] = nn.Parameter(noise, requires_grad=False)
                changed = True
    return changed


def mark_dead(cutter: Cutter, cuts: Sequence[tuple[Cut, Layout]]) -> None:
    """Finds out, with one run for all, at which cuts no gradient reaches the grid; kept with the record."""
    dead = cutter.record.dead
    asked = [(c, layout) for c, layout in cuts if c.value not in dead and c.point is not None]
    if not asked:
        return

    def ask() -> None:
        taken = cutter.take_all([c for c, _ in asked])
        for (cut, layout), activation in zip(asked, taken.activations, strict=True):
            is_alive(cutter, cut, layout, Taken([activation], taken.logits))

    cutter.retrying(ask)


def _last_parameter(cutter: Cutter) -> int:
    """The last event that reads a parameter on its way to the logits."""
    plan = cutter.record.plan
    last = len(plan.log.events)
    for i in range(len(plan.log.events) - 1, -1, -1):
        event = plan.log.events[i]
        if type(event) is Step:
            if event.depends and any(isinstance(leaf, Param) for leaf in leaves((event.args, event.kwargs))):
                return i
            if any(not plan.log.depends[r] for r in event.reads) and event.depends:
                return i  # something made of parameters
        elif event.call.opaque or ".quantized" in type(cutter.copy.modules[event.call.path]).__module__:
            return i
    return last
