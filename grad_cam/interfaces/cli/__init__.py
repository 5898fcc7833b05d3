"""The command line: `grad-cam demo`, `layers`, `explain`, `sweep`, `report`, `run`, `study`, `bench`, `methods`, `app`.

Results go to stdout, everything else (progress, warnings, errors) to stderr. torch is imported by the
command that runs, after it has read its options: `grad-cam --help` answers at once, and so do mistakes.

Exit codes: 0 all done; 1 an error, nothing was done; 2 wrong usage; 3 some of the images failed, the others are done;
130 stopped by Ctrl-C.
"""

from __future__ import annotations

import gc
import os
import pathlib
import signal
import sys
from typing import Any

__all__ = ["app", "main", "methods_table"]

NAMES = ("grad-cam", "gradcam-layers")
"""The two names the command is installed under."""


def main() -> None:
    """Runs the command line; Ctrl-C ends it with one line at any moment, also while modules are imported."""
    name = pathlib.Path(sys.argv[0]).stem
    gc.disable()  # until the model is loaded, see `edge.collect_again`
    try:
        from .commands import app

        app(prog_name=name if name in NAMES else NAMES[0])
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stderr.write("Stopped.\n")
        sys.stderr.flush()
        os._exit(130)  # without waiting for threads or half-imported modules


def __getattr__(name: str) -> Any:
    if name in ("app", "methods_table"):
        from . import commands

        return getattr(commands, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
