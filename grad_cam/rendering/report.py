"""One self-contained HTML file with the maps of a network, layer by layer.

A `Report` holds pictures, predictions and raw maps; `report_html` turns it into text and `write_report` writes that to
disk. The file needs no network: pictures, maps, style and script are inside it, and a content security policy forbids
it to load anything. Colours are made in the browser from the raw maps, with the same arithmetic as `rendering`.
"""

from __future__ import annotations

import base64
import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image

from ..errors import GradCamError
from ..predictions import Prediction, percentage, predictions
from . import files
from .colors import COLORMAPS, palette
from .display import Display
from .figures import Photo
from .pages import rendered, write_page

__all__ = [
    "Report", "ReportError", "ReportImage", "ReportLayer", "ReportPrediction",
    "report_html", "report_of", "write_report",
]  # fmt: skip

SIZE_LIMIT = 4_900_000  # bytes of a report of up to three pictures; more pictures may take more in proportion
# From the finest storage of the maps to the coarsest: bits of a value, cells along the longer side (None: as they are).
STORAGE: tuple[tuple[int, int | None], ...] = ((16, None), (8, None), (8, 112), (8, 80), (8, 56), (8, 40), (8, 28))


OPENING = "(auto)"
"""Name of the row that a page opens with (see `report_of`), which no layer can have."""


class ReportError(GradCamError):
    """The parts of a report do not fit each other, or it cannot be written."""


@dataclass(frozen=True)
class ReportLayer:
    """One row of the layer table.

    Args:
        layer_idx: Number of stages after the layer, counted from the output; None for a layer that has no such number.
        name: Module path, e.g. `layer4.1`.
        type: Class of the module, e.g. `BasicBlock`.
        output_shape: Shape of the layer's output for one picture, without the batch axis.
        layout: How the output is laid out, e.g. `NCHW`; empty where there is none.
        grid: Rows and columns of the map; None where the layer carries no map.
        note: What the reader should know, e.g. why there is no map.
    """

    layer_idx: int | None
    name: str
    type: str = ""
    output_shape: tuple[int, ...] = ()
    layout: str = ""
    grid: tuple[int, int] | None = None
    note: str = ""


ReportPrediction = Prediction
"""One bar of the predictions."""


@dataclass(frozen=True, eq=False)
class ReportImage:
    """One picture with its predictions and maps.

    Args:
        name: Shown to the reader, usually the file name.
        picture: uint8 (H, W, 3), what the model saw.
        predictions: Most probable first; may be empty.
        classes: Labels of the classes (or other targets) explained, one a tab.
        maps: `maps[class][layer]`: raw signed map (h, w), or None where the layer carries no map; shallow layers first.
        photo: The whole photo, with what the model does not see of it dimmed, and what to say of it.
        evidence: What the model says of a map (`grad_cam.evidence`), by number of the class and of the layer.
    """

    name: str
    picture: np.ndarray
    predictions: Sequence[ReportPrediction]
    classes: Sequence[str]
    maps: Sequence[Sequence[Any]]
    photo: Photo = (None, "")
    evidence: Mapping[tuple[int, int], str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Report:
    """Everything a report shows, independent of how it was computed.

    Args:
        model: Name of the model.
        method: Name of the method as the reader should see it, e.g. `Grad-CAM`.
        layers: Shallow to deep, the same for all images.
        images: One or more.
        call: The exact code or command that makes these maps again.
        versions: Name to version, in the order shown.
        display: Settings the page opens with.

    Raises:
        ReportError: Layers, images, classes and maps that do not fit each other.
    """

    model: str
    method: str
    layers: Sequence[ReportLayer]
    images: Sequence[ReportImage]
    call: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    display: Display = field(default_factory=Display)

    def __post_init__(self) -> None:
        if not self.layers:
            raise ReportError("a report needs at least one layer", "layers is empty", "give a ReportLayer for each cut")
        if not self.images:
            raise ReportError("a report needs at least one picture", "images is empty", "give a ReportImage for each")
        for image in self.images:
            _check(image, len(self.layers))


def report_of(
    *sweeps: Any,
    names: Sequence[str] | None = None,
    photos: Sequence[Photo] | None = None,
    evidence: Sequence[Mapping[tuple[int, str], str]] | None = None,
    opening: Sequence[Any] = (),
    model: str | None = None,
    call: str | None = None,
    display: Display | None = None,
    **changes: Any,
) -> Report:
    """Puts sweeps of one model into a report.

    Args:
        *sweeps: One or more `Sweep`s, each of one or more images, at the same layers.
        names: What to call the images, in order; their numbers by default. Of a path only the file's name is kept.
        photos: What the model sees of each whole photo, as `Preprocessing.whole` says.
        evidence: For each image what the model says of its maps, by number of the target and name of the layer
            (`OPENING` for the map that the page opens with).
        opening: For each sweep an `Explanation` of the same images and targets, such as that of `method="auto"`; the
            page opens with it, and it stands behind the layers.
        model: Name of the model; by default its class.
        call: The code that makes the maps again; the folders of absolute paths are left out.
        display: Settings the page opens with; `Display()` by default.
        **changes: Single settings.

    Returns:
        What `write_report` takes.

    Raises:
        ReportError: Another number of names, photos or evidence than of images, evidence at a layer without a map, or
            what the page is to open with explains something else.
    """
    display, first = Display.of(display, **changes), sweeps[0]
    layers = _layer_rows(first)
    layers += [_opening_row(opening[0], layers)] if opening else []
    _check_opening(sweeps, opening)
    count = sum(len(sweep[0].map) for sweep in sweeps)
    names = [f"image {i + 1}" for i in range(count)] if names is None else [file_name(name) for name in names]
    photos = [(None, "")] * count if photos is None else photos
    evidence = [{}] * count if evidence is None else evidence
    for what, given in (("names", names), ("photos", photos), ("evidence", evidence)):
        if len(given) != count:
            raise ReportError(f"{len(given)} {what} for {count} images", remedy="give one for each")
    images = [
        image for sweep, found in zip(sweeps, opening or [None] * len(sweeps), strict=True)
        for image in _images_of(sweep, layers, found)
    ]  # fmt: skip
    numbers = {layer.name: i for i, layer in enumerate(layers)}
    images = [
        replace(image, name=n, photo=p, evidence={(k, numbers[at]): text for (k, at), text in said.items()})
        for image, n, p, said in zip(images, names, photos, evidence, strict=True)
    ]
    call = without_folders(call or f"grad_cam.sweep(model, images, method={first[0].method!r})")
    method = first[0].title().partition("\n")[2].rpartition(" at ")[0]
    return Report(model or first.model, method, layers, images, call, versions(), display)


def _layer_rows(sweep: Any) -> list[ReportLayer]:
    """The layer table of a sweep's model, then the layers inside of stages."""
    known = {stage.name for stage in sweep.stages}
    rows = [
        ReportLayer(s.layer_idx, s.name, s.type, s.shape, str(s.layout or ""), s.layout and s.layout.grid, s.note)
        for s in sweep.stages
    ]
    inside = [e for e in sweep if e.layer.name not in known]
    return rows + [ReportLayer(e.layer.layer_idx, e.layer.name, grid=tuple(e.map.shape[-2:])) for e in inside]


def _opening_row(found: Any, layers: Sequence[ReportLayer]) -> ReportLayer:
    """The row of the map that the page opens with; of several layers it has no one type and output."""
    title = found.title().partition("\n")[2].rpartition(" at ")[0]
    note = f"What measures best of such a model: {title}, at {found.layer.name}."
    same = next((layer for layer in layers if layer.name == found.layer.name), ReportLayer(None, OPENING))
    return replace(same, layer_idx=None, name=OPENING, grid=tuple(found.map.shape[-2:]), note=note)


def _check_opening(sweeps: Sequence[Any], opening: Sequence[Any]) -> None:
    """Refuses maps that are of other images or targets than the sweeps."""
    if opening and len(opening) != len(sweeps):
        raise ReportError(f"{len(opening)} maps to open with for {len(sweeps)} sweeps", remedy="give one for each")
    for sweep, found in zip(sweeps, opening, strict=False):
        if found.target != sweep[0].target:
            raise ReportError(
                "the map to open with explains something else than the layers", f"{found.target}, {sweep[0].target}",
                "give both the same images and targets",
            )  # fmt: skip


def _images_of(sweep: Any, layers: Sequence[ReportLayer], opening: Any = None) -> Iterator[ReportImage]:
    """The images of a sweep, without names."""
    at, first = {e.layer.name: e for e in sweep}, sweep[0]
    at |= {} if opening is None else {OPENING: opening}
    for b in range(len(first.map)):
        maps = [
            [at[row.name].on_picture(b, k).astype("float32") if row.name in at else None for row in layers]
            for k in range(len(first.target[b]))
        ]
        logits = first.logits[b]
        plain = logits.ndim == 1 < len(logits) and not first.is_of_embeddings
        guesses = predictions(logits, sweep.labels, independent=first.multi_label) if plain else []
        yield ReportImage("", first.pictures[b], guesses, first.target[b], maps)


def file_name(name: str) -> str:
    """The last part of a path of any system."""
    return PureWindowsPath(PurePath(name).name).name or name


def without_folders(call: str) -> str:
    """A call without the folders of the machine it was made on."""
    call = re.sub(r"""(['"])(?:~|[A-Za-z]:)?[/\\][^'"]*[/\\]""", r"\1", call)
    return re.sub(r"""(?<![^\s=(,])(?:~|[A-Za-z]:)?[/\\](?:[^\s'"/\\]+[/\\])+""", "", call)


def versions() -> dict[str, str]:
    """The versions of what maps are made with."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"Python": platform.python_version()}
    for name in ("gradcam-layers", "torch", "timm"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def report_html(report: Report) -> str:
    """The report as one HTML document.

    Maps are stored as whole numbers of 16 bits. Where the file would pass about 5 MB (for up to three pictures, in
    proportion for more), they are stored in 8 bits, and then the largest ones at fewer cells; the page says which.

    Args:
        report: What to show.

    Returns:
        The text of the file.

    Raises:
        ValueError: A colormap that does not exist.
    """
    limit = SIZE_LIMIT * max(1.0, len(report.images) / 3)
    coarsest = STORAGE[-1]
    for bits, side in STORAGE:
        if _weight(report, bits, side) > limit and (bits, side) != coarsest:
            continue  # the maps alone are too much
        text = _document(report, bits, side)
        if len(text) <= limit:
            break
    return text


def write_report(report: Report, path: str | os.PathLike[str], force: bool = False) -> Path:
    """Writes the report to a file.

    Args:
        report: What to show.
        path: The file to write; a folder that is missing is made.
        force: Overwrite a file that exists.

    Returns:
        The path written.

    Raises:
        FileExistsError: The file exists already and `force` is not given.
        IsADirectoryError: `path` is a folder.
    """
    return write_page(path, lambda: report_html(report), force)


def _check(image: ReportImage, layers: int) -> None:
    picture = image.picture
    fits = isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3
    if not fits or picture.shape[2] != 3 or not picture.size:
        given = f"{picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else type(picture).__name__
        raise ReportError(f"the picture of {image.name!r} is {given}", remedy="give a uint8 array (height, width, 3)")
    if len(image.classes) != len(image.maps):
        raise ReportError(
            f"{image.name!r} has {len(image.classes)} classes but maps for {len(image.maps)}",
            remedy="give maps[class][layer]",
        )
    for label, maps in zip(image.classes, image.maps, strict=True):
        if len(maps) != layers:
            raise ReportError(
                f"{image.name!r} has {len(maps)} maps for {label!r} but the report has {layers} layers",
                remedy="give one map a layer, None where the layer carries none",
            )
        for layer, values in enumerate(maps):
            if values is not None and (np.ndim(values) != 2 or 0 in np.shape(values)):
                shape = tuple(np.shape(values))
                raise ReportError(
                    f"map {layer} of {image.name!r} for {label!r} has shape {shape}", remedy="give (rows, columns)"
                )
    for prediction in image.predictions:
        if not 0 <= prediction.probability <= 1:
            raise ReportError(
                f"{prediction.label!r} has probability {prediction.probability!r} for {image.name!r}",
                remedy="give 0..1",
            )


def _document(report: Report, bits: int, side: int | None) -> str:
    return rendered(
        "report.html", style="report.css", script="report.js", switched=True,
        report=report, data=_data(report, bits, side), storage=_storage(report, bits, side),
        depths=sum(layer.name != OPENING for layer in report.layers), smoothest=max(20.0, _smoothing(report)),
    )  # fmt: skip


def _data(report: Report, bits: int, side: int | None) -> dict[str, Any]:
    display = report.display
    names = dict.fromkeys((*COLORMAPS, display.colormap))
    return {
        "method": report.method,
        "display": {
            "threshold": display.threshold,
            "smoothing": _smoothing(report),
            "opacity": display.alpha,
            "colormap": display.colormap,
            "view": display.view,
        },
        "colormaps": [[name, _text(palette(name).tobytes())] for name in names],
        "signed": _text(palette(display.colormap, "signed").tobytes()),
        "layers": [
            {
                "index": layer.layer_idx,
                "name": layer.name,
                "type": layer.type,
                "shape": layer.output_shape,
                "layout": layer.layout,
                "grid": layer.grid,
                "note": layer.note,
            }  # fmt: skip
            for layer in report.layers
        ],
        "images": [_image(image, bits, side) for image in report.images],
    }


def _image(image: ReportImage, bits: int, side: int | None) -> dict[str, Any]:
    height, width = image.picture.shape[:2]
    return {
        "name": image.name, "width": width, "height": height,
        "source": files.data_uri(Image.fromarray(np.ascontiguousarray(image.picture)), "jpeg"),
        "predictions": [asdict(p) | {"percentage": percentage(p.probability)} for p in image.predictions],
        "classes": [str(label) for label in image.classes],
        "evidence": [[k, layer, text] for (k, layer), text in image.evidence.items()],
        "maps": [[_map(values, bits, side) for values in maps] for maps in image.maps],
        "whole": image.photo[0] and files.data_uri(image.photo[0], "jpeg"), "used": image.photo[1],
    }  # fmt: skip


def _smoothing(report: Report) -> float:
    picture = report.images[0].picture
    return report.display.sigma((picture.shape[0], picture.shape[1]))


def _weight(report: Report, bits: int, side: int | None) -> float:
    """Bytes of all maps in base64."""
    cells = 0.0
    for h, w in _grids(report):
        cells += h * w * (1.0 if side is None else min(1.0, side / max(h, w)) ** 2)
    return cells * bits / 8 * 4 / 3


def _grids(report: Report) -> Iterator[tuple[int, int]]:
    """Rows and columns of every map."""
    for image in report.images:
        for maps in image.maps:
            yield from (np.shape(values) for values in maps if values is not None)


def _storage(report: Report, bits: int, side: int | None) -> str:
    largest = max((max(grid) for grid in _grids(report)), default=0)
    text = f"In this file the maps are stored in {bits} bits a value"
    if side is not None and largest > side:
        text += f", and maps of more than {side} cells a side are averaged down to {side}, to keep the file small"
    return text + "."


def _map(values: Any, bits: int, side: int | None) -> dict[str, Any] | None:
    """A raw map (h, w) as whole numbers; values above and below zero have units of their own, so zero stays exact."""
    if values is None:
        return None
    raw = np.asarray(values, dtype=np.float64)  # (h, w)
    if not np.isfinite(raw).all():
        return {"why": "nan"}
    low, high = float(raw.min()), float(raw.max())
    h, w = raw.shape
    if side is not None and max(h, w) > side:
        scale = side / max(h, w)
        h, w = max(1, round(h * scale)), max(1, round(w * scale))
        peak = max(high, -low) or 1.0  # Pillow works in float32: keep tiny maps clear of its limits
        small = Image.fromarray((raw / peak).astype(np.float32)).resize((w, h), Image.Resampling.BOX)
        raw = np.asarray(small, np.float64) * peak
    steps = 2 ** (bits - 1) - 1
    up, down = max(float(raw.max()), 0.0) / steps, max(-float(raw.min()), 0.0) / steps
    whole = np.rint(np.divide(raw, np.where(raw > 0, up, down), out=np.zeros_like(raw), where=raw != 0))
    data = _text(whole.astype(f"<i{bits // 8}").tobytes())
    return {"h": h, "w": w, "bits": bits, "up": up, "down": down, "min": low, "max": high, "data": data}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
