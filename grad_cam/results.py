"""The frozen results of the engine, and how they show and save themselves."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import os
import pathlib
import re
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import metrics, rendering
from .errors import GradCamError, refuse_existing
from .methods import METHODS
from .outliers import Outlier, warning_of
from .predictions import percentage, probabilities
from .rendering import Display
from .rendering.heatmaps import part_of
from .rules.ledger import Ledger
from .seen import Seen
from .splitting import StageInfo

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

    from .loading import WholePhoto


class Layer(NamedTuple):
    """Where a map was taken: the module path, and the number of stages after the cut (None inside a stage)."""

    name: str
    layer_idx: int | None

    def __str__(self) -> str:
        return self.name if self.layer_idx is None else f"{self.name} (layer_idx {self.layer_idx})"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """The result of `explain`; nothing changes it, display settings are given when it is shown.

    Attributes:
        map: Raw signed map in units of the score per activation, (B, h, w), or (B, K, h, w) for K targets an image.
        logits: (B, classes).
        target: What was explained: K names for each image.
        classes: Class indices (B, K), or None if the target is not a class.
        layer: Name and layer_idx of the cut.
        method: Name of the method.
        seen: What the model saw.
        balance: The ledger, if the gradient was taken by rules at one cut; see `ledger`.
        marks: What the scores are about in the pictures, boxes or masks, K for each image; empty if nothing in them.
        part: The part of a map's height and width that the picture lies on, where the model pads it; else None.
        outliers: For each image the tokens whose norm is far above the others', at a cut of tokens.
    """

    map: Tensor
    logits: Tensor
    target: tuple[tuple[str, ...], ...]
    classes: Tensor | None
    layer: Layer
    method: str
    seen: Seen
    balance: Ledger | None = None
    marks: tuple[tuple[Any, ...], ...] = ()
    part: tuple[float, float] | None = None
    outliers: tuple[tuple[Outlier, ...], ...] = ()

    @property
    def images(self) -> Tensor:
        """The model's input, (B, C, H, W)."""
        return self.seen.images

    @property
    def pictures(self) -> NDArray[np.uint8]:
        """What the model saw, for display, uint8 (B, H, W, 3)."""
        return self.seen.pictures

    def __repr__(self) -> str:
        words = list(dict.fromkeys(word for each in self.target for word in each))
        of = f"{words[0]!r}" + (f" and {len(words) - 1} more" if len(words) > 1 else "")
        return (
            f"Explanation({self.method} of {of} at {self.layer}, map {_sizes(self.map)}, logits {_sizes(self.logits)})"
        )

    def ledger(self) -> Ledger:
        """What the score is made of at this cut: map + prefix tokens + context + constants, each in its units.

        Whatever the method, "map" is the sum of activation times gradient over the grid, the sum of the HiResCAM map.

        Raises:
            GradCamError: The gradient was not taken by rules, or not at one cut.
        """
        if self.balance is None:
            raise GradCamError(
                "this explanation has no ledger", f"{self.method} at {self.layer}",
                'give rules="balanced" and one layer',
            )  # fmt: skip
        return self.balance

    def heatmap(self, display: Display | None = None, **changes: Any) -> NDArray[np.float32]:
        """Returns what is shown of the maps, at image size.

        Args:
            display: Settings; `Display()` by default.
            **changes: Single settings: threshold, smoothing, alpha, colormap, view.

        Returns:
            float32 in 0..1 (in -1..1 in the signed view), (B, H, W) or (B, K, H, W).
        """
        display = Display.of(display, **changes)
        sigma = display.sigma(self._size)
        return rendering.heatmap(
            part_of(self.map.detach().float().cpu(), self.part), self._size, display.threshold, sigma, display.view
        )

    @property
    def is_of_classes(self) -> bool:
        """Whether every map is of the score of the class in `classes`, and of nothing else."""
        plain = self.classes is not None and self.logits.ndim == 2
        return plain and not any(word in name for row in self.target for name in row for word in _COMPARING)

    @property
    def is_of_embeddings(self) -> bool:
        """Whether the logits are embeddings, which predict no class."""
        return all(name.startswith("similarity") for row in self.target for name in row)

    def note(self, image: int = 0, target: int = 0) -> str | None:
        """What is unusual about a map ("all negative", "all zero", tokens that are no evidence, ...), or None."""
        marked = warning_of(self.outliers[image]) if self.outliers else None
        return "; ".join(filter(None, (rendering.describe(self.raw(image, target)), marked))) or None

    def overlay(
        self, image: int = 0, target: int = 0, *, display: Display | None = None, **changes: Any
    ) -> Image.Image:
        """The heatmap over the picture the model saw, as a PIL image of its size; settings as for `heatmap`."""
        display = Display.of(display, **changes)
        self._warn_of_nothing(image, target, display)
        return display.overlay(self.pictures[image], self.on_picture(image, target), self.mark(image, target))

    def mark(self, image: int = 0, target: int = 0) -> Any:
        """The box or the mask that a score is about, or None."""
        return self.marks[image][target] if self.marks else None

    def figure(
        self, image: int | None = None, target: int | None = None, *, remark: str = "",
        photo: WholePhoto | None = None, display: Display | None = None, **changes: Any,
    ) -> Figure:  # fmt: skip
        """Draws one map in four panels (image, overlay, heatmap, colormap), or the overlays of several.

        A single map that is nowhere positive is shown in the signed view, where there is something to see.

        Args:
            image: Which image; None shows all, one a row.
            target: Which target; None shows all of them.
            remark: A line under the panels of a single map, such as its evidence.
            photo: What the model sees of the whole photo (see `Preprocessing.whole`), for a single map.
            display: Settings, as for `heatmap`.
            **changes: Single settings.
        """
        display = Display.of(display, **changes)
        images = range(len(self.map)) if image is None else [image]
        targets = range(self._per_image) if target is None else [target]
        for b, k in itertools.product(images, targets):
            self._warn_of_nothing(b, k, display)
        if len(images) == len(targets) == 1:
            return self._panels(images[0], targets[0], display, remark, photo)
        heats = [[display.heat(self.on_picture(b, k), self._size) for k in targets] for b in images]
        return rendering.overview(
            [self.pictures[b] for b in images], [[heat.values for heat in row] for row in heats],
            [[f"{self.target[b][k]}{self.confidence(b, k)}" for k in targets] for b in images],
            title=f"{_title(self.method)} at {self.layer}", notes=[[self.note(b, k) for k in targets] for b in images],
            marks=[[self.mark(b, k) for k in targets] for b in images],
            scales=[[(heat.low, heat.high) for heat in row] for row in heats], display=display,
        )  # fmt: skip

    def _panels(self, image: int, target: int, display: Display, remark: str, photo: WholePhoto | None) -> Figure:
        note, plain = self.note(image, target), rendering.describe(self.raw(image, target))
        if plain in ("all negative", "nowhere positive") and display.view == "positive":
            display, note = Display.of(display, view="signed"), f"{note}: blue is what speaks against it"
        heat = display.heat(self.on_picture(image, target), self._size)
        return rendering.panels(
            self.pictures[image], heat.values, title=self.title(image, target), note=note,
            scale=(heat.low, heat.high), remark=remark, photo=photo, mark=self.mark(image, target), display=display,
        )  # fmt: skip

    def to_original(self, image: int = 0, target: int = 0) -> rendering.OriginalMap:
        """Puts a map back over the original: crop and resize undone, as an array, a mask, COCO JSON or NIfTI.

        Raises:
            GradCamError: Where the image lies in the original is not known.
        """
        shown = torch.from_numpy(self.on_picture(image, target)).float()
        return self.seen.restored(image, shown, self.target[image][target])

    def map_figure(self, image: int = 0, target: int = 0, *, display: Display | None = None, **changes: Any) -> Figure:
        """The raw map at the layer's own size, with its signed values."""
        display = Display.of(display, **changes)
        return rendering.map_figure(self.raw(image, target), title=self.title(image, target), display=display)

    def title(self, image: int = 0, target: int = 0) -> str:
        """The headline of a figure: target with its probability, method and layer."""
        return f"{self.target[image][target]}{self.confidence(image, target)}\n{_title(self.method)} at {self.layer}"

    def save(
        self, path: str | os.PathLike[str], *, force: bool = False, display: Display | None = None, **changes: Any
    ) -> list[pathlib.Path]:
        """Writes the four panels, one file per image and target.

        Args:
            path: A picture file; with several images or targets, `-0`, `-1`, ... is put before the suffix.
            force: Overwrite files that exist.
            display: Settings, as for `heatmap`.
            **changes: Single settings.

        Returns:
            The files written.

        Raises:
            FileExistsError: A file is there already and `force` is False; nothing is written.
        """
        path, display = pathlib.Path(path), Display.of(display, **changes)
        pairs = [(b, k) for b in range(len(self.map)) for k in range(self._per_image)]
        names = [path if len(pairs) == 1 else path.with_stem(f"{path.stem}-{i}") for i in range(len(pairs))]
        refuse_existing(names, force)
        return [
            rendering.save(self.figure(b, k, display=display), name, force=force)
            for (b, k), name in zip(pairs, names, strict=True)
        ]

    def _repr_png_(self) -> bytes:
        return rendering.png_bytes(self.figure())

    @property
    def _size(self) -> tuple[int, int]:
        return int(self.images.shape[-2]), int(self.images.shape[-1])

    @property
    def _per_image(self) -> int:
        return self.map.shape[1] if self.map.ndim == 4 else 1

    def raw(self, image: int = 0, target: int = 0) -> Tensor:
        """The raw signed map (h, w) of one target of one image, float32 on the CPU.

        Raises:
            IndexError: There is no such image or target.
        """
        if not -len(self.map) <= image < len(self.map):
            raise IndexError(f"image={image}: this explanation holds {len(self.map)} images")
        if not 0 <= target < self._per_image:
            raise IndexError(f"target={target}: this explanation holds {self._per_image} targets for every image")
        one = self.map[image, target] if self.map.ndim == 4 else self.map[image]
        return one.float().cpu()  # (h,w)

    def on_picture(self, image: int = 0, target: int = 0) -> NDArray[np.float64]:
        """The part of a raw map that lies on the picture, at the layer's own size."""
        return part_of(self.raw(image, target), self.part)

    def _warn_of_nothing(self, image: int, target: int, display: Display) -> None:
        note = rendering.describe(self.raw(image, target))
        if note == "all zero" or note in ("all negative", "nowhere positive") and display.view == "positive":
            remedy = "" if note == "all zero" else '; view="signed" shows what speaks against it'
            warnings.warn(
                f"the map of {self.target[image][target]} at {self.layer.name} is {note}: nothing there speaks for it"
                f"{remedy}",
                stacklevel=3,
            )

    def confidence(self, image: int = 0, target: int = 0) -> str:
        """The probability of the class explained, to go after its name (", 83 %"); empty where there is none."""
        plain = self.classes is not None and self.logits.ndim == 2 and self.logits.shape[1] > 1
        if not plain or any(word in self.target[image][target] for word in _COMPARING):
            return ""
        assert self.classes is not None
        return f", {percentage(float(probabilities(self.logits[image])[self.classes[image, target]]))}"


_COMPARING = (" rather than ", "against ", "probability of ", "what sets ", "concept ")
"""Words of targets that are about more than one class's score: their title carries no probability."""


_MEANING = {
    "focus": "how small a part of the picture the evidence is on: 0 the whole of it, 1 a single spot",
    "agreement with the last": "rank correlation with the deepest map: 1 alike, 0 unrelated, −1 opposite",
}
"""The meaning of the curves of a sweep, as captions."""


def _title(method: str) -> str:
    """A method's name as figures show it; what wraps or fuses it stays as it is."""
    name = re.split(r"\W", method, maxsplit=1)[0]
    return METHODS[name].title + method[len(name) :] if name in METHODS else method


def _sizes(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Sweep(Sequence[Explanation]):
    """An explanation for every cut that carries a map, from the picture towards the logits.

    Attributes:
        explanations: In order of depth.
        skipped: The other cuts, with the reason why they carry no map.
        model: Name of the model's class.
        stages: The whole layer table.
        labels: Names of the model's classes, if known.
        balances: The ledgers of all layers, if the gradient was taken by rules; see `ledgers`.
    """

    explanations: tuple[Explanation, ...]
    skipped: tuple[tuple[Layer, str], ...]
    model: str
    stages: tuple[StageInfo, ...]
    labels: Sequence[str] | None = None
    balances: tuple[tuple[Layer, Ledger], ...] = ()

    def __repr__(self) -> str:
        first, last = self.explanations[0], self.explanations[-1]
        where = first.layer.name if len(self) == 1 else f"{first.layer.name} to {last.layer.name}"
        maps = " to ".join(dict.fromkeys(_sizes(e.map) for e in (first, last)))
        return f"Sweep({self.model}, {first.method}, {len(self)} of {where}, maps {maps}, {len(self.skipped)} skipped)"

    def __len__(self) -> int:
        return len(self.explanations)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Explanation: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Explanation, ...]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Explanation | tuple[Explanation, ...]:
        return self.explanations[index]

    def curves(self, image: int = 0, target: int = 0) -> dict[str, list[float]]:
        """Per-layer summaries of the maps: how focused each is, and how far it agrees with the deepest one.

        A map that is nowhere positive shows nothing, so there is nothing to compare: its values are NaN.
        """
        rendering.require_pictures(self.explanations[0].images)
        maps = [e.raw(image, target) for e in self.explanations]
        agreement = [float(metrics.agreement(m, maps[-1])) if m.max() > 0 < maps[-1].max() else math.nan for m in maps]
        return {"focus": [float(metrics.focus(m)) for m in maps], "agreement with the last": agreement}

    def figure(
        self, image: int = 0, target: int = 0, *, photo: WholePhoto | None = None, display: Display | None = None,
        **changes: Any,
    ) -> Figure:  # fmt: skip
        """The grid of overlays, shallow to deep, with the summary curves under it.

        Args:
            image: Which image of the batch.
            target: Which of its targets.
            photo: What the model sees of the whole photo (see `Preprocessing.whole`).
            display: Settings; `Display()` by default.
            **changes: Single settings: threshold, smoothing, alpha, colormap, view.
        """
        rendering.require_pictures(self.explanations[0].images)
        display = Display.of(display, **changes)
        first = self.explanations[0]
        heats = [display.heat(e.on_picture(image, target), e._size) for e in self.explanations]
        curves = {  # where nothing is shown there is nothing to sum up
            f"{name}\n{_MEANING[name]}": [v if h.values.any() else math.nan for v, h in zip(values, heats, strict=True)]
            for name, values in self.curves(image, target).items()
        }
        return rendering.sweep_figure(
            first.pictures[image], [heat.values for heat in heats], self._titles(), curves, photo=photo,
            title=f"{first.target[image][target]}, {_title(first.method)}",
            notes=[e.note(image, target) for e in self.explanations], scales=[(h.low, h.high) for h in heats],
            mark=first.mark(image, target), display=display, bars=self._bars(image, target, mapped=True),
        )  # fmt: skip

    def ledger_figure(self, image: int = 0, target: int = 0) -> Figure:
        """What the score is made of at every depth, as signed bars; for a sweep with rules."""
        first = self.explanations[0]
        bars = self._bars(image, target, mapped=False)
        if bars is None:
            first.ledger()  # says what is missing
        assert bars is not None
        names = [layer.name for layer, _ in self.ledgers()]
        return rendering.ledger_figure(names, bars, f"{first.target[image][target]}\n{_title(first.method)}")

    def ledgers(self) -> list[tuple[Layer, Ledger]]:
        """The ledgers of all layers in order of depth, also of those whose map is empty; for a sweep with rules."""
        return list(self.balances)

    def _bars(self, image: int, target: int, mapped: bool) -> rendering.SignedBars | None:
        if not self.balances:
            return None
        ledgers = [one.ledger() for one in self.explanations] if mapped else [each for _, each in self.balances]
        rows = [ledger.parts(image, target) for ledger in ledgers]
        score = ledgers[0].value("score", image, target)
        return rendering.SignedBars({name: [row[name] for row in rows] for name in rows[0]}, score)

    def animate(
        self, path: str | os.PathLike[str], image: int = 0, target: int = 0, *, duration_ms: int = 500,
        force: bool = False, display: Display | None = None, **changes: Any,
    ) -> pathlib.Path:  # fmt: skip
        """Writes a GIF or WebP that goes from the shallowest to the deepest layer; settings as for `figure`."""
        rendering.require_pictures(self.explanations[0].images)
        path, display = pathlib.Path(path), Display.of(display, **changes)
        refuse_existing([path], force)
        frames = [
            rendering.captioned(
                one.overlay(image, target, display=display),
                *title.split("\n"),
            )
            for one, title in zip(self.explanations, self._titles(), strict=True)
        ]
        return rendering.animation(frames, path, duration_ms, force=force)

    def save(
        self, folder: str | os.PathLike[str], *, force: bool = False, display: Display | None = None, **changes: Any
    ) -> list[pathlib.Path]:
        """Writes `sweep.png` and one overlay per layer for every image and target into a folder."""
        rendering.require_pictures(self.explanations[0].images)
        folder, display = pathlib.Path(folder), Display.of(display, **changes)
        jobs: list[tuple[pathlib.Path, Callable[[], Any]]] = []
        count = self.explanations[0]._per_image
        for b in range(len(self.explanations[0].map)):
            for k in range(count):
                tag = (f"-{b}" if len(self.explanations[0].map) > 1 else "") + (f"-{k}" if count > 1 else "")
                jobs.append((folder / f"sweep{tag}.png", functools.partial(self.figure, b, k, display=display)))
                for i, one in enumerate(self.explanations):
                    name = "".join(c if c.isalnum() or c in "._-" else "_" for c in one.layer.name)
                    make = functools.partial(one.overlay, b, k, display=display)
                    jobs.append((folder / f"{i:02d}-{name}{tag}.png", make))
        refuse_existing([path for path, _ in jobs], force)
        return [rendering.save(make(), path, force=force) for path, make in jobs]

    def report(
        self, path: str | os.PathLike[str], *, names: Sequence[str] | None = None, force: bool = False,
        opening: Explanation | None = None, display: Display | None = None, **changes: Any,
    ) -> pathlib.Path:  # fmt: skip
        """Writes one self-contained HTML page with every image, target and layer, to look through in a browser.

        Args:
            path: The file to write.
            names: What to call the images; their numbers by default.
            opening: Of the same images and targets, such as `explain(..., method="auto")`: the page opens with it.
            force: Overwrite a file that exists.
            display: Settings the page opens with; `Display()` by default.
            **changes: Single settings.

        Returns:
            The path.
        """
        from .rendering.report import report_of, write_report

        rendering.require_pictures(self.explanations[0].images)

        first, shown = () if opening is None else (opening,), Display.of(display, **changes)
        return write_report(report_of(self, names=names, opening=first, display=shown), path, force)

    def _titles(self) -> list[str]:
        titles = []
        for one in self.explanations:
            idx = "" if one.layer.layer_idx is None else f"{one.layer.layer_idx} · "
            titles.append(f"{one.layer.name}\n{idx}{one.map.shape[-2]} × {one.map.shape[-1]}")
        return titles

    def _repr_png_(self) -> bytes:
        return rendering.png_bytes(self.figure())
