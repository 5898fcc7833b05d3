"""`grad-cam run`: thousands of pictures into a folder of rows, which can be stopped and continued."""

from __future__ import annotations

import contextlib
import glob
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..common import Opened
from .console import console, print_json, say
from .early import check_source
from .edge import SOME_FAILED, STOPPED, command
from .options import (
    FLAG,
    MODEL,
    OUT,
    WHAT,
    Json,
    LookOptions,
    MethodOptions,
    ModelOptions,
    TargetOptions,
    method_option,
    option,
)  # fmt: skip
from .parsing import check_folder, one_of

if TYPE_CHECKING:
    from ...folders import Rows
    from ...folders.local import Progress

SHOWN = 10
"""Failed inputs that are listed at the end."""


@dataclass(frozen=True)
class RunOptions(MethodOptions):
    """How the maps are made, and at which layers."""

    method: Annotated[
        str, method_option("METHOD", "See [cyan]grad-cam methods[/]; or module:function, a function of yours.")
    ] = "grad_cam"
    layer: Annotated[
        list[str] | None,
        option("--layer", "-l", panel=WHAT, metavar="LAYER",
               help="Module path or layer_idx, repeat for several; default: the last layer with a map."),
    ] = None  # fmt: skip
    of_class: Annotated[
        bool,
        option(
            "--of-class", panel=WHAT, help="Explain the class that the source gives (its folder or column).", **FLAG
        ),
    ] = False
    evidence: Annotated[
        bool,
        option(
            "--evidence", panel=WHAT, help="Ask the model how far each map holds: 40 further forward passes.", **FLAG
        ),
    ] = False

    @property
    def layers(self) -> Any:
        """The layers as `grad_cam.run` takes them."""
        texts = [text.strip() for text in self.layer or ()]
        found = [int(text) if text.lstrip("+-").isdigit() else text for text in dict.fromkeys(texts)]
        return found[0] if len(found) == 1 else found or None


@command("run")
def run(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Folder, glob, CSV or Parquet table, Hugging Face datasets folder.")
    ],
    target: TargetOptions,
    how: RunOptions,
    look: LookOptions,
    model: ModelOptions,
    output: Annotated[Path, option("--output", "-o", panel=OUT, metavar="OUT", help="The folder to write.")],
    batch_size: Annotated[
        int | None,
        option("--batch-size", panel=MODEL, metavar="N", min=1,
               help="Pictures explained at the same time; default: 16 on a GPU, on a CPU about one for each core."),
    ] = None,
    workers: Annotated[
        int | None, option("--workers", panel=MODEL, metavar="N", min=0, help="Processes that read pictures.")
    ] = None,
    shard: Annotated[
        int, option("--shard", panel=OUT, metavar="N", min=1, help="Pictures in one Parquet file, at most.")
    ] = 1000,
    overlays: Annotated[
        bool, option("--overlays", panel=OUT, help="Write every map over its picture, too.", **FLAG)
    ] = False,
    sheet: Annotated[
        bool,
        option("--sheet/--no-sheet", panel=OUT, show_default=False,
               help="A page over all rows, index.html (default), or none.", **FLAG),
    ] = True,
    export: Annotated[
        list[str] | None,
        option("--export", panel=OUT, metavar="masks|coco", parser=one_of("masks", "coco"),
               help="Write what the maps mark as PNG masks or COCO annotations; repeat for both."),
    ] = None,
    fast: Annotated[
        bool,
        option("--fast", panel=MODEL, help="A faster model, as far as its maps stay the same.", **FLAG),
    ] = False,
    compiled: Annotated[
        bool,
        option("--compile", panel=MODEL, help="--fast with torch.compile, too: a minute or more at the start.", **FLAG),
    ] = False,
    engine: Annotated[
        str,
        option("--engine", panel=MODEL, metavar="local|ray", parser=one_of("local", "ray"),
               help="This process, or Ray Data on this machine or a cluster."),
    ] = "local",
    address: Annotated[
        str | None, option("--address", panel=MODEL, metavar="ADDRESS", help="Of a Ray cluster, with --engine ray.")
    ] = None,
    actors: Annotated[
        int | None, option("--actors", panel=MODEL, metavar="N", min=1, help="Processes of --engine ray that explain.")
    ] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Explain thousands of pictures, and keep every map and every error.

    OUT gets Parquet files with one row for each map, and index.html to look through. \
The command can be stopped, by Ctrl-C or without warning: given \
again, it continues where it was. Every picture ends as a map or as an error with its reason. \
A table has a column path, and may have class, box (left top right bottom) and mask.

    [bold]Examples[/]
      grad-cam run photos/ -o out
      grad-cam run "photos/**/*.jpg" -o out -m resnet50 -l layer4 --top 3
      grad-cam run birds.csv -o out --of-class --evidence
    """
    target.check()
    how.check()
    model.check()
    if not Path(source).exists() and not glob.has_magic(source):
        raise FileNotFoundError(f"there is no folder, table or picture {source!r}; a glob needs a * or ?")
    check_source(source)
    if engine != "ray" and (address is not None or actors is not None):
        raise typer.BadParameter("--address and --actors need --engine ray")
    check_folder(output)
    opened = model.open(how.found)
    (method,) = how.found()
    from ... import run as run_folder
    from ...folders import Interrupted
    from ...folders import export as export_rows

    wanted = _target(target, opened)

    def note(text: str) -> None:
        say((f"Note: {text}", "yellow"), err=True)

    try:
        with _progress() as progress:
            rows = run_folder(
                opened.model, source, output, layer=how.layers, target=wanted, method=method, of_class=how.of_class,
                evidence=how.evidence, preprocessing=opened.prepare, batch_size=batch_size, workers=workers,
                shard=shard, overlays=overlays, sheet=sheet, display=look.display, progress=progress, notify=note,
                fast="compile" if compiled else fast, engine=engine, address=address, actors=actors,
                **how.arguments,
            )  # fmt: skip
            for kind in dict.fromkeys(export or ()):
                say((str(export_rows(rows, kind)), "green"), err=as_json)
    except Interrupted as stopped:
        say((f"Stopped: {stopped}.", "bold red"), err=True)
        raise typer.Exit(STOPPED) from None
    _finish(rows, as_json, sheet)


def _target(given: TargetOptions, opened: Opened) -> Any:
    """The target that is the same for every picture."""
    from ... import loading, targets

    def index(name: str | None) -> int | None:
        return None if name is None else loading.class_index(opened.model, name)

    if given.rather_than is not None:
        return targets.difference(index(given.why), index(given.rather_than))
    if given.top is not None:
        if given.counterfactual:
            raise typer.BadParameter("--top and --counterfactual contradict each other here: give one of them")
        return targets.top(given.top)
    chosen: list[Any] = list(dict.fromkeys(map(index, given.class_ or ())))
    if given.counterfactual:
        chosen = [targets.negative(k) for k in chosen or [None]]
    return chosen[0] if len(chosen) == 1 else chosen or None


@contextlib.contextmanager
def _progress() -> Iterator[Progress | None]:
    """A bar on a terminal, with pictures a second, the time left and the failures; nothing elsewhere."""
    shown = console(err=True)
    if not shown.is_terminal:
        yield None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Speed(ProgressColumn):
        """Pictures a second."""

        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:.1f}/s", "dim")

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        Speed(),
        TimeRemainingColumn(),
        TextColumn("[red]{task.fields[faults]}"),
    )
    with Progress(*columns, console=shown, transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task("", total=None, faults="")

        def step(done: int, total: int | None, failed: int) -> None:
            bar.update(task, completed=done, total=total, faults=f"{failed} failed" if failed else "")

        yield step


def _finish(rows: Rows, as_json: bool, sheet: bool) -> None:
    """Prints the outcome; exits with the code for failed pictures if there are any."""
    failed = rows.errors.to_pylist()
    if as_json:
        print_json({"out": str(rows.path), "inputs": rows.done, "rows": len(rows), "failed": failed})
    else:
        say((str(rows.path), "green"), f"  {rows.done} pictures, {len(rows) - len(failed)} maps, {len(failed)} failed")
        if sheet:
            say((str(rows.path / "index.html"), "green"), "  to look through")
        for one in failed[:SHOWN]:
            say((f"  {one['path']}: {one['error']}", "red"), err=True)
        if len(failed) > SHOWN:
            say(
                (f"  and {len(failed) - SHOWN} more: grad_cam.read({str(rows.path)!r}).errors lists them", "red"),
                err=True,
            )
    if failed:
        raise typer.Exit(SOME_FAILED)
