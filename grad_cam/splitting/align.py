"""Two logs of one model at two batch sizes, laid beside each other: which numbers follow the batch."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

from ..errors import SplitError
from .log import Call, Const, Enter, Leaf, Log, Step, map_leaves


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


def align(log: Log, other: Log) -> dict[int, tuple[Any, Any]]:
    """Finds the numbers in a log that follow the batch.

    Args:
        log: At one batch size.
        other: Of the same model at another one.

    Returns:
        For every event with such numbers: its arguments and keyword arguments, the numbers replaced by `Scaled`.

    Raises:
        Unaligned: The two passes differ in more than such numbers.
    """
    if len(log.events) != len(other.events):
        raise _unaligned(log, other, "another number of operations")
    found: dict[int, tuple[Any, Any]] = {}
    for i, (a, b) in enumerate(zip(log.events, other.events, strict=True)):
        if type(a) is not type(b):
            raise _unaligned(log, other, "operations in another order")
        one: Any = a.call if type(a) is Enter else a
        two: Any = b.call if type(b) is Enter else b
        if type(one) is Step:
            if one.func is not two.func and getattr(one.func, "name", 0) != getattr(two.func, "name", 1):
                raise _unaligned(log, other, f"{_name(two)} instead of {_name(one)}")
        elif type(one) is not Call:
            continue
        elif one.path != two.path:
            raise _unaligned(log, other, f"module '{two.path}' instead of '{one.path}'")
        if one.outs != two.outs or one.reads != two.reads:
            raise _unaligned(log, other, f"other tensors at {_name(one)}")
        pairs = _Pairs(log, other, _name(one))
        args, kwargs = pairs.of(one.args, two.args), pairs.of(one.kwargs, two.kwargs)
        if pairs.scaled:
            found[i] = (args, kwargs)
    return found


class _Pairs:
    """Walks the arguments of one operation in both logs."""

    def __init__(self, log: Log, other: Log, name: str) -> None:
        self.log, self.other, self.name, self.scaled = log, other, name, False

    def of(self, one: Any, two: Any) -> Any:
        if isinstance(one, (tuple, list)) and type(one) is type(two) and len(one) == len(two):
            parts = [self.of(a, b) for a, b in zip(one, two, strict=True)]
            return (type(one)(*parts) if hasattr(one, "_fields") else tuple(parts)) if isinstance(one, tuple) else parts
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
        if type(one) in (str, bool, type(None)) and one != two:
            raise _unaligned(self.log, self.other, f"{two!r} instead of {one!r} at {self.name}")
        return one

    def _scaled(self, one: float, two: float) -> Scaled:
        whole = type(one) is int
        first, second = Fraction(one) / self.log.batch, Fraction(two) / self.other.batch
        if first != second:
            raise _unaligned(self.log, self.other, f"{two} instead of {one} at {self.name}, which is no multiple of it")
        return Scaled(first, whole)


def _name(event: Step | Call) -> str:
    return f"module '{event.path}'" if type(event) is Call else f"'{getattr(event.func, '__name__', 'an operation')}'"  # type: ignore[union-attr]


def _unaligned(log: Log, other: Log, what: str) -> Unaligned:
    return Unaligned(
        "its forward does something else for another number of images",
        f"with {other.batch} instead of {log.batch}: {what}",
        "explain() still works with gradient methods; for split() and perturbation methods make the forward treat "
        "every number of images alike",
    )
