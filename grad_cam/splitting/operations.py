"""What is known of torch's functions: which return a tensor, write to one, or make Python values of one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FOR_GRADIENTS: set[Any] = {Tensor.register_hook, Tensor.retain_grad}
"""What a forward may ask of a tensor that requires a gradient; before the cut none does, and nothing is done."""


class Attribute:
    """Reads an attribute of a tensor; the functions torch calls for it cannot be pickled."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.__name__ = name

    def __call__(self, tensor: Tensor) -> Any:
        return getattr(tensor, self.name)


def refreshed(tensor: Tensor, *writers: Any) -> Tensor:
    """The same tensor, after another name of its memory was written to."""
    return tensor


_SILENT = frozenset({
    "shape", "dtype", "device", "layout", "ndim", "is_cuda", "is_sparse", "is_quantized", "is_meta", "_version",
    "itemsize", "nbytes", "names", "is_mps", "is_xla", "is_cpu", "is_nested", "is_xpu", "_base", "output_nr",
    "is_mkldnn", "_backward_hooks", "is_mtia", "is_ipu", "is_vulkan", "is_maia", "is_sparse_csr",
})  # fmt: skip
"""Attributes that describe a tensor and are not tensors themselves."""

DATA_DEPENDENT: set[Any] = {
    Tensor.item, Tensor.tolist, Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__, Tensor.__complex__,
    Tensor.__contains__, Tensor.numpy, Tensor.__array__, torch.equal, Tensor.equal, torch.allclose, Tensor.allclose,
    torch.is_nonzero, Tensor.is_nonzero, Tensor.data_ptr, Tensor.__dlpack__, Tensor.__repr__, Tensor.__format__,
}  # fmt: skip
"""Functions that turn a tensor's values into something else than a tensor."""

_PASSIVE: dict[Any, Any] = {}
"""For functions met before: None if they cannot return a tensor, else what takes their place in a step."""


def in_steps(func: Any) -> Any:
    """The function to write into a step, or None if it returns no tensor."""
    try:
        return _PASSIVE[func]
    except KeyError:
        pass
    owner, known = getattr(func, "__self__", None), func
    if getattr(func, "__name__", "") == "__get__" and owner is not None:
        name = getattr(owner, "__name__", "")
        known = None if name in _SILENT else Attribute(name)
    _PASSIVE[func] = known
    return known


NO_TENSOR: set[Any] = {
    Tensor.size, Tensor.dim, Tensor.ndimension, Tensor.numel, Tensor.stride, Tensor.is_floating_point,
    Tensor.is_complex, Tensor.is_contiguous, Tensor.__len__, Tensor.get_device, Tensor.element_size,
    Tensor.nelement, Tensor.is_inference, Tensor.storage_offset, Tensor.untyped_storage, Tensor.__hash__,
    Tensor.is_signed, torch.is_floating_point, torch.is_complex, torch.is_tensor, torch.numel, torch.result_type,
    torch.is_same_size, Tensor.is_same_size, torch.broadcast_shapes, torch.jit.annotate, torch._assert,
}  # fmt: skip

_WRITERS: dict[Any, bool] = {}


def may_write(func: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a function is one that writes to a tensor it is given, by its name or arguments."""
    known = _WRITERS.get(func)
    if known is None:
        name = getattr(func, "__name__", "")
        known = _WRITERS[func] = (
            (name.endswith("_") and not name.endswith("__")) or name in ("__setitem__", "__set__")
            or (name.startswith("__i") and name not in ("__index__", "__int__", "__invert__", "__iter__"))
        )  # fmt: skip
    return known or "out" in kwargs or bool(kwargs.get("inplace"))
