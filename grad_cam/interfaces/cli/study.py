"""`grad-cam study`: what a folder of pictures says about a model."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...suffixes import PICTURES
from ..common import Opened, open_model
from .console import bars, print_json, say
from .early import check_model_name, check_source
from .edge import command
from .options import FLAG, OUT, WHAT, Force, Json, ModelOptions, Show, option
from .parsing import check_page, open_viewer

if TYPE_CHECKING:
    from ...studies import Comparison, Study


@command("study")
def study(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="A folder with one folder for each class, a table (path, class, box), or \
the folder of a run."),
    ],
    model: ModelOptions,
    limit: Annotated[
        int | None, option("--limit", panel=WHAT, metavar="N", min=2, help="Number of pictures of each class at most.")
    ] = None,
    shortcuts: Annotated[
        bool,
        option("--shortcuts/--no-shortcuts", panel=WHAT, show_default=False, help="Look for shortcuts (default).",
               **FLAG),
    ] = True,
    concepts: Annotated[
        int, option("--concepts", panel=WHAT, metavar="N", min=0, help="Number of concepts to find for each class.")
    ] = 0,
    against: Annotated[
        str | None,
        option("--against", panel=WHAT, metavar="FILE|MODEL",
               help="Compare with another checkpoint of the model, or with another model, on the same pictures."),
    ] = None,
    output: Annotated[Path, option("--output", "-o", panel=OUT, metavar="FILE", help="The page to write.")] = Path(
        "study.html"
    ),
    force: Force = False,
    show: Show = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Study a model on a folder of pictures: where it decides, and what it decides by.

    At every cut, simple classifiers are judged on pictures they were not fitted to: the depth at which the class is \
decided, and the layer to look at for these pictures. Shortcuts are regions that decide and repeat where the object is \
not: marks, borders, tints, text.

    [bold]Example[/]
      grad-cam study photos --model resnet50 -o study.html
      grad-cam study photos --model resnet50 --against epoch9.pth -o compared.html
    """
    model.check()
    if not source.exists():
        raise FileNotFoundError(f"there is no {str(source)!r}: give a folder that holds one folder for each class")
    if source.suffix.lower() in PICTURES and source.is_file():
        raise NotADirectoryError(f"{str(source)!r} is one picture: give a folder that holds one folder for each class")
    check_source(source)
    if against is not None and not Path(against).is_file():
        check_model_name(against)
    check_page(output, force)
    opened = model.open()
    other = None if against is None else _other(model, against)
    from ... import study as run

    with _progress() as progress:

        def studied(one: Opened) -> Study:
            return run(
                one.model, source, limit=limit, shortcuts=shortcuts, concepts=concepts, name=one.name,
                prepare=one.prepare, progress=progress,
            )  # fmt: skip

        first = studied(opened)
        found: Study | Comparison = first
        if other is not None:
            from ...studies import compare

            found = compare(first, studied(other))
    found.report(output, force=force)
    if as_json:
        print_json({**found.as_dict(), "file": str(output)})
        return
    for line in str(found).split("\n"):
        say(line)
    say((str(output), "green"))
    if show:
        open_viewer([output])


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each kind of step, drawn once there is one."""
    with contextlib.ExitStack() as stack:
        shown = stack.enter_context(bars())
        steps: dict[str, Any] = {}

        def progress(text: str, done: int, total: int) -> None:
            if text not in steps:
                steps[text] = stack.enter_context(shown.steps(text))
            steps[text](done, total)

        yield progress


def _other(model: ModelOptions, against: str) -> Opened:
    """The model to compare with: another checkpoint of the same one if a file is named, else a model."""
    path = Path(against)
    names = model.class_names()
    settings: dict[str, Any] = {
        "input_size": model.input_size, "class_names": names, "device": model.device, "dtype": model.dtype
    }  # fmt: skip
    if not path.is_file():
        return open_model(against, **settings)
    opened = open_model(model.model, checkpoint=path, **settings)
    return dataclasses.replace(opened, name=path.name)
