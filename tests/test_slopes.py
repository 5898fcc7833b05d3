"""Every kind of model: the sum of a HiResCAM map is the slope of what is explained along the activation it is made at.

The slope is taken by finite differences, with a hook that scales what the module returns; nothing of the package is
used for it but, for detectors that drop boxes, the table of those that are left.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from grad_cam import detections, explain, targets
from grad_cam.detections import COLUMNS, detect
from grad_cam.results import Explanation

from .kinds import _Two
from .test_detections import Raw, hugging_face
from .test_hybrids import Recurrent, ScanNet
from .test_towers import _clip, _hugging_face, _siglip
from .test_volumes import _r3d, _swin3d, _timesformer, _videomae
from .tiny.volumes import finder, volume

STEP = 1e-5
LOGIT, LABEL = COLUMNS.index("logit"), COLUMNS.index("label")


class Case(NamedTuple):
    """A model in float64, its images, how it is explained, a module, and the score that an explanation is of."""

    model: nn.Module
    images: Tensor
    how: dict[str, Any]
    layer: str
    score: Callable[[Explanation], Callable[[], Tensor]]
    prefix: int = 0


def _first(model: nn.Module) -> str:
    """The first convolution."""
    return next(name for name, one in model.named_modules() if isinstance(one, (nn.Conv2d, nn.Conv3d)))


def _classifier(model: nn.Module, *shape: int, layer: str = "", prefix: int = 0) -> Case:
    images = torch.randn(1, *shape).double()

    def logit() -> Tensor:
        out = model(images)
        return (out if isinstance(out, Tensor) else out.logits)[0, 1]

    return Case(model, images, {"target": 1}, layer or _first(model), lambda found: logit, prefix)


def _queries(kind: str) -> Case:
    model, size = hugging_face(kind)
    images = torch.randn(1, 3, size, size).double()

    def score(found: Explanation) -> Callable[[], Tensor]:
        label = int(found.logits[0, 0, LABEL])
        if kind == "rt_detr":
            _hold_queries(model)
        with torch.no_grad():
            query = int((model(images).logits[0, :, label] - found.logits[0, 0, LOGIT]).abs().argmin())
        return lambda: model(images).logits[0, query, label]

    return Case(model, images, {"target": targets.box(0)}, _first(model), score)


def _hold_queries(model: Any) -> None:
    """Lets the queries that an RT-DETR chooses be those of the next run for ever: it detaches them itself."""
    held: dict[str, Any] = {}

    def hold(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        assert {"inputs_embeds", "reference_points"} <= set(kwargs)
        return args, {**kwargs, **{n: held.setdefault(n, kwargs[n]) for n in ("inputs_embeds", "reference_points")}}

    model.model.decoder.register_forward_pre_hook(hold, with_kwargs=True)


def _raw() -> Case:
    model, images = Raw(), torch.rand(1, 3, 32, 32).double()
    output = detections.raw("cxcywh", scores="logits", objectness=True)

    def score(found: Explanation) -> Callable[[], Tensor]:
        column = 5 + int(found.logits[0, 0, LABEL])
        with torch.no_grad():
            anchor = int((model(images)[0][0, column] - found.logits[0, 0, LOGIT]).abs().argmin())
        return lambda: model(images)[0][0, column, anchor]

    return Case(model, images, {"target": targets.box(0), "output": output}, "trunk.0", score)


def _torchvision(name: str) -> Case:
    build = importlib.import_module("torchvision.models").get_model
    how: dict[str, Any] = {} if name.startswith("ssd") else {"min_size": 96, "max_size": 128}
    model = build(name, weights=None, weights_backbone=None, num_classes=3, **how)
    getattr(model, "roi_heads", model).score_thresh = 0.0
    images = torch.rand(1, 3, 96, 96).double()

    def score(found: Explanation) -> Callable[[], Tensor]:
        if hasattr(model, "rpn"):  # where it proposes boxes is detached by torchvision itself
            held: dict[str, Any] = {}
            model.rpn.register_forward_hook(lambda module, args, out: held.setdefault("proposals", out))
            with torch.no_grad():
                model(list(images))

        def nearest() -> Tensor:
            rows = detect(model, (96, 96), (images,), {})[0]
            rows = rows[rows[:, LABEL] == found.logits[0, 0, LABEL]]
            return rows[(rows[:, LOGIT] - found.logits[0, 0, LOGIT]).abs().argmin(), LOGIT]

        return nearest

    return Case(model, images, {"target": targets.box(0)}, _first(model), score)


def _texts(make: Callable[[], nn.Module]) -> Case:
    model: Any = make()
    images, prompt = torch.randn(1, 3, 32, 32).double(), ["red cup"]

    def alike() -> Tensor:
        image = model.get_image_features(pixel_values=images).pooler_output
        text = model.get_text_features(**_hugging_face(prompt)).pooler_output
        return functional.cosine_similarity(image, text)[0]

    target = targets.text(prompt, tokenizer=_hugging_face)
    return Case(model, images, {"target": target}, _first(model), lambda found: alike)


def _pair() -> Case:
    model, images, other = _Two(), torch.rand(1, 3, 32, 32).double(), torch.rand(1, 3, 32, 32).double()
    how = {"inputs": {"template": other, "scale": 2.0}, "output": "alike", "target": targets.regression()}
    return Case(model, images, how, "trunk.0", lambda found: lambda: model(images, other, scale=2.0)["alike"][0, 0])


def _volume() -> Case:
    model, images = finder(), volume(3)[0].double()
    return Case(model, images, {"target": targets.regression()}, "0.0", lambda found: lambda: model(images)[0, 0])


CASES: dict[str, Callable[[], Case]] = {
    "pair": _pair, "volume": _volume, "raw head": _raw,
    "R3D": lambda: _classifier(_r3d(), 3, 8, 32, 32),
    "Swin3D": lambda: _classifier(_swin3d(), 3, 4, 32, 32),
    "VideoMAE": lambda: _classifier(_videomae(), 8, 3, 32, 32),
    "TimeSformer": lambda: _classifier(_timesformer(), 6, 3, 32, 32, layer="timesformer.embeddings", prefix=1),
    "CLIP": lambda: _texts(_clip), "SigLIP": lambda: _texts(_siglip),
    "YOLOS": lambda: _queries("yolos"), "DETR": lambda: _queries("detr"), "RT-DETR": lambda: _queries("rt_detr"),
    "state spaces": lambda: _classifier(ScanNet(), 3, 40, 40),
    "LSTM head": lambda: _classifier(Recurrent(nn.LSTM), 3, 40, 40),
    "SSD": lambda: _torchvision("ssdlite320_mobilenet_v3_large"),
    "RetinaNet": lambda: _torchvision("retinanet_resnet50_fpn"),
    "FCOS": lambda: _torchvision("fcos_resnet50_fpn"),
    "Mask R-CNN": lambda: _torchvision("maskrcnn_resnet50_fpn"),
    "Keypoint R-CNN": lambda: _torchvision("keypointrcnn_resnet50_fpn"),
}  # fmt: skip
SLOW = ("RetinaNet", "FCOS", "Mask R-CNN", "Keypoint R-CNN")


@pytest.mark.parametrize("name", [n if n not in SLOW else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_a_map_sums_to_the_slope(name: str) -> None:
    """By central differences in float64; tokens before the grid are left as they are."""
    torch.manual_seed(0)
    case = CASES[name]()
    case.model.double().eval()
    layer = f"{case.layer}@1" if name == "pair" else case.layer  # the trunk is called for the other picture, too
    found = explain(case.model, case.images, layer=layer, method="hires_cam", **case.how)
    score, values = case.score(found), []
    for factor in (1 + STEP, 1 - STEP):
        calls = itertools.count()

        def scaled(module: nn.Module, given: Any, out: Tensor, factor: float = factor, calls: Any = calls) -> Any:
            if next(calls):
                return None
            return torch.cat([out[:, : case.prefix], out[:, case.prefix :] * factor], 1)

        handle = case.model.get_submodule(case.layer).register_forward_hook(scaled)
        with torch.no_grad():
            values.append(float(score()))
        handle.remove()
    slope, size = (values[0] - values[1]) / (2 * STEP), float(found.map.abs().sum())
    assert size > 0 and abs(slope - float(found.map.sum())) < 1e-4 * size, (slope, float(found.map.sum()), size)
