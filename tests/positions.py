"""Where in the picture does a position of an activation come from? An experiment that knows nothing of the package.

Patches of a picture are exchanged one at a time, and the cells of a map are watched. If the map's axes are positions,
a cell changes most for the patches that lie where the cell lies. `judge` says what is found for a reading of an
activation as (B, C, h, w):

- *confirmed*: the cells follow the patches, in both directions;
- *contradicted*: the cells follow the patches in another way (turned, in another order), or each cell has an answer
  of its own to every patch that has nothing to do with where it lies: its axes are not positions of the picture;
- *undecided*: the layer mixes so much, or has so few cells, that the experiment cannot tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

SPOTS = ((0.2, 0.7), (0.75, 0.35), (0.35, 0.15))  # centres (y, x): off-centre, and no two exchange y and x
PATCH = 0.14  # side of a patch over the side of the picture
GRID = 5  # the thorough experiment takes GRID x GRID patches, two or more times with other contents
FOLLOWS, DIFFERENT, REPEATS, LIVELY = 0.5, 0.3, 0.5, 0.4

Read = Callable[[Tensor], Tensor]
"""From an activation to (B, C, h, w)."""
Run = Callable[[Tensor], Sequence[Tensor | None]]
"""From images to the activations of several layers."""


class Finding(NamedTuple):
    """What the experiment found, and its figures."""

    verdict: str
    why: str


def exchanged(image: Tensor, centre: tuple[float, float], side: float, seed: int) -> Tensor:
    """A copy of an image (1, C, H, W) with other contents in one patch."""
    height, width = image.shape[-2:]
    rows = slice(max(0, round((centre[0] - side / 2) * height)), max(1, round((centre[0] + side / 2) * height)))
    columns = slice(max(0, round((centre[1] - side / 2) * width)), max(1, round((centre[1] + side / 2) * width)))
    out = image.clone()
    generator = torch.Generator().manual_seed(seed)
    shape = out[..., rows, columns].shape
    tint = 1.5 * torch.randn((1, shape[1], 1, 1), generator=generator)
    out[..., rows, columns] = 1.5 * torch.randn(shape, generator=generator) + tint
    return out


def lattice() -> list[tuple[float, float]]:
    """Centres of the patches of the thorough experiment."""
    at = [(i + 0.5) / GRID for i in range(GRID)]
    return [(y, x) for y in at for x in at]


def _changes(values: Tensor, read: Read) -> Tensor:
    """How much every cell changes, (patches, h, w); the first row of the values is the picture as it was."""
    maps = read(values).double()  # (1+P,C,h,w)
    return (maps[1:] - maps[:1]).pow(2).sum(1).sqrt()


def _cells(h: int, w: int) -> tuple[Tensor, Tensor]:
    """Where the cells of a map lie, 0..1."""
    y = (torch.arange(h, dtype=torch.float64) + 0.5) / h
    x = (torch.arange(w, dtype=torch.float64) + 0.5) / w
    return y[:, None].expand(h, w).flatten(), x[None].expand(h, w).flatten()


def _clear(changes: Tensor) -> bool:
    """Whether the three patches of the quick experiment are each found where they are."""
    h, w = changes.shape[1:]
    y, x = _cells(h, w)
    reach_y, reach_x = max(0.15, 0.55 / h), max(0.15, 0.55 / w)
    for row, (want_y, want_x) in zip(changes.flatten(1), SPOTS, strict=True):
        middle = row.median()
        weight = (row - middle - 0.5 * (row.max() - middle)).clamp(min=0)
        if not float(weight.sum()) > 0:
            return False
        weight = weight / weight.sum()
        if abs(float((weight * y).sum()) - want_y) > reach_y or abs(float((weight * x).sum()) - want_x) > reach_x:
            return False
    return True


def _correlation(a: Tensor, b: Tensor) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-30))


def _preference(changes: Tensor) -> Tensor:
    """How much more a cell answers to a patch than to others, and than other cells do: logarithms, (patches, cells)."""
    flat = changes.flatten(1)
    logs = (flat + 1e-6 * flat.max() + 1e-300).log()
    return logs - logs.mean(0) - logs.mean(1, keepdim=True) + logs.mean()


def _thorough(changes: Tensor) -> Finding:
    """The verdict of GRID x GRID patches with some contents each, (contents, patches, h, w)."""
    h, w = changes.shape[2:]
    if float(changes.max()) == 0:
        return Finding("undecided", "nothing changes")
    each = torch.stack([_preference(one) for one in changes])
    both = each[::2].mean(0), each[1::2].mean(0)
    repeats = _correlation(both[0], both[1])
    prefers = (both[0] + both[1]) / 2
    lively = float(prefers.std())
    at = torch.tensor(lattice(), dtype=torch.float64)  # (patches,2)
    weight = prefers.clamp(min=0).pow(2)
    centre = weight.T @ at / weight.sum(0).clamp(min=1e-30)[:, None]  # (cells,2)
    y, x = _cells(h, w)
    yy, xx = _correlation(y, centre[:, 0]), _correlation(x, centre[:, 1])
    yx, xy = _correlation(y, centre[:, 1]), _correlation(x, centre[:, 0])
    why = f"follows y {yy:.2f}, x {xx:.2f}, crosswise {yx:.2f} {xy:.2f}, repeats {repeats:.2f}, lively {lively:.2f}"
    follows = min(yy if h > 1 else 1.0, xx if w > 1 else 1.0)
    if h * w < 4 or min(h, w) < 2:
        return Finding("undecided", f"a grid of {h}x{w}: {why}")
    if follows > FOLLOWS and follows > max(abs(yx), abs(xy)):
        return Finding("confirmed", why)
    if h * w >= 9 and (repeats > REPEATS or lively > LIVELY or max(abs(yx), abs(xy)) > 0.8) and follows < DIFFERENT:
        return Finding("contradicted", why)
    return Finding("undecided", why)


def judge(
    run: Run, reads: Sequence[Read], shape: tuple[int, int, int], batch: int = 4, contents: int = 2
) -> list[Finding]:
    """Judges the readings of several layers, all with the same pictures.

    Args:
        run: From images to the activations of the layers.
        reads: How each is read as (B, C, h, w).
        shape: Channels, height and width of a picture.
        batch: Pictures in one forward pass of the thorough experiment.
        contents: Contents that each of its patches is given, an even number. With more of them the answer to where a
            patch lies stands out from that to what is in it, in layers that mix much.
    """
    image = 0.5 * torch.randn((1, *shape), generator=torch.Generator().manual_seed(77))
    quick = torch.cat([image, *(exchanged(image, spot, PATCH, 100 + i) for i, spot in enumerate(SPOTS))])
    values = run(quick)
    out: list[Finding | None] = []
    for value, read in zip(values, reads, strict=True):
        if value is None:
            out.append(Finding("undecided", "the layer gave no tensor"))
        else:
            changes = _changes(value, read)
            clear = min(changes.shape[1:]) > 1 and _clear(changes)
            out.append(Finding("confirmed", "three patches found where they are") if clear else None)
    open_ = [i for i, finding in enumerate(out) if finding is None]
    if open_:
        patches = [(spot, 200 + 100 * turn + i) for turn in range(contents) for i, spot in enumerate(lattice())]
        changes_of: dict[int, list[Tensor]] = {i: [] for i in open_}
        for start in range(0, len(patches), batch):
            some = [exchanged(image, spot, 1 / GRID, seed) for spot, seed in patches[start : start + batch]]
            values = run(torch.cat([image, *some]))
            for i in open_:
                value = values[i]
                assert value is not None
                changes_of[i].append(_changes(value, reads[i]))
        for i in open_:
            whole = torch.cat(changes_of[i])  # (contents P,h,w)
            out[i] = _thorough(whole.unflatten(0, (contents, GRID * GRID)))
    return [finding for finding in out if finding is not None]
