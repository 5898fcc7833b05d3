"""Two logs of one model at two batch sizes, laid beside each other: which numbers follow the batch."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

from ..errors import SplitError
from .log import Call, Const, Enter, Log, Ref, Step
from .nested import Leaf, map_leaves
from .plan import Plan


@dataclasses.dataclass(frozen=True)
class Scaled(Leaf):
    """A number that is a multiple of the number of images."""

    per_image: Fraction
    whole: bool

    def of(self, batch: int) -> int | float:
        """The number for a batch."""
        value = self.per_image * batch
        return int(value) if self.whole else float(value)


class Unaligned(SplitError):
    """A forward does something else for another number of images."""


def align(plan: Plan, other: Plan) -> tuple[dict[int, tuple[Any, Any]], dict[Ref, tuple[int, ...]], set[int]]:
    """Finds the numbers in a log that follow the batch.

    Args:
        plan: At one batch size.
        other: Of the same model at another one.

    Returns:
        For every event with such numbers, its arguments and keyword arguments with `Scaled` in place of them; the
        shapes of the values at the other batch size; and the events that open calls which have to be run whole since
        they do something else inside.

    Raises:
        Unaligned: The two passes differ in more than that.
    """
    return _Alignment(plan, other).run()


class _Alignment:
    """Walks two logs beside each other."""

    def __init__(self, plan: Plan, other: Plan) -> None:
        self.plan, self.other = plan, other
        self.scaled: dict[int, tuple[Any, Any]] = {}
        self.same: dict[Ref, Ref] = {Ref(0): Ref(0)}  # values of the log to those of the other
        self.whole: set[int] = set()

    def run(self) -> tuple[dict[int, tuple[Any, Any]], dict[Ref, tuple[int, ...]], set[int]]:
        self._range(0, len(self.plan.log.events), 0, len(self.other.log.events))
        shapes = {one: self.other.log.shapes[two] for one, two in self.same.items()}
        return self.scaled, shapes, self.whole

    def _range(self, i: int, end: int, j: int, other_end: int) -> None:
        log, other = self.plan.log, self.other.log
        while i < end and j < other_end:
            one, two = log.events[i], other.events[j]
            if type(one) is not type(two):
                raise self._unaligned("operations in another order")
            if type(one) is Enter:
                assert type(two) is Enter
                i, j = self._call(one.call, two.call)
                continue
            if type(one) is Step:
                assert type(two) is Step
                if one.func != two.func:
                    raise self._unaligned(f"{_name(two)} instead of {_name(one)}")
                self._arguments(i, one, two)
                self._values(one, two)
            i, j = i + 1, j + 1
        if i < end or j < other_end:
            raise self._unaligned("another number of operations")

    def _call(self, one: Call, two: Call) -> tuple[int, int]:
        if one.path != two.path:
            raise self._unaligned(f"module '{two.path}' instead of '{one.path}'")
        self._arguments(one.start, one, two)
        kept = dict(self.scaled), dict(self.same), set(self.whole)
        try:
            self._range(one.start + 1, one.end, two.start + 1, two.end)
        except Unaligned:
            if not one.path or not (self.plan.clean(one) and self.other.clean(two)):
                raise
            self.scaled, self.same, self.whole = kept
            self.whole.add(one.start)
        self._values(one, two)
        return one.end + 1, two.end + 1

    def _arguments(self, index: int, one: Step | Call, two: Step | Call) -> None:
        pairs = _Pairs(self, _name(one))
        args, kwargs = pairs.of(one.args, two.args), pairs.of(one.kwargs, two.kwargs)
        if pairs.scaled:
            self.scaled[index] = (args, kwargs)

    def _values(self, one: Step | Call, two: Step | Call) -> None:
        if len(one.outs) != len(two.outs):
            raise self._unaligned(f"another number of results of {_name(one)}")
        for a, b in zip(one.outs, two.outs, strict=True):
            if (a is None) != (b is None):
                raise self._unaligned(f"other results of {_name(one)}")
            if a is not None and b is not None:
                self.same[a] = b
        if type(one) is Step and type(two) is Step:
            for (_, a), (_, b) in zip(one.changed, two.changed, strict=False):
                self.same[a] = b

    def _unaligned(self, what: str) -> Unaligned:
        return _unaligned(self.plan.log, self.other.log, what)


class _Pairs:
    """Walks the arguments of one operation in both logs."""

    def __init__(self, alignment: _Alignment, name: str) -> None:
        self.same, self.name, self.scaled = alignment.same, name, False
        self.log, self.other = alignment.plan.log, alignment.other.log

    def of(self, one: Any, two: Any) -> Any:
        if isinstance(one, (tuple, list)) and type(one) is type(two) and len(one) == len(two):
            parts = [self.of(a, b) for a, b in zip(one, two, strict=True)]
            return (
                (tuple.__new__(type(one), parts) if hasattr(one, "_fields") else tuple(parts))
                if isinstance(one, tuple)
                else parts
            )
        if isinstance(one, dict) and isinstance(two, dict) and list(one) == list(two):
            pairs = iter([self.of(a, b) for a, b in zip(one.values(), two.values(), strict=True)])
            return map_leaves({k: None for k in one}, lambda _: next(pairs)) if type(one) is dict else one
        if type(one) is slice and type(two) is slice:
            return slice(self.of(one.start, two.start), self.of(one.stop, two.stop), self.of(one.step, two.step))
        if type(one) is type(two) and type(one) in (int, float) and one != two and one == one:
            self.scaled = True
            return self._scaled(one, two)
        if isinstance(one, Const) and isinstance(two, Const):
            if one.tensor.shape != two.tensor.shape:
                raise _unaligned(self.log, self.other, f"a constant of another shape at {self.name}")
            return one
        if type(one) is Ref or type(two) is Ref:
            if self.same.get(one, two if one == two else None) != two:
                raise _unaligned(self.log, self.other, f"other tensors at {self.name}")
            return one
        if type(one) in (str, bool, type(None)) and one != two:
            raise _unaligned(self.log, self.other, f"{two!r} instead of {one!r} at {self.name}")
        return one

    def _scaled(self, one: float, two: float) -> Scaled:
        whole = type(one) is int
        first, second = Fraction(one) / self.log.batch, Fraction(two) / self.other.batch
        if first != second:
            raise _unaligned(self.log, self.other, f"{two} instead of {one} at {self.name}, not a multiple of it")
        return Scaled(first, whole)


def _name(event: Step | Call) -> str:
    return f"module '{event.path}'" if type(event) is Call else f"'{getattr(event.func, '__name__', 'an operation')}'"


def _unaligned(log: Log, other: Log, what: str) -> Unaligned:
    return Unaligned(
        "its forward does something else for another number of images",
        f"with {other.batch} instead of {log.batch}: {what}",
        "explain() still works with gradient methods; for split() and perturbation methods make the forward treat "
        "every number of images alike",
    )
