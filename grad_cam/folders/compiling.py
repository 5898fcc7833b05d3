"""`torch.compile` for the part of a model before the cut: batches of one shape are compiled, all else runs as it is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _Program:
    """A compiled module and the batch that it is compiled for.

    It has no attributes but its slots, so that eval copies of the model share it: a compiled module is not copied, and
    a new one would be compiled again.
    """

    __slots__ = ("calls", "run", "shape")

    def __init__(self, module: nn.Module, shape: tuple[int, ...]) -> None:
        self.run: Any = torch.compile(module, dynamic=False)
        self.shape: tuple[int, ...] = shape
        self.calls: int = 0

    def fits(self, images: Tensor) -> bool:
        """Whether images are those that it is compiled for, or at least half as many."""
        rows, *rest = self.shape
        return list(images.shape[1:]) == rest and rows <= 2 * len(images) <= 2 * rows

    def __call__(self, images: Tensor) -> Any:
        """What the module returns; a batch that is not full is filled up, so that nothing is compiled twice."""
        self.calls += 1
        count = len(images)
        if count < self.shape[0]:
            images = torch.cat([images, images.new_zeros(self.shape[0] - count, *images.shape[1:])])
        with torch.no_grad():
            return self.run(images)[:count]


class Compiled(nn.Module):
    """A module that runs compiled where that gives what the module itself would.

    That is not so while its operations are recorded (under a function mode) and where a gradient has to pass through
    it; and batches of another shape would be compiled anew.

    Args:
        module: What is compiled; it returns one tensor with a row for every image.
        shape: Of the batches that it is compiled for, (B, C, H, W).
    """

    def __init__(self, module: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.module: nn.Module = module
        self.program: _Program = _Program(module, shape)

    def forward(self, images: Tensor) -> Any:
        """What the module returns for images (B, C, H, W)."""
        recorded = torch._C._len_torch_function_stack() > 0
        if recorded or images.requires_grad or not self.program.fits(images):
            return self.module(images)
        return self.program(images)

    @property
    def calls(self) -> int:
        """How often it ran compiled, eval copies of it included."""
        return self.program.calls
