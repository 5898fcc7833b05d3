"""The rule of an LSTM, which PyTorch computes in one operation: written out step by step, where each step has a rule.

Input, forget and output gates count as constants, as every gate does; what they let through is linear but for the
tanh, which passes on g y / x.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def written_out(args: Sequence[Any]) -> Callable[..., Any] | None:
    """What computes a call of `torch.lstm` in single operations; None for a call that is left as it is.

    Packed sequences, projected states and dropout are not written out.
    """
    if len(args) != 9 or isinstance(args[1], Tensor):  # packed: (data, batch_sizes, ...)
        return None
    weights, biases, layers, dropout, train, both = args[2:8]
    each = 4 if biases else 2
    return lstm if len(weights) == each * layers * (1 + both) and not (dropout and train) else None


def lstm(
    given: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor], biases: bool, layers: int, dropout: float,
    train: bool, both: bool, first: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """An LSTM of several layers and one or two directions, with the arguments and the values of `torch.lstm`.

    Returns:
        The outputs, with the last hidden and cell states; bit for bit those of the one operation.
    """
    with torch.no_grad():
        values = torch.lstm(given, list(state), list(weights), biases, layers, dropout, train, both, first)
    steps, each = given.transpose(0, 1) if first else given, 4 if biases else 2  # (T,B,C)
    hidden, cells = [], []
    for layer in range(layers):
        ways = []
        for way in range(1 + both):
            k = layer * (1 + both) + way
            out, h, c = _one_way(
                steps.flip(0) if way else steps, state[0][k], state[1][k], *weights[k * each : (k + 1) * each]
            )
            ways.append(out.flip(0) if way else out)
            hidden.append(h)
            cells.append(c)
        steps = torch.cat(ways, 2)
    found = steps, torch.stack(hidden), torch.stack(cells)
    with torch.no_grad():
        for mine, value in zip(found, values, strict=True):
            mine.copy_(value.transpose(0, 1) if mine is steps and first else value)
    return (steps.transpose(0, 1) if first else steps), found[1], found[2]  # in memory as the one operation lays it out


def _one_way(
    steps: Tensor, h: Tensor, c: Tensor, into: Tensor, within: Tensor, *biases: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One direction of one layer: outputs (T, B, H), and the last hidden and cell state (B, H)."""
    first, second = biases or (None, None)
    outs = []
    for entering in functional.linear(steps.transpose(0, 1), into, first).unbind(
        1
    ):  # (B,4H); images are the first axis
        gate_in, gate_forget, new, gate_out = (entering + functional.linear(h, within, second)).chunk(4, 1)
        c = gate_forget.sigmoid() * c + gate_in.sigmoid() * new.tanh()
        h = gate_out.sigmoid() * c.tanh()
        outs.append(h)
    return torch.stack(outs), h, c
