"""What can be explained: rows of the README's table, each with the run that has to work for it to stand there.

``python -m tests.kinds`` prints the table; `test_kinds` runs every row and compares the README with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from grad_cam import detections, explain, targets
from grad_cam.loading import Geometry
from grad_cam.results import Explanation

from . import tiny
from .tiny.moving import clips
from .tiny.shapes import scene
from .tiny.volumes import finder, volume


@dataclasses.dataclass(frozen=True)
class Kind:
    """A row: what is explained, in which models, how it is written, and a run of it."""

    what: str
    models: str
    written: str
    run: Callable[[], Explanation]


def _small(outputs: int) -> nn.Module:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Conv2d(6, 8, 3, 2), nn.ReLU())
    return nn.Sequential(trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, outputs))


class _Two(nn.Module):
    """Two pictures and a number in, a dictionary out."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Conv2d(6, 8, 3, 2))

    def forward(self, picture: Tensor, template: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        one, two = (self.trunk(x).mean((2, 3)) for x in (picture, template))
        return {"alike": (one * two).sum(1, keepdim=True) * scale, "features": one}


def _classes() -> Explanation:
    return explain(_small(5), _images(), target=targets.top(2))


def _numbers() -> Explanation:
    return explain(_small(1), _images(), target=targets.binary())


def _heads() -> Explanation:
    how: dict[str, Any] = {"inputs": {"template": _images(), "scale": 2.0}, "output": "alike"}
    return explain(_Two(), _images(), layer="trunk.0@1", target=targets.regression(), **how)


def _segmenter() -> Explanation:
    drawn = scene(3, 64)
    x, y = (drawn.boxes[0, :2] + drawn.boxes[0, 2:]).tolist()
    target = targets.segmentation(int(drawn.labels[0]), point=(x / 2, y / 2))
    return explain(tiny.load("segmenter"), drawn.image[None], target=target, method="hires_cam")


def _detector() -> Explanation:
    return explain(tiny.load("detector"), scene(5, 128, most=5, least=5).image[None], target=targets.boxes(5))


def _queries() -> Explanation:
    from .test_detections import hugging_face

    model, size = hugging_face("yolos")
    return explain(model, torch.rand(1, 3, size, size), target=targets.boxes(2))


def _raw() -> Explanation:
    from .test_detections import Raw

    output = detections.raw(scores="logits", objectness=True)
    return explain(Raw().eval(), torch.rand(1, 3, 32, 32), output=output, target=targets.box(0))


def _texts() -> Explanation:
    from .test_towers import _clip, _hugging_face

    target = targets.text(["a cup", "a plate"], tokenizer=_hugging_face)
    return explain(_clip(), torch.rand(1, 3, 32, 32), target=target)


def _video() -> Explanation:
    clip = clips(12, 77)[0][7:8]
    return explain(tiny.load("video"), clip, target="a disc and a flash", method="hires_cam")


def _volume() -> Explanation:
    how: dict[str, Any] = {"target": targets.regression(), "method": "hires_cam"}
    found = explain(finder(), volume(3)[0], layer="0", geometry=Geometry.whole(24, 24, 24), **how)
    assert found.to_original().values.shape == (24, 24, 24)
    return found


def _images() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) - 0.5


KINDS = (
    Kind("classes, also several at once", "any classifier: timm, torchvision, Hugging Face, your own",
         'target=None, "tabby", 281, targets.top(3)', _classes),
    Kind("yes or no, a number, one of many labels", "one output, regression, multi-label",
         "target=targets.binary(), targets.regression(i), k", _numbers),
    Kind("several inputs and outputs", "siamese pairs, pictures with tables, several heads",
         'inputs={"template": t}, output="alike"', _heads),
    Kind("a class in a region", "DeepLab, FCN, LR-ASPP, U-Net, SegFormer, UperNet, Mask2Former",
         "target=targets.segmentation(k, mask= | point= | box=)", _segmenter),
    Kind("boxes, a map for each", "torchvision's R-CNNs, RetinaNet, FCOS, SSD",
         "target=targets.boxes(5), targets.box((l, t, r, b), score=\"edge\")", _detector),
    Kind("boxes of queries", "DETR, RT-DETR, YOLOS", "target=targets.boxes(5)", _queries),
    Kind("boxes of a raw head", "YOLO and its like", "output=grad_cam.detections.raw(), target=targets.box(0)", _raw),
    Kind("what fits a text, what makes two pictures alike", "CLIP, SigLIP, OpenCLIP",
         'target=targets.text("a red cup"), targets.similarity(to=image)', _texts),
    Kind("where and when in a video", "R3D, MC3, S3D, Swin3D, MViT, VideoMAE, TimeSformer, ViViT",
         'loading.load_frames("clip.mp4"), images (B, C, T, H, W)', _video),
    Kind("where in a volume, back in its file", "networks of three axes, MONAI's, your own",
         'loading.load_volume("scan.nii.gz"), result.to_original()', _volume),
)  # fmt: skip


HELD = {
    "any classifier: timm, torchvision, Hugging Face, your own": (
        "families.py", "test_gradient_methods.test_equals_slow_loop",
        "test_planted.test_default_lies_there", "test_requests.test_habits_from_other_libraries",
    ),
    "one output, regression, multi-label": (
        "test_tiny_tokens.test_probabilities_of_several_labels", "test_slopes.test_a_map_sums_to_the_slope",
        "test_tiny_tokens.test_a_colour_is_found_where_it_is", "test_targets.test_bad_targets_are_named",
    ),
    "siamese pairs, pictures with tables, several heads": (
        "test_inputs.test_either_picture_of_a_pair_is_explained", "test_slopes.test_a_map_sums_to_the_slope",
        "test_inputs.test_planted_truth_of_a_pair", "test_inputs.test_wrong_inputs",
    ),
    "DeepLab, FCN, LR-ASPP, U-Net, SegFormer, UperNet, Mask2Former": (
        "test_segmentation.test_segmenters_of_libraries", "test_segmentation.test_gradients_are_those_of_differences",
        "test_segmentation.test_planted_truth", "test_segmentation.test_wrong_use",
    ),
    "torchvision's R-CNNs, RetinaNet, FCOS, SSD": (
        "test_detections.test_the_map_is_that_of_a_hook", "test_detections.test_finite_differences",
        "test_detections.test_planted_truth", "test_detections.test_wrong_use",
    ),
    "DETR, RT-DETR, YOLOS": (
        "test_detections.test_queries_have_boxes_and_are_no_grid", "test_slopes.test_a_map_sums_to_the_slope",
        "test_detections.test_planted_truth_of_queries", "test_detections.test_queries_have_boxes_and_are_no_grid",
    ),
    "YOLO and its like": (
        "test_detections.test_a_raw_head", "test_slopes.test_a_map_sums_to_the_slope",
        "test_detections.test_a_raw_head", "test_detections.test_a_raw_head",
    ),
    "CLIP, SigLIP, OpenCLIP": (
        "test_towers.test_maps_of_prompts_against_hooks", "test_slopes.test_a_map_sums_to_the_slope",
        "test_towers.test_planted_truth_of_words", "test_towers.test_wrong_use_is_refused",
    ),
    "R3D, MC3, S3D, Swin3D, MViT, VideoMAE, TimeSformer, ViViT": (
        "test_volumes.test_maps_against_hooks", "test_volumes.test_ablation_against_a_loop",
        "test_volumes.test_planted_truth_in_space_and_time", "test_volumes.test_wrong_use_is_refused",
    ),
    "networks of three axes, MONAI's, your own": (
        "test_volumes.test_monais_unet_against_a_hook", "test_slopes.test_a_map_sums_to_the_slope",
        "test_cli_outputs.test_a_volume", "test_volumes.test_wrong_use_is_refused",
    ),
    "state spaces, MambaOut, LSTM heads": (
        "test_hybrids.test_exact", "test_slopes.test_a_map_sums_to_the_slope",
        "test_hybrids.test_planted_truth_of_a_scan", "test_hybrids.test_no_positions_after_a_recurrence",
    ),
}  # fmt: skip
"""Models, and the tests that hold them: to a plain backward pass, to a slow loop or finite differences, to a model in
which one region alone can matter, and to an error for the wrong use."""


def table() -> str:
    """The rows in Markdown."""
    rows = ["| what | in which models | how it is written |", "|---|---|---|"]
    for kind in KINDS:
        written = kind.written.replace("|", "\\|")
        rows.append(f"| {kind.what} | {kind.models} | `{written}` |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(table(), end="")
