"""Layer-by-layer explanations of PyTorch vision models."""

from __future__ import annotations

from . import targets
from .explanation import Explanation, Sweep, explain, sweep
from .gradcam import GradCAM
from .methods import METHODS
from .splitting import Chain, Split, SplitError, chain, split

__all__ = [
    "METHODS", "Chain", "Explanation", "GradCAM", "Split", "SplitError", "Sweep",
    "chain", "explain", "split", "sweep", "targets",
]  # fmt: skip
