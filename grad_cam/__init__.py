"""Layer-by-layer explanations of PyTorch vision models."""

from __future__ import annotations

from .splitting import Chain, Split, SplitError, chain, split

__all__ = ["Chain", "Split", "SplitError", "chain", "split"]
