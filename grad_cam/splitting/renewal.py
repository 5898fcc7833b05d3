"""Using a copy again after a run: only where it is, in everything but its tensors, what a new copy would be.

A run may leave things behind on a copy, and the user may change the model between two calls. Both show as a difference
between the copy and the model: every attribute, list, dict, set and plain object of the copy must hold the very values
that the model's holds. Parameters and buffers are given anew.
"""

from __future__ import annotations

import operator
from collections import OrderedDict, deque
from typing import Any

import torch
from torch import nn

from .evalcopy import HOOKS, SHARED_BUFFERS, EvalCopy, is_plain_object

_MOSTLY_EMPTY = (*HOOKS, "_non_persistent_buffers_set")
_GIVEN = frozenset({"_parameters", "_buffers", "_modules", "training", *_MOSTLY_EMPTY})
_tables_of = operator.itemgetter(*_MOSTLY_EMPTY)
_GETTERS: dict[tuple[str, ...], Any] = {}


def _getter(keys: tuple[str, ...]) -> Any:
    """Reads the attributes of a module that has these."""
    compared = [key for key in keys if key not in _GIVEN]
    if len(_GETTERS) > 1000:
        _GETTERS.clear()
    getter = _GETTERS[keys] = operator.itemgetter(*compared)
    return getter


def empty(copy: EvalCopy) -> None:
    """Takes the tensors and the user's modules from a copy, so that it can be kept without keeping their memory."""
    for module in copy.modules.values():
        state = module.__dict__
        if state["_parameters"] or state["_buffers"]:
            state["_parameters"], state["_buffers"] = {}, {}
    copy.originals = {}
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
    copy.apart, copy.quiet, copy._shared, copy._budget = apart, quiet, [], SHARED_BUFFERS
    same = unchanged(copy, model, fill=True)
    copy._forget()
    return same


def unchanged(copy: EvalCopy, model: nn.Module, fill: bool = False) -> bool:
    """Whether a copy is, but for its tensors, what a new copy of the model would be; it may be given new tensors."""
    if not copy.renewable or copy._loose:
        return False
    comparison = _Comparison(copy, fill)
    if not comparison.module(model, copy.root):
        return False
    if len(comparison.originals) != len(copy.modules):
        return False
    if fill:
        copy.originals = comparison.originals
    return True


class _Comparison:
    """Compares a model with a copy of it, object by object."""

    def __init__(self, copy: EvalCopy, fill: bool) -> None:
        self.copy, self.fill = copy, fill
        self.paths = {id(module): path for path, module in copy.modules.items()}
        self.originals: dict[str, nn.Module] = {}
        self.pairs: dict[int, Any] = {}  # by the id of what is the model's, what is the copy's
        self.met: set[int] = set()

    def _is_known(self, theirs: Any, own: Any) -> bool | None:
        """Whether two objects were met as a pair; None if neither was met before."""
        known = self.pairs.get(id(theirs))
        if known is not None:
            return known is own
        if id(own) in self.met:
            return False
        self.pairs[id(theirs)] = own
        self.met.add(id(own))
        return None

    def module(self, theirs: nn.Module, own: nn.Module) -> bool:
        """Whether a module and its copy are the same, with all that is in them."""
        known = self._is_known(theirs, own)
        if known is not None:
            return known
        kind, path = type(theirs), self.paths.get(id(own))
        if kind is not type(own) or path is None or isinstance(theirs, torch.jit.ScriptModule):
            return False
        state, mine = theirs.__dict__, own.__dict__
        if mine["training"] or (state["training"] and kind.train is not nn.Module.train):
            return False
        self.originals[path] = theirs
        keys = (*state,)
        getter = _GETTERS.get(keys) or _getter(keys)
        if keys != (*mine,):
            return False
        ones, others = getter(state), getter(mine)
        if not all(map(operator.is_, ones, others)) and not self._items(ones, others):
            return False
        ones, others = _tables_of(state), _tables_of(mine)
        if (any(ones) or any(others)) and not self._items(ones, others):
            return False
        if self.fill:
            self.copy.fill(theirs, own, path)
        inner, copied = state["_modules"], mine["_modules"]
        if not inner and not copied:
            return True
        if [*inner] != [*copied]:
            return False
        for one, other in zip(inner.values(), copied.values(), strict=True):
            if one is not other and (one is None or other is None or not self.module(one, other)):
                return False
        return True

    def value(self, theirs: Any, own: Any) -> bool:
        """Whether two values that are not one object hold the same."""
        kind = type(theirs)
        if kind is not type(own):
            return False
        if isinstance(theirs, nn.Module):
            return self.module(theirs, own)
        if kind is tuple:
            return self._items(theirs, own)
        if kind in (dict, OrderedDict, list, set) and not theirs and not own:
            return True
        if kind in (list, deque, dict, OrderedDict, set):
            known = self._is_known(theirs, own)
            if known is not None:
                return known
            if kind is set:
                return {*map(id, theirs)} == {*map(id, own)}
            if kind in (list, deque):
                return self._items(theirs, own)
            return self._items(list(theirs), list(own)) and self._items(theirs.values(), own.values())
        if not is_plain_object(theirs):
            return False
        known = self._is_known(theirs, own)
        return self.value(theirs.__dict__, own.__dict__) if known is None else known

    def _items(self, theirs: Any, own: Any) -> bool:
        return len(theirs) == len(own) and all(
            one is other or self.value(one, other) for one, other in zip(theirs, own, strict=True)
        )
