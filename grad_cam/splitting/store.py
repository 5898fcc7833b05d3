"""The values that a record keeps, so that what follows a cut can be run without what comes before it."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor

from .log import Ref

STORE = 256 * 2**20
"""Bytes of module outputs that a record keeps at most until the first explanation is done; the newest are kept."""

STORE_OF_IMAGE = 40 * 2**20
"""The same for one image: memory that is kept cannot be used again by the run, and new memory costs time. As much as
the parallel branches of a CoaT return after its default cut, which else is met by a second forward."""

SHALLOW = 2
"""Number of calls around one whose result counts as near the top: a stage, or a block in an `nn.Sequential`."""


class Store:
    """The newest module outputs, as many as there is memory for; half of it is for what modules near the top return.

    What follows a cut of a late block is run on these. In a model of many small modules the newest outputs of all are
    those of its last block alone.

    Args:
        images: How many images the model is run on.
    """

    def __init__(self, images: int) -> None:
        self.limit: int = min(STORE, STORE_OF_IMAGE * images)
        self._near: OrderedDict[Ref, tuple[Tensor, int]] = OrderedDict()
        self._deep: OrderedDict[Ref, tuple[Tensor, int]] = OrderedDict()
        self._near_bytes, self._bytes = 0, 0  # the latter of both

    def keep(self, ref: Ref, tensor: Tensor, near: bool) -> None:
        """Keeps what a module returned; the oldest are dropped for it."""
        size = tensor.numel() * tensor.element_size()
        if ref in self._near or (ref in self._deep and not near):
            return
        if self._deep.pop(ref, None) is not None:
            self._bytes -= size
        (self._near if near else self._deep)[ref] = (tensor.detach(), tensor._version)  # shares memory and version
        self._bytes += size
        self._near_bytes += size * near
        while self._near_bytes > self.limit // 2 and len(self._near) > 1:
            self._near_bytes -= self._drop(self._near)
        while self._bytes > self.limit and self._deep:
            self._drop(self._deep)

    def _drop(self, kept: OrderedDict[Ref, tuple[Tensor, int]]) -> int:
        _, (tensor, _) = kept.popitem(last=False)
        size = tensor.numel() * tensor.element_size()
        self._bytes -= size
        return size

    def all(self) -> dict[Ref, tuple[Tensor, int]]:
        """Everything that is kept."""
        return {**self._near, **self._deep}
