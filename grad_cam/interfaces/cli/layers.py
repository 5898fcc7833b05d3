"""`grad-cam layers`: the table of layers, and the check of every cut."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from ..common import Opened
from .console import busy, console, print_json, say, table
from .edge import command
from .options import FLAG, MODEL, NAMES, Json, ModelOptions, option

if TYPE_CHECKING:
    from ... import Chain


@dataclasses.dataclass(frozen=True)
class _Model(ModelOptions):
    model: Annotated[str, typer.Argument(metavar="MODEL", help=NAMES)] = "demo"
    pretrained: Annotated[
        bool,
        option("--pretrained/--no-pretrained", panel=MODEL, show_default=False,
               help="Layers do not depend on the weights; random ones (default) need no download.", **FLAG),
    ] = False  # fmt: skip


@command("layers")
def layers(
    model: _Model,
    depth: Annotated[
        int, typer.Option("--depth", "-d", metavar="N", min=1, help="1: top-level stages; 2: the blocks inside them.")
    ] = 1,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Check every cut: halves, gradient, positions. Exit code 1 if one fails.", **FLAG
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """List the layers of a model, to choose one from.

    Every line is a place where the model can be cut exactly. \
The first number is its layer_idx: how many top-level stages come after it. Inside such a stage there is only the name.

    [bold]Examples[/]
      grad-cam layers resnet34
      grad-cam layers vit_small_patch16_224 --depth 2
      grad-cam layers torchvision/swin_t --input-size 256x320 --json
      grad-cam layers demo --verify
    """
    model.check()
    if model.model == "demo":
        model = dataclasses.replace(model, pretrained=True)
    opened = model.open()
    if verify:
        _verify(opened, depth, as_json)
        return
    from ... import chain

    with busy("Cutting it into stages"):
        links = chain(opened.model, opened.prepare.size, depth)
        try:
            chosen = links.default_split().name
        except ValueError:
            chosen = None  # no cut carries a map
        indices = _layer_indices(links if depth == 1 else chain(opened.model, opened.prepare.size), links.names)
        stages = [dataclasses.replace(s, layer_idx=indices.get(s.name)) for s in links.stages]
    if as_json:
        print_json([_row(s, s.name == chosen) for s in stages])
    else:
        _print_layers(opened, links, stages, depth, chosen)


def _print_layers(opened: Opened, links: Chain, stages: Sequence[Any], depth: int, chosen: str | None) -> None:
    """Prints the table of layers; `chosen` is the default."""
    listed = table(("layer_idx", "name", "type", "output", "layout", "map", "note"), right=("layer_idx",))
    for s in stages:
        grid = _times(s.layout.grid) if s.layout else "–"
        note = "default" if s.name == chosen else s.note
        style = "bold green" if s.name == chosen else "" if s.layout is not None and not s.note else "dim"
        index = "–" if s.layer_idx is None else str(s.layer_idx)
        cells = (index, s.name, s.type, _times(s.shape), str(s.layout or "–"), grid, note)
        listed.add_row(*(Text(cell) for cell in cells), style=style)
    say((opened.name, "bold"), f" ({type(links.model).__name__}), {len(links)} stages, input {_times(links.size)}")
    console().print(listed)
    if chosen is None:
        say(("No layer of this model carries a map.", "yellow"))
    elif chosen not in links.names:
        say(("default", "bold green"), f": {chosen}, inside a stage (--depth {depth + 1} opens them)")


def _layer_indices(top: Chain, names: Sequence[str]) -> dict[str, int | None]:
    """The layer_idx (number of top-level stages after it) of the layers at which such a stage ends."""
    inside = {s.layer_idx: [n for n in names if n == s.name or n.startswith(f"{s.name}.")] for s in top.stages}
    return {found[-1]: index for index, found in inside.items() if found}


def _row(s: Any, default: bool) -> dict[str, Any]:
    return {
        "layer_idx": s.layer_idx, "name": s.name, "type": s.type, "shape": list(s.shape),
        "layout": str(s.layout) if s.layout else None, "grid": list(s.layout.grid) if s.layout else None,
        "note": s.note, "default": default,
    }  # fmt: skip


def _times(numbers: Any) -> str:
    return " × ".join(map(str, numbers)) or "scalar"


def _verify(opened: Opened, depth: int, as_json: bool) -> None:
    """Prints the table of `verify`; the exit code is 1 where something does not hold."""
    from ... import chain, verify

    with busy("Checking every cut"):
        links = chain(opened.model, opened.prepare.size, depth)
        found = verify(links, links.size)
    if as_json:
        rows = [dataclasses.asdict(row) for row in found.rows]
        print_json({"model": opened.name, "holds": bool(found), "cuts": rows, "problems": list(found.problems)})
    else:
        titles = ("layer_idx", "name", "output", "layout", "halves", "gradient", "positions", "note")
        listed = table(titles, right=("layer_idx",))
        for row in found.rows:
            index = "–" if row.layer_idx is None else str(row.layer_idx)
            cells = (index, row.name, _times(row.shape), row.layout or "–", row.halves, row.gradient, row.positions,
                     row.note)  # fmt: skip
            listed.add_row(*(Text(cell) for cell in cells), style="bold red" if row.wrong else "")
        verdict = ("everything holds", "bold green") if found else ("NOT everything holds", "bold red")
        say((opened.name, "bold"), ": ", verdict, f" at {len(found.rows)} cuts")
        console().print(listed)
        for problem in found.problems:
            say((problem, "red"))
    if not found:
        raise typer.Exit(1)
