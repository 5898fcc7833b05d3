"""`grad-cam bench`: which method, at which layer, makes the most faithful map of a model, on your own photos."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..common import Opened, check_method_name
from .cases import Case, box_mask, classes_of, prepared, read_cases
from .console import bars, console, print_json, say
from .early import check_function
from .edge import command
from .options import FLAG, OUT, WHAT, Depth, Force, Json, ModelOptions, Show, method_option, option
from .parsing import check_page, open_viewer

if TYPE_CHECKING:
    from ...benching import Bench


@command("bench")
def bench(
    table: Annotated[
        Path, typer.Argument(metavar="PHOTOS.csv", help="A table with the columns file, class and, if known, box.")
    ],
    model: ModelOptions,
    method: Annotated[
        str | None,
        method_option("METHOD[,...]", "Which methods; also METHOD+balanced and METHOD+residual. Default: all."),
    ] = None,
    depth: Depth = "auto",
    srg: Annotated[
        int,
        option("--srg", panel=WHAT, metavar="N", min=0,
               help="Judge every method at its best layer by SRG, too, on N photos; 55 forward passes a map."),
    ] = 0,
    units: Annotated[
        int,
        option("--units", panel=WHAT, metavar="N", min=2,
               help="Squares along each side that SRG takes away; best a transformer's patches, so that none is cut."),
    ] = 14,
    limit: Annotated[
        int | None, option("--limit", panel=WHAT, metavar="N", min=1, help="Number of photos, spread over the table.")
    ] = None,
    few: Annotated[
        int,
        option("--few", panel=WHAT, metavar="N", min=0,
               help="Photos for methods that cost more than 20 forward passes; 0 leaves them out."),
    ] = 5,
    masks: Annotated[
        int, option("--masks", panel=WHAT, metavar="N", min=2, help="Coalitions of regions that are scored.")
    ] = 192,
    folder: Annotated[
        Path | None,
        option("--folder", panel=WHAT, metavar="DIR",
               help="Where the photos are; default: beside the table, or in a folder of its name."),
    ] = None,
    class_column: Annotated[
        str | None, option("--class-column", panel=WHAT, metavar="NAME", help="Column of the class.")
    ] = None,
    skip_unknown: Annotated[
        bool, option("--skip-unknown", panel=WHAT, help="Leave out photos of classes the model does not know.", **FLAG)
    ] = False,
    output: Annotated[Path, option("--output", "-o", panel=OUT, metavar="FILE", help="The page to write.")] = Path(
        "bench.html"
    ),
    force: Force = False,
    show: Show = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Measure on your photos which map of a model to trust: every method at every layer.

    The table has a header and a photo a line: [cyan]file[/], [cyan]class[/] (a name or an index; empty is the \
predicted class) and, where it is known, [cyan]box[/] (left top right bottom in pixels of the photo). \
192 versions of each photo with some regions hidden are scored, and judge all its maps.

    [bold]Examples[/]
      grad-cam bench photos.csv -m resnet50
      grad-cam bench photos.csv -x grad_cam,layer_cam,hires_cam+residual --srg 40
    """
    # Longer than other functions, because its options stand in its signature, each on lines of its own.
    model.check()
    if masks % 2:
        raise typer.BadParameter(f"--masks {masks}: coalitions come in pairs, give an even number")
    methods = _methods(method)
    cases = read_cases(table, folder, class_column)
    check_page(output, force)
    opened = model.open()
    from ...rendering.bench import write_bench

    known = list(classes_of(cases, opened.model, skip_unknown))
    skipped = len(cases) - len(known)
    if not known:
        raise ValueError(f"the model knows none of the classes in {table.name}")
    if limit is not None:
        from ...benching import spread

        known = [known[i] for i in spread(len(known), limit)]
    found = _measured(opened, known, methods, depth, srg, units, few, masks)
    call = shlex.join(["grad-cam", *sys.argv[1:]])
    write_bench(found, output, model=model.model, call=call, force=force)
    if as_json:
        print_json({"model": model.model, "skipped": skipped, "file": str(output), **found.as_dict()})
    else:
        console().print(str(found), soft_wrap=True)
        if skipped:
            say((f"{skipped} photos of classes that the model does not know were left out", "yellow"), err=True)
        say((str(output), "green"), f"  {len(known)} photo{'s' * (len(known) > 1)}, {len(found.layers)} layers")
    if show:
        open_viewer([output])


def _methods(text: str | None) -> list[str] | None:
    """The methods named, checked; None for all."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise typer.BadParameter("--method names no method: see grad-cam methods")
    for name in names:
        method, _, rules = name.partition("+")
        if ":" in name:
            check_function(name)
        else:
            check_method_name(method if rules in ("balanced", "residual") else name)
    return names


def _measured(
    opened: Opened, known: list[tuple[Case, int | None]], methods: list[str] | None, depth: str, srg: int, units: int,
    few: int, masks: int,
) -> Bench:  # fmt: skip
    """Prepares the photos and measures, with a progress bar."""
    import torch

    from ... import benching
    from ...loading import imported

    images = torch.cat([prepared(case, opened.prepare) for case, _ in known])
    boxes: list[Any] = [box_mask(case, opened.prepare) for case, _ in known]
    chosen: Any = None if methods is None else [imported(n) if ":" in n else n for n in methods]
    with bars() as shown, shown.steps("Judging maps") as step:
        return benching.bench(
            opened.model, images, [index for _, index in known], boxes=boxes if any(b is not None for b in boxes)
            else None, names=[case.path.name for case, _ in known], methods=chosen, layers=depth, srg=srg, few=few,
            masks=masks, units=units, progress=step,
        )  # fmt: skip
