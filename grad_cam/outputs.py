"""Which part of what a model returns are the logits, and which rows belong to which image."""

from __future__ import annotations

import json
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, einsum

from .errors import OutputError

Output = str | int | Callable[[Any], Tensor] | None
"""None (found by itself), a key or attribute, an index, or a callable from what the model returns to the logits."""


def find_logits(returned: Any, output: Output = None) -> Tensor:
    """Finds the logits in what a model returns.

    Args:
        returned: A tensor, or a dict, tuple, list or object with tensors.
        output: Which part it is; None takes a tensor, an entry or attribute ``logits`` (Hugging Face) or ``out``
            (torchvision's segmentation models), the classes at every position that the queries of a MaskFormer make,
            or the only tensor there is.

    Raises:
        OutputError: There are several parts and none is known to be the logits, or `output` names none.
    """
    if output is not None:
        return _chosen(returned, output)
    if isinstance(returned, Tensor):
        return returned
    for name in ("logits", "out"):
        found = returned.get(name) if isinstance(returned, dict) else getattr(returned, name, None)
        if isinstance(found, Tensor):
            return found
    if all(isinstance(getattr(returned, name, None), Tensor) for name in _OF_QUERIES):
        return _of_queries(*(getattr(returned, name) for name in _OF_QUERIES))
    parts = list(_parts(returned))
    if len(parts) == 1 and ", in it" not in parts[0][0]:
        return parts[0][1]
    if not parts:
        raise OutputError(
            "what the model returns holds no tensor", type(returned).__name__,
            "output=lambda returned: ... (a function from what the model returns to the logits)",
        )  # fmt: skip
    listed = ", ".join(f"{name}: {tuple(tensor.shape)}" for name, tensor in parts)
    likely = next((name for name, tensor in parts if tensor.ndim == 2), parts[-1][0]).partition(",")[0]
    raise OutputError(
        f"the model returns a {type(returned).__name__} of several tensors, and which are the logits is unknown",
        listed, f"output={likely} or another part, or a callable that picks it",
    )  # fmt: skip


_OF_QUERIES = ("class_queries_logits", "masks_queries_logits")


def _of_queries(classes: Tensor, masks: Tensor) -> Tensor:
    """What a MaskFormer's queries say of each position, as its semantic post-processing has it: (B, classes, h, w).

    Args:
        classes: The logits of each query's class, the last of which is "none": (B, queries, classes + 1).
        masks: The logits of each query's mask: (B, queries, h, w).

    Source:
        Cheng et al., NeurIPS 2021 (MaskFormer), sec. 3.4, https://arxiv.org/abs/2107.06278
    """
    return einsum("bqc,bqhw->bchw", classes.softmax(-1)[..., :-1], masks.sigmoid())


def _chosen(returned: Any, output: Output) -> Tensor:
    if callable(output):
        found = output(returned)
    else:
        try:
            if isinstance(output, str) and not isinstance(returned, dict):
                found = getattr(returned, output)
            else:
                found = returned[output]
        except (AttributeError, KeyError, IndexError, TypeError):
            found = None
    if not isinstance(found, Tensor):
        listed = ", ".join(f"{name}: {tuple(tensor.shape)}" for name, tensor in _parts(returned)) or "no tensor"
        first = next(iter(_parts(returned)), ("0", None))[0]
        what = "the callable given as output=" if callable(output) else f"output={output!r}"
        raise OutputError(
            f"{what} gives no tensor", f"the model returns a {type(returned).__name__} with {listed}", f"output={first}"
        )
    return found


def _parts(returned: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors in what a model returns, with the key or index of the part they are in as it is typed."""
    if isinstance(returned, Tensor):
        yield "None", returned
        return
    if isinstance(returned, dict):
        parts = [(json.dumps(k) if isinstance(k, str) else repr(k), v) for k, v in returned.items()]
    elif isinstance(returned, (list, tuple)):
        parts = [(str(i), v) for i, v in enumerate(returned)]
    elif isinstance(getattr(returned, "__dict__", None), dict):
        parts = [(json.dumps(k), v) for k, v in vars(returned).items()]
    else:
        parts = []
    for name, part in parts:
        if isinstance(part, Tensor):
            yield name, part
        else:
            yield from ((f"{name}, in it {inner}", tensor) for inner, tensor in _parts(part))


def rows(logits: Tensor, batch: int) -> Tensor:
    """Logits as (B, classes) or (B, classes, ...): a single score per image becomes one column.

    Args:
        logits: (B, ...), (B,), or what `squeeze()` leaves of one image's: () or (classes,).
        batch: Number of images B.

    Raises:
        OutputError: The rows cannot be assigned to images.
    """
    if logits.ndim and len(logits) == batch and not (batch == 1 and logits.ndim == 1 and logits.numel() != 1):
        return logits if logits.ndim > 1 else logits[:, None]
    if batch == 1:
        return logits.reshape(1, -1) if logits.ndim < 2 else logits[None]
    raise OutputError(
        f"the logits have {len(logits) if logits.ndim else 'no'} rows for {batch} images",
        f"shape {tuple(logits.shape)}",
        "output=lambda returned: ... that gives one row per image, or explain one image at a time",
    )  # fmt: skip


def key_of_function(output: Output) -> Any:
    """A key of an `output`, for as long as a record lives.

    Functions are held weakly: an id is given again to the next one once a function is gone, and a function that is
    kept may keep the model.
    """
    if isinstance(output, (str, int, type(None))):
        return output
    try:
        key: Any = weakref.WeakMethod(output) if isinstance(output, types.MethodType) else weakref.ref(output)
        hash(key)
    except TypeError:  # it has no weak references, such as an operator.itemgetter, or no hash
        return output if type(output).__hash__ is not None else object()  # the latter equals no other key
    return key
