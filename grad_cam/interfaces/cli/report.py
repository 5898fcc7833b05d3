"""`grad-cam report`: one HTML page with every layer, class and photo."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..common import refuse_existing
from .console import Bars, say
from .edge import command
from .options import (
    FLAG,
    OUT,
    WHAT,
    Depth,
    Force,
    LookOptions,
    ModelOptions,
    OneMethod,
    Settings,
    Show,
    TargetOptions,
    check_folder,
    named_values,
    open_viewer,
    option,
)  # fmt: skip
from .photos import Photo, Photos
from .results import SHOWN
from .sweep import METHOD, run_sweep


@command("report")
def report(
    images: Annotated[
        list[str], typer.Argument(metavar="PHOTO...", help="Files (PNG, JPEG, WebP, TIFF, ...) or folders.")
    ],
    model: ModelOptions,
    target: TargetOptions,
    look: LookOptions,
    depth: Depth = "auto",
    method: OneMethod = METHOD,
    settings: Settings = None,
    recursive: Annotated[
        bool, option("--recursive", "-r", panel=WHAT, help="Look into the folders inside the folders.", **FLAG)
    ] = False,
    output: Annotated[Path, option("--output", "-o", panel=OUT, metavar="FILE", help="The page to write.")] = Path(
        "report.html"
    ),
    force: Force = False,
    show: Show = False,
) -> None:
    """Write one HTML page with every layer, class and photo, to look through in a browser.

    The page holds everything it shows and needs no network. \
It explains the three likeliest classes of every photo unless an option says otherwise.

    [bold]Example[/]
      grad-cam report cat.jpg dog.jpg -o report.html
    """
    target.check()
    model.check()
    named_values(settings)
    photos = Photos.find(images, recursive)
    if output.is_dir():
        raise IsADirectoryError(f"{str(output)!r} is a folder: give the name of a file, such as report.html")
    refuse_existing([output], force)
    check_folder(output.parent)
    from ...methods import find
    from ..report import report_of, write_report

    name = find(method).name
    look.check()
    opened = model.open()
    classes = target.resolve(opened, SHOWN)

    def work(some: list[Photo], bars: Bars) -> list[Any]:
        (photo,) = some
        found = run_sweep(opened, photo.tensor, classes(photo.tensor), depth, name, settings, bars)
        return [(Path(photo.path).name, found)]

    photos.go(opened, work)
    if photos.done:
        names, sweeps = zip(*photos.done, strict=True)
        call = shlex.join(["grad-cam", *sys.argv[1:]])
        page = report_of(*sweeps, names=names, model=model.model, call=call, **look.all)
        write_report(page, output, force)
        count = len(names)
        say((str(output), "green"), f"  {count} photo{'s' * (count > 1)}, {len(page.layers)} layers")
        if show:
            open_viewer([output])
    photos.finish()
