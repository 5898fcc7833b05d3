"""How faithful every method is at the layer it takes by itself: SRG with its interval over photos.

    python -m docs.workshop.faithful cnn demo photos.csv
    python -m docs.workshop.faithful vit WEIGHTS photos.csv

`photos.csv` has the columns path and class, as for `grad-cam bench`. Methods that cost more than `DEAR` forward passes
are measured on fewer photos. A run that is stopped goes on where it was: `--values` holds every figure of every photo,
and `docs/data/measured.json` their means and intervals so far.
"""

from __future__ import annotations

import argparse
import datetime
import json
import pathlib
import random
import sys
from typing import Any

import torch

import grad_cam
from grad_cam import METHODS, engine, loading, metrics
from grad_cam.errors import GradCamError
from grad_cam.interfaces.cli.cases import prepared, read_cases
from grad_cam.loading.normalisation import mean_color

from . import vit
from .cards import DATA, FASTER, TITLES, data, methods

STEPS = 7
"""Points of each curve: 13 forward passes for a map."""
DEAR = 20.0
Values = dict[str, dict[str, float]]
"""For each method the figure of each photo."""


def cost(name: str, key: str) -> float:
    """What one map costs in forward passes, as counted."""
    return float(data("costs")["methods"].get(name, {}).get(key, 0.0))


def judge(model: Any, prepare: Any, case: Any, names: list[str], known: Values) -> None:
    """Adds the SRG of each method on one photo, where it is not known yet; a method that is refused has none."""
    names = [name for name in names if case.path.name not in known.get(name, {})]
    if not names:
        return
    image, fill = prepared(case, prepare), mean_color(prepare)
    score = engine.score_function(model, image, case.name)
    for name in names:
        try:
            result = grad_cam.explain(model, image, target=case.name, method=name, **FASTER.get(name, {}))
        except GradCamError as error:
            print(f"{name}: {str(error)[:100]}", file=sys.stderr)
            continue
        value = float(metrics.srg(result.map, image, score, steps=STEPS, fill=fill)[0])
        known.setdefault(name, {})[case.path.name] = round(value, 4)


def store(key: str, values: Values, about: dict[str, Any]) -> None:
    """Puts means and intervals of one model into `docs/data/measured.json`."""
    path = DATA / "measured.json"
    known = data("measured") or {"runs": {}, "methods": {}}
    known["runs"][key] = about
    for name, figures in values.items():
        srg = [round(number, 3) for number in metrics.interval(list(figures.values()))]
        known["methods"].setdefault(name, {})[key] = {"srg": srg, "photos": len(figures)}
    path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measures photo by photo: first what is cheap on all of them, then what is dear on some."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("key", choices=TITLES)
    parser.add_argument("model", help="demo, or the weights of the ViT")
    parser.add_argument("photos", type=pathlib.Path)
    parser.add_argument("--limit", type=int, default=24, help="photos, drawn at random from the table")
    parser.add_argument("--dear", type=int, default=6, help="as many of them for dear methods")
    parser.add_argument("--only", default="", help="some methods, apart by commas")
    parser.add_argument("--values", type=pathlib.Path, default=pathlib.Path("faithful.json"))
    given = parser.parse_args()
    model = loading.load("demo") if given.model == "demo" else vit.build(given.model)
    prepare = loading.preprocessing(model)
    names = [name for name in methods() if METHODS[name].gives != "concepts"]
    names = [name for name in names if not given.only or name in given.only.split(",")]
    cheap = [name for name in names if cost(name, given.key) <= DEAR]
    cases = read_cases(given.photos)
    random.Random(0).shuffle(cases)
    held = json.loads(given.values.read_text(encoding="utf-8")) if given.values.exists() else {}
    values: Values = held.setdefault(given.key, {})
    about = {
        "date": datetime.date.today().isoformat(),
        "machine": f"torch {torch.__version__}, CPU",
        "command": f"python -m docs.workshop.faithful {given.key} {'demo' if given.model == 'demo' else 'WEIGHTS'} "
        f"photos.csv --limit {given.limit} --dear {given.dear}{f' --only {given.only}' if given.only else ''}",
        "steps": STEPS,
    }
    for wanted, count in ((cheap, given.limit), ([n for n in names if n not in cheap], given.dear)):
        for number, case in enumerate(cases[:count]):
            judge(model, prepare, case, wanted, values)
            given.values.write_text(json.dumps(held), encoding="utf-8")
            store(given.key, values, about)
            print(f"{len(wanted)} methods, photo {number + 1} of {count}", flush=True)


if __name__ == "__main__":
    main()
