"""`python -m grad_cam` is the command line `grad-cam`."""

from __future__ import annotations

from .interfaces.cli import main

main()
