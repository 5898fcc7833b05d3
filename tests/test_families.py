"""The chain is the model for the architectures people use: timm, torchvision and Hugging Face."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torchvision
from torch import nn

import grad_cam

from . import families

QUICK = [
    "cait", "convit", "convnext", "crossvit", "cspnet", "deit", "dla", "edgenext", "efficientformer", "efficientnet",
    "efficientvim", "efficientvit_mit", "eva", "ghostnet", "hiera", "hrnet", "levit", "mlp_mixer", "mobilenetv3", "pit",
    "pvt_v2", "regnet", "resnet", "resnetv2", "rexnet", "shvit", "starnet", "swin_transformer", "vision_transformer",
    "visformer", "xcit",
]  # fmt: skip

DEFAULT = {  # where a map is taken when no layer is given
    "convnext": "norm_pre", "deit": "blocks.10", "efficientnet": "bn2", "hiera": "blocks", "mobilenetv3": "blocks",
    "pit": "transformers.2.blocks.2", "resnet": "layer4", "swin_transformer": "norm", "vision_transformer": "blocks.10",
    "efficientvim": "norm.3", "crossvit": "blocks.1",
}  # fmt: skip


@pytest.mark.parametrize("family", QUICK)
def test_timm_families_are_exact(family: str) -> None:
    """Exact at batches of 2 and 3, top-level and with blocks opened; the default layer is known."""
    model = families.build(family)
    for depth in (1, 3):
        stages, off = families.check(model, depth)
        assert off == 0
        assert stages >= 1
    default = grad_cam.chain(model).default_split()
    assert min(default.layout.grid) > 1
    assert default.name == DEFAULT.get(family, default.name)


@pytest.mark.slow
@pytest.mark.parametrize("family", [f for f in families.TIMM if f not in QUICK])
def test_the_other_timm_families_are_exact(family: str) -> None:
    """The same for the large ones."""
    model = families.build(family)
    for depth in (1, 3):
        assert families.check(model, depth)[1] == 0


TORCHVISION = {
    "alexnet": 3, "vgg11": 3, "resnet18": 10, "squeezenet1_0": 2, "densenet121": 2, "inception_v3": 21, "googlenet": 19,
    "shufflenet_v2_x0_5": 7, "mobilenet_v2": 2, "mobilenet_v3_small": 3, "resnext50_32x4d": 10, "mnasnet0_5": 2,
    "efficientnet_b0": 3, "regnet_y_400mf": 4, "vit_b_32": 3, "convnext_tiny": 3, "swin_t": 6, "maxvit_t": 3,
    "wide_resnet50_2": 10, "swin_v2_t": 6, "efficientnet_v2_s": 3,
}  # fmt: skip
HEAVY = (
    "maxvit_t", "wide_resnet50_2", "swin_v2_t", "vgg11", "efficientnet_v2_s", "resnext50_32x4d", "swin_t", "vit_b_32",
    "convnext_tiny",
)  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in HEAVY else n for n in TORCHVISION]
)  # fmt: skip
def test_torchvision_classifiers_are_exact(name: str) -> None:
    """Every family of torchvision's classifiers, top-level and with blocks opened, has the expected stages."""
    torch.manual_seed(0)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = torchvision.models.get_model(name, **options).eval()
    assert len(grad_cam.chain(model)) == TORCHVISION[name]
    for depth in (1, 3):
        assert families.check(model, depth)[1] == 0
    assert min(grad_cam.chain(model).default_split().layout.grid) > 1


def hugging_face() -> Iterator[tuple[str, Callable[[], nn.Module], str]]:
    """(name, model factory, default layer) for small random models of Hugging Face's image classifiers."""
    t = pytest.importorskip("transformers")
    plain = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, num_labels=5)
    square = dict(**plain, intermediate_size=64, image_size=64, patch_size=16)
    four = dict(depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], num_labels=5)
    yield "ViT", lambda: t.ViTForImageClassification(t.ViTConfig(**square)), "vit.layers.1"
    yield "DeiT", lambda: t.DeiTForImageClassification(t.DeiTConfig(**square)), "deit.layers.1"
    yield "DeiT-teacher", lambda: t.DeiTForImageClassificationWithTeacher(t.DeiTConfig(**square)), "deit.layers.1"
    swin = dict(image_size=64, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4, num_labels=5)
    yield "Swin", lambda: t.SwinForImageClassification(t.SwinConfig(**swin)), "swin.layernorm"
    yield "ConvNeXt", lambda: t.ConvNextForImageClassification(t.ConvNextConfig(**four, image_size=64)), ""
    dino = dict(**plain, image_size=56, patch_size=14)
    yield "DINOv2", lambda: t.Dinov2ForImageClassification(t.Dinov2Config(**dino)), "dinov2"
    resnet = dict(embedding_size=8, hidden_sizes=[16, 24, 32, 40], depths=[1, 1, 2, 1], num_labels=5)
    yield "ResNet", lambda: t.ResNetForImageClassification(t.ResNetConfig(**resnet)), "resnet.encoder"
    yield "BEiT", lambda: t.BeitForImageClassification(t.BeitConfig(**square)), "beit.layernorm"
    yield "SegFormer", lambda: t.SegformerForImageClassification(t.SegformerConfig(**four)), "segformer"
    mobile = dict(hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 16, 24, 32, 40, 48, 64], num_labels=5, image_size=64)
    yield "MobileViT", lambda: t.MobileViTForImageClassification(t.MobileViTConfig(**mobile)), ""
    pvt = dict(**four, num_attention_heads=[1, 2, 3, 4])
    yield "PVTv2", lambda: t.PvtV2ForImageClassification(t.PvtV2Config(**pvt)), "pvt_v2"


@pytest.mark.parametrize("number", range(11))
def test_hugging_face_classifiers_are_exact(number: int) -> None:
    """Models that return output objects and take keyword arguments, at every depth, with an explanation at the end."""
    name, build, default = list(hugging_face())[number]
    torch.manual_seed(0)
    model = build().eval()
    for weight in model.parameters():  # their own initialisation is so small that a tiny model's logits vanish
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.15)
    size = families.default_size(model)
    for depth in (1, 2, 4):
        stages, off = families.check(model, depth)
        assert off == 0, name
    assert stages > 3, name
    x = torch.randn(2, 3, *size)
    result = grad_cam.explain(model, x)
    assert min(result.map.shape[-2:]) > 1
    assert result.map.abs().max() > 0
    assert result.layer.name.startswith(default), name


def test_segmentation_models_are_exact() -> None:
    """LR-ASPP returns a dictionary; a target inside a mask explains it."""
    torch.manual_seed(0)
    model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
    x = torch.randn(2, 3, 64, 64)
    chain = grad_cam.chain(model, (64, 64))
    with torch.no_grad():
        assert torch.equal(chain(x.clone()), model(x.clone())["out"])
    mask = torch.zeros(64, 64)
    mask[:32] = 1
    result = grad_cam.explain(model, x, target=grad_cam.targets.segmentation(3, mask), layer="backbone")
    assert result.map.ndim == 3
