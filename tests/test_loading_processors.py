"""Hugging Face image processors: what they feed is what is explained, and how they are described."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from grad_cam.loading import ImageError, preprocessing

from .test_loading_images import photo


def processor(name: str, **settings: object) -> object:
    return getattr(pytest.importorskip("transformers"), name)(**settings)


class Told(nn.Module):
    """Stands for a Hugging Face model: a configuration and a processor."""

    def __init__(self, processor: object = None, **config: object) -> None:
        super().__init__()
        self.config = type("Config", (), {"model_type": "any", **config})()
        if processor is not None:
            self.image_processor = processor


PROCESSORS = {
    "vit": ("ViTImageProcessor", {}),
    "convnext": ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}}),
    "convnext-384": ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
    "beit": ("BeitImageProcessor", {"size": {"height": 256, "width": 256}, "do_center_crop": True}),
    "bit": ("BitImageProcessor", {"size": {"shortest_edge": 256}, "image_mean": [0.4, 0.5, 0.6]}),
    "segformer": ("SegformerImageProcessor", {"size": {"height": 128, "width": 96}}),
    "mobilevit": (
        "MobileViTImageProcessor",
        {"size": {"shortest_edge": 288}, "crop_size": {"height": 256, "width": 256}},
    ),
    "efficientnet": ("EfficientNetImageProcessor", {"rescale_offset": True, "rescale_factor": 1 / 127.5}),
}


SHAPES = [(224, 224), (320, 240), (240, 321), (333, 500), (600, 401), (97, 180)]

KINDS = [
    "Beit", "Bit", "CLIP", "ConvNext", "DeiT", "Donut", "EfficientNet", "Levit", "MobileNetV1", "MobileNetV2",
    "MobileViT", "PPLCNet", "Perceiver", "PoolFormer", "Pvt", "Segformer", "Siglip", "TextNet", "ViT",
]  # fmt: skip
"""Whose processors prepare the images of the classifiers of `tests/hugging_face.py`."""


def made(name: str) -> object:
    """A processor with other settings than its own, or of one of the kinds, for images or for tensors."""
    if name in PROCESSORS:
        return processor(PROCESSORS[name][0], **PROCESSORS[name][1])
    small = {"size": {"height": 256, "width": 192}} if name.startswith("Donut") else {}
    kind, _, backend = name.partition(" ")
    if not hasattr(pytest.importorskip("transformers"), f"{kind}ImageProcessor{backend}"):
        pytest.skip("this version of transformers has no such processor")
    return processor(f"{kind}ImageProcessor{backend}", **small)


EVERY = [*PROCESSORS, *KINDS, *(f"{kind} Pil" for kind in KINDS)]


@pytest.mark.parametrize("name", EVERY)
def test_what_the_processor_feeds_is_what_is_explained(name: str) -> None:
    """At six shapes the tensor is the processor's own to the bit, and the view shows it to the level."""
    own = made(name)
    found = preprocessing(Told(own))
    assert not found.assumed
    for shape in SHAPES:
        image = photo(*shape)
        tensor, view = found(image)
        theirs = torch.as_tensor(np.asarray(own(images=image, return_tensors="pt")["pixel_values"]))
        assert torch.equal(tensor, theirs), shape
        assert np.array_equal(np.asarray(view), np.asarray(found.view(image)))
        assert torch.allclose(found.tensor(view), theirs, atol=0.51 / 255 / min(found.std)), shape
        if not name.startswith("TextNet"):  # the one that keeps the proportions
            assert (view.height, view.width) == found.size


@pytest.mark.parametrize("name", EVERY)
def test_the_part_of_the_photo_that_a_processor_uses(name: str) -> None:
    """The measured box, cut out of the photo and brought to the view's size, is the view; its area is the fraction."""
    found = preprocessing(Told(made(name)))
    for shape in SHAPES[1:]:
        image = smooth(*shape)
        left, top, right, bottom = found.used_box(image)
        assert 0 <= left < right <= shape[0] and 0 <= top < bottom <= shape[1]
        assert found.used_fraction(image) == pytest.approx((right - left) * (bottom - top) / (shape[0] * shape[1]))
        shown = np.asarray(found.view(image)).astype(float)
        inside = shown[..., 2] > 128  # blue is full in the image, padding is not
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        shown = shown[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        cut = image.crop((left, top, right, bottom)).resize(shown.shape[1::-1], Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(cut) - shown)[3:-3, 3:-3].mean() < 1.5, shape


def smooth(width: int, height: int) -> Image.Image:
    """An image whose red grows to the right and green downwards, so that a shift of a pixel shows."""
    pixels = np.full((height, width, 3), 255, np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)[None]
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("name", "mode", "crop_pct", "mean", "std"),
    [
        ("PoolFormer", "center", 224 / 248, 0.485, 0.229), ("Levit", "center", 224 / 256, 0.485, 0.229),
        ("CLIP", "center", 1.0, 0.48145466, 0.26862954), ("ViT", "squash", 1.0, 0.5, 0.5),
        ("Perceiver", "center", 224 / 256, 0.485, 0.229), ("MobileViT", "center", 256 / 224, 0.0, 1.0),
        ("convnext", "center", 0.875, 0.5, 0.5), ("convnext-384", "squash", 1.0, 0.5, 0.5),
        ("bit", "center", 224 / 256, 0.4, 0.26862954), ("Donut", "border", 1.0, 0.5, 0.5),
        ("EfficientNet", "squash", 1.0, 0.5, 0.25),
    ],
)  # fmt: skip
def test_measured_settings(name: str, mode: str, crop_pct: float, mean: float, std: float) -> None:
    """What is measured are the settings that the processor's documentation names, in every way of writing them."""
    found = preprocessing(Told(made(name)))
    assert found.crop_mode == mode
    assert found.crop_pct == pytest.approx(crop_pct, abs=0.001)
    assert found.mean[0] == pytest.approx(mean, abs=1e-5)
    assert found.std[0] == pytest.approx(std, abs=1e-5)
    assert found.bgr is (name == "MobileViT")


def test_another_size_than_the_processors_own() -> None:
    """At another size the images are prepared as the processor would, without it."""
    image = photo(500, 333)
    for name in ("PoolFormer", "Levit", "CLIP", "ViT"):
        own = preprocessing(Told(made(name)))
        other = preprocessing(Told(made(name)), 192)
        assert other.processor is None and other(image)[0].shape == (1, 3, 192, 192)
        assert other.used_fraction(image) == pytest.approx(own.used_fraction(image), abs=0.015)
    grey = preprocessing(Told(made("ViT"), num_channels=1))
    assert grey.processor is None and grey(image)[0].shape == (1, 1, 224, 224)


def test_processors_that_make_no_images() -> None:
    """What cannot be called, fails, or makes something else than images is passed over, and said to be assumed."""

    class Failing:
        def __call__(self, **given: object) -> object:
            raise KeyError("text")

    class Patches:
        def __call__(self, **given: object) -> object:
            return {"pixel_values": np.zeros((1, 196, 768), np.float32)}

    for each in (object(), Failing(), Patches()):
        found = preprocessing(Told(each))
        assert found.assumed and found.size == (224, 224) and found.processor is None


def test_copies_keep_the_processor() -> None:
    """A preprocessing with a processor is pickled and deep-copied with it."""
    found, image = preprocessing(Told(made("PoolFormer"))), photo(300, 200)
    for again in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
        assert again == found and torch.equal(again(image)[0], found(image)[0])


def test_elongated_images() -> None:
    """A line of pixels would become gigabytes: refused before the processor starts."""
    with pytest.raises(ImageError, match="elongated"):
        preprocessing(Told(made("CLIP")))(Image.new("RGB", (100_000, 1)))
