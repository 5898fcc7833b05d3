"""Uses of the public screen, for the type checkers alone: `make lint` reads this file, nothing runs it."""

from __future__ import annotations

import numpy as np
import timm
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from typing_extensions import assert_type

import grad_cam
from grad_cam import Chain, Explanation, GradCAM, Split, Sweep, explain, sweep, targets
from grad_cam.methods import Method

model: nn.Module = timm.create_model("resnet18")
images = torch.randn(2, 3, 224, 224)
names = ["layer3", "layer4"]
number = np.argmax(np.zeros(3))  # an integer of numpy


def one_layer_gives_an_explanation() -> None:
    """One layer, by whatever means, or several that are fused."""
    assert_type(explain(model, images).map, Tensor)
    assert_type(explain(model, images, layer="layer3"), Explanation)
    assert_type(explain(model, images, layer=number), Explanation)
    assert_type(explain(model, images, layer=model), Explanation)
    assert_type(explain(model, images, layer=names, fuse="mean"), Explanation)


def a_list_of_layers_gives_a_list() -> None:
    """Lists and tuples of layers, of one kind or mixed."""
    assert_type(explain(model, images, layer=["layer3", "layer4"]), list[Explanation])
    assert_type(explain(model, images, layer=names), list[Explanation])
    assert_type(explain(model, images, layer=(2, "layer3", model)), list[Explanation])


def what_an_explanation_holds() -> None:
    """Attributes and methods of results."""
    result = explain(model, images, target=targets.top(3), method="layer_cam")
    assert_type(result.target, tuple[tuple[str, ...], ...])
    assert_type(result.classes, Tensor | None)
    assert_type(result.layer.layer_idx, int | None)
    assert_type(result.heatmap(), NDArray[np.float32])
    assert_type(result.overlay(target=1), Image.Image)
    assert_type(result.figure(), Figure)


def a_sweep_is_a_sequence() -> None:
    """Numbers give explanations, slices tuples of them."""
    found = sweep(model, images, layers="blocks", method="hires_cam")
    assert_type(found, Sweep)
    assert_type(found[0], Explanation)
    assert_type(found[number], Explanation)
    assert_type(found[1:], tuple[Explanation, ...])
    assert_type([one.map for one in found], list[Tensor])
    assert_type(sweep(model, images, fuse="max"), Explanation)


def the_four_lines() -> None:
    """`GradCAM` and what it returns."""
    cam = GradCAM(model, "cat.jpg", layer_idx=2, class_idx="tabby")
    assert_type(cam(), NDArray[np.float32])
    assert_type(cam.heatmap, NDArray[np.float32])
    assert_type(cam.explanation, Explanation)
    assert_type(cam.imposing_visualization(), Figure | None)
    cam.threshold, cam.layer_idx, cam.class_idx = 0.3, number, targets.difference("tabby", "tiger cat")


def every_kind_of_target() -> None:
    """Indices, names, lists of them, functions."""
    explain(model, images, target=number)
    explain(model, images, target="tabby")
    explain(model, images, target=[1, "tabby"])
    explain(model, images, target=[[1, 2], [3, 4]])
    explain(model, images, target=np.array([1, 2]))
    explain(model, images, target=torch.tensor([1, 2]))
    explain(model, images, target=lambda logits: logits[:, 0])
    explain(model, images, target=targets.finer(classes=["tabby", number]))


def a_method_of_ones_own() -> None:
    """Any function of ingredients."""

    def squared(activations: Tensor, gradients: Tensor, *, power: float = 2.0) -> Tensor:
        return ((activations * gradients) ** power).sum(1)

    assert_type(explain(model, images, method=squared, power=3.0), Explanation)
    assert_type(grad_cam.METHODS["grad_cam"], Method)


def cutting() -> None:
    """A chain, and its halves."""
    chain = grad_cam.chain(model, depth=2)
    assert_type(chain, Chain)
    assert_type(chain.split(number), Split)
    extractor, classifier = grad_cam.split(model, 2)
    assert_type(extractor, nn.Sequential)
    assert_type(grad_cam.__version__, str)
