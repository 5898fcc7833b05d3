"""Nested results and arguments: lists, tuples, dicts, slices and output dataclasses, and the leaves in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch


class Leaf:
    """A placeholder for a value in a step; nothing inside it is looked at."""


def map_leaves(value: Any, fn: Callable[[Any], Any]) -> Any:
    """Applies `fn` to every leaf of nested lists, tuples, dicts, slices and output dataclasses."""
    kind = type(value)
    if kind is tuple:
        return tuple([map_leaves(v, fn) for v in value])
    if kind is list:
        return [map_leaves(v, fn) for v in value]
    if kind is dict:
        return {k: map_leaves(v, fn) for k, v in value.items()}
    if kind is slice:
        return slice(map_leaves(value.start, fn), map_leaves(value.stop, fn), map_leaves(value.step, fn))
    if kind is torch.Size:
        return tuple([fn(v) for v in value])
    if isinstance(value, tuple):
        items = [map_leaves(v, fn) for v in value]
        # past a constructor of its own, such as a packed sequence's, which asks its parts for more than they are here
        return tuple.__new__(kind, items) if hasattr(value, "_fields") else kind(items)
    if isinstance(value, list):
        return kind(map_leaves(v, fn) for v in value)
    if isinstance(value, dict):
        if dataclasses.is_dataclass(value):  # Hugging Face's ModelOutput
            return kind(**{k: map_leaves(v, fn) for k, v in value.items()})
        return kind((k, map_leaves(v, fn)) for k, v in value.items())
    if dataclasses.is_dataclass(value) and not isinstance(value, (type, Leaf)):
        return dataclasses.replace(
            value, **{f.name: map_leaves(getattr(value, f.name), fn) for f in dataclasses.fields(value) if f.init}
        )
    return fn(value)


def leaves(value: Any) -> Iterator[Any]:
    """The leaves of a nested structure, in the order of `map_leaves`."""
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif type(value) is slice:
        yield from (value.start, value.stop, value.step)
    elif dataclasses.is_dataclass(value) and not isinstance(value, (type, Leaf)):
        for field in dataclasses.fields(value):
            if field.init:
                yield from leaves(getattr(value, field.name))
    else:
        yield value
