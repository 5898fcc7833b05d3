"""Networks of which it is known what they look at; `python -m tests.planted` prints which methods show it."""

from __future__ import annotations

from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

import grad_cam
from grad_cam import METHODS
from grad_cam.methods import MethodError

CELLS, PIXELS = 7, 8
SIDE = CELLS * PIXELS
OPTIONS = {
    "rise": {"masks": 300}, "ss_cam": {"samples": 3}, "is_cam": {"steps": 3}, "region_regression": {"masks": 120},
    "smooth_grad_cam_plus_plus": {"samples": 5},
}  # fmt: skip


class OneCell(nn.Module):
    """A CNN with local features of which the classifier reads one cell.

    The convolutions do not look beyond a cell, so that nothing else can matter.
    """

    def __init__(self, row: int, column: int, channels: int = 8, classes: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(10 * row + column)
        self.features = nn.Sequential(
            nn.Conv2d(3, channels, PIXELS, PIXELS), nn.ReLU(), nn.Conv2d(channels, channels, 1), nn.ReLU()
        )
        self.flatten = nn.Flatten()
        self.head = nn.Linear(channels * CELLS * CELLS, classes)
        with torch.no_grad():
            for p in self.features.parameters():  # positive weights on positive images: the cell speaks for the class
                p.copy_(torch.rand(p.shape, generator=generator) / p[0].numel() if p.ndim > 1 else torch.zeros_like(p))
            weight = torch.zeros(classes, channels, CELLS, CELLS)
            weight[:, :, row, column] = 1 + torch.rand(classes, channels, generator=generator)
            self.head.weight.copy_(weight.flatten(1))
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        return self.head(self.flatten(self.features(x)))


class OneWindow(nn.Module):
    """A CNN with global pooling that blanks the image outside one cell."""

    def __init__(self, row: int, column: int, channels: int = 8, classes: int = 4) -> None:
        super().__init__()
        torch.manual_seed(10 * row + column)
        window = torch.zeros(1, 1, CELLS, CELLS)
        window[..., row, column] = 1
        self.register_buffer("window", window.repeat_interleave(PIXELS, 2).repeat_interleave(PIXELS, 3))
        self.features = nn.Sequential(
            nn.Conv2d(3, channels, PIXELS, PIXELS, bias=False), nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False), nn.ReLU(),
        )  # fmt: skip
        self.pool, self.flatten, self.head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
        with torch.no_grad():
            for layer in (self.features[0], self.features[2], self.head):
                layer.weight.abs_()

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        return self.head(self.flatten(self.pool(self.features(x * self.window))))


def one_token(row: int, column: int, classes: int = 4) -> nn.Module:
    """A timm ViT whose attention passes nothing on and whose head reads the token of one patch, without a class token.

    The attention's output projection is zero: every token keeps to its own patch.
    """
    torch.manual_seed(10 * row + column)
    model = timm.models.VisionTransformer(
        img_size=SIDE, patch_size=PIXELS, embed_dim=24, depth=3, num_heads=2, num_classes=classes, class_token=False,
        global_pool="avg", fc_norm=False,
    )  # fmt: skip
    for block in model.blocks:
        nn.init.zeros_(block.attn.proj.weight)
        nn.init.zeros_(block.attn.proj.bias)
    token = row * CELLS + column
    model.pool = lambda x, pool_type=None: x[:, token]  # type: ignore[method-assign, assignment]
    return model


def images(count: int = 3, seed: int = 0) -> Tensor:
    """Random bright images, (count, 3, 56, 56)."""
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) + 0.5


CELLS_READ = [(2, 4), (5, 1), (0, 6)]
NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    "one window": OneWindow, "one cell": OneCell, "one token": one_token
}  # fmt: skip
CANNOT = "no map"


def hits(network: str, method: str | None) -> str:
    """In how many cases a method's map (None: the default) is largest, in size, within the cell that is read."""
    options = {} if method is None else {"method": method, **OPTIONS.get(method, {})}
    x, found = images(), 0
    for row, column in CELLS_READ:
        model = NETWORKS[network](row, column).eval()
        try:
            maps = grad_cam.explain(model, x, target=0, **options).map
        except MethodError:
            return CANNOT
        large = functional.interpolate(maps[:, None].float(), (SIDE, SIDE), mode="bilinear")[:, 0].abs()
        best = large.flatten(1).argmax(1)
        there = (best // SIDE // PIXELS == row) & (best % SIDE // PIXELS == column)
        found += int((there & (large.flatten(1).amax(1) > 0)).sum())
    return f"{found} of {len(CELLS_READ) * len(x)}"


def main() -> None:
    """Prints the table."""
    print("Where the map is largest, for networks that can see one cell of 7x7 only")
    print(f"{'':28}{''.join(name.rjust(14) for name in NETWORKS)}")
    for method in [None, *(m.name for m in METHODS.values() if m.gives == "map")]:
        row = [hits(network, method) for network in NETWORKS]
        print(f"{method or 'the default':28}{''.join(cell.rjust(14) for cell in row)}")


if __name__ == "__main__":
    main()
