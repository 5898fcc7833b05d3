"""The values that a record keeps: the newest ones, within their limit."""

from __future__ import annotations

import torch
from torch import Tensor

from grad_cam.splitting.log import Ref
from grad_cam.splitting.store import STORE_OF_IMAGE, Store


def _tensor(share: float) -> Tensor:
    """A tensor of a share of what one image may take."""
    return torch.zeros(int(share * STORE_OF_IMAGE / 4))


def _refs(count: int) -> list[Ref]:
    return [Ref(n) for n in range(count)]


def test_the_newest_are_kept() -> None:
    """Beyond the limit the oldest values of deep modules are dropped; more images may take more."""
    store, larger = Store(1), Store(4)
    for ref in _refs(5):
        store.keep(ref, _tensor(0.3), near=False)
        larger.keep(ref, _tensor(0.3), near=False)
    assert len(store.all()) == 3 and set(store.all()) == set(_refs(5)[2:])
    assert len(larger.all()) == 5


def test_modules_near_the_top_have_half_of_it_for_themselves() -> None:
    """What a stage returned stays, however much deeper modules return after it."""
    store, refs = Store(1), _refs(8)
    store.keep(refs[0], _tensor(0.3), near=True)
    for ref in refs[1:]:
        store.keep(ref, _tensor(0.4), near=False)
    assert refs[0] in store.all() and refs[-1] in store.all() and refs[1] not in store.all()


def test_a_value_is_kept_once_without_its_graph() -> None:
    """The same value of an inner and of an outer module counts once, shares its memory and has no graph."""
    store, ref = Store(1), _refs(1)[0]
    value = torch.ones(3, requires_grad=True) * 2
    store.keep(ref, value, near=False)
    store.keep(ref, value, near=True)
    ((kept, version),) = store.all().values()
    assert kept.data_ptr() == value.data_ptr() and not kept.requires_grad and version == value._version
    assert store._bytes == 12
