"""The rows of a run: what is in them, and how they are made of explanations.

One row is one map: an input at one layer for one target. An input that failed has one row with its reason in `error`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import metrics
from ..evidencing import Evidence
from ..predictions import Prediction, predictions, probabilities
from ..results import Explanation
from .decoding import Facts, Failed
from .needs import arrow

COLUMNS: dict[str, tuple[str, str]] = {
    "input": ("int64", "number of the input in the listing of the run"),
    "path": ("string", "the input, as the source lists it"),
    "class": ("string", "the class that the source gives it"),
    "class_index": ("int32", "that class among the model's"),
    "box": ("numbers", "left, top, right, bottom of the object that the source gives, in pixels of the picture"),
    "mask": ("string", "the mask of the object that the source gives"),
    "picture_size": ("whole", "height and width of the picture"),
    "frame": ("numbers", "left, top, right, bottom of what the model sees, in pixels of the picture"),
    "digest": ("string", "of the bytes of the file"),
    "prediction": ("string", "the likeliest class"),
    "prediction_index": ("int32", "its index"),
    "probability": ("float32", "its probability, 0..1"),
    "logits": ("floats", "what the model returned"),
    "target": ("string", "what is explained"),
    "target_number": ("int32", "which of the targets of the input, from 0"),
    "target_index": ("int32", "the class explained"),
    "target_probability": ("float32", "its probability, 0..1"),
    "layer": ("string", "where the map was taken"),
    "layer_idx": ("int32", "the number of stages after it"),
    "method": ("string", "how the map was made"),
    "map": ("halves", "the raw signed map, divided by map_scale"),
    "map_scale": ("float64", "the largest absolute value of the raw map, in units of the score per activation"),
    "shape": ("whole", "the shape of the map"),
    "layout": ("string", "the axes of the map, the last one fastest: hw"),
    "focus": ("float32", "how small a part of the picture the evidence is on, 0..1 (metrics.focus)"),
    "note": ("string", "what is unusual about the map"),
    "evidence_share": ("float32", "the part of the picture that was taken away"),
    "evidence_score": ("float32", "the score of the picture as it is"),
    "evidence_without": ("float32", "the score without the marked part"),
    "evidence_random": ("float32", "the mean score without a random part of the same size"),
    "evidence_agreement": ("float32", "correlation of the map with the score over coalitions of regions"),
    "evidence_beats": ("float32", "the part of random maps that agree less"),
    "evidence_weakness": ("string", "why the evidence is weak"),
    "picture": ("binary", "what the model saw, small, as JPEG"),
    "remark": ("string", "what to know of how the picture was read"),
    "error": ("string", "why there is no map"),
}
"""The columns with their types and meaning; a column is null where it does not apply."""


def schema() -> Any:
    """The Arrow schema of the rows."""
    pa = arrow()
    types = {
        "numbers": pa.list_(pa.float64()), "whole": pa.list_(pa.int32()), "floats": pa.list_(pa.float32()),
        "halves": pa.list_(pa.float16()), "int32": pa.int32(), "int64": pa.int64(), "float32": pa.float32(),
        "float64": pa.float64(), "string": pa.string(), "binary": pa.binary(),
    }  # fmt: skip
    return pa.schema([(name, types[kind]) for name, (kind, _) in COLUMNS.items()])


Row = dict[str, Any]


def failed_row(failed: Failed) -> Row:
    """The row of an input without a map."""
    return {**_of_input(Facts(failed.input)), "error": failed.reason}


def rows_of(
    found: Sequence[Explanation], facts: Sequence[Facts], labels: Sequence[str] | None,
    judged: dict[tuple[int, int, int], Evidence] | None = None,
) -> list[list[Row]]:  # fmt: skip
    """The rows of a batch, for each image one for every layer and target.

    Args:
        found: An explanation of the batch for each layer.
        facts: What is known of each image.
        labels: Names of the classes, if known.
        judged: The evidence by number of the explanation, image and target.
    """
    return [
        [
            {
                **_of_input(one), **_of_logits(e, b, labels), **_of_map(e, b, k),
                **_of_evidence((judged or {}).get((n, b, k))),
            }
            for n, e in enumerate(found)
            for k in range(len(e.target[b]))
        ]
        for b, one in enumerate(facts)
    ]  # fmt: skip


def _of_input(facts: Facts) -> Row:
    one = facts.input
    return {
        "input": one.number, "path": one.path, "class": one.class_name, "class_index": facts.class_index,
        "box": one.box, "mask": one.mask, "picture_size": facts.size, "frame": facts.frame, "digest": facts.digest,
        "picture": facts.picture or None, "remark": facts.remark,
    }  # fmt: skip


def _of_logits(e: Explanation, b: int, labels: Sequence[str] | None) -> Row:
    values = e.logits[b].float().cpu()
    best = predictions(values, labels, 1, e.multi_label) if values.ndim == 1 else []
    first: Prediction | None = best[0] if best else None
    return {
        "logits": values.numpy() if values.ndim == 1 else None,
        "prediction": first and first.label,
        "prediction_index": first and first.index,
        "probability": first and first.probability,
    }


def _of_map(e: Explanation, b: int, k: int) -> Row:
    raw = torch.from_numpy(e.on_picture(b, k)).float()
    halves, scale = packed(raw)
    index = None if e.classes is None else int(e.classes[b, k])
    chances: Any = probabilities(e.logits[b], e.multi_label) if index is not None and e.is_of_classes else []
    return {
        "target": e.target[b][k], "target_number": k, "target_index": index,
        "target_probability": float(chances[index]) if index is not None and index < len(chances) else None,
        "layer": e.layer.name, "layer_idx": e.layer.layer_idx, "method": e.method,
        "map": halves, "map_scale": scale, "shape": list(raw.shape), "layout": "thw"[-raw.ndim :],
        "focus": _finite(float(metrics.focus(raw))), "note": e.note(b, k),
    }  # fmt: skip


def _of_evidence(found: Evidence | None) -> Row:
    if found is None:
        return {}
    values = {"share": found.share, "score": found.score, "without": found.without, "random": found.random,
              "agreement": found.agreement, "beats": found.beats}  # fmt: skip
    figures = {f"evidence_{name}": _finite(value) for name, value in values.items()}
    return {**figures, "evidence_weakness": found.weakness}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def numbered(rows: Iterable[Row]) -> Iterator[tuple[int, Row]]:
    """Rows with their number among those of the same input, from 0."""
    for _, of_input in itertools.groupby(rows, key=lambda row: row["input"]):
        yield from enumerate(of_input)


def packed(raw: Tensor) -> tuple[NDArray[np.float16], float]:
    """A map as float16 from -1 to 1, flat, and the scale that gives it back: no map is too large or small for it."""
    values = raw.detach().to("cpu", torch.float64).numpy()
    scale = float(np.abs(values).max(initial=0.0))
    return (values / (scale or 1.0)).astype(np.float16).reshape(-1), scale


def unpacked(row: Row) -> Tensor:
    """The raw map of a row, float32."""
    values = np.asarray(row["map"], np.float16).astype(np.float64) * row["map_scale"]
    return torch.from_numpy(values.reshape(row["shape"])).float()


def as_table(rows: Sequence[Row]) -> Any:
    """Rows as an Arrow table; one that holds what a column cannot take becomes an error with its reason."""
    try:
        return _table(rows)
    except _UNFIT:
        return _table([_fitting(row) for row in rows])


_UNFIT = (ValueError, TypeError, OverflowError)  # Arrow's own, and text with halves of surrogate pairs


def _table(rows: Sequence[Row]) -> Any:
    pa = arrow()
    fields = schema()
    columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in fields]
    return pa.Table.from_arrays(columns, schema=fields)


def _fitting(row: Row) -> Row:
    """A row, or where it does not fit the columns the row of an error."""
    try:
        _table([row])
    except _UNFIT as error:
        text = str(error).encode("utf-8", "replace").decode()
        kept = {name: row.get(name) for name in ("input", "path")}
        return {**kept, "error": f"its row cannot be written: {type(error).__name__}: {text}"[:500]}
    return row
