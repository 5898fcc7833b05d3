"""Detection: one map per box, from the detector's own forward; judged by hooks, differences and planted shapes."""

from __future__ import annotations

import copy
import importlib
import itertools
import pickle
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from grad_cam import detections, evidence, explain, sweep, targets, verify
from grad_cam.arguments import ArgumentTypeError
from grad_cam.detections import COLUMNS
from grad_cam.detections.skipping import skipping_zeros
from grad_cam.errors import OutputError
from grad_cam.rendering.report import ReportLayer, _images_of
from grad_cam.targets import TargetError

from . import tiny
from .tiny.shapes import NAMES, scene

DRAWN = scene(5, 128, most=5, least=5)
IMAGES = DRAWN.image[None]


@pytest.fixture(scope="module")
def detector() -> nn.Module:
    """The trained Faster R-CNN."""
    return tiny.load("detector")


def by_hook(model: nn.Module, layer: str, images: Tensor, score: Any) -> Tensor:
    """HiResCAM by forward hooks and a plain backward; `score` takes what the hooks saw."""
    model, seen = copy.deepcopy(model).eval(), {}

    def keep(name: str) -> Any:
        return lambda m, a, out: seen.__setitem__(name, out)

    for name, module in model.named_modules():
        module.register_forward_hook(keep(name))
    seen["returned"] = model(images)
    (gradient,) = torch.autograd.grad(score(seen), seen[layer])
    return (seen[layer] * gradient).sum(1).detach()


@pytest.mark.parametrize("layer", ["backbone", "backbone.3"])
@pytest.mark.parametrize("kind", ["class", "edge", "left"])
def test_the_map_is_that_of_a_hook(detector: nn.Module, layer: str, kind: Any) -> None:
    """The class's logit of the proposal that a box comes from, and the box's own edges, by a plain backward."""
    with torch.no_grad():
        found = detector(IMAGES)[0]

    def score(seen: dict[str, Any]) -> Tensor:
        one = seen["returned"][0]
        if kind == "edge":
            return one["boxes"][2, 2] - one["boxes"][2, 0] + one["boxes"][2, 3] - one["boxes"][2, 1]
        if kind == "left":
            return one["boxes"][2, 0]
        logits, label = seen["roi_heads.box_predictor"][0], int(one["labels"][2])
        row = int((logits.softmax(1)[:, label] - one["scores"][2]).abs().argmin())
        return logits[row, label]

    wanted = by_hook(detector, layer, IMAGES, score)
    made = explain(detector, IMAGES, layer=layer, target=targets.box(2, kind), method="hires_cam")
    torch.testing.assert_close(made.map, wanted, rtol=1e-4, atol=1e-5)
    assert made.classes is not None and int(made.classes[0, 0]) == int(found["labels"][2])
    torch.testing.assert_close(torch.tensor(made.mark()), found["boxes"][2])
    assert torch.equal(made.logits[0, :, :4], found["boxes"])


def test_objectness_is_that_of_the_proposals_anchor(detector: nn.Module) -> None:
    """The logit of the anchor whose proposal became the box: its gradient is that of the RPN's own score map."""
    made = explain(detector, IMAGES, layer="backbone", target=targets.box(0, "objectness"), method="hires_cam")
    value = float(made.logits[0, 0, COLUMNS.index("objectness")])

    def score(seen: dict[str, Any]) -> Tensor:
        scores = seen["rpn.head"][0][0].flatten()
        return scores[int((scores - value).abs().argmin())]

    torch.testing.assert_close(made.map, by_hook(detector, "backbone", IMAGES, score), rtol=1e-4, atol=1e-5)
    assert value > 0


def test_finite_differences(detector: nn.Module) -> None:
    """The sum of the HiResCAM map is the slope of the score where the activation is scaled."""
    model = copy.deepcopy(detector).double()
    images = IMAGES.double()
    made = explain(model, images, layer="backbone", target=targets.box(0), method="hires_cam")
    logit = COLUMNS.index("logit")
    values: list[float] = []
    with torch.no_grad():
        proposals = model.rpn(*_rpn_inputs(model, images))[0]
    for factor in (1 + 1e-6, 1 - 1e-6):
        changed = copy.deepcopy(model)
        last: Any = changed.backbone[5][2]
        last.register_forward_hook(lambda m, a, out, factor=factor: out * factor)
        # the proposals move along with the features, and the gradient takes them as they are
        changed.rpn.register_forward_hook(lambda m, a, out: (proposals, out[1]))
        found = explain(changed, images, layer="backbone", target=targets.box(explained_box(made)), method="hires_cam")
        values.append(float(found.logits[0, 0, logit]))
    slope = (values[0] - values[1]) / 2e-6
    assert abs(slope - float(made.map.sum())) < 1e-3 * abs(slope), (slope, float(made.map.sum()))


def explained_box(made: Any) -> tuple[float, ...]:
    """The box that was explained."""
    found: tuple[float, ...] = made.mark()
    return found


def _rpn_inputs(model: Any, images: Tensor) -> tuple[Any, Any]:
    listed, _ = model.transform(list(images))
    return listed, {"0": model.backbone(listed.tensors)}


def test_planted_truth(detector: nn.Module) -> None:
    """Each of five boxes has a map on its own shape, from one forward pass."""
    found = explain(detector, IMAGES, target=targets.boxes(5), method="hires_cam")
    assert found.map.shape == (1, 5, 16, 16)
    heats = found.heatmap(threshold=0, smoothing=0)[0]
    for k, heat in enumerate(heats):
        left, top, right, bottom = (int(v) for v in found.mark(0, k))
        inside = heat[max(top - 8, 0) : bottom + 9, max(left - 8, 0) : right + 9].sum() / heat.sum()
        assert inside > 0.8, (k, inside)
    assert {word.split()[0] for word in found.target[0]} <= set(NAMES)


def test_boxes_are_found_by_number_and_by_place(detector: nn.Module) -> None:
    """A number, a box as it was drawn, several of either, and nothing at all (the likeliest)."""
    first = explain(detector, IMAGES)
    assert torch.equal(first.map, explain(detector, IMAGES, target=targets.box(0)).map)
    place = tuple(float(v) for v in first.mark())
    assert torch.equal(first.map, explain(detector, IMAGES, target=targets.box(place)).map)
    both = explain(detector, IMAGES, target=targets.boxes([1, place]))
    assert torch.equal(both.map[:, 1], first.map)
    assert torch.equal(both.map, explain(detector, IMAGES, target=[[targets.box(1), targets.box(0)]]).map)
    assert pickle.loads(pickle.dumps(both)).marks == both.marks


def test_a_batch_is_its_images_one_by_one(detector: nn.Module) -> None:
    """Images with different numbers of boxes; as many maps as the fewest have."""
    images = torch.stack([scene(n, 128, most=n % 3 + 2, least=n % 3 + 2).image for n in (9, 10)])
    whole = explain(detector, images, target=targets.boxes(4), method="hires_cam")
    for b in range(2):
        alone = explain(detector, images[b : b + 1], target=targets.boxes(whole.map.shape[1]), method="hires_cam")
        torch.testing.assert_close(whole.map[b], alone.map[0], rtol=1e-3, atol=1e-5)


def test_a_sweep_and_verify(detector: nn.Module) -> None:
    """Maps at the trunk's layers, whose gradients `verify` finds equal to a hook's; the rest is skipped."""
    found = sweep(detector, IMAGES, layers=["backbone.1", "backbone.3", "backbone"], target=targets.boxes(2))
    assert len(found) == 3 and all(one.map.shape[1] == 2 for one in found)
    checked = verify(detector, IMAGES)
    row = next(row for row in checked.rows if row.name == "backbone")
    assert row.gradient == "equal", checked


def test_images_that_change(detector: nn.Module) -> None:
    """Occlusion asks for the similarity, as D-RISE does, and lights up the box; the plain logit is refused there."""
    how: dict[str, Any] = {"method": "occlusion", "window": 32, "stride": 16}
    found = explain(detector, IMAGES, target=targets.box(0, "similarity"), **how)
    heat = found.heatmap(threshold=0, smoothing=0)[0]
    left, top, right, bottom = (int(v) for v in found.mark())
    assert heat[top:bottom, left:right].mean() > 2 * heat.mean()
    with pytest.raises(TargetError, match="not found in a changed version.*similarity"):
        explain(detector, IMAGES, target=targets.box(0), **how)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (lambda: targets.box(50), "box 50 of 5 found in image 0; use 0..4"),
        (lambda: targets.box((0, 0, 3, 3)), r"no box at \(0, 0, 3, 3\) in image 0 \(it finds 0: "),
        (lambda: targets.boxes(0), "names no box"),
        (lambda: 3, "explained box by box"),
        (lambda: targets.logit(3), "not \\(B, classes\\)"),
        (lambda: targets.segmentation(1), "needs an output"),
    ],
)  # fmt: skip
def test_wrong_use(detector: nn.Module, target: Any, says: str) -> None:
    """A box that is not there is named with those that are; classes alone are no target."""
    with pytest.raises(TargetError, match=says):
        explain(detector, IMAGES, target=target())


def test_no_boxes_and_no_detector(detector: nn.Module) -> None:
    """A grey picture has no box; a classifier has none at all; what is no box is refused when it is written."""
    with pytest.raises(TargetError, match="finds no box in image 0.*score_thresh"):
        explain(detector, torch.full((1, 3, 128, 128), 0.4), target=targets.box(0))
    with pytest.raises(TargetError, match="the model returns none"):
        plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten())
        explain(plain, torch.rand(1, 3, 8, 8), target=targets.box(0))
    for which in ("left", (1, 2, 3), None, (1, 2, 3, float("nan"))):
        with pytest.raises(ArgumentTypeError, match="is not a box"):
            targets.box(which)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="not a score of a box"):
        targets.box(0, "size")  # type: ignore[arg-type]


def test_the_model_stays_as_it_was(detector: nn.Module) -> None:
    """Watching what post-processing is given leaves nothing behind, on the model or for a later call."""
    before = {name: sorted(vars(module)) for name, module in detector.named_modules()}
    maps = [explain(detector, IMAGES, target=targets.boxes(2)).map for _ in range(3)]
    assert torch.equal(maps[0], maps[1]) and torch.equal(maps[0], maps[2])
    assert before == {name: sorted(vars(module)) for name, module in detector.named_modules()}


def test_padding_is_left_out(detector: nn.Module) -> None:
    """Pictures that the model pads to whole strides: the map lies on the shape, not stretched over the padding."""
    wide = torch.full((1, 3, 128, 132), 0.4)  # padded to 128 x 160
    wide[..., 4:] = IMAGES
    found = explain(detector, wide, target=targets.boxes(5), method="hires_cam")
    assert found.part == (1.0, 132 / 160)
    plain = explain(detector, wide, layer="backbone", target=targets.boxes(5), method="hires_cam").map
    assert plain.shape[-2:] == (16, 20)
    for k, heat in enumerate(found.heatmap(threshold=0, smoothing=0)[0]):
        left, top, right, bottom = (int(v) for v in found.mark(0, k))
        inside = heat[max(top - 8, 0) : bottom + 9, max(left - 8, 0) : right + 9].sum() / heat.sum()
        assert inside > 0.75, (k, inside)
    judged = evidence(detector, found, explained=targets.boxes(5, "similarity"))
    assert judged.share > 0 and judged.without < judged.score, judged
    layers = sweep(detector, wide, layers=["backbone"], target=targets.box(0), method="hires_cam")
    (page,) = _images_of(layers, [ReportLayer(None, "backbone")])
    torch.testing.assert_close(torch.tensor(page.maps[0][0]), torch.tensor(layers[0].on_picture()).float())


_BATCHES: list[int] = []


def _count(module: nn.Module, given: tuple[Tensor], out: Tensor) -> None:
    _BATCHES.append(len(given[0]))


def test_five_boxes_take_one_forward(detector: nn.Module) -> None:
    """The trunk runs once, and once more on the first call, which records it; the layout is not asked of the model."""
    model: Any = copy.deepcopy(detector)
    model.backbone.register_forward_hook(_count)
    _BATCHES.clear()
    explain(model, IMAGES, target=targets.boxes(5), method="hires_cam")
    assert _BATCHES == [1, 1]
    explain(model, IMAGES, target=targets.boxes(5), method="hires_cam")
    assert _BATCHES == [1, 1, 1]


def test_a_further_box_costs_little() -> None:
    """Convolutions that a box does not depend on are left out of its backward pass; the gradient stays what it was."""
    torch.manual_seed(0)
    trunk = nn.Conv2d(3, 4, 3, padding=1)
    near, far = nn.Conv2d(4, 2, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)
    leaf = trunk(torch.rand(1, 3, 8, 8)).detach().requires_grad_()
    joined = torch.cat([near(leaf).flatten(1), far(leaf.relu()).flatten(1)], 1)  # (1,256)
    passed: list[Tensor | None] = []
    (wanted,) = torch.autograd.grad(joined[0, 3], leaf, retain_graph=True)
    assert skipping_zeros(joined) is joined
    _node_of(far, joined).register_prehook(lambda gradients: passed.extend(gradients))
    (found,) = torch.autograd.grad(joined[0, 3], leaf, retain_graph=True)
    assert torch.equal(found, wanted) and passed == [None]
    assert torch.autograd.grad(joined[0, 200], leaf)[0].any() and passed[1] is not None


def _node_of(convolution: nn.Module, joined: Tensor) -> Any:
    """The step of a graph that a convolution made."""
    waiting: list[Any] = [joined.grad_fn]
    while True:
        node = waiting.pop()
        given = [following for following, _ in node.next_functions if following is not None]
        if node.name().startswith("Convolution") and any(
            getattr(g, "variable", 0) is convolution.weight for g in given
        ):
            return node
        waiting += given


def test_a_head_that_compares_proposals(detector: nn.Module) -> None:
    """A head whose boxes depend on each other is differentiated with all its proposals, as a plain backward does."""
    model: Any = copy.deepcopy(detector)
    own = model.roi_heads.box_head

    class Comparing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = own

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.own(x)
            return made + 0.3 * made.mean(0)

    model.roi_heads.box_head = Comparing()
    with torch.no_grad():
        found = model(IMAGES)[0]

    def score(seen: dict[str, Any]) -> Tensor:
        logits, label = seen["roi_heads.box_predictor"][0], int(found["labels"][0])
        row = int((logits.softmax(1)[:, label] - found["scores"][0]).abs().argmin())
        return logits[row, label]

    made = explain(model, IMAGES, layer="backbone", target=targets.box(0), method="hires_cam")
    torch.testing.assert_close(made.map, by_hook(model, "backbone", IMAGES, score), rtol=1e-3, atol=1e-5)


# ---------------------------------------------------------------------------------------------------- raw heads, DETRs


class Raw(nn.Module):
    """A head of the kind of YOLO: for each position a box, an objectness and two classes; logits."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 6, 3, 4, 1), nn.Tanh(), nn.Conv2d(6, 6, 3, 1, 1), nn.Tanh())
        self.head = nn.Conv2d(6, 7, 1)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        made = self.head(self.trunk(x)).flatten(2)  # (B,7,anchors)
        side = x.shape[-1] // 4
        place = torch.arange(side * side)
        middle = torch.stack([place % side, place // side]) * 4 + 2
        box = torch.cat([made[:, :2] + middle, 6 + made[:, 2:4]], 1)
        return (torch.cat([box, made[:, 4:]], 1),)


def test_a_raw_head() -> None:
    """Boxes, objectness and classes of the anchors that are left after dropping those that overlap."""
    torch.manual_seed(0)
    model, images = Raw().eval(), torch.rand(2, 3, 32, 32)
    output = detections.raw("cxcywh", scores="logits", objectness=True)
    found = explain(model, images, output=output, target=targets.boxes(3), layer="trunk", method="hires_cam")
    assert found.map.shape == (2, 3, 8, 8)
    rows = found.logits[0].detach()
    raw = model(images)[0][0].detach()
    anchor = int((raw[5:].amax(0) - rows[0, COLUMNS.index("logit")]).abs().argmin())
    wanted = by_hook(model, "trunk", images, lambda seen: seen["returned"][0][0, 5:, anchor].amax())
    torch.testing.assert_close(found.map[0, 0], wanted[0])
    assert found.map[0, 0].nonzero().tolist() == [list(divmod(anchor, 8))]  # the only place that the head reads for it
    near = torch.stack([detections.tables.overlaps(rows[i, :4], rows[j, :4]) for i in range(6) for j in range(i)])
    same = torch.tensor([bool(rows[i, 6] == rows[j, 6]) for i in range(6) for j in range(i)])
    assert float(near[same].max()) <= 0.5
    assert explain(model, images, output=output, target=targets.box(0, "objectness"), layer="trunk").map.shape[0] == 2
    plain = detections.raw("xyxy", scores="logits")
    with pytest.raises(TargetError, match="no score for there being an object"):
        explain(model, images, output=plain, target=targets.box(0, "objectness"), layer="trunk")
    with pytest.raises(OutputError, match="leave no class"):
        detections.raw()(torch.zeros(1, 3, 8))
    turned = torch.cat([torch.rand(1, 256, 4) * 64, torch.rand(1, 256, 4)], 2)  # (B, anchors, columns)
    with pytest.raises(OutputError, match="beyond 0..1") as caught:
        detections.raw()(turned)
    assert "channels_first=False" in caught.value.remedy
    assert detections.raw(channels_first=False)(turned).shape[0] == 1
    with pytest.raises(OutputError, match="beyond 0..1"):
        detections.raw("xyxy")(model(images))  # logits


def hugging_face(kind: str) -> tuple[nn.Module, int]:
    """A small detector of Hugging Face with random weights, and the size of its pictures."""
    hf = pytest.importorskip("transformers")
    if kind == "yolos":
        config = hf.YolosConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=[64, 64],
            patch_size=16, num_detection_tokens=5, num_labels=4,
        )  # fmt: skip
        return hf.YolosForObjectDetection(config).eval(), 64
    if kind == "detr":
        backbone = hf.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, out_features=["stage4"]
        )
        config = hf.DetrConfig(
            use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone, d_model=16,
            encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16, decoder_ffn_dim=16, encoder_attention_heads=2,
            decoder_attention_heads=2, num_queries=6, num_labels=4,
        )  # fmt: skip
        return hf.DetrForObjectDetection(config).eval(), 128
    backbone = hf.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 16], depths=[1] * 4, out_features=["stage2", "stage3", "stage4"],
        layer_type="basic",
    )  # fmt: skip
    config = hf.RTDetrConfig(
        backbone_config=backbone, encoder_hidden_dim=16, encoder_in_channels=[16, 16, 16], encoder_ffn_dim=16,
        encoder_attention_heads=2, d_model=16, num_queries=6, decoder_in_channels=[16, 16, 16], decoder_ffn_dim=16,
        decoder_layers=1, decoder_attention_heads=2, num_denoising=0, num_labels=4, decoder_n_points=2,
    )  # fmt: skip
    return hf.RTDetrForObjectDetection(config).eval(), 128


@pytest.mark.parametrize("kind", ["yolos", "detr", "rt_detr"])
def test_queries_have_boxes_and_are_no_grid(kind: str) -> None:
    """A map of each box at a grid of the picture, equal to a plain backward; queries are never one."""
    torch.manual_seed(0)
    model, size = hugging_face(kind)
    images = torch.randn(2, 3, size, size)
    found = explain(model, images, target=targets.boxes(3), method="hires_cam")
    assert found.map.shape[:2] == (2, 3) and min(found.map.shape[-2:]) > 1
    assert not any(word in found.layer.name for word in ("decoder.layers", "class_", "bbox_"))
    with torch.no_grad():
        returned = model(images)
    softmax = kind != "rt_detr"
    wanted = returned.logits.softmax(-1)[..., :-1] if softmax else returned.logits.sigmoid()
    best = wanted.amax(-1).sort(1, descending=True).values
    torch.testing.assert_close(found.logits[:, :, COLUMNS.index("probability")], best)
    checked = verify(model, images)
    rows = [row for row in checked.rows if row.name == found.layer.name]
    assert all(row.gradient == "equal" for row in rows), checked


class DetrOutput(NamedTuple):
    """What a DETR returns."""

    logits: Tensor
    pred_boxes: Tensor


class Quarters(nn.Module):
    """Four queries, each of which sees one quarter of the picture alone."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.Tanh()), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> DetrOutput:
        seen = nn.functional.adaptive_avg_pool2d(self.trunk(x), 2).flatten(2).transpose(1, 2)  # (B,4,6)
        places = torch.tensor([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])
        boxes = torch.cat([places, torch.full((4, 2), 0.5)], 1)
        return DetrOutput(self.head(seen), boxes.expand(len(x), 4, 4))


def test_planted_truth_of_queries() -> None:
    """All evidence for the box of a query lies in the quarter that the query sees, which is its box."""
    torch.manual_seed(0)
    found = explain(Quarters(), torch.rand(2, 3, 32, 48), layer="trunk", target=targets.boxes(4), method="hires_cam")
    assert found.map.shape == (2, 4, 8, 12)
    for b, k in itertools.product(range(2), range(4)):
        left, top, right, bottom = (round(v / 4) for v in found.mark(b, k))
        inside = found.map[b, k, top:bottom, left:right]
        assert inside.shape == (4, 6) and bool(inside.all()) and int((found.map[b, k] != 0).sum()) == 24


TORCHVISION = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": "class", "maskrcnn_resnet50_fpn": "class",
    "keypointrcnn_resnet50_fpn": "objectness", "retinanet_resnet50_fpn": "class", "fcos_resnet50_fpn": "objectness",
    "ssdlite320_mobilenet_v3_large": "edge", "ssd300_vgg16": "class",
}  # fmt: skip
FAST = ("fasterrcnn_mobilenet_v3_large_320_fpn", "ssdlite320_mobilenet_v3_large")


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in TORCHVISION])
def test_torchvisions_detectors(name: str) -> None:
    """Every family, with random weights and a threshold that lets boxes through: the boxes are the model's own, the
    logits those of their scores, and the map at the default layer is the trunk's."""
    torch.manual_seed(0)
    models = importlib.import_module("torchvision.models")
    how: dict[str, Any] = {} if name.startswith("ssd") else {"min_size": 128, "max_size": 160}
    model = models.get_model(name, weights=None, weights_backbone=None, num_classes=3, **how).eval()
    heads = getattr(model, "roi_heads", model)
    heads.score_thresh, heads.detections_per_img = 0.0, 6
    images = torch.rand(1, 3, 128, 160)
    kind: Any = TORCHVISION[name]
    found = explain(model, images, target=targets.boxes(2, kind), method="hires_cam")
    with torch.no_grad():
        wanted = model(list(images))[0]
    torch.testing.assert_close(found.logits[0, :, :4], wanted["boxes"], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found.logits[0, :, COLUMNS.index("probability")], wanted["scores"])
    assert found.layer.name.startswith("backbone") and min(found.map.shape[-2:]) > 1
    assert float(found.map.abs().sum()) > 0
    logits, middle = (found.logits[0, :, COLUMNS.index(word)] for word in ("logit", "objectness"))
    if name.startswith("retinanet"):
        torch.testing.assert_close(logits.sigmoid(), wanted["scores"])
    if name.startswith("fcos"):
        torch.testing.assert_close((logits.sigmoid() * middle.sigmoid()).sqrt(), wanted["scores"])
