"""The names of a model's classes, and the one place that decides which class a name means."""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn, SupportsIndex

from torch import nn

from .. import introspection
from ..arguments import closest, is_index
from ..errors import ModelError
from ..introspection import is_multi_label as is_multi_label

_IMAGENET_SUBSETS = {
    1000: "imagenet-1k", 11221: "imagenet-21k-miil", 11821: "imagenet-12k", 21841: "imagenet-22k",
    21842: "imagenet-22k-ms", 21843: "imagenet-21k-goog",
}  # fmt: skip
"""Class counts that belong to one known subset of ImageNet each, as timm names them."""

_DISTINCT = {
    "n02012849": "crane (bird)", "n03126707": "crane (machine)",
    "n03710637": "maillot (tights)", "n03710721": "maillot (tank suit)",
}  # fmt: skip
"""Labels for the synsets of ImageNet-1k whose first synonym is another's too."""

_OFFERED = 5

Entry = tuple[str, tuple[str, ...]]
"""A class: its label, and the other names it is found by."""


class ClassNames(list[str]):
    """The labels of a model's classes in order, all different, with the words that each class is found by.

    Args:
        names: Names in order; equal ones get their index, and lists of synonyms (``tench, Tinca tinca``) count as such.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._entries = _entries(tuple(names))
        super().__init__(label for label, _ in self._entries)

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        return _restored, (self._entries,)

    def index_of(self, name: str) -> int:
        """Finds the class of a name.

        Args:
            name: A label or another name of the class; case, spaces and hyphens are ignored where that leaves no
                doubt, and WordNet ids and the index as text are accepted.

        Raises:
            ModelError: No such class (the closest names are offered), several, or an index out of range.
        """
        text = name.strip()
        for same in (_is_label, _is_label_in_any_case, _is_synonym, _is_joined):
            matches = [index for index, entry in enumerate(self._entries) if same(text, *entry)]
            if len(matches) == 1:
                return matches[0]
            if matches:
                which = " or ".join(f"{self._entries[index][0]!r} ({index})" for index in matches[:_OFFERED])
                raise ModelError(f"the class {name!r} could be {which}", remedy="give one of these")
        if re.fullmatch(r"-?\d+", text):
            return _in_range(int(text), len(self._entries))
        self._refuse(text)

    def _refuse(self, text: str) -> NoReturn:
        key = _key(text)
        found = []
        for index, (label, words) in enumerate(self._entries):
            ending = next((word for word in (label, *words) if key and _key(word).endswith(f" {key}")), None)
            if ending is not None:
                found.append(f"{ending!r} ({index})")
        if found:
            more = f" and {len(found) - _OFFERED} more" if len(found) > _OFFERED else ""
            offer = f"{', '.join(found[:_OFFERED])}{more} end{'s' * (len(found) == 1)} in it"
            raise ModelError(f"the model has no class {text!r}", remedy=f"{offer}; give one class")
        known = [word for label, synonyms in self._entries for word in (label, *synonyms)]
        remedy = closest(text, known) or "give an index or another name"
        raise ModelError(f"the model has no class {text!r}", remedy=remedy)


def _restored(entries: tuple[Entry, ...]) -> ClassNames:
    names = ClassNames()
    names._entries = entries
    names.extend(map(operator.itemgetter(0), entries))
    return names


def class_names(model: nn.Module) -> ClassNames | None:
    """The names of a model's classes in order, all different; None if they are not known.

    A list (or dict from index to name) set as `model.class_names` wins; then the labels in a Hugging Face or timm
    configuration; a model with as many classes as ImageNet is taken to have its classes, named by their first synonym.

    Args:
        model: Any classifier, wrapped or not.

    Raises:
        ModelError: `class_names` does not fit the model.
    """
    entries = _entries_of(_named_model(model))
    return None if entries is None else _restored(entries)


def class_index(model: nn.Module, name: str | SupportsIndex) -> int:
    """The index of a class.

    Args:
        model: Any classifier, wrapped or not.
        name: A class name as for `ClassNames.index_of`, or the index itself, also as text.

    Raises:
        ModelError: No such class (the closest names are offered), several, or an index out of range.
    """
    names = class_names(model)
    if is_index(name):
        return _in_range(int(name), len(names) if names is not None else introspection.class_count(model))
    if not isinstance(name, str):
        raise ModelError("a class is its name or its index", f"{type(name).__name__} {name!r}")
    if names is not None:
        return names.index_of(name)
    if re.fullmatch(r"-?\d+", name.strip()):
        return _in_range(int(name), introspection.class_count(model))
    raise ModelError(
        f"class {name!r}: the names of this model's classes are not known",
        remedy="give an index, or set model.class_names",
    )


def _in_range(index: int, count: int | None) -> int:
    if index < 0 or (count is not None and index >= count):
        known = f"0..{count - 1}" if count is not None else "0 or more"
        raise ModelError(f"class {index} is out of range", f"the model has {count or 'some'} classes", f"use {known}")
    return index


def _is_label(text: str, label: str, words: tuple[str, ...]) -> bool:
    return text == label


def _is_label_in_any_case(text: str, label: str, words: tuple[str, ...]) -> bool:
    return _key(text) == _key(label)


def _is_synonym(text: str, label: str, words: tuple[str, ...]) -> bool:
    return _key(text) in map(_key, words)


def _is_joined(text: str, label: str, words: tuple[str, ...]) -> bool:
    joined = _key(text).replace(" ", "")
    return any(joined == _key(word).replace(" ", "") for word in (label, *words))


@functools.lru_cache(maxsize=1 << 17)
def _key(text: str) -> str:
    return re.sub(r"[\s_-]+", " ", text).strip().casefold()


def _named_model(model: nn.Module) -> nn.Module:
    """Looks through wrappers, unless names were set on the wrapper itself."""
    set_on = (each for each in introspection.wrapped(model) if "class_names" in vars(each))
    return next(set_on, introspection.unwrap(model))


def _entries_of(model: nn.Module) -> tuple[Entry, ...] | None:
    count = introspection.class_count(model)
    own = getattr(model, "class_names", None)
    if own is not None:
        names = _in_order(own)
        if names is None or (count is not None and len(names) != count):
            given = f"{len(own)} names" if hasattr(own, "__len__") else type(own).__name__
            raise ModelError(f"model.class_names must be a list of {count or 'all'} class names", given)
        return _entries(tuple(names))
    if introspection.is_detector(model):
        names = introspection.detector_names(model)
        return None if names is None else _entries(tuple(names))
    if (known := introspection.torchvision_names(model, count)) is not None:
        return _entries(tuple(known))
    config = getattr(model, "config", None)
    names = _in_order(getattr(config, "id2label", None) or ())
    if names and not all(re.fullmatch(r"LABEL_\d+", each) for each in names) and count in (None, len(names)):
        return _entries(tuple(names))
    settings = introspection.timm_config(model)
    names = _in_order(settings.value.get("label_names") or ()) if settings is not None else None
    if settings is not None and names and len(names) == count:
        words = settings.value.get("label_descriptions")
        return _entries(tuple(str(words.get(each, each)) if isinstance(words, Mapping) else each for each in names))
    return _imagenet(_IMAGENET_SUBSETS[count]) if count in _IMAGENET_SUBSETS else None


def _in_order(names: Any) -> list[str] | None:
    """Names in order from a list or from a dict from index to name."""
    if isinstance(names, Mapping):
        try:
            ordered = {int(key): str(value) for key, value in names.items()}
        except (TypeError, ValueError):
            return None
        return [ordered[i] for i in range(len(ordered))] if set(ordered) == set(range(len(ordered))) else None
    if isinstance(names, Sequence) and not isinstance(names, (str, bytes)):
        return [str(each) for each in names]
    return None


@functools.lru_cache(maxsize=8)
def _entries(names: tuple[str, ...]) -> tuple[Entry, ...]:
    """Names as given, made different where they are not; ImageNet's lists of synonyms are cut to the first."""
    if len(names) == 1000 and names[0].startswith("tench, ") and names[-1].startswith("toilet"):
        return _imagenet("imagenet-1k")
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    labels = [name if counts[name] == 1 else f"{name} ({index})" for index, name in enumerate(names)]
    return tuple((label, (name, *name.split(", "))) for label, name in zip(labels, names, strict=True))


@functools.lru_cache(maxsize=4)
def _imagenet(subset: str) -> tuple[Entry, ...]:
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo(subset)
    synsets = info.label_names()
    words = [tuple(info.label_name_to_description(each).split(", ")) for each in synsets]
    first: dict[str, int] = {}
    for group in words:
        first[group[0]] = first.get(group[0], 0) + 1
    found = []
    for synset, group in zip(synsets, words, strict=True):
        short = _DISTINCT.get(synset, group[0]) if subset == "imagenet-1k" else group[0]
        if short == group[0] and first[short] > 1:
            short = f"{short} ({synset})"
        found.append((short, (*group, synset)))
    return tuple(found)
