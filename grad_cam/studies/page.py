"""The page of a study: one HTML file that holds everything it shows."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..predictions import percentage
from ..rendering import Display, files
from ..rendering.colors import colorize
from ..rendering.pages import rendered
from ..rendering.report import versions
from .knowledge import Knowledge

if TYPE_CHECKING:
    from .pictures import Box
    from .results import Study

WIDTH, HEIGHT, LEFT, TOP = 720, 250, 44, 12
"""Of the chart, in its own units."""
THUMB = 168
"""Longer side of a picture on the page, in pixels."""
SHOWN = 12
"""Pictures in a row at most."""


def page(study: Study) -> str:
    """The page of a study as one HTML document, without scripts."""
    return rendered(
        "study.html", style="study.css",
        study=study, chart=chart(study.knowledge), rows=_rows(study), tips=_tips(study),
        findings=_findings(study), tried=_tried(study), classes=_classes(study), confusions=_confusions(study),
        concepts=_concepts(study),
        versions=versions(),
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- curve


def chart(known: Knowledge) -> dict[str, Any]:
    """Points of the curves over depth, in the units of the drawing."""
    count = len(known.depths)
    xs = [LEFT + (WIDTH - LEFT - 14) * (n + 0.5) / count for n in range(count)]
    step = (WIDTH - LEFT - 14) / count

    def y(value: float) -> float:
        return round(TOP + (1 - value) * HEIGHT, 1)

    def curve(name: str) -> str:
        shares = [getattr(depth, name) for depth in known.depths]
        return " ".join(f"{x:.1f},{y(s.value)}" for x, s in zip(xs, shares, strict=True) if s.count)

    def band(name: str) -> str:
        shares = [(x, getattr(depth, name).interval) for x, depth in zip(xs, known.depths, strict=True)]
        upper = [f"{x:.1f},{y(high)}" for x, (_, high) in shares]
        return " ".join([*upper, *(f"{x:.1f},{y(low)}" for x, (low, _) in reversed(shares))])

    tipped = collections.Counter(tip for tip in known.tips if tip is not None)
    most = max(tipped.values(), default=1)
    low = TOP + HEIGHT + 58
    bars = [
        {"x": round(x - 0.36 * step, 1), "width": round(0.72 * step, 1), "height": round(46 * tipped[n] / most, 1),
         "y": round(low - 46 * tipped[n] / most, 1), "count": tipped[n], "middle": round(x, 1)}
        for n, x in enumerate(xs)
    ]  # fmt: skip
    every = max(1, -(-count // 9))
    words = [
        {"x": round(x, 1), "text": _short(depth.place.name), "mapped": depth.place.grid is not None}
        for n, (x, depth) in enumerate(zip(xs, known.depths, strict=True))
        if n % every == (count - 1) % every
    ]
    return {
        "width": WIDTH, "height": low + 84, "left": LEFT, "top": TOP, "bottom": TOP + HEIGHT, "low": low,
        "lines": [(name, title, curve(name), band(name)) for name, title in _CURVES],
        "grid": [(y(part / 4), f"{25 * part} %") for part in range(5)], "bars": bars, "words": words,
        "chosen": round(xs[known.recommended], 1), "chance": y(known.chance),
        "model": None if known.model is None else y(known.model.value), "right": WIDTH - 14,
    }  # fmt: skip


_CURVES = (
    ("nearest_mean", "right by the nearest class mean"),
    ("probe", "right by a linear probe"),
    ("agreement", "a linear probe says what the model says"),
)


def _short(name: str) -> str:
    return name if len(name) <= 16 else f"…{name[-15:]}"


def _rows(study: Study) -> list[dict[str, Any]]:
    known = study.knowledge
    return [
        {
            "chosen": n == known.recommended, "name": depth.place.name,
            "index": "–" if depth.place.layer_idx is None else str(depth.place.layer_idx),
            "grid": "–" if depth.place.grid is None else f"{depth.place.grid[0]} × {depth.place.grid[1]}",
            "note": depth.place.note, "features": depth.place.features,
            "shares": [str(getattr(depth, name)) for name, _ in _CURVES],
            "tipped": sum(tip == n for tip in known.tips),
        } for n, depth in enumerate(known.depths)
    ]  # fmt: skip


def _tips(study: Study) -> list[dict[str, Any]]:
    """Pictures that are decided late, and those on which no probe agrees with the model."""
    tips = study.knowledge.tips
    late = sorted((i for i, tip in enumerate(tips) if tip is not None), key=lambda i: -(tips[i] or 0))
    never = [i for i, tip in enumerate(tips) if tip is None]
    groups = [
        ("Decided last", late[: SHOWN // 2]),
        ("At no depth does a probe say what the model says; of a class said once it cannot", never),
    ]
    return [
        {"title": title, "count": len(which) if title != "Decided last" else None,
         "pictures": [_card(study, i) for i in which[: SHOWN // 2]]}
        for title, which in groups if which
    ]  # fmt: skip


def _card(study: Study, i: int) -> dict[str, Any]:
    """A picture with its name, its class, and what the model says."""
    return {
        "source": source_of(study, i), "name": study.pictures.names[i],
        "label": study.pictures.classes[study.pictures.labels[i]],
        "answer": study.classes.label(study.answers[i]), "tip": study.tip(i),
    }  # fmt: skip


def source_of(study: Study, i: int, raw: Tensor | None = None, display: Display | None = None) -> str:
    """A picture of a study, small, as an address that holds it; with a map over it if one is given."""
    image = Image.fromarray(study.pictures.shown(study.pictures.images([i]))[0])
    if raw is not None:
        image = (display or Display()).overlay(image, raw)
    image.thumbnail((THUMB, THUMB))
    return files.data_uri(image, "jpeg" if image.width >= THUMB else "png")


# ----------------------------------------------------------------------------------------------------------- shortcuts


def _findings(study: Study) -> list[dict[str, Any]]:
    found = []
    for shortcut in study.shortcuts or ():
        x0, y0, x1, y1 = (100 * end for end in shortcut.region.box)
        found.append(
            {
                "shortcut": shortcut, "pictures": [_card(study, i) for i in shortcut.examples],
                "box": {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0},
                "place": shortcut.region.place[:1].upper() + shortcut.region.place[1:],
            }
        )  # fmt: skip
    return found


def _tried(study: Study) -> str:
    """What was tried, in a sentence."""
    repeated = [each for each in study.tested if each.share is not None]
    if not study.tested:
        return "No class has pictures enough that the model takes for it."
    text = (
        f"{len(study.tested)} regions were looked at, in {len({each.label for each in study.tested})} classes; the "
        f"look of {len(repeated)} of them repeats in the pictures of a class"
    )
    if not repeated:
        return f"{text}, so that none was tried on the model."
    best = max(repeated, key=lambda each: each.share or 0.0)
    return (
        f"{text}. Of these the {best.region.place} of {best.label} carries the most of a decision, "
        f"{percentage(best.share or 0)}; a shortcut is reported from 25 % on."
    )


# ------------------------------------------------------------------------------------------------------------- classes

CLASSES = 24
"""Classes on the page at most: those the model is most often wrong about."""


def _classes(study: Study) -> list[dict[str, Any]]:
    if study.summaries is None:
        return []
    rows = sorted(study.summaries.classes, key=lambda each: 1.0 if each.right is None else each.right.value)
    maps = study.summaries.maps
    return [
        {
            "summary": each, "mean": _square(each.mean), "spread": _square(each.spread),
            "most": f"{each.mean.max():.2f}", "most_spread": f"{each.spread.max():.2f}",
            "right": None if each.right is None else str(each.right),
            "rows": [
                (title, [{**_card(study, i), "source": source_of(study, i, maps[i]), "tip": None} for i in which])
                for title, which in (("Most typical", each.typical), ("Least typical", each.untypical))
            ],
        } for each in rows[:CLASSES]
    ]  # fmt: skip


def _square(values: NDArray[np.float32]) -> str:
    """Numbers from 0 to their maximum as a small picture in the colours of maps."""
    shown = (values / max(float(values.max()), 1e-6)).clip(0, 1)
    return files.data_uri(Image.fromarray(colorize(shown)).resize((112, 112), Image.Resampling.BICUBIC))


def _concepts(study: Study) -> list[dict[str, Any]]:
    return [
        {
            "of": of,
            "rows": [
                {"concept": each, "crops": [_crop(study, i, box) for i, box in each.examples]} for each in of.concepts
            ],
        } for of in study.concepts[:CLASSES]
    ]  # fmt: skip


def _crop(study: Study, i: int, box: Box) -> str:
    image = Image.fromarray(study.pictures.shown(study.pictures.images([i]))[0])
    x0, y0, x1, y1 = box
    image = image.crop((round(x0 * image.width), round(y0 * image.height), round(x1 * image.width),
                        round(y1 * image.height)))  # fmt: skip
    image.thumbnail((THUMB, THUMB))
    return files.data_uri(image, "jpeg")


def _confusions(study: Study) -> list[dict[str, Any]]:
    if study.summaries is None:
        return []
    signed, contrasts = Display(view="signed"), study.summaries.contrasts
    return [
        {
            "confusion": each,
            "pictures": [
                {**_card(study, i), "source": source_of(study, i, contrasts.get(i), signed), "tip": None,
                 "answer": study.pictures.classes[study.pictures.labels[i]]} for i in each.pictures
            ],
        } for each in study.summaries.confusions
    ]  # fmt: skip
