"""From a picture to what the model sees, and back.

`load_image` turns any file, PIL picture or array into an upright, opaque RGB picture. `preprocessing(model)` reads from
the model how it wants to be fed. The `view` it makes is exactly what the model sees, so that a heatmap drawn over the
view lies where it belongs.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor, nn

from . import introspection
from .arguments import is_index
from .errors import GradCamError

MAX_PIXELS = 178_956_970
"""Pictures with more pixels are refused: Pillow's own limit, above the largest camera pictures in common use."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

CROP_MODES = ("center", "squash", "border")

Source: TypeAlias = "str | os.PathLike[str] | Image.Image | NDArray[Any]"

_INTERPOLATIONS = {mode.name.lower(): mode for mode in Image.Resampling}
_VECTOR_FORMATS = frozenset({"EPS", "WMF"})  # Pillow would start another program to draw these


class ImageError(GradCamError):
    """A picture cannot be read, or cannot be made into what the model takes."""


# --- reading ---------------------------------------------------------------------------------------------------------


def load_image(source: Source, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Reads a picture as a person sees it: upright, opaque, RGB.

    The rotation a camera noted (EXIF) is carried out. Transparent parts are shown over white. Grey, 1-bit, palette,
    CMYK and 16-bit pictures become RGB; of an animation the first frame is taken. Brightness is scaled, never clipped:
    16 bits from 0..65535; pictures of 32-bit integers or floats from the smallest of 0..1 (floats only), 0..255 and
    0..65535 that holds all values, else from their own lowest to their own highest value.

    Args:
        source: A path, a PIL picture, or an array (H,W), (H,W,1), (H,W,3) or (H,W,4) of uint8, uint16, bool, or floats
            in 0..1; four channels are RGB and alpha.
        max_pixels: Pictures with more pixels than this are refused before they are decoded.

    Returns:
        A new PIL picture in mode RGB.

    Raises:
        ImageError: No such file, a directory, not a picture, damaged, too large, or an array of another shape, type or
            range.
        TypeError: `source` is none of the kinds above.
    """
    if isinstance(source, Image.Image):
        return _decode(source, "the given picture", max_pixels)
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, (str, os.PathLike)):
        return _from_file(source, max_pixels)
    hint = ": hand tensors straight to grad_cam.explain()" if isinstance(source, Tensor) else ""
    raise TypeError(f"A picture is a path, a PIL picture or a numpy array, not {type(source).__name__}{hint}.")


def _from_file(source: str | os.PathLike[str], max_pixels: int) -> Image.Image:
    name = os.fspath(source)
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    if "://" in name:
        raise ImageError(f"{name} is an address, not a file: download the picture first.")
    if os.path.isdir(name):
        raise ImageError(f"{name} is a directory: name the pictures in it one by one.")
    if not os.path.lexists(name):
        raise ImageError(f"There is no file {name} (looked for in {Path.cwd()}).")
    if not os.path.isfile(name):
        raise ImageError(f"{name} is not a regular file (or a link that leads nowhere): name a picture.")
    try:
        if os.path.getsize(name) == 0:
            raise ImageError(f"{name} is empty (0 bytes): it was probably not written to the end.")
        with Image.open(name) as image:
            return _decode(image, name, max_pixels)
    except ImageError:
        raise
    except Exception as error:
        raise _explained(error, name) from error


def _decode(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    """Reads the pixels of an opened picture and makes them RGB."""
    _check_pixels(image.width, image.height, name, max_pixels)
    if image.format in _VECTOR_FORMATS:
        raise ImageError(f"{name} is a drawing ({image.format}), not a picture of pixels: convert it to PNG first.")
    try:
        image.load()
        return _to_rgb(_upright(image))
    except Exception as error:
        raise _explained(error, name) from error


def _explained(error: Exception, name: str) -> ImageError:
    """Says in a sentence what Pillow (or the file system) meant."""
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return ImageError(f"{name} is too large a picture: {error} Scale it down first.")
    if isinstance(error, Image.UnidentifiedImageError):
        return ImageError(f"{name} is not a picture in a format that can be read, such as JPEG, PNG, WebP or TIFF.")
    if isinstance(error, OSError) and error.errno is not None:
        return ImageError(f"{name} cannot be read: {error.strerror or error}.")
    return ImageError(f"{name} cannot be decoded, it is damaged, cut short or of an unusual kind: {error}.")


def _check_pixels(width: int, height: int, name: str, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels: {width} x {height}.")
    if width * height > max_pixels:
        raise ImageError(
            f"{name} is too large a picture: {width} x {height} is {width * height:,} pixels, at most {max_pixels:,} "
            "are read. Scale it down first."
        )


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data fails in many ways, and says nothing about the pixels
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey = _eight_bits(np.asarray(image), sixteen=image.mode.startswith("I;16"))
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _eight_bits(values: NDArray[Any], *, sixteen: bool) -> NDArray[np.uint8]:
    """Scales grey values of more than 8 bits to 0..255 without clipping any."""
    numbers = values.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise ImageError("its values are not all finite numbers (NaN or infinity)")
    low, high = float(numbers.min()), float(numbers.max())
    tops = [1.0] if np.issubdtype(values.dtype, np.floating) else []
    top = 65535.0 if sixteen else next((top for top in [*tops, 255.0, 65535.0] if low >= 0 and high <= top), None)
    if top is None:
        numbers, top = numbers - low, (high - low) or 1.0
    return np.round(numbers * (255.0 / top)).astype(np.uint8)


def _from_array(array: NDArray[Any], max_pixels: int) -> Image.Image:
    kind, shape = array.dtype, array.shape
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3, 4)):
        hint = ""
        if array.ndim == 3 and shape[0] in (1, 3, 4):
            hint = ": channels come last, use array.transpose(1, 2, 0)"
        elif array.ndim == 4:
            hint = ": hand over one picture of the batch, array[0]"
        raise ImageError(f"An array of shape {shape} is not a picture (H,W), (H,W,1), (H,W,3) or (H,W,4){hint}.")
    _check_pixels(shape[1], shape[0], "the given array", max_pixels)
    if kind == np.uint8:
        pixels = array
    elif kind == np.bool_:
        pixels = array.astype(np.uint8) * 255
    elif kind.kind == "u" and kind.itemsize == 2:  # of either byte order
        pixels = np.round(array / 257.0).astype(np.uint8)  # 65535 = 257 * 255
    elif np.issubdtype(kind, np.floating):
        low, high = float(array.min()), float(array.max())  # NaN, if there is one, comes out of both
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ImageError("The array holds NaN or infinity: replace them, e.g. with numpy.nan_to_num.")
        if low < 0 or high > 1:
            raise ImageError(
                f"An array of floats goes from 0 to 1, this one from {low:g} to {high:g}: scale it first, "
                "e.g. divide by 255."
            )
        pixels = np.round(array.astype(np.float64) * 255.0).astype(np.uint8)
    else:
        raise ImageError(
            f"An array of {kind} is not a picture: use uint8, uint16, bool or floats in 0..1, "
            "e.g. array.astype(numpy.uint8) for values from 0 to 255."
        )
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    return _to_rgb(Image.fromarray(np.ascontiguousarray(pixels)))


# --- what the model sees ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How one model is fed: picture -> view (what is shown) -> tensor (what is computed on).

    Calling it with anything that `load_image` reads gives both, `(tensor, view)`. To feed a model of one's own in
    one's own way, set `model.preprocessing = Preprocessing(...)`.

    Attributes:
        size: Height and width of the model's input in pixels.
        mean: Mean of each channel, on a scale of 0..1.
        std: Standard deviation of each channel, on the same scale.
        interpolation: "nearest", "bilinear", "bicubic", "lanczos", "box" or "hamming".
        crop_pct: The picture is resized to `floor(size / crop_pct)`, then `size` is cut from its centre.
        crop_mode: What is resized: "center" the shorter edge; "squash" both edges, whatever the proportions; "border"
            the longer edge, with the rest filled in the mean colour.
        channels: 3, or 1 for models that take grey pictures. With any other number, tensors are one's own to make.
        bgr: Whether the model takes the channels in the order blue, green, red. Views are RGB all the same.
        assumed: Whether mean and std are a guess, as the model tells none.

    Note:
        The numbers are those of timm's evaluation transform, which for square sizes are torchvision's too.
    """

    size: tuple[int, int] = (224, 224)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    crop_mode: str = "center"
    channels: int = 3
    bgr: bool = False
    assumed: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", _size(self.size))
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        if not is_index(self.channels) or self.channels < 1:
            raise ValueError(f"channels={self.channels!r} is not a number of channels; 3 and 1 are usual.")
        object.__setattr__(self, "channels", int(self.channels))
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(
                f"mean and std need one value for each of the {self.channels} channels, given: {self.mean}, {self.std}."
            )
        if not all(map(math.isfinite, self.mean + self.std)) or 0.0 in self.std:
            raise ValueError(f"mean and std are finite and std is not 0, given: {self.mean}, {self.std}.")
        if self.interpolation not in _INTERPOLATIONS:
            raise ValueError(f"interpolation={self.interpolation!r} is not one of {', '.join(_INTERPOLATIONS)}.")
        if self.crop_mode not in CROP_MODES:
            raise ValueError(f"crop_mode={self.crop_mode!r} is not one of {', '.join(CROP_MODES)}.")
        if not (math.isfinite(self.crop_pct) and self.crop_pct > 0):
            raise ValueError(f"crop_pct={self.crop_pct} is not a positive number; 0.875 and 1.0 are usual.")

    def view(self, image: Image.Image) -> Image.Image:
        """Resizes and crops a picture to what the model sees.

        Args:
            image: The whole picture, as `load_image` returns it.

        Returns:
            An RGB picture of exactly `size`.

        Raises:
            ImageError: The picture is so elongated that resizing it would take too much memory.
        """
        height, width = self.size
        image = image.convert("RGB")
        resized = self._resized(image.width, image.height)
        if resized[0] * resized[1] > MAX_PIXELS:
            raise ImageError(
                f"The picture is too elongated: with {image.width} x {image.height} pixels it would be resized to "
                f"{resized[0]} x {resized[1]}. Cut out the part of interest, or use crop_mode='squash'."
            )
        image = image.resize(resized, _INTERPOLATIONS[self.interpolation])
        fill = tuple(round(255 * value) for value in self.mean) if self.crop_mode == "border" else (0, 0, 0)
        image = _cut(image, width, height, fill if len(fill) == 3 else fill * 3)
        return image.convert("L").convert("RGB") if self.channels == 1 else image

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after resizing, before the cut; rounded as timm and torchvision do."""
        high, wide = (math.floor(side / self.crop_pct) or 1 for side in self.size)
        if self.crop_mode == "squash":
            return wide, high
        if self.crop_mode == "center" and high == wide:
            short, long = min(width, height), max(width, height)
            long = int(wide * long / short)
            return (wide, long) if width <= height else (long, wide)
        choose = max if self.crop_mode == "border" else min
        ratio = choose(height / high, width / wide)
        return round(width / ratio) or 1, round(height / ratio) or 1

    def tensor(self, view: Image.Image) -> Tensor:
        """Normalises a view.

        Args:
            view: A picture of exactly `size`, as `view` returns it.

        Returns:
            A float32 tensor (1,C,H,W) on the CPU.

        Raises:
            ImageError: The model takes another number of channels than 1 or 3.
            ValueError: The view has another size.
        """
        if self.channels not in (1, 3):
            raise ImageError(
                f"The model takes {self.channels} channels, and a picture has 3 or 1: hand a tensor "
                f"(B,{self.channels},H,W) to grad_cam.explain() instead."
            )
        if (view.height, view.width) != self.size:
            raise ValueError(
                f"The view is {view.height} x {view.width}, the model takes {self.size[0]} x {self.size[1]}: make it "
                "with view(image)."
            )
        pixels = np.array(view.convert("L" if self.channels == 1 else "RGB"))
        batch = torch.from_numpy(pixels).reshape(1, *self.size, self.channels).permute(0, 3, 1, 2)  # (1, C, H, W)
        batch = batch.flip(1) if self.bgr else batch.contiguous()
        mean, std = self._moments()
        return batch.to(torch.float32).div_(255).sub_(mean).div_(std)

    def __call__(self, source: Source) -> tuple[Tensor, Image.Image]:
        """Reads a picture and returns what the model computes on, (1,C,H,W), and the view that shows it."""
        view = self.view(load_image(source))
        return self.tensor(view), view

    def pictures(self, batch: Tensor) -> NDArray[np.uint8]:
        """Turns a normalised batch back into pictures to show.

        The normalisation is undone where it can be. Where it cannot (other than 1 or 3 channels, or an assumed
        normalisation that leads far outside the range of a picture), the first three channels are shown, or the first
        alone if there are fewer, each picture from its own lowest to its own highest value.

        Args:
            batch: (B,C,H,W) of any size and floating type, on any device.

        Returns:
            uint8 array (B,H,W,3); values outside the range of a picture are clipped, NaN becomes black.
        """
        if batch.ndim != 4 or batch.shape[1] < 1:
            raise ValueError(f"A batch is (B,{self.channels},H,W) here, given: {tuple(batch.shape)}.")
        values = batch.detach().to("cpu", torch.float32)  # (B, C, H, W)
        channels = values.shape[1]
        if channels in (1, 3) and self.channels in (1, 3):
            mean, std = _for_channels(self, channels)._moments()
            shown = values * std + mean
            if self.assumed:
                far = ((shown < -1) | (shown > 2)).flatten(1).any(dim=1)  # (B,)
                shown = torch.where(far.view(-1, 1, 1, 1), _spread(values), shown)
        else:
            shown = _spread(values[:, :3] if channels >= 3 else values[:, :1])
        shown = (shown * 255).nan_to_num(nan=0.0).round().clamp(0, 255).to(torch.uint8)
        shown = shown.flip(1) if self.bgr and channels == 3 else shown
        return shown.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()  # (B, H, W, 3)

    def _moments(self) -> tuple[Tensor, Tensor]:
        mean, std = torch.tensor([self.mean, self.std], dtype=torch.float32).view(2, -1, 1, 1)
        return mean, std


def _spread(values: Tensor) -> Tensor:
    """Scales each picture (B,C,H,W) from its own lowest and highest finite value to 0..1."""
    finite = values.isfinite()
    low = torch.where(finite, values, torch.inf).amin(dim=(1, 2, 3), keepdim=True)
    high = torch.where(finite, values, -torch.inf).amax(dim=(1, 2, 3), keepdim=True)
    return (values - low) / (high - low).clamp_min(torch.finfo(values.dtype).tiny)


def _size(size: int | Sequence[int]) -> tuple[int, int]:
    """Checks an input size: one number for a square, or height and width."""
    if hasattr(size, "tolist"):  # arrays and tensors
        size = size.tolist()
    sides = (size, size) if is_index(size) else tuple(size) if isinstance(size, Sequence) else ()
    if len(sides) != 2 or not all(map(is_index, sides)):
        raise ValueError(f"An input size is a number of pixels or (height, width), given: {size!r}.")
    height, width = (int(side) for side in sides)
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"An input size of {height} x {width} pixels is not possible; 224 is usual.")
    return height, width


def _cut(image: Image.Image, width: int, height: int, fill: tuple[int, ...]) -> Image.Image:
    """Cuts the centre out; where the picture is smaller than the cut, its border is filled."""
    if image.width < width or image.height < height:
        canvas = Image.new("RGB", (max(image.width, width), max(image.height, height)), fill)
        canvas.paste(image, (max(0, width - image.width) // 2, max(0, height - image.height) // 2))
        image = canvas
    left, top = round((image.width - width) / 2.0), round((image.height - height) / 2.0)
    return image.crop((left, top, left + width, top + height))


# --- what the model tells --------------------------------------------------------------------------------------------


def preprocessing(model: nn.Module, input_size: int | tuple[int, int] | None = None) -> Preprocessing:
    """Reads from a model how it wants to be fed.

    Asked in this order: `model.preprocessing`, set by the user; timm's configuration; the `image_processor` (where one
    is attached) and the configuration of a Hugging Face model; the transforms that torchvision has for the
    architecture's default weights. A model of one's own around one of these is fed as the inner one. Any other model
    gets 224 x 224 and the mean and standard deviation of ImageNet, marked as `assumed`. Nothing is downloaded.

    Args:
        model: The model, or a chain of it; wrappers (DataParallel, torch.compile) are looked through.
        input_size: Another size than the model's own: pixels, or (height, width).

    Raises:
        ValueError: An input size that cannot be one.

    Note:
        torchvision's models do not remember which weights they carry; the default ones (the newest) are supposed.
    """
    found = _told(model)
    return found if input_size is None else dataclasses.replace(found, size=_size(input_size))


def _told(model: nn.Module) -> Preprocessing:
    own, model = _set_by_user(model)
    if own is not None:
        return own
    found = None
    for part in model.modules():
        own = getattr(part, "preprocessing", None)
        if isinstance(own, Preprocessing):
            return own
        if (found := _configured(part)) is not None:
            break
    found = dataclasses.replace(found or Preprocessing(assumed=True), size=introspection.input_size(model))
    return _for_channels(found, introspection.input_channels(model))


def _set_by_user(model: nn.Module) -> tuple[Preprocessing | None, nn.Module]:
    """The preprocessing set on a model or a wrapper, if there is one, and the model in the wrappers."""
    while True:
        for outer in introspection.wrapped(model):
            own = getattr(outer, "preprocessing", None)
            if isinstance(own, Preprocessing):
                return own, introspection.unwrap(model)
        model = introspection.unwrap(model)
        chained = getattr(model, "model", None)
        if not isinstance(chained, nn.Module) or "model" in model._modules:
            return None, model
        model = chained  # a chain is not the model's owner


def _configured(model: nn.Module) -> Preprocessing | None:
    """What timm, Hugging Face or torchvision declare of a model, without its size and channels; None for any other."""
    config = getattr(model, "config", None)
    timm_config = introspection.timm_config(model)
    if timm_config is not None:
        return _from_timm(timm_config.value)
    if config is not None and (hasattr(config, "model_type") or hasattr(model, "image_processor")):
        return _from_hugging_face(getattr(model, "image_processor", None), getattr(config, "model_type", None))
    return _from_torchvision(model) if introspection.is_torchvision(model) else None


def _for_channels(found: Preprocessing, channels: int) -> Preprocessing:
    """The same for another number of channels: all but three get the mean of the colours' means."""
    if channels == found.channels:
        return found
    alike = {name: (float(np.mean(getattr(found, name))),) * channels for name in ("mean", "std")}
    return dataclasses.replace(found, channels=channels, **alike)


def _from_timm(config: Mapping[str, Any]) -> Preprocessing:
    mean = tuple(config.get("mean") or IMAGENET_MEAN)
    std = tuple(config.get("std") or IMAGENET_STD)
    return Preprocessing(
        mean=mean * 3 if len(mean) == 1 else mean,
        std=std * 3 if len(std) == 1 else std,
        interpolation=_known(config.get("interpolation")),
        crop_pct=config.get("crop_pct") or 0.875,
        crop_mode=config.get("crop_mode") or "center",
    )


def _known(interpolation: str | None) -> str:
    return interpolation if interpolation in _INTERPOLATIONS else "bicubic"


_HALF_TYPES = frozenset({"vit", "beit", "data2vec-vision", "mobilenet_v1", "mobilenet_v2"})
"""Hugging Face types whose published models take pictures from -1 to 1 (most others: ImageNet's mean and std)."""


def _from_hugging_face(processor: Any, model_type: str | None) -> Preprocessing:
    if processor is None:
        if model_type in _HALF_TYPES:
            return Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bilinear", crop_mode="squash")
        return Preprocessing(crop_mode="squash", assumed=True)

    told = processor.to_dict() if hasattr(processor, "to_dict") else dict(vars(processor))
    told = {name: value for name, value in told.items() if value is not None}
    resize, crop = introspection.as_size(told.get("size")), introspection.as_size(told.get("crop_size"))
    short = isinstance(told.get("size"), Mapping) and "shortest_edge" in told["size"]
    crop_pct = 1.0
    if told.get("do_center_crop") and crop is not None:
        if told.get("do_resize", True) and resize is not None:
            crop_pct = _crop_pct(min(crop), min(resize))
    elif "crop_pct" in told and short:  # ConvNeXt: cropped when small, squashed from 384 on
        if resize is None or min(resize) < 384:
            crop_pct = float(told["crop_pct"])
        else:
            short = False
    mean, std = (0.0,), (1.0,)
    if told.get("do_normalize"):
        mean, std = _per_channel(told.get("image_mean", 0.5)), _per_channel(told.get("image_std", 0.5))
    # The processor computes (255 x f - offset - mean) / std with x in 0..1; ours is (x - mean') / std'.
    factor = 255 * float(told.get("rescale_factor", 1 / 255)) if told.get("do_rescale", True) else 255.0
    offset = 1.0 if told.get("rescale_offset") else 0.0
    scale = [value**2 for value in std] if told.get("include_top") else std  # EfficientNet divides twice
    return Preprocessing(
        mean=_three([(value + offset) / factor for value in mean]),
        std=_three([value / factor for value in scale]),
        interpolation=Image.Resampling(int(told["resample"])).name.lower() if "resample" in told else "bilinear",
        crop_pct=crop_pct,
        crop_mode="center" if short else "squash",
        bgr=bool(told.get("do_flip_channel_order")),
    )


def _per_channel(value: Any) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (float(value),)


def _three(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(values) * 3 if len(values) == 1 else tuple(values)


def _crop_pct(cut: int, resize: int) -> float:
    """The fraction with which `floor(cut / fraction)` is `resize`, also where rounding would miss it."""
    fraction = cut / resize
    while math.floor(cut / fraction) < resize:
        fraction = math.nextafter(fraction, 0.0)
    return fraction


def _from_torchvision(model: nn.Module) -> Preprocessing:
    """The transforms of the weights the model may have been made for, where they agree."""
    found = {_from_preset(weights.transforms()) for weights in introspection.torchvision_weights(model)}
    return found.pop() if len(found) == 1 else Preprocessing(interpolation="bilinear", crop_pct=0.875)


def _from_preset(preset: Any) -> Preprocessing:
    cut, resize = preset.crop_size[0], preset.resize_size[0]
    return Preprocessing(
        size=(cut, cut),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
        crop_pct=_crop_pct(cut, resize),
    )


# --- are the images normalised? ---------------------------------------------------------------------------------------


def normalisation_note(model: nn.Module, images: Tensor) -> str | None:
    """Says that images do not seem to be normalised as a model expects, and what to do.

    Only what a model itself declares counts: a `preprocessing` the user set, a Hugging Face processor, and timm's and
    torchvision's settings. A model of one's own that holds a known network may normalise its input itself, and one with
    another classifier than the published one may have been trained on images from 0 to 1.

    Args:
        model: The model; wrappers are looked through.
        images: (B,C,H,W), on any device.

    Returns:
        A warning, or None where nothing is wrong or nothing is known. Images of another number of channels than 1 or
        3, constant images, and NaN are not judged.
    """
    channels = images.shape[1]
    own, model = _set_by_user(model)
    found = _configured(model) if own is None else own
    if found is None or found.assumed or channels not in (1, 3) or found.channels not in (1, 3):
        return None
    expected = _for_channels(found, channels)
    seen = looks_unnormalised(images, expected.mean, expected.std)
    if seen is None or (seen == "0..1" and own is None and not _is_as_published(model)):
        return None
    scaled = "images / 255" if seen == "0..255" else "images"
    mean, std = (f"({', '.join(f'{value:.4g}' for value in values)})" for values in (expected.mean, expected.std))
    return (
        f"the images lie in {seen}, but {type(model).__name__} expects them normalised with mean "
        f"{mean} and std {std}: give ({scaled} - mean) / std, or the picture itself to grad_cam.GradCAM; if the model "
        "was trained on such images, say so with model.preprocessing = grad_cam.images.Preprocessing(mean=..., std=...)"
    )


def looks_unnormalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> str | None:
    """Tells images that are not normalised from those that are.

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
