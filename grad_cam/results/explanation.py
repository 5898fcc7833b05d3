"""The result of explaining a batch at one layer, and how it shows and saves itself."""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
import re
import warnings
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import rendering
from ..errors import GradCamError, refuse_existing
from ..methods import METHODS
from ..outliers import Outlier, warning_of
from ..predictions import percentage, probabilities
from ..rendering import Display
from ..rendering.heatmaps import part_of
from ..rules.ledger import Ledger
from ..seen import Seen

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

    from ..loading import WholePhoto


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
        multi_label: Whether several classes may be true at once, so that each has a probability of its own.
        outliers: For each image the tokens whose norm is far above the others', at a cut of tokens.
    """

    _AXES: ClassVar[int] = 2  # of one map
    _PLURAL: ClassVar[str] = "images"

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
    multi_label: bool = False

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
        return f"Explanation({self.method} of {of} at {self.layer}, map {sizes(self.map)}, logits {sizes(self.logits)})"

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

        With a map that is nowhere positive all are shown in the signed view, where there is something to see of it.

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
        display = display.showing(self.raw(b, k) for b in images for k in targets)
        heats = [[display.heat(self.on_picture(b, k), self._size) for k in targets] for b in images]
        return rendering.overview(
            [self.pictures[b] for b in images], [[heat.values for heat in row] for row in heats],
            [[f"{self.target[b][k]}{self.confidence(b, k)}" for k in targets] for b in images],
            title=self._made, notes=[[self.note(b, k) for k in targets] for b in images],
            marks=[[self.mark(b, k) for k in targets] for b in images],
            scales=[[(heat.low, heat.high) for heat in row] for row in heats], display=display,
        )  # fmt: skip

    def _panels(self, image: int, target: int, display: Display, remark: str, photo: WholePhoto | None) -> Figure:
        display, note = self._with_view(image, target, display)
        heat = display.heat(self.on_picture(image, target), self._size)
        return rendering.panels(
            self.pictures[image], heat.values, title=self.title(image, target), note=note,
            scale=(heat.low, heat.high), remark=remark, photo=photo, mark=self.mark(image, target), display=display,
        )  # fmt: skip

    def _with_view(self, image: int, target: int, display: Display) -> tuple[Display, str | None]:
        """The display and the note of a single map: the signed view where the positive one would show nothing."""
        note, shown = self.note(image, target), display.showing([self.raw(image, target)])
        return shown, note if shown is display else f"{note}: blue is what speaks against it"

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
        return f"{self.target[image][target]}{self.confidence(image, target)}\n{self._made}"

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
    def _made(self) -> str:
        """How the map was made, for titles: its method and layer."""
        return f"{method_title(self.method)} at {self.layer}"

    @property
    def _size(self) -> tuple[int, int]:
        return int(self.images.shape[-2]), int(self.images.shape[-1])

    @property
    def _per_image(self) -> int:
        return self.map.shape[1] if self._of_several else 1

    @property
    def _of_several(self) -> bool:
        """Whether the map has an axis of targets."""
        return self.map.ndim == self._AXES + 2

    def raw(self, image: int = 0, target: int = 0) -> Tensor:
        """The raw signed map of one target of one image, (h, w), of a video or volume (t, h, w); float32 on the CPU.

        Raises:
            IndexError: There is no such image or target.
        """
        if not -len(self.map) <= image < len(self.map):
            raise IndexError(f"image={image}: this explanation holds {len(self.map)} {self._PLURAL}")
        if not 0 <= target < self._per_image:
            raise IndexError(f"target={target}: this explanation holds {self._per_image} targets for each of them")
        one = self.map[image, target] if self._of_several else self.map[image]
        return one.detach().float().cpu()  # (h,w)

    def on_picture(self, image: int = 0, target: int = 0) -> NDArray[np.float64]:
        """The part of a raw map that lies on the picture, at the layer's own size."""
        return part_of(self.raw(image, target), self.part)

    def _warn_of_nothing(self, image: int, target: int, display: Display) -> None:
        raw = self.raw(image, target)
        note = rendering.describe(raw)
        if note == "all zero" or display.showing([raw]) is not display:
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
        chances = probabilities(self.logits[image], self.multi_label)
        return f", {percentage(float(chances[self.classes[image, target]]))}"


_COMPARING = (" rather than ", "against ", "probability of ", "what sets ", "concept ")
"""Words of targets that are about more than one class's score: their title carries no probability."""


def method_title(method: str) -> str:
    """A method's name as figures show it; what wraps or fuses it stays as it is."""
    name = re.split(r"\W", method, maxsplit=1)[0]
    return METHODS[name].title + method[len(name) :] if name in METHODS else method


def sizes(tensor: Tensor) -> str:
    """The shape of a tensor as a `repr` shows it, such as 1x7x7."""
    return "x".join(map(str, tensor.shape))
