"""Layer-by-layer explanations of PyTorch vision models.

`GradCAM` is the four-line interface, `explain` and `sweep` the engine behind it, `chain` and `split` cut a model into
an extractor and a classifier, `explore` opens the notebook explorer (extra `[notebook]`); `inspect` is another name of
it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import targets
    from .engine import explain, sweep
    from .gradcam import GradCAM
    from .methods import METHODS, register
    from .results import Explanation, Sweep
    from .rules import audit
    from .splitting import Chain, Split, SplitError, chain, split, verify

__all__ = [
    "METHODS", "Chain", "Explanation", "GradCAM", "Split", "SplitError", "Sweep",
    "audit", "chain", "explain", "explore", "register", "split", "sweep", "targets", "verify",
]  # fmt: skip

_HOMES = {
    "engine": ("explain", "sweep"),
    "results": ("Explanation", "Sweep"),
    "gradcam": ("GradCAM",),
    "methods": ("METHODS", "register"),
    "rules": ("audit",),
    "splitting": ("Chain", "Split", "SplitError", "chain", "split", "verify"),
}


def __getattr__(name: str) -> Any:
    """Loads what is asked for when it is: the command line answers `--help` without torch, `explore` needs an extra."""
    if name in ("explore", "inspect"):  # `inspect` is not in `__all__`: `import *` would hide the standard library's
        from .interfaces.notebook import explore

        return explore
    if name in ("metrics", "targets"):
        return importlib.import_module(f".{name}", __name__)
    for home, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(importlib.import_module(f".{home}", __name__), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
