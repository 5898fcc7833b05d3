"""Detects images that are not normalised as a model expects."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import introspection
from .preprocess import IMAGENET_MEAN, Preprocessing, declared_preprocessing, for_channels, preprocessing_set_by_user


def warn_if_unnormalised(model: nn.Module, images: Tensor) -> None:
    """Warns the caller of `explain` or `sweep` where images do not seem to be normalised as a model expects."""
    if images.ndim == 5:
        return
    low, high = (float(value) for value in images.aminmax())
    if low < 0 and (max(-low, high) < 4 or float(images.abs().flatten(1).mean(1).amax()) < 4):
        return  # neither 0..1 nor, undoing any mean and deviation within 0..1, too bright
    note = normalisation_note(model, images)
    if note is not None:
        warnings.warn(note, stacklevel=4)


def normalisation_note(model: nn.Module, images: Tensor) -> str | None:
    """Describes in what range images lie that do not seem to be normalised as a model expects, and what to do.

    Only what a model itself declares counts: a `preprocessing` the user set, a Hugging Face processor, and timm's and
    torchvision's settings. A user's own model that holds a known network may normalise its input itself, and one with
    another classifier than the published one may have been trained on images from 0 to 1.

    Args:
        model: The model; wrappers are looked through.
        images: (B,C,H,W), on any device.

    Returns:
        A warning, or None where nothing is wrong or nothing is known. Images of another number of channels than 1 or
        3, constant images, and NaN are not judged.
    """
    channels = images.shape[1]
    own, model = preprocessing_set_by_user(model)
    found = declared_preprocessing(model) if own is None else own
    if found is None or found.assumed or channels not in (1, 3) or found.channels not in (1, 3):
        return None
    expected = for_channels(found, channels)
    seen = looks_unnormalised(images, expected.mean, expected.std)
    if seen is None or (seen == "0..1" and own is None and not _is_as_published(model)):
        return None
    scaled = "images / 255" if seen == "0..255" else "images"
    mean, std = (f"({', '.join(f'{value:.4g}' for value in values)})" for values in (expected.mean, expected.std))
    return (
        f"the images lie in {seen}, but {type(model).__name__} expects them normalised with mean "
        f"{mean} and std {std}: give ({scaled} - mean) / std, or the image file to grad_cam.GradCAM; if the model was "
        "trained on such images, set model.preprocessing = grad_cam.loading.Preprocessing(mean=..., std=...)"
    )


def looks_unnormalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> str | None:
    """Finds the range of images that are not normalised.

    Images are taken to be out of range if undoing the normalisation makes one of them, on average, more than five times
    as bright as white. They are taken to lie in 0..1 if all of them do, and half of them have contrast and dark parts
    and reach nearly down to 0 in every channel: normalised, the dark parts would be negative. In doubt they count as
    normalised.

    Args:
        images: (B,C,H,W), on any device.
        mean: The mean the model expects to be subtracted, C values, for pixels from 0 to 1.
        std: The standard deviation it expects to be divided by.

    Returns:
        The range in which the images seem to lie, "0..255", "0..1" or their own lowest and highest value; None if they
        may be normalised.
    """
    values = images.detach().float()
    varied = (values.amax((2, 3)) > values.amin((2, 3))).any(1)  # (B,); one colour says nothing
    values = values[varied & values.isfinite().all(-1).all(-1).all(-1)]
    if not len(values):
        return None
    shift, scale = (torch.as_tensor(tuple(each), device=values.device).view(-1, 1, 1) for each in (mean, std))
    low, high = float(values.min()), float(values.max())
    brightness = (values * scale + shift).abs().mean((1, 2, 3))  # (B,)
    if bool((brightness > 5).any()):
        return "0..255" if low >= 0 and 1 < high < 256 else f"{low:.4g}..{high:.4g}"
    if low < 0 or high > 1 or not float((-shift / scale).min()) < -0.5:
        return None
    darkest, contrast = values.amin((2, 3)).amax(1), values.amax((1, 2, 3)) - values.amin((1, 2, 3))  # (B,)
    dark = (values < 0.25).float().mean((1, 2, 3))  # (B,)
    clear = (darkest < 0.05) & (contrast >= 0.5) & (dark >= 0.1)
    return "0..1" if 2 * int(clear.sum()) >= len(clear) else None


def _is_as_published(model: nn.Module) -> bool:
    """Whether what a model declares is surely of its own weights: it has the published classifier, or a processor."""
    timm_config = introspection.timm_config(model)
    if timm_config is not None:
        return timm_config.value.get("num_classes") == introspection.class_count(model)
    if getattr(model, "image_processor", None) is not None:
        return True
    known = introspection.torchvision_weights(model)
    count = sum(parameter.numel() for parameter in model.parameters())
    return len(known) == 1 and known[0].meta["num_params"] == count


def mean_color(preprocessing: Preprocessing) -> Sequence[float]:
    """The mean colour of the data a model was trained on, in its input units, one number for each channel.

    Subtracting the mean makes it 0. A mean of one half is not a mean of data but a scaling to -1..1, mostly of models
    trained on ImageNet: then it is ImageNet's.
    """
    mean, std = preprocessing.mean, preprocessing.std
    if mean != (0.5, 0.5, 0.5):
        return [0.0] * preprocessing.channels
    of_data = IMAGENET_MEAN[::-1] if preprocessing.bgr else IMAGENET_MEAN
    return [(data - m) / s for data, m, s in zip(of_data, mean, std, strict=True)]
