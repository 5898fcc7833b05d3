"""How a model is called with images: its further inputs, and where the images go among them."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from . import detections
from .arguments import ArgumentTypeError
from .errors import InputError
from .outputs import Output, find_logits, key_of_function

Inputs: TypeAlias = "Mapping[str, Any] | Sequence[Any] | Tensor | None"
"""What a model takes besides the images: a mapping of keyword arguments, or a tuple or list of positional ones; a
tensor alone is one of these. ``...`` marks the place of the images, at any depth; without it they come first, or go to
the keyword ``pixel_values`` or the first argument that is not given."""

_IMAGES = ("pixel_values", "images", "image")


@dataclasses.dataclass(frozen=True, eq=False)
class Wiring:
    """How a model is called, and which part of what it returns are the logits.

    Attributes:
        output: See `outputs.find_logits`.
        args: Positional arguments; ``...`` stands for the images.
        kwargs: Keyword arguments, likewise.
        count: Number of images that they were given for.
        by_image: Whether a further tensor has a row for each of them.
    """

    output: Output
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    count: int
    by_image: bool

    def at(self, index: Tensor) -> Wiring:
        """The same for versions of the images `index` (N,)."""
        rows = functools.partial(_rows, self.count, index.tolist()) if self.by_image else _cloned
        return self._with(rows, len(index))

    def _with(self, fn: Callable[[Any], Any], count: int) -> Wiring:
        return dataclasses.replace(self, args=mapped(self.args, fn), kwargs=mapped(self.kwargs, fn), count=count)

    def tensors(self) -> list[Tensor]:
        """The further inputs that are tensors."""
        found: list[Tensor] = []
        mapped((self.args, self.kwargs), lambda leaf: found.append(leaf) if isinstance(leaf, Tensor) else None)
        return found

    def call(self, root: nn.Module, images: Tensor) -> Any:
        """What a model returns for images."""
        with torch._C.DisableTorchFunction():  # operations are counted from the model's own on
            put = functools.partial(_put, images)
            args, kwargs = mapped(self.args, put), mapped(self.kwargs, put)
            size = int(images.shape[-2]), int(images.shape[-1])
        if self.output is not None:
            return root(*args, **kwargs)
        return detections.detect(root, size, args, kwargs)

    def key(self) -> Any:
        """A key of these inputs for as long as a record lives: tensors count by identity and version."""
        parts = mapped((self.args, sorted(self.kwargs.items())), lambda v: _Same(v) if isinstance(v, Tensor) else v)
        return _Value((key_of_function(self.output), parts))


Asked: TypeAlias = "Output | Wiring"
"""Which part of what a model returns are the logits, and how it is called if it takes more than images."""


def called(root: nn.Module, images: Tensor, asked: Asked = None) -> Any:
    """What a model returns for images."""
    with torch._C.DisableTorchFunction():
        wiring = wiring_of(asked, len(images))
    return wiring.call(root, images)


def wiring_of(asked: Asked, count: int) -> Wiring:
    """How a model is called with a number of images."""
    return bound(asked, count) if isinstance(asked, Wiring) else Wiring(asked, (...,), {}, count, False)


def bound(wiring: Wiring, count: int) -> Wiring:
    """The same for a number of images, with tensors of its own, which a model may write to.

    Other images than as many as it was made for are versions of the first.
    """
    same = count == wiring.count
    return wiring.at(torch.arange(count) if same else torch.zeros(count, dtype=torch.long))


def logits_of(root: nn.Module, images: Tensor, asked: Asked = None) -> Tensor:
    """The logits of images, as the model returns them."""
    return logits_in(called(root, images, asked), asked)


def logits_in(returned: Any, asked: Asked = None) -> Tensor:
    """The logits in what a model returned."""
    return find_logits(returned, output_of(asked))


def output_of(asked: Asked) -> Output:
    """The part of what a model returns that are the logits."""
    return asked.output if isinstance(asked, Wiring) else asked


def key_of(asked: Asked) -> Any:
    """A key of an output and its inputs, for as long as a record lives."""
    return asked.key() if isinstance(asked, Wiring) else key_of_function(asked)


def at(asked: Asked, index: Tensor) -> Asked:
    """The same for versions of the images `index` (N,)."""
    return asked.at(index) if isinstance(asked, Wiring) else asked


def wired(model: nn.Module, images: Tensor, output: Output, inputs: Inputs | Wiring) -> Asked:
    """Validates further inputs and finds where the images go.

    Args:
        model: The model, unwrapped.
        images: (B, C, H, W), where the model is; further tensors are brought there.
        output: See `outputs.find_logits`.
        inputs: See `Inputs`; or those of a chain.

    Raises:
        ArgumentTypeError: They are not inputs, or name an argument that the model's forward does not take.
        InputError: The images have no place or several.
    """
    if inputs is None:
        return output
    if isinstance(inputs, Wiring):
        if inputs.by_image and inputs.count != len(images):
            raise InputError(
                "the chain was made with further inputs that have a row for each image",
                f"{inputs.count} there, {len(images)} images here", "give inputs=... for these images",
            )  # fmt: skip
        return dataclasses.replace(inputs, output=output, count=len(images))
    args, kwargs = _arguments(inputs)
    names = _parameters(model)
    if names is not None:
        for name in kwargs:
            if name not in names:
                close = difflib.get_close_matches(name, names, n=1)
                remedy = f"did you mean {close[0]}?" if close else f"it takes {', '.join(names)}"
                raise ArgumentTypeError(f"the forward of {type(model).__name__} has no argument {name!r}", "", remedy)
    places = _count_places((args, kwargs))
    if places > 1:
        raise InputError(f"inputs hold ... {places} times", "", "write it once, where the images go")
    if not places and not isinstance(inputs, Mapping):
        args = (..., *args)
    elif not places:
        free = [n for n in _parameters(model, named=True) or () if n not in kwargs]
        known = [n for n in _IMAGES if n in free]
        if not free:
            raise InputError(
                "inputs leave no argument for the images", ", ".join(kwargs), "write ... in the place of the images"
            )
        kwargs = {(known or free)[0]: ..., **kwargs}
    there = functools.partial(_there, images)
    wiring = Wiring(output, mapped(args, there), mapped(kwargs, there), len(images), False)
    by_image = any(len(t) == len(images) for t in wiring.tensors() if t.ndim)
    return dataclasses.replace(wiring, by_image=by_image)


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping) and all(isinstance(name, str) for name in inputs):
        return (), dict(inputs)
    if isinstance(inputs, (tuple, list)):
        return tuple(inputs), {}
    raise ArgumentTypeError(
        "inputs are what the model takes besides the images", type(inputs).__name__,
        'give inputs={"name": value}, or inputs=(value, ...) in the order of the arguments',
    )  # fmt: skip


def _parameters(model: nn.Module, named: bool = False) -> list[str] | None:
    """The names of the arguments of a model's forward; None if it takes any, unless only the `named` ones are meant."""
    found = []
    for name, parameter in inspect.signature(model.forward).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD and not named:
            return None
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            found.append(name)
    return found


def mapped(value: Any, fn: Callable[[Any], Any]) -> Any:
    """Applies `fn` to what is in nested tuples, lists and mappings."""
    if isinstance(value, tuple):
        items = [mapped(v, fn) for v in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [mapped(v, fn) for v in value]
    if isinstance(value, Mapping):
        return {k: mapped(v, fn) for k, v in value.items()}
    return fn(value)


def _put(images: Tensor, leaf: Any) -> Any:
    return images if leaf is ... else leaf


def _rows(count: int, index: list[int], leaf: Any) -> Any:
    return leaf[index] if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == count else _cloned(leaf)


def _cloned(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _there(images: Tensor, leaf: Any) -> Any:
    """A further tensor on the device of the images and, if it is floating point, in their precision."""
    if not isinstance(leaf, Tensor):
        return leaf
    tensor = leaf.detach()
    moved = tensor.to(images) if tensor.is_floating_point() else tensor.to(images.device)
    return moved.clone() if moved.is_inference() else moved


def _count_places(value: Any) -> int:
    found: list[bool] = []
    mapped(value, lambda leaf: found.append(leaf is ...))
    return sum(found)


class _Same:
    """A tensor as part of a key: equal only to the same object, not written to since."""

    def __init__(self, tensor: Tensor) -> None:
        self.ref, self.version, self.hash = weakref.ref(tensor), tensor._version, id(tensor)

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Same):
            return NotImplemented
        mine = self.ref()
        return mine is not None and mine is other.ref() and self.version == other.version == mine._version


class _Value:
    """Values that may have no hash as a key: equal where they compare equal."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        try:
            return isinstance(other, _Value) and bool(self.value == other.value)
        except Exception:  # what compares to no truth value, such as arrays
            return False
