"""Images that are not normalised as a model expects."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from grad_cam.loading import Preprocessing, load_image, normalisation_note, samples
from grad_cam.loading.normalisation import looks_unnormalised
from grad_cam.loading.preprocess import IMAGENET_MEAN, IMAGENET_STD

from .test_loading_images import pixels
from .test_loading_processors import Told, processor

HALF, PLAIN, BYTES = ((0.5,) * 3, (0.5,) * 3), ((0.0,) * 3, (1.0,) * 3), ((0.0,) * 3, (1 / 255,) * 3)
NORMALISATIONS = {"imagenet": (IMAGENET_MEAN, IMAGENET_STD), "half": HALF, "plain": PLAIN, "bytes": BYTES}


def photos(side: int = 96) -> torch.Tensor:
    """Crops of the sample photos, some darkened, brightened or of little contrast, (B,3,H,W) in 0..1."""
    crops = []
    for path in samples().values():
        image = load_image(path)
        for left, top, size in ((0, 0, 300), (60, 20, 200), (150, 100, 120), (100, 0, 250)):
            crop = image.crop((left, top, left + size, top + size)).resize((side, side))
            values = torch.from_numpy(pixels(crop).copy()).permute(2, 0, 1) / 255
            crops += [values, values * 0.4, (values * 1.8).clamp(max=1), values * 0.3 + 0.6, 1 - values]
    return torch.stack(crops)


def normalised(images: torch.Tensor, name: str) -> torch.Tensor:
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in NORMALISATIONS[name])
    return (images - mean) / std


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_normalised_images_raise_no_alarm(name: str) -> None:
    """Photos of any brightness, noise and images of one colour are never taken for images that were forgotten."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 3, 32, 32, generator=generator)
    given = normalised(photos(), name)
    assert looks_unnormalised(given, *NORMALISATIONS[name]) is None
    assert all(looks_unnormalised(one[None], *NORMALISATIONS[name]) is None for one in given)
    for images in (
        noise, noise * 3, noise.abs(), noise * 0.01, noise.clamp(-1, 1), noise * 0, noise * 0 + 1,
        torch.full((1, 3, 8, 8), 200.0), noise[:, :, :1, :1].expand(4, 3, 8, 8) * 100, noise.bfloat16(), noise.double(),
    ):  # fmt: skip
        assert looks_unnormalised(images, *NORMALISATIONS[name]) is None


@pytest.mark.parametrize("name", ["imagenet", "half"])
def test_images_from_0_to_1_are_seen(name: str) -> None:
    """Whole photos from 0 to 1, one by one and together, where a model expects them around zero."""
    images = torch.cat([Preprocessing(mean=PLAIN[0], std=PLAIN[1])(path)[0] for path in samples().values()])
    for each in (images, images[:1], images[1:], images.half()):
        assert looks_unnormalised(each, *NORMALISATIONS[name]) == "0..1"
    assert looks_unnormalised(images, *PLAIN) is None


@pytest.mark.parametrize("name", ["imagenet", "half", "plain"])
def test_images_from_0_to_255_are_seen(name: str) -> None:
    """Photos from 0 to 255, also one among others, and what was scaled twice, with the range they lie in."""
    images = photos()
    assert looks_unnormalised(images * 255, *NORMALISATIONS[name]) == "0..255"
    mixed = normalised(images, name)
    mixed[0] = images[0] * 255
    assert looks_unnormalised(mixed, *NORMALISATIONS[name]) is not None
    scaled = normalised(images, "imagenet") * 127 + 127
    assert looks_unnormalised(scaled, *NORMALISATIONS[name]) == f"{scaled.min():.4g}..{scaled.max():.4g}"


def test_images_with_nan_are_not_judged() -> None:
    """NaN and infinite values have an error of their own."""
    images = photos() * 255
    images[:, 0, 0, 0], images[:, 1, 0, 0] = float("nan"), float("inf")
    assert looks_unnormalised(images, *NORMALISATIONS["imagenet"]) is None


def test_notes_on_normalisation() -> None:
    """The note names the range, what the model expects, the arithmetic, and how to say that all is right."""
    model, images = timm.create_model("tf_efficientnet_b0"), photos()
    note = normalisation_note(nn.DataParallel(model), images * 255)
    for words in ("0..255", "EfficientNet", "(0.485, 0.456, 0.406)", "images / 255 - mean", "GradCAM", "model.prepro"):
        assert words in note
    assert "(images - mean) / std" in normalisation_note(model, images[::5])
    assert "mean (0.449)" in normalisation_note(timm.create_model("resnet18", in_chans=1), images[:, :1] * 255)
    assert normalisation_note(model, normalised(images, "imagenet")) is None
    model.preprocessing = Preprocessing(mean=PLAIN[0], std=PLAIN[1])
    assert normalisation_note(model, images) is None and "images / 255" in normalisation_note(model, images * 255)


def test_notes_only_where_a_model_declares_what_it_expects() -> None:
    """Models of one's own, also around a known network, and other numbers of channels are not judged."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = timm.create_model("resnet18")

    images = photos()
    for model in (Own(), nn.Sequential(nn.Conv2d(3, 4, 3)), Told(model_type="resnet")):
        assert normalisation_note(model, images * 255) is None
    assert normalisation_note(timm.create_model("resnet18", in_chans=4), torch.rand(1, 4, 8, 8) * 255) is None


def test_notes_on_models_with_another_classifier() -> None:
    """One that was trained anew may have been trained on images from 0 to 1, but hardly on 0 to 255."""
    from torchvision.models import resnet18

    images = photos()[::5]
    for published, own in (
        (timm.create_model("resnet18"), timm.create_model("resnet18", num_classes=5)),
        (resnet18(), resnet18(num_classes=5)),
    ):
        assert "0..1" in normalisation_note(published, images) and normalisation_note(own, images) is None
        assert "0..255" in normalisation_note(own, images * 255)
    told = Told(processor("ViTImageProcessor"), image_size=224)
    assert "0..1" in normalisation_note(told, images)
