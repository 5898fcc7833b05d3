"""A contact sheet of a run: one static page over its rows, with a small picture of each."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..rendering import Display
from ..rendering.files import write
from ..rendering.pages import rendered
from .reading import Rows
from .rows import Row, numbered, unpacked

MOST = 20_000
"""Rows on a page, at most."""

_COLUMNS = {
    "input": "input", "path": "path", "class_index": "class_index", "prediction_index": "prediction_index",
    "probability": "probability", "target_probability": "target_probability", "focus": "focus", "remark": "remark",
    "evidence_score": "score", "evidence_without": "without", "evidence_random": "random", "evidence_beats": "beats",
    "evidence_weakness": "weakness", "error": "error",
}  # fmt: skip
"""Columns of the rows that the page holds, with their names there."""
_WORDS = ("class", "prediction", "target", "layer", "note")
"""Columns whose texts repeat: the page holds each text once."""


def contact_sheet(out: str | os.PathLike[str] | Rows, *, display: Display | None = None, **changes: Any) -> Path:
    """Writes `index.html` into the folder of a run, and the small pictures that it shows.

    The page opens from disk and needs no network. It sorts, filters and searches; of more than 20,000 rows it shows the
    first.

    Args:
        out: The folder of a run.
        display: How maps are shown; `Display()` by default.
        **changes: Single settings.

    Returns:
        The page.
    """
    rows = out if isinstance(out, Rows) else Rows(out)
    display = Display.of(display, **changes)
    for shard in rows.shards(MOST):
        draw(rows.path, shard, display)
    return write(rows.path / "index.html", _page(rows), force=True)


def draw(folder: Path, rows: Sequence[Row], display: Display) -> None:
    """Draws the small pictures of rows: what the model saw, and beside it the map over it. What is there stays."""
    for number, row in numbered(rows):
        path = folder / "sheet" / f"{row['input'] // 1000:06d}" / f"{row['input']:09d}-{number}.jpg"
        if row.get("error") is not None or not row.get("picture") or path.exists():
            continue
        seen = Image.open(io.BytesIO(row["picture"])).convert("RGB")
        strip = Image.new("RGB", (2 * seen.width, seen.height))
        strip.paste(seen, (0, 0))
        strip.paste(display.overlay(seen, unpacked(row)), (seen.width, 0))
        buffer = io.BytesIO()
        strip.save(buffer, "JPEG", quality=78)
        write(path, buffer.getvalue(), force=True)


def _page(rows: Rows) -> str:
    table = rows.table([*_COLUMNS, *_WORDS]).slice(0, MOST)
    about = rows.about
    layers = dict.fromkeys(name for name in table.column("layer").to_pylist() if name)
    failed = sum(error is not None for error in table.column("error").to_pylist())
    summary = f"{about['method']} at {', '.join(layers) or 'no layer'} · {rows.done:,} inputs, {failed:,} failed"
    return rendered(
        "sheet.html", style="sheet.css", script="sheet.js", package="grad_cam.folders", images="'self' file: data:",
        title=f"{about['model']['type']}: {about['source']}", summary=summary, shown=f"{MOST:,}",
        left_out=f"{len(rows) - MOST:,}" if len(rows) > MOST else "", data=_data(table),
    )  # fmt: skip


def _data(table: Any) -> dict[str, Any]:
    """The rows as the page takes them: columns, with what repeats as numbers of words."""
    columns: dict[str, list[Any]] = {}
    for name, short in _COLUMNS.items():
        values = table.column(name).to_pylist()
        if any(value is not None for value in values) or name == "error":
            columns[short] = [float(f"{value:.4g}") if isinstance(value, float) else value for value in values]
    words: dict[str, int] = {}
    for name in _WORDS:
        values = table.column(name).to_pylist()
        columns[name] = [None if value is None else words.setdefault(value, len(words)) for value in values]
    columns["number"] = [n for n, _ in numbered({"input": number} for number in columns["input"])]
    return {"columns": columns, "words": list(words)}
