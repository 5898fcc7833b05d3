"""Images with some of their regions taken away: random coalitions of regions, their scores, and what each region adds.

A region is a cell of a coarse grid laid over the image. A *coalition* is the set of cells that stay visible; the others
show a base, such as the mean colour.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .chunks import ChunkedScores, Progress, Score
from .common import MethodError, working
from .registry import method

Fill = float | Sequence[float]
"""What is shown where something was taken away, in the model's input units: one number, or one for each channel."""

MASKS = 192
"""Coalitions by default: 96 pairs, several for each of the 49 cells."""


def coalitions(count: int, cells: int, seed: int) -> Tensor:
    """Draws sets of cells in antithetic pairs: every set is followed by its complement.

    Args:
        count: Number of sets, even.
        cells: Cells along each side.
        seed: Seed of a generator of its own.

    Returns:
        Which cells are kept, bool (count, cells, cells). The sizes are spread evenly over 10 to 90 % of the cells.
    """
    if count < 2 or count % 2 or cells < 2:
        raise MethodError(
            "coalitions come in pairs on a grid of 2 x 2 cells or more", f"masks={count}, cells={cells}",
            "use an even number of masks",
        )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    total = cells * cells
    share = 0.1 + 0.8 * torch.rand(count // 2, 1, generator=generator)
    size = (share * total).round().clamp(1, total - 1)
    rank = torch.rand(count // 2, total, generator=generator).argsort(1).argsort(1)
    kept = rank < size  # (count/2, cells*cells)
    return torch.stack([kept, ~kept], 1).reshape(count, cells, cells)


def filled(image: Tensor, fill: Fill) -> Tensor:
    """A base of one colour for an image (C, H, W)."""
    color = torch.as_tensor(fill, dtype=image.dtype, device=image.device)
    if color.ndim > 1 or color.numel() not in (1, len(image)):
        raise MethodError(
            f"a fill is one number or one for each of the {len(image)} channels", f"fill={fill}", "0.0 is usual"
        )
    return color.reshape(-1, 1, 1).expand_as(image)


def scores_of_kept(run: ChunkedScores, index: int, image: Tensor, base: Tensor, kept: Tensor) -> Tensor:
    """Scores an image seen through masks.

    Args:
        run: What scores copies.
        index: The image's number in its batch.
        image: (C, H, W).
        base: What is seen where a cell is not kept, (C, H, W).
        kept: Which cells are kept, bool (N, h, w).

    Returns:
        Scores (N, K).
    """
    height, width = image.shape[-2:]
    rows = torch.arange(height, device=image.device) * kept.shape[1] // height
    columns = torch.arange(width, device=image.device) * kept.shape[2] // width
    scores = []
    for part in run.parts(len(kept)):
        large = kept[part].to(image.device)[:, rows][:, :, columns]  # (n,H,W)
        scores.append(run(index, torch.where(large[:, None], image, base)))
    return torch.cat(scores)


def fit(kept: Tensor, scores: Tensor) -> Tensor:
    """What each cell adds to the score, by ridge regression on which cells were kept.

    The penalty is the one of generalised cross-validation, chosen for each score.

    Args:
        kept: (N, cells).
        scores: (N, K).

    Returns:
        Weights (K, cells), in units of the score.
    """
    design, wanted = kept.double().cpu(), scores.double().cpu()
    design, wanted = design - design.mean(0), wanted - wanted.mean(0)
    u, s, vt = torch.linalg.svd(design, full_matrices=False)
    along = u.T @ wanted  # (r,K)
    penalties = torch.logspace(-1, 3, 25, dtype=torch.float64)
    shrink = s**2 / (s**2 + penalties[:, None])  # (P,r)
    rest = (wanted**2).sum(0) - (along**2).sum(0)  # (K,) what no weights can explain
    misfit = rest + (((1 - shrink)[:, :, None] * along) ** 2).sum(1)  # (P,K)
    error = misfit / (len(design) - 1 - shrink.sum(1, keepdim=True)) ** 2
    best = shrink[error.argmin(0)]  # (K,r)
    weights: Tensor = (best * along.T / s.clamp(min=1e-12)) @ vt
    return weights


@method(
    "Region regression", kind="perturbation", source="after Ribeiro et al., KDD 2016",
    link="https://arxiv.org/abs/1602.04938",
    advice="What each region adds to the score, from about 200 forward passes: the most faithful map, coarse and slow.",
)  # fmt: skip
@torch.no_grad()
def region_regression(
    images: Tensor,
    score: Score,
    progress: Progress | None = None,
    *,
    masks: int = MASKS,
    cells: int = 7,
    fill: Fill = 0.0,
    seed: int = 0,
    chunk: int | None = None,
) -> Tensor:
    """What each region adds to the score, on average over which others are visible.

    Args:
        images: Model inputs, (B, c, h, w).
        score: Scores of images.
        progress: Called after every chunk.
        masks: Number of random coalitions of regions, in antithetic pairs.
        cells: Regions along each side.
        fill: What hidden regions show, in the model's input units; 0 is the mean colour of most models.
        seed: Seed of the coalitions, drawn from a generator of its own; all images see the same ones.
        chunk: Number of masked images the network gets at once; None chooses by size and free memory.

    Returns:
        The weights of a ridge regression of the score on which regions are visible, (B, cells, cells), or
        (B, K, cells, cells) for K scores.

    Source:
        Ribeiro et al., Why Should I Trust You?, KDD 2016, sec. 3.4, https://arxiv.org/abs/1602.04938

    Note:
        Regions are squares instead of superpixels, all coalitions weigh the same, their sizes are even from 10 to
        90 % and the ridge penalty is chosen by generalised cross-validation.
    """
    kept = coalitions(masks, cells, seed)
    run = ChunkedScores(score, len(images), masks, images[0], chunk, progress)
    maps = []
    for index, image in enumerate(images):
        scores = scores_of_kept(run, index, image, filled(image, fill), kept)  # (N,K)
        maps.append(fit(kept.flatten(1), scores).unflatten(1, (cells, cells)))
    return run.shaped(torch.stack(maps).to(working(images)))
