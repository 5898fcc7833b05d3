"""Maps from how a score changes when something is taken away.

A method here receives activations or images together with a function that scores perturbed copies of them, never the
model: the *tail*, from activations at the cut to scores, which is all that `ablation_cam` and `activation_occlusion`
need, or the whole network, from images to scores (see `chunks.Score`). A score may have K columns: then K maps come
out of one run, (B, K, H, W) instead of (B, H, W).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .chunks import COPIES, ChunkedScores, Progress, Score, scores_of_edited
from .common import working
from .registry import method

# --------------------------------------------------------------------------------------------------- from the tail


@method(
    "Ablation-CAM", kind="perturbation", source="Desai and Ramaswamy, WACV 2020",
    link="https://doi.org/10.1109/WACV45572.2020.9093360",
    advice="No gradients: what the score loses without each channel; fast at late layers.",
)  # fmt: skip
@torch.no_grad()
def ablation_cam(
    activations: Tensor, tail: Score, progress: Progress | None = None, *, chunk: int | None = None
) -> Tensor:
    """Channels weighted by the share of the score that is lost without them.

    Args:
        activations: A at the cut, (B, C, H, W).
        tail: Scores of activations.
        progress: Called after every chunk.
        chunk: Number of ablated copies the tail gets at once; None chooses by size and free memory.

    Returns:
        sum_k w_k A_k with w_k = (y - y without channel k) / abs(y), (B, H, W), or (B, K, H, W) for K scores.

    Source:
        Desai and Ramaswamy, WACV 2020, eq. 2-3, https://doi.org/10.1109/WACV45572.2020.9093360

    Note:
        Where the score y is zero the plain difference is taken.
    """
    batch, channels = activations.shape[:2]
    run = ChunkedScores(tail, batch, 1 + channels, activations[0], chunk, progress, copies=8)

    weights = []
    for image in range(batch):
        whole = run(image, activations[image : image + 1])  # (1,K)
        lost = whole - scores_of_edited(run, image, activations[image], channels, lambda k: (k,), 0.0)  # (C,K)
        weights.append(lost / torch.where(whole == 0, torch.ones_like(whole), whole.abs()))
    return run.shaped(torch.einsum("bck,bchw->bkhw", torch.stack(weights), working(activations)))


@method(
    "Activation occlusion", kind="perturbation", source="after Zeiler and Fergus, ECCV 2014",
    link="https://arxiv.org/abs/1311.2901",
    advice="What the score loses without each position: the most literal map, cheap at late layers.",
)  # fmt: skip
@torch.no_grad()
def activation_occlusion(
    activations: Tensor,
    tail: Score,
    progress: Progress | None = None,
    *,
    window: int = 1,
    stride: int = 1,
    chunk: int | None = None,
) -> Tensor:
    """What the score loses when the positions under a sliding window are zeroed in all channels at the cut.

    Args:
        activations: A at the cut, (B, C, H, W).
        tail: Scores of activations.
        progress: Called after every chunk.
        window: Side of the square window, in positions.
        stride: Step of the window, in positions, at most `window`.
        chunk: Number of occluded copies the tail gets at once; None chooses by size and free memory.

    Returns:
        Mean of y - y(occluded) over the windows that cover a position, (B, H, W), or (B, K, H, W) for K scores.

    Source:
        Zeiler and Fergus, ECCV 2014, sec. 4.2, https://arxiv.org/abs/1311.2901

    Note:
        The paper occludes the picture (see `occlusion`); at the cut only the tail has to be run.
    """
    return _sliding(activations, tail, window, stride, 0.0, chunk, progress, copies=8)


# ---------------------------------------------------------------------------------------------- from masked images


@method(
    "Score-CAM", kind="perturbation", source="Wang et al., CVPR Workshops 2020",
    link="https://arxiv.org/abs/1910.01279",
    advice="No gradients, but one forward pass a channel; channels=64 is much faster and close to it.",
)  # fmt: skip
@torch.no_grad()
def score_cam(
    activations: Tensor,
    images: Tensor,
    score: Score,
    progress: Progress | None = None,
    *,
    channels: int | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Channels weighted by the score of the image seen through them.

    Args:
        activations: A at the cut, (B, C, H, W).
        images: Model inputs, (B, c, h, w).
        score: Scores of images.
        progress: Called after every chunk.
        channels: Number of channels to use, those whose activation varies most over the picture (standard deviation);
            None uses all.
        chunk: Number of masked images the network gets at once; None chooses by size and free memory.

    Returns:
        sum_k w_k A_k with w = softmax_k y(x * M_k), M_k the channel resized to the image and scaled to 0..1,
        (B, H, W), or (B, K, H, W) for K scores.

    Source:
        Wang et al., CVPR Workshops 2020, eq. 6-9, https://arxiv.org/abs/1910.01279; the choice of channels: Li et al.,
        ICIP 2021 (Faster Score-CAM), https://doi.org/10.1109/ICIP42928.2021.9506287

    Note:
        The baseline score that the paper subtracts is the same for all channels, so softmax does not see it; it is
        not computed. Constant channels have the mask 0 and share one forward pass.
    """
    return _masked(activations, images, score, [_as_it_is], channels, chunk, progress)


@method(
    "SS-CAM", kind="perturbation", source="Wang et al., 2020", link="https://arxiv.org/abs/2006.14255",
    advice="Score-CAM averaged over noisy masks; slow.",
)  # fmt: skip
@torch.no_grad()
def ss_cam(
    activations: Tensor,
    images: Tensor,
    score: Score,
    progress: Progress | None = None,
    *,
    samples: int = 10,
    noise: float = 2.0,
    seed: int = 0,
    channels: int | None = 64,
    chunk: int | None = None,
) -> Tensor:
    """Score-CAM with the scores averaged over noisy masks.

    Args:
        activations: A at the cut, (B, C, H, W).
        images: Model inputs, (B, c, h, w).
        score: Scores of images.
        progress: Called after every chunk.
        samples: Number n of noisy copies of every mask.
        noise: Standard deviation of the noise d added to the masks, whose values lie in 0..1.
        seed: Seed of the noise, drawn from a generator of its own.
        channels: Number of channels to use (see `score_cam`); None uses all.
        chunk: Number of masked images the network gets at once; None chooses by size and free memory.

    Returns:
        sum_k w_k A_k with w = softmax_k of mean_i y(x * (M_k + d_i)), (B, H, W), or (B, K, H, W) for K scores.

    Source:
        Wang et al., 2020, "SS-CAM: Smoothed Score-CAM", the variant that smooths the feature map,
        https://arxiv.org/abs/2006.14255

    Note:
        All channels and images see the same n noise pictures, so that channels are compared under equal conditions
        and the result does not depend on how the work is cut into chunks.
    """
    if samples < 1:
        raise ValueError(f"samples={samples} leaves nothing to average: use 1 or more")
    generator = torch.Generator().manual_seed(seed)
    drawn = noise * torch.randn(samples, 1, *images.shape[2:], generator=generator)  # (n,1,h,w)
    drawn = drawn.to(device=images.device, dtype=working(images).dtype)
    changes = [functools.partial(torch.add, each) for each in drawn]  # (1,h,w) + (n,h,w)
    return _masked(activations, images, score, changes, channels, chunk, progress)


@method(
    "IS-CAM", kind="perturbation", source="Naidu et al., 2020", link="https://arxiv.org/abs/2010.03023",
    advice="Score-CAM averaged over growing masks, for saturated scores; slow.",
)  # fmt: skip
@torch.no_grad()
def is_cam(
    activations: Tensor,
    images: Tensor,
    score: Score,
    progress: Progress | None = None,
    *,
    steps: int = 10,
    channels: int | None = 64,
    chunk: int | None = None,
) -> Tensor:
    """Score-CAM with the scores averaged while the masks grow from zero to what they are.

    Args:
        activations: A at the cut, (B, C, H, W).
        images: Model inputs, (B, c, h, w).
        score: Scores of images.
        progress: Called after every chunk.
        steps: Number n of points on the way.
        channels: Number of channels to use (see `score_cam`); None uses all.
        chunk: Number of masked images the network gets at once; None chooses by size and free memory.

    Returns:
        sum_k w_k A_k with w = softmax_k of mean_i y(x * M_k * i/n), i = 1..n, (B, H, W), or (B, K, H, W) for K
        scores.

    Source:
        Naidu et al., 2020, "IS-CAM: Integrated Score-CAM", https://arxiv.org/abs/2010.03023
    """
    if steps < 1:
        raise ValueError(f"steps={steps} leaves nothing to average: use 1 or more")
    changes = [functools.partial(torch.mul, other=(i + 1) / steps) for i in range(steps)]
    return _masked(activations, images, score, changes, channels, chunk, progress)


@method(
    "Occlusion", kind="perturbation", source="Zeiler and Fergus, ECCV 2014", link="https://arxiv.org/abs/1311.2901",
    advice="Covers the picture square by square: easy to explain to anyone, a check on the other methods.",
)  # fmt: skip
@torch.no_grad()
def occlusion(
    images: Tensor,
    score: Score,
    progress: Progress | None = None,
    *,
    window: int | None = None,
    stride: int | None = None,
    fill: float = 0.0,
    chunk: int | None = None,
) -> Tensor:
    """What the score loses when a square of the image is covered.

    Args:
        images: Model inputs, (B, c, h, w).
        score: Scores of images.
        progress: Called after every chunk.
        window: Side of the square in pixels; by default a seventh of the image's shorter side.
        stride: Step of the square in pixels, at most `window`; by default half of it.
        fill: Value of the square in the model's input units; 0 is the mean colour of most models.
        chunk: Number of covered images the network gets at once; None chooses by size and free memory.

    Returns:
        Mean of y - y(covered) over the squares that cover a pixel, (B, h, w), or (B, K, h, w) for K scores.

    Source:
        Zeiler and Fergus, ECCV 2014, sec. 4.2, https://arxiv.org/abs/1311.2901
    """
    window = max(1, min(images.shape[-2:]) // 7) if window is None else window
    stride = max(1, window // 2) if stride is None else stride
    return _sliding(images, score, window, stride, fill, chunk, progress, copies=COPIES)


@method(
    "RISE", kind="perturbation", source="Petsiuk et al., BMVC 2018", link="https://arxiv.org/abs/1806.07421",
    advice="Needs scores only; best with a probability as target, noisy with few masks.",
)  # fmt: skip
@torch.no_grad()
def rise(
    images: Tensor,
    score: Score,
    progress: Progress | None = None,
    *,
    masks: int = 1000,
    cells: int = 7,
    keep: float = 0.5,
    seed: int = 0,
    chunk: int | None = None,
) -> Tensor:
    """Random masks, averaged with the scores of the images seen through them.

    Args:
        images: Model inputs, (B, c, h, w).
        score: Scores of images, best a probability.
        progress: Called after every chunk.
        masks: Number N of random masks; the noise of the map falls with its root.
        cells: Number of cells along each side of the coarse random grid.
        keep: Probability p that a cell is left visible.
        seed: Seed of the masks, drawn from a generator of its own; all images see the same ones.
        chunk: Number of masked images the network gets at once; None chooses by size and free memory.

    Returns:
        sum_i y(x * M_i) M_i / (N p), (B, h, w), or (B, K, h, w) for K scores.

    Source:
        Petsiuk et al., BMVC 2018, eq. 6 and sec. 3.2, https://arxiv.org/abs/1806.07421
    """
    if masks < 1 or cells < 1 or not 0 < keep <= 1:
        raise ValueError(f"rise needs masks >= 1, cells >= 1 and 0 < keep <= 1; got {masks=}, {cells=}, {keep=}")
    batch, _, height, width = images.shape
    generator = torch.Generator().manual_seed(seed)
    grids = (torch.rand(masks, 1, cells, cells, generator=generator) < keep).float()
    ch, cw = -(-height // cells), -(-width // cells)  # a cell in pixels
    shifts = (torch.rand(masks, 2, generator=generator) * torch.tensor([ch, cw])).long().tolist()
    like = working(images)
    run = ChunkedScores(score, batch, masks, images[0], chunk, progress)
    maps: Tensor | None = None
    for image in range(batch):
        for part in run.parts(masks):
            large = functional.interpolate(
                grids[part].to(like), ((cells + 1) * ch, (cells + 1) * cw), mode="bilinear", align_corners=False
            )
            seen = torch.stack(
                [one[0, y : y + height, x : x + width] for one, (y, x) in zip(large, shifts[part], strict=True)]
            )  # (n,h,w)
            scores = run(image, (seen[:, None] * like[image]).to(images.dtype))  # (n,K)
            if maps is None:
                maps = seen.new_zeros(batch, scores.shape[1], height, width)
            maps[image] += torch.einsum("nk,nhw->khw", scores.to(seen), seen)
    assert maps is not None  # there is a mask and an image
    return run.shaped(maps / (masks * keep))


def _sliding(
    inputs: Tensor, score: Score, window: int, stride: int, fill: float, chunk: int | None,
    progress: Progress | None, copies: int,
) -> Tensor:  # fmt: skip
    batch, _, height, width = inputs.shape
    if not 1 <= stride <= window <= max(height, width):
        raise ValueError(
            f"window={window}, stride={stride} do not tile {height}x{width}: use 1 <= stride <= window <= "
            f"{max(height, width)}"
        )
    spots = [(y, x) for y in _starts(height, window, stride) for x in _starts(width, window, stride)]
    run = ChunkedScores(score, batch, 1 + len(spots), inputs[0], chunk, progress, copies)
    covered = torch.zeros(height, width, device=inputs.device)
    for y, x in spots:
        covered[y : y + window, x : x + window] += 1

    def place(i: int) -> tuple[Any, ...]:
        y, x = spots[i]
        return slice(None), slice(y, y + window), slice(x, x + window)

    maps = []
    for image in range(batch):
        whole = run(image, inputs[image : image + 1])  # (1,K)
        lost = whole - scores_of_edited(run, image, inputs[image], len(spots), place, fill)  # (spots,K)
        total = lost.new_zeros(lost.shape[1], height, width)
        for (y, x), loss in zip(spots, lost, strict=True):
            total[:, y : y + window, x : x + window] += loss[:, None, None]
        maps.append(total / covered)
    return run.shaped(torch.stack(maps))  # (B,K,H,W)


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Where a window begins along an axis; the last one ends with the axis."""
    last = max(0, length - window)
    starts = list(range(0, last + 1, stride))
    return starts if starts[-1] == last else [*starts, last]


def _as_it_is(masks: Tensor) -> Tensor:
    return masks


def _masked(
    activations: Tensor, images: Tensor, score: Score, changes: Sequence[Callable[[Tensor], Tensor]],
    channels: int | None, chunk: int | None, progress: Progress | None,
) -> Tensor:  # fmt: skip
    """Score-CAM's map, with every mask's score averaged over `changes` made to the mask."""
    count = activations.shape[1]
    if channels is not None and channels < 1:
        raise ValueError(f"channels={channels} leaves nothing to mask with: use 1..{count}, or None for all")
    if len(activations) != len(images):
        raise ValueError(f"{len(activations)} activations do not belong to {len(images)} images")
    used = min(count, channels or count)
    activations, size = working(activations), (images.shape[-2], images.shape[-1])
    run = ChunkedScores(score, len(images), used * len(changes), images[0], chunk, progress)
    maps = []
    for image, (one, picture) in enumerate(zip(activations, working(images), strict=True)):
        spread = one.flatten(1).std(1, unbiased=False)  # (C,)
        chosen = spread.topk(used).indices.sort().values if used < count else torch.arange(count, device=one.device)
        one = one[chosen]  # (C,H,W)
        flat = one.flatten(1)
        alive = flat.amax(1) > flat.amin(1)  # a constant channel's mask is 0
        rows = alive.nonzero()[:, 0]
        if not bool(alive.all()):  # one row stands for all constant channels
            rows = torch.cat([rows, (~alive).nonzero()[:1, 0]])
        scores: Tensor | None = None
        for part in run.parts(len(rows)):
            masks = functional.interpolate(one[rows[part], None], size, mode="bilinear", align_corners=False)[:, 0]
            low, high = masks.amin((1, 2), keepdim=True), masks.amax((1, 2), keepdim=True)
            masks = (masks - low) / torch.where(high > low, high - low, torch.ones_like(high))  # (n,h,w)
            for change in changes:
                found = run(image, (change(masks)[:, None] * picture).to(images.dtype))  # (n,K)
                if scores is None:
                    scores = found.new_zeros(used, found.shape[1])
                scores[rows[part]] += found / len(changes)
        assert scores is not None  # there is a channel
        constant = ~alive
        if bool(constant.any()):
            scores[constant] = scores[constant.nonzero()[0, 0]].clone()
            run.skip((int(constant.sum()) - 1) * len(changes))
        weights = scores.softmax(0)  # (C,K)
        maps.append(torch.einsum("ck,chw->khw", weights.to(one.dtype), one))
    return run.shaped(torch.stack(maps))
