"""Using a copy again after a run: only where it is, in everything but its tensors, what a new copy would be.

A run may leave things behind on a copy, and the user may change the model between two calls. Both show as a difference
between the copy and the model: every attribute, list, dict, set and plain object of the copy must hold the very values
that the model's holds. Parameters and buffers are given anew. The attributes of all modules are compared as one list:
a loop over those of each module would take a quarter of a small model's forward.
"""

from __future__ import annotations

import operator
from collections import OrderedDict, deque
from itertools import chain, compress, islice
from typing import Any

from torch import nn

from .evalcopy import HOOKS, SHARED_BUFFERS, EvalCopy, is_plain_object

_MOSTLY_EMPTY = frozenset({*HOOKS, "_non_persistent_buffers_set"})
_GIVEN = frozenset({"_parameters", "_buffers", "_modules", "training", *_MOSTLY_EMPTY})


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
    comparison = _Comparison(copy)
    if not comparison.run(model):
        return False
    met = comparison.met
    originals: dict[str, nn.Module] = {path: met[id(m)] for path, m in copy.modules.items() if id(m) in met}
    if not len(originals) == len(copy.modules) == len(comparison.todo):
        return False
    if fill:
        copy.originals = originals
        for path, theirs in copy.originals.items():
            state = theirs.__dict__
            if state["_parameters"] or state["_buffers"]:
                copy.fill(theirs, copy.modules[path], path)
    return True


class _Comparison:
    """Compares a model with a copy of it, object by object.

    Attributes:
        todo: The pairs of modules that were met.
        pairs: What is the copy's, by the id of what is the model's.
        met: The other way round.
    """

    def __init__(self, copy: EvalCopy) -> None:
        self.copy = copy
        self.todo: list[tuple[nn.Module, nn.Module]] = []
        self.pairs: dict[int, Any] = {}
        self.met: dict[int, Any] = {}

    def run(self, model: nn.Module) -> bool:
        """Whether a model and the copy are the same, with all that is in them."""
        self.module(model, self.copy.root)
        done = 0
        while done < len(self.todo):  # once more for modules that are kept in lists and other values
            start = done
            if not self._walk(start):
                return False
            done = len(self.todo)
            if not self._attributes(start):
                return False
        return True

    def _is_known(self, theirs: Any, own: Any) -> bool | None:
        """Whether two objects were met as a pair; None if neither was met before."""
        if id(theirs) not in self.pairs and id(own) not in self.met:
            self.pairs[id(theirs)], self.met[id(own)] = own, theirs
            return None
        return self.pairs.get(id(theirs)) is own

    def module(self, theirs: nn.Module, own: nn.Module) -> bool:
        """Takes a module and its copy as a pair to be compared, if they can be one."""
        known = self._is_known(theirs, own)
        if known is None:
            self.todo.append((theirs, own))
        return known is not False

    def _walk(self, start: int) -> bool:
        """Takes the modules within those taken from a number on, if they are the same."""
        for theirs, own in islice(self.todo, start, None):  # which grows
            kind, state, mine = type(theirs), theirs.__dict__, own.__dict__
            if kind is not type(own) or mine["training"] or (state["training"] and kind.train is not nn.Module.train):
                return False
            inner, copied = state["_modules"], mine["_modules"]
            if inner or copied:
                if [*inner] != [*copied]:
                    return False
                for one, other in zip(inner.values(), copied.values(), strict=True):
                    if one is not other and (one is None or other is None or not self.module(one, other)):
                        return False
        return True

    def _attributes(self, start: int) -> bool:
        """Whether the attributes of all modules taken from a number on are the same."""
        states = [theirs.__dict__ for theirs, _ in self.todo[start:]]
        copied = [own.__dict__ for _, own in self.todo[start:]]
        names = [*chain.from_iterable(states)]
        if names != [*chain.from_iterable(copied)]:
            return False
        known = self.copy.names.get(start)
        if known is None or known[0] != names:
            picks = [n not in _GIVEN for n in names], [n in _MOSTLY_EMPTY for n in names]
            known = self.copy.names[start] = (names, *picks)
        _, compared, mostly_empty = known
        theirs, own = [*chain.from_iterable(map(dict.values, states))], [*chain.from_iterable(map(dict.values, copied))]
        ones, others = [*compress(theirs, compared)], [*compress(own, compared)]
        different = [*map(operator.is_not, ones, others)]
        if not self._items([*compress(ones, different)], [*compress(others, different)]):
            return False
        if not any(compress(theirs, mostly_empty)) and not any(compress(own, mostly_empty)):
            return True
        return self._items([*compress(theirs, mostly_empty)], [*compress(own, mostly_empty)])

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
