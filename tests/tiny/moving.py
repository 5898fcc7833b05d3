"""A net of videos, and a pair of image and text, both trained on drawn shapes."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from grad_cam.loading import Preprocessing

from . import net
from .fitting import fit

SIZE, LENGTH = 48, 12
WORDS = ("red", "blue", "yellow", "green", "ring", "square", "cross")
PLAIN = Preprocessing(size=(SIZE, SIZE), mean=(0.0,) * 3, std=(1.0,) * 3, crop_mode="squash")
_COLOURS = ((0.9, 0.25, 0.2), (0.2, 0.45, 0.9), (0.95, 0.85, 0.2), (0.25, 0.75, 0.35))
CAPTIONS = tuple(f"{colour} {shape}" for colour in WORDS[:4] for shape in WORDS[4:])


# ---------------------------------------------------------------------------------------------------------------- video


def clips(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Videos of a moving blue disc; in those of class 1 a red square flashes for two frames in a corner.

    Returns:
        Videos (B, 3, 12, 48, 48) in 0..1, classes (B,), and the first frame of the flash (B,).
    """
    generator = torch.Generator().manual_seed(seed)
    found = 0.15 * torch.rand(count, 3, LENGTH, SIZE, SIZE, generator=generator) + 0.2
    classes = torch.randint(0, 2, (count,), generator=generator)
    places = torch.randint(10, SIZE - 10, (count, 2), generator=generator).tolist()
    starts = torch.randint(1, LENGTH - 3, (count,), generator=generator)
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    for clip, label, (y, x), start in zip(found, classes.tolist(), places, starts.tolist(), strict=True):
        for t in range(LENGTH):
            clip[:, t, (rows - y) ** 2 + (columns - x - t + 6) ** 2 < 36] = torch.tensor(_COLOURS[1])[:, None]
        if label:
            clip[:, start : start + 2, 4:12, 4:12] = torch.tensor(_COLOURS[0])[:, None, None, None]
    return found, classes, starts


class Video(nn.Module):
    """Convolutions of three axes, and the mean of the 48 places where each finds most."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv3d(3, 12, 3, padding=1), nn.ReLU(), nn.MaxPool3d((1, 2, 2)), nn.Conv3d(12, 16, 3, padding=1),
            nn.ReLU(), nn.MaxPool3d((1, 2, 2)), nn.Conv3d(16, 24, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(24, 2)
        self.class_names = ["a disc", "a disc and a flash"]

    def forward(self, clip: Tensor) -> Tensor:
        """Videos (B, 3, 12, 48, 48)."""
        found: Tensor = self.head(self.features(clip).flatten(2).topk(48, 2).values.mean(2))
        return found


def _train_video(model: nn.Module) -> str:

    def loss(step: int) -> Tensor:
        drawn, classes, _ = clips(12, 1000 + step)
        return functional.cross_entropy(model(drawn), classes)

    fit(model, loss, steps=90, rate=1e-2)
    drawn, classes, _ = clips(60, 1)
    with torch.no_grad():
        right = (model.eval()(drawn).argmax(1) == classes).float().mean()
    return f"{100 * float(right):.0f} % of new videos are right"


@net(_train_video)
def video() -> nn.Module:
    """A net of three axes for videos of 12 frames of 48 pixels."""
    model = Video()
    model.preprocessing = PLAIN
    return model


# ------------------------------------------------------------------------------------------------------- image and text


def pictures(count: int, seed: int, least: int = 1, most: int = 3) -> tuple[Tensor, Tensor, list[dict[int, Tensor]]]:
    """Pictures of a few shapes, no two with one caption.

    Returns:
        Pictures (B, 3, 48, 48) in 0..1, which of `CAPTIONS` are true (B, 12), and for each picture the pixels (H, W) of
        the shapes by caption.
    """
    generator = torch.Generator().manual_seed(seed)
    found = 0.15 * torch.rand(count, 3, SIZE, SIZE, generator=generator) + 0.25
    true, masks = torch.zeros(count, len(CAPTIONS)), []
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    for b, image in enumerate(found):
        shown: dict[int, Tensor] = {}
        number = int(torch.randint(least, most + 1, (1,), generator=generator))
        corners = torch.randperm(4, generator=generator)[:number].tolist()
        for corner, which in zip(corners, torch.randperm(12, generator=generator).tolist(), strict=False):
            dy, dx = torch.randint(8, 17, (2,), generator=generator).tolist()
            y, x = rows - dy - 24 * (corner // 2), columns - dx - 24 * (corner % 2)
            ring = (y**2 + x**2 < 60) & (y**2 + x**2 > 16)
            square = (y.abs() < 6) & (x.abs() < 6)
            cross = ((y.abs() < 2) | (x.abs() < 2)) & (y.abs() < 7) & (x.abs() < 7)
            shapes = ring, square, cross
            shown[which] = shapes[which % 3]
            image[:, shown[which]] = torch.tensor(_COLOURS[which // 3])[:, None]
            true[b, which] = 1
        masks.append(shown)
    return found, true, masks


class _Vision(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(24, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(48, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
            nn.Conv2d(64, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        )  # fmt: skip

    def forward(self, pixel_values: Tensor) -> Any:
        return types.SimpleNamespace(pooler_output=self.features(pixel_values).amax((2, 3)))


class Pair(nn.Module):
    """A vision model and the sum of the embeddings of words, as Hugging Face's models of image and text are called."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.vision_model = _Vision(width)
        self.visual_projection = nn.Linear(width, width, bias=False)
        self.words = nn.Embedding(len(WORDS) + 1, width, padding_idx=0)
        self.text = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, width))
        self.scale, self.bias = nn.Parameter(torch.tensor(8.0)), nn.Parameter(torch.tensor(-4.0))

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Embeddings of pictures (B, 3, 48, 48)."""
        found: Tensor = self.visual_projection(self.vision_model(pixel_values=pixel_values).pooler_output)
        return found

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Embeddings of ids (K, L)."""
        found: Tensor = self.text(self.words(input_ids).sum(1))
        return found

    def tokenizer(self, prompts: Sequence[str]) -> Tensor:
        """Ids of the words that are known; others count nothing."""
        known = {word: 1 + i for i, word in enumerate(WORDS)}
        rows = [[known.get(word, 0) for word in prompt.lower().split()] for prompt in prompts]
        longest = max(map(len, rows))
        return torch.tensor([row + [0] * (longest - len(row)) for row in rows])

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> Tensor:
        """How far pictures and texts belong together, (B, K)."""
        image, text = self.get_image_features(pixel_values), self.get_text_features(input_ids)
        cosine = functional.normalize(image, dim=1) @ functional.normalize(text, dim=1).T
        return self.scale * cosine + self.bias


def _train_pair(model: nn.Module) -> str:
    assert isinstance(model, Pair)
    ids = model.tokenizer(CAPTIONS)

    def loss(step: int) -> Tensor:
        drawn, true, _ = pictures(24, 1000 + step)
        return functional.binary_cross_entropy_with_logits(model(drawn, ids), true)

    fit(model, loss, steps=400, rate=8e-3)
    drawn, true, _ = pictures(100, 1)
    with torch.no_grad():
        right = ((model.eval()(drawn, ids) > 0) == true.bool()).all(1).float().mean()
    return f"{100 * float(right):.0f} % of new pictures have all their captions and no other"


@net(_train_pair)
def image_text() -> nn.Module:
    """A pair of image and text for pictures of 48 pixels."""
    model = Pair()
    model.preprocessing = PLAIN
    return model
