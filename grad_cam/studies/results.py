"""The result of studying a folder: frozen, with a page to look at."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

from ..rendering.pages import write_page
from .classes import Classes
from .concepts import Concepts
from .knowledge import Knowledge
from .pictures import Pictures
from .shortcuts import Shortcut, Tested
from .summaries import Summaries


class Findings:
    """Findings that print themselves and write a page."""

    def __repr__(self) -> str:
        return str(self)

    def report(self, path: str | os.PathLike[str], *, force: bool = False) -> pathlib.Path:
        """Writes one HTML page that holds all it shows and needs no network.

        Args:
            path: The file to write.
            force: Overwrite a file that exists.
        """
        return write_page(path, self._page, force)

    def _page(self) -> str:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Study(Findings):
    """What a folder of pictures says about a model; `print` shows the findings, `report` writes the page.

    Attributes:
        model: Name of the model.
        pictures: The pictures with their classes.
        classes: Which of the model's classes the folder's are.
        answers: For each picture the class that the model gives it.
        knowledge: What each depth already knows, with the layer recommended for this data set.
        shortcuts: Regions that decide and repeat where the object is not; None if they were not looked for.
        tested: The regions that were tried.
        summaries: The classes in summary, with what is confused; None if they were not made.
        concepts: The concepts of each class; empty unless they were looked for.
        notes: Notes for the reader.
    """

    model: str
    pictures: Pictures
    classes: Classes
    answers: tuple[int, ...]
    knowledge: Knowledge
    shortcuts: tuple[Shortcut, ...] | None
    tested: tuple[Tested, ...]
    summaries: Summaries | None
    concepts: tuple[Concepts, ...]
    notes: tuple[str, ...]

    @property
    def layer(self) -> int | str:
        """The layer recommended for this data set, as `explain` takes it."""
        return self.knowledge.layer

    def tip(self, picture: int) -> str | None:
        """The cut from which on a picture's answer is decided, or None if it is at none."""
        depth = self.knowledge.tips[picture]
        return None if depth is None else self.knowledge.depths[depth].place.name

    def __str__(self) -> str:
        place = self.knowledge.depths[self.knowledge.recommended].place
        index = "" if place.layer_idx is None else f" (layer_idx {place.layer_idx})"
        count = len(self.pictures.classes)
        lines = [f"{self.model} on {len(self.pictures)} pictures of {count} classes"]
        if self.knowledge.model is not None:
            lines.append(f"The model is right for {self.knowledge.model}.")
        lines.append(f"Recommended layer: {place.name}{index}. {self.knowledge.reason}")
        if self.shortcuts is not None:
            lines += [f"Shortcut: {each}" for each in self.shortcuts] or ["No shortcut was found."]
        return "\n".join([*lines, *self.notes])

    def as_dict(self) -> dict[str, Any]:
        """The findings for programs, of plain numbers, texts, lists and dictionaries."""
        depths = [
            {
                "layer": d.place.name, "layer_idx": d.place.layer_idx, "grid": d.place.grid and list(d.place.grid),
                **{name: {"value": getattr(d, name).value, "interval": list(getattr(d, name).interval)}
                   for name in ("nearest_mean", "probe", "agreement")},
            } for d in self.knowledge.depths
        ]  # fmt: skip
        shortcuts = None if self.shortcuts is None else [
            {
                "class": s.label, "kind": s.region.kind, "place": s.region.place, "box": list(s.region.box),
                "share": s.share, "turned": s.turned, "within": s.repetition.within,
                "elsewhere": s.repetition.elsewhere, "sentence": s.sentence,
            } for s in self.shortcuts
        ]  # fmt: skip
        return {
            "model": self.model, "pictures": len(self.pictures), "classes": list(self.pictures.classes),
            "confusions": [
                {"class": c.label, "answer": c.answer, "count": c.count}
                for c in (self.summaries.confusions if self.summaries is not None else ())
            ],
            "recommended": self.layer, "reason": self.knowledge.reason, "depths": depths, "shortcuts": shortcuts,
            "tips": {name: self.tip(i) for i, name in enumerate(self.pictures.names)}, "notes": list(self.notes),
        }  # fmt: skip

    def _page(self) -> str:
        from .page import page

        return page(self)
