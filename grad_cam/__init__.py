"""Layer-by-layer explanations of PyTorch vision models.

`GradCAM` is the four-line interface; `explain` and `sweep` are the engine behind it and return an `Explanation` or a
`Sweep` of them. `chain` and `split` cut a model into an extractor and a classifier, `verify` checks on a model of your
own what every map rests on. `METHODS` is the table of methods, `register` adds one, `targets` says what is explained.
`study` shows at which depth a model decides about a folder of pictures, and by what.
`explore` opens the explorer in a notebook (extra `[notebook]`); `inspect` is another name of it.

The way in is `grad_cam.loading` (images, models by name, checkpoints, names of classes), the way out
`grad_cam.rendering` (`Display`, figures, files).

These two and the modules `callbacks`, `detections`, `errors`, `folders`, `layouts`, `methods`, `metrics`, `results`,
`rules`, `splitting`, `studies` and `targets` are attributes, loaded when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = [
    "METHODS", "Chain", "Explanation", "GradCAM", "Split", "SplitError", "Sweep",
    "audit", "bench", "chain", "evidence", "explain", "explore", "read", "register", "run", "split",
    "study", "sweep", "targets", "verify",
]  # fmt: skip

if TYPE_CHECKING:
    from . import callbacks as callbacks
    from . import detections as detections
    from . import errors as errors
    from . import folders as folders
    from . import layouts as layouts
    from . import loading as loading
    from . import methods as methods
    from . import metrics as metrics
    from . import rendering as rendering
    from . import results as results
    from . import rules as rules
    from . import splitting as splitting
    from . import studies as studies
    from . import targets
    from .benching import bench
    from .engine import explain, sweep
    from .evidencing import evidence
    from .folders import read, run
    from .gradcam import GradCAM
    from .interfaces.notebook import explore
    from .methods import METHODS, register
    from .results import Explanation, Sweep
    from .rules import audit
    from .splitting import Chain, Split, SplitError, chain, split, verify
    from .studies import study

    __version__: str
    inspect = explore

_MODULES = (
    "callbacks", "detections", "errors", "folders", "layouts", "loading", "methods", "metrics", "rendering", "results",
    "rules", "splitting", "studies", "targets",
)  # fmt: skip
_HOMES = {
    "benching": ("bench",),
    "engine": ("explain", "sweep"),
    "evidencing": ("evidence",),
    "folders": ("read", "run"),
    "results": ("Explanation", "Sweep"),
    "gradcam": ("GradCAM",),
    "methods": ("METHODS", "register"),
    "rules": ("audit",),
    "splitting": ("Chain", "Split", "SplitError", "chain", "split", "verify"),
    "studies": ("study",),
}


def _load(name: str) -> Any:
    """Loads a name when it is first used: the command line answers `--help` without torch, `explore` needs an extra."""
    if name == "__version__":
        return _version()
    if name in ("explore", "inspect"):  # `inspect` is not in `__all__`: `import *` would hide the standard library's
        from .interfaces.notebook import explore

        return explore
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    for home, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(importlib.import_module(f".{home}", __name__), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{_hint(name)}")


def _hint(name: str) -> str:
    """The name that a misspelt one may mean, for its error."""
    import difflib

    known = {each.lower(): each for each in (*__all__, *_MODULES)}
    close = [] if name.startswith("_") else difflib.get_close_matches(name.lower(), known, n=1)
    return f"; did you mean {known[close[0]]}?" if close else ""


def _version() -> str:
    """The version that is installed; in a source tree that is not, the one it declares."""
    import configparser
    from importlib.metadata import PackageNotFoundError, version
    from pathlib import Path

    try:
        return version("gradcam-layers")
    except PackageNotFoundError:
        config = configparser.ConfigParser()
        config.read(Path(__file__).parents[1] / "setup.cfg", encoding="utf-8")
        return config.get("metadata", "version", fallback="unknown")


if not TYPE_CHECKING:  # a type checker would take any misspelt name for one that is loaded
    __getattr__ = _load


def __dir__() -> list[str]:
    return sorted({"__version__", *__all__, *(name for name in globals() if name.startswith("__"))})
