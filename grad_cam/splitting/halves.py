"""The stages between cuts, made of a model's own modules and the operations between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SplitError, message_of
from ..inputs import Wiring
from .align import Unaligned, align
from .evalcopy import EvalCopy
from .layers import Layers
from .log import Call, Ref
from .operations import refreshed
from .plan import Border, Cut, Plan, Unrepeatable
from .stages import Cloned, StageBuilder, Stages


class Halves(Layers):
    """Makes modules of what lies between two cuts."""

    def halves(self, cut: Cut, original: bool = False) -> tuple[Stages, Stages]:
        """The extractor and the classifier at a cut, for any number of images.

        Args:
            cut: Where.
            original: Made of the user's own modules instead of the copy's.

        Raises:
            SplitError: They cannot be had, or do not reproduce the model.
        """
        copy, self._lent = self.copy, True
        self.align()
        crossing = {cut.value, *cut.context}
        for step in self.record.plan.steps(cut.position, len(self.record.plan.log.events)):
            if step.func is refreshed and len(crossing) > 1 and step.reads[0] in crossing:
                raise Unrepeatable(
                    f"tensors that cross the cut after '{cut.name}' share memory that is written to later", "",
                    "choose a layer before or after it",
                )  # fmt: skip
        borders = self.borders
        before = [b for b in borders if b.position < cut.position and b.value != cut.value]
        after = [b for b in borders if b.position > cut.position]
        after = [b for b in after if b.value != cut.value or b.position >= len(self.record.plan.log.events)]
        names = [*[b.name for b in before], cut.name if cut.name not in {b.name for b in before} else f"{cut.name}:"]
        ends = [b.position for b in before] + [cut.position] + [b.position for b in after]
        modules = self._build([0, *ends], [None, *before, cut, *after], copy, original)
        k = len(before) + 1
        first = Stages(list(zip(names, modules[:k], strict=True)))
        last = Stages(list(zip(_unlike([b.name for b in after], names), modules[k:], strict=True)))
        training = self.model.training if original else False
        first.training = last.training = training
        return first, last

    def chain(self, original: bool = True) -> list[tuple[str, nn.Module]]:
        """The named stages of the chain."""
        self.align()
        copy, self._lent = self.copy, True
        borders = self.borders
        ends = [0, *[b.position for b in borders]]
        modules = self._build(ends, [None, *borders], copy, original)
        return list(zip([b.name for b in borders], modules, strict=True))

    def stages(self, depth: int) -> list[nn.Module]:
        """The stages of a depth, made of the copy's modules, for the number of images at hand."""
        self.record_this_size()
        borders = self.borders_at(depth)
        ends = [0, *[b.position for b in borders]]
        copy, self._lent = self.copy, True
        return self._build(ends, [None, *borders], copy, None)

    def _build(
        self, positions: Sequence[int], ends: Sequence[Cut | Border | None], copy: EvalCopy, original: bool | None
    ) -> list[nn.Module]:
        """The stages between positions; the last position may be the end, whose value are the logits.

        Args:
            positions: n + 1 positions.
            ends: What crosses at the first n or n + 1 of them (None: the images; missing: the logits).
            copy: Where modules and tensors come from.
            original: Whether the user's own are used; None: without numbers that follow the batch.
        """
        plan, log = self.record.plan, self.record.plan.log
        scaled = {} if original is None else self.record.aligned or {}
        builder = StageBuilder(
            copy.originals if original else copy.modules, copy.theirs if original else copy.own, scaled,
            log.ambient, log.device_type, copy.constants,
        )  # fmt: skip

        def crossing(i: int) -> list[Ref]:
            if i >= len(ends) or positions[i] >= len(log.events):
                return [log.logits]
            end = ends[i]
            if end is None:
                return [Ref(0)]
            return [end.value, *end.context] if isinstance(end, Cut) else [end.value]

        modules = []
        for i in range(len(positions) - 1):
            inputs, outputs = crossing(i), crossing(i + 1)
            whole = () if original is None else self.record.whole
            program = plan.program(positions[i], positions[i + 1], [r for r in outputs if r not in inputs], whole)
            parts = [(plan.number(part), part, plan.rebound(part) if type(part) is Call else []) for part in program]
            self._require_available(parts, inputs, ends[i].name if i and ends[i] is not None else "")  # type: ignore[union-attr]
            axis = self._batch_axis(inputs) if any(number in scaled for number, _, _ in parts) else None
            training = self.model.training if original else False
            made = builder.build(parts, inputs, outputs, axis, training)
            if i == 0 and inputs == [Ref(0)] and original is False and Ref(0) in plan.overwritten:
                made = nn.Sequential(Cloned(), made)
            modules.append(made)
        return modules

    def _require_available(self, parts: Sequence[Any], inputs: list[Ref], name: str) -> None:
        log = self.record.plan.log
        known = set(inputs)
        for _, part, rebound in parts:
            missing = [r for r in part.reads if r not in known and log.depends[r]]
            if missing:
                raise Unrepeatable(
                    f"what follows the cut after '{name}' reads a tensor that does not cross it",
                    "",
                    "choose another layer",
                )
            known.update(r for r in part.outs if r is not None)
            known.update(new for _, new in (rebound if type(part) is Call else part.changed))

    def _batch_axis(self, inputs: list[Ref]) -> tuple[int, int, int, int]:
        """Where the number of images can be read off the inputs."""
        log, shapes = self.record.plan.log, self.record.other_shapes
        count = shapes[Ref(0)][0]
        for which, ref in enumerate(inputs):
            one, two = log.shapes[ref], shapes.get(ref, ())
            for axis, (a, b) in enumerate(zip(one, two, strict=False)):
                if len(one) == len(two) and a != b and a * count == b * log.batch:
                    return which, axis, a, log.batch
        raise Unrepeatable("the number of images cannot be read off what crosses a cut", "", "choose another layer")

    def references(self) -> list[tuple[Tensor, Tensor]]:
        """Batches of two sizes with the logits that the model gave for them when it was recorded.

        One where further inputs have a row for each image.
        """
        self.align()
        recording = self.values()
        if isinstance(self.output, Wiring) and self.output.by_image:  # they belong to these images
            return [(self.images, recording.logits)]
        if self._reference is None:
            images = _another_batch(self.images)
            self._reference = images, self.recorded(images).logits
        return [(self.images, recording.logits), self._reference]

    def align(self) -> None:
        """Records the model at another batch size and finds the numbers that follow the batch.

        Raises:
            Unaligned: The forward does something else for another number of images.
        """
        if self.record.aligned is not None:
            return
        self.record_this_size()
        if isinstance(self.output, Wiring) and self.output.by_image:  # constants of this number of images
            self.record.aligned = {}
            return
        images = _another_batch(self.images)
        try:
            other = self.recorded(images)
        except SplitError:
            raise
        except Exception as error:
            raise Unaligned(
                f"its forward fails for {len(images)} instead of {len(self.images)} images",
                f"{type(error).__name__}: {message_of(error, 200)}",
                "explain() with gradient methods works for these images; for split() and perturbation methods make the "
                "forward take any number of images",
            ) from error
        try:
            found = align(self.record.plan, Plan(other.log))
        except Unaligned:  # a cache that the first pass filled: what it kept is a constant for every later one
            self._again()
            found = align(self.record.plan, Plan(other.log))
        self.record.aligned, self.record.other_shapes, self.record.whole = found
        self._reference = images, other.logits


def _another_batch(images: Tensor) -> Tensor:
    """A batch of another size and other content."""
    if len(images) == 1:
        return torch.cat([images.flip(-1), images.flip(-1).roll(1, -1)])
    return images[:1].flip(-1)


def _unlike(names: Sequence[str], taken: Sequence[str]) -> list[str]:
    seen = set(taken)
    found = []
    for name in names:
        while name in seen:
            name = f"{name}:"
        seen.add(name)
        found.append(name)
    return found
