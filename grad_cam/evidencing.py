"""How far an explanation holds, measured on the model: `evidence` in one sentence, `compare` as a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import metrics, targets
from .arguments import ArgumentTypeError
from .engine import score_function
from .errors import GradCamError
from .habits import answered
from .inputs import Inputs
from .loading.normalisation import mean_color as mean_color
from .methods.chunks import ChunkedScores
from .methods.regions import coalitions, filled, scores_of_kept
from .outputs import Output
from .predictions import percentage
from .requests import Target
from .results import Explanation

SHARE = 0.2
_UNITS, _CELLS = 14, 7
_REGIONS, _COALITIONS, _RANDOM_MAPS = 9, 28, 1000
FORWARDS = 3 + _REGIONS + _COALITIONS
"""Forward passes of one image that `evidence` takes: 40."""


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Whether the score depends on what one map marks; `print` shows the sentence.

    Attributes:
        share: The part of the picture that is marked: where the map is highest.
        score: Of the image as it is.
        without: The score with the marked part taken away.
        without_random: The scores with regions of the same size and shape taken away elsewhere.
        agreement: Correlation, over random coalitions of regions, of the map's visible mass with the score.
        beats: The part of random maps that agree less.
    """

    share: float
    score: float
    without: float
    without_random: tuple[float, ...]
    agreement: float
    beats: float

    @property
    def random(self) -> float:
        """The mean score without a random region."""
        return sum(self.without_random) / len(self.without_random)

    @property
    def weakness(self) -> str | None:
        """Why the evidence is weak, or None."""
        if self.share == 0:
            return "the map is nowhere positive and marks nothing"
        reasons = []
        as_good = sum(other <= self.without for other in self.without_random)
        if self.without >= self.score:
            reasons.append("the score does not depend on the marked part")
        elif as_good > len(self.without_random) // 8:
            reasons.append(f"{as_good} of {len(self.without_random)} random regions matter as much")
        if not self.beats >= 0.95:
            reasons.append("random maps do as well" if self.beats > 0 else "every random map does better")
        return " and ".join(reasons) or None

    @property
    def sentence(self) -> str:
        """The figures in one sentence, and a plain second one where they are weak."""
        if self.share == 0:
            return f"Weak evidence: {self.weakness}."
        verb = "lowers" if self.without < self.score else "does not lower" if self.without == self.score else "raises"
        other = "lowers" if self.random < self.score else "raises"
        score, without, random = (f"{value:.{self._digits}f}" for value in (self.score, self.without, self.random))
        text = (
            f"Removing the marked {percentage(self.share)} {verb} the score from {score} to {without}; a random region "
            f"of the same size {other} it to {random}; the map beats {percentage(self.beats)} of random maps."
        )
        return text if self.weakness is None else f"{text} Weak evidence: {self.weakness}."

    @property
    def _digits(self) -> int:
        """Digits after the point with which differences can be seen: 1, more for small scores."""
        spread = max(abs(self.score), abs(self.score - self.without), 1e-6)
        return 1 if spread >= 2 else 2 if spread >= 0.2 else 4

    def __str__(self) -> str:
        return self.sentence

    def as_dict(self) -> dict[str, Any]:
        """The figures and the sentence, for programs."""
        return {**dataclasses.asdict(self), "weakness": self.weakness, "sentence": self.sentence}


@torch.no_grad()
@answered
def evidence(
    model: nn.Module, explanation: Explanation, image: int = 0, target: int = 0, *, explained: Target = None,
    output: Output = None, inputs: Inputs = None, share: float = SHARE, seed: int = 0, chunk: int | None = None,
) -> Evidence:  # fmt: skip
    """Asks the model whether the score depends on what a map marks.

    The marked part is replaced by the mean colour, then parts of the same size and shape elsewhere; 28 random
    coalitions of regions judge the map against 1000 random ones. That takes 40 forward passes of an image at most,
    whatever the method and the layer.

    Args:
        model: The model that was explained; a result holds none.
        explanation: The result of `explain`.
        image: Which image of the batch.
        target: Which of its targets.
        explained: What was explained, as it was given to `explain`; not needed for classes.
        output: As for `explain`.
        inputs: As for `explain`.
        share: The part of the picture to mark, between 0 and 1: where the map is highest, and positive.
        seed: Of the random regions, coalitions and maps.
        chunk: Number of copies scored at once; None chooses by size and free memory.

    Returns:
        A frozen `Evidence`.

    Raises:
        GradCamError: The explanation is not about a class and `explained` is not given, or there is no such image.
    """
    if not isinstance(explanation, Explanation):
        given = type(explanation).__name__
        raise ArgumentTypeError(
            "evidence takes a model and an Explanation", given, "write evidence(model, explanation)"
        )
    _require_pictures(explanation.images)
    if not 0 < share < 1:
        raise GradCamError(f"share={share} is not a part of the picture", remedy="use a number between 0 and 1")
    one = torch.from_numpy(explanation.on_picture(image, target)).float()
    score = score_function(model, explanation.images, _target_of(explanation, explained), output=output, inputs=inputs)
    picture = explanation.images[image]
    marked = _marked(one, share, seed)
    cells = coalitions(_COALITIONS, _CELLS, seed)
    fine = cells.repeat_interleave(_UNITS // _CELLS, 1).repeat_interleave(_UNITS // _CELLS, 2)
    kept = torch.cat([torch.ones_like(marked)[None], ~marked[None], ~_elsewhere(marked, _REGIONS, seed), fine])
    run = ChunkedScores(score, 1, len(kept), picture, chunk, None)
    base = filled(picture, mean_color(explanation.seen.preprocessing))
    scores = scores_of_kept(run, image % len(explanation.images), picture, base, kept)[:, target].cpu()
    bank = metrics.Bank(cells, scores[None, 2 + _REGIONS :, None])
    agreement = float(bank.judge_many(one[None])[0])
    others = bank.judge_many(metrics.random_maps(_RANDOM_MAPS, _CELLS, seed))
    beats = float((others < agreement).double().mean())
    whole, without, *elsewhere = scores[: 2 + _REGIONS].tolist()
    return Evidence(float(marked.double().mean()), whole, without, tuple(elsewhere), agreement, beats)


def evidence_of_all(
    model: nn.Module, explanations: Sequence[Explanation], *, explained: Target = None, output: Output = None
) -> dict[tuple[int, int, int], Evidence]:
    """The evidence for every map, by number of the explanation, image and target; arguments as for `evidence`."""
    return {
        (n, b, k): evidence(model, e, b, k, explained=explained, output=output)
        for n, e in enumerate(explanations)
        for b, names in enumerate(e.target)
        for k in range(len(names))
    }


def compare(
    model: nn.Module, explanations: Mapping[str, Explanation | Tensor], *, images: Tensor | None = None,
    target: Target = None, output: Output = None, inputs: Inputs = None, **options: Any,
) -> metrics.Comparison:  # fmt: skip
    """Measures explanations of the same images and class beside two controls; see `metrics.compare`.

    Args:
        model: The model that was explained.
        explanations: For each name an explanation of one target, or maps (B, h, w).
        images: The images; by default those of the first explanation.
        target: What was explained, as it was given to `explain`; by default the classes of the first explanation.
        output: As for `explain`.
        inputs: As for `explain`.
        **options: Those of `metrics.compare`: boxes, measures, units, steps, masks, cells, seed, chunk, progress.
    """
    first = next((each for each in explanations.values() if isinstance(each, Explanation)), None)
    if first is None:
        raise GradCamError("there is no Explanation to compare", remedy="give one at least; the controls are added")
    images = first.images if images is None else images
    _require_pictures(images)
    wanted = _target_of(first, target)
    if first.classes is not None and "probability" not in options:
        classes = [targets.probability(int(row[0])) for row in first.classes]
        options["probability"] = score_function(model, images, classes, output=output, inputs=inputs)
    options.setdefault("fill", mean_color(first.seen.preprocessing))
    maps = {name: _shown(each) for name, each in explanations.items()}
    return metrics.compare(maps, images, score_function(model, images, wanted, output=output, inputs=inputs), **options)


def _shown(each: Explanation | Tensor) -> Explanation | Tensor:
    """Maps as they lie on the pictures, where the model pads these."""
    if not isinstance(each, Explanation) or each.part is None or each.map.ndim != 3:
        return each
    return torch.stack([torch.from_numpy(each.on_picture(b)).float() for b in range(len(each.map))])


def _require_pictures(images: Tensor) -> None:
    """Raises GradCamError for videos and volumes, whose regions nothing here takes away."""
    if images.ndim != 4:
        raise GradCamError(
            "evidence takes regions of a picture away, and these are videos or volumes",
            f"images {tuple(images.shape)}", "compare scores of changed clips in a loop of your own",
        )  # fmt: skip


def _target_of(explanation: Explanation, explained: Target) -> Target:
    """The target that an explanation is of."""
    if explained is not None:
        return explained
    if not explanation.is_of_classes:
        raise GradCamError(
            "what was explained is not the score of a class, and a result holds no target",
            explanation.target[0][0], "give it again: explained=..., as it was given to explain",
        )  # fmt: skip
    assert explanation.classes is not None
    return explanation.classes.tolist()


def _marked(one: Tensor, share: float, seed: int) -> Tensor:
    """The units where a map (h, w) is highest and positive, bool (units, units)."""
    values = metrics.units_of(one[None], _UNITS)[0, 0]
    order = metrics.ranked(values, seed)[: max(1, round(share * len(values)))]
    marked = torch.zeros(len(values), dtype=torch.bool)
    marked[order] = values[order] > 0
    return marked.reshape(_UNITS, _UNITS)


def _elsewhere(marked: Tensor, count: int, seed: int) -> Tensor:
    """Regions of the same shape, shifted and mirrored at random, bool (count, units, units)."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        down, right = torch.randint(_UNITS, (2,), generator=generator).tolist()
        flips = [axis for axis in (0, 1) if torch.rand(1, generator=generator) < 0.5]
        found.append(marked.flip(flips).roll((down, right), (0, 1)))
    return torch.stack(found)
