"""Using a copy again after a run: only where it is, in everything but its tensors, what a new copy would be.

A run may leave things behind on a copy, and the user may change the model between two calls. Both show as a difference
between the copy and the model: every attribute, list, dict, set and plain object of the copy must hold the very values
that the model's holds. Parameters and buffers are given anew. The modules are compared as a few long lists, which holds
for a loop over the modules a tenth of its time: it would take a quarter of a small model's forward.
"""

from __future__ import annotations

import operator
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from itertools import chain, compress
from typing import Any

from torch import Tensor, nn

from .evalcopy import HOOKS, SHARED_BUFFERS, EvalCopy, is_plain_object, make_alias

_TABLES = (*HOOKS, "_non_persistent_buffers_set")  # mostly empty
_GIVEN = frozenset({"_parameters", "_buffers", "_modules", "training", *_TABLES})
_State = dict[str, Any]

_flat = chain.from_iterable
_children: Callable[[_State], _State] = operator.itemgetter("_modules")
_parameters: Callable[[_State], _State] = operator.itemgetter("_parameters")
_buffers: Callable[[_State], _State] = operator.itemgetter("_buffers")
_training: Callable[[_State], bool] = operator.itemgetter("training")
_tables: Callable[[_State], tuple[Any, ...]] = operator.itemgetter(*_TABLES)


def empty(copy: EvalCopy) -> None:
    """Takes the tensors and the user's modules from a copy, so that it can be kept without keeping their memory."""
    for state in copy.pattern.own:
        if state["_parameters"] or state["_buffers"]:
            state["_parameters"], state["_buffers"] = {}, {}
    copy.originals, copy.run_on = {}, None
    copy._forget()
    for name in ("_tables", "tensors", "foreign"):
        copy.__dict__.pop(name, None)


def renew(copy: EvalCopy, model: nn.Module, apart: bool, quiet: bool) -> bool:
    """Makes a copy that has been run what a new copy of the model would be.

    Args:
        copy: The copy, which nobody else uses.
        model: The model it was made of.
        apart: As for `EvalCopy`.
        quiet: As for `EvalCopy`.

    Returns:
        Whether it is; if not, the copy is of no use any more.
    """
    copy.apart, copy.quiet, copy.run_on = apart, quiet, None
    copy._shared, copy._budget = [], SHARED_BUFFERS
    modules = copy.pattern.modules()
    states = [module.__dict__ for module in modules]
    if not copy.pattern.is_met(model, modules, states):
        return False
    copy.originals = dict(zip(copy.modules, modules, strict=True))
    _fill(copy, states)
    copy._forget()
    return True


def is_clean(copy: EvalCopy, model: nn.Module) -> bool:
    """Whether a run left nothing behind on a copy of a model, which is then ready to be renewed."""
    if not copy.renewable or copy._loose:
        return False
    pattern, theirs = Pattern(copy), [*copy.originals.values()]
    if not pattern.is_whole or not pattern.is_met(model, theirs, [module.__dict__ for module in theirs]):
        return False
    copy.pattern = pattern
    return True


class Pattern:
    """The modules of a model and of its copy, to be compared again and again; it holds the copy's alone.

    Attributes:
        own: The attributes of the copy's modules.
        is_whole: Whether every module that a module holds is one of those that were copied.
    """

    def __init__(self, copy: EvalCopy) -> None:
        theirs = [*copy.originals.values()]
        states = [module.__dict__ for module in theirs]
        self._references = [*map(weakref.ref, theirs)]
        self._modules = [*copy.modules.values()]
        self.own: list[_State] = [module.__dict__ for module in self._modules]
        self._kinds: list[type[nn.Module]] = [*map(type, theirs)]
        self._trained_apart = any(kind.train is not nn.Module.train for kind in self._kinds)
        self._sizes = [*map(len, states)]
        self._held = [*map(len, map(_children, states))]
        self._names = [*_flat(map(_children, states))]
        places = {id(module): place for place, module in enumerate([*theirs, None])}
        held = [places.get(id(module), -1) for module in _flat(map(dict.values, map(_children, states)))]
        self.is_whole: bool = -1 not in held
        self._places = held
        self._readers = [_reader(tuple(name for name in state if name not in _GIVEN)) for state in states]

    def modules(self) -> list[nn.Module]:
        """The user's modules that are still there."""
        return [module for reference in self._references if (module := reference()) is not None]

    def is_met(self, model: nn.Module, modules: Sequence[nn.Module], states: Sequence[_State]) -> bool:
        """Whether a model and the copy are, but for their tensors, what they were, and hold the same values.

        Args:
            model: The model.
            modules: Those of its modules that are still there.
            states: Their attributes.
        """
        own = self.own
        if len(modules) != len(own) or modules[0] is not model:
            return False
        if not self._holds(modules, states) or not self._holds(self._modules, own):
            return False
        if any(map(_training, own)) or (self._trained_apart and any(map(_training, states))):
            return False
        try:
            theirs, copied = self._values(states), self._values(own)
        except KeyError:  # an attribute is gone
            return False
        different = [*compress(zip(theirs, copied, strict=True), map(operator.is_not, theirs, copied))]
        if any(map(any, map(_tables, states))) or any(map(any, map(_tables, own))):
            different += zip(_flat(map(_tables, states)), _flat(map(_tables, own)), strict=True)
        values = _Values(dict(zip(map(id, modules), self._modules, strict=True)) if different else {})
        return all(one is other or values.are_same(one, other) for one, other in different)

    def _holds(self, modules: Sequence[nn.Module], states: Sequence[_State]) -> bool:
        """Whether modules are of the same classes, with as many attributes, and hold one another as they did."""
        children = [*map(_children, states)]
        if [*map(type, modules)] != self._kinds or [*map(len, states)] != self._sizes:
            return False
        if [*map(len, children)] != self._held or [*_flat(children)] != self._names:
            return False
        every = [*modules, None]
        return all(map(operator.is_, _flat(map(dict.values, children)), map(every.__getitem__, self._places)))

    def _values(self, states: Sequence[_State]) -> list[Any]:
        """All attributes but the tables that every module has."""
        return [*_flat([read(state) for read, state in zip(self._readers, states, strict=True)])]


_READERS: dict[tuple[str, ...], Callable[[_State], tuple[Any, ...]]] = {}


def _reader(names: tuple[str, ...]) -> Callable[[_State], tuple[Any, ...]]:
    """Reads attributes, as a tuple; one function for all modules that have them."""
    if names not in _READERS:
        _READERS[names] = operator.itemgetter(*names) if len(names) > 1 else lambda s: tuple(s[name] for name in names)
    return _READERS[names]


class _Values:
    """Compares values of a model with those of a copy, object by object.

    Args:
        modules: The copy's module, by the id of the model's.
    """

    def __init__(self, modules: dict[int, nn.Module]) -> None:
        self._pairs: dict[int, Any] = {**modules}  # what is the copy's, by the id of what is the model's
        self._met: set[int] = set()  # of the copy's

    def _are_known(self, theirs: Any, own: Any) -> bool | None:
        """Whether two objects were met as a pair; None if neither was met before."""
        if id(theirs) not in self._pairs and id(own) not in self._met:
            self._pairs[id(theirs)] = own
            self._met.add(id(own))
            return None
        return self._pairs.get(id(theirs)) is own

    def are_same(self, theirs: Any, own: Any) -> bool:
        """Whether two values that are not one object hold the same."""
        kind = type(theirs)
        if kind is not type(own):
            return False
        if isinstance(theirs, nn.Module):
            return self._pairs.get(id(theirs)) is own
        if kind is tuple:
            return self.items(theirs, own)
        if kind in (dict, OrderedDict, list, set) and not theirs and not own:
            return True
        if kind not in (list, deque, dict, OrderedDict, set) and not is_plain_object(theirs):
            return False
        known = self._are_known(theirs, own)
        if known is not None:
            return known
        if kind is set:
            return {*map(id, theirs)} == {*map(id, own)}
        if kind in (list, deque):
            return self.items(theirs, own)
        if kind in (dict, OrderedDict):
            return self.items(list(theirs), list(own)) and self.items(theirs.values(), own.values())
        return self.are_same(theirs.__dict__, own.__dict__)

    def items(self, theirs: Any, own: Any) -> bool:
        """Whether values hold the same one by one."""
        return len(theirs) == len(own) and all(
            one is other or self.are_same(one, other) for one, other in zip(theirs, own, strict=True)
        )


def _fill(copy: EvalCopy, states: Sequence[_State]) -> None:
    """Gives the modules of a copy the parameters and buffers of the user's as they are now."""
    given = [*map(_parameters, states)]
    parameters, buffers = [*_flat(map(dict.values, given))], [*map(_buffers, states)]
    plain = {*map(type, parameters)} <= {nn.Parameter, type(None)}
    if not plain or copy.apart or not copy.quiet or any(map(_needs_gradient, _flat(map(dict.values, buffers)))):
        for path, module in copy.originals.items():
            copy.fill(module, copy.modules[path], path)
        return
    found = {id(one): one for one in parameters}  # tied weights stay tied
    aliases = {key: None if one is None else make_alias(nn.Parameter, one, False) for key, one in found.items()}
    ready = iter([aliases[id(one)] for one in parameters])
    for parameters_of, buffers_of, own in zip(given, buffers, copy.pattern.own, strict=True):
        if parameters_of:
            own["_parameters"] = dict(zip(parameters_of, ready, strict=False))  # names first: no alias too many
        if buffers_of:
            own["_buffers"] = buffers_of.copy()  # the very tensors: nobody writes to them


def _needs_gradient(buffer: Tensor | None) -> bool:
    return buffer is not None and buffer.requires_grad
