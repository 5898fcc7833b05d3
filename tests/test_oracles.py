"""The oracles of the heavy checks tell right from wrong."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from . import oracles, positions

SHAPE = (3, 64, 64)


def _convolution() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 8, 8), nn.ReLU(), nn.Conv2d(16, 8, 3, padding=1)).eval()


def _judged(make: nn.Module, read: positions.Read) -> str:
    def run(x: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return [make(x)]

    return positions.judge(run, [read], SHAPE)[0].verdict


@pytest.mark.parametrize(
    ("read", "verdict"),
    [
        (lambda a: a, "confirmed"),
        (lambda a: a.transpose(2, 3), "contradicted"),
        (lambda a: a.permute(0, 3, 1, 2), "contradicted"),  # (B,C,h,w) read as NHWC: 8 channels, 8 rows
        (lambda a: a.flatten(2)[:, :, torch.randperm(64, generator=torch.Generator().manual_seed(1))].view_as(a),
         "contradicted"),
        (lambda a: a.flip(2), "contradicted"),
    ],
    ids=["right", "turned", "channels as rows", "another order", "upside down"],
)  # fmt: skip
def test_readings_of_a_feature_map(read: positions.Read, verdict: str) -> None:
    """Only the right reading of a small convolutional network's output is confirmed, wrong ones are contradicted."""
    assert _judged(_convolution(), read) == verdict


def test_pooled_channels_are_no_positions() -> None:
    """64 channels without positions, read as an 8x8 grid, are contradicted."""
    torch.manual_seed(0)
    pooled = nn.Sequential(nn.Conv2d(3, 64, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1)).eval()
    assert _judged(pooled, lambda a: a.view(len(a), 1, 8, 8)) == "contradicted"


def test_a_layer_that_mixes_everything_is_undecided() -> None:
    """Where every position sees the whole picture alike the experiment does not pretend to know."""

    def run(x: Tensor) -> list[Tensor]:
        kernel = torch.randn(8 * 64, 3 * 64, generator=torch.Generator().manual_seed(2))
        return [(x.unfold(2, 8, 8).unfold(3, 8, 8).mean((2, 3)).flatten(1) @ kernel.T).view(-1, 8, 8, 8)]

    assert positions.judge(run, [lambda a: a], SHAPE)[0].verdict == "undecided"


def test_the_state_of_a_model_shows_what_changed() -> None:
    """Weights, buffers, flags, hooks, attributes, random numbers: each is named when it changes."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    changes = {
        "running_mean": lambda: model[1].running_mean.add_(1),
        "0.weight": lambda: model[0].weight.requires_grad_(False),
        "flags of '1'": lambda: model[1].eval(),
        "_forward_hooks of '0'": lambda: model[0].register_forward_hook(lambda *_: None),
        "'1'.momentum": lambda: setattr(model[1], "momentum", 0.5),
        "rng": lambda: torch.rand(1),
    }
    for name, change in changes.items():
        before = oracles.state(model)
        oracles.require_untouched(before, oracles.state(model))
        change()
        with pytest.raises(AssertionError, match=f".*{name}"):
            oracles.require_untouched(before, oracles.state(model))


def test_halves_that_differ_are_found() -> None:
    """A difference in the last bit, and one that only another batch size shows."""
    model = nn.Sequential(_convolution(), nn.Flatten(), nn.Linear(512, 5)).eval()
    assert oracles.require_exact(model, model, SHAPE) == ""
    with pytest.raises(AssertionError, match="recorded batch"):
        oracles.require_exact(lambda x: model(x) * (1 + 1e-6), model, SHAPE)
    with pytest.raises(AssertionError, match="batch of 3"):
        oracles.require_exact(lambda x: model(x) if len(x) == 2 else 2 * model(x), model, SHAPE)


def test_a_hook_sees_the_modules_own_output() -> None:
    """In x + f(x), followed by an in-place ReLU, activation and gradient are those of f alone."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f, self.relu = nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            return (2 * self.relu(self.f(x)) + x).mean((2, 3))

    torch.manual_seed(0)
    block = Block().eval().requires_grad_(False)
    x = torch.randn(2, 3, 4, 4)
    seen = oracles.hooked(block, "f", x, torch.tensor([0, 2]), None)
    assert torch.equal(seen.activation, block.f(x))
    wanted = torch.zeros_like(x)
    for row, one in enumerate((0, 2)):
        wanted[row, one] = (block.f(x)[row, one] > 0) * 2 / 16
    assert torch.allclose(seen.gradient, wanted)
