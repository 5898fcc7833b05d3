"""What a log means: which values are alive where, which calls can be run whole, where a model can be cut.

A position p is a place between events: events[:p] have happened. The values alive at p are those that were made before
it and are still read after it, for the sake of the logits. A cut is a position; the tensors alive there cross it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from torch import nn

from ..errors import SplitError
from .intercept import Point
from .log import Call, Enter, Exit, Log, Ref, Step
from .operations import DATA_DEPENDENT


class Unrepeatable(SplitError):
    """The model's outermost code holds something that only the model's own forward can do."""


class Cut(NamedTuple):
    """A place where a model can be cut.

    Attributes:
        name: Module path, or the name of the stage that ends here.
        layer_idx: Number of stages of the top-level chain after it, or None if it is no border of that chain.
        position: Where in the record.
        value: The activation there.
        context: The other tensors that are alive.
        point: Where the model's own forward can be met there, if anywhere.
    """

    name: str
    layer_idx: int | None
    position: int
    value: Ref
    context: tuple[Ref, ...]
    point: Point | None


class Plan:
    """A log that has been read.

    Attributes:
        log: The log.
        last: For every value, the last event that reads it for the sake of the logits (-1: none).
        overwritten: Values whose memory is written to later.
        containers: Paths of modules that only hold others and have no forward of their own.
    """

    def __init__(self, log: Log, containers: Collection[str] = ()) -> None:
        self.log = log
        self.containers = containers
        self.last: list[int] = [-1] * len(log.shapes)
        self.overwritten: set[Ref] = {old for e in log.events if type(e) is Step for old, _ in e.same}
        self.count: list[int] = []
        self.total: list[int] = []
        self._read_backwards()
        self._count()
        self._clean: dict[int, bool] = {}
        self._borders: dict[tuple[int, frozenset[str]], tuple[Border, ...]] = {}

    def _read_backwards(self) -> None:
        last, depends = self.last, self.log.depends
        last[self.log.logits] = len(self.log.events)
        open_calls: list[bool] = []  # whether anything inside is wanted
        for i in range(len(self.log.events) - 1, -1, -1):
            event = self.log.events[i]
            if type(event) is Step:
                wanted = (event.writes and event.depends) or any(r is not None and last[r] >= 0 for r in event.outs)
                if wanted or any(last[new] >= 0 for _, new in event.changed):
                    for r in event.reads:
                        if last[r] < i:
                            last[r] = i
                    if open_calls:
                        open_calls[-1] = True
            elif type(event) is Exit:
                found = False
                for out in event.call.outs:
                    if out is not None and last[out] >= 0:
                        found = found or depends[out]
                        last[out] = max(last[out], i)
                open_calls.append(found)
            elif open_calls.pop():
                for r in event.call.reads:
                    last[r] = max(last[r], i)
                if open_calls:
                    open_calls[-1] = True

    @functools.cached_property
    def first(self) -> list[int]:
        """For every value, the first event that reads it to compute with (their number: none)."""
        found = [len(self.log.events)] * len(self.log.shapes)
        for i in range(len(self.log.events) - 1, -1, -1):
            event = self.log.events[i]
            if type(event) is Step:
                reads = event.reads
            else:
                reads = event.call.reads if type(event) is Enter and event.call.opaque else []
            for r in reads:
                found[r] = i
        return found

    def _count(self) -> None:
        """How many values are alive at every position, and the sum of their numbers (one value: its number)."""
        size = len(self.log.events) + 2
        count, total = [0] * size, [0] * size
        for ref, (made, last) in enumerate(zip(self.log.made, self.last, strict=True)):
            if last > made and self.log.depends[ref]:
                count[made + 1] += 1
                total[made + 1] += ref
                if last + 1 < size:
                    count[last + 1] -= 1
                    total[last + 1] -= ref
        for p in range(1, size):
            count[p] += count[p - 1]
            total[p] += total[p - 1]
        self.count, self.total = count, total

    # ---------------------------------------------------------------------------------------------------- positions

    def only(self, position: int) -> Ref | None:
        """The value alive at a position if there is just one, and it is not the images."""
        ref = Ref(self.total[position]) if self.count[position] == 1 else None
        return ref or None  # 0 is the images

    def alive(self, position: int) -> list[Ref]:
        """The values alive at a position that depend on the images, in the order they were made."""
        return [
            Ref(ref)
            for ref, (made, last) in enumerate(zip(self.log.made, self.last, strict=True))
            if made < position <= last and self.log.depends[ref]
        ]

    def steps(self, start: int, stop: int) -> Iterator[Step]:
        """The steps between two positions."""
        return (e for e in self.log.events[start:stop] if type(e) is Step)

    # -------------------------------------------------------------------------------------------------------- calls

    def visible(self, opened: frozenset[str]) -> list[Call]:
        """The calls seen when some modules are opened, in order; only those that carry the images' information."""
        found, i, events = [], 0, self.log.events
        while i < len(events):
            event = events[i]
            if type(event) is Enter:
                call = event.call
                if call.path not in opened or call.opaque:
                    if self.carries(call):
                        found.append(call)
                    i = call.end
            i += 1
        return found

    def carries(self, call: Call) -> bool:
        """Whether the logits depend on the images through what a call returns."""
        return any(r is not None and self.log.depends[r] and self.last[r] >= 0 for r in call.outs)

    def calls_of(self, path: str) -> list[Call]:
        """The calls of a module, in the order in which they returned."""
        return sorted((c for c in self.log.calls if c.path == path), key=lambda c: c.times)

    def clean(self, call: Call) -> bool:
        """Whether a call can be repeated by calling the module.

        Every value that it reads and that depends on the images comes in through its arguments, and what is read of it
        later leaves through its results, or is an argument that it wrote to.
        """
        known = self._clean.get(call.start)
        if known is None:
            known = self._clean[call.start] = self._is_clean(call)
        return known

    def _is_clean(self, call: Call) -> bool:
        if call.unknown or call.end < 0:
            return False
        log, given = self.log, set(call.reads)
        outs = {r for r in call.outs if r is not None}
        for event in log.events[call.start + 1 : call.end]:
            if type(event) is Step:
                if any(log.made[r] < call.start and log.depends[r] and r not in given for r in event.reads):
                    return False
        leaving = {
            Ref(r)
            for r in range(len(log.made))
            if call.start < log.made[r] <= call.end < self.last[r] and log.depends[r] and r not in outs
        }
        return not leaving - {new for _, new in self.rebound(call)}

    def openable(self, call: Call) -> bool:
        """Whether what a call does can be repeated piece by piece."""
        try:
            self.program(call.start + 1, call.end, [r for r in call.outs if r is not None])
        except Unrepeatable:
            return False
        return True

    def rebound(self, call: Call) -> list[tuple[Ref, Ref]]:
        """(argument, value) for the arguments of a call that it wrote to: one object under a new number."""
        origin = {r: r for r in call.reads}
        for step in self.steps(call.start, call.end):
            for old, new in step.same:
                if old in origin:
                    origin[new] = origin[old]
        return [(old, new) for new, old in origin.items() if new != old]

    # ------------------------------------------------------------------------------------------------------- stages

    # Long because it is one walk with a case for each kind of event.
    def program(self, start: int, stop: int, outs: Iterable[Ref], whole: Collection[int] = ()) -> list[Step | Call]:
        """What has to run between two positions to make some values: whole calls where that is the same, else steps.

        Args:
            start: The first position.
            stop: The last position.
            outs: The values.
            whole: Events that open calls which may not be opened.

        Raises:
            Unrepeatable: Something between them cannot be run outside the model's own forward.
        """
        events = self.log.events
        found: list[Step | Call] = []
        i = start
        while i < stop:
            event = events[i]
            if type(event) is Enter and event.call.custom:
                raise Unrepeatable(
                    f"module '{event.call.path}' is called by a custom autograd.Function", "",
                    "explain() with gradient methods runs the model's own forward and works",
                )  # fmt: skip
            if type(event) is Enter and event.call.end < stop and self.clean(event.call):
                found.append(event.call)
                i = event.call.end
            elif type(event) is Enter and i in whole:
                raise Unrepeatable(
                    f"what module '{event.call.path}' does depends on the number of images, and the cut is inside it",
                    "",
                    f'layer="{event.call.path}"',
                )  # fmt: skip
            elif type(event) is Step:
                if event.problem and event.depends and (not event.outs or event.writes):
                    raise self._unrepeatable(event)
                found.append(event)
            elif type(event) is Exit and event.call.opaque and event.call.start >= start:
                raise Unrepeatable(
                    f"module '{event.call.path}' computes with operations that cannot be recorded", "",
                    "explain a layer after it or before it",
                )  # fmt: skip
            i += 1
        return self._wanted(found, outs)

    def _wanted(self, found: list[Step | Call], outs: Iterable[Ref]) -> list[Step | Call]:
        """The parts that `outs` need, with the constants among what they read."""
        wanted = set(outs)
        kept: list[Step | Call] = []
        for part in reversed(found):
            if type(part) is Step:
                own = [r for r in part.outs if r is not None] + [new for _, new in part.changed]
                if not (part.writes and part.depends) and wanted.isdisjoint(own):
                    continue
                if part.problem and part.depends:
                    raise Unrepeatable(
                        part.problem,
                        self.place(part),
                        "gradient methods explain the model all the same; give layer=...",
                    )
            elif wanted.isdisjoint(r for r in part.outs if r is not None) and not self.rebound(part):
                continue
            wanted.update(part.reads)
            kept.append(part)
        kept.reverse()
        made = {r for part in kept for r in part.outs if r is not None}
        made |= {new for part in kept if type(part) is Step for _, new in part.changed}
        return [*self._constants(wanted - made), *kept]

    def _constants(self, wanted: set[Ref]) -> list[Step | Call]:
        """The steps that make values which do not depend on the images, wherever they were made."""
        log = self.log
        stack = [r for r in wanted if not log.depends[r]]
        indices: set[int] = set()
        while stack:
            i = log.made[stack.pop()]
            if i in indices:
                continue
            event = log.events[i]
            if type(event) is not Step:
                raise Unrepeatable(
                    f"module '{event.call.path}' computes with operations that cannot be recorded", "",
                    "explain a layer after it or before it",
                )  # fmt: skip
            indices.add(i)
            stack += event.reads
        return [log.events[i] for i in sorted(indices)]  # type: ignore[misc]

    @functools.cached_property
    def _numbers(self) -> dict[int, int]:
        return {id(e): i for i, e in enumerate(self.log.events) if type(e) is Step}

    def number(self, part: Step | Call) -> int:
        """The event that a step is, or that opens a call."""
        return part.start if type(part) is Call else self._numbers[id(part)]

    def is_data_dependent(self) -> bool:
        """Whether values of the images become Python values outside modules that are run whole."""
        found = (e for e in self.log.events if type(e) is Step and e.func in DATA_DEPENDENT)
        return any(not self._is_inside_whole(e) for e in found)

    def _is_inside_whole(self, step: Step) -> bool:
        index = self.number(step)
        return any(c.start < index < c.end and c.path and self.clean(c) for c in self.log.calls)

    def _unrepeatable(self, step: Step) -> Unrepeatable:
        return Unrepeatable(
            f"{self.place(step)} cannot be followed: {step.problem}", "",
            "explain() with gradient methods runs the model's own forward and works; for split() move that part into a "
            "submodule",
        )  # fmt: skip

    def place(self, step: Step) -> str:
        """The module whose forward holds a step."""
        stack: list[str] = []
        for event in self.log.events:
            if event is step:
                break
            if type(event) is Enter:
                stack.append(event.call.path)
            elif type(event) is Exit:
                stack.pop()
        path = stack[-1] if stack else ""
        return f"the forward of module '{path}'" if path else "the model's own forward"

    # ------------------------------------------------------------------------------------------------------ borders

    def opened_at(self, depth: int, modules: dict[str, nn.Module]) -> frozenset[str]:
        """The modules to open for the chain of a depth: those that hold blocks and are chains themselves."""
        opened = frozenset({""})
        closed: set[str] = set()
        level = 1
        while level < depth:
            fresh = {
                c.path for c in self.visible(opened)
                if c.path.count(".") + 1 <= level and c.path not in closed and _holds_blocks(modules.get(c.path))
                and self.openable(c)
            } - opened  # fmt: skip
            if not fresh:
                level += 1
                continue
            chains = {p for p in fresh if self._is_chain(opened | fresh, p)}
            closed |= fresh - chains
            opened |= chains
        return opened

    def _is_chain(self, opened: frozenset[str], path: str) -> bool:
        """Whether an opened module is itself a chain: most of its children return a single tensor."""
        inner = [c for c in self.visible(opened) if c.parent is not None and c.parent.path == path]
        if not inner:
            return False
        cuts = sum(self.border_between(a, b) is not None for a, b in zip(inner, inner[1:], strict=False))
        return len(inner) == 1 or 2 * (cuts + 1) > len(inner)

    def border_between(self, before: Call, after: Call) -> int | None:
        """The first position between two calls where a single tensor is alive."""
        return next((p for p in range(before.end + 1, after.start + 1) if self.only(p) is not None), None)

    def borders(self, depth: int, opened: frozenset[str]) -> tuple[Border, ...]:
        """The borders of the chain of a depth, the last being the end."""
        known = self._borders.get((depth, opened))
        if known is not None:
            return known
        calls = self.visible(opened)
        keys = [".".join(c.path.split(".")[:depth]) for c in calls]
        found: list[Border] = []
        group: list[int] = []
        for n, call in enumerate(calls):
            group.append(n)
            if n + 1 < len(calls) and keys[n] != keys[n + 1]:
                position = self.border_between(call, calls[n + 1])
                if position is not None:
                    found.append(self._border(position, calls, keys, group))
                    group = []
        found.append(self._border(len(self.log.events), calls, keys, group))
        known = self._borders[depth, opened] = tuple(_distinct(found))
        return known

    def _border(self, position: int, calls: list[Call], keys: list[str], group: list[int]) -> Border:
        last = calls[group[-1]] if group else None
        value = self.log.logits if position >= len(self.log.events) else self.only(position)
        assert value is not None
        own = list(dict.fromkeys(keys[n] for n in group))
        whole = len(own) == 1 and own[0] and all(n in group for n, key in enumerate(keys) if key == own[0])
        if whole and (own[0] in self.containers or any(calls[n].path == own[0] for n in group)):
            name = own[0]
        elif len(own) == 1 and own[0] and len(group) == 1 and calls[group[0]].path == own[0]:
            name = self.name_of(calls[group[0]])
        else:
            paths = list(dict.fromkeys(calls[n].path for n in group)) or ["forward"]
            name = "+".join(paths) if len(paths) <= 3 else f"{paths[0]}+...+{paths[-1]}"
        ends_there = last is None or position >= len(self.log.events) or value in last.outs
        if not ends_there:
            assert last is not None
            ops = [getattr(s.func, "__name__", "op") for s in self.steps(last.end, position) if value in s.outs]
            name = f"{name} + {(ops or ['glue'])[-1].strip('_').removeprefix('i')}"
        return Border(position, value, name, tuple(calls[n].path for n in group))

    def is_unchanged(self, before: Border, border: Border) -> bool:
        """Whether a stage returns what it is given, as an identity or a dropout in eval mode does."""
        names = [getattr(s.func, "__name__", "") for s in self.steps(before.position, border.position)]
        return all("dropout" in name for name in names)

    def name_of(self, call: Call) -> str:
        """A call's name: the module's path; with several calls, that is the last, ``path@1`` the first, and so on."""
        times = len(self.calls_of(call.path))
        return call.path if call.times == times - 1 else f"{call.path}@{call.times + 1}"


@dataclasses.dataclass(frozen=True)
class Border:
    """The end of a stage: the position, the value alive there, and the stage's name and modules."""

    position: int
    value: Ref
    name: str
    paths: tuple[str, ...]


def _distinct(borders: list[Border]) -> list[Border]:
    seen: dict[str, int] = {}
    found = []
    for border in borders:
        times = seen[border.name] = seen.get(border.name, 0) + 1
        found.append(border if times == 1 else dataclasses.replace(border, name=f"{border.name}:{times}"))
    return found


def _holds_blocks(module: nn.Module | None) -> bool:
    return module is not None and any(
        isinstance(m, (nn.Sequential, nn.ModuleList)) and len(m) for m in module.modules()
    )
