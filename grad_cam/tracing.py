"""Old name of parts of `introspection`, `splitting` and `outputs`; gone in the next release."""

from __future__ import annotations

import warnings

from torch import nn

from .errors import SplitError
from .introspection import unwrap
from .outputs import find_logits as logits_of

__all__ = ["SplitError", "logits_of", "shadow", "unwrap"]

warnings.warn(
    "grad_cam.tracing is now grad_cam.introspection (unwrap), grad_cam.outputs (find_logits) and "
    "grad_cam.splitting.evalcopy (EvalCopy); this name goes with the next release",
    FutureWarning,
    stacklevel=2,
)


def shadow(model: nn.Module) -> nn.Module:
    """An eval copy of a model, see `splitting.evalcopy.EvalCopy`."""
    from .splitting.evalcopy import EvalCopy

    return EvalCopy(model).root
