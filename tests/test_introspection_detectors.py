"""Facts of torchvision's detectors."""

from __future__ import annotations

import pytest
import timm
from torch import nn

from grad_cam import introspection, loading

detection = pytest.importorskip("torchvision").models.detection


@pytest.fixture(scope="module")
def ssd() -> nn.Module:
    """An SSDlite with random weights and the classes of the published one."""
    return detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)


@pytest.fixture(scope="module")
def faster() -> nn.Module:
    """A Faster R-CNN of three classes that resizes to a shorter side."""
    return detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=3)


def test_detectors_are_known(ssd: nn.Module) -> None:
    """A detector of torchvision is one, a classifier is none."""
    assert introspection.is_detector(ssd) and not introspection.is_detector(timm.create_model("resnet10t"))


def test_the_size_is_the_one_it_resizes_to(ssd: nn.Module, faster: nn.Module) -> None:
    """A fixed size as height and width; of a shorter side a square."""
    assert introspection.input_size(ssd) == (320, 320)
    assert introspection.input_size(faster) == (faster.transform.min_size[-1],) * 2
    assert introspection.input_size_source(ssd) == "model.transform"


def test_names_are_given_only_where_their_number_fits(ssd: nn.Module, faster: nn.Module) -> None:
    """The published classes with the background first; a detector of other classes has no names."""
    names = loading.class_names(ssd)
    assert names is not None and len(names) == 91 and names[18] == "dog"
    assert loading.class_names(faster) is None
