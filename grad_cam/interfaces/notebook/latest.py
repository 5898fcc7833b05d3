"""Background computation of the latest request: `LatestRequests`."""

from __future__ import annotations

import atexit
import concurrent.futures
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

__all__ = ["LatestRequests", "Outcome"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Outcome(NamedTuple, Generic[K, V]):
    """What `LatestRequests` reports: `status` is "busy", "ready" (with a value) or "failed" (with an error)."""

    status: str
    key: K
    value: V | None = None
    error: BaseException | None = None


class LatestRequests(Generic[K, V]):
    """Computes requests in the background, reports the latest one only, and keeps every value it has computed.

    A newer request neither stops a computation that has begun nor queues behind it: a second thread takes it. Results
    that arrive too late are kept without a report. At the end of the process running computations are stopped and
    waited for, because a thread that computes while the interpreter is taken down ends it with an abort.

    Args:
        compute: From a key to a mapping with its value, and with those of other keys that came at no further cost.
        report: Called with every `Outcome`, in the thread it arises in and never by two threads at once.
        group: Keys of one group are computed together: a request for one waits for a computation of another.
        keep: Number of values kept.

    Attributes:
        lock: Held while `report` is called.
        closed: Whether it was closed; long computations look at it and stop.
        wanted: The key of the latest request until its value is reported, otherwise None.
    """

    THREADS = 2

    def __init__(
        self,
        compute: Callable[[K], Mapping[K, V]],
        report: Callable[[Outcome[K, V]], None],
        group: Callable[[K], Hashable] = lambda key: key,
        keep: int = 256,
    ) -> None:
        self.lock: threading.RLock = threading.RLock()
        self.closed: bool = False
        self.wanted: K | None = None
        self._compute, self._report, self._group, self._keep = compute, report, group, keep
        self._settled = threading.Condition(self.lock)
        self._values: OrderedDict[K, V] = OrderedDict()
        self._running: dict[Hashable, concurrent.futures.Future[Mapping[K, V]]] = {}  # by group, the queued ones too
        self._pool = concurrent.futures.ThreadPoolExecutor(self.THREADS, "grad_cam.explore")
        _OPEN.add(self)

    @property
    def busy(self) -> bool:
        """Whether the latest request is still open."""
        return self.wanted is not None

    def request(self, key: K) -> None:
        """Requests a value: reported at once if it is known, otherwise "busy" now and the outcome later."""
        with self.lock:
            if self.closed:
                return
            if key in self._values:
                self._settle(Outcome("ready", key, self._values[key]))
                return
            self.wanted = key
            self._report(Outcome("busy", key))
            for future in list(self._running.values()):
                future.cancel()  # only what has not begun
            self._start(key)

    def store(self, values: Mapping[K, V]) -> None:
        """Keeps values; the oldest are dropped beyond `keep`."""
        with self.lock:
            self._values.update(values)
            while len(self._values) > self._keep:
                self._values.popitem(last=False)

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until no request is open; False if that takes longer than `timeout` seconds."""
        with self._settled:
            return self._settled.wait_for(lambda: self.wanted is None, timeout)

    def close(self, timeout: float | None = None) -> bool:
        """Forgets everything and waits for running computations, whose results are discarded.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether nothing is computed any more.
        """
        with self._settled:
            self.closed, self.wanted = True, None
            self._values.clear()
            self._settled.notify_all()
            running = list(self._running.values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        return not concurrent.futures.wait(running, timeout).not_done

    def _start(self, key: K) -> None:
        group = self._group(key)
        if group not in self._running:
            self._running[group] = future = self._pool.submit(self._compute, key)
            future.add_done_callback(lambda done: self._finish(group, done))

    def _finish(self, group: Hashable, future: concurrent.futures.Future[Mapping[K, V]]) -> None:
        """Keeps what was computed and reports it if it is what was requested last."""
        with self.lock:
            if self._running.get(group) is future:
                del self._running[group]
            if self.closed or future.cancelled():
                return
            error = future.exception()
            found = {} if error else future.result()
            self.store(found)
            wanted = self.wanted
            if wanted is not None and wanted in found:
                self._settle(Outcome("ready", wanted, found[wanted]))
            elif wanted is not None and self._group(wanted) == group:
                self._settle(Outcome("failed", wanted, error=error or LookupError(f"{wanted} was not computed")))

    def _settle(self, outcome: Outcome[K, V]) -> None:
        self.wanted = None
        try:
            self._report(outcome)
        finally:
            self._settled.notify_all()


_OPEN: weakref.WeakSet[LatestRequests[Any, Any]] = weakref.WeakSet()


def _close_all() -> None:
    for requests in list(_OPEN):
        requests.close()


# `atexit` comes after the pool has joined its threads; the hook that `concurrent.futures` itself uses comes before.
getattr(threading, "_register_atexit", atexit.register)(_close_all)
