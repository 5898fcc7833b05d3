"""How faithful every method is at the layer it takes by itself: SRG and energy in the box, with intervals.

    python -m docs.workshop.faithful cnn demo photos.csv
    python -m docs.workshop.faithful vit WEIGHTS photos.csv

`photos.csv` has the columns path, class and box, as for `grad-cam bench`. Photo by photo, so that it can be stopped:
`docs/data/measured.json` then holds the photos until there. Dear methods (see `DEAR`) are measured on some of them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import pathlib
import sys
from typing import Any

import torch

import grad_cam
from grad_cam import METHODS, engine, loading, metrics
from grad_cam.benching import spread
from grad_cam.errors import GradCamError
from grad_cam.interfaces.cli.cases import box_mask, prepared, read_cases
from grad_cam.loading.normalisation import mean_color

from . import vit
from .cards import DATA, FASTER, TITLES, methods

STEPS = 10
DEAR = {"score_cam", "ss_cam", "is_cam", "rise", "region_regression", "occlusion"}


def judge(model: Any, prepare: Any, case: Any, names: list[str]) -> dict[str, tuple[float, float]]:
    """SRG and energy of each method on one photo; a method that is refused has none."""
    image, box = prepared(case, prepare), box_mask(case, prepare)
    score = engine.score_function(model, image, case.name)
    found = {}
    for name in names:
        try:
            result = grad_cam.explain(model, image, target=case.name, method=name, **FASTER.get(name, {}))
        except GradCamError as error:
            print(f"{name}: {str(error)[:100]}", file=sys.stderr)
            continue
        raw = result.map if result.map.ndim == 3 else result.map.sum(1)
        fill = mean_color(prepare)
        srg = metrics.srg(raw, image, score, steps=STEPS, fill=fill)
        large = torch.nn.functional.interpolate(raw[:, None].float(), image.shape[-2:], mode="bilinear")[:, 0]
        found[name] = (float(srg[0]), float(metrics.energy_inside(large.clamp(min=0)[0], box)))
    return found


def summed_up(values: dict[str, list[tuple[float, float]]]) -> dict[str, dict[str, Any]]:
    """Mean and interval of SRG, mean of energy, and the number of photos, for each method."""
    rows = {}
    for name, pairs in values.items():
        srg = metrics.interval([pair[0] for pair in pairs])
        energy = sum(pair[1] for pair in pairs) / len(pairs)
        rows[name] = {"srg": [round(v, 3) for v in srg], "energy": round(energy, 3), "photos": len(pairs)}
    return rows


def store(key: str, rows: dict[str, dict[str, Any]]) -> None:
    """Puts what was measured on one model into `docs/data/measured.json`."""
    path = DATA / "measured.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"methods": {}}
    for name, row in rows.items():
        known["methods"].setdefault(name, {})[key] = row
    known["date"] = datetime.date.today().isoformat()
    known["machine"] = f"torch {torch.__version__}, CPU"
    path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measures photo by photo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("key", choices=TITLES)
    parser.add_argument("model", help="demo, or the weights of the ViT")
    parser.add_argument("photos", type=pathlib.Path)
    parser.add_argument("--limit", type=int, default=24)
    parser.add_argument("--every", type=int, default=4, help="dear methods are measured on one photo of so many")
    given = parser.parse_args()
    model = loading.load("demo") if given.model == "demo" else vit.build(given.model)
    prepare = loading.preprocessing(model)
    names = [name for name in methods() if METHODS[name].gives != "concepts"]
    cases = read_cases(given.photos)
    values: dict[str, list[tuple[float, float]]] = {}
    for number, index in enumerate(spread(len(cases), given.limit)):
        wanted = [name for name in names if name not in DEAR or number % given.every == 0]
        for name, pair in judge(model, prepare, cases[index], wanted).items():
            values.setdefault(name, []).append(pair)
        if number:
            store(given.key, summed_up(values))
        print(number + 1, cases[index].path.name, flush=True)


if __name__ == "__main__":
    main()
