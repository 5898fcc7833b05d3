"""One small model of every timm model file, and the checks every one of them has to pass.

Run as a script it checks all families and prints a table::

    python -m tests.families            # everything
    python -m tests.families resnet eva # some
"""

from __future__ import annotations

import sys
import time
import warnings
from typing import Any

import timm
import torch
import torchvision
from torch import nn

import grad_cam

from .oracles import input_shape, plain

TIMM = {
    "beit": "beit_base_patch16_224",
    "byoanet": "botnet26t_256",
    "byobnet": "mobileone_s0",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_1024_20_ks9_p14",
    "convnext": "convnext_atto",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deepseek_vit": "deepseek_vit_412m",
    "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121",
    "dla": "dla60x_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "mobilenetv2_035",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "eva02_tiny_patch14_224",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "gemma4_vit": "gemma4_vit_570m",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "hieradet_small",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "mambaout_femto",
    "maxxvit": "coatnet_nano_rw_224",
    "metaformer": "poolformerv2_s12",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "mobilenetv3_small_050",
    "mobilenetv5": "mobilenetv5_300m",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_parfac_gap",
    "nasnet": "nasnetalarge",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "nfnet_l0",
    "pit": "pit_ti_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "qwen3_vit": "qwen3_vit_306m",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m0_9",
    "res2net": "res2next50",
    "resnest": "resnest50d_1s4x24d",
    "resnet": "resnet18",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls60",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vgg": "vgg11",
    "visformer": "visformer_tiny",
    "vision_transformer": "vit_tiny_patch16_224",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "vit_relpos_small_patch16_224",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p8_224",
}

# the smallest of these files are too large to build whole: fewer blocks, same code
SMALLER: dict[str, dict[str, Any]] = {
    "deepseek_vit": {"img_size": 224, "depth": 4},
    "gemma4_vit": {"img_size": 192, "depth": 3},
    "qwen3_vit": {"img_size": 224, "depth": 4},
}


# sides of pictures for the heavy checks where the model's own are so large that a forward takes many seconds
SIDES = {"csatv2": 256, "deepseek_vit": 224, "gemma4_vit": 192, "mobilenetv5": 256, "naflexvit": 224, "qwen3_vit": 224}

TORCHVISION = {  # one model of every classification family of torchvision, and how many stages it has
    "alexnet": 3, "vgg11": 3, "resnet18": 10, "squeezenet1_0": 2, "densenet121": 2, "inception_v3": 21, "googlenet": 19,
    "shufflenet_v2_x0_5": 7, "mobilenet_v2": 2, "mobilenet_v3_small": 3, "resnext50_32x4d": 10, "mnasnet0_5": 2,
    "efficientnet_b0": 3, "regnet_y_400mf": 4, "vit_b_32": 3, "convnext_tiny": 3, "swin_t": 6, "maxvit_t": 3,
    "wide_resnet50_2": 10, "swin_v2_t": 6, "efficientnet_v2_s": 3,
}  # fmt: skip


def build(family: str) -> nn.Module:
    """The family's model with random weights, in eval mode."""
    torch.manual_seed(0)
    return timm.create_model(TIMM[family], **SMALLER.get(family, {})).eval()


def build_torchvision(name: str) -> nn.Module:
    """A model of torchvision with random weights, in eval mode."""
    torch.manual_seed(0)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, **options).eval()


def example(model: nn.Module, batch: int) -> torch.Tensor:
    """A random batch of the model's own size."""
    shape = (batch, *input_shape(model))
    return torch.randn(shape, generator=torch.Generator().manual_seed(batch))


def check(model: nn.Module, depth: int) -> tuple[int, float]:
    """Checks that the chain of a depth is the model; returns its number of stages and the largest difference.

    The batch of 2 is not the one the chain was made on, and must agree bit for bit; that of 3 within float tolerance.
    """
    chain = grad_cam.chain(model, depth=depth)
    with torch.no_grad():
        x = example(model, 2)
        worst = (chain(x.clone()) - plain(model, x)).abs().max().item()
        if worst:
            return len(chain), worst
        x = example(model, 3)
        want = plain(model, x)
        off = (chain(x.clone()) - want).abs().max().item() / max(1.0, want.abs().max().item())
        return len(chain), off if off > 1e-5 else 0.0


def main(families: list[str]) -> int:
    """Prints the table; returns the number of failures."""
    warnings.filterwarnings("ignore")
    exact = 0
    print(
        f"{'family':<28} {'model':<36} {'stages':>6} {'blocks':>6}  {'default cut':<34} {'seconds':>7}  result",
        flush=True,
    )
    for family in families:
        start = time.time()
        stages = blocks = 0
        where = ""
        try:
            model = build(family)
            stages, off = check(model, 1)
            blocks, off2 = check(model, 3)
            result = "exact" if not off and not off2 else f"differs by {max(off, off2):.3g}"
            where = grad_cam.chain(model).default_split().name
        except Exception as error:
            result = f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
        exact += result == "exact"
        took = time.time() - start
        print(
            f"{family:<28} {TIMM[family]:<36} {stages:>6} {blocks:>6}  {where:<34} {took:>7.1f}  {result}", flush=True
        )
    print(f"exact {exact} / {len(families)}")
    return len(families) - exact


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(TIMM)))
