"""The latest request of every visitor, and the queue in which a request is answered."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import threading
from collections.abc import Iterator

from ... import METHODS
from .errors import Superseded
from .models import Models
from .views import Controls, View, settled

__all__ = ["QUEUES", "Visitors", "queue_for"]

QUEUES = {"maps": 2, "models": 1, "slow": 1}
"""How many requests of each kind are answered at the same time, so that slow work delays no quick answer."""


class Visitors:
    """The latest request of every visitor, so that a computation can stop once its request was replaced.

    Args:
        capacity: Number of visitors remembered; the oldest are forgotten, which only lets their computations finish.
    """

    def __init__(self, capacity: int = 1000) -> None:
        self._latest: collections.OrderedDict[str, Controls | None] = collections.OrderedDict()
        self._capacity, self._closed, self._running = capacity, False, 0
        self._changed = threading.Condition()

    def note(self, visitor: str, controls: Controls | None) -> None:
        """Remembers a request; None for a visitor who has left."""
        with self._changed:
            self._latest[visitor] = controls
            self._latest.move_to_end(visitor)
            while len(self._latest) > self._capacity:
                self._latest.popitem(last=False)

    def check(self, visitor: str, controls: Controls) -> None:
        """Raises `Superseded` if the visitor has another request by now, or the page is closed."""
        if self._closed or self._latest.get(visitor, controls) != controls:
            raise Superseded

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Counts a computation while it lasts."""
        with self._changed:
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Stops all computations at their next step."""
        self._closed = True

    def idle(self, timeout: float | None = 0) -> bool:
        """Whether nothing is computed, if need be after `timeout` seconds; None waits for as long as it takes."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._running, timeout)


def queue_for(before: View | None, controls: Controls, models: Models) -> str:
    """The queue of a request: "models" for opening one, "slow" for methods of many passes, otherwise "maps"."""
    if not models.has(controls.model):
        return "models"
    methods = {controls.method, *(controls.chosen if controls.tab == "methods" else ())}
    slow = {method for method in methods if method in METHODS and not METHODS[method].quick}
    if not slow:
        return "maps"
    with contextlib.suppress(ValueError, TypeError):  # what is out of range is answered without computing
        if before is None or before.opened is not models(controls.model) or before.controls.photo != controls.photo:
            return "slow"
        shown = settled(controls, before.opened, before)
        same = shown.target == before.target
        view = dataclasses.replace(before, controls=shown, results=before.results if same else {})
        return "slow" if any(key.method in slow for key in view.missing()) else "maps"
    return "maps"
