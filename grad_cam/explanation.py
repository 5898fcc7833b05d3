"""Old name of `engine` and `results`; gone in the next release."""

from __future__ import annotations

import warnings

from .engine import explain, sweep
from .errors import refuse_existing
from .loading import class_names
from .requests import Target
from .results import Explanation, Layer, Sweep

__all__ = ["Explanation", "Layer", "Sweep", "Target", "class_names", "explain", "refuse_existing", "sweep"]

warnings.warn(
    "grad_cam.explanation is now grad_cam.engine (explain, sweep) and grad_cam.results (Explanation, Layer, Sweep); "
    "this name goes with the next release",
    FutureWarning,
    stacklevel=2,
)
