"""The request of a run as text that can be compared: a run is continued only with the request it was begun with."""

from __future__ import annotations

import functools
import hashlib
import re
import types
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..targets.score import Target
from .needs import RunError


def described(value: Any, model: nn.Module | None = None) -> Any:
    """A value as JSON knows it; the same for the same meaning, in every process."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Target):
        return value.name
    if isinstance(value, nn.Module):
        names = [] if model is None else [name for name, module in model.named_modules() if module is value]
        return names[0] if names else f"{type(value).__name__} {model_digest(value)}"
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)} {_digest([_bytes(value)])}"
    if hasattr(value, "tolist"):
        return described(value.tolist(), model)
    if isinstance(value, Mapping):
        return {str(k): described(v, model) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [described(v, model) for v in value]
    if isinstance(value, functools.partial):
        return {"function": described(value.func), "given": described([value.args, value.keywords], model)}
    if isinstance(value, (types.FunctionType, types.MethodType)):
        return f"{value.__module__}.{value.__qualname__} {_digest(_code(value.__code__))}"
    if isinstance(value, type) or isinstance(value, types.BuiltinFunctionType):
        return f"{value.__module__}.{value.__qualname__}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _code(code: types.CodeType) -> list[bytes]:
    """What makes a function what it is, without the place where it stands."""
    parts = [code.co_code, repr(code.co_names).encode(), repr(code.co_varnames).encode()]
    for constant in code.co_consts:
        parts += _code(constant) if isinstance(constant, types.CodeType) else [repr(constant).encode()]
    return parts


def model_digest(model: nn.Module) -> str:
    """A digest of a model's structure, parameters and buffers."""
    parts: list[bytes] = [f"{type(model).__module__}.{type(model).__qualname__}\n{model}".encode()]
    parts = [re.sub(rb" at 0x[0-9a-f]+", b"", parts[0])]
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        parts += [f"{name} {value.dtype} {tuple(value.shape)}".encode(), _bytes(value)]
    return _digest(parts)


def _bytes(value: Tensor) -> bytes:
    try:
        flat = value.detach().cpu().contiguous().reshape(-1)
        return flat.view(torch.uint8).numpy().tobytes()
    except (RuntimeError, TypeError):  # sparse and quantised tensors
        return repr(value).encode()


def _digest(parts: Sequence[bytes]) -> str:
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.hexdigest()


def refuse_changed(before: Mapping[str, Any], now: Mapping[str, Any], place: str) -> None:
    """Refuses to continue a run that was begun with another request.

    Raises:
        RunError: It names what has changed.
    """
    changed = [name for name in now if before.get(name) != now[name]]
    if not changed:
        return
    name = changed[0]
    old, new = before.get(name), now[name]
    if isinstance(old, dict) and isinstance(new, dict):
        inner = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        name, old, new = f"{name} ({inner[0]})", old.get(inner[0]), new.get(inner[0])
    others = f"; so have {', '.join(changed[1:])}" if len(changed) > 1 else ""
    raise RunError(
        f"{name} has changed since the run in {place!r} was begun",
        f"it was {_short(old)}, now it is {_short(new)}{others}",
        "give the same as before to go on, or another folder for a new run",
    )  # fmt: skip


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
