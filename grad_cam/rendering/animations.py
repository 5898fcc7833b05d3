"""Moving pictures: captioned frames, and the GIF or WebP they make."""

from __future__ import annotations

import functools
import io
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from . import files
from .text import FRAME, INK, LINE, QUIET, clean, families, fitted


def captioned(picture: Image.Image, text: str, detail: str = "", *, progress: float | None = None) -> Image.Image:
    """Sets a caption under a picture: a frame of an animation.

    Args:
        picture: The picture.
        text: What is shown; shortened when it is too long.
        detail: Set in grey at the right, when there is room.
        progress: The part of the animation that is over, 0..1, drawn as a line between picture and caption.

    Returns:
        An RGB picture, taller by the caption.
    """
    if progress is not None and not 0 <= progress <= 1:
        raise ValueError(f"progress={progress} is not a fraction: give a number from 0 to 1")
    picture = picture.convert("RGB")
    size = max(round(picture.width * 0.042), 11)
    line, pad = max(size // 5, 2), round(size * 0.75)
    frame = Image.new("RGB", (picture.width, picture.height + line + 2 * pad + round(size * 1.1)), "white")
    frame.paste(picture, (0, 0))
    draw = ImageDraw.Draw(frame)
    if progress is not None:
        draw.rectangle((0, picture.height, frame.width - 1, picture.height + line - 1), fill=FRAME)
        if round(frame.width * progress):
            end = round(frame.width * progress) - 1
            draw.rectangle((0, picture.height, end, picture.height + line - 1), fill=LINE)
    font = _truetype(size)

    room = frame.width - 2 * pad
    base = picture.height + line + pad + round(size * 0.9)
    text, detail = "".join(fitted(text, room, 1, font.getlength)), clean(detail)
    draw.text((pad, base), text, INK, font, anchor="ls")
    if detail and font.getlength(text) + font.getlength(detail) + size <= room:
        draw.text((frame.width - pad, base), detail, QUIET, font, anchor="rs")
    return frame


def animation(
    frames: Sequence[Image.Image],
    path: str | os.PathLike[str],
    duration_ms: int | Sequence[int] = 600,
    *,
    force: bool = True,
) -> pathlib.Path:
    """Writes frames as an endless animation, a GIF or a WebP.

    Args:
        frames: Pictures of one size.
        path: The file to write, ending in .gif or .webp; a missing folder is made.
        duration_ms: How long each frame is shown, in milliseconds: one number for all or one for each; at least 20,
            below which viewers play a GIF slowly.
        force: Replace a file that exists.

    Returns:
        The path.

    Raises:
        ValueError: If there is no frame, the sizes differ, a duration is too short, or the suffix is another.
    """
    path = pathlib.Path(path)
    kind = path.suffix.lower()
    if kind not in (".gif", ".webp"):
        raise ValueError(f"cannot write an animation to {path.name!r}: end the name in .gif or .webp")
    if not frames:
        raise ValueError("an animation needs at least one frame, got none")
    sizes = {frame.size for frame in frames}
    if len(sizes) > 1:
        given = ", ".join(f"{width}x{height}" for width, height in sorted(sizes))
        raise ValueError(f"the frames have different sizes ({given}): resize them to one")
    durations = [duration_ms] * len(frames) if isinstance(duration_ms, int) else list(duration_ms)
    if len(durations) != len(frames):
        raise ValueError(f"{len(durations)} durations for {len(frames)} frames: give one for each, or a single number")
    if min(durations) < 20:
        raise ValueError(f"duration_ms={min(durations)} is too short: give at least 20 milliseconds")
    frames = [frame.convert("RGB") for frame in frames]
    buffer = io.BytesIO()
    if kind == ".gif":
        frames = [frame.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG) for frame in frames]
        options: dict[str, Any] = {"optimize": False}
    else:
        options = {"quality": 88, "method": 4}
    frames[0].save(
        buffer, kind[1:].upper(), save_all=True, append_images=frames[1:], duration=durations, loop=0, **options
    )
    return files.write(path, buffer.getvalue(), force=force)


@functools.lru_cache(maxsize=8)
def _truetype(size: int) -> ImageFont.FreeTypeFont:
    from matplotlib import font_manager

    return ImageFont.truetype(font_manager.findfont(families()[0]), size)
