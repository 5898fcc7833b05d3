"""Finding layers by number, name or module, and reading what they return."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from torch import nn

from ..errors import LayerError
from .intercept import Point
from .log import Call, Ref, Step
from .plan import Border, Cut
from .positions import Reading
from .session import Session


class Layers(Session):
    """Finds layers, and says how what they return is laid out."""

    @property
    def borders(self) -> tuple[Border, ...]:
        """The borders of the chain in which `layer_idx` counts."""
        return self.record.borders(self.depth, self.copy.modules)

    def borders_at(self, depth: int) -> tuple[Border, ...]:
        """The borders of the chain of another depth."""
        return self.record.borders(depth, self.copy.modules)

    def layer_idx(self, value: Ref, position: int) -> int | None:
        """layer_idx of a cut where a value crosses alone, or None if that is not a border of the chain."""
        found = self.borders
        same = [i for i, b in enumerate(found[:-1]) if b.value == value]  # several: modules that return what they get
        return len(found) - 1 - min(same, key=lambda i: abs(found[i].position - position)) if same else None

    def at_border(self, border: Border) -> Cut:
        """The cut at the end of a stage."""
        index = self.layer_idx(border.value, border.position)
        return Cut(border.name, index, border.position, border.value, (), self._point(border.value))

    def cut(self, layer: int | str | nn.Module) -> Cut:
        """Finds a layer.

        Args:
            layer: layer_idx, a module path (also ``path@1``), the name of a stage, or a module.

        Raises:
            LayerError: There is no such layer, or it cannot be cut after.
        """
        if isinstance(layer, nn.Module):
            layer = self._path_of(layer)
        if isinstance(layer, str):
            return self._named(layer)
        count = len(self.borders)
        if not 1 <= layer <= count - 1:
            problem = "nothing to explain" if layer < 1 else "nothing to extract from"
            remedy = f"use 1..{count - 1}" if count > 1 else f"give a module path, such as layer={self._some_path()!r}"
            raise LayerError(
                f"layer_idx={layer} leaves {problem}: {type(self.model).__name__} has {count} "
                f"stage{'s' if count > 1 else ''}",
                "", f"{remedy} (see print(grad_cam.chain(model)))",
            )  # fmt: skip
        return self.at_border(self.borders[count - 1 - layer])

    def _some_path(self) -> str:
        calls = [c.path for c in self.record.plan.log.calls if c.path and self.record.plan.carries(c)]
        return calls[len(calls) // 2] if calls else ""

    def _path_of(self, module: nn.Module) -> str:
        inner = getattr(module, "_orig_mod", module)
        path = next((p for p, m in self.copy.originals.items() if m is module or m is inner), None)
        if not path:
            raise LayerError(
                f"the {type(module).__name__} given as layer is not a module inside the model", "",
                "give one of its submodules, a path or a layer_idx",
            )  # fmt: skip
        return path

    def _named(self, name: str) -> Cut:
        plan = self.record.plan
        path, _, nth = name.partition("@")
        calls = plan.calls_of(path) if path else []
        if nth and calls:
            chosen = int(nth) - 1 if nth.isdecimal() else -1
            if not 0 <= chosen < len(calls):
                raise LayerError(
                    f"'{path}' is called {len(calls)} times",
                    name,
                    f'layer="{path}@1" is the first, layer="{path}" the last',
                )
            return self._after(calls[chosen], name)
        if calls:
            return self._after(calls[-1], path)
        for depth in dict.fromkeys((self.depth, *range(1, 7))):
            for border in self.borders_at(depth)[:-1]:
                if border.name == name:
                    return self.at_border(border)
        if path in self.copy.modules and path:
            raise self._not_called(path)
        try:  # a module registered under a second name
            known = self._path_of(self.model.get_submodule(path)) if path else ""
        except AttributeError:
            known = ""
        if known and known != path:
            return self._named(f"{known}@{nth}" if nth else known)._replace(name=name)
        raise self._unknown(name)

    def _not_called(self, path: str) -> LayerError:
        inner = [p for p in self.copy.modules if p.startswith(path + ".") and self.record.plan.calls_of(p)]
        remedy = f'layer="{inner[-1]}"' if inner else "see print(grad_cam.chain(model, depth=2))"
        return LayerError(
            f"module '{path}' is not called in the forward pass, so there is no activation to explain",
            "a module whose forward is called directly, without module(...), counts as not called", remedy,
        )  # fmt: skip

    def _unknown(self, name: str) -> LayerError:
        if " ... " in name:
            return LayerError(
                "that is the name of several layers, whose maps were joined", name,
                'method="auto" without a layer, or one of its layers',
            )  # fmt: skip
        what = f"there is no module '{name}' in {type(self.model).__name__}"
        if name.isdecimal() and 1 <= int(name) < len(self.borders):
            return LayerError(what, "text; a layer_idx is a number", f"layer={int(name)}")
        names = dict.fromkeys([*(p for p in self.copy.modules if p), *(b.name for b in self.borders)])
        close = difflib.get_close_matches(name, names, n=4, cutoff=0.5)
        hint = f"closest: {', '.join(close)}" if close else "see print(grad_cam.chain(model))"
        return LayerError(what, "", hint + (f'; layer="{close[0]}"' if close else ""))

    def _after(self, call: Call, name: str) -> Cut:
        """The cut at a module's output."""
        plan = self.record.plan
        outs = [r for r in call.outs if r is not None]
        if plan.log.logits in outs:
            raise LayerError(
                f"'{name}' gives the logits: nothing is left to explain after it", "", "choose an earlier layer"
            )
        position = call.end + 1
        alive = plan.alive(position)
        usable = [r for r in outs if r in alive]
        batch = plan.log.batch
        value = next((r for r in usable if plan.log.shapes[r][:1] == (batch,)), usable[0] if usable else None)
        if value is None:
            if not any(plan.log.depends[r] for r in outs) and outs:
                raise LayerError(f"what '{name}' returns does not depend on the images", "", "choose another layer")
            parent = call.path.rpartition(".")[0]
            remedy = f'layer="{parent}"' if parent else "choose another layer (see print(grad_cam.chain(model)))"
            raise LayerError(
                f"the output of '{name}' is not used for the logits as a tensor, so there is no activation to explain",
                "", remedy,
            )  # fmt: skip
        times = len(plan.calls_of(call.path))
        point: Point | None = Point(call.path, call.times, times, 0, "", call.outs.index(value))
        if value in call.reads and value in plan.overwritten:  # it returns what it is given: met where that is made
            point = self._point(value)
        context = tuple(r for r in alive if r != value)
        index = self.layer_idx(value, position) if not context else None
        return Cut(name, index, position, value, context, point)

    def _point(self, value: Ref) -> Point | None:
        """Where the model's own forward can be met with a value in hand: at a module's end, else at an operation.

        A module that returns the value after it was computed with is no such place: what read it kept the old one.
        """
        plan = self.record.plan
        calls = [c for c in plan.log.calls if c.path and value in c.outs and c.end < plan.first[value]]
        if calls and value in plan.overwritten:  # where it is made, before anything else holds it
            calls = [c for c in calls if value not in c.reads]
            calls = [min(calls, key=lambda c: c.end)] if calls else []
        if calls:
            call = max(calls, key=lambda c: c.end)
            return Point(call.path, call.times, len(plan.calls_of(call.path)), 0, "", call.outs.index(value))
        event = plan.log.events[plan.log.made[value]]
        if type(event) is Step and event.number >= 0 and value in event.outs:
            name = getattr(event.func, "__name__", "")
            return Point(None, 0, 0, event.number, name, event.outs.index(value))
        return None

    def reading(self, cut: Cut, careful: bool = False) -> Reading:
        """How the activation at a cut is laid out.

        Args:
            cut: Where.
            careful: Ask the model by an experiment also where what is declared leaves one reading.
        """
        return self.record.positions.of(cut.value, cut.name, self._experiment, careful)

    def _experiment(self, values: Sequence[Ref]) -> None:
        """Measures how much some values change where one patch of the image is changed: see `positions`."""
        points = {r: self._point(r) for r in values}
        usable = {r: p for r, p in points.items() if p is not None}
        self.record.positions.measure(self, usable)
