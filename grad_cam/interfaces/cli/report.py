"""`grad-cam report`: one HTML page with every layer, class and photo."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

from ..common import refuse_existing
from .console import Bars, say
from .edge import command
from .options import (
    OUT,
    Depth,
    Force,
    Images,
    LookOptions,
    MethodOptions,
    ModelOptions,
    Recursive,
    Show,
    TargetOptions,
    option,
)  # fmt: skip
from .parsing import check_folder, open_viewer
from .photos import Photo, Photos
from .results import SHOWN
from .sweep import run_sweep


@command("report")
def report(
    images: Images,
    target: TargetOptions,
    how: MethodOptions,
    look: LookOptions,
    model: ModelOptions,
    depth: Depth = "auto",
    recursive: Recursive = False,
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
    # Longer than other functions, because its options stand in its signature, each on lines of its own.
    target.check()
    model.check()
    how.check()
    photos = Photos.find(images, recursive)
    if output.is_dir():
        raise IsADirectoryError(f"{str(output)!r} is a folder: give the name of a file, such as report.html")
    refuse_existing([output], force)
    check_folder(output.parent)
    from ...rendering.report import report_of, write_report

    display = look.display
    how.found()
    opened = model.open()
    classes = target.resolve(opened, SHOWN)

    def work(some: list[Photo], bars: Bars) -> list[Any]:
        (photo,) = some
        found = run_sweep(opened, photo.tensor, classes(photo.tensor), depth, how, bars)
        return [(photo.path, photo.whole, found)]

    photos.go(opened, work)
    if photos.done:
        names, wholes, sweeps = zip(*photos.done, strict=True)
        call = shlex.join(["grad-cam", *sys.argv[1:]])
        page = report_of(*sweeps, names=names, photos=wholes, model=model.model, call=call, display=display)
        write_report(page, output, force)
        count = len(names)
        say((str(output), "green"), f"  {count} photo{'s' * (count > 1)}, {len(page.layers)} layers")
        if show:
            open_viewer([output])
    photos.finish()
