"""The results of explaining a batch at several depths, and how they show and save themselves."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

from .. import metrics, rendering
from ..arguments import slug
from ..errors import refuse_existing
from ..rendering import Display
from ..rules.ledger import Ledger
from ..splitting import StageInfo
from .explanation import Explanation, Layer, method_title, sizes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..loading import WholePhoto

_MEANING = {
    "focus": "how small a part of the picture the evidence is on: 0 the whole of it, 1 a single spot",
    "agreement with the last": "rank correlation with the deepest map: 1 alike, 0 unrelated, −1 opposite",
}
"""The meaning of the curves of a sweep, as captions."""


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
        maps = " to ".join(dict.fromkeys(sizes(e.map) for e in (first, last)))
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
            title=f"{first.target[image][target]}, {method_title(first.method)}",
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
        return rendering.ledger_figure(names, bars, f"{first.target[image][target]}\n{method_title(first.method)}")

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
                    make = functools.partial(one.overlay, b, k, display=display)
                    jobs.append((folder / f"{i:02d}-{slug(one.layer.name)}{tag}.png", make))
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
        from ..rendering.report import report_of, write_report

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
