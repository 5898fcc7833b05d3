"""The page of a comparison: figure by figure, depth by depth, picture by picture."""

from __future__ import annotations

import math
import os
import pathlib
from typing import TYPE_CHECKING, Any

from ..errors import refuse_existing
from ..rendering import files
from ..rendering.pages import digest, environment
from ..rendering.report import versions
from .knowledge import points
from .page import HEIGHT, LEFT, SHOWN, TOP, WIDTH, source_of

if TYPE_CHECKING:
    from .comparison import Comparison
    from .results import Study


def write_comparison(found: Comparison, path: str | os.PathLike[str], force: bool = False) -> pathlib.Path:
    """Writes the page of a comparison."""
    if pathlib.Path(path).is_file():
        refuse_existing([pathlib.Path(path)], force)
    return files.write(path, comparison_page(found), force=force)


def comparison_page(found: Comparison) -> str:
    """The page of a comparison as one HTML document, without scripts."""
    made = environment()
    assert made.loader is not None
    css = made.loader.get_source(made, "study.css")[0]
    text = made.get_template("comparison.html").render(
        found=found, css=css, chart=_chart(found), versions=versions(), points=points, groups=_groups(found),
        policy=f"default-src 'none'; img-src data:; style-src '{digest(css)}'; base-uri 'none'; form-action 'none'",
    )  # fmt: skip
    return text.encode("utf-8", "replace").decode()


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
