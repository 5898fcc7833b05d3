"""A vision transformer that says which colours and shapes are in a picture, trained on drawn ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from . import net
from .fitting import fit
from .moving import CAPTIONS, PLAIN, SIZE, WORDS, pictures

SIDE = 8
"""Patches along an edge."""

_TRUE = torch.tensor([[float(word in caption.split()) for word in WORDS] for caption in CAPTIONS])
"""Which of `WORDS` are in each of `CAPTIONS`, (12, 7)."""


def labels(captions: Tensor) -> Tensor:
    """Which of `WORDS` are true of pictures (B, 7), from which of `CAPTIONS` are (B, 12)."""
    return (captions @ _TRUE).clamp(max=1)


def of_patches(masks: list[dict[int, Tensor]]) -> Tensor:
    """Which of `WORDS` are true of what each patch shows a part of, (B, 64, 7)."""
    found = torch.zeros(len(masks), SIDE * SIDE, len(WORDS))
    for one, shapes in zip(found, masks, strict=True):
        for caption, mask in shapes.items():
            touched = functional.max_pool2d(mask[None].float(), SIZE // SIDE).flatten()  # (64,)
            one.copy_(torch.maximum(one, touched[:, None] * _TRUE[caption]))
    return found


class Stem(nn.Module):
    """Makes patches of 6 x 6 pixels by three convolutions, which see the edges of thin shapes sooner than one does.

    Source: Xiao et al., NeurIPS 2021, "Early Convolutions Help Transformers See Better", arXiv 2106.14881.
    """

    def __init__(self, img_size: int, patch_size: int, in_chans: int, embed_dim: int, **_: Any) -> None:
        super().__init__()
        side = img_size // patch_size
        self.patch_size, self.grid_size, self.num_patches = (patch_size, patch_size), (side, side), side * side
        self.proj = nn.Sequential(
            nn.Conv2d(in_chans, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, embed_dim, 3, 3),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, 64, D) of pictures (B, 3, 48, 48)."""
        found: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return found


def _train(model: nn.Module) -> str:
    """Trains it on what is in a picture, and its patches on what they show, by a layer that is thrown away.

    Source: Jiang et al., NeurIPS 2021, "All Tokens Matter: Token Labeling", arXiv 2104.10858.
    """
    vit: Any = model
    of_patch = nn.Linear(48, len(WORDS))

    def loss_of(step: int) -> Tensor:
        drawn, true, masks = pictures(32, 200_000 + step)
        tokens = vit.forward_features(drawn)  # (B, 65, 48)
        whole = functional.binary_cross_entropy_with_logits(vit.forward_head(tokens), labels(true))
        return whole + 2 * functional.binary_cross_entropy_with_logits(of_patch(tokens[:, 1:]), of_patches(masks))

    losses = fit(nn.ModuleList([model, of_patch]), loss_of, steps=800, rate=3e-3)
    drawn, true, _ = pictures(200, 2)
    with torch.no_grad():
        right = ((model.eval()(drawn) > 0) == labels(true).bool()).float().mean(0)
    words = ", ".join(f"{word} {100 * float(share):.0f} %" for word, share in zip(WORDS, right, strict=True))
    return f"right about {words}; loss {sum(losses[-20:]) / 20:.3f}"


@net(_train)
def vit() -> nn.Module:
    """Four blocks, a class token and 8 x 8 patches of pictures of 48 pixels; a logit for each of `WORDS`."""
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
        img_size=SIZE, patch_size=6, embed_dim=48, depth=4, num_heads=4, num_classes=len(WORDS),
        embed_layer=Stem,  # type: ignore[arg-type]
    )  # fmt: skip
    model.preprocessing = PLAIN
    model.class_names = list(WORDS)  # type: ignore[assignment]
    model.multi_label = True  # type: ignore[assignment]
    return model
