"""Tiny models and batches that the tests share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

SIZE = 64

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
"""How a browser is started that asks nobody else."""

torch.set_num_threads(1)  # small tensors gain nothing from threads, and on a busy machine they wait for each other


class Residual(nn.Module):
    """A residual block with an in-place activation, written as torchvision writes it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """x + f(x), in place."""
        out = self.bn(self.conv1(x))
        out += x
        return self.relu(out)


class TinyNet(nn.Module):
    """A small ResNet-like classifier: seven children, dropout, batch norm, in-place ReLU, functional flatten."""

    def __init__(self, classes: int = 7, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, stride=4, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(Residual(8), Residual(8))
        self.down = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.layer2 = nn.Sequential(Residual(12), Residual(12))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        x = self.relu(self.conv(x))
        x = self.layer2(self.down(self.layer1(x)))
        return self.fc(self.dropout(torch.flatten(self.pool(x), 1)))


def _settle(model: nn.Module) -> nn.Module:
    """Gives batch norms statistics that differ from those of any one batch."""
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
    return model


@pytest.fixture
def cnn() -> nn.Module:
    """A tiny convolutional classifier in eval mode, 64x64, 7 classes."""
    torch.manual_seed(1)
    return _settle(TinyNet()).eval()


@pytest.fixture
def vit() -> nn.Module:
    """A tiny timm ViT with a class token in eval mode, 64x64, patches of 16, 3 blocks, 7 classes."""
    torch.manual_seed(2)
    return timm.models.VisionTransformer(
        img_size=SIZE, patch_size=16, embed_dim=24, depth=3, num_heads=2, num_classes=7
    ).eval()


@pytest.fixture
def batch() -> Tensor:
    """Three random pictures, (3, 3, 64, 64)."""
    return torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def picture() -> Image.Image:
    """A picture of 90x70 with some structure."""
    y, x = np.mgrid[:70, :90]
    pixels = np.stack([x * 2, y * 3, (x + y) % 255], -1).astype(np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real Chromium without a window."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="browser tests need playwright, which is not installed"
    )
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("browser tests need chromium, which is not installed")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield started
        started.close()
