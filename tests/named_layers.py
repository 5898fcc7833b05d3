"""Layers whose shape misleads: channels, queries, heads, hidden units and windows that look like a grid of positions.

At each, an explanation either is refused with an error of the package or gives a map whose cells are where the
experiment of `positions` does not contradict them. A default layer, and a layer that is known to have no positions, has
to be confirmed: there, undecided is not enough.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

import grad_cam
from grad_cam.errors import GradCamError

from . import hugging_face, oracles, positions


class PooledChannels(nn.Sequential):
    """A classifier whose pooling keeps an axis, (B, 64, 1): its channels could be read as an 8x8 grid."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 64, 8, 8), nn.ReLU(), nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(1), nn.Linear(64, 5)
        )


class AttentionPooling(nn.Module):
    """A classifier that gathers its positions with learned queries, (B, queries, 32)."""

    def __init__(self, queries: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 8, 8)
        self.queries = nn.Parameter(torch.randn(1, queries, 32))
        self.pool = nn.MultiheadAttention(32, 2, batch_first=True)
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 5)."""
        tokens = self.stem(x).flatten(2).transpose(1, 2)  # (B,N,32)
        pooled = self.pool(self.queries.expand(len(x), -1, -1), tokens, tokens, need_weights=False)[0]
        return self.head(self.norm(pooled).mean(1))


def _timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, **options)


def _unfused(name: str, **options: Any) -> Callable[[], nn.Module]:
    """A timm model that computes its attention step by step, so that the matrices pass through modules."""

    def build() -> nn.Module:
        before = timm.layers.use_fused_attn()
        timm.layers.set_fused_attn(False)
        try:
            return timm.create_model(name, **options)
        finally:
            timm.layers.set_fused_attn(bool(before))

    return build


def _detr() -> nn.Module:
    t = hugging_face.library()
    backbone = t.ResNetConfig(
        embedding_size=8, hidden_sizes=[16, 24, 32, 40], depths=[1, 1, 1, 1], out_features=["stage4"]
    )
    small = dict(
        d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=64, decoder_ffn_dim=64, num_queries=100,
    )  # fmt: skip
    config = t.DetrConfig(use_timm_backbone=False, use_pretrained_backbone=False, backbone_config=backbone, **small)
    return hugging_face.redraw(t.DetrForObjectDetection(config), 224)


def _yolos() -> nn.Module:
    t = hugging_face.library()
    small = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64)
    config = t.YolosConfig(**small, image_size=[96, 96], patch_size=16, num_detection_tokens=100)
    return hugging_face.redraw(t.YolosForObjectDetection(config), 96)


CONTENTS = 32
"""Contents of each patch where a layer has to be confirmed and the usual number leaves it undecided."""


@dataclasses.dataclass(frozen=True)
class Named:
    """A layer of a model.

    Attributes:
        build: Makes the model.
        layer: Module path, or None for the default layer.
        size: Side of the pictures.
        spatial: Whether the layer has positions at all.
        detects: Whether the model gives logits (B, queries, classes).
    """

    build: Callable[[], nn.Module]
    layer: str | None
    size: int = 224
    spatial: bool = True
    detects: bool = False


def _best(logits: Tensor) -> Tensor:
    """The highest score of all queries and classes, (B,)."""
    return logits.flatten(1).max(1).values


_HIERA = _timm("hiera_tiny_224")
_ATTENTION = _unfused("vit_tiny_patch16_224", depth=4)
_UNFUSED_SWIN = _unfused("swin_tiny_patch4_window7_224")
_CONVNEXT = _timm("convnext_tiny")
_VIM = _timm("efficientvim_m1")

LAYERS: dict[str, Named] = {
    # channels as positions
    "swin-b default": Named(lambda: hugging_face.build("Swin-B"), None),
    "swin-b pooler": Named(lambda: hugging_face.build("Swin-B"), "swin.pooler", spatial=False),
    "swinv2-b default": Named(lambda: hugging_face.build("SwinV2-B"), None, 256),
    "swinv2-b pooler": Named(lambda: hugging_face.build("SwinV2-B"), "swinv2.pooler", 256, spatial=False),
    "focalnet-b default": Named(lambda: hugging_face.build("FocalNet-B"), None),
    "focalnet-b pooler": Named(lambda: hugging_face.build("FocalNet-B"), "focalnet.pooler", spatial=False),
    "pooled channels default": Named(PooledChannels, None, 64),
    "pooled channels pool": Named(PooledChannels, "3", 64, spatial=False),
    # queries and latents
    "detr decoder": Named(_detr, "model.decoder.layers.1", spatial=False, detects=True),
    "detr decoder attention": Named(_detr, "model.decoder.layers.0.encoder_attn.o_proj", spatial=False, detects=True),
    "detr default": Named(_detr, None, detects=True),
    "yolos last layer": Named(_yolos, "vit.encoder.layer.2", 96, detects=True),
    "yolos default": Named(_yolos, None, 96, detects=True),
    "perceiver latents": Named(
        lambda: hugging_face.build("Perceiver-conv"), "perceiver.encoder.self_attends.1", 64, spatial=False
    ),
    "perceiver default": Named(lambda: hugging_face.build("Perceiver-conv"), None, 64),
    "attention pooling 16": Named(lambda: AttentionPooling(16), "norm", 64, spatial=False),
    "attention pooling 64": Named(lambda: AttentionPooling(64), "norm", 64, spatial=False),
    "attention pooling default": Named(lambda: AttentionPooling(16), None, 64),
    # NHWC where the channels equal the side of the grid
    "pvt_v2 patch_embed": Named(_timm("pvt_v2_b2"), "patch_embed", 256),
    "maxvit attn_block": Named(_timm("maxvit_rmlp_nano_rw_256"), "stages.0.blocks.0.attn_block", 256),
    "convnext norm": Named(_CONVNEXT, "stages.0.blocks.0.norm", 384),
    "convnext mlp": Named(_CONVNEXT, "stages.0.blocks.0.mlp", 384),
    "torchvision convnext permute": Named(lambda: torchvision.models.convnext_tiny(), "features.1.0.block.2", 384),
    # axes that are not positions
    "vit attention": Named(_ATTENTION, "blocks.1.attn.attn_drop", spatial=False),
    "swin softmax": Named(_UNFUSED_SWIN, "layers.0.blocks.0.attn.softmax", spatial=False),
    "swin last softmax": Named(_UNFUSED_SWIN, "layers.3.blocks.1.attn.softmax", spatial=False),
    "cait proj_l": Named(_timm("cait_xxs24_224"), "blocks.0.attn.proj_l", spatial=False),
    "mixer token mlp": Named(_timm("mixer_s32_224"), "blocks.0.mlp_tokens.fc1", spatial=False),
    "vit q_norm": Named(_timm("vit_tiny_patch16_224", qk_norm=True, depth=4), "blocks.1.attn.q_norm", spatial=False),
    "efficientvim hz_proj": Named(_VIM, "stages.0.blocks.0.mixer.hz_proj", spatial=False),
    "efficientvim late hz_proj": Named(_VIM, "stages.2.blocks.0.mixer.hz_proj", spatial=False),
    # tokens in an order of their own, and pooling among them
    **{
        f"hiera {layer}": Named(_HIERA, layer)
        for layer in (
            "blocks.0", "blocks.1", "blocks.1.norm1", "blocks.1.proj", "blocks.1.attn", "blocks.1.attn.proj",
            "blocks.2", "blocks.3", "blocks.3.norm1", "blocks.4", "blocks.10", "blocks.10.attn", "blocks.11",
        )
    },
    "hiera default": Named(_HIERA, None),
}  # fmt: skip


def examine(name: str) -> oracles.Outcome:
    """Explains at a named layer, and looks where its cells are."""
    how, out = LAYERS[name], oracles.Outcome()
    torch.manual_seed(0)
    model = how.build().eval()
    reference = oracles.reference_of(model)
    shape = (3, how.size, how.size)
    x = oracles.images(shape, oracles.RECORDED)
    target = _best if how.detects else None
    with out.check(name):
        try:
            result = grad_cam.explain(model, x.clone(), layer=how.layer, target=target, method="hires_cam")
        except GradCamError as error:
            out.count("refused")
            out.notes.append(f"refused: {' '.join(str(error).split())[:300]}")
            return out
        layer = result.layer.name
        cut = grad_cam.split(model, layer, x.clone())
        assert cut.layout is not None, f"a map at '{layer}' without a layout"
        activation, read = oracles.first(cut, x), cut.layout.to_map
        out.notes.append(f"'{layer}' {tuple(activation.shape[1:])} read as {cut.layout}, {cut.layout.grid}")
        run = oracles.capture(reference, [layer], [activation.shape[1:]])
        if layer not in oracles.called(reference, x[:1]):
            out.notes.append(f"'{layer}' is no module that a hook sees")
            run = lambda x: [oracles.first(cut, x)]  # noqa: E731
        finding = positions.judge(run, [read], shape)[0]
        certain = how.layer is None or not how.spatial
        if certain and finding.verdict == "undecided":
            finding = positions.judge(run, [read], shape, contents=CONTENTS)[0]
        out.count(finding.verdict)
        out.notes.append(finding.why)
        at = f"'{layer}' {tuple(activation.shape[1:])}"
        assert finding.verdict != "contradicted", f"{at}: {finding.why}"
        if certain:
            assert finding.verdict == "confirmed", f"{at} is drawn although its positions are undecided: {finding.why}"
    return out
