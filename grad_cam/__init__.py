"""Layer-by-layer explanations of PyTorch vision models.

`GradCAM` is the four-line interface, `explain` and `sweep` the engine behind it, `chain` and `split` cut a model into
an extractor and a classifier, `inspect` is the notebook explorer (extra `[notebook]`).
"""

from __future__ import annotations

from typing import Any

from . import targets
from .explanation import Explanation, Sweep, explain, sweep
from .gradcam import GradCAM
from .methods import METHODS
from .splitting import Chain, Split, SplitError, chain, split

__all__ = [
    "METHODS", "Chain", "Explanation", "GradCAM", "Split", "SplitError", "Sweep",
    "chain", "explain", "inspect", "split", "sweep", "targets",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Loads the notebook explorer when it is asked for: it needs an extra."""
    if name == "inspect":
        from .interfaces.notebook import inspect

        return inspect
    raise AttributeError(f"module 'grad_cam' has no attribute {name!r}")
