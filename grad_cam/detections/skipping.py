"""Gradients of one box that leave out what the box does not depend on.

The table of boxes joins what all levels and heads of a detector computed, so that autograd passes zeros through those
that one box has nothing to do with: convolutions of zeros, as costly as others.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def skipping_zeros(table: Tensor) -> Tensor:
    """Makes the convolutions behind a tensor pass on nothing where the gradient that reaches them is zero.

    Args:
        table: What is differentiated; the same tensor is returned.
    """
    waiting, seen = [table.grad_fn], set()
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name().startswith("ConvolutionBackward"):
            node.register_prehook(_without_zeros)
        waiting.extend(following for following, _ in node.next_functions)
    return table


def _without_zeros(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(g if g is not None and bool(g.any()) else None for g in gradients)
