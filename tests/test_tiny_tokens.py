"""A vision transformer that was trained on drawn shapes, and figures of models of several labels at once."""

from __future__ import annotations

import torch
from torch import nn

import grad_cam
from grad_cam import explain, predictions

from . import tiny
from .tiny.moving import CAPTIONS, pictures
from .tiny.volumes import finder


def test_a_colour_is_found_where_it_is() -> None:
    """Where one shape alone has a colour, most of the evidence for the colour lies on it, far more than by chance."""
    model = tiny.load("vit")
    drawn, _, masks = pictures(8, 55, least=2)
    shares, areas = [], []
    for image, shown in zip(drawn, masks, strict=True):
        colours = [CAPTIONS[which].split()[0] for which in shown]
        for colour, mask in zip(colours, shown.values(), strict=True):
            if colours.count(colour) > 1:
                continue
            found = explain(
                model,
                image[None],
                target=colour,
                layer="patch_embed",
                method="hires_cam",
                rules="balanced",
                residual=1.0,
            )
            large = nn.functional.interpolate(found.map[None].clamp(min=0), (48, 48), mode="nearest")[0, 0]
            near = nn.functional.max_pool2d(mask[None].float(), 13, 1, 6)[0] > 0  # as far as its patches reach
            shares.append(float(large[near].sum() / large.sum()))
            areas.append(float(near.float().mean()))
    assert len(shares) >= 12
    assert sum(shares) / len(shares) > max(0.55, 1.5 * sum(areas) / len(areas)), (shares, areas)


def test_probabilities_of_several_labels() -> None:
    """A model that says `multi_label` gets a sigmoid of each class in titles and predictions, others a softmax."""
    model = tiny.load("vit")
    image = pictures(1, 4, least=3)[0]
    found = explain(model, image, target=[["red", "cross"]], method="hires_cam")
    logits = model(image)[0].detach()
    for k, index in enumerate((0, 6)):
        chance = grad_cam.predictions.percentage(float(logits[index].sigmoid()))
        assert found.title(0, k).startswith(f"{model.class_names[index]}, {chance}\n")  # type: ignore[index]
    model.multi_label = False
    one = explain(model, image, target="red", method="hires_cam")
    assert f"red, {predictions.percentage(float(logits.softmax(0)[0]))}" in one.title()
    likeliest = predictions.predictions(logits, None, 7, independent=True)
    torch.testing.assert_close([p.probability for p in likeliest], logits.sigmoid().sort(descending=True)[0].tolist())


def test_a_configuration_of_several_labels() -> None:
    """Hugging Face's `problem_type` says it, too."""
    model: nn.Module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    assert not explain(model, torch.rand(1, 3, 16, 16), method="hires_cam").multi_label
    model.config = type("Config", (), {"problem_type": "multi_label_classification"})()
    assert explain(model, torch.rand(1, 3, 16, 16), method="hires_cam").multi_label
    assert not explain(finder(), torch.rand(1, 1, 24, 24, 24), layer="0", method="hires_cam").multi_label
