"""Reads videos and volumes, and prepares them for a model: PyAV, folders of frames, TIFF, NIfTI, DICOM.

PyAV, nibabel and pydicom come with the extra `[medical]`; each is imported by the first file that needs it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageSequence
from torch import Tensor, nn
from torch.nn import functional

from ..arguments import as_index
from ..errors import import_extra, message_of
from ..introspection import clip_channels as clip_channels
from ..introspection import declared_frames as declared_frames
from .geometry import Geometry
from .images import ImageError, load_image
from .preprocess import Preprocessing, preprocessing

_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
_PAGES = frozenset({".tif", ".tiff", ".gif", ".webp"})


def load_frames(source: str | os.PathLike[str] | Sequence[Any], *, count: int | None = 16) -> NDArray[np.uint8]:
    """Reads a video as frames, evenly spread over its length.

    Args:
        source: A video (anything PyAV decodes), an animation, a TIFF of several pages, a folder of frames in the order
            of their names, or a list of images.
        count: Number of frames; each stands for an equal part of the length. None keeps all.

    Returns:
        uint8 (T, H, W, 3), upright RGB.

    Raises:
        ImageError: It cannot be read, has no frames, or frames of several sizes.
    """
    frames = [np.asarray(each) for each in _frames_of(source, count)]
    if len({frame.shape for frame in frames}) > 1:
        raise ImageError("the frames have different sizes", f"{_name(source)}", "bring them to one size")
    return np.stack(frames)


def load_volume(source: str | os.PathLike[str]) -> tuple[NDArray[np.float32], Geometry]:
    """Reads a volume with its orientation: NIfTI, a DICOM series, or a TIFF of several pages.

    Args:
        source: A `.nii` or `.nii.gz` file, a folder with the files of one DICOM series (or one file), or a TIFF.

    Returns:
        float32 (D, H, W) in its own units (DICOM rescaled), and where it lies in what is stored. A NIfTI volume is
        turned: slices from the feet up, the front at the top, the patient's right at the left.

    Raises:
        ImageError: It cannot be read, is not a volume, or holds several series.
    """
    path = Path(source)
    if not path.exists():
        raise ImageError(f"there is no file {str(path)!r}")
    if path.name.lower().endswith((".nii", ".nii.gz")):
        return _from_nifti(path)
    if path.is_dir() or path.suffix.lower() in (".dcm", ".dicom", ""):
        return _from_dicom(path)
    if path.suffix.lower() in _PAGES:
        with Image.open(path) as pages:
            slices = [np.asarray(page.convert("F"), np.float32) for page in ImageSequence.Iterator(pages)]
        return _whole(np.stack(slices), path.name)
    raise ImageError(f"{path.name} is not a volume that can be read", "", "give .nii, .nii.gz, .tif or a DICOM folder")


def clip_tensor(
    model: nn.Module, frames: NDArray[np.uint8], *, name: str = "", prepare: Preprocessing | None = None
) -> tuple[Tensor, Geometry]:  # fmt: skip
    """Prepares frames for a model of videos as `loading.preprocessing` prepares its pictures.

    Args:
        model: The model.
        frames: uint8 (T, H, W, 3), as `load_frames` gives them.
        name: Name of the video.
        prepare: How a frame is prepared; by default as the model says.

    Returns:
        (1, C, T, H, W), or (1, T, C, H, W) where the model takes frames first; and where that lies in the frames.
    """
    prepare = prepare or preprocessing(model)
    made = [prepare(frame)[0] for frame in frames]  # each (1, C, H, W)
    clip = torch.stack(made, 1)  # (1, T, C, H, W)
    box = prepare.geometry(frames[0])
    count = len(frames)
    where = Geometry((count, *box.original), (0.0, *box.start), (float(count), *box.stop), name=name)
    return clip if declared_frames(model) else clip.transpose(1, 2).contiguous(), where


def volume_tensor(
    volume: NDArray[np.float32], where: Geometry, size: tuple[int, int, int], *,
    window: tuple[float, float] | None = None,
) -> tuple[Tensor, Geometry]:  # fmt: skip
    """Resizes a volume and brings its values to the scale of a model.

    Args:
        volume: (D, H, W), as `load_volume` gives it.
        where: Its geometry.
        size: Slices, height and width that the model takes.
        window: The values that become 0 and 1, such as (-160, 240) for soft tissue in Hounsfield units; values beyond
            are clipped. None subtracts the mean and divides by the standard deviation.

    Returns:
        (1, 1, D, H, W), and the geometry for `explain`.
    """
    values = torch.from_numpy(np.ascontiguousarray(volume))[None, None].float()
    if window is not None:
        low, high = window
        if not low < high:
            raise ImageError("a window goes from a lower to a higher value", f"window={window}")
        values = ((values - low) / (high - low)).clamp(0, 1)
    else:
        values = (values - values.mean()) / values.std().clamp(min=1e-6)
    return functional.interpolate(values, size, mode="trilinear", align_corners=False), where


# --------------------------------------------------------------------------------------------------------------- frames


def _name(source: Any) -> str:
    return str(source) if isinstance(source, (str, os.PathLike)) else f"a list of {len(source)} images"


def _frames_of(source: Any, count: int | None) -> list[Image.Image]:
    """The frames that are chosen, as pictures."""
    if not isinstance(source, (str, os.PathLike)):
        return _chosen(list(source), count)
    path = Path(source)
    if path.is_dir():
        return _chosen(sorted(each for each in path.iterdir() if each.suffix.lower() in _PICTURES), count)
    if not path.exists():
        raise ImageError(f"there is no file {str(path)!r}")
    if path.suffix.lower() in _PAGES:
        with Image.open(path) as pages:
            return _chosen([page.convert("RGB") for page in ImageSequence.Iterator(pages)], count)
    return _decoded(path, count)


def _decoded(path: Path, count: int | None) -> list[Image.Image]:
    """The frames that are chosen of a video; it is decoded twice, so that no others are kept in memory."""
    av = import_extra("av", "reading a video needs PyAV", "medical", ImageError)

    def frames(container: Any) -> Iterator[Any]:
        stream = next((s for s in container.streams if s.type == "video"), None)
        if stream is None:
            raise ImageError(f"{path.name} holds no video")
        yield from container.decode(stream)

    try:
        with av.open(str(path)) as container:
            places = _places(sum(1 for _ in frames(container)), count)
        with av.open(str(path)) as container:
            kept = {n: _upright(frame) for n, frame in enumerate(frames(container)) if n in places}
    except (av.error.FFmpegError, OSError) as error:
        raise ImageError(f"{path.name} cannot be decoded", message_of(error, 120)) from error
    return [kept[n] for n in places]


def _upright(frame: Any) -> Image.Image:
    """A frame as it is to be shown: phones store it as the sensor lies, with the turn beside it."""
    turn = int(getattr(frame, "rotation", 0))  # counterclockwise, in degrees
    image: Image.Image = frame.to_image()
    return image.rotate(turn, expand=True) if turn and turn % 90 == 0 else image


def _places(total: int, count: int | None) -> list[int]:
    """The numbers of the frames that are chosen of all, evenly spread."""
    if not total:
        raise ImageError("there are no frames to read")
    if count is None:
        return list(range(total))
    count = as_index(count, "count", least=1)
    return [int((i + 0.5) * total / count) for i in range(count)]


def _chosen(frames: list[Any], count: int | None) -> list[Image.Image]:
    return [load_image(frames[n]) for n in _places(len(frames), count)]


# -------------------------------------------------------------------------------------------------------------- volumes


def _whole(volume: NDArray[np.float32], name: str) -> tuple[NDArray[np.float32], Geometry]:
    if volume.ndim != 3 or 0 in volume.shape:
        raise ImageError(f"{name} is not a volume", f"its shape is {volume.shape}", "give one volume of three axes")
    return volume, Geometry.whole(*volume.shape, name=name)


def _from_nifti(path: Path) -> tuple[NDArray[np.float32], Geometry]:
    nibabel = import_extra("nibabel", "reading NIfTI needs nibabel", "medical", ImageError)
    try:
        image = nibabel.load(str(path))
        stored = np.asarray(image.get_fdata(dtype=np.float32))
    except Exception as error:
        raise ImageError(f"{path.name} cannot be read", message_of(error, 120)) from error
    stored = stored[..., 0] if stored.ndim == 4 and stored.shape[3] == 1 else stored
    directions = nibabel.io_orientation(image.affine)  # for each stored axis: left-right, back-front, down-up; its sign
    order = tuple(int(np.flatnonzero(directions[:, 0] == axis)[0]) for axis in (2, 1, 0))
    turned = (False, True, True)  # the front at the top, the patient's right at the left
    flipped = tuple(bool((directions[s, 1] < 0) != turn) for s, turn in zip(order, turned, strict=True))
    volume, where = _whole(stored, path.name)
    volume = np.flip(stored.transpose(order), tuple(i for i, flip in enumerate(flipped) if flip))
    matrix = tuple(tuple(float(v) for v in row) for row in image.affine)
    stop = tuple(float(n) for n in volume.shape)
    made = Geometry(volume.shape, where.start, stop, order, flipped, matrix, path.name)
    return np.ascontiguousarray(volume), made


def _from_dicom(path: Path) -> tuple[NDArray[np.float32], Geometry]:
    pydicom = import_extra("pydicom", "reading DICOM needs pydicom", "medical", ImageError)
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    slices = []
    for file in files:
        try:
            one = pydicom.dcmread(file)
        except pydicom.errors.InvalidDicomError:
            continue
        if "PixelData" in one:
            slices.append(one)
    if not slices:
        raise ImageError(f"{path.name} holds no DICOM images")
    series = {str(getattr(one, "SeriesInstanceUID", "")) for one in slices}
    if len(series) > 1:
        raise ImageError(f"{path.name} holds {len(series)} series", "", "give a folder with the files of one")
    slices.sort(key=_place)
    try:
        planes = [
            one.pixel_array * float(getattr(one, "RescaleSlope", 1)) + float(getattr(one, "RescaleIntercept", 0))
            for one in slices
        ]
        stacked = np.concatenate([plane if plane.ndim == 3 else plane[None] for plane in planes])
    except (ValueError, RuntimeError, NotImplementedError, AttributeError) as error:
        raise ImageError(f"{path.name} cannot be decoded", message_of(error, 120)) from error
    volume, where = _whole(stacked.astype(np.float32), path.name)
    return volume, dataclasses.replace(where, affine=_matrix(slices))


def _place(one: Any) -> tuple[float, float]:
    """The place of a slice along its normal; its number where the file does not say."""
    number = float(getattr(one, "InstanceNumber", 0) or 0)
    if "ImagePositionPatient" not in one or "ImageOrientationPatient" not in one:
        return 0.0, number
    along = np.array(one.ImageOrientationPatient, float).reshape(2, 3)
    return float(np.cross(*along) @ np.array(one.ImagePositionPatient, float)), number


def _matrix(slices: list[Any]) -> tuple[tuple[float, ...], ...] | None:
    """The matrix from (slice, row, column) to millimetres as NIfTI has it, where all slices say where they are."""
    needed = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    if not all(name in one for one in slices for name in needed):
        return None
    first, last = (np.array(one.ImagePositionPatient, float) for one in (slices[0], slices[-1]))
    right, down = np.array(slices[0].ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = (float(v) for v in slices[0].PixelSpacing)
    thick = float(getattr(slices[0], "SliceThickness", 1) or 1)
    step = (last - first) / (len(slices) - 1) if len(slices) > 1 else np.cross(right, down) * thick
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1], matrix[:3, 2], matrix[:3, 3] = (
        step,
        down * between_rows,
        right * between_columns,
        first,
    )
    matrix[:2] *= -1  # DICOM counts to the left and back, NIfTI to the right and front
    return tuple(tuple(float(v) for v in row) for row in matrix)
