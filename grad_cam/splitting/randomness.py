"""The random state around a run, and forwards that draw random numbers."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..inputs import logits_of
from .evalcopy import EvalCopy
from .log import Enter, Exit, Log


@contextlib.contextmanager
def kept_random_state(device: torch.device) -> Iterator[list[bool]]:
    """Gives the random state back as it was; the list then says whether it was used."""
    used: list[bool] = []
    python, cpu = random.getstate(), torch.get_rng_state()
    other = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        yield used
    finally:  # each only where it moved: what another thread draws meanwhile is not drawn again for nothing
        changed = [random.getstate() != python, not torch.equal(cpu, torch.get_rng_state())]
        if changed[0]:
            random.setstate(python)
        if changed[1]:
            torch.set_rng_state(cpu)
        if other is not None and not torch.equal(other, torch.cuda.get_rng_state(device)):
            changed.append(True)
            torch.cuda.set_rng_state(other, device)
        used.append(any(changed))


_RANDOM = ("rand", "bernoulli", "multinomial", "normal", "dropout", "poisson", "exponential", "uniform", "cauchy")

OUTSIDE = "outside torch's recorded operations"


def random_place(log: Log) -> str:
    """The module and operation that drew random numbers, as far as the log says."""
    stack: list[str] = []
    for event in log.events:
        if isinstance(event, Enter):
            stack.append(event.call.path)
        elif isinstance(event, Exit):
            stack.pop()
        else:
            name = getattr(event.func, "__name__", "")
            quiet = "dropout" in name and (False in event.args or event.kwargs.get("training") is False)
            if any(word in name for word in _RANDOM) and not quiet:
                return f"{name} in module '{stack[-1]}'" if stack and stack[-1] else f"{name} in the model's forward"
    return OUTSIDE


def repeats(copy: EvalCopy, images: Tensor, output: Any, logits: Tensor) -> bool:
    """Whether two more passes give the same logits: then it was another thread that drew random numbers."""
    with torch.no_grad(), kept_random_state(images.device):
        for _ in range(2):
            random.seed()
            if not torch.equal(logits_of(copy.root, images.detach().clone(), output), logits.detach()):
                return False
    return True
