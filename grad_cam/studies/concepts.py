"""Concepts of a class: parts that its pictures share at a cut, how much each decides, and the crops that show it best.

The cut gives what concept methods need: the extractor turns crops into activations, which a non-negative factorisation
writes as a few concepts; the classifier says what becomes of the score when concepts are turned down.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..arguments import as_index
from ..engine import explain
from ..errors import GradCamError
from ..introspection import matched_to
from ..methods.factorization import Factorization, amounts_of, deep_feature_factorization
from ..outputs import Output
from .pictures import Box, Pictures

CROP = 0.5
"""Side of a crop, as a part of the picture's."""
CROPS, SOURCES, JUDGED, DESIGNS = 4, 32, 8, 16
"""Crops of a picture, pictures that are cropped, pictures on which importance is measured, and designs for each."""
LINEAR = 1e-3
"""Departure from a sum of single effects, as a part of the score's range, up to which a tail counts as linear."""

Tail = Callable[[Tensor, Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class Concept:
    """One concept of a class.

    Attributes:
        importance: The part of the variance of the class's score that vanishes with it when all concepts of a picture
            are turned down at random: its total Sobol index, mean over pictures.
        effect: By how much the score falls when it alone is taken away, mean over pictures, in units of the score.
        examples: The crops with most of it, each from another picture: the picture's number, and x0, y0, x1, y1 as
            parts of it.
    """

    importance: float
    effect: float
    examples: tuple[tuple[int, Box], ...]


@dataclasses.dataclass(frozen=True)
class Concepts:
    """The concepts of a class at a cut.

    Attributes:
        label: The class, as its folder is called.
        layer: The cut.
        concepts: The most important first.
        error: What the factorisation leaves over, as a part of the norm of the activations, 0..1.
        exact: Whether the classifier is linear in the concepts, so that importance is exact; else it is estimated.
        pictures: Number of pictures on which importance was measured.
    """

    label: str
    layer: int | str
    concepts: tuple[Concept, ...]
    error: float
    exact: bool
    pictures: int


def concepts_of(
    model: nn.Module, pictures: Pictures, label: str, index: int, members: Sequence[int], layer: int | str, *,
    count: int = 6, seed: int = 0, batch_size: int = 16, output: Output = None,
) -> Concepts:  # fmt: skip
    """Finds the concepts of a class.

    Args:
        model: The model.
        pictures: The pictures.
        label: Name of the class.
        index: Its number in the model.
        members: Numbers of pictures that show it, best those that the model takes for it.
        layer: Where to cut, as for `explain`.
        count: Number of concepts.
        seed: Seed of the crops and the designs.
        batch_size: Images at a time.
        output: As for `explain`.

    Raises:
        GradCamError: No picture, or more concepts than crops.

    Source:
        Fel et al., CRAFT, CVPR 2023, https://arxiv.org/abs/2211.10154 (crops, factorisation, Sobol indices); Jansen,
        Computer Physics Communications 117, 1999 (the estimator).

    Note:
        CRAFT splits concepts further in earlier layers; here there is one level. Activations below zero, which it
        does not meet, are lifted by each channel's minimum. What the factorisation leaves over stays as it is.
    """
    count = as_index(count, "count", least=1)
    members = list(members)[:SOURCES]
    if count > CROPS * len(members):
        raise GradCamError(
            f"{count} concepts of {label!r} cannot be found in {CROPS * len(members)} crops",
            f"{len(members)} pictures", "study more pictures, or look for fewer concepts",
        )  # fmt: skip
    places = [(i, box) for i in members for box in _boxes(i, seed)]
    rows: list[Tensor] = []

    def seen(activations: Tensor) -> Tensor:  # (B,C,h,w)
        rows.append(activations.mean((2, 3)).float())
        return activations.sum(1)

    run = functools.partial(explain, model, layer=layer, target=index, output=output)
    for start in range(0, len(places), batch_size):
        run(images=_crops(model, pictures, places[start : start + batch_size]), method=seen)
    found = deep_feature_factorization(torch.cat(rows)[:, :, None, None], concepts=count)
    judge = _Judge(found, seed)
    judged = members[:JUDGED]
    for i in judged:
        run(images=matched_to(model, pictures.images([i])), method=judge)
    importance, effect = (torch.stack(each).mean(0) for each in (judge.importance, judge.effect))
    order = importance.argsort(descending=True).tolist()
    amounts = found.maps[:, :, 0, 0]  # (crops,k)
    concepts = tuple(
        Concept(float(importance[k]), float(effect[k]), _examples(amounts[:, k], places)) for k in order
    )  # fmt: skip
    return Concepts(label, layer, concepts, found.error, all(judge.linear), len(judged))


class _Judge:
    """A method that measures, on one picture, what each concept does to the score."""

    def __init__(self, found: Factorization, seed: int) -> None:
        self.found, self.seed = found, seed
        self.importance: list[Tensor] = []
        self.effect: list[Tensor] = []
        self.linear: list[bool] = []

    def __call__(self, activations: Tensor, tail: Tail) -> Tensor:
        _, channels, height, width = activations.shape
        vectors, offset = self.found.concepts.to(activations), self.found.offset.to(activations)
        matrix = activations[0].reshape(channels, -1).T - offset  # (P,C)
        amounts = amounts_of(matrix, vectors)  # (P,k)
        parts = (amounts.T[:, :, None] * vectors[:, None]).transpose(1, 2)  # (k,C,P)
        parts = parts.reshape(len(vectors), channels, height, width)
        rest = activations[0] - parts.sum(0)

        def score(kept: Tensor) -> Tensor:  # (N,k) 0..1 to (N,)
            copies = rest + torch.einsum("nk,kchw->nchw", kept.to(parts), parts)
            return tail(copies, torch.zeros(len(kept), dtype=torch.long, device=parts.device))[:, 0].double().cpu()

        self._measure(score, len(vectors))
        return activations.sum(1)

    def _measure(self, score: Callable[[Tensor], Tensor], count: int) -> None:
        one = torch.eye(count)
        ends = score(torch.cat([torch.zeros(1, count), torch.ones(1, count), one, 1 - one]))
        nothing, whole, alone, without = ends[0], ends[1], ends[2 : 2 + count], ends[2 + count :]
        engine = torch.quasirandom.SobolEngine(2 * count, scramble=True, seed=self.seed)
        draws = engine.draw(DESIGNS)
        first, second = draws[:, :count], draws[:, count:]
        said = score(first)
        singly = nothing + first.double() @ (alone - nothing)
        reach = float((alone - nothing).abs().sum().clamp(min=1e-12))
        linear = float((said - singly).abs().max()) <= LINEAR * reach
        self.linear.append(linear)
        self.effect.append(whole - without)
        self.importance.append(
            (alone - nothing).square() / (alone - nothing).square().sum().clamp(min=1e-24) if linear
            else total_indices(score, first, second, said).clamp(max=1)  # what is over it is chance
        )  # fmt: skip


def total_indices(score: Callable[[Tensor], Tensor], first: Tensor, second: Tensor, said: Tensor) -> Tensor:
    """Total Sobol indices of a function of k numbers in 0..1, by Jansen's estimator.

    Args:
        score: From (N, k) to (N,).
        first: Designs, (n, k).
        second: Others, (n, k).
        said: The function at the first, (n,).

    Returns:
        (k,); zeros where the function does not vary.
    """
    exchanged = first.repeat(first.shape[1], 1, 1)  # (k,n,k)
    for k in range(first.shape[1]):
        exchanged[k, :, k] = second[:, k]
    others = score(exchanged.flatten(0, 1)).reshape(first.shape[1], -1)  # (k,n)
    spread = torch.cat([said, score(second)]).var()
    if float(spread) <= 1e-24 or math.isnan(float(spread)):
        return torch.zeros(first.shape[1], dtype=torch.float64)
    return (said - others).square().mean(1) / (2 * spread)


def _boxes(picture: int, seed: int) -> list[Box]:
    """Where a picture is cropped."""
    generator = torch.Generator().manual_seed(seed + 1000 * picture)
    corners = (torch.rand(CROPS, 2, generator=generator) * (1 - CROP)).tolist()
    return [(x, y, x + CROP, y + CROP) for x, y in corners]


def _crops(model: nn.Module, pictures: Pictures, places: Sequence[tuple[int, Box]]) -> Tensor:
    made = []
    for i, (x0, y0, x1, y1) in places:
        image = pictures.images([i])
        height, width = image.shape[-2:]
        part = image[:, :, round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)]
        made.append(torch.nn.functional.interpolate(part, (height, width), mode="bilinear", antialias=True))
    return matched_to(model, torch.cat(made))


def _examples(amounts: Tensor, places: Sequence[tuple[int, Box]], count: int = 4) -> tuple[tuple[int, Box], ...]:
    found: dict[int, Box] = {}
    for n in amounts.argsort(descending=True).tolist():
        picture, box = places[n]
        if picture not in found and float(amounts[n]) > 0:
            found[picture] = box
        if len(found) == count:
            break
    return tuple(found.items())
