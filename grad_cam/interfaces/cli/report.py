"""`grad-cam report`: one HTML page with every layer, class and photo."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..common import Opened
from .console import Bars, say
from .edge import command
from .options import (
    DRAWINGS,
    FLAG,
    OUT,
    WHAT,
    Depth,
    Force,
    Images,
    LookOptions,
    MethodOptions,
    ModelOptions,
    Recursive,
    Show,
    TargetOptions,
    method_option,
    option,
)  # fmt: skip
from .parsing import check_page, open_viewer
from .photos import Photo, Photos
from .results import SHOWN
from .sweep import run_sweep

if TYPE_CHECKING:
    from ... import Explanation, Sweep


@dataclass(frozen=True)
class ReportOptions(MethodOptions):
    """How the maps of the layers are made."""

    method: Annotated[
        str,
        method_option(
            "METHOD",
            "See [cyan]grad-cam methods[/]; or module:function, a function of yours. Default: layer_cam at every "
            "layer, opening with auto, what measures best.",
        ),
    ] = ""

    @property
    def names(self) -> list[str]:
        """The method named, or the one that is taken at every layer where none is."""
        return super().names if self.method else ["layer_cam"]

    @property
    def opens(self) -> bool:
        """Whether the page opens with what measures best: no option is given that belongs to one method."""
        return not (self.method or self.settings or self.aug_smooth or self.eigen_smooth)


@command("report")
def report(
    images: Images,
    target: TargetOptions,
    how: ReportOptions,
    look: LookOptions,
    model: ModelOptions,
    depth: Depth = "auto",
    recursive: Recursive = False,
    output: Annotated[Path, option("--output", "-o", panel=OUT, metavar="FILE", help="The page to write.")] = Path(
        "report.html"
    ),
    evidence: Annotated[
        bool,
        option(
            "--evidence",
            panel=WHAT,
            help="Ask the model whether the score depends on what the map of a class marks that the page opens with: a "
            "sentence under it, 40 forward passes.",
            **FLAG,
        ),
    ] = False,
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
    if output.suffix.lower() in DRAWINGS and not output.is_dir():
        raise typer.BadParameter(f"-o {output}: the report is a page, call it {output.stem}.html; a browser prints it")
    check_page(output, force)
    if evidence and how.gives != "map":
        raise typer.BadParameter(f"--evidence: {how.method} makes concepts, which explain no score; leave it out")
    opened = model.open(how.found)
    from ... import explain
    from ...rendering.report import report_of, write_report

    display = look.display
    classes = target.resolve(opened, SHOWN)

    def work(some: list[Photo], bars: Bars) -> list[Any]:
        (photo,) = some
        explained = classes(photo.tensor)
        found = run_sweep(opened, photo.tensor, explained, depth, how, bars)
        first = explain(opened.model, photo.tensor, target=explained, method="auto") if how.opens else None
        return [(photo.path, photo.whole, _judged(opened, found, explained, first) if evidence else {}, found, first)]

    photos.go(opened, work)
    if photos.done:
        names, wholes, said, sweeps, opening = zip(*photos.done, strict=True)
        call = shlex.join(["grad-cam", *sys.argv[1:]])
        page = report_of(
            *sweeps, names=names, photos=wholes, evidence=said, opening=opening if how.opens else (),
            model=model.model, call=call, display=display,
        )  # fmt: skip
        write_report(page, output, force)
        count = len(names)
        layers = len(page.layers) - how.opens
        say((str(output), "green"), f"  {count} photo{'s' * (count > 1)}, {layers} layers")
        if show:
            open_viewer([output])
    photos.finish()


def _judged(opened: Opened, found: Sweep, explained: Any, first: Explanation | None) -> dict[tuple[int, str], str]:
    """The evidence for the map of each target that the page opens with, by its number and the name of the layer."""
    from ... import evidence
    from ...rendering.report import OPENING

    said, known = {}, {stage.name for stage in found.stages}
    for k in range(len(found[0].target[0])):
        marking = [e for e in found if float(e.raw(0, k).max()) > 0]
        chosen = [(e.layer.name, e) for e in [e for e in marking if e.layer.name not in known] or marking]
        chosen += [(OPENING, first)] if first is not None and float(first.raw(0, k).max()) > 0 else []
        for name, e in chosen[-1:]:
            said[k, name] = str(evidence(opened.model, e, 0, k, explained=explained))
    return said
