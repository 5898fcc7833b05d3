"""`grad-cam methods`: the table of methods."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from .console import console, print_json, table
from .edge import command
from .options import FLAG, Json

if TYPE_CHECKING:
    from ...methods import Method

WIDE = 120
"""Columns of a terminal from which on there is room for the sources, too."""


@command("methods")
def methods(
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table in Markdown.", **FLAG)] = False,
) -> None:
    """List the methods, with what each is good for.

    `grad-cam explain --method NAME` uses one of them. \
With --json there is more about each: where it comes from, whether it depends on the class, its settings (--option).

    [bold]Examples[/]
      grad-cam methods
      grad-cam methods --json
    """
    from ... import METHODS

    if as_json:
        fields = ("name", "title", "kind", "scope", "class_specific", "advice", "source", "link")
        print_json([{**{name: getattr(m, name) for name in fields}, "options": _defaults(m)} for m in METHODS.values()])
        return
    if markdown:
        sys.stdout.write(methods_table())
        return
    shown = console()
    wide = shown.is_terminal and shown.width >= WIDE
    listed = table(("method", "good for", *["source"] * wide))
    listed.columns[0].no_wrap = True
    for m in METHODS.values():
        listed.add_row(Text(m.name, "cyan"), Text(m.advice), *[Text(m.source, "dim")] * wide)
    shown.print(listed)


def _defaults(method: Method) -> dict[str, Any]:
    """The settings of a method with their defaults; None where there is none to write."""
    return {
        name: value if isinstance(value, (str, int, float, bool, tuple)) else None
        for name, value in method.options.items()
    }


def methods_table() -> str:
    """The table of methods in Markdown."""
    from ... import METHODS

    rows = ["| `method=` | | kind | when |", "|---|---|---|---|"]
    for m in METHODS.values():
        source = f"[{m.source}]({m.link})" if m.link else m.source
        rows.append(f"| `{m.name}` | {m.title}, {source} | {m.kind} | {m.advice} |")
    return "\n".join(rows) + "\n"
