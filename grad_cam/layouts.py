"""Where the picture's axes lie in an activation: NCHW, NHWC or tokens; NCDHW, NDHWC or tokens of a video or volume.

A `Layout` turns an activation into a map-shaped tensor (B, C, H, W) and back by the exact inverse. A grid of three axes
(frames or slices first) is laid out as one tall map, one frame below the other; `unfolded` gives its maps the third
axis back. `candidates` are the
readings that a shape allows; which of them holds is found out in `splitting`.

Only `errors` is imported here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .errors import LayoutError

NAMES = ("NCHW", "NHWC", "tokens", "NCDHW", "NDHWC")
Grid = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How an activation is laid out.

    Attributes:
        name: "NCHW", "NHWC", "NCDHW", "NDHWC", "tokens" or "custom".
        grid: Height and width of the map, with the number of frames or slices before them if there are any.
        channels: Number of channels.
        prefix: Number of tokens before the grid's (class, distillation, register tokens).
        axis: For tokens, the axis of the positions: 1 for (B, N, C), 2 for (B, C, N).
        order: For tokens that do not lie row by row: the token at every grid position, (H*W,).
        transform: For "custom": the user's callable from the activation to (B, C, H, W).
        suffix: Number of tokens after the grid's (the queries of a YOLOS).
    """

    name: str
    grid: Grid
    channels: int
    prefix: int = 0
    axis: int = 1
    order: Tensor | None = dataclasses.field(default=None, compare=False)
    transform: Callable[[Tensor], Tensor] | None = None
    suffix: int = 0

    @property
    def folded(self) -> tuple[int, int]:
        """Height and width of what `to_map` gives: frames stand one below the other."""
        return math.prod(self.grid[:-1]), self.grid[-1]

    @property
    def is_single(self) -> bool:
        """Whether there is one position only."""
        return math.prod(self.grid) == 1

    def unfolded(self, maps: Tensor) -> Tensor:
        """Gives maps (..., t*h, w) of a grid of three axes their shape (..., t, h, w)."""
        return maps if len(self.grid) == 2 else maps.reshape(*maps.shape[:-2], *self.grid)

    def to_map(self, activation: Tensor) -> Tensor:
        """Reads an activation as (B, C, H, W); tokens before and after the grid's are left out."""
        if self.name == "NCHW":
            return activation
        if self.name == "NHWC":
            return activation.permute(0, 3, 1, 2)  # (B,C,H,W)
        if self.name == "NCDHW":
            return activation.flatten(2, 3)  # (B,C,D*H,W)
        if self.name == "NDHWC":
            return activation.permute(0, 4, 1, 2, 3).flatten(2, 3)
        if self.transform is not None:
            return self.transform(activation).flatten(2, -2)
        tokens = activation if self.axis == 1 else activation.transpose(1, 2)  # (B,N,C)
        tokens = tokens[:, self.prefix : tokens.shape[1] - self.suffix]
        if self.order is not None:
            tokens = tokens[:, self.order.to(tokens.device)]
        return tokens.transpose(1, 2).reshape(len(tokens), self.channels, *self.folded)

    def from_map(self, maps: Tensor, like: Tensor) -> Tensor:
        """The exact inverse of `to_map`.

        Args:
            maps: (N, C, H, W).
            like: The activation (N or 1 rows) whose other tokens are kept.

        Raises:
            LayoutError: The layout is a user's callable, which has no inverse.
        """
        if self.name == "NCHW":
            return maps
        if self.name == "NHWC":
            return maps.permute(0, 2, 3, 1)
        if self.name in ("NCDHW", "NDHWC"):
            volumes = self.unfolded(maps)
            return volumes if self.name == "NCDHW" else volumes.permute(0, 2, 3, 4, 1)
        if self.transform is not None:
            raise LayoutError(
                "a reshape_transform callable has no inverse, and this method has to write into the activation; "
                f"give the layout by name ({', '.join(NAMES)}) instead"
            )
        tokens = maps.flatten(2).transpose(1, 2)  # (N,H*W,C)
        if self.order is not None:
            back = torch.empty_like(self.order)
            back[self.order] = torch.arange(len(self.order), device=self.order.device)
            tokens = tokens[:, back.to(tokens.device)]
        like = like if self.axis == 1 else like.transpose(1, 2)
        before, after = like[:, : self.prefix], like[:, like.shape[1] - self.suffix :]
        tokens = torch.cat([before.expand(len(tokens), -1, -1), tokens, after.expand(len(tokens), -1, -1)], dim=1)
        return tokens if self.axis == 1 else tokens.transpose(1, 2)

    def __str__(self) -> str:
        others = self.prefix + self.suffix
        extra = f"+{others}" if others else ""
        return f"{self.name}{extra}"


def _misfit(grid: tuple[int, int], size: tuple[int, int]) -> float:
    """How far a grid is from having the input's proportions: 0 exact, inf impossible (one cell of slack)."""
    (gh, gw), (h, w) = grid, size
    if min(gh, gw) < 1 or gh > h or gw > w:
        return math.inf
    slack = max(1.0, h / w, w / h)
    off = abs(gh - gw * h / w)
    if off > slack and abs(gw - gh * w / h) > slack:
        return math.inf
    return abs(math.log((gh / gw) / (h / w)))


def _consistent(grid: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether one stride, rounded down or up on both axes alike, makes this grid of an input of this size."""
    (gh, gw), (h, w) = grid, size
    down = max(h / (gh + 1), w / (gw + 1)) < min(h / gh, w / gw) or h * gw == w * gh
    up = max(h / gh, w / gw) < min(h / max(gh - 1, 1e-9), w / max(gw - 1, 1e-9))
    return gh <= h and gw <= w and (down or up)


def _grid_of(positions: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """The factorisation of a number of positions whose proportions are the input's, if there is one."""
    best: tuple[float, tuple[int, int]] | None = None
    for gh in range(1, positions + 1):
        if positions % gh == 0:
            misfit = _misfit((gh, positions // gh), size)
            if misfit < math.inf and _consistent((gh, positions // gh), size) and (best is None or misfit < best[0]):
                best = (misfit, (gh, positions // gh))
    return best[1] if best else None


def _volumes(shape: Sequence[int], size: Grid, prefix: int | None) -> list[Layout]:
    """All readings of a shape as a grid of frames or slices, height and width."""
    found = []
    if len(shape) == 5:
        _, a, b, c, d = shape
        for layout in (Layout("NCDHW", (b, c, d), a), Layout("NDHWC", (a, b, c), d)):
            if layout.grid[0] <= size[0] and _misfit((layout.grid[1], layout.grid[2]), (size[1], size[2])) < math.inf:
                found.append(layout)
    elif len(shape) == 3:
        for p in dict.fromkeys([prefix or 0, 0, 1]):
            for frames in range(1, min(size[0], shape[1] - p) + 1):
                plane = _grid_of((shape[1] - p) // frames, (size[1], size[2])) if (shape[1] - p) % frames == 0 else None
                if plane is not None and plane != (1, 1):
                    grid = (frames, *plane)
                    found.append(Layout("tokens", grid, shape[2], prefix=p))
                    if frames > 1:  # all frames of a place beside each other
                        order = torch.arange(math.prod(grid)).reshape(*plane, frames).permute(2, 0, 1).flatten()
                        found.append(Layout("tokens", grid, shape[2], prefix=p, order=order))
    return found


def candidates(shape: Sequence[int], size: Grid, prefix: int | None = None) -> list[Layout]:
    """All readings of an activation's shape, the most fitting first.

    Args:
        shape: (B, ...) as it is at the cut.
        size: Height and width of the input, with the number of frames or slices before them if there are any.
        prefix: Number of prefix tokens if the model declares it.
    """
    if len(size) == 3:
        return _volumes(shape, size, prefix)
    size = (size[0], size[1])
    found: list[tuple[float, Layout]] = []
    if len(shape) == 4:
        _, a, b, c = shape
        for layout in (Layout("NCHW", (b, c), a), Layout("NHWC", (a, b), c)):
            misfit = _misfit((layout.grid[0], layout.grid[1]), size)
            if misfit < math.inf:
                found.append((misfit, layout))
        found.sort(key=lambda pair: pair[0])
    elif len(shape) == 3:
        prefixes = dict.fromkeys([prefix or 0, 0, 1, 2, 5, 4, 3, 8, 9])
        for axis, tried in ((1, prefixes), (2, dict.fromkeys([0]))):
            for p in tried:
                grid = _grid_of(shape[axis] - p, size) if shape[axis] > p else None
                if grid is not None:
                    found.append((0.0, Layout("tokens", grid, shape[3 - axis], prefix=p, axis=axis)))
    return [layout for _, layout in found]


def named(
    name: str | Callable[[Tensor], Tensor], activation: Tensor, size: Grid, prefix: int | None = None,
    batch: int | None = None,
) -> Layout:  # fmt: skip
    """The layout that a caller names.

    Args:
        name: "NCHW", "NHWC", "tokens", or a callable from the activation to (B, C, H, W) such as the
            `reshape_transform` functions written for pytorch-grad-cam.
        activation: The activation at the cut.
        size: Height and width of the input, with the number of frames or slices before them if there are any.
        prefix: Number of prefix tokens if the model declares it.
        batch: Number of images B; by default the activation's rows.

    Raises:
        LayoutError: The activation cannot be read that way.
    """
    shape = tuple(activation.shape)
    batch = len(activation) if batch is None else batch
    if callable(name):
        out = name(activation)
        if not isinstance(out, Tensor) or out.ndim != len(size) + 2 or len(out) != batch:
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise LayoutError(
                f"reshape_transform made {got} of an activation of shape {shape}; it has to return "
                f"(B, C, {'H, W' if len(size) == 2 else 'D, H, W'}) with B={batch}"
            )
        return Layout("custom", tuple(out.shape[2:]), out.shape[1], transform=name)
    if name not in NAMES:
        raise LayoutError(f"unknown layout {name!r}; give one of {', '.join(NAMES)} or a callable")
    if name == "NCHW" and len(shape) == 4:
        return Layout("NCHW", (shape[2], shape[3]), shape[1])
    if name == "NHWC" and len(shape) == 4:
        return Layout("NHWC", (shape[1], shape[2]), shape[3])
    fitting = [c for c in candidates(shape, size, prefix) if c.name == name]
    if not fitting:
        given = "x".join(map(str, size))
        raise LayoutError(f"an activation of shape {shape} cannot be read as {name} for an input of {given}")
    return fitting[0]
