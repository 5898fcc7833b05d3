"""How the tiny nets are fitted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def fit(
    model: nn.Module, loss_of: Callable[[int], Tensor], steps: int, rate: float, weight_decay: float = 1e-2
) -> list[float]:
    """Fits a model in steps of AdamW whose learning rate rises to `rate` and falls again; returns the losses."""
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    losses = []
    for step in range(steps):
        loss = loss_of(step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses
