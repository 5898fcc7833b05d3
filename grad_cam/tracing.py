"""Record what a model's own ``forward`` does, on real values, without touching the model.

Three ideas carry this module.

* `shadow` makes a stand-in of a model: the same classes and the same storage, but in eval mode and with parameters
  that ask for no gradient. Everything is run on the shadow, so the user's model keeps its flags, hooks and gradients
  whatever happens, and several threads can work on one model.
* `trace` runs the shadow once on an example batch while a `TorchFunctionMode` writes down every tensor operation and
  every call of a submodule. The Python code of the model sees ordinary tensors, so branches, loops and shape
  arithmetic simply work.
* Every recorded operation is executed twice, on two batches of different sizes. A number that differs between the two
  depends on the batch size and is recorded symbolically (`BatchInt`); every other number is a constant of the model
  and the input size.

Nothing of this package is imported here.
"""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import functools
import operator
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_ESCAPES = {  # a tensor's *values* becoming Python objects
    Tensor.item, Tensor.tolist, Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__,
    Tensor.__contains__, Tensor.numpy, Tensor.__array__, torch.equal, Tensor.equal, torch.allclose, Tensor.allclose,
    torch.is_nonzero,
}  # fmt: skip


class SplitError(ValueError):
    """A model cannot be cut exactly; the message says where and why."""


# ------------------------------------------------------------------------------------------------------------ shadow


def unwrap(model: nn.Module) -> nn.Module:
    """Looks through `DataParallel`, `DistributedDataParallel` and `torch.compile` wrappers."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod
        else:
            return model


def shadow(model: nn.Module) -> nn.Module:
    """Makes an eval-mode stand-in of a model that shares its storage.

    The modules are shallow copies: their parameters and buffers are the model's own memory (an optimizer step on the
    model is seen by the shadow), but parameters do not require grad and `training` is False everywhere. Attributes
    that the forward pass writes land on the copy.

    Args:
        model: Any module.

    Returns:
        A module of the same type that computes what ``model.eval()`` would.
    """
    memo: dict[int, Any] = {}
    root = _copy(model, memo)
    for module in [m for m in memo.values() if isinstance(m, nn.Module)]:
        if not isinstance(module, torch.jit.ScriptModule):
            for key, value in module.__dict__.items():
                if key not in ("_parameters", "_buffers", "_modules"):
                    module.__dict__[key] = _rebind(value, memo)
    return root


def _copy(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    if id(module) in memo:
        return memo[id(module)]
    if isinstance(module, torch.jit.ScriptModule):  # lives in C++, cannot be copied shallowly
        memo[id(module)] = module
        return module
    new = object.__new__(type(module))
    new.__dict__.update(module.__dict__)
    memo[id(module)] = new
    new.__dict__["training"] = False
    new.__dict__["_parameters"] = {k: _detached(p, memo) for k, p in module._parameters.items()}
    new.__dict__["_buffers"] = dict(module._buffers)
    new.__dict__["_modules"] = {k: m if m is None else _copy(m, memo) for k, m in module._modules.items()}
    return new


def _detached(parameter: Tensor | None, memo: dict[int, Any]) -> Tensor | None:
    if parameter is None:
        return None
    if isinstance(parameter, nn.parameter.UninitializedTensorMixin):
        raise SplitError("the model has lazy parameters without a shape; run it once on a batch before explaining it")
    if id(parameter) not in memo:  # tied weights stay tied
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    return memo[id(parameter)]


def _rebind(value: Any, memo: dict[int, Any]) -> Any:
    """Points references to the model's modules (in lists, bound methods, partials) at their copies."""
    if isinstance(value, nn.Module):
        return memo.get(id(value), value)
    if isinstance(value, types.MethodType) and id(value.__self__) in memo:
        return types.MethodType(value.__func__, memo[id(value.__self__)])
    if isinstance(value, functools.partial):
        return functools.partial(
            _rebind(value.func, memo),
            *(_rebind(a, memo) for a in value.args),
            **{k: _rebind(a, memo) for k, a in value.keywords.items()},
        )
    if type(value) in (list, tuple) and any(isinstance(v, (nn.Module, types.MethodType)) for v in value):
        return type(value)(_rebind(v, memo) for v in value)
    if type(value) is dict and any(isinstance(v, (nn.Module, types.MethodType)) for v in value.values()):
        return {k: _rebind(v, memo) for k, v in value.items()}
    return value


def signature(model: nn.Module) -> tuple[Any, ...]:
    """Identifies the structure and storage of a model: it changes when a module, parameter or buffer is exchanged."""
    parts: list[Any] = []
    for module in model.modules():
        parts.append(id(module))
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                parts.append((id(tensor), tensor.data_ptr()) if _has_storage(tensor) else id(tensor))
    return tuple(parts)


def _has_storage(tensor: Tensor) -> bool:
    return not isinstance(tensor, nn.parameter.UninitializedTensorMixin) and tensor.layout is torch.strided


# -------------------------------------------------------------------------------------------------------- structures


def map_structure(value: Any, fn: Callable[[Any], Any]) -> Any:
    """Applies `fn` to every leaf of nested lists, tuples, dicts, slices and output dataclasses."""
    if isinstance(value, torch.Size):
        return tuple(fn(v) for v in value)
    if isinstance(value, tuple):
        items = [map_structure(v, fn) for v in value]
        if type(value) is tuple:
            return tuple(items)
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, list):
        return [map_structure(v, fn) for v in value]
    if isinstance(value, dict):
        if dataclasses.is_dataclass(value):  # Hugging Face's ModelOutput
            return type(value)(**{k: map_structure(v, fn) for k, v in value.items()})
        return type(value)((k, map_structure(v, fn)) for k, v in value.items())
    if isinstance(value, slice):
        return slice(*(map_structure(v, fn) for v in (value.start, value.stop, value.step)))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: map_structure(getattr(value, f.name), fn) for f in dataclasses.fields(value) if f.init}
        return dataclasses.replace(value, **fields)
    return fn(value)


def _items(value: Any) -> Iterator[tuple[Callable[[Any], Any], Any]]:
    """The parts of a container as (getter, part)."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield operator.itemgetter(key), part
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(value):
            yield operator.itemgetter(index), part
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield operator.attrgetter(field.name), getattr(value, field.name)


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in a nested structure, in order."""
    found: list[Tensor] = []

    def visit(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            found.append(leaf)
        return leaf

    map_structure(value, visit)
    return found


# --------------------------------------------------------------------------------------------------------- the record


class Node:
    """One recorded step. References to other steps stand in `args` and `kwargs` as `Node` objects.

    Attributes:
        kind: "input", "param" (a parameter or buffer), "const", "call" (an operation), "module" (a submodule, called
            whole) or "item" (a part of another step's result).
        target: The function, the module's path, the parameter's path, the constant, or the getter.
        depends: Whether the value is a tensor that depends on the input's values.
        effect: Whether the step changes a tensor in place.
        value, other: The results on the two example batches (dropped when the trace is done).
        shapes: For a tensor, its shapes on the two batches; for a batch-dependent number, its two values.
        scope: The path of the module whose forward made the step.
    """

    __slots__ = (
        "kind", "target", "args", "kwargs", "depends", "effect", "value", "other", "shapes", "scope", "is_int",
    )  # fmt: skip

    def __init__(
        self, kind: str, target: Any, args: tuple[Any, ...] = (), depends: bool = False, scope: str = ""
    ) -> None:
        self.kind, self.target, self.args, self.depends, self.scope = kind, target, args, depends, scope
        self.kwargs: dict[str, Any] = {}
        self.effect = self.is_int = False
        self.value: Any = None
        self.other: Any = None
        self.shapes: tuple[Any, Any] | None = None

    def inputs(self) -> list[Node]:
        """The steps this one reads."""
        found: list[Node] = []

        def visit(leaf: Any) -> Any:
            if isinstance(leaf, Node):
                found.append(leaf)
            return leaf

        map_structure((self.args, self.kwargs), visit)
        return found


class BatchInt(int):
    """An integer that depends on the batch size; arithmetic with it is recorded."""

    tracer: Tracer
    node: Node

    def __new__(cls, value: int, node: Node, tracer: Tracer) -> BatchInt:
        self = super().__new__(cls, value)
        self.node, self.tracer = node, tracer
        return self

    def __reduce__(self) -> Any:
        return int, (int(self),)

    __hash__ = int.__hash__


class BatchFloat(float):
    """What dividing a `BatchInt` gives; `int()`, `round()` and arithmetic lead back."""

    tracer: Tracer
    node: Node

    def __new__(cls, value: float, node: Node, tracer: Tracer) -> BatchFloat:
        self = super().__new__(cls, value)
        self.node, self.tracer = node, tracer
        return self

    __hash__ = float.__hash__


def _recorded(name: str, reflected: bool) -> Callable[..., Any]:
    function = getattr(operator, name)

    def method(self: Any, *others: Any) -> Any:
        if any(not isinstance(o, (int, float)) for o in others):
            return NotImplemented
        args = (*others, self) if reflected else (self, *others)
        return self.tracer.number(function, args)

    return method


for _name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "pow"):
    for _class in (BatchInt, BatchFloat):
        setattr(_class, f"__{_name}__", _recorded(_name, False))
        setattr(_class, f"__r{_name}__", _recorded(_name, True))
BatchInt.__neg__ = _recorded("neg", False)  # type: ignore[method-assign, assignment]


def _set_item(tensor: Tensor, index: Any, value: Any) -> Tensor:
    tensor[index] = value
    return tensor


class Trace:
    """The recorded steps of one forward pass.

    Attributes:
        nodes: The steps in order; the first is the input.
        output: The step whose value is the logits.
        sizes: The two batch sizes of the example.
        opened: The paths of the modules whose forward was recorded step by step.
    """

    def __init__(self, nodes: list[Node], output: Node, sizes: tuple[int, int], opened: frozenset[str]) -> None:
        self.nodes, self.output, self.sizes, self.opened = nodes, output, sizes, opened


class Tracer(TorchFunctionMode):
    """Writes down tensor operations and submodule calls while a prepared copy of the model runs."""

    def __init__(self, model: nn.Module, opened: frozenset[str]) -> None:
        super().__init__()
        self.model, self.opened = model, opened
        self.nodes: list[Node] = []
        self.by_id: dict[int, Node] = {}
        self.resting = False
        self.scopes: list[str] = [""]
        self.parameters = {id(t): n for n, t in (*model.named_parameters(), *model.named_buffers())}

    # -- running

    def run(self, first: Tensor, second: Tensor) -> tuple[Any, Node]:
        """Runs the model on `first`, recording, `second` carried along; returns its output and the logits' step."""
        node = Node("input", "x", depends=True)
        self._register(node, first, second)
        prepared = self._prepare()
        with torch.no_grad(), self._counting(), self:
            output = prepared(first)
        logits = self.by_id.get(id(logits_of(output)))
        if logits is None or not logits.depends:
            raise SplitError("the output was not computed by recorded operations")
        return output, logits

    @contextlib.contextmanager
    def _counting(self) -> Iterator[None]:
        """Lets `len` of a tensor give a `BatchInt` in this thread: Python itself would make a plain number of it."""
        plain, thread = builtins.len, threading.get_ident()

        def length(thing: Any, /) -> int:
            if isinstance(thing, Tensor) and threading.get_ident() == thread and not self.resting and thing.ndim:
                return thing.shape[0]
            return plain(thing)

        builtins.len = length  # type: ignore[assignment]
        try:
            yield
        finally:
            builtins.len = plain

    def _prepare(self) -> nn.Module:
        """A copy of the model whose opened modules run as they are and whose other modules report to `call_module`."""
        memo: dict[int, Any] = {}
        paths = {id(m): path for path, m in self.model.named_modules()}

        def copy(module: nn.Module) -> nn.Module:
            if id(module) in memo:
                return memo[id(module)]
            if isinstance(module, torch.jit.ScriptModule):
                raise SplitError(f"module '{paths[id(module)]}' is a ScriptModule; load it as an ordinary nn.Module")
            new = object.__new__(type(module))
            new.__dict__.update(module.__dict__)
            memo[id(module)] = new
            new.__dict__["_modules"] = {k: m if m is None else copy(m) for k, m in module._modules.items()}
            path = paths[id(module)]
            if path in self.opened:
                inner = module.__dict__.get("forward")
                inner = _rebind(inner, memo) if inner is not None else types.MethodType(type(module).forward, new)
                new.__dict__["forward"] = functools.partial(self._enter, path, inner)
            else:
                new.__dict__["forward"] = functools.partial(self.call_module, path, module)
                for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
                    new.__dict__[hooks] = {}
            return new

        root = copy(self.model)
        for module in list(memo.values()):
            for key, value in module.__dict__.items():
                if key not in ("_parameters", "_buffers", "_modules", "forward"):
                    module.__dict__[key] = _rebind(value, memo)
        return root

    def _enter(self, path: str, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.scopes.append(path)
        result = forward(*args, **kwargs)
        self.scopes.pop()  # not on an exception: the innermost scope then names the culprit
        return result

    # -- recording

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if self.resting:
            return func(*args, **kwargs)
        if func is torch._assert:
            return None
        if func is Tensor.__setitem__:
            self._record("call", _set_item, args, kwargs, _set_item, force=True)
            return None
        if func in _ESCAPES:
            for tensor in tensors_in((args, kwargs)):
                node = self.by_id.get(id(tensor))
                if node is not None and node.depends:
                    raise SplitError(
                        f"its forward turns tensor values into Python values ({getattr(func, '__name__', func)}), so "
                        "what it computes depends on the picture in a way no fixed chain can follow"
                    )
        return self._record("call", func, args, kwargs, func)

    def call_module(self, path: str, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Called in place of a submodule that is not opened."""
        if self.resting:
            return module(*args, **kwargs)
        return self._record("module", path, args, kwargs, module, force=True)

    def number(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Arithmetic in which a batch-dependent number takes part."""
        plain = map_structure(args, _plain)
        value = function(*plain)
        if not isinstance(value, (int, float)):
            return value
        node = Node("call", function, map_structure(args, self._reference), scope=self.scopes[-1])
        other = function(*map_structure(node.args, _other))
        return self._wrap(node, value, other)

    def _record(
        self, kind: str, target: Any, args: Any, kwargs: Any, run: Callable[..., Any], force: bool = False
    ) -> Any:
        self.resting = True  # what the recording itself does to tensors is not the model's
        try:
            node = Node(kind, target, scope=self.scopes[-1])
            node.args, node.kwargs = map_structure(tuple(args), self._reference), map_structure(kwargs, self._reference)
            inputs = node.inputs()
            tensors = [n.value for n in inputs if isinstance(n.value, Tensor)]
            before = [t._version for t in tensors]
            args2, kwargs2 = map_structure(node.args, _other), map_structure(node.kwargs, _other)
            args, kwargs = map_structure(node.args, _value), map_structure(node.kwargs, _value)
            value = run(*args, **kwargs)
            other = run(*args2, **kwargs2)
            node.effect = before != [t._version for t in tensors]
            node.depends = any(n.depends for n in inputs)
            return self._wrap(node, value, other, force or node.effect)
        except SplitError:
            raise
        except Exception:
            if kind == "module":
                self.scopes.append(target)  # the module that failed
            raise
        finally:
            self.resting = False

    def _wrap(self, node: Node, value: Any, other: Any, force: bool = False) -> Any:
        """Gives the model what it expects while remembering where every tensor and batch-dependent number came from."""
        if isinstance(value, Tensor):
            self._register(node, value, other)
            return value
        if isinstance(value, (bool, str)) or value is None:
            return value
        if isinstance(value, (int, float)):
            if value == other or value != value:
                return value
            node.depends, node.is_int, node.value, node.other, node.shapes = False, True, value, other, (value, other)
            self.nodes.append(node)
            return (BatchInt if isinstance(value, int) else BatchFloat)(value, node, self)
        parts = list(_items(value))
        if not parts:
            return value
        mark = len(self.nodes)
        node.value, node.other = value, other
        self.nodes.append(node)
        wrapped = []
        for (getter, part), (_, part2) in zip(parts, _items(other), strict=True):
            child = Node("item", getter, (node,), depends=node.depends, scope=node.scope)
            wrapped.append(self._wrap(child, part, part2))
        if len(self.nodes) == mark + 1 and not force:
            self.nodes.pop()  # only constants inside
        if all(new is old for new, (_, old) in zip(wrapped, parts, strict=True)):
            return value
        if isinstance(value, torch.Size):
            return torch.Size(wrapped)
        if isinstance(value, tuple):
            return type(value)(*wrapped) if hasattr(value, "_fields") else type(value)(wrapped)
        if isinstance(value, list):
            return wrapped
        if isinstance(value, dict) and not dataclasses.is_dataclass(value):
            return type(value)(zip(value, wrapped, strict=True))
        if isinstance(value, dict):
            return type(value)(**dict(zip(value, wrapped, strict=True)))
        return dataclasses.replace(
            value, **dict(zip([f.name for f in dataclasses.fields(value)], wrapped, strict=True))
        )

    def _register(self, node: Node, value: Tensor, other: Tensor) -> None:
        node.value, node.other = value, other
        node.shapes = (tuple(value.shape), tuple(other.shape))
        self.nodes.append(node)
        self.by_id[id(value)] = node

    def _reference(self, leaf: Any) -> Any:
        """The step a value came from, or the value itself."""
        if isinstance(leaf, (BatchInt, BatchFloat)):
            return leaf.node
        if not isinstance(leaf, Tensor):
            return leaf
        node = self.by_id.get(id(leaf))
        if node is None:
            path = self.parameters.get(id(leaf))
            node = Node("const", leaf) if path is None else Node("param", path)
            self._register(node, leaf, leaf)
        return node


def _plain(leaf: Any) -> Any:
    if isinstance(leaf, BatchInt):
        return int(leaf)
    return float(leaf) if isinstance(leaf, BatchFloat) else leaf


def _value(leaf: Any) -> Any:
    return leaf.value if isinstance(leaf, Node) else leaf


def _other(leaf: Any) -> Any:
    return leaf.other if isinstance(leaf, Node) else leaf


def logits_of(output: Any) -> Tensor:
    """Finds the score tensor in what a model returns.

    Args:
        output: A tensor, a Hugging Face output (`logits`), a dict (`logits`, `out`) or a tuple (its first tensor).

    Raises:
        SplitError: There is no tensor in it.
    """
    if isinstance(output, Tensor):
        return output
    for name in ("logits", "out"):
        found = output.get(name) if isinstance(output, dict) else getattr(output, name, None)
        if isinstance(found, Tensor):
            return found
    found = tensors_in(output)
    if not found:
        raise SplitError(
            f"the model returned {type(output).__name__} without a tensor in it; a logits tensor is needed"
        )
    return found[0]


def trace(model: nn.Module, first: Tensor, second: Tensor, opened: frozenset[str] = frozenset()) -> Trace:
    """Records one forward pass of a `shadow`.

    Args:
        model: The stand-in made by `shadow` (its storage is the user's model's).
        first: Example batch (B, ...).
        second: A batch of another size and other content.
        opened: Paths of the modules to record step by step; the root ("") always is. Others are called whole.

    Returns:
        The steps; their values are dropped.

    Raises:
        SplitError: The forward cannot be followed; the message names the module.
    """
    tracer = Tracer(model, opened | {""})
    try:
        output, logits = tracer.run(first, second)
    except Exception as error:
        where = tracer.scopes[-1]
        module = dict(model.named_modules()).get(where, model)
        name = f"module '{where}' ({type(module).__name__})" if where else f"the forward of {type(module).__name__}"
        failure = SplitError(f"{name} cannot be followed: {error}")
        failure.module = where  # type: ignore[attr-defined]
        raise failure from error
    for node in tracer.nodes:
        node.value = node.other = None
    return Trace(tracer.nodes, logits, (len(first), len(second)), tracer.opened)
