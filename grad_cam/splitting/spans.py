"""Calls of modules, reported to a recorder."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from torch import nn

from .evalcopy import EvalCopy


@contextlib.contextmanager
def spans(copy: EvalCopy, recorder: Any) -> Iterator[None]:
    """Reports every call of the copy's modules to a recorder: before the user's hooks and after them."""
    for path, module in copy.modules.items():
        before, after = module._forward_pre_hooks, module._forward_hooks
        first = OrderedDict([(-1, _Enter(recorder, path)), *before.items()])
        module.__dict__["_forward_pre_hooks"] = first
        module.__dict__["_forward_pre_hooks_with_kwargs"] = OrderedDict(
            [(-1, True), *module._forward_pre_hooks_with_kwargs.items()]
        )
        module.__dict__["_forward_hooks"] = OrderedDict([*after.items(), (-1, _Exit(recorder, path))])
    try:
        yield
    finally:
        for module in copy.modules.values():
            module._forward_pre_hooks.pop(-1, None)
            module._forward_pre_hooks_with_kwargs.pop(-1, None)
            module._forward_hooks.pop(-1, None)


class _Enter:
    def __init__(self, recorder: Any, path: str) -> None:
        self.recorder, self.path = recorder, path

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.recorder.enter(self.path, args, kwargs)


class _Exit:
    def __init__(self, recorder: Any, path: str) -> None:
        self.recorder, self.path = recorder, path

    def __call__(self, module: nn.Module, args: Any, out: Any) -> None:
        self.recorder.exit(self.path, out)
