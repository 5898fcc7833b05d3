"""The frozen results of the engine, and how they show and save themselves."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from . import metrics, rendering
from .methods import METHODS
from .splitting import StageInfo

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image


class Layer(NamedTuple):
    """Where a map was taken: the module path, and the number of stages after the cut (None inside a stage)."""

    name: str
    layer_idx: int | None

    def __str__(self) -> str:
        return self.name if self.layer_idx is None else f"{self.name} (layer_idx {self.layer_idx})"


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """The result of `explain`; nothing changes it, display settings are given when it is shown.

    Attributes:
        map: Raw signed map in units of the score per activation, (B, h, w), or (B, K, h, w) for K targets an image.
        logits: (B, classes).
        target: What was explained, in words: K names for each image.
        classes: Class indices (B, K), or None if the target is not a class.
        layer: Name and layer_idx of the cut.
        method: Name of the method.
        images: The model's input (B, C, H, W).
        pictures: What the model saw, for display, uint8 (B, H, W, 3).
    """

    map: Tensor = dataclasses.field(repr=False)
    logits: Tensor = dataclasses.field(repr=False)
    target: tuple[tuple[str, ...], ...]
    classes: Tensor | None
    layer: Layer
    method: str
    images: Tensor = dataclasses.field(repr=False)
    pictures: NDArray[np.uint8] = dataclasses.field(repr=False)

    def heatmap(self, threshold: float = 0.0, smoothing: float = 0.0) -> NDArray[np.float32]:
        """The display form of the map, at image size.

        Args:
            threshold: Fraction of the maximum under which the heatmap is floored; 0 is ReLU.
            smoothing: Gaussian sigma in pixels of the picture.

        Returns:
            float32 in 0..1, (B, H, W) or (B, K, H, W).
        """
        return rendering.heatmap(self.map, self._size, threshold, smoothing)

    def note(self, image: int = 0, target: int = 0) -> str | None:
        """What is unusual about a map ("all negative", "all zero", ...), or None."""
        return rendering.describe(self._one(image, target))

    def overlay(
        self, image: int = 0, target: int = 0, *, threshold: float = 0.0, smoothing: float | None = None,
        alpha: float = rendering.ALPHA, colormap: str = rendering.COLORMAP,
    ) -> Image.Image:  # fmt: skip
        """The heatmap over the picture the model saw, as a PIL image of its size."""
        heat = self._heat(image, target, threshold, smoothing)
        return rendering.overlay(self.pictures[image], heat, alpha=alpha, colormap=colormap)

    def figure(
        self, image: int = 0, target: int = 0, *, threshold: float = 0.0, smoothing: float | None = None,
        alpha: float = rendering.ALPHA, colormap: str = rendering.COLORMAP,
    ) -> Figure:  # fmt: skip
        """The four panels: image, overlay, heatmap, colormap."""
        heat = self._heat(image, target, threshold, smoothing)
        return rendering.panels(
            self.pictures[image], heat, title=self.title(image, target), alpha=alpha, colormap=colormap,
            note=self.note(image, target),
        )  # fmt: skip

    def map_figure(self, image: int = 0, target: int = 0, *, colormap: str = rendering.COLORMAP) -> Figure:
        """The raw map at the layer's own size, with its signed values."""
        return rendering.map_figure(
            self._one(image, target).numpy(), title=self.title(image, target), colormap=colormap,
        )  # fmt: skip

    def title(self, image: int = 0, target: int = 0) -> str:
        """What a figure of this explanation says above the picture."""
        return f"{self.target[image][target]}{self._confidence(image, target)}\n{_title(self.method)} at {self.layer}"

    def save(self, path: str | os.PathLike[str], *, force: bool = False, **display: Any) -> list[pathlib.Path]:
        """Writes the four panels, one file per image and target.

        Args:
            path: A picture file; with several images or targets, `-0`, `-1`, ... is put before the suffix.
            force: Overwrite files that exist.
            **display: threshold, smoothing, alpha, colormap, as for `figure`.

        Returns:
            The files written.

        Raises:
            FileExistsError: A file is there already and `force` is False; nothing is written.
        """
        path = pathlib.Path(path)
        pairs = [(b, k) for b in range(len(self.map)) for k in range(self._per_image)]
        names = [path if len(pairs) == 1 else path.with_stem(f"{path.stem}-{i}") for i in range(len(pairs))]
        refuse_existing(names, force)
        return [rendering.save(self.figure(b, k, **display), name) for (b, k), name in zip(pairs, names, strict=True)]

    def _repr_png_(self) -> bytes:
        return rendering.png_bytes(self.figure())

    @property
    def _size(self) -> tuple[int, int]:
        return int(self.images.shape[-2]), int(self.images.shape[-1])

    @property
    def _per_image(self) -> int:
        return self.map.shape[1] if self.map.ndim == 4 else 1

    def _one(self, image: int, target: int) -> Tensor:
        if not -len(self.map) <= image < len(self.map):
            raise IndexError(f"image={image}: this explanation holds {len(self.map)} images")
        if not 0 <= target < self._per_image:
            raise IndexError(f"target={target}: this explanation holds {self._per_image} targets for every image")
        one = self.map[image, target] if self.map.ndim == 4 else self.map[image]
        return one.float().cpu()  # (h,w)

    def _heat(self, image: int, target: int, threshold: float, smoothing: float | None) -> NDArray[np.float32]:
        if smoothing is None:
            smoothing = rendering.default_smoothing(self._size)
        one = self._one(image, target)
        note = rendering.describe(one)
        if note in ("all zero", "all negative", "nowhere positive"):
            warnings.warn(
                f"the map of {self.target[image][target]} at {self.layer.name} is {note}: nothing there speaks for it",
                stacklevel=3,
            )
        return rendering.heatmap(one, self._size, threshold, smoothing)

    def _confidence(self, image: int, target: int) -> str:
        plain = self.classes is not None and self.logits.ndim == 2 and self.logits.shape[1] > 1
        if not plain or any(word in self.target[image][target] for word in _COMPARING):
            return ""
        assert self.classes is not None
        probability = self.logits[image].float().softmax(-1)[self.classes[image, target]]
        return f", {100 * float(probability):.0f} %"


_COMPARING = (" rather than ", "against ", "probability of ", "what sets ", "concept ")
"""Words of targets that are about more than one class's score: their title carries no probability."""


def _title(method: str) -> str:
    """A method's name as figures show it; what wraps or fuses it stays as it is."""
    name = next((n for n in sorted(METHODS, key=len, reverse=True) if method.startswith(n)), "")
    return METHODS[name].title + method[len(name) :] if name else method


def refuse_existing(paths: Sequence[pathlib.Path], force: bool) -> None:
    """Raises FileExistsError if any of the files exists, unless `force`."""
    there = [str(p) for p in paths if p.exists()]
    if there and not force:
        raise FileExistsError(f"{', '.join(there)} exists already; choose another name or pass force=True (--force)")


@dataclasses.dataclass(frozen=True, eq=False)
class Sweep(Sequence[Explanation]):
    """An explanation for every cut that carries a map, from the picture towards the logits.

    Attributes:
        explanations: In order of depth.
        skipped: The other cuts, with the reason why they carry no map.
        model: Name of the model's class.
        stages: The whole layer table.
        labels: Names of the model's classes, if known.
    """

    explanations: tuple[Explanation, ...]
    skipped: tuple[tuple[Layer, str], ...]
    model: str
    stages: tuple[StageInfo, ...] = dataclasses.field(repr=False)
    labels: Sequence[str] | None = dataclasses.field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.explanations)

    def __getitem__(self, index: Any) -> Any:
        return self.explanations[index]

    def curves(self, image: int = 0, target: int = 0) -> dict[str, list[float]]:
        """Per-layer summaries of the maps: how focused each is, and how far it agrees with the deepest one."""
        maps = [e._one(image, target) for e in self.explanations]
        return {
            "focus": [metrics.focus(m) for m in maps],
            "agreement with the last": [metrics.agreement(m, maps[-1]) for m in maps],
        }

    def figure(
        self, image: int = 0, target: int = 0, *, threshold: float = 0.0, smoothing: float | None = None, **display: Any
    ) -> Figure:
        """The grid of overlays, shallow to deep, with the summary curves under it."""
        first = self.explanations[0]
        return rendering.sweep_figure(
            first.pictures[image], self._heats(image, target, threshold, smoothing), self._titles(),
            self.curves(image, target), title=f"{first.target[image][target]}, {_title(first.method)}",
            notes=[e.note(image, target) for e in self.explanations], **display,
        )  # fmt: skip

    def animate(
        self, path: str | os.PathLike[str], image: int = 0, target: int = 0, *, duration_ms: int = 500,
        threshold: float = 0.0, smoothing: float | None = None, alpha: float = rendering.ALPHA,
        colormap: str = rendering.COLORMAP, force: bool = False,
    ) -> pathlib.Path:  # fmt: skip
        """Writes a GIF or WebP that goes from the shallowest to the deepest layer."""
        path = pathlib.Path(path)
        refuse_existing([path], force)
        picture = self.explanations[0].pictures[image]
        heats = self._heats(image, target, threshold, smoothing)
        frames = [
            rendering.captioned(rendering.overlay(picture, heat, alpha=alpha, colormap=colormap), title)
            for heat, title in zip(heats, self._titles(), strict=True)
        ]
        rendering.animation(frames, path, duration_ms)
        return path

    def save(self, folder: str | os.PathLike[str], *, force: bool = False, **display: Any) -> list[pathlib.Path]:
        """Writes `sweep.png` and one overlay per layer for every image and target into a folder."""
        folder = pathlib.Path(folder)
        jobs: list[tuple[pathlib.Path, Callable[[], Any]]] = []
        count = self.explanations[0]._per_image
        for b in range(len(self.explanations[0].map)):
            for k in range(count):
                tag = (f"-{b}" if len(self.explanations[0].map) > 1 else "") + (f"-{k}" if count > 1 else "")
                jobs.append((folder / f"sweep{tag}.png", functools.partial(self.figure, b, k, **display)))
                for i, one in enumerate(self.explanations):
                    name = "".join(c if c.isalnum() or c in "._-" else "_" for c in one.layer.name)
                    jobs.append((folder / f"{i:02d}-{name}{tag}.png", functools.partial(one.overlay, b, k, **display)))
        refuse_existing([path for path, _ in jobs], force)
        folder.mkdir(parents=True, exist_ok=True)
        return [rendering.save(make(), path) for path, make in jobs]

    def report(
        self, path: str | os.PathLike[str], *, names: Sequence[str] | None = None, force: bool = False, **display: Any
    ) -> pathlib.Path:
        """Writes one self-contained HTML page with every image, target and layer, to look through in a browser.

        Args:
            path: The file to write.
            names: What to call the images; their numbers by default.
            force: Overwrite a file that exists.
            **display: threshold, smoothing, alpha, colormap the page opens with.

        Returns:
            The path.
        """
        from .interfaces.report import report_of, write_report  # the only step upwards, taken when it is asked for

        return write_report(report_of(self, names=names, **display), path, force)

    def _heats(self, image: int, target: int, threshold: float, smoothing: float | None) -> list[NDArray[np.float32]]:
        if smoothing is None:
            smoothing = rendering.default_smoothing(self.explanations[0]._size)
        return [rendering.heatmap(e._one(image, target), e._size, threshold, smoothing) for e in self.explanations]

    def _titles(self) -> list[str]:
        titles = []
        for one in self.explanations:
            idx = "" if one.layer.layer_idx is None else f"{one.layer.layer_idx} · "
            titles.append(f"{one.layer.name}\n{idx}{one.map.shape[-2]} × {one.map.shape[-1]}")
        return titles

    def _repr_png_(self) -> bytes:
        return rendering.png_bytes(self.figure())
