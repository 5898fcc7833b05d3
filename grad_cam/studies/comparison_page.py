"""The page of a comparison: figure by figure, depth by depth, picture by picture."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..rendering.pages import rendered
from ..rendering.report import versions
from .knowledge import points
from .page import HEIGHT, LEFT, SHOWN, TOP, WIDTH, source_of

if TYPE_CHECKING:
    from .comparison import Comparison
    from .results import Study


def comparison_page(found: Comparison) -> str:
    """The page of a comparison as one HTML document, without scripts."""
    return rendered(
        "comparison.html", style="study.css",
        found=found, chart=_chart(found), versions=versions(), points=points, groups=_groups(found),
    )  # fmt: skip


def _chart(found: Comparison) -> dict[str, Any]:
    """Both curves of the linear probe, over the part of the forward pass that is done."""

    def x(at: float) -> float:
        return round(LEFT + at * (WIDTH - LEFT - 14), 1)

    def y(value: float) -> float:
        return round(TOP + (1 - value) * HEIGHT, 1)

    def curve(study: Study) -> str:
        return " ".join(f"{x(d.place.at)},{y(d.probe.value)}" for d in study.knowledge.depths)

    return {
        "width": WIDTH, "height": TOP + HEIGHT + 30, "left": LEFT, "right": WIDTH - 14, "bottom": TOP + HEIGHT + 20,
        "grid": [(y(part / 4), f"{25 * part} %") for part in range(5)],
        "first": curve(found.first), "second": curve(found.second), "top": TOP,
        "parts": None if found.parts_at is None else x(found.parts_at.second.place.at),
    }  # fmt: skip


def _groups(found: Comparison) -> list[dict[str, Any]]:
    """Pictures that tell the models apart: by their answers, then by their maps."""
    order = {"second": 0, "first": 1, "neither": 2, "": 3}
    changed = sorted(found.changes, key=lambda each: order[each.right])
    groups = [
        (f"Different answers ({len(changed)})", [(c.picture, c.first, c.second, c.right) for c in changed[:SHOWN]])
    ]
    if found.maps is not None:
        taken = {c.picture for c in changed}
        known = [i for i, value in enumerate(found.maps) if not math.isnan(value) and i not in taken]
        apart = sorted(known, key=lambda i: found.maps[i] if found.maps is not None else 0.0)[: SHOWN // 2]
        groups.append(
            ("The same answer for another reason: maps that agree least",
             [(i, f"{found.maps[i]:.2f}", "", "") for i in apart])
        )  # fmt: skip
    return [{"title": title, "rows": [_row(found, *each) for each in rows]} for title, rows in groups if rows]


def _row(found: Comparison, i: int, first: str, second: str, right: str) -> dict[str, Any]:
    each = []
    for study, said in ((found.first, first), (found.second, second)):
        raw = None if study.summaries is None else study.summaries.maps[i]
        each.append((source_of(study, i, raw), said))
    pictures = found.first.pictures
    return {"name": pictures.names[i], "label": pictures.classes[pictures.labels[i]], "each": each, "right": right}
