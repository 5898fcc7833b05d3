"""The ledger: what a score is made of at a cut."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from ..methods.common import working
from .balanced import Entry
from .linear import total

PARTS = ("map", "prefix", "context", "constants")
"""The parts that a score is the sum of, with their titles."""

TITLES = {"map": "map", "prefix": "prefix tokens", "context": "context", "constants": "constants"}


@dataclasses.dataclass(frozen=True, eq=False)
class Ledger:
    """A score as a sum, at a cut: of every image (B,), or of every image and target (B, K); in float64.

    Attributes:
        score: The score.
        map: Sum of activation times gradient over the grid of positions, that is, of the HiResCAM map.
        prefix: The same over class, distillation and register tokens.
        context: What other tensors at the cut that depend on the image add (a cut inside a residual branch has some).
        constants: What is the same for every image or counts as fixed: biases, shifts of norms, position embeddings,
            class tokens that come after the cut; also what a target that is not linear adds by itself.
    """

    score: Tensor
    map: Tensor
    prefix: Tensor
    context: Tensor
    constants: Tensor

    @property
    def gap(self) -> Tensor:
        """What is missing: score minus all parts."""
        return self.score - self.map - self.prefix - self.context - self.constants

    def parts(self, image: int = 0, target: int = 0) -> dict[str, float]:
        """The parts of one image and target by their titles."""
        return {TITLES[name]: self.value(name, image, target) for name in PARTS}

    def value(self, name: str, image: int = 0, target: int = 0) -> float:
        """The score, the gap or a part of one image and target."""
        values = getattr(self, name)
        return float(values[image, target] if values.ndim == 2 else values[image])

    def closes(self, dtype: torch.dtype) -> bool:
        """Whether nothing but rounding is missing.

        Args:
            dtype: The dtype in which the model computes.
        """
        half = dtype in (torch.float16, torch.bfloat16)
        size = torch.stack([self.score.abs(), *(getattr(self, name).abs() for name in PARTS)]).amax(0).clamp(min=1)
        return bool((self.gap.abs() <= (30 if half else 3000) * torch.finfo(dtype).eps * size).all())

    def closes_in_sum(self, dtype: torch.dtype) -> bool:
        """Whether nothing is missing over the batch, or what is missing cannot be attributed to images."""
        if bool(self.gap.isnan().any()):
            return True
        return Ledger(*(getattr(self, f.name).sum(0, keepdim=True) for f in dataclasses.fields(self))).closes(dtype)

    def line(self, image: int = 0, target: int = 0) -> str:
        """One image and target in a line: ``6.84 = 6.60 map + 1.20 prefix tokens - 0.96 constants``."""
        text = ""
        for title, value in self.parts(image, target).items():
            if value:
                sign = ("- " if value < 0 else "+ ") if text else ("-" if value < 0 else "")
                text += f"{' ' if text else ''}{sign}{abs(value):.3g} {title}"
        return f"{self.value('score', image, target):.3g} = {text or '0'} (gap {self.value('gap', image, target):.1g})"

    def __str__(self) -> str:
        count = self.score.shape[1] if self.score.ndim == 2 else 1
        return "\n".join(self.line(b, k) for b in range(len(self.score)) for k in range(count))


def ledger_at(
    activation: Tensor, gradient: Tensor, maps: tuple[Tensor, Tensor], entries: list[Entry], score: Tensor,
    linear: Tensor,
) -> Ledger:  # fmt: skip
    """The ledger of one target at a cut.

    Args:
        activation: The tensor at the cut, as the gradient was taken on it.
        gradient: The gradient on it.
        maps: Both as maps (B, C, h, w).
        entries: What operations added, at any depth.
        score: (B,).
        linear: Sum of logits times their gradient, (B,): the score, if the target is linear.
    """
    images = len(score)
    after = -1 if activation.grad_fn is None else activation.grad_fn._sequence_nr()
    spatial = _sum(maps[0], maps[1], images)
    rest = activation.numel() != maps[0].numel() and len(activation) % images == 0  # prefix tokens
    whole = _sum(activation.detach(), gradient, images) if rest else spatial
    added = {True: torch.zeros_like(spatial), False: torch.zeros_like(spatial)}
    for entry in entries:
        if entry.number > after:
            values = torch.full_like(spatial, torch.nan) if entry.values is None else entry.values.to(spatial.device)
            added[entry.context] = added[entry.context] + values
    score, linear = score.detach().double(), linear.detach().double()
    parts = (score, spatial, whole - spatial, added[True], added[False] + (score - linear))
    return Ledger(*(part.cpu() for part in parts))


def _sum(one: Tensor, two: Tensor, images: int) -> Tensor:
    return total((working(one) * working(two)).reshape(images, -1))


def stacked(ledgers: list[Ledger], several: bool) -> Ledger:
    """The ledgers of several targets as one, (B, K); of one as (B,) unless `several`."""
    if not several:
        return ledgers[0]
    return Ledger(*(torch.stack([getattr(one, f.name) for one in ledgers], 1) for f in dataclasses.fields(Ledger)))


def joined(ledgers: list[Ledger]) -> Ledger:
    """The ledgers of single images as one of a batch."""
    return Ledger(*(torch.cat([getattr(one, f.name) for one in ledgers]) for f in dataclasses.fields(Ledger)))


def averaged(ledgers: Sequence[Ledger], weights: Sequence[float]) -> Ledger:
    """The weighted mean of ledgers of the same score at several cuts: that of the mean of their maps."""
    share = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    parts = [torch.stack([getattr(one, f.name) for one in ledgers], -1) for f in dataclasses.fields(Ledger)]
    return Ledger(*((part * share).sum(-1) for part in parts))


def warn_of_gaps(ledgers: Sequence[tuple[str, Ledger]], dtype: torch.dtype) -> None:
    """Warns of the layer whose ledger misses most, if one does not close."""
    off = [(name, one) for name, one in ledgers if not one.closes(dtype)]
    if not off:
        return
    where, worst = max(off, key=lambda pair: float(pair[1].gap.abs().nan_to_num(torch.inf).max()))
    missing, score = float(worst.gap.abs().max()), float(worst.score.abs().max())
    warnings.warn(
        f"the map at '{where}' and the ledger miss the score by {missing:.2g} (score {score:.3g}): an operation of "
        "this model has no balanced rule; grad_cam.audit(model, images) names it",
        stacklevel=5,
    )
