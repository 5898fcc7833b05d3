"""From decoded batches to rows: the callable that every engine runs, on one machine or many."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..engine import explain
from ..errors import GradCamError
from ..evidencing import evidence_of_all
from ..loading import ClassNames, class_names
from ..methods.chunks import out_of_memory
from ..rendering import Display
from ..results import Explanation
from .decoding import Batch, Facts, Failed, reason
from .kinds import Input
from .needs import RunError
from .rows import Row, failed_row, rows_of

OVERLAY = "overlay"
"""The key of a row under which its overlay is, as JPEG; it is no column."""

FEW = 4
"""Images that a CPU of few cores explains at a time, see `fitting`."""

Notify = Callable[[str], None]
"""Called with what the owner of a run should know, in one sentence."""


@dataclasses.dataclass(frozen=True)
class Question:
    """The request for every input: what is explained, and how.

    Attributes:
        layer: Layers, as for `explain`; one explanation for each.
        target: As for `explain`, the same for every input; a list is several targets of each.
        method: As for `explain`.
        of_class: Explain the class that the source gives, where it gives one that the model knows.
        evidence: Ask the model how far each map holds.
        options: The other arguments of `explain`.
    """

    layer: Any = None
    target: Any = None
    method: Any = "grad_cam"
    of_class: bool = False
    evidence: bool = False
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def target_of(self, facts: Sequence[Facts]) -> Any:
        """The target of a batch, as `explain` takes it."""
        if self.of_class:
            return [one.class_index for one in facts]
        return [list(self.target)] * len(facts) if isinstance(self.target, (list, tuple)) else self.target

    def __post_init__(self) -> None:
        if self.of_class and self.target is not None:
            raise GradCamError("of_class=True and target contradict each other", remedy="give one of them")


def fitting(model: nn.Module) -> int | None:
    """How many images a model explains at a time where that is left open: on a CPU few, on a GPU all of a batch.

    What a layer computes of many images does not stay in a processor's caches, and is memory fetched from the system
    again and again: in one thread of an AMD EPYC maps of EfficientNet-B0 take 56 ms each with 16 at a time and 41 ms
    with 4. On the fast path numbers are half as long, and 16 at a time are quicker (21 ms; 26 ms with 4).
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return max(FEW, torch.get_num_threads()) if device.type == "cpu" else None


class Explainer:
    """Explains batches of decoded inputs.

    A batch that does not fit into memory is halved, and later ones are made no larger. A batch that fails otherwise is
    tried image by image, so that only those that fail have no map.

    Args:
        model: The model.
        question: What is asked.
        notify: Called with what the owner should know.
        overlays: How overlays are drawn that every row gets as `OVERLAY`; None for none.
        most: Images explained at a time at most; None for all of a batch.
    """

    def __init__(
        self, model: nn.Module, question: Question, notify: Notify, overlays: Display | None = None,
        most: int | None = None,
    ) -> None:  # fmt: skip
        self.model: nn.Module = model
        self.question: Question = question
        self.notify: Notify = notify
        self.overlays: Display | None = overlays
        self.labels: ClassNames | None = class_names(model)
        self.asked: nn.Module = model
        self.asked_as: Callable[[Question], Question] = lambda question: question
        self.named: Callable[[list[Explanation]], list[Explanation]] = lambda found: found
        self.most: int | None = most

    def __call__(self, batch: Batch) -> list[Row]:
        """The rows of a batch, in the order of its inputs."""
        made: dict[int, list[Row]] = {one.input.number: [failed_row(one)] for one in batch.failed}
        for images, facts in batch.groups:
            for one, rows in zip(facts, self.rows(images, facts), strict=True):
                made[one.input.number] = rows
        return [row for number in batch.numbers for row in made[number]]

    def rows(self, images: Tensor, facts: Sequence[Facts]) -> list[list[Row]]:
        """The rows of each of the images (B, C, H, W)."""
        found: list[list[Row]] = []
        while len(found) < len(images):
            start = len(found)
            stop = min(len(images), start + (self.most or len(images)))
            found += self._tried(images[start:stop], facts[start:stop])
        return found

    def _tried(self, images: Tensor, facts: Sequence[Facts]) -> list[list[Row]]:
        try:
            return self._explained(images, facts)
        except Exception as error:
            short = out_of_memory(error)
            failure = f"out of memory: {reason(error)}" if short else reason(error)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(images) == 1:
            return [[failed_row(Failed(facts[0].input, failure))]]
        if short:
            self.most = len(images) // 2
            self.notify(f"{failure[:100]}; from here on {self.most} images are explained at a time")
            return self.rows(images, facts)
        return [row for b in range(len(images)) for row in self._tried(images[b : b + 1], facts[b : b + 1])]

    def _explained(self, images: Tensor, facts: Sequence[Facts]) -> list[list[Row]]:
        q = self.question
        target = q.target_of(facts)
        found = self.named(explained(self.asked, images, self.asked_as(q), target))
        judged = {}
        if q.evidence:
            judged = evidence_of_all(self.model, found, explained=target, output=q.options.get("output"))
        rows = rows_of(found, facts, self.labels, judged)
        if self.overlays is not None:
            self._draw(found, rows, self.overlays)
        return rows

    @staticmethod
    def _draw(found: Sequence[Explanation], rows: list[list[Row]], display: Display) -> None:
        for b, of_image in enumerate(rows):
            maps = [(e, k) for e in found for k in range(len(e.target[b]))]
            for row, (e, k) in zip(of_image, maps, strict=True):
                buffer = io.BytesIO()
                display.overlay(e.pictures[b], e.on_picture(b, k)).save(buffer, "JPEG", quality=90)
                row[OVERLAY] = buffer.getvalue()


def explained(model: nn.Module, images: Tensor, question: Question, target: Any) -> list[Explanation]:
    """The explanations of a batch, one for each layer."""
    where = {} if question.layer is None else {"layer": question.layer}
    found: Any = explain(model, images, target=target, method=question.method, **where, **question.options)
    return found if isinstance(found, list) else [found]


def probed(model: nn.Module, images: Tensor, question: Question) -> Question:
    """Tries the question on one image; what does not fit the model is said before anything is written.

    Returns:
        The question with the layers it was answered at, so that all batches are explained at the same.
    """
    found = explained(model, images, question, question.target_of([Facts(Input(0, ""))]))
    if any(e.map.ndim - 1 - (e.map.ndim == 4) != 2 for e in found):
        raise RunError("a run keeps maps (h, w)", f"{found[0].method} gives {tuple(found[0].map.shape)}")
    if question.layer is not None or found[0].layer.name in ("the input", "the whole network"):
        return question
    return dataclasses.replace(question, layer=found[0].layer.name)
