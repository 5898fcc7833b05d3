"""The copy of a model that is run: the user's code and memory, in eval mode, with containers and buffers of its own.

A copy is shallow and cheap (some milliseconds). It owns every list, dict, set, plain Python object, hook table and
buffer that a forward could write to; parameters share the model's memory and ask for no gradient. Nothing about it is
out of date: every call makes a new one, or renews one that is still what a new one would be (`renewal`).
"""

from __future__ import annotations

import copy as copying
import enum
import functools
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from ..errors import SplitError

SHARED_BUFFERS = 64 * 2**20
"""Bytes of buffers up to which a copy owns clones of them; above it they are shared and checked for being written."""

_PLAIN_OBJECTS = 2000
"""Number of plain Python objects that a copy owns at most; a model that holds more (a trainer) shares the others."""

_ATOMS = frozenset({
    int, float, complex, str, bytes, bool, type(None), type(Ellipsis), slice, range, type, torch.Size, torch.dtype,
    torch.device, torch.layout, torch.memory_format, types.BuiltinFunctionType, types.ModuleType, types.CodeType,
    frozenset,
})  # fmt: skip
HOOKS = tuple(k for k in nn.Module().__dict__ if "forward" in k or k.startswith("_backward"))
"""Names of the tables of hooks that a call of a module reads."""

_TABLES = frozenset(k for k, v in nn.Module().__dict__.items() if isinstance(v, (dict, set)))

_PLAIN: dict[type, frozenset[str] | None] = {}
"""The attributes of torch's own modules, where they hold nothing that a forward could write to."""

make_alias: Any = Tensor._make_subclass
"""Makes a tensor of another class, or another need of a gradient, on the memory of a tensor."""

_HEAP_TYPE = 1 << 9  # CPython's flag of classes written in Python


class EvalCopy:
    """A copy of a model to run forward passes on.

    Attributes:
        root: The copied model, in eval mode.
        modules: Copied modules by path; those that are kept in lists and closures have paths too (``branches.0.1``).
        originals: The user's modules by the same paths.
        constants: Paths of tensors that are plain attributes somewhere in the model.
        renewable: Whether it may be used again after a run, once it is renewed.
        mark: The mark of the model it was made of (see `fingerprint`), once it is worked out.
        run_on: What it is run on, once that is known (see `session`).
        pattern: What it is compared with before it is used again (see `renewal`), once that was found to be possible.

    Args:
        model: The model.
        apart: Clone the parameters too, for a model whose forward writes to them.
        quiet: Share the buffers, for a model whose forward is known not to write to any.
    """

    def __init__(self, model: nn.Module, apart: bool = False, quiet: bool = False) -> None:
        self.apart = apart
        self.quiet = quiet
        self.modules: dict[str, nn.Module] = {}
        self.originals: dict[str, nn.Module] = {}
        self.mark: Any = None
        self.run_on: Any = None
        self.pattern: Any = None
        self._loose: dict[str, tuple[Tensor, Tensor]] = {}  # tensors that are attributes, the model's and the copy's
        self.constants: set[str] = set()
        self._memo: dict[int, Any] = {}
        self._keep: list[Any] = []  # what the memo's ids belong to
        self._objects = 0
        self._budget = SHARED_BUFFERS
        self._shared: list[tuple[str, Tensor, int]] = []
        self._modes: list[nn.Module] = []
        self.root: nn.Module = self._module(model, "")
        for module in self._modes:
            module.train(False)
        self.renewable: bool = not self._modes and not any(
            isinstance(m, torch.jit.ScriptModule) for m in self.modules.values()
        )
        self._forget()

    def _forget(self) -> None:
        """Drops what only the making of the copy needs."""
        self._memo, self._keep, self._modes = {}, [], []

    @functools.cached_property
    def _tables(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The copy's parameters, buffers and constants by path, and the user's; what is shared has its first path."""
        own: dict[str, Tensor] = {}
        theirs: dict[str, Tensor] = {}
        seen: set[int] = set()
        for path, module in self.modules.items():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            prefix = f"{path}." if path else ""
            for kind in ("_parameters", "_buffers"):
                originals = self.originals[path].__dict__[kind]
                for key, tensor in module.__dict__[kind].items():
                    original = originals.get(key)
                    if tensor is not None and original is not None and id(original) not in seen:
                        seen.add(id(original))
                        own[prefix + key], theirs[prefix + key] = tensor, original
        for path, (original, tensor) in self._loose.items():
            if id(original) not in seen:
                own[path], theirs[path] = tensor, original
        return own, theirs

    @property
    def own(self) -> dict[str, Tensor]:
        """The copy's parameters, buffers and constants by path."""
        return self._tables[0]

    @property
    def theirs(self) -> dict[str, Tensor]:
        """The user's parameters, buffers and constants by path."""
        return self._tables[1]

    @functools.cached_property
    def tensors(self) -> dict[int, str]:
        """Path of every parameter, buffer and constant of the copy, by its id."""
        return {id(tensor): path for path, tensor in self.own.items()}

    @functools.cached_property
    def foreign(self) -> dict[int, str]:
        """Path of every parameter and buffer of the user's, by its id; no operation of the copy may see one."""
        known = self.tensors  # a buffer that nobody writes to may be shared
        return {id(t): path for path, t in self.theirs.items() if path not in self.constants and id(t) not in known}

    def wrote_buffers(self) -> bool:
        """Whether a run of the copy wrote to a buffer, of which it has clones."""
        for path, module in self.modules.items():
            for name, buffer in _buffers(module):
                theirs = self.originals[path]._buffers.get(name)
                if buffer is not None and theirs is not None and (buffer._version or not torch.equal(buffer, theirs)):
                    return True
        return False

    def require_unwritten(self) -> None:
        """Raises SplitError if a forward wrote to a buffer that is too large to be cloned."""
        for path, tensor, version in self._shared:
            if tensor._version != version:
                raise SplitError(
                    f"its forward writes to the buffer '{path}' in eval mode", f"{tensor.nbytes >> 20} MB",
                    "make the forward leave its buffers alone in eval mode",
                )  # fmt: skip

    # ---------------------------------------------------------------------------------------------------- modules

    # Long since it is the list of all that a module holds.
    def _module(self, module: nn.Module, path: str) -> nn.Module:
        known: nn.Module | None = self._memo.get(id(module))
        if known is not None:
            return known
        inner = getattr(module, "_orig_mod", None)
        if isinstance(inner, nn.Module):  # torch.compile's wrapper: its inside is what it computes
            new = self._module(inner, path)
            self._memo[id(module)] = new
            return new
        self.originals[path] = module
        if isinstance(module, torch.jit.ScriptModule):  # lives in C++, cannot be copied shallowly
            with torch.no_grad():
                new = copying.deepcopy(module).eval()
            for parameter in new.parameters():
                if parameter.is_leaf:
                    parameter.requires_grad_(False)
            self.modules[path] = self._memo[id(module)] = new
            return new
        new = object.__new__(type(module))
        self.modules[path] = self._memo[id(module)] = new
        prefix = f"{path}." if path else ""
        own = new.__dict__
        source = module.__dict__
        own.update(source)
        own["training"] = False
        self.fill(module, new, path)
        own["_modules"] = {k: m if m is None else self._module(m, prefix + k) for k, m in source["_modules"].items()}
        for key in HOOKS:
            table = source[key]
            empty = not table and id(table) not in self._memo
            own[key] = OrderedDict() if empty else self._own(table, prefix + key)
        own["_non_persistent_buffers_set"] = set(source["_non_persistent_buffers_set"])
        if not is_plain(type(module), source):
            for key, value in source.items():
                if type(value) not in _ATOMS and key not in _TABLES and not (type(value) is tuple and _is_flat(value)):
                    own[key] = self._own(value, prefix + key)
        if source["training"] and type(module).train is not nn.Module.train:
            if not self.apart:  # what its own train() does with its weights must not be done with the model's
                self._own_parameters(new)
            own["training"] = True
            self._modes.append(new)
        if own.get("_compiled_call_impl") is not None:
            own["_compiled_call_impl"] = None
        if own.get("grad_checkpointing") is True:  # recomputing would repeat the pass in the backward
            own["grad_checkpointing"] = False
        return new

    def fill(self, module: nn.Module, new: nn.Module, path: str) -> None:
        """Gives a copied module the parameters and buffers of the original as they are now."""
        parameters, buffers = module.__dict__["_parameters"], module.__dict__["_buffers"]
        if not parameters and not buffers:
            new.__dict__["_parameters"], new.__dict__["_buffers"] = {}, {}
            return
        prefix, memo, shared = f"{path}." if path else "", self._memo, not self.apart
        own: dict[str, Tensor | None] = {}
        for key, parameter in parameters.items():  # without a call: this is done for every parameter at every call
            known = memo.get(id(parameter))
            if known is None and shared and type(parameter) is nn.Parameter:
                known = memo[id(parameter)] = make_alias(nn.Parameter, parameter, False)
            own[key] = self._parameter(parameter, prefix + key) if known is None else known
        new.__dict__["_parameters"] = own
        new.__dict__["_buffers"] = {k: self._buffer(b, prefix + k) for k, b in buffers.items()} if buffers else {}

    def _own_parameters(self, module: nn.Module) -> None:
        """Gives the parameters of a copied module and of those in it memory of their own."""
        for parameter in module.parameters():
            if id(parameter) not in self._memo:
                parameter.data = parameter.data.clone()
                self._memo[id(parameter)] = parameter

    def storages(self) -> tuple[set[int], set[int]]:
        """Where the copy's parameters lie in memory, and where those lie that the model shares."""
        own = {t.untyped_storage().data_ptr() for t in self.own.values() if _is_parameter(t)} - {0}
        theirs = {t.untyped_storage().data_ptr() for t in self.theirs.values() if _is_parameter(t)}
        return own, own & theirs

    def _parameter(self, parameter: Tensor | None, path: str) -> Tensor | None:
        if parameter is None:
            return None
        known = self._memo.get(id(parameter))  # tied weights stay tied
        if known is None:
            if type(parameter) is nn.Parameter:
                given = parameter.detach().clone() if self.apart else parameter
                known = make_alias(nn.Parameter, given, False)
            elif is_lazy(parameter):
                raise SplitError(
                    "the model has lazy parameters without a shape", path, "run it once on a batch before explaining it"
                )
            else:
                known = parameter.detach().clone() if self.apart else parameter.detach()
                if isinstance(parameter, nn.Parameter):
                    known = nn.Parameter(known, requires_grad=False)
            self._memo[id(parameter)] = known
        return known

    def _buffer(self, buffer: Tensor | None, path: str) -> Tensor | None:
        if buffer is None:
            return None
        known = self._memo.get(id(buffer))
        if known is None:
            known = buffer.detach() if self.quiet and not self.apart else self._cloned(buffer, path)
            self._memo[id(buffer)] = known
        return known

    def _cloned(self, tensor: Tensor, path: str) -> Tensor:
        if is_lazy(tensor):
            raise SplitError(
                "the model has lazy buffers without a shape", path, "run it once on a batch before explaining it"
            )
        self._budget -= tensor.numel() * tensor.element_size()
        if self._budget >= 0:
            return tensor.detach().clone()
        shared = tensor.detach()
        self._shared.append((path, shared, shared._version))
        return shared

    # ------------------------------------------------------------------------------------------------ other values

    def _own(self, value: Any, path: str, depth: int = 0) -> Any:
        """A value that a forward may write to without the user's being changed, modules in it being the copies."""
        kind: type = type(value)
        if kind in _ATOMS:
            return value
        known = self._memo.get(id(value))
        if known is not None:
            return known
        if isinstance(value, nn.Module):
            return self._module(value, path)
        if isinstance(value, Tensor):
            if isinstance(value, nn.Parameter):
                new: Any = self._parameter(value, path)
            else:
                new = self._cloned(value, path) if value.layout is torch.strided else value
                self.constants.add(path)
            self._loose[path] = (value, new)
            return self._known(value, new)
        if isinstance(value, (list, dict, set, deque, tuple)):
            return self._container(value, path, depth)
        if kind is types.MethodType:
            owner = self._own(value.__self__, path, depth + 1)
            return value if owner is value.__self__ else types.MethodType(value.__func__, owner)
        if kind is types.FunctionType:
            return self._function(value, path, depth)
        if isinstance(value, functools.partial):
            given = (value.func, value.args, *value.keywords.values())
            if all(self._own(v, path, depth + 1) is v for v in given):
                return value
            parts = self._own((value.func, value.args, value.keywords), path, depth + 1)
            return self._known(value, functools.partial(parts[0], *parts[1], **parts[2]))
        return self._object(value, path, depth)

    def _known(self, value: Any, new: Any) -> Any:
        self._memo[id(value)] = new
        self._keep.append(value)
        return new

    def _container(self, value: Any, path: str, depth: int) -> Any:
        if isinstance(value, tuple):
            parts = [self._own(v, f"{path}.{i}", depth) for i, v in enumerate(value)]
            if all(a is b for a, b in zip(parts, value, strict=True)):
                return value
            new: Any = type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
            return self._known(value, new)
        try:
            new = copying.copy(value)
        except Exception:
            return self._known(value, value)
        self._known(value, new)
        if isinstance(value, dict):
            for key, item in value.items():
                if type(item) not in _ATOMS:
                    dict.__setitem__(new, key, self._own(item, f"{path}.{key}", depth))
        elif isinstance(value, (list, deque)):
            for i, item in enumerate(value):
                if type(item) not in _ATOMS:
                    new[i] = self._own(item, f"{path}.{i}", depth)
        return new

    def _function(self, function: types.FunctionType, path: str, depth: int) -> Any:
        original = getattr(function, "_torchdynamo_orig_callable", None)
        if original is not None:  # compiled: what it was compiled from
            return self._known(function, self._own(original, path, depth))
        cells = function.__closure__ or ()
        if not cells and not function.__defaults__ and not function.__kwdefaults__:
            return function
        self._known(function, function)  # a closure may hold itself
        new_cells = []
        for name, cell in zip(function.__code__.co_freevars, cells, strict=True):
            try:
                content = cell.cell_contents
            except ValueError:  # still empty
                new_cells.append(cell)
                continue
            own = self._cell(cell, content, f"{path}.{name}", depth)
            new_cells.append(own)
        defaults = self._own(function.__defaults__, path, depth + 1)
        keywords = self._own(function.__kwdefaults__, path, depth + 1) if function.__kwdefaults__ else None
        same = all(a is b for a, b in zip(new_cells, cells, strict=True)) and defaults is function.__defaults__
        if same and not keywords:
            return function
        new = types.FunctionType(function.__code__, function.__globals__, function.__name__, defaults, tuple(new_cells))
        new.__kwdefaults__ = keywords
        new.__dict__.update(function.__dict__)
        new.__qualname__ = function.__qualname__
        return self._known(function, new)

    def _cell(self, cell: types.CellType, content: Any, path: str, depth: int) -> types.CellType:
        known: types.CellType | None = self._memo.get(id(cell))
        if known is not None:
            return known
        own = self._own(content, path, depth + 1)
        new = cell
        if own is not content or type(content) in (int, float, bool, str):  # `nonlocal` may write to it
            new = types.CellType(own)
        self._known(cell, new)
        return new

    def _object(self, value: Any, path: str, depth: int) -> Any:
        kind: type = type(value)
        state: Any = getattr(value, "__dict__", None)
        written_in_python = (kind.__flags__ & _HEAP_TYPE or kind is types.SimpleNamespace) and type(state) is dict
        if not written_in_python or isinstance(value, (type, enum.Enum)) or depth > 3:
            return value
        if kind.__module__.partition(".")[0] in ("threading", "logging", "weakref", "multiprocessing", "asyncio"):
            return value
        if isinstance(value, RemovableHandle):  # a hook that takes itself off takes itself off the copy
            new = self._known(value, object.__new__(kind))
            new.__dict__.update(state)
            new.hooks_dict_ref = self._table(value.hooks_dict_ref)
            new.extra_dict_ref = tuple([self._table(r) for r in value.extra_dict_ref])
            return new
        self._objects += 1
        if self._objects > _PLAIN_OBJECTS:
            return value
        try:
            new = kind() if kind is types.SimpleNamespace else object.__new__(kind)
        except TypeError:  # a class with a base in C
            return value
        self._known(value, new)
        for name in _slots(kind):
            if hasattr(value, name):
                object.__setattr__(new, name, self._own(getattr(value, name), f"{path}.{name}", depth + 1))
        for key, item in state.items():
            new.__dict__[key] = item if type(item) in _ATOMS else self._own(item, f"{path}.{key}", depth + 1)
        return new

    def _table(self, reference: Any) -> Any:
        table = reference()
        return reference if table is None else weakref.ref(self._own(table, ""))


def _buffers(module: nn.Module) -> Iterable[tuple[str, Tensor | None]]:
    return () if isinstance(module, torch.jit.ScriptModule) else module._buffers.items()


def _is_parameter(tensor: Tensor) -> bool:
    return type(tensor) is nn.Parameter and tensor.layout is torch.strided and tensor.device.type != "meta"


def is_plain(kind: type, state: dict[str, Any]) -> bool:
    """Whether a module is one of torch's own and has the attributes it was built with and no others."""
    if kind not in _PLAIN:
        own = kind.__module__.startswith("torch.nn.modules.")
        plain = own and all(k in _TABLES or type(v) in _ATOMS or _is_flat(v) for k, v in state.items())
        _PLAIN[kind] = frozenset(state) if plain else None
    return state.keys() == _PLAIN[kind]


def is_plain_object(value: Any) -> bool:
    """Whether all that an object holds are its attributes, in a dict of its own, by a class written in Python."""
    kind: type = type(value)
    written_in_python = kind.__flags__ & _HEAP_TYPE or kind is types.SimpleNamespace
    return (
        bool(written_in_python) and type(getattr(value, "__dict__", None)) is dict and not _slots(kind)
        and not isinstance(value, (dict, list, set, tuple, deque, Tensor, functools.partial, RemovableHandle))
    )  # fmt: skip


def _is_flat(value: Any) -> bool:
    return type(value) in (tuple, list) and all(type(v) in _ATOMS for v in value)


@functools.cache
def _slots(kind: type) -> tuple[str, ...]:
    names: list[str] = []
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        names += [slots] if isinstance(slots, str) else list(slots)
    return tuple(n for n in names if n not in ("__dict__", "__weakref__"))
