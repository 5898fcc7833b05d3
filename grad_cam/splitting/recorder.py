"""Records a forward pass: runs an eval copy on the images at hand and writes down what happened.

At full depth, on real values; nothing is run twice and nothing is decided here.
"""

from __future__ import annotations

import enum
import itertools
import sys
import threading
import types
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import SplitError
from ..inputs import Asked, logits_in, wiring_of
from .evalcopy import EvalCopy
from .log import Call, Const, Context, Enter, Exit, Log, Param, Recording, Ref, Step, Unknown, under_inference_mode
from .nested import leaves, map_leaves
from .operations import DATA_DEPENDENT, FOR_GRADIENTS, NO_TENSOR, Attribute, in_steps, may_write, refreshed
from .randomness import OUTSIDE, kept_random_state, random_place, repeats
from .spans import spans
from .store import SHALLOW, Store

_TAG = "_grad_cam_value"

_RUNS = itertools.count()


class WritesParameters(Exception):
    """A forward is about to write to a parameter that the copy shares with the model: a copy with its own is needed."""


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
        self.values = Store(len(images))
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

    def given(self, tensors: list[Tensor]) -> None:
        """Takes further inputs of the model as constants."""
        self._constants.update({id(tensor): Const(tensor) for tensor in tensors})

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
        """The reference to a tensor in a step; other values as they are."""
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

    # Long because it runs for every operation: a call of a helper costs as much as what it would do.
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        self.number += 1
        if not self.active or func in NO_TENSOR:
            return func(*args, **kwargs)
        if func in FOR_GRADIENTS:
            return self._for_gradients(func, args)
        writes_parameter = (
            bool(self.storages) and may_write(func, kwargs) and self._writes_parameter(func, args, kwargs)
        )
        written = in_steps(func)
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
            self.log.reads_values = True
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
        if func not in FOR_GRADIENTS:
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
            if self.log.depends[ref]:
                self.values.keep(ref, leaf, len(self.stack) <= SHALLOW)
            return ref

        call.outs = tuple([made(leaf) for leaf in leaves(out)])
        call.plain = isinstance(out, Tensor)
        call.end = len(self.log.events)
        self.log.events.append(Exit(call))


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
        code: Any = getattr(one.__dict__.get("forward"), "__func__", one.__dict__.get("forward"))
        if hasattr(code, "__code__"):
            found.add(code.__code__)
    return found


# Long because the reasons to refuse a record come in the order in which they can be known.
def record(copy: EvalCopy, images: Tensor, output: Asked = None) -> Recording:
    """Runs an eval copy once and writes down what happened.

    Args:
        copy: The copy to run; nothing of it requires a gradient.
        images: (B, C, H, W).
        output: Which part of what the model returns are the logits, see `outputs.find_logits`, and how it is called.

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
        wiring = wiring_of(output, len(images))
        recorder.given(wiring.tensors())
        with kept_random_state(images.device) as used, spans(copy, recorder), recorder:
            recorder.active = True
            try:
                logits = logits_in(wiring.call(copy.root, given), output)
                with torch._C.DisableTorchFunction():
                    found = recorder.known(logits)
            finally:
                recorder.active = False
    where = random_place(recorder.log) if used[0] else ""
    if where and not (where == OUTSIDE and repeats(copy, images, output, logits)):
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
    return Recording(log, logits.detach(), recorder.values.all())
