"""A detector (torchvision's Faster R-CNN on a small trunk) and a segmenter (a small U-Net)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from grad_cam.loading import Preprocessing

from . import net
from .fitting import fit
from .shapes import NAMES, scenes


def _block(given: int, made: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(given, made, 3, stride, 1, bias=False), nn.BatchNorm2d(made), nn.ReLU())


class Trunk(nn.Sequential):
    """Features of stride 8."""

    out_channels = 48

    def __init__(self) -> None:
        super().__init__(
            _block(3, 16, 2), _block(16, 16), _block(16, 32, 2), _block(32, 32), _block(32, 48, 2), _block(48, 48)
        )


def _train_detector(model: nn.Module) -> str:
    def loss(step: int) -> Tensor:
        drawn = scenes(6, 10_000 + step * 6)
        wanted = [{"boxes": one.boxes, "labels": one.labels} for one in drawn]
        return torch.stack(list(model([one.image for one in drawn], wanted).values())).sum()

    losses = fit(model, loss, steps=360, rate=4e-3, weight_decay=1e-3)
    model.eval()
    with torch.no_grad():
        drawn = scenes(40, 1)
        found = model([one.image for one in drawn])
    good = total = extra = 0
    for one, made in zip(drawn, found, strict=True):
        sure = made["scores"] > 0.5
        from torchvision.ops import box_iou

        hit = (box_iou(one.boxes, made["boxes"][sure]) > 0.5) & (one.labels[:, None] == made["labels"][sure])
        good, total = good + int(hit.any(1).sum()), total + len(one.boxes)
        extra += int((~hit.any(0)).sum())
    return f"finds {good} of {total} shapes with {extra} false boxes, loss {sum(losses[-20:]) / 20:.3f}"


@net(_train_detector)
def detector() -> nn.Module:
    """Faster R-CNN for pictures of 128 pixels."""
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.rpn import AnchorGenerator
    from torchvision.ops import MultiScaleRoIAlign

    kwargs: dict[str, Any] = {
        "min_size": 128, "max_size": 256, "rpn_pre_nms_top_n_train": 300, "rpn_post_nms_top_n_train": 150,
        "rpn_pre_nms_top_n_test": 200, "rpn_post_nms_top_n_test": 60, "rpn_batch_size_per_image": 64,
        "box_batch_size_per_image": 48, "box_score_thresh": 0.3,
    }  # fmt: skip
    model = FasterRCNN(
        Trunk(), image_mean=[0.4] * 3, image_std=[0.25] * 3,
        rpn_anchor_generator=AnchorGenerator(((20, 32, 44),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 5, 2),
        box_head=nn.Sequential(nn.Flatten(), nn.Linear(48 * 25, 96), nn.ReLU()), box_predictor=_Predictor(96), **kwargs,
    )  # fmt: skip
    model.class_names = list(NAMES)
    return model


class _Predictor(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.cls_score, self.bbox_pred = nn.Linear(width, len(NAMES)), nn.Linear(width, 4 * len(NAMES))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(x), self.bbox_pred(x)


class UNet(nn.Module):
    """Three levels; a head of one convolution gives the scores of the classes, (B, 4, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.down3 = _block(3, 16), _block(16, 32, 2), _block(32, 48, 2)
        self.bottom = nn.Sequential(_block(48, 64, 2), _block(64, 48))
        self.up3, self.up2, self.up1 = _block(96, 32), _block(64, 16), _block(32, 16)
        self.head = nn.Conv2d(16, len(NAMES), 1)
        self.class_names = list(NAMES)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(one)
        three = self.down3(two)
        four = self.bottom(three)
        y = self.up3(torch.cat([_up(four), three], 1))
        y = self.up2(torch.cat([_up(y), two], 1))
        y = self.up1(torch.cat([_up(y), one], 1))
        made: Tensor = self.head(y)
        return made


def _up(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="nearest")


def _train_segmenter(model: nn.Module) -> str:
    def loss(step: int) -> Tensor:
        drawn = scenes(8, 100_000 + step * 8, 64)
        logits = model(torch.stack([one.image for one in drawn]))
        return functional.cross_entropy(logits, torch.stack([one.mask for one in drawn]))

    fit(model, loss, steps=260, rate=6e-3)
    model.eval()
    drawn = scenes(40, 1, 64)
    with torch.no_grad():
        found = model(torch.stack([one.image for one in drawn])).argmax(1)
    right = found == torch.stack([one.mask for one in drawn])
    shown = torch.stack([one.mask for one in drawn]) > 0
    whole, inside = (100 * float(part.float().mean()) for part in (right, right[shown]))
    return f"{whole:.1f} % of the pixels are right, {inside:.1f} % of those of shapes"


@net(_train_segmenter)
def segmenter() -> nn.Module:
    """A U-Net for pictures of 64 pixels."""
    model = UNet()
    model.preprocessing = Preprocessing(
        size=(64, 64), mean=(0.0,) * 3, std=(1.0,) * 3, interpolation="bilinear", crop_pct=1.0, crop_mode="squash"
    )
    return model
