"""Reads images: any file, PIL image or array becomes an upright, opaque RGB image."""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import GradCamError

MAX_PIXELS = 178_956_970
"""Images with more pixels are refused: Pillow's own limit, above the largest camera images in common use."""

Source: TypeAlias = "str | os.PathLike[str] | Image.Image | NDArray[Any]"

_VECTOR_FORMATS = frozenset({"EPS", "WMF"})  # Pillow would start another program to draw these
_ONE_IMAGE = frozenset({"MPO", "PSD"})  # formats whose further frames are previews or layers of the first
_FEW_BITS = 1 << 14
"""16-bit images whose values all lie below this hold fewer bits (10, 12 or 14, as from scanners and cameras)."""


class ImageError(GradCamError):
    """An image cannot be read, or cannot be made into what the model takes."""


class ImageWarning(UserWarning):
    """An image was read in a way that its owner should know about."""


def load_image(source: Source, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Reads an image as a person sees it: upright, opaque, RGB.

    The rotation a camera noted (EXIF) is applied. Transparent parts are shown over white. Grey, 1-bit, palette, CMYK
    and 16-bit images become RGB. Brightness is scaled, never clipped: 16 bits from 0..65535, or from their own lowest
    to their own highest value where all lie below 16384; 32-bit integers and floats of a PIL image from the smallest of
    0..1 (floats only), 0..255 and 0..65535 that holds all values, else from their own lowest to highest.

    Args:
        source: A path, a PIL image, or an array (H,W), (H,W,1), (H,W,3) or (H,W,4) of uint8, uint16, bool, or floats
            in 0..1; four channels are RGB and alpha.
        max_pixels: Images with more pixels than this are refused before they are decoded.

    Returns:
        A new PIL image in mode RGB.

    Raises:
        ImageError: No such file, a directory, not an image, damaged, too large, or an array of another shape, type or
            range.
        TypeError: `source` is of another type.

    Warns:
        ImageWarning: Only one of several frames or pages was read, or the values were stretched to their own range.
    """
    image, notes = read_image(source, max_pixels=max_pixels)
    for note in notes:
        warnings.warn(note, ImageWarning, stacklevel=2)
    return image


def read_image(source: Source, *, max_pixels: int = MAX_PIXELS) -> tuple[Image.Image, tuple[str, ...]]:
    """Reads an image like `load_image`, and returns what would be warned of as sentences instead."""
    if isinstance(source, Image.Image):
        return _decode(source, "the given image", max_pixels)
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, (str, os.PathLike)):
        return _from_file(source, max_pixels)
    hint = "; tensors go straight to grad_cam.explain()" if type(source).__module__.startswith("torch") else ""
    raise TypeError(f"an image is a path, a PIL image or a numpy array, not {type(source).__name__}{hint}")


def _from_file(source: str | os.PathLike[str], max_pixels: int) -> tuple[Image.Image, tuple[str, ...]]:
    name = os.fspath(source)
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    if "://" in name:
        raise ImageError(f"{name} is an address, not a file", remedy="download the image first")
    if os.path.isdir(name):
        raise ImageError(f"{name} is a directory", remedy="name the images in it one by one")
    if not os.path.lexists(name):
        raise ImageError(f"there is no file {name}", f"looked for in {Path.cwd()}")
    if not os.path.isfile(name):
        raise ImageError(f"{name} is not a regular file, or a link that leads nowhere", remedy="name an image file")
    try:
        if os.path.getsize(name) == 0:
            raise ImageError(f"{name} is empty (0 bytes)", remedy="it was probably not written to the end")
        with Image.open(name) as image:
            return _decode(image, name, max_pixels)
    except ImageError:
        raise
    except Exception as error:
        raise _as_image_error(error, name) from error


def _decode(image: Image.Image, name: str, max_pixels: int) -> tuple[Image.Image, tuple[str, ...]]:
    """Reads the pixels of an opened image and makes them RGB."""
    _check_pixels(image.width, image.height, name, max_pixels)
    if image.format in _VECTOR_FORMATS:
        raise ImageError(f"{name} is a drawing ({image.format}), not an image of pixels", remedy="convert it to PNG")
    try:
        image.load()
        notes = _frame_notes(image, name)
        rgb, few_bits = _to_rgb(_upright(image), sixteen=image.mode.startswith("I;16") or _is_deep_png(image))
    except Exception as error:
        raise _as_image_error(error, name) from error
    return rgb, notes + _range_notes(few_bits, name)


def _frame_notes(image: Image.Image, name: str) -> tuple[str, ...]:
    """States which frame or page is read, where a file has several."""
    count = 1
    if image.format not in _ONE_IMAGE:
        with contextlib.suppress(Exception):  # a damaged later frame does not matter
            count = int(getattr(image, "n_frames", 1))
    if count < 2:
        return ()
    kind = "page" if image.format == "TIFF" else "frame"
    return (f"{name} has {count} {kind}s: {kind} {image.tell() + 1} was read",)


def _range_notes(few_bits: tuple[int, int] | None, name: str) -> tuple[str, ...]:
    if few_bits is None:
        return ()
    low, high = few_bits
    return (f"{name} has values from {low} to {high} in 16 bits: {low} is shown black and {high} white",)


def _as_image_error(error: Exception, name: str) -> ImageError:
    """Restates an error of Pillow or the file system in a sentence."""
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return ImageError(f"{name} is too large an image", str(error).rstrip("."), "scale it down first")
    if isinstance(error, UnidentifiedImageError):
        return ImageError(f"{name} is not an image in a format that can be read, such as JPEG, PNG, WebP or TIFF")
    if isinstance(error, OSError) and error.errno is not None:
        return ImageError(f"{name} cannot be read", error.strerror or str(error))
    return ImageError(f"{name} cannot be decoded, it is damaged, cut short or of an unusual kind", str(error))


def _check_pixels(width: int, height: int, name: str, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels", f"{width} x {height}")
    if width * height > max_pixels:
        raise ImageError(
            f"{name} is too large an image",
            f"{width} x {height} is {width * height:,} pixels, at most {max_pixels:,} are read",
            "scale it down first",
        )


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data fails in many ways, and says nothing about the pixels
        return image


def _is_deep_png(image: Image.Image) -> bool:
    return image.format == "PNG" and image.mode == "I"  # how Pillow 10 opens 16-bit PNG files


def _to_rgb(image: Image.Image, *, sixteen: bool = False) -> tuple[Image.Image, tuple[int, int] | None]:
    """Returns an image in RGB, and the range its values were stretched from, if they fill few of 16 bits."""
    if image.mode in ("I", "F") or sixteen:
        values = np.asarray(image)
        grey, few_bits = _from_sixteen_bits(values) if sixteen else (_from_32_bits(values), None)
        return Image.fromarray(grey).convert("RGB"), few_bits
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"), None
    return image.convert("RGB"), None


def _from_sixteen_bits(values: NDArray[Any]) -> tuple[NDArray[np.uint8], tuple[int, int] | None]:
    """Scales 16-bit values to 0..255, from their own range where they fill few of the bits."""
    colours, alpha = (values[..., :3], values[..., 3:]) if values.ndim == 3 and values.shape[2] == 4 else (values, None)
    low, high = int(colours.min()), int(colours.max())
    if high >= _FEW_BITS or low == high:
        return np.round(values / 257.0).astype(np.uint8), None  # 65535 = 257 * 255
    scaled = (colours - float(low)) * (255.0 / (high - low))
    if alpha is not None:
        most = int(alpha.max())
        scaled = np.concatenate([scaled, alpha * (255.0 / (most if 0 < most < _FEW_BITS else 65535))], axis=2)
    return np.round(scaled).astype(np.uint8), (low, high)


def _from_32_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Scales grey values of 32 bits to 0..255 without clipping any."""
    numbers = values.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise ImageError("its values are not all finite numbers (NaN or infinity)")
    low, high = float(numbers.min()), float(numbers.max())
    ranges = (1.0, 255.0, 65535.0) if np.issubdtype(values.dtype, np.floating) else (255.0, 65535.0)
    limit = next((top for top in ranges if low >= 0 and high <= top), None)
    if limit is not None:
        low, high = 0.0, limit
    return np.round((numbers - low) * (255.0 / ((high - low) or 1.0))).astype(np.uint8)


def _from_array(array: NDArray[Any], max_pixels: int) -> tuple[Image.Image, tuple[str, ...]]:
    kind, shape, few_bits = array.dtype, array.shape, None
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3, 4)):
        remedy = ""
        if array.ndim == 3 and shape[0] in (1, 3, 4):
            remedy = "channels come last, use array.transpose(1, 2, 0)"
        elif array.ndim == 4:
            remedy = "give one image of the batch, array[0]"
        raise ImageError(f"an array of shape {shape} is not an image (H,W), (H,W,1), (H,W,3) or (H,W,4)", "", remedy)
    _check_pixels(shape[1], shape[0], "the given array", max_pixels)
    if kind == np.uint8:
        pixels = array
    elif kind == np.bool_:
        pixels = array.astype(np.uint8) * 255
    elif kind.kind == "u" and kind.itemsize == 2:  # of either byte order
        pixels, few_bits = _from_sixteen_bits(array)
    elif np.issubdtype(kind, np.floating):
        low, high = float(array.min()), float(array.max())  # NaN, if there is one, comes out of both
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ImageError("the array holds NaN or infinity", remedy="replace them, e.g. with numpy.nan_to_num")
        if low < 0 or high > 1:
            raise ImageError(
                "an array of floats goes from 0 to 1", f"this one from {low:g} to {high:g}",
                "scale it first, e.g. divide by 255",
            )  # fmt: skip
        pixels = np.round(array.astype(np.float64) * 255.0).astype(np.uint8)
    else:
        raise ImageError(
            f"an array of {kind} is not an image: use uint8, uint16, bool or floats in 0..1",
            remedy="for values from 0 to 255, array.astype(numpy.uint8)",
        )
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    rgb, _ = _to_rgb(Image.fromarray(np.ascontiguousarray(pixels)))
    return rgb, _range_notes(few_bits, "the given array")
