"""A mark of what a model's forward reads, to see that a record is out of date.

It holds identities of classes, parameters, buffers and children, plain attributes by value, containers and plain
objects likewise, and plain globals and class attributes of the code of its modules. A change that it does not show
(deep inside a foreign object) does not make a gradient wrong: those come from the model's own forward.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor, nn

_PLAIN = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device, torch.Size)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_SKIPPED = frozenset({"_parameters", "_buffers", "_modules", "training", "_backward_hooks", "_backward_pre_hooks"})


def of(model: nn.Module) -> tuple[Any, ...]:
    """The mark of a model, to be compared with ==."""
    parts: list[Any] = []
    kinds: set[type] = set()
    for module in model.modules():
        state = module.__dict__
        parts += (id(module), *map(id, module._parameters.values()), *map(id, module._buffers.values()))
        for key, value in state.items():
            if key in _SKIPPED:
                continue
            kind = type(value)
            if kind in _PLAIN:
                parts.append(value)
            elif key in _HOOKS:
                parts += map(id, value.values())
            else:
                _add(parts, value, 0)
        kinds.add(type(module))
    for kind in sorted(kinds, key=id):
        parts.append(id(kind))
        _add_code(parts, kind)
    return tuple(parts)


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


def _add_code(parts: list[Any], kind: type) -> None:
    """Plain class attributes and plain globals that the code of a class names."""
    for base in kind.__mro__:
        if base is nn.Module:
            break
        for name, value in base.__dict__.items():
            if type(value) in _PLAIN and not name.startswith("__"):
                parts.append(value)
        forward = base.__dict__.get("forward")
        code = getattr(forward, "__code__", None)
        if code is not None:
            parts.append(id(code))
            names = forward.__globals__
            for name in code.co_names:
                value = names.get(name)
                if value is not None and type(value) in _PLAIN:
                    parts.append(value)
