"""`grad-cam sweep`: a photo at every layer."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from ..common import Opened, refuse_existing, slug, unique_slugs
from .console import Bars, bars, busy, console, print_json, print_notes, say, table
from .edge import command
from .options import (
    DRAWINGS,
    OUT,
    Depth,
    Force,
    Json,
    LookOptions,
    MethodOptions,
    ModelOptions,
    Show,
    TargetOptions,
    option,
)
from .parsing import check_folder, find_pictures, open_viewer
from .results import guesses, print_predictions, rounded

if TYPE_CHECKING:
    from torch import Tensor

    from ... import Sweep
    from ...loading import WholePhoto
    from ...rendering import Display


@command("sweep")
def sweep(
    image: Annotated[str, typer.Argument(metavar="PHOTO", help="A file: PNG, JPEG, WebP, TIFF, ...")],
    target: TargetOptions,
    how: MethodOptions,
    look: LookOptions,
    model: ModelOptions,
    depth: Depth = "auto",
    output: Annotated[
        Path,
        option(
            "--output",
            "-o",
            panel=OUT,
            metavar="DIR|FILE",
            help="Folder for the folder with the pictures; or a file for the figure alone.",
        ),
    ] = Path("grad-cam-output"),
    force: Force = False,
    show: Show = False,
    as_json: Json = False,
) -> None:
    """Go through a model layer by layer: one figure, an animation, and an overlay for every layer.

    The pictures are put into a folder named after photo and method. \
Two curves under the figure follow the layers: how focused each map is (0 spread out, 1 one spot), and how well it \
agrees with the last one (correlation).

    [bold]Examples[/]
      grad-cam sweep cat.jpg
      grad-cam sweep cat.jpg --model vit_small_patch16_224 --depth blocks --top 3
    """
    # Longer than other functions, because its options stand in its signature, each on lines of its own.
    target.check()
    model.check()
    how.check()
    paths, missing = find_pictures([image])
    if missing or len(paths) != 1:
        raise FileNotFoundError(f"there is no file {image!r}" if missing else f"{image!r} is a folder: give one photo")
    file = output if output.suffix.lower() in DRAWINGS and not output.is_dir() else None
    if file is not None:
        if target.count > 1:
            raise typer.BadParameter(f"-o {file} is one file for {target.count} classes: give a folder")
        refuse_existing([file], force)
    folder = check_folder(output.parent if file else output) / f"{slug(Path(paths[0]).stem)}-sweep-{slug(how.method)}"
    opened = model.open(how.found)
    from ...loading import read_image

    method, display = how.found()[0], look.display
    picture, notes = read_image(paths[0])
    tensor, whole = opened.prepare(picture)[0], opened.prepare.whole(picture)
    with busy("Going through the layers") if method.one_pass else contextlib.nullcontext(), bars() as shown:
        found = run_sweep(opened, tensor, target.resolve(opened)(tensor), depth, how, shown)
    files = _write_figure(found, file, display, force, whole) if file else _write(found, folder, display, force, whole)
    shown_first = [path for path in files if file or path.stem.startswith("sweep")]
    result = {
        "model": model.model, "image": image, "note": whole.note,
        "predictions": guesses(found[0], opened), **_rows(found),
        "files": list(map(str, files)), "warnings": notes,
    }  # fmt: skip
    if as_json:
        print_json(result)
    else:
        print_predictions(image, result["predictions"])
        _print_table(found)
        for path in shown_first:
            say("  ", (str(path), "green"))
        if file is None:
            say("  ", (f"{folder}{os.sep}00-…", "green"), f"  {len(files) - len(shown_first)} overlays")
        print_notes(notes)
    if show:
        open_viewer(shown_first)


def run_sweep(opened: Opened, images: Tensor, target: Any, depth: str, how: MethodOptions, shown: Bars) -> Sweep:
    """Sweeps, with a progress bar where the method takes many steps."""
    from ... import sweep as run

    (method,) = how.found()
    with shown.steps(method.title) as step:
        found: Sweep = run(
            opened.model, images, layers=depth, target=target, method=method, progress=step, **how.arguments
        )
    return found


def _write_figure(found: Sweep, path: Path, display: Display, force: bool, photo: WholePhoto) -> list[Path]:
    """Writes the figure of one class into the file named."""
    from ... import rendering

    return [rendering.save(found.figure(0, 0, photo=photo, display=display), path, force=force)]


def _write(found: Sweep, folder: Path, display: Display, force: bool, photo: WholePhoto) -> list[Path]:
    """Writes figures and overlays, and the animations."""
    from ... import rendering

    words = unique_slugs(found[0].target[0])
    jobs: dict[Path, Any] = {}
    movies = [folder / f"sweep-{word}.gif" for word in words]
    for k, word in enumerate(words):
        jobs[folder / f"sweep-{word}.png"] = lambda k=k: found.figure(0, k, photo=photo, display=display)
        for i, e in enumerate(found):
            name = f"{i:02d}-{slug(e.layer.name)}-{word}.png"
            jobs[folder / name] = lambda e=e, k=k: e.overlay(0, k, display=display)
    refuse_existing([*jobs, *movies], force)
    with busy("Drawing"):
        for path, draw in jobs.items():
            rendering.save(draw(), path, force=force)
        for k, path in enumerate(movies):
            found.animate(path, 0, k, force=force, display=display)
    return [*jobs, *movies]


def _rows(found: Sweep) -> dict[str, Any]:
    """A sweep for programs: the curves of every target, and the layers without a map."""
    return {
        "sweeps": [{"target": word, **_curves(found, k)} for k, word in enumerate(found[0].target[0])],
        "skipped": [{"layer": at.name, "layer_idx": at.layer_idx, "why": why} for at, why in found.skipped],
    }


def _curves(found: Sweep, k: int) -> dict[str, Any]:
    """The curves of a sweep for one target, layer by layer."""
    focus, agreement = found.curves(0, k).values()
    return {
        "layers": [
            {
                "layer": e.layer.name, "layer_idx": e.layer.layer_idx, "grid": list(e.map.shape[-2:]),
                "focus": rounded(float(focus[i])), "agreement": rounded(float(agreement[i])), "note": e.note(0, k),
            }
            for i, e in enumerate(found)
        ]
    }  # fmt: skip


def _print_table(found: Sweep) -> None:
    listed = table(
        ("layer_idx", "name", "map", "focus", "agreement"), right=("layer_idx", "map", "focus", "agreement"), indent=2
    )
    curves = list(found.curves().values())
    for i, e in enumerate(found):
        index = "–" if e.layer.layer_idx is None else str(e.layer.layer_idx)
        values = (f"{curve[i]:.2f}" if math.isfinite(curve[i]) else "–" for curve in curves)
        listed.add_row(index, Text(e.layer.name), f"{e.map.shape[-2]} × {e.map.shape[-1]}", *values)
    console().print(listed)
    for at, why in found.skipped:
        say((f"  no map at {at.name}: {why}", "dim"))
