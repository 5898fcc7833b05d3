"""Maps from what a score does when something is taken away.

A method here receives activations or images together with a function that scores perturbed copies of them, never the
model. Two such functions are known (`Score`): the *tail*, from activations at the cut to scores, which is all that
`ablation_cam` and `activation_occlusion` need, and the whole network, from images to scores. The function is told
which image each row belongs to, so that targets which differ from image to image work.

Copies are made in chunks and never all at once; the size of a chunk changes neither the map nor, beyond rounding, its
numbers. When a chunk does not fit into memory it is halved. A score may have K columns: then K maps come out of one
run, (B, K, H, W) instead of (B, H, W).
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..arguments import is_index
from .common import MethodError, working

Score = Callable[[Tensor, Tensor], Tensor]
"""``(perturbed (N, ...), image_index (N,)) -> scores (N,) or (N, K)``. The perturbed rows are only valid during the
call and all belong to one image; `image_index` says to which of the batch."""

Progress = Callable[[int, int], None]
"""``(done, total)``, in perturbed copies scored."""

_WORKSPACE = 1 << 29  # bytes a chunk may take, together with what the network computes of it
_COPIES = 32  # a network's working memory, in copies of its input
_ROWS = {"cpu": 32}  # larger chunks gain nothing on a CPU
_SMALL = 1 << 24  # bytes a chunk of activations should not exceed for its own sake: it stays in the cache


# --------------------------------------------------------------------------------------------------- from the tail


@torch.no_grad()
def ablation_cam(
    activations: Tensor, tail: Score, *, chunk: int | None = None, progress: Progress | None = None
) -> Tensor:
    """Channels weighted by the share of the score that is lost without them.

    Args:
        activations: A at the cut, (B, C, H, W).
        tail: Scores of activations.
        chunk: Number of ablated copies the tail gets at once; None chooses by size and free memory.
        progress: Called after every chunk.

    Returns:
        sum_k w_k A_k with w_k = (y - y without channel k) / abs(y), (B, H, W), or (B, K, H, W) for K scores.

    Source:
        Desai and Ramaswamy, WACV 2020, eq. 2-3, https://doi.org/10.1109/WACV45572.2020.9093360

    Note:
        Where the score y is zero the plain difference is taken.
    """
    batch, channels = activations.shape[:2]
    run = _Run(tail, batch, 1 + channels, activations[0], chunk, progress, copies=8)

    weights = []
    for image in range(batch):
        whole = run(image, activations[image : image + 1])  # (1,K)
        lost = whole - _edited(run, image, activations[image], channels, lambda k: (k,), 0.0)  # (C,K)
        weights.append(lost / torch.where(whole == 0, torch.ones_like(whole), whole.abs()))
    return run.shaped(torch.einsum("bck,bchw->bkhw", torch.stack(weights), working(activations)))


@torch.no_grad()
def activation_occlusion(
    activations: Tensor,
    tail: Score,
    *,
    window: int = 1,
    stride: int = 1,
    chunk: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """What the score loses when the positions under a sliding window are zeroed in all channels at the cut.

    Args:
        activations: A at the cut, (B, C, H, W).
        tail: Scores of activations.
        window: Side of the square window, in positions.
        stride: Step of the window, in positions, at most `window`.
        chunk: Number of occluded copies the tail gets at once; None chooses by size and free memory.
        progress: Called after every chunk.

    Returns:
        Mean of y - y(occluded) over the windows that cover a position, (B, H, W), or (B, K, H, W) for K scores.

    Source:
        Zeiler and Fergus, ECCV 2014, sec. 4.2, https://arxiv.org/abs/1311.2901

    Note:
        The paper occludes the picture (see `occlusion`); at the cut only the tail has to be run.
    """
    return _sliding(activations, tail, window, stride, 0.0, chunk, progress, copies=8)


# ---------------------------------------------------------------------------------------------- from masked images


@torch.no_grad()
def score_cam(
    activations: Tensor,
    images: Tensor,
    score: Score,
    *,
    channels: int | None = None,
    chunk: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Channels weighted by the score of the image seen through them.

    Args:
        activations: A at the cut, (B, C, H, W).
        images: Model inputs, (B, c, h, w).
        score: Scores of images.
        channels: How many channels to use, those whose activation varies most over the picture (standard deviation);
            None uses all.
        chunk: Number of masked images the network gets at once; None chooses by size and free memory.
        progress: Called after every chunk.

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


@torch.no_grad()
def ss_cam(
    activations: Tensor,
    images: Tensor,
    score: Score,
    *,
    samples: int = 10,
    noise: float = 2.0,
    seed: int = 0,
    channels: int | None = 64,
    chunk: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Score-CAM with the scores averaged over noisy masks.

    Args:
        activations: A at the cut, (B, C, H, W).
        images: Model inputs, (B, c, h, w).
        score: Scores of images.
        samples: Number n of noisy copies of every mask.
        noise: Standard deviation of the noise d added to the masks, whose values lie in 0..1.
        seed: Seed of the noise, drawn from a generator of its own.
        channels: How many channels to use (see `score_cam`); None uses all.
        chunk: Number of masked images the network gets at once; None chooses by size and free memory.
        progress: Called after every chunk.

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
    changes = [lambda masks, each=each: masks + each for each in drawn]  # (n,h,w) + (1,h,w)
    return _masked(activations, images, score, changes, channels, chunk, progress)


@torch.no_grad()
def is_cam(
    activations: Tensor,
    images: Tensor,
    score: Score,
    *,
    steps: int = 10,
    channels: int | None = 64,
    chunk: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Score-CAM with the scores averaged while the masks grow from zero to what they are.

    Args:
        activations: A at the cut, (B, C, H, W).
        images: Model inputs, (B, c, h, w).
        score: Scores of images.
        steps: Number n of points on the way.
        channels: How many channels to use (see `score_cam`); None uses all.
        chunk: Number of masked images the network gets at once; None chooses by size and free memory.
        progress: Called after every chunk.

    Returns:
        sum_k w_k A_k with w = softmax_k of mean_i y(x * M_k * i/n), i = 1..n, (B, H, W), or (B, K, H, W) for K
        scores.

    Source:
        Naidu et al., 2020, "IS-CAM: Integrated Score-CAM", https://arxiv.org/abs/2010.03023
    """
    if steps < 1:
        raise ValueError(f"steps={steps} leaves nothing to average: use 1 or more")
    changes = [lambda masks, share=(i + 1) / steps: masks * share for i in range(steps)]
    return _masked(activations, images, score, changes, channels, chunk, progress)


@torch.no_grad()
def occlusion(
    images: Tensor,
    score: Score,
    *,
    window: int | None = None,
    stride: int | None = None,
    fill: float = 0.0,
    chunk: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """What the score loses when a square of the image is covered.

    Args:
        images: Model inputs, (B, c, h, w).
        score: Scores of images.
        window: Side of the square in pixels; by default a seventh of the image's shorter side.
        stride: Step of the square in pixels, at most `window`; by default half of it.
        fill: Value of the square in the model's input units; 0 is the mean colour of most models.
        chunk: Number of covered images the network gets at once; None chooses by size and free memory.
        progress: Called after every chunk.

    Returns:
        Mean of y - y(covered) over the squares that cover a pixel, (B, h, w), or (B, K, h, w) for K scores.

    Source:
        Zeiler and Fergus, ECCV 2014, sec. 4.2, https://arxiv.org/abs/1311.2901
    """
    window = max(1, min(images.shape[-2:]) // 7) if window is None else window
    stride = max(1, window // 2) if stride is None else stride
    return _sliding(images, score, window, stride, fill, chunk, progress, copies=_COPIES)


@torch.no_grad()
def rise(
    images: Tensor,
    score: Score,
    *,
    masks: int = 1000,
    cells: int = 7,
    keep: float = 0.5,
    seed: int = 0,
    chunk: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Random masks, averaged with the scores of the images seen through them.

    Args:
        images: Model inputs, (B, c, h, w).
        score: Scores of images, best a probability.
        masks: Number N of random masks; the noise of the map falls with its root.
        cells: Number of cells along each side of the coarse random grid.
        keep: Probability p that a cell is left visible.
        seed: Seed of the masks, drawn from a generator of its own; all images see the same ones.
        chunk: Number of masked images the network gets at once; None chooses by size and free memory.
        progress: Called after every chunk.

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
    run = _Run(score, batch, masks, images[0], chunk, progress)
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


# ------------------------------------------------------------------------------------------------------- machinery


class _Run:
    """Scores perturbed copies chunk by chunk: chooses the chunk, reports progress, survives a lack of memory."""

    def __init__(
        self, score: Score, batch: int, copies_each: int, one: Tensor, chunk: int | None, progress: Progress | None,
        copies: int = _COPIES,
    ) -> None:  # fmt: skip
        if chunk is not None and (not is_index(chunk) or chunk < 1):
            raise ValueError(f"chunk={chunk!r} is no number of copies: use 1 or more, or None to have it chosen")
        self.score, self.progress, self.several = score, progress, False
        self.chunk = _chunk(one, copies) if chunk is None else int(chunk)
        # On a CPU convolutions run about 1.5 times as fast with the channels last, and other layers no slower.
        self.format = torch.channels_last if one.device.type == "cpu" and one.ndim == 3 else torch.contiguous_format
        self.done, self.total = 0, batch * copies_each

    def parts(self, count: int) -> Iterator[slice]:
        """Cuts `count` copies into chunks of the current size."""
        start = 0
        while start < count:
            stop = min(count, start + self.chunk)
            yield slice(start, stop)
            start = stop

    def __call__(self, image: int, perturbed: Tensor) -> Tensor:
        """Scores (n, K) of perturbed copies (n, ...) of one image."""
        scores = self._scored(image, perturbed)
        if not bool(torch.isfinite(scores).all()):
            raise MethodError(
                f"the score of a perturbed copy of image {image} is NaN or infinite; check the precision and range of "
                "the input"
            )
        self.done += len(perturbed)
        if self.progress is not None:
            self.progress(self.done, self.total)
        return scores

    def _scored(self, image: int, perturbed: Tensor) -> Tensor:
        index = torch.full((len(perturbed),), image, device=perturbed.device)
        again = scores = None
        try:
            scores = self.score(perturbed.contiguous(memory_format=self.format), index)
        except RuntimeError as error:
            again = self._remedy(error, len(perturbed))
            if again is None:
                raise
        if again == "format":
            self.format = torch.contiguous_format
            return self._scored(image, perturbed)
        if scores is None:  # outside of the handler, whose traceback holds on to the memory
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.chunk = min(self.chunk, max(1, len(perturbed) // 2))
            return torch.cat([self._scored(image, perturbed[part]) for part in self.parts(len(perturbed))])
        if scores.ndim not in (1, 2) or len(scores) != len(perturbed):
            raise ValueError(
                f"the score function returned {tuple(scores.shape)} for {len(perturbed)} copies; it has to return one "
                f"score each, ({len(perturbed)},) or ({len(perturbed)}, K)"
            )
        self.several = scores.ndim == 2
        wide = torch.float64 if scores.dtype == torch.float64 else torch.float32
        return scores.detach().to(wide, copy=True).reshape(len(perturbed), -1)  # a copy: the buffer is used again

    def _remedy(self, error: RuntimeError, rows: int) -> str | None:
        """What can be tried after an error: another memory format for a model that uses `view`, or fewer rows."""
        if "view size is not compatible" in str(error) and self.format is torch.channels_last:
            return "format"
        out_of_memory = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error).lower()
        return "rows" if out_of_memory and rows > 1 else None

    def skip(self, copies: int) -> None:
        """Counts copies as done that need no scoring."""
        self.done += copies
        if self.progress is not None and copies:
            self.progress(self.done, self.total)

    def shaped(self, maps: Tensor) -> Tensor:
        """Drops the axis of scores if the score function has one score only."""
        return maps if self.several else maps[:, 0]


def _edited(
    run: _Run, image: int, one: Tensor, count: int, place: Callable[[int], tuple[Any, ...]], fill: float
) -> Tensor:
    """Scores (count, K) of copies of `one` that are overwritten with `fill` at one place each.

    One buffer holds the copies of a chunk; before the next chunk only the overwritten places are put back, unless the
    score function wrote into the buffer itself.
    """
    buffer = one.new_empty((0, *one.shape))
    version, scores = -1, []
    before: list[tuple[Any, ...]] = []
    for part in run.parts(count):
        length = part.stop - part.start
        if length > len(buffer) or buffer._version != version or not buffer.is_contiguous(memory_format=run.format):
            buffer = one.expand(max(length, len(buffer)), *one.shape).clone(memory_format=run.format)
        else:
            for row, where in zip(buffer, before, strict=False):
                row[where] = one[where]
        before = [place(i) for i in range(part.start, part.stop)]
        for row, where in zip(buffer, before, strict=False):
            row[where] = fill
        version = buffer._version
        scores.append(run(image, buffer[:length]))
    return torch.cat(scores)


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
    run = _Run(score, batch, 1 + len(spots), inputs[0], chunk, progress, copies)
    covered = torch.zeros(height, width, device=inputs.device)
    for y, x in spots:
        covered[y : y + window, x : x + window] += 1

    def place(i: int) -> tuple[Any, ...]:
        y, x = spots[i]
        return slice(None), slice(y, y + window), slice(x, x + window)

    maps = []
    for image in range(batch):
        whole = run(image, inputs[image : image + 1])  # (1,K)
        lost = whole - _edited(run, image, inputs[image], len(spots), place, fill)  # (spots,K)
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
    activations: Tensor, images: Tensor, score: Score, changes: list[Callable[[Tensor], Tensor]],
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
    run = _Run(score, len(images), used * len(changes), images[0], chunk, progress)
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


# ---------------------------------------------------------------------------------------------------------- memory


def _chunk(one: Tensor, copies: int) -> int:
    """How many copies of `one` to score at once, when scoring takes the memory of `copies` inputs each."""
    size = max(1, one.numel() * one.element_size())
    budget: float = _WORKSPACE
    limit = _ROWS.get(one.device.type, 128)
    free = free_memory(one.device)
    if one.device.type != "cpu":
        budget *= 8
    elif copies < _COPIES:
        limit = max(8, min(limit, _SMALL // size))
    if free is not None:
        budget = min(budget, free / 4)
    return int(max(1, min(limit, budget // (size * copies))))


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated on a device, as far as the system tells.

    Args:
        device: Where.

    Returns:
        Free bytes: what CUDA reports, or what the operating system calls available, within the limit of a container.
        None where nothing is known.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    known = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        known.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    with contextlib.suppress(OSError, ValueError):
        limit, used = (int(pathlib.Path(f"/sys/fs/cgroup/memory.{n}").read_text()) for n in ("max", "current"))
        known.append(max(0, limit - used))
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if not known:
            known.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(known) if known else None


ENTRIES: dict[str, dict[str, Any]] = {
    "ablation_cam": {
        "title": "Ablation-CAM",
        "function": ablation_cam,
        "kind": "perturbation",
        "needs": "tail",  # function(activations, tail)
        "source": "Desai and Ramaswamy, WACV 2020",
        "link": "https://doi.org/10.1109/WACV45572.2020.9093360",
        "advice": "No gradients: what the score loses without each channel; fast at late layers.",
    },
    "activation_occlusion": {
        "title": "Activation occlusion",
        "function": activation_occlusion,
        "kind": "perturbation",
        "needs": "tail",  # function(activations, tail)
        "source": "after Zeiler and Fergus, ECCV 2014",
        "link": "https://arxiv.org/abs/1311.2901",
        "advice": "What the score loses without each position: the most literal map, cheap at late layers.",
    },
    "score_cam": {
        "title": "Score-CAM",
        "function": score_cam,
        "kind": "perturbation",
        "needs": "score",  # function(activations, images, score)
        "source": "Wang et al., CVPR Workshops 2020",
        "link": "https://arxiv.org/abs/1910.01279",
        "advice": "No gradients, but one forward pass a channel; channels=64 is much faster and close to it.",
    },
    "ss_cam": {
        "title": "SS-CAM",
        "function": ss_cam,
        "kind": "perturbation",
        "needs": "score",  # function(activations, images, score)
        "source": "Wang et al., 2020",
        "link": "https://arxiv.org/abs/2006.14255",
        "advice": "Score-CAM with noise averaged away; slow.",
    },
    "is_cam": {
        "title": "IS-CAM",
        "function": is_cam,
        "kind": "perturbation",
        "needs": "score",  # function(activations, images, score)
        "source": "Naidu et al., 2020",
        "link": "https://arxiv.org/abs/2010.03023",
        "advice": "Score-CAM averaged over growing masks, for saturated scores; slow.",
    },
    "occlusion": {
        "title": "Occlusion",
        "function": occlusion,
        "kind": "perturbation",
        "needs": "images",  # function(images, score)
        "source": "Zeiler and Fergus, ECCV 2014",
        "link": "https://arxiv.org/abs/1311.2901",
        "advice": "Covers the picture square by square: easy to explain to anyone, a check on the other methods.",
    },
    "rise": {
        "title": "RISE",
        "function": rise,
        "kind": "perturbation",
        "needs": "images",  # function(images, score)
        "source": "Petsiuk et al., BMVC 2018",
        "link": "https://arxiv.org/abs/1806.07421",
        "advice": "Needs scores only; best with a probability as target, noisy with few masks.",
    },
}
"""What the registry needs to know of each method here, the keyword arguments of a `Method` besides its name."""
