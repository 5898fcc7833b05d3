"""Prepares images for a model: from an image to the tensor that the model computes on, and back.

`preprocessing(model)` reads from a model how its images are prepared. The `view` that a `Preprocessing` makes is
exactly what the model sees, so that a heatmap drawn over it lies where it belongs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from .. import introspection
from ..arguments import is_index
from ..errors import GradCamError
from . import processors
from .geometry import Geometry, file_name
from .images import MAX_PIXELS, ImageError, Source, load_image
from .resizing import CROP_MODES as CROP_MODES
from .resizing import cut, framed, resized, used
from .whole import WholePhoto, note_on, whole_photo

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_INTERPOLATIONS = {mode.name.lower(): mode for mode in Image.Resampling}


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How the images of one model are prepared: image -> view (what is shown) -> tensor (what is computed on).

    Calling it with anything that `load_image` reads gives both, `(tensor, view)`. To prepare the images of your own
    model in your own way, set `model.preprocessing = Preprocessing(...)`.

    Attributes:
        size: Height and width of the model's input in pixels.
        mean: Mean of each channel, on a scale of 0..1.
        std: Standard deviation of each channel, on the same scale.
        interpolation: "nearest", "bilinear", "bicubic", "lanczos", "box" or "hamming".
        crop_pct: The image is resized to `floor(size / crop_pct)`, then `size` is cut from its centre.
        crop_mode: What is resized: "center" the shorter edge; "squash" both edges, whatever the proportions; "border"
            the longer edge, with the rest filled in the mean colour; "keep" the shorter edge, to that of `size`, and
            nothing is cut, so that every input has the proportions of its image.
        channels: 3, or 1 for models that take grey images. With any other number, you make the tensors yourself.
        bgr: Whether the model takes the channels in the order blue, green, red. Views are RGB all the same.
        assumed: Whether mean and std are a guess, as the model declares none.
        processor: The Hugging Face image processor that prepares the images itself; the other attributes describe it.

    Note:
        Without a processor the numbers are those of timm's evaluation transform, which for square sizes are
        torchvision's too.
    """

    size: tuple[int, int] = introspection.DEFAULT_SIZE
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    crop_mode: str = "center"
    channels: int = 3
    bgr: bool = False
    assumed: bool = False
    processor: Any = dataclasses.field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", _as_input_size(self.size))
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        if not is_index(self.channels) or self.channels < 1:
            raise GradCamError(f"channels={self.channels!r} is not a number of channels", remedy="3 and 1 are usual")
        object.__setattr__(self, "channels", int(self.channels))
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise GradCamError(
                f"mean and std need one value for each of the {self.channels} channels", f"{self.mean}, {self.std}"
            )
        if not all(map(math.isfinite, self.mean + self.std)) or 0.0 in self.std:
            raise GradCamError("mean and std must be finite and std not 0", f"{self.mean}, {self.std}")
        if self.interpolation not in _INTERPOLATIONS:
            raise GradCamError(
                f"interpolation={self.interpolation!r} is unknown", remedy=f"use {', '.join(_INTERPOLATIONS)}"
            )
        if self.crop_mode not in CROP_MODES:
            raise GradCamError(f"crop_mode={self.crop_mode!r} is unknown", remedy=f"use {', '.join(CROP_MODES)}")
        if not (math.isfinite(self.crop_pct) and self.crop_pct > 0):
            raise GradCamError(
                f"crop_pct={self.crop_pct} is not a positive number", remedy="0.875 and 1.0 are usual"
            )  # fmt: skip

    def __call__(self, source: Source) -> tuple[Tensor, Image.Image]:
        """Reads an image and returns what the model computes on, (1,C,H,W), and the view that shows it."""
        image = load_image(source)
        if self.processor is None:
            view = self.view(image)
            return self.tensor(view), view
        self._check_memory(image)
        tensor = processors.process(self.processor, image)
        return tensor, Image.fromarray(self.pictures(tensor)[0])

    def view(self, image: Image.Image) -> Image.Image:
        """Resizes and crops an image to what the model sees.

        Args:
            image: The whole image, as `load_image` returns it.

        Returns:
            An RGB image of exactly `size`; where inputs have several sizes, of what the processor or "keep" makes.

        Raises:
            ImageError: The image is so elongated that resizing it would take too much memory.
        """
        image = image.convert("RGB")
        if self.processor is not None:
            return self(image)[1]
        self._check_memory(image)
        (_, wide, width), (_, high, height) = self._kept(image.size)
        image = image.resize((wide, high), _INTERPOLATIONS[self.interpolation])
        fill = tuple(round(255 * value) for value in self.mean) if self.crop_mode == "border" else (0, 0, 0)
        image = cut(image, width, height, fill if len(fill) == 3 else fill * 3)
        return image.convert("L").convert("RGB") if self.channels == 1 else image

    def tensor(self, view: Image.Image) -> Tensor:
        """Normalises a view.

        Args:
            view: An image of exactly `size`, as `view` returns it.

        Returns:
            A float32 tensor (1,C,H,W) on the CPU. Of a Hugging Face processor it is what the processor computes within
            a rounding of float32; calling the `Preprocessing` gives the processor's own.

        Raises:
            ImageError: The model takes another number of channels than 1 or 3.
            GradCamError: The view has another size.
        """
        if self.channels not in (1, 3):
            raise ImageError(
                f"the model takes {self.channels} channels, and an image has 3 or 1",
                remedy=f"give a tensor (B,{self.channels},H,W) to grad_cam.explain()",
            )
        size = (view.height, view.width)
        fits = min(size) == min(self.size) if self.crop_mode == "keep" else size == self.size
        if not fits and self.processor is None:
            raise GradCamError(
                f"the view is {size[0]} x {size[1]}, the model takes {self.size[0]} x {self.size[1]}",
                remedy="make it with view(image)",
            )
        pixels = np.array(view.convert("L" if self.channels == 1 else "RGB"))
        batch = torch.from_numpy(pixels).reshape(1, *size, self.channels).permute(0, 3, 1, 2)  # (1, C, H, W)
        batch = batch.flip(1) if self.bgr else batch.contiguous()
        mean, std = self._moments()
        return batch.to(torch.float32).div_(255).sub_(mean).div_(std)

    def pictures(self, batch: Tensor) -> NDArray[np.uint8]:
        """Turns a normalised batch back into images to show.

        The normalisation is undone where it can be. Where it cannot (other than 1 or 3 channels, or an assumed
        normalisation that leads far outside the range of an image), the first three channels are shown, or the first
        alone if there are fewer, each image from its own lowest to its own highest value.

        Args:
            batch: (B,C,H,W) of any size and floating type, on any device.

        Returns:
            uint8 array (B,H,W,3); values outside the range of an image are clipped, NaN becomes black.
        """
        if batch.ndim != 4 or batch.shape[1] < 1:
            raise GradCamError(f"a batch is (B,{self.channels},H,W) here", str(tuple(batch.shape)))
        values = batch.detach().to("cpu", torch.float32)  # (B, C, H, W)
        channels = values.shape[1]
        if channels in (1, 3) and self.channels in (1, 3):
            mean, std = for_channels(self, channels)._moments()
            shown = values * std + mean
            if self.assumed:
                far = ((shown < -1) | (shown > 2)).flatten(1).any(dim=1)  # (B,)
                shown = torch.where(far.view(-1, 1, 1, 1), _stretch(values), shown)
        else:
            shown = _stretch(values[:, :3] if channels >= 3 else values[:, :1])
        shown = (shown * 255).nan_to_num(nan=0.0).round().clamp(0, 255).to(torch.uint8)
        shown = shown.flip(1) if self.bgr and channels == 3 else shown
        return shown.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()  # (B, H, W, 3)

    def used_box(self, image: Image.Image) -> tuple[int, int, int, int]:
        """The part of an image that the model sees.

        Args:
            image: The whole image, as `load_image` returns it.

        Returns:
            Left, top, right and bottom in pixels of the image; the whole image if none of it is cut off.
        """
        if self.processor is not None:
            return processors.rounded(processors.used_box(self.processor, image.size, self.mean, self.std))
        (left, right), (top, bottom) = (used(*edge) for edge in self._kept(image.size))
        return processors.rounded((left, top, right, bottom))

    def frame(self, image: Image.Image) -> tuple[float, float, float, float]:
        """Where the edges of the view lie: left, top, right, bottom in pixels of the image.

        Where the image is padded they lie outside it.
        """
        if self.processor is not None:
            return processors.frame(self.processor, image.size, self.mean, self.std)
        (left, right), (top, bottom) = (framed(*edge) for edge in self._kept(image.size))
        return left, top, right, bottom

    def geometry(self, source: Source, name: str = "") -> Geometry:
        """Says where in an image the input made from it lies, for `explain(..., geometry=)` and `to_original`."""
        image = load_image(source)
        return Geometry.box((image.height, image.width), self.frame(image), name=name or file_name(source))

    def used_fraction(self, image: Image.Image) -> float:
        """The fraction of an image's area that the model sees, above 0 and up to 1."""
        left, top, right, bottom = self.used_box(image)
        return (right - left) * (bottom - top) / (image.width * image.height)

    def used_note(self, image: Image.Image) -> str | None:
        """States how much of an image the model sees, where that is not the whole of it in its own proportions."""
        return note_on(self, image.size, self.used_box(image))

    def whole(self, source: Source) -> WholePhoto:
        """The part of an image that the model sees, to show beside a map (see `Explanation.figure`)."""
        return whole_photo(self, load_image(source))

    def uncropped(self) -> Preprocessing:
        """The same preprocessing, but of the whole of every image: padded to fit where this one crops."""
        if self.crop_mode != "center" and self.crop_pct == 1.0:
            return self
        mode = "border" if self.crop_mode == "center" else self.crop_mode
        return dataclasses.replace(self, crop_mode=mode, crop_pct=1.0, processor=None)

    def resized(self, size: int | Sequence[int]) -> Preprocessing:
        """The same preprocessing for another input size: pixels, or (height, width).

        Where nothing is cut ("keep"), a square is the size of the shorter edge, and any other size is cut out.
        """
        size = _as_input_size(size)
        if size == self.size:
            return self
        mode = "center" if self.crop_mode == "keep" and size[0] != size[1] else self.crop_mode
        return dataclasses.replace(self, size=size, crop_mode=mode, processor=None)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after resizing, before the cut."""
        return resized((width, height), self.size, self.crop_pct, self.crop_mode)

    def _kept(self, image: tuple[int, int]) -> list[tuple[int, int, int]]:
        """Of width and height of an image: the length, that after resizing, and how much of it the model takes."""
        now = self._resized(*image)
        return list(zip(image, now, now if self.crop_mode == "keep" else reversed(self.size), strict=True))

    def _check_memory(self, image: Image.Image) -> None:
        wide, high = self._resized(image.width, image.height)
        if wide * high > MAX_PIXELS:
            raise ImageError(
                "the image is too elongated",
                f"with {image.width} x {image.height} pixels it would be resized to {wide} x {high}",
                "cut out the part of interest, or use crop=False",
            )

    def _moments(self) -> tuple[Tensor, Tensor]:
        mean, std = torch.tensor([self.mean, self.std], dtype=torch.float32).view(2, -1, 1, 1)
        return mean, std


def _stretch(values: Tensor) -> Tensor:
    """Scales each image (B,C,H,W) from its own lowest and highest finite value to 0..1."""
    finite = values.isfinite()
    low = torch.where(finite, values, torch.inf).amin(dim=(1, 2, 3), keepdim=True)
    high = torch.where(finite, values, -torch.inf).amax(dim=(1, 2, 3), keepdim=True)
    return (values - low) / (high - low).clamp_min(torch.finfo(values.dtype).tiny)


def _as_input_size(size: Any) -> tuple[int, int]:
    """Checks an input size: one number for a square, or height and width."""
    if hasattr(size, "tolist"):  # arrays and tensors
        size = size.tolist()
    sides = (size, size) if is_index(size) else tuple(size) if isinstance(size, Sequence) else ()
    if len(sides) != 2 or not all(map(is_index, sides)):
        raise GradCamError("an input size is a number of pixels or (height, width)", repr(size))
    height, width = (int(side) for side in sides)
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise GradCamError(f"an input size of {height} x {width} pixels is not possible", remedy="224 is usual")
    return height, width


# ---------------------------------------------------------------------------------------------- read off a model


def preprocessing(
    model: nn.Module, input_size: int | Sequence[int] | None = None, *, crop: bool = True
) -> Preprocessing:
    """Reads from a model how its images are prepared.

    The first of these counts: `model.preprocessing`, set by the user; timm's configuration; the `image_processor`
    (where one is attached) and the configuration of a Hugging Face model; the transforms that torchvision has for the
    architecture's default weights. Your own model around one of these gets what the inner one gets. Any
    other model gets 224 x 224 and the mean and standard deviation of ImageNet, marked as `assumed`. Nothing is
    downloaded.

    Args:
        model: The model, or a chain of it; wrappers (DataParallel, torch.compile) are looked through.
        input_size: Another size than the model's own: pixels, or (height, width).
        crop: False keeps the whole of every image, padded with the mean colour where the model's own way cuts off.

    Raises:
        GradCamError: An input size that is not possible.

    Note:
        torchvision's models do not keep which weights they carry; the default ones (the newest) are assumed.
    """
    found = _read_off(model)
    found = found if input_size is None else found.resized(input_size)
    return found if crop else found.uncropped()


def _read_off(model: nn.Module) -> Preprocessing:
    own, model = preprocessing_set_by_user(model)
    if own is not None:
        return own
    found = None
    for part in model.modules():
        own = getattr(part, "preprocessing", None)
        if isinstance(own, Preprocessing):
            return own
        if (found := declared_preprocessing(part)) is not None:
            break
    found = (found or Preprocessing(assumed=True)).resized(introspection.input_size(model))
    return for_channels(found, introspection.input_channels(model))


def preprocessing_set_by_user(model: nn.Module) -> tuple[Preprocessing | None, nn.Module]:
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
        model = chained  # a chain does not own its model


def declared_preprocessing(model: nn.Module) -> Preprocessing | None:
    """What timm, Hugging Face or torchvision declare of a model, whatever its own size and channels; else None."""
    if introspection.is_detector(model):  # it resizes and normalises its images itself
        return Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3, interpolation="bilinear", crop_mode="keep")
    config = getattr(model, "config", None)
    timm_config = introspection.timm_config(model)
    if timm_config is not None:
        return _from_timm(timm_config.value)
    if (measured := processors.of_open_clip(model)) is not None:
        return Preprocessing(**dataclasses.asdict(measured))
    if config is not None and (hasattr(config, "model_type") or hasattr(model, "image_processor")):
        return _from_hugging_face(getattr(model, "image_processor", None), getattr(config, "model_type", None))
    return _from_torchvision(model) if introspection.is_torchvision(model) else None


def for_channels(found: Preprocessing, channels: int) -> Preprocessing:
    """The same for another number of channels: all but three get the mean of the colours' means."""
    if channels == found.channels:
        return found
    mean, std = ((float(np.mean(values)),) * channels for values in (found.mean, found.std))
    return dataclasses.replace(found, channels=channels, processor=None, mean=mean, std=std)


def _from_timm(config: Mapping[str, Any]) -> Preprocessing:
    from timm.data.config import resolve_data_config

    data = resolve_data_config(pretrained_cfg=dict(config))
    mean, std = tuple(data["mean"]), tuple(data["std"])
    channels = max(len(mean), len(std))
    return Preprocessing(
        channels=channels,
        mean=mean * channels if len(mean) == 1 else mean,
        std=std * channels if len(std) == 1 else std,
        interpolation=data["interpolation"] if data["interpolation"] in _INTERPOLATIONS else "bicubic",
        crop_pct=data["crop_pct"],
        crop_mode=data["crop_mode"],
    )


_HALF_TYPES = frozenset({"vit", "beit", "data2vec-vision", "mobilenet_v1", "mobilenet_v2", "siglip", "siglip2"})
"""Hugging Face types whose published models take images from -1 to 1 (most others: ImageNet's mean and std)."""


def _from_hugging_face(processor: Any, model_type: str | None) -> Preprocessing:
    measured = None if processor is None else processors.measure(processor)
    if measured is not None:
        return Preprocessing(**dataclasses.asdict(measured), processor=processor)
    if model_type in _HALF_TYPES:
        return Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bilinear", crop_mode="squash")
    if model_type in ("clip", "altclip", "chinese_clip"):
        return Preprocessing(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))
    return Preprocessing(crop_mode="squash", assumed=True)


def _from_torchvision(model: nn.Module) -> Preprocessing:
    """The transforms of the weights the model may have been made for, where they agree."""
    found = {_from_preset(weights.transforms()) for weights in introspection.torchvision_weights(model)}
    return found.pop() if len(found) == 1 else Preprocessing(interpolation="bilinear", crop_pct=0.875)


def _from_preset(preset: Any) -> Preprocessing:
    resize = preset.resize_size[0]
    cut = preset.crop_size[0] if hasattr(preset, "crop_size") else resize
    mode = "squash" if tuple(preset.resize_size) == (resize, resize) else "center"
    return Preprocessing(
        size=(cut, cut),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
        crop_pct=_crop_pct(cut, resize),
        crop_mode=mode if hasattr(preset, "crop_size") else "keep",  # a segmenter's cuts nothing
    )


def _crop_pct(cut: int, resize: int) -> float:
    """The fraction with which `floor(cut / fraction)` is `resize`, also where rounding would miss it."""
    fraction = cut / resize
    while math.floor(cut / fraction) < resize:
        fraction = math.nextafter(fraction, 0.0)
    return fraction
