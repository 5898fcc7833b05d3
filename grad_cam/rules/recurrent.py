"""The rules of recurrent layers, which PyTorch computes in one operation: written out step by step, each with a rule.

Gates count as constants, as every gate does; what they let through is linear but for the tanh (or ReLU) of what is new,
which passes on g y / x. What a GRU adds to what it keeps is a residual addition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

State = tuple[Tensor, ...]
"""The hidden state (B, H) and, of an LSTM, the cells (B, H)."""


def written_out(func: Callable[..., Any], args: Sequence[Any]) -> Callable[..., Any] | None:
    """What computes a call of a recurrent operation in single ones; None for a call that is left as it is.

    Packed sequences, whose rows belong to several images, and dropout are not written out.
    """
    if len(args) != 9 or isinstance(args[3], Sequence):  # packed: (data, batch_sizes, state, weights, ...)
        return None
    weights, biases, layers, dropout, train, both = args[2:8]
    each = len(weights) // (layers * (1 + both))
    if dropout and train or each not in ((4, 5) if biases else (2, 3)):
        return None

    def call(given: Tensor, state: Any, *others: Any) -> tuple[Tensor, ...]:
        return _layers(func, given, (state,) if isinstance(state, Tensor) else tuple(state), *others)

    return call


def _layers(
    func: Callable[..., Any], given: Tensor, state: State, weights: Sequence[Tensor], biases: bool, layers: int,
    dropout: float, train: bool, both: bool, first: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Several layers in one or two directions.

    Returns:
        The outputs, with the last states; bit for bit those of the one operation.
    """
    with torch.no_grad():
        before = state[0] if len(state) == 1 else list(state)
        values = func(given, before, list(weights), biases, layers, dropout, train, both, first)
    steps, each = given.transpose(0, 1) if first else given, len(weights) // (layers * (1 + both))  # (T,B,C)
    last: list[State] = []
    for layer in range(layers):
        ways = []
        for way in range(1 + both):
            k = layer * (1 + both) + way
            own = weights[k * each : (k + 1) * each]
            out, kept = _one_way(STEPS[func], steps.flip(0) if way else steps, tuple(s[k] for s in state), biases, own)
            ways.append(out.flip(0) if way else out)
            last.append(kept)
        steps = torch.cat(ways, 2)
    found = steps, *(torch.stack(each) for each in zip(*last, strict=True))
    with torch.no_grad():
        for mine, value in zip(found, values, strict=True):
            mine.copy_(value.transpose(0, 1) if mine is steps and first else value)
    return (steps.transpose(0, 1) if first else steps), *found[1:]  # in memory as the one operation lays it out


def _one_way(
    step: Callable[[Tensor, Tensor, State], State], steps: Tensor, state: State, biases: bool, weights: Sequence[Tensor]
) -> tuple[Tensor, State]:
    """One direction of one layer: outputs (T, B, H) and the last state."""
    into, within, *rest = weights
    first, second = rest[:2] if biases else (None, None)
    projection = rest[-1] if len(rest) % 2 else None
    outs = []
    for entering in functional.linear(steps.transpose(0, 1), into, first).unbind(1):  # (B,nH); images the first axis
        hidden, *cells = step(entering, functional.linear(state[0], within, second), state)
        state = (hidden if projection is None else functional.linear(hidden, projection), *cells)
        outs.append(state[0])
    return torch.stack(outs), state


def _lstm(entering: Tensor, held: Tensor, state: State) -> State:
    gate_in, gate_forget, new, gate_out = (entering + held).chunk(4, 1)
    cells = gate_forget.sigmoid() * state[1] + gate_in.sigmoid() * new.tanh()
    return gate_out.sigmoid() * cells.tanh(), cells


def _gru(entering: Tensor, held: Tensor, state: State) -> State:
    reset, update, new = entering.chunk(3, 1)
    held_reset, held_update, held_new = held.chunk(3, 1)
    keep = (update + held_update).sigmoid()
    new = (new + (reset + held_reset).sigmoid() * held_new).tanh()
    return ((1 - keep) * new + keep * state[0],)


def _tanh(entering: Tensor, held: Tensor, state: State) -> State:
    return ((entering + held).tanh(),)


def _relu(entering: Tensor, held: Tensor, state: State) -> State:
    return ((entering + held).relu(),)


STEPS: dict[Any, Callable[[Tensor, Tensor, State], State]] = {
    torch.lstm: _lstm, torch.gru: _gru, torch.rnn_tanh: _tanh, torch.rnn_relu: _relu,
}  # fmt: skip
"""One step of each operation: of what enters, what the hidden state gives and the state before, the state after."""
