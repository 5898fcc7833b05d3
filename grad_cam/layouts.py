"""Where the picture's axes lie in an activation: NCHW, NHWC or tokens.

A `Layout` turns an activation into a map-shaped tensor (B, C, H, W) and back by the exact inverse. `candidates` are the
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

NAMES = ("NCHW", "NHWC", "tokens")


@dataclasses.dataclass(frozen=True)
class Layout:
    """How an activation is laid out.

    Attributes:
        name: "NCHW", "NHWC", "tokens" or "custom".
        grid: Height and width of the map.
        channels: Number of channels.
        prefix: Number of tokens before the grid's (class, distillation, register tokens).
        axis: For tokens, the axis of the positions: 1 for (B, N, C), 2 for (B, C, N).
        order: For tokens that do not lie row by row: the token at every grid position, (H*W,).
        transform: For "custom": the user's callable from the activation to (B, C, H, W).
        suffix: Number of tokens after the grid's (the queries of a YOLOS).
    """

    name: str
    grid: tuple[int, int]
    channels: int
    prefix: int = 0
    axis: int = 1
    order: Tensor | None = dataclasses.field(default=None, compare=False)
    transform: Callable[[Tensor], Tensor] | None = None
    suffix: int = 0

    def to_map(self, activation: Tensor) -> Tensor:
        """Reads an activation as (B, C, H, W); tokens before and after the grid's are left out."""
        if self.name == "NCHW":
            return activation
        if self.name == "NHWC":
            return activation.permute(0, 3, 1, 2)  # (B,C,H,W)
        if self.transform is not None:
            return self.transform(activation)
        tokens = activation if self.axis == 1 else activation.transpose(1, 2)  # (B,N,C)
        tokens = tokens[:, self.prefix : tokens.shape[1] - self.suffix]
        if self.order is not None:
            tokens = tokens[:, self.order.to(tokens.device)]
        return tokens.transpose(1, 2).reshape(len(tokens), self.channels, *self.grid)

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


def candidates(shape: Sequence[int], size: tuple[int, int], prefix: int | None = None) -> list[Layout]:
    """All readings of an activation's shape, the most fitting first.

    Args:
        shape: (B, ...) as it is at the cut.
        size: Height and width of the input.
        prefix: Number of prefix tokens if the model tells it.
    """
    found: list[tuple[float, Layout]] = []
    if len(shape) == 4:
        _, a, b, c = shape
        for layout in (Layout("NCHW", (b, c), a), Layout("NHWC", (a, b), c)):
            misfit = _misfit(layout.grid, size)
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
    name: str | Callable[[Tensor], Tensor], activation: Tensor, size: tuple[int, int], prefix: int | None = None,
    batch: int | None = None,
) -> Layout:  # fmt: skip
    """The layout a user asks for.

    Args:
        name: "NCHW", "NHWC", "tokens", or a callable from the activation to (B, C, H, W) such as the
            `reshape_transform` functions written for pytorch-grad-cam.
        activation: The activation at the cut.
        size: Height and width of the input.
        prefix: Number of prefix tokens if the model tells it.
        batch: Number of images B; by default the activation's rows.

    Raises:
        LayoutError: The activation cannot be read that way.
    """
    shape = tuple(activation.shape)
    batch = len(activation) if batch is None else batch
    if callable(name):
        out = name(activation)
        if not isinstance(out, Tensor) or out.ndim != 4 or len(out) != batch:
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise LayoutError(
                f"reshape_transform made {got} of an activation of shape {shape}; it has to return (B, C, H, W) "
                f"with B={batch}"
            )
        return Layout("custom", (out.shape[2], out.shape[3]), out.shape[1], transform=name)
    if name not in NAMES:
        raise LayoutError(f"unknown layout {name!r}; give one of {', '.join(NAMES)} or a callable")
    if name == "NCHW" and len(shape) == 4:
        return Layout("NCHW", (shape[2], shape[3]), shape[1])
    if name == "NHWC" and len(shape) == 4:
        return Layout("NHWC", (shape[1], shape[2]), shape[3])
    fitting = [c for c in candidates(shape, size, prefix) if c.name == name]
    if not fitting:
        raise LayoutError(
            f"an activation of shape {shape} cannot be read as {name} for an input of {size[0]}x{size[1]}"
        )
    return fitting[0]
