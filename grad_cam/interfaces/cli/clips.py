"""`grad-cam explain` for videos and volumes: strips of frames or slices, and animations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import GradCamError, refuse_existing
from ...suffixes import VIDEOS, VOLUMES
from ..common import Opened, slug, unique_slugs
from .options import MODEL, option
from .parsing import two_numbers
from .photos import Photo

if TYPE_CHECKING:
    from ... import Explanation
    from ...rendering import Display


def window(text: str) -> Any:
    """LOW,HIGH as numbers."""
    low, high = two_numbers(text)
    if not low < high:
        raise typer.BadParameter(f"{text!r} is no window: give the values that become 0 and 1, such as -160,240")
    return low, high


@dataclass(frozen=True)
class ClipOptions:
    """How videos and volumes are read."""

    frames: Annotated[
        int | None,
        option("--frames", panel=MODEL, metavar="N", min=1,
               help="Of a video: frames, evenly spread; default: the model's own number, or 16."),
    ] = None  # fmt: skip
    window: Annotated[
        Any,
        option("--window", panel=MODEL, metavar="LOW,HIGH", parser=window,
               help="Of a volume: the values that become 0 and 1; default: its mean and deviation."),
    ] = None  # fmt: skip

    def read(self, size: Any, opened: Opened, path: str, stem: str) -> list[Photo]:
        """Reads a video, a folder of frames, or a volume for a model.

        Args:
            size: Slices, height and width to which a volume is brought, if three are given.
            opened: The model.
            path: The file or folder.
            stem: What its output files begin with.
        """
        from ...loading import WholePhoto
        from ...loading.clips import (
            clip_channels,
            clip_tensor,
            declared_frames,
            load_frames,
            load_volume,
            volume_tensor,
        )

        name = Path(path).name
        if clip_channels(opened.model) == 1:
            volume, where = load_volume(path)
            slices, height, width = size if isinstance(size, tuple) and len(size) == 3 else volume.shape
            tensor, where = volume_tensor(volume, where, (slices, height, width), window=self.window)
        elif name.lower().endswith(VOLUMES):
            raise GradCamError(
                f"{name} is a volume of one channel, and {opened.name} takes {clip_channels(opened.model)}", "",
                "grad_cam.explain(model, tensor) with the channels it was trained on",
            )  # fmt: skip
        else:
            frames = load_frames(path, count=self.frames or declared_frames(opened.model) or 16)
            tensor, where = clip_tensor(opened.model, frames, name=name, prepare=opened.prepare)
        return [Photo(path, stem, tensor, WholePhoto(), where, ())]


def is_clip(name: str) -> bool:
    """Whether a name can only mean a video or a volume: by its suffix, or a folder that holds DICOM files."""
    path = Path(name)
    if path.is_dir():
        return any(each.suffix.lower() in (".dcm", ".dicom") for each in path.iterdir())
    return name.lower().endswith((*VIDEOS, *VOLUMES))


def require_pictures(opened: Opened, names: Sequence[str]) -> None:
    """Raises GradCamError where a video or volume is given to a model of pictures."""
    found = next((name for name in names if is_clip(name)), None)
    if found is not None:
        raise GradCamError(
            f"{Path(found).name} is a video or a volume, and {opened.name} takes pictures", "",
            "a model of three axes, such as --model torchvision/r3d_18, or single frames as pictures",
        )  # fmt: skip


def takes_clips(opened: Opened) -> bool:
    """Whether a model is one of videos or volumes."""
    from ...loading.clips import clip_channels

    return clip_channels(opened.model) is not None


def write_strips(
    stem: str, results: Sequence[Explanation], folder: Path, file: Path | None, display: Display, force: bool
) -> list[str]:  # fmt: skip
    """Writes a strip and an animation for every map of a video or volume.

    Args:
        stem: What the files begin with.
        results: The explanations.
        folder: Where they go.
        file: The only strip, if it has a name of its own.
        display: How it looks.
        force: Overwrite files that exist.
    """
    from ... import rendering

    pairs = [(e, k, word) for e in results for k, word in enumerate(unique_slugs(e.target[0]))]
    if file is not None and len(pairs) > 1:
        raise typer.BadParameter(f"-o {file.name} is one file for {len(pairs)} maps: give a folder")
    paths = [file or folder / f"{stem}-{word}-{slug(e.layer.name)}-{slug(e.method)}.png" for e, _, word in pairs]
    moving = [path.with_suffix(".gif") for path in paths]
    refuse_existing([*paths, *moving], force)
    written = []
    for (e, k, _), path, animation in zip(pairs, paths, moving, strict=True):
        rendering.save(e.figure(0, k, display=display), path, force=force)
        e.animate(animation, 0, k, display=display, force=force)  # type: ignore[attr-defined]
        written += [str(path), str(animation)]
    return written
