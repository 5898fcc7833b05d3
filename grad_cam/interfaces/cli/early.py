"""Refuses, in a moment, what cannot work: torch and timm are not imported yet, which takes seconds.

Only what is certain is refused here: a name that the source of its library does not have, a module that no path leads
to, a device without a driver. Everything else, such as the names of the Hugging Face Hub, is decided by the libraries.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ...arguments import closest
from ...errors import GradCamError, ModelError, install
from ...suffixes import PICTURES

__all__ = ["check_device", "check_function", "check_model_name", "check_source"]

_DRIVERS = {"linux": "libcuda.so.1", "win32": "nvcuda.dll"}
_TIMM = r"^@register_model\b.*\n(?:@.*\n)*def (\w+)\("
_TORCHVISION = r"^@register_model\((?:name=\"(\w+)\")?\)\n(?:[^d\n].*\n)*?def (\w+)\("
_LIBRARIES = {"torchvision": "pip install torchvision", "open_clip": install("clip"), "transformers": install("hf")}
"""What has models besides timm, and how it is installed."""


def _folder(package: str) -> Path | None:
    """Where a package lies, without importing it; None if it is not installed."""
    spec = importlib.util.find_spec(package)
    places = () if spec is None else spec.submodule_search_locations or ()
    return next((Path(place) for place in places), None)


@functools.cache
def _source(package: str) -> str:
    """The source of all modules in the folder `models` of a package; "" where there is none to read."""
    folder = _folder(package)
    files = () if folder is None else sorted((folder / "models").rglob("*.py"))
    return "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)


# --------------------------------------------------------------------------------------------------------------- models


def check_model_name(name: str) -> None:
    """Refuses a name that no model of timm, torchvision or open_clip has, and a function that is not there.

    Raises:
        ModelError: There is no such model.
    """
    library = name.partition("/")[0] if name.startswith(("torchvision/", "open_clip/")) else ""
    library = "transformers" if name.startswith("hf:") else library
    if library and _folder(library) is None:
        raise ModelError(f"{name!r} needs {library}, which is not installed", remedy=_LIBRARIES[library])
    if library == "open_clip":
        configurations = (_folder(library) or Path()) / "model_configs"
        known = [path.stem for path in configurations.glob("*.json")]
        _check_known(name, "/".join(name.split("/")[:2]), [f"open_clip/{each}" for each in known])
    elif library == "torchvision":
        found = re.findall(_TORCHVISION, _source("torchvision"), re.M)
        _check_known(name, name, [f"torchvision/{given or own}" for given, own in found])
    elif ":" not in name and name != "demo":
        base = name.partition(".")[0]  # the rest names its weights, which not every source writes out
        if not _stands_in(base, _source("timm")):  # old names are no functions
            _check_known(name, base, ["demo", *re.findall(_TIMM, _source("timm"), re.M)])
    elif not library and not name.startswith(("hf-hub:", "hf_hub:", "local-dir:")) and name != "demo":
        check_function(name)


def _stands_in(name: str, source: str) -> bool:
    """Whether a name stands in a source as a word of its own."""
    place, size = source.find(name), len(name)  # a regular expression would take 20 ms
    while place >= 0 and re.search(r"\w", source[place - 1 : place] + source[place + size : place + size + 1]):
        place = source.find(name, place + 1)
    return place >= 0


def _check_known(given: str, name: str, known: Sequence[str]) -> None:
    """Refuses a name that is not among those of a library; where none can be read, nothing is refused."""
    if len(known) > 1 and name not in known:
        remedy = closest(name, known) or "grad-cam --help says which there are"
        raise ModelError(f"there is no model {given!r}", remedy=remedy)


def check_function(name: str) -> None:
    """Refuses ``module:function`` where the module is not there, or its source does not hold the name.

    The module itself is not run: most of them import torch.

    Raises:
        ModelError: There is no such module, or no such name in it.
    """
    module, _, attribute = name.partition(":")
    top, *inside = module.split(".")
    first = attribute.partition(".")[0]
    if not re.fullmatch(r"\w+(\.\w+)*", module) or not first.isidentifier():
        return  # refused for what it is, later
    sys.path.insert(0, os.getcwd())
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return
    finally:
        sys.path.remove(os.getcwd())
    if spec is None:
        raise ModelError(f"cannot import {module!r} for {name!r}", f"there is no module {top!r}")
    path = Path(spec.origin or "")
    if inside or path.suffix != ".py" or not path.is_file():
        return
    source = path.read_text(encoding="utf-8", errors="replace")
    made = r"__getattr__|globals|vars|exec|setattr|import\s+\*|sys\.modules"  # names that the source does not hold
    if not re.search(rf"\b{first}\b|{made}", source):
        names = re.findall(r"^(?:async\s+)?(?:def|class)\s+([a-zA-Z]\w*)|^([a-zA-Z]\w*)\s*=", source, re.M)
        raise ModelError(f"{module!r} has no {attribute!r}", remedy=closest(first, map("".join, names)))


# -------------------------------------------------------------------------------------------------- devices and folders


def check_device(name: str) -> None:
    """Refuses a kind of device that this build of torch or this computer cannot have.

    A driver says nothing about how many devices there are: that is known once torch is imported.

    Raises:
        GradCamError: There is no such device.
    """
    kind, reason = name.partition(":")[0], ""
    if kind == "mps" and sys.platform != "darwin":
        reason = "mps is a device of Apple's computers"
    if kind == "cuda":
        made_for = _built_for()
        if made_for == (False, False):
            reason = "the torch that is installed was built without CUDA"
        elif made_for == (True, False) and not _loads(_DRIVERS.get(sys.platform)):
            reason = "no NVIDIA driver is installed"
    if reason:
        raise GradCamError(f"there is no device {name!r}", reason, "leave --device out to compute on the CPU")


def _built_for() -> tuple[bool, bool] | None:
    """Whether the torch that is installed was built for CUDA and for ROCm, which says cuda, too; None if unknown."""
    folder = _folder("torch")
    file = None if folder is None else folder / "version.py"
    if file is None or not file.is_file():
        return None
    found = dict(re.findall(r"^(cuda|hip)\b[^=\n]*=\s*(.+)$", file.read_text(encoding="utf-8"), re.M))
    if len(found) < 2:
        return None
    return found["cuda"].strip() != "None", found["hip"].strip() != "None"


def _loads(library: str | None) -> bool:
    """Whether a library of the system is there; true where its name is not known."""
    try:
        return library is None or bool(ctypes.CDLL(library))
    except OSError:
        return False


def check_source(source: str | Path) -> None:
    """Refuses a folder that holds neither pictures nor tables, also not in the folders inside it.

    Raises:
        GradCamError: It holds none.
    """
    if not Path(source).is_dir():
        return
    for _, _, files in os.walk(source):
        if any(name.lower().endswith((*PICTURES, ".parquet", ".arrow")) for name in files):
            return
    suffixes = ", ".join(PICTURES[:4])
    raise GradCamError(f"there are no pictures in the folder {str(source)!r}", remedy=f"files end in {suffixes}, ...")
