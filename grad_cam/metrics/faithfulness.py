"""Whether the score depends on what a map marks.

The image is divided into square *units*. A map orders them, and the score is followed while they are taken away one
after another (or put back). A score is a function of perturbed images, see `methods.chunks.Score`; maps are raw and
signed, (B, h, w) for one score, (B, K, h, w) for K. All copies are made and scored in chunks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..arguments import as_maps
from ..errors import GradCamError
from ..methods.chunks import ChunkedScores, Progress, Score
from ..methods.common import working
from ..methods.regions import Fill, filled, scores_of_kept
from .maps import on_grid

UNITS = 14
"""Units along each side: those of a ViT with patches of 16 at 224 pixels."""
STEPS = 28


@torch.no_grad()
def srg(
    maps: Tensor, images: Tensor, score: Score, *, units: int = UNITS, steps: int = STEPS, fill: Fill = 0.0,
    seed: int = 0, chunk: int | None = None, progress: Progress | None = None,
) -> Tensor:  # fmt: skip
    """Symmetric relevance gain: by how much the order matters in which units are taken away.

    Args:
        maps: Raw signed maps (B, h, w), or (B, K, h, w) for K scores.
        images: Model inputs, (B, C, H, W).
        score: Scores of images, best a logit.
        units: Units along each side.
        steps: Points of each curve; 2 * steps - 1 forward passes for each map.
        fill: What is shown where a unit was, in the model's input units; best the mean colour of the data.
        seed: Seed of the order among units of the same value.
        chunk: Number of copies scored at once; None chooses by size and free memory.
        progress: Called after every chunk.

    Returns:
        Mean over the steps of the score with the least important units gone, minus that with as many of the most
        important ones gone, (B,) or (B, K), in units of the score; 0 for a map that knows nothing.

    Source:
        Bluecher et al., Decoupling Pixel Flipping and Occlusion Strategy for Consistent XAI Benchmarks, TMLR 2024,
        sec. 4.3, https://arxiv.org/abs/2401.06654
    """

    def kept(order: Tensor, counts: Tensor) -> Tensor:
        return torch.cat([_without(order, counts, units), _without(order.flip(0), counts[1:-1], units)])

    def gain(curves: Tensor) -> float:
        most, least = curves[: steps + 1], torch.cat([curves[:1], curves[steps + 1 :], curves[steps : steps + 1]])
        return float((least - most)[1:].mean())

    run = _runner(maps, images, score, 2 * steps, chunk, progress)
    return _judged(maps, images, run, kept, gain, lambda image: filled(image, fill), units, steps, seed)


@torch.no_grad()
def deletion(
    maps: Tensor, images: Tensor, score: Score, *, units: int = UNITS, steps: int = STEPS, fill: Fill = 0.0,
    seed: int = 0, chunk: int | None = None, progress: Progress | None = None,
) -> Tensor:  # fmt: skip
    """How high the score stays while the most important units are taken away: small is good.

    Args:
        maps: As for `srg`.
        images: As for `srg`.
        score: Scores of images, best a probability.
        units: As for `srg`.
        steps: Steps of the curve.
        fill: As for `srg`.
        seed: As for `srg`.
        chunk: As for `srg`.
        progress: As for `srg`.

    Returns:
        Area under the curve, (B,) or (B, K).

    Source:
        Petsiuk et al., RISE, BMVC 2018, sec. 4.2, https://arxiv.org/abs/1806.07421

    Note:
        The units are squares instead of pixels, whose removal makes patterns of its own.
    """
    run = _runner(maps, images, score, steps + 1, chunk, progress)

    def kept(order: Tensor, counts: Tensor) -> Tensor:
        return _without(order, counts, units)

    return _judged(maps, images, run, kept, _area, lambda image: filled(image, fill), units, steps, seed)


@torch.no_grad()
def insertion(
    maps: Tensor, images: Tensor, score: Score, *, units: int = UNITS, steps: int = STEPS, fill: Fill | None = None,
    seed: int = 0, chunk: int | None = None, progress: Progress | None = None,
) -> Tensor:  # fmt: skip
    """How fast the score rises while the most important units are put into a blurred image: large is good.

    Args:
        maps: As for `srg`.
        images: As for `srg`.
        score: Scores of images, best a probability.
        units: As for `srg`.
        steps: Steps of the curve.
        fill: What is shown before units are put in; None is the image, blurred.
        seed: As for `srg`.
        chunk: As for `srg`.
        progress: As for `srg`.

    Returns:
        Area under the curve, (B,) or (B, K).

    Source:
        Petsiuk et al., RISE, BMVC 2018, sec. 4.2, https://arxiv.org/abs/1806.07421 (blur: Gaussian of 5 pixels)
    """
    run = _runner(maps, images, score, steps + 1, chunk, progress)

    def kept(order: Tensor, counts: Tensor) -> Tensor:
        return ~_without(order, counts, units)

    base = _blurred if fill is None else lambda image: filled(image, fill)
    return _judged(maps, images, run, kept, _area, base, units, steps, seed)


@torch.no_grad()
def region_deletion(
    maps: Tensor, images: Tensor, score: Score, *, units: int = 7, fill: Fill = 0.0, chunk: int | None = None,
    progress: Progress | None = None,
) -> Tensor:  # fmt: skip
    """How far a map agrees with what the score loses when one region at a time is taken away.

    Args:
        maps: As for `srg`.
        images: As for `srg`.
        score: Scores of images, best a logit.
        units: Regions along each side.
        fill: As for `srg`.
        chunk: As for `srg`.
        progress: As for `srg`.

    Returns:
        Correlation over the regions of the map's mean there with the loss, -1 to 1, (B,) or (B, K); NaN where one of
        them is constant.

    Source:
        Ancona et al., ICLR 2018, sec. 3.3 (Sensitivity-n with n = 1), https://arxiv.org/abs/1711.06104
    """
    run = _runner(maps, images, score, units * units + 1, chunk, progress)
    alone = torch.cat([torch.zeros(1, units * units, dtype=torch.bool), torch.eye(units * units, dtype=torch.bool)])
    several = units_of(maps, units)  # (B,K,n)
    found = []
    for index, image in enumerate(images):
        scores = scores_of_kept(run, index, image, filled(image, fill), ~alone.unflatten(1, (units, units)))
        lost = (scores[:1] - scores[1:]).double().cpu()  # (n,K)
        _check_columns(several, lost)
        found.append([correlation(values, lost[:, k]) for k, values in enumerate(several[index])])
    return _shaped(torch.tensor(found), maps)


def completeness_gap(maps: Tensor, scores: Tensor, rest: Tensor | float = 0.0) -> Tensor:
    """How far a map's sum is from the score it claims to divide up.

    Args:
        maps: Raw signed maps, (..., h, w).
        scores: The scores, (...).
        rest: What the method assigns to anything but positions, such as biases, (...).

    Returns:
        abs(sum + rest - score) / max(1, abs(score)), (...); 0 for a map that adds up.

    Source:
        Sundararajan et al., ICML 2017, sec. 3 (completeness), https://arxiv.org/abs/1703.01365
    """
    scores = scores.double()
    return (maps.double().sum((-2, -1)) + rest - scores).abs() / scores.abs().clamp(min=1)


# ------------------------------------------------------------------------------------------------------ what they share


def units_of(maps: Tensor, units: int) -> Tensor:
    """The values of maps (B, h, w) or (B, K, h, w) in square units, float64 (B, K, units * units)."""
    if maps.ndim not in (3, 4):
        raise GradCamError("maps are (B, h, w), or (B, K, h, w) for K scores", f"{tuple(maps.shape)}")
    several = maps[:, None] if maps.ndim == 3 else maps
    return torch.from_numpy(on_grid(as_maps(several), (units, units))).flatten(2)


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of two vectors; NaN where one is constant."""
    a, b = a - a.mean(), b - b.mean()
    size = float(a.norm() * b.norm())
    return float(a @ b) / size if size > 1e-12 * max(1.0, len(a)) else math.nan


def ranked(values: Tensor, seed: int) -> Tensor:
    """Units (n,) from the most important to the least, equal ones in random order."""
    shuffled = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
    return shuffled[values[shuffled].argsort(descending=True, stable=True)]


def _runner(
    maps: Tensor, images: Tensor, score: Score, copies: int, chunk: int | None, progress: Progress | None
) -> ChunkedScores:
    if images.ndim != 4:
        raise GradCamError(
            "regions of pictures are taken away here, not of videos or volumes", f"images {tuple(images.shape)}",
            "give (B, C, H, W)",
        )  # fmt: skip
    if len(maps) != len(images):
        raise GradCamError(f"{len(maps)} maps do not belong to {len(images)} images", remedy="give one for each")
    each = maps.shape[1] if maps.ndim == 4 else 1
    return ChunkedScores(score, len(images), copies * each, images[0], chunk, progress)


def _judged(
    maps: Tensor, images: Tensor, run: ChunkedScores, kept: Callable[[Tensor, Tensor], Tensor],
    number: Callable[[Tensor], float], base: Callable[[Tensor], Tensor], units: int, steps: int, seed: int,
) -> Tensor:  # fmt: skip
    """The number that sums up the curve of each map's own score."""
    if not 1 <= steps <= units * units:
        raise GradCamError(f"steps={steps} do not fit {units * units} units", remedy="use 1 or more, at most one each")
    counts = torch.from_numpy(np.rint(np.linspace(0, units * units, steps + 1)).astype(np.int64))
    several = units_of(maps, units)  # (B,K,n)
    found: list[list[float]] = []
    for index, image in enumerate(images):
        below, row = base(image), []
        for k, values in enumerate(several[index]):
            scores = scores_of_kept(run, index, image, below, kept(ranked(values, seed), counts))
            _check_columns(several, scores)
            row.append(number(scores[:, k].double().cpu()))
        found.append(row)
    return _shaped(torch.tensor(found, dtype=torch.float64), maps)


def _check_columns(maps: Tensor, scores: Tensor) -> None:
    if maps.shape[1] != scores.shape[1]:
        raise GradCamError(
            f"{maps.shape[1]} maps an image for {scores.shape[1]} scores",
            remedy="each map is judged by the score it explains: give maps (B, K, h, w) for K scores",
        )


def _without(order: Tensor, counts: Tensor | Sequence[int], units: int) -> Tensor:
    """Which units are kept when the first of an order are taken away, bool (len(counts), units, units)."""
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    kept: Tensor = (rank >= torch.as_tensor(counts)[:, None]).unflatten(1, (units, units))
    return kept


def _area(curve: Tensor) -> float:
    return float(torch.trapezoid(curve) / (len(curve) - 1))


def _blurred(image: Tensor, sigma: float = 5.0) -> Tensor:
    """An image (C, H, W) blurred by a Gaussian, continued at its edges by its outermost pixels."""
    reach = int(2 * sigma)
    bell = torch.exp(-(torch.arange(-reach, reach + 1, device=image.device) ** 2) / (2 * sigma**2))
    bell = (bell / bell.sum()).to(working(image))
    padded = torch.nn.functional.pad(working(image)[:, None], [reach] * 4, mode="replicate")
    across = torch.nn.functional.conv2d(padded, bell[None, None, None])
    return torch.nn.functional.conv2d(across, bell[None, None, :, None])[:, 0].to(image)


def _shaped(found: Tensor, maps: Tensor) -> Tensor:
    return found if maps.ndim == 4 else found[:, 0]
