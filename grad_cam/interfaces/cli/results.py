"""Explanations as JSON, as lines of text, and side by side in one figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common import Opened, Prediction, percentage, predictions, probabilities
from .console import say

if TYPE_CHECKING:
    from ... import Explanation
    from ...loading import WholePhoto
    from ...rendering import Display

SHOWN = 3
"""Number of predictions printed for each photo."""


def described(e: Explanation, opened: Opened, b: int, k: int) -> dict[str, Any]:
    """What a map is of, for programs."""
    index = None if e.classes is None else int(e.classes[b, k])
    return {
        "target": e.target[b][k],
        "class": None if index is None else opened.label(index),
        "index": index,
        "method": e.method,
        "layer": e.layer.name,
        "layer_idx": e.layer.layer_idx,
        "note": e.note(b, k),
    }


def guesses(e: Explanation, opened: Opened, b: int = 0) -> list[dict[str, Any]]:
    """The likeliest classes of an image, for programs; none where the model's output is an embedding."""
    return [] if e.is_of_embeddings else as_rows(predictions(e.logits[b], opened.labels, independent=e.multi_label))


def as_rows(found: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Predictions, for programs."""
    return [{"class": p.label, "index": p.index, "probability": round(p.probability, 6)} for p in found]


def rounded(values: Any) -> Any:
    """Nested lists of numbers with six digits; None for NaN and infinite values, which JSON does not have."""
    if isinstance(values, list):
        return [rounded(v) for v in values]
    return float(f"{values:.6g}") if math.isfinite(values) else None


def finite(figures: dict[str, Any]) -> dict[str, Any]:
    """Named figures with None for NaN and infinite values, which JSON does not have."""
    return {
        name: list(value) if isinstance(value, tuple)
        else None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in figures.items()
    }  # fmt: skip


def side_by_side(
    results: Sequence[Explanation],
    model: str,
    display: Display,
    b: int = 0,
    targets: Sequence[int] = (0,),
    photo: WholePhoto | None = None,
) -> Any:
    """One figure with all maps of a photo: classes, methods and layers; captions say what differs."""
    from ... import METHODS, rendering

    first = results[0]
    pairs = [(e, k) for k in targets for e in results]
    size = (int(first.images.shape[-2]), int(first.images.shape[-1]))
    display = display.showing(e.raw(b, k) for e, k in pairs)
    heats = [display.heat(e.on_picture(b, k), size) for e, k in pairs]

    def facts(e: Explanation, k: int) -> tuple[str, str, str]:
        made = e.title().partition("\n")[2].rpartition(" at ")[0]
        title = METHODS[e.method].title if e.method in METHODS else made
        chances = probabilities(e.logits[b], e.multi_label)
        known = e.classes is not None and len(chances) > 1
        chance = f", {percentage(float(chances[int(e.classes[b, k])]))}" if known else ""  # type: ignore[index]
        return f"{e.target[b][k]}{chance}", title, e.layer.name

    rows = [facts(e, k) for e, k in pairs]
    same = [len(set(column)) == 1 for column in zip(*rows, strict=True)]
    captions = ["\n".join(fact for fact, fixed in zip(row, same, strict=True) if not fixed) for row in rows]
    target, method, layer = (rows[0][i] if same[i] else "" for i in range(3))
    where = f"{model} at {layer}" if layer else model
    title = "\n".join(line for line in (target, method, where) if line)
    return rendering.comparison(
        first.pictures[b], [heat.values for heat in heats], captions, title=title,
        notes=[e.note(b, k) for e, k in pairs], scales=[(heat.low, heat.high) for heat in heats], photo=photo,
        marks=[e.mark(b, k) for e, k in pairs],
        display=display,
    )  # fmt: skip


def print_predictions(image: str, found: Sequence[dict[str, Any]]) -> None:
    """Prints the name of a photo and its likeliest classes."""
    rows = [Prediction(p["index"], p["class"], p["probability"]) for p in found[:SHOWN]]
    say((Path(image).name, "bold"), f"  {', '.join(map(str, rows))}" if rows else "")
