"""A vision transformer that says which colours and shapes are in a picture, trained on drawn ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from . import net
from .fitting import fit
from .moving import CAPTIONS, PLAIN, SIZE, WORDS, pictures


def labels(captions: Tensor) -> Tensor:
    """Which of `WORDS` are true of pictures (B, 7), from which of `CAPTIONS` are (B, 12)."""
    words = torch.tensor([[float(word in caption.split()) for word in WORDS] for caption in CAPTIONS])
    return (captions @ words).clamp(max=1)


def _train(model: nn.Module) -> str:
    def loss_of(step: int) -> Tensor:
        drawn, true, _ = pictures(32, 200_000 + step)
        return functional.binary_cross_entropy_with_logits(model(drawn), labels(true))

    losses = fit(model, loss_of, steps=700, rate=2e-3)
    drawn, true, _ = pictures(200, 2)
    with torch.no_grad():
        right = ((model.eval()(drawn) > 0) == labels(true).bool()).float().mean(0)
    words = ", ".join(f"{word} {100 * float(share):.0f} %" for word, share in zip(WORDS, right, strict=True))
    return f"right about {words}; loss {sum(losses[-20:]) / 20:.3f}"


@net(_train)
def vit() -> nn.Module:
    """Four blocks, a class token and 8 x 8 patches of pictures of 48 pixels; a logit for each of `WORDS`."""
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(img_size=SIZE, patch_size=6, embed_dim=48, depth=4, num_heads=4, num_classes=len(WORDS))
    model.preprocessing = PLAIN
    model.class_names = list(WORDS)  # type: ignore[assignment]
    model.multi_label = True  # type: ignore[assignment]
    return model
