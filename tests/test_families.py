"""The chain is the model for the architectures people use: timm, torchvision and Hugging Face.

Here are the quick ones; `python -m tests.check_all` takes every family, with more checks.
"""

from __future__ import annotations

import pytest
import torch
import torchvision

import grad_cam

from . import families, hugging_face

DEFAULT = {  # the quick families, and where a map is taken when no layer is given
    "cait": "blocks", "convit": "blocks.10", "convnext": "norm_pre", "crossvit": "blocks.1", "cspnet": "stages",
    "deit": "blocks.10", "dla": "level5", "edgenext": "norm_pre", "efficientformer": "norm", "efficientnet": "bn2",
    "efficientvim": "norm.3", "efficientvit_mit": "stages", "eva": "norm", "ghostnet": "blocks", "hiera": "blocks",
    "hrnet": "final_layer", "levit": "stages", "mlp_mixer": "norm", "mobilenetv3": "blocks",
    "pit": "transformers.2.blocks.2", "pvt_v2": "stages", "regnet": "final_conv", "resnet": "layer4",
    "resnetv2": "norm", "rexnet": "features", "shvit": "stages", "starnet": "norm", "swin_transformer": "norm",
    "visformer": "norm", "vision_transformer": "blocks.10", "xcit": "cls_attn_blocks.0",
}  # fmt: skip


@pytest.mark.parametrize("family", DEFAULT)
def test_timm_families_are_exact(family: str) -> None:
    """Exact at batches of 2 and 3, top-level and with blocks opened; the default layer is known."""
    model = families.build(family)
    for depth in (1, 3):
        stages, off = families.check(model, depth)
        assert off == 0
        assert stages >= 1
    default = grad_cam.chain(model).default_split()
    assert min(default.layout.grid) > 1
    assert default.name == DEFAULT[family]


HEAVY = (  # left to `python -m tests.check_all torchvision`
    "maxvit_t", "wide_resnet50_2", "swin_v2_t", "vgg11", "efficientnet_v2_s", "resnext50_32x4d", "swin_t", "vit_b_32",
    "convnext_tiny",
)  # fmt: skip


@pytest.mark.parametrize("name", [n for n in families.TORCHVISION if n not in HEAVY])
def test_torchvision_classifiers_are_exact(name: str) -> None:
    """The families of torchvision's classifiers, top-level and with blocks opened, have the expected stages."""
    model = families.build_torchvision(name)
    assert len(grad_cam.chain(model)) == families.TORCHVISION[name]
    for depth in (1, 3):
        assert families.check(model, depth)[1] == 0
    assert min(grad_cam.chain(model).default_split().layout.grid) > 1


@pytest.mark.parametrize("name", [name for name, how in hugging_face.CLASSIFIERS.items() if how.quick])
def test_hugging_face_classifiers_are_exact(name: str) -> None:
    """Models that return output objects and take keyword arguments, at every depth, with an explanation at the end."""
    pytest.importorskip("transformers")
    how, model = hugging_face.CLASSIFIERS[name], hugging_face.build(name)
    for depth in (1, 2, 4):
        stages, off = families.check(model, depth)
        assert off == 0
    assert stages > 3
    result = grad_cam.explain(model, torch.randn(2, 3, how.size, how.size), method="grad_cam")
    assert min(result.map.shape[-2:]) > 1
    assert result.map.abs().max() > 0
    assert result.layer.name.startswith(how.default)


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
