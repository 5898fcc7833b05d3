"""The page of numbers, from the JSON files that `make bench` and the bench of methods write."""

from __future__ import annotations

import pathlib
from typing import Any

from .cards import TITLES, data, judged, methods, put, srg_cell


def _table(rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(rows[0])} |", "|" + "---|" * len(rows[0]), *(f"| {' | '.join(row)} |" for row in rows[1:])]


def _filled(rows: list[list[str]]) -> list[list[str]]:
    """The columns of a table that hold a figure; the aims of whoever measures are left out."""
    kept = [n for n, head in enumerate(rows[0]) if head != "aim" and any(row[n] for row in rows[1:])]
    return [[row[n] for n in kept] for row in rows]


def _where(entry: dict[str, Any]) -> str:
    return f"*{entry.get('date', '')} · {entry.get('machine', '')}*"


def benchmarks() -> list[str]:
    """Tables of time and memory beside other libraries."""
    found = data("bench")
    if not found:
        return ["Not measured yet: `make bench` writes them.", ""]
    text = []
    for section in found["sections"]:
        text += [
            f"### {section['title']}",
            "",
            _where(section),
            "",
            section.get("words", "").removeprefix(section["title"]).strip(" ()"),
            "",
            *_table(_filled(section["rows"])),
            "",
        ]
    return text


def coverage() -> list[str]:
    """Which model families were checked, and how many passed."""
    found = data("coverage")
    if not found:
        return ["Not measured yet: `make bench` reads them off the results of `make check-all`.", ""]
    rows = [["part", "items", "all checks hold", "refused, with the reason", "failing"]]
    for part in found["parts"]:
        rows.append(
            [
                part["title"],
                str(part["items"]),
                str(part["ok"]),
                str(part["refused"]),
                ", ".join(part["failing"]) or "none",
            ]
        )
    return [_where(found), "", *_table(rows), ""]


def of_methods() -> list[str]:
    """Every method in one table: what it costs and how faithful its maps are."""
    figures, costs, tables = data("measured"), data("costs"), judged()
    heads = ["forwards", *["SRG"] * bool(figures), "bank"]  # no column without a figure
    rows = [["method", *(f"{what}, {title}" for what in heads for title in ("CNN", "ViT"))]]
    for name, method in methods().items():
        cost = [costs.get("methods", {}).get(name, {}).get(key) for key in TITLES]
        srg = [figures.get("methods", {}).get(name, {}).get(key) for key in TITLES]
        cells = ["–" if c is None else f"{c:.1f}" if c < 10 else f"{c:.0f}" for c in cost]
        cells += [srg_cell(s).replace("not measured", "–") for s in srg] * bool(figures)
        cells += [tables.get(name, {}).get(key, ["–", "–"])[1] for key in TITLES]
        rows.append([f"[{method.title}](methods/cards/{name}.md)", *cells])
    about = [f"Costs: {_where(costs)}"] if costs else []
    about += [f"SRG: `{run['command']}`, {_where(run)}" for run in figures.get("runs", {}).values()]
    about += ["Bank: [evidence](evidence.md)"]
    return [*_table(rows), "", *(f"- {each}" for each in about), ""]


def write(source: pathlib.Path) -> None:
    """Writes the three tables for `numbers.md` to include."""
    folder = source / "_tables"
    folder.mkdir(exist_ok=True)
    for name, lines in (("bench", benchmarks()), ("coverage", coverage()), ("methods", of_methods())):
        put(folder / f"{name}.md", "\n".join(lines))
