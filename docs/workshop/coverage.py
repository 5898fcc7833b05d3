"""Sums up the results of `make check-all` for the site: `python -m docs.workshop.coverage check-all.jsonl`."""

from __future__ import annotations

import json
import os
import pathlib
import platform
import sys
from typing import Any

from .cards import DATA

TITLES = {
    "timm": "families of timm",
    "torchvision": "families of torchvision",
    "hf": "classifiers of Hugging Face",
    "rules": "balanced rules: map and ledger add up",
    "layers": "layers whose shape misleads",
}


def summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The last result of every item, by part."""
    last = {(each["part"], each["item"]): each for each in lines}
    parts = []
    for part, title in TITLES.items():
        found = [each for (name, _), each in last.items() if name == part]
        if found:
            refused = sum("refused" in each["counts"] for each in found)
            failing = sorted(each["item"] for each in found if not each["ok"])
            ok = len(found) - refused - len(failing)
            parts.append({"title": title, "items": len(found), "ok": ok, "refused": refused, "failing": failing})
    return {
        "date": max(each["time"] for each in lines)[:10],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores; code {lines[-1]['commit']}",
        "parts": parts,
    }


if __name__ == "__main__":
    results = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
    made = summary([json.loads(line) for line in results])
    (DATA / "coverage.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
