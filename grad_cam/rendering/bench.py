"""One self-contained HTML file with what `grad_cam.benching.bench` measured: a table, a heat table, photos."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from PIL import Image

from . import files
from .display import Display
from .pages import rendered, write_page
from .report import file_name, versions, without_folders


def bench_html(bench: Any, *, model: str | None = None, call: str = "", display: Display | None = None) -> str:
    """A bench as one HTML document; of the photos it shows only those on which the best map does worst and best.

    Args:
        bench: A `grad_cam.benching.Bench`.
        model: Name of the model; by default its class.
        call: The code that measures it again; the folders of absolute paths are left out.
        display: How maps are shown; `Display()` by default.
    """
    return rendered(
        "bench.html", style="bench.css",
        model=model or bench.model, bench=bench, rows=_rows(bench), heat=_heat(bench), measures=bench.measures,
        boxed=_boxed(bench), photos=_photos(bench, Display.of(display)), call=without_folders(call),
        versions=versions(),
    )  # fmt: skip


def write_bench(
    bench: Any, path: str | os.PathLike[str], *, model: str | None = None, call: str = "",
    display: Display | None = None, force: bool = False,
) -> Path:  # fmt: skip
    """Writes a bench to a file; arguments as for `bench_html`.

    Raises:
        FileExistsError: The file exists already and `force` is not given.
        IsADirectoryError: `path` is a folder.
    """
    return write_page(path, lambda: bench_html(bench, model=model, call=call, display=display), force)


def _rows(bench: Any) -> list[dict[str, Any]]:
    """The rows of the table as text."""
    found = []
    for row in bench.rows:
        cells = [_cell(row.interval(measure), bench.digits[measure]) for measure in bench.measures]
        found.append({
            "name": row.name, "dear": row.dear, "control": row.control, "layer": row.layer, "photos": row.photos,
            "cost": "" if row.forwards is None else f"{row.forwards:.0f}" if row.forwards >= 10
            else f"{row.forwards:.1f}",
            "cells": cells, "against": None if row.name == bench.baseline else _cell(bench.against(row.name), 3, "+"),
        })  # fmt: skip
    return found


def _cell(found: tuple[float, float, float], digits: int, sign: str = "") -> tuple[str, str] | None:
    """A mean and its interval as text; None where there is none."""
    if math.isnan(found[0]):
        return None
    mean, low, high = (f"{value:{sign}.{digits}f}".replace("-", "−") for value in found)
    return mean, f"{low} … {high}"


def _heat(bench: Any) -> list[dict[str, Any]]:
    """The mean of the bank for each contender at each layer, with the step of the colour from -10 to 10."""
    values = [entry.mean() for entry in bench.entries if entry.layer and not math.isnan(entry.mean())]
    most = max([abs(value) for value in values], default=1.0) or 1.0
    found = []
    for row in bench.rows:
        own = {entry.layer: entry.mean() for entry in bench.entries if entry.name == row.name and entry.layer}
        if not own:
            continue
        cells: list[tuple[str, int] | None] = []
        for layer in [*bench.layers, *(name for name in own if name not in bench.layers)]:
            value = own.get(layer, math.nan)
            text = f"{value:.2f}".replace("-", "−").replace("0.", ".")
            cells.append(None if math.isnan(value) else (text, round(10 * value / most)))
        found.append({"name": row.name, "dear": row.dear, "best": row.layer, "cells": cells[: len(bench.layers)]})
    return found


def _boxed(bench: Any) -> int:
    """Number of photos with a box."""
    energy = [entry.values["energy"] for entry in bench.entries if "energy" in entry.values]
    return max((int((~each.isnan()).sum()) for each in energy), default=0)


def _photos(bench: Any, display: Display) -> list[tuple[str, list[dict[str, Any]]]]:
    """The photos on which the best map does worst, and best."""
    found = []
    for title, examples in (("Where it does worst", bench.worst), ("Where it does best", bench.best)):
        shown = [
            {
                "name": file_name(bench.photos[example.photo]), "class": bench.classes[example.photo],
                "value": f"{example.value:.2f}".replace("-", "−"),
                "picture": files.data_uri(Image.fromarray(example.explanation.pictures[0]), "jpeg"),
                "overlay": files.data_uri(_overlay(example.explanation, display), "jpeg"),
                "box": _rectangle(example.box),
                "note": example.explanation.note(),
            }
            for example in examples
        ]  # fmt: skip
        if shown:
            found.append((title, shown))
    return found


def _rectangle(box: tuple[float, float, float, float] | None) -> dict[str, float] | None:
    """Place and size of a box in percent of the picture."""
    if box is None:
        return None
    left, top, right, bottom = (round(100 * edge, 2) for edge in box)
    return {"x": left, "y": top, "width": right - left, "height": bottom - top}


def _overlay(explanation: Any, display: Display) -> Any:
    return display.overlay(explanation.pictures[0], explanation.on_picture())
