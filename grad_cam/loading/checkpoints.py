"""Reads a model's weights from a file, without running anything in it, and fits the model to them."""

from __future__ import annotations

import argparse
import math
import pathlib
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .. import introspection
from ..errors import ModelError

_STATE_DICT_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Where training scripts put the weights; averaged ones first, as they are what was evaluated."""

_PREFIXES = ("module.", "_orig_mod.", "model.")
"""What wrappers and trainers put before every name."""


def read_state_dict(path: pathlib.Path) -> dict[str, Tensor]:
    """Reads the state dict in a file.

    Args:
        path: A .pth, .pt or .safetensors file.

    Raises:
        ModelError: The file does not exist, is empty, or does not hold weights by name.
    """
    if not path.exists():
        raise ModelError(f"there is no checkpoint {str(path)!r}")
    if path.is_dir():
        raise ModelError(f"the checkpoint {str(path)!r} is a folder", remedy="give a .pth, .pt or .safetensors file")
    if path.stat().st_size == 0:
        raise ModelError(f"the checkpoint {str(path)!r} is empty (0 bytes)")
    if zipfile.is_zipfile(path):
        _refuse_programs(path)
    contents = _contents(path)
    for key in _STATE_DICT_KEYS:
        if isinstance(contents, Mapping) and isinstance(contents.get(key), Mapping):
            contents = contents[key]
            break
    mapping = isinstance(contents, Mapping)
    state = {key: value for key, value in contents.items() if isinstance(value, Tensor)} if mapping else {}
    if not state:
        keys = f"it has {', '.join(map(repr, list(contents)[:5]))}" if mapping else f"it is {type(contents).__name__}"
        raise ModelError(
            f"the checkpoint {str(path)!r} holds no state dict",
            keys,
            f"save the weights by name, at the top or under one of {', '.join(map(repr, _STATE_DICT_KEYS))}",
        )
    return state


def _contents(path: pathlib.Path) -> Any:
    """What torch or safetensors read from a file."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # training scripts keep their arguments
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"the checkpoint {str(path)!r} holds more than tensors, or is damaged",
            "it is not loaded, because that could run code in it",
            "save the state dict: torch.save(model.state_dict(), FILE)",
        ) from error
    except Exception as error:
        unsafe = "weights_only" in str(error)  # torch's own advice, to load it unsafely, is not repeated
        raise ModelError(
            f"cannot read the checkpoint {str(path)!r}",
            "torch does not load it safely" if unsafe else first_line(error),
            "give a file that torch.save or safetensors wrote of model.state_dict()",
        ) from error


def _refuse_programs(path: pathlib.Path) -> None:
    """Raises ModelError for archives that hold a program beside the weights, or that torch.save did not write."""
    with zipfile.ZipFile(path) as archive:
        names = {name.rpartition("/")[2] for name in archive.namelist()}
    if "constants.pkl" in names:
        raise ModelError(
            f"the checkpoint {str(path)!r} is a TorchScript archive",
            "a program with its weights, and only weights are read here",
            "if you trust the file, save its weights: torch.save(torch.jit.load(FILE).state_dict(), NEW)",
        )
    if "data.pkl" not in names:
        raise ModelError(
            f"the checkpoint {str(path)!r} is a zip archive that torch.save did not write of weights",
            remedy="of an exported program, save them with torch.save(torch.export.load(FILE).state_dict, NEW)",
        )


def without_prefixes(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Removes the prefixes that wrappers and trainers put before every name."""
    own = set(model.state_dict())
    while True:
        for prefix in _PREFIXES:
            if any(key.startswith(prefix) for key in state) and not any(key.startswith(prefix) for key in own):
                state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
                break
        else:
            return state


def settings_for(model: nn.Module, state: dict[str, Tensor], *, classes: bool) -> dict[str, Any]:
    """Settings with which a model would be built in the shapes of a checkpoint.

    Args:
        model: The model as it is.
        state: The checkpoint's weights by the model's names.
        classes: Whether the number of classes may differ from the model's.

    Returns:
        `num_classes`, timm's `img_size` and `pretrained_cfg_overlay`, where the shapes require others.
    """
    own = model.state_dict()
    differ = {key for key in state.keys() & own.keys() if state[key].shape != own[key].shape}
    changes: dict[str, Any] = {}
    if classes:
        changes |= _class_setting(model, own, state, differ)
    if "pos_embed" in differ:
        changes |= _size_setting(model, state["pos_embed"])
    return changes


def _class_setting(
    model: nn.Module, own: dict[str, Tensor], state: dict[str, Tensor], differ: set[str]
) -> dict[str, Any]:
    count = introspection.class_count(model)
    if count is not None:
        heads = [k for k in differ if own[k].shape[:1] == (count,) and state[k].shape[1:] == own[k].shape[1:]]
        counts = {state[key].shape[0] for key in heads}
        return {"num_classes": counts.pop()} if len(counts) == 1 else {}
    settings = introspection.timm_config(model)
    head = settings.value.get("classifier") if settings is not None else None
    if isinstance(head, str) and f"{head}.weight" in state:  # published without a classifier, trained with one
        return {"num_classes": state[f"{head}.weight"].shape[0]}
    return {}


def _size_setting(model: nn.Module, embedding: Tensor) -> dict[str, Any]:
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if embedding.ndim != 3 or patch is None or not hasattr(model, "set_input_size"):
        return {}
    prefix = 0 if getattr(model, "no_embed_class", False) else introspection.prefix_tokens(model) or 0
    side = math.isqrt(max(embedding.shape[1] - prefix, 0))
    if not side or side * side != embedding.shape[1] - prefix:
        return {}
    height, width = side * patch[0], side * patch[1]
    return {"img_size": (height, width), "pretrained_cfg_overlay": {"input_size": (3, height, width)}}


def fill(model: nn.Module, state: dict[str, Tensor], path: pathlib.Path, name: str) -> None:
    """Puts weights into a model.

    Args:
        model: The model; changed in place.
        state: The weights by the model's names.
        path: The checkpoint, for the error.
        name: The model's name, for the error.

    Raises:
        ModelError: A weight is missing, superfluous or of another shape.
    """
    own = model.state_dict()
    differ = [
        f"{key} is {tuple(state[key].shape)} there and {tuple(own[key].shape)} in the model"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    # counters of batches seen play no part in what a model computes
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    extra = [key for key in state if key not in own]
    lists = {"different shapes": differ, "missing": missing, "not in the model": extra}
    problems = "; ".join(f"{kind}: {_summary(items)}" for kind, items in lists.items() if items)
    if problems:
        raise ModelError(f"the checkpoint {str(path)!r} does not fit the model {name!r}", problems)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.load_state_dict(state, strict=False)


def _summary(items: list[str]) -> str:
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")


def first_line(error: BaseException) -> str:
    """The first line of an error, without a full stop."""
    lines = str(error).strip().splitlines()
    return (lines[0].strip() if lines else type(error).__name__).rstrip(".")
