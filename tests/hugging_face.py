"""Hugging Face's image classifiers as small random models: one of every class that takes a batch of pictures."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import torch
from torch import nn


@dataclasses.dataclass(frozen=True)
class Classifier:
    """How one of them is built.

    Attributes:
        model: Class of the model.
        config: Class of its configuration.
        options: What the configuration is given.
        size: Side of the pictures.
        default: How the name of the default layer begins, where that is known.
        quick: Whether `make test` runs it.
        may_refuse: Why the package may refuse it, or "".
    """

    model: str
    config: str
    options: dict[str, Any]
    size: int = 64
    default: str = ""
    quick: bool = False
    may_refuse: str = ""


NOT_BUILT = {
    "DinatForImageClassification": "needs the package natten",
    "ImageGPTForImageClassification": "takes colour indices, not pictures",
    "ShieldGemma2ForImageClassification": "a language model that reads a prompt beside the picture",
    "Siglip2ForImageClassification": "takes flattened patches, a mask and shapes, not a batch of pictures",
}

_PLAIN = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2)
_SQUARE = dict(**_PLAIN, intermediate_size=64, image_size=64, patch_size=16)
_DINO = dict(**_PLAIN, image_size=56, patch_size=14)
_FOUR = dict(depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32])
_CLIP = dict(vision_config=_SQUARE, projection_dim=16)
_SIGLIP = dict(vision_config=_SQUARE)
_SWIN = dict(image_size=64, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4)
_MOBILE = dict(hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 16, 24, 32, 40, 48, 64], image_size=64)
_RESNET = dict(embedding_size=8, hidden_sizes=[16, 24, 32, 40], depths=[1, 1, 2, 1])
_LEVIT = dict(
    image_size=64, hidden_sizes=[16, 24, 32], num_attention_heads=[1, 2, 3], depths=[1, 1, 1], key_dim=[8, 8, 8]
)
_BIT = dict(embedding_size=8, hidden_sizes=[16, 24, 32, 40], depths=[1, 1, 1, 1], num_groups=4)
_FOCAL = dict(
    image_size=64, embed_dim=16, hidden_sizes=[16, 32, 64, 64], depths=[1, 1, 1, 1], focal_levels=[1, 1, 1, 1]
)
_HG = dict(
    embedding_size=16, depths=[1, 1, 1, 1], hidden_sizes=[32, 48, 64, 80], stem_channels=[3, 8, 16],
    stage_in_channels=[16, 32, 48, 64], stage_mid_channels=[8, 12, 16, 20], stage_out_channels=[32, 48, 64, 80],
    stage_num_blocks=[1, 1, 1, 1], stage_numb_of_layers=[2, 2, 2, 2],
)  # fmt: skip
_PERCEIVER = dict(
    num_latents=16, d_latents=32, d_model=32, num_self_attends_per_block=2, num_self_attention_heads=2,
    num_cross_attention_heads=1,
)  # fmt: skip
_LATENTS = "after its first layer it has latents, not positions"
_B = dict(embed_dim=128, depths=[1, 1, 1, 1])  # the published width; one block a stage


def _named(prefix: str, options: dict[str, Any], model: str = "", **more: Any) -> Classifier:
    return Classifier(model or f"{prefix}ForImageClassification", f"{prefix}Config", options, **more)


CLASSIFIERS: dict[str, Classifier] = {
    "ViT": _named("ViT", _SQUARE, default="vit.layers.1", quick=True),
    "DeiT": _named("DeiT", _SQUARE, default="deit.layers.1", quick=True),
    "DeiT-teacher": _named(
        "DeiT", _SQUARE, "DeiTForImageClassificationWithTeacher", default="deit.layers.1", quick=True
    ),
    "Swin": _named("Swin", _SWIN, default="swin.layernorm", quick=True),
    "ConvNeXt": _named("ConvNext", dict(**_FOUR, image_size=64), quick=True),
    "DINOv2": _named("Dinov2", _DINO, size=56, default="dinov2", quick=True),
    "ResNet": _named("ResNet", _RESNET, default="resnet.encoder", quick=True),
    "BEiT": _named("Beit", _SQUARE, default="beit.layernorm", quick=True),
    "SegFormer": _named("Segformer", _FOUR, default="segformer", quick=True),
    "MobileViT": _named("MobileViT", _MOBILE, quick=True),
    "PVTv2": _named("PvtV2", dict(**_FOUR, num_attention_heads=[1, 2, 3, 4]), default="pvt_v2", quick=True),
    "BiT": _named("Bit", _BIT),
    "CLIP": _named("CLIP", _CLIP),
    "ConvNeXtV2": _named("ConvNextV2", dict(**_FOUR, image_size=64)),
    "CvT": _named("Cvt", dict(embed_dim=[16, 32, 48], num_heads=[1, 2, 3], depth=[1, 2, 3])),
    "Data2VecVision": _named("Data2VecVision", dict(**_SQUARE, out_indices=[0, 1, 2])),
    "DINOv2-registers": _named("Dinov2WithRegisters", dict(_DINO, num_register_tokens=2), size=56),
    "DonutSwin": _named("DonutSwin", _SWIN),
    "EfficientNet": _named(
        "EfficientNet", dict(width_coefficient=0.5, depth_coefficient=0.4, image_size=64, hidden_dim=640), size=128
    ),
    "FocalNet": _named("FocalNet", _FOCAL),
    "HGNetV2": _named("HGNetV2", _HG),
    "Hiera": _named(
        "Hiera", dict(embed_dim=16, image_size=[64, 64], depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 4])
    ),  # fmt: skip
    "I-JEPA": _named("IJepa", _SQUARE),
    "LeViT": _named("Levit", _LEVIT),
    "LeViT-teacher": _named("Levit", _LEVIT, "LevitForImageClassificationWithTeacher"),
    "MetaCLIP2": _named("MetaClip2", _CLIP),
    "MobileNetV1": _named("MobileNetV1", dict(depth_multiplier=0.25, image_size=96), size=96),
    "MobileNetV2": _named("MobileNetV2", dict(depth_multiplier=0.35, image_size=96), size=96),
    "MobileViTV2": _named("MobileViTV2", dict(width_multiplier=0.25, n_attn_blocks=[1, 1, 1], image_size=64)),
    "Perceiver-learned": _named(
        "Perceiver",
        dict(_PERCEIVER, image_size=16),
        "PerceiverForImageClassificationLearned",
        size=16,
        may_refuse=_LATENTS,
    ),  # fmt: skip
    "Perceiver-fourier": _named(
        "Perceiver", _PERCEIVER, "PerceiverForImageClassificationFourier", size=64, may_refuse=_LATENTS
    ),
    "Perceiver-conv": _named(
        "Perceiver", _PERCEIVER, "PerceiverForImageClassificationConvProcessing", size=64, may_refuse=_LATENTS
    ),
    "PoolFormer": _named("PoolFormer", _FOUR),
    "PP-LCNet": _named(
        "PPLCNet", dict(scale=0.25, class_expand=64), size=96, may_refuse="returns its scores as last_hidden_state"
    ),
    "PVT": _named("Pvt", dict(**_FOUR, num_attention_heads=[1, 2, 3, 4], image_size=64)),
    "RegNet": _named(
        "RegNet", dict(embedding_size=8, hidden_sizes=[16, 24, 32, 40], depths=[1, 1, 2, 1], groups_width=8)
    ),
    "SigLIP": _named("Siglip", _SIGLIP),
    "SwiftFormer": _named("SwiftFormer", dict(depths=[1, 1, 1, 1], embed_dims=[8, 16, 24, 32], image_size=64)),
    "SwinV2": _named("Swinv2", _SWIN),
    "TextNet": _named(
        "TextNet",
        dict(
            stem_out_channels=8,
            hidden_sizes=[8, 8, 16, 24, 32],
            image_size=[64, 64],
            conv_layer_kernel_sizes=[[[3, 3]], [[3, 3], [1, 3]], [[3, 3]], [[3, 3], [3, 1]]],
            conv_layer_strides=[[1], [2, 1], [2], [2, 1]],
        ),
    ),  # fmt: skip
    "timm-wrapper": _named("TimmWrapper", dict(architecture="resnet18")),
    "ViT-MSN": _named("ViTMSN", _SQUARE),
    "Swin-B": _named("Swin", dict(**_B, num_heads=[4, 8, 16, 32]), size=224),
    "SwinV2-B": _named("Swinv2", dict(**_B, image_size=256, num_heads=[4, 8, 16, 32], window_size=8), size=256),
    "FocalNet-B": _named("FocalNet", dict(**_B, hidden_sizes=[256, 512, 1024, 1024]), size=224),
}


def _fan_in(weight: torch.Tensor) -> int:
    return math.prod(weight.shape[1:])


def redraw(model: nn.Module, size: int) -> nn.Module:
    """Draws the weights anew: their own initialisation is so small that a tiny model's logits vanish.

    Scales of branches that start near zero become one half; batch norms get the statistics of a batch.
    """
    inside = {id(m.weight) for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    with torch.no_grad():
        for weight in model.parameters():
            if id(weight) in inside:
                weight.normal_(std=1.4 / math.sqrt(_fan_in(weight)))
            elif weight.ndim > 1 and weight.numel() > weight.shape[0]:
                weight.normal_(std=0.15)
            elif weight.ndim == 1 and 0 < float(weight.abs().max()) < 0.01 and len(weight.unique()) == 1:
                weight.fill_(0.5)
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        if norms:
            model.eval()
            for norm in norms:
                norm.train().momentum = 1.0
                norm.weight.fill_(1.0)
            model(torch.randn(8, 3, size, size))
            for norm in norms:
                norm.momentum = 0.1
    return model.eval()


@functools.lru_cache(maxsize=1)
def library() -> Any:
    """The package transformers."""
    import transformers

    return transformers


def build(name: str) -> nn.Module:
    """The classifier of a name with random weights, in eval mode."""
    how, library_ = CLASSIFIERS[name], library()
    torch.manual_seed(0)
    options = how.options if name == "timm-wrapper" else {"num_labels": 5, **how.options}
    config = getattr(library_, how.config)(**options)
    if name == "timm-wrapper":
        config.num_labels = 5
    return redraw(getattr(library_, how.model)(config), how.size)


def segmenter(classes: int) -> nn.Module:
    """A SegFormer with random weights."""
    config = library().SegformerConfig(
        **_FOUR, num_labels=classes, num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16
    )
    model: nn.Module = library().SegformerForSemanticSegmentation(config)
    return model


def uncovered() -> list[str]:
    """Image classifiers of the installed transformers that are neither built here nor named in `NOT_BUILT`."""
    from transformers.models.auto import modeling_auto

    known = {how.model for how in CLASSIFIERS.values()} | set(NOT_BUILT)
    names: list[str] = []
    for value in modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.values():
        names += [value] if isinstance(value, str) else list(value)
    return [name for name in names if name not in known]
