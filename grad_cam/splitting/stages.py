"""Stages: the links of a chain, modules that run whole calls of the user's modules and the operations between them."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .align import Scaled
from .log import Call, Const, Context, Param, Ref, Step
from .nested import leaves, map_leaves


class _Slot(int):
    """A reference to a value while a stage runs."""

    __slots__ = ()


class _Operation(NamedTuple):
    run: Callable[..., Any] | str  # a function, or the name of a registered module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outs: tuple[int | None, ...]
    changed: tuple[tuple[int, int], ...]  # an argument's slot, and the slot of what it became
    frees: tuple[int, ...]
    context: Context | None  # what has to be switched on or off around it; None: nothing


class Stage(nn.Module):
    """A link of the chain that is more than one module: submodules and the operations around them.

    It takes what the stage before it returns (a tensor; where several tensors are alive a tuple whose first is the
    activation and whose others are the context) and returns the same for the stage after it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[_Operation] = []
        self.inputs: list[int] = []
        self.outputs: list[int] = []
        self.tensors: list[tuple[int, str]] = []
        self.slots = 0
        self.batch_axis: tuple[int, int, int, int] | None = None
        self.device_type = "cpu"

    # Long because it is one loop over the operations, whose local names are what frees their values.
    def forward(self, x: Any) -> Any:
        """Runs the recorded operations on what the stage before returned."""
        given = (x,) if len(self.inputs) == 1 else x
        del x
        values: list[Any] = [None] * self.slots
        for slot, value in zip(self.inputs, given, strict=True):
            values[slot] = value
        for slot, name in self.tensors:
            values[slot] = self._parameters[name] if name in self._parameters else self._buffers[name]
        batch = 0
        if self.batch_axis is not None:
            which, axis, size, images = self.batch_axis
            batch = given[which].shape[axis] * images // size
        del given

        def fill(leaf: Any) -> Any:
            if type(leaf) is _Slot:
                return values[leaf]
            return leaf.of(batch) if type(leaf) is Scaled else leaf

        for run, args, kwargs, outs, changed, frees, context in self.operations:
            function = self._modules[run] if type(run) is str else run
            with _switched(context, self.device_type) if context is not None else contextlib.nullcontext():
                result = function(  # type: ignore[operator, misc]
                    *[values[a] if type(a) is _Slot else map_leaves(a, fill) for a in args],
                    **{k: map_leaves(a, fill) for k, a in kwargs.items()},
                )
            if isinstance(result, Tensor):
                if outs[0] is not None:
                    values[outs[0]] = result
            else:
                for place, leaf in zip(outs, leaves(result), strict=False):
                    if place is not None:
                        values[place] = leaf
            del result
            for old, new in changed:
                values[new] = values[old]
            for slot in frees:
                values[slot] = None
        out = tuple(values[slot] for slot in self.outputs)
        return out[0] if len(out) == 1 else out

    def extra_repr(self) -> str:
        """The operations that are not modules, for printing."""
        names = [getattr(o.run, "__name__", "op") for o in self.operations if type(o.run) is not str]
        shown = names if len(names) <= 6 else [*names[:5], f"... {len(names) - 5} more"]
        return ", ".join(dict.fromkeys(shown))


class Stages(nn.Sequential):
    """An `nn.Sequential` whose parts may carry module paths with dots as names; slices are `Stages` again."""

    def __init__(self, parts: Sequence[tuple[str, nn.Module]] = ()) -> None:
        super().__init__()
        self._modules.update(parts)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Stages(list(self._modules.items())[index])
        if isinstance(index, str):
            return self._modules[index]
        return super().__getitem__(index)

    def _get_name(self) -> str:
        return "Sequential"


class Cloned(nn.Module):
    """Returns a clone, so that a model that writes to its input leaves the caller's batch alone."""

    def forward(self, x: Tensor) -> Tensor:
        """A clone of a tensor."""
        return x.clone()


@contextlib.contextmanager
def _switched(context: Context, device_type: str) -> Any:
    gradient, autocast, dtype = context
    with torch.set_grad_enabled(gradient and torch.is_grad_enabled()):
        if autocast == torch.is_autocast_enabled(device_type):
            yield
        else:
            with torch.autocast(device_type, enabled=autocast, dtype=dtype):
                yield


class StageBuilder:
    """Makes stages from programs.

    Args:
        modules: Modules by path: a copy's or the user's.
        tensors: Parameters and buffers by path, likewise.
        scaled: Arguments with numbers that follow the batch, see `align.align`.
        events: Number of the event of every step and call.
        ambient: What was switched on around the recorded pass.
        device_type: Of the images.
        constants: Paths of tensors that are neither parameters nor buffers and have no place in a state_dict.
    """

    def __init__(
        self, modules: dict[str, nn.Module], tensors: dict[str, Tensor], scaled: dict[int, tuple[Any, Any]],
        ambient: Context, device_type: str, constants: set[str],
    ) -> None:  # fmt: skip
        self.modules = modules
        self.tensors = tensors
        self.scaled = scaled
        self.ambient = ambient
        self.device_type = device_type
        self.constants = constants

    # Long because the slots are numbered by three closures over one table.
    def build(
        self, program: Sequence[tuple[int, Step | Call, list[tuple[Ref, Ref]]]], inputs: list[Ref], outputs: list[Ref],
        batch_axis: tuple[int, int, int, int] | None, training: bool,
    ) -> nn.Module:  # fmt: skip
        """Makes the stage that runs a program.

        Args:
            program: (number of the event, step or call, what its arguments became).
            inputs: The values the stage takes.
            outputs: The values the stage returns.
            batch_axis: Where the number of images can be read: which input, its axis, its size there, and the number
                of images it had then.
            training: The flag the stage shows; the modules in it keep theirs.
        """
        if len(program) == len(inputs) == len(outputs) == 1:
            _, part, _ = program[0]
            if type(part) is Call and part.plain and self._context(part) is None:
                if part.args == (inputs[0],) and not part.kwargs and part.outs == (outputs[0],):
                    return self.modules[part.path]  # the user's own module, called with the one tensor
        stage = Stage()
        stage.device_type, stage.batch_axis = self.device_type, batch_axis
        slots: dict[Any, int] = {}

        def slot(key: Any) -> int:
            if key not in slots:
                slots[key] = len(slots)
            return slots[key]

        def fixed(leaf: Any) -> Any:
            if type(leaf) is Ref:
                return _Slot(slot(leaf))
            if type(leaf) is Param:
                if leaf not in slots:
                    tensor = self.tensors[leaf.path]
                    table = stage._parameters if isinstance(tensor, nn.Parameter) else stage._buffers
                    table[leaf.path] = tensor  # type: ignore[assignment]
                    if leaf.path in self.constants:
                        stage._non_persistent_buffers_set.add(leaf.path)
                    stage.tensors.append((slot(leaf), leaf.path))
                return _Slot(slots[leaf])
            if type(leaf) is Const:
                if leaf not in slots:
                    name = f"constant {len(slots)}"
                    stage._buffers[name] = leaf.tensor
                    stage._non_persistent_buffers_set.add(name)
                    stage.tensors.append((slot(leaf), name))
                return _Slot(slots[leaf])
            return leaf

        stage.inputs = [slot(r) for r in inputs]
        made: list[_Operation] = []
        for number, part, rebound in program:
            args, kwargs = self.scaled.get(number, (part.args, part.kwargs))
            args = tuple(fixed(a) if type(a) in (Ref, Param, Const) else map_leaves(a, fixed) for a in args)
            kwargs = {k: map_leaves(a, fixed) for k, a in kwargs.items()}
            outs = tuple(None if r is None else slot(r) for r in part.outs)
            if type(part) is Call:
                stage._modules[part.path] = self.modules[part.path]
                run: Any = part.path
                changed = [(slot(old), slot(new)) for old, new in rebound]
            else:
                assert type(part) is Step
                run = _by_name(part.func)
                changed = [(int(fixed(old)), slot(new)) for old, new in part.changed]
            made.append(_Operation(run, args, kwargs, outs, tuple(changed), (), self._context(part)))
        stage.outputs = [slot(r) for r in outputs]
        stage.slots = len(slots)
        stage.operations = _with_frees(made, stage)
        stage.training = training
        return stage

    def _context(self, part: Step | Call) -> Context | None:
        return None if part.context == self.ambient else part.context


class _Function:
    """A function that a module holds under a name other than the one it was defined with, for pickling."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name
        self.run = getattr(importlib.import_module(module), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.module, self.name)


def _by_name(func: Any) -> Any:
    """A function that can be pickled, such as `torch.nn.functional.max_pool2d`, which is defined inside another."""
    module, name = getattr(func, "__module__", None) or "", getattr(func, "__name__", "")
    local = "<locals>" in getattr(func, "__qualname__", "")
    return _Function(module, name) if local and getattr(sys.modules.get(module), name, None) is func else func


def _with_frees(made: list[_Operation], stage: Stage) -> list[_Operation]:
    """Notes after which operation a value is used no more."""
    last: dict[int, int] = {}
    for i, operation in enumerate(made):
        for used in (*leaves(operation.args), *leaves(operation.kwargs)):
            if type(used) is _Slot:
                last[used] = i
        for out in operation.outs:
            if out is not None:
                last[out] = i
        for old, new in operation.changed:
            last[old] = last[new] = i
    frees: dict[int, list[int]] = {}
    for used, i in last.items():
        if used not in stage.outputs:
            frees.setdefault(i, []).append(used)
    return [o._replace(frees=tuple(frees.get(i, ()))) for i, o in enumerate(made)]
