"""The ingredients of methods, each made at most once: `Forward` runs the model on a batch, `Pass` is one cut of it.

`Pass` has one property or method for every name in `methods.INGREDIENTS`. A per-target ingredient takes the number of
the target.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from . import layouts, targets
from .errors import LayoutError
from .layouts import Layout
from .methods import Method, MethodError, attention, capture
from .methods.chunks import Progress, Score
from .methods.common import working
from .methods.factorization import Factorization
from .methods.gradient import NoisyGradients, TailGradient, grad_cam, gradient_of, noisy_copies
from .methods.network import WholeScore
from .methods.registry import ALL_TARGETS, PER_TARGET
from .rules.balanced import Balanced, Entry, Rules
from .rules.ledger import Ledger, joined, ledger_at, stacked
from .splitting.cuts import BLOCKS, Cutter, Taken
from .splitting.default import default_cut
from .splitting.plan import Cut
from .splitting.scoremaps import require_no_score_map
from .targets import Score as TargetScore

Resolver = Callable[[Tensor], targets.Resolved]
"""Fixes a target on the logits of a batch."""

_ATTENTION = {"attention", "attention_reading", "attention_gradients"}


class Forward:
    """One run of a model on a batch: the logits, the scores of the targets, and the activations at some cuts.

    Args:
        cutter: The model and the batch.
        cuts: Where it is cut; of a method without a layer, none or the one whose grid is read.
        method: The method, whose ingredients decide how the model is run.
        resolve: Fixes the target.
        layout: The caller's `reshape_transform`.
        rules: How the backward is changed, if it is.
    """

    def __init__(
        self, cutter: Cutter, cuts: Sequence[Cut], method: Method, resolve: Resolver, layout: Any = None,
        rules: Rules | None = None,
    ) -> None:  # fmt: skip
        self.cutter = cutter
        self.cuts: list[Cut] = list(cuts)
        self.method = method
        self.layout = layout
        self.rules = rules
        self.entries: list[list[Entry]] = []  # what the rules wrote into the ledger, for each target
        self._resolve = resolve
        self._mode: Balanced | None = None

    def on(self, images: Tensor, only: int | None = None) -> Forward:
        """The same for other images, with the targets fixed on these ones; with only one of them if `only` is given."""
        resolved = self.targets
        if only is not None:
            resolved = dataclasses.replace(resolved, scores=resolved.scores[only : only + 1])
        return Forward(
            self.cutter.for_images(images), self.cuts, self.method, lambda _: resolved, self.layout, self.rules
        )

    @functools.cached_property
    def each(self) -> list[Forward]:
        """The same for every image alone."""

        def alone(row: int) -> Forward:
            index = torch.tensor([row], device=self.cutter.images.device)
            scores = tuple(
                dataclasses.replace(s, function=functools.partial(_of_row, s, index), names=s.names[row : row + 1])
                for s in self.targets.scores
            )
            resolved = dataclasses.replace(self.targets, scores=scores)
            images = self.cutter.images[row : row + 1]
            there = self.cutter.for_images(images, index)
            return Forward(there, self.cuts, self.method, lambda _: resolved, self.layout, self.rules)

        return [alone(row) for row in range(len(self.cutter.images))]

    @functools.cached_property
    def taken(self) -> Taken:
        """The activations at the cuts, to differentiate by, and the logits that follow from them."""
        if self.rules is None:
            return self.cutter.take(self.cuts, by_image=self.layout is None)
        self.cutter.taken = None  # made without the rules
        context = any(cut.context for cut in self.cuts)
        with self.ruled(context) as self._mode:
            if context:  # by the model's own forward: the images and what depends on them are seen
                return self.cutter.take_all(self.cuts)
            return self.cutter.take(self.cuts, by_image=self.layout is None)

    def ruled(self, context: bool = False) -> Any:
        """The function mode of the rules, if there are any."""
        if self.rules is None:
            return contextlib.nullcontext()
        images = self.cutter.images
        return Balanced(len(images), self.rules.residual, images if context else None)

    @functools.cached_property
    def captured(self) -> tuple[Tensor, list[Tensor]]:
        """Logits, and the attention they were computed with, in one graph."""
        grid = self.grid(0)
        if grid is None:
            raise LayoutError("no grid of positions is known to follow attention on", "", "use another method")
        with torch.enable_grad(), capture.Capture(len(self.cutter.images), math.prod(grid)) as seen:
            logits = self.cutter.forward(self.cutter.images)
        return logits, seen.attentions()

    @functools.cached_property
    def graph(self) -> Tensor:
        """The logits, with a graph where the method needs one."""
        if self.method.scope == "layer":
            logits = self.taken.logits
        elif _ATTENTION.isdisjoint(self.method.ingredients):
            with torch.no_grad():
                logits = self.cutter.forward(self.cutter.images)
        else:
            logits = self.captured[0]
        self.cutter.require_finite(logits.detach(), "the logits")
        return logits

    @functools.cached_property
    def targets(self) -> targets.Resolved:
        """The targets, fixed on the logits."""
        return self._resolve(self.graph.detach())

    @functools.cached_property
    def gradients(self) -> list[list[Tensor]]:
        """The gradient of every target's score at every cut, as the model has it."""
        found = []
        last = len(self.targets.scores) - 1
        for k, score in enumerate(self.targets.scores):
            with torch.enable_grad():
                known = self._known_gradient(score) if self.rules is None else None
                if known is None:
                    total = scored(score, self.graph).sum()
                    known = self.cutter.gradients(total, self.taken.activations, keep_graph=k < last)
                found.append(known)
            if self._mode is not None:
                self.entries.append(self._mode.entries())
        return found

    def _known_gradient(self, score: TargetScore) -> list[Tensor] | None:
        """The gradient of a score that the search for the default cut took already, where it is of the same logits."""
        known = self.cutter.reached
        if known is None or len(self.cuts) != 1 or self.taken.activations[0] is not known.activation:
            return None
        leaf = self.graph.detach().requires_grad_()
        total = scored(score, leaf).sum()
        slope = torch.autograd.grad(total, leaf, allow_unused=True)[0] if total.requires_grad else None
        return [known.gradient] if slope is not None and torch.equal(slope, known.slope) else None

    def grid(self, n: int) -> tuple[int, ...] | None:
        """Height and width of the grid of positions at a cut (of the default cut if there is none), or None."""
        cut = self.cuts[n] if self.cuts else default_cut(self.cutter)
        found = self.cutter.reading(cut).layout
        return None if found is None or found.suffix else found.grid  # attention is read with tokens before alone


class Pass:
    """The ingredients at one cut of a forward pass, by the names a method's parameters have.

    Args:
        forward: The run.
        n: The number of the cut.
        progress: The caller's callback.
    """

    def __init__(self, forward: Forward, n: int = 0, progress: Progress | None = None) -> None:
        self.forward = forward
        self.n = n
        self.progress = progress
        self.cutter: Cutter = forward.cutter
        self.images: Tensor = forward.cutter.images

    def maps(self, method: Method, function: Callable[..., Any], options: dict[str, Any]) -> Tensor | Factorization:
        """Calls a method: its maps of all targets, (B, K, h, w), or its concepts.

        Args:
            method: What is called.
            function: Its function, or one around it.
            options: The caller's options.
        """
        count = len(self.forward.targets.scores)
        if method.per_target:
            called = functools.partial(self._called, method, function, options)
            maps = torch.stack([self._checked(method, called(k)) for k in range(count)], 1)
        else:
            found = self._called(method, function, options, None)
            if isinstance(found, Factorization):
                return found
            maps = self._checked(method, found, count if method.class_specific else None)
            maps = maps if method.class_specific else torch.stack([maps] * count, 1)
        return self.layout.unfolded(maps) if self.images.ndim == 5 else maps

    def _called(self, method: Method, function: Callable[..., Any], options: dict[str, Any], k: int | None) -> Any:
        given = []
        for name in method.ingredients:
            value = getattr(self, name)
            if name in PER_TARGET:
                value = value(k)
            elif name in ALL_TARGETS and k is not None:
                value = _column(value, k)
            given.append(value)
        with self.forward.ruled() if method.scope == "network" else contextlib.nullcontext():
            return function(*given, **options)

    def _checked(self, method: Method, found: object, count: int | None = None) -> Tensor:
        """Raises MethodError unless a result is a map (B, h, w), or (B, K, h, w) for K targets at once."""
        batch = len(self.images)
        wanted = "(B, h, w)" if count is None else "(B, K, h, w)"
        if not isinstance(found, Tensor):
            raise MethodError(f"{method.name} returned no map", type(found).__name__, f"return a tensor {wanted}")
        if count == 1 and found.ndim == 3:
            found = found[:, None]
        fits = found.ndim == (3 if count is None else 4) and len(found) == batch and 0 not in found.shape
        if not fits or (count is not None and found.shape[1] != count):
            of = f"{batch} images" + ("" if count is None else f" and {count} targets")
            raise MethodError(
                f"{method.name} returned no map: its shape is {tuple(found.shape)} for {of}", "",
                f"return a tensor {wanted}" + (", as a sum over the channels" if found.ndim == 4 else ""),
            )  # fmt: skip
        if not found.is_floating_point():
            raise MethodError(f"{method.name} returned {found.dtype}", "", "return floating point numbers")
        return found

    # ------------------------------------------------------------------------------------------------------ at the cut

    @functools.cached_property
    def layout(self) -> Layout:
        """How the activation is read."""
        forward, cut, raw = self.forward, self.forward.cuts[self.n], self._raw
        require_no_score_map(self.cutter, cut)
        reading = self.cutter.reading(cut) if forward.layout is None or isinstance(forward.layout, str) else None
        if forward.layout is not None:
            prefix = reading.layout.prefix if reading is not None and reading.layout is not None else None
            size = self.cutter.record.positions.size
            return layouts.named(forward.layout, raw.detach(), size, prefix, len(self.images))
        assert reading is not None
        if reading.layout is None or reading.layout.is_single:
            raise LayoutError(
                f"no map can be drawn after '{cut.name}': {reading.note or '1x1'}", f"activation {tuple(raw.shape)}",
                "choose another layer (see print(grad_cam.chain(model))) or give reshape_transform",
            )  # fmt: skip
        return reading.layout

    @property
    def _raw(self) -> Tensor:  # as the model has it
        return self.forward.taken.activations[self.n]

    @property
    def _where(self) -> str:
        return f"at '{self.forward.cuts[self.n].name}'"

    @functools.cached_property
    def activations(self) -> Tensor:
        """The activation, (B, C, h, w)."""
        found = self.layout.to_map(self._raw.detach())
        self.cutter.require_finite(found, f"the activations {self._where}")
        return found

    def gradients(self, k: int) -> Tensor:
        """The gradient of a target's score on the activation, (B, C, h, w)."""
        found = self.forward.gradients[k][self.n]
        self.cutter.require_finite(found, f"the gradient {self._where}")
        return self.layout.to_map(found)

    @property
    def is_dead(self) -> bool:
        """Whether the gradient is known to be zero at every position of the cut."""
        return bool(self.forward.cuts) and self.cutter.record.dead.get(self.forward.cuts[self.n].value, False)

    def nothing(self) -> Tensor:
        """The maps of all targets at a cut that is dead."""
        shape = len(self.images), len(self.forward.targets.scores), *self.layout.grid
        return torch.zeros(shape, dtype=torch.float32, device=self.images.device)

    def ledger(self) -> Ledger:
        """What the scores are made of at the cut; the gradient was taken with rules."""
        forward, count = self.forward, len(self.images)
        raw, each = self._raw, []
        for k, score in enumerate(forward.targets.scores):
            gradient = forward.gradients[k][self.n]
            maps = self.layout.to_map(raw.detach()), self.layout.to_map(gradient)
            with torch.enable_grad():
                logits = forward.graph.detach().requires_grad_()
                value = scored(score, logits)
                (slope,) = torch.autograd.grad(value.sum(), [logits])
            linear = (slope.double() * logits.detach().double()).flatten(1).sum(1)
            each.append(ledger_at(raw, gradient, maps, forward.entries[k], value, linear))
        found = stacked(each, forward.targets.several)
        if count > 1 and not found.closes(raw.dtype) and found.closes_in_sum(raw.dtype):
            # rows could not be assigned to images, as where windows come before images
            found = dataclasses.replace(joined([Pass(one, self.n).ledger() for one in forward.each]), score=found.score)
        return found

    def cam(self, k: int) -> Tensor:
        """Grad-CAM of a target's score, (B, h, w)."""
        return grad_cam(self.activations, self.gradients(k))

    def tail_gradient(self, k: int) -> TailGradient:
        """The gradient of a target's score as a function of activations (B, C, h, w)."""
        score = self.forward.targets.scores[k]
        return gradient_of(lambda activations: scored(score, self._logits_of(activations)))

    def noisy_gradients(self, k: int) -> NoisyGradients:
        """The gradients of a target's score for noisy copies of the images, one after another."""

        def gradients(samples: int, noise: float, seed: int) -> Iterator[Tensor]:
            for copy in noisy_copies(self.images, samples, noise, seed):
                yield Pass(self.forward.on(copy, only=k), self.n).gradients(0)

        return gradients

    @property
    def tail(self) -> Score:
        """Activations (N, C, h, w) that belong to the images `index` (N,) to the scores of all targets (N, K)."""
        return self._scores_by(self._logits_of)

    @functools.cached_property
    def _classifier(self) -> Callable[[Tensor, Tensor], Tensor]:
        logits = self.forward.taken.logits.detach()
        return self.cutter.tail(self.forward.cuts[self.n], self._raw.detach(), logits)

    def _logits_of(self, maps: Tensor, index: Tensor | None = None) -> Tensor:
        if index is None:
            index = torch.arange(len(self._raw), device=self._raw.device)
        return self._classifier(self.layout.from_map(maps, self._raw.detach()[index]), index)

    def class_of(self, activation: Tensor) -> list[int]:
        """The class that the tail gives to grids full of one activation each, (N, C)."""
        rows = torch.zeros(len(activation), dtype=torch.long, device=self._raw.device)
        full = activation[:, :, None, None].expand(-1, -1, *self.layout.folded)  # (N,C,h,w)
        with torch.no_grad():
            return [int(i) for i in self._logits_of(full.to(self._raw.dtype), rows).argmax(1)]

    # --------------------------------------------------------------------------------------------- of the whole network

    @property
    def logits(self) -> Tensor:
        """What the model makes of the images, (B, classes)."""
        return self.forward.graph.detach()

    @property
    def grid(self) -> tuple[int, ...] | None:
        """Height and width of the grid of positions, or None."""
        return self.forward.grid(self.n)

    @property
    def score(self) -> Score:
        """Images (N, C, H, W) that are versions of the images `index` (N,) to the scores of all targets (N, K)."""
        return self._scores_by(self.cutter.forward)

    def whole_score(self, k: int) -> WholeScore:
        """Images to a target's scores (B,), with a graph."""
        score = self.forward.targets.scores[k]

        def value(images: Tensor) -> Tensor:
            logits = self.cutter.forward(images)
            with torch._C.DisableTorchFunction():  # rules are for the model, not for the target
                return scored(score, logits)

        return value

    def _scores_by(self, logits_of: Callable[[Tensor, Tensor], Tensor]) -> Score:
        def scores(inputs: Tensor, index: Tensor) -> Tensor:
            with torch.no_grad():
                logits = logits_of(inputs, index)
                return torch.stack([scored(score, logits, index) for score in self.forward.targets.scores], 1)

        return scores

    @property
    def attention(self) -> list[Tensor]:
        """The attention of all blocks, each (B, heads, N, N)."""
        return [a.detach() for a in self.forward.captured[1]]

    @functools.cached_property
    def _attention_gradients(self) -> list[list[Tensor]]:
        logits, seen = self.forward.captured
        scores = self.forward.targets.scores
        shared = "attention_reading" in self.forward.method.ingredients
        with torch.enable_grad():
            return [
                capture.gradients(scored(score, logits), seen, keep_graph=shared or k + 1 < len(scores))
                for k, score in enumerate(scores)
            ]

    def attention_gradients(self, k: int) -> list[Tensor]:
        """The gradient of a target's score on each attention."""
        return self._attention_gradients[k]

    @functools.cached_property
    def attention_reading(self) -> Tensor:
        """How much of each token the head reads, whatever the target, (B, T)."""
        logits, seen = self.forward.captured
        shared = "attention_gradients" in self.forward.method.ingredients
        with torch.enable_grad():
            best = logits.float().flatten(1).amax(1)  # (B,)
            return attention.tokens_read(capture.gradients(best, seen, keep_graph=shared))

    @functools.cached_property
    def _blocks(self) -> tuple[list[Tensor], list[list[Tensor]]]:
        stages = self.cutter.for_images(self.images).stages(BLOCKS)
        scores = [functools.partial(scored, score) for score in self.forward.targets.scores]
        grid = self.grid
        if grid is None:
            raise LayoutError("no grid of positions is known to follow attention on", "", "use another method")
        return capture.block_gradients(stages, self.images, scores, math.prod(grid))

    @property
    def block_attention(self) -> list[Tensor]:
        """The attention of every block that is scored by itself."""
        return self._blocks[0]

    def block_gradients(self, k: int) -> list[Tensor]:
        """The gradient of each block's score for a target on its attention."""
        return self._blocks[1][k]


def _of_row(score: targets.Score, index: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
    """A score of one image of a batch, as if it were the whole."""
    return score(logits, index)


def _column(scores: Score, k: int) -> Score:
    """The score of one target, (N,)."""
    return lambda inputs, index: scores(inputs, index)[:, k]


def scored(score: targets.Score, logits: Tensor, rows: Tensor | None = None) -> Tensor:
    """The score (N,), computed in float32 at least."""
    return score(working(logits), rows)
