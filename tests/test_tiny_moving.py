"""Nets of videos and of image and text that were trained on drawn shapes: their maps lie where the truth was drawn."""

from __future__ import annotations

import torch

import grad_cam
from grad_cam import targets

from .tiny import load
from .tiny.moving import CAPTIONS, clips, pictures


def test_a_flash_is_found_in_its_frames_and_corner() -> None:
    """The evidence for the flash lies in the two frames and the corner where it was drawn."""
    model = load("video")
    drawn, classes, starts = clips(12, 77)
    right = 0
    for clip, label, start in zip(drawn, classes.tolist(), starts.tolist(), strict=True):
        if not label:
            continue
        found = grad_cam.explain(model, clip[None], layer="features", target=1, method="hires_cam")
        positive = found.map[0].clamp(min=0)  # (12, 12, 12)
        near = positive[max(0, start - 1) : start + 3, :4, :4].sum()
        right += 1
        assert float(near / positive.sum()) > 0.6
    assert right >= 3


def test_a_text_finds_its_shape() -> None:
    """Of several shapes, the evidence for a caption lies on the shape of which it is true, for nearly all of them."""
    model = load("image_text")
    drawn, _, masks = pictures(12, 55, least=2)
    hits = total = 0
    for image, shown in zip(drawn, masks, strict=True):
        prompts = [f"a {CAPTIONS[which]}" for which in shown]
        found = grad_cam.explain(
            model, image[None], layer="vision_model.features", target=targets.text(prompts), method="hires_cam"
        )
        large = torch.nn.functional.interpolate(found.map.clamp(min=0), (48, 48), mode="nearest")[0]
        for map_, mask in zip(large, shown.values(), strict=True):
            grown = torch.nn.functional.max_pool2d(mask[None].float(), 9, 1, 4)[0] > 0
            hits += float(map_[grown].sum()) > 0.6 * float(map_.sum())
            total += 1
    assert total >= 24 and hits >= 0.8 * total
