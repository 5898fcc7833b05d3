"""Segmentation: a class inside a region, at a cut from which positions are mixed, judged by hooks and differences."""

from __future__ import annotations

import copy
import importlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from grad_cam import explain, sweep, targets, verify
from grad_cam.arguments import ArgumentTypeError
from grad_cam.errors import LayerError
from grad_cam.rendering.marks import outlined
from grad_cam.splitting.default import default_cut
from grad_cam.splitting.public import open_images
from grad_cam.targets import TargetError

from . import hugging_face, tiny
from .tiny.shapes import scene


class Small(nn.Module):
    """Two levels with a skip connection; (B, 3, 16, 16) to (B, 3, 16, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 6, 3, 2, 1)
        self.up = nn.Sequential(nn.Conv2d(10, 8, 3, 1, 1), nn.Tanh())
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.one(x).tanh()
        deep = nn.functional.interpolate(self.two(skip).tanh(), scale_factor=2.0)
        made: Tensor = self.head(self.up(torch.cat([deep, skip], 1)))
        return made


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def hires_by_hook(model: nn.Module, layer: str, images: Tensor, score: Any) -> Tensor:
    """HiResCAM by a forward hook and a plain backward."""
    model, seen = copy.deepcopy(model).eval(), []
    model.get_submodule(layer).register_forward_hook(lambda m, a, out: seen.append(out))
    total = score(model(images))
    (gradient,) = torch.autograd.grad(total, seen[-1])
    return (seen[-1] * gradient).sum(1).detach()


@pytest.mark.parametrize("layer", ["two", "one", "up.0"])
@pytest.mark.parametrize("region", ["mask", "point", "box", "own"])
def test_the_map_is_that_of_a_hook(layer: str, region: str) -> None:
    """Every kind of region, at layers with and without a skip connection beside them, bit for bit but for sums."""
    model, images = Small().double(), torch.rand(2, 3, 16, 16).double()
    mask = torch.zeros(2, 16, 16, dtype=torch.bool)
    mask[0, 2:5, 3:9], mask[1, 8:, :4] = True, True
    predicted = model(images).argmax(1)
    k = int(predicted[:, 4, 6].mode().values)
    regions: dict[str, tuple[dict[str, Any], Any]] = {
        "mask": ({"mask": mask}, mask),
        "point": ({"point": (6.5, 4.2)}, (slice(None), 4, 6)),
        "box": ({"box": (3, 2, 9, 5)}, (slice(None), slice(2, 5), slice(3, 9))),
        "own": ({}, predicted == k),
    }
    how, where = regions[region]
    if region == "own" and not bool((predicted == k).flatten(1).any(1).all()):
        pytest.skip("the class is not predicted everywhere")
    if layer == "up.0":
        with pytest.raises(LayerError, match="would explain nothing.*map of scores"):
            explain(model, images, layer=layer, target=targets.segmentation(k, **how))
        return
    found = explain(model, images, layer=layer, target=targets.segmentation(k, **how), method="hires_cam")
    wanted = hires_by_hook(model, layer, images, lambda z: z[:, k][where].sum())
    torch.testing.assert_close(found.map, wanted)


def test_gradients_are_those_of_differences() -> None:
    """The sum of HiResCAM at the input's side is the slope of the score along the activation, by finite differences."""
    model, images = Small().double().eval(), torch.rand(1, 3, 16, 16).double()
    found = explain(model, images, layer="two", target=targets.segmentation(1, box=(4, 4, 12, 12)), method="hires_cam")
    scores = []
    for factor in (1 + 1e-6, 1 - 1e-6):
        handle = model.two.register_forward_hook(lambda m, a, out, factor=factor: out * factor)
        scores.append(float(model(images)[0, 1, 4:12, 4:12].sum().detach()))
        handle.remove()
    slope = (scores[0] - scores[1]) / 2e-6
    assert abs(slope - float(found.map.sum())) < 1e-6 * max(1, abs(slope))


def test_a_class_alone_is_the_region_where_it_is_predicted() -> None:
    """An index, a name, nothing at all, a list, and several classes from one forward."""
    model, images = Small(), torch.rand(2, 3, 16, 16)
    model.head.bias.data -= model(images).detach().mean((0, 2, 3))
    model.class_names = ["background", "cup", "plate"]
    predicted = model(images).argmax(1)
    counts = [[int((one == k).sum()) for k in range(3)] for one in predicted]
    assert all(0 < min(row) for row in counts), counts
    wanted = explain(model, images, target=targets.segmentation(2)).map
    assert torch.equal(explain(model, images, target=2).map, wanted)
    assert torch.equal(explain(model, images, target="plate").map, wanted)
    assert torch.equal(explain(model, images, target=[2, 2]).map, wanted)
    assert torch.equal(explain(model, images, target=[[2, 1]] * 2).map[:, 0], wanted)
    best = [max((1, 2), key=lambda k: row[k]) for row in counts]  # never the background
    found = explain(model, images)
    assert found.classes is not None and found.classes[:, 0].tolist() == best
    top = explain(model, images, target=targets.top(2))
    assert top.map.shape[:2] == (2, 2) and top.classes is not None and top.classes[:, 0].tolist() == best
    marked = found.mark(0)
    assert torch.equal(marked, predicted[0] == best[0])


def test_a_mask_of_the_pictures_size() -> None:
    """A model whose output is smaller takes masks of either size; another is refused."""

    class Coarse(Small):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[..., ::4, ::4]

    model, images = Coarse(), torch.rand(1, 3, 16, 16)
    small = torch.zeros(4, 4)
    small[1, 2] = 1
    large = small.repeat_interleave(4, 0).repeat_interleave(4, 1)
    one = explain(model, images, layer="two", target=targets.segmentation(1, small)).map
    assert torch.equal(one, explain(model, images, layer="two", target=targets.segmentation(1, large)).map)
    assert torch.equal(one, explain(model, images, layer="two", target=targets.segmentation(1, box=(8, 4, 12, 8))).map)
    assert torch.equal(one, explain(model, images, layer="two", target=targets.segmentation(1, point=(9, 5))).map)
    with pytest.raises(TargetError, match="does not fit the output"):
        explain(model, images, target=targets.segmentation(1, torch.ones(5, 5)))


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: targets.segmentation(1, np.ones((4, 4)), point=(1, 1)), TargetError, "one region, not mask and point"),
        (lambda: targets.segmentation(1, "left"), ArgumentTypeError, "a mask is an array"),
        (lambda: targets.segmentation(1, point=(1, 2, 3)), ArgumentTypeError, "a point is two numbers"),
        (lambda: targets.segmentation(1, box=(1, 2)), ArgumentTypeError, "a box is four numbers"),
        (lambda: targets.segmentation(1, point=(40, 2)), TargetError, r"point \(40.0, 2.0\) is not inside a picture"),
        (lambda: targets.segmentation(1, box=(9, 2, 4, 5)), TargetError, "is not inside a picture"),
        (lambda: targets.segmentation(1, torch.zeros(16, 16)), TargetError, "the region is empty in image 0"),
        (lambda: targets.segmentation(1, np.full((16, 16), 255)), TargetError, r"these go from 255 to 255"),
        (lambda: targets.segmentation(1, -torch.ones(16, 16)), TargetError, "give mask=mask > 0"),
        (lambda: targets.segmentation(1, np.full((16, 16), np.nan)), TargetError, "go from nan to nan"),
        (lambda: targets.segmentation(7), TargetError, "class 7 of a model with 3 classes"),
        (lambda: targets.top(9), TargetError, r"top\(9\)"),
        (lambda: targets.probability(1), TargetError, "not \\(B, classes\\)"),
    ],
)  # fmt: skip
def test_wrong_use(make: Any, error: type[Exception], says: str) -> None:
    """Two regions, no region, one outside the picture, a class that is not there: each says what to give."""
    with pytest.raises(error, match=says):
        explain(Small(), torch.rand(1, 3, 16, 16), target=make())


def test_mirrored_copies_are_refused() -> None:
    """A region stays where it is, so that mirrored copies would be scored elsewhere."""
    with pytest.raises(TargetError, match="aug_smooth mirrors"):
        explain(Small(), torch.rand(1, 3, 16, 16), target=targets.segmentation(1, point=(3, 3)), aug_smooth=True)


def test_the_default_cut_is_before_the_scores_and_sweeps_skip_them() -> None:
    """Nothing is drawn where what follows treats every position by itself; `verify` holds at what is drawn."""
    model, images = Small(), torch.rand(1, 3, 16, 16)
    cutter = open_images(model, images)
    assert default_cut(cutter).name in ("one+two + cat", "one+two") or "cat" in default_cut(cutter).name
    found = sweep(model, images, layers="stages", target=1)
    assert any("map of scores" in why for _, why in found.skipped)
    assert all("up" not in one.layer.name for one in found)
    assert verify(model, images)


def test_later_calls_at_an_operation() -> None:
    """The default cut is after a concatenation, which later calls meet by its number among the operations."""
    model, images = Small(), torch.rand(2, 3, 16, 16)
    point = targets.segmentation(1, point=(3, 3))
    maps = [explain(model, images, target=point, method="hires_cam").map for _ in range(3)]
    assert torch.equal(maps[0], maps[1]) and torch.equal(maps[0], maps[2])
    other = explain(model, images.flip(0), target=point, method="hires_cam").map
    torch.testing.assert_close(other.flip(0), maps[0])


def test_perturbation_methods() -> None:
    """Ablation-CAM is the plain loop over channels."""
    model, images = Small().eval(), torch.rand(1, 3, 16, 16)
    found = explain(model, images, layer="two", target=targets.segmentation(2, point=(5, 5)), method="ablation_cam")
    base = float(model(images)[0, 2, 5, 5].detach())
    activation = model.two(model.one(images).tanh())
    weights = []
    for channel in range(6):
        changed = activation.clone()
        changed[:, channel] = 0
        handle = model.two.register_forward_hook(lambda m, a, out, changed=changed: changed)
        weights.append((base - float(model(images)[0, 2, 5, 5].detach())) / abs(base))
        handle.remove()
    wanted = (torch.tensor(weights)[None, :, None, None] * activation).sum(1)
    torch.testing.assert_close(found.map, wanted.detach(), rtol=1e-3, atol=1e-5)


def test_planted_truth() -> None:
    """The trained segmenter: the map of a shape's pixel lies on that shape and not on the others."""
    model, drawn = tiny.load("segmenter"), scene(3, 64, most=3, least=3)
    for box, label in zip(drawn.boxes, drawn.labels, strict=True):
        middle = (float(box[0] + box[2]) / 2, float(box[1] + 2 * box[3]) / 3)
        target = targets.segmentation(int(label), point=middle)
        found = explain(model, drawn.image[None], target=target, method="hires_cam")
        heat = found.heatmap(threshold=0, smoothing=0)[0]
        x0, y0, x1, y1 = (int(v) for v in box)
        inside = heat[max(y0 - 4, 0) : y1 + 5, max(x0 - 4, 0) : x1 + 5].sum() / heat.sum()
        assert inside > 0.8, (found.layer, inside)


CONFIGS: dict[str, tuple[str, dict[str, Any], int]] = {
    "lraspp": ("torchvision", {"name": "lraspp_mobilenet_v3_large"}, 64),
    "deeplab": ("torchvision", {"name": "deeplabv3_mobilenet_v3_large"}, 96),
    "fcn": ("torchvision", {"name": "fcn_resnet50"}, 64),
    "unet": ("smp", {"name": "Unet"}, 64),
    "deeplab+": ("smp", {"name": "DeepLabV3Plus"}, 64),
    "segformer": ("hf", {"name": "Segformer"}, 64),
    "upernet": ("hf", {"name": "UperNet"}, 64),
    "mask2former": ("hf", {"name": "Mask2Former"}, 64),
}
FAST = ("lraspp", "segformer", "unet")


def built(kind: str) -> nn.Module:
    """A segmenter of a library with random weights and five classes."""
    library, how, _ = CONFIGS[kind]
    name = how["name"]
    if library == "torchvision":
        made = importlib.import_module("torchvision.models.segmentation")
        model: nn.Module = getattr(made, name)(weights=None, weights_backbone=None, num_classes=5)
        return model.eval()
    if library == "smp":
        smp = pytest.importorskip("segmentation_models_pytorch")
        model = getattr(smp, name)("resnet18", encoder_weights=None, classes=5)
        return model.eval()
    hf = pytest.importorskip("transformers")
    if name == "Segformer":
        model = hugging_face.segmenter(5)
    elif name == "UperNet":
        backbone = hf.ConvNextConfig(
            hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, out_features=["stage1", "stage2", "stage3", "stage4"]
        )
        config = hf.UperNetConfig(
            backbone_config=backbone, hidden_size=16, num_labels=5, auxiliary_in_channels=24, auxiliary_channels=8
        )
        model = hf.UperNetForSemanticSegmentation(config)
    else:
        backbone = hf.SwinConfig(
            image_size=64, embed_dim=12, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=2,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        )  # fmt: skip
        config = hf.Mask2FormerConfig(
            backbone_config=backbone, num_labels=5, feature_size=32, mask_feature_size=32, hidden_dim=32,
            encoder_feedforward_dim=16, encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=16,
            num_queries=6,
        )  # fmt: skip
        model = hf.Mask2FormerForUniversalSegmentation(config)
    model.eval()
    return model


@pytest.mark.parametrize(
    "kind", [k if k in FAST else pytest.param(k, marks=pytest.mark.slow) for k in CONFIGS]
)  # fmt: skip
def test_segmenters_of_libraries(kind: str) -> None:
    """The map at the default cut is that of a plain backward through the model, and it is no map of scores."""
    model, size = built(kind), CONFIGS[kind][2]
    images = torch.randn(2, 3, size, size)
    found = explain(model, images, target=targets.segmentation(None, box=(8, 8, 40, 40)), method="hires_cam")
    assert min(found.map.shape[-2:]) > 1
    cutter = open_images(model, images)
    cut = default_cut(cutter)
    leaf = copy.deepcopy(model)
    seen: list[Any] = []
    if cut.point is None or cut.point.path is None:
        assert verify(model, images)
        return
    leaf.get_submodule(cut.point.path).register_forward_hook(lambda m, a, out: seen.append(_leaf(out, cut.point.leaf)))
    with torch.enable_grad():
        logits = _logits(leaf(images))
        assert found.classes is not None
        height, width = logits.shape[2:]
        rows, columns = slice(8 * height // size, 40 * height // size), slice(8 * width // size, 40 * width // size)
        score = sum(logits[b, int(found.classes[b, 0]), rows, columns].sum() for b in range(2))
        (gradient,) = torch.autograd.grad(score, seen[cut.point.times])
    torch.testing.assert_close(found.map, (seen[cut.point.times] * gradient).sum(1).detach(), rtol=1e-3, atol=1e-4)


def _leaf(out: Any, n: int) -> Tensor:
    from grad_cam.splitting.nested import leaves

    return list(leaves(out))[n]


def _logits(out: Any) -> Tensor:
    if isinstance(out, Tensor):
        return out
    if hasattr(out, "masks_queries_logits"):
        classes = out.class_queries_logits.softmax(-1)[..., :-1]
        return torch.einsum("bqc,bqhw->bchw", classes, out.masks_queries_logits.sigmoid())
    found: Tensor = out["out"] if "out" in out else out.logits
    return found


def test_outlines() -> None:
    """A box and a mask are drawn where they are, and nothing else is touched."""
    pixels = np.full((40, 60, 3), 90, np.uint8)
    boxed = outlined(pixels, (10.0, 5.0, 30.0, 20.0))
    assert (boxed[5, 10:31] == 255).all() and (boxed[5:21, 30] == 255).all()
    assert (boxed[25:] == 90).all() and (boxed[10:15, 15:25] == 90).all()
    mask = torch.zeros(20, 30, dtype=torch.bool)
    mask[5:10, 5:15] = True  # rows 10..20, columns 10..30 of the picture
    edged = outlined(pixels, mask)
    assert (edged[10, 12:28] == 255).all() and (edged[14:16, 14:26] == 90).all() and (edged[30:] == 90).all()
    assert outlined(pixels, None) is pixels
