"""A mark of what a model's forward reads, to see that a record is out of date.

It holds identities of classes, parameters, buffers and children, plain attributes by value, containers and plain
objects likewise, and plain globals and class attributes of the code of its modules. A change that it does not show
(deep inside a foreign object) does not make a gradient wrong: those come from the model's own forward.
"""

from __future__ import annotations

import functools
import operator
import types
from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from .evalcopy import HOOKS, EvalCopy, is_plain

_PLAIN = frozenset({int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device, torch.Size})
_SKIPPED = frozenset({*(k for k, v in nn.Module().__dict__.items() if isinstance(v, (dict, set))), "training"})


Mark = tuple[tuple[Any, ...], tuple[Any, ...]]
"""What is read of the attributes of modules, and what is read of their tensors and their code."""


def of(copy: EvalCopy) -> Mark:
    """The mark of the model that a copy was made of, as it is now, to be compared with ==.

    Args:
        copy: The copy; if it was renewed, the attributes are those that it was made with.
    """
    modules = copy.originals.values()
    return copy.mark[0] if copy.mark else _attributes(modules), _tensors_and_code(modules)


def _tensors_and_code(modules: Iterable[nn.Module]) -> tuple[Any, ...]:
    kinds = {*map(type, modules)}
    scripted = {kind for kind in kinds if issubclass(kind, torch.jit.ScriptModule)}
    states = [module.__dict__ for module in modules if type(module) not in scripted]
    tensors = [state["_parameters"] for state in states] + [state["_buffers"] for state in states]
    parts = [*map(id, chain.from_iterable(map(dict.values, tensors)))]
    for kind in sorted(kinds, key=id):
        parts += _code(kind)
    return tuple(parts)


def _attributes(modules: Iterable[nn.Module]) -> tuple[Any, ...]:
    parts: list[Any] = []
    for module in modules:
        state = module.__dict__
        kind = type(module)
        parts.append(id(module))
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for key in HOOKS:
            if state[key]:
                parts += map(id, state[key].values())
        if is_plain(kind, state):
            parts.append(_getter(kind, state)(state))
            continue
        for key, value in state.items():
            if key in _SKIPPED:
                continue
            if type(value) in _PLAIN:
                parts.append(value)
            else:
                _add(parts, value, 0)
    return tuple(parts)


_GETTERS: dict[type, Any] = {}


def _getter(kind: type, state: dict[str, Any]) -> Any:
    """Reads the attributes of one of torch's own modules."""
    if kind not in _GETTERS:
        _GETTERS[kind] = operator.itemgetter("_is_full_backward_hook", *(k for k in state if k not in _SKIPPED))
    return _GETTERS[kind]


def _add(parts: list[Any], value: Any, depth: int) -> None:
    kind = type(value)
    if kind in _PLAIN:
        parts.append(value)
    elif depth > 4 or isinstance(value, (Tensor, nn.Module, type)):
        parts.append(id(value))
    elif isinstance(value, dict):
        parts += (len(value), *[k for k in list(value)[:64] if type(k) in _PLAIN])
        for item in list(value.values())[:64]:
            _add(parts, item, depth + 1)
    elif isinstance(value, (list, tuple)):
        parts.append(len(value))
        for item in value[:64]:
            _add(parts, item, depth + 1)
    elif kind is types.MethodType:
        parts += (id(value.__func__), id(value.__self__))
    elif kind is types.FunctionType:
        parts.append(id(value))
        for cell in (value.__closure__ or ())[:16]:
            try:
                _add(parts, cell.cell_contents, depth + 2)
            except ValueError:
                continue
    elif isinstance(getattr(value, "__dict__", None), dict):
        parts.append(id(value))
        for item in list(value.__dict__.values())[:64]:
            _add(parts, item, depth + 1)
    else:
        parts.append(id(value))


@functools.cache
def _names(kind: type) -> tuple[tuple[type, str], ...]:
    """Names of the plain class attributes of a class, with the class that has them."""
    found = []
    for base in kind.__mro__[: kind.__mro__.index(nn.Module)]:
        found += [(base, n) for n, v in base.__dict__.items() if type(v) in _PLAIN and not n.startswith("__")]
    return tuple(found)


def _code(kind: type) -> list[Any]:
    """Plain class attributes and plain globals that the code of a class names."""
    parts: list[Any] = [id(kind), *[base.__dict__.get(name) for base, name in _names(kind)]]
    if kind.__module__.startswith("torch.nn."):
        return parts
    for base in kind.__mro__[: kind.__mro__.index(nn.Module)]:
        forward: Any = base.__dict__.get("forward")
        code = getattr(forward, "__code__", None)
        if code is not None:
            parts.append(id(code))
            names = forward.__globals__
            parts += [v for v in map(names.get, code.co_names) if v is not None and type(v) in _PLAIN]
    return parts
