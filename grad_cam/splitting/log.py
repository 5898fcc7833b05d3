"""The log of a forward pass: every operation that makes or changes a tensor, and every call of a module.

`recorder` writes it, `plan` reads it.
"""

from __future__ import annotations

import dataclasses
from typing import Any, final

from torch import Tensor

from ..errors import SplitError
from .nested import Leaf


class Ref(int):
    """A reference to a value of the log: its number."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"%{int(self)}"


@dataclasses.dataclass(frozen=True)
class Param(Leaf):
    """A reference to a parameter or buffer of the model."""

    path: str


@dataclasses.dataclass(frozen=True, eq=False)
class Const(Leaf):
    """A tensor that neither the input nor a parameter is."""

    tensor: Tensor


@dataclasses.dataclass(frozen=True)
class Unknown(Leaf):
    """An object whose contents the log does not see."""

    kind: str


@final
class Step:
    """One operation.

    Attributes:
        func: The function that was called.
        args, kwargs: Its arguments, tensors replaced by `Ref`, `Param` and `Const`.
        outs: The leaves of its result: a `Ref` for a tensor, None for everything else.
        same: (old, new) for every known tensor that it wrote to: one object under two numbers.
        writes: Whether it wrote to any tensor.
        changed: (argument, new value) for every tensor that it wrote to without returning it.
        reads: The values it read.
        context: What was switched on around it: gradient, autocast.
        number: The how-manieth call of a tensor function it was.
        depends: Whether it read a value that depends on the images.
        problem: Why it cannot be repeated outside the model's own code, or "".
    """

    __slots__ = (
        "func", "args", "kwargs", "outs", "changed", "same", "writes", "reads", "context", "number", "depends",
        "problem",
    )  # fmt: skip

    def __init__(self, func: Any, args: Any, kwargs: Any, reads: list[Ref], context: Context, number: int) -> None:
        self.func: Any = func
        self.args: Any = args
        self.kwargs: Any = kwargs
        self.reads: list[Ref] = reads
        self.context: Context = context
        self.number: int = number
        self.outs: tuple[Ref | None, ...] = ()
        self.changed: list[tuple[Any, Ref]] = []
        self.same: list[tuple[Ref, Ref]] = []
        self.writes: bool = False
        self.depends: bool = False
        self.problem: str = ""


@final
class Call:
    """One call of a module.

    Attributes:
        path: The module's path.
        times: The how-manieth call of this module it was, from 0.
        start, end: The events that open and close it.
        args, kwargs, outs: As for a `Step`.
        reads: The values among its arguments.
        parent: The call it was made in.
        context: What was switched on around it.
        plain: Whether it returned a tensor itself, rather than an object that holds some.
        opaque: Whether it returned a tensor that no recorded operation made.
        custom: Whether an `autograd.Function`'s forward made it.
        unknown: Whether it was given an object whose contents the log does not see.
    """

    __slots__ = (
        "path", "times", "start", "end", "args", "kwargs", "outs", "reads", "parent", "context", "opaque", "unknown",
        "custom", "plain",
    )  # fmt: skip

    def __init__(self, path: str, times: int, start: int, parent: Call | None, context: Context) -> None:
        self.path: str = path
        self.times: int = times
        self.start: int = start
        self.end: int = -1
        self.parent: Call | None = parent
        self.context: Context = context
        self.args: Any = ()
        self.kwargs: Any = {}
        self.outs: tuple[Ref | None, ...] = ()
        self.reads: list[Ref] = []
        self.opaque: bool = False
        self.unknown: bool = False
        self.custom: bool = False
        self.plain: bool = False


@final
class Enter:
    """The event that opens a call."""

    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call: Call = call


@final
class Exit:
    """The event that closes a call."""

    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call: Call = call


Context = tuple[bool, bool, Any]
"""Whether gradients were switched on, whether autocast was, and its dtype."""


class Log:
    """What one forward pass left behind.

    Attributes:
        events: Steps and the borders of calls, in order.
        shapes: Shape of every value.
        made: The event that made a value; -1 for the images.
        depends: Whether a value depends on the images.
        logits: The value that is the logits.
        calls: All calls, in the order they were opened.
        batch: Number of images.
        device_type: Of the images.
        ambient: What was switched on around the whole pass.
        reads_values: Whether values of tensors become Python values anywhere.
        wants_mode: Whether a run without a function mode would take another path (see `intercept.Plain`).
    """

    def __init__(self, batch: int, device_type: str, ambient: Context) -> None:
        self.events: list[Step | Enter | Exit] = []
        self.shapes: list[tuple[int, ...]] = []
        self.made: list[int] = []
        self.depends: list[bool] = []
        self.logits: Ref = Ref(0)
        self.calls: list[Call] = []
        self.batch = batch
        self.device_type = device_type
        self.ambient = ambient
        self.reads_values = False
        self.wants_mode = False


@dataclasses.dataclass
class Recording:
    """A log with the values that are still at hand: the logits and the newest module outputs, detached."""

    log: Log
    logits: Tensor
    values: dict[Ref, tuple[Tensor, int]]  # with the version they had

    def value(self, ref: Ref) -> Tensor | None:
        """A value of the log, or None if it was dropped or written over."""
        tensor, version = self.values.get(ref, (None, 0))
        return tensor if tensor is not None and tensor._version == version else None


def under_inference_mode(given: str) -> SplitError:
    """The error for a forward whose tensors cannot be differentiated."""
    return SplitError(
        "its forward runs under torch.inference_mode, where no gradient can be had", given,
        "take the decorator off forward and use it, or torch.no_grad(), where the model is called",
    )  # fmt: skip
