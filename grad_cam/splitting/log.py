"""One log of a forward pass: every operation that makes or changes a tensor, and every call of a module.

`record` runs an eval copy on the images at hand and writes down what happened, at full depth, on real values. Nothing
is run twice and nothing is decided here; `plan` reads the log.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import itertools
import random
import sys
import threading
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import SplitError
from ..outputs import find_logits
from .evalcopy import EvalCopy

STORE = 256 * 2**20
"""Bytes of module outputs that a record keeps at most until the first explanation is done; the newest are kept."""

STORE_OF_IMAGE = 12 * 2**20
"""The same for one image: memory that is kept cannot be used again by the run, and new memory costs time."""

_TAG = "_grad_cam_value"
_RUNS = itertools.count()


class Ref(int):
    """A reference to a value of the log: its number."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"%{int(self)}"


class Leaf:
    """Something in a step that stands for a value; nothing inside it is looked at."""


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
        self.func, self.args, self.kwargs, self.reads, self.context, self.number = (
            func, args, kwargs, reads, context, number,
        )  # fmt: skip
        self.outs: tuple[Ref | None, ...] = ()
        self.changed: list[tuple[Any, Ref]] = []
        self.same: list[tuple[Ref, Ref]] = []
        self.writes = False
        self.depends = False
        self.problem = ""


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
        self.path, self.times, self.start, self.end, self.parent, self.context = path, times, start, -1, parent, context
        self.args: Any = ()
        self.kwargs: Any = {}
        self.outs: tuple[Ref | None, ...] = ()
        self.reads: list[Ref] = []
        self.opaque = self.unknown = self.custom = self.plain = False


class Enter:
    """The event that opens a call."""

    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call = call


class Exit:
    """The event that closes a call."""

    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call = call


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
        wants_mode: Whether a run without a function mode would take another path (see `intercept.Plain`).
    """

    def __init__(self, batch: int, device_type: str, ambient: Context) -> None:
        self.events: list[Step | Enter | Exit] = []
        self.shapes: list[tuple[int, ...]] = []
        self.made: list[int] = []
        self.depends: list[bool] = []
        self.logits = Ref(0)
        self.calls: list[Call] = []
        self.batch, self.device_type, self.ambient = batch, device_type, ambient
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


# ------------------------------------------------------------------------------------------------------------- leaves


def map_leaves(value: Any, fn: Callable[[Any], Any]) -> Any:
    """Applies `fn` to every leaf of nested lists, tuples, dicts, slices and output dataclasses."""
    kind = type(value)
    if kind is tuple:
        return tuple([map_leaves(v, fn) for v in value])
    if kind is list:
        return [map_leaves(v, fn) for v in value]
    if kind is dict:
        return {k: map_leaves(v, fn) for k, v in value.items()}
    if kind is slice:
        return slice(map_leaves(value.start, fn), map_leaves(value.stop, fn), map_leaves(value.step, fn))
    if kind is torch.Size:
        return tuple([fn(v) for v in value])
    if isinstance(value, tuple):
        items = [map_leaves(v, fn) for v in value]
        return kind(*items) if hasattr(value, "_fields") else kind(items)
    if isinstance(value, list):
        return kind(map_leaves(v, fn) for v in value)
    if isinstance(value, dict):
        if dataclasses.is_dataclass(value):  # Hugging Face's ModelOutput
            return kind(**{k: map_leaves(v, fn) for k, v in value.items()})
        return kind((k, map_leaves(v, fn)) for k, v in value.items())
    if dataclasses.is_dataclass(value) and not isinstance(value, (type, Leaf)):
        return dataclasses.replace(
            value, **{f.name: map_leaves(getattr(value, f.name), fn) for f in dataclasses.fields(value) if f.init}
        )
    return fn(value)


def leaves(value: Any) -> Iterator[Any]:
    """The leaves of a nested structure, in the order of `map_leaves`."""
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif type(value) is slice:
        yield from (value.start, value.stop, value.step)
    elif dataclasses.is_dataclass(value) and not isinstance(value, (type, Leaf)):
        for field in dataclasses.fields(value):
            if field.init:
                yield from leaves(getattr(value, field.name))
    else:
        yield value


# ---------------------------------------------------------------------------------------------------------- functions


_FOR_GRADIENTS = {Tensor.register_hook, Tensor.retain_grad}
"""What a forward may ask of a tensor that requires a gradient; before the cut none does, and nothing is done."""


class Attribute:
    """Reads an attribute of a tensor; the functions torch calls for it cannot be pickled."""

    def __init__(self, name: str) -> None:
        self.name = self.__name__ = name

    def __call__(self, tensor: Tensor) -> Any:
        return getattr(tensor, self.name)


def refreshed(tensor: Tensor, *writers: Any) -> Tensor:
    """The same tensor, after another name of its memory was written to."""
    return tensor


_SILENT = frozenset({
    "shape", "dtype", "device", "layout", "ndim", "is_cuda", "is_sparse", "is_quantized", "is_meta", "_version",
    "itemsize", "nbytes", "names", "is_mps", "is_xla", "is_cpu", "is_nested", "is_xpu", "_base", "output_nr",
    "is_mkldnn", "_backward_hooks", "is_mtia", "is_ipu", "is_vulkan", "is_maia", "is_sparse_csr",
})  # fmt: skip
"""Attributes that say something of a tensor which is no tensor."""

DATA_DEPENDENT = {
    Tensor.item, Tensor.tolist, Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__, Tensor.__complex__,
    Tensor.__contains__, Tensor.numpy, Tensor.__array__, torch.equal, Tensor.equal, torch.allclose, Tensor.allclose,
    torch.is_nonzero, Tensor.is_nonzero, Tensor.data_ptr, Tensor.__dlpack__, Tensor.__repr__, Tensor.__format__,
}  # fmt: skip
"""Functions that turn a tensor's values into something else than a tensor."""

_PASSIVE: dict[Any, Any] = {}
"""For functions met before: None if they cannot return a tensor, else what stands in their place in a step."""


def _in_steps(func: Any) -> Any:
    """The function to write into a step, or None if it returns no tensor."""
    owner = getattr(func, "__self__", None)
    if getattr(func, "__name__", "") == "__get__" and owner is not None:
        name = getattr(owner, "__name__", "")
        return None if name in _SILENT else Attribute(name)
    return func


_NO_TENSOR = {
    Tensor.size, Tensor.dim, Tensor.ndimension, Tensor.numel, Tensor.stride, Tensor.is_floating_point,
    Tensor.is_complex, Tensor.is_contiguous, Tensor.__len__, Tensor.get_device, Tensor.element_size,
    Tensor.nelement, Tensor.is_inference, Tensor.storage_offset, Tensor.untyped_storage, Tensor.__hash__,
    Tensor.is_signed, torch.is_floating_point, torch.is_complex, torch.is_tensor, torch.numel, torch.result_type,
    torch.is_same_size, Tensor.is_same_size, torch.broadcast_shapes, torch.jit.annotate, torch._assert,
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- record


class WritesParameters(Exception):
    """A forward is about to write to a parameter that the copy shares with the model: a copy with its own is needed."""


def _may_write(func: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a function is one that writes to a tensor it is given, by its name or arguments."""
    known = _WRITERS.get(func)
    if known is None:
        name = getattr(func, "__name__", "")
        known = _WRITERS[func] = (
            (name.endswith("_") and not name.endswith("__")) or name in ("__setitem__", "__set__")
            or (name.startswith("__i") and name not in ("__index__", "__int__", "__invert__", "__iter__"))
        )  # fmt: skip
    return known or "out" in kwargs or bool(kwargs.get("inplace"))


_WRITERS: dict[Any, bool] = {}


class _Recorder(TorchFunctionMode):
    """Writes a `Log` while an eval copy runs."""

    def __init__(self, copy: EvalCopy, images: Tensor) -> None:
        super().__init__()
        self.copy = copy
        self.run = next(_RUNS)
        device = images.device.type
        self.device_type = device
        self.log = Log(len(images), device, self._context())
        self.number = 0
        self.stack: list[Call] = []
        self.active, self.thread = False, threading.get_ident()
        self.values: OrderedDict[Ref, tuple[Tensor, int]] = OrderedDict()
        self.bytes, self.store = 0, min(STORE, STORE_OF_IMAGE * len(images))
        self._writers: dict[int, Ref] = {}
        self._times: dict[str, int] = {}
        self._constants: dict[int, Const] = {}
        self.reads: list[Ref] = []
        self.problem, self.unknown = "", False
        self._custom: set[types.CodeType] | None = None
        self.storages, self.shared = copy.storages()

    # -- values

    def _context(self) -> Context:
        autocast = torch.is_autocast_enabled(self.device_type)
        return torch.is_grad_enabled(), autocast, torch.get_autocast_dtype(self.device_type) if autocast else None

    def _new(self, tensor: Tensor, depends: bool) -> Ref:
        log = self.log
        ref = Ref(len(log.shapes))
        log.shapes.append(tuple(tensor.shape))
        log.made.append(len(log.events))
        log.depends.append(depends)
        tensor.__dict__[_TAG] = (self.run, ref, tensor._version)
        return ref

    def known(self, tensor: Tensor) -> Ref | None:
        """The value that a tensor is, if this log has seen it."""
        tag = tensor.__dict__.get(_TAG)
        if tag is None or tag[0] != self.run:
            return None
        ref = tag[1]
        return ref if tag[2] == tensor._version else self._refresh(tensor, ref)

    def _refresh(self, tensor: Tensor, old: Ref) -> Ref:
        """A new value for a tensor whose memory was written to under another name."""
        writer = self._writers.get(tensor.untyped_storage().data_ptr())
        reads = [old] if writer is None else [old, writer]
        step = Step(refreshed, tuple(reads), {}, reads, self.log.ambient, -1)
        step.depends = any(self.log.depends[r] for r in reads)
        new = self._new(tensor, step.depends)
        step.outs, step.same = (new,), [(old, new)]
        self.log.events.append(step)
        return new

    def reference(self, leaf: Any) -> Any:
        """A tensor as it stands in a step; other values as they are."""
        if not isinstance(leaf, Tensor):
            if isinstance(getattr(leaf, "__dict__", None), dict) and not isinstance(leaf, (type, enum.Enum)):
                self.unknown = True
                return Unknown(type(leaf).__name__)
            return leaf
        ref = self.known(leaf)
        if ref is not None:
            self.reads.append(ref)
            return ref
        path = self.copy.tensors.get(id(leaf))
        if path is not None:
            return Param(path)
        foreign = self.copy.foreign.get(id(leaf))
        if foreign is not None:
            raise SplitError(
                "its forward reaches a module through a Python global or another object that cannot be copied",
                f"the tensor '{foreign}' of the model itself took part in an operation",
                "make that module an attribute of the module that calls it",
            )
        if id(leaf) not in self._constants:
            earlier = _TAG in leaf.__dict__  # another run made it and a cache kept it: it was there before this one
            if not earlier and not _is_global(leaf):
                ref = self._unknown(leaf)
                self.reads.append(ref)
                return ref
            self._constants[id(leaf)] = Const(leaf)
        return self._constants[id(leaf)]

    def _unknown(self, tensor: Tensor) -> Ref:
        """A value for a tensor that no recorded operation made: it may depend on anything that modules returned."""
        log = self.log
        reads = [r for c in log.calls for r in c.outs if r is not None and log.depends[r]]
        step = Step(None, (), {}, [Ref(0), *dict.fromkeys(reads)], self._context(), -1)
        step.depends, step.problem = True, "it uses a tensor that no recorded operation made"
        new = self._new(tensor, True)
        step.outs = (new,)
        log.events.append(step)
        return new

    def _references(self, values: Any) -> Any:
        return tuple([self.reference(v) if isinstance(v, Tensor) else self._deep(v) for v in values])

    def _deep(self, value: Any) -> Any:
        kind = type(value)
        if kind is int or kind is float or kind is str or kind is bool or value is None or kind is torch.dtype:
            return value
        return map_leaves(value, self.reference)

    # -- operations

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        self.number += 1
        if not self.active or func in _NO_TENSOR:
            return func(*args, **kwargs)
        if func in _FOR_GRADIENTS:
            return self._for_gradients(func, args)
        writes_parameter = (
            bool(self.storages) and _may_write(func, kwargs) and self._writes_parameter(func, args, kwargs)
        )
        try:
            written = _PASSIVE[func]
        except KeyError:
            written = _PASSIVE[func] = _in_steps(func)
        if written is not None and getattr(func, "__name__", "") == "__set__":
            self.reads = []
            step = Step(func, self._references(args), {}, self.reads, self._context(), self.number)
            step.depends, step.problem = True, "it assigns to an attribute of a tensor, such as .data"
            self.log.events.append(step)
            return func(*args)
        if type(written) is Attribute and written.name in ("requires_grad", "grad_fn", "is_leaf"):
            return self._for_gradients(func, args)
        if written is None:
            return func(*args, **kwargs)
        if func in DATA_DEPENDENT:
            return self._data_dependent(func, args, kwargs)
        iterating = func is Tensor.__iter__
        if iterating:
            func = written = Tensor.unbind
        self.reads, self.problem, self.unknown = [], "", False
        step = Step(written, self._references(args), {}, self.reads, self._context(), self.number)
        if kwargs:
            step.kwargs = {k: self.reference(v) if isinstance(v, Tensor) else self._deep(v) for k, v in kwargs.items()}
        if self.unknown:
            self.problem = "it is given an object whose contents are not recorded"
        given = [a for a in args if isinstance(a, Tensor)]
        if "out" in kwargs or not given:
            given += [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        versions = [_version(t) for t in given]
        before = [t.__dict__.get(_TAG) for t in given]
        out = func(*args, **kwargs)
        depends = self.log.depends
        step.depends = any([depends[r] for r in self.reads])
        step.problem = self.problem
        if writes_parameter:
            step.depends, step.problem = True, "it writes to a parameter"
        if not step.context[0] and self._in_custom_function():
            step.problem = "it is part of a custom autograd.Function"
        if isinstance(out, Tensor):
            if out.is_inference():
                raise under_inference_mode(type(self.copy.root).__name__)
            step.outs = (self._new(out, step.depends),)
        elif out is not None:
            step.outs = self._results(out, step.depends)
        for tensor, version, old in zip(given, versions, before, strict=True):
            if _version(tensor) != version:
                self._written(step, tensor, old)
        if step.outs or step.changed:
            self.log.events.append(step)
        return iter(out) if iterating else out

    def _results(self, out: Any, depends: bool) -> Any:
        found = list(leaves(out))
        if not any(isinstance(leaf, Tensor) for leaf in found):
            return ()
        return tuple([self._new(leaf, depends) if isinstance(leaf, Tensor) else None for leaf in found])

    def _written(self, step: Step, tensor: Tensor, tag: Any) -> None:
        """Notes that a step wrote to a tensor, which had a tag before."""
        step.writes = True
        path = self.copy.tensors.get(id(tensor))
        old: Any = Param(path) if path is not None else self._constants.get(id(tensor))
        if tag is not None and tag[0] == self.run:
            old = tag[1]
        new = tensor.__dict__.get(_TAG, (0, None))[1]
        if new not in step.outs:
            new = self._new(tensor, step.depends)
            step.changed.append((old, new))
        if type(old) is Ref:
            step.same.append((old, new))
        self._writers[tensor.untyped_storage().data_ptr()] = new

    def _data_dependent(self, func: Any, args: Any, kwargs: Any) -> Any:
        self.reads = []
        skeleton = self._references(args)
        if any(self.log.depends[r] for r in self.reads):
            step = Step(func, skeleton, {}, self.reads, self._context(), self.number)
            step.depends = True
            step.problem = (
                f"it turns tensor values into Python values ({getattr(func, '__name__', func)}), so that what it "
                "computes depends on the images in a way no fixed chain can follow"
            )
            self.log.events.append(step)
        return func(*args, **kwargs)

    def _in_custom_function(self, calls: int = 0) -> bool:
        """Whether the code that is running was called by an `autograd.Function`'s forward, within a module's call."""
        if self._custom is None:
            self._custom = _custom_codes()
        frame: types.FrameType | None = sys._getframe(2)
        while frame is not None:
            if frame.f_code in self._custom:
                return True
            if frame.f_code is _CALL:
                calls -= 1
                if calls < 0:  # the module whose code it is
                    return False
            frame = frame.f_back
        return False

    def _writes_parameter(self, func: Any, args: Any, kwargs: Any) -> bool:
        """Whether an operation writes to a parameter; WritesParameters if the copy shares its memory with the model."""
        given = args[0] if args and isinstance(args[0], Tensor) else None
        for tensor in (given, kwargs.get("out"), kwargs.get("input")):
            if isinstance(tensor, Tensor) and tensor.layout is torch.strided:
                place = tensor.untyped_storage().data_ptr()
                if place in self.shared:
                    raise WritesParameters(getattr(func, "__name__", "an operation"))
                if place in self.storages:
                    return True
        return False

    def _for_gradients(self, func: Any, args: Any) -> Any:
        """A forward asks a tensor for its gradient: noted, and done where the tensor has one."""
        self.reads = []
        step = Step(func, self._references(args[:1]), {}, self.reads, self._context(), self.number)
        step.depends = any(self.log.depends[r] for r in self.reads)
        step.problem = "it asks a tensor about its gradient (requires_grad, register_hook)"
        if sys._getframe(2).f_globals.get("__name__") == "torch.utils.checkpoint":
            step.problem = "it uses reentrant checkpointing"
        self.log.events.append(step)
        if func not in _FOR_GRADIENTS:
            return func(*args)
        self.log.wants_mode = True
        return func(*args) if args[0].requires_grad else None

    # -- calls

    def enter(self, path: str, args: Any, kwargs: Any) -> None:
        if not self.active or threading.get_ident() != self.thread:
            return
        with torch._C.DisableTorchFunction():
            self.reads, self.unknown = [], False
            given, named = self._references(args), {k: map_leaves(v, self.reference) for k, v in kwargs.items()}
            parent = self.stack[-1] if self.stack else None
            call = Call(path, -1, len(self.log.events), parent, self._context())
            call.args, call.kwargs, call.reads, call.unknown = given, named, self.reads, self.unknown
            call.custom = not call.context[0] and self._in_custom_function(1)
            self.stack.append(call)
            self.log.calls.append(call)
            self.log.events.append(Enter(call))

    def exit(self, path: str, out: Any) -> None:
        if not self.active or threading.get_ident() != self.thread:
            return
        with torch._C.DisableTorchFunction():
            while self.stack[-1].path != path:  # an inner call ended by an exception that the forward caught
                self._close(None)
            self._close(out)

    def _close(self, out: Any) -> None:
        call = self.stack.pop()
        call.times = self._times.get(call.path, 0)  # in the order in which calls return, as hooks see them
        self._times[call.path] = call.times + 1

        def made(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return None
            ref = self.known(leaf)
            if ref is None and id(leaf) in self.copy.tensors:
                return None
            if ref is None:
                if leaf.is_inference():
                    raise under_inference_mode(f"module '{call.path}'")
                call.opaque = True
                ref = self._new(leaf, True)
            self._keep(ref, leaf)
            return ref

        call.outs = tuple([made(leaf) for leaf in leaves(out)])
        call.plain = isinstance(out, Tensor)
        call.end = len(self.log.events)
        self.log.events.append(Exit(call))

    def _keep(self, ref: Ref, tensor: Tensor) -> None:
        if ref in self.values or not self.log.depends[ref]:
            return
        self.values[ref] = (tensor.detach(), tensor._version)  # shares memory and version with the tensor
        self.bytes += tensor.numel() * tensor.element_size()
        while self.bytes > self.store and len(self.values) > 1:
            _, (dropped, _) = self.values.popitem(last=False)
            self.bytes -= dropped.numel() * dropped.element_size()


def under_inference_mode(given: str) -> SplitError:
    """The error for a forward whose tensors cannot be differentiated."""
    return SplitError(
        "its forward runs under torch.inference_mode, where no gradient can be had", given,
        "take the decorator off forward and use it, or torch.no_grad(), where the model is called",
    )  # fmt: skip


def _version(tensor: Tensor) -> int:
    """How often a tensor's memory was written to, as far as that is counted."""
    return 0 if tensor.is_inference() else tensor._version


def _is_global(tensor: Tensor) -> bool:
    """Whether a tensor is a global of the code that is running."""
    frame: types.FrameType | None = sys._getframe(2)
    for _ in range(8):
        if frame is None:
            return False
        if frame.f_globals.get("__name__") != __name__ and any(v is tensor for v in frame.f_globals.values()):
            return True
        frame = frame.f_back
    return False


_CALL = nn.Module._call_impl.__code__


def _custom_codes() -> set[types.CodeType]:
    found: set[types.CodeType] = set()
    stack = list(torch.autograd.Function.__subclasses__())
    while stack:
        one = stack.pop()
        stack += one.__subclasses__()
        code = getattr(one.__dict__.get("forward"), "__func__", one.__dict__.get("forward"))
        if hasattr(code, "__code__"):
            found.add(code.__code__)
    return found


@contextlib.contextmanager
def spans(copy: EvalCopy, recorder: Any) -> Iterator[None]:
    """Reports every call of the copy's modules to a recorder: before the user's hooks and after them."""
    for path, module in copy.modules.items():
        before, after = module._forward_pre_hooks, module._forward_hooks
        first = OrderedDict([(-1, _Enter(recorder, path)), *before.items()])
        module.__dict__["_forward_pre_hooks"] = first
        module.__dict__["_forward_pre_hooks_with_kwargs"] = OrderedDict(
            [(-1, True), *module._forward_pre_hooks_with_kwargs.items()]
        )
        module.__dict__["_forward_hooks"] = OrderedDict([*after.items(), (-1, _Exit(recorder, path))])
    try:
        yield
    finally:
        for module in copy.modules.values():
            module._forward_pre_hooks.pop(-1, None)
            module._forward_pre_hooks_with_kwargs.pop(-1, None)
            module._forward_hooks.pop(-1, None)


class _Enter:
    def __init__(self, recorder: Any, path: str) -> None:
        self.recorder, self.path = recorder, path

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.recorder.enter(self.path, args, kwargs)


class _Exit:
    def __init__(self, recorder: Any, path: str) -> None:
        self.recorder, self.path = recorder, path

    def __call__(self, module: nn.Module, args: Any, out: Any) -> None:
        self.recorder.exit(self.path, out)


@contextlib.contextmanager
def kept_random_state(device: torch.device) -> Iterator[list[bool]]:
    """Gives the random state back as it was; the list then says whether it was used."""
    used: list[bool] = []
    python, cpu = random.getstate(), torch.get_rng_state()
    other = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        yield used
    finally:  # each only where it moved: what another thread draws meanwhile is not drawn again for nothing
        changed = [random.getstate() != python, not torch.equal(cpu, torch.get_rng_state())]
        if changed[0]:
            random.setstate(python)
        if changed[1]:
            torch.set_rng_state(cpu)
        if other is not None and not torch.equal(other, torch.cuda.get_rng_state(device)):
            changed.append(True)
            torch.cuda.set_rng_state(other, device)
        used.append(any(changed))


def record(copy: EvalCopy, images: Tensor, output: Any = None) -> Recording:
    """Runs an eval copy once and writes down what happened.

    Args:
        copy: The copy to run; nothing of it requires a gradient.
        images: (B, C, H, W).
        output: Which part of what the model returns are the logits, see `outputs.find_logits`.

    Returns:
        The log, the logits, and the newest module outputs.

    Raises:
        SplitError: The forward cannot be recorded: it is random, runs under inference mode, or reaches the user's own
            modules. What the forward itself raises is passed on as it is.
    """
    recorder = _Recorder(copy, images)
    given = images.detach().clone()  # the model may write to its input
    ref = recorder._new(given, True)
    recorder.log.made[ref] = -1
    with torch.enable_grad():
        recorder.log.ambient = recorder._context()
        with kept_random_state(images.device) as used, spans(copy, recorder), recorder:
            recorder.active = True
            try:
                logits = find_logits(copy.root(given), output)
                with torch._C.DisableTorchFunction():
                    found = recorder.known(logits)
            finally:
                recorder.active = False
    where = _random_place(recorder.log) if used[0] else ""
    if where and not (where == _OUTSIDE and _repeats(copy, images, output, logits)):
        raise SplitError(
            "its forward draws random numbers, also in eval mode, so that no two passes agree", where,
            "make the forward deterministic in eval mode",
        )  # fmt: skip
    copy.require_unwritten()
    log = recorder.log
    if found is None and id(logits) not in copy.tensors:
        with torch._C.DisableTorchFunction():
            found = recorder._unknown(logits)
    if found is None or not log.depends[found]:
        raise SplitError(
            "the logits were not computed from the images by operations that can be recorded",
            f"the forward of {type(copy.root).__name__}",
            "compute them with torch operations on the images the model is called with",
        )
    log.logits = found
    return Recording(log, logits.detach(), dict(recorder.values))


_RANDOM = ("rand", "bernoulli", "multinomial", "normal", "dropout", "poisson", "exponential", "uniform", "cauchy")


def _random_place(log: Log) -> str:
    """The module and operation that drew random numbers, as far as the log tells."""
    stack: list[str] = []
    for event in log.events:
        if isinstance(event, Enter):
            stack.append(event.call.path)
        elif isinstance(event, Exit):
            stack.pop()
        else:
            name = getattr(event.func, "__name__", "")
            quiet = "dropout" in name and (False in event.args or event.kwargs.get("training") is False)
            if any(word in name for word in _RANDOM) and not quiet:
                return f"{name} in module '{stack[-1]}'" if stack and stack[-1] else f"{name} in the model's forward"
    return _OUTSIDE


_OUTSIDE = "outside torch's recorded operations"


def _repeats(copy: EvalCopy, images: Tensor, output: Any, logits: Tensor) -> bool:
    """Whether two more passes give the same logits: then it was another thread that drew random numbers."""
    with torch.no_grad(), kept_random_state(images.device):
        for _ in range(2):
            random.seed()
            if not torch.equal(find_logits(copy.root(images.detach().clone()), output), logits.detach()):
                return False
    return True
