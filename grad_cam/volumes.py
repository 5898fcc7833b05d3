"""Results of videos and volumes: maps of three axes, shown as strips of frames or slices."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from . import rendering
from .errors import GradCamError, refuse_existing
from .loading import WholePhoto
from .rendering import Display
from .rendering.volumes import chosen_frames, montage, volume_heat, volume_overlays, volume_strip
from .results import Explanation

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class VolumeExplanation(Explanation):
    """The result of `explain` for videos (B, C, T, H, W) and volumes (B, C, D, H, W).

    `map` is (B, t, h, w), or (B, K, t, h, w) for K targets an image; `pictures` are uint8 (B, T, H, W, 3).
    """

    _AXES: ClassVar[int] = 3
    _PLURAL: ClassVar[str] = "videos or volumes"

    @property
    def kind(self) -> str:
        """What one picture of it is called: "frame", or "slice" where there is one channel."""
        channels = self.images.shape[2 if self.seen.frames_first else 1]
        return "frame" if channels == 3 else "slice"

    def _heat(self, image: int, target: int, display: Display) -> rendering.Heat:
        frames, height, width = self.pictures[image].shape[:3]
        return volume_heat(self.raw(image, target), (frames, height, width), display)

    def heatmap(self, display: Display | None = None, **changes: Any) -> NDArray[np.float32]:
        """Returns what is shown of the maps, float32 (B, T, H, W) or (B, K, T, H, W); one scale for all frames."""
        display = Display.of(display, **changes)
        several = range(self._per_image)
        heats = [[self._heat(b, k, display).values for k in several] for b in range(len(self.map))]
        found = np.asarray(heats)
        return found if self._of_several else found[:, 0]

    def overlay(
        self, image: int = 0, target: int = 0, *, display: Display | None = None, **changes: Any
    ) -> Image.Image:
        """The heatmap over some frames beside each other, at most eight."""
        display = Display.of(display, **changes)
        self._warn_of_nothing(image, target, display)
        heat = self._heat(image, target, display)
        return montage(volume_overlays(self.pictures[image], heat, display, chosen_frames(heat.values)))

    def figure(
        self, image: int | None = None, target: int | None = None, *, remark: str = "",
        photo: WholePhoto | None = None, display: Display | None = None, **changes: Any,
    ) -> Figure:  # fmt: skip
        """Draws a strip of frames or slices, and the overlays below.

        Args:
            image: Which video; it may be left out where there is one.
            target: Which target, likewise.
            remark: A line under the strip.
            photo: Not used.
            display: Settings, as for `heatmap`.
            **changes: Single settings.

        Raises:
            GradCamError: There are several, and none is chosen.
        """
        if (image is None and len(self.map) > 1) or (target is None and self._per_image > 1):
            raise GradCamError(
                "a strip shows one map of a video or volume", f"{len(self.map)} times {self._per_image} maps",
                "figure(image=0, target=0)",
            )  # fmt: skip
        b, k = image or 0, target or 0
        display, note = self._with_view(b, k, Display.of(display, **changes))
        return volume_strip(
            self.pictures[b], self._heat(b, k, display), title=self.title(b, k), display=display, kind=self.kind,
            note=note and rendering.noted("map", note), remark=remark,
        )  # fmt: skip

    def map_figure(self, image: int = 0, target: int = 0, *, display: Display | None = None, **changes: Any) -> Figure:
        """Raises GradCamError: three axes are no picture; `figure` draws a strip, `raw` gives the values."""
        raise GradCamError(
            "a map of three axes is no single picture", "map_figure", "figure(), or raw() for the values"
        )

    def animate(
        self, path: str | os.PathLike[str], image: int = 0, target: int = 0, *, duration_ms: int = 200,
        force: bool = False, display: Display | None = None, **changes: Any,
    ) -> pathlib.Path:  # fmt: skip
        """Writes a GIF or WebP of all frames with the map over them; settings as for `heatmap`."""
        path, display = pathlib.Path(path), Display.of(display, **changes)
        refuse_existing([path], force)
        heat = self._heat(image, target, display)
        overlays = volume_overlays(self.pictures[image], heat, display)
        words = self.title(image, target).split("\n")[0]
        frames = [
            rendering.captioned(one, words, f"{self.kind} {t + 1}", progress=(t + 1) / len(overlays))
            for t, one in enumerate(overlays)
        ]
        return rendering.animation(frames, path, duration_ms, force=force)
